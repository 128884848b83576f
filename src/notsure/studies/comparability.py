"""What the reports' figures measure, which side of each is better, and what their notes say.

Attacks are seen from the defender's side throughout: a larger distortion is better, because the
attacker could not do with less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "same"]
"""Which side of the published figure is the better one; "same" where neither is."""


@dataclass(frozen=True)
class Metric:
    """What a figure measures.

    Attributes:
        better: which side is better, for whoever defends the network; "same" means that the
            figure describes what was used or chosen, so that any other one is worse.
        meaning: why that is the better side.
        margin: in [0,1], by which a share may differ without counting; None for what is no share
            and gets no margin.
        attacked: the better side under attack, where it is not the one on clean images.
    """

    better: Direction
    meaning: str
    margin: float | None = None
    attacked: Direction | None = None


POINT, TWO_POINTS = 0.01, 0.02

METRICS: dict[str, Metric] = {
    "error_rate": Metric("lower", "fewer images are classified wrongly", POINT),
    "accuracy": Metric("higher", "more images count as right", POINT),
    "auc": Metric("higher", "adversarial images score above clean ones", TWO_POINTS),
    "false_positive_rate": Metric("lower", "fewer clean images are rejected", POINT),
    "detection_rate": Metric("higher", "more adversarial images are found", POINT),
    "ratio_f2_positive": Metric(
        "higher", "more adversarial images are less dense than the median training image", POINT
    ),
    "mean_min_distortion": Metric("higher", "the attacker has to change the image by more"),
    "l2_at_zero_accuracy": Metric(
        "higher", "the attacker has to go farther before nothing is classified rightly"
    ),
    "transfer_misclassification_rate": Metric(
        "lower", "fewer adversarial images of a substitute fool the network", POINT
    ),
    "adversarial_confidence": Metric(
        "lower", "the network is less certain of the wrong class", POINT
    ),
    "mean_rmse_best_reconstruction": Metric(
        "lower",
        "clean images are rebuilt more faithfully; of adversarial ones a larger error is better, "
        "as it gives them away",
        attacked="higher",
    ),
    "fraction_labelled_adversarial": Metric(
        "lower",
        "fewer attacked images are discarded, which wester calls the detector's price",
        POINT,
    ),
    "time_per_example": Metric("lower", "the examination costs less"),
    "runtime": Metric("lower", "the examination costs less"),
    "runtime_ratio": Metric("higher", "the faster attack saves more of the examination's time"),
    "parameter_count": Metric("same", "another count means another network"),
    "best_noise_std": Metric("same", "which of the tried settings came out best"),
    "iterations_at_saturation": Metric("same", "which of the tried settings suffices"),
    "threshold_tau": Metric("same", "a setting"),
    "jump_kappa": Metric("same", "a setting"),
}
"""Every metric that occurs in the reference file."""

UNITS: dict[str, float | None] = {
    "percent": 100.0,
    "auc_1e-2": 100.0,
    "ratio": 1.0,
    "l2_rms_255": None,
    "l2": None,
    "rmse": None,
    "std": None,
    "zscore": None,
    "activation": None,
    "params": None,
    "count": None,
    "seconds": None,
    "minutes": None,
    "hours": None,
}
"""Every unit that occurs, with how many of it make the whole, where it can measure a share."""

OBSTACLES = (
    (r"design limit|chosen upper limit|hyperparameter", "a design value of the report, no result"),
    (r"not printed: sum of", "a sum of printed figures, which the report does not print itself"),
    (r"(?<!offset )\beps(, steps)? not printed", "the report prints no eps"),
    (r"offset eps not printed", "the report does not print by how much JSMA changes a pixel"),
    (
        r"norm not stated",
        "the report does not name the norm; linf without a random start would be its BIM",
    ),
    (r"\(pang: sigma\^2\)", "the report prints sigma where pang, which it follows, has sigma^2"),
    (r"attack not named(?! in)", "the report does not name the attack"),
    (r"does not say whether", "the report does not say whether the attack sees the defence"),
    (r"Tesla P100|\(= [\d.]+ s,", "a time, on other hardware than ours"),
)
"""What in a note makes a cell incomparable whatever we measure, and how to say so."""

CAVEATS = (
    (r'\bapprox|"about|close to', "the report's figure is approximate"),
    (r"kappa not printed", "the report prints no kappa"),
    (r"; steps, step size not printed", "the report prints no steps and no step size"),
    (r"attack settings not printed", "the report prints none of the attack's settings"),
    (r"assumed \(bandwidth", "the report states the bandwidth for its Table 2 only"),
    (
        r"attack not named in this sentence",
        "the attack is the one that the report named just before",
    ),
    (r"not named$", "the report does not name all that the figure is of"),
    (r"^range across", "an end of a range that the report read off its figure"),
    (
        r"tau 1\.28; SVM",
        "tau 1.28 is the one-sided 10 % point of a normal distribution, so it does not have to "
        "give the 1 % false positives that the report speaks of",
    ),
    (r"only in Figure 2", "the report judges by the look of its figure"),
)
"""What in a note has to be said beside a comparison, but does not forbid it."""

ERRATA = (
    ("pang", "jsma", "the report's saliency map mixes true class and target"),
    ("lemesle", "bim", "the report prints BIM with a minus and without the projection"),
    ("martin", "cw", "the report describes C&W as untargeted and prints the targeted formula"),
)
"""The same, for the attacks of a report."""
