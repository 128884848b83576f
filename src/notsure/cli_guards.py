"""The commands `notsure export`, `serve` and `playground`: what is done with a guard's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    guard: Annotated[Path, typer.Argument(help="The folder of a guard.", show_default=False)],
    kind: Annotated[
        str, typer.Option("--format", help="onnx, or torch for a program of torch.export.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default guard.onnx (guard.pt2) in the folder."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set on whose test images it is checked; else on random ones."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many of these images.")] = 1000,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, if the guard does not tell.")
    ] = None,
) -> None:
    """Write a guard as one graph, checked against the guard: image in, label and scores out."""
    from notsure.choosing import load_guard
    from notsure.export.command import export_guard, told

    done = export_guard(
        load_guard(guard), guard, kind=kind, out=out, source=data, count=count, size=size
    )
    for line in told(done):
        typer.echo(line)


def serve(
    guard: Annotated[
        Path,
        typer.Argument(help="A guard's folder, or an exported ONNX file.", show_default=False),
    ],
    host: Annotated[
        str, typer.Option(help="Others reach it at another address; that takes an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8000,
    review: Annotated[
        Path | None,
        typer.Option(help="SQLite file of what is rejected; by default beside the guard."),
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize image files of another size; else refuse.")
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores/--no-scores", help="Whether clients are told the scores.")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Images that are judged together.")] = 128,
    max_body: Annotated[int, typer.Option(help="Bytes of a request's body.")] = 8 << 20,
    max_images: Annotated[int, typer.Option(help="Images in one request.")] = 256,
    max_waiting: Annotated[int, typer.Option(help="Images that wait to be judged.")] = 2048,
    max_requests: Annotated[int, typer.Option(help="Requests worked on at a time.")] = 256,
    max_review: Annotated[int, typer.Option(help="Images that wait for a person.")] = 100_000,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, if the guard does not tell.")
    ] = None,
) -> None:
    """Serve a guard over HTTP; what it rejects waits for a person. NOTSURE_API_KEY sets a key."""
    from notsure.serving import Limits
    from notsure.serving.command import serve as serve_guard

    limits = Limits(
        batch_size=batch_size,
        body_bytes=max_body,
        buffered_bytes=max(32 * max_body, Limits.buffered_bytes),
        images=max_images,
        waiting=max_waiting,
        requests=max_requests,
        review_items=max_review,
    )
    serve_guard(
        guard,
        host=host,
        port=port,
        review=review,
        resize=resize,
        show_scores=scores,
        size=size,
        limits=limits,
        told=lambda line: typer.echo(line),
    )


def playground(
    guard: Annotated[Path, typer.Argument(help="The folder of a guard.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="Labelled images to pick from, as `notsure audit` takes them."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many of them.")] = 60,
    host: Annotated[
        str, typer.Option(help="At another address others reach the page, and there is no key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 7860,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, if the guard does not tell.")
    ] = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Match classes by number, not by name.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
) -> None:
    """Open a page to attack a guard on: pick, draw or upload an image, and see what it says."""
    from notsure.playground.command import play

    play(
        guard,
        data=data,
        count=count,
        host=host,
        port=port,
        size=size,
        by_position=by_position,
        seed=seed,
        told=lambda line: typer.echo(line),
    )
