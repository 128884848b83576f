"""Signs that an examination was fooled, read from attackers on the same images.

Who knows less, may do less or has fewer steps should not win. One image that falls to the wrong
attacker is chance; a victory is told from it by a paired test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from notsure.evaluation.evidence import ENSEMBLES, Duel, Evidence, RunRows, duel, is_bare
from notsure.evaluation.findings import MANY, Finding, found, largest_first, listed, missing
from notsure.evaluation.grouping import settings_without
from notsure.evaluation.records import LONGER, NOISE

SURPRISE = 0.01
"""How improbable a victory of the weaker attacker has to be if both were equally strong."""

SURPRISE_BY = 0.02
"""And the share of images by which it has to be ahead, so that it matters."""

LONGER_P = 0.05
LONGER_BY = 0.05
"""By what an attack of four times the steps may be ahead: probes are of few images, of which this
share is the least that can be told from chance."""

_OUTSIDE = ("transfer", "query-scores", "query-decisions")


def black_box_beats_white_box(evidence: Evidence) -> Finding:
    """Whether attackers who know less fooled a guard with images that gradients did not find."""
    wrong: list[tuple[float, str]] = []
    closest: tuple[float, str] | None = None
    compared = 0
    for guard in evidence.records.guards:
        ordinary = [run for run in evidence.attacks() if run.guard == guard]
        noise = [run for run in evidence.attacks(probe=NOISE) if run.guard == guard]
        inside = _inside(evidence, guard, ordinary)
        outside = _outside(evidence, [*ordinary, *noise])
        for norm, eps in _budgets(evidence, inside, outside):
            able = [run for run in inside if _tried(evidence, run, norm, eps)]
            strong = evidence.newly_fooled(inside, norm, eps)
            for label, runs in outside.items():
                both = evidence.covered(able) & evidence.covered(runs)
                result = duel(evidence.newly_fooled(runs, norm, eps), strong, both)
                if result.n == 0:
                    continue
                compared += 1
                text = (
                    f"{guard!r} within {norm} {eps:.4g}: {label} "
                    f"({listed([run.attack for run in runs])}) fooled {result.surprising} of "
                    f"{result.n} images, gradient attacks "
                    f"({listed([run.attack for run in able])}) {result.expected}; "
                    f"{_disagreement(result)}"
                )
                case = (result.advantage, text)
                closest = case if closest is None or case[0] > closest[0] else closest
                if result.won(p=SURPRISE, by=SURPRISE_BY):
                    wrong.append(case)
    if closest is None:
        return missing(
            "No guard was attacked both by gradients that see all of it and, within the same "
            "budget, without: by noise, queries or transfers."
        )
    return found(
        largest_first(wrong),
        f"In {compared} comparisons gradients were not beaten. Closest: {closest[1]}",
    )


def _disagreement(result: Duel) -> str:
    return (
        f"{result.gained} fell to the former alone, {result.lost} to the latter alone "
        f"(p = {result.p:.2g})."
    )


def _inside(evidence: Evidence, guard: str, runs: Sequence[RunRows]) -> list[RunRows]:
    """Runs of gradient attacks that see all of the guard.

    An ensemble that ends with a query attack says nothing of gradients where others are there.
    """
    names = {run.threat for run in runs}
    if "white-box" in names:
        threat = "white-box"
    elif is_bare(evidence.told(guard)):
        threat = "oblivious"
    else:
        return []
    inside = [run for run in runs if run.threat == threat and evidence.uses_gradients(run)]
    return [run for run in inside if run.attack not in ENSEMBLES] or inside


def _outside(evidence: Evidence, runs: Sequence[RunRows]) -> dict[str, list[RunRows]]:
    """Runs without gradients of the guard, by how they do without."""
    outside: dict[str, list[RunRows]] = {}
    for run in runs:
        if run.threat in _OUTSIDE:
            label = f"the threat {run.threat}"
        elif run.attack == "RandomNoise":
            # a probe is of fewer images: taken together, the others would outvote it
            label = "random noise" if run.probe is None else "random noise as a probe"
        elif not evidence.uses_gradients(run):
            label = f"attacks without gradients under {run.threat}"
        else:
            continue
        outside.setdefault(label, []).append(run)
    return outside


def _budgets(
    evidence: Evidence, inside: Sequence[RunRows], outside: Mapping[str, Sequence[RunRows]]
) -> list[tuple[str, float]]:
    """The budgets within which both have been tried."""
    every = [*inside, *(run for runs in outside.values() for run in runs)]
    budgets = dict.fromkeys(
        (run.norm, run.eps) for run in every if run.norm is not None and run.eps is not None
    )
    return [(n, e) for n, e in budgets if any(_tried(evidence, run, n, e) for run in inside)]


def _tried(evidence: Evidence, run: RunRows, norm: str, eps: float) -> bool:
    """Whether the attack was after images within this budget: its own, or the nearest there are."""
    if run.eps is None:
        return bool(evidence.settings(run).get("norm") == norm)
    return run.norm == norm and run.eps == eps


def not_monotone(evidence: Evidence) -> Finding:
    """Whether an attack that may do more reached its goal on fewer images."""
    wrong: list[tuple[float, str]] = []
    compared = 0
    for varied, smaller, larger in _pairs(evidence):
        both = evidence.covered([smaller]) & evidence.covered([larger])
        result = duel(evidence.broken([smaller]), evidence.broken([larger]), both)
        if result.n == 0:
            continue
        compared += 1
        if result.won(p=SURPRISE, by=SURPRISE_BY):
            values = [evidence.settings(run).get(varied) for run in (smaller, larger)]
            text = (
                f"{smaller} succeeded on {result.surprising} of {result.n} images with {varied} = "
                f"{values[0]:.4g}, and on {result.expected} with {varied} = {values[1]:.4g}; "
                f"{_disagreement(result)}"
            )
            wrong.append((result.advantage, text))
    if not compared:
        return missing("No attack was run twice with everything equal but eps, steps or queries.")
    return found(
        largest_first(wrong),
        f"In {compared} comparisons of one attack at two eps, numbers of steps or of queries, "
        "more never reached less.",
    )


def _pairs(evidence: Evidence) -> Iterator[tuple[str, RunRows, RunRows]]:
    """Runs of an attack that differ in one setting alone: the setting, the smaller, the larger."""
    for varied in ("eps", "steps", "queries"):
        families: dict[tuple[Any, ...], list[tuple[float, RunRows]]] = {}
        for run in evidence.attacks():
            settings = evidence.settings(run)
            value = settings.get(varied)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            # a single step may overshoot on any model, and noise knows no direction
            if varied == "eps" and settings.get("steps", 2) <= 1:
                continue
            key = (run.guard, run.threat, run.substitute, settings_without(settings, varied))
            families.setdefault(key, []).append((value, run))
        for family in families.values():
            family.sort(key=lambda pair: pair[0])
            for (less, smaller), (more, larger) in combinations(family, 2):
                if less < more:
                    yield varied, smaller, larger


def not_converged(evidence: Evidence) -> Finding:
    """Whether four times the steps break what the attack left standing."""
    wrong, seen = [], []
    ordinary = {_place(run, run.attack_id): run for run in evidence.attacks()}
    for longer in evidence.attacks(probe=LONGER):
        run = ordinary.get(_place(longer, evidence.settings(longer).get("probe_of")))
        if run is None:
            continue
        both = evidence.covered([longer]) & evidence.covered([run])
        result = duel(evidence.broken([longer]), evidence.broken([run]), both)
        if result.n == 0:
            continue
        text = (
            f"{run} succeeded on {result.expected} of {result.n} images, and on "
            f"{result.surprising} with more steps; {_disagreement(result)}"
        )
        seen.append(text)
        if result.won(p=LONGER_P, by=LONGER_BY):
            wrong.append(text)
    if not seen:
        return missing("No attack was run again with more steps: evaluate with probes.")
    return found(wrong, " ".join(seen[:MANY]))


def _place(run: RunRows, identity: str | None) -> tuple[str | None, ...]:
    return run.guard, run.threat, run.substitute, identity
