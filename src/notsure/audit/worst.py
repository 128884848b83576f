"""The worst images of an audit as files: made again, rounded to 8 bits, and judged once more."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from notsure.core.storage import atomic, writable_folder
from notsure.core.target import distances
from notsure.data import Images
from notsure.evaluation.plan import Job
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import tolerance
from notsure.guard import Guard
from notsure.report.gallery import png

ARRAYS = "adversarial.npz"
_EXAMPLE = "{index:05d}-{true}-as-{answer}.png"
_CLEAN = "{index:05d}-{true}-clean.png"


@dataclass(frozen=True, kw_only=True)
class Worst:
    """What was written.

    Attributes:
        folder: where.
        kept: how many images fool the model as 8-bit images, within the budget.
        tried: how many were made again.
        fooled: how many of the model's right answers fell within the budget at all.
    """

    folder: Path
    kept: int
    tried: int
    fooled: int


@dataclass(frozen=True)
class _Row:
    index: int
    threat: str
    attack_id: str
    attack: str
    distance: float


def write_worst(
    records: Records,
    guard: Guard,
    jobs: Sequence[Job],
    images: Images,
    folder: str | Path,
    *,
    norm: str,
    eps: float,
    most: int,
    seed: int,
    batch_size: int,
) -> Worst:
    """Writes the images that fool a model by the smallest changes.

    Of every image that the model gets right the nearest success counts, those first that still
    fooled it in 8 bits. They are made again (a sample's result depends on model, sample and seed
    alone), rounded to the 256 levels so that they stay within the budget, and judged from these
    levels; what does not fool the model any more is left out and counted.

    Args:
        records: of the one model.
        guard: the model.
        jobs: what was run against it, by which the images are made again.
        images: those that were attacked.
        folder: where to write; what an earlier audit left there is removed.
        norm: of the budget.
        eps: the largest budget.
        most: how many images at most.
        seed: of the attacks.
        batch_size: how many images are worked on at a time.
    """
    folder = Path(folder)
    if folder.is_dir():
        shutil.rmtree(folder)
    folder = writable_folder(folder)
    known = {(job.threat.name, job.attack.identity): job for job in jobs if job.probe is None}
    candidates, fooled = _candidates(records, known, norm, eps)
    chosen = sorted(candidates, key=lambda row: (row.distance, row.index))[:most]
    kept: list[tuple[_Row, npt.NDArray[np.uint8], int]] = []
    for key in dict.fromkeys((row.threat, row.attack_id) for row in chosen):
        rows = [row for row in chosen if (row.threat, row.attack_id) == key]
        kept += _made_again(
            guard, known[key], images, rows, norm=norm, eps=eps, seed=seed, batch_size=batch_size
        )
    kept.sort(key=lambda one: (one[0].distance, one[0].index))
    _write(folder, images, kept)
    return Worst(folder=folder, kept=len(kept), tried=len(chosen), fooled=fooled)


def _candidates(
    records: Records, known: dict[tuple[str, str], Job], norm: str, eps: float
) -> tuple[list[_Row], int]:
    """For each image the nearest success, and how many images there are with any."""
    records = records.ordinary()
    names = (
        "index", "threat", "attack_id", "attack", "y", "clean_prediction", "clean_accepted",
        "prediction", "accepted", "rounded_prediction", "rounded_accepted", norm, "linf",
    )  # fmt: skip
    best: dict[int, tuple[bool, float, _Row]] = {}
    fooled = set()
    for values in zip(*(records.table[name].to_pylist() for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        right = row["clean_accepted"] and row["clean_prediction"] == row["y"]
        wrong = row["accepted"] and row["prediction"] != row["y"]
        if not (right and wrong) or row[norm] > eps + tolerance(norm, eps):
            continue
        fooled.add(row["index"])
        if (row["threat"], row["attack_id"]) not in known:
            continue
        stays = bool(row["rounded_accepted"]) and row["rounded_prediction"] != row["y"]
        found = _Row(row["index"], row["threat"], row["attack_id"], row["attack"], float(row[norm]))
        rank = (not stays, found.distance, found)
        if row["index"] not in best or rank[:2] < best[row["index"]][:2]:
            best[row["index"]] = rank
    return [row for _, _, row in best.values()], len(fooled)


def _made_again(
    guard: Guard,
    job: Job,
    images: Images,
    rows: Sequence[_Row],
    *,
    norm: str,
    eps: float,
    seed: int,
    batch_size: int,
) -> list[tuple[_Row, npt.NDArray[np.uint8], int]]:
    some = images.select([row.index for row in rows])
    device = guard.classifier.device
    x, y = some.x.to(device), some.labels.to(device)
    target = job.threat.target(guard)
    found = job.attack(target, x, y, seed=seed, batch_size=batch_size).x
    levels = _levels(found, x, norm, eps)
    verdict = guard.judge(levels.float() / 255, batch_size=batch_size)
    within = distances(x, levels.to(x.dtype) / 255)[norm] <= eps + tolerance(norm, eps)
    fools = verdict.accepted & (verdict.prediction != y) & within
    pixels, answers = levels.cpu().numpy(), verdict.prediction.tolist()
    return [
        (row, pixels[place], answers[place]) for place, row in enumerate(rows) if bool(fools[place])
    ]


def _levels(found: torch.Tensor, x: torch.Tensor, norm: str, eps: float) -> torch.Tensor:
    """The nearest of the 256 levels; those towards the clean image where that leaves the budget."""
    scaled, clean = found * 255, (x * 255).round()
    nearest = scaled.round()
    beyond = distances(x, nearest / 255)[norm] > eps + tolerance(norm, eps)
    # rounding noise of a step that ends on a level must not move it by one
    towards = torch.where(scaled > clean, (scaled + 1e-3).floor(), (scaled - 1e-3).ceil())
    levels = torch.where(beyond.view(-1, 1, 1, 1), towards, nearest)
    return levels.clamp(0, 255).to(torch.uint8)


def _write(
    folder: Path, images: Images, kept: Sequence[tuple[_Row, npt.NDArray[np.uint8], int]]
) -> None:
    names = images.class_names
    clean = images.pixels[[row.index for row, _, _ in kept]].numpy()
    labels = images.labels[[row.index for row, _, _ in kept]].tolist()
    for (row, pixels, answer), before, true in zip(kept, clean, labels, strict=True):
        told = {"index": row.index, "true": _plain(names[true])}
        (folder / _CLEAN.format(**told)).write_bytes(png(_shown(before)))
        path = folder / _EXAMPLE.format(**told, answer=_plain(names[answer]))
        path.write_bytes(png(_shown(pixels)))
    adversarial = np.stack([pixels for _, pixels, _ in kept]) if kept else clean
    with atomic(folder / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            x=adversarial,
            y=np.array(labels, np.int64),
            clean=clean,
            prediction=np.array([answer for _, _, answer in kept], np.int64),
            index=np.array([row.index for row, _, _ in kept], np.int64),
            attack=np.array([row.attack for row, _, _ in kept], np.str_),
            threat=np.array([row.threat for row, _, _ in kept], np.str_),
        )


def _shown(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pixels (C, H, W) as a PNG holds them."""
    shaped = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(shaped)


def _plain(name: str) -> str:
    """A class name as a part of a file's name."""
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return kept[:40] or "class"
