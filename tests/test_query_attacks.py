"""Square, HopSkipJump and NES: near the exact optimum, within their queries, without gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import notsure as ns
from notsure.attacks import DetectorAware, Margin, Misclassified, Targeted, Undetected
from notsure.attacks.base import Attack
from notsure.attacks.boundary import draw_nearer, project_each
from notsure.attacks.evolution import NES
from notsure.attacks.geometry import norm_named
from notsure.attacks.gradients import NaturalEvolution
from notsure.attacks.problem import Problem
from notsure.attacks.query import HopSkipJump, InDouble, Square
from notsure.attacks.squares import _eta, grid, recoloured, shifted, stripes
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.randomness import Streams, own_streams
from notsure.core.target import Response, Target
from notsure.views import DecisionsOnly, ScoresOnly
from tests.test_attacks_closed_form import conforms
from tests.toys import LinearModel, images, optimal_distance, small_network

SHAPE = (1, 4, 4)

QUICK: list[Attack] = [
    Square(eps=0.1, queries=60),
    Square(norm="l2", eps=0.5, queries=60),
    HopSkipJump(queries=150, initial_evaluations=20),
    HopSkipJump(norm="linf", queries=150, initial_evaluations=20),
    NES(eps=0.1, queries=150, samples=10),
    NES(norm="l1", eps=2.0, queries=150, samples=10),
]

# Square needs scores, which decisions do not show
ACCESS = [(attack, False) for attack in QUICK]
ACCESS += [(attack, True) for attack in QUICK if not isinstance(attack, Square)]


def name_of(attack: Attack) -> str:
    return f"{attack.name}-{attack.settings()['norm']}"


def label_of(value: Any) -> str:
    if isinstance(value, Attack):
        return name_of(value)
    return str(value)


def level_images(model: LinearModel, norm: str, count: int) -> tuple[torch.Tensor, float]:
    """Images that all are equally far from the boundary of a two-class linear model, and how far.

    None of the nearest images on the boundary touches the box.
    """
    weight = (model.linear.weight[-1] - model.linear.weight[0]).detach()
    bias = (model.linear.bias[-1] - model.linear.bias[0]).detach()
    dual = {"linf": weight.abs().sum(), "l2": weight.norm()}[norm]
    distance = 0.05 if norm == "linf" else 0.2
    x = images(count, SHAPE, seed=4).flatten(1) * 0.5 + 0.25
    value = x @ weight + bias
    moved = x - ((value - value.sign() * distance * dual) / weight.square().sum())[:, None] * weight
    assert float((moved - 0.5).abs().max()) < 0.45
    return moved.view(-1, *SHAPE), distance


@pytest.mark.parametrize(
    ("attack", "ratio"),
    [
        (Square(queries=400), 1.05),
        (Square(norm="l2", queries=400), 1.3),
        (NES(queries=2000), 1.1),
        (NES(norm="l2", queries=2000), 1.05),
    ],
    ids=label_of,
)
def test_scores_lead_near_the_optimum(attack: Any, ratio: float) -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    classifier = ScoresOnly(ns.Classifier(model))
    x, optimum = level_images(model, attack.norm, 12)
    y = classifier.logits(x).argmax(dim=1)
    assert bool(attack.with_eps(ratio * optimum)(classifier, x, y).success.all())
    quick = replace(attack, queries=300).with_eps(0.98 * optimum)
    assert not bool(quick(classifier, x, y).success.any())


@pytest.mark.parametrize(("norm", "ratio"), [("linf", 1.2), ("l2", 1.15)])
def test_labels_alone_lead_near_the_optimum(norm: str, ratio: float) -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    target = DecisionsOnly(ns.Classifier(model))
    x, optimum = level_images(model, norm, 10)
    y = target.logits(x).argmax(dim=1)
    attack = NES(norm=norm, eps=ratio * optimum, queries=4000)
    assert bool(attack(target, x, y).success.all())
    found = replace(attack, eps=0.98 * optimum, queries=400)(target, x, y)
    assert not bool(found.success.any())
    # neither the start nor one step does it for all, so that it is the steps that do
    assert not bool(replace(attack, steps=1)(target, x, y).success.all())


@pytest.mark.parametrize(("norm", "binary"), [("l2", True), ("linf", False)])
def test_hop_skip_jump_finds_the_nearest_image(norm: str, binary: bool) -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    classifier = ns.Classifier(model)
    target = DecisionsOnly(classifier)
    x = images(5, SHAPE, seed=1)
    x = x.round() if binary else x
    y = classifier.logits(x).argmax(dim=1).detach()
    found = HopSkipJump(norm=norm, queries=2000)(target, x, y)
    optimum = [optimal_distance(model, x[i], int(y[i]), norm, None) for i in range(5)]
    ratio = found.distance[norm] / torch.tensor(optimum)
    assert bool(found.success.all())
    assert float(ratio.min()) > 1 - 1e-6
    assert float(ratio.max()) < 1.05
    rough = HopSkipJump(norm=norm, queries=300)(target, x, y)
    assert bool((rough.distance[norm] > found.distance[norm]).all())


@pytest.mark.parametrize(
    ("num_logits", "targeted", "binary"),
    [(1, False, True), (3, True, False), (4, False, False), (10, True, True)],
)
def test_square_solves_any_number_of_classes(num_logits: int, targeted: bool, binary: bool) -> None:
    for norm, ratio in (("linf", 1.5), ("l2", 2.0)):
        conforms(
            Square,
            norm=norm,
            num_logits=num_logits,
            count=2,
            shape=(1, 3, 3),
            targeted=targeted,
            ratio=ratio,
            binary=binary,
            queries=300,
        )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (3, 7, 3)])
@pytest.mark.parametrize(("num_logits", "dtype"), [(1, torch.float32), (3, torch.float64)])
def test_images_of_any_size(shape: tuple[int, int, int], num_logits: int, dtype: Any) -> None:
    classifier = ns.Classifier(LinearModel(shape, num_logits, seed=1).to(dtype))
    x = images(6, shape, seed=2).to(dtype).round()
    y = classifier.logits(x).argmax(dim=1).detach()
    for attack in QUICK:
        wide = attack
        if not isinstance(attack, HopSkipJump):
            wide = attack.with_eps(0.5)  # type: ignore[attr-defined]
        views = [classifier, DecisionsOnly(classifier)]
        for target in views[: 1 if isinstance(attack, Square) else 2]:
            found = wide(target, x, y)
            wrong = classifier.logits(found.x).argmax(dim=1) != y
            assert torch.equal(wrong, found.success)
            assert found.x.dtype == dtype


def test_targets_are_reached() -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=2))
    x = images(10, SHAPE, seed=3)
    y = classifier.logits(x).argmax(dim=1)
    wanted = (y + 1) % 3
    for attack in (Square(eps=0.6), NES(eps=0.6), HopSkipJump(queries=500)):
        found = attack(classifier, x, y, goal=Targeted(label=wanted))
        assert float(found.success.double().mean()) > 0.8, attack.name
        reached = classifier.logits(found.x).argmax(dim=1)
        assert torch.equal(reached == wanted, found.success)


class Counting:
    """Counts what it answers, and refuses to answer where a gradient could be taken."""

    rejects = False
    differentiable = True

    def __init__(self, of: Target, stochastic: bool = False) -> None:
        self.of, self.stochastic, self.passes, self.images = of, stochastic, 0, 0

    def respond(self, x: torch.Tensor) -> Response:
        assert not torch.is_grad_enabled(), "a query attack asks for gradients"
        self.passes += 1
        self.images += len(x)
        if not self.stochastic:
            return self.of.respond(x)
        streams = own_streams(len(x))
        assert streams is not None
        noise = streams.normal(x.shape[1:], dtype=x.dtype)
        return self.of.respond(x + 0.02 * noise)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.respond(x).logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), -torch.inf)


def hard_case(count: int = 6) -> tuple[ns.Classifier, torch.Tensor, torch.Tensor]:
    classifier = ns.Classifier(small_network(3))
    x = images(count, (1, 6, 6), seed=1)
    return classifier, x, classifier.logits(x).argmax(dim=1).detach()


@pytest.mark.parametrize(("attack", "decisions"), ACCESS, ids=label_of)
@pytest.mark.parametrize("queries", [60, 111])
def test_no_query_is_spent_beyond_the_budget(attack: Any, decisions: bool, queries: int) -> None:
    classifier, x, y = hard_case()
    attack = replace(attack, queries=queries)
    if not isinstance(attack, HopSkipJump):
        attack = attack.with_eps(0.02)
    for row in range(2):
        target = Counting(classifier)
        seen = DecisionsOnly(target) if decisions else target
        found = attack(seen, x[row : row + 1], y[row : row + 1])
        # the framework's own judging is one answer more
        assert target.images == int(found.queries) + 1
        assert int(found.queries) <= queries
        assert int(found.gradients) == 0
    target = Counting(classifier)
    found = attack(DecisionsOnly(target) if decisions else target, x, y)
    assert target.images == int(found.queries.sum()) + len(x)


@pytest.mark.parametrize("attack", QUICK, ids=name_of)
def test_an_answer_of_a_stochastic_target_costs_its_draws(attack: Any) -> None:
    classifier, x, y = hard_case(3)
    attack = replace(attack, queries=300)
    target = Counting(classifier, stochastic=True)
    found = attack(target, x, y, votes=5)
    assert target.images == int(found.queries.sum()) + 5 * len(x)
    assert int(found.queries.max()) <= 300
    # nobody's draws depend on who else is there
    again = attack(Counting(classifier, stochastic=True), x[1:2], y[1:2], votes=5)
    assert torch.allclose(again.x, found.x[1:2], atol=1e-7)
    few = replace(attack, queries=13 if not isinstance(attack, NES) else 25)
    with pytest.raises(ConfigurationError, match="Raise queries by"):
        few(Counting(classifier, stochastic=True), x, y, votes=12)


@pytest.mark.parametrize(("attack", "decisions"), ACCESS, ids=label_of)
def test_a_sample_does_not_feel_its_batch(attack: Any, decisions: bool) -> None:
    classifier, x, y = hard_case(8)
    target = DecisionsOnly(classifier) if decisions else ScoresOnly(classifier)
    together = attack(target, x, y, seed=5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = attack(target, x[order], y[order], seed=5, batch_size=3)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-9)
    assert torch.equal(shuffled.queries, together.queries[order])
    alone = attack(target, x[4:5], y[4:5], seed=5)
    assert torch.allclose(alone.x, together.x[4:5], atol=1e-9)
    if bool(together.success.any()):
        assert not torch.equal(attack(target, x, y, seed=6).x, together.x)


@pytest.mark.parametrize("attack", QUICK, ids=name_of)
def test_nothing_is_spent_on_what_is_wrong_already(attack: Any) -> None:
    classifier, x, y = hard_case()
    found = attack(classifier, x, (y + 1) % 4)
    assert found.queries.tolist() == [1] * len(x)
    assert torch.equal(found.x, x)


class Rejecting(Counting):
    """Rejects where the first pixel is bright, by how much; the class does not see that pixel."""

    rejects = True

    def respond(self, x: torch.Tensor) -> Response:
        first = x[:, 0, 0, 0]
        hidden = x.clone()
        hidden[:, 0, 0, 0] = 0.5
        return Response(super().respond(hidden).logits, first - 0.5)


@pytest.mark.parametrize("view", [None, ScoresOnly, DecisionsOnly])
def test_success_is_wrong_and_accepted(view: Any) -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    target = Rejecting(ns.Classifier(model))
    seen = target if view is None else view(target)
    x, _ = level_images(model, "linf", 10)
    x[:, 0, 0, 0] = 0.55
    with torch.no_grad():
        y = target.respond(x).logits.argmax(dim=1)
    attacks: list[Attack] = [HopSkipJump(queries=400), NES(eps=0.4, queries=1500, sigma=0.05)]
    if view is not DecisionsOnly:
        attacks.append(Square(eps=0.4, queries=300))
        attacks.append(Square(norm="l2", eps=1.5, queries=300))
    for attack in attacks:
        found = attack(seen, x, y)
        with torch.no_grad():
            answer = target.respond(found.x)
        assert torch.equal(found.success, (answer.prediction != y) & answer.accepted)
        assert float(found.success.double().mean()) > 0.8, attack.name
        careless = attack(seen, x, y, goal=Misclassified())
        assert bool(careless.success[found.success].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evading_a_detector_shows_small_gains(dtype: torch.dtype) -> None:
    before = Response(torch.tensor([[3.0, 0.0]], dtype=dtype), torch.ones(1, dtype=dtype))
    after = Response(torch.tensor([[2.999, 0.0]], dtype=dtype), torch.ones(1, dtype=dtype))
    labels, goal = torch.zeros(1, dtype=torch.int64), Undetected(Misclassified())
    objective = InDouble(of=DetectorAware(base=Margin()))
    gain = objective(after, labels, goal) - objective(before, labels, goal)
    assert float(gain) == pytest.approx(1e-3, rel=1e-3)


def test_a_square_needs_scores() -> None:
    classifier, x, y = hard_case()
    with pytest.raises(UnsupportedError, match=r"HopSkipJump.*NES"):
        Square()(DecisionsOnly(classifier), x, y)


@pytest.mark.parametrize("attack", [HopSkipJump(confidence=1.0), NES(confidence=1.0)])
def test_decisions_show_no_margin(attack: Attack) -> None:
    classifier, x, y = hard_case()
    with pytest.raises(ConfigurationError, match="decisions only"):
        attack(DecisionsOnly(classifier), x, y)


def test_confidence_is_kept() -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=2))
    x = images(10, SHAPE, seed=3)
    y = classifier.logits(x).argmax(dim=1).detach()
    for attack in (
        Square(eps=0.5, queries=500, confidence=2.0),
        HopSkipJump(queries=500, confidence=2.0),
        NES(eps=0.5, confidence=2.0),
    ):
        found = attack(classifier, x, y)
        logits = classifier.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        margin = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own
        assert bool(found.success.any()), attack.name
        assert float(margin[found.success].min()) >= 2


def test_without_early_stop_the_search_goes_on() -> None:
    classifier, x, y = hard_case(12)

    def margin(early_stop: bool) -> torch.Tensor:
        found = Square(eps=0.3, queries=200, early_stop=early_stop)(classifier, x, y)
        logits = classifier.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        return (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own)[found.success]

    assert len(margin(True)) > 0
    assert float(margin(False).mean()) > 2 * float(margin(True).mean())


def streams_of(x: torch.Tensor, seed: int = 0) -> Streams:
    return Streams.of(content_keys(x), seed)


def test_the_squares_shrink_as_published() -> None:
    attack = Square(p_init=0.8)
    table = {10: 1, 50: 2, 200: 4, 500: 8, 1000: 16, 2000: 32, 4000: 64, 6000: 128, 8000: 256}
    for last, divisor in table.items():
        wanted = max(1, round((0.8 / divisor * 28 * 28) ** 0.5))
        assert attack._side(last, 10_000, 28, 28) == wanted
        # with fewer queries it is over sooner
        assert attack._side(last // 10, 1000, 28, 28) == wanted
        assert attack._side(last + 1, 10_000, 28, 28) == max(
            1, round((0.8 / divisor / 2 * 28 * 28) ** 0.5)
        )
    round_windows = Square(norm="l2")
    sides = [round_windows._side(step, 10_000, 28, 28) for step in range(0, 10_000, 50)]
    assert all(side % 2 == 1 for side in sides)
    assert sides[0] == 25
    assert sides[-1] == 3


@pytest.mark.parametrize("side", [2, 3, 5, 8, 11])
def test_the_pattern_is_the_published_one(side: int) -> None:
    def hill(height: int, width: int) -> torch.Tensor:
        found = torch.zeros(height, width, dtype=torch.float64)
        for k in range(max(height, width) // 2 + 1):
            top, left = height // 2 - k, width // 2 - k
            found[max(top, 0) : top + 2 * k + 1, max(left, 0) : left + 2 * k + 1] += (
                1 / (k + 1) ** 2
            )
        return found / found.square().sum().sqrt()

    wanted = torch.cat([hill(side // 2, side), -hill(side - side // 2, side)])
    pattern = _eta(side, torch.float64, torch.device("cpu"))
    assert torch.allclose(pattern, wanted / wanted.norm())


def test_a_square_is_recoloured() -> None:
    x = images(200, (3, 7, 9), seed=0)
    eps, side = 0.1, 3
    start = stripes(streams_of(x), x, eps)
    assert torch.allclose((start - x).abs(), torch.full_like(x, eps))
    assert torch.equal((start - x).sign()[:, :, :1].expand_as(x), (start - x).sign())
    touched: set[tuple[int, int]] = set()
    for step in range(5):
        moved = recoloured(streams_of(x).fork(step), x, start, eps, side)
        changed = (moved != start).any(dim=1)
        assert bool(changed.flatten(1).any(dim=1).all()), "a query is spent on what is known"
        for row in range(len(x)):
            where = changed[row].nonzero()
            extent = where.amax(dim=0) - where.amin(dim=0)
            assert int(extent.max()) < side
            touched.update((down, across) for down, across in where.tolist())
        sign = (moved - x).sign()
        inside = changed[:, None] & (moved != start)
        for channel in range(3):
            colour = torch.where(inside[:, channel], sign[:, channel], 0).flatten(1)
            assert bool((colour.amax(dim=1) * colour.amin(dim=1) == 0).all()), "two colours"
    assert len(touched) == 7 * 9, "a pixel is never changed"
    # where all is of one colour only the other one is left
    dark = (x - eps).clamp(0, 1)[:, :1]
    moved = recoloured(streams_of(x), x[:, :1], dark, eps, side)
    assert torch.equal((moved != dark).flatten(1).sum(dim=1), torch.full((200,), side**2))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 7, 9), (1, 2, 2)])
def test_mass_is_shifted_within_ball_and_box(shape: tuple[int, int, int], binary: bool) -> None:
    x = images(50, shape, seed=0)
    x = x.round() if binary else x
    eps, norm = 0.4, norm_named("l2")
    current = grid(streams_of(x), x, eps)
    for step in range(6):
        side = min(3, *shape[1:])
        moved = shifted(streams_of(x).fork(step), x, current, eps, side)
        for one in (current, moved):
            assert float(one.min()) >= 0
            assert float(one.max()) <= 1
            assert float(norm.distance(one - x).max()) <= eps * (1 + 1e-9)
        if not binary:
            assert torch.allclose(norm.distance(moved - x), torch.full((50,), eps).double())
            # all but two windows keeps its proportions
            before, after = (current - x).flatten(1), (moved - x).flatten(1)
            ratio = torch.where(before == 0, torch.nan, after / before)
            scale = ratio.nanmedian(dim=1, keepdim=True).values
            kept = (after - scale * before).abs() < 1e-12
            if min(shape[1:]) >= 7:
                changed = (~kept).sum(dim=1)
                assert int(changed.max()) <= 2 * side**2 * shape[0]
                assert int(changed.min()) > 0
        current = moved


def problem_of(target: Target, x: torch.Tensor, y: torch.Tensor, **settings: Any) -> Problem:
    return Problem(target, x, y, Misclassified(), streams_of(x), **settings)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_estimate_from_scores_points_along_the_gradient(stochastic: bool) -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    x = images(10, SHAPE, seed=2)
    target = Counting(ns.Classifier(model), stochastic=stochastic)
    with torch.no_grad():
        y = target.of.respond(x).prediction
        attack = NES(samples=400, sigma=0.05 if stochastic else 1e-3)
        problem = problem_of(target, x, y, source=attack.source)
        rows = torch.arange(10)
        estimate = problem.ascend(x, rows, InDouble(of=Margin())).gradient
    weight = (model.linear.weight[1] - model.linear.weight[0]).detach()
    wanted = torch.where(y == 0, 1.0, -1.0)[:, None] * weight
    cosine = torch.cosine_similarity(estimate.flatten(1), wanted, dim=1)
    assert float(cosine.min()) > (0.8 if stochastic else 0.9)
    assert isinstance(attack.source, NaturalEvolution)


def test_the_estimate_from_labels_points_along_the_gradient() -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    target = DecisionsOnly(ns.Classifier(model))
    x, optimum = level_images(model, "l2", 10)
    weight = (model.linear.weight[1] - model.linear.weight[0]).detach()
    y = target.logits(x).argmax(dim=1)
    wanted = torch.where(y == 0, 1.0, -1.0)[:, None] * weight
    step = (wanted / weight.norm() * optimum).view_as(x)
    with torch.no_grad():
        problem = problem_of(target, x, y)
        attack = NES(samples=400, proxies=2)
        estimate = attack._slope_of_share(problem, torch.arange(10), x + step)
    cosine = torch.cosine_similarity(estimate.flatten(1), wanted, dim=1)
    assert float(cosine.min()) > 0.9
    assert problem.queries.tolist() == [1 + 800] * 10


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projections_onto_balls_of_their_own(norm: str) -> None:
    x = images(6, SHAPE, seed=1).round()
    geometry, radius = norm_named(norm), torch.linspace(0.1, 0.6, 6).double()
    delta = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    together = project_each(geometry, delta, radius, x)
    for row in range(6):
        one = slice(row, row + 1)
        alone = geometry.project(delta[one], float(radius[row]), -x[one], 1 - x[one])
        assert torch.allclose(together[one], alone, atol=1e-9)


def test_the_way_back_ends_at_the_boundary() -> None:
    model = LinearModel(SHAPE, 2, seed=3)
    target = ns.Classifier(model)
    x, optimum = level_images(model, "l2", 10)
    weight = (model.linear.weight[1] - model.linear.weight[0]).detach()
    y = target.logits(x).argmax(dim=1).detach()
    direction = (torch.where(y == 0, 1.0, -1.0)[:, None] * weight / weight.norm()).view_as(x)
    with torch.no_grad():
        rows, far = torch.arange(10), x + 1.2 * optimum * direction
        problem = problem_of(target, x, y)
        near = draw_nearer(problem, norm_named("l2"), rows, far, rounds=20)
        assert torch.allclose((near - x).flatten(1).norm(dim=1), torch.tensor(optimum).double())
        assert bool(problem.ask(near, rows).reached.all())
        before = problem.queries.clone()
        least = 1.1 * optimum
        near = draw_nearer(problem, norm_named("l2"), rows, far, rounds=20, least=least)
        assert torch.allclose((near - x).flatten(1).norm(dim=1), torch.tensor(least).double())
        assert bool((problem.queries == before + 1).all())


def test_a_sample_without_a_start_stands() -> None:
    def always_first(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), dtype=torch.int64)

    target = DecisionsOnly(always_first, num_classes=3)
    x, y = images(3, SHAPE), torch.zeros(3, dtype=torch.int64)
    for attack in (HopSkipJump(initial_tries=7), NES(initial_tries=7)):
        found = attack(target, x, y)
        assert not bool(found.success.any())
        assert torch.equal(found.x, x)
        assert found.queries.tolist() == [8, 8, 8]


def test_blocks_of_noise_reach_what_pixel_noise_does_not() -> None:
    def bright(x: torch.Tensor) -> torch.Tensor:
        return (x.mean(dim=(1, 2, 3)) > 0.8).long()

    x, y = images(6, (1, 16, 16)), torch.zeros(6, dtype=torch.int64)
    found = HopSkipJump(queries=300)(DecisionsOnly(bright, num_classes=2), x, y)
    assert bool(found.success.all())


@pytest.mark.parametrize(
    ("kind", "settings", "remedy"),
    [
        (Square, {"norm": "l1"}, "linf and l2"),
        (Square, {"p_init": 0}, "share"),
        (Square, {"queries": 1}, "1 for the clean image"),
        (Square, {"queries": 5, "restarts": 5}, "restarts=5"),
        (Square, {"eps": "8/0"}, "fraction"),
        (Square, {"confidence": -1}, "kappa"),
        (HopSkipJump, {"norm": "l1"}, "l2 and linf"),
        (HopSkipJump, {"steps": 0}, "at least 1"),
        (HopSkipJump, {"queries": 1}, "at least 2"),
        (HopSkipJump, {"gamma": 0}, "gamma"),
        (HopSkipJump, {"initial_evaluations": 200, "max_evaluations": 100}, "at most"),
        (HopSkipJump, {"confidence": -1}, "kappa"),
        (NES, {"samples": 5}, "even"),
        (NES, {"sigma": 0}, "sigma"),
        (NES, {"mu": 0}, "mu"),
        (NES, {"proxies": 0}, "proxies"),
        (NES, {"queries": 52}, "queries=53"),
        (NES, {"queries": 100, "restarts": 2}, "queries=105"),
        (NES, {"gradient": NaturalEvolution()}, "PGD"),
        (NES, {"precision": "bf16"}, "PGD"),
        (NES, {"steps": -1}, "at least 0"),
    ],
)
def test_settings_are_checked(kind: Any, settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        kind(**settings)


def test_identities() -> None:
    assert Square(eps="8/255") == Square(eps=8 / 255)
    assert Square(eps="8/255").identity == Square(eps=8 / 255).identity
    assert len({Square().identity, HopSkipJump().identity, NES().identity}) == 3
    assert Square().with_eps("4/255").eps == pytest.approx(4 / 255)
    assert NES(mu="1/100") == NES(mu=0.01)
