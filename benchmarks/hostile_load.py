"""Good, bad and hostile clients at a service for some minutes, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from http_client import Reply, connection, form, get, post
from PIL import Image

GOOD, BAD, HOSTILE = "good", "bad", "hostile"


@dataclass(eq=False)
class Load:
    """What was asked and answered.

    Attributes:
        port: of the service.
        pngs: clean images as files.
        shape: height and width of the images.
        end: when the clients stop, on the monotonic clock.
        statuses: how often each kind of client got each status; 0 is a connection that ended.
        kept: the rejected images that the service said it keeps, as `digest` has them, by the
            numbers that it told.
        seconds: how long good single requests took.
        unexpected: answers that should not have come.
        watched: memory, threads and files of the service, ten times.
        mistakes: requests that are wrong, made before anybody connects: it takes seconds, in which
            the heads of the others would not come.
    """

    port: int
    pngs: list[bytes]
    shape: tuple[int, int]
    end: float
    statuses: dict[str, Counter[int]] = field(
        default_factory=lambda: {GOOD: Counter(), BAD: Counter(), HOSTILE: Counter()}
    )
    kept: dict[int, bytes] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)
    mistakes: list[tuple[str, bytes]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def note(
        self, kind: str, what: str, reply: Reply, allowed: tuple[int, ...], images: Any = ()
    ) -> None:
        """Counts an answer, and keeps what should not have come, and what is said to be kept.

        Args:
            kind: of client.
            what: was asked.
            reply: the answer.
            allowed: its statuses.
            images: that it is about, each (H, W) in [0,1].
        """
        self.statuses[kind][reply.status] += 1
        if reply.status not in allowed:
            self.unexpected.append(f"{what}: {reply.status} {reply.body[:200]!r}")
        if reply.status == 200 and len(images) > 0:
            for verdict, image in zip(reply.json()["verdicts"], images, strict=True):
                if verdict["review"] is not None:
                    self.kept[verdict["review"]] = digest(image)


BUSY = (200, 429)
Client = Callable[[Load], Awaitable[None]]


def mistakes(load: Load) -> list[tuple[str, bytes]]:
    """Requests that are wrong each in its way, by what is wrong."""
    rows, columns = load.shape
    files = {
        "size": _png(np.zeros((rows + 3, columns), np.uint8)),
        "bomb": _png(np.zeros((6000, 6000), np.uint8)),
        "cut": load.pngs[0][: len(load.pngs[0]) // 2],
        "text": b"this is no image",
        "tiff": _encoded(np.zeros(load.shape, np.uint8), "TIFF"),
        "plain": b"P2 28 28 255 " + b"#\n" * 50_000,
    }
    bodies = {
        "255": json.dumps(np.full(load.shape, 128).tolist()).encode(),
        "ragged": b"[[0.1, 0.2], [0.3]]",
        "nan": b"[[NaN]]",
        "deep": b"[" * 50_000,
        "half": b'{"images": [[0.1',
        "null": b'{"image": null}',
        "many": json.dumps([np.zeros(load.shape).tolist()] * 300).encode(),
        "empty": b"[" + b"[]," * 1_000_000 + b"[]]",
        "long": json.dumps(["a" * 30_000, *range(30_000)]).encode(),
    }
    requests = [(what, post("/judge", body, "image/png")) for what, body in files.items()]
    requests += [(what, post("/judge", body, "application/json")) for what, body in bodies.items()]
    requests += [
        ("type", post("/judge", b"x", "text/plain")),
        ("form", post("/judge", b"no edge", "multipart/form-data; boundary=x")),
        ("charset", post("/judge", b"--x", "multipart/form-data; boundary=x; charset=undefined")),
        ("surrogate", post("/review/1", rb'{"\ud800": 1}', "application/json")),
        ("origin", b"GET /review HTTP/1.1\r\nhost: localhost\r\norigin: http://x\r\n\r\n"),
        ("label", post("/review/1", b'{"label": 77}', "application/json")),
        ("item", get("/review/99999999")),
        ("path", get("/no/such/path")),
        ("host", b"GET /review HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n"),
    ]
    return requests


async def single(load: Load) -> None:
    """One clean image after another."""
    async with connection(load.port) as one:
        while time.monotonic() < load.end:
            file = load.chance.choice(load.pngs)
            began = time.perf_counter()
            reply = await one.ask(post("/judge", file, "image/png"))
            load.seconds.append(time.perf_counter() - began)
            load.note(GOOD, "single", reply, BUSY, [_pixels(file)])
            await asyncio.sleep(load.chance.expovariate(20))


async def several(load: Load) -> None:
    """Forms of several clean images."""
    async with connection(load.port) as one:
        while time.monotonic() < load.end:
            files = load.chance.sample(load.pngs, load.chance.randint(2, 24))
            reply = await one.ask(post("/judge", *form(files)))
            load.note(GOOD, "form", reply, BUSY, [_pixels(file) for file in files])
            await asyncio.sleep(load.chance.expovariate(5))


async def strange(load: Load) -> None:
    """Noise, which is rejected and kept for a person."""
    async with connection(load.port) as one:
        while time.monotonic() < load.end:
            image = np.random.default_rng(load.chance.getrandbits(32)).random(load.shape).round(4)
            body = json.dumps({"image": image.tolist()}).encode()
            reply = await one.ask(post("/judge", body, "application/json"))
            load.note(GOOD, "noise", reply, BUSY, [image])
            await asyncio.sleep(load.chance.expovariate(10))


async def person(load: Load) -> None:
    """Labels what waits, and takes the data set away."""
    async with connection(load.port) as one:
        while time.monotonic() < load.end:
            reply = await one.ask(get("/review?limit=5"))
            load.note(GOOD, "review", reply, BUSY)
            for item in reply.json()["items"] if reply.status == 200 else ():
                body = json.dumps({"label": load.chance.choice([None, 1, 2, 3])}).encode()
                decided = await one.ask(post(f"/review/{item['id']}", body, "application/json"))
                load.note(GOOD, "label", decided, BUSY)
                image = await one.ask(get(f"/review/{item['id']}/image"))
                load.note(GOOD, "image", image, BUSY)
            load.note(GOOD, "export", await one.ask(get("/review/export")), BUSY)
            load.note(GOOD, "metrics", await one.ask(get("/metrics")), BUSY)
            await asyncio.sleep(2)


async def mistaken(load: Load) -> None:
    """Requests of people who have not read the manual."""
    allowed = (400, 403, 404, 413, 415, 421, 422, 429)
    async with connection(load.port) as one:
        while time.monotonic() < load.end:
            what, request = load.chance.choice(load.mistakes)
            load.note(BAD, what, await one.ask(request), allowed)
            await asyncio.sleep(load.chance.expovariate(10))


async def enormous(load: Load) -> None:
    """Bodies beyond the limit, told and untold."""
    while time.monotonic() < load.end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
            told = load.chance.random() < 0.5
            size = "content-length: 999999999" if told else "transfer-encoding: chunked"
            writer.write(f"POST /judge HTTP/1.1\r\nhost: localhost\r\n{size}\r\n\r\n".encode())
            chunk = b" " * 65536 if told else b"10000\r\n" + b" " * 65536 + b"\r\n"
            for _ in range(300):
                writer.write(chunk)
                await writer.drain()
            load.note(HOSTILE, "enormous", await _last(reader), (0, 408, 413, 429))
            writer.close()
        await asyncio.sleep(1)


async def dripping(load: Load) -> None:
    """Heads and bodies that never come to an end."""
    while time.monotonic() < load.end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
            if load.chance.random() < 0.5:
                writer.write(b"GET /health HTTP/1.1\r\nx: ")
            else:
                head = b"POST /judge HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000\r\n\r\n"
                writer.write(head)
            while time.monotonic() < load.end and not reader.at_eof():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.5)
            load.note(HOSTILE, "dripping", await _last(reader), (0, 408))
            writer.close()


async def leaving(load: Load) -> None:
    """Goes away in the middle of a body, or before the answer."""
    body = load.pngs[0]
    while time.monotonic() < load.end:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", load.port)
            request = post("/judge", body, "image/png")
            writer.write(request[: load.chance.randint(1, len(request))])
            await writer.drain()
            writer.transport.abort()
            load.statuses[HOSTILE][0] += 1
        await asyncio.sleep(load.chance.expovariate(10))


async def deaf(load: Load) -> None:
    """Asks and never reads."""
    while time.monotonic() < load.end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", load.port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(2000):
                writer.write(get("/docs"))
            await asyncio.sleep(5)
            writer.transport.abort()
            load.statuses[HOSTILE][0] += 1
            del reader


async def babbling(load: Load) -> None:
    """Bytes that are no HTTP."""
    while time.monotonic() < load.end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
            writer.write(load.chance.randbytes(load.chance.randint(1, 4000)))
            writer.write_eof()
            load.note(HOSTILE, "babbling", await _last(reader), (0, 400, 408))
            writer.close()
        await asyncio.sleep(0.3)


CROWD: tuple[tuple[Client, int], ...] = (
    (single, 4), (several, 2), (strange, 2), (person, 1), (mistaken, 3),
    (enormous, 1), (dripping, 12), (leaving, 2), (deaf, 2), (babbling, 1),
)  # fmt: skip


async def run(
    port: int, pid: int, pngs: list[bytes], shape: tuple[int, int], seconds: float
) -> Load:
    """The whole crowd for so long; memory and handles are looked at ten times meanwhile."""
    load = Load(port, pngs, shape, end=0)
    load.mistakes = mistakes(load)
    load.end = time.monotonic() + seconds
    tasks = [asyncio.ensure_future(client(load)) for client, count in CROWD for _ in range(count)]
    for share in range(1, 11):
        await asyncio.sleep(max(0.0, load.end - seconds * (10 - share) / 10 - time.monotonic()))
        load.watched.append(resources(pid))
    await asyncio.wait(tasks, timeout=60)
    for task in tasks:
        if not task.done():
            task.cancel()
        elif task.exception() is not None:
            load.unexpected.append(f"a client failed: {task.exception()!r}")
    return load


def resources(pid: int) -> dict[str, float]:
    """Memory in MiB, threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "mebibytes": round(int(values["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(values["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def lost(path: Path, kept: dict[int, bytes]) -> int:
    """How many of the images that the service said it keeps are not in its file as they were."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        rows = file.execute("SELECT id, bits, pixels FROM item")
        there = {number: _digest_of(bits, pixels) for number, bits, pixels in rows}
    return sum(there.get(number) != image for number, image in kept.items())


def digest(image: Any) -> bytes:
    """What stands for an image in [0,1]."""
    return hashlib.blake2b(np.asarray(image, np.float32).tobytes(), digest_size=16).digest()


def _digest_of(bits: int, pixels: bytes) -> bytes:
    if bits == 32:
        return digest(np.frombuffer(pixels, "<f4"))
    return digest(np.frombuffer(pixels, np.uint8).astype(np.float32) / np.float32(255))


def _pixels(file: bytes) -> Any:
    with Image.open(BytesIO(file)) as image:
        return np.asarray(image, np.float32) / np.float32(255)


async def _last(reader: asyncio.StreamReader) -> Reply:
    """The status of what is said before the connection ends, if anything is."""
    said: Any = b""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        said = await asyncio.wait_for(reader.read(65536), 40)
    return Reply(int(said[9:12]) if said[:5] == b"HTTP/" else 0, said)


def _png(pixels: Any) -> bytes:
    return _encoded(pixels, "PNG")


def _encoded(pixels: Any, kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
