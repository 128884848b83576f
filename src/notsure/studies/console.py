"""What `notsure run` does: read a study, print its plan, run it, print what was measured."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from notsure.core.storage import writable_folder
from notsure.report import console_table
from notsure.studies.durations import duration_text, parse_duration
from notsure.studies.kinds import Evaluate, records_of, study_steps
from notsure.studies.manifest import write_manifest
from notsure.studies.order import plan, plan_table
from notsure.studies.run import Outcome, run_plan
from notsure.studies.spec import load_study
from notsure.studies.steps import Step
from notsure.studies.store import Store


def run_study(
    path_or_name: str | Path,
    *,
    scale: str = "smoke",
    out: str | Path = "runs/studies",
    dry_run: bool = False,
    deadline: str | float | None = None,
    data_root: str | Path | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Outcome | None:
    """Runs a study and prints the tables of its evaluations.

    Called again it goes on with what is left; what is done is not done again, also for another
    study that shares it.

    Args:
        path_or_name: a study's YAML file, or the name of one of the library's.
        scale: "smoke", "cpu" or "paper".
        out: the folder of results, a folder each step in it; the manifest goes into
            `<study>-<scale>`.
        dry_run: print the plan and do nothing.
        deadline: such as "9m", or seconds: when to stop at a checkpoint.
        data_root: the folder of data sets; None for that which NOTSURE_DATA names.
        progress: whether to show progress bars.
        console: where to print; standard output by default.

    Returns:
        What was done and what is left; None for a dry run.

    Raises:
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    console = console or Console()
    # what cannot be is told before the data are read
    if deadline is not None:
        parse_duration(deadline)
    study = load_study(path_or_name, scale)
    steps = plan(study_steps(study, data_root))
    store = Store(out)
    console.print(f"[bold]{study.name}[/bold] at scale {scale}: {study.title}", highlight=False)
    console.print(plan_table(steps, store))
    if dry_run:
        return None
    writable_folder(out)
    outcome = run_plan(steps, store, deadline=deadline, progress=progress)
    folder = Path(out) / f"{study.name}-{scale}"
    manifest = write_manifest(folder, steps, store, outcome, study=study.name, scale=scale)
    for step in steps:
        if isinstance(step, Evaluate):
            _show(step, store, console)
    console.print(f"wrote {manifest}", soft_wrap=True, highlight=False)
    _show_rest(outcome, console)
    return outcome


def _show(step: Step, store: Store, console: Console) -> None:
    result = store.result(step)
    if result is None:
        return
    console.rule(f"evaluation {step.name}")
    for table in console_table(records_of(result.folder)):
        console.print(table)
    console.print(f"records: {result.folder / 'records.parquet'}", soft_wrap=True, highlight=False)


def _show_rest(outcome: Outcome, console: Console) -> None:
    done, before = len(outcome.done), len(outcome.skipped)
    console.print(
        f"{done} steps done in {duration_text(outcome.wall)}, {before} done before, "
        f"{len(outcome.left)} left.",
        highlight=False,
    )
    for step in outcome.left:
        console.print(
            f"left: {step.kind} {step.name!r}: {outcome.why[step.identity]}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
