"""What a study declares of its report's figures, as typed models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from notsure.studies.forms import FORM, Number, Parameter, Text

Allowed = Parameter | None | tuple[Parameter | None, ...]
"""What may stand in a column of a cell."""


class _Model(BaseModel):
    model_config = FORM


class CellsSpec(_Model):
    """Published figures that one measure of one evaluation answers.

    Every text may hold columns of the cell, as in "{dataset}-32-{training}".

    Attributes:
        of: the cells: by column of `published.csv` a value, a list of values, or null for what the
            report leaves open; always within the study's report.
        measure: how they are measured, one of `notsure.studies.questions.MEASURES`.
        evaluation: whose records they are measured on.
        guard: which guard of it.
        attack: which entry of `attacks`.
        detector: which of the guard's detectors.
        threat: under which threat.
        eps: which budget, where the evaluation has several.
        substitute: of a transfer, as the evaluation calls it.
        network: for measures of a network alone.
        arguments: what the measure needs besides.
        why: deviations, which stand beside the figure.
        differs: in what ours is of another kind, so that nothing is compared.
    """

    of: Annotated[dict[Text, Allowed], Field(min_length=1)]
    measure: Text
    evaluation: Text | None = None
    guard: Text | None = None
    attack: Text | None = None
    detector: Text | None = None
    threat: Text | None = None
    eps: Number | Text | None = None
    substitute: Text | None = None
    network: Text | None = None
    arguments: dict[Text, Any] = {}
    why: str = ""
    differs: str = ""


class WaitingSpec(_Model):
    """Published figures that have no answer at this scale.

    Attributes:
        of: the cells, as in `CellsSpec`.
        what: what they wait for: a scale, a machine, a part.
    """

    of: Annotated[dict[Text, Allowed], Field(min_length=1)]
    what: Text


class AdaptiveSpec(_Model):
    """What an adaptive attacker leaves of the report's systems.

    Attributes:
        evaluation: where they were attacked.
        claim: what the report claimed of them, with its numbers, in a paragraph.
    """

    evaluation: Text
    claim: Text
