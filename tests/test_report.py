"""The report: its numbers, its honesty, and that the page works where it is opened."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from notsure.core.errors import ConfigurationError
from notsure.evaluation.records import Records
from notsure.report import (
    console_table,
    detection_table,
    robustness_table,
    write_report,
)
from notsure.report.formatting import area_text
from notsure.report.gallery import png
from tests.browser import dump_dom, find_browser

HOSTILE = "<script>alert(1)</script>"
SHAPE = (1, 4, 4)
THREATS = ("oblivious", "white-box")
ATTACKS = (
    ("FGSM", "linf", 0.1, {"steps": 1}),
    ("FGSM", "linf", 0.3, {"steps": 1}),
    ("PGD", "linf", 0.1, {"steps": 40}),
    ("PGD", "linf", 0.3, {"steps": 40}),
)

Attack = tuple[str, str | None, float | None, Mapping[str, Any]]


def synthetic(
    guards: Mapping[str, Sequence[str]] | None = None,
    *,
    threats: Sequence[str] = THREATS,
    attacks: Sequence[Attack] = ATTACKS,
    count: int = 60,
    classes: int = 3,
    fooled: float = 0.5,
    images: int = 3,
    features: int = 0,
    seed: int = 0,
    **meta: Any,
) -> Records:
    """Records of guards, given with the names of their detectors, whose outcomes are chance."""
    chance = np.random.default_rng(seed)
    guards = {"CE": ["KDensity"], "RCE": ["KDensity", "Confidence"]} if guards is None else guards
    batches: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    for guard, detectors in guards.items():
        y = chance.integers(0, classes, count)
        clean = _outcomes(chance, y, detectors, classes, wrong=0.1, shift=0.0)
        pixels = chance.random((count, *SHAPE))
        embedded = y[:features, None] + 0.1 * chance.normal(size=(min(features, count), 5))
        batches.append(
            {
                **_common(guard, "clean", "none", None, 0.0, seed, y, clean, clean),
                "attack_id": [None] * count,
                "image": _some(pixels, images),
                "features": [*embedded, *[None] * (count - len(embedded))],
            }
        )
        for threat in threats:
            for name, norm, eps, settings in attacks:
                early = threat != "oblivious" or not detectors
                told = {"name": name, "norm": norm, "eps": eps, **settings, "early_stop": early}
                identity = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
                known[identity] = told
                attacked = _outcomes(chance, y, detectors, classes, wrong=fooled, shift=1.5)
                moved = np.clip(pixels + chance.normal(0, 0.1, pixels.shape), 0, 1)
                batches.append(
                    {
                        **_common(guard, threat, name, norm, eps, seed, y, clean, attacked),
                        "attack_id": [identity] * count,
                        "image": _some(moved, images),
                    }
                )
    description = {
        guard: {
            "module": "Net",
            "weights": "0123456789abcdef" * 4,
            "settings": {"mean": [0.5], "std": [1.0], "reverse_logits": guard == "RCE"},
            "detectors": {name: {"bandwidth": None} for name in detectors},
            "calibration": {
                "fpr": 0.02,
                "count": 200,
                "measured_fpr": 0.015,
                "thresholds": dict.fromkeys(detectors, 2.0),
                "scales": dict.fromkeys(detectors, 2.0),
            }
            if detectors
            else None,
        }
        for guard, detectors in guards.items()
    }
    return Records.of(
        batches,
        {
            "notsure": "0.0.test",
            "torch": "9.9",
            "data": "made up",
            "count": count,
            "image_shape": list(SHAPE),
            "class_names": ["ant", "bee", "cat"][:classes],
            "seed": seed,
            "threats": list(threats),
            "guards": description,
            "attacks": known,
            **meta,
        },
    )


def _outcomes(
    chance: np.random.Generator,
    y: npt.NDArray[Any],
    detectors: Sequence[str],
    classes: int,
    *,
    wrong: float,
    shift: float,
) -> dict[str, Any]:
    missed = chance.random(len(y)) < wrong
    scores = {f"score_{name}": chance.normal(shift, 1.0, len(y)) for name in detectors}
    rejected = np.any(
        [score > 2.0 for score in scores.values()] or [np.zeros(len(y), bool)], axis=0
    )
    return {
        "prediction": np.where(missed, (y + 1) % classes, y).astype(np.int32),
        "accepted": ~rejected,
        **scores,
    }


def _common(
    guard: str,
    threat: str,
    attack: str,
    norm: str | None,
    eps: float | None,
    seed: int,
    y: npt.NDArray[Any],
    clean: Mapping[str, Any],
    now: Mapping[str, Any],
) -> dict[str, Any]:
    count = len(y)
    attacked = threat != "clean"
    return {
        "guard": [guard] * count,
        "threat": [threat] * count,
        "attack": [attack] * count,
        "norm": [norm] * count,
        "eps": [eps] * count,
        "seed": [seed] * count,
        "index": list(range(count)),
        "y": y.astype(np.int32),
        "clean_prediction": clean["prediction"],
        "clean_accepted": clean["accepted"],
        "success": attacked & (now["prediction"] != y),
        "tie": np.arange(count) == 0,
        **dict.fromkeys(("l0", "l1", "l2", "linf"), np.full(count, 0.25 * attacked, np.float32)),
        "queries": np.full(count, 11 * attacked),
        "gradients": np.full(count, 10 * attacked),
        "dead_gradients": np.full(count, 1 * attacked),
        "seconds": np.full(count, 0.25 * attacked, np.float32),
        **now,
    }


def _some(pixels: npt.NDArray[Any], count: int) -> list[Any]:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    return [row if i < count else None for i, row in enumerate(flat)]


class Page(HTMLParser):
    """A page's text, tags and tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[str]] = {}
        self._text: list[str] = []
        self._scripts: list[str] = []
        self._inside: list[str] = []
        self._caption = ""
        self.feed(html)
        self.text = _plain("".join(self._text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag in {"script", "style", "title"}:
            self._inside.append(tag)
        if tag == "table":
            self._caption = given.get("aria-label") or ""
        if tag == "tr":
            self._row_at = len(self._text)
        if tag == "caption":
            self._caption_at = len(self._text)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()
        if tag not in {"span", "em", "strong", "a"}:
            self._text.append(" ")
        if tag == "caption":
            self._caption = _plain("".join(self._text[self._caption_at :]))
        if tag == "tr":
            row = _plain("".join(self._text[self._row_at :]))
            self.tables.setdefault(self._caption, []).append(row)

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._text.append(data)
        elif self._inside[-1] == "script":
            self._scripts.append(data)

    def table(self, caption: str) -> list[str]:
        """The rows, as text, of the one table whose caption begins like this."""
        found = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        assert len(found) == 1, list(self.tables)
        return found[0]


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _page(records: Records, folder: Path, **options: Any) -> Page:
    written = write_report(records, folder / "report.html", **options)
    return Page(written.read_text(encoding="utf-8"))


def _rate(mask: npt.NDArray[Any]) -> str:
    """A rate with its interval, from the quadratic equation that Wilson's interval solves."""
    share, n, z = float(np.mean(mask)), len(mask), 1.959963984540054
    low, high = np.sort(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]).real)
    return f"{100 * share:.1f} % [{abs(100 * low):.1f}, {100 * high:.1f}], n = {n}"


def _columns(records: Records, **where: Any) -> dict[str, npt.NDArray[Any]]:
    rows = [
        row
        for row in records.table.to_pylist()
        if all(row[name] == value for name, value in where.items())
    ]
    names = set(rows[0]) - {"image", "features"}
    return {name: np.array([row[name] for row in rows]) for name in names}


def _worst(records: Records, guard: str, threat: str, eps: float) -> tuple[str, str, str]:
    """Lenient, strict and success, from the columns alone."""
    clean = _columns(records, guard=guard, threat="clean")
    known = THREATS[: THREATS.index(threat) + 1]
    runs = [clean]
    for one in known:
        runs += [
            _columns(records, guard=guard, threat=one, attack=name, eps=eps)
            for name in ("FGSM", "PGD")
        ]
    lost = np.any([run["accepted"] & (run["prediction"] != run["y"]) for run in runs], axis=0)
    held = np.all([run["accepted"] & (run["prediction"] == run["y"]) for run in runs], axis=0)
    right = clean["accepted"] & (clean["prediction"] == clean["y"])
    return _rate(~lost), _rate(held), _rate(lost[right])


@pytest.fixture(scope="module")
def records() -> Records:
    return synthetic()


@pytest.fixture(scope="module")
def page(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(records, tmp_path_factory.mktemp("report"))


def test_headline_holds_the_worst_case_of_the_strongest_threat(
    records: Records, page: Page
) -> None:
    for guard in ("CE", "RCE"):
        rows = page.table(f"What is left of {guard}")
        clean = _columns(records, guard=guard, threat="clean")
        right = clean["accepted"] & (clean["prediction"] == clean["y"])
        assert rows[0] == f"Clean accuracy {_rate(right)}"
        assert rows[1] == f"Clean rejection {_rate(~clean['accepted'])}"
        assert rows[2] == "worst case, ℓ∞ 0.3 (76.5/255) white-box oblivious"  # noqa: RUF001
        white, oblivious = (_worst(records, guard, threat, 0.3) for threat in THREATS[::-1])
        assert rows[3].endswith(f"counts as safe {white[0]} {oblivious[0]}")
        assert rows[4].endswith(f"counts as lost {white[1]} {oblivious[1]}")


def test_worst_case_table_is_that_of_an_independent_computation(
    records: Records, page: Page
) -> None:
    rows = page.table("Worst case over all attacks")[2:]
    keys = [(guard, eps) for guard in ("CE", "RCE") for eps in (0.1, 0.3)]
    assert len(rows) == len(keys)
    for row, (guard, eps) in zip(rows, keys, strict=True):
        expected = [rate for threat in THREATS for rate in _worst(records, guard, threat, eps)]
        assert row.endswith(" ".join(expected))


def test_every_attack_has_its_row(records: Records, page: Page) -> None:
    rows = page.table("RCE: every attack")[2:]
    assert len(rows) == 2 * (2 + 1)
    assert sum("worst case" in row for row in rows) == 2
    pgd = next(row for row in rows if "PGD" in row)
    run = _columns(records, guard="RCE", threat="oblivious", attack="PGD", eps=0.1)
    assert _rate(~(run["accepted"] & (run["prediction"] != run["y"]))) in pgd
    assert _rate(run["accepted"] & (run["prediction"] == run["y"])) in pgd


def test_detection_table_is_that_of_an_independent_computation(
    records: Records, page: Page
) -> None:
    rows = page.table("RCE: detection at every eps")[2:]
    assert len(rows) == 2 * 4
    for row, (detector, eps, attack) in zip(
        rows,
        [
            (d, e, a)
            for d in ("KDensity", "Confidence")
            for e in (0.1, 0.3)
            for a in ("FGSM", "PGD")
        ],
        strict=True,
    ):
        assert attack in row
        for threat in THREATS:
            clean = _columns(records, guard="RCE", threat="clean")
            run = _columns(records, guard="RCE", threat=threat, attack=attack, eps=eps)
            score = f"score_{detector}"
            broken = (clean["prediction"] == clean["y"]) & (run["prediction"] != run["y"])
            a, b = run[score][broken].astype(float), clean[score][broken].astype(float)
            wins = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
            areas = re.findall(rf"(\S+) \[0\.\d+, [01]\.\d+\], n = {broken.sum()}\b", row)
            assert any(abs(float(area) - wins) < 6e-4 for area in areas)
            assert _rate(a > 2.0) in row


def test_the_guards_attacks_and_their_cost_are_described(page: Page) -> None:
    for words in ("mean 0.5, std 1", "negated (reverse cross-entropy)", "0123456789ab", "0.0.test"):
        assert words in page.text
    assert "1.5 % [0.5, 4.3], n = 200" in page.text
    attacks = page.table("All settings of every attack")
    assert any(
        re.search(r"PGD white-box .∞ 0\.1, 0\.3 25\.5, 76\.5 of 255 40", row) for row in attacks
    )
    costs = page.table("Over all eps and images")
    assert any(row.endswith("250 ms 11 10 10.0 % 0.25") for row in costs)
    assert "18 of 1080 records were decided by less than rounding" in page.text
    assert "transfer and query. Nothing here says" in page.text


@pytest.mark.parametrize(
    ("threats", "warned"),
    [(("oblivious",), True), (("white-box",), False), (("oblivious", "white-box"), False)],
)
def test_banner_appears_for_oblivious_numbers_alone(
    tmp_path: Path, threats: tuple[str, ...], warned: bool
) -> None:
    page = _page(synthetic({"CE": ["KDensity"]}, threats=threats), tmp_path)
    banners = [given for _, given in page.tags if given.get("id") == "oblivious-only"]
    assert len(banners) == warned
    assert ("say nothing about an attacker who knows the detector" in page.text) == warned
    assert ("Threats that were not tested white-box" in page.text) == warned


def test_threats_are_those_of_the_rows_not_of_the_meta(tmp_path: Path) -> None:
    records = synthetic({"CE": ["KDensity"]}, threats=("oblivious",))
    records.meta["threats"] = ["oblivious", "white-box"]
    page = _page(records, tmp_path)
    assert any(given.get("id") == "oblivious-only" for _, given in page.tags)


def test_what_comes_from_the_user_is_escaped(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(2)>'
    detector = "</script><b>d"
    records = synthetic({HOSTILE: [detector]}, data=evil, class_names=[evil, "bee", "cat"])
    plain = _page(synthetic({"CE": ["KDensity"]}), tmp_path)
    page = _page(records, tmp_path, title=f"{HOSTILE} report")
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 4
    assert len(page.tags) == len(plain.tags)
    assert page.text.startswith("Skip to the results")
    for words in (HOSTILE, evil, detector):
        assert words in page.text
    assert not [given for _, given in page.tags if "onerror" in given or given.get("src") == "x"]


def test_page_loads_nothing_and_is_one_file(records: Records, tmp_path: Path) -> None:
    path = write_report(records, tmp_path / "deep" / "report.html")
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 10_000_000
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    for tag, given in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = given.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html
    assert path.read_bytes() == write_report(records, tmp_path / "again.html").read_bytes()


def test_page_is_structured_for_those_who_cannot_see_it(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert dict(page.tags)["html"]["lang"] == "en"
    for tag, given in page.tags:
        if tag == "img":
            assert given["alt"]
        if tag == "th":
            assert given["scope"] in {"row", "col", "rowgroup", "colgroup"}
        if given.get("class") == "plot":
            assert given["aria-label"]
            assert given["role"] == "img"
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    targets = {str(g["href"])[1:] for _, g in page.tags if str(g.get("href", "")).startswith("#")}
    assert targets <= set(ids)


def test_attacks_without_a_budget_and_several_norms(tmp_path: Path) -> None:
    attacks: list[Attack] = [
        ("PGD", "linf", 0.1, {"steps": 10}),
        ("PGD", "l2", 1.5, {"steps": 10}),
        ("CarliniWagner", None, None, {"steps": 99}),
    ]
    records = synthetic({"CE": ["KDensity"]}, attacks=attacks)
    lines = robustness_table(records)
    assert [(line.norm, line.eps, line.worst) for line in lines] == [
        ("l2", 1.5, False),
        ("l2", 1.5, True),
        ("linf", 0.1, False),
        ("linf", 0.1, True),
        (None, None, False),
        (None, None, True),
    ]
    page = _page(records, tmp_path)
    groups = [row for row in page.table("What is left of CE") if row.startswith("worst case")]
    assert [row.removesuffix(" white-box oblivious") for row in groups] == [
        "worst case, ℓ₂ 1.5 (382.5/255)",
        "worst case, ℓ∞ 0.1 (25.5/255)",  # noqa: RUF001
        "worst case, no budget",
    ]
    plots = [given["data-figure"] for _, given in page.tags if given.get("class") == "plot"]
    assert plots == ["accuracy-linf", "accuracy-l2", "scores-1"]


def test_bare_classifier(tmp_path: Path) -> None:
    records = synthetic({"classifier": []}, threats=("oblivious",), images=0)
    assert records.column("rejection").dtype.kind == "f"
    assert records.detectors == []
    assert detection_table(records) == []
    page = _page(records, tmp_path)
    assert "a bare classifier, which never rejects" in page.text
    assert "No guard has a detector" in page.text
    assert "no images, so there are none" in page.text
    assert "no features, so there is no embedding" in page.text
    assert any(given.get("id") == "oblivious-only" for _, given in page.tags)


def test_detector_beside_a_bare_classifier(tmp_path: Path) -> None:
    page = _page(synthetic({"bare": [], "guarded": ["KDensity"]}), tmp_path)
    assert [name for name in page.tables if "detection at" in name] == [
        "guarded: detection at the largest eps.",
        "guarded: detection at every eps.",
    ]


def test_no_successful_image_is_said_in_words(tmp_path: Path) -> None:
    page = _page(synthetic({"CE": ["KDensity"]}, fooled=0.0), tmp_path)
    rows = page.table("CE: detection at the largest eps")[2:]
    assert all(row.count("no success n = 0") == 4 for row in rows)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_attacks_of_one_class_are_told_apart() -> None:
    attacks: list[Attack] = [
        ("PGD", "linf", 0.1, {"steps": 10, "restarts": 1}),
        ("PGD", "linf", 0.1, {"steps": 100, "restarts": 1}),
    ]
    lines = robustness_table(synthetic({"CE": ["KDensity"]}, attacks=attacks))
    assert [line.attack for line in lines] == [
        "PGD (steps = 10)",
        "PGD (steps = 100)",
        "worst case",
    ]
    assert all(set(line.by_threat) == set(THREATS) for line in lines)
    assert lines[0].by_threat["white-box"] != lines[1].by_threat["white-box"]


def test_features_are_embedded(tmp_path: Path) -> None:
    page = _page(synthetic({"CE": ["KDensity"], "RCE": []}, features=60), tmp_path)
    assert any(given.get("data-figure") == "features" for _, given in page.tags)


@pytest.mark.parametrize("path", ["file/report.html", "file/deep/report.html"])
def test_folder_that_cannot_be_written_to(records: Records, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="Cannot write"):
        write_report(records, tmp_path / path)


def test_path_that_is_a_folder(records: Records, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a folder"):
        write_report(records, tmp_path)


def test_records_that_no_report_can_be_made_of(records: Records, tmp_path: Path) -> None:
    twice = Records.of(
        [records.table.to_pydict(), synthetic(seed=1).table.to_pydict()], records.meta
    )
    for bad, words in (
        (records.where(guard="nobody"), "no records"),
        (records.where(threat="clean"), "clean images alone"),
        (twice, "several seeds"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            write_report(bad, tmp_path / "report.html")
        with pytest.raises(ConfigurationError, match=words):
            console_table(bad)
    assert not list(tmp_path.iterdir())


def test_console_tables_fit_a_terminal(records: Records) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    for table in console_table(records):
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    lenient, strict, _ = _worst(records, "CE", "white-box", 0.3)
    short = [rate.replace(" %", "").split(",  n")[0].split(", n")[0] for rate in (lenient, strict)]
    assert re.search(rf"white-box\s+{re.escape(short[0])}\s+{re.escape(short[1])}", text)
    assert "clean rejection" in text


def test_console_takes_no_markup_from_names() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*console_table(synthetic({"[red]CE[/red]": []})))
    assert "[red]CE[/red]" in console.export_text()


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


def _need_browser() -> None:
    if find_browser() is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("there is no Chromium on PATH")


def _inject(path: Path, script: str) -> None:
    before, _, after = path.read_text(encoding="utf-8").rpartition("</body>")
    path.write_text(f"{before}{script}</body>{after}", encoding="utf-8")


_USE = """<script>setTimeout(() => {
HTMLAnchorElement.prototype.click = function () { document.title = this.download; };
document.querySelector("button[data-figure]").click();
const select = document.querySelector("select[data-figure]");
select.value = [...select.options].map((o) => o.value).find((name) => name.startsWith("FGSM"));
select.dispatchEvent(new Event("change"));
}, 2000);</script>"""


@pytest.fixture(scope="module")
def delicate() -> Records:
    """What is hard to draw: a hostile name, a long one, a guard without detectors, features."""
    guards = {HOSTILE: ["KDensity"], "a guard with a rather long name": []}
    return synthetic(guards, features=40)


def test_figures_are_drawn_in_a_browser(delicate: Records, tmp_path: Path) -> None:
    _need_browser()
    path = write_report(delicate, tmp_path / "report.html")
    _inject(path, _USE)
    dom = dump_dom(path)
    drawn = dom.split('<div class="plot js-plotly-plot"')[1:]
    names = [re.findall(r'data-figure="([^"]+)"', part)[0] for part in drawn]
    assert names == ["accuracy-linf", "scores-1", "features"]
    assert all('class="main-svg"' in part for part in drawn)
    # the name is drawn as text, in the first figure's first title
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</tspan>" in drawn[0]
    assert "<title>accuracy-linf.svg</title>" in dom
    # the attack that was chosen, and not the strongest, which is shown at first
    line = next(one for one in detection_table(delicate) if (one.attack, one.eps) == ("FGSM", 0.3))
    for row in line.by_threat.values():
        assert f"AUC {area_text(row.successful)}" in drawn[1]


_PHONE = """<!doctype html><title></title><script>
addEventListener("message", (event) => { document.title = event.data; });
</script><iframe src="report.html" width="390" height="800"></iframe>"""

_MEASURE = """<script>setTimeout(() => {
const drawn = document.querySelectorAll(".plot .main-svg:first-child").length;
parent.postMessage([innerWidth, document.documentElement.scrollWidth, drawn].join(" "), "*");
}, 2000);</script>"""


def test_page_fits_a_phone_in_the_dark(delicate: Records, tmp_path: Path) -> None:
    _need_browser()
    path = write_report(delicate, tmp_path / "report.html")
    _inject(path, _MEASURE)
    # windows are never narrower than 500 pixels, frames are
    (tmp_path / "phone.html").write_text(_PHONE, encoding="utf-8")
    dom = dump_dom(tmp_path / "phone.html", dark=True)
    title = re.search(r"<title>(.*)</title>", dom)
    assert title is not None
    inside, content, drawn = map(int, title[1].split())
    assert inside == 390
    assert content <= 390
    assert drawn >= 3
