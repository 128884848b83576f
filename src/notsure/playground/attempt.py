"""One attempt to fool a guard with one image, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from notsure.attacks import Attack
from notsure.core.errors import ConfigurationError
from notsure.core.target import NOT_SURE, Adversarial
from notsure.evaluation.threats import threat_named
from notsure.guard import Guard
from notsure.playground.judgement import Judgement, judgement_of

Outcome = Literal["held", "rejected", "right", "fooled"]
"""What came of an attempt: the attack found nothing; or what it found was rejected by the guard,
answered rightly all the same, or answered wrongly."""

THREATS = ("oblivious", "white-box")
"""The threats that can be tried: the bare classifier is attacked, or the whole guard."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One attack on one image.

    Attributes:
        attack: with all its settings, as the threat has adapted it.
        threat: what the attacker knows.
        label: what the attack goes away from: the image's true label where it is known, otherwise
            what the attacked target says of the clean image.
        label_known: which of the two.
        adversarial: what the attack gave back, a batch of one.
        before: what the guard says of the clean image.
        after: what it says of what the attack gave back.
    """

    attack: Attack
    threat: str
    label: int
    label_known: bool
    adversarial: Adversarial
    before: Judgement
    after: Judgement

    @property
    def succeeded(self) -> bool:
        """Whether the attacked target gave in; the guard may see to it all the same."""
        return bool(self.adversarial.success)

    @property
    def untouched(self) -> bool:
        """Whether the target was wrong about the clean image already, so nothing was changed."""
        return self.succeeded and torch.equal(self.before.image, self.after.image)

    @property
    def outcome(self) -> Outcome:
        """What the guard, as it is deployed, makes of it."""
        if not self.succeeded:
            return "held"
        if self.after.label == NOT_SURE:
            return "rejected"
        return "right" if self.after.label == self.label else "fooled"


def attempt(
    guard: Guard,
    x: torch.Tensor,
    attack: Attack,
    *,
    threat: str = "oblivious",
    label: int | None = None,
    seed: int = 0,
) -> Attempt:
    """Attacks one image and asks the guard before and after.

    Args:
        guard: fitted and calibrated.
        x: the image, (1, C, H, W) in [0,1], on the guard's device.
        attack: as it was chosen; the threat adapts it to the guard.
        threat: "oblivious" attacks the bare classifier, "white-box" the whole guard.
        label: the image's true label; None where nobody knows it. Then the attack goes away from
            what its target says of the clean image, before any rejection.
        seed: of whatever is random in the attack and in the guard.

    Returns:
        What the attack found, and what the guard says before and after.

    Raises:
        InputError: the image is not what the guard takes, or there is no such label.
        UnsupportedError: the attack does not apply to this target.
        ConfigurationError: there is no such threat here, or the attack's budget does not fit images
            of this size.
    """
    if threat not in THREATS:
        raise ConfigurationError(
            f"The attacker is {' or '.join(THREATS)} here; got {threat!r}. notsure.evaluate knows "
            "all threats."
        )
    known = threat_named(threat)
    attack = known.adapt(attack, guard)
    before = judgement_of(guard, x, seed=seed)
    target = known.target(guard)
    own = before.prediction if target is guard else before.bare
    truth = own if label is None else label
    found = attack(target, x, torch.tensor([truth], device=x.device), seed=seed)
    return Attempt(
        attack=attack,
        threat=threat,
        label=truth,
        label_known=label is not None,
        adversarial=found,
        before=before,
        after=judgement_of(guard, found.x, seed=seed),
    )
