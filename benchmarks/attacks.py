"""The attacks against their peers: foolbox, torchattacks, ART and adv-lib.

python benchmarks/attacks.py --data ../shared/data/mnist --rows pgd-every-step,ddn

Every contestant of a row attacks the same network on the same images with the same settings, in
turns. What they return is judged here, for everybody alike. Each row becomes a JSON file, and the
table is made from these files alone. benchmarks/README.md says how to install the peers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import density
import torch
from contestants import Contestant, Run, Task, UnavailableError
from machine import describe, versions
from measure import Timing, interleaved, judge, timed
from networks import network
from row import Row
from rows import all_rows
from table import table_of

from notsure import Classifier, data
from notsure.core.hardware import gains_from_bf16
from notsure.core.storage import atomic, writable_folder

RESULTS = Path(__file__).resolve().parent / "results"
TRIALS = Path("runs/benchmarks/smoke")
WARM_UP = 2
"""How many images the warm-up takes."""

CLASSES = 10


@dataclass(frozen=True)
class Entry:
    """A contestant that is ready.

    Attributes:
        contestant: who.
        run: its attack.
        warm_up: seconds that WARM_UP images took.
        images: how many it gets.
        reason: why not all of them; empty where it gets all.
    """

    contestant: Contestant
    run: Run
    warm_up: float
    images: int
    reason: str = ""


def main() -> None:
    """Measures the rows that are asked for and writes the table."""
    arguments = _arguments()
    folder = writable_folder(arguments.out or (TRIALS if arguments.smoke else RESULTS))
    rows = {row.name: row for row in all_rows(smoke=arguments.smoke)}
    names = [*rows, *density.ROWS]
    broken: list[str] = []
    if arguments.list:
        _say("\n".join(names))
        return
    if not arguments.table:
        wanted = arguments.rows.split(",") if arguments.rows else names
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise SystemExit(f"There is no row {', '.join(unknown)}. There are: {', '.join(names)}")
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        for name in wanted:
            _say(f"{name} ...")
            common = {
                "row": name,
                "order": names.index(name),
                "smoke": arguments.smoke,
                "rounds": arguments.rounds,
                "machine": describe(arguments.device),
                "versions": versions(),
            }
            try:
                record = _record(name, rows, arguments)
            except Exception as error:  # hours of other rows must not hang on this one
                traceback.print_exc()
                broken.append(name)
                record = _broken(name, error)
            save_record(folder / f"{name}.json", common | record)
    text = table_of(folder)
    (folder / "table.md").write_text(text, encoding="utf-8")
    _say(text)
    if broken:
        raise SystemExit(f"These rows ended in an error, see above: {', '.join(broken)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="where MNIST is: anything that notsure.data.load takes")
    parser.add_argument(
        "--networks", type=Path, default=Path("runs/benchmarks"), help="where networks are kept"
    )
    parser.add_argument("--out", type=Path, help=f"where results go; default {RESULTS.name}/")
    parser.add_argument("--rows", help="names of rows, with commas; default all of them")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody is timed")
    parser.add_argument(
        "--budget",
        type=float,
        default=1200.0,
        help="seconds that a contestant may take for a round; who would need more, going by the "
        "warm-up, gets fewer images, and is left out where not even the warm-up's fit",
    )
    parser.add_argument("--threads", type=int, help="torch's threads; default its own choice")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--smoke", action="store_true", help="few images and steps: does it run?")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    parser.add_argument("--list", action="store_true", help="only list the rows")
    arguments = parser.parse_args()
    if not (arguments.table or arguments.list or arguments.data):
        parser.error("--data is missing: say where MNIST is, such as ../shared/data/mnist")
    if arguments.rounds < 1 or not arguments.budget > 0:
        parser.error("--rounds has to be at least 1 and --budget more than 0 seconds")
    return arguments


def _record(name: str, rows: dict[str, Row], arguments: argparse.Namespace) -> dict[str, Any]:
    """What is specific to a row."""
    if name in density.ROWS:
        return density.measured(
            name,
            arguments.data,
            arguments.networks,
            rounds=arguments.rounds,
            smoke=arguments.smoke,
        )
    row = rows[name]
    if name == "pgd-bf16" and not (arguments.smoke or gains_from_bf16(arguments.device)):
        return _not_run(row, "this hardware does not compute in bfloat16")
    return attack_record(row, arguments)


def attack_record(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures a row of attacks."""
    device = arguments.device
    classifier = network(row.network, arguments.data, arguments.networks).to(device)
    x, y = correct_images(classifier, arguments.data, row.count, device)
    channels, height, width = x.shape[1:]
    task = Task(classifier, row.batch, (channels, height, width), CLASSES, row.shift)
    ready: list[Entry] = []
    skipped: dict[str, str] = {}
    for contestant in row.contestants:
        try:
            ready.append(warmed_up(contestant, task, x, y, arguments.budget))
        except UnavailableError as error:
            skipped[contestant.name] = str(error)
        except Exception as error:  # a peer may raise anything; the reason is recorded
            traceback.print_exc()
            skipped[contestant.name] = f"{type(error).__name__}: {error}"
        if contestant is row.contestants[0] and contestant.name in skipped:
            _say(f"  {row.name}: ours cannot run: {skipped[contestant.name]}")
            return _not_run(row, skipped[contestant.name])
    for name, reason in skipped.items():
        _say(f"  {row.name}: {name} is left out: {reason}")
    timings = interleaved(
        {entry.contestant.name: _in_batches(entry, task, x, y) for entry in ready},
        arguments.rounds,
        before=lambda: task.module.zero_grad(set_to_none=True),
        device=device,
    )
    by_name = {entry.contestant.name: entry for entry in ready}
    entries = []
    for contestant in row.contestants:
        name = contestant.name
        found: dict[str, Any] = {
            "name": name,
            "call": contestant.call,
            "required_ratio": contestant.required,
            "images": 0,
            "seconds": [],
            "skipped": skipped.get(name, ""),
        }
        if name in by_name:
            found |= _measurements(row, task, by_name[name], timings[name], x, y)
        entries.append(found)
    return _head(row) | {"contestants": entries}


def warmed_up(
    contestant: Contestant, task: Task, x: torch.Tensor, y: torch.Tensor, budget: float
) -> Entry:
    """Builds a contestant, lets it attack a few images, and decides how many it gets.

    The seconds per image of so few images are an upper bound of those in a batch, so that nobody
    takes longer than the budget; who loops over single images is judged exactly.

    Raises:
        UnavailableError: it cannot be built, or would not keep to the budget with any images.
    """
    run = contestant.prepare(task)
    few = min(WARM_UP, len(x))
    task.module.zero_grad(set_to_none=True)
    seconds, _ = timed(lambda: run(x[:few], y[:few]), task.device)
    wanted = min(len(x), contestant.count or len(x))
    affordable = int(budget * few / seconds)
    if affordable < few:
        raise UnavailableError(
            f"{few} images took {seconds:.0f} s, and the budget of a round is {budget:.0f} s"
        )
    if affordable < wanted:
        needed = seconds / few * wanted
        reason = f"{wanted} would take up to {needed:.0f} s, and the budget is {budget:.0f} s"
        return Entry(contestant, run, seconds, affordable, reason)
    reason = "" if wanted == len(x) else "too slow for all of them"
    return Entry(contestant, run, seconds, wanted, reason)


def correct_images(
    classifier: Classifier, source: str, count: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images that the network gets right, and their labels."""
    images = data.load(source).test
    x, y = images.x, images.y
    kept: list[torch.Tensor] = []
    for start in range(0, len(x), 256):
        rows = torch.arange(start, min(start + 256, len(x)))
        with torch.inference_mode():
            prediction = classifier.module(x[rows].to(device)).argmax(dim=1).cpu()
        kept.append(rows[prediction == y[rows]])
        if sum(map(len, kept)) >= count:
            break
    chosen = torch.cat(kept)[:count]
    return x[chosen].to(device), y[chosen].to(device)


def _in_batches(
    entry: Entry, task: Task, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], torch.Tensor]:
    x, y = x[: entry.images], y[: entry.images]

    def run() -> torch.Tensor:
        pairs = zip(torch.split(x, task.batch), torch.split(y, task.batch), strict=True)
        return torch.cat([entry.run(images, labels).detach() for images, labels in pairs])

    return run


def _measurements(
    row: Row,
    task: Task,
    entry: Entry,
    timing: Timing[torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
) -> dict[str, Any]:
    found = {
        "images": entry.images,
        "fewer_because": entry.reason,
        "warm_up_seconds": entry.warm_up,
        "seconds": timing.seconds,
        "skipped": timing.failure,
    }
    if timing.first is None:
        return found
    x, y = x[: entry.images], y[: entry.images]
    targets = None if row.shift is None else task.targets(y)
    verdict = judge(task.module, x, timing.first, y, norm=row.norm, eps=row.eps, targets=targets)
    return found | vars(verdict)


def _head(row: Row) -> dict[str, Any]:
    return {
        "kind": "minimum" if row.eps is None else "bounded",
        "title": row.title,
        "network": row.network,
        "images": row.count,
        "batch": row.batch,
        "norm": row.norm,
        "eps": row.eps,
        "goal": "misclassified"
        if row.shift is None
        else f"classified as (y + {row.shift}) % {CLASSES}",
        "slack": row.slack,
        "note": row.note,
    }


def _not_run(row: Row, reason: str) -> dict[str, Any]:
    return _head(row) | {"contestants": [], "skipped": reason}


def save_record(path: Path, record: dict[str, Any]) -> None:
    """Writes JSON in which a list of numbers takes one line, not one for each of them."""
    text = json.dumps(record, indent=2, allow_nan=False)
    text = re.sub(r"\[[\s\d.,eE+\-nul]+\]", lambda found: " ".join(found[0].split()), text)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _broken(name: str, error: Exception) -> dict[str, Any]:
    reason = f"{type(error).__name__}: {error}"
    return {"kind": "none", "title": name, "note": "", "contestants": [], "skipped": reason}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
