"""Robust accuracy in one call: what metrics, callbacks and assertions are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from notsure.attacks import Attack
from notsure.classifier import Classifier
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.evaluation import Flag, Rate, Records, evaluate, wilson
from notsure.evaluation.conclusions import ABOUT_THE_ATTACK
from notsure.evaluation.intervals import rate_of
from notsure.evaluation.outcomes import outcomes
from notsure.evaluation.threats import CLEAN, Oblivious, WhiteBox
from notsure.guard import Guard
from notsure.integrations.precision import in_its_precision

NORMS = ("linf", "l2", "l1")
"""The norms in which a budget is given; a suite has attacks for the first two."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images there were, and what became of them; counts of batches add up.

    Attributes:
        n: all images.
        right: accepted and right, unattacked.
        rejected: rejected, unattacked.
        fooled: accepted and wrong, unattacked or under any attack.
        held: accepted and right, unattacked and under every attack.
    """

    n: int
    right: int
    rejected: int
    fooled: int
    held: int

    @property
    def clean_accuracy(self) -> Rate:
        """Unattacked images that are accepted and right, over all."""
        return wilson(self.right, self.n)

    @property
    def clean_rejection(self) -> Rate:
        """Unattacked images that are rejected, over all."""
        return wilson(self.rejected, self.n)

    @property
    def lenient(self) -> Rate:
        """Robust accuracy over all images, counting a rejected one as safe."""
        return wilson(self.n - self.fooled, self.n)

    @property
    def strict(self) -> Rate:
        """Robust accuracy over all images, counting a rejected one as lost."""
        return wilson(self.held, self.n)


@dataclass(frozen=True, kw_only=True)
class Robustness(Counts):
    """What is left of a model in the worst case, image by image, within one budget.

    Attributes:
        norm: of the budget.
        eps: the budget in [0,1] pixel units.
        attacks: robust accuracy, lenient, under each attack alone with its smaller budgets, the
            strongest first; by name, "white-box PGD".
        flags: the signs, of those that are raised, that an attack was weaker than it looks.
        records: what happened to every image.
    """

    norm: str
    eps: float
    attacks: Mapping[str, Rate]
    flags: tuple[Flag, ...]
    records: Records


def measure(
    model: Guard | Classifier | nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float | str,
    norm: str = "linf",
    attacks: Sequence[Attack] | None = None,
    suite: str = "quick",
    seed: int = 0,
    batch_size: int = 256,
) -> Robustness:
    """Attacks a model that the attacker sees whole, detectors included, and counts what is left.

    An image counts as fooled if it is accepted and wrong as it is, or after any of the attacks
    within the budget, whatever the attack was meant for: see `notsure.evaluation.robustness`.

    Args:
        model: a guard, a Classifier, or a bare module on images in [0,1]; it is left as it was,
            in training or not. Weights of less precision than float32, in which no budget can be
            kept, are taken in float32 for the while.
        x: images (N, C, H, W) in [0,1] on the model's device, which no guard was fitted on.
        y: their labels (N,).
        eps: the budget in [0,1] pixel units; a number or a fraction such as "8/255".
        norm: of the budget: "linf", "l2" or, with attacks given, "l1".
        attacks: what attacks; bounded ones get this eps in place of their own, others count where
            they come within it. By default those of the suite that suit the model: under the
            white-box threat, and under the oblivious one for what has more than a classifier.
        suite: "quick", "standard" or "full", where no attacks are given.
        seed: of the attacks.
        batch_size: how many images are attacked at a time.

    Returns:
        Counts with their rates, what each attack leaves, and flags.

    Raises:
        ConfigurationError: the budget is out of range, or an attack is bounded in another norm.
        NotSureError: anything that `notsure.evaluate` raises.
    """
    radius = parse_size(eps, what="eps")
    if norm not in NORMS:
        raise ConfigurationError(f"norm is {', '.join(NORMS)}; got {norm!r}.")
    for attack in attacks or ():
        if attack.budget is not None and attack.budget.norm.name != norm:
            raise ConfigurationError(
                f"{attack.name} is bounded in {attack.budget.norm.name}, and the budget is one in "
                f"{norm}: give norm={attack.budget.norm.name!r}, or an attack in {norm}."
            )
    if not isinstance(model, Guard):
        model, x = in_its_precision(model, x)
    guard = model if isinstance(model, Guard) else Guard(model)
    # before a bare classifier both see the same
    more = attacks is None and (guard.rejects or guard.purifier is not None or guard.corrector)
    records = evaluate(
        guard,
        x,
        y,
        attacks=attacks,
        suite=suite if attacks is None else None,
        threats=[Oblivious.name, WhiteBox.name] if more else [WhiteBox.name],
        eps=[radius],
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        illustrated=0,
        embedded=0,
        probes=0,
        controlled=0,
    )
    return _read(records, norm, radius)


def _read(records: Records, norm: str, eps: float) -> Robustness:
    """The figures of the records of one guard."""
    found = outcomes(records, norm=norm, eps=eps)
    alone = {}
    for threat, attack, identity in records.distinct("threat", "attack", "attack_id"):
        if threat == CLEAN:
            continue
        own = outcomes(records, norm=norm, eps=eps, threats=[threat], attack_id=identity)
        name = f"{threat} {attack}"
        alone[f"{name} #{identity}" if name in alone else name] = rate_of(~own.fooled)
    return Robustness(
        n=len(found.right),
        right=int(found.right.sum()),
        rejected=int(found.rejected.sum()),
        fooled=int(found.fooled.sum()),
        held=int(found.held.sum()),
        norm=norm,
        eps=eps,
        attacks=dict(sorted(alone.items(), key=lambda one: one[1].value)),
        flags=tuple(f for f in records.flags() if f.raised and f.name in ABOUT_THE_ATTACK),
        records=records,
    )
