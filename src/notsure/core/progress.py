"""Progress bars with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_SECONDS = 30.0
"""How often a line is written where there is no terminal to draw a bar on."""


@contextmanager
def progress_bar(
    description: str, total: int, *, start: int = 0, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar while the block runs.

    Args:
        description: what is going on.
        total: how many units of work there are.
        start: how many of these were done before, in a run that is resumed.
        shown: False keeps it silent.

    Yields:
        A function (units done, remark) that moves the bar on.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=console,
        disable=not shown,
        refresh_per_second=2,
    )
    with bar:
        task = bar.add_task(description, total=total, completed=start, remark="")
        began = told = time.monotonic()
        done = start

        def advance(units: int, remark: str = "") -> None:
            nonlocal done, told
            bar.update(task, advance=units, remark=remark)
            done += units
            now = time.monotonic()
            # a bar draws itself on a terminal only: a log gets a line now and then
            if shown and not console.is_terminal and now - told > LOG_SECONDS and done > start:
                told = now
                left = (now - began) / (done - start) * (total - done)
                console.print(
                    f"{description}: {done}/{total}, about {left:.0f} s left. {remark}",
                    soft_wrap=True,
                    highlight=False,
                )

        yield advance
