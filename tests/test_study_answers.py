"""From what a study says of cells to rows, pages and published results."""

from __future__ import annotations

import csv
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import notsure as ns
from notsure.cli import UNFINISHED, app
from notsure.core.errors import ConfigurationError
from notsure.core.storage import load_json
from notsure.evaluation import detection, robustness
from notsure.evaluation.intervals import rate_of
from notsure.evaluation.records import COLUMNS
from notsure.studies.adaptive import conclusion_list, left_table
from notsure.studies.answers import StoredFindings, cell_rows, check_measurable
from notsure.studies.cell_tables import read_rows, write_rows
from notsure.studies.cells import published
from notsure.studies.declared import Study
from notsure.studies.kinds import study_entries
from notsure.studies.publishing import CELLS, publish
from notsure.studies.questions import cells_of, questions, unanswered, waiting
from notsure.studies.spec import study_of
from notsure.studies.store import Store
from notsure.studies.verdicts import NOT_COMPARABLE, CellRow
from tests.records import attacked, clean, synthetic

ROOT = Path(__file__).resolve().parents[1]

TEXT = """\
name: small
title: A report answered on few digits
report: pang
data:
  mnist: {source: mnist.npz, stand_in: own.npz, train: 400, calibration: 200, test: 120}
networks:
  ce:
    architecture: digits_cnn
    data: mnist
    mean: 0.5
    recipe: {epochs: 5, batch_size: 50, optimizer: adamw, learning_rate: 3e-3, precision: fp32}
attacks:
  fgsm: FGSM
  bim: {kind: BIM, settings: {steps: 5}}
guards:
  mnist-ce: {network: ce, detectors: {kdensity: KDensity, confidence: Confidence}, fpr: 0.05}
evaluations:
  mnist:
    guards: [mnist-ce]
    attacks: {oblivious: [fgsm, bim], white-box: [bim]}
    eps: [0.2, 0.3]
    count: 100
    probes: 0
  later: {guards: [mnist-ce], attacks: {oblivious: [bim]}, eps: [0.4], count: 20, probes: 0}
defaults:
  cells: {threat: oblivious}
cells:
  errors:
    of: {table: t1, dataset: mnist, model: resnet32, training: ce}
    measure: clean_error
    evaluation: mnist
    guard: mnist-ce
    why: a small network
  areas:
    of:
      {table: t2, dataset: mnist, training: ce, attack: [fgsm, bim], system: [kdensity, confidence]}
    measure: detection_area
    evaluation: "{dataset}"
    guard: "{dataset}-{training}"
    attack: "{attack}"
    detector: "{system}"
    eps: 0.3
  high:
    of: {cell_id: pang.text.resnet32.cw_hc.adversarial_confidence.min}
    measure: adversarial_confidence
    evaluation: later
    guard: mnist-ce
    attack: bim
    detector: confidence
    differs: another attack
waiting:
  cifar10: {of: {dataset: cifar10}, what: "paper scale on a GPU"}
  jsma: {of: {dataset: mnist, attack: jsma, table: t2}, what: time}
adaptive:
  mnist: {evaluation: mnist, claim: "The report finds 99.4 %."}
scales:
  smoke: {waiting: {jsma: null}, cells: {errors: null, areas: {eps: 0.2}}}
  cpu:
  paper: {waiting: {cifar10: null}}
"""

ERROR = "pang.t1.mnist.resnet32.ce.clean.error_rate"
AREA = "pang.t2.mnist.resnet32.ce.{attack}.{system}.auc"
HIGH = "pang.text.resnet32.cw_hc.adversarial_confidence.min"


def read(text: str = TEXT, scale: str = "cpu") -> Study:
    return study_of(text, "small.yaml", scale)


def test_a_group_speaks_for_each_of_its_cells() -> None:
    asked = questions(read())
    assert len(asked) == 6
    one = asked[AREA.format(attack="bim", system="confidence")]
    told = (one.measure, one.evaluation, one.guard, one.attack, one.detector, one.threat, one.eps)
    assert told == ("detection_area", "mnist", "mnist-ce", "bim", "confidence", "oblivious", 0.3)
    assert (one.group, one.cell.value) == ("areas", 88.9)
    assert (asked[ERROR].guard, asked[ERROR].why) == ("mnist-ce", "a small network")


def test_every_cell_is_asked_for_or_waits_or_is_left() -> None:
    study = read()
    asked, later, left = set(questions(study)), set(waiting(study)), set(unanswered(study))
    assert asked | later | left == {cell.cell_id for cell in cells_of(study)}
    assert len(asked) + len(later) + len(left) == 114
    assert waiting(study)[AREA.format(attack="jsma", system="non_me")] == "time"


def test_scales_change_and_leave_out_groups_and_what_waits() -> None:
    smoke, paper = read(scale="smoke"), read(scale="paper")
    assert ERROR not in questions(smoke)
    assert questions(smoke)[AREA.format(attack="fgsm", system="kdensity")].eps == 0.2
    assert {cell_id.split(".")[2] for cell_id in waiting(smoke)} == {"cifar10"}
    assert {cell_id.split(".")[2] for cell_id in waiting(paper)} == {"mnist"}


def test_columns_that_the_report_leaves_open() -> None:
    text = TEXT.replace("{table: t1, dataset: mnist,", "{table: t1, attack: null, dataset: mnist,")
    assert questions(read(text)).keys() == questions(read()).keys()


def test_budgets_may_be_those_of_the_cells() -> None:
    text = TEXT.replace("report: pang", "report: wester")
    cut = text.index("cells:\n  errors"), text.index("adaptive:")
    own = """\
cells:
  bare:
    of: {dataset: mnist, system: none, threat: bare, attack: [fgsm, bim]}
    measure: robust_accuracy
    evaluation: mnist
    guard: mnist-ce
    attack: "{attack}"
    eps: "{eps}"
    why: "eps {eps} in {{0, 1}}"
"""
    text = text[: cut[0]] + own + text[cut[1] :]
    text = text[: text.index("  smoke:")] + "  cpu:\n"
    one = questions(read(text))["wester.t3.mnist.none.bim.accuracy"]
    assert (one.eps, one.why) == (0.3, "eps 0.3 in {0, 1}")


def marked(text: str) -> tuple[str, str]:
    """A text without its mark "§", and the line and column where it stood."""
    before, mark, after = text.partition("§")
    assert mark
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


AREAS = "    eps: 0.3\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("report: pang", "report: pong", "No figures are known of the report 'pong'"),
        ("{table: t1,", "{§tabel: t1,", "no column 'tabel'. Did you mean 'table'"),
        ("{table: t1,", "{table: §t9,", "No cell of pang has the table 't9'"),
        ("{table: t1,", "{table: t1, norm: l2,", "has all of these at once"),
        ("of: {table: t1,", "off: {table: t1,", "Did you mean 'of'"),
        ("clean_error", "§clean_eror", "no measure 'clean_eror'. Did you mean 'clean_error'"),
        ('evaluation: "{dataset}"', 'evaluation: §"{data}"', "no column 'data'. Did you mean"),
        ('evaluation: "{dataset}"', 'evaluation: §"{norm}"', "no evaluation 'linf'"),
        ('evaluation: "{dataset}"', 'evaluation: §"{eps}"', "leaves the eps of pang.t2.mnist"),
        ('"{dataset}-{training}"', '§"{dataset}-{system}"', "no guard of the evaluation 'mnist-"),
        ('attack: "{attack}"', "attack: §pgd", "no attack under 'oblivious': 'pgd'"),
        ('detector: "{system}"', "detector: §non_me", "no detector of the guard 'mnist-ce': 'non_"),
        ('    detector: "{system}"\n', "", "detection_area needs detector"),
        (AREAS, "    eps: §0.4\n", "The evaluation 'mnist' has no eps 0.4. It has 0.2, 0.3"),
        (AREAS, "    eps: §'a'\n", "eps is a number or a fraction"),
        (AREAS, "    eps: 0.3\n    threat: §transfer\n", "no threat in the evaluation 'transfer'"),
        (AREAS, "    eps: 0.3\n    substitute: §ce\n", "there is no substitute"),
        (AREAS, "    eps: 0.3\n    arguments: {§share: 1}\n", "has no argument 'share'"),
        (AREAS, "    arguments: {over: §attacks}\n", "over is eps, for all of an evaluation's"),
        (AREAS, "    arguments: {over: §{eps: [x]}}\n", "eps are numbers or fractions"),
        ("    eps: [0.2, 0.3]\n    count: 100", "    count: 100",
         "has no eps to take detection_area"),
        (AREAS, "    arguments: {over: eps, take: §most}\n", "take is smallest or largest"),
        ("waiting:\n", "  more:\n    of: §{cell_id: " + ERROR + "}\n    measure: clean_error\n"
         "    evaluation: mnist\n    guard: mnist-ce\nwaiting:\n", "in the groups 'errors' and"),
        ("    of: {table: t1, dataset: mnist", "    of: §{table: t1, dataset: cifar10",
         "in this group, and it waits"),
        ("jsma: {of: {dataset: mnist, attack: jsma", "jsma: {of: §{dataset: cifar10, attack: jsma",
         "waits twice"),
        ("{evaluation: mnist, claim", "{evaluation: §mnst, claim", "Did you mean 'mnist'"),
        ("what: time", "what: time, §when: now", "no key 'when'"),
        ("areas: {eps: 0.2}", "§area: {eps: 0.2}", "cells has no 'area'. Did you mean 'areas'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_at_once(old: str, new: str, said: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    if "no eps to take" in said:
        text = text.replace(AREAS, "    arguments: {over: eps}\n")
    text, place = marked(text) if "§" in text else (text, "")
    scale = "smoke" if "area:" in new else "cpu"
    with pytest.raises(ConfigurationError) as caught:
        read(text, scale)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"small.yaml:{place}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that has a stand-in of the study's data."""
    split, folder = ns.data.load("digits"), tmp_path_factory.mktemp("data")
    np.savez(
        folder / "own.npz",
        x_train=split.train.pixels,
        y_train=split.train.labels,
        x_test=split.test.pixels,
        y_test=split.test.labels,
    )
    return folder


@dataclass(frozen=True)
class Ran:
    """A study that was run to its end by the command line, and published."""

    out: Path
    results: Path
    said: str
    records: ns.Records

    @property
    def rows(self) -> dict[str, CellRow]:
        return {row.cell.cell_id: row for row in read_rows(self.out / "small-cpu" / CELLS)}


def call(folder: Path, root: Path, *more: str) -> Result:
    path = folder / "small.yaml"
    path.write_text(TEXT)
    words = ["run", str(path), "--scale", "cpu", "--data-root", str(root)]
    return CliRunner().invoke(app, [*words, "--out", str(folder / "out"), *more])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Ran:
    folder = tmp_path_factory.mktemp("run")
    finished = call(folder, root, "--publish", str(folder / "results"))
    assert finished.exit_code == 0, finished.output
    results = folder / "results" / "small"
    return Ran(folder / "out", results, finished.output, ns.Records.read(results / "mnist.parquet"))


def test_answers_are_what_the_records_say(ran: Ran) -> None:
    rows = ran.rows
    assert len(rows) == 114
    plain = ran.records.where(threat="clean")
    wrong = 100 * rate_of(plain.column("prediction") != plain.column("y")).value
    assert rows[ERROR].ours == pytest.approx(wrong, rel=1e-5)
    assert rows[ERROR].n == 100
    areas = {
        (row.attack.lower(), row.detector): row.successful
        for row in detection(ran.records)
        if row.threat == "oblivious" and row.eps == 0.3
    }
    for attack in ("fgsm", "bim"):
        for system in ("kdensity", "confidence"):
            ours, area = rows[AREA.format(attack=attack, system=system)], areas[attack, system]
            found = (ours.ours, ours.low, ours.high)
            expected = (100 * area.value, 100 * area.low, 100 * area.high)
            assert found == pytest.approx(expected, rel=1e-5)
            assert ours.n == area.positives > 30


def test_rows_say_where_they_come_from(ran: Ran) -> None:
    rows = ran.rows
    assert "a small network; on own.npz in place of mnist.npz" in rows[ERROR].why
    assert rows[HIGH].verdict == NOT_COMPARABLE
    assert rows[HIGH].why.startswith("another attack; the 5 % quantile")
    assert rows[ERROR].scale == "cpu"
    cifar10 = rows["pang.t1.cifar10.resnet32.ce.clean.error_rate"]
    assert cifar10.why == "not measured yet, waits for paper scale on a GPU"
    assert rows["pang.t1.mnist.resnet56.ce.clean.error_rate"].why == "not measured yet"


def test_the_command_prints_cells(ran: Ran) -> None:
    assert "6 of 114 cells answered at cpu or paper scale, 0 at smoke" in ran.said
    assert "not yet" in ran.said


def test_what_is_not_finished_is_waited_for(tmp_path: Path, root: Path) -> None:
    stopped = call(tmp_path, root, "--deadline", "0.01s", "--publish", str(tmp_path / "results"))
    assert stopped.exit_code == UNFINISHED, stopped.output
    rows = {row.cell.cell_id: row for row in read_rows(tmp_path / "out" / "small-cpu" / CELLS)}
    assert rows[ERROR].why == "not measured yet, waits for the evaluation 'mnist' at cpu scale"
    assert "Not measured yet; waits for" in (tmp_path / "results/small/adaptive.md").read_text()


def test_what_is_published_is_small_and_whole(ran: Ran) -> None:
    names = {path.name for path in ran.results.iterdir()}
    assert names == {"cells.csv", "mnist.parquet", "later.parquet", "adaptive.md", "manifest.json"}
    assert list(COLUMNS) == ran.records.table.column_names[: len(COLUMNS)]
    for name in ("image", "features"):
        assert ran.records.table[name].null_count == len(ran.records)
    assert ran.records.meta["scale"] == "cpu"
    assert (ran.results / CELLS).read_bytes() == (ran.out / "small-cpu" / CELLS).read_bytes()
    assert load_json(ran.results / "manifest.json")["finished"]


def test_the_adaptive_section_is_made_of_the_published_records(ran: Ran) -> None:
    text = (ran.results / "adaptive.md").read_text()
    assert text.startswith("**mnist.** The report finds 99.4 %.\n\nOurs, at cpu scale on 100 ")
    for line in (*left_table(ran.records), *conclusion_list(ran.records)):
        assert line in text


def findings_of(ran: Ran, root: Path, scale: str = "cpu") -> StoredFindings:
    study = read(scale=scale)
    return StoredFindings(study, study_entries(study, root), Store(ran.out))


def test_published_again_is_the_same_and_a_larger_scale_stays(
    ran: Ran, root: Path, tmp_path: Path
) -> None:
    cpu, paper = findings_of(ran, root), findings_of(ran, root, "paper")
    manifest = ran.out / "small-cpu" / "manifest.json"
    own = publish(cpu, cell_rows(cpu.study, cpu.entries, cpu.store), manifest, tmp_path)
    assert (own / CELLS).read_bytes() == (ran.results / CELLS).read_bytes()
    # of the larger scale everything is there as well; the smaller one comes to late
    larger = cell_rows(paper.study, paper.entries, paper.store)
    publish(paper, larger, manifest, tmp_path)
    kept = {row.cell.cell_id: row for row in read_rows(own / CELLS)}
    assert (kept[ERROR].scale, kept[ERROR].n) == ("paper", 100)
    publish(cpu, cell_rows(cpu.study, cpu.entries, cpu.store), manifest, tmp_path)
    kept = {row.cell.cell_id: row for row in read_rows(own / CELLS)}
    assert kept[ERROR].scale == "paper"
    assert ns.Records.read(own / "mnist.parquet").meta["scale"] == "paper"
    # and nothing takes the place of nothing
    nothing = [CellRow(cell=row.cell) for row in larger]
    publish(paper, nothing, manifest, tmp_path)
    assert read_rows(own / CELLS)[0] == kept[ERROR]


def test_a_manifest_keeps_that_of_another_scale(ran: Ran, root: Path, tmp_path: Path) -> None:
    findings = findings_of(ran, root)
    cpu = ran.out / "small-cpu" / "manifest.json"
    other = tmp_path / "manifest.json"
    other.write_text(cpu.read_text().replace('"scale": "cpu"', '"scale": "paper"'))
    for path in (cpu, other, other):
        own = publish(findings, [], path, tmp_path / "results")
    told = load_json(own / "manifest.json")
    assert told["scale"] == "paper"
    assert told["other_scales"] == {"cpu": load_json(cpu)}
    assert not (own / CELLS).exists()


def test_one_of_several_budgets_has_to_be_said_before_anything_runs(root: Path) -> None:
    text, place = marked(TEXT.replace("  areas:\n    of", "  areas:\n    §of").replace(AREAS, ""))
    study = read(text)
    with pytest.raises(ConfigurationError) as caught:
        check_measurable(study, study_entries(study, root))
    assert "'fgsm' is run with several eps in 'mnist': say which" in str(caught.value)
    assert str(caught.value).startswith(f"small.yaml:{place}")
    over = read(TEXT.replace(AREAS, "    arguments: {over: eps}\n"))
    check_measurable(over, study_entries(over, root))


def test_records_that_lack_what_is_asked_for_are_told_with_the_group(
    ran: Ran, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = findings_of(ran, root)
    fewer = ran.records.where(threat="clean")
    monkeypatch.setattr(StoredFindings, "records", lambda *_: fewer)
    with pytest.raises(ConfigurationError, match=r"small\.yaml:\d+:\d+: pang.*hold no FGSM"):
        cell_rows(findings.study, findings.entries, findings.store)


# under an adaptive attacker


def table_of(records: ns.Records) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in left_table(records)[2:]]


def test_what_is_left_is_told_by_threat() -> None:
    y = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    fallen = {"oblivious": [0, 1], "white-box": [2, 3, 4], "query-scores": [5]}
    parts = [clean(y=y, accepted=[1] * 9 + [0], score_A=0.0)]
    for threat, indices in fallen.items():
        prediction = [(label + 1) % 3 if i in indices else label for i, label in enumerate(y)]
        parts += [
            attacked("PGD", threat=threat, eps=eps, prediction=prediction, score_A=0.0)
            for eps in ((0.1, 0.2) if threat == "oblivious" else (0.2,))
        ]
    rows = table_of(synthetic(*parts))
    assert [[*row[:2], row[2][:4], row[3][:4]] for row in rows] == [
        ["guard", "10", "90.0", "10.0"]
    ] * 2
    shares = [[cell.split()[0] for cell in row[4:]] for row in rows]
    # white-box attacks alone fool three; together with all others, six
    assert shares == [["linf", "80.0", "not", "80.0"], ["linf", "80.0", "70.0", "40.0"]]


def test_attacks_without_a_budget_have_a_row() -> None:
    records = synthetic(
        clean(y=[0, 0]), attacked("DeepFool", norm=None, prediction=[1, 0], l2=[0.5, 0.0])
    )
    (row,) = table_of(records)
    assert row[4:] == ["any distance", "50.0 [9.5, 90.5]", "not run", "50.0 [9.5, 90.5]"]
    left = [r for r in robustness(records) if r.attack == ns.evaluation.WORST_CASE]
    assert left[0].lenient.value == 0.5


def test_the_examiner_concludes_and_flags(ran: Ran) -> None:
    told = list(conclusion_list(ran.records))
    assert told[0].startswith("- mnist-ce: **broken**. ")
    raised = [flag.name for flag in ran.records.flags() if flag.raised]
    assert [line.split("*")[1] for line in told[1:]] == raised


# the page


def page_script() -> Mapping[str, Any]:
    return runpy.run_path(str(ROOT / "results" / "page.py"))


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    page_script()["write"](page)
    assert page.read_text() == (ROOT / "docs" / "results.md").read_text()


def test_published_cells_and_sections_come_onto_the_page(ran: Ran, tmp_path: Path) -> None:
    page, results = tmp_path / "results.md", tmp_path / "results"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    (results / "pang").mkdir(parents=True)
    write_rows(results / "pang" / CELLS, ran.rows.values())
    (results / "pang" / "adaptive.md").write_text("**mnist.** Something.\n")
    page_script()["write"](page, results)
    text = page.read_text()
    assert "<!-- adaptive pang -->\n\n**mnist.** Something.\n\n<!-- end -->" in text
    assert "<!-- adaptive wester -->\n\nNot measured yet.\n\n<!-- end -->" in text
    assert "| pang | 114 | 6 | 5 % |" in text
    assert "| wester | 55 | 0 | 0 % |" in text
    # what else the page says stays
    assert "## Five guards of which the field knows how they stand" in text


def test_the_page_has_every_cell() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    for cell in published():
        assert f"| {cell.cell_id.removeprefix(f'{cell.paper}.{cell.table}.')} |" in text


def test_cells_are_written_in_the_order_of_the_report(ran: Ran) -> None:
    with (ran.results / CELLS).open(newline="") as file:
        ids = [row["cell_id"] for row in csv.DictReader(file)]
    assert ids == [cell.cell_id for cell in published().where(paper="pang")]
