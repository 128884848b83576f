"""The examiner: attacks guards under threats and writes down what happened to every image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import notsure
from notsure.attacks import Attack
from notsure.classifier import Classifier
from notsure.core.checks import check_labels, parse_size
from notsure.core.errors import (
    ConfigurationError,
    NotFittedError,
    UnsupportedError,
    VerificationError,
)
from notsure.core.progress import progress_bar
from notsure.core.state import undisturbed, weights_hash
from notsure.core.target import Adversarial, Target
from notsure.evaluation.records import SCORE, Records
from notsure.evaluation.threats import CLEAN, Threat, threat_named
from notsure.guard import Guard
from notsure.verdict import Verdict

TIE_TOLERANCE = 1e-3
"""Decisions closer than this may flip by rounding: a share of the logits' size for the class, and
of the distance from clean median to threshold for the rejection."""


_Shared = dict[tuple[int, str, int], tuple[Adversarial, float]]
"""What attacks on a classifier found, by (target, attack, first row), for all guards around it."""


def evaluate(
    guard: Guard | Classifier | nn.Module | Mapping[str, Guard],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    attacks: Sequence[Attack],
    threats: Sequence[str | Threat] = ("oblivious", "white-box"),
    eps: Sequence[float | str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    data: str = "",
    class_names: Sequence[str] | None = None,
    illustrated: int = 12,
    embedded: int = 1000,
    progress: bool = False,
) -> Records:
    """Attacks guards under threats and records what happened to every image.

    Every adversarial image is judged by the guard, whatever the attack was shown, and judged again
    at another batch size; decisions that differ by more than rounding are an error.

    Args:
        guard: a calibrated guard, several by name, or a bare classifier.
        x: test images (N, C, H, W) in [0,1], which no guard was fitted or calibrated on.
        y: their labels (N,).
        attacks: what attacks them.
        threats: what the attacker knows: "oblivious", "white-box", or Threat objects.
        eps: budgets to run each bounded attack with, in place of its own.
        seed: of the attacks.
        batch_size: how many images are attacked at a time.
        data: the name of the data, for the report.
        class_names: the names of the classes, for the report.
        illustrated: of how many images the pixels are kept, for the report.
        embedded: of how many clean images the features are kept, for the report.
        progress: whether to show progress bars.

    Returns:
        One record per image for the clean image, and one per image x attack x eps x threat.

    Raises:
        ConfigurationError: there is no attack or threat, or two are the same.
        InputError: images or labels are not what they have to be, or were used before.
        NotFittedError: a guard is not calibrated.
        VerificationError: a result did not hold when it was judged again.
    """
    guards = _guards(guard)
    runs = [threat_named(threat) for threat in threats]
    variants = _variants(attacks, eps)
    if not runs:
        raise ConfigurationError("There is no threat: give 'oblivious', 'white-box' or both.")
    if len({threat.name for threat in runs}) < len(runs):
        raise ConfigurationError("A threat is given twice: give each once.")
    shared: _Shared = {}
    examiners = {
        name: _Examiner(name, one, x, y, seed, batch_size, shared) for name, one in guards.items()
    }
    total = len(x) * len(guards) * len(runs) * len(variants)
    batches: list[dict[str, Any]] = []
    with progress_bar("attacking", total, shown=progress) as advance:
        for examiner in examiners.values():
            batches.append(examiner.clean_columns(illustrated, embedded))
            for threat in runs:
                for attack in variants:
                    batches.extend(examiner.attack_columns(threat, attack, illustrated, advance))
    meta = {
        "notsure": notsure.__version__,
        "torch": torch.__version__,
        "data": data,
        "count": len(x),
        "image_shape": list(x.shape[1:]),
        "class_names": [str(name) for name in class_names or []],
        "seed": seed,
        "threats": [threat.name for threat in runs],
        "guards": {name: examiner.description() for name, examiner in examiners.items()},
        "attacks": {
            attack.identity: {"name": attack.name, **attack.settings()}
            for examiner in examiners.values()
            for attack in examiner.ran
        },
    }
    return Records.of(batches, meta)


class _Examiner:
    """One guard under examination."""

    def __init__(
        self,
        name: str,
        guard: Guard,
        x: torch.Tensor,
        y: torch.Tensor,
        seed: int,
        batch_size: int,
        shared: _Shared,
    ) -> None:
        if guard.rejects and guard.calibration is None:
            raise NotFittedError(
                f"The guard {name!r} is not calibrated: call .calibrate(x_clean, fpr=0.01) first."
            )
        self.name, self.guard, self.seed, self.batch_size = name, guard, seed, batch_size
        self.shared = shared
        self.x = guard.classifier.check(x)
        self.y = check_labels(y, count=len(x)).to(self.x.device)
        guard.refuse_seen(self.x, "testing")
        self.clean, self.clean_ties = self._verdict(self.x)
        self.ran: list[Attack] = []

    def description(self) -> dict[str, Any]:
        """What the guard is, for the records' meta."""
        calibration, purifier = self.guard.calibration, self.guard.purifier
        corrector = self.guard.corrector
        return {
            "module": type(self.guard.classifier.module).__name__,
            "weights": weights_hash(self.guard.classifier.module),
            "settings": self.guard.classifier.settings(),
            "detectors": {name: d.settings() for name, d in self.guard.named_detectors()},
            "purifier": None if purifier is None else purifier.description(),
            "corrector": None if corrector is None else corrector.description(),
            "rule": self.guard.rule,
            "calibration": None if calibration is None else asdict(calibration),
        }

    def _verdict(self, x: torch.Tensor) -> tuple[Verdict, torch.Tensor]:
        """Judges twice, at two batch sizes and in full precision, and tells the ties."""
        with torch.autocast(x.device.type, enabled=False):
            verdict = self.guard.judge(x, batch_size=self.batch_size)
            other_size = min(self.batch_size, len(x)) // 2 + 1
            again = self.guard.judge(x, batch_size=other_size)
        tie = verdict.margin < TIE_TOLERANCE
        if self.guard.rejects:
            tie |= verdict.rejection.abs() < TIE_TOLERANCE
        differs = (verdict.label != again.label) & ~tie
        if bool(differs.any()):
            raise VerificationError(
                f"{int(differs.sum())} of {len(x)} verdicts of the guard {self.name!r} changed "
                "when the images were judged at another batch size: the network's answers depend "
                "on the batch or on chance."
            )
        return again, tie

    def clean_columns(self, illustrated: int, embedded: int) -> dict[str, Any]:
        """The records of the clean images."""
        everything = slice(0, len(self.x))
        zero = torch.zeros(len(self.x), dtype=torch.int64)
        columns = self._columns(everything, self.clean, self.clean_ties)
        columns |= dict.fromkeys(("l0", "l1", "l2", "linf", "seconds"), zero.float().numpy())
        columns |= dict.fromkeys(("queries", "gradients", "dead_gradients"), zero.numpy())
        columns |= {
            "threat": [CLEAN] * len(self.x),
            "attack": ["none"] * len(self.x),
            "eps": [0.0] * len(self.x),
            "success": zero.bool().numpy(),
            "image": self._images(self.x, 0, illustrated),
            "features": self._features(embedded),
        }
        return columns

    def attack_columns(
        self, threat: Threat, attack: Attack, illustrated: int, advance: Callable[[int, str], None]
    ) -> list[dict[str, Any]]:
        """The records of one attack under one threat."""
        attack = threat.adapt(attack, self.guard)
        self.ran.append(attack)
        target = threat.target(self.guard)
        budget = attack.budget
        columns = []
        for start in range(0, len(self.x), self.batch_size):
            rows = slice(start, min(start + self.batch_size, len(self.x)))
            found, seconds = self._attacked(attack, target, rows)
            verdict, ties = self._verdict(found.x)
            self._confirm(attack, found, verdict, ties, rows, accepted=target is self.guard)
            count = len(found.x)
            part = self._columns(rows, verdict, ties)
            part |= {norm: value.float().cpu().numpy() for norm, value in found.distance.items()}
            part |= {
                "threat": [threat.name] * count,
                "attack": [attack.name] * count,
                "attack_id": [attack.identity] * count,
                "norm": [None if budget is None else budget.norm.name] * count,
                "eps": [None if budget is None else budget.eps] * count,
                "success": found.success.cpu().numpy(),
                "queries": found.queries.cpu().numpy(),
                "gradients": found.gradients.cpu().numpy(),
                "dead_gradients": found.dead_gradients.cpu().numpy(),
                "seconds": [seconds] * count,
                "image": self._images(found.x, start, illustrated),
            }
            columns.append(part)
            advance(count, f"{self.name}: {threat.name} {attack.name}")
        return columns

    def _attacked(self, attack: Attack, target: Target, rows: slice) -> tuple[Adversarial, float]:
        """The attack's results and its seconds per image; run once for guards that share both."""
        key = (id(target), attack.identity, rows.start)
        if key in self.shared:
            return self.shared[key]
        began = time.perf_counter()
        found = attack(target, self.x[rows], self.y[rows], seed=self.seed)
        result = (found, (time.perf_counter() - began) / len(found.x))
        if target is not self.guard:
            self.shared[key] = result
        return result

    def _confirm(
        self,
        attack: Attack,
        found: Adversarial,
        verdict: Verdict,
        ties: torch.Tensor,
        rows: slice,
        *,
        accepted: bool,
    ) -> None:
        """What an attack claims has to be what the guard says when it looks again.

        Of a stochastic guard the claim rests on other draws than the verdict, which is what counts;
        of the bare classifier it need not hold behind a purifier or a corrector.
        """
        guard = self.guard
        between = guard.purifier is not None or guard.corrector is not None
        if guard.stochastic or (between and not accepted):
            return
        fooled = verdict.prediction != self.y[rows]
        if accepted:
            fooled &= verdict.accepted
        false = found.success & ~fooled & ~ties
        if bool(false.any()):
            raise VerificationError(
                f"{int(false.sum())} images that {attack.name} reports as successful do not fool "
                f"the guard {self.name!r} when they are judged again."
            )

    def _columns(self, rows: slice, verdict: Verdict, ties: torch.Tensor) -> dict[str, Any]:
        count = len(verdict)
        columns: dict[str, Any] = {
            "guard": [self.name] * count,
            "seed": [self.seed] * count,
            "index": list(range(rows.start, rows.start + count)),
            "y": self.y[rows].int().cpu().numpy(),
            "clean_prediction": self.clean.prediction[rows].int().cpu().numpy(),
            "clean_accepted": self.clean.accepted[rows].cpu().numpy(),
            "prediction": verdict.prediction.int().cpu().numpy(),
            "accepted": verdict.accepted.cpu().numpy(),
            "tie": ties.cpu().numpy(),
        }
        if self.guard.rejects:
            columns["rejection"] = verdict.rejection.float().cpu().numpy()
        for name, score in verdict.scores.items():
            columns[SCORE + name] = score.float().cpu().numpy()
        return columns

    def _images(self, x: torch.Tensor, start: int, illustrated: int) -> list[Any]:
        flat = x.float().cpu().flatten(1)
        return [
            row.numpy() if start + offset < illustrated else None for offset, row in enumerate(flat)
        ]

    def _features(self, embedded: int) -> list[Any]:
        count = min(embedded, len(self.x))
        if count == 0:
            return [None] * len(self.x)
        parts = torch.split(self.x[:count], self.batch_size)
        classifier = self.guard.classifier
        try:
            with undisturbed(self.guard, self.x.device), torch.inference_mode():
                features = torch.cat([classifier.logits_and_features(p)[1].cpu() for p in parts])
        except UnsupportedError:
            # of a bare classifier without named features the report shows none
            return [None] * len(self.x)
        return [*features.float().numpy(), *([None] * (len(self.x) - count))]


def _guards(guard: Guard | Classifier | nn.Module | Mapping[str, Guard]) -> dict[str, Guard]:
    if isinstance(guard, Mapping):
        if not guard:
            raise ConfigurationError("There is no guard to evaluate.")
        return dict(guard)
    if not isinstance(guard, Guard):
        guard = Guard(guard)
    return {"guard" if guard.rejects else "classifier": guard}


def _variants(attacks: Sequence[Attack], eps: Sequence[float | str] | None) -> list[Attack]:
    variants: list[Attack] = []
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ConfigurationError(
                f"{attack!r} is no attack: give instances such as notsure.attacks.PGD(eps=0.3)."
            )
        with_eps = getattr(attack, "with_eps", None)
        if eps is not None and attack.budget is not None and with_eps is not None:
            variants.extend(with_eps(parse_size(one, what="eps")) for one in eps)
        else:
            variants.append(attack)
    if not variants:
        raise ConfigurationError("There is no attack: give at least one, such as PGD(eps=0.3).")
    if len({variant.identity for variant in variants}) < len(variants):
        raise ConfigurationError("An attack is given twice with the same settings.")
    return variants
