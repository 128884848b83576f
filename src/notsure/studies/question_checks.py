"""Whether a study can answer the questions that it asks, told before anything is run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from notsure.core.errors import ConfigurationError
from notsure.studies.declared import EvaluationSpec, Study
from notsure.studies.document import nearest
from notsure.studies.questions import (
    FIELDS,
    LARGEST,
    MEASURES,
    OVER,
    SMALLEST,
    TAKE,
    Question,
    budgets_of,
    is_size,
    questions,
    waiting,
)

TRANSFER = "transfer"


def check_questions(study: Study) -> None:
    """Checks what a study says of cells.

    Raises:
        ConfigurationError: as `questions` and `waiting`; a cell has a group and waits as well; a
            group does not tell its measure what that needs; or it names what is not there. The
            message says where it is written.
    """
    asked = questions(study)
    for cell_id in waiting(study):
        if cell_id in asked:
            raise study.error(
                f"{cell_id} is in this group, and it waits: leave it out of one.",
                *("cells", asked[cell_id].group, "of"),
            )
    for question in asked.values():
        check = _Check(study, question)
        check.form()
        evaluation = study.evaluations.get(question.evaluation or "")
        variants = list(question.variants([] if evaluation is None else budgets_of(evaluation)))
        if not variants:
            raise check.error(
                f"The evaluation {question.evaluation!r} has no eps to take {question.measure} "
                "over."
            )
        for variant in variants:
            _Check(study, variant).places()


class _Check:
    """The checks of one question."""

    def __init__(self, study: Study, question: Question) -> None:
        self.study, self.question = study, question
        self.arguments = question.arguments

    def error(self, text: str, *path: str, key: bool = False) -> ConfigurationError:
        """The error that points into the question's group."""
        return self.study.error(text, "cells", self.question.group, *path, key=key)

    def form(self) -> None:
        """That the measure exists and is told what it needs, and nothing that it does not know."""
        question = self.question
        if question.measure not in MEASURES:
            raise self.error(
                f"There is no measure {question.measure!r}.{nearest(question.measure, MEASURES)}",
                "measure",
            )
        needs = MEASURES[question.measure]
        self._over()
        missing = [
            name
            for name in needs.fields
            if getattr(question, name) is None and name not in question.over
        ]
        missing += [f"arguments: {name}" for name in needs.required if name not in self.arguments]
        if missing:
            raise self.error(f"{question.measure} needs {' and '.join(missing)}.")
        for name in self.arguments:
            if name not in needs.arguments:
                raise self.error(
                    f"{question.measure} has no argument {name!r}.{nearest(name, needs.arguments)}",
                    *("arguments", name),
                    key=True,
                )
        self._values()

    def _over(self) -> None:
        over = self.arguments.get(OVER, "eps")
        axes = over if isinstance(over, Mapping) else {over: "all"}
        for name, values in axes.items():
            listed = isinstance(values, list) and len(values) > 0
            if name not in FIELDS or not (listed or (name == "eps" and values == "all")):
                raise self.error(
                    "over is eps, for all of an evaluation's, or by field a list of values, such "
                    f"as {{attack: [fgsm, pgd]}}; got {over!r}. The fields: {', '.join(FIELDS)}.",
                    *("arguments", OVER),
                )
            if name == "eps" and listed and not all(is_size(value) for value in values):
                raise self.error(
                    f"eps are numbers or fractions, such as 0.1 or 8/255; got {values!r}.",
                    *("arguments", OVER),
                )
        if self.question.take not in (SMALLEST, LARGEST):
            raise self.error(
                f"take is {SMALLEST} or {LARGEST}; got {self.question.take!r}.",
                *("arguments", TAKE),
            )

    def _values(self) -> None:
        """That arguments are of the right kind."""
        for name, low, high in (
            ("quantile", 0.0, 1.0),
            ("share", 0.0, 1.0),
            ("within", 0.0, 1.0),
            ("count", 1.0, math.inf),
            ("above", -math.inf, math.inf),
        ):
            value = self.arguments.get(name, low)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and low <= value <= high):
                raise self.error(
                    f"{name} is a number from {low:g} to {high:g}; got {value!r}.",
                    *("arguments", name),
                )
        for name in ("guards", "attacks", "others"):
            value = self.arguments.get(name, {"": ""})
            if not (isinstance(value, Mapping) and value):
                raise self.error(
                    f"{name} is a mapping of at least one; got {value!r}.", "arguments", name
                )
        question = self.question
        if question.measure == "mean_score" and (question.attack is None) != (
            question.threat is None
        ):
            raise self.error("Give attack and threat, or neither for the clean images.")
        if question.measure == "setting":
            if ("path" in self.arguments) == ("value" in self.arguments):
                raise self.error("A setting has a path or a value: give one.", "arguments")
            if "path" in self.arguments and (question.guard is None) == (question.network is None):
                raise self.error("The path is into a guard or a network: name one of them.")

    def places(self) -> None:
        """That what it names is there."""
        question, study = self.question, self.study
        if question.network is not None:
            self._among(question.network, study.networks, "network")
        if question.evaluation is None:
            if question.guard is not None:
                self._among(question.guard, study.guards, "guard")
            return
        self._among(question.evaluation, study.evaluations, "evaluation")
        evaluation = study.evaluations[question.evaluation]
        if question.guard is not None:
            self._guard(question.guard, evaluation, "guard")
        if question.eps is not None and evaluation.eps is not None:
            known = budgets_of(evaluation)
            if not any(math.isclose(question.eps, one, rel_tol=1e-9) for one in known):
                raise self.error(
                    f"The evaluation {question.evaluation!r} has no eps {question.eps:g}. It has "
                    f"{', '.join(f'{one:g}' for one in known)}.",
                    "eps",
                )
        if question.threat is not None:
            self._attacks(evaluation, question.threat)
        for name in self.arguments.get("guards", {}):
            self._guard(name, evaluation, "arguments", "guards", name)
        for name, guard in self.arguments.get("others", {}).items():
            self._among(name, study.evaluations, "evaluation", "arguments", "others", name)
            self._guard(guard, study.evaluations[name], "arguments", "others", name)

    def _guard(self, name: str, evaluation: EvaluationSpec, *path: str) -> None:
        self._among(name, evaluation.guards, "guard of the evaluation", *path)
        detector, known = self.question.detector, self.study.guards[name].detectors
        if detector is not None:
            self._among(detector, known, f"detector of the guard {name!r}:", "detector")

    def _attacks(self, evaluation: EvaluationSpec, threat: str) -> None:
        question = self.question
        if evaluation.attacks is None:
            raise self.error(
                f"The evaluation {question.evaluation!r} runs a suite, whose attacks have no names "
                "in the study: measure on one that lists its attacks.",
                "evaluation",
            )
        self._among(threat, evaluation.attacks, "threat in the evaluation", "threat")
        named = [question.attack, self.arguments.get("to"), *self.arguments.get("attacks", {})]
        for name in named:
            if name is not None:
                self._among(name, evaluation.attacks[threat], f"attack under {threat!r}:", "attack")
        if threat != TRANSFER:
            if question.substitute is not None:
                raise self.error(f"Under {threat!r} there is no substitute.", "substitute")
        elif question.substitute is not None:
            self._among(question.substitute, evaluation.substitutes, "substitute")
        elif len(evaluation.substitutes) > 1:
            raise self.error(
                f"The evaluation has several substitutes, {', '.join(evaluation.substitutes)}: say "
                "which, substitute: ..."
            )

    def _among(self, name: str, known: Collection[str], what: str, *path: str) -> None:
        if name not in known:
            raise self.error(
                f"There is no {what} {name!r}, for {self.question.cell.cell_id}."
                f"{nearest(name, known)}",
                *(path or (what,)),
            )
