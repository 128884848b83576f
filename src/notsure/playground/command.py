"""What `notsure playground` does."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from notsure.adapters import load_images
from notsure.adapters.classes import matched
from notsure.adapters.loaded import Loaded, extra
from notsure.adapters.resizing import Resizing
from notsure.choosing import load_guard
from notsure.choosing.inputs import network_of
from notsure.core.errors import ConfigurationError
from notsure.data import Images
from notsure.export.graph import shape_of_guard
from notsure.guard import Guard
from notsure.playground.panels import Frame
from notsure.playground.player import Player
from notsure.purifiers.base import Shape
from notsure.serving.command import is_loopback, listening_on, own_names

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILE_BYTES = 32 << 20
"""Of an uploaded image file, at most."""

_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
"""Gradio calls nobody and keeps nothing."""

HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' "
    "data:; worker-src 'self' blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of every answer: a browser then loads nothing from anywhere else, whatever the page asks for."""


def play(
    guard: str | Path,
    *,
    data: str | None = None,
    count: int = 60,
    host: str = "127.0.0.1",
    port: int = 7860,
    size: int | None = None,
    by_position: bool = False,
    seed: int = 0,
    told: Callable[[str], None] | None = None,
) -> None:
    """Serves the page of a guard until it is stopped (SIGINT, SIGTERM).

    Args:
        guard: a guard's folder.
        data: labelled images to pick from, see `notsure.adapters.load_images`; None for none.
        count: how many of them, in the proportions of their classes.
        host: the address to listen on; there is no key, so whoever reaches it can use the page.
        port: 0 for any that is free.
        size: height and width of the images in pixels, where the guard does not tell.
        by_position: whether classes are matched by their positions and not by their names.
        seed: of the draw of `count`.
        told: called with each line that there is to tell.

    Raises:
        ConfigurationError: a package is missing, the address cannot be listened on, the size is not
            known, or the classes of data and guard do not match.
        CheckpointError: the guard is damaged.
        DataError: the images cannot be read.
    """
    for package in ("gradio", "PIL"):
        extra(package, name="playground", what="The playground")
    say = told or (lambda _: None)
    player, heading = player_of(
        guard, data=data, count=count, size=size, by_position=by_position, seed=seed
    )
    say(heading)
    listening = listening_on(host, port)
    with listening, _tidy(), prepared():
        import uvicorn

        from notsure.playground.page import page_of

        app = application(page_of(player, heading), own_names(host) if is_loopback(host) else None)
        shown = f"[{host}]" if ":" in host else host
        say(f"open http://{shown}:{listening.getsockname()[1]} in a browser; Ctrl-C ends it")
        if not is_loopback(host):
            say(f"there is no key: whoever reaches {host} can attack and ask this guard")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(configuration(app)).run(sockets=[listening])


def player_of(
    guard: str | Path,
    *,
    data: str | None = None,
    count: int = 60,
    size: int | None = None,
    by_position: bool = False,
    seed: int = 0,
) -> tuple[Player, str]:
    """Loads a guard and images to pick from, and says in a line what they are; see `play`."""
    if count < 1:
        raise ConfigurationError(f"--count is a number of images, at least 1; got {count}.")
    loaded = network_of(guard)
    judge = load_guard(guard) if loaded is None else Guard.load(guard, loaded.classifier)
    shape = _shape(judge, loaded, size)
    resizing = None if loaded is None or size is not None else loaded.resizing
    images, names = None, _names(loaded, _classes_of(judge, shape))
    if data is not None:
        images = _images(data, shape, resizing, count, seed)
        images, _ = matched(
            images,
            () if loaded is None else loaded.class_names,
            len(names),
            by_position=by_position,
        )
        names = images.class_names
    frame = Frame(shape=shape, names=names, rule=judge.rule, corrects=judge.corrector is not None)
    player = Player(judge, frame, images=images, resizing=resizing)
    return player, _heading(guard, judge, shape, len(names))


def _shape(guard: Guard, loaded: Loaded | None, size: int | None) -> Shape:
    if size is None and loaded is not None and loaded.size is not None:
        return loaded.channels, *loaded.size
    return shape_of_guard(guard, size)


def _classes_of(guard: Guard, shape: Shape) -> int:
    """K; whatever does not work at all is told here, before a page opens."""
    parameter = next(guard.classifier.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    sample = torch.full((2, *shape), 0.5, dtype=dtype, device=guard.classifier.device)
    guard.judge(sample)
    with torch.inference_mode():
        return int(guard.classifier.logits(sample).shape[1])


def _names(loaded: Loaded | None, classes: int) -> tuple[str, ...]:
    if loaded is not None and loaded.class_names:
        return loaded.class_names
    return tuple(str(label) for label in range(classes))


def _images(data: str, shape: Shape, resizing: Resizing | None, count: int, seed: int) -> Images:
    read = load_images(data, count=count, size=resizing or shape[1:], channels=shape[0], seed=seed)
    return read.images


def _heading(folder: str | Path, guard: Guard, shape: Shape, classes: int) -> str:
    channels, rows, columns = shape
    parts = [type(guard.purifier).__name__] if guard.purifier is not None else []
    parts += [name for name, _ in guard.named_detectors()]
    if guard.corrector is not None:
        parts.append(type(guard.corrector).__name__)
    told = f"{Path(folder).name}: {' + '.join(parts) or 'a bare classifier'}"
    told += f", {classes} classes, images of {channels} x {rows} x {columns}"
    known = guard.calibration
    if known is not None and known.thresholds:
        told += f"; thresholds reject {known.measured_fpr:.2%} of {known.count} clean images"
    return told


@contextmanager
def _tidy() -> Iterator[None]:
    """Lets SIGTERM end the process as Ctrl-C does, so that what is uploaded is deleted then too."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def prepared() -> Iterator[None]:
    """Gradio's environment while the page is up: silent, and what is uploaded is deleted after."""
    with tempfile.TemporaryDirectory(prefix="notsure-") as folder:
        ours = {**_QUIET, "GRADIO_TEMP_DIR": folder}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def application(page: Any, hosts: frozenset[str] | None) -> FastAPI:
    """The page as an application.

    Args:
        page: what `page_of` made.
        hosts: the names under which it may be called, so that no other site's page reaches it by a
            name of its own; None for any.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from notsure.playground.page import look

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(_WithHeaders)
    if hosts is not None:
        # older versions compare what comes before the first colon, "[" of an IPv6 address
        allowed = {*hosts, *(f"[{name}]" for name in hosts if ":" in name), "["}
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=sorted(allowed))
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        show_error=False,
        max_file_size=_FILE_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        **look(),
    )
    return app


class _WithHeaders:
    """Puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, sending)


def configuration(app: FastAPI) -> Any:
    """How uvicorn serves the page: without a log of requests, and it ends when it is told to."""
    import uvicorn

    return uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
