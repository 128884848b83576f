"""Randomized smoothing: a radius within which no attack changes the smoothed answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from notsure.classifier import Classifier
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import undisturbed
from notsure.core.target import NOT_SURE
from notsure.models import Randomized

__all__ = ["Certificate", "certified_radius", "certify"]

_PURPOSE = 0x534D
"""Keeps the draws of the certificate apart from whatever else a sample draws."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What holds of the smoothed classifier, one entry an image.

    Attributes:
        label: int64 (B,), the class that most noisy copies of the image are taken for; NOT_SURE
            (-1) where the draws do not suffice to say that it is more than half of them.
        radius: float64 (B,), in [0,1] pixel units: no image within this l2 distance gets another
            label. 0 where the label is NOT_SURE.
        votes: int64 (B, K), how many of the `count` draws fell on each class.
    """

    label: torch.Tensor
    radius: torch.Tensor
    votes: torch.Tensor


def certify(
    classifier: Classifier,
    x: torch.Tensor,
    *,
    sigma: float | None = None,
    count: int = 1000,
    selection: int = 100,
    alpha: float = 0.001,
    batch_size: int = 1000,
    seed: int = 0,
) -> Certificate:
    """Certifies the smoothed classifier, which answers what most noisy copies are taken for.

    Cohen et al. 2019 (algorithm CERTIFY): `selection` draws choose the class, `count` others bound
    its probability from below (Clopper-Pearson); the radius is sigma * Phi^-1 of that bound. For
    each image by itself the statement is wrong with probability alpha at most, over the draws. It
    is about the smoothed classifier, not about the bare one, nor about a guard's vote of few draws.

    Args:
        classifier: a classifier that is not stochastic, whose images get the noise, unclipped; or
            one whose module is `Randomized` with Gaussian noise at its input and nowhere else.
        x: images (B, C, H, W) in [0,1].
        sigma: the noise's standard deviation in [0,1] pixel units, > 0; of a randomized network it
            is read off it (its sigma times the classifier's std) and left out here.
        count: how many draws the radius rests on.
        selection: how many others choose the class.
        alpha: how often the statement may be wrong, in (0, 1).
        batch_size: how many noisy images are looked at at a time.
        seed: of the draws; those of an image depend on the image and the seed alone.

    Returns:
        Label, radius and votes of each image.

    Raises:
        ConfigurationError: a setting is out of range, missing, or contradicts the network.
        InputError: the images are not what they have to be.
        UnsupportedError: this is no classifier, or it is random in another way than the
            certificate covers.
    """
    if not isinstance(classifier, Classifier):
        raise UnsupportedError(
            f"Only a Classifier can be certified, not {type(classifier).__name__}: of a guard, "
            "give its guard.classifier; of a bare module, notsure.Classifier(module)."
        )
    if count < 1 or selection < 1 or batch_size < 1:
        raise ConfigurationError("count, selection and batch_size have to be at least 1.")
    if not 0 < alpha < 1:
        raise ConfigurationError(f"alpha is a probability, in (0, 1); got {alpha!r}.")
    level = _level(classifier, sigma)
    x = classifier.check(x)
    with undisturbed(classifier, x.device), torch.inference_mode():
        streams = Streams.of(content_keys(x), seed).fork(_PURPOSE)
        sampling = _Sampling(classifier, x, streams, level, batch_size)
        chosen = sampling.votes(range(selection)).argmax(dim=1)
        votes = sampling.votes(range(selection, selection + count))
    hits = votes.gather(1, chosen[:, None])[:, 0]
    radius = certified_radius(hits, count, sigma=level, alpha=alpha)
    label = torch.where(radius > 0, chosen, NOT_SURE)
    return Certificate(label=label.clone(), radius=radius, votes=votes.clone())


def certified_radius(hits: torch.Tensor, count: int, *, sigma: float, alpha: float) -> torch.Tensor:
    """The radius sigma * Phi^-1(p), p the lower bound of what `hits` of `count` draws show.

    Args:
        hits: integers (B,), 0..count.
        count: the number of draws.
        sigma: the noise's standard deviation.
        alpha: the probability that the bound is too high, over the draws.

    Returns:
        float64 (B,), 0 where p is 1/2 or less.
    """
    from scipy.stats import beta, norm

    found = hits.cpu().double().numpy()
    # of no hits at all the bound is 0, which the distribution leaves undefined
    low = beta.ppf(alpha, found.clip(min=1), count - found.clip(min=1) + 1)
    low = torch.from_numpy(low * (found > 0))
    radius = sigma * torch.from_numpy(norm.ppf(low.clamp_min(0.5).numpy()))
    return torch.where(low > 0.5, radius, 0.0).to(hits.device)


class _Sampling:
    """Answers to noisy copies of images, the same whatever the size of a batch."""

    def __init__(
        self,
        classifier: Classifier,
        x: torch.Tensor,
        streams: Streams,
        sigma: float,
        batch_size: int,
    ) -> None:
        self.classifier, self.x, self.streams, self.sigma = classifier, x, streams, sigma
        self.batch_size = batch_size

    def votes(self, draws: range) -> torch.Tensor:
        """How many of these draws fall on each class, int64 (B, K)."""
        total = len(self.x) * len(draws)
        votes = torch.zeros(0)
        for start in range(0, total, self.batch_size):
            index = torch.arange(start, min(start + self.batch_size, total), device=self.x.device)
            rows = index.div(len(draws), rounding_mode="floor")
            draws_of_rows = self.streams.select(rows).fork(draws.start + index % len(draws))
            logits = self._noisy_logits(self.x[rows], draws_of_rows)
            if start == 0:
                votes = torch.zeros(
                    len(self.x), logits.shape[1], dtype=torch.int64, device=self.x.device
                )
            place = (rows, logits.argmax(dim=1))
            votes.index_put_(place, torch.ones_like(rows), accumulate=True)
        return votes

    def _noisy_logits(self, x: torch.Tensor, streams: Streams) -> torch.Tensor:
        if self.classifier.stochastic:
            with drawing_from(streams):
                return self.classifier.logits(x)
        # the numbers that a randomized network draws at its input
        noise = streams.fork(1).normal(x.shape[1:], dtype=x.dtype)
        return self.classifier.logits(x + self.sigma * noise)


def _level(classifier: Classifier, sigma: float | None) -> float:
    """The noise's standard deviation in [0,1] pixel units."""
    if not classifier.stochastic:
        if sigma is None or not (sigma > 0 and math.isfinite(sigma)):
            raise ConfigurationError(
                "sigma, the standard deviation of the noise in [0,1] pixel units, has to be > 0 "
                f"and finite; got {sigma!r}."
            )
        return float(sigma)
    module = classifier.module
    random_parts = [part for part in module.modules() if getattr(part, "stochastic", False) is True]
    if not isinstance(module, Randomized) or len(random_parts) > 1:
        names = ", ".join(sorted({type(part).__name__ for part in random_parts}))
        raise UnsupportedError(
            f"The certificate is about Gaussian noise on the image, and {names} is random in "
            "another way: certify the network without it."
        )
    if module.noise != "gaussian" or module.layers != ("",):
        raise UnsupportedError(
            f"The certificate is about Gaussian noise on the image; this network has "
            f"{module.noise} noise at the input of {', '.join(map(repr, module.layers))}: certify "
            "its module without it, notsure.Classifier(randomized.module, ...)."
        )
    scale = float(classifier.std.flatten()[0])
    if not bool((classifier.std == scale).all()):
        raise UnsupportedError(
            f"The noise is added after dividing by std={classifier.std.flatten().tolist()}, so "
            "that it is not the same for every channel, and no ball of one radius follows: "
            "train and certify with a single number as std."
        )
    own = module.sigma * scale
    if sigma is not None and not math.isclose(sigma, own, rel_tol=1e-6):
        raise ConfigurationError(
            f"The network brings its own noise, of standard deviation {own:g} in [0,1] pixel "
            f"units; got sigma={sigma!r}: leave it out."
        )
    return own
