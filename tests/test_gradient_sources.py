"""EOT, BPDA and natural evolution against analytic gradients; stochastic targets judged by vote."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import (
    BPDA,
    DDN,
    EOT,
    FGSM,
    PGD,
    Autograd,
    DeepFool,
    GradientSource,
    Margin,
    Misclassified,
    NaturalEvolution,
)
from notsure.attacks.problem import Problem
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.randomness import Streams, own_streams
from notsure.core.state import seeded
from tests.toys import LinearModel, images, small_network

SHAPE = (1, 6, 6)


class NoisyInput(nn.Module):
    """Gaussian noise at the input, drawn from the samples' own streams."""

    stochastic = True

    def __init__(self, sigma: float, network: nn.Module) -> None:
        super().__init__()
        self.sigma, self.network = sigma, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        streams = own_streams(len(x))
        noise = torch.randn_like(x) if streams is None else streams.normal(x.shape[1:]).to(x)
        logits: torch.Tensor = self.network(x + self.sigma * noise)
        return logits


class Rounded(nn.Module):
    """Rounds pixels to a grid: its gradient is zero, or it has none."""

    differentiable = False

    def __init__(self, levels: int = 16, *, detaches: bool = False) -> None:
        super().__init__()
        self.levels, self.detaches = levels, detaches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach() if self.detaches else x
        return (x * self.levels).round() / self.levels


class Halved(nn.Module):
    """Changes the shape, so that the identity cannot stand in for it."""

    differentiable = False

    def __init__(self, *, declared: bool) -> None:
        super().__init__()
        if declared:
            self.surrogate = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (nn.functional.avg_pool2d(x.detach(), 2) * 32).round() / 32


def problem_of(target: Any, x: torch.Tensor, y: torch.Tensor, **settings: Any) -> Problem:
    streams = Streams.of(content_keys(x), 0)
    return Problem(target, x, y, Misclassified(), streams, **settings)


def cosines(source: GradientSource, target: Any, reference: nn.Module, count: int = 6) -> Any:
    """Between the source's gradient of the margin and the analytic one of a smooth reference."""
    x = images(count, SHAPE, seed=5)
    y = ns.Classifier(reference).logits(x).argmax(dim=1)
    rows = torch.arange(count)
    with torch.no_grad():
        found = problem_of(target, x, y, source=source).ascend(x, rows, Margin())
        exact = problem_of(ns.Classifier(reference), x, y).ascend(x, rows, Margin())
    product = (found.gradient * exact.gradient).flatten(1).sum(dim=1)
    return product / (found.gradient.flatten(1).norm(dim=1) * exact.gradient.flatten(1).norm(dim=1))


def test_natural_evolution_finds_the_gradient() -> None:
    network = small_network(3)
    scores = ns.ScoresOnly(ns.Classifier(network))
    cosine = cosines(NaturalEvolution(samples=400, sigma=1e-3), scores, network)
    assert float(cosine.min()) > 0.9
    # fewer samples know less, but point uphill
    few = cosines(NaturalEvolution(samples=20, sigma=1e-3), scores, network, count=40)
    assert 0.3 < float(few.mean()) < float(cosine.min())


def test_natural_evolution_is_unbiased_in_scale() -> None:
    """For a linear function the mean estimate is the gradient itself, not a multiple of it."""
    model = LinearModel(SHAPE, 2, seed=1)
    x = images(1, SHAPE)
    y = model(x).argmax(dim=1)
    target = ns.ScoresOnly(ns.Classifier(model))
    problem = problem_of(target, x, y, source=NaturalEvolution(samples=20_000, sigma=0.01))
    found = problem.ascend(x, torch.arange(1), Margin()).gradient.flatten()
    exact = model.linear.weight[1 - int(y)] - model.linear.weight[int(y)]
    assert float(((found @ exact) / (exact @ exact)).detach()) == pytest.approx(1, abs=0.02)


def test_an_attack_on_several_logits_can_do_without_gradients() -> None:
    network = small_network(5)
    x = images(6, SHAPE, seed=2)
    y = ns.Classifier(network).logits(x).argmax(dim=1)
    source = NaturalEvolution(samples=200, sigma=1e-3)
    blind = DeepFool(gradient=source)(ns.ScoresOnly(ns.Classifier(network)), x, y)
    seeing = DeepFool()(ns.Classifier(network), x, y)
    assert bool(blind.success.all())
    assert int(blind.gradients.sum()) == 0
    assert float((blind.distance["l2"] / seeing.distance["l2"]).max()) < 1.3


@pytest.mark.parametrize("source", [EOT(n=100), NaturalEvolution(samples=1000, sigma=0.05)])
def test_a_stochastic_target_has_the_gradient_of_its_mean(source: GradientSource) -> None:
    network = small_network(3)
    noisy = ns.Classifier(NoisyInput(0.05, network))
    assert noisy.stochastic
    cosine = cosines(source, noisy, network)
    assert float(cosine.min()) > 0.8


def test_averaging_draws_beats_one_draw() -> None:
    network = small_network(3)
    noisy = ns.Classifier(NoisyInput(0.4, network))
    one = cosines(Autograd(), noisy, network, count=30)
    many = cosines(EOT(n=50), noisy, network, count=30)
    assert float(many.mean()) > float(one.mean()) + 0.05


@pytest.mark.parametrize("detaches", [False, True])
def test_bpda_sees_through_a_hard_part(*, detaches: bool) -> None:
    network = small_network(3)
    hard = ns.Classifier(nn.Sequential(Rounded(64, detaches=detaches), network))
    assert not hard.differentiable
    assert float(cosines(BPDA(), hard, network).min()) > 0.9
    x = images(4, SHAPE)
    y = hard.logits(x).argmax(dim=1)
    with pytest.raises(UnsupportedError, match=r"gradient=BPDA\(\)"):
        PGD(eps=0.1)(hard, x, y)
    assert not any(part._forward_hooks for part in hard.modules())


def test_bpda_breaks_what_plain_gradients_cannot() -> None:
    network = small_network(5)
    x = images(30, SHAPE, seed=2)
    pretending = nn.Sequential(Rounded(16), network)
    hard = ns.Classifier(pretending)
    y = hard.logits(x).argmax(dim=1)
    through = PGD(eps=0.2, gradient=BPDA())(hard, x, y).success
    pretending[0].differentiable = True  # type: ignore[assignment]
    plain = PGD(eps=0.2)(ns.Classifier(pretending), x, y)
    assert int(plain.dead_gradients.sum()) == int(plain.gradients.sum())
    assert int(through.sum()) > int(plain.success.sum()) + 5
    # noise in front of a hard part: both sources, one inside the other
    both = PGD(eps=0.2, steps=10, gradient=EOT(n=4, of=BPDA()))
    pretending[0].differentiable = False  # type: ignore[assignment]
    noisy = ns.Classifier(NoisyInput(0.05, pretending))
    assert int(both(noisy, x, y).success.sum()) > 5


def test_a_surrogate_stands_in_where_the_identity_cannot() -> None:
    with seeded(3):
        tail = nn.Sequential(nn.Flatten(), nn.Linear(9, 2, dtype=torch.float64))
    smooth = nn.Sequential(nn.AvgPool2d(2), tail)
    hard = ns.Classifier(nn.Sequential(Halved(declared=True), tail))
    assert float(cosines(BPDA(), hard, smooth).min()) > 0.99
    x = images(2, SHAPE)
    undeclared = ns.Classifier(nn.Sequential(Halved(declared=False), tail))
    with pytest.raises(UnsupportedError, match=r"surrogate\(x\)"):
        PGD(eps=0.1, gradient=BPDA())(undeclared, x, undeclared.logits(x).argmax(dim=1))


def test_a_network_that_detaches_is_named() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().flatten(1)[:, :3]

    x = images(2, SHAPE)
    with pytest.raises(UnsupportedError, match="No gradient of Classifier reaches the input"):
        PGD(eps=0.1)(Silent(), x, torch.zeros(2, dtype=torch.int64))


def test_success_on_a_stochastic_target_takes_a_majority() -> None:
    network = small_network(5)
    noisy = ns.Classifier(NoisyInput(0.15, network))
    x = images(40, SHAPE, seed=2)
    y = ns.Classifier(network).logits(x).argmax(dim=1)
    attack = PGD(eps=0.05, steps=10, gradient=EOT(n=5), leap=False)
    found = attack(noisy, x, y, votes=31)
    assert int(found.success.sum()) > 3
    draws = torch.stack([noisy.logits(found.x).argmax(dim=1) != y for _ in range(400)])
    share = draws.double().mean(dim=0)[found.success]
    # 31 votes may err for what is close to a half; one lucky draw of a tenth would not pass
    assert float(share.min()) > 0.3
    assert float(share.mean()) > 0.52
    assert float(draws.double().mean(dim=0)[~found.success].max()) < 0.75
    # a single vote takes lucky draws for success
    lucky = attack(noisy, x, y, votes=1)
    draws = torch.stack([noisy.logits(lucky.x).argmax(dim=1) != y for _ in range(400)])
    assert int(lucky.success.sum()) >= int(found.success.sum())
    assert float(draws.double().mean(dim=0)[lucky.success].mean()) < float(share.mean())


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.1, steps=5, gradient=EOT(n=3)), PGD(eps=0.1, steps=5), DDN(steps=8)],
    ids=["eot", "plain", "ddn"],
)
def test_a_stochastic_batch_neighbour_changes_nothing(attack: Any) -> None:
    noisy = ns.Classifier(NoisyInput(0.3, small_network(5)))
    x = images(8, SHAPE, seed=2)
    y = ns.Classifier(small_network(5)).logits(x).argmax(dim=1)
    together = attack(noisy, x, y, seed=4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = attack(noisy, x[order], y[order], seed=4, batch_size=3)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-6)
    assert torch.equal(shuffled.success, together.success[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    other = attack(noisy, x, y, seed=5)
    assert not torch.equal(other.x, together.x)


def test_a_foreign_stochastic_layer_is_reproducible_too() -> None:
    class Dropped(nn.Module):
        stochastic = True

        def __init__(self) -> None:
            super().__init__()
            self.network = small_network(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(nn.functional.dropout(x, 0.2, training=True))
            return logits

    x = images(6, SHAPE)
    y = torch.zeros(6, dtype=torch.int64)
    state = torch.get_rng_state()
    runs = [FGSM(eps=0.2)(Dropped(), x, y, seed=1).x for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_costs_are_counted() -> None:
    noisy = ns.Classifier(NoisyInput(0.3, small_network(5)))
    x = images(3, SHAPE)
    y = ns.Classifier(small_network(5)).logits(x).argmax(dim=1)
    goal = Misclassified(confidence=1e6)
    found = PGD(eps=0.1, steps=5, gradient=EOT(n=7))(noisy, x, y, votes=9, goal=goal)
    assert found.gradients.tolist() == [35] * 3
    # the clean answer, the leap's and the last step's take nine draws each
    assert found.queries.tolist() == [9 + 9 + 35 + 9] * 3


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: EOT(n=0), "at least 1"),
        (lambda: NaturalEvolution(samples=3), "even"),
        (lambda: NaturalEvolution(sigma=0), "sigma"),
    ],
)
def test_settings_are_checked(make: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        make()


def test_votes_are_checked() -> None:
    x = images(2, SHAPE)
    with pytest.raises(ConfigurationError, match="votes"):
        FGSM(eps=0.1)(small_network(0), x, torch.zeros(2, dtype=torch.int64), votes=0)
