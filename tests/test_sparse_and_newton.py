"""JSMA and NewtonFool against transcriptions of their papers and brute force, in float64."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import Misclassified, Targeted, Undetected, sparse
from notsure.attacks.newton import NewtonFool
from notsure.attacks.sparse import JSMA, most_salient, most_salient_pair
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response
from tests.toys import Array, LinearModel, images, optimal_distance, small_network

Mask = npt.NDArray[np.bool_]
SHAPE = (1, 6, 6)
SETTINGS: list[Any] = [JSMA(gamma=0.5), JSMA(gamma=0.5, pairs=False), NewtonFool(eta=0.03)]


def answered(classifier: ns.Classifier, x: torch.Tensor) -> torch.Tensor:
    return classifier.logits(x).argmax(dim=1).detach()


# the choice of pixel values


def best_by_force(rise: Array, fall: Array, allowed: Mask) -> float:
    """The largest saliency of any pair, 0 where none has both signs right."""
    best = 0.0
    for p, q in itertools.combinations(np.flatnonzero(allowed), 2):
        up, down = rise[p] + rise[q], fall[p] + fall[q]
        if up > 0 and down > 0:
            best = max(best, up * down)
    return best


def pair_problem(kind: str, seed: int, rows: int = 5, size: int = 37) -> tuple[Array, Array, Mask]:
    generator = np.random.default_rng(seed)
    rise, fall = generator.normal(size=(2, rows, size))
    if kind == "ties":
        rise, fall = rise.round(), fall.round()
    elif kind == "opposed":
        # each pixel value alone does harm, and only pairs that cancel out help
        rise = generator.uniform(-1, 1, size=(rows, size))
        fall = -rise + 0.1 * generator.uniform(size=(rows, size))
    elif kind == "tiny":
        rise, fall = 1e-30 * rise, 1e-30 * fall
    elif kind == "hopeless":
        rise, fall = np.abs(rise), -np.abs(fall)
    allowed = generator.random((rows, size)) < 0.8
    allowed[0] = False
    allowed[1, 1:] = False
    return rise, fall, allowed


@pytest.mark.parametrize("kind", ["normal", "ties", "opposed", "tiny", "hopeless"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_best_pair_is_the_one_found_by_brute_force(
    kind: str, seed: int, dtype: torch.dtype
) -> None:
    rise, fall, allowed = pair_problem(kind, seed)
    rise, fall = (torch.tensor(v).to(dtype).double().numpy() for v in (rise, fall))
    given = (torch.tensor(rise).to(dtype), torch.tensor(fall).to(dtype), torch.tensor(allowed))
    pairs, found = most_salient_pair(*given)
    for row in range(len(rise)):
        best = best_by_force(rise[row], fall[row], allowed[row])
        assert bool(found[row]) == (best > 0)
        if best > 0:
            p, q = pairs[row].tolist()
            assert p < q
            assert allowed[row, p]
            assert allowed[row, q]
            value = (rise[row, p] + rise[row, q]) * (fall[row, p] + fall[row, q])
            assert rise[row, p] + rise[row, q] > 0
            assert value == pytest.approx(best, rel=1e-5, abs=0)
    if kind != "hopeless":
        assert int(found.sum()) == 3


@pytest.mark.parametrize("kind", ["normal", "ties", "opposed"])
def test_how_the_search_for_a_pair_is_cut_changes_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [torch.tensor(part) for part in pair_problem(kind, 7, rows=6, size=200)]
    whole, found = most_salient_pair(*given)
    for numbers in (1, 301, 5000):
        monkeypatch.setattr(sparse, "_AT_ONCE", numbers)
        again, still = most_salient_pair(*given)
        assert torch.equal(still, found)
        assert torch.equal(again[found], whole[found])


def test_equals_are_decided_the_same_way_whatever_stands_beside() -> None:
    rise, fall, allowed = (torch.tensor(part) for part in pair_problem("ties", 3, rows=40))
    together, found = most_salient_pair(rise, fall, allowed)
    for row in range(40):
        one = slice(row, row + 1)
        alone, _ = most_salient_pair(rise[one], fall[one], allowed[one])
        assert not found[row] or torch.equal(alone[0], together[row])


def test_the_best_single_pixel() -> None:
    rise, fall, allowed = pair_problem("ties", 5, rows=20)
    chosen, found = most_salient(*(torch.tensor(part) for part in (rise, fall, allowed)))
    for row in range(20):
        saliency = np.where((rise[row] < 0) | (fall[row] < 0), 0, rise[row] * fall[row])
        saliency = np.where(allowed[row], saliency, 0)
        assert bool(found[row]) == (saliency.max() > 0)
        assert not found[row] or int(chosen[row]) == int(saliency.argmax())


def whole_jacobian(module: nn.Module, x: torch.Tensor) -> Array:
    """All logits by all pixel values, (K, N), one backward pass a logit."""
    variable = x.clone().requires_grad_()
    logits = module(variable[None])[0]
    rows = [torch.autograd.grad(z, variable, retain_graph=True)[0].flatten() for z in logits]
    jacobian: Array = torch.stack(rows).numpy()
    return jacobian


def jsma_by_hand(
    module: nn.Module, x: torch.Tensor, y: int, goal: int | None, attack: JSMA
) -> tuple[torch.Tensor, bool, int]:
    """Papernot's algorithm for one image, with the whole Jacobian and every pair."""
    logits = module(x[None])[0]
    wrong = logits.detach().clone()
    wrong[y] = -torch.inf
    wanted, size = int(wrong.argmax()) if goal is None else goal, x.numel()
    x, used, steps = x.clone(), np.zeros(size, dtype=bool), 0
    most = int(attack.gamma * size) // (2 if attack.pairs else 1)
    sign = np.sign(attack.theta)
    while True:
        answer = int(module(x[None])[0].argmax())
        if answer == goal or (goal is None and answer != y):
            return x, True, steps
        if steps == most:
            return x, False, steps
        slopes = sign * whole_jacobian(module, x)
        rise, fall = slopes[wanted], slopes[wanted] - slopes.sum(axis=0)
        flat = x.flatten().numpy()
        open_ = ~used & ((flat < 1) if sign > 0 else (flat > 0))
        best, chosen = 0.0, list[int]()
        for group in itertools.combinations(np.flatnonzero(open_), 2 if attack.pairs else 1):
            up, down = rise[list(group)].sum(), fall[list(group)].sum()
            if up > 0 and down > 0 and up * down > best:
                best, chosen = up * down, [int(i) for i in group]
        if not chosen:
            return x, False, steps
        for i in chosen:
            flat[i] = np.clip(flat[i] + attack.theta, 0, 1)
            used[i] = True
        steps += 1


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("theta", [1.0, 0.4, -1.0])
@pytest.mark.parametrize("targeted", [True, False])
def test_jsma_takes_the_steps_of_the_paper(pairs: bool, theta: float, targeted: bool) -> None:
    network = small_network(0)
    x = images(8, SHAPE, seed=4)
    x[:2] = x[:2].round()
    y = answered(ns.Classifier(network), x)
    attack = JSMA(theta=theta, gamma=0.5, pairs=pairs)
    goal = Targeted(label=(y + 1) % 4) if targeted else Misclassified()
    found = attack(network, x, y, goal=goal)
    steps_taken = []
    for row in range(len(x)):
        label = int(y[row])
        wanted = (label + 1) % 4 if targeted else None
        expected, success, steps = jsma_by_hand(network, x[row], label, wanted, attack)
        assert bool(found.success[row]) == success
        assert torch.allclose(found.x[row], expected if success else x[row], atol=1e-12)
        # two backward passes a step, and as many where it turned out that none has to follow
        most = 9 if pairs else 18
        assert int(found.gradients[row]) == 2 * min(steps + 1, most)
        steps_taken.append(steps)
    assert bool(found.success.any())
    assert max(steps_taken) >= 3


@pytest.mark.parametrize("num_logits", [1, 2])
@pytest.mark.parametrize("theta", [0.3, -0.3])
def test_two_classes_fall_by_the_fewest_pixels(num_logits: int, theta: float) -> None:
    model = LinearModel((1, 3, 3), num_logits, seed=2)
    x = images(30, (1, 3, 3), seed=1) * 0.4 + 0.3
    y = answered(ns.Classifier(model), x)
    found = JSMA(theta=theta, gamma=1, pairs=False)(model, x, y)
    fallen = 0
    for row in range(len(x)):
        fewest = None
        for count in range(1, 10):
            changed = [list(group) for group in itertools.combinations(range(9), count)]
            tried = x[row].flatten().repeat(len(changed), 1)
            for candidate, group in zip(tried, changed, strict=True):
                candidate[group] += theta
            answers = answered(ns.Classifier(model), tried.view(-1, 1, 3, 3))
            if bool((answers != y[row]).any()):
                fewest = count
                break
        assert bool(found.success[row]) == (fewest is not None)
        if fewest is not None:
            assert int(found.distance["l0"][row]) == fewest
            fallen += 1
    assert fallen > 5


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.29, 1.0])
@pytest.mark.parametrize("theta", [1.0, -0.5])
def test_no_more_pixel_values_change_than_allowed(pairs: bool, gamma: float, theta: float) -> None:
    shape = (1, 10, 10)
    model = LinearModel(shape, 4, seed=1)
    x = torch.cat([images(20, shape), images(20, shape, seed=1).round()])
    y = answered(ns.Classifier(model), x)
    found = JSMA(theta=theta, gamma=gamma, pairs=pairs)(model, x, y)
    limit = {0.01: 2 if pairs else 1, 0.1: 10, 0.29: 28 if pairs else 29, 1.0: 100}[gamma]
    assert float(found.distance["l0"].max()) <= limit
    assert JSMA(gamma=gamma, pairs=pairs).steps_for(100) == (limit // 2 if pairs else limit)
    # the last step is taken as well
    steps = limit // 2 if pairs else limit
    assert int(found.queries.max()) <= 1 + steps
    if gamma < 0.1:
        assert int(found.queries[~found.success].max()) == 1 + steps
    changed = found.x != x
    assert torch.allclose(found.x[changed], (x[changed] + theta).clamp(0, 1))
    assert bool(found.success.any()) or gamma == 0.01


def test_jsma_stops_where_no_change_is_salient() -> None:
    network = LinearModel((1, 2, 2), 3)
    with torch.no_grad():
        # whatever raises the second logit raises the others together as much
        network.linear.weight.copy_(torch.tensor([[1.0] * 4, [1.0] * 4, [0.0] * 4]))
        network.linear.bias.copy_(torch.tensor([1.0, 0.0, -9.0]))
    x, y = images(3, (1, 2, 2)), torch.zeros(3, dtype=torch.int64)
    for pairs in (True, False):
        found = JSMA(gamma=1, pairs=pairs)(network, x, y)
        assert not bool(found.success.any())
        assert torch.equal(found.x, x)
        assert found.queries.tolist() == [2] * 3


def test_jsma_on_a_large_image_stays_small() -> None:
    # the matrix of all pairs would take 84 GiB
    script = """
        import resource, time
        import torch
        from notsure.attacks import LeastLikely
        from notsure.attacks.sparse import JSMA

        torch.manual_seed(0)
        torch.set_num_threads(1)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 7, 4), torch.nn.Tanh(), torch.nn.Flatten(),
            torch.nn.Linear(8 * 55 * 55, 10),
        ).eval()
        x = torch.rand(1, 3, 224, 224)
        y = network(x).argmax(1)
        began = time.process_time()
        found = JSMA(gamma=8 / x.numel())(network, x, y, goal=LeastLikely())
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(peak, seconds, int(found.queries), int(found.gradients))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    peak, seconds, queries, gradients = (float(word) for word in ran.stdout.split())
    assert peak < 4 * 2**30
    assert seconds < 20
    assert (queries, gradients) == (5, 8)


# NewtonFool


class Recorder(nn.Module):
    """Remembers every image it is differentiated at."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.seen.append(x.detach().clone())
        logits: torch.Tensor = self.network(x)
        return logits


def newton_by_hand(
    network: nn.Module, x: torch.Tensor, label: int, eta: float, steps: int, towards: bool
) -> list[torch.Tensor]:
    """The iterates of one image as the paper writes them; `towards` a target in place of away."""
    iterates, clean = [x], x
    for _ in range(steps):
        x = x.clone().requires_grad_()
        logits = network(x[None])[0]
        chance = logits.softmax(dim=0)[label]
        (gradient,) = torch.autograd.grad(chance, x)
        size, chance = gradient.norm(), chance.detach()
        missing = 0.5 - chance if towards else chance - 1 / len(logits)
        delta = torch.minimum(eta * clean.norm() * size, missing)
        step = delta * gradient / size.square()
        x = (x.detach() + (step if towards else -step)).clamp(0, 1)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("eta", [0.002, 5.0])
def test_newtonfool_takes_the_steps_of_the_paper(targeted: bool, eta: float) -> None:
    # a small eta limits every step, a large one none
    recorder = Recorder(small_network(5, gain=0.7))
    x = 0.5 + 0.3 * (images(6, SHAPE, seed=3) - 0.5)
    y = answered(ns.Classifier(recorder), x)
    goal = Targeted(label=(y + 1) % 4) if targeted else Misclassified()
    compared = 0
    for row in range(len(x)):
        recorder.seen.clear()
        one = slice(row, row + 1)
        label = (int(y[row]) + 1) % 4 if targeted else int(y[row])
        if targeted:
            goal = Targeted(label=label)
        NewtonFool(eta=eta, steps=7)(recorder, x[one], y[one], goal=goal)
        expected = newton_by_hand(recorder.network, x[row], label, eta, 7, targeted)
        for seen, iterate in zip(recorder.seen, expected, strict=False):
            assert torch.allclose(seen[0], iterate, rtol=0, atol=1e-10)
            compared += 1
    assert compared >= (42 if eta < 1 else 12)


def test_newtonfool_stops_a_sample_when_it_is_fooled() -> None:
    network = small_network(5)
    x = images(20, SHAPE, seed=3)
    y = answered(ns.Classifier(network), x)
    found = NewtonFool(eta=0.02)(network, x, y)
    assert bool(found.success.all())
    for row in range(len(x)):
        iterates = newton_by_hand(network, x[row], int(y[row]), 0.02, 40, towards=False)
        first = next(i for i, z in enumerate(iterates) if int(network(z[None]).argmax()) != y[row])
        assert torch.allclose(found.x[row], iterates[first], atol=1e-9)
        assert int(found.gradients[row]) == first + 1
    assert len(set(found.gradients.tolist())) > 2


@pytest.mark.parametrize("num_logits", [1, 2])
@pytest.mark.parametrize("targeted", [True, False])
def test_newtonfool_stops_close_behind_a_linear_boundary(num_logits: int, targeted: bool) -> None:
    model = LinearModel(SHAPE, num_logits, seed=4)
    x = images(10, SHAPE, seed=6)
    y = answered(ns.Classifier(model), x)
    goal = Targeted(label=1 - y) if targeted else Misclassified()
    found = NewtonFool(eta=0.01)(model, x, y, goal=goal)
    assert bool(found.success.all())
    for row in range(len(x)):
        optimum = optimal_distance(model, x[row], int(y[row]), "l2", None)
        longest = 0.01 * float(x[row].norm())
        assert optimum - 1e-6 <= float(found.distance["l2"][row])
        assert float(found.distance["l2"][row]) <= 1.02 * optimum + longest
    behind = ns.Classifier(model).logits(found.x).softmax(dim=1).gather(1, y[:, None]).detach()
    assert float(behind.max()) <= 0.5
    # without a limit a few steps do, and what is too far is walked back
    far = NewtonFool(eta=1e6, steps=8)(model, x, y, goal=goal)
    near = NewtonFool(eta=1e6, steps=8, walk=12)(model, x, y, goal=goal)
    assert bool(far.success.all())
    assert bool((near.distance["l2"] <= far.distance["l2"]).all())
    assert float(near.distance["l2"].sum()) < 0.999 * float(far.distance["l2"].sum())


def test_newtonfool_on_a_network_that_is_sure_beyond_float32() -> None:
    model = LinearModel(SHAPE, 4, seed=4).float()
    with torch.no_grad():
        model.linear.weight.mul_(100)
        model.linear.bias.mul_(100)
    x = images(10, SHAPE, seed=6).float()
    classifier = ns.Classifier(model)
    y = answered(classifier, x)
    assert bool((classifier.logits(x).softmax(dim=1).amax(dim=1) == 1).any())
    found = NewtonFool()(classifier, x, y)
    assert bool(found.success.all())
    assert int(found.dead_gradients.sum()) == 0


def test_newtonfool_moves_a_black_image() -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=4))
    black = torch.zeros(1, *SHAPE, dtype=torch.float64)
    assert bool(NewtonFool(eta=0.1)(classifier, black, answered(classifier, black)).success)


# the rules of the house, for both


class Gatekeeper(nn.Module):
    """Logits by the upper half of the image; it rejects what is dark below, or surely class 1."""

    def __init__(self, pull: float) -> None:
        super().__init__()
        self.network = ns.Classifier(LinearModel((1, 3, 6), 2, seed=3))
        self.pull = pull

    rejects, stochastic, differentiable = True, False, True

    def respond(self, x: torch.Tensor) -> Response:
        logits = self.network.logits(x[:, :, :3])
        below = x[:, :, 3:].mean(dim=(1, 2, 3))
        margin = logits[:, 1] - logits[:, 0]
        return Response(logits, 2 * (0.6 - below) + self.pull * margin)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.respond(x).logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        rejection = self.respond(x).rejection
        assert rejection is not None
        return rejection


@pytest.mark.parametrize("attack", [JSMA(gamma=0.6), JSMA(gamma=0.6, pairs=False), NewtonFool()])
@pytest.mark.parametrize("pull", [0.0, 0.02])
@pytest.mark.parametrize("slack", [0.0, 0.1])
def test_a_target_that_rejects_is_made_to_accept(attack: Any, pull: float, slack: float) -> None:
    target = Gatekeeper(pull)
    x = images(30, SHAPE, seed=8)
    x[:, :, 3:] = 0.3
    y = target.logits(x).argmax(dim=1).detach()
    x, y = x[y == 0], y[y == 0]
    goal = Undetected(Misclassified(), slack=slack)
    found = attack(target, x, y, goal=goal)
    blind = attack(target, x, y, goal=Misclassified())
    assert bool(blind.success.all())
    assert bool((target.rejection(blind.x) > 0).all())
    assert bool(found.success.all())
    assert bool((target.rejection(found.x) <= -slack).all())
    assert bool((target.logits(found.x).argmax(dim=1) == 1).all())


@pytest.mark.parametrize("attack", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_does_not_feel_its_batch(attack: Any, seed: int) -> None:
    network = small_network(seed)
    x = images(9, SHAPE, seed=seed)
    y = answered(ns.Classifier(network), x)
    together = attack(network, x, y)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    shuffled = attack(network, x[order], y[order], batch_size=2)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-9)
    assert torch.equal(shuffled.success, together.success[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    assert torch.equal(shuffled.gradients, together.gradients[order])


@pytest.mark.parametrize("attack", SETTINGS)
@pytest.mark.parametrize("num_logits", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_classes_and_channels(
    attack: Any, num_logits: int, dtype: torch.dtype
) -> None:
    shape = (3, 4, 5)
    model = LinearModel(shape, num_logits, seed=num_logits).to(dtype)
    x = images(12, shape, seed=2).to(dtype)
    x[6:] = x[6:].round()
    classifier = ns.Classifier(model)
    y = answered(classifier, x)
    y[0] = (y[0] + 1) % max(2, num_logits)
    found = attack(classifier, x, y)
    assert found.x.dtype == dtype
    assert torch.equal(answered(classifier, found.x) != y, found.success)
    assert float(found.success.double().mean()) > 0.7
    assert torch.equal(found.x[~found.success], x[~found.success])
    # wrong before the attack: nothing is spent on it
    assert (int(found.queries[0]), int(found.gradients[0])) == (1, 0)
    wanted = (y + 1) % max(2, num_logits)
    hit = attack(classifier, x[1:], y[1:], goal=Targeted(label=wanted[1:]))
    assert torch.equal(answered(classifier, hit.x) == wanted[1:], hit.success)
    assert bool(hit.success.any())


@pytest.mark.parametrize("kind", [JSMA, NewtonFool])
@pytest.mark.parametrize("kappa", [1.0, 6.0])
def test_confidence_is_kept(kind: Any, kappa: float) -> None:
    settings = {"gamma": 1.0} if kind is JSMA else {"eta": 0.05}
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=2))
    x = images(20, SHAPE)
    y = answered(classifier, x)
    for goal in (None, Misclassified(confidence=kappa), Targeted(label=(y + 1) % 3)):
        asked = kappa if goal is None else 0.0
        found = kind(confidence=asked, **settings)(classifier, x, y, goal=goal)
        logits = classifier.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        ahead = (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own)[found.success]
        assert float(found.success.double().mean()) > 0.7
        assert float(ahead.min()) >= (0 if isinstance(goal, Targeted) else kappa)


@pytest.mark.parametrize(
    ("kind", "settings", "remedy"),
    [
        (JSMA, {"theta": 0}, "0 < theta <= 1"),
        (JSMA, {"theta": 255}, "0 < theta <= 1"),
        (JSMA, {"theta": float("nan")}, "0 < theta <= 1"),
        (JSMA, {"gamma": 0}, r"\(0, 1\]"),
        (JSMA, {"gamma": 100}, "divide it by"),
        (JSMA, {"confidence": -1}, "kappa"),
        (NewtonFool, {"eta": 0}, "eta"),
        (NewtonFool, {"eta": float("inf")}, "eta"),
        (NewtonFool, {"walk": -1}, "walk"),
        (NewtonFool, {"steps": 0}, "at least 1"),
        (NewtonFool, {"norm": "linf"}, "defined for norm l2"),
    ],
)
def test_settings_are_checked(kind: Any, settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        kind(**settings)
