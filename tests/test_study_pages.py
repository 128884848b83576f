"""A study's figures: what a file may say of them, what is drawn, and the pages of a run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

import notsure as ns
from notsure.cli import UNFINISHED, app
from notsure.core.errors import ConfigurationError, NotSureError
from notsure.evaluation import minimal_distortions, robustness
from notsure.evaluation.records import Records
from notsure.report.formatting import number, rate_text
from notsure.studies.cells import published
from notsure.studies.declared import Study
from notsure.studies.declared_figures import PICTURE_OF_CLASSES, FigureSpec, Picture
from notsure.studies.kinds import evaluations_first, study_entries
from notsure.studies.pages import cells_parts, write_study_pages
from notsure.studies.pictures import chosen, distortions_sheet, drawn, errors_sheet
from notsure.studies.run import plan
from notsure.studies.spec import load_study, study_of
from notsure.studies.verdicts import judge
from tests.browser import dump_dom, find_browser
from tests.records import attacked, clean, synthetic
from tests.report_page import Page
from tests.report_records import EVERY_THREAT, MANY, made_up

TEXT = """\
name: small
title: A few digits
data:
  digits: {source: digits, train: 300, calibration: 100}
defaults:
  networks:
    architecture: digits_cnn
    data: digits
    recipe: {epochs: 2, batch_size: 50, optimizer: adamw, learning_rate: 3e-3, precision: fp32}
networks:
  ce: {}
  late: {seed: 1}
purifiers:
  puvae:
    kind: PuVAE
    settings: {latent: 4, width: 4, dense: 16}
    data: digits
    network: ce
    recipe: {epochs: 1, batch_size: 50, precision: fp32}
attacks:
  fgsm: FGSM
  pgd: {kind: PGD, settings: {steps: 3}}
guards:
  bare: {network: ce}
  puvae: {network: ce, purifier: puvae}
  density: {network: ce, detectors: {density: KDensity}, fpr: 0.05}
  late: {network: late}
evaluations:
  main:
    guards: [bare, puvae, density]
    attacks: {oblivious: [fgsm, pgd], white-box: [pgd]}
    eps: [0.2, 0.4]
    count: 20
    batch_size: 20
    illustrated: 4
    probes: 0
    controlled: 0
  second:
    guards: [late]
    attacks: {oblivious: [fgsm]}
    eps: [0.2]
    count: 10
    probes: 0
    controlled: 0
adaptive:
  digits: {evaluation: main, claim: Nothing was claimed but 99 %.}
figures:
  curves: {shows: what is left, picture: eps, evaluations: [main, second]}
  spread: {shows: the features, picture: features, evaluations: main, guards: [bare]}
  classes:
    shows: an image as each class
    picture: reconstructions
    evaluations: main
    guards: [puvae]
    attacks: [pgd]
  seen: {shows: images, picture: images, evaluations: main, guards: [density]}
scales:
  smoke:
"""


def read(text: str = TEXT) -> Study:
    return study_of(text, "small.yaml", "smoke")


def figure(**more: object) -> FigureSpec:
    fields = {"shows": "something", "picture": "eps", "evaluations": "main", **more}
    return FigureSpec.model_validate(fields)


# what a file says


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[main, second]", "[main, §secnd]", "Did you mean 'second'"),
        ("picture: eps", "picture: §esp", "should be 'eps', 'rejected', "),
        ("guards: [bare]}", "guards: [§late]}", "main has no guard 'late'. There are: bare, puv"),
        ("attacks: [pgd]", "attacks: [§bim]", "main has no attack 'bim'. There are: fgsm, pgd"),
        ("    guards: [puvae]", "    guards: [bare]", "'bare' has no PuVAE"),
        ("shows: images,", "§show: images,", "no key 'show'"),
    ],
)
def test_what_a_figure_cannot_be_is_told_with_its_line(old: str, new: str, said: str) -> None:
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, new)
    place = text.find("§")
    with pytest.raises(ConfigurationError) as caught:
        read(text.replace("§", ""))
    assert said in str(caught.value)
    if place >= 0:
        line = text[:place].count("\n") + 1
        column = place - text.rfind("\n", 0, place)
        assert f"small.yaml:{line}:{column}: " in str(caught.value)


def test_a_figure_takes_all_attacks_of_a_kind_or_none() -> None:
    longer = "  longer: {kind: PGD, settings: {steps: 5}}\nguards:\n"
    both = TEXT.replace("guards:\n", longer, 1).replace("[fgsm, pgd]", "[fgsm, pgd, longer]")
    with pytest.raises(ConfigurationError, match="'longer' is a PGD, too, as 'pgd' is"):
        read(both)
    read(both.replace("attacks: [pgd]\n", "attacks: [pgd, longer]\n"))


WANTED = {
    "pang": ["1b-c", "2a", "2b", "3", "4", "5", "6", "7"],
    "lemesle": ["2", "3", "4", "5"],
    "wester": ["6", "7", "8"],
    "martin": ["7", "8", "10", "11", "14", "17", "18"],
    "preaut": ["2", "3", "4", "5", "6"],
}
"""The figures of measurements in each report; the others illustrate."""


@pytest.mark.parametrize("name", WANTED)
def test_every_figure_of_a_report_has_ours(name: str) -> None:
    for scale in ("smoke", "cpu", "paper"):
        found = [one.partition(",")[0] for one in load_study(name, scale).figures]
        waiting = {"7"} if (name, scale) == ("pang", "cpu") else set()
        assert list(dict.fromkeys(found)) == [one for one in WANTED[name] if one not in waiting]


def test_an_evaluation_comes_before_what_only_the_next_one_needs() -> None:
    steps = plan(evaluations_first(study_entries(read())))
    order = [f"{step.kind} {step.name}" for step in steps]
    assert order.index("evaluate main") < order.index("train late")
    assert order[-1] == "evaluate second"
    # what nothing needs is there all the same
    assert set(order) == {f"{s.kind} {s.name}" for s in study_entries(read()).values()}


# what is drawn


def test_a_figure_is_of_its_guards_and_attacks() -> None:
    records = made_up(attacks=[("FGSM", "linf", 0.1, {}), ("PGD", "linf", 0.1, {})])
    found = chosen(records, read(), figure(guards=["RCE"], attacks=["pgd"]))
    assert found.guards == ["RCE"]
    assert {attack for (attack,) in found.distinct("attack")} == {"none", "PGD"}
    assert set(found.meta["guards"]) == {"RCE"}
    assert chosen(records, read(), figure()).table.num_rows == len(records)


def test_without_detectors_every_answer_counts() -> None:
    records = made_up({"CE": ["KDensity"]})
    found = chosen(records, read(), figure(disabled=True))
    assert found.column("accepted").all()
    wrong = records.column("prediction") != records.column("y")
    rows = records.column("eps") == 0.3
    of_pgd = rows & (records.column("attack") == "PGD") & (records.column("threat") == "oblivious")
    row = next(
        one
        for one in robustness(found)
        if (one.attack, one.threat, one.eps) == ("PGD", "oblivious", 0.3)
    )
    assert row.lenient.value == row.strict.value == pytest.approx(1 - wrong[of_pgd].mean())
    (shown,) = drawn(records, read(), figure(disabled=True)).figures
    assert list(shown.alternatives) == ["accuracy, white-box", "accuracy, oblivious"]


@pytest.mark.parametrize("picture", get_args(Picture))
def test_every_picture_is_drawn_where_the_records_hold_it(picture: str) -> None:
    told = {name: {"parameters": {"width": at, "depth": at}} for at, name in enumerate("AB")}
    records = made_up(
        {"A": ["KDensity"], "B": ["KDensity"]},
        threats=EVERY_THREAT,
        attacks=MANY,
        features=40,
        told=told,
        count=40,
    )
    found = drawn(records, read(), figure(picture=picture))
    assert found.empty == (picture == PICTURE_OF_CLASSES)
    # the report's own page has the same pictures of all records
    for one in found.figures:
        assert one.rows
        assert all(layout["wide"]["height"] > 0 for layout in one.alternatives.values())
    assert drawn(records, read(), figure(picture=picture, guards=["C"])).empty


def test_the_table_of_errors_begins_with_clean_images() -> None:
    y = [0] * 4
    records = synthetic(
        clean(y=y, prediction=[0, 0, 1, 1], accepted=[1, 1, 1, 0]),
        attacked("FGSM", eps=0.1, y=y, prediction=[1, 1, 1, 1], accepted=[1, 1, 1, 0]),
    )
    sheet = errors_sheet(records)
    assert [row[1] for row in sheet.rows] == ["clean", "FGSM"]
    assert [row[-1].split(" [")[0] for row in sheet.rows] == ["25.0 %", "75.0 %"]
    (row,) = [one for one in robustness(records) if one.attack == "FGSM"]
    assert sheet.rows[1][-1] == rate_text(row.wrong)


def test_the_table_of_distortions_is_the_metric() -> None:
    records = made_up(attacks=[("DeepFool", None, None, {"steps": 50})])
    sheet = distortions_sheet(records)
    found = minimal_distortions(records)
    assert [row[:4] for row in sheet.rows] == [
        [one.guard, one.attack, one.threat, number(one.root_mean_square)] for one in found
    ]


def test_the_table_of_cells_has_every_cell() -> None:
    rows = judge(published().where(paper="preaut"), {})
    (part,) = cells_parts(rows)
    (sheet,) = part.sheets
    assert [row[0] for row in sheet.rows] == [
        row.cell.cell_id.removeprefix("preaut.") for row in rows
    ]
    assert all(len(row) == len(sheet.head) for row in sheet.rows)
    assert cells_parts([]) == []


# the pages of a run


@dataclass(frozen=True)
class Ran:
    """A study that was run to its end, published, and reported on."""

    folder: Path
    published: Path
    said: str
    page: Page


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "small.yaml").write_text(TEXT)
    words = ["--out", str(folder / "out"), "--publish", str(folder / "results")]
    finished = CliRunner().invoke(app, ["run", str(folder / "small.yaml"), *words])
    assert finished.exit_code == 0, finished.output
    own = folder / "out" / "small-smoke"
    told = CliRunner().invoke(app, ["report", str(own)])
    assert told.exit_code == 0, told.output
    assert str(own / "report.html") in told.output.replace("\n", "")
    page = Page((own / "report.html").read_text(encoding="utf-8"))
    return Ran(own, folder / "results" / "small", finished.output, page)


def test_a_run_ends_under_an_adaptive_attacker_and_says_where_the_figures_are(ran: Ran) -> None:
    assert "under an adaptive attacker" in ran.said
    assert "Nothing was claimed but 99 %." in ran.said
    assert re.search(r"for the figures: notsure report \S+small-smoke", ran.said)


def test_the_page_has_every_figure_and_links_to_every_evaluation(ran: Ran) -> None:
    text, tags = ran.page.text, ran.page.tags
    for words in ("What is left.", "The features.", "An image as each class.", "Images."):
        assert words in text
    assert "main: 20 test images of digits, at smoke scale." in text
    assert "nothing to show" not in text
    identifiers = [str(given["id"]) for _, given in tags if "id" in given]
    assert len(set(identifiers)) == len(identifiers)
    plots = [given for tag, given in tags if tag == "div" and given.get("class") == "plot"]
    # curves of both evaluations, and the features
    assert len(plots) == 3
    for tag, given in tags:
        address = given.get("href") or "#"
        if tag == "a" and address.endswith(".html"):
            assert (ran.folder / address).is_file(), address
    assert (ran.folder / "second.html").is_file()


def test_reconstructions_are_those_of_the_guard(ran: Ran) -> None:
    identity = json.loads((ran.folder / "manifest.json").read_text())["entries"]["guards"]["puvae"]
    purifier = ns.Guard.load(ran.folder.parent / identity).purifier
    assert isinstance(purifier, ns.purifiers.PuVAE)
    rows = ran.page.table("puvae: reconstructions as each class")
    assert [row.split(" input")[0] for row in rows] == ["clean", "PGD, ℓ∞ 0.4 (102/255)"]  # noqa: RUF001
    study = read()
    evaluation = study_entries(study)["evaluations", "main"]
    records = Records.read(ran.folder.parent / evaluation.identity / "records.parquet")
    attacked_rows = [
        row
        for row in records.where(guard="puvae", attack="PGD").table.to_pylist()
        if row["image"] is not None and row["eps"] == pytest.approx(0.4) and row["linf"] > 0
    ]
    first = min(attacked_rows, key=lambda row: row["index"])
    x = ns.data.load("digits").test.x.new_tensor(first["image"]).reshape(1, 1, 8, 8)
    nearest, error = purifier.eval().closest(x)
    assert f"{int(nearest)}, RMSE {error.item():.3f}" in rows[1]
    marked = [given for _, given in ran.page.tags if given.get("class") == "marked"]
    assert len(marked) == 2
    assert f", {int(nearest)}, RMSE" in str(marked[1]["alt"])


def test_the_page_tells_what_an_adaptive_attacker_leaves(ran: Ran) -> None:
    rows = ran.page.table("What is left, in %")
    assert rows[0].startswith("guard n clean accuracy")
    # three guards, clean and two budgets each
    assert {row.split()[0] for row in rows[1:]} == {"bare", "puvae", "density"}


def test_what_was_published_has_its_pages_without_images(ran: Ran, tmp_path: Path) -> None:
    # of a study that is not the library's, which one it was has to lie there
    with pytest.raises(ConfigurationError, match=r"holds no study.yaml: run the study again"):
        write_study_pages(ran.published, tmp_path)
    shutil.copytree(ran.published, tmp_path / "own")
    shutil.copy(ran.folder / "study.yaml", tmp_path / "own" / "study.yaml")
    page = Page(write_study_pages(tmp_path / "own", tmp_path / "out").read_text(encoding="utf-8"))
    assert "The records hold no features of clean images, so there is nothing to show." in page.text
    assert "The records hold no attacked images beside a guard that is there" in page.text
    assert "main: 20 test images of digits, at smoke scale." in page.text
    assert (tmp_path / "out" / "main.html").is_file()


def test_what_is_not_finished_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(TEXT)
    words = ["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]
    stopped = CliRunner().invoke(app, [*words, "--deadline", "0.01s"])
    assert stopped.exit_code == UNFINISHED, stopped.output
    path = write_study_pages(tmp_path / "out" / "small-smoke")
    page = Page(path.read_text(encoding="utf-8"))
    assert "Not measured yet: waits for the evaluation 'main'." in page.text
    assert "Not measured yet: main, second." in page.text
    assert not (path.parent / "main.html").exists()


def test_other_formats_and_folders_are_refused(ran: Ran, tmp_path: Path) -> None:
    pdf = CliRunner().invoke(app, ["report", str(ran.folder), "--format", "pdf"])
    assert isinstance(pdf.exception, NotSureError)
    assert "are HTML, not pdf" in str(pdf.exception)
    with pytest.raises(ConfigurationError, match="is no folder of a study"):
        write_study_pages(tmp_path)


def test_a_failing_step_ends_the_command_with_its_error_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise ns.core.errors.InputError("one class is never predicted")

    monkeypatch.setattr(ns.Guard, "calibrate", refuse)
    (tmp_path / "small.yaml").write_text(TEXT)
    words = ["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]
    failed = CliRunner().invoke(app, words)
    assert failed.exit_code != 0
    assert "1 step failed" in str(failed.exception)
    assert "guard 'density': InputError: one class is never predicted" in str(failed.exception)
    # the evaluation of another guard is done, and what waits says so
    assert "evaluation second" in failed.output
    assert "left: evaluate 'main': needs guard 'density', which failed" in failed.output
    told = json.loads((tmp_path / "out" / "small-smoke" / "manifest.json").read_text())
    why = {step["name"]: step["why"] for step in told["steps"] if "why" in step}
    assert why["density"] == "failed with InputError"


@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium")
def test_the_page_draws_its_figures_without_a_complaint(ran: Ran) -> None:
    # what it writes to the console is an error
    found = dump_dom(ran.folder / "report.html")
    assert found.count("main-svg") >= 3
    assert np.all([f'id="{one}"' in found for one in ("pictures", "adaptive", "evaluations")])
