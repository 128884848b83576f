"""Several detectors as one, weighed by what they say of adversarial examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.part import given_or_rebuilt
from notsure.detectors.base import Detector
from notsure.observation import Observation

LEAST = 10
"""How many successful adversarial examples it takes to learn from."""

_HELD_OUT = 4
"""One training image in so many is kept from the detectors' fit, to learn from."""


def held_out(x: torch.Tensor) -> torch.Tensor:
    """Which images (B, C, H, W) are kept from the detectors' fit, bool (B,)."""
    return content_keys(x) % _HELD_OUT == 0


class LearnedCombination(Detector):
    """A logistic regression on the scores of several detectors.

    It learns from training images and from what an attack made of them (Ma et al. 2018 and Lee et
    al. 2018 combine their scores of several layers in this way): the scores are standardised by
    their mean and standard deviation over the clean images, both classes weigh the same, and the
    weights have scikit-learn's default L2 penalty. The score is the log-odds that the image is
    adversarial, linear in the scores.

    Only examples that the attack changed, and that fool the classifier, are learnt from. Where
    detectors are fitted, one training image in four, chosen by its content, is kept from them and
    learnt from: the scores of images that a detector was fitted on look more ordinary than others
    will, and it would be trusted too much.

    Of an attack that it has not learnt from, a combination may know less than its best detector
    does. For combinations that are not learnt, see the rules of `notsure.Guard`.

    Args:
        detectors: by name; names hold no dot.

    Raises:
        ConfigurationError: there are none, one is no detector or learns from adversarial examples
            itself, or a name is not fit.
    """

    needs_adversarial = True
    paper = "Ma et al. 2018; Lee et al. 2018"
    fit_cost = "its detectors' costs, and an attack on 2,000 images"
    query_cost = "its detectors' costs"

    weights: torch.Tensor
    bias: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    def __init__(self, detectors: Mapping[str, Detector | Mapping[str, Any]]) -> None:
        super().__init__()
        if not isinstance(detectors, Mapping) or not detectors:
            raise ConfigurationError(
                "detectors has to name at least one: "
                "LearnedCombination({'density': KDensity(), 'confidence': Confidence()})."
            )
        parts: dict[str, nn.Module] = {}
        for name, value in detectors.items():
            if not isinstance(name, str) or not name or "." in name:
                raise ConfigurationError(f"{name!r} is no name of a detector: leave out the dots.")
            part = given_or_rebuilt(value, Detector, f"detectors[{name!r}]")
            if part.needs_adversarial:
                raise ConfigurationError(
                    f"{name!r} learns from adversarial examples itself: give the detectors that "
                    "it is made of."
                )
            parts[name] = part
        self.detectors = nn.ModuleDict(parts)
        self.needs_features = any(part.needs_features for _, part in self.named_detectors())
        self.needs_fit = any(part.needs_fit for _, part in self.named_detectors())
        self._clean: list[torch.Tensor] = []
        self._attacked: list[torch.Tensor] = []
        for buffer in ("weights", "means", "deviations"):
            self.register_buffer(buffer, torch.empty(0, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def named_detectors(self) -> list[tuple[str, Detector]]:
        """The detectors with their names."""
        return [(name, part) for name, part in self.detectors.items() if isinstance(part, Detector)]

    @property
    def fitted(self) -> bool:
        """Whether it has weights, and its detectors are fitted."""
        return len(self.weights) > 0 and all(part.fitted for _, part in self.named_detectors())

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"detectors": {name: part.description() for name, part in self.named_detectors()}}

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._clean, self._attacked = [], []
        for _, part in self.named_detectors():
            part.begin()

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Hands a batch on to the detectors, without what is kept to learn from."""
        if self.needs_fit:
            rows = (~held_out(observation.x)).nonzero().flatten()
            if len(rows) == 0:
                return
            observation, y = observation.select(rows), y[rows]
        for _, part in self.named_detectors():
            part.update(observation, y)

    def finish(self, num_classes: int) -> None:
        """Ends the detectors' fit; the combination is yet to learn."""
        for _, part in self.named_detectors():
            part.finish(num_classes)
        self.weights = self.weights.new_empty(0)

    def learn(
        self, clean: Observation, attacked: Observation, y: torch.Tensor, success: torch.Tensor
    ) -> None:
        """Takes in the scores of training images and of their successful adversarial examples."""
        unseen = held_out(clean.x) if self.needs_fit else torch.ones_like(success)
        # an image that the classifier gets wrong as it is counts as a success of the attack
        changed = (attacked.x != clean.x).flatten(1).any(dim=1)
        for found, observation, which in (
            (self._clean, clean, unseen),
            (self._attacked, attacked, unseen & success & changed),
        ):
            rows = which.nonzero().flatten()
            if len(rows) > 0:
                found.append(self._scores(observation.select(rows)).detach().double())

    def finish_learning(self, num_classes: int) -> None:
        """Fits the regression.

        Raises:
            InputError: fewer than 10 examples fooled the classifier, or a score is not finite.
        """
        from sklearn.linear_model import LogisticRegression

        parts, self._clean, self._attacked = (self._clean, self._attacked), [], []
        counts = [sum(len(scores) for scores in part) for part in parts]
        if counts[1] < LEAST:
            raise InputError(
                f"The attack changed {counts[1]} of {counts[0]} images so that they fool the "
                f"classifier; LearnedCombination needs {LEAST}. Give a stronger attack (a larger "
                "eps), or more images: guard.fit(..., attack=..., examples=...)."
            )
        clean, attacked = (torch.cat(part) for part in parts)
        together = torch.cat([clean, attacked])
        for number, (name, _) in enumerate(self.named_detectors()):
            if not bool(torch.isfinite(together[:, number]).all()):
                raise InputError(
                    f"{name} gives scores that are not finite on what it should learn from: leave "
                    "it out, or check the network's outputs."
                )
        means, deviations = clean.mean(dim=0), clean.std(dim=0)
        # a score that never varies tells nothing, whatever its unit
        deviations = torch.where(deviations > 0, deviations, 1.0)
        adversarial = torch.zeros(len(together), dtype=torch.int64)
        adversarial[len(clean) :] = 1
        regression = LogisticRegression(class_weight="balanced", max_iter=10_000)
        regression.fit(((together - means) / deviations).cpu().numpy(), adversarial.numpy())
        device = clean.device
        self.means, self.deviations = means.clone(), deviations.clone()
        self.weights = torch.from_numpy(regression.coef_[0].copy()).double().to(device)
        self.bias = torch.tensor(
            float(regression.intercept_[0]), dtype=torch.float64, device=device
        )

    def _scores(self, observation: Observation) -> torch.Tensor:
        """(B, M), one column a detector."""
        scores = [part.score(observation) for _, part in self.named_detectors()]
        return torch.stack(scores, dim=1)

    def score(self, observation: Observation) -> torch.Tensor:
        """The log-odds that the images are adversarial, (B,)."""
        self.require_fitted()
        scores = self._scores(observation)
        kind = scores.dtype
        standardised = (scores - self.means.to(kind)) / self.deviations.to(kind)
        return standardised @ self.weights.to(kind) + self.bias.to(kind)
