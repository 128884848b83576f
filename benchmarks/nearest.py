"""The rows of attacks that look for the nearest image."""

from __future__ import annotations

import math

from contestants import AdvLib, Art, Foolbox, NotSure, TorchAttacks
from row import Row, Size

PIXELS = 784
# adv-lib's keyword
GAMMA = "\u03b3"


def carlini_wagner(size: Size) -> Row:
    """C&W in l2, nine rounds of a thousand steps."""
    rounds, steps = size.steps(9, 2), size.steps(1000, 20)
    return Row(
        name="cw",
        title=f"C&W l2, {rounds} x {steps} steps",
        network="madry",
        count=size.images(20),
        norm="l2",
        slack=0.01,
        contestants=(
            NotSure(
                attack="CarliniWagner",
                settings={
                    "binary_search_steps": rounds,
                    "steps": steps,
                    "learning_rate": 0.01,
                    "initial_constant": 1e-3,
                    "confidence": 0.0,
                },
            ),
            Foolbox(
                attack="L2CarliniWagnerAttack",
                settings={
                    "binary_search_steps": rounds,
                    "steps": steps,
                    "stepsize": 0.01,
                    "confidence": 0,
                    "initial_const": 1e-3,
                    "abort_early": True,
                },
                required=5,
            ),
            AdvLib(
                attack="carlini_wagner_l2",
                settings={
                    "binary_search_steps": rounds,
                    "max_iterations": steps,
                    "learning_rate": 0.01,
                    "initial_const": 1e-3,
                    "confidence": 0,
                    "abort_early": True,
                },
                required=5,
            ),
        ),
        note="torchattacks has no binary search over c; ART's takes too long to stand beside "
        "these.",
    )


def deepfool(size: Size) -> Row:
    """DeepFool in l2."""
    steps = size.steps(50, 8)
    return Row(
        name="deepfool",
        title=f"DeepFool l2, at most {steps} steps",
        network="madry",
        count=size.images(200),
        norm="l2",
        contestants=(
            NotSure(attack="DeepFool", settings={"norm": "l2", "steps": steps, "overshoot": 0.02}),
            AdvLib(
                attack="df", settings={"steps": steps, "overshoot": 0.02, "norm": 2}, required=1.5
            ),
            Foolbox(
                attack="L2DeepFoolAttack",
                settings={"steps": steps, "candidates": 10, "overshoot": 0.02},
                required=5,
            ),
            Art(
                attack="DeepFool",
                # its default overshoot is 1e-6
                settings={"max_iter": steps, "epsilon": 0.02, "nb_grads": 10},
                required=5,
                count=100,
            ),
            TorchAttacks(
                attack="DeepFool",
                settings={"steps": steps, "overshoot": 0.02},
                required=5,
                count=20,
            ),
        ),
        note="torchattacks works on one image at a time, so that fewer of them cost it nothing.",
    )


def newtonfool(size: Size) -> Row:
    """NewtonFool."""
    steps = size.steps(100)
    settings = {"max_iter": steps, "eta": 0.01}
    return Row(
        name="newtonfool",
        title=f"NewtonFool, at most {steps} steps",
        network="madry",
        count=size.images(100),
        norm="l2",
        contestants=(
            NotSure(attack="NewtonFool", settings={"steps": steps, "eta": 0.01}),
            Art(attack="NewtonFool", settings=settings, softmax=True, required=8),
            Art(attack="NewtonFool", settings=settings, variant="on logits", required=8),
        ),
        note="The attack is defined on probabilities; on the plain network ART descends on the "
        "logit, which is another attack that fools more and moves further. foolbox's squares the "
        "norms of the paper's formula and is left out.",
    )


def ddn(size: Size) -> Row:
    """DDN with 100 steps, and ours with 60, which is as strong."""
    steps, fewer = size.steps(100, 20), size.steps(60, 12)
    ours = {"init_norm": 1.0, "gamma": 0.05}
    return Row(
        name="ddn",
        title=f"DDN, {steps} steps",
        network="madry",
        count=size.images(200),
        norm="l2",
        contestants=(
            NotSure(attack="DDN", settings={"steps": fewer, **ours}, variant=f"{fewer} steps"),
            NotSure(attack="DDN", settings={"steps": steps, **ours}, variant=f"{steps} steps"),
            AdvLib(
                attack="ddn",
                # ours and foolbox's are not rounded to 8 bits either
                settings={"steps": steps, "init_norm": 1.0, GAMMA: 0.05, "levels": None},
                required=1.3,
            ),
            Foolbox(
                attack="DDNAttack", settings={"steps": steps, "init_epsilon": 1.0, "gamma": 0.05}
            ),
        ),
        note="Our gamma falls over the last third of the steps, so that fewer steps do as much.",
    )


def jsma(size: Size) -> Row:
    """JSMA on pairs of pixels, towards (y + 1) % 10, with at most 78 pixels changed by anybody."""
    budget = 78 if not size.smoke else 6
    # torchattacks takes ceil(share / 2) pairs and ART goes on while not more than the share is
    # changed: this one makes both of them stop where floor(0.1 * 784) = 78 makes ours
    peers = (budget - 1) / PIXELS
    return Row(
        name="jsma",
        title=f"JSMA, pairs, at most {budget} pixels",
        network="madry",
        count=size.images(100),
        batch=100,
        norm="l0",
        shift=1,
        contestants=(
            NotSure(
                attack="JSMA",
                settings={"theta": 1.0, "gamma": (budget + 0.4) / PIXELS, "pairs": True},
            ),
            TorchAttacks(
                attack="JSMA", settings={"theta": 1.0, "gamma": peers}, required=50, count=20
            ),
            Art(attack="SaliencyMapMethod", settings={"theta": 1.0, "gamma": peers}, required=10),
        ),
        note="torchattacks scores pairs as Papernot et al. do and works on one image at a time; "
        "ART takes the two largest entries of the target's gradient.",
    )


def fab(size: Size) -> Row:
    """FAB in linf, untargeted, one start."""
    steps = size.steps(100, 5)
    return Row(
        name="fab",
        title=f"FAB linf, {steps} steps",
        network="madry",
        count=size.images(100),
        norm="linf",
        contestants=(
            NotSure(attack="FAB", settings={"norm": "linf", "steps": steps}),
            AdvLib(attack="fab", settings={"norm": math.inf, "n_iter": steps}),
            TorchAttacks(
                attack="FAB",
                # it returns clean images beyond eps; within 1 there is everything
                settings={"norm": "Linf", "eps": 1.0, "steps": steps, "seed": 0},
            ),
        ),
    )
