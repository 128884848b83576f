"""What was attacked and how: guards and attacks with all their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.formatting import (
    DASH,
    listing,
    norm_text,
    number,
    percent,
    setting_text,
    settings_text,
)
from notsure.report.tables import attack_labels

_COLUMNS = ("name", "norm", "eps", "steps", "step_size", "restarts", "random_start", "early_stop")


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """One detector of a guard: its name, its settings in words, and its frozen threshold."""

    name: str
    settings: str
    threshold: str


@dataclass(frozen=True, kw_only=True)
class GuardDescription:
    """A guard, in words.

    Attributes:
        name: its name.
        network: the class of the network.
        weights: the first digits of the weights' hash.
        logits: how the network's logits are used.
        preprocessing: mean and standard deviation.
        detectors: those beside the network.
        target_fpr: the share of clean images that may be rejected; None without a calibration.
        measured_fpr: the share that was rejected on the calibration images, and their number.
        others: what else it has or is: purifier, corrector, chance, the user's parameters.
    """

    name: str
    network: str
    weights: str
    logits: str
    preprocessing: str
    detectors: Sequence[DetectorDescription]
    target_fpr: float | None
    measured_fpr: Rate | None
    others: str


@dataclass(frozen=True, kw_only=True)
class AttackDescription:
    """An attack with all its settings, in words, for all the eps that it was run with."""

    label: str
    norm: str
    eps: str
    in_255: str
    steps: str
    step_size: str
    restarts: str
    random_start: str
    early_stop: str
    threats: str
    others: str


def describe_guards(records: Records) -> list[GuardDescription]:
    """Every guard of the records."""
    return [_guard(name, records.meta.get("guards", {}).get(name, {})) for name in records.guards]


def _guard(name: str, told: dict[str, Any]) -> GuardDescription:
    calibration = told.get("calibration") or {}
    settings = told.get("settings", {})
    thresholds = calibration.get("thresholds", {})
    count = calibration.get("count", 0)
    return GuardDescription(
        name=name,
        network=str(told.get("module", "unknown")),
        weights=str(told.get("weights", ""))[:12],
        logits="negated (reverse cross-entropy)"
        if settings.get("reverse_logits")
        else "as they are",
        preprocessing=(
            f"mean {_numbers(settings.get('mean', []))}, std {_numbers(settings.get('std', []))}"
        ),
        detectors=[
            DetectorDescription(
                name=detector,
                settings=settings_text(its) or "none",
                threshold=number(thresholds[detector]) if detector in thresholds else "none",
            )
            for detector, its in told.get("detectors", {}).items()
        ],
        target_fpr=calibration.get("fpr"),
        measured_fpr=(
            wilson(round(calibration["measured_fpr"] * count), count) if calibration else None
        ),
        others=_others(told),
    )


def _others(told: dict[str, Any]) -> str:
    parts = [
        f"{key}: {setting_text({'name': part['type'], **part['settings']})}"
        for key in ("purifier", "corrector")
        if (part := told.get(key))
    ]
    if told.get("fitted_on"):
        parts.append(f"detectors learnt from {setting_text(told['fitted_on'])}")
    parts += ["answers by chance"] if told.get("stochastic") else []
    parts += [] if told.get("differentiable", True) else ["has steps without gradients"]
    parts += [settings_text(told["parameters"])] if told.get("parameters") else []
    return "; ".join(parts) or DASH


def _numbers(values: Sequence[float]) -> str:
    return " / ".join(map(number, values)) or "unknown"


def describe_substitutes(records: Records) -> list[str]:
    """What transfers were made from: its name and weights, or how well it was taught."""
    runs: dict[str, dict[str, Any]] = records.meta.get("runs") or {"": records.meta}
    found = []
    for run, meta in runs.items():
        for name, told in (meta.get("substitutes") or {}).items():
            words = f"{run}: {name}" if run else name
            if isinstance(told, dict):
                words += (
                    f", which agrees with it on {percent(told['agreement'])} of held-out images"
                )
                words += f" after {told['queries']} queries" if "queries" in told else ""
            else:
                words += f", {told[:12]}"
            found.append(words)
    return found


def describe_attacks(records: Records) -> list[AttackDescription]:
    """Every attack that was run, one row for all its eps."""
    known = records.meta.get("attacks", {})
    labels = attack_labels(records)
    groups: dict[str, tuple[str, dict[str, Any], set[float], list[str]]] = {}
    for threat, identity, norm, eps in records.distinct("threat", "attack_id", "norm", "eps"):
        if threat == CLEAN:
            continue
        settings = {key: v for key, v in known.get(identity, {}).items() if key != "eps"}
        settings["norm"] = norm
        key = f"{labels[identity]} {settings_text(settings)}"
        _, _, budgets, threats = groups.setdefault(key, (labels[identity], settings, set(), []))
        budgets.update([] if eps is None else [eps])
        threats.extend([] if threat in threats else [threat])
    return [
        AttackDescription(
            label=label,
            norm=norm_text(settings["norm"]),
            eps=", ".join(map(number, sorted(budgets))) or DASH,
            in_255=", ".join(number(255 * eps) for eps in sorted(budgets)),
            **{
                column: setting_text(settings[column]) if column in settings else DASH
                for column in ("steps", "step_size", "restarts", "random_start", "early_stop")
            },
            threats=listing(threats),
            others=settings_text({k: v for k, v in settings.items() if k not in _COLUMNS}) or DASH,
        )
        for label, settings, budgets, threats in groups.values()
    ]
