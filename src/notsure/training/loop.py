"""The loop behind every training: resumable to the bit, safe to interrupt, one process or many."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import notsure
from notsure.core.checks import check_images, check_labels
from notsure.core.errors import CheckpointError, NotSureError
from notsure.core.hardware import gains_from_bf16
from notsure.core.progress import progress_bar
from notsure.core.state import derived_seed, seeded, tensors_hash
from notsure.core.stopping import reason_to_stop
from notsure.core.storage import load_tensors, save_tensors, writable_folder
from notsure.data import Images
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_SECONDS = 60.0
"""A checkpoint is written at least this often, and at the end of every epoch."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set, as it went.

    Attributes:
        number: from 1.
        loss: the mean over the images.
        accuracy: the share of images that the network got right as it saw them; NaN where nothing
            is classified.
        seconds: how long it took.
    """

    number: int
    loss: float
    accuracy: float
    seconds: float


@dataclass
class History:
    """How a training went, epoch by epoch.

    Attributes:
        epochs: one entry each, in their order.
    """

    epochs: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a training, as its loss sees it.

    Attributes:
        network: what is trained, as it has to be called (an accelerator may have wrapped it).
        x: the images (B, C, H, W) in [0,1], augmented, channels-last.
        y: their labels (B,).
        seed: of whatever is random in it.
        bf16: whether the network is to be run in bfloat16.
    """

    network: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    seed: int
    bf16: bool

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The network's answer to images, in the recipe's precision, as float32 (or as `x`)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            answer = self.network(x.contiguous(memory_format=torch.channels_last))
        in_full: torch.Tensor = answer.to(x.dtype)
        return in_full


Loss = Callable[[Step], tuple[torch.Tensor, float]]
"""The loss of each image of a step, (B,), and how many of them the network got right."""


class Loop:
    """One training: what is trained, on what, towards what.

    Args:
        network: what is trained, in place.
        state: whose state a checkpoint keeps: the network itself, or the part of it that learns.
        data: images, or tensors (N, C, H, W) in [0,1] and (N,).
        channels: how many the images have to have; None for any number.
        loss: what is minimised.
        name: of what is trained towards, for the progress bar.
        recipe: optimizer, schedule and so on.
        identity: what a checkpoint has to agree with to be continued, besides recipe and data.
        checkpoint: a safetensors file to write and to resume from; None for none.
        accelerator: an `accelerate.Accelerator`, to train on several devices or hosts.
    """

    def __init__(
        self,
        network: nn.Module,
        state: nn.Module,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        *,
        channels: int | None,
        loss: Loss,
        name: str,
        recipe: Recipe,
        identity: dict[str, str],
        checkpoint: str | Path | None,
        accelerator: Accelerator | None,
    ) -> None:
        self.network, self.state, self.loss, self.name = network, state, loss, name
        self.recipe = recipe
        self.pixels, self.labels = _tensors(data, channels)
        here = next(state.parameters()).device
        self.device = here if accelerator is None else accelerator.device
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
        self.identity: dict[str, Any] = {
            **identity,
            "recipe": json.dumps(asdict(recipe), sort_keys=True),
            "images": tensors_hash({"pixels": self.pixels, "labels": self.labels}),
            "processes": self.world,
        }

    def run(self, *, shown: bool) -> History:
        """Runs, or goes on with, the training; leaves the network in evaluation mode.

        Raises:
            CheckpointError: the checkpoint is damaged, or belongs to another training.
            NotSureError: the loss is not finite any more.
            KeyboardInterrupt: it was interrupted; the checkpoint is written.
            Exception: whatever `notsure.core.stopping` stops it with; the checkpoint is written.
        """
        with self._layout():
            return self._go(shown=shown)

    @contextmanager
    def _layout(self) -> Iterator[None]:
        """Training mode inside, evaluation mode after; convolutions run faster channels-last."""
        self.network.to(self.device)
        self.state.to(memory_format=torch.channels_last)
        self.network.train()
        try:
            yield
        finally:
            self.network.eval()

    def _go(self, *, shown: bool) -> History:
        optimizer = self.recipe.make_optimizer(self.network.parameters())
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(optimizer)
        network = self.network
        if self.accelerator is not None:
            network, optimizer = self.accelerator.prepare(network, optimizer)
        precision = self.recipe.precision
        bf16 = precision == "bf16" or (precision == "auto" and gains_from_bf16(self.device))
        saved_at = started = time.monotonic()
        with (
            _Interruption() as interruption,
            progress_bar(
                f"training ({self.name})",
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
                reason = self._reason_to_stop()
                if ended or overdue or interruption.asked or reason is not None:
                    self._save(optimizer)
                    saved_at = time.monotonic()
                if interruption.asked:
                    raise KeyboardInterrupt
                if reason is not None:
                    raise reason
        return self.history

    def _reason_to_stop(self) -> Exception | None:
        """The error to stop with; None without a checkpoint, or once the last step is done."""
        return None if self.checkpoint is None or self.step == self.total else reason_to_stop()

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
        x = x.contiguous(memory_format=torch.channels_last)
        with seeded(step_seed, self.device):
            losses, right = self.loss(Step(network, x, y, step_seed, bf16))
            # the processes' gradients are averaged, so that this sums to the batch's mean
            loss = losses.sum() * (self.world / len(batch))
            optimizer.zero_grad(set_to_none=True)
            # a network that takes part without being trained gets no gradients
            learning = [p for p in network.parameters() if p.requires_grad]
            if self.accelerator is None:
                loss.backward(inputs=learning)  # type: ignore[no-untyped-call]
            else:
                self.accelerator.backward(loss, inputs=learning)
        value = loss.item()
        if not torch.isfinite(loss.detach()):
            raise NotSureError(
                f"The loss became {value} at step {self.step} of {self.total}: lower the learning "
                f"rate (now {recipe.learning_rate}). The last checkpoint is untouched."
            )
        optimizer.step()
        self.loss_sum += value * len(batch) / self.world
        self.right += right
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
        tensors = {f"module.{name}": value for name, value in self.state.state_dict().items()}
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
            self.state.load_state_dict(module)
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
    data: Images | tuple[torch.Tensor, torch.Tensor], channels: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(data, Images):
        check_images(data.pixels[:1].float() / 255, channels=channels)
        return data.pixels, data.labels
    x, y = data
    check_images(x, channels=channels)
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
