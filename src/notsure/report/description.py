"""What was attacked and how: guards, attacks with all their settings, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from notsure.evaluation.metrics import Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.formatting import (
    DASH,
    listing,
    norm_text,
    number,
    setting_text,
    settings_text,
)
from notsure.report.tables import attack_labels, threats_of

_THREATS = {
    "oblivious": "The attacker sees the bare classifier and knows of no detector. Against a guard "
    "that rejects, the search runs to its end: an image left just across the boundary would be "
    "easy to detect, and would flatter the detector.",
    "white-box": "The attacker sees the whole guard: the network, the detectors, the thresholds "
    "and the gradients of all of them. An image counts as successful only if it is classified "
    "wrongly and accepted. The worst case under this threat includes the attacks of every threat "
    "that knows less, and the clean image itself: whoever knows more can do what those who know "
    "less can.",
    "transfer": "The attacker sees a substitute network and sends what fools that one.",
    "query": "The attacker sees scores or decisions, and no gradients.",
}
"""What each threat means, in words."""

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
    """

    name: str
    network: str
    weights: str
    logits: str
    preprocessing: str
    detectors: Sequence[DetectorDescription]
    target_fpr: float | None
    measured_fpr: Rate | None


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


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an attack cost on one guard under one threat, over all eps.

    Attributes:
        guard: the guard's name.
        attack: the attack's name.
        threat: what the attacker knew.
        seconds: median wall time of an image, in seconds.
        forward: mean number of forward passes of an image.
        backward: mean number of backward passes of an image.
        dead: share in [0,1] of the backward passes whose gradient was zero or not finite; NaN where
            there was none.
        distance: median l2 distance, in [0,1] pixel units, of the successful images that had to be
            changed; NaN where there is none.
    """

    guard: str
    attack: str
    threat: str
    seconds: float
    forward: float
    backward: float
    dead: float
    distance: float


def threat_words(threat: str) -> str:
    """What a threat means."""
    return _THREATS.get(threat, "A threat of its own.")


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
    )


def _numbers(values: Sequence[float]) -> str:
    return " / ".join(map(number, values)) or "unknown"


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


def costs(records: Records) -> list[Cost]:
    """What every attack cost on every guard under every threat."""
    labels = attack_labels(records)
    names = ("seconds", "queries", "gradients", "dead_gradients", "l2", "success")
    rows = []
    for guard in records.guards:
        of_guard = records.where(guard=guard)
        for threat in threats_of(of_guard):
            of_threat = of_guard.where(threat=threat)
            identities: dict[str, list[str | None]] = {}
            for (identity,) in of_threat.distinct("attack_id"):
                identities.setdefault(labels[identity], []).append(identity)
            for label, its in identities.items():
                parts = [of_threat.where(attack_id=identity) for identity in its]
                values = {
                    name: np.concatenate([part.column(name).astype(float) for part in parts])
                    for name in names
                }
                backward = float(np.nansum(values["gradients"]))
                moved = values["l2"][(values["success"] == 1) & (values["l2"] > 0)]
                rows.append(
                    Cost(
                        guard=guard,
                        attack=label,
                        threat=threat,
                        seconds=_over(np.median, values["seconds"]),
                        forward=_over(np.mean, values["queries"]),
                        backward=_over(np.mean, values["gradients"]),
                        dead=(
                            float(np.nansum(values["dead_gradients"])) / backward
                            if backward
                            else float("nan")
                        ),
                        distance=_over(np.median, moved),
                    )
                )
    return rows


def _over(what: Any, values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(what(finite)) if len(finite) else float("nan")
