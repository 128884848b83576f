"""Progress bars with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    description: str, total: int, *, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar while the block runs.

    Args:
        description: what is going on.
        total: how many units of work there are.
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

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=Console(stderr=True),
        disable=not shown,
        refresh_per_second=2,
    )
    with bar:
        task = bar.add_task(description, total=total, remark="")

        def advance(units: int, remark: str = "") -> None:
            bar.update(task, advance=units, remark=remark)

        yield advance
