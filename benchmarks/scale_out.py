"""What a Ray cluster costs and gains: per step, per shard, with two workers; see docs/scaling.md.

python benchmarks/scale_out.py [--rounds 5] [--steps 100] [--count 256] [--out FILE]

Starts a cluster on this machine whose workers have a processor each, and measures, in turns that
rotate: steps that do nothing, in a bare loop, on the cluster with a shared folder, and with results
that are sent; an evaluation in one process, on one worker and on two; what travels; how fast the
driver publishes and joins, in seconds of processor time. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch
from machine import describe, versions

from notsure.studies.examining import Evaluate
from notsure.studies.kinds import study_steps
from notsure.studies.run import plan, run_plan
from notsure.studies.scale_out import run_plan_on_ray
from notsure.studies.scale_out.carrying import packed, unpack
from notsure.studies.scale_out.cluster import require_ray
from notsure.studies.scale_out.keeper import Keeper
from notsure.studies.scale_out.pieces import cut
from notsure.studies.spec import study_of
from notsure.studies.steps import Context, Step
from notsure.studies.store import Store

BATCH = 16

STUDY = """\
name: scaling
title: An evaluation that is long enough to be worth a cluster
data:
  digits: {{source: digits, train: 800, calibration: 200, test: {count}}}
networks:
  ce:
    architecture: digits_cnn
    data: digits
    recipe: {{epochs: 4, batch_size: 50, optimizer: adamw, learning_rate: 3e-3, precision: fp32}}
attacks:
  pgd: {{kind: PGD, settings: {{steps: 40}}}}
guards:
  density: {{network: ce, detectors: {{density: KDensity}}, fpr: 0.05}}
evaluations:
  main:
    guards: [density]
    attacks: {{oblivious: [pgd], white-box: [pgd]}}
    eps: [0.05, 0.1, 0.15, 0.2]
    batch_size: {batch}
    probes: 0
scales:
  smoke:
"""


@dataclass(frozen=True, kw_only=True)
class Nothing(Step):
    """Writes a small file."""

    kind: ClassVar[str] = "nothing"

    number: int

    def settings(self) -> dict[str, Any]:
        """Its number."""
        return {"number": self.number}

    def run(self, context: Context) -> None:
        """Writes it."""
        (context.folder / "out.txt").write_text(str(self.number), encoding="utf-8")


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """A cluster of so many nodes with a processor each, besides a head that does nothing."""
    ray = require_ray()
    from ray.cluster_utils import Cluster

    little: dict[str, Any] = {"object_store_memory": 200 << 20, "include_dashboard": False}
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **little})
    for _ in range(workers):
        node = there.add_node(num_cpus=1, object_store_memory=200 << 20)
        _nodes.append(psutil.Process(node.all_processes["raylet"][0].process.pid))
    ray.init(address=there.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        _nodes.clear()
        ray.shutdown()
        there.shutdown()


CLOCKS = ("wall", "own processor", "busiest node's processor")

Times = dict[str, list[tuple[float, float, float]]]
"""Of each call, in each round: seconds by each of the clocks.

On a machine where others work, processor time says what two free processors would take.
"""

_nodes: list[psutil.Process] = []
"""What manages each node of the cluster that is there; its children are the workers."""


def busy() -> list[float]:
    """Seconds of processor time of each node's workers so far."""
    found = []
    for node in _nodes:
        times = [child.cpu_times() for child in node.children() if child.is_running()]
        found.append(sum(one.user + one.system for one in times))
    return found


def clocked(call: Callable[[Path], Any]) -> tuple[float, float, float]:
    """The times of a call with a fresh folder."""
    folder = Path(tempfile.mkdtemp())
    try:
        began, own, before = time.perf_counter(), time.process_time(), busy()
        call(folder)
        wall, own = time.perf_counter() - began, time.process_time() - own
        return wall, own, max((b - a for a, b in zip(before, busy(), strict=True)), default=0.0)
    finally:
        shutil.rmtree(folder)


def in_turns(calls: dict[str, Callable[[Path], Any]], rounds: int) -> Times:
    """The times of each call in each round, in an order that rotates."""
    names = list(calls)
    found: Times = {name: [] for name in names}
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(turn + position) % len(names)]
            found[name].append(clocked(calls[name]))
    return found


def per_step(count: int, rounds: int) -> Times:
    """Seconds of so many steps that do nothing, on one worker."""
    steps = plan([Nothing(name=str(n), number=n) for n in range(count)])
    calls: dict[str, Callable[[Path], Any]] = {
        "bare loop": lambda folder: run_plan(steps, Store(folder)),
        "Ray, shared folder": lambda folder: run_plan_on_ray(steps, Store(folder)),
        "Ray, results sent": lambda folder: run_plan_on_ray(steps, Store(folder), shared=False),
    }
    with cluster(1):
        # the worker loads torch and notsure once
        in_turns(calls, 1)
        return in_turns(calls, rounds)


def study(count: int) -> tuple[Step, ...]:
    """The study's steps."""
    text = STUDY.format(count=count, batch=BATCH)
    return plan(study_steps(study_of(text, "scaling.yaml", "smoke")))


def evaluated(made: Path, steps: tuple[Step, ...], rounds: int) -> Times:
    """Seconds of the evaluation alone, its network and guard being there."""

    def on_copy(run: Callable[[Store], Any]) -> Callable[[Path], Any]:
        def call(folder: Path) -> None:
            shutil.copytree(made, folder, dirs_exist_ok=True)
            run(Store(folder))

        return call

    alone = {"one process": on_copy(lambda store: run_plan(steps, store))}
    found: Times = {}
    for workers in (1, 2):
        sent: dict[str, Callable[[Path], Any]] = {
            f"Ray, {workers} workers": on_copy(
                lambda store: run_plan_on_ray(steps, store, shard=BATCH)
            )
        }
        with cluster(workers):
            in_turns(sent, 1)
            # beside each kind of cluster one process is measured again, which shows drift
            for name, times in in_turns(alone | sent, rounds).items():
                found[f"{name} (beside {workers})" if name in alone else name] = times
    return found


def travelling(made: Path, steps: tuple[Step, ...], rounds: int) -> dict[str, float]:
    """Bytes that travel for a shard, and what the driver does in a second."""
    from ray import cloudpickle

    store = Store(made)
    whole = next(step for step in steps if isinstance(step, Evaluate))
    pieces = cut(whole, BATCH)
    if pieces is None:
        raise SystemExit("give more images: --count")
    for shard in pieces.shards:
        run_plan([shard], store)
    results = [packed(store.folder(shard)) for shard in pieces.shards]
    guard = packed(store.folder(whole.needs[0]))

    def publish(folder: Path) -> None:
        keeper = Keeper(Store(folder))
        for shard, files in zip(pieces.shards, results, strict=True):
            keeper.publish(shard, files)

    def join(folder: Path) -> None:
        keeper = Keeper(Store(folder))
        for shard, files in zip(pieces.shards, results, strict=True):
            unpack(files, keeper.store.folder(shard))
        keeper.hold(whole)
        began = time.process_time()
        keeper.join(whole, pieces)
        joins.append(time.process_time() - began)
        keeper.close()

    joins: list[float] = []
    published = [clocked(publish) for _ in range(rounds)]
    for _ in range(rounds):
        clocked(join)
    rows = whole.images * 9
    sizes = [sum(map(len, files.values())) for files in results]
    return {
        "bytes of an order": len(cloudpickle.dumps(pieces.shards[0])),
        "bytes of a guard": sum(map(len, guard.values())),
        "bytes of a shard's result": statistics.median(sizes),
        "images of a shard": BATCH,
        "records of a shard": rows / len(results),
        "results published a second": len(results)
        / statistics.median(own for _, own, _ in published),
        "records joined a second": rows / statistics.median(joins),
        "files kept of a step": len(results[0]) + 1,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/scale_out.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": describe(torch.device("cpu")),
        "versions": versions() | {"ray": require_ray().__version__},
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "images": arguments.count,
    }
    found["seconds of all steps"] = per_step(arguments.steps, arguments.rounds)
    made = Path(tempfile.mkdtemp())
    try:
        steps = study(arguments.count)
        run_plan(steps, Store(made), only=["guard"])
        found["seconds of the evaluation"] = evaluated(made, steps, arguments.rounds)
        found["what travels"] = travelling(made, steps, arguments.rounds)
    finally:
        shutil.rmtree(made)
    found["load_at_end"] = [round(value, 2) for value in os.getloadavg()]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for title in ("seconds of all steps", "seconds of the evaluation"):
        print(title)  # noqa: T201
        for name, times in found[title].items():
            for clock, seconds in zip(CLOCKS, zip(*times, strict=True), strict=True):
                middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
                print(f"  {name}, {clock}: {middle:.3f} ({least:.3f} to {most:.3f})")  # noqa: T201
    for name, value in found["what travels"].items():
        print(f"{name}: {value:,.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
