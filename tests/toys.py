"""Small models whose answers are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from notsure.core.target import Response

Array = npt.NDArray[np.float64]


class LinearModel(nn.Module):
    """Logits w . x + b, float64."""

    def __init__(self, shape: tuple[int, int, int], num_logits: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = int(np.prod(shape))
        self.linear = nn.Linear(size, num_logits, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(num_logits, size, generator=generator))
            # decision boundaries pass through the middle of the box
            self.linear.bias.copy_(-self.linear.weight.sum(dim=1) * 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits


class SmallNetwork(nn.Module):
    """A little of everything that could remember an attack: BatchNorm, dropout, convolution."""

    def __init__(self, num_classes: int = 4, channels: int = 1, size: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4 * size * size, 8),
            nn.Tanh(),
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x))
        return logits


class Fenced(nn.Module):
    """A linear target that rejects whatever lies far from a plane, or everything."""

    stochastic = False
    differentiable = True
    rejects = True

    def __init__(
        self, shape: tuple[int, int, int] = (1, 2, 2), *, everything: bool = False
    ) -> None:
        super().__init__()
        self.model = LinearModel((shape[0], shape[1], shape[2]), 2, seed=5)
        self.everything = everything
        generator = torch.Generator().manual_seed(9)
        self.plane = torch.randn(int(np.prod(shape)), generator=generator, dtype=torch.float64)

    def respond(self, x: torch.Tensor) -> Response:
        return Response(self.logits(x), self.rejection(x))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)
        return logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        away = ((x.flatten(1) - 0.5) @ self.plane).abs()
        return away * 0 + 1 if self.everything else away * 4 - 1


def small_network(seed: int, *, num_classes: int = 4, gain: float = 4.0) -> SmallNetwork:
    """A random network in float64 whose decisions can be changed within the box."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        network = SmallNetwork(num_classes).double()
    with torch.no_grad():
        network.head.weight.mul_(gain)
    return network.eval()


def weights_of(model: LinearModel) -> tuple[Array, Array]:
    """Two or more rows of weights, whatever the number of logits."""
    weight = model.linear.weight.detach().numpy()
    bias = model.linear.bias.detach().numpy()
    if len(weight) == 1:
        return np.vstack([0 * weight, weight]), np.array([0.0, bias[0]])
    return weight, bias


def optimal_distance(
    model: LinearModel, x: torch.Tensor, y: int, norm: str, target: int | None
) -> float:
    """The exact distance in [0,1] from image `x` to the nearest point of a wanted decision."""
    weight, bias = weights_of(model)
    flat = x.detach().double().flatten().numpy()
    wanted = [target] if target is not None else [c for c in range(len(weight)) if c != y]
    return min(_distance_to(weight, bias, flat, c, norm) for c in wanted if c is not None)


def _distance_to(weight: Array, bias: Array, x: Array, wanted: int, norm: str) -> float:
    """Minimise |d| subject to z_i(x + d) <= z_wanted(x + d) for all i and x + d in [0,1]."""
    others = [i for i in range(len(weight)) if i != wanted]
    rows = weight[others] - weight[wanted]
    limits = -(rows @ x + bias[others] - bias[wanted])
    size = len(x)
    box = list(zip(-x, 1 - x, strict=True))
    if norm == "linf":
        # variables d and one bound t on all of |d|
        eye, one = np.eye(size), np.ones((size, 1))
        upper = np.block([[rows, np.zeros((len(rows), 1))], [eye, -one], [-eye, -one]])
        solution = linprog(
            np.r_[np.zeros(size), 1.0],
            A_ub=upper,
            b_ub=np.r_[limits, np.zeros(2 * size)],
            bounds=[*box, (0, None)],
        )
        return float(solution.fun) if solution.success else np.inf
    if norm == "l1":
        # d = p - n, both at least 0
        solution = linprog(
            np.ones(2 * size),
            A_ub=np.hstack([rows, -rows]),
            b_ub=limits,
            bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
        )
        return float(solution.fun) if solution.success else np.inf
    best = np.inf
    for start in (np.zeros(size), np.clip(np.linalg.pinv(rows) @ limits, -x, 1 - x)):
        solution = minimize(
            lambda d: float(d @ d),
            start,
            jac=lambda d: 2 * d,
            bounds=box,
            constraints={
                "type": "ineq",
                "fun": lambda d: limits - rows @ d,
                "jac": lambda _: -rows,
            },
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        if solution.success:
            best = min(best, float(np.linalg.norm(solution.x)))
    return best


def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random images in the middle of the box, float64."""
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(count, *shape, generator=generator, dtype=torch.float64)
