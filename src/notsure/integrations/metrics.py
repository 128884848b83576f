"""Metrics in the manner of torchmetrics, and of its class where that is installed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from notsure.attacks import Attack
from notsure.classifier import Classifier
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError, InputError
from notsure.evaluation import Area, Rate, area_under_roc
from notsure.guard import Guard
from notsure.integrations.accumulation import Metric
from notsure.integrations.measuring import Counts, measure

_COUNTS = ("n", "right", "rejected", "fooled", "held")


class RobustAccuracy(Metric):
    """Robust accuracy in the worst case, image by image, over the batches that it was shown.

    Unlike a metric of predictions it attacks, so that `update` takes the model and images:

        metric = RobustAccuracy(eps="8/255")
        for x, y in batches:
            metric.update(model, x, y)
        metric.compute()  # tensor(0.4120)
        metric.rates()["lenient"]  # with n and interval

    Where torchmetrics is installed it is a `torchmetrics.Metric`, with the sums over processes and
    the collections that come with it. The model is no part of the metric's state.

    Args:
        eps: the budget in [0,1] pixel units; a number or a fraction such as "8/255".
        norm: of the budget, see `notsure.integrations.measure`.
        attacks: what attacks; by default those of the suite.
        suite: "quick", "standard" or "full", where no attacks are given.
        strict: whether a rejected image counts as lost, and not as safe.
        seed: of the attacks.

    Raises:
        ConfigurationError: eps is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    # one pass over a batch gives its value and adds it to the sum
    full_state_update = False

    n: torch.Tensor
    right: torch.Tensor
    rejected: torch.Tensor
    fooled: torch.Tensor
    held: torch.Tensor

    def __init__(
        self,
        *,
        eps: float | str,
        norm: str = "linf",
        attacks: Sequence[Attack] | None = None,
        suite: str = "quick",
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.eps, self.norm = parse_size(eps, what="eps"), norm
        self.attacks = None if attacks is None else tuple(attacks)
        self.suite, self.strict, self.seed = suite, strict, seed
        for name in _COUNTS:
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, model: Guard | Classifier | nn.Module, x: torch.Tensor, y: torch.Tensor
    ) -> None:
        """Attacks a batch.

        Args:
            model: a guard, a Classifier, or a bare module on images in [0,1].
            x: images (B, C, H, W) in [0,1] on the model's device.
            y: their labels (B,).
        """
        found = measure(
            model,
            x,
            y,
            eps=self.eps,
            norm=self.norm,
            attacks=self.attacks,
            suite=self.suite,
            seed=self.seed,
        )
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(found, name))

    def compute(self) -> torch.Tensor:
        """The robust accuracy, a number in [0,1]; NaN before any image."""
        counts = self.counts()
        return torch.tensor((counts.strict if self.strict else counts.lenient).value)

    def rates(self) -> dict[str, Rate]:
        """Every rate with its n and 95 % interval, over all processes.

        "clean_accuracy", "clean_rejection", and robust accuracy "lenient" and "strict".
        """
        with self.sync_context():
            counts = self.counts()
        names = ("clean_accuracy", "clean_rejection", "lenient", "strict")
        return {name: getattr(counts, name) for name in names}

    def counts(self) -> Counts:
        """The counts of this process."""
        return Counts(**{name: int(getattr(self, name)) for name in _COUNTS})


class DetectionAUROC(Metric):
    """The area under the ROC curve of a detector's scores; adversarial is the positive class.

        metric = DetectionAUROC()
        metric.update(guard.judge(clean).scores["KDensity"], False)
        metric.update(guard.judge(attacked).scores["KDensity"], True)
        metric.compute()
        metric.area()  # with both n and the interval

    Where torchmetrics is installed it is a `torchmetrics.Metric`. Scores are kept until `reset`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    clean: list[torch.Tensor]
    adversarial: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("clean", [], dist_reduce_fx="cat")
        self.add_state("adversarial", [], dist_reduce_fx="cat")

    def update(self, scores: torch.Tensor, adversarial: torch.Tensor | bool) -> None:
        """Takes in scores.

        Args:
            scores: (B,), higher = more adversarial.
            adversarial: which of them are of adversarial images, bool or 0 and 1 (B,); or one word
                for all.

        Raises:
            ConfigurationError: a score is NaN.
            InputError: there is not one score and one word for each image.
        """
        scores = scores.detach()
        which = torch.as_tensor(adversarial, device=scores.device)
        if scores.ndim != 1 or which.shape not in {(), scores.shape}:
            raise InputError(
                f"Scores are (B,) and whether they are adversarial is (B,) or one bool; got "
                f"{tuple(scores.shape)} and {tuple(which.shape)}."
            )
        if which.is_floating_point() or bool(((which != 0) & (which != 1)).any()):
            raise InputError(
                "Whether scores are of adversarial images is said by bool, or 0 and 1."
            )
        if bool(scores.isnan().any()):
            raise ConfigurationError(
                f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN: no order can be "
                "made of them."
            )
        which = which.bool().expand(scores.shape)
        self.clean.append(scores[~which])
        self.adversarial.append(scores[which])

    def compute(self) -> torch.Tensor:
        """The area in [0,1]; NaN unless there are scores of both."""
        return torch.tensor(self._area().value)

    def area(self) -> Area:
        """The area with both n and its 95 % interval, over all processes."""
        with self.sync_context():
            return self._area()

    def _area(self) -> Area:
        return area_under_roc(_together(self.clean), _together(self.adversarial))


def _together(scores: list[torch.Tensor] | torch.Tensor) -> list[float]:
    """All scores; a list of batches has become one tensor where processes were put together."""
    parts = [scores] if isinstance(scores, torch.Tensor) else scores
    return [value for part in parts for value in part.double().cpu().tolist()]
