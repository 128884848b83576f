"""The library's studies: they can be run at every scale, and every published figure has its place.

Nothing is trained here; the images are random ones of the data sets' shapes and counts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from notsure.studies import questions as asking
from notsure.studies.answers import check_measurable
from notsure.studies.cells import Cells, published
from notsure.studies.declared import EvaluationSpec, Study
from notsure.studies.examining import Evaluate
from notsure.studies.kinds import study_entries
from notsure.studies.run import plan
from notsure.studies.spec import load_study, names
from notsure.studies.steps import Step

SCALES = ("smoke", "cpu", "paper")
REPORTS = tuple(dict.fromkeys(cell.paper for cell in published()))

SHAPES = {"mnist": (60000, 28, 28), "fashion_mnist": (60000, 28, 28), "cifar10": (50000, 32, 32, 3)}
"""How many training images the data sets have, and their shape; 10,000 more are for testing."""

every_report = pytest.mark.parametrize("name", REPORTS)
at_every_scale = pytest.mark.parametrize("scale", SCALES)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images under the names of the data sets."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, (count, *shape) in SHAPES.items():
        x_train = draw.integers(0, 256, (count, *shape), np.uint8)
        x_test = draw.integers(0, 256, (10000, *shape), np.uint8)
        np.savez(
            root / f"{name}.npz",
            x_train=x_train,
            y_train=np.arange(len(x_train)) % 10,
            x_test=x_test,
            y_test=np.arange(len(x_test)) % 10,
        )
    return root


def steps_of(study: Study, root: Path) -> dict[tuple[str, str], Step]:
    """The steps of a study on random images."""
    data = {
        name: spec.model_copy(update={"source": f"{spec.source}.npz", "stand_in": None})
        if spec.source in SHAPES
        else spec
        for name, spec in study.data.items()
    }
    return study_entries(study.model_copy(update={"data": data}), root)


@pytest.fixture(scope="module")
def wester() -> Study:
    return load_study("wester", "paper")


@pytest.fixture(scope="module")
def martin() -> Study:
    return load_study("martin", "paper")


def cells_of(paper: str, **values: Any) -> Cells:
    return published().where(paper=paper, **values)


def test_every_report_has_its_study() -> None:
    assert set(REPORTS) <= set(names())
    assert {load_study(name).report for name in REPORTS} == set(REPORTS)


@every_report
@at_every_scale
def test_every_published_figure_is_answered_or_waits(name: str, scale: str) -> None:
    study = load_study(name, scale)
    # that none is in two places is checked when a study is read
    assert asking.unanswered(study) == []
    there = {cell.cell_id for cell in cells_of(name)}
    assert asking.questions(study).keys() | asking.waiting(study).keys() == there


@every_report
@at_every_scale
def test_every_study_has_a_plan(name: str, scale: str, data_root: Path) -> None:
    study = load_study(name, scale)
    entries = steps_of(study, data_root)
    check_measurable(study, entries)
    steps = plan(list(entries.values()))
    # nothing is made that no evaluation looks at
    looked_at = plan([step for step in steps if isinstance(step, Evaluate)])
    idle = {f"{step.kind} {step.name}" for step in steps} - {
        f"{s.kind} {s.name}" for s in looked_at
    }
    assert idle == set()


@every_report
def test_smoke_is_small_and_needs_no_download(name: str) -> None:
    study = load_study(name, "smoke")
    for spec in study.data.values():
        assert spec.source == "digits" or (spec.train or 60000) <= 500
    assert all((one.count or 10000) <= 500 for one in study.evaluations.values())


@every_report
def test_most_figures_are_answered_at_cpu_scale_and_all_at_paper_scale(name: str) -> None:
    every = len(cells_of(name))
    assert len(asking.questions(load_study(name, "paper"))) == every
    # the issue asks for 60 % of all reports' figures together
    assert len(asking.questions(load_study(name, "cpu"))) >= 0.3 * every


def test_six_figures_in_ten_are_answered_at_cpu_scale() -> None:
    answered = sum(len(asking.questions(load_study(name, "cpu"))) for name in REPORTS)
    assert answered >= 0.6 * len(published())


@every_report
def test_what_waits_says_at_what_scale_it_comes(name: str) -> None:
    for what in asking.waiting(load_study(name, "cpu")).values():
        assert "paper" in what


@every_report
@at_every_scale
def test_every_study_ends_under_an_adaptive_attacker(name: str, scale: str) -> None:
    study = load_study(name, scale)
    sections = study.adaptive.values()
    seen = [adaptive(study.evaluations[section.evaluation]) for section in sections]
    assert any(seen) if scale == "smoke" else seen and all(seen)
    # each paragraph has the report's numbers
    assert all(len(re.findall(r"\d+", section.claim)) >= 2 for section in sections)


def adaptive(evaluation: EvaluationSpec) -> bool:
    """Whether an attacker who sees the whole guard is among those of an evaluation."""
    threats = evaluation.attacks if evaluation.suite is None else evaluation.threats
    return threats is None or "white-box" in threats


# --- wester -------------------------------------------------------------------------------------


def test_wester_trains_as_its_tables_1_and_2_say(wester: Study) -> None:
    for cell in cells_of("wester", table="t1"):
        batch, epochs = map(int, re.findall(r"\d+", cell.note))
        recipe = wester.networks[str(cell.dataset)].recipe
        assert (recipe["batch_size"], recipe["epochs"]) == (batch, epochs)
        letter = str(cell.model).removeprefix("classifier_")
        assert wester.networks[str(cell.dataset)].architecture == f"wester_{letter}"
    # its Table 2
    table = {
        "mnist": ("C", 512, 350, 32),
        "fashion_mnist": ("C", 512, 350, 128),
        "cifar10": ("D", 256, 1024, 1024),
    }
    for name, (architecture, batch, epochs, latent) in table.items():
        purifier = wester.purifiers[name]
        assert purifier.kind == "PuVAE"
        assert purifier.settings == {"architecture": architecture, "latent": latent}
        assert (purifier.recipe["batch_size"], purifier.recipe["epochs"]) == (batch, epochs)


def test_wester_sets_its_thresholds_where_the_report_does(wester: Study) -> None:
    limits = cells_of("wester", metric="false_positive_rate")
    assert len(limits) == 3
    for cell in limits:
        guard = wester.guards[f"{cell.dataset}-puvae_detector"]
        assert guard.fpr == pytest.approx(cell.value / 100)


@pytest.mark.parametrize(
    ("evaluation", "largest"),
    [("mnist-attacked", 0.3), ("fashion_mnist-attacked", 0.3), ("cifar10-attacked", 0.06)],
)
def test_wester_takes_the_worst_of_thirty_eps(
    wester: Study, evaluation: str, largest: float
) -> None:
    eps = asking.budgets_of(wester.evaluations[evaluation])
    np.testing.assert_allclose(eps, np.linspace(largest / 30, largest, 30))


@at_every_scale
def test_wester_measures_the_published_eps_and_its_attacks_know_of_no_detector(scale: str) -> None:
    study = load_study("wester", scale)
    for cell_id, question in asking.questions(study).items():
        cell = question.cell
        if cell.attack is None or cell.metric != "accuracy":
            continue
        assert question.eps == cell.eps, cell_id
        assert question.attack == cell.attack
        assert question.threat == ("oblivious" if cell.system == "none" else "transfer")
        if question.substitute is not None:
            evaluation = study.evaluations[str(question.evaluation)]
            seen = study.guards[str(evaluation.substitutes[question.substitute].guard)]
            answering = study.guards[str(question.guard)]
            # the same classifier and PuVAE, and nothing that rejects
            assert (seen.network, seen.purifier) == (answering.network, answering.purifier)
            assert not seen.detectors


# --- martin -------------------------------------------------------------------------------------


def test_martins_design_values_are_those_of_the_report(martin: Study) -> None:
    (kappa,) = cells_of("martin", metric="jump_kappa")
    retrofit = martin.networks["jumprelu"].retrofit
    assert retrofit is not None
    assert (retrofit.of, retrofit.kappa) == ("base", kappa.value)
    (tau,) = cells_of("martin", metric="threshold_tau")
    for name in ("logit_detection", "logit_correction"):
        assert martin.guards[name].detectors["logits"].settings["tau"] == tau.value
        assert martin.guards[name].fpr == 0.01


def test_martin_runs_all_nine_attacks_on_one_model(martin: Study) -> None:
    evaluation = martin.evaluations["attacks"]
    assert evaluation.attacks is not None
    kinds = {martin.attacks[name].kind for name in evaluation.attacks["transfer"]}
    assert kinds == {
        *("FGSM", "BIM", "PGD", "MIM", "DeepFool", "CarliniWagner", "NewtonFool", "JSMA", "AdvGAN")
    }
    # AdvGAN's generator never saw the model that is attacked
    (source,) = evaluation.substitutes.values()
    assert source.network == "base"
    fitted = [one for one in martin.attacks.values() if one.kind == "AdvGAN"]
    assert {one.network for one in fitted} == {"madry_cnn"}


def test_martin_compares_six_models(martin: Study) -> None:
    networks = [martin.guards[one].network for one in martin.evaluations["models"].guards]
    architectures = {str(martin.networks[one].architecture) for one in networks}
    assert len(architectures) == 6
    assert {"timm:efficientnet_b3", "timm:mobilenetv2_100", "timm:densenet121"} <= architectures
