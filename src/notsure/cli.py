"""The command line; whatever needs torch is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import notsure
from notsure import cli_audit, cli_guards

UNFINISHED = 75
"""The exit code of a run whose deadline came; the same command goes on."""

ALONE = {"--ray": "local", "--mlflow": "default"}
"""Options that may stand alone, and what they are taken for then."""


class _Run(TyperCommand):
    """A command with options that may be given with or without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Completes the options that stand alone."""
        return super().parse_args(ctx, completed_options(args))


def completed_options(words: Sequence[str]) -> list[str]:
    """The words of a command, with a value for every option that stands alone.

    The word after such an option is its value where it is an address: "auto", or with a colon in
    it. Any other value is given as --option=value.
    """
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        alone = word in ALONE and not (after == "auto" or (":" in after and after[0] != "-"))
        found.append(f"{word}={ALONE[word]}" if alone else word)
    return found


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
            help="A records.parquet, or the folder it is in; several are compared side by side. "
            "Or the folder of a study, such as runs/studies/pang-cpu or results/pang.",
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
            "run; comparison.html here for several. Of a study the folder to write to."
        ),
    ] = None,
) -> None:
    """Write the report of a run or a study, or the comparison of several runs."""
    from notsure.report.compare import report_runs
    from notsure.studies.pages import is_of_study, report_study

    if len(runs) == 1 and is_of_study(runs[0]):
        typer.echo(f"wrote {report_study(runs[0], kind=kind, out=out)}")
        return
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


@app.command(cls=_Run)
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
    publish: Annotated[
        Path | None,
        typer.Option(help="Folder, usually results, to write cells and records into for keeps."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Send the steps to a Ray cluster: auto or HOST:PORT; alone, one on this machine.",
        ),
    ] = None,
    ray_cpus: Annotated[
        int, typer.Option(help="Processors, and threads, of each step on the cluster.")
    ] = 1,
    ray_shard: Annotated[
        int | None,
        typer.Option(help="Images of a shard of an evaluation there; by default one batch."),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="[URI]",
            help="Log the run to MLflow: a server's address, or --mlflow=FOLDER; alone, the one "
            "that MLFLOW_TRACKING_URI names, or the folder mlruns beside the results.",
        ),
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
            publish=publish,
            ray=ray,
            ray_cpus=ray_cpus,
            ray_shard=ray_shard,
            mlflow=mlflow,
        )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on from the checkpoint.", err=True)
        raise typer.Exit(130) from None
    if outcome is not None and not outcome.finished:
        raise typer.Exit(UNFINISHED)


guard = typer.Typer(help="Put a guard around a model of your own.", no_args_is_help=True)
app.add_typer(guard, name="guard")


@guard.command("fit")
def guard_fit(
    model: Annotated[str, typer.Argument(help="As `notsure audit` takes it.", show_default=False)],
    data: Annotated[str, typer.Option(help="Data set, image folder, .npz or hub id.")],
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="kdensity, 'LID(neighbours=10)', 'kdensity + confidence', none, or auto for each "
            "there is; the best of several is taken. By default kdensity."
        ),
    ] = None,
    purifier: Annotated[
        list[str] | None,
        typer.Option(help="denoiser, magnet, puvae, none or auto. By default none."),
    ] = None,
    fpr: Annotated[float, typer.Option(help="Share of clean images it may reject.")] = 0.01,
    out: Annotated[Path, typer.Option(help="Folder of the guard.")] = Path("runs/guard"),
    eps: Annotated[
        list[str] | None, typer.Option(help="Budget, such as 0.1 or 8/255; may be repeated.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Of the budgets, linf or l2.")] = "linf",
    suite: Annotated[str, typer.Option(help="Attacks: quick, standard or full.")] = "quick",
    folds: Annotated[int, typer.Option(help="Of the cross-validation.")] = 3,
    count: Annotated[int, typer.Option(help="How many images are attacked.")] = 200,
    purifier_epochs: Annotated[int | None, typer.Option(help="Training of purifiers.")] = None,
    fit_count: Annotated[
        int | None, typer.Option(help="Take so many images of the training set.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Weights for the model.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of its images.")] = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Match classes by number, not by name.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of training, cuts and attacks.")] = 0,
) -> None:
    """Choose, fit, calibrate and examine a guard, and write its folder with a model card."""
    from rich.console import Console

    from notsure.choosing.command import run_fit
    from notsure.choosing.inputs import Source

    try:
        run_fit(
            Source(spec=model, checkpoint=checkpoint, size=size),
            data,
            out,
            Console(),
            detectors=detector or ["kdensity"],
            purifiers=purifier or ["none"],
            fpr=fpr,
            eps=eps or [],
            norm=norm,
            suite=suite,
            folds=folds,
            count=count,
            purifier_epochs=purifier_epochs,
            fit_count=fit_count,
            by_position=by_position,
            skip_bad=skip_bad,
            seed=seed,
            words=["notsure", *sys.argv[1:]],
        )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on with the attacks.", err=True)
        raise typer.Exit(130) from None


app.command()(cli_guards.export)
app.command()(cli_guards.serve)
app.command()(cli_guards.playground)
app.command()(cli_audit.audit)
app.command()(cli_audit.compare)


def main() -> None:
    """Runs the command line; errors of ours are told in a sentence, without a traceback."""
    try:
        app()
    except notsure.NotSureError as error:
        typer.echo(f"notsure: {error}", err=True)
        sys.exit(1)
