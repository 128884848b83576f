"""Measures a service: throughput beside the bare guard, latency, and a hostile crowd.

    python benchmarks/serving.py GUARD --data ../shared/data/mnist --minutes 10

GUARD is a guard's folder. The service runs in a process of its own, the client in this one, on the
same machine, whose cores they share. Throughput is measured in turns with the bare loop over
`Guard.judge` at the same batch size (the service idles meanwhile). Latency is that of single images
at half the rate that single images reach, sent at random times whatever the answers take. Then a
crowd of good, mistaken and hostile clients comes for some minutes, the process is killed with
SIGKILL under load, and every image that it said it keeps for a person is looked for in its file.
Results go to results/serving.json, part by part (`--parts`).

Where other work keeps the machine busy, OMP_WAIT_POLICY=passive keeps threads that wait for each
other from using the processor, in both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import hostile_load
import torch
from http_client import Connection, connection, form, post
from machine import describe, versions
from PIL import Image

import notsure as ns
from notsure.core.storage import load_json, save_json

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measures everything, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guard", type=Path)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the hostile crowd")
    parser.add_argument("--parts", default="throughput,hostile")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "serving.json")
    given = parser.parse_args()
    guard = ns.Guard.load(given.guard)
    test = ns.data.load(given.data).test
    content = load_json(given.out) if given.out.is_file() else {}
    about = {
        "guard": [type(part).__name__ for _, part in guard.named_detectors()],
        "classifier": type(guard.classifier.module).__name__,
        "batch_size": given.batch_size,
        "machine": describe(torch.device("cpu")),
        "waiting_threads": os.environ.get("OMP_WAIT_POLICY", "as the library has it"),
        "versions": versions(),
    }
    files = [_png(image) for image in test.pixels[:512, 0].numpy()]
    for part in given.parts.split(","):
        measure = {"throughput": _throughput, "hostile": _hostile}[part]
        with tempfile.TemporaryDirectory() as folder:
            queue = Path(folder) / "review.sqlite"
            with service(given.guard, queue, given.batch_size) as (process, port):
                found = measure(guard, test, files, process, port, given)
            if "kept" in found:
                kept = found.pop("kept")
                found["kept_for_a_person"] = len(kept)
                found["lost_after_kill"] = hostile_load.lost(queue, kept)
        found["load_at_end"] = describe(torch.device("cpu"))["load_at_start"]
        content[part] = {**found, **about}
        print(json.dumps(found, indent=2), flush=True)  # noqa: T201
        save_json(given.out, content)


def _throughput(
    guard: ns.Guard,
    test: ns.data.Images,
    files: list[bytes],
    process: subprocess.Popen[str],
    port: int,
    given: Any,
) -> dict[str, Any]:
    """Throughput, and latency at half of it."""
    found = throughput(guard, test, files, (process.pid, port), given)
    rate = found["single files"]["images_per_second"] / 2
    asked = latency(port, files, rate, 2 * given.seconds)
    return {"throughput": found, "latency": asyncio.run(asked)}


def _hostile(
    _guard: ns.Guard,
    test: ns.data.Images,
    files: list[bytes],
    process: subprocess.Popen[str],
    port: int,
    given: Any,
) -> dict[str, Any]:
    """The crowd, and the end by SIGKILL."""
    shape = (test.image_shape[1], test.image_shape[2])
    load = asyncio.run(hostile_load.run(port, process.pid, files, shape, 60 * given.minutes))
    statuses = {kind: dict(sorted(found.items())) for kind, found in load.statuses.items()}
    # killed while clients are still being answered
    asyncio.run(_killed(process, load))
    return {
        "minutes": given.minutes,
        "statuses": statuses,
        "unexpected": load.unexpected[:20],
        "unexpected_count": len(load.unexpected),
        "resources": load.watched,
        "milliseconds_of_good_singles": _quantiles(load.seconds),
        "kept": load.kept,
    }


@contextmanager
def service(
    guard: Path, queue: Path, batch_size: int
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`notsure serve`, and its port."""
    command = [sys.executable, "-u", "-m", "notsure", "serve", str(guard), "--port", "0"]
    command += ["--review", str(queue), "--batch-size", str(batch_size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit(f"the service did not start: {line}")
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


def throughput(
    guard: ns.Guard, test: ns.data.Images, files: list[bytes], where: tuple[int, int], given: Any
) -> dict[str, Any]:
    """Images a second, of the bare loop and of the service, in turns; medians over the rounds.

    The processor time of an image, of the bare loop's process and of the service's, is less of a
    matter of what else the machine does.
    """
    pid, port = where
    size = given.batch_size
    x = test.x[: 8 * size]
    arrays = [json.dumps({"images": part.tolist()}).encode() for part in torch.split(x, size)]
    forms = [form(files[start : start + size]) for start in range(0, len(files), size)]
    kinds = {
        "arrays": ([post("/judge", body, "application/json") for body in arrays], size, 4),
        "forms of files": ([post("/judge", *one) for one in forms], size, 4),
        "single files": ([post("/judge", one, "image/png") for one in files], 1, 64),
    }
    found: dict[str, list[tuple[float, float]]] = {"bare": [], **{kind: [] for kind in kinds}}
    bare(guard, x, 1.0)
    for _ in range(given.rounds):
        found["bare"].append(bare(guard, x, given.seconds, size))
        for kind, (requests, images, clients) in kinds.items():
            before = processor_seconds(pid)
            asked = saturated(port, requests, images, clients, given.seconds)
            count, seconds = asyncio.run(asked)
            spent = processor_seconds(pid) - before
            found[kind].append((count / seconds, 1000 * spent / count))
    return {kind: _row(measured, found["bare"]) for kind, measured in found.items()}


def _row(
    measured: list[tuple[float, float]], bare_loop: list[tuple[float, float]]
) -> dict[str, Any]:
    pairs = list(zip(measured, bare_loop, strict=True))
    return {
        "images_per_second": round(statistics.median(rate for rate, _ in measured), 1),
        "rounds": [round(rate, 1) for rate, _ in measured],
        "processor_milliseconds_per_image": round(
            statistics.median(cost for _, cost in measured), 3
        ),
        "of_bare": round(statistics.median(one[0] / own[0] for one, own in pairs), 3),
        "of_bare_by_processor_time": round(
            statistics.median(own[1] / one[1] for one, own in pairs), 3
        ),
    }


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor, all of its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare(guard: ns.Guard, x: torch.Tensor, seconds: float, size: int = 128) -> tuple[float, float]:
    """Images a second of a loop over `Guard.judge`, and processor milliseconds an image."""
    count, began, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for part in torch.split(x, size):
            guard.judge(part, batch_size=size)
            count += len(part)
    took = time.perf_counter() - began
    return count / took, 1000 * (time.process_time() - spent) / count


async def saturated(
    port: int, requests: list[bytes], images: int, clients: int, seconds: float
) -> tuple[int, float]:
    """Images and seconds where every client asks again as soon as it is answered."""
    began, answered = time.perf_counter(), 0

    async def client(number: int) -> None:
        nonlocal answered
        turn = number
        async with connection(port) as one:
            while time.perf_counter() - began < seconds:
                reply = await one.ask(requests[turn % len(requests)])
                if reply.status != 200:
                    raise SystemExit(f"{reply.status}: {reply.body[:200]!r}")
                answered += images
                turn += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    return answered, time.perf_counter() - began


async def latency(port: int, files: list[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """How long single images take that come at random, so many a second."""
    chance, taken = random.Random(0), []  # noqa: S311
    tasks: set[asyncio.Task[None]] = set()
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()

    async def one(number: int, due: float) -> None:
        asked = free.get_nowait() if not free.empty() else Connection(port)
        reply = await asked.ask(post("/judge", files[number % len(files)], "image/png"))
        if reply.status != 200:
            raise SystemExit(f"{reply.status}: {reply.body[:200]!r}")
        # from when it was due, so that a client that falls behind hides nothing
        taken.append(time.perf_counter() - due)
        free.put_nowait(asked)

    began = due = time.perf_counter()
    number = 0
    while due - began < seconds:
        due += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.ensure_future(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    found = _quantiles(taken)
    return {
        "images_per_second": round(rate, 1),
        "milliseconds": found,
        "p99_over_median": round(found["p99"] / found["median"], 2),
    }


async def _killed(process: subprocess.Popen[str], load: hostile_load.Load) -> None:
    """Kills the service while rejected images come."""
    load.end = time.monotonic() + 3
    clients = [asyncio.ensure_future(hostile_load.strange(load)) for _ in range(8)]
    before = len(load.unexpected)
    await asyncio.sleep(2)
    process.kill()
    await asyncio.wait(clients, timeout=30)
    # that nobody answers any more is what was wanted
    del load.unexpected[before:]


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
        for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("largest", 1.0))
    } | {"count": len(ordered)}


def _png(pixels: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
