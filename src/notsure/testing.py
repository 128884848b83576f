"""Assertions for test suites: a model keeps its robust accuracy, or a test fails and says why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from notsure.attacks import Attack
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.evaluation import Rate
from notsure.guard import Guard
from notsure.integrations.measuring import Robustness, measure

__all__ = ["assert_robust"]


def assert_robust(
    model: Guard | Classifier | nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float | str,
    norm: str = "linf",
    at_least: float,
    attacks: Sequence[Attack] | None = None,
    suite: str = "quick",
    strict: bool = False,
    seed: int = 0,
) -> Robustness:
    """Fails unless enough images are withstood in the worst case over all attacks.

    A test in any suite, with pytest or without:

        def test_the_model_withstands_small_changes():
            assert_robust(model, x, y, eps="8/255", at_least=0.4)

    It is the share itself that is compared, not the end of its interval, and the attacks are
    seeded: the same model and images give the same answer. A model that passes while there are
    signs that an attack was weaker than it looks (no gradients, for one) passes with a warning.

    Args:
        model: a guard, a Classifier, or a bare module on images in [0,1]; a mean and standard
            deviation belong inside, `notsure.Classifier(module, mean=..., std=...)`.
        x: images (N, C, H, W) in [0,1].
        y: their labels (N,).
        eps: the budget in [0,1] pixel units; a number or a fraction such as "8/255".
        norm: of the budget: "linf", "l2" or, with attacks given, "l1".
        at_least: the share of images that have to be withstood, in [0,1].
        attacks: what attacks, see `notsure.integrations.measure`; by default those of the suite.
        suite: "quick", "standard" or "full", where no attacks are given.
        strict: whether a rejected image counts as lost, and not as safe.
        seed: of the attacks.

    Returns:
        The figures, for further questions.

    Raises:
        AssertionError: fewer are withstood; the message has the share with n and interval, the
            attack that leaves least, and the clean accuracy.
        ConfigurationError: at_least or eps is out of range.
    """
    __tracebackhide__ = True
    if not (isinstance(at_least, float | int) and 0 <= at_least <= 1):
        raise ConfigurationError(f"at_least is a share of images, in [0,1]; got {at_least!r}.")
    found = measure(model, x, y, eps=eps, norm=norm, attacks=attacks, suite=suite, seed=seed)
    left = found.strict if strict else found.lenient
    # a share of counts: 3 of 10 is 0.3
    enough = math.ceil(at_least * left.n - 1e-9)
    if left.count < enough:
        raise AssertionError(_message(found, left, at_least, enough, strict))
    if found.flags:
        told = " ".join(f"{flag.name}: {flag.because} {flag.remedy}" for flag in found.flags)
        warnings.warn(
            f"{_share(left)} are withstood, which is enough, but there are signs that the attacks "
            f"were weaker than they look. {told}",
            stacklevel=2,
        )
    return found


def _message(found: Robustness, left: Rate, at_least: float, enough: int, strict: bool) -> str:
    size = f"eps = {found.eps:.4g} ({255 * found.eps:.4g}/255)"
    counting = "rejected images counted as lost" if strict else "rejected images counted as safe"
    rejecting = f", {counting}" if found.clean_rejection.count or strict else ""
    strongest, alone = next(iter(found.attacks.items()))
    others = ", ".join(list(found.attacks)[1:])
    beside = f"the worst case is over {others} as well" if others else "there is no other"
    rejected = found.clean_rejection
    flagged = f" and {_share(rejected)} rejected" if rejected.count else ""
    lines = [
        f"robust accuracy {_share(left)} is below {100 * at_least:g} %: {left.count} of {left.n} "
        f"images are withstood and {enough} have to be ({found.norm} {size}{rejecting}).",
        f"The strongest attack is {strongest}, which alone leaves {_share(alone)}; {beside}.",
        f"Unattacked, {_share(found.clean_accuracy)} are right{flagged}.",
    ]
    if left.low < at_least <= left.high:
        lines.append(
            "The interval reaches beyond what is asked for: more images would tell whether the "
            "model is at fault, or chance."
        )
    return "\n".join(lines)


def _share(rate: Rate) -> str:
    """A rate as "41.0 % [35.6, 46.6], n = 300"."""
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}], n = {rate.n}"
