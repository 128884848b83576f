"""The rows of the benchmark: all of them, and those of bounded attacks.

The required ratios are seconds per image of the peer over seconds per image of ours.
"""

from __future__ import annotations

import math

from contestants import AdvLib, Art, BareLoop, Contestant, Foolbox, NotSure, TorchAttacks
from nearest import carlini_wagner, ddn, deepfool, fab, jsma, newtonfool
from row import Row, Size

EPS, STEP = 0.3, 0.01
# adv-lib's keyword
EPSILON = "\u03b5"


def all_rows(*, smoke: bool = False) -> list[Row]:
    """Every row; with `smoke` on so few images and steps that the figures mean nothing."""
    size = Size(smoke=smoke)
    return [
        pgd_every_step("pgd-every-step", "robust", size.images(512), size),
        pgd_every_step("pgd-every-step-resnet32", "resnet32", size.images(128), size),
        pgd_to_strength(size),
        pgd_in_bf16(size),
        carlini_wagner(size),
        deepfool(size),
        newtonfool(size),
        ddn(size),
        jsma(size),
        auto_attack("autoattack-robust", "robust", size),
        auto_attack("autoattack-madry", "madry", size),
        apgd(size),
        fab(size),
    ]


def pgd_every_step(name: str, network: str, count: int, size: Size) -> Row:
    """PGD-40 in linf where nobody may leave early."""
    steps = size.steps(40)
    return Row(
        name=name,
        title=f"PGD-{steps} linf {EPS}, every step taken",
        network=network,
        count=count,
        eps=EPS,
        contestants=(
            _our_pgd(steps, early_stop=False),
            BareLoop(
                attack="PGD",
                settings={"eps": EPS, "step_size": STEP, "steps": steps},
                required=1 / 1.05,
            ),
            *_peers_pgd(steps, torchattacks=1.2, foolbox=1.5, art=1.5),
        ),
        note="Ours returns the best candidate of the way, torchattacks, foolbox and the bare loop "
        "the last one, adv-lib the last that fooled the network.",
    )


def pgd_to_strength(size: Size) -> Row:
    """PGD-40 on an undefended network, where most images fall early."""
    steps = size.steps(40)
    return Row(
        name="pgd-to-strength",
        title=f"PGD-{steps} linf {EPS} to its strength",
        network="madry",
        count=size.images(512),
        eps=EPS,
        contestants=(
            _our_pgd(steps, early_stop=True),
            *_peers_pgd(steps, torchattacks=4, foolbox=4, art=4, adv_lib=4),
        ),
        note="Ours stops a sample when it falls, and tries the far side of the ball once before it "
        "takes the steps.",
    )


def pgd_in_bf16(size: Size) -> Row:
    """The same, searched in bfloat16, against ours in float32."""
    steps = size.steps(40)
    ours = _our_pgd(steps, early_stop=True)
    return Row(
        name="pgd-bf16",
        title=f"PGD-{steps} linf {EPS}, searched in bfloat16",
        network="madry",
        count=size.images(1000),
        eps=EPS,
        contestants=(
            NotSure(attack="PGD", settings={**ours.settings, "precision": "bf16"}, variant="bf16"),
            NotSure(attack="PGD", settings=ours.settings, variant="fp32", required=1.5),
        ),
        note="Promised only where the hardware computes in bfloat16.",
    )


def auto_attack(name: str, network: str, size: Size) -> Row:
    """The published ensemble."""
    settings = {"eps": EPS, "version": "standard"}
    return Row(
        name=name,
        title=f"AutoAttack standard, linf {EPS}",
        network=network,
        count=3 if size.smoke else 50,
        eps=EPS,
        contestants=(
            NotSure(attack="AutoAttack", settings={"norm": "linf", **settings}),
            TorchAttacks(
                attack="AutoAttack",
                settings={"norm": "Linf", **settings, "n_classes": 10, "seed": 0},
                steps_of_parts=size.steps(100, 5),
                required=2,
            ),
        ),
        note="ART's AutoAttack is another ensemble (no FAB, no targeted APGD) and is left out.",
    )


def apgd(size: Size) -> Row:
    """APGD on cross-entropy."""
    steps = size.steps(100, 10)
    return Row(
        name="apgd-ce",
        title=f"APGD cross-entropy, linf {EPS}, {steps} steps",
        network="robust",
        count=size.images(200),
        eps=EPS,
        contestants=(
            NotSure(attack="APGD", settings={"norm": "linf", "eps": EPS, "steps": steps}),
            AdvLib(
                attack="apgd",
                settings={"eps": EPS, "norm": math.inf, "n_iter": steps, "loss_function": "ce"},
            ),
            TorchAttacks(
                attack="APGD",
                settings={"norm": "Linf", "eps": EPS, "steps": steps, "loss": "ce", "seed": 0},
            ),
        ),
    )


def _our_pgd(steps: int, *, early_stop: bool) -> NotSure:
    return NotSure(
        attack="PGD",
        settings={
            "norm": "linf",
            "eps": EPS,
            "steps": steps,
            "step_size": STEP,
            "random_start": True,
            "early_stop": early_stop,
        },
    )


def _peers_pgd(
    steps: int, *, torchattacks: float, foolbox: float, art: float, adv_lib: float | None = None
) -> tuple[Contestant, ...]:
    return (
        TorchAttacks(
            attack="PGD",
            settings={"eps": EPS, "alpha": STEP, "steps": steps, "random_start": True},
            required=torchattacks,
        ),
        Foolbox(
            attack="LinfPGD",
            settings={
                # `rel_stepsize` is a share of eps and gives way to `abs_stepsize`
                "rel_stepsize": STEP / EPS,
                "abs_stepsize": STEP,
                "steps": steps,
                "random_start": True,
            },
            eps=EPS,
            required=foolbox,
        ),
        Art(
            attack="ProjectedGradientDescent",
            settings={
                "norm": math.inf,
                "eps": EPS,
                "eps_step": STEP,
                "max_iter": steps,
                # 0 starts at the clean image
                "num_random_init": 1,
            },
            required=art,
        ),
        AdvLib(
            attack="pgd_linf",
            settings={
                EPSILON: EPS,
                "steps": steps,
                "absolute_step_size": STEP,
                "random_init": True,
            },
            required=adv_lib,
        ),
    )
