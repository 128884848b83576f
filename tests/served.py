"""What the tests of a service share: a judge whose answers are known, and a server around it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from notsure.export import Description
from notsure.serving import Limits
from notsure.serving.app import create_app
from notsure.serving.backend import Judged
from notsure.serving.command import server_of
from notsure.serving.review import ReviewQueue
from notsure.serving.service import Service

BRIGHT = 0.75
"""Images whose mean is above are rejected."""


class Brightness:
    """Tells dark (0), medium (1) and bright (2) images apart, and rejects the very bright."""

    def __init__(self, channels: int = 1, size: int = 4) -> None:
        self.description = Description(
            shape=(channels, size, size),
            num_classes=3,
            detectors=("brightness",),
            thresholds={"brightness": BRIGHT},
            scales={"brightness": 0.25},
            rule="any",
            corrects=False,
            fpr=0.01,
            precision="float32",
            version="0",
        )
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.began = threading.Event()

    def judge(self, x: torch.Tensor) -> Judged:
        """What it says, once it may."""
        self.began.set()
        self.go.wait(20)
        self.batches.append(len(x))
        if self.error is not None:
            raise self.error
        mean = x.flatten(1).mean(dim=1)
        prediction = (mean * 3).long().clamp(max=2)
        accepted = mean <= BRIGHT
        return Judged(
            torch.where(accepted, prediction, -1), accepted, mean[:, None].clone(), prediction
        )


class Client:
    """Asks a service on this machine."""

    def __init__(self, port: int, service: Service) -> None:
        self.port, self.service = port, service

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and answer, from JSON where it is JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            content = answer.read()
            if answer.headers.get("content-type", "").startswith("application/json"):
                return answer.status, json.loads(content)
            return answer.status, content

    def judge(self, content: Any) -> tuple[int, Any]:
        """What is said of images in JSON."""
        return self.ask(
            "POST", "/judge", json.dumps(content).encode(), content_type="application/json"
        )

    def send(self, body: bytes, kind: str = "image/png") -> tuple[int, Any]:
        """What is said of an image file."""
        return self.ask("POST", "/judge", body, content_type=kind)

    def open(self) -> socket.socket:
        """A connection to say anything through."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def served(
    folder: Path,
    judge: Brightness | None = None,
    *,
    key: str | None = None,
    hosts: frozenset[str] | None = None,
    resize: bool = False,
    show_scores: bool = True,
    **limits: Any,
) -> Iterator[Client]:
    """A service in a thread, stopped at the end."""
    judge = judge or Brightness()
    given = Limits(**limits)
    about = judge.description
    queue = ReviewQueue(
        folder / "review.sqlite",
        shape=about.shape,
        num_classes=about.num_classes,
        most=given.review_items,
    )
    service = Service(judge, queue, given, resize=resize, show_scores=show_scores)
    server = server_of(create_app(service, key=key, hosts=hosts), given)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield Client(port, service)
        finally:
            judge.go.set()
            server.should_exit = True
            thread.join(30)


def everything(connection: socket.socket) -> bytes:
    """What is said until the connection ends."""
    parts = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def until(holds: Any, seconds: float = 20) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError("it never came to hold")
        time.sleep(0.005)


def png(level: float = 0.5, size: tuple[int, int] = (4, 4), mode: str = "L") -> bytes:
    """A flat image file."""
    value: Any = round(level * 255)
    if mode == "RGB":
        value = (value,) * 3
    return encoded(Image.new(mode, size, value))


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def flat(level: float, shape: tuple[int, ...] = (4, 4)) -> Any:
    """A flat image as nested lists."""
    return np.full(shape, level).tolist()


def form(*files: bytes) -> tuple[bytes, str]:
    """A multipart body of files, and its content type."""
    parts = [
        b"--edge\r\ncontent-disposition: form-data; name=image; filename=x.png\r\n\r\n"
        + file
        + b"\r\n"
        for file in files
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
