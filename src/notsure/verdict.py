"""What a guard says of a batch, and how several draws of a stochastic guard become one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from notsure.core.target import NOT_SURE


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a batch.

    Attributes:
        label: int64 (B,), NOT_SURE (-1) where the image is rejected.
        accepted: bool (B,).
        scores: per detector (B,), higher = more adversarial.
        prediction: int64 (B,), the label before any rejection.
        rejection: (B,), how far the scores are above their thresholds (positive = flagged), in
            units of the distance from the clean median to the threshold; -inf without detectors.
        margin: (B,), the largest logit minus the second largest, as a share of the largest
            absolute logit: a decision by less than rounding shows here.
        corrected: bool (B,), where a corrector has answered in the classifier's place.
    """

    label: torch.Tensor
    accepted: torch.Tensor
    scores: Mapping[str, torch.Tensor]
    prediction: torch.Tensor
    rejection: torch.Tensor
    margin: torch.Tensor
    corrected: torch.Tensor

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: slice) -> Verdict:
        """What it says of some of the images."""
        parts = {name: value for name, value in vars(self).items() if name != "scores"}
        return Verdict(
            scores={name: score[rows] for name, score in self.scores.items()},
            **{name: value[rows] for name, value in parts.items()},
        )

    def replaced(self, rows: torch.Tensor, by: Verdict) -> Verdict:
        """The same but for some rows, int64 (R,), of which another verdict tells.

        Args:
            rows: of this verdict, int64 (R,).
            by: what is said of these, in their order.
        """

        def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return old.clone().index_copy_(0, rows, new)

        parts = {name: value for name, value in vars(self).items() if name != "scores"}
        return Verdict(
            scores={name: put(score, by.scores[name]) for name, score in self.scores.items()},
            **{name: put(value, getattr(by, name)) for name, value in parts.items()},
        )


@dataclass(frozen=True, eq=False)
class Opinion:
    """One pass of a guard over a batch.

    Attributes:
        logits: (B, K), the corrector's scores where it answers.
        flagged: (B,), how far the scores are above their thresholds.
        scores: per detector (B,).
    """

    logits: torch.Tensor
    flagged: torch.Tensor
    scores: Mapping[str, torch.Tensor]


def verdict_of(opinions: list[Opinion], *, corrects: bool) -> Verdict:
    """One verdict from one opinion, or from several draws by majority.

    The label is the commonest one, of equals the smallest; scores, rejection and margin are medians
    over the draws, so that an odd number of them rejects where most do.
    """
    logits = torch.stack([opinion.logits for opinion in opinions])
    top = logits.topk(2, dim=2).values
    size = logits.abs().amax(dim=2).clamp_min(1e-30)
    prediction = logits.argmax(dim=2).mode(dim=0).values
    flagged = torch.stack([opinion.flagged for opinion in opinions]).median(dim=0).values
    accepted = torch.ones_like(flagged, dtype=torch.bool) if corrects else flagged <= 0
    return Verdict(
        label=torch.where(accepted, prediction, NOT_SURE),
        accepted=accepted,
        scores={
            name: torch.stack([opinion.scores[name] for opinion in opinions]).median(dim=0).values
            for name in opinions[0].scores
        },
        prediction=prediction,
        rejection=flagged,
        margin=((top[..., 0] - top[..., 1]) / size).median(dim=0).values,
        corrected=(flagged > 0) & corrects,
    )


def joined(parts: list[Verdict]) -> Verdict:
    """The verdicts of consecutive batches as one."""
    names = parts[0].scores
    return Verdict(
        label=torch.cat([part.label for part in parts]).clone(),
        accepted=torch.cat([part.accepted for part in parts]).clone(),
        scores={name: torch.cat([part.scores[name] for part in parts]).clone() for name in names},
        prediction=torch.cat([part.prediction for part in parts]).clone(),
        rejection=torch.cat([part.rejection for part in parts]).clone(),
        margin=torch.cat([part.margin for part in parts]).clone(),
        corrected=torch.cat([part.corrected for part in parts]).clone(),
    )
