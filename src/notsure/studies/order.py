"""The order of steps: each once, after what it needs; and what a run of them would do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from notsure.core.errors import ConfigurationError
from notsure.studies.durations import Estimates, duration_text
from notsure.studies.steps import Step
from notsure.studies.store import Store

if TYPE_CHECKING:
    from rich.table import Table


def plan(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps and all they need, each once, every one after what it needs.

    The order is that of the steps given, each right after its needs. Steps of the same identity
    are one step, under the name that comes first.

    Args:
        steps: what is wanted.

    Raises:
        ConfigurationError: steps need each other in a circle, or settings are not JSON-ready.
    """
    found: dict[str, Step] = {}
    visited: set[int] = set()
    path: list[Step] = []

    def visit(step: Step) -> None:
        if any(step is above for above in path):
            circle = [*path[next(i for i, s in enumerate(path) if s is step) :], step]
            told = " -> ".join(f"{s.kind} {s.name!r}" for s in circle)
            raise ConfigurationError(f"Steps need each other in a circle: {told}.")
        if id(step) in visited:
            return
        path.append(step)
        for need in step.needs:
            visit(need)
        path.pop()
        visited.add(id(step))
        found.setdefault(step.identity, step)

    try:
        for step in steps:
            visit(step)
    except RecursionError:
        raise ConfigurationError(
            f"The needs of {path[0].kind} {path[0].name!r} never end, or are nested too deeply: "
            "`needs` has to give steps that the step holds, not new ones each time."
        ) from None
    return tuple(found.values())


def selected(steps: Sequence[Step], only: Collection[str] | None) -> tuple[Step, ...]:
    """The plan of the steps that are asked for by name, kind or identity; None asks for all.

    Args:
        steps: what there is.
        only: names, kinds or identities.

    Raises:
        ConfigurationError: nothing of the plan is called so.
    """
    steps = plan(steps)
    if only is None:
        return steps
    words = dict.fromkeys(w for step in steps for w in (step.name, step.kind, step.identity))
    for word in only:
        if word not in words:
            near = difflib.get_close_matches(word, words, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the plan for their names."
            raise ConfigurationError(f"No step of the plan is called {word!r}: {hint}")
    chosen = [s for s in steps if {s.name, s.kind, s.identity} & set(only)]
    wanted = {step.identity for step in plan(chosen)}
    # in the whole plan's order, whatever was asked for first
    return tuple(step for step in steps if step.identity in wanted)


def plan_table(steps: Sequence[Step], store: Store) -> Table:
    """What a run would do, and about how long it would take, as a table for the console.

    Args:
        steps: in the order in which they run.
        store: where results are.
    """
    from rich.table import Table
    from rich.text import Text

    estimates = Estimates(store.results())
    table = Table("", "step", "kind", "needs", "state", "time", title="plan")
    numbers = {step.identity: number for number, step in enumerate(steps, 1)}
    total, unknown = 0.0, 0
    for step in steps:
        state = store.state(step)
        result = store.result(step)
        seconds = estimates.of(step) if result is None else result.seconds
        if result is None:
            total += 0.0 if math.isnan(seconds) else seconds
            unknown += math.isnan(seconds)
        about = "took " if result is not None else "about "
        table.add_row(
            str(numbers[step.identity]),
            Text(step.name),
            step.kind,
            " ".join(str(numbers[need.identity]) for need in step.needs),
            state,
            "unknown" if math.isnan(seconds) else about + duration_text(seconds),
        )
    rest = f", and {unknown} steps of unknown length" * bool(unknown)
    table.caption = f"to do: about {duration_text(total)}{rest}"
    return table
