"""The measures of published figures, on records made by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from notsure.attacks import BIM, EOT, FGSM, JSMA, MIM, PGD, Attack, CarliniWagner, DeepFool
from notsure.core.errors import ConfigurationError
from notsure.evaluation import Records, wilson
from notsure.studies.answers import MEASURED, measured
from notsure.studies.cells import published
from notsure.studies.measures import quantile_of
from notsure.studies.questions import MEASURES, Question
from notsure.studies.selection import Declared
from notsure.studies.verdicts import Answer
from tests.records import attacked, clean, synthetic

CELL = {
    "error": "pang.t1.mnist.resnet32.ce.clean.error_rate",
    "accuracy": "wester.t3.mnist.puvae_detector.fgsm.accuracy",
    "auc": "pang.t2.mnist.resnet32.ce.fgsm.kdensity.auc",
    "f2": "pang.t3.mnist.resnet32.ce.cw_wb.kdensity.f2_ratio",
    "far": "pang.t3.mnist.resnet32.ce.cw_wb.kdensity.distortion",
    "transfer": "pang.text.mnist.resnet56.cw_wb_from_resnet32.misclassified.max",
    "confidence": "pang.text.resnet32.cw_hc.adversarial_confidence.min",
    "rmse": "wester.text.mnist.puvae.adversarial.rmse",
    "rejected": "wester.text.mnist.puvae_detector_worst.labelled_adversarial.max",
    "l2": "martin.text.mnist.base.cw.l2_at_zero_accuracy",
    "found": "martin.text.mnist.base.logit_detection.detection_rate",
    "limit": "martin.text.mnist.base.logit_detection.false_positive_rate.max",
    "kappa": "martin.text.mnist.base.jumprelu.kappa",
    "hours": "martin.text.mnist.base.jsma.runtime",
    "minutes": "martin.text.mnist.base.fgsm.runtime",
    "ratio": "martin.text.mnist.base.mim.speedup_over_jsma",
    "seconds": "pang.t5.mnist_cifar10.resnet32.ce.fgsm.seconds",
    "count": "preaut.f1.cifar10.naive.conv1.params",
    "best": "preaut.text.cifar10.randomized.fig6_top_left.best_noise_std",
    "steps": "preaut.text.cifar10.naive.pgd.sufficient_iterations",
}


class ByHand:
    """What a study has yielded, without a study."""

    scale = "cpu"

    def __init__(
        self,
        attacks: Mapping[str, Attack | Declared] | None = None,
        told: Mapping[tuple[str, str], Any] | None = None,
        **records: Records,
    ) -> None:
        self._attacks, self._told, self._records = attacks or {}, told or {}, records

    def records(self, evaluation: str) -> Records:
        return self._records[evaluation]

    def budgets(self, evaluation: str) -> list[float]:
        eps = self._records[evaluation].distinct("eps")
        return sorted({size for (size,) in eps if size})

    def attack(self, name: str) -> Declared:
        found = self._attacks[name]
        return found if isinstance(found, Declared) else Declared.of(found)

    def module(self, network: str) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 5), nn.Linear(4, 2)) if network == "net" else nn.ReLU()

    def settings(self, section: str, name: str) -> Mapping[str, Any]:
        return dict(self._told[section, name])

    def remark(self, question: Question) -> str:
        return ""


def ask(findings: ByHand, measure: str, cell: str, **told: Any) -> Answer:
    usual: dict[str, Any] = {"evaluation": "main", "guard": "guard", "threat": "oblivious"}
    if measure in ("parameter_count", "setting"):
        usual = {}
    question = Question(cell=published()[CELL[cell]], measure=measure, **{**usual, **told})
    return measured(question, findings)


def run_of(attack: Attack, **columns: Any) -> dict[str, Any]:
    """The rows of an attack as the examiner would write them, with all its settings."""
    budget = attack.budget
    told = attack.settings()
    if budget is not None:
        told = {key: value for key, value in told.items() if key not in ("norm", "eps")}
    return attacked(
        attack.name,
        norm=None if budget is None else budget.norm.name,
        eps=None if budget is None else budget.eps,
        settings=told,
        **columns,
    )


Y = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def interval(answer: Answer) -> tuple[float, float, float]:
    return answer.value, answer.low, answer.high


def rate(count: int, n: int, whole: float = 100.0) -> Any:
    its = wilson(count, n)
    return pytest.approx((whole * its.value, whole * its.low, whole * its.high))


def test_every_measure_that_a_study_may_name_exists() -> None:
    assert MEASURED.keys() == MEASURES.keys()


def test_clean_images() -> None:
    records = synthetic(
        clean(
            y=Y,
            prediction=[0, 1, 2, 0, 1, 2, 0, 0, 0, 0],
            accepted=[0, 1, 1, 1, 1, 1, 1, 0, 1, 1],
            score_A=[3, 0, 0, 0, 0, 0, 0, 3, 0, 0],
            score_B=[0, 3, 3, 3, 0, 0, 0, 0, 0, 0],
        )
    )
    found = ByHand(main=records)
    # two are wrong; of the others one is rejected; two are rejected, three by B alone
    assert interval(ask(found, "clean_error", "error")) == rate(2, 10)
    assert interval(ask(found, "clean_accuracy", "accuracy")) == rate(7, 10)
    assert interval(ask(found, "clean_rejection", "limit")) == rate(2, 10)
    assert interval(ask(found, "clean_rejection", "limit", detector="B")) == rate(3, 10)
    assert ask(found, "clean_error", "error").n == 10


def detected() -> ByHand:
    """Of ten images, six right when clean and wrong when attacked, of which four are flagged."""
    records = synthetic(
        clean(
            y=Y,
            prediction=[0, 1, 2, 0, 1, 2, 0, 1, 0, 1],
            score_A=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        ),
        run_of(
            FGSM(eps=0.1),
            prediction=[1, 0, 1, 1, 0, 1, 0, 1, 0, 1],
            accepted=[0, 0, 0, 0, 1, 1, 1, 1, 1, 0],
            score_A=[2.5, 2.6, 2.7, 2.8, 0.05, 0.25, 0.6, 0.7, 9.0, 9.0],
            linf=[0.1] * 6 + [0.0] * 4,
            l2=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0, 0, 0, 0],
        ),
    )
    return ByHand({"fgsm": FGSM()}, main=records)


def test_detection_is_over_what_was_right_and_is_wrong() -> None:
    answer = ask(detected(), "detection_area", "auc", attack="fgsm", detector="A")
    # against the clean 0, 0.1 .. 0.5: four above all, 0.05 above one of six, 0.25 above three
    assert answer.value == pytest.approx(100 * (4 * 6 + 1 + 3) / 36)
    assert answer.n == 6
    for detector in ("A", None):
        answer = ask(detected(), "detection_rate", "found", attack="fgsm", detector=detector)
        assert interval(answer) == rate(4, 6)


def test_scores_of_adversarial_images_are_those_of_changed_ones() -> None:
    told = {"attack": "fgsm", "detector": "A"}
    answer = ask(detected(), "mean_score", "rmse", **told)
    values = np.array([2.5, 2.6, 2.7, 2.8, 0.05, 0.25])
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert interval(answer) == pytest.approx((values.mean(), low, high))
    assert answer.n == 6
    bare = ask(detected(), "mean_score", "rmse", detector="A", threat=None)
    assert bare.value == pytest.approx(0.45)
    assert bare.n == 10


def test_the_confidence_in_wrong_classes() -> None:
    told = {"attack": "fgsm", "detector": "A"}
    lowest = ask(
        detected(), "adversarial_confidence", "confidence", **told, arguments={"quantile": 0}
    )
    assert interval(lowest) == pytest.approx((math.exp(-2.8),) * 3)
    half = ask(
        detected(), "adversarial_confidence", "confidence", **told, arguments={"quantile": 0.5}
    )
    assert half.value == pytest.approx(math.exp(-2.6))
    assert (half.n, lowest.n) == (6, 6)
    assert "the lowest" in lowest.why


def test_distances_are_those_of_fooled_images() -> None:
    answer = ask(detected(), "distortion", "far", attack="fgsm")
    # two are accepted and wrong, and were right
    assert answer.value == pytest.approx(0.55 * 255 / 4)
    assert answer.n == 2
    plain = ask(detected(), "distortion", "l2", attack="fgsm")
    assert plain.value == pytest.approx(0.55)


def test_a_single_image_is_no_mean() -> None:
    records = synthetic(clean(y=[0, 0]), run_of(DeepFool(), prediction=[1, 0], l2=[0.5, 0.0]))
    answer = ask(ByHand({"a": DeepFool()}, main=records), "distortion", "l2", attack="a")
    assert (interval(answer), answer.n) == ((0.5, 0.5, 0.5), 1)
    assert "single" in answer.differs


def test_f2_counts_what_the_attack_could_not_do() -> None:
    records = synthetic(
        clean(y=[0] * 6, prediction=[0, 0, 0, 0, 0, 1], score_A=[1.0] * 6),
        run_of(
            CarliniWagner(),
            threat="white-box",
            prediction=[1, 1, 1, 1, 0, 1],
            # the threshold is 2, the median 2 below it
            score_A=[-1.0, 0.1, 1.9, -0.5, 1.0, 1.0],
            rejection=[-1.5, -0.95, -0.05, -1.25, -0.5, -0.5],
            success=[1, 1, 1, 1, 0, 1],
        ),
    )
    found = ByHand({"cw_wb": CarliniWagner()}, main=records)
    told = {"attack": "cw_wb", "threat": "white-box"}
    for detector in ("A", None):
        answer = ask(found, "undetected_ratio", "f2", **told, detector=detector)
        # the second and third are above the median, the fifth was not fooled, the last was wrong
        assert interval(answer) == rate(3, 5, 1.0)
    answer = ask(found, "undetected_ratio", "f2", **told, arguments={"above": 0})
    assert interval(answer) == rate(1, 5, 1.0)


def over_eps() -> ByHand:
    """Robust accuracies 0.7, 0.4 and 0.6 of ten images, and 0, 3 and 4 rejected ones."""
    parts = [clean(y=Y, score_A=0.0)]
    for eps, fooled, rejected in ((0.1, 3, 0), (0.2, 6, 3), (0.3, 4, 4)):
        wrong = [(label + 1) % 3 for label in Y]
        flags = [place >= fooled for place in range(10)]
        parts.append(
            run_of(
                PGD(eps=eps),
                prediction=[wrong[i] if i < fooled + rejected else Y[i] for i in range(10)],
                accepted=[not flags[i] or i >= fooled + rejected for i in range(10)],
                score_A=1.0,
                l2=[eps * (i + 1) for i in range(10)],
            )
        )
        parts.append(run_of(BIM(eps=eps), prediction=[wrong[0], *Y[1:]], score_A=1.0))
    return ByHand({"pgd": PGD(), "bim": BIM()}, main=synthetic(*parts))


def test_worst_cases_are_taken_eps_by_eps() -> None:
    found = over_eps()
    for eps, left in ((0.1, 7), (0.2, 4), (0.3, 6)):
        answer = ask(found, "robust_accuracy", "accuracy", attack="pgd", eps=eps)
        assert interval(answer) == rate(left, 10)
    worst = ask(found, "worst_robust_accuracy", "accuracy", attack="pgd")
    assert interval(worst) == rate(4, 10)
    assert "the smallest of 3, at eps 0.2" in worst.why
    best = ask(
        found,
        "robust_accuracy",
        "accuracy",
        attack="pgd",
        arguments={"over": "eps", "take": "largest"},
    )
    assert interval(best) == rate(7, 10)
    rejected = ask(found, "rejected_at_worst", "rejected", attack="pgd")
    assert interval(rejected) == rate(3, 10)
    assert "eps 0.2" in rejected.why
    # over attacks, each at its own worst eps
    most = ask(
        found,
        "rejected_at_worst",
        "rejected",
        arguments={"over": {"attack": ["pgd", "bim"]}, "take": "largest"},
    )
    assert interval(most) == rate(3, 10)
    assert "attack pgd" in most.why


def test_one_eps_of_several_has_to_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"with the eps 0\.1, 0\.2, 0\.3: say which"):
        ask(over_eps(), "robust_accuracy", "accuracy", attack="pgd")
    with pytest.raises(ConfigurationError, match=r"hold no PGD .* eps 0\.4; they hold PGD within"):
        ask(over_eps(), "robust_accuracy", "accuracy", attack="pgd", eps=0.4)


def test_an_answer_says_what_its_group_says() -> None:
    answer = ask(
        over_eps(),
        "robust_accuracy",
        "accuracy",
        attack="pgd",
        eps=0.1,
        why="ours",
        differs="other",
    )
    assert (answer.why, answer.differs) == ("ours", "other")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_distance_at_which_accuracy_has_fallen(share: float) -> None:
    chance = np.random.default_rng(0)
    far = chance.uniform(0.5, 3, 400)
    y = np.zeros(400, int)
    first = np.where(np.arange(400) == 7, 1, 0)
    records = synthetic(
        clean(y=y, prediction=first), run_of(DeepFool(), prediction=[1] * 400, l2=far)
    )
    found = ByHand({"a": DeepFool()}, main=records)
    answer = ask(found, "distance_at_zero", "l2", attack="a", arguments={"share": share})
    far[7] = 0.0
    # by definition: no smaller distance leaves as few standing
    left = [(np.float32(far) > np.float32(d) + 1e-6).mean() for d in np.sort(far)]
    expected = np.sort(far)[next(i for i, one in enumerate(left) if one <= share)]
    assert answer.value == pytest.approx(expected, rel=1e-6)
    assert answer.differs == ""
    if share:
        assert answer.low < answer.value < answer.high
        assert answer.high - answer.low < 0.5


def test_the_nearest_of_all_budgets_counts_and_who_stands_is_told() -> None:
    found = over_eps()
    answer = ask(found, "distance_at_zero", "l2", attack="pgd", arguments={"share": 0.4})
    # the first three fall within 0.1, three more within 0.2: at 6 * 0.2
    assert answer.value == pytest.approx(1.2)
    never = ask(found, "distance_at_zero", "l2", attack="pgd")
    assert never.differs.startswith("the farthest image that fell; 40.0 % stand")


def test_a_transfer_is_of_one_substitute() -> None:
    parts = [clean(y=[0] * 4)]
    for name, predictions in (("ce", [1, 0, 0, 0]), ("rce", [1, 1, 1, 0])):
        parts.append(
            run_of(
                MIM(eps=0.1),
                threat="transfer",
                substitute=name,
                prediction=predictions,
                success=[1, 1, 1, 0],
            )
        )
    found = ByHand({"mim": MIM()}, main=synthetic(*parts))
    told: dict[str, Any] = {"attack": "mim", "threat": "transfer"}
    for name, count in (("ce", 1), ("rce", 3)):
        answer = ask(found, "misclassification", "transfer", **told, substitute=name)
        assert interval(answer) == rate(count, 3)
    with pytest.raises(ConfigurationError, match="come from"):
        ask(found, "misclassification", "transfer", **told)
    over = {"over": {"substitute": ["ce", "rce"]}, "take": "largest"}
    most = ask(found, "misclassification", "transfer", **told, arguments=over)
    assert interval(most) == rate(3, 3)


def timed() -> ByHand:
    """Batches of 4, 4 and 2 images; JSMA ten times as slow as MIM."""
    seconds = np.repeat([0.1, 0.2, 0.4], [4, 4, 2])
    parts = [
        clean(y=Y),
        run_of(MIM(eps=0.1), seconds=seconds),
        run_of(JSMA(), seconds=10 * seconds),
    ]
    own = synthetic(*parts)
    other = synthetic(clean("guard", y=Y), run_of(MIM(eps=0.1), seconds=[0.3] * 10))
    return ByHand({"mim": MIM(), "jsma": JSMA()}, main=own, other=other)


def test_times_are_measured_batch_by_batch() -> None:
    answer = ask(timed(), "seconds_per_example", "seconds", attack="mim")
    assert answer.value == pytest.approx(0.2)
    # of three batches: weights 0.4, 0.4, 0.2, deviations -0.1, 0, 0.2
    half = stats.t.ppf(0.975, 2) * math.sqrt((0.04**2 + 0.04**2) * 3 / 2)
    assert answer.high - answer.value == pytest.approx(half, rel=1e-5)
    assert answer.n == 10
    hours = ask(timed(), "seconds_per_example", "hours", attack="jsma", arguments={"count": 500})
    assert hours.value == pytest.approx(500 * 2.0 / 3600)
    minutes = ask(
        timed(), "seconds_per_example", "minutes", attack="mim", arguments={"count": 1000}
    )
    assert minutes.value == pytest.approx(1000 * 0.2 / 60)
    both = ask(
        timed(),
        "seconds_per_example",
        "seconds",
        attack="mim",
        arguments={"others": {"other": "guard"}},
    )
    assert both.value == pytest.approx(0.25)
    assert both.n == 20
    assert both.high - both.value == pytest.approx(half / 2, rel=1e-5)


def test_how_many_times_as_long_another_attack_takes() -> None:
    answer = ask(timed(), "seconds_ratio", "ratio", attack="mim", arguments={"to": "jsma"})
    assert answer.value == pytest.approx(10)
    assert answer.low < 10 < answer.high


def test_parameters_are_counted() -> None:
    count = ask(ByHand(), "parameter_count", "count", network="net", arguments={"module": "0"})
    assert interval(count) == (456, 456, 456)
    assert ask(ByHand(), "parameter_count", "count", network="net").value == 466
    with pytest.raises(ConfigurationError, match=r"no module 'conv'\. It has 0, 1"):
        ask(ByHand(), "parameter_count", "count", network="net", arguments={"module": "conv"})


def test_settings_are_read_where_they_stand() -> None:
    detectors = {"logits": {"kind": "LogOdds", "settings": {"tau": 1.28}}}
    told: dict[tuple[str, str], Any] = {
        ("guards", "g"): {"fpr": 0.01, "detectors": detectors},
        ("networks", "n"): {"k": {"x": 2}},
    }
    found = ByHand(told=told)
    tau = {"path": "detectors.logits.settings.tau"}
    assert ask(found, "setting", "kappa", guard="g", arguments=tau).value == 1.28
    # a share is in the cell's unit, percent
    assert ask(found, "setting", "limit", guard="g", arguments={"path": "fpr"}).value == 1.0
    assert ask(found, "setting", "kappa", network="n", arguments={"path": "k.x"}).value == 2
    assert ask(found, "setting", "kappa", arguments={"value": 0.0645}).value == 0.0645
    with pytest.raises(ConfigurationError, match="at 'fprs' there is fpr, detectors"):
        ask(found, "setting", "limit", guard="g", arguments={"path": "fprs"})
    with pytest.raises(ConfigurationError, match="is a number; got "):
        ask(found, "setting", "kappa", network="n", arguments={"path": "k"})


def noisy(*standing: int, count: int = 200) -> ByHand:
    """Guards of which so many images stand, the same images as far as possible."""
    parts = []
    for guard, left in enumerate(standing):
        parts.append(clean(f"g{guard}", y=[0] * count))
        prediction = [0] * left + [1] * (count - left)
        parts.append(run_of(PGD(eps=0.1), guard=f"g{guard}", prediction=prediction))
    return ByHand({"pgd": PGD()}, main=synthetic(*parts))


def best(found: ByHand, **guards: float) -> Answer:
    told: dict[str, Any] = {"attack": "pgd", "guard": None, "arguments": {"guards": guards}}
    return ask(found, "best_of", "best", **told)


def test_the_best_setting_and_those_that_are_as_good() -> None:
    clear = best(noisy(100, 150, 60), g0=0.0, g1=0.1, g2=0.3)
    assert interval(clear) == (0.1, 0.1, 0.1)
    # three of two hundred are chance
    close = best(noisy(100, 150, 147), g0=0.0, g1=0.1, g2=0.3)
    assert interval(close) == (0.1, 0.1, 0.3)
    assert close.n == 200


def saturating(*fooled: int, count: int = 400) -> ByHand:
    parts = [clean(y=[0] * count)]
    attacks = {}
    for steps, fallen in zip((5, 10, 50), fooled, strict=True):
        prediction = [1] * fallen + [0] * (count - fallen)
        attacks[f"pgd-{steps}"] = PGD(steps=steps)
        parts.append(run_of(PGD(eps=0.1, steps=steps), prediction=prediction))
    return ByHand(attacks, main=synthetic(*parts))


@pytest.mark.parametrize(
    ("fooled", "expected"),
    [
        ((200, 400, 400), (10, 10, 10)),
        # two are half a point, more than one by chance
        ((200, 398, 400), (10, 10, 50)),
        # eight are two points, less than one by chance
        ((200, 392, 400), (50, 10, 50)),
        ((400, 400, 400), (5, 5, 5)),
        # what is enough at few steps and not at more is not enough
        ((400, 300, 400), (50, 50, 50)),
    ],
)
def test_the_steps_that_suffice(fooled: tuple[int, int, int], expected: tuple[int, ...]) -> None:
    steps = {"pgd-5": 5, "pgd-10": 10, "pgd-50": 50}
    answer = ask(saturating(*fooled), "saturation", "steps", arguments={"attacks": steps})
    assert interval(answer) == expected


def test_attacks_are_found_as_threats_have_changed_them() -> None:
    told = {"early_stop": False}
    parts = [clean(y=[0, 0])]
    for steps in (10, 20):
        rows = run_of(PGD(eps=0.1, steps=steps), prediction=[1, int(steps == 20)])
        rows["settings"] = {**rows["settings"], **told}
        parts.append(rows)
    found = ByHand({"ten": PGD(steps=10), "twenty": PGD(steps=20)}, main=synthetic(*parts))
    assert ask(found, "robust_accuracy", "accuracy", attack="ten").value == 50
    assert ask(found, "robust_accuracy", "accuracy", attack="twenty").value == 0
    other = ByHand({"ten": PGD(steps=11)}, main=synthetic(*parts))
    with pytest.raises(ConfigurationError, match="hold no PGD with the settings of the study"):
        ask(other, "robust_accuracy", "accuracy", attack="ten")


def test_a_step_size_keeps_its_share_of_the_budget() -> None:
    declared = PGD(eps=0.3, step_size=0.06, steps=10)
    records = synthetic(clean(y=[0, 0]), run_of(declared.with_eps(0.1), prediction=[1, 0]))
    found = ByHand({"pgd": declared}, main=records)
    assert ask(found, "robust_accuracy", "accuracy", attack="pgd").value == 50


def test_a_gradient_source_of_its_own_tells_attacks_apart() -> None:
    plain, averaged = PGD(eps=0.1), PGD(eps=0.1, gradient=EOT(n=50))
    parts = [clean(y=[0, 0]), run_of(plain, prediction=[1, 0]), run_of(averaged, prediction=[1, 1])]
    found = ByHand({"plain": plain, "averaged": averaged}, main=synthetic(*parts))
    assert ask(found, "robust_accuracy", "accuracy", attack="plain").value == 50
    assert ask(found, "robust_accuracy", "accuracy", attack="averaged").value == 0


def test_a_fitted_attack_is_known_by_what_the_study_says() -> None:
    told = {"epochs": 3, "generator": "0123"}
    parts = [clean(y=[0, 0]), attacked("AdvGAN", settings=told, prediction=[1, 0])]
    found = ByHand({"gan": Declared(name="AdvGAN", settings={"epochs": 3})}, main=synthetic(*parts))
    assert ask(found, "robust_accuracy", "accuracy", attack="gan").value == 50
    found = ByHand({"gan": Declared(name="AdvGAN", settings={"epochs": 4})}, main=synthetic(*parts))
    with pytest.raises(ConfigurationError, match="hold no AdvGAN"):
        ask(found, "robust_accuracy", "accuracy", attack="gan")


def test_a_failed_attack_leaves_nothing_to_measure() -> None:
    records = synthetic(clean(y=[0, 0], score_A=0.0), run_of(PGD(eps=0.1), score_A=0.0))
    found = ByHand({"pgd": PGD()}, main=records)
    for measure, cell, told in (
        ("distortion", "far", {}),
        ("detection_area", "auc", {"detector": "A"}),
        ("misclassification", "transfer", {}),
        ("adversarial_confidence", "confidence", {"detector": "A"}),
    ):
        assert ask(found, measure, cell, attack="pgd", **told).n == 0, measure


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 1.0]),
)
def test_a_quantile_lies_within_its_interval(values: list[float], share: float) -> None:
    answer = quantile_of(np.array(values), share, "cpu")
    assert answer.low <= answer.value <= answer.high
    assert (np.array(values) <= answer.value).mean() >= share
    assert min(values) <= answer.low
    assert answer.high <= max(values)


def test_the_interval_of_a_quantile_covers_it() -> None:
    chance = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        answer = quantile_of(chance.normal(size=100), 0.3, "cpu")
        covered += answer.low <= stats.norm.ppf(0.3) <= answer.high
    assert 0.92 <= covered / 400 <= 0.99
