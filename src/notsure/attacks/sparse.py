"""JSMA: an attack that changes few pixel values, and changes them a lot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from notsure.attacks.base import GradientAttack
from notsure.attacks.goals import Undetected, check_kappa
from notsure.attacks.minimal import candidates_of
from notsure.attacks.problem import Function, Problem
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response

_SATURATED = 0.01
"""How near to the end of [0,1] a pixel value counts as being there."""

_AT_ONCE = 2**22
"""How many numbers the search for the best pair holds at a time."""


@dataclass(frozen=True, kw_only=True)
class JSMA(GradientAttack):
    """Jacobian-based saliency map attack: changes the most salient pixel values, each once.

    Papernot et al. 2016; pang 2.3; martin. With a_i the slope of the wanted logit along pixel
    value i and b_i the slope of the sum of all other logits, a step changes by `theta` the pair
    (p, q) with a_p + a_q > 0 and b_p + b_q < 0 whose saliency (a_p + a_q) * |b_p + b_q| is
    largest; for theta < 0 both signs are turned round. With pairs=False it is the pixel value of
    the largest a_i * |b_i| (pang's map, read with the target t where it prints y). A pixel value
    is open to a step while it was not changed and is not within 0.01 of the end of [0,1] that theta
    points to.
    A sample stops at success, where no saliency is positive, and at its limit of changes.

    Of the Jacobian of the logits only these two combinations of rows count, so a step costs one
    forward and two backward passes for a whole batch, whatever the number of classes. The best
    pair is exact, and found without the matrix of all pairs, in memory O(B * C * H * W).

    A targeted goal says which class to make for. For any other goal each sample makes for the
    wrong class that is likeliest for its clean image, and success is still judged by the goal.

    Deviations: the slopes are those of logits, not of probabilities, as in the paper's own
    experiments; of two classes only the difference of the logits means anything, so a and b are
    the slopes of half that difference up and down (the paper's map would vanish for a network
    with a single logit). Small steps do not return to a pixel value. Where the target rejects, an
    image of a right class that is rejected moves on with the slope of minus the rejection as a
    and its opposite as b, until it is accepted or loses the class.

    Attributes:
        theta: by how much a chosen pixel value changes, in [0,1] pixel units; from -1 to 1, not
            0. The result is clipped to [0,1].
        gamma: the share of pixel values that may change, in (0, 1]: floor(gamma * C * H * W) of
            them, but at least one, and with pairs one pair.
        pairs: choose two pixel values a step, or one.
        confidence: the logit margin (kappa) that success takes.
    """

    norms = ("l0",)
    paper = "Papernot et al. 2016"
    cost = "changes / 2 x (F + 2 B), or changes x (F + 2 B) with single pixel values"
    theta: float = 1.0
    gamma: float = 0.1
    pairs: bool = True
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < abs(self.theta) <= 1:
            raise ConfigurationError(
                "theta is a change of a pixel value in [0,1]: give 0 < theta <= 1, or "
                f"-1 <= theta < 0 to darken; got {self.theta}."
            )
        if not 0 < self.gamma <= 1:
            raise ConfigurationError(
                f"gamma is a share of the pixel values, in (0, 1]; got {self.gamma}. For a number "
                "of pixel values divide it by channels * height * width."
            )
        check_kappa(self.confidence)

    def steps_for(self, size: int) -> int:
        """How many steps an image of `size` pixel values gets."""
        # what rounding takes from a product such as 0.29 * 100 is given back
        count = math.floor(self.gamma * size + 1e-9)
        return max(1, count // 2 if self.pairs else count)

    def search(self, problem: Problem) -> torch.Tensor:
        """Changes the most salient pixel values until the goal is reached."""
        proposal = problem.x.clone()
        rows = (~problem.untouched).nonzero().flatten()
        x = problem.x[rows].flatten(1)
        classes = candidates_of(problem, rows, 1)
        unused = torch.ones_like(x, dtype=torch.bool)
        sign = math.copysign(1.0, self.theta)
        choose = most_salient_pair if self.pairs else most_salient
        for _ in range(self.steps_for(problem.x[0].numel())):
            if len(rows) == 0:
                break
            images = x.view(len(rows), *problem.x.shape[1:])
            ascent = problem.slope(images, rows, _saliency_slopes(problem, rows, classes))
            wanted, others = (sign * ascent.gradient).flatten(2).unbind(dim=1)
            room = x < 1 - _SATURATED if self.theta > 0 else x > _SATURATED
            chosen, salient = choose(wanted, -others, unused & room)
            done = ascent.reached
            proposal[rows[done]] = images[done]
            left = salient & ~done
            rows, x, classes = rows[left], x[left], classes[left]
            unused, chosen = unused[left], chosen[left]
            x = x.scatter(1, chosen, (x.gather(1, chosen) + self.theta).clamp(0, 1))
            unused.scatter_(1, chosen, value=False)
        # whether the last step succeeded is for the framework to judge
        proposal[rows] = x.view(len(rows), *problem.x.shape[1:])
        return proposal


def _saliency_slopes(problem: Problem, rows: torch.Tensor, classes: torch.Tensor) -> Function:
    """What has to rise and what has to fall, (R, 2), for the classes (R, 1) made for."""
    goal, labels = problem.goal, problem.labels[rows]

    def function(response: Response) -> torch.Tensor:
        logits = response.logits
        wanted = logits.gather(1, classes)[:, 0]
        others = logits.sum(dim=1) - wanted
        if logits.shape[1] == 2:
            wanted = (wanted - others) / 2
            others = -wanted
        if isinstance(goal, Undetected) and response.rejection is not None:
            right = goal.goal.reached(response, labels)
            wanted = torch.where(right, -response.rejection, wanted)
            others = torch.where(right, response.rejection, others)
        return torch.stack([wanted, others], dim=1)

    return function


def most_salient(
    rise: torch.Tensor, fall: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixel value of the largest rise * fall, both positive.

    Args:
        rise: how steeply each pixel value raises the wanted logit, (R, N).
        fall: how steeply it lowers the others together, (R, N).
        allowed: which ones may be chosen, bool (R, N).

    Returns:
        Its index, int64 (R, 1), and whether there is one, bool (R,). Of equals the first.
    """
    saliency = (_scaled(rise).clamp_min(0) * _scaled(fall).clamp_min(0)).masked_fill(~allowed, 0)
    value, index = saliency.max(dim=1, keepdim=True)
    return index, value[:, 0] > 0


def most_salient_pair(
    rise: torch.Tensor, fall: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair p < q of the largest (rise_p + rise_q) * (fall_p + fall_q), both sums positive.

    Exact, in memory O(R * N). The time is that of sorting, plus the square of the number of
    contenders, which is small unless rise and fall are opposed all but exactly.

    Args:
        rise: how steeply each pixel value raises the wanted logit, (R, N).
        fall: how steeply it lowers the others together, (R, N).
        allowed: which ones may be chosen, bool (R, N).

    Returns:
        Their indices, int64 (R, 2), and whether there is such a pair, bool (R,).
    """
    some = max(1, _AT_ONCE // rise.shape[1])
    parts = [
        _best_pair(*part)
        for part in zip(*(torch.split(v, some) for v in (rise, fall, allowed)), strict=True)
    ]
    return torch.cat([pair for pair, _ in parts]), torch.cat([found for _, found in parts])


def _best_pair(
    rise: torch.Tensor, fall: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rise, fall = _scaled(rise), _scaled(fall)
    contenders, there = _contenders(rise, fall, allowed)
    rise = rise.gather(1, contenders).masked_fill_(~there, -torch.inf)
    fall = fall.gather(1, contenders).masked_fill_(~there, 0)
    count, width = contenders.shape
    most = torch.zeros_like(rise[:, 0])
    pair = torch.zeros(count, 2, dtype=torch.int64, device=rise.device)
    place = torch.arange(width, device=rise.device)
    rows_of_pairs = max(1, _AT_ONCE // (count * width))
    for start in range(0, width - 1, rows_of_pairs):
        first, second = slice(start, start + rows_of_pairs), slice(start, None)
        saliency = (rise[:, first, None] + rise[:, None, second]).clamp_min_(0)
        saliency *= (fall[:, first, None] + fall[:, None, second]).clamp_min_(0)
        saliency.masked_fill_(place[second] <= place[first, None], 0)
        value, at = saliency.flatten(1).max(dim=1)
        # only what is larger replaces: of equals the first pair is kept, however they are cut
        better = value > most
        most = torch.where(better, value, most)
        found = torch.stack([at // (width - start), at % (width - start)], dim=1) + start
        pair = torch.where(better[:, None], found, pair)
    return contenders.gather(1, pair), most > 0


def _contenders(
    rise: torch.Tensor, fall: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values among which a best pair is, ascending, (R, M), and which entries count.

    In the order of falling rise (equals by fall, then by index) a pixel value is left out if two
    before it have at least its fall. That loses no maximum: if p of a best pair (p, q) is left
    out, one of those two is not q, and with it in place of p both sums are as large or larger.
    Each such exchange moves the pair to the front of the order, so that they end, with a best
    pair of which neither is left out.
    """
    rise, fall = (values.masked_fill(~allowed, -torch.inf) for values in (rise, fall))
    by_fall = fall.sort(dim=1, descending=True, stable=True).indices
    by_rise = rise.gather(1, by_fall).sort(dim=1, descending=True, stable=True).indices
    order = by_fall.gather(1, by_rise)
    fall = fall.gather(1, order)
    lowest = torch.full_like(fall[:, :1], -torch.inf)
    largest_before = torch.cat([lowest, fall.cummax(dim=1).values[:, :-1]], dim=1)
    # all but the largest lose once: when they come, or when a larger one does
    second = fall.minimum(largest_before).cummax(dim=1).values
    second_before = torch.cat([lowest, second[:, :-1]], dim=1)
    kept = torch.zeros_like(allowed).scatter_(1, order, fall > second_before)
    row, index = kept.nonzero(as_tuple=True)
    counts = kept.sum(dim=1)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    width = max(1, int(counts.max()))
    contenders = torch.zeros(len(kept), width, dtype=torch.int64, device=row.device)
    contenders[row, place] = index
    return contenders, torch.arange(width, device=row.device) < counts[:, None]


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Divided by the largest size in each row, so that no product underflows."""
    peak = values.abs().amax(dim=1, keepdim=True)
    return values / torch.where(peak > 0, peak, 1)
