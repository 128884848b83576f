"""From a study's questions and what it has yielded so far to a row for every published figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from notsure.core.errors import NotSureError
from notsure.evaluation import Records
from notsure.guard import Guard
from notsure.studies import choices, measures
from notsure.studies.declared import Study
from notsure.studies.examining import Evaluate, MakeGuard, records_of
from notsure.studies.fitted_attacks import FitAttack
from notsure.studies.learning import Network
from notsure.studies.measures import Findings, UnfinishedError
from notsure.studies.parts import Builder
from notsure.studies.questions import (
    MEASURES,
    SMALLEST,
    Question,
    budgets_of,
    cells_of,
    questions,
    waiting,
)
from notsure.studies.results import Result
from notsure.studies.selection import Declared
from notsure.studies.steps import Step
from notsure.studies.store import Store
from notsure.studies.verdicts import Answer, CellRow, judge

_OF_DATA = (Evaluate, MakeGuard, Network)

Measure = Callable[[Question, Findings], Answer]
Entries = Mapping[tuple[str, str], Step]

MEASURED: Mapping[str, Measure] = {
    "clean_error": measures.clean_error,
    "clean_accuracy": measures.clean_accuracy,
    "clean_rejection": measures.clean_rejection,
    "detection_area": measures.detection_area,
    "detection_rate": measures.detection_rate,
    "undetected_ratio": measures.undetected_ratio,
    "distortion": measures.distortion,
    "robust_accuracy": measures.robust_accuracy,
    "worst_robust_accuracy": measures.robust_accuracy,
    "rejected_at_worst": measures.rejected_at_worst,
    "misclassification": measures.misclassification,
    "adversarial_confidence": measures.adversarial_confidence,
    "mean_score": measures.mean_score,
    "distance_at_zero": measures.distance_at_zero,
    "seconds_per_example": choices.seconds_per_example,
    "seconds_ratio": choices.seconds_ratio,
    "parameter_count": choices.parameter_count,
    "setting": choices.setting,
    "best_of": choices.best_of,
    "saturation": choices.saturation,
}
"""The measures, by the names that studies call them."""


def measured(question: Question, findings: Findings) -> Answer:
    """The answer to a question; of several variants the smallest or the largest.

    Raises:
        UnfinishedError: the study has not come to what it is measured on.
        ConfigurationError: the records do not hold what the question asks for.
    """
    measure = MEASURED[question.measure]
    budgets = [] if question.evaluation is None else findings.budgets(question.evaluation)
    tried = [(one, measure(one, findings)) for one in question.variants(budgets)]
    variant, answer = tried[0]
    if question.over:
        known = [one for one in tried if one[1].n > 0] or tried
        choose = min if question.take == SMALLEST else max
        variant, answer = choose(known, key=lambda one: one[1].value)
        at = ", ".join(f"{name} {_word(getattr(variant, name))}" for name in question.over)
        answer = _with(answer, why=f"the {question.take} of {len(tried)}, at {at}")
    return _with(answer, why=question.why, also=findings.remark(question), differs=question.differs)


def _with(answer: Answer, *, why: str = "", also: str = "", differs: str = "") -> Answer:
    return replace(
        answer,
        why="; ".join(filter(None, [why, answer.why, also])),
        differs="; ".join(filter(None, [differs, answer.differs])),
    )


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class StoredFindings:
    """What a study has yielded, read from its store.

    Args:
        study: what `load_study` has read.
        entries: its steps by section and name.
        store: where results are.
    """

    def __init__(self, study: Study, entries: Entries, store: Store) -> None:
        self.study, self.entries, self.store = study, entries, store
        self.scale: str = study.scale
        self._records: dict[str, Records] = {}
        self._modules: dict[str, nn.Module] = {}

    def folder(self, section: str, name: str) -> Path:
        """Where the result of an entry is.

        Raises:
            UnfinishedError: it is not done yet.
        """
        step = self.entries[section, name]
        result: Result | None = self.store.result(step)
        if result is None:
            one = section.removesuffix("s")
            raise UnfinishedError(f"the {one} {name!r} at {self.scale} scale")
        return result.folder

    def records(self, evaluation: str) -> Records:
        """The records of an evaluation."""
        folder = self.folder("evaluations", evaluation)
        if evaluation not in self._records:
            self._records[evaluation] = records_of(folder).without_images()
        return self._records[evaluation]

    def budgets(self, evaluation: str) -> list[float]:
        """The eps of an evaluation."""
        return budgets_of(self.study.evaluations[evaluation])

    def attack(self, name: str) -> Declared:
        """The attack of a name."""
        return _declared(self.study, self.entries, name)

    def module(self, network: str) -> nn.Module:
        """The module of a trained network."""
        folder = self.folder("networks", network)
        if network not in self._modules:
            self._modules[network] = Guard.load(folder).classifier.module
        return self._modules[network]

    def settings(self, section: str, name: str) -> Mapping[str, Any]:
        """What a guard or a network was told, defaults included."""
        step = self.entries[section, name]
        if isinstance(step, MakeGuard):
            return {
                "detectors": step.detectors,
                "corrector": step.corrector,
                "fpr": step.fpr,
                "rule": step.rule,
                "examples": step.examples,
            }
        return dict(self.study.networks[name].model_dump())

    def remark(self, question: Question) -> str:
        """Which data stand in for those that the study asks for."""
        places = (
            ("evaluations", question.evaluation),
            ("guards", question.guard),
            ("networks", question.network),
        )
        steps = [self.entries[section, name] for section, name in places if name is not None]
        step = next((one for one in steps if isinstance(one, _OF_DATA)), None)
        if step is None or not step.data.stands_for:
            return ""
        return f"on {step.data.name}"


def _declared(study: Study, entries: Entries, name: str) -> Declared:
    step, spec = entries.get(("attacks", name)), study.attacks[name]
    if isinstance(step, FitAttack):
        return Declared(name=step.attack.name, settings=step.attack.settings())
    given = {"kind": spec.kind, "settings": spec.settings}
    return Declared.of(Builder().part("attack", given))


def cell_rows(study: Study, entries: Entries, store: Store) -> list[CellRow]:
    """A row for every cell of a study's report: answered, waiting, or not measured yet.

    Args:
        study: what `load_study` has read.
        entries: its steps by section and name.
        store: where results are.

    Raises:
        ConfigurationError: the records do not hold what a group asks for; the message says where
            the group is written.
    """
    findings = StoredFindings(study, entries, store)
    answers: dict[str, Answer] = {}
    missing = waiting(study)
    for cell_id, question in questions(study).items():
        found = _answer(study, question, findings)
        if isinstance(found, Answer):
            answers[cell_id] = found
        else:
            missing[cell_id] = found
    return judge(cells_of(study), answers, missing)


def _answer(study: Study, question: Question, findings: Findings) -> Answer | str:
    """The answer to a question, or what it waits for."""
    try:
        return measured(question, findings)
    except UnfinishedError as error:
        return str(error)
    except NotSureError as error:
        where = ("cells", question.group)
        raise study.error(f"{question.cell.cell_id}: {error}", *where) from error


def check_measurable(study: Study, entries: Entries) -> None:
    """Checks that each question is about one budget, before anything is run.

    Raises:
        ConfigurationError: one is about an attack that is run with several; the message says where
            its group is written.
    """
    for question in questions(study).values():
        if question.evaluation is None or MEASURES[question.measure].every_eps:
            continue
        step = entries["evaluations", question.evaluation]
        attack = question.attack or next(iter(question.over.get("attack", ())), None)
        if not isinstance(step, Evaluate) or attack is None or len(step.eps or ()) < 2:
            continue
        built = _declared(study, entries, attack).attack
        told = question.eps is not None or "eps" in question.over
        if not told and hasattr(built, "with_eps"):
            raise study.error(
                f"{attack!r} is run with several eps in {question.evaluation!r}: say which, "
                "eps: ..., or take the measure over all of them, arguments: {over: eps}.",
                *("cells", question.group),
            )
