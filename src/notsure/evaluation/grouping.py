"""The rows of records by guard, threat, attack and budget; each column is read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_TEXTS = ("guard", "threat", "attack_id", "norm", "attack", "substitute")


@dataclass(frozen=True, eq=False)
class Group:
    """The rows of one guard, threat, attack, settings and budget.

    Attributes:
        guard: the guard's name.
        threat: what the attacker knew; "clean" for the clean images.
        attack: the attack's class name.
        attack_id: the identity of attack and settings.
        norm: of the budget; None for attacks without one.
        eps: the budget; None for attacks without one.
        substitutes: the names of the substitutes, one a part; (None,) but for transfers.
        rows: int64 (parts, n), positions in the columns, ordered by the image's index.
    """

    guard: str
    threat: str
    attack: str
    attack_id: str | None
    norm: str | None
    eps: float | None
    substitutes: tuple[str | None, ...]
    rows: npt.NDArray[np.int64]

    @property
    def key(self) -> tuple[str, str, str, str | None, str | None, float | None]:
        """Guard, threat, attack, attack_id, norm and eps."""
        return self.guard, self.threat, self.attack, self.attack_id, self.norm, self.eps


class Grouped:
    """Records without the rows of probes, grouped.

    The order is that of the records' meta, and within an attack that of its eps: it does not depend
    on the order of the rows.

    Args:
        records: of one seed; every attack on a guard covers all its clean images.

    Raises:
        ConfigurationError: they do not.
    """

    def __init__(self, records: Records) -> None:
        self.meta = records.meta
        self._records = records
        self._columns: dict[str, Array] = {}
        probe = records.table["probe"]
        self._ordinary: Bools | None = None
        if probe.null_count < len(probe):
            self._ordinary = np.asarray(probe.is_null().to_numpy())
        self._clean: dict[str, Group] = {}
        self._attacked: dict[str, list[Group]] = {}
        for group in _groups(self):
            if group.threat == CLEAN:
                self._clean[group.guard] = group
            else:
                self._attacked.setdefault(group.guard, []).append(group)
        for groups in self._attacked.values():
            for group in groups:
                self._check(group)

    def _check(self, group: Group) -> None:
        clean = self._clean.get(group.guard)
        if clean is None or not all(
            np.array_equal(rows, self.of(clean, "index")[0]) for rows in self.of(group, "index")
        ):
            raise ConfigurationError(
                f"The records of {group.guard}, {group.threat}, {group.attack} do not cover the "
                "clean images one to one: they are incomplete, or of several seeds: select one."
            )

    @property
    def guards(self) -> list[str]:
        """The guards' names."""
        return list(self._clean)

    @property
    def detectors(self) -> list[str]:
        """The detectors that have a score column."""
        return self._records.detectors

    @property
    def controls(self) -> list[str]:
        """The controls that have a column."""
        return self._records.controls

    def description(self, guard: str) -> dict[str, Any]:
        """What the meta says of a guard."""
        return dict(self.meta["guards"][guard])

    def includes(self, threat: str) -> set[str]:
        """The threats whose attackers can do no more than this one's, itself included.

        Raises:
            ConfigurationError: the records do not say so.
        """
        if "includes" not in self.meta:
            raise ConfigurationError(
                "The records do not say which threats include which: their meta needs a key "
                "'includes', such as {'white-box': ['oblivious']}."
            )
        return {threat, *self.meta["includes"].get(threat, ())}

    def column(self, name: str) -> Array:
        """A column without the rows of probes; nulls of number columns are NaN."""
        if name not in self._columns:
            column = self._records.column(name)
            self._columns[name] = column if self._ordinary is None else column[self._ordinary]
        return self._columns[name]

    def texts(self, name: str) -> tuple[npt.NDArray[np.int64], list[str | None]]:
        """A column of words as places (rows,) in a list of the words there are; null is None."""
        encoded = self._records.table[name].combine_chunks().dictionary_encode()
        places = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
        if self._ordinary is not None:
            places = places[self._ordinary]
        words = encoded.dictionary.to_pylist()
        return np.where(places < 0, len(words), places), [*words, None]

    def of(self, group: Group, name: str) -> Array:
        """A column of a group, (parts, n), ordered by the image's index."""
        return np.asarray(self.column(name)[group.rows])

    def clean(self, guard: str) -> Group:
        """The clean images of a guard."""
        return self._clean[guard]

    def attacked(self, guard: str) -> list[Group]:
        """What was attacked of a guard."""
        return self._attacked.get(guard, [])

    def threats(self, guard: str) -> list[str]:
        """The threats that a guard was attacked under."""
        return list(dict.fromkeys(group.threat for group in self.attacked(guard)))

    def clean_right(self, guard: str) -> Bools:
        """Which clean images (n,) are accepted and right."""
        group = self.clean(guard)
        right = ~self.misclassified(group) & ~self.rejected(group)
        return np.asarray(right[0], bool)

    def misclassified(self, group: Group) -> Bools:
        """Which images (parts, n) are classified wrongly, accepted or not."""
        return np.asarray(self.of(group, "prediction") != self.of(group, "y"))

    def fooled(self, group: Group) -> Bools:
        """Which images (parts, n) are accepted and classified wrongly."""
        return np.asarray(self.misclassified(group) & ~self.rejected(group), bool)

    def rejected(self, group: Group) -> Bools:
        """Which images (parts, n) are rejected."""
        return np.asarray(~self.of(group, "accepted").astype(bool), bool)

    def best_part(self, group: Group, scores: Array) -> Array:
        """For each image the part, that is the substitute, which serves the attacker best, (n,).

        Misclassified is better than not; of equals the lowest score (parts, n) is.
        """
        return np.asarray(np.lexsort((scores, ~self.misclassified(group)), axis=0)[0])


def labels(groups: Sequence[Group]) -> dict[str | None, str]:
    """A name for each attack identity: its class, with norm or identity where that is shared."""
    names = {group.attack_id: (group.attack, group.norm) for group in groups}
    found: dict[str | None, str] = {}
    for identity, (attack, norm) in names.items():
        same = [key for key in names.values() if key[0] == attack]
        if len(same) == 1:
            found[identity] = attack
        elif same.count((attack, norm)) == 1:
            found[identity] = f"{attack} ({norm or 'no budget'})"
        else:
            found[identity] = f"{attack} #{identity}"
    return found


def settings_without(settings: Mapping[str, Any], varied: str) -> str:
    """All settings of an attack but one, to compare by; a given step size goes with its eps."""
    rest = {key: value for key, value in settings.items() if key not in (varied, "probe_of")}
    if varied == "eps" and rest.get("step_size") and settings["eps"]:
        rest["step_size"] = f"{rest['step_size'] / settings['eps']:.6g}"
    return json.dumps(rest, sort_keys=True, default=str)


def largest_eps(groups: Sequence[Group]) -> list[Group]:
    """Of the groups of one guard, those whose eps is the largest of their norm."""
    largest: dict[str | None, float] = {}
    for group in groups:
        largest[group.norm] = max(largest.get(group.norm, 0.0), group.eps or 0.0)
    return [group for group in groups if (group.eps or 0.0) == largest[group.norm]]


def _groups(grouped: Grouped) -> list[Group]:
    """The groups of all rows, in order."""
    places, words = {}, {}
    for name in _TEXTS:
        places[name], words[name] = grouped.texts(name)
    sizes, eps_place = np.unique(grouped.column("eps"), return_inverse=True)
    key = np.zeros(len(eps_place), np.int64)
    ranks = _ranks(grouped.meta, words)
    for name in _TEXTS[:4]:
        key = key * len(words[name]) + ranks[name][places[name]]
    key = key * len(sizes) + eps_place
    for name in _TEXTS[4:]:
        key = key * len(words[name]) + ranks[name][places[name]]
    index = grouped.column("index")
    order = np.lexsort((index, key))
    cuts = np.flatnonzero(np.diff(key[order])) + 1
    found: dict[tuple[Any, ...], Group] = {}
    for rows in np.split(order, cuts) if len(order) else []:
        said = {name: words[name][places[name][rows[0]]] for name in _TEXTS}
        eps = float(grouped.column("eps")[rows[0]])
        group = Group(
            guard=said["guard"] or "",
            threat=said["threat"] or "",
            attack=said["attack"] or "",
            attack_id=said["attack_id"],
            norm=said["norm"],
            eps=None if np.isnan(eps) else eps,
            substitutes=(said["substitute"],),
            rows=rows[None],
        )
        if len(np.unique(index[rows])) < len(rows):
            raise ConfigurationError(
                f"The records of {group.guard} hold {group.threat} images more than once: an image "
                "that is attacked twice is not two images. Select one seed first, "
                "records.where(seed=...)."
            )
        found[group.key] = _with_part(found[group.key], group) if group.key in found else group
    return list(found.values())


def _with_part(group: Group, other: Group) -> Group:
    """A group with the rows of one more substitute."""
    if group.rows.shape[1] != other.rows.shape[1]:
        raise ConfigurationError(
            f"The records of {group.guard}, {group.threat}, {group.attack} do not cover the same "
            "images for every substitute: they are incomplete."
        )
    return replace(
        group,
        substitutes=(*group.substitutes, *other.substitutes),
        rows=np.concatenate([group.rows, other.rows]),
    )


def _ranks(
    meta: Mapping[str, Any], words: Mapping[str, Sequence[str | None]]
) -> dict[str, npt.NDArray[np.int64]]:
    """For each column of words where each comes in the order of the meta; then by name."""
    told = {
        "guard": list(meta.get("guards", ())),
        "threat": [CLEAN, *meta.get("threats", ())],
        "attack_id": list(meta.get("attacks", ())),
    }
    ranks = {}
    for name, its in words.items():
        known = {word: place for place, word in enumerate(told.get(name, ()))}
        ordered = sorted(its, key=lambda word: (known.get(word, len(known)), word or ""))
        rank = {word: place for place, word in enumerate(ordered)}
        ranks[name] = np.array([rank[word] for word in its], np.int64)
    return ranks
