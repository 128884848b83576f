"""Where a substitute is from: a network taught by nothing but a target's answers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure import models
from notsure.classifier import Classifier, as_target
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, InputError, NotSureError
from notsure.core.progress import progress_bar
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import derived_seed, detached_work
from notsure.core.target import Access, Response, Target, access_of
from notsure.views import checked_images


@dataclass(frozen=True, eq=False)
class Distilled:
    """A substitute that was taught by a target's answers.

    Attributes:
        classifier: the substitute, in evaluation mode.
        queries: how many images the target was asked about.
        unanswered: how many of these taught nothing since the target was NOT SURE.
        agreement: the share of held-out images on which target and substitute agree, in [0,1].
        history: the mean training loss of each epoch.
    """

    classifier: Classifier
    queries: int
    unanswered: int
    agreement: float
    history: tuple[float, ...]


def distill(
    target: Target | nn.Module,
    x: torch.Tensor,
    *,
    student: nn.Module | str | None = None,
    epochs: int = 20,
    rounds: int = 0,
    step: float = 0.1,
    temperature: float = 1.0,
    held_out: float = 0.1,
    seed: int = 0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    progress: bool = False,
) -> Distilled:
    """Trains a substitute on nothing but a target's answers.

    Hinton et al. 2015 where the target shows scores: the Kullback-Leibler divergence from the
    target's probabilities, both at the temperature; answers that the target does not stand by teach
    as well, since their scores are shown. Papernot et al. 2017 where it shows decisions alone:
    cross-entropy of the labels; images on which it is NOT SURE are left out. To learn from the
    labels of a target that shows more, give `DecisionsOnly(target)`.

    Each round of Papernot's augmentation doubles the training images: each image moves by `step`
    along the sign of the gradient of the substitute's probability of the target's label, and the
    target is asked about the new ones. Training goes on from the weights of the round before.
    Deviations: AdamW with a cosine schedule in each round; no periodic sign of the step and no
    reservoir of images.

    Costs: one query for each image and each augmented one, len(x) in all without rounds; a
    stochastic target is asked once about each. The same seed gives the same weights on the same
    machine; target, student and the global random state are left as they were.

    Args:
        target: whom to imitate: a Classifier, a Guard, a view of one, or a bare module.
        x: images (N, C, H, W) in [0,1] to ask about; no labels are needed.
        student: the network to teach, which is copied: a Classifier, or a module on images in
            [0,1]; or the name of one of `models.names()`. By default a small convolutional network
            that suits the size of the images.
        epochs: passes over the training images, in each round.
        rounds: how often the images are augmented; 0 for never.
        step: how far an augmented image moves, in [0,1] pixel units.
        temperature: of the probabilities; only for targets that show scores.
        held_out: the share of `x` on which the agreement is measured and nothing is learnt, in
            (0, 1).
        seed: of the initial weights, what is held out, and the order of the images.
        batch_size: images a step.
        learning_rate: the highest of the schedule.
        progress: whether to show a progress bar.

    Returns:
        The substitute, what it has cost and how well it imitates.

    Raises:
        ConfigurationError: a setting is out of range, or the student has another number of classes.
        InputError: the images are not what they have to be, or too few of them were answered.
        NotSureError: the loss is not finite any more.
    """
    _check_settings(epochs, rounds, step, temperature, held_out, batch_size, learning_rate)
    target = as_target(target)
    teacher = _Teacher(target, temperature, batch_size, seed)
    with detached_work(target, derived_seed(seed, "distill"), x.device):
        x = checked_images(target, x).clamp(0, 1)
        held, taught = _held_out(len(x), held_out, seed)
        if len(taught) < 2:
            raise InputError(f"{len(x)} images are too few to learn from and to check on.")
        check_x, check_wanted = teacher.teach(x[held])
        x, wanted = teacher.teach(x[taught])
        if len(x) < 2 or len(check_x) < 1:
            raise InputError(
                f"The target is NOT SURE about {teacher.unanswered} of {teacher.queries} images, "
                "which leaves too few to learn from: give more images, or some that it answers."
            )
        pupil = _Pupil(_student(student, x, wanted.shape[1]), temperature, seed, batch_size)
        total = epochs * (rounds + 1)
        with progress_bar("distilling", total, shown=progress) as advance:
            for round_ in range(rounds + 1):
                if round_ > 0:
                    new_x, new_wanted = teacher.teach(pupil.augmented(x, wanted, step))
                    x, wanted = torch.cat([x, new_x]), torch.cat([wanted, new_wanted])
                for loss in pupil.train(x, wanted, epochs, learning_rate):
                    advance(1, f"loss {loss:.4f}")
        agree = pupil.predictions(check_x) == check_wanted.argmax(dim=1)
    return Distilled(
        classifier=pupil.classifier,
        queries=teacher.queries,
        unanswered=teacher.unanswered,
        agreement=float(agree.double().mean()),
        history=tuple(pupil.history),
    )


def _check_settings(
    epochs: int,
    rounds: int,
    step: float,
    temperature: float,
    held_out: float,
    batch_size: int,
    learning_rate: float,
) -> None:
    if epochs < 1 or rounds < 0 or batch_size < 2:
        raise ConfigurationError(
            f"epochs has to be >= 1, rounds >= 0 and batch_size >= 2; got epochs={epochs}, "
            f"rounds={rounds}, batch_size={batch_size}."
        )
    if not (0 < step <= 1 and temperature > 0 and learning_rate > 0):
        raise ConfigurationError(
            "step has to be in (0, 1], temperature and learning_rate > 0; got "
            f"step={step}, temperature={temperature}, learning_rate={learning_rate}."
        )
    if not 0 < held_out < 1:
        raise ConfigurationError(f"held_out is a share of the images, in (0, 1); got {held_out}.")


def _held_out(count: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images are checked on and which are learnt from."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "held out"))
    order = torch.randperm(count, generator=generator)
    size = max(1, round(share * count))
    return order[:size], order[size:]


@dataclass(eq=False)
class _Teacher:
    """The target as the one who is asked, and how often it was."""

    target: Target
    temperature: float
    batch_size: int
    seed: int
    queries: int = 0
    unanswered: int = 0

    def __post_init__(self) -> None:
        self.shows_scores = access_of(self.target) >= Access.SCORES
        if self.temperature != 1 and not self.shows_scores:
            raise ConfigurationError(
                f"temperature={self.temperature} softens scores, and this target shows decisions "
                "only: leave it out."
            )

    def teach(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (M, C, H, W) that were answered, and the class probabilities (M, K)."""
        images, wanted = [], []
        for batch in torch.split(x, self.batch_size):
            response = self._answer(batch)
            self.queries += len(batch)
            if self.shows_scores:
                answered = torch.ones_like(response.accepted)
                probabilities = (response.logits / self.temperature).softmax(dim=1)
            else:
                answered = response.accepted
                probabilities = F.one_hot(response.prediction, response.logits.shape[1])
            self.unanswered += int((~answered).sum())
            images.append(batch[answered])
            wanted.append(probabilities[answered].to(x.dtype))
        return torch.cat(images), torch.cat(wanted)

    def _answer(self, batch: torch.Tensor) -> Response:
        if not self.target.stochastic:
            return self.target.respond(batch)
        # what a stochastic target says of an image is the same whichever batch it is in
        with drawing_from(Streams.of(content_keys(batch), self.seed)):
            return self.target.respond(batch)


def _student(given: nn.Module | str | None, x: torch.Tensor, num_classes: int) -> Classifier:
    """The substitute before it has learnt anything."""
    channels, height, width = x.shape[1:]
    if isinstance(given, nn.Module):
        copied = copy.deepcopy(given)
        student = copied if isinstance(copied, Classifier) else Classifier(copied)
    else:
        if height != width:
            raise ConfigurationError(
                f"The registered architectures take square images, these are {height}x{width}: "
                "give the student as a module."
            )
        name = given or _suitable(height)
        module = models.build(name, num_classes=num_classes, in_channels=channels, size=height)
        student = Classifier(module, mean=0.5, std=0.5)
    student = student.to(device=x.device, dtype=x.dtype).eval()
    logits = student.logits(student.check(x[:2]))
    if logits.shape[1] != num_classes:
        raise ConfigurationError(
            f"The student tells {logits.shape[1]} classes apart, the target {num_classes}: give it "
            f"{num_classes} logits."
        )
    return student


def _suitable(size: int) -> str:
    """The architecture for images of this size: dense layers would outgrow large ones."""
    if size < 16:
        return "digits_cnn"
    return "martin_cnn" if size <= 64 else "resnet32"


@dataclass(eq=False)
class _Pupil:
    """The substitute while it learns."""

    classifier: Classifier
    temperature: float
    seed: int
    batch_size: int
    history: list[float] = field(default_factory=list)

    def train(
        self, x: torch.Tensor, wanted: torch.Tensor, epochs: int, learning_rate: float
    ) -> Iterator[float]:
        """Learns the probabilities (N, K) of images (N, C, H, W); yields each epoch's loss."""
        optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=learning_rate)
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
            loss = self._epoch(optimizer, x, wanted)
            self.history.append(loss)
            yield loss

    def _epoch(
        self, optimizer: torch.optim.Optimizer, x: torch.Tensor, wanted: torch.Tensor
    ) -> float:
        number = derived_seed(self.seed, "order", len(self.history))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))
        total, seen = 0.0, 0
        self.classifier.train()
        for rows in torch.split(order, self.batch_size):
            if len(rows) == 1:
                continue  # batch normalisation cannot learn from a single image
            with torch.enable_grad():
                log_probabilities = self._log_probabilities(x[rows])
                loss = F.kl_div(log_probabilities, wanted[rows], reduction="batchmean")
                # Hinton's factor keeps the gradients' size whatever the temperature
                loss = loss * self.temperature**2
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, seen = total + loss.item() * len(rows), seen + len(rows)
        optimizer.zero_grad(set_to_none=True)
        self.classifier.eval()
        if not math.isfinite(total):
            raise NotSureError(
                f"The loss became {total} in epoch {len(self.history) + 1}: lower the learning "
                "rate."
            )
        return total / seen

    def _log_probabilities(self, x: torch.Tensor) -> torch.Tensor:
        return (self.classifier.logits(x) / self.temperature).log_softmax(dim=1)

    def augmented(self, x: torch.Tensor, wanted: torch.Tensor, step: float) -> torch.Tensor:
        """Each image moved to where its label seems more likely, (N, C, H, W)."""
        moved = []
        batches = torch.split(x, self.batch_size), torch.split(wanted, self.batch_size)
        for images, answers in zip(*batches, strict=True):
            variable = images.clone().requires_grad_()
            with torch.enable_grad():
                # the logarithm has the probability's sign, and does not underflow
                logarithms = self.classifier.logits(variable).log_softmax(dim=1)
                own = logarithms.gather(1, answers.argmax(dim=1)[:, None])
                (gradient,) = torch.autograd.grad(own.sum(), variable)
            moved.append((images + step * gradient.sign()).clamp(0, 1))
        return torch.cat(moved)

    def predictions(self, x: torch.Tensor) -> torch.Tensor:
        """The labels it gives, int64 (N,)."""
        batches = torch.split(x, self.batch_size)
        parts = [self.classifier.logits(batch).argmax(dim=1) for batch in batches]
        return torch.cat(parts)
