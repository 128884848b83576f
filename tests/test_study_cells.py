"""The published figures: the whole reference file, what its notes say, queries, damaged files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from notsure.core.errors import ConfigurationError
from notsure.studies.cells import COLUMNS, PUBLISHED, Cell, published, read_cells
from notsure.studies.comparability import CAVEATS, ERRATA, METRICS, OBSTACLES, UNITS

ERROR = "pang.t1.mnist.resnet32.ce.clean.error_rate"
CAUGHT = "pang.t2.mnist.resnet32.ce.cw.kdensity.auc"
FAR = "pang.t3.mnist.resnet32.ce.cw_wb.kdensity.distortion"
WESTER = "wester.t3.mnist.puvae_detector.fgsm.accuracy"


def cell(**columns: Any) -> Cell:
    """A figure of 50 percent, printed as 50.0."""
    given = {"metric": "accuracy", "unit": "percent", "printed": "50.0", "note": "", **columns}
    rest = dict.fromkeys(field.name for field in dataclasses.fields(Cell))
    plain = {"cell_id": "made.up", "paper": "pang", "table": "t1", "threat": "clean"}
    return Cell(**{**rest, **plain, **given, "value": float(given["printed"])})


def test_the_reference_file_is_whole() -> None:
    cells = published()
    assert len(cells) == 207
    found = Counter(c.paper for c in cells)
    assert found == {"pang": 114, "wester": 55, "martin": 16, "lemesle": 12, "preaut": 10}
    # facts: whoever changes a figure changes this as well
    digest = hashlib.sha256(PUBLISHED.read_bytes()).hexdigest()
    assert digest == "d2491ef856f22f4d888fbb18dd936bf9ac18012ec4500ec217b64fa0ce82d32d"


def test_nothing_is_lost_in_reading(tmp_path: Path) -> None:
    path = tmp_path / "again.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for c in published():
            values = {**vars(c), "value": c.printed}
            values["eps"] = None if c.eps is None else f"{c.eps:g}"
            writer.writerow(values[name] for name in COLUMNS)
    assert path.read_bytes() == PUBLISHED.read_bytes()


def test_what_is_better_for_the_defender() -> None:
    higher = {
        "accuracy",
        "auc",
        "detection_rate",
        "ratio_f2_positive",
        "mean_min_distortion",
        "l2_at_zero_accuracy",
        "runtime_ratio",
    }
    settings = {
        "parameter_count",
        "best_noise_std",
        "iterations_at_saturation",
        "threshold_tau",
        "jump_kappa",
    }
    assert {c.metric for c in published()} == set(METRICS)
    assert {c.unit for c in published()} == set(UNITS)
    for c in published():
        if c.cell_id == "wester.text.mnist.puvae.adversarial.rmse":
            expected = "higher"  # a large error gives an adversarial image away
        elif c.metric in settings:
            expected = "same"
        else:
            expected = "higher" if c.metric in higher else "lower"
        assert c.better == expected, c.cell_id


def test_design_values_and_sums_are_no_results() -> None:
    marked = {c.cell_id for c in published() if re.search("design|sum of", str(c.obstacles))}
    assert marked == {
        "wester.text.mnist.puvae_detector.clean.false_positive_rate.max",
        "wester.text.fashion_mnist.puvae_detector.clean.false_positive_rate.max",
        "wester.text.cifar10.puvae_detector.clean.false_positive_rate.max",
        "martin.text.mnist.base.logit_detection.false_positive_rate.max",
        "martin.text.mnist.base.logit_detection.tau",
        "martin.text.mnist.base.jumprelu.kappa",
        "preaut.f1.cifar10.naive.total.params",
    }


def test_cells_without_eps_are_marked_unless_they_sweep_over_it() -> None:
    """All of a budgeted attack without eps are incomparable, except where none was needed."""
    budgeted = published().where(attack=("fgsm", "bim", "ilcm", "pgd", "mim"), eps=None)
    free = [c.cell_id for c in budgeted if not c.obstacles]
    worst = [c for c in free if "puvae_detector_worst" in c]
    assert len(worst) == 9  # the least over a printed grid
    assert set(free) - set(worst) == {
        "martin.text.mnist.base.bim.l2_at_zero_accuracy",
        "martin.text.mnist.base.bim.logit_correction.accuracy.max",
        "martin.text.mnist.base.bim.logit_correction.accuracy.min",
        "martin.text.mnist.base.mim.speedup_over_jsma",
        "preaut.text.cifar10.naive.pgd.sufficient_iterations",
    }
    for c in published().where(table="t2", attack=("fgsm", "bim", "ilcm")):
        assert "the report prints no eps" in c.obstacles
    assert not any(c.obstacles for c in published().where(paper="wester", table=("t3", "t4", "t5")))


def test_what_is_known_of_cells_is_said() -> None:
    assert len(published().where(metric=("time_per_example", "runtime"))) == 16
    for c in published().where(metric=("time_per_example", "runtime")):
        assert c.obstacles == ("a time, on other hardware than ours",)
    pgd = published()["lemesle.t3.cifar10.resnet32.ce.pgd.kdensity.auc"]
    assert len(pgd.obstacles) == 3  # no eps, no norm, another bandwidth
    assert "saliency" in published()["pang.t2.mnist.resnet32.ce.jsma.non_me.auc"].caveats[0]
    notes = [c.note for c in published()]
    for pattern, _ in (*OBSTACLES, *CAVEATS):
        assert any(re.search(pattern, note) for note in notes), f"{pattern} marks nothing"
    for paper, attack, _ in ERRATA:
        assert len(published().where(paper=paper, attack=attack))


def test_bounds_are_half_lines() -> None:
    bounds = {c.cell_id: c.range for c in published() if c.range[0] != c.range[1]}
    assert sorted(bounds.values()) == [
        (-math.inf, 15),
        (-math.inf, 50),
        (0.99, math.inf),
        (95, math.inf),
    ]


@pytest.mark.parametrize(
    ("printed", "half"),
    [
        ("0.38", 0.005),
        ("100.0", 0.05),
        ("5", 0.5),
        ("1.9e-3", 0.00005),
        ("2.9e1", 0.5),
        ("7.0e2", 5.0),
        ("1.3e3", 50.0),
        ("0.00", 0.005),
        ("594922", 0.5),
    ],
)
def test_rounding_is_half_of_the_last_digit(printed: str, half: float) -> None:
    assert cell(printed=printed).rounding == pytest.approx(half, rel=1e-12)


def test_margins() -> None:
    assert published()[ERROR].margin == pytest.approx(1.005)  # a percentage point
    assert published()[CAUGHT].margin == pytest.approx(2.05)  # two points
    assert published()[FAR].margin == pytest.approx(0.005)  # no share
    ratio = published()["pang.t3.mnist.resnet32.rce.cw_wb.kdensity.f2_ratio"]
    assert ratio.margin == pytest.approx(0.015)
    assert published()["martin.text.mnist.base.mim.speedup_over_jsma"].margin == 0.5


def test_queries() -> None:
    cells = published()
    assert cells[WESTER].eps == 0.3
    assert len(cells.where(eps=0.06)) == 9
    assert len(cells.where(paper="pang", attack=("cw", "cw_hc"), metric="auc")) == 24
    assert [c.cell_id for c in cells.where(dataset=None)] == [
        "pang.text.resnet32.cw_hc.adversarial_confidence.min"
    ]
    assert cells.where(paper="lemesle").tables == [("lemesle", "t2"), ("lemesle", "t3")]
    assert len(cells.where(paper="lemesle").where(attack="jsma")) == 0
    assert ERROR in cells.where(table="t1")
    with pytest.raises(ConfigurationError, match="Did you mean 'dataset'"):
        cells.where(data_set="mnist")
    with pytest.raises(ConfigurationError, match=f"Did you mean '{ERROR}'"):
        cells[ERROR + "s"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("error_rate,percent,0.38", "eror_rate,percent,0.38", "line 2.*Did you mean 'error_rate'"),
        ("error_rate,percent,7.13", "error_rate,per cent,7.13", "line 3.*Did you mean 'percent'"),
        ("error_rate,percent,0.38", "error_rate,seconds,0.38", "line 2: error_rate is a share"),
        ("percent,0.29", "percent,0.2g", "line 4: value is no finite number but '0.2g'"),
        ("percent,0.29", "percent,nan", "line 4: value is no finite number"),
        ("percent,0.29", "percent,", "line 4: value must not be empty"),
        ("fgsm,0.3,linf", "fgsm,small,linf", "eps is no finite number but 'small'"),
        ("percent,0.29,", "percent,0.29,,", "line 4: a row has 15 columns"),
        ("cell_id,paper", "paper,cell_id", "columns have to be cell_id, paper"),
        ("t1.mnist.resnet32.rce", "t1.mnist.resnet32.ce", "is there twice"),
    ],
)
def test_a_damaged_reference_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = PUBLISHED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "published.csv"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        read_cells(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_cells(tmp_path / "nothing.csv")


def test_the_figures_are_read_without_torch() -> None:
    code = "import sys, notsure.studies.cells as c; c.published(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
