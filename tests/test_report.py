"""The report: its numbers, against independent computations, and its honesty about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from notsure.evaluation.records import Records
from notsure.evaluation.sanity import Flag
from tests.report_page import Page, page_of
from tests.report_records import MANY, THREATS, made_up


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
    names = set(rows[0]) - {"image", "purified", "features"}
    return {name: np.array([row[name] for row in rows]) for name in names}


def _fooled(run: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.asarray(run["accepted"] & (run["prediction"] != run["y"]))


def _worst(records: Records, guard: str, threat: str, eps: float) -> tuple[str, str, str, str]:
    """Lenient, strict, flagged and success over all eps up to one, from the columns alone."""
    clean = _columns(records, guard=guard, threat="clean")
    runs = [clean] + [
        _columns(records, guard=guard, threat=known, attack=name, eps=size)
        for known in THREATS[: THREATS.index(threat) + 1]
        for name in ("FGSM", "PGD")
        for size in (0.1, 0.3)
        if size <= eps
    ]
    lost = np.any([_fooled(run) for run in runs], axis=0)
    held = np.all([run["accepted"] & (run["prediction"] == run["y"]) for run in runs], axis=0)
    right = clean["accepted"] & (clean["prediction"] == clean["y"])
    return _rate(~lost), _rate(held), _rate(~lost & ~held), _rate(lost[right])


@pytest.fixture(scope="module")
def records() -> Records:
    return made_up()


@pytest.fixture(scope="module")
def page(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(records, tmp_path_factory.mktemp("report"))


def test_headline_holds_the_worst_case_of_every_threat(records: Records, page: Page) -> None:
    for guard in ("CE", "RCE"):
        rows = page.table(f"What is left of {guard}")
        clean = _columns(records, guard=guard, threat="clean")
        right = clean["accepted"] & (clean["prediction"] == clean["y"])
        assert rows[0] == f"Clean accuracy {_rate(right)}"
        assert rows[1] == f"Clean rejection {_rate(~clean['accepted'])}"
        assert rows[2].startswith("worst case, ℓ∞ 0.3 (76.5/255) lenient")  # noqa: RUF001
        for row, threat in zip(rows[3:], THREATS[::-1], strict=True):
            lenient, strict, _, _ = _worst(records, guard, threat, 0.3)
            assert row == f"{threat} {lenient} {strict}"


def test_worst_case_table_is_that_of_an_independent_computation(
    records: Records, page: Page
) -> None:
    rows = page.table("Worst case over all attacks and all eps up to the stated one")[1:]
    keys = [(g, e, t) for g in ("CE", "RCE") for e in (0.1, 0.3) for t in THREATS[::-1]]
    assert len(rows) == len(keys)
    for row, (guard, eps, threat) in zip(rows, keys, strict=True):
        assert row.endswith(" ".join([threat, *_worst(records, guard, threat, eps)]))


def test_every_attack_has_its_rows(records: Records, page: Page) -> None:
    rows = page.table("RCE: every attack")[1:]
    assert len(rows) == 2 * (2 + 1) * len(THREATS)
    assert sum("worst case" in row for row in rows) == 2
    at = next(i for i, row in enumerate(rows) if "PGD" in row)
    run = _columns(records, guard="RCE", threat="oblivious", attack="PGD", eps=0.1)
    held = run["accepted"] & (run["prediction"] == run["y"])
    # white-box is named first, and oblivious is below it
    assert rows[at + 1].startswith(
        f"oblivious {_rate(~_fooled(run))} {_rate(held)} {_rate(~run['accepted'])}"
    )


def _area(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())


def _shown(row: str, area: float, n: int) -> bool:
    """Whether a row shows such an area."""
    found = re.findall(rf"(\S+) \[0\.\d+, [01]\.\d+\], n = {n}\b", row)
    return any(abs(float(value) - area) < 6e-4 for value in found)


def test_detection_stands_beside_what_is_left_of_it(records: Records, page: Page) -> None:
    rows = page.table("RCE: detection at the largest eps, oblivious beside adaptive")[2:]
    every = page.table("RCE: detection at every eps under every threat")[2:]
    keys = [(d, a) for d in ("KDensity", "Confidence") for a in ("FGSM", "PGD")]
    assert len(rows) == len(keys)
    assert len(every) == len(keys) * 2 * len(THREATS)
    clean = _columns(records, guard="RCE", threat="clean")
    for row, (detector, attack) in zip(rows, keys, strict=True):
        assert attack in row
        for threat in THREATS:
            run = _columns(records, guard="RCE", threat=threat, attack=attack, eps=0.3)
            score = f"score_{detector}"
            broken = (clean["prediction"] == clean["y"]) & (run["prediction"] != run["y"])
            a, b = (one[score][broken].astype(float) for one in (run, clean))
            assert _shown(row, _area(run[score], clean[score]), len(clean["y"]))
            if threat == "oblivious":
                assert _shown(row, _area(a, b), int(broken.sum()))
                assert _rate(a > 2.0) in row
                threshold = np.sort(a)[::-1][int(np.ceil(0.95 * len(a))) - 1]
                assert _rate(b >= threshold) in row
                assert _rate(run[score] > 2.0) in row
            else:
                assert _rate(run[score] > 2.0) in row
                assert _rate(broken & (run[score] <= 2.0)) in row
    for detector in ("KDensity", "Confidence"):
        run = _columns(records, guard="RCE", threat="white-box", attack="PGD", eps=0.1)
        score = f"score_{detector}"
        flagged = np.sort(run[score])[::-1][int(np.ceil(0.95 * len(run[score]))) - 1]
        assert any(_rate(clean[score] >= flagged) in row for row in every)
    assert "Against these attackers read evaded" in page.text


def test_controls_noise_and_held_out_attacks_are_marked(tmp_path: Path) -> None:
    learnt = {"fitted_on": {"name": "PGD", "steps": 40}}
    records = made_up(
        {"CE": ["KDensity"]},
        attacks=MANY,
        controls=("untrained-network",),
        told={"CE": learnt},
    )
    page = page_of(records, tmp_path)
    rows = page.table("CE: detection at the largest eps, oblivious beside adaptive")[2:]
    own = [row for row in rows if "no threshold" not in row]
    assert len(rows) == 2 * len(own) == 2 * 4
    assert "untrained-network control" in rows[len(own)]
    assert [row for row in own if "control: noise" in row] == [
        row for row in own if "RandomNoise" in row
    ]
    for row in own:
        assert ("the detector learnt from it" in row) == ("PGD" in row)
        assert ("not seen in fit" in row) == ("PGD" not in row)
    assert "detectors learnt from PGD (steps = 40)" in page.text


def test_the_guards_attacks_and_their_cost_are_described(page: Page) -> None:
    for words in ("mean 0.5, std 1", "negated (reverse cross-entropy)", "0123456789ab", "0.0.test"):
        assert words in page.text
    assert "1.5 % [0.5, 4.3], n = 200" in page.text
    attacks = page.table("All settings of every attack")
    assert any(
        re.search(r"PGD white-box .∞ 0\.1, 0\.3 25\.5, 76\.5 of 255 40", row) for row in attacks
    )
    costs = page.table("Time and passes of an image")
    assert sum(bool(re.search(r"60 250 ms 1[01]\.\d+ 10 10\.0 % 0\.0 %$", r)) for r in costs) == 16
    far = page.table("Distances of the images that were newly fooled")
    # root of the mean square of 16 pixel values, 255 * 0.25 / 4
    assert all(row.split()[-6:-3] == ["0.25", "0.25", "15.94"] for row in far[1:])
    assert "18 of 1080 records were decided by less than rounding" in page.text


def test_threats_that_were_not_tested_are_named_with_what_is_open(page: Page) -> None:
    rows = page.table("What each attacker knows")[1:]
    assert [row.split()[0] for row in rows] == [
        "white-box",
        "oblivious",
        "query-scores",
        "query-decisions",
        "transfer",
    ]
    tested = [row for row in rows if "not tested" not in row]
    assert [row.split()[0] for row in tested] == ["white-box", "oblivious"]
    assert all("What an attacker reaches" in row or "Whether images" in row for row in rows[2:])


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ({"name": "standard", "version": "7"}, "suite standard, version 7: numbers of another"),
        (None, "The attacks were chosen by hand, not by a suite"),
    ],
)
def test_the_suite_is_named(suite: dict[str, str] | None, words: str, tmp_path: Path) -> None:
    assert words in page_of(made_up({"CE": []}, suite=suite), tmp_path).text


def _flag(name: str, *, raised: bool, looked: bool = True) -> Flag:
    return Flag(
        name=name,
        raised=raised,
        looked=looked,
        because=f"seen {name}",
        means=f"meaning {name}",
        remedy=f"remedy {name}",
    )


def test_raised_flags_come_first_and_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        _flag("quiet-one", raised=False),
        _flag("unlooked-one", raised=False, looked=False),
        _flag("raised-one", raised=True),
        _flag("raised-two", raised=True),
    ]
    monkeypatch.setattr(Records, "flags", lambda _: flags)
    page = page_of(made_up({"CE": []}), tmp_path)
    assert "2 of 4 flags are raised: raised-one and raised-two." in page.text
    for one in ("raised-one", "raised-two"):
        assert (
            f"Raised because seen {one} What it means meaning {one} What to do remedy {one}"
            in page.text
        )
    assert "not looked at unlooked-one: seen unlooked-one" in page.text
    assert "Looked at and not raised: quiet-one" in page.text
    places = [page.text.index(f"seen {flag.name}") for flag in flags]
    assert places[2] < places[3] < places[1] < places[0]
    folds = {given.get("class"): "open" in given for tag, given in page.tags if tag == "details"}
    assert folds["raised"]
    assert not folds["unlooked"]


def test_every_flag_there_is_is_on_the_page(records: Records, page: Page) -> None:
    flags = records.flags()
    assert len(flags) == 13
    for flag in flags:
        assert flag.name in page.text
        assert flag.because in page.text
    raised = [given for _, given in page.tags if given.get("id") == "flags-raised"]
    assert len(raised) == any(flag.raised for flag in flags)


def test_no_banner_without_a_raised_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records, "flags", lambda _: [_flag("quiet-one", raised=False)])
    page = page_of(made_up({"CE": []}), tmp_path)
    assert not [given for _, given in page.tags if given.get("id") == "flags-raised"]
    assert "Of 1, 0 are raised." in page.text


def test_probes_are_counted_and_otherwise_left_out(
    records: Records, page: Page, tmp_path: Path
) -> None:
    probe = records.where(threat="white-box", attack="PGD", eps=0.3).table
    place = probe.column_names.index("probe")
    probe = probe.set_column(place, "probe", pa.array(["noise"] * len(probe), pa.string()))
    both = Records(pa.concat_tables([records.table, probe]), records.meta)
    other = page_of(both, tmp_path)
    assert f"({len(probe)} of them are probes, which only the flags look at)" in other.text
    same = [name for name in page.tables if name]
    assert same == [name for name in other.tables if name]
    assert all(page.tables[name] == other.tables[name] for name in same)
