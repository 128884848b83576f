"""What the report writes out: CSV with intervals, the data of each figure, PNG, and its size."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notsure.evaluation.intervals import area_under_roc, wilson
from notsure.evaluation.records import Records
from notsure.report.export import csv_text
from notsure.report.gallery import png
from notsure.report.html import render
from tests.report_records import EVERY_THREAT, MANY, Attack, made_up


def test_csv_holds_rates_with_their_intervals() -> None:
    text = csv_text(
        [
            {"name": 'a "quoted", name', "rate": wilson(3, 4), "held": True},
            {"name": "b", "rate": wilson(0, 0), "area": area_under_roc([0.0], [1.0])},
        ]
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["name"] == 'a "quoted", name'
    assert (rows[0]["rate"], rows[0]["rate_n"], rows[0]["held"]) == ("0.75", "4", "yes")
    assert float(rows[0]["rate_low"]) == pytest.approx(0.3006, abs=1e-4)
    assert (rows[1]["rate"], rows[1]["rate_n"], rows[1]["held"]) == ("", "0", "")
    assert (rows[0]["area"], rows[1]["area"], rows[1]["area_n"]) == ("", "1.0", "1")
    assert csv_text([]) == ""


def _held(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_every_figure_has_its_data() -> None:
    page = render(made_up({"CE": ["KDensity"], "bare": []}, threats=EVERY_THREAT, attacks=MANY))
    figures, told = _held(page, "figures"), _held(page, "told")
    assert set(told) == {*figures, "images-1", "images-2"}
    for name, text in told.items():
        rows = list(csv.DictReader(io.StringIO(text)))
        assert rows, name
        assert None not in rows[0]
    drawn = re.findall(r'<div class="plot" data-figure="([^"]+)"', page)
    assert sorted(drawn) == sorted(figures)
    assert all(
        f'data-figure="{name}" data-as="{kind}"' in page for name in told for kind in ("svg", "csv")
    )


def of_the_full_suite(count: int) -> Records:
    """Records of three guards with two detectors each, by what the suite "full" runs on them."""
    eps = (0.1, 0.2, 0.3)
    at_each = ("RandomNoise", "FGSM", "PGD", "BIM", "MIM", "ILCM", "SelectivePGD", "OrthogonalPGD")
    alone = ("DeepFool", "DDN", "CarliniWagner", "NewtonFool", "JSMA", "HopSkipJump")
    attacks: list[Attack] = [
        *((name, "linf", e, {}) for name in (*at_each, "Square", "NES") for e in eps),
        *((name, None, None, {}) for name in alone),
        ("CarliniWagner", None, None, {"confidence": 10.0}),
    ]
    records = made_up(
        {f"guard {i}": ["KDensity", "Confidence"] for i in range(3)},
        threats=EVERY_THREAT,
        attacks=attacks,
        count=count,
        images=12,
        features=min(count, 1000),
        controls=("untrained-detector", "untrained-network"),
        substitutes=("another architecture", "another seed", "distilled"),
    )
    largest = {"transfer": ("MIM", "PGD"), "query-scores": ("Square", "NES")}
    nearest = {
        "oblivious": alone[:-1],
        "white-box": ("CarliniWagner",),
        "transfer": ("CarliniWagner",),
        "query-decisions": ("HopSkipJump",),
    }
    swept = {"oblivious": at_each[:6], "white-box": ("PGD", "SelectivePGD", "OrthogonalPGD")}
    rows = zip(*(records.table[n].to_pylist() for n in ("threat", "attack", "eps")), strict=True)
    kept = [
        threat == "clean"
        or attack in (nearest.get(threat, ()) if size is None else swept.get(threat, ()))
        or (size == eps[-1] and attack in largest.get(threat, ()))
        for threat, attack, size in rows
    ]
    return Records(records.table.filter(pa.array(kept)), records.meta)


def test_page_of_a_whole_suite_is_below_its_limit() -> None:
    page = render(of_the_full_suite(150))
    assert page.count("HopSkipJump") > 3
    # of more images the curves and histograms have no more points, and at most 1,000 are embedded
    assert len(page.encode()) < 9_000_000


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    file = png(pixels)
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(file):
        (size,) = struct.unpack(">I", file[at : at + 4])
        kind, body = file[at + 4 : at + 8], file[at + 8 : at + 8 + size]
        assert struct.unpack(">I", file[at + 8 + size : at + 12 + size]) == (
            zlib.crc32(kind + body),
        )
        chunks[kind] = body
        at += 12 + size
    assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (7, 5, 8, 0 if len(shape) == 2 else 2)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, -1)
    assert not rows[:, 0].any()
    assert np.array_equal(rows[:, 1:], pixels.reshape(5, -1))
