"""The table of a benchmark, from its JSON files and from nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from notsure.core.storage import load_json

HEAD = [
    "| row | contestant | s / image | peer / ours | strength | required | met |",
    "|---|---|---|---|---|---|---|",
]
ROUNDING = 1e-6
"""How much of a median distance is rounding."""


def table_of(folder: Path) -> str:
    """The table of every record in a folder, as Markdown."""
    records = sorted(
        (load_json(path) for path in folder.glob("*.json")), key=lambda record: record["order"]
    )
    lines = [
        "# Speed and strength against the peers",
        "",
        "Generated from the JSON files beside it: `python benchmarks/attacks.py --table`. Seconds "
        "are medians over the rounds; a ratio above 1 means that ours is faster. *met* asks for "
        "the required ratio at equal or greater strength.",
        "",
    ]
    if any(record["smoke"] for record in records):
        lines += ["**A trial run on a few images and steps: the figures mean nothing.**", ""]
    lines += _machines(records)
    lines += HEAD
    for record in records:
        lines += _rows(record)
    lines += ["", *_notes(records)]
    return "\n".join(lines) + "\n"


def seconds_per_image(entry: dict[str, Any]) -> float | None:
    """The median over the rounds, per image; None for who was not timed."""
    if not entry["seconds"]:
        return None
    return float(statistics.median(entry["seconds"]) / entry["images"])


def ratio(ours: dict[str, Any], peer: dict[str, Any]) -> float | None:
    """How many times as long as ours the peer takes for an image."""
    mine, theirs = seconds_per_image(ours), seconds_per_image(peer)
    return None if mine is None or theirs is None else theirs / mine


def robust_accuracy(distance: Sequence[float | None]) -> float:
    """The share of images that do not fool the network."""
    return sum(size is None for size in distance) / len(distance)


def median_distance(distance: Sequence[float | None]) -> float:
    """The median over all images, those that do not fool the network infinitely far away."""
    return statistics.median(math.inf if size is None else size for size in distance)


def as_strong(record: dict[str, Any], ours: dict[str, Any], peer: dict[str, Any]) -> bool:
    """Whether ours is at least as strong, on the images that both have attacked."""
    if record["kind"] == "density":
        deviation = ours["deviation"]
        return bool(deviation is not None and deviation <= record["agreement"])
    count = min(ours["images"], peer["images"])
    mine, theirs = ours["distance"][:count], peer["distance"][:count]
    if robust_accuracy(mine) > robust_accuracy(theirs):
        return False
    if record["kind"] == "bounded":
        return True
    allowed = 1 + float(record["slack"]) + ROUNDING
    return median_distance(mine) <= median_distance(theirs) * allowed


def met(record: dict[str, Any], ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """Whether the required ratio is met, and what is missing where it is not."""
    required, found = peer["required_ratio"], ratio(ours, peer)
    if required is None or found is None:
        return "—"
    missing = []
    if found < required:
        missing.append("speed")
    if not as_strong(record, ours, peer):
        missing.append("strength")
    return "no: " + " and ".join(missing) if missing else "yes"


def _rows(record: dict[str, Any]) -> list[str]:
    title = record["title"]
    if not record["contestants"]:
        return [f"| {title} | — | — | — | not run: {_cell(record['skipped'])} | — | — |"]
    title = f"{title}; {record['network']}, {record['images']} images"
    ours = record["contestants"][0]
    lines = []
    for entry in record["contestants"]:
        cells = ["", entry["name"], "—", "—", f"not run: {entry['skipped']}", "—", "—"]
        seconds, required = seconds_per_image(entry), entry["required_ratio"]
        if seconds is not None:
            cells[2], cells[4] = f"{seconds:.3g}", _strength(record, entry)
        if required is not None:
            cells[5] = f"{required:.3g}"
        if entry is ours:
            cells[0] = title
        else:
            found = ratio(ours, entry)
            cells[3] = "—" if found is None else f"{found:.2f}"
            cells[6] = met(record, ours, entry)
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return lines


def _cell(text: str) -> str:
    """An error's message may hold what would end a cell or a line."""
    return text.replace("|", "/").replace("\n", " ")


def _strength(record: dict[str, Any], entry: dict[str, Any]) -> str:
    if record["kind"] == "density":
        deviation = entry["deviation"]
        return "—" if deviation is None else f"largest difference {deviation:.1e}"
    distance = entry["distance"]
    if record["kind"] == "bounded":
        text = f"robust accuracy {100 * robust_accuracy(distance):.1f} %"
    else:
        fooled = 100 * (1 - robust_accuracy(distance))
        digits = "g" if record["norm"] == "l0" else ".3f"
        middle = median_distance(distance)
        text = f"median {record['norm']} {middle:{digits}}, {fooled:.1f} % fooled"
    for key, what in (
        ("beyond_eps", "beyond eps"),
        ("outside_box", "outside [0,1]"),
        ("not_finite", "not finite"),
    ):
        if entry[key]:
            text += f"; {entry[key]} {what}"
    if entry["images"] < record["images"]:
        text += f"; on {entry['images']} images"
    if entry["skipped"]:
        text += f"; {len(entry['seconds'])} rounds, then {entry['skipped']}"
    return text


def _machines(records: list[dict[str, Any]]) -> list[str]:
    """On what it ran; usually one machine, one line."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        machine, versions = record["machine"], record["versions"]
        device = machine.get("accelerator", "CPU")
        text = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
            f"device {device}; "
            + ", ".join(f"{package} {version}" for package, version in versions.items())
        )
        kinds.setdefault(text, []).append(record["row"])
    if len(kinds) == 1:
        return [f"Machine: {next(iter(kinds))}.", ""]
    return [f"Machine of {', '.join(rows)}: {text}.\n" for text, rows in kinds.items()]


def _notes(records: list[dict[str, Any]]) -> list[str]:
    return [f"- {record['row']}: {record['note']}" for record in records if record["note"]]
