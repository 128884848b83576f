"""What each defence is, read off the defences themselves, and what it is worth on the digits."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import resources
from typing import Any

from notsure import correctors, detectors, models, purifiers, training
from notsure.core.part import Part
from notsure.training import TrainingObjective

_FIGURES = "defences.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A defence as the table shows it.

    Attributes:
        name: its class.
        kind: training, model, purifier, detector or corrector.
        paper: where it comes from.
        knobs: its settings with their defaults.
        fit_cost: what it costs once, in passes over the training images.
        query_cost: what it adds to the classifier's forward pass (F) for each image asked about.
        differentiable: whether gradients pass, or what stands in for them.
        summary: what it does, in a line.
        deviations: how it differs from the paper; empty where it does not.
    """

    name: str
    kind: str
    paper: str
    knobs: str
    fit_cost: str
    query_cost: str
    differentiable: str
    summary: str
    deviations: str


def catalogue() -> list[Entry]:
    """Every defence of the library, by kind, those of a kind by name."""
    rooms: dict[str, Any] = {
        "training": training,
        "model": models,
        "purifier": purifiers,
        "detector": detectors,
        "corrector": correctors,
    }
    found = []
    for kind, room in rooms.items():
        public: list[Any] = [getattr(room, name) for name in room.__all__]
        classes = [one for one in public if inspect.isclass(one) and hasattr(one, "paper")]
        classes = [one for one in classes if one.paper]
        found += [_entry(one, kind) for one in sorted(classes, key=lambda one: one.__name__)]
    return found


def _entry(kind: type[Any], family: str) -> Entry:
    doc = inspect.getdoc(kind) or ""
    text = " ".join(re.split(r"\n(?:Args|Attributes|Raises):", doc)[0].split())
    found = re.search(r"Deviations?: (.*)", text)
    passes = "-" if issubclass(kind, TrainingObjective) else "yes"
    if getattr(kind, "differentiable", True) is False:
        passes = "by BPDA"
    return Entry(
        name=kind.__name__,
        kind=family,
        paper=kind.paper,
        knobs=", ".join(_knobs(kind)),
        fit_cost=kind.fit_cost,
        query_cost=kind.query_cost,
        differentiable=passes,
        summary=doc.split("\n")[0].rstrip("."),
        deviations=found[1] if found else "",
    )


def _knobs(kind: type[Any]) -> Iterator[str]:
    """The settings, `name=default`, or the name alone where it has to be given."""
    if is_dataclass(kind):
        for one in fields(kind):
            if one.default is not MISSING:
                yield f"{one.name}={_brief(one.default)}"
            elif one.default_factory is not MISSING:
                yield f"{one.name}={_brief(one.default_factory())}"
            else:
                yield one.name
        return
    for setting in inspect.signature(kind).parameters.values():
        # the images' shape is read off the data
        if setting.name == "shape" or setting.kind in (
            setting.VAR_POSITIONAL,
            setting.VAR_KEYWORD,
        ):
            continue
        given = setting.default is inspect.Parameter.empty
        yield setting.name if given else f"{setting.name}={_brief(setting.default)}"


def _brief(value: Any) -> str:
    if is_dataclass(value) or isinstance(value, Part):
        return f"{type(value).__name__}()"
    if isinstance(value, tuple):
        return f"({', '.join(_brief(one) for one in value)})"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def figures() -> dict[str, Any]:
    """What `benchmarks/defences.py` has measured on the digits; it says how at its head."""
    text = resources.files("notsure").joinpath(_FIGURES).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def markdown() -> str:
    """The catalogue and the figures as Markdown."""
    entries = catalogue()
    head = ["defence", "kind", "from", "knobs", "costs once", "costs a query", "differentiable"]
    lines = [_row(head), "|" + "---|" * len(head)]
    lines += [
        _row(
            [
                f"`{one.name}`",
                one.kind,
                one.paper,
                one.knobs or "-",
                one.fit_cost,
                one.query_cost,
                one.differentiable,
            ]
        )
        for one in entries
    ]
    lines += ["", "| defence | what it does | how it differs from the paper |", "|---|---|---|"]
    lines += [_row([f"`{one.name}`", one.summary, one.deviations or "-"]) for one in entries]
    return "\n".join([*lines, "", *_figures_as_lines(figures())]) + "\n"


def _figures_as_lines(content: Mapping[str, Any]) -> Iterator[str]:
    yield content["about"]
    yield ""
    head = [
        "guard",
        "clean accuracy",
        "clean images flagged",
        "robust accuracy, oblivious",
        "robust accuracy, adaptive",
    ]
    yield _row(head)
    yield "|" + "---|" * len(head)
    for row in content["rows"]:
        yield _row([row["guard"], *(_interval(row[key]) for key in _RATES)])


_RATES = ("clean_accuracy", "clean_flagged", "robust_oblivious", "robust_adaptive")


def _interval(rate: Mapping[str, float]) -> str:
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
