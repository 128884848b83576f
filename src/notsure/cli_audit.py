"""The commands `notsure audit` and `notsure compare`; they are parsed here and done in `audit`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

FAILED = 1
"""The exit code of an audit that misses a limit."""

INTERRUPTED = 130


def audit(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, hf:ORG/NAME or a folder of transformers, path/to/file.py:build_model "
            "(which is run), a TorchScript or torch.export program, an ONNX file, or a guard's "
            "folder.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Images in class folders, an .npz of x and y, Parquet or IDX files, or a hub id."
        ),
    ],
    eps: Annotated[
        list[str] | None,
        typer.Option(help="Budget, such as 8/255; may be repeated.", show_default="8/255"),
    ] = None,
    norm: Annotated[str, typer.Option(help="Of the budgets, linf or l2.")] = "linf",
    suite: Annotated[str, typer.Option(help="Attacks: quick, standard or full.")] = "quick",
    threat: Annotated[
        list[str] | None,
        typer.Option(help="Threat to run; may be repeated. By default all that apply."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/audit"),
    count: Annotated[
        int, typer.Option(help="How many images, in the proportions of their classes; 0 for all.")
    ] = 500,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights for timm:NAME or a Python file: safetensors.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, in place of the model's own.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Such as 0.5 or 0.485,0.456,0.406, in place of its own.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="As --mean, in place of its own.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Limit such as robust=0.4, strict=0.3, clean=0.9 or believable=1; below it the "
            "exit code is 1. May be repeated."
        ),
    ] = None,
    worst: Annotated[int, typer.Option(help="How many of the worst images are written.")] = 20,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Match classes by number, not by name.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draw of images and the attacks.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images worked on at a time.")] = 64,
) -> None:
    """Attack a model of your own, and write what is left of it: report, verdict, worst images."""
    from rich.console import Console

    from notsure.audit.command import audit as run

    try:
        # standard output is for the verdict, so that a pipeline can read it; a model may print
        with redirect_stdout(sys.stderr):
            done = run(
                model,
                data,
                out,
                Console(stderr=True),
                eps=eps or ["8/255"],
                norm=norm,
                suite=suite,
                threats=threat or [],
                count=count or None,
                checkpoint=checkpoint,
                size=size,
                mean=mean,
                std=std,
                fail_under=fail_under or [],
                worst=worst,
                skip_bad=skip_bad,
                by_position=by_position,
                seed=seed,
                batch_size=batch_size,
            )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on with the attacks.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(done.figures.line)
    if not done.figures.passed:
        raise typer.Exit(FAILED)


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="At least two, as `notsure audit` takes them, or notsure's own, such as resnet32.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="As `notsure audit` takes it; its train part is trained on.")
    ],
    eps: Annotated[
        list[str] | None,
        typer.Option(help="Budget, such as 0.1 or 8/255; may be repeated.", show_default="8/255"),
    ] = None,
    norm: Annotated[str, typer.Option(help="Of the budgets, linf or l2.")] = "linf",
    suite: Annotated[str, typer.Option(help="Attacks: quick, standard or full.")] = "quick",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/compare"),
    epochs: Annotated[
        int, typer.Option(help="Training of models whose head does not fit the data.")
    ] = 2,
    train_count: Annotated[
        int | None, typer.Option(help="Take so many images of the training set.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many test images are attacked; 0 for all.")] = 500,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Fine-tune timm's weights of the hub, or train timm's networks from scratch.",
        ),
    ] = True,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Match classes by number, not by name.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draws, the training and the attacks.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images attacked at a time.")] = 128,
) -> None:
    """Attack several models on the same images; what does not fit the data is trained first."""
    from rich.console import Console

    from notsure.audit.command import compare as run

    try:
        run(
            models,
            data,
            out,
            Console(),
            eps=eps or ["8/255"],
            norm=norm,
            suite=suite,
            epochs=epochs,
            train_count=train_count,
            count=count or None,
            pretrained=pretrained,
            skip_bad=skip_bad,
            by_position=by_position,
            seed=seed,
            batch_size=batch_size,
        )
    except KeyboardInterrupt:
        typer.echo("notsure: interrupted; the same command goes on from there.", err=True)
        raise typer.Exit(INTERRUPTED) from None
