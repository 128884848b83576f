"""The command line; whatever needs torch is imported when a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import notsure

UNFINISHED = 75
"""The exit code of a run whose deadline came; the same command goes on."""

app = typer.Typer(
    name="notsure",
    help="Attack, harden and guard image classifiers, and measure honestly what is left.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(notsure.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Attack, harden and guard image classifiers, and measure honestly what is left."""


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(
            help="'digits', a local folder (data set, images, IDX files), an .npz, or a hub id."
        ),
    ] = "digits",
    arch: Annotated[
        str | None, typer.Option(help="Architecture, such as resnet32; fits the images if left.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/demo"),
    epochs: Annotated[int | None, typer.Option(help="Training epochs of each network.")] = None,
    count: Annotated[int, typer.Option(help="How many test images are attacked.")] = 500,
    eps: Annotated[
        list[str] | None,
        typer.Option(help="linf budget, such as 0.3 or 8/255; may be repeated; fits the images."),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="K-density, confidence or non-ME; may be repeated, a guard of each."),
    ] = None,
    fpr: Annotated[float, typer.Option(help="Share of clean images a guard may reject.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of weights, training and attacks.")] = 0,
) -> None:
    """Train two networks (CE, RCE), guard them, attack the guards, write the report."""
    from rich.console import Console

    from notsure.demo import run_demo
    from notsure.report import console_table

    try:
        result = run_demo(
            data,
            out,
            architecture=arch,
            epochs=epochs,
            count=count,
            eps=eps,
            detectors=detector or ["K-density"],
            fpr=fpr,
            seed=seed,
        )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on with the training.", err=True)
        raise typer.Exit(130) from None
    console = Console()
    for table in console_table(result.records):
        console.print(table)
    for name in ("report.html", "records.parquet"):
        console.print(f"wrote {result.folder / name}", soft_wrap=True)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="A records.parquet, or the folder it is in; several are compared side by side.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html; or md, tex or pdf for a paper. By default as --out ends, else html.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write. If left: report.html (or .md ...) beside the records of one "
            "run; comparison.html here for several."
        ),
    ] = None,
) -> None:
    """Write the report of a run, or the comparison of several, from their records."""
    from notsure.report.compare import report_runs

    typer.echo(f"wrote {report_runs(runs, kind=kind, out=out)}")


@app.command()
def attacks(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As Markdown, with the deviations from the papers.")
    ] = False,
) -> None:
    """List every attack: form, norms, what it has to see of the target, what it costs."""
    from notsure.attacks.catalogue import catalogue
    from notsure.attacks.catalogue import markdown as as_markdown

    if markdown:
        typer.echo(as_markdown(), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("attack", "form", "norms", "has to see", "cost of a sample (F, B passes)")
    for one in catalogue():
        form = "eps" if one.bounded else "nearest"
        table.add_row(one.name, form, " ".join(one.norms), one.needs.name.lower(), one.cost)
    Console().print(table)


@app.command()
def defences(
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="As Markdown, with the deviations from the papers."),
    ] = False,
) -> None:
    """List every defence: source and cost; with --markdown knobs, deviations and figures too."""
    from notsure import defences as known

    if markdown:
        typer.echo(known.markdown(), nl=False)
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("defence", no_wrap=True), "kind", "from", "costs a query")
    for one in known.catalogue():
        table.add_row(one.name, one.kind, one.paper, one.query_cost)
    Console().print(table)


@app.command()
def run(
    study: Annotated[
        str, typer.Argument(help="A study's YAML file, or the name of one of notsure's: digits.")
    ],
    scale: Annotated[
        str, typer.Option(help="smoke (minutes), cpu (hours) or paper (as the report did).")
    ] = "smoke",
    out: Annotated[
        Path, typer.Option(help="Folder of results; studies share what they both declare.")
    ] = Path("runs/studies"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its time, and do nothing.")
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(help="Such as 9m or 2h30m: stop at a checkpoint then, with exit code 75."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of data sets; by default that of NOTSURE_DATA.")
    ] = None,
) -> None:
    """Run a study: train, guard, attack, tabulate; what is done is not done again."""
    from notsure.studies.console import run_study

    try:
        outcome = run_study(
            study,
            scale=scale,
            out=out,
            dry_run=dry_run,
            deadline=deadline,
            data_root=data_root,
        )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on from the checkpoint.", err=True)
        raise typer.Exit(130) from None
    if outcome is not None and not outcome.finished:
        raise typer.Exit(UNFINISHED)


def main() -> None:
    """Runs the command line; errors of ours are told in a sentence, without a traceback."""
    try:
        app()
    except notsure.NotSureError as error:
        typer.echo(f"notsure: {error}", err=True)
        sys.exit(1)
