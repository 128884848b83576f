"""The training loop: resumable to the bit, safe to interrupt, one process or many."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import notsure
from notsure.classifier import Classifier
from notsure.core.checks import check_images, check_labels
from notsure.core.errors import CheckpointError, ConfigurationError, NotSureError
from notsure.core.hardware import gains_from_bf16
from notsure.core.progress import progress_bar
from notsure.core.state import derived_seed, seeded, tensors_hash
from notsure.core.storage import load_tensors, save_tensors, writable_folder
from notsure.data import Images
from notsure.models import architecture_of
from notsure.training.objectives import CrossEntropy, TrainingObjective
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_SECONDS = 60.0
"""A checkpoint is written at least this often, and at the end of every epoch."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set, as it went."""

    number: int
    loss: float
    accuracy: float
    seconds: float


@dataclass
class History:
    """How a training went, epoch by epoch."""

    epochs: list[Epoch] = field(default_factory=list)


def train(
    classifier: Classifier,
    data: Images | tuple[torch.Tensor, torch.Tensor],
    *,
    objective: TrainingObjective | None = None,
    recipe: Recipe | None = None,
    checkpoint: str | Path | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> History:
    """Trains a classifier in place and leaves it in evaluation mode.

    Interrupting it (Ctrl-C) finishes the step, writes the checkpoint and raises KeyboardInterrupt;
    a second interrupt stops at once, and the checkpoint of before stays whole. Called again with
    the same arguments it goes on where the checkpoint left off, and its result is the same to the
    bit as that of an uninterrupted run on the same machine.

    Args:
        classifier: the network to train, with its preprocessing.
        data: the training images, or tensors (N, C, H, W) in [0,1] and (N,).
        objective: what is minimised, cross-entropy by default.
        recipe: optimizer, schedule and so on.
        checkpoint: a safetensors file to write and to resume from; None for none.
        accelerator: an `accelerate.Accelerator`, to train on several devices or hosts: each
            process takes its share of every batch. BatchNorm statistics are each process's own.
        progress: whether to show a progress bar.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        ConfigurationError: the objective does not go with the classifier's `reverse_logits`.
        InputError: the images or labels are not what they have to be.
        CheckpointError: the checkpoint is damaged, or belongs to another training.
        NotSureError: the loss is not finite any more.
    """
    objective = objective or CrossEntropy()
    recipe = recipe or Recipe()
    if objective.reverse_logits != classifier.reverse_logits:
        raise ConfigurationError(
            f"{type(objective).__name__} needs a classifier built with reverse_logits="
            f"{objective.reverse_logits}; this one has reverse_logits={classifier.reverse_logits}."
        )
    run = _Run(classifier, data, objective, recipe, checkpoint, accelerator)
    with run.layout():
        return run.go(shown=progress)


class _Run:
    """The state of one training."""

    def __init__(
        self,
        classifier: Classifier,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        objective: TrainingObjective,
        recipe: Recipe,
        checkpoint: str | Path | None,
        accelerator: Accelerator | None,
    ) -> None:
        self.classifier, self.objective, self.recipe = classifier, objective, recipe
        self.pixels, self.labels = _tensors(data, classifier)
        self.device = classifier.device if accelerator is None else accelerator.device
        self.accelerator = accelerator
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.world = 1 if accelerator is None else accelerator.num_processes
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None:
            writable_folder(self.checkpoint.parent)
        self.history = History()
        self.step = 0
        self.loss_sum = self.right = self.seen = 0.0
        # a last batch too small to be shared out (or to normalise over) is left out
        sizes = len(self.labels)
        self.steps_per_epoch = -(-sizes // recipe.batch_size)
        if sizes % recipe.batch_size in range(1, max(2, self.world)) and self.steps_per_epoch > 1:
            self.steps_per_epoch -= 1
        self.total = self.steps_per_epoch * recipe.epochs
        self.identity = self._identity()

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint has to agree with to be continued."""
        architecture = architecture_of(self.classifier.module)
        return {
            "objective": f"{type(self.objective).__name__}{asdict(self.objective)}",
            "recipe": json.dumps(asdict(self.recipe), sort_keys=True),
            "images": tensors_hash({"pixels": self.pixels, "labels": self.labels}),
            "network": type(self.classifier.module).__name__
            if architecture is None
            else json.dumps(asdict(architecture), sort_keys=True),
            "preprocessing": json.dumps(self.classifier.settings(), sort_keys=True),
            "processes": self.world,
        }

    @contextmanager
    def layout(self) -> Iterator[None]:
        """Training mode inside, evaluation mode after; convolutions run faster channels-last."""
        self.classifier.to(self.device)
        self.classifier.module.to(memory_format=torch.channels_last)
        self.classifier.train()
        try:
            yield
        finally:
            self.classifier.eval()

    def go(self, *, shown: bool) -> History:
        """Runs, or goes on with, the training."""
        optimizer = self.recipe.make_optimizer(self.classifier.parameters())
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(optimizer)
        network: nn.Module = self.classifier
        if self.accelerator is not None:
            network, optimizer = self.accelerator.prepare(network, optimizer)
        precision = self.recipe.precision
        bf16 = precision == "bf16" or (precision == "auto" and gains_from_bf16(self.device))
        saved_at = started = time.monotonic()
        name = type(self.objective).__name__
        with (
            _Interruption() as interruption,
            progress_bar(
                f"training ({name})",
                self.total,
                start=self.step,
                shown=shown and self.rank == 0,
            ) as advance,
        ):
            while self.step < self.total:
                epoch, position = divmod(self.step, self.steps_per_epoch)
                if position == 0:
                    started, self.loss_sum, self.right, self.seen = time.monotonic(), 0.0, 0.0, 0.0
                self._one_step(network, optimizer, epoch, position, bf16=bf16)
                self.step += 1
                ended = self.step % self.steps_per_epoch == 0
                if ended:
                    self._close_epoch(epoch, time.monotonic() - started)
                advance(1, f"loss {self.loss_sum / max(self.seen, 1):.4f}")
                overdue = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if ended or overdue or interruption.asked:
                    self._save(optimizer)
                    saved_at = time.monotonic()
                if interruption.asked:
                    raise KeyboardInterrupt
        return self.history

    def _one_step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: int,
        position: int,
        *,
        bf16: bool,
    ) -> None:
        recipe = self.recipe
        order_generator = torch.Generator().manual_seed(derived_seed(recipe.seed, "order", epoch))
        order = torch.randperm(len(self.labels), generator=order_generator)
        batch = order[position * recipe.batch_size :][: recipe.batch_size]
        mine = batch[self.rank :: self.world]
        x = self.pixels[mine].to(self.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        y = self.labels[mine].to(self.device)
        step_seed = derived_seed(recipe.seed, "step", self.step, self.rank)
        x = recipe.augmentation(x, torch.Generator().manual_seed(step_seed))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(self.step / self.total)
        with seeded(step_seed, self.device):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                logits = network(x.contiguous(memory_format=torch.channels_last))
            logits = logits.float()
            # the processes' gradients are averaged, so that this sums to the batch's mean
            loss = self.objective(logits, y).sum() * (self.world / len(batch))
            optimizer.zero_grad(set_to_none=True)
            if self.accelerator is None:
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                self.accelerator.backward(loss)
        value = loss.item()
        if not torch.isfinite(loss.detach()):
            raise NotSureError(
                f"The loss became {value} at step {self.step} of {self.total}: lower the learning "
                f"rate (now {recipe.learning_rate}). The last checkpoint is untouched."
            )
        optimizer.step()
        self.loss_sum += value * len(batch) / self.world
        self.right += float((logits.argmax(dim=1) == y).sum())
        self.seen += len(mine)

    def _close_epoch(self, epoch: int, seconds: float) -> None:
        self.history.epochs.append(
            Epoch(
                number=epoch + 1,
                loss=self.loss_sum / self.seen,
                accuracy=self.right / self.seen,
                seconds=seconds,
            )
        )

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        if self.checkpoint is None or self.rank != 0:
            return
        tensors = {
            f"module.{name}": value for name, value in self.classifier.module.state_dict().items()
        }
        state = optimizer.state_dict()["state"]
        scalars: dict[str, Any] = {}
        for index, entries in state.items():
            for name, value in entries.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    scalars[f"{index}.{name}"] = value
        note = {
            "kind": "training",
            "version": notsure.__version__,
            "identity": self.identity,
            "step": self.step,
            "sums": [self.loss_sum, self.right, self.seen],
            "history": [asdict(epoch) for epoch in self.history.epochs],
            "optimizer": scalars,
        }
        save_tensors(self.checkpoint, tensors, note=note)

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        path = self.checkpoint
        if path is None:
            return
        tensors, note = load_tensors(path)
        if note.get("kind") != "training":
            raise CheckpointError(f"{str(path)!r} is no training checkpoint: give another path.")
        differs = [key for key in self.identity if note["identity"].get(key) != self.identity[key]]
        if differs:
            told = "; ".join(
                f"{key}: there {note['identity'].get(key)}, here {self.identity[key]}"
                for key in differs
            )
            raise CheckpointError(
                f"{str(path)!r} belongs to another training ({told}). Remove it or give another "
                "path."
            )
        module = {
            name.removeprefix("module."): value
            for name, value in tensors.items()
            if name.startswith("module.")
        }
        try:
            self.classifier.module.load_state_dict(module)
        except RuntimeError as error:
            raise CheckpointError(f"{str(path)!r} does not fit the network: {error}") from error
        state: dict[int, dict[str, Any]] = {}
        for name, value in (*tensors.items(), *_prefixed(note["optimizer"])):
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.step = int(note["step"])
        self.loss_sum, self.right, self.seen = note["sums"]
        self.history = History([Epoch(**epoch) for epoch in note["history"]])


def _prefixed(scalars: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"optimizer.{name}", value) for name, value in scalars.items()]


def _tensors(
    data: Images | tuple[torch.Tensor, torch.Tensor], classifier: Classifier
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(data, Images):
        check_images(data.pixels[:1].float() / 255, channels=classifier.channels)
        return data.pixels, data.labels
    x, y = data
    check_images(x, channels=classifier.channels)
    return x.detach(), check_labels(y, count=len(x))


class _Interruption:
    """Turns the first Ctrl-C into a request, so that a step is never cut in two."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interruption:
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
