"""One guard under examination: what it answers, and what an attack makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from notsure.core.checks import check_labels
from notsure.core.errors import (
    ConfigurationError,
    InputError,
    NotFittedError,
    UnsupportedError,
    VerificationError,
)
from notsure.core.state import tensors_hash, undisturbed, weights_hash
from notsure.core.target import Adversarial, Target
from notsure.evaluation.controls import Controls
from notsure.evaluation.plan import Job
from notsure.evaluation.records import CONTROL, SCORE, Records
from notsure.evaluation.robustness import tolerance
from notsure.evaluation.threats import CLEAN
from notsure.guard import Guard
from notsure.verdict import Verdict

TIE_TOLERANCE = 1e-3
"""Decisions closer than this may flip by rounding: a share of the logits' size for the class, and
of the distance from clean median to threshold for the rejection."""

_PROBABLE = 1e-3
"""How far from 1 a row of logits may sum that are taken for probabilities."""


class Examination:
    """What one guard answers, as columns of records.

    Args:
        name: the guard's name.
        guard: the guard, calibrated where it has detectors.
        x: test images (N, C, H, W) in [0,1], which it was not fitted or calibrated on.
        y: their labels (N,).
        seed: of the attacks and the controls.
        batch_size: how many images are judged at a time.
        illustrated: of how many images the pixels are kept.
        controlled: for how many images the controls score.
        parameters: what the user says of the guard.
        rows: which of the images are judged; None for all. Whether any were used before is asked of
            all of them.

    Raises:
        InputError: images or labels are not what they have to be, or were used before.
        NotFittedError: the guard is not calibrated.
        VerificationError: a verdict depends on the batch.
    """

    def __init__(
        self,
        name: str,
        guard: Guard,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        seed: int,
        batch_size: int,
        illustrated: int,
        controlled: int,
        parameters: dict[str, Any],
        rows: slice | None = None,
    ) -> None:
        if guard.rejects and guard.calibration is None:
            raise NotFittedError(
                f"The guard {name!r} is not calibrated: call .calibrate(x_clean, fpr=0.01) first."
            )
        self.name, self.guard, self.seed, self.batch_size = name, guard, seed, batch_size
        self.parameters = parameters
        x = guard.classifier.check(x)
        y = check_labels(y, count=len(x)).to(x.device)
        guard.refuse_seen(x, "testing")
        self.leaked = guard.overlap(x)
        rows = rows or slice(0, len(x))
        self.first, self.x, self.y = rows.start, x[rows], y[rows]
        # of the first images of all, of which these may be none
        self.illustrated = max(0, illustrated - self.first)
        self.controlled = max(0, controlled - self.first)
        self.controls = Controls(guard.classifier, seed) if guard.named_detectors() else None
        self.clean, self.clean_ties = self._verdict(self.x)
        self.probability_rows, self.num_classes = self._outputs()
        self.fooled = self.clean.accepted & (self.clean.prediction != self.y)
        self.budgets: dict[str, float] = {}

    def check_substitutes(self, substitutes: Mapping[str, Target]) -> None:
        """Sees whether others can stand in for the guard.

        Raises:
            ConfigurationError: one does not take these images, or tells other classes apart.
        """
        x = self.x[:1]
        for name, one in substitutes.items():
            try:
                with undisturbed(one, x.device), torch.inference_mode():
                    classes = one.logits(x).shape[1]
            except (RuntimeError, InputError) as error:
                raise ConfigurationError(
                    f"The substitute {name!r} does not take images of shape "
                    f"{tuple(x.shape[1:])}: {error}"
                ) from error
            if classes != self.num_classes:
                raise ConfigurationError(
                    f"The substitute {name!r} tells {classes} classes apart, and the guard "
                    f"{self.name!r} {self.num_classes}: a transfer is among the same classes."
                )

    def count_within(self, jobs: Sequence[Job]) -> None:
        """Sets what `worst` counts: images within the largest eps that these jobs have in a norm.

        An attack without a budget fools nearly every image from somewhere, which tells nothing of
        how far the run has come; without any budget, everything counts.
        """
        for job in jobs:
            budget = job.attack.budget
            if job.probe is None and budget is not None:
                largest = self.budgets.get(budget.norm.name, 0.0)
                self.budgets[budget.norm.name] = max(largest, budget.eps)

    @property
    def worst(self) -> float:
        """The lenient robust accuracy so far, over everything that was tried and counts."""
        return 1 - float(self.fooled.double().mean())

    def _counts(self, distance: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Which images (n,) at these distances `worst` counts."""
        within = [distance[n] <= eps + tolerance(n, eps) for n, eps in self.budgets.items()]
        if not within:
            return torch.ones_like(distance["linf"], dtype=torch.bool)
        return torch.stack(within).any(dim=0)

    def description(self) -> dict[str, Any]:
        """What the guard is, for the records' meta."""
        guard = self.guard
        calibration, purifier, corrector = guard.calibration, guard.purifier, guard.corrector
        return {
            "module": type(guard.classifier.module).__name__,
            "weights": weights_hash(guard.classifier.module),
            "learnt": _learnt(guard),
            "settings": guard.classifier.settings(),
            "detectors": {name: d.settings() for name, d in guard.named_detectors()},
            "purifier": None if purifier is None else purifier.description(),
            "corrector": None if corrector is None else corrector.description(),
            "rule": guard.rule,
            "calibration": None if calibration is None else asdict(calibration),
            "stochastic": guard.stochastic,
            "stochastic_classifier": guard.classifier.stochastic,
            "differentiable": guard.differentiable,
            "rejects": guard.rejects,
            "num_classes": self.num_classes,
            "parameters": self.parameters,
            "fitted_on": guard.fitted_on,
            "outputs": {"probability_rows": self.probability_rows},
            "leaked": self.leaked,
        }

    def _outputs(self) -> tuple[float, int]:
        """The share of clean images whose logits look like probabilities, and how many classes."""
        probable = 0
        with undisturbed(self.guard, self.x.device), torch.inference_mode():
            for batch in torch.split(self.x, self.batch_size):
                logits = self.guard.classifier.logits(batch)
                if self.guard.classifier.reverse_logits:
                    logits = -logits
                inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
                probable += int((inside & ((logits.sum(dim=1) - 1).abs() < _PROBABLE)).sum())
        return probable / len(self.x), logits.shape[1]

    def _verdict(self, x: torch.Tensor) -> tuple[Verdict, torch.Tensor]:
        """Judges twice, at two batch sizes, and tells the ties."""
        verdict, _ = self._judged(x, self.batch_size)
        again, tie = self._judged(x, self._other_size)
        differs = (verdict.label != again.label) & ~tie
        if bool(differs.any()):
            raise VerificationError(
                f"{int(differs.sum())} of {len(x)} verdicts of the guard {self.name!r} changed "
                "when the images were judged at another batch size: the network's answers depend "
                "on the batch or on chance."
            )
        return again, tie

    def _verdict_of(
        self, job: Job, found: Adversarial, rows: slice
    ) -> tuple[Verdict, torch.Tensor]:
        """What the guard says of what an attack found, and the ties.

        Images that are as they were have been judged already. What an attack claims of the guard
        itself was judged by the guard in the attack's batches, so that once more is enough.
        """
        verdict, ties = self.clean.select(rows), self.clean_ties[rows].clone()
        changed = (found.distance["linf"] > 0).nonzero().flatten()
        if len(changed) == 0:
            return verdict, ties
        images = found.x[changed]
        if job.threat.sees_verdict:
            judged, tie = self._judged(images, self._other_size)
        else:
            judged, tie = self._verdict(images)
        ties[changed] = tie
        return verdict.replaced(changed, judged), ties

    @property
    def _other_size(self) -> int:
        return min(self.batch_size, len(self.x)) // 2 + 1

    def _judged(self, x: torch.Tensor, batch_size: int) -> tuple[Verdict, torch.Tensor]:
        """Judges in full precision, and tells what was decided by less than rounding."""
        with torch.autocast(x.device.type, enabled=False):
            again = self.guard.judge(x, batch_size=batch_size)
        tie = again.margin < TIE_TOLERANCE
        if self.guard.rejects:
            tie |= again.rejection.abs() < TIE_TOLERANCE
        for name, score in again.scores.items():
            if bool(torch.isnan(score).any()):
                raise VerificationError(
                    f"The detector {name!r} of the guard {self.name!r} gives NaN for "
                    f"{int(torch.isnan(score).sum())} of {len(x)} images, which is neither above "
                    "nor below its threshold: find out why before its figures are believed."
                )
        return again, tie

    def clean_columns(self, rows: slice, embedded: int) -> dict[str, Any]:
        """The records of some clean images; of the first `embedded` with their features."""
        x, count = self.x[rows], rows.stop - rows.start
        zero = torch.zeros(count, dtype=torch.int64)
        columns = self._columns(rows, self.clean.select(rows), self.clean_ties[rows], x)
        columns |= dict.fromkeys(("l0", "l1", "l2", "linf", "seconds"), zero.float().numpy())
        columns |= dict.fromkeys(
            ("queries", "gradients", "dead_gradients", "non_finite_gradients"), zero.numpy()
        )
        columns |= {
            "threat": [CLEAN] * count,
            "attack": ["none"] * count,
            "eps": [0.0] * count,
            "success": zero.bool().numpy(),
            "features": self._features(rows, embedded),
        }
        return columns

    def columns_of(
        self, job: Job, found: Adversarial, seconds: float, rows: slice
    ) -> dict[str, Any]:
        """The records of what an attack made of some images.

        Raises:
            VerificationError: the guard does not confirm what the attack claims.
        """
        verdict, ties = self._verdict_of(job, found, rows)
        self._confirm(job, found, verdict, ties, rows)
        fooled = verdict.accepted & (verdict.prediction != self.y[rows])
        if job.probe is None:
            self.fooled[rows] |= fooled & self._counts(found.distance)
        attack = job.attack
        count, budget = len(found.x), attack.budget
        columns = self._columns(rows, verdict, ties, found.x)
        columns |= self._rounded(found.x, fooled & (found.distance["linf"] > 0))
        columns |= {norm: value.float().cpu().numpy() for norm, value in found.distance.items()}
        columns |= {
            "threat": [job.threat.name] * count,
            "substitute": [job.threat.substitute_name] * count,
            "probe": [job.probe] * count,
            "attack": [attack.name] * count,
            "attack_id": [attack.identity] * count,
            "norm": [None if budget is None else budget.norm.name] * count,
            "eps": [None if budget is None else budget.eps] * count,
            "success": found.success.cpu().numpy(),
            "queries": found.queries.cpu().numpy(),
            "gradients": found.gradients.cpu().numpy(),
            "dead_gradients": found.dead_gradients.cpu().numpy(),
            "non_finite_gradients": found.non_finite_gradients.cpu().numpy(),
            "seconds": [seconds] * count,
        }
        return columns

    def remember(self, part: Records, rows: slice) -> None:
        """Counts what an earlier process found, for `worst`."""
        part = part.ordinary()
        if len(part) == 0:
            return
        wrong = part.column("accepted").astype(bool) & (
            part.column("prediction") != part.column("y")
        )
        distance = {name: torch.tensor(part.column(name)) for name in ("linf", *self.budgets)}
        counted = torch.tensor(wrong) & self._counts(distance)
        self.fooled[rows] |= counted.to(self.fooled.device)

    def _confirm(
        self,
        job: Job,
        found: Adversarial,
        verdict: Verdict,
        ties: torch.Tensor,
        rows: slice,
    ) -> None:
        """What an attack claims has to be what the guard says when it looks again.

        Of a stochastic guard the claim rests on other draws than the verdict, which is what counts;
        of the bare classifier it need not hold behind a purifier or a corrector, and of a
        substitute it says nothing.
        """
        guard = self.guard
        between = guard.purifier is not None or guard.corrector is not None
        sees_verdict = job.threat.sees_verdict
        elsewhere = between or job.threat.target(guard) is not guard.classifier
        if guard.stochastic or (elsewhere and not sees_verdict):
            return
        fooled = verdict.prediction != self.y[rows]
        if sees_verdict:
            fooled &= verdict.accepted
        false = found.success & ~fooled & ~ties
        if bool(false.any()):
            raise VerificationError(
                f"{int(false.sum())} images that {job.attack.name} reports as successful do not "
                f"fool the guard {self.name!r} when they are judged again."
            )

    def _columns(
        self, rows: slice, verdict: Verdict, ties: torch.Tensor, x: torch.Tensor
    ) -> dict[str, Any]:
        count = len(verdict)
        columns: dict[str, Any] = {
            "guard": [self.name] * count,
            "seed": [self.seed] * count,
            "index": list(range(self.first + rows.start, self.first + rows.start + count)),
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
        if self.controls is not None:
            scored = max(0, min(count, self.controlled - rows.start))
            rest = [None] * (count - scored)
            for name, score in self.controls.scores(x[:scored]).items():
                columns[CONTROL + name] = [*score.tolist(), *rest]
        return columns | self._illustrations(x, rows)

    def _rounded(self, x: torch.Tensor, fooled: torch.Tensor) -> dict[str, Any]:
        """What the guard says of the images that fooled it once they are stored in 8 bits."""
        prediction: list[int | None] = [None] * len(x)
        accepted: list[bool | None] = [None] * len(x)
        hits = fooled.nonzero().flatten()
        if len(hits):
            verdict = self.guard.judge((x[hits] * 255).round() / 255, batch_size=self.batch_size)
            told = zip(hits.tolist(), verdict.prediction, verdict.accepted, strict=True)
            for row, label, standing in told:
                prediction[row], accepted[row] = int(label), bool(standing)
        return {"rounded_prediction": prediction, "rounded_accepted": accepted}

    def _illustrations(self, x: torch.Tensor, rows: slice) -> dict[str, Any]:
        count = len(x)
        kept = max(0, min(count, self.illustrated - rows.start))
        nothing = [None] * (count - kept)
        columns: dict[str, Any] = {"image": [*_flat(x[:kept]), *nothing]}
        if self.guard.purifier is not None and kept:
            with undisturbed(self.guard, x.device), torch.inference_mode():
                purified = self.guard.observe(x[:kept]).purified
            columns["purified"] = [*_flat(purified), *nothing]
        return columns

    def _features(self, rows: slice, embedded: int) -> list[Any]:
        count = rows.stop - rows.start
        kept = max(0, min(count, embedded - rows.start))
        if kept == 0:
            return [None] * count
        try:
            with undisturbed(self.guard, self.x.device), torch.inference_mode():
                x = self.x[rows.start : rows.start + kept]
                features = self.guard.classifier.logits_and_features(x)[1]
        except UnsupportedError:
            # of a bare classifier without named features the report shows none
            return [None] * count
        return [*_flat(features), *([None] * (count - kept))]


def _learnt(guard: Guard) -> str | None:
    """SHA-256 over what purifier, detectors and corrector have learnt; None without any."""
    state = guard.state_dict()
    parts = {name: state[name] for name in state if not name.startswith("classifier.")}
    return tensors_hash(parts) if parts else None


def _flat(x: torch.Tensor) -> list[Any]:
    return list(x.float().cpu().flatten(1).numpy())
