"""What the figures come to: one word for each guard, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError
from notsure.evaluation.intervals import Rate, rate_of, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, RobustnessRow, robustness
from notsure.evaluation.sanity import flags

Judgement = Literal["not believable", "broken", "weakened", "holds"]

BROKEN = 0.2
"""A guard is broken if it withstands no more than this share of images, at 95 % confidence."""

HOLDS = 0.8
"""It holds if it withstands this share of the images that it withstands unattacked."""

REFUTED = 0.99
"""A certificate is refuted if fewer images than this keep their label inside it, at 95 %
confidence: a vote of few draws may err on one or another."""

ABOUT_THE_ATTACK = (
    "probabilities-as-logits",
    "zero-gradients",
    "non-finite-gradients",
    "black-box-beats-white-box",
    "not-monotone",
    "survives-unbounded",
    "stochastic-without-eot",
    "not-converged",
    "near-chance",
    "leaked-data",
)
"""Flags that say that an attack was weaker, or the test easier, than it looks."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What is to be thought of a guard.

    Attributes:
        guard: its name.
        threat: the one that includes most others of those that were run.
        norm: of the budget; None where there was none.
        eps: the largest budget; None where there was none.
        clean: robust accuracy, lenient, against nobody: the clean images that are not accepted and
            wrong.
        lenient: the worst case over all attacks, counting a rejected image as safe.
        judgement: "broken" counts whatever else there is, since what fools a guard fools it;
            "not believable" says that a guard may only look better than it is.
        because: the figures, and which flags are raised.
    """

    guard: str
    threat: str
    norm: str | None
    eps: float | None
    clean: Rate
    lenient: Rate
    judgement: Judgement
    because: str


@dataclass(frozen=True, kw_only=True)
class Certified:
    """What a certificate says of each test image, in the order of the test set.

    Attributes:
        radius: (N,), within which the label cannot be changed, in l2 and [0,1] pixel units.
        label: (N,), NOT_SURE (-1) where there is none.
    """

    radius: npt.ArrayLike
    label: npt.ArrayLike


def conclusions(
    records: Records, certificates: Mapping[str, Certified] | None = None
) -> list[Conclusion]:
    """One for each guard and norm, at the largest eps and under the widest threat.

    A certificate is a proof: a guard whose certified accuracy at an l2 budget is large enough holds
    there whatever the attacks were worth, unless an attack has refuted the certificate.

    Args:
        records: of one seed.
        certificates: by guard, where there is one.

    Raises:
        ConfigurationError: nothing has attacked a guard, or a certificate is of other images.
    """
    found = []
    includes = records.meta.get("includes", {})
    for guard in records.guards:
        own = records.where(guard=guard)
        raised = [f.name for f in flags(own) if f.raised and f.name in ABOUT_THE_ATTACK]
        rows = [row for row in robustness(own) if row.attack == WORST_CASE]
        if not rows:
            raise ConfigurationError(f"Nothing has attacked {guard!r}: there is no conclusion.")
        widest = max(rows, key=lambda row: len(includes.get(row.threat, ()))).threat
        of_widest = [row for row in rows if row.threat == widest]
        bounded = [row for row in of_widest if row.eps is not None] or of_widest
        for norm in dict.fromkeys(row.norm for row in bounded):
            row = max((r for r in bounded if r.norm == norm), key=lambda r: r.eps or 0.0)
            certificate = (certificates or {}).get(guard) if norm == "l2" else None
            found.append(_conclusion(own, row, raised, certificate))
    return found


def _conclusion(
    records: Records, row: RobustnessRow, raised: Sequence[str], certificate: Certified | None
) -> Conclusion:
    clean = records.where(threat="clean")
    wrong = clean.column("accepted").astype(bool) & (
        clean.column("prediction") != clean.column("y")
    )
    before = wilson(int((~wrong).sum()), len(wrong))
    left = row.lenient
    judgement = judgement_of(left, before, doubted=bool(raised))
    budget = "at any distance" if row.eps is None else f"within {row.norm} {row.eps:.4g}"
    told = (
        f"{100 * left.value:.1f} % [{100 * left.low:.1f}, {100 * left.high:.1f}] of {left.n} "
        f"images are withstood under {row.threat} {budget}, {100 * before.value:.1f} % unattacked"
    )
    if raised:
        told += f"; flags: {', '.join(raised)}"
    if certificate is not None and row.eps is not None:
        kept = within_certificate(records, row.guard, certificate.radius, certificate.label)
        certain = _certified(records, certificate, row.eps)
        told += (
            f"; certified there: {100 * certain.value:.1f} % [{100 * certain.low:.1f}, "
            f"{100 * certain.high:.1f}]; {kept.count} of {kept.n} images inside their certified "
            "radius keep their label"
        )
        if kept.high < REFUTED:
            judgement = "not believable"
        elif certain.low >= HOLDS * before.value:
            judgement = "holds"
    return Conclusion(
        guard=row.guard,
        threat=row.threat,
        norm=row.norm,
        eps=row.eps,
        clean=before,
        lenient=left,
        judgement=judgement,
        because=told,
    )


def judgement_of(left: Rate, before: Rate, *, doubted: bool) -> Judgement:
    """The word for what is left of a guard.

    Args:
        left: robust accuracy, lenient.
        before: the same against nobody.
        doubted: whether a flag says that the attacks were weaker than they look.
    """
    if left.high <= BROKEN:
        return "broken"
    if doubted:
        return "not believable"
    return "holds" if left.low >= HOLDS * before.value else "weakened"


def _certified(records: Records, certificate: Certified, eps: float) -> Rate:
    """The share of images that are certainly right within eps."""
    clean = records.where(threat="clean")
    order = np.argsort(clean.column("index"))
    right = np.asarray(certificate.label) == clean.column("y")[order]
    return rate_of(right & (np.asarray(certificate.radius, float) >= eps))


def within_certificate(
    records: Records, guard: str, radius: npt.ArrayLike, label: npt.ArrayLike
) -> Rate:
    """Of the attacked images inside their certified radius, how many keep the certified label.

    A certificate that holds keeps all of them, up to its own small chance of error and that of a
    vote of few draws; one that does not shows here.

    Args:
        records: of attacks on the certified network.
        guard: the guard's name.
        radius: of each test image, in the order of the test set, in l2 and [0,1] pixel units.
        label: the certified label of each; NOT_SURE (-1) where there is none.

    Raises:
        ConfigurationError: there is not one radius and label for each test image.
    """
    radii, labels = np.asarray(radius, float), np.asarray(label)
    own = records.ordinary().where(guard=guard)
    index = own.column("index")
    if radii.shape != labels.shape or radii.ndim != 1 or len(radii) != records.meta["count"]:
        raise ConfigurationError(
            f"There are {records.meta['count']} test images: give as many radii and labels, not "
            f"{radii.shape} and {labels.shape}."
        )
    inside = (own.column("l2") <= radii[index]) & (labels[index] >= 0)
    kept = own.column("prediction")[inside] == labels[index][inside]
    return wilson(int(kept.sum()), int(inside.sum()))
