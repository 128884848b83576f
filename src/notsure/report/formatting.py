"""How a number is written, decided once for page and console."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from notsure.evaluation.intervals import Area, Rate

NO_SUCCESS = "no success"
"""What stands where there is no successful adversarial image to compute a figure from."""

DASH = "–"  # noqa: RUF001
"""What stands where there is nothing to say."""

_NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁", "l0": "ℓ₀"}  # noqa: RUF001


def percent(share: float) -> str:
    """A share in [0,1] as "97.2 %"; a dash where it is NaN."""
    return DASH if math.isnan(share) else f"{100 * share:.1f} %"


def rate_parts(rate: Rate, empty: str = "no images") -> tuple[str, str, str]:
    """A rate as ("97.2 %", "[95.5, 98.3],", "n = 539"); `empty` stands first where n is 0."""
    if rate.n == 0:
        return empty, "", "n = 0"
    interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}],"
    return percent(rate.value), interval, f"n = {rate.n}"


def rate_text(rate: Rate, empty: str = "no images") -> str:
    """A rate as "97.2 % [95.5, 98.3], n = 539"."""
    return " ".join(filter(None, rate_parts(rate, empty)))


def rate_short(rate: Rate) -> str:
    """A rate as "97.2 [95.5, 98.3]", for columns whose head says per cent and n."""
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def area_parts(area: Area) -> tuple[str, str, str]:
    """An area as ("0.966", "[0.953, 0.979],", "n = 528"), n counting the adversarial images."""
    if math.isnan(area.value):
        return NO_SUCCESS, "", f"n = {area.positives}"
    return f"{area.value:.3f}", f"[{area.low:.3f}, {area.high:.3f}],", f"n = {area.positives}"


def area_text(area: Area) -> str:
    """An area as "0.966 [0.953, 0.979], n = 528"."""
    return " ".join(filter(None, area_parts(area)))


def norm_text(norm: str | None) -> str:
    """A norm's sign; "no budget" where an attack has none."""
    return "no budget" if norm is None else _NORMS.get(norm, norm)


def number(value: float) -> str:
    """A number of any size to four significant digits, without trailing zeros."""
    if not math.isfinite(value):
        return DASH
    return f"{value:.4g}"


def in_255(eps: float) -> str:
    """A budget in [0,1] pixel units on the 0..255 scale, as "76.5/255"."""
    return f"{number(255 * eps)}/255"


def budget_text(norm: str | None, eps: float | None) -> str:
    """A budget with its norm, as 0.3 (76.5/255) after the norm's sign."""
    if eps is None:
        return norm_text(norm)
    return f"{norm_text(norm)} {number(eps)} ({in_255(eps)})"


def seconds_text(seconds: float) -> str:
    """A duration as "21.5 ms" or "2.15 s"."""
    if not math.isfinite(seconds):
        return DASH
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def setting_text(value: Any) -> str:
    """A hyperparameter as it is read: yes and no, "default" for null, numbers shortened.

    A part with settings of its own, a mapping with its "name", is "EOT (samples = 10)".
    """
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        told = settings_text({key: its for key, its in value.items() if key != "name"})
        return f"{value['name']} ({told})" if told else str(value["name"])
    return json.dumps(value)


def settings_text(settings: dict[str, Any]) -> str:
    """Hyperparameters as "steps = 40, decay = 0"."""
    return ", ".join(f"{name} = {setting_text(value)}" for name, value in settings.items())


def listing(words: Sequence[str]) -> str:
    """Words as "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def class_text(label: int, class_names: Sequence[str]) -> str:
    """A class's name, or its number where it has none."""
    return class_names[label] if 0 <= label < len(class_names) else str(label)
