"""What `notsure run` does: read a study, print its plan, run it, print what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from notsure.core.storage import atomic, writable_folder
from notsure.report import console_table
from notsure.studies.adaptive import adaptive_markdown
from notsure.studies.answers import StoredFindings, cell_rows, check_measurable
from notsure.studies.cell_tables import count, summary_table, write_rows
from notsure.studies.declared import Study
from notsure.studies.decoded import FOLDER as DECODED
from notsure.studies.durations import duration_text, parse_duration
from notsure.studies.kinds import Evaluate, evaluations_first, records_of, study_entries
from notsure.studies.manifest import write_manifest
from notsure.studies.order import plan, plan_table
from notsure.studies.pages import STUDY
from notsure.studies.publishing import CELLS
from notsure.studies.publishing import publish as publish_results
from notsure.studies.run import Outcome, run_plan
from notsure.studies.scale_out import run_plan_on_ray
from notsure.studies.scale_out.cluster import LOCAL, require_ray
from notsure.studies.spec import study_of, study_text
from notsure.studies.steps import Step
from notsure.studies.store import Store
from notsure.studies.tracking import DEFAULT, require_mlflow, track
from notsure.studies.verdicts import CellRow


def run_study(
    path_or_name: str | Path,
    *,
    scale: str = "smoke",
    out: str | Path = "runs/studies",
    dry_run: bool = False,
    deadline: str | float | None = None,
    data_root: str | Path | None = None,
    publish: str | Path | None = None,
    ray: str | None = None,
    ray_cpus: int = 1,
    ray_shard: int | None = None,
    mlflow: str | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Outcome | None:
    """Runs a study, prints the tables of its evaluations, and answers its report's cells.

    Called again it goes on with what is left; what is done is not done again, also for another
    study that shares it.

    Args:
        path_or_name: a study's YAML file, or the name of one of the library's.
        scale: "smoke", "cpu" or "paper".
        out: the folder of results, a folder each step in it; the manifest and the cells go into
            `<study>-<scale>`.
        dry_run: print the plan and do nothing.
        deadline: such as "9m", or seconds: when to stop at a checkpoint.
        data_root: the folder of data sets; None for that which NOTSURE_DATA names.
        publish: a folder, usually "results", to write what is finished to as it is committed, see
            `notsure.studies.publishing`; None for nowhere.
        ray: run the steps on a Ray cluster: "auto" or HOST:PORT of one that is there, "local" for
            one on this machine; None for this process alone.
        ray_cpus: how many processors each step has on the cluster.
        ray_shard: how many images a shard of an evaluation has there; None for one batch.
        mlflow: log the run to MLflow, see `notsure.studies.tracking`: the address of a server, a
            folder, or "default"; None for not at all.
        progress: whether to show progress bars.
        console: where to print; standard output by default.

    Returns:
        What was done and what is left; None for a dry run.

    Raises:
        FailedError: steps failed; all else was done, written and printed before.
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    console = console or Console()
    # what cannot be is told before the data are read
    if deadline is not None:
        parse_duration(deadline)
    if ray is not None:
        require_ray()
    if mlflow is not None:
        require_mlflow()
    text, file = study_text(path_or_name)
    study = study_of(text, file, scale)
    kept = Path(out) / DECODED
    # a dry run leaves nothing behind
    cache = None if dry_run and not kept.is_dir() else kept
    entries = study_entries(study, data_root, cache=cache)
    check_measurable(study, entries)
    steps = plan(evaluations_first(entries))
    store = Store(out)
    console.print(f"[bold]{study.name}[/bold] at scale {scale}: {study.title}", highlight=False)
    console.print(plan_table(steps, store))
    if dry_run:
        return None
    writable_folder(out)
    if ray is None:
        outcome = run_plan(steps, store, deadline=deadline, progress=progress)
    else:
        outcome = run_plan_on_ray(
            steps,
            store,
            address=None if ray == LOCAL else ray,
            deadline=deadline,
            progress=progress,
            cpus=ray_cpus,
            shard=ray_shard,
        )
    folder = Path(out) / f"{study.name}-{scale}"
    manifest = write_manifest(
        folder, steps, store, outcome, study=study.name, scale=scale, entries=entries
    )
    with atomic(folder / STUDY) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for step in steps:
        if isinstance(step, Evaluate):
            _show(step, store, console)
    console.print(f"wrote {manifest}", soft_wrap=True, highlight=False)
    rows = cell_rows(study, entries, store)
    if rows:
        _show_cells(rows, write_rows(folder / CELLS, rows), console)
    findings = StoredFindings(study, entries, store)
    if study.adaptive:
        _show_adaptive(study, findings, console)
    console.print(
        f"for the figures: notsure report {folder}", soft_wrap=True, highlight=False, markup=False
    )
    if publish is not None:
        published = publish_results(findings, rows, manifest, publish)
        console.print(f"published {published}", soft_wrap=True, highlight=False)
    if mlflow is not None:
        logged = track(folder, uri=None if mlflow == DEFAULT else mlflow)
        console.print(f"logged to MLflow as run {logged}", soft_wrap=True, highlight=False)
    _show_rest(outcome, console)
    outcome.require_success()
    return outcome


def _show(step: Step, store: Store, console: Console) -> None:
    result = store.result(step)
    if result is None:
        return
    console.rule(f"evaluation {step.name}")
    for table in console_table(records_of(result.folder)):
        console.print(table)
    console.print(f"records: {result.folder / 'records.parquet'}", soft_wrap=True, highlight=False)


def _show_adaptive(study: Study, findings: StoredFindings, console: Console) -> None:
    from rich.markdown import Markdown

    console.rule("under an adaptive attacker")
    console.print(Markdown(adaptive_markdown(study, findings.records)))


def _show_cells(rows: Sequence[CellRow], path: Path, console: Console) -> None:
    told = count(rows)
    console.print(summary_table(rows))
    console.print(
        f"{told.answered} of {told.cells} cells answered at cpu or paper scale, "
        f"{told.smoke} at smoke scale.",
        highlight=False,
    )
    console.print(f"wrote {path}", soft_wrap=True, highlight=False)


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
