"""The sanity flags: signs that the examiner was fooled, or that the figures claim too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from notsure.evaluation import duels, signs
from notsure.evaluation.detection import detection
from notsure.evaluation.evidence import Evidence
from notsure.evaluation.findings import (
    Finding,
    found,
    largest_first,
    missing,
    percent,
)
from notsure.evaluation.intervals import Area, Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, robustness
from notsure.evaluation.threats import CLEAN

PROBABILITY_SHARE = 0.99
"""Clean images whose outputs look like probabilities; logits do so by chance on none."""

CHANCE_MARGIN = 0.1
"""The part of the way from chance to perfect that a classifier has to be above."""

SUCCESSES = 10
"""Images an attack has to fool before it tells of a detector's sign."""

FEWEST = 100
"""Images, fewer than which support no rate."""

WIDEST = 0.10
"""The widest 95 % interval of a robust accuracy that supports a comparison, in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One sign to look out for, and whether it is there.

    Attributes:
        name: its name, such as "zero-gradients".
        raised: whether it is there.
        looked: whether the records hold what it takes to tell; if not, it is not raised and
            `because` says what is missing.
        because: what was seen, with figures.
        means: what it means if it is raised.
        remedy: what to do about it then.
    """

    name: str
    raised: bool
    looked: bool
    because: str
    means: str
    remedy: str


def flags(records: Records) -> list[Flag]:
    """All flags, raised or not, always the same and in the same order.

    Rows of probes are looked at here and nowhere else. The thresholds are the constants of the
    modules `sanity`, `signs` and `duels`.

    Args:
        records: of one seed, every attack over all the clean images.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    evidence = Evidence(records)
    return [kind.flag(evidence) for kind in _KINDS]


def _told(evidence: Evidence, *keys: str) -> dict[str, Any]:
    """What meta tells of each guard under nested keys, of those of which it does."""
    answers = {}
    for guard in evidence.records.guards:
        answer: Any = evidence.told(guard)
        for key in keys:
            answer = (answer or {}).get(key)
        if answer is not None:
            answers[guard] = answer
    return answers


def _probabilities_as_logits(evidence: Evidence) -> Finding:
    shares: dict[str, float] = _told(evidence, "outputs", "probability_rows")
    if not shares:
        return missing("The records do not tell what the networks' outputs look like.")
    wrong = [
        f"{guard!r}: {percent(share)} of the clean images have outputs that lie in [0,1] and sum "
        "to 1."
        for guard, share in shares.items()
        if share > PROBABILITY_SHARE
    ]
    largest = max(shares.values())
    return found(wrong, f"At most {percent(largest)} of a network's outputs look like shares of 1.")


def _near_chance(evidence: Evidence) -> Finding:
    wrong, seen = [], []
    classes: dict[str, int] = _told(evidence, "num_classes")
    for run in evidence.runs:
        if run.threat != CLEAN or run.guard not in classes:
            continue
        right = evidence.classified[run.rows]
        rate, chance = wilson(int(right.sum()), len(right)), 1 / classes[run.guard]
        text = (
            f"{run.guard!r} classifies {_rate(rate)} of the clean images rightly; chance is "
            f"{percent(chance)}."
        )
        seen.append((-rate.value, text))
        if rate.low <= chance + CHANCE_MARGIN * (1 - chance):
            wrong.append((-rate.value, text))
    if not seen:
        return missing("There are no clean images, or the number of classes is not recorded.")
    return found(largest_first(wrong), largest_first(seen)[0])


def _inverted_detector(evidence: Evidence) -> Finding:
    if not any(_told(evidence, "detectors").values()):
        return found([], "No guard has a detector.")
    wrong: list[tuple[float, str]] = []
    looked = 0
    for row in detection(evidence.records):
        if row.control or row.noise or row.threat != "oblivious":
            continue
        if row.successful.positives < SUCCESSES:
            continue
        looked += 1
        budget = "" if row.eps is None else f" ({row.norm} {row.eps:.4g})"
        for area, which in ((row.successful, "successful"), (row.everything, "all")):
            if area.high < 0.5:
                text = (
                    f"{row.detector} of {row.guard!r} against oblivious {row.attack}{budget}: area "
                    f"under the ROC curve {_area(area)} on {which} adversarial images."
                )
                wrong.append((0.5 - area.value, text))
                break
    if not looked:
        return missing(
            f"No oblivious attack fooled {SUCCESSES} images of a classifier that has a detector."
        )
    return found(
        largest_first(wrong),
        f"In {looked} pairs of detector and oblivious attack, no area under the ROC curve is "
        "below 0.5.",
    )


def _leaked_data(evidence: Evidence) -> Finding:
    leaked: dict[str, dict[str, int]] = _told(evidence, "leaked")
    if not leaked:
        return missing("The records do not tell what the guards were fitted on.")
    wrong = [
        f"{guard!r}: {count} of {evidence.count} test images were used in its {part}."
        for guard, counts in leaked.items()
        for part, count in counts.items()
        if count > 0
    ]
    return found(wrong, "No test image was used in a guard's fit or calibration.")


def _too_few_samples(evidence: Evidence) -> Finding:
    rows = [row for row in robustness(evidence.records) if row.attack == WORST_CASE]
    if not rows:
        return missing("Nothing was attacked.")
    widest = max(rows, key=lambda row: row.lenient.high - row.lenient.low)
    fewest = min(rows, key=lambda row: row.lenient.n)
    budget = "" if widest.eps is None else f" within {widest.norm} {widest.eps:.4g}"
    text = (
        f"The widest interval is that of {widest.guard!r} under {widest.threat}{budget}: robust "
        f"accuracy {_rate(widest.lenient)}."
    )
    wrong = []
    if widest.lenient.high - widest.lenient.low > WIDEST:
        wrong.append(text)
    if fewest.lenient.n < FEWEST:
        wrong.append(f"{fewest.guard!r} was attacked on {fewest.lenient.n} images only.")
    return found(wrong, text)


def _rate(rate: Rate) -> str:
    return f"{percent(rate.value)} [{100 * rate.low:.1f}, {100 * rate.high:.1f}] (n = {rate.n})"


def _area(area: Area) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}] (n = {area.positives})"


@dataclass(frozen=True)
class _Kind:
    """A flag before anybody has looked."""

    name: str
    check: Callable[[Evidence], Finding]
    means: str
    remedy: str

    def flag(self, evidence: Evidence) -> Flag:
        """Looks."""
        finding = self.check(evidence)
        return Flag(
            name=self.name,
            raised=finding.raised,
            looked=finding.looked,
            because=finding.because,
            means=self.means,
            remedy=self.remedy,
        )


_KINDS = (
    _Kind(
        "probabilities-as-logits",
        _probabilities_as_logits,
        "The network ends in a softmax. Losses take its outputs for logits, their gradients are "
        "tiny, and gradient attacks look weaker than they are.",
        "Give the network without its last softmax, or one that returns the logarithm of its "
        "probabilities, and evaluate again.",
    ),
    _Kind(
        "zero-gradients",
        signs.zero_gradients,
        "A gradient of exactly zero points nowhere: the attack stood still on these images, and "
        "what they survived says nothing. Usual causes are quantisers, hard thresholds and logits "
        "so large that the loss saturates.",
        "Declare differentiable = False on the part that stops the gradient, so that BPDA goes "
        "through it; against saturation attack with the margin or DLR objective; add an attack "
        "without gradients, such as Square.",
    ),
    _Kind(
        "non-finite-gradients",
        signs.non_finite_gradients,
        "A gradient of NaN or infinity cannot be followed, so the attack stood still on these "
        "images. Usual causes are square roots, logarithms and divisions at zero.",
        "Find the operation that is not differentiable there (torch.autograd.detect_anomaly), "
        "clamp its input away from zero, and evaluate again.",
    ),
    _Kind(
        "black-box-beats-white-box",
        duels.black_box_beats_white_box,
        "Who sees the guard can do all that others can. That others fool more images means that "
        "the gradients mislead, and that robust accuracy under gradient attacks is too high.",
        "Look for what masks the gradients (see the zero-gradients flag), give white-box attacks "
        "more steps, restarts, EOT or BPDA, and believe the worst case over all threats alone.",
    ),
    _Kind(
        "not-monotone",
        duels.not_monotone,
        "A larger budget contains the smaller one, and more steps or queries contain fewer. That "
        "they reach less means that the search fails, so its figures are no bound on anything.",
        "Give the attack more steps and restarts and a step size that suits its eps, try another "
        "objective, and look for masked gradients.",
    ),
    _Kind(
        "survives-unbounded",
        signs.survives_unbounded,
        "With eps = 1 any image can be turned into any other, so no image can stand. What stands "
        "shows that the attack does not find its way, and that smaller eps were not tested either.",
        "Look for masked gradients (the zero-gradients and black-box flags), attack with BPDA, EOT "
        "or another objective, until nothing survives eps = 1; only then believe smaller eps.",
    ),
    _Kind(
        "stochastic-without-eot",
        signs.stochastic_without_eot,
        "The guard draws afresh at each pass. The gradient of one draw is mostly noise, and an "
        "attack that follows it looks weaker than one that averages.",
        "Leave the attack's gradient at its default, so that the threat gives it EOT, or set "
        "gradient=EOT(n=20) or more.",
    ),
    _Kind(
        "not-converged",
        duels.not_converged,
        "With four times the steps the attack reaches clearly more: it was stopped too early, and "
        "robust accuracy is lower than stated.",
        "Raise steps (or the step size, if it is small) until more of them change nothing, and "
        "report that number.",
    ),
    _Kind(
        "near-chance",
        _near_chance,
        "The classifier hardly knows the clean images, or there are too few of them to tell. The "
        "usual cause is preprocessing that differs from that of training: mean, std, range, order "
        "of channels, or labels in another order.",
        "Compare mean and std of the Classifier with those of training, check a few images and "
        "their labels by eye, and evaluate again.",
    ),
    _Kind(
        "inverted-detector",
        _inverted_detector,
        "The detector holds attacked images for more normal than clean ones, so it is worse than "
        "guessing. Either its sign is turned, or the attack goes so far that it ends in what the "
        "detector takes for normal.",
        "Scores have to be higher for adversarial images: turn the sign if they are not. If they "
        "are, say that this attack goes round the detector without knowing of it.",
    ),
    _Kind(
        "leaked-data",
        _leaked_data,
        "Images that the guard was fitted or calibrated on are judged more kindly than new ones, "
        "so its figures are too good.",
        "Remove these images from the test set, or fit and calibrate without them "
        "(notsure.data.load keeps the three sets apart).",
    ),
    _Kind(
        "eight-bit-fragile",
        signs.eight_bit_fragile,
        "These images fool the guard as numbers, and no longer once they are stored as pictures. "
        "Their success rate and distances do not hold for an attacker who sends image files. "
        "Minimum-norm attacks end on the boundary, and half of their images fall back.",
        "For such an attacker give the attack some confidence, so that it ends beyond the "
        "boundary, or report the figures of the rounded images.",
    ),
    _Kind(
        "too-few-samples",
        _too_few_samples,
        "The figures are uncertain by more than the differences that are usually claimed between "
        "defences.",
        "Evaluate on more images: about 400 bring every interval below 10 percentage points, and "
        "1,000 below 6.5.",
    ),
)
"""All flags, in the order in which they are told."""


def markdown() -> str:
    """All flags as a Markdown table: what each means and what to do about it."""
    lines = ["| flag | means | what to do |", "|---|---|---|"]
    lines += [f"| {kind.name} | {kind.means} | {kind.remedy} |" for kind in _KINDS]
    return "\n".join(lines) + "\n"
