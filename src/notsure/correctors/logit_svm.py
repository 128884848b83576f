"""A support-vector machine that reads the true label off the logits of an adversarial example."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from notsure.core.errors import ConfigurationError, InputError
from notsure.correctors.base import Corrector
from notsure.observation import Observation

if TYPE_CHECKING:
    from sklearn.svm import SVC

Kernel = Literal["rbf", "linear"]


class LogitSVM(Corrector):
    """A support-vector machine on the logits, trained on adversarial ones and true labels.

    martin 9.3: an attack on the training images shows how logits of each class look once they have
    been manipulated, and what the detectors flag is labelled by what was learnt from these (the
    report's attack is FGSM: `guard.fit(x, y, attack=FGSM(eps=0.3))`). scikit-learn's SVC solves
    for the support vectors; scores are computed in torch from those, as SVC's
    `decision_function_shape="ovr"` does: a class's votes in the decisions of one class against
    another, and less than half a vote for by how much these were won. The label is SVC's, equal
    numbers of votes being decided by the scores (`break_ties=True`) and not by the class number.

    It corrects what resembles its examples: logits under an attack of another strength may look
    quite different, so that eps should be near what is expected.

    A score's derivative is that of the latter share; votes change by jumps.

    Deviations: the report says nothing of the kernel, its settings, or a standardisation of the
    logits; here each logit is standardised by the examples' mean and deviation. The examples are
    those that fooled the classifier, and were right before.

    Args:
        kernel: "rbf", exp(-gamma |z - z'|^2), or "linear", z . z'.
        C: what a training example on the wrong side costs, > 0.
        gamma: of "rbf", > 0, in units of standardised logits; None is 1/K, scikit-learn's "scale".
        limit: at most so many examples of each class, spread evenly over the order in which they
            came; None keeps all.

    Raises:
        ConfigurationError: a setting is out of range, or gamma was given to a linear kernel.
    """

    paper = "martin 9.3"
    fit_cost = "the attack, 2 F an example, and a quadratic program for each two classes"
    query_cost = "distances to the support vectors"

    centre: torch.Tensor
    scale: torch.Tensor
    vectors: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor

    def __init__(
        self,
        *,
        kernel: Kernel = "rbf",
        C: float = 1.0,  # noqa: N803  (the field's name for it)
        gamma: float | None = None,
        limit: int | None = 500,
    ) -> None:
        super().__init__()
        if kernel not in get_args(Kernel):
            raise ConfigurationError(f"kernel is {' or '.join(get_args(Kernel))}; got {kernel!r}.")
        for name, value in (("C", C), ("gamma", gamma)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(f"{name} has to be > 0 and finite; got {value!r}.")
        if gamma is not None and kernel != "rbf":
            raise ConfigurationError(f"gamma belongs to the kernel 'rbf', not to {kernel!r}.")
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit is a number of examples, at least 1; got {limit!r}.")
        self.kernel: Kernel = kernel
        self.C, self.gamma, self.limit = C, gamma, limit
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        for name in ("centre", "scale", "offsets"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))
        for name in ("vectors", "weights"):
            self.register_buffer(name, torch.empty(0, 0, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has support vectors."""
        return len(self.vectors) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"kernel": self.kernel, "C": self.C, "gamma": self.gamma, "limit": self.limit}

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._logits, self._labels = [], []

    def learn(
        self, clean: Observation, attacked: Observation, y: torch.Tensor, success: torch.Tensor
    ) -> None:
        """Takes in the logits of the examples that succeeded."""
        fooled = success & (clean.prediction == y)
        self._logits.append(attacked.logits[fooled].detach().double())
        self._labels.append(y[fooled])

    def finish_learning(self, num_classes: int) -> None:
        """Solves for the support vectors.

        Raises:
            InputError: a class has no successful example.
        """
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        self._logits, self._labels = [], []
        rows = torch.cat(
            [self._taken(labels, number, num_classes) for number in range(num_classes)]
        )
        logits, labels = logits[rows], labels[rows]
        self.centre = logits.mean(dim=0)
        deviation = logits.std(dim=0, correction=0)
        # a logit that never changes (the 0 beside a single logit) tells nothing
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        machine = self.machine(num_classes)
        standardised = (logits - self.centre) / self.scale
        machine.fit(standardised.cpu().numpy(), labels.cpu().numpy())
        vectors, weights, offsets = _one_against_one(machine)
        self.vectors, self.weights = vectors.to(logits), weights.to(logits)
        self.offsets = offsets.to(logits)

    def _taken(self, labels: torch.Tensor, number: int, num_classes: int) -> torch.Tensor:
        """Which examples of a class are learnt from."""
        rows = (labels == number).nonzero().flatten()
        if len(rows) == 0:
            counts = torch.bincount(labels, minlength=num_classes)
            missing = ", ".join(map(str, (counts == 0).nonzero().flatten().tolist()))
            raise InputError(
                f"LogitSVM learns from successful adversarial examples of every class, and of "
                f"{len(labels)} there is none whose true class is {missing} (of {num_classes}). "
                "Take a stronger attack (a larger eps), more images (examples=...), or training "
                "data in which each class occurs."
            )
        if self.limit is not None and len(rows) > self.limit:
            spread = torch.linspace(0, len(rows) - 1, self.limit).round().long()
            rows = rows[spread.to(rows.device)]
        return rows

    def machine(self, num_classes: int) -> SVC:
        """scikit-learn's machine with these settings, not fitted."""
        from sklearn.svm import SVC

        gamma = 1 / num_classes if self.gamma is None else self.gamma
        return SVC(kernel=self.kernel, C=self.C, gamma=gamma, break_ties=True)

    def correct(self, observation: Observation) -> torch.Tensor:
        """Votes for each class, and less than half of one by how much they were won, (B, K).

        Raises:
            NotFittedError: it has learnt nothing yet.
        """
        self.require_fitted()
        return votes_of(self.decisions(observation.logits), observation.logits.shape[1])

    def decisions(self, logits: torch.Tensor) -> torch.Tensor:
        """The decisions of one class against another, (B, K(K-1)/2), from logits (B, K).

        In the order (0, 1), (0, 2), ... (K-2, K-1); positive is for the first of the two.
        """
        dtype = logits.dtype
        z = (logits - self.centre.to(dtype)) / self.scale.to(dtype)
        vectors = self.vectors.to(dtype)
        similarity = z @ vectors.T
        if self.kernel == "rbf":
            gamma = 1 / logits.shape[1] if self.gamma is None else self.gamma
            sizes = z.square().sum(dim=1)[:, None] + vectors.square().sum(dim=1)
            similarity = torch.exp(-gamma * (sizes - 2 * similarity).clamp_min(0))
        return similarity @ self.weights.to(dtype) + self.offsets.to(dtype)


def pairs(num_classes: int) -> torch.Tensor:
    """The pairs of classes i < j, int64 (2, K(K-1)/2), in the order of scikit-learn."""
    return torch.triu_indices(num_classes, num_classes, offset=1)


def votes_of(decisions: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The score of each class, (B, K), from the decisions between two of them, (B, K(K-1)/2).

    The number of decisions won, plus s / (3 (|s| + 1)), s the sum of the decisions in the class's
    favour: scikit-learn's, so that s never outweighs a vote.
    """
    first, second = pairs(num_classes).to(decisions.device)
    favour = torch.zeros(
        decisions.shape[1], num_classes, dtype=decisions.dtype, device=decisions.device
    )
    number = torch.arange(decisions.shape[1], device=decisions.device)
    favour[number, first] = 1
    favour[number, second] = -1
    total = decisions @ favour
    # of a decision of exactly 0 the first class has the vote
    won = torch.where(decisions < 0, -1.0, 1.0).to(decisions.dtype)
    votes = (won @ favour + (num_classes - 1)) / 2
    return votes + total / (3 * (total.abs() + 1))


def _one_against_one(machine: SVC) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support vectors (N, K), their weight in each pair's decision (N, P), and offsets (P,).

    libsvm keeps, for a vector of class c, its K-1 weights against the other classes in order.
    """
    counts = torch.as_tensor(machine.n_support_).long()
    num_classes = len(counts)
    dual = torch.as_tensor(machine.dual_coef_).double()
    offsets = torch.as_tensor(machine.intercept_).double()
    if num_classes == 2:
        # scikit-learn turns the sign of the only decision, so that it is for the second class
        dual, offsets = -dual, -offsets
    own = torch.repeat_interleave(torch.arange(num_classes), counts)
    weights = torch.zeros(len(own), len(offsets), dtype=torch.float64)
    for number, (i, j) in enumerate(pairs(num_classes).T.tolist()):
        weights[own == i, number] = dual[j - 1, own == i]
        weights[own == j, number] = dual[i, own == j]
    return torch.as_tensor(machine.support_vectors_).double(), weights, offsets
