"""The rules that keep the numbers true, as properties over random small networks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import notsure as ns
from notsure.attacks import (
    BIM,
    DDN,
    FGSM,
    ILCM,
    MIM,
    PGD,
    LeastLikely,
    NextLikely,
    RandomNoise,
    Targeted,
    Undetected,
)
from notsure.attacks.geometry import norm_named
from notsure.core.errors import (
    ConfigurationError,
    InputError,
    UnsupportedError,
    VerificationError,
)
from notsure.core.target import Response
from tests.toys import images, small_network

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 6, 6)
KINDS = [FGSM, BIM, PGD, MIM, ILCM, RandomNoise]
few = settings(max_examples=12, deadline=None)


def case(seed: int, num_classes: int = 4) -> tuple[ns.Classifier, torch.Tensor, torch.Tensor]:
    classifier = ns.Classifier(small_network(seed, num_classes=num_classes), mean=0.4, std=0.3)
    x = images(7, SHAPE, seed=seed)
    y = classifier.logits(x).argmax(dim=1).detach()
    y[0] = (y[0] + 1) % num_classes  # one sample is misclassified before any attack
    return classifier, x, y


def of_eps(norm: str, share: float) -> float:
    return share * norm_named(norm).largest_radius(36)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=st.integers(0, 999), norm=st.sampled_from(["linf", "l2", "l1"]), fails=st.booleans())
def test_an_attack_leaves_no_trace(kind: Any, seed: int, norm: str, fails: bool) -> None:
    classifier, x, y = case(seed)
    classifier.train()
    classifier.module.get_submodule("body.1").eval()
    classifier.module.get_submodule("head").requires_grad_(False)
    parameters = list(classifier.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    modes = [module.training for module in classifier.modules()]
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    before_x, before_y, random_state = x.clone(), y.clone(), torch.get_rng_state()
    attack = kind(norm=norm, eps=of_eps(norm, 0.1))
    if fails:
        handle = classifier.module.register_forward_hook(_raise_later())
        with pytest.raises(ArithmeticError, match="planted"):
            attack(classifier, x, y)
        handle.remove()
    else:
        attack(classifier, x, y)
    assert [module.training for module in classifier.modules()] == modes
    assert [p.requires_grad for p in parameters] == [True] * 6 + [False] * 2
    assert parameters[0].grad is not None
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(p.grad is None for p in parameters[1:])
    assert all(torch.equal(state[name], value) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())
    assert torch.equal(x, before_x)
    assert torch.equal(y, before_y)
    assert torch.equal(torch.get_rng_state(), random_state)


def _raise_later() -> Any:
    calls = []

    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ArithmeticError("planted")

    return hook


@pytest.mark.parametrize("kind", KINDS)
@few
@given(
    seed=st.integers(0, 999),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    share=st.floats(0.0, 0.5),
    early_stop=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_results_stay_in_budget_and_failures_are_clean(
    kind: Any, seed: int, norm: str, share: float, early_stop: bool, dtype: torch.dtype
) -> None:
    classifier, x, y = case(seed)
    classifier, x = classifier.to(dtype), x.to(dtype)
    eps = of_eps(norm, share)
    found = kind(norm=norm, eps=eps, early_stop=early_stop)(classifier, x, y)
    assert found.x.shape == x.shape
    assert found.x.dtype == dtype
    assert found.x.device == x.device
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    assert float(norm_named(norm).distance(found.x - x).max()) <= eps + 1e-6 * max(1, eps)
    assert torch.equal(found.x[~found.success], x[~found.success])
    wrong = classifier.logits(found.x).argmax(dim=1) != y
    assert torch.equal(wrong, found.success)
    # what was wrong before is a success at distance 0
    assert bool(found.success[0])
    assert float(found.distance["l2"][0]) == 0
    for name, power in (("l1", 1), ("l2", 2), ("linf", torch.inf)):
        expected = torch.linalg.vector_norm((found.x - x).flatten(1), ord=power, dim=1)
        assert torch.allclose(found.distance[name], expected)
    assert torch.equal(found.distance["l0"], (found.x != x).flatten(1).sum(1).to(dtype))


@pytest.mark.parametrize("kind", [PGD, MIM, RandomNoise])
@few
@given(seed=st.integers(0, 999), norm=st.sampled_from(["linf", "l2", "l1"]))
def test_a_sample_does_not_feel_its_batch(kind: Any, seed: int, norm: str) -> None:
    classifier, x, y = case(seed)
    attack = kind(norm=norm, eps=of_eps(norm, 0.15), restarts=2)
    together = attack(classifier, x, y, seed=seed)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    shuffled = attack(classifier, x[order], y[order], seed=seed, batch_size=3)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-7)
    assert torch.equal(shuffled.success, together.success[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    alone = attack(classifier, x[4:5], y[4:5], seed=seed)
    assert torch.allclose(alone.x, together.x[4:5], atol=1e-7)


@few
@given(seed=st.integers(0, 999))
def test_the_seed_decides(seed: int) -> None:
    classifier, x, y = case(seed)
    attack = RandomNoise(eps=0.4)
    kept = [attack(classifier, x, y, seed=s, goal=_NotClean()).x for s in (0, 0, 1)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


class _NotClean(ns.attacks.Goal):
    """Reached by every answer but the first, which is the one for the clean images."""

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        object.__setattr__(self, "clean_logits", clean_logits)
        return y

    def reached(self, response: Response, labels: torch.Tensor) -> torch.Tensor:
        clean: torch.Tensor = self.__dict__["clean_logits"]
        return (response.logits != clean).any(dim=1)


def test_more_restarts_are_never_weaker() -> None:
    classifier, _, _ = case(3)
    x = images(60, SHAPE, seed=1)
    y = classifier.logits(x).argmax(dim=1)
    for attack in (RandomNoise(eps=0.3), PGD(eps=0.05, steps=2)):
        once = attack(classifier, x, y).success
        often = replace(attack, restarts=20)(classifier, x, y).success
        assert not bool((once & ~often).any())
        if isinstance(attack, RandomNoise):
            assert int(often.sum()) > int(once.sum())


def test_work_is_spent_only_on_samples_that_stand() -> None:
    classifier, _, _ = case(5)
    x = images(40, SHAPE, seed=2)
    y = classifier.logits(x).argmax(dim=1)
    found = PGD(eps=0.2, steps=30)(classifier, x, y)
    fallen, standing = found.success, ~found.success
    assert bool(fallen.any())
    assert float(found.gradients[fallen].double().mean()) < 25
    assert bool((found.gradients[standing] == 30).all())
    # clean, one a step, the leap's, and the last step's
    assert bool((found.queries[standing] == 33).all())
    to_the_end = PGD(eps=0.2, steps=30, early_stop=False)(classifier, x, y)
    assert bool((to_the_end.gradients == 30).all())


def test_a_leap_saves_steps_and_loses_nothing() -> None:
    classifier, _, _ = case(5)
    x = images(60, SHAPE, seed=2)
    y = classifier.logits(x).argmax(dim=1)
    for norm in ("linf", "l2", "l1"):
        attack = PGD(norm=norm, eps=of_eps(norm, 0.2), steps=40)
        leaping = attack(classifier, x, y)
        stepping = replace(attack, leap=False)(classifier, x, y)
        assert not bool((stepping.success & ~leaping.success).any())
        both = stepping.success
        assert int(leaping.queries[both].sum()) < int(stepping.queries[both].sum())
        assert float(norm_named(norm).distance(leaping.x - x).max()) <= attack.radius + 1e-6


def test_without_early_stop_the_search_goes_beyond_the_boundary() -> None:
    classifier, _, _ = case(5)
    x = images(40, SHAPE, seed=2)
    y = classifier.logits(x).argmax(dim=1)

    def margin(early_stop: bool) -> torch.Tensor:
        found = PGD(eps=0.2, early_stop=early_stop, leap=False)(classifier, x, y)
        logits = classifier.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        return (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own)[found.success]

    assert float(margin(False).mean()) > 2 * float(margin(True).mean())


@pytest.mark.parametrize("num_classes", [1, 2, 3, 4, 10])
def test_any_number_of_classes(num_classes: int) -> None:
    classifier = ns.Classifier(small_network(1, num_classes=num_classes))
    x = images(30, SHAPE)
    logits = classifier.logits(x)
    assert logits.shape == (30, max(2, num_classes))
    y = logits.argmax(dim=1)
    for kind in KINDS:
        found = kind(eps=0.6)(classifier, x, y)
        if kind is not RandomNoise and len(torch.unique(y)) > 1:
            assert bool(found.success.any()), kind.__name__


def test_targets_are_reached() -> None:
    classifier, _, _ = case(5)
    x = images(20, SHAPE, seed=3)
    y = classifier.logits(x).argmax(dim=1)
    wanted = (y + 1) % 4
    found = PGD(eps=0.8, steps=100)(classifier, x, y, goal=Targeted(label=wanted))
    assert bool(found.success.any())
    reached = classifier.logits(found.x).argmax(dim=1)
    assert torch.equal(reached == wanted, found.success)
    small_batches = PGD(eps=0.8, steps=100)(
        classifier, x, y, goal=Undetected(Targeted(label=wanted)), batch_size=6
    )
    assert torch.equal(small_batches.success, found.success)


def test_least_likely_is_never_the_true_class() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 4.0, -1.0]])
    labels = LeastLikely().labels(logits, torch.tensor([0, 1]))
    assert labels.tolist() == [2, 2]


def test_next_likely_ranks_the_wrong_classes() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 4.0, -1.0]])
    y = torch.tensor([1, 1])
    assert NextLikely(rank=1).labels(logits, y).tolist() == [2, 0]
    assert NextLikely(rank=2).labels(logits, y).tolist() == [0, 2]
    assert NextLikely(rank=3).labels(logits, y).tolist() == [2, 0]
    with pytest.raises(ConfigurationError, match="from 1"):
        NextLikely(rank=0)


class _Masked(nn.Module):
    """Its gradient is zero: the image passes through a hard threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(torch.sign(x - 0.5) * 1.0)
        return logits


def test_dead_gradients_are_counted() -> None:
    classifier = ns.Classifier(_Masked())
    x = images(5, SHAPE)
    y = classifier.logits(x).argmax(dim=1)
    found = BIM(eps=0.1, steps=7)(classifier, x, y)
    assert bool((found.dead_gradients == found.gradients).all())
    assert bool((found.gradients == 7).all())
    alive = BIM(eps=0.1, steps=7)(ns.Classifier(small_network(0)), x, y)
    assert int(alive.dead_gradients.sum()) == 0


class _Exploding(nn.Module):
    """Not finite anywhere but at the clean images' side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.sum(dim=(1, 2, 3))
        return torch.stack([total, total * torch.nan], dim=1)


def test_gradients_that_are_not_finite_are_counted_and_do_not_spread() -> None:
    x = images(3, SHAPE)
    y = torch.zeros(3, dtype=torch.int64)
    found = FGSM(eps=0.1)(_Exploding(), x, y)
    assert bool((found.dead_gradients == found.gradients).all())
    assert bool(torch.isfinite(found.x).all())


class _Remote:
    """A target that shows no gradients."""

    rejects = False
    stochastic = False
    differentiable = False

    def respond(self, x: torch.Tensor) -> Response:
        return Response(self.logits(x))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3]

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), -torch.inf)


def test_a_gradient_attack_refuses_a_target_without_gradients() -> None:
    x, y = images(3, SHAPE), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="RandomNoise"):
        PGD(eps=0.1)(_Remote(), x, y)
    RandomNoise(eps=0.1)(_Remote(), x, y)
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.Module"):
        PGD(eps=0.1)("resnet", x, y)  # type: ignore[arg-type]


class _Wild(PGD):
    """Proposes what no attack may return."""

    def search(self, problem: Any) -> torch.Tensor:
        return torch.full_like(problem.x, self.decay)


def test_the_framework_judges_what_is_proposed() -> None:
    classifier, x, y = case(0)
    found = _Wild(eps=0.05, decay=9.0)(classifier, x, y)
    assert float((found.x - x).abs().max()) <= 0.05 + 1e-6
    with pytest.raises(VerificationError, match="not finite"):
        _Wild(eps=0.05, decay=float("inf"))(classifier, x, y)


def test_eps_as_a_fraction_is_the_same_attack() -> None:
    assert PGD(eps="8/255") == PGD(eps=8 / 255)
    assert PGD(eps="8/255").identity == PGD(eps=8 / 255).identity
    assert PGD(eps="8/255").identity != PGD(eps="9/255").identity
    assert PGD(eps="8/255").identity != BIM(eps="8/255").identity
    assert PGD(eps=0.2, step_size=0.02).with_eps(0.4).step_size == pytest.approx(0.04)
    assert PGD(eps=0.2).with_eps(0.4).step_size is None


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"eps": -0.1}, "at least 0"),
        ({"eps": 8}, "8/255"),
        ({"eps": "8/0"}, "fraction such as '8/255'"),
        ({"eps": "much"}, "fraction such as '8/255'"),
        ({"eps": float("nan")}, "finite"),
        ({"norm": "l3"}, "linf, l2, l1"),
        ({"steps": 0}, "at least 1"),
        ({"restarts": 0}, "at least 1"),
        ({"step_size": 0}, "leave it out"),
        ({"confidence": -1}, "kappa"),
        ({"decay": -1}, "at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        PGD(**settings)


def test_a_budget_beyond_the_box_is_refused() -> None:
    classifier, x, y = case(0)
    with pytest.raises(ConfigurationError, match="8/255"):
        PGD(norm="l2", eps=8)(classifier, x, y)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: (x * 255).to(torch.uint8), "255"),
        (lambda x: x * 255, "divide by 255"),
        (lambda x: x * 2 - 1, r"\[-1, 1\]"),
        (lambda x: x - 0.5, r"\[-0.5, 0.5\]"),
        (lambda x: (x - 0.45) / 0.2, "mean=..., std=..."),
        (lambda x: x * 1.5, "Scale them"),
        (lambda x: x.masked_fill(x > 0.7, torch.nan), "NaN"),
        (lambda x: x.expand(-1, 3, -1, -1), "1-channel"),
        (lambda x: x[0], r"x\[None\]"),
        (lambda x: x[:0], "no image"),
        (lambda x: x.numpy(), "from_numpy"),
    ],
)
def test_images_are_checked(change: Any, remedy: str) -> None:
    classifier, x, y = case(0)
    with pytest.raises(InputError, match=remedy):
        PGD(eps=0.1)(classifier, change(x), y)


def test_float_noise_outside_the_range_is_no_error() -> None:
    classifier, x, y = case(0)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = -3e-8, 1 + 1e-6
    found = PGD(eps=0.1)(classifier, x, y)
    assert float(found.x.min()) >= 0


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda y: y + 1, "y - 1"),
        (lambda y: y - 1, "numbered"),
        (lambda y: y.float(), "integers"),
        (lambda y: y[:3], "7 images but 3 labels"),
        (lambda y: torch.nn.functional.one_hot(y), "argmax"),
        (lambda y: y.tolist(), "tensor"),
    ],
)
def test_labels_are_checked(change: Any, remedy: str) -> None:
    classifier, x, _ = case(0)
    with pytest.raises(InputError, match=remedy):
        PGD(eps=0.1)(classifier, x, change(torch.tensor([0, 1, 2, 3, 3, 2, 1])))


def test_targets_equal_to_labels_are_refused() -> None:
    classifier, x, y = case(0)
    with pytest.raises(InputError, match="equal the true label"):
        PGD(eps=0.1)(classifier, x, y, goal=Targeted(label=y))
    with pytest.raises(InputError, match="numbered"):
        PGD(eps=0.1)(classifier, x, y, goal=Targeted(label=9))
    with pytest.raises(InputError, match="7 images but 9 labels"):
        PGD(eps=0.1)(classifier, x, y, goal=Targeted(label=torch.arange(9) % 4))


def test_attacks_inside_inference_mode() -> None:
    classifier, x, y = case(0)
    outside = PGD(eps=0.1)(classifier, x, y)
    with torch.inference_mode():
        inside = PGD(eps=0.1)(classifier, x.clone(), y.clone())
    assert torch.equal(inside.x, outside.x)


@pytest.mark.parametrize("kind", [PGD, DDN])
def test_what_is_found_in_low_precision_holds_in_full(kind: Any) -> None:
    classifier = ns.Classifier(small_network(5).float())
    x = images(60, SHAPE, seed=2).float()
    y = classifier.logits(x).argmax(dim=1)
    settings_of = {"eps": 0.1} if kind is PGD else {}
    full = kind(**settings_of)(classifier, x, y)
    low = kind(**settings_of, precision="bf16")(classifier, x, y)
    assert torch.equal(classifier.logits(low.x).argmax(dim=1) != y, low.success)
    assert int(low.success.sum()) >= 0.9 * int(full.success.sum())
    assert not torch.equal(low.x, full.x)
    # every success was looked at once more
    assert int(low.queries.sum()) > int(low.gradients.sum())
    with pytest.raises(ConfigurationError, match="fp32 or bf16"):
        PGD(eps=0.1, precision="fp16")  # type: ignore[arg-type]


_MEMORY = """
import resource, sys
import torch
import notsure as ns
from notsure.attacks import DDN, PGD
from tests.toys import images, small_network

classifier = ns.Classifier(small_network(0, num_classes=10).float())
x = images(64, (1, 6, 6)).float()
y = classifier.logits(x).argmax(dim=1)
for kind in (PGD(eps=0.1, steps=5), DDN(steps=5)):
    peaks = []
    for batch in range(50):
        kind(classifier, x, y, seed=batch)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # in KiB; the first batches fill caches
    print(peaks[-1] - peaks[10])
"""


def test_memory_is_flat_over_many_batches() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for growth in done.stdout.split():
        # a graph kept alive for each batch would cost several MiB
        assert int(growth) < 2048
