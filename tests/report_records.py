"""Records for the report's tests: every kind of row that it shows, with outcomes by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.evaluation.records import Records
from tests.records import Rows, attacked, clean, synthetic

SHAPE = (1, 4, 4)
THREATS = ("oblivious", "white-box")
EVERY_THREAT = ("oblivious", "transfer", "query-decisions", "query-scores", "white-box")

Attack = tuple[str, str | None, float | None, Mapping[str, Any]]

ATTACKS: tuple[Attack, ...] = (
    ("FGSM", "linf", 0.1, {"steps": 1}),
    ("FGSM", "linf", 0.3, {"steps": 1}),
    ("PGD", "linf", 0.1, {"steps": 40}),
    ("PGD", "linf", 0.3, {"steps": 40}),
)

MANY: tuple[Attack, ...] = (
    *ATTACKS,
    ("RandomNoise", "linf", 0.3, {}),
    ("DeepFool", None, None, {"steps": 50}),
)


def made_up(
    guards: Mapping[str, Sequence[str]] | None = None,
    *,
    threats: Sequence[str] = THREATS,
    attacks: Sequence[Attack] = ATTACKS,
    count: int = 60,
    classes: int = 3,
    fooled: float = 0.5,
    images: int = 3,
    features: int = 0,
    purified: bool = False,
    controls: Sequence[str] = (),
    substitutes: Sequence[str] = ("another",),
    seed: int = 0,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    **meta: Any,
) -> Records:
    """Records of guards, given with the names of their detectors, whose outcomes are chance.

    Args:
        guards: by default CE with one detector and RCE, with negated logits, with two.
        threats: every attack is run under each.
        attacks: name, norm, eps and settings; each also says whether it stops early.
        count: number of images.
        classes: number of classes.
        fooled: share of attacked images that are classified wrongly.
        images: of how many images the pixels are kept.
        features: of how many clean images the features are kept.
        purified: whether the guards have a purifier, whose output is kept as well.
        controls: names of the controls of guards that have detectors.
        substitutes: what a transfer is from; the first alone where there is one.
        seed: of the records and of the chance.
        told: what else the meta says of a guard.
        meta: other keys of the meta.
    """
    chance = np.random.default_rng(seed)
    guards = {"CE": ["KDensity"], "RCE": ["KDensity", "Confidence"]} if guards is None else guards
    parts: list[Rows] = []
    for guard, detectors in guards.items():
        y = chance.integers(0, classes, count)
        pixels = chance.random((count, *SHAPE))
        embedded = y[:, None] + 0.1 * chance.normal(size=(count, 5))
        known = list(controls) if detectors else []
        parts.append(
            clean(
                guard,
                y=y,
                seed=seed,
                tie=[i == 0 for i in range(count)],
                image=_some(pixels, images),
                purified=_some(0.5 * pixels + 0.25, images if purified else 0),
                features=_some(embedded, features),
                **_outcomes(chance, y, detectors, known, classes, wrong=0.1, shift=0.0),
            )
        )
        for threat in threats:
            for substitute in substitutes if threat == "transfer" else (None,):
                for name, norm, eps, settings in attacks:
                    moved = np.clip(pixels + chance.normal(0, 0.1, pixels.shape), 0, 1)
                    early = threat != "oblivious" or not detectors
                    far = chance.uniform(0.1, 2.0, count) if norm is None else np.full(count, 0.25)
                    parts.append(
                        attacked(
                            name,
                            guard=guard,
                            threat=threat,
                            norm=norm,
                            eps=eps,
                            settings={**settings, "early_stop": early},
                            substitute=substitute,
                            tie=[i == 0 for i in range(count)],
                            image=_some(moved, images),
                            purified=_some(0.5 * moved + 0.25, images if purified else 0),
                            l0=3.0,
                            l1=0.5,
                            l2=eps if norm == "l2" else far,
                            linf=eps if norm == "linf" else far / 4,
                            queries=chance.integers(10, 13, count) * (30 if "qu" in threat else 1),
                            gradients=10,
                            dead_gradients=1,
                            seconds=0.25,
                            **_outcomes(
                                chance, y, detectors, known, classes, wrong=fooled, shift=1.5
                            ),
                        )
                    )
    described = {
        guard: {
            "settings": {"mean": [0.5], "std": [1.0], "reverse_logits": guard == "RCE"},
            "detectors": {name: {"bandwidth": None} for name in detectors},
            **(told or {}).get(guard, {}),
        }
        for guard, detectors in guards.items()
    }
    named = {"class_names": ["ant", "bee", "cat"][:classes], "seed": seed}
    return synthetic(*parts, guards=described, shape=SHAPE, **{**named, **meta})


def grid_of(values: Sequence[Mapping[str, float]], **options: Any) -> Records:
    """Records of one guard for each set of parameters."""
    names = {", ".join(f"{k} {v:g}" for k, v in one.items()): one for one in values}
    return made_up(
        {name: ["KDensity"] for name in names},
        told={name: {"parameters": dict(one)} for name, one in names.items()},
        **options,
    )


def _outcomes(
    chance: np.random.Generator,
    y: npt.NDArray[Any],
    detectors: Sequence[str],
    controls: Sequence[str],
    classes: int,
    *,
    wrong: float,
    shift: float,
) -> dict[str, Any]:
    """Predictions, scores that are higher by `shift`, and what a threshold of 2 rejects."""
    missed = chance.random(len(y)) < wrong
    scores = {f"score_{name}": chance.normal(shift, 1.0, len(y)) for name in detectors}
    columns: dict[str, Any] = {
        "prediction": np.where(missed, (y + 1) % classes, y),
        **scores,
        **{f"control_{name}": chance.normal(0.0, 1.0, len(y)) for name in controls},
    }
    if scores:
        columns["rejection"] = np.max(list(scores.values()), axis=0) - 2.0
        columns["accepted"] = columns["rejection"] <= 0
    return columns


def _some(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The first rows, flat, and None in place of the others."""
    column = np.empty(len(values), object)
    for i, row in enumerate(values.reshape(len(values), -1).astype(np.float32)[:count]):
        column[i] = row
    return column
