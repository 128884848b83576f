"""The headlines of a report: what is really left of each guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from notsure.evaluation.records import Records
from notsure.evaluation.robustness import RobustnessRow
from notsure.report.figures import guard_colours
from notsure.report.tables import RobustnessLine, at_largest_eps


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What is really left of one guard.

    Attributes:
        guard: its name.
        colour: its colour in all figures.
        clean: any row of it, for the clean rates.
        worst: for each norm, the worst case at the largest eps, all threats side by side.
        rejects: whether the guard may answer NOT SURE.
    """

    guard: str
    colour: str
    clean: RobustnessRow
    worst: Sequence[RobustnessLine]
    rejects: bool


def headlines(records: Records, lines: Sequence[RobustnessLine]) -> list[Headline]:
    """One headline a guard."""
    colours = guard_colours(records)
    worst = at_largest_eps([line for line in lines if line.worst])
    found = []
    for guard in records.guards:
        own = [line for line in worst if line.guard == guard]
        description = records.meta["guards"][guard]
        found.append(
            Headline(
                guard=guard,
                colour=colours[guard],
                clean=own[0].strongest,
                worst=own,
                rejects=bool(description.get("rejects", description["detectors"])),
            )
        )
    return found
