"""Examples: clean and adversarial images, their difference, and what the guard says of each."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.formatting import class_text, number
from notsure.report.tables import (
    RobustnessLine,
    attack_labels,
    first_substitute,
    strongest_attack,
    threats_of,
)

MOST_EXAMPLES = 6

_Pixels = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An image and what the guard says of it.

    Attributes:
        picture: PNG data URI of the image.
        difference: PNG data URI of attacked minus clean; empty for a clean image, or where the
            attack left the image as it was.
        purified: PNG data URI of what the purifier makes of the image; empty without one.
        verdict: the class that was answered, or NOT SURE.
        kind: "right", "wrong" or "rejected".
    """

    picture: str
    difference: str
    purified: str
    verdict: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the test set under all threats; None where its pixels were not kept."""

    index: int
    label: str
    clean: Answer
    by_threat: Mapping[str, Answer | None]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The examples of one guard.

    Attributes:
        guard: its name.
        identifier: its id in the page, and the name of the downloaded files.
        purified: whether there are purified images.
        attacks: by threat, the attack whose images are shown.
        scales: by threat, the largest difference of a pixel, which is drawn white or black.
        examples: the images.
    """

    guard: str
    identifier: str
    purified: bool
    attacks: Mapping[str, RobustnessLine]
    scales: Mapping[str, str]
    examples: Sequence[Example]


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of grey (H, W) or coloured (H, W, 3) pixels in 0..255."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    # each row begins with its filter: 0, none
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    )


def galleries(records: Records, lines: Sequence[RobustnessLine]) -> list[Gallery]:
    """Examples of each guard under its strongest attacks, those that fool it first."""
    labels = attack_labels(records)
    found = []
    for guard in records.guards:
        of_guard = records.where(guard=guard)
        of_guard = Records(
            of_guard.table.filter(pc.is_valid(of_guard.table["image"])), records.meta
        )
        clean = _kept(of_guard.where(threat=CLEAN))
        attacks, attacked = {}, {}
        for threat in threats_of(of_guard):
            line = strongest_attack(lines, guard, threat)
            if line is not None:
                attacks[threat] = line
                attacked[threat] = _attacked(of_guard, line, threat, labels)
        if clean and any(attacked.values()):
            found.append(_gallery(records, guard, clean, attacks, attacked))
    return found


def gallery_rows(gallery: Gallery) -> list[dict[str, Any]]:
    """What the guard answers to each image, as rows of a table."""
    rows = []
    for one in gallery.examples:
        for threat, answer in [("clean", one.clean), *one.by_threat.items()]:
            line = gallery.attacks.get(threat)
            rows.append(
                {
                    "guard": gallery.guard,
                    "index": one.index,
                    "label": one.label,
                    "threat": threat,
                    "attack": "none" if line is None else line.attack,
                    "norm": None if line is None else line.norm,
                    "eps": None if line is None else line.eps,
                    "answer": "not kept" if answer is None else answer.verdict,
                    "which is": None if answer is None else answer.kind,
                }
            )
    return rows


@dataclass(frozen=True)
class _Kept:
    pixels: _Pixels
    purified: _Pixels | None
    y: int
    prediction: int
    accepted: bool


def _attacked(
    of_guard: Records, line: RobustnessLine, threat: str, labels: Mapping[str | None, str]
) -> dict[int, _Kept]:
    here = of_guard.where(threat=threat, norm=line.norm, eps=line.eps)
    same = [i for (i,) in here.distinct("attack_id") if labels[i] == line.attack]
    return _kept(first_substitute(here.where(attack_id=same[0]))) if same else {}


def _kept(records: Records) -> dict[int, _Kept]:
    """By position in the test set, the images whose pixels were kept."""
    names = ("index", "y", "prediction", "accepted", "image", "purified")
    rows = zip(*(records.table[name].to_pylist() for name in names), strict=True)
    return {
        index: _Kept(
            np.asarray(pixels, float),
            None if purified is None else np.asarray(purified, float),
            y,
            prediction,
            accepted,
        )
        for index, y, prediction, accepted, pixels, purified in rows
    }


def _gallery(
    records: Records,
    guard: str,
    clean: Mapping[int, _Kept],
    attacks: Mapping[str, RobustnessLine],
    attacked: Mapping[str, Mapping[int, _Kept]],
) -> Gallery:
    shape = records.meta["image_shape"]
    names = records.meta.get("class_names", [])
    shown = sorted(sorted(clean), key=lambda i: -_fooled_by(i, attacked))[:MOST_EXAMPLES]
    scales = {
        threat: max(
            [
                1e-6,
                *(float(np.abs(its[i].pixels - clean[i].pixels).max()) for i in shown if i in its),
            ]
        )
        for threat, its in attacked.items()
    }
    examples = [
        Example(
            index=i,
            label=class_text(clean[i].y, names),
            clean=_answer(clean[i], None, 1.0, shape, names),
            by_threat={
                threat: _answer(its[i], clean[i], scales[threat], shape, names)
                if i in its
                else None
                for threat, its in attacked.items()
            },
        )
        for i in sorted(shown)
    ]
    return Gallery(
        guard=guard,
        identifier=f"images-{records.guards.index(guard) + 1}",
        purified=any(
            one.purified is not None
            for its in [clean, *attacked.values()]
            for i, one in its.items()
            if i in shown
        ),
        attacks=attacks,
        scales={threat: number(scale) for threat, scale in scales.items()},
        examples=examples,
    )


def _fooled_by(index: int, attacked: Mapping[str, Mapping[int, _Kept]]) -> int:
    here = [its[index] for its in attacked.values() if index in its]
    return sum(one.accepted and one.prediction != one.y for one in here)


def _answer(
    kept: _Kept, clean: _Kept | None, scale: float, shape: Sequence[int], names: Sequence[str]
) -> Answer:
    changed = clean is not None and not np.array_equal(kept.pixels, clean.pixels)
    right = kept.prediction == kept.y
    return Answer(
        picture=picture_of(kept.pixels, shape),
        difference=(
            picture_of(0.5 + (kept.pixels - clean.pixels) / (2 * scale), shape)
            if clean is not None and changed
            else ""
        ),
        purified="" if kept.purified is None else picture_of(kept.purified, shape),
        verdict=class_text(kept.prediction, names) if kept.accepted else "NOT SURE",
        kind="rejected" if not kept.accepted else "right" if right else "wrong",
    )


def picture_of(values: _Pixels, shape: Sequence[int]) -> str:
    """The PNG data URI of an image (C * H * W) in [0,1] of the shape (C, H, W)."""
    image = values.reshape(shape)
    if shape[0] != 3:
        # channels that are no colours are shown as their mean
        image = image.mean(axis=0, keepdims=True)
    image = np.clip(np.round(255 * image), 0, 255).astype(np.uint8)
    pixels = image.transpose(1, 2, 0) if shape[0] == 3 else image[0]
    return "data:image/png;base64," + base64.b64encode(png(np.ascontiguousarray(pixels))).decode()
