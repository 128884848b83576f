"""Records made by hand, for tests of whatever reads records: no network, no attack, no chance.

    records = synthetic(
        clean(y=[0, 1, 2], prediction=[0, 1, 0], score_A=[0.1, 0.2, 0.3]),
        attacked("PGD", eps=0.1, prediction=[1, 1, 0], score_A=[0.9, 0.2, 0.4]),
        attacked("PGD", eps=0.1, threat="white-box", prediction=[1, 2, 0], accepted=[1, 0, 1]),
        attacked("DeepFool", norm=None, prediction=[1, 2, 0], l2=[0.5, 1.5, 0.0]),
        guards={"guard": {"stochastic": True}},  # merged into what the helper writes itself
    )

`clean` and `attacked` each make the rows of one guard, threat, attack and eps. Any column of the
records may be given by name, as one value for all images or as one value per image; what is not
given has the plain default that is described there. `random_records` makes larger ones by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.evaluation.records import COLUMNS, CONTROL, SCORE, Records

SHAPE = (1, 4, 4)
"""The images' shape, if none is given."""

INCLUDES: dict[str, list[str]] = {
    "oblivious": [],
    "white-box": ["oblivious", "transfer", "query-scores", "query-decisions"],
    "transfer": [],
    "query-scores": ["query-decisions"],
    "query-decisions": [],
}
"""Whose attackers can do no more than those of each threat."""

Rows = dict[str, Any]
"""Columns of one guard, threat, attack and eps, with "settings" of the attack beside them."""


def clean(guard: str = "guard", **columns: Any) -> Rows:
    """The clean images of a guard.

    Args:
        guard: its name.
        columns: y (zeros), prediction (y), accepted (True), score_<detector>, control_<name>,
            rejection, features, image, seed (0), ...
    """
    return {"guard": guard, "threat": "clean", "attack": "none", "eps": 0.0, **columns}


def attacked(
    attack: str,
    *,
    guard: str = "guard",
    threat: str = "oblivious",
    norm: str | None = "linf",
    eps: float | None = 0.1,
    settings: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Rows:
    """The images of one attack on a guard whose clean images are given as well.

    Args:
        attack: the class name.
        guard: the guard's name.
        threat: what the attacker knows.
        norm: of the budget; None for an attack without one, of which eps is then None, too.
        eps: the budget.
        settings: the attack's other hyperparameters, for meta["attacks"]; attacks with the same
            name, norm, eps and settings have the same attack_id.
        columns: prediction (that of the clean image), accepted (True), success (classified wrongly,
            and accepted where the threat is not oblivious), the distances l0, l1, l2, linf (as
            large as the budget where the attack succeeded, else 0; of an attack without a budget
            they are 0 unless given), queries and gradients (1), dead_gradients and
            non_finite_gradients (0), seconds (0.01), score_<detector>, control_<name>, substitute,
            probe, rounded_prediction, rounded_accepted, index (0, 1, ..: of a probe the first
            ones), ...
    """
    return {
        "guard": guard,
        "threat": threat,
        "attack": attack,
        "norm": norm,
        "eps": None if norm is None else eps,
        "settings": dict(settings or {}),
        **columns,
    }


def synthetic(
    *parts: Rows,
    guards: Mapping[str, Mapping[str, Any]] | None = None,
    shape: Sequence[int] = SHAPE,
    **meta: Any,
) -> Records:
    """Records of format 2 with these rows.

    Args:
        parts: made by `clean` (one for each guard, before its attacks) and `attacked`.
        guards: what to write of a guard in meta["guards"], on top of the defaults: detectors as
            the score columns say, every threshold 2, not stochastic, differentiable, it rejects if
            it has detectors, num_classes from the labels, nothing leaked.
        shape: of the images, for meta["image_shape"] and the default distances.
        meta: other keys, in place of the defaults.
    """
    batches: list[dict[str, Any]] = []
    clean_rows: dict[str, dict[str, Any]] = {}
    known: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part["threat"] == "clean":
            batch = _clean_columns(part)
            clean_rows[part["guard"]] = batch
        else:
            batch = _attacked_columns(part, clean_rows[part["guard"]], shape)
            known[batch["attack_id"][0]] = _told(part)
        batches.append(batch)
    threats = [name for part in parts if (name := part["threat"]) != "clean"]
    first = next(iter(clean_rows.values()))
    return Records.of(
        batches,
        {
            "format": 2,
            "notsure": "0.0.test",
            "torch": "9.9",
            "data": "made up",
            "count": len(first["index"]),
            "image_shape": list(shape),
            "class_names": [],
            "seed": 0,
            "suite": None,
            "threats": list(dict.fromkeys(threats)),
            "includes": INCLUDES,
            "probed": len({i for b in batches if b.get("probe", [None])[0] for i in b["index"]}),
            "guards": {
                name: {**_description(batches, name), **(guards or {}).get(name, {})}
                for name in clean_rows
            },
            "attacks": known,
            **meta,
        },
    )


def random_records(
    guards: Mapping[str, Sequence[str]] | None = None,
    *,
    threats: Sequence[str] = ("oblivious", "white-box"),
    attacks: Sequence[tuple[str, str | None, float | None]] = (
        ("FGSM", "linf", 0.1),
        ("FGSM", "linf", 0.3),
        ("PGD", "linf", 0.1),
        ("PGD", "linf", 0.3),
    ),
    count: int = 60,
    classes: int = 3,
    fooled: float = 0.5,
    shape: Sequence[int] = SHAPE,
    seed: int = 0,
    **meta: Any,
) -> Records:
    """Records whose outcomes are chance, all from one seed.

    Args:
        guards: the names of the guards' detectors; by default one guard with two.
        threats: each attack is run under all of them.
        attacks: name, norm and eps; norm and eps None for a minimum-norm attack.
        count: number of images.
        classes: number of classes.
        fooled: share of the attacked images that are classified wrongly; of the clean ones 10 %
            are.
        shape: of the images.
        seed: of the chance, not of the records.
        meta: as in `synthetic`.
    """
    chance = np.random.default_rng(seed)
    parts: list[Rows] = []
    for guard, detectors in (guards or {"guard": ["A", "B"]}).items():
        y = chance.integers(0, classes, count)
        parts.append(clean(guard, y=y, **_outcomes(chance, y, classes, detectors, 0.1, 0.0)))
        for threat in threats:
            for name, norm, eps in attacks:
                columns = _outcomes(chance, y, classes, detectors, fooled, 1.0)
                if norm is None:
                    columns["l2"] = chance.uniform(0.05, 2, count)
                parts.append(
                    attacked(name, guard=guard, threat=threat, norm=norm, eps=eps, **columns)
                )
    return synthetic(*parts, shape=shape, **meta)


def _outcomes(
    chance: np.random.Generator,
    y: npt.NDArray[Any],
    classes: int,
    detectors: Sequence[str],
    wrong: float,
    shift: float,
) -> dict[str, Any]:
    """Predictions, scores that are higher by `shift`, and what a threshold of 2 rejects."""
    count = len(y)
    away = np.where(chance.random(count) < wrong, chance.integers(1, max(classes, 2), count), 0)
    columns: dict[str, Any] = {"prediction": (y + away) % classes}
    scores = {SCORE + name: chance.normal(shift, 1.0, count) for name in detectors}
    if scores:
        columns["rejection"] = np.max(list(scores.values()), axis=0) - 2
        columns["accepted"] = columns["rejection"] <= 0
    return {**columns, **scores}


def _told(part: Rows) -> dict[str, Any]:
    """What meta["attacks"] says of an attack."""
    budget = {} if part["norm"] is None else {"norm": part["norm"], "eps": part["eps"]}
    return {"name": part["attack"], **budget, **part["settings"]}


def _full(value: Any, count: int) -> list[Any]:
    """One value for each image."""
    if isinstance(value, str) or value is None or np.ndim(value) == 0:
        return [value] * count
    return list(value)


def _given(part: Rows, count: int) -> dict[str, list[Any]]:
    names = [name for name in part if name in COLUMNS or name.startswith((SCORE, CONTROL))]
    unknown = set(part) - set(names) - {"settings"}
    if unknown:
        raise ValueError(f"Records have no columns {sorted(unknown)}.")
    given = {name: _full(part[name], count) for name in names}
    wrong = {name: len(values) for name, values in given.items() if len(values) != count}
    if wrong:
        raise ValueError(f"There are {count} images, and columns of other lengths: {wrong}.")
    return given


def _count(part: Rows) -> int | None:
    """How many images the columns of a part are of; None if all are single values."""
    lengths = [
        len(value)
        for name, value in part.items()
        if name != "settings" and not isinstance(value, str) and np.ndim(value) > 0
    ]
    return lengths[0] if lengths else None


def _clean_columns(part: Rows) -> dict[str, Any]:
    count = _count(part)
    if count is None:
        raise ValueError("Give at least one column with a value per clean image, such as y.")
    given = _given(part, count)
    y = given.get("y", [0] * count)
    prediction, accepted = given.get("prediction", y), given.get("accepted", [True] * count)
    zeros = ["l0", "l1", "l2", "linf", "seconds"]
    zeros += ["queries", "gradients", "dead_gradients", "non_finite_gradients"]
    return _typed(
        {
            **{name: [0] * count for name in zeros},
            "seed": [0] * count,
            "index": list(range(count)),
            "y": y,
            "prediction": prediction,
            "accepted": accepted,
            "success": [False] * count,
            "tie": [False] * count,
            **given,
            "clean_prediction": prediction,
            "clean_accepted": accepted,
        }
    )


def _attacked_columns(part: Rows, clean: dict[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    count = _count(part)
    given = _given(part, len(clean["index"]) if count is None else count)
    count = len(given["attack"])
    index = given.get("index", list(range(count)))
    place = {image: position for position, image in enumerate(clean["index"])}
    at = [place[image] for image in index]
    taken = {
        name: [clean[name][position] for position in at]
        for name in ("seed", "y", "clean_prediction", "clean_accepted")
    }
    prediction = given.get("prediction", taken["clean_prediction"])
    accepted = np.asarray(given.get("accepted", [True] * count), bool)
    wrong = np.asarray(prediction) != np.asarray(taken["y"])
    success = wrong if part["threat"] == "oblivious" else wrong & accepted
    success = np.asarray(given.get("success", success), bool)
    identity = hashlib.sha256(repr(_told(part)).encode()).hexdigest()[:12]
    return _typed(
        {
            **taken,
            **_distances(part["norm"], part["eps"], success, shape),
            "index": index,
            "attack_id": [identity] * count,
            "prediction": prediction,
            "accepted": accepted,
            "success": success,
            "tie": [False] * count,
            "queries": [1] * count,
            "gradients": [1] * count,
            "dead_gradients": [0] * count,
            "non_finite_gradients": [0] * count,
            "seconds": [0.01] * count,
            **given,
        }
    )


def _distances(
    norm: str | None, eps: float | None, success: npt.NDArray[Any], shape: Sequence[int]
) -> dict[str, Any]:
    """Every value moved by eps in linf; else one value moved, or eps values wholly in l0."""
    size = float(np.prod(shape))
    far = dict.fromkeys(("l0", "l1", "l2", "linf"), 0.0)
    if norm is not None and eps is not None:
        if norm == "linf":
            far = {"l0": size, "l1": eps * size, "l2": eps * size**0.5, "linf": eps}
        elif norm == "l0":
            far = {"l0": eps, "l1": eps, "l2": eps**0.5, "linf": 1.0}
        else:
            far = {"l0": 1.0, "l1": eps, "l2": eps, "linf": eps}
    return {name: np.where(success, value, 0.0) for name, value in far.items()}


def _typed(columns: dict[str, Any]) -> dict[str, Any]:
    """Booleans may be given as 0 and 1."""
    for name in ("accepted", "clean_accepted", "success", "tie", "rounded_accepted"):
        if name in columns:
            columns[name] = [None if value is None else bool(value) for value in columns[name]]
    return columns


def _description(batches: Sequence[Mapping[str, Any]], guard: str) -> dict[str, Any]:
    """What meta says of a guard."""
    own = [batch for batch in batches if batch["guard"][0] == guard]
    columns = dict.fromkeys(name for batch in own for name in batch)
    detectors = [name.removeprefix(SCORE) for name in columns if name.startswith(SCORE)]
    labels = [int(label) for batch in own for label in batch["y"]]
    return {
        "module": "Net",
        "weights": "0123456789abcdef" * 4,
        "settings": {"mean": [0.5], "std": [1.0], "reverse_logits": False},
        "detectors": {name: {} for name in detectors},
        "purifier": None,
        "corrector": None,
        "rule": "any",
        "calibration": {
            "fpr": 0.02,
            "count": 200,
            "measured_fpr": 0.015,
            "thresholds": dict.fromkeys(detectors, 2.0),
            "scales": dict.fromkeys(detectors, 2.0),
        }
        if detectors
        else None,
        "stochastic": False,
        "differentiable": True,
        "rejects": bool(detectors),
        "num_classes": max([*labels, 1]) + 1,
        "parameters": {},
        "fitted_on": None,
        "outputs": {"probability_rows": 0.0},
        "leaked": {"fit": 0, "calibration": 0},
        "untrained": None,
    }
