"""What a study declares of its report's figures that are pictures, as typed models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from notsure.studies.forms import FORM, Text

Picture = Literal[
    "eps",
    "rejected",
    "attacks",
    "distance",
    "distance-attacks",
    "queries",
    "scores",
    "features",
    "parameters",
    "areas",
    "images",
    "reconstructions",
    "errors",
    "distortions",
]
"""What a picture shows.

- eps: what each attack leaves at each eps, the guards in one plot;
- rejected: the share that is rejected, in the same way;
- attacks: the same, the attacks in one plot;
- distance, distance-attacks: the same against the measured l2 distance;
- queries: success against queries;
- scores: how the detectors' scores are spread, clean and attacked;
- features: t-SNE of the clean images' features;
- parameters: heat maps over the guards' parameters;
- areas: those of areas under the ROC curve alone;
- images: clean and attacked images, with what the guard says of them;
- reconstructions: an image as every class, by a guard's PuVAE;
- errors: a table of error rates, clean and under each attack;
- distortions: a table of how far the images that fool are from the clean ones.
"""

PICTURE_OF_CLASSES = "reconstructions"
"""The picture that takes the guard itself, besides the records."""


class _Model(BaseModel):
    model_config = FORM


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FigureSpec(_Model):
    """A figure of the report, and which picture of which records stands for it.

    Attributes:
        shows: what is to be seen in the report's figure, in a sentence.
        picture: what ours is.
        evaluations: on whose records it is drawn, a picture each; one may stand alone.
        guards: which of their guards; None for all.
        attacks: which entries of `attacks`; None for all that were run.
        disabled: whether the detectors are taken away, so that every answer counts.
        why: in what ours differs.
    """

    shows: Text
    picture: Picture
    evaluations: Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)]
    guards: Annotated[tuple[Text, ...] | None, Field(min_length=1)] = None
    attacks: Annotated[tuple[Text, ...] | None, Field(min_length=1)] = None
    disabled: bool = False
    why: str = ""
