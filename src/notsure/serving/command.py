"""What `notsure serve` does."""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from notsure.core.errors import ConfigurationError
from notsure.serving.backend import backend_of
from notsure.serving.limits import Limits
from notsure.serving.review import ReviewQueue

if TYPE_CHECKING:
    from uvicorn import Server

    from notsure.serving.gate import Gate

KEY = "NOTSURE_API_KEY"
"""The environment variable with the API key."""

_BACKLOG = 2048

SHORTEST_KEY = 16
"""Characters of a key; a shorter one can be guessed."""


def serve(
    guard: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    review: Path | None = None,
    resize: bool = False,
    show_scores: bool = True,
    size: int | None = None,
    limits: Limits | None = None,
    told: Callable[[str], None] | None = None,
) -> None:
    """Serves a guard until it is stopped (SIGINT, SIGTERM).

    Args:
        guard: a guard's folder, or an ONNX file that `notsure export` wrote.
        host: the address to listen on; one that others reach needs an API key in the environment
            variable NOTSURE_API_KEY.
        port: 0 for any that is free.
        review: the SQLite file of the review queue; by default review.sqlite in the guard's folder,
            or beside the ONNX file under its name.
        resize: whether image files of another size are resized; otherwise they are refused.
        show_scores: whether clients are told the scores.
        size: height and width of the images in pixels, where the guard does not tell.
        limits: what is taken on.
        told: called with each line that there is to tell.

    Raises:
        ConfigurationError: a package is missing, the address cannot be listened on, or an address
            that others reach is without a key.
        CheckpointError: the guard or the queue is damaged.
    """
    for package in ("fastapi", "uvicorn"):
        _needed(package)
    from notsure.serving.app import create_app
    from notsure.serving.service import Service

    limits = limits or Limits()
    key = checked_key(os.environ.get(KEY), host)
    backend = backend_of(guard, size=size)
    about = backend.description
    path = review or default_queue(Path(guard))
    queue = ReviewQueue(
        path, shape=about.shape, num_classes=about.num_classes, most=limits.review_items
    )
    service = Service(backend, queue, limits, resize=resize, show_scores=show_scores)
    app = create_app(service, key=key, hosts=own_names(host) if key is None else None)
    listening = listening_on(host, port)
    shown = f"[{host}]" if ":" in host else host
    lines = [
        f"serving {guard} on http://{shown}:{listening.getsockname()[1]}",
        f"what is rejected waits in {path} ({queue.waiting} there)",
    ]
    if key is None:
        lines.append(f"without an API key, for this machine alone; set {KEY} to ask for one")
    for line in lines:
        if told is not None:
            told(line)
    with listening:
        server_of(app, limits).run(sockets=[listening])


def server_of(app: Gate, limits: Limits) -> Server:
    """A server for an application, as patient as the limits are."""
    import uvicorn

    from notsure.serving.protocol import patient

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=patient(limits),
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=max(1, round(limits.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(limits.shutdown_seconds)),
        )
    )


def checked_key(key: str | None, host: str) -> str | None:
    """The API key, if there is one.

    Raises:
        ConfigurationError: it is too short, or missing where others reach the service.
    """
    if not key:
        if not is_loopback(host):
            raise ConfigurationError(
                f"{host} can be reached by others: set an API key in the environment, "
                f"{KEY}=$(openssl rand -hex 32), or listen on 127.0.0.1."
            )
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            f"{KEY} has to have at least {SHORTEST_KEY} printable ASCII characters: "
            "openssl rand -hex 32 makes one."
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names(host: str) -> frozenset[str]:
    """The names under which a loopback service is called."""
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()})


def default_queue(guard: Path) -> Path:
    """Where rejected images wait unless told otherwise."""
    if guard.is_dir():
        return guard / "review.sqlite"
    return guard.with_name(f"{guard.name}.review.sqlite")


def listening_on(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # who comes while the service starts waits, and is not refused
        found.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port} ({error}): give another --host or --port."
        ) from error
    return found


def _needed(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"A service needs the package {package}, which is not there ({error}): "
            'pip install "notsure[serve]"'
        ) from error
