"""The attacks that candidates are compared by, and the closer look at whoever is ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from notsure.attacks import Attack, Square
from notsure.choosing.named import file_name
from notsure.choosing.results import Result, Settings
from notsure.data import Images
from notsure.evaluation import Records, evaluate, suite_plan
from notsure.evaluation.conclusions import ABOUT_THE_ATTACK
from notsure.evaluation.outcomes import Outcomes, outcomes
from notsure.evaluation.suites import check_suite
from notsure.evaluation.threats import Oblivious, QueryScores, WhiteBox
from notsure.guard import Guard

LONGER = 4
"""How many times the suite's steps a closer look takes."""

QUERIES = 1000
"""How many queries Square has in it, who needs no gradients."""

_NOT_ABOUT_STRENGTH = ("near-chance", "leaked-data")


def examined(
    guards: Mapping[str, Guard],
    images: Images,
    settings: Settings,
    folder: Path | None,
    progress: bool,
) -> dict[str, Result]:
    """What the suite leaves of each guard.

    They are attacked together, since those who see no more than the network see the same.

    Args:
        guards: calibrated guards by name.
        images: what is attacked.
        settings: the suite, its budgets and its seed.
        folder: where records are written; None for nowhere.
        progress: whether to show progress bars.

    Raises:
        NotSureError: see `notsure.evaluate`.
    """
    records = evaluate(
        guards,
        images.x,
        images.labels,
        suite=settings.suite,
        threats=[Oblivious.name, WhiteBox.name],
        eps=list(settings.eps),
        norm=settings.norm,
        probes=0,
        out=folder,
        progress=progress,
        **_common(settings),
    )
    found = {}
    for name in guards:
        own = records.where(guard=name)
        found[name] = Result(
            name,
            _outcomes(own, settings, [Oblivious.name]),
            _outcomes(own, settings, [Oblivious.name, WhiteBox.name]),
        )
    return found


def looked_closer(
    name: str,
    guard: Guard,
    images: Images,
    settings: Settings,
    folder: Path | None,
    progress: bool,
) -> tuple[tuple[Outcomes, ...], tuple[str, ...]]:
    """What more effort leaves of a guard, and the signs that it was not enough.

    The white-box attacks of the suite take four times the steps, Square comes with 1,000 queries,
    and the probes say whether still more steps, an unbounded budget or noise would do more.

    Args:
        name: the guard's.
        guard: calibrated.
        images: what is attacked.
        settings: the suite, its budgets and its seed.
        folder: beside which records are written; None for nowhere.
        progress: whether to show progress bars.

    Returns:
        What is left at each eps, and the flags that are raised about the attacks' strength.

    Raises:
        NotSureError: see `notsure.evaluate`.
    """
    plan = suite_plan(
        guard,
        check_suite(settings.suite),
        settings.eps,
        norm=settings.norm,
        threats=[WhiteBox.name],
    )
    longer = [_longer(attack) for _, attack in plan if attack.budget is not None]
    records = evaluate(
        {name: guard},
        images.x,
        images.labels,
        attacks={
            WhiteBox.name: longer,
            QueryScores.name: [Square(norm=settings.norm, eps=settings.eps[-1], queries=QUERIES)],
        },
        threats=[QueryScores.name, WhiteBox.name],
        probes=len(images),
        out=None if folder is None else folder.with_name(f"{folder.name}-{file_name(name)}"),
        progress=progress,
        **_common(settings),
    )
    raised = [flag for flag in records.flags() if flag.raised and flag.name in ABOUT_THE_ATTACK]
    doubts = [f"{f.name}: {f.because}" for f in raised if f.name not in _NOT_ABOUT_STRENGTH]
    found = _outcomes(records, settings, [QueryScores.name, WhiteBox.name])
    return found, tuple(doubts)


def _longer(attack: Attack) -> Attack:
    steps = getattr(attack, "steps", None)
    return attack if steps is None else replace(attack, steps=LONGER * steps)  # type: ignore[call-arg]


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "illustrated": 0,
        "embedded": 0,
        "controlled": 0,
    }


def _outcomes(records: Records, settings: Settings, threats: list[str]) -> tuple[Outcomes, ...]:
    return tuple(
        outcomes(records, norm=settings.norm, eps=eps, threats=threats) for eps in settings.eps
    )
