"""The sanity flags on records made by hand: planted faults raise theirs alone, sound ones none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from notsure.core.errors import ConfigurationError
from notsure.evaluation.evidence import duel
from notsure.evaluation.records import Records
from notsure.evaluation.sanity import Flag, flags, markdown
from tests.records import Rows, attacked, clean, synthetic

NAMES = [
    "probabilities-as-logits",
    "zero-gradients",
    "non-finite-gradients",
    "black-box-beats-white-box",
    "not-monotone",
    "survives-unbounded",
    "stochastic-without-eot",
    "not-converged",
    "near-chance",
    "inverted-detector",
    "leaked-data",
    "eight-bit-fragile",
    "too-few-samples",
]

N, PROBED, CLASSES = 400, 100, 10
Y = np.arange(N) % CLASSES
RANK = (np.arange(N) * 37) % N
"""Who falls first; the images of a larger share contain those of a smaller one."""

CLEAN_PREDICTION = np.where(np.arange(N) % 20 == 0, (Y + 1) % CLASSES, Y)

Guards = dict[str, dict[str, Any]]
Fault = Callable[[dict[str, Rows], Guards], None]


def weakest(share: float) -> npt.NDArray[np.bool_]:
    return np.less(RANK, share * N)


def outcome(fooled: npt.NDArray[np.bool_], count: int = N, **columns: Any) -> dict[str, Any]:
    """What becomes of the first `count` images: where they are fooled, in 8 bits as well."""
    mask, prediction = fooled[:count], np.where(fooled, (Y + 3) % CLASSES, CLEAN_PREDICTION)[:count]
    rounded = [int(p) if m else None for p, m in zip(prediction, mask, strict=True)]
    return {
        "index": list(range(count)),
        "prediction": prediction,
        "rounded_prediction": rounded,
        "rounded_accepted": [True if m else None for m in mask],
        "score_A": (RANK[:count] / N + np.where(mask, 0.5, 0)),
        **columns,
    }


def sound() -> tuple[dict[str, Rows], Guards]:
    """Records in which everything was looked at and nothing is wrong."""
    stepped: dict[str, Any] = {"gradients": 40}
    parts = {
        "clean": clean(y=Y, prediction=CLEAN_PREDICTION, score_A=RANK / N),
        "oblivious": attacked("PGD", settings={"steps": 40}, **outcome(weakest(0.9)), **stepped),
        "noise": attacked("RandomNoise", settings={"steps": 0}, **outcome(weakest(0.05))),
        "white-box": attacked(
            "PGD", threat="white-box", settings={"steps": 40}, **outcome(weakest(0.6)), **stepped
        ),
        "larger": attacked(
            "PGD",
            threat="white-box",
            eps=0.2,
            settings={"steps": 40},
            **outcome(weakest(0.8)),
            **stepped,
        ),
        "square": attacked(
            "Square", threat="query-scores", settings={"queries": 500}, **outcome(weakest(0.3))
        ),
        "transfer": attacked(
            "MIM", threat="transfer", substitute="twin", **outcome(weakest(0.2)), **stepped
        ),
        "unbounded": attacked(
            "PGD",
            threat="white-box",
            eps=1.0,
            probe="unbounded",
            **outcome(weakest(1.0), PROBED),
            **stepped,
        ),
        "longer": attacked(
            "PGD",
            threat="white-box",
            probe="longer",
            settings={"steps": 160, "probe_of": "of white-box"},
            gradients=160,
            **outcome(weakest(0.61), PROBED),
        ),
        "noise probe": attacked(
            "RandomNoise",
            threat="white-box",
            probe="noise",
            **outcome(weakest(0.05), PROBED),
        ),
    }
    parts["white-box"]["attack_id"] = "of white-box"
    for name in ("noise", "square", "noise probe"):
        parts[name]["gradients"] = 0
    return parts, {"guard": {}}


def examined(fault: Fault | None = None) -> dict[str, Flag]:
    parts, guards = sound()
    if fault is not None:
        fault(parts, guards)
    return by_name(synthetic(*parts.values(), guards=guards))


def by_name(records: Records) -> dict[str, Flag]:
    return {flag.name: flag for flag in records.flags()}


def raised(found: dict[str, Flag]) -> set[str]:
    return {name for name, flag in found.items() if flag.raised}


def test_sound_records_raise_nothing_and_everything_was_looked_at() -> None:
    found = examined()
    assert list(found) == NAMES
    assert raised(found) == set()
    assert all(flag.looked for flag in found.values())
    for flag in found.values():
        for text in (flag.because, flag.means, flag.remedy):
            assert text.endswith(".")
            assert "nan" not in text


def softmax(parts: dict[str, Rows], guards: Guards) -> None:
    guards["guard"]["outputs"] = {"probability_rows": 1.0}


def dead(parts: dict[str, Rows], guards: Guards) -> None:
    # 40 % of the images stand, and a quarter of their passes was lost
    parts["white-box"]["dead_gradients"] = np.where(weakest(0.6), 0, 10)


def dead_probe(parts: dict[str, Rows], guards: Guards) -> None:
    parts["longer"]["dead_gradients"] = 20


def not_finite(parts: dict[str, Rows], guards: Guards) -> None:
    for name in ("dead_gradients", "non_finite_gradients"):
        parts["oblivious"][name] = np.where(RANK < 30, 40, 0)


def strong_square(parts: dict[str, Rows], guards: Guards) -> None:
    parts["square"] |= outcome(weakest(0.7))


def strong_transfer(parts: dict[str, Rows], guards: Guards) -> None:
    parts["transfer"] |= outcome(weakest(0.66))


def strong_noise(parts: dict[str, Rows], guards: Guards) -> None:
    parts["noise probe"] |= outcome(weakest(0.75), PROBED)


def strong_query_in_white_box(parts: dict[str, Rows], guards: Guards) -> None:
    parts["square in the open"] = attacked(
        "Square", threat="white-box", **outcome(weakest(0.7), gradients=0)
    )


def falling_in_eps(parts: dict[str, Rows], guards: Guards) -> None:
    parts["larger"] |= outcome(weakest(0.5))


def falling_in_queries(parts: dict[str, Rows], guards: Guards) -> None:
    parts["more"] = attacked(
        "Square",
        threat="query-scores",
        settings={"queries": 5000},
        **outcome(weakest(0.2), gradients=0),
    )


def falling_in_steps_on_the_substitute(parts: dict[str, Rows], guards: Guards) -> None:
    for steps, share in ((10, 0.9), (20, 0.7)):
        parts[f"transfer {steps}"] = attacked(
            "PGD",
            threat="transfer",
            substitute="twin",
            settings={"steps": steps},
            **outcome(weakest(0.1), success=weakest(share)),
        )


def standing(parts: dict[str, Rows], guards: Guards) -> None:
    parts["unbounded"] |= outcome(weakest(0.85), PROBED)


def stochastic(parts: dict[str, Rows], guards: Guards) -> None:
    guards["guard"]["stochastic"] = True


def stopped_early(parts: dict[str, Rows], guards: Guards) -> None:
    parts["longer"] |= outcome(weakest(0.75), PROBED)


def guessing(parts: dict[str, Rows], guards: Guards) -> None:
    guards["guard"]["num_classes"] = 2
    # 55 % are right, of 2 classes
    parts["clean"]["prediction"] = np.where(np.arange(N) % 20 < 11, Y, (Y + 1) % CLASSES)


def inverted(parts: dict[str, Rows], guards: Guards) -> None:
    parts["oblivious"]["score_A"] = RANK / N - np.where(weakest(0.9), 0.5, 0)


def leaked(parts: dict[str, Rows], guards: Guards) -> None:
    guards["guard"]["leaked"] = {"fit": 0, "calibration": 3}


def rounded_away(parts: dict[str, Rows], guards: Guards) -> None:
    for part in parts.values():
        known = part.get("rounded_prediction")
        if known is None:
            continue
        part["rounded_prediction"] = [
            prediction if prediction is None or rank % 4 else int(label)
            for prediction, rank, label in zip(known, RANK, Y, strict=False)
        ]


def rounded_and_rejected(parts: dict[str, Rows], guards: Guards) -> None:
    for part in parts.values():
        if "rounded_accepted" in part:
            known = part["rounded_accepted"]
            part["rounded_accepted"] = [None if one is None else False for one in known]


FAULTS: list[tuple[Fault, str]] = [
    (softmax, "probabilities-as-logits"),
    (dead, "zero-gradients"),
    (dead_probe, "zero-gradients"),
    (not_finite, "non-finite-gradients"),
    (strong_square, "black-box-beats-white-box"),
    (strong_transfer, "black-box-beats-white-box"),
    (strong_noise, "black-box-beats-white-box"),
    (strong_query_in_white_box, "black-box-beats-white-box"),
    (falling_in_eps, "not-monotone"),
    (falling_in_queries, "not-monotone"),
    (falling_in_steps_on_the_substitute, "not-monotone"),
    (standing, "survives-unbounded"),
    (stochastic, "stochastic-without-eot"),
    (stopped_early, "not-converged"),
    (guessing, "near-chance"),
    (inverted, "inverted-detector"),
    (leaked, "leaked-data"),
    (rounded_away, "eight-bit-fragile"),
    (rounded_and_rejected, "eight-bit-fragile"),
]


@pytest.mark.parametrize(("fault", "name"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_raises_its_flag_alone(fault: Fault, name: str) -> None:
    found = examined(fault)
    assert raised(found) == {name}
    assert "'guard'" in found[name].because
    assert any(character.isdigit() for character in found[name].because) or name.startswith("stoch")


def test_figures_are_told() -> None:
    told = {
        name: examined(fault)[name].because
        for fault, name in (
            (dead, "zero-gradients"),
            (strong_square, "black-box-beats-white-box"),
            (leaked, "leaked-data"),
            (rounded_away, "eight-bit-fragile"),
        )
    }
    # 60 % fell, and of the other 160 images 8 were wrong when clean
    assert (
        "on the images that it left standing, 1520 of 6080 backward passes (25.0 %)"
        in (told["zero-gradients"])
    )
    assert "152 of 400 images" in told["zero-gradients"]
    # 5 % were wrong when clean: nobody newly fools those
    assert (
        "(Square) fooled 266 of 400 images, gradient attacks (PGD) 228; 38 fell to the"
        in (told["black-box-beats-white-box"])
    )
    assert "3 of 400 test images were used in its calibration" in told["leaked-data"]
    assert "images that can be made to fool it" in told["eight-bit-fragile"]
    assert "(25.0 %)" in told["eight-bit-fragile"]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (7, 2), (3, 9), (40, 25)])
def test_the_paired_test_is_exact(gained: int, lost: int) -> None:
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:gained], second[gained : gained + lost] = True, True
    # images on which both agree, or that one of them has not attacked, change nothing
    first[80:90] = second[80:90] = True
    first[95:] = True
    result = duel(first, second, np.arange(100) < 95)
    n = gained + lost
    expected = sum(math.comb(n, k) for k in range(gained, n + 1)) / 2**n
    assert result.p == pytest.approx(expected)
    assert (result.n, result.gained, result.lost) == (95, gained, lost)
    assert (result.surprising, result.expected) == (gained + 10, lost + 10)
    assert result.advantage == pytest.approx((gained - lost) / 95)


def change(part: str, **columns: Any) -> Fault:
    def changed(parts: dict[str, Rows], guards: Guards) -> None:
        parts[part] |= columns

    return changed


def test_chance_accuses_nobody() -> None:
    """What happens to a few images, or by less than matters, raises nothing."""
    one = RANK == 399
    harmless: list[Fault] = [
        # one stubborn image takes most of the steps there are
        change(
            "white-box", gradients=np.where(one, 4000, 1), dead_gradients=np.where(one, 4000, 0)
        ),
        change("square", **outcome(weakest(0.61))),
        change("noise probe", **outcome(weakest(0.63), PROBED)),
        change("larger", **outcome(weakest(0.59))),
        change("unbounded", **outcome(weakest(0.97), PROBED)),
        change("unbounded", dead_gradients=20),
        change("longer", **outcome(weakest(0.63), PROBED)),
    ]
    for fault in harmless:
        assert raised(examined(fault)) == set()


def test_survivors_of_few_images_are_no_evidence() -> None:
    def few(parts: dict[str, Rows], guards: Guards) -> None:
        fooled = weakest(1.0)
        fooled[3] = False
        parts["unbounded"] |= outcome(fooled, 12)

    assert raised(examined(few)) == set()


def test_images_from_beyond_the_budget_do_not_count_within_it() -> None:
    def far(parts: dict[str, Rows], guards: Guards) -> None:
        parts["far noise"] = attacked(
            "RandomNoise", eps=0.5, settings={"steps": 0}, **outcome(weakest(1.0), gradients=0)
        )

    assert raised(examined(far)) == set()

    def near(parts: dict[str, Rows], guards: Guards) -> None:
        far(parts, guards)
        # measured to lie within the ball of 0.1 after all
        parts["far noise"]["linf"] = 0.1

    assert raised(examined(near)) == {"black-box-beats-white-box"}


def test_minimum_norm_attacks_count_where_they_come_near_enough() -> None:
    def with_minimum_norm(norm: str, distance: float) -> Fault:
        def fault(parts: dict[str, Rows], guards: Guards) -> None:
            strong_square(parts, guards)
            parts["nearest"] = attacked(
                "FAB",
                threat="white-box",
                norm=None,
                settings={"norm": norm},
                **outcome(weakest(0.9), linf=distance, gradients=10),
            )

        return fault

    assert raised(examined(with_minimum_norm("linf", 0.09))) == set()
    assert raised(examined(with_minimum_norm("linf", 0.11))) == {"black-box-beats-white-box"}

    def alone(parts: dict[str, Rows], guards: Guards) -> None:
        with_minimum_norm("linf", 0.11)(parts, guards)
        for name in ("white-box", "larger", "longer"):
            del parts[name]

    found = examined(alone)["black-box-beats-white-box"]
    assert found.raised
    assert "gradient attacks (FAB) 0;" in found.because

    def in_another_norm(parts: dict[str, Rows], guards: Guards) -> None:
        alone(parts, guards)
        parts["nearest"]["settings"] = {"norm": "l2"}

    # an attack that minimises l2 is no witness of what gradients can do in linf
    assert not examined(in_another_norm)["black-box-beats-white-box"].looked


def test_an_ensemble_with_a_query_attack_does_not_hide_that_gradients_fail() -> None:
    def with_ensemble(parts: dict[str, Rows], guards: Guards) -> None:
        strong_square(parts, guards)
        parts["ensemble"] = attacked(
            "AutoAttack", threat="white-box", **outcome(weakest(0.7), gradients=100)
        )

    assert raised(examined(with_ensemble)) == {"black-box-beats-white-box"}


def test_without_white_box_a_bare_classifier_is_judged_by_what_sees_all_of_it() -> None:
    def bare(parts: dict[str, Rows], guards: Guards) -> None:
        for name in ("white-box", "larger", "transfer", "unbounded", "longer", "noise probe"):
            del parts[name]
        for part in parts.values():
            part.pop("score_A")
        parts["square"] |= outcome(weakest(0.96))
        parts["square"].pop("score_A")

    found = examined(bare)
    assert found["black-box-beats-white-box"].raised
    assert found["inverted-detector"].looked

    def purified(parts: dict[str, Rows], guards: Guards) -> None:
        bare(parts, guards)
        guards["guard"]["purifier"] = {"type": "Denoiser", "settings": {}}

    # who does not see the purifier may well be beaten by who asks behind it
    assert not examined(purified)["black-box-beats-white-box"].looked


def test_single_steps_and_other_settings_are_not_compared() -> None:
    def single(parts: dict[str, Rows], guards: Guards) -> None:
        for eps, share in ((0.1, 0.5), (0.3, 0.3)):
            parts[f"fgsm {eps}"] = attacked(
                "FGSM", eps=eps, settings={"steps": 1}, **outcome(weakest(share))
            )

    def otherwise_set(parts: dict[str, Rows], guards: Guards) -> None:
        falling_in_eps(parts, guards)
        parts["larger"]["settings"] = {"steps": 10}

    def scaled(parts: dict[str, Rows], guards: Guards) -> None:
        falling_in_eps(parts, guards)
        parts["white-box"]["settings"] = {"steps": 40, "step_size": 0.01}
        parts["larger"]["settings"] = {"steps": 40, "step_size": 0.02}

    assert raised(examined(single)) == set()
    assert raised(examined(otherwise_set)) == set()
    assert raised(examined(scaled)) == {"not-monotone"}


def test_an_oblivious_attack_that_is_detected_more_with_eps_is_monotone() -> None:
    """What it shows is measured on the classifier that it sees."""

    def detected(parts: dict[str, Rows], guards: Guards) -> None:
        parts["oblivious larger"] = attacked(
            "PGD",
            eps=0.2,
            settings={"steps": 40},
            **outcome(weakest(0.95), accepted=False, gradients=40),
        )

    assert raised(examined(detected)) == set()


@pytest.mark.parametrize(
    ("gradient", "fine"),
    [
        ({"name": "Autograd"}, False),
        ({"name": "BPDA", "of": {"name": "Autograd"}}, False),
        ({"name": "EOT", "n": 1, "of": {"name": "Autograd"}}, False),
        ({"name": "EOT", "n": 20, "of": {"name": "BPDA"}}, True),
        ({"name": "BPDA", "of": {"name": "EOT", "n": 8}}, True),
    ],
)
def test_averaging_over_draws_is_found_wherever_it_is(gradient: dict[str, Any], fine: bool) -> None:
    def averaged(parts: dict[str, Rows], guards: Guards) -> None:
        stochastic(parts, guards)
        for name in ("white-box", "larger"):
            parts[name]["settings"] = {"steps": 40, "gradient": gradient}

    found = examined(averaged)["stochastic-without-eot"]
    assert found.looked
    assert found.raised != fine


@pytest.mark.parametrize("classifier", [True, False])
def test_an_oblivious_attack_has_to_average_where_the_classifier_is_random(
    classifier: bool,
) -> None:
    def random(parts: dict[str, Rows], guards: Guards) -> None:
        stochastic(parts, guards)
        guards["guard"]["stochastic_classifier"] = classifier
        for name in ("white-box", "larger"):
            parts[name]["settings"] = {"steps": 40, "gradient": {"name": "EOT", "n": 20}}

    found = examined(random)["stochastic-without-eot"]
    assert found.looked
    # what is random about a detector alone is nothing that the oblivious attacker meets
    assert found.raised == classifier
    assert ("oblivious" in found.because) == classifier


def test_few_classes_are_judged_by_their_chance() -> None:
    def half_right(parts: dict[str, Rows], guards: Guards) -> None:
        parts["clean"]["prediction"] = np.where(np.arange(N) % 20 < 11, Y, (Y + 1) % CLASSES)

    def of_two(parts: dict[str, Rows], guards: Guards) -> None:
        half_right(parts, guards)
        guards["guard"]["num_classes"] = 2

    assert not examined(half_right)["near-chance"].raised
    assert examined(of_two)["near-chance"].raised


def test_controls_and_noise_are_not_accused_of_a_turned_sign() -> None:
    def turned(parts: dict[str, Rows], guards: Guards) -> None:
        parts["clean"]["control_untrained-detector"] = RANK / N
        parts["oblivious"]["control_untrained-detector"] = RANK / N - 0.5
        parts["noise"]["score_A"] = RANK / N - 0.5

    assert raised(examined(turned)) == set()

    def seldom(parts: dict[str, Rows], guards: Guards) -> None:
        fooled = np.asarray(RANK % 50 == 1)
        parts["oblivious"] |= outcome(fooled, score_A=RANK / N - 0.5)

    found = examined(seldom)["inverted-detector"]
    assert not found.looked
    assert not found.raised


def small(count: int, fooled: int) -> Records:
    prediction = np.where(np.arange(count) < fooled, 1, 0)
    return synthetic(clean(y=[0] * count), attacked("PGD", prediction=prediction))


def test_an_interval_has_to_carry_the_claim() -> None:
    cases = {(20, 0): True, (99, 0): True, (100, 0): False, (300, 150): True, (400, 200): False}
    for (count, fooled), expected in cases.items():
        found = by_name(small(count, fooled))["too-few-samples"]
        assert found.raised == expected, (count, fooled)
        assert str(count) in found.because


def test_what_the_records_do_not_hold_was_not_looked_at() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("dead_gradients", "non_finite_gradients"))
    records = synthetic(
        clean(y=[0, 1] * 60, score_A=[0.1] * 120),
        attacked("PGD", **nothing, score_A=[0.2] * 120),
        guards={
            "guard": dict.fromkeys(("outputs", "leaked", "stochastic", "num_classes")),
        },
    )
    found = by_name(records)
    assert {name for name, flag in found.items() if flag.looked} == {"too-few-samples"}
    assert raised(found) == set()
    assert list(found) == NAMES

    unattacked = by_name(synthetic(clean(y=[0, 1] * 60)))
    assert not unattacked["too-few-samples"].looked
    assert not unattacked["near-chance"].raised
    assert unattacked["near-chance"].looked


def test_each_guard_is_looked_at_on_its_own() -> None:
    """A fault of one guard is not diluted by the images of another."""
    parts, guards = sound()
    other = {name: {**part, "guard": "other"} for name, part in sound()[0].items()}
    strong_square(other, guards)
    records = synthetic(*parts.values(), *other.values(), guards=guards)
    found = by_name(records)
    assert raised(found) == {"black-box-beats-white-box"}
    assert found["black-box-beats-white-box"].because.startswith("'other' within linf 0.1")


def test_neither_the_order_of_rows_nor_the_file_changes_a_flag(tmp_path: Path) -> None:
    parts, guards = sound()
    for fault in (strong_transfer, dead, rounded_away):
        fault(parts, guards)
    records = synthetic(*parts.values(), guards=guards)
    order = np.random.default_rng(0).permutation(len(records))
    shuffled = Records(records.table.take(order), records.meta)
    first, again = by_name(records), by_name(Records.read(shuffled.write(tmp_path / "r.parquet")))
    assert raised(first) == {
        "black-box-beats-white-box",
        "zero-gradients",
        "eight-bit-fragile",
    }
    assert raised(again) == raised(first)
    assert {name: flag.looked for name, flag in again.items()} == {
        name: flag.looked for name, flag in first.items()
    }


def test_records_of_two_seeds_are_refused() -> None:
    parts, guards = sound()
    records = synthetic(*parts.values(), guards=guards)
    twice = Records(pa.concat_tables([records.table, records.table]), records.meta)
    with pytest.raises(ConfigurationError, match="more than once"):
        flags(twice)


def test_the_page_of_the_flags_is_up_to_date() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "examiner.md").read_text("utf-8")
    assert page.split("<!-- generated -->\n\n")[1] == markdown(), (
        "write the last section of docs/examiner.md again: notsure.evaluation.sanity.markdown()"
    )
