"""The networks of AdvGAN, a generator of perturbations and a discriminator, and their training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from notsure.attacks.goals import Goal, lead
from notsure.core.errors import CheckpointError, NotSureError, UnsupportedError
from notsure.core.state import derived_seed, tensors_hash, weights_hash
from notsure.core.storage import load_tensors, save_tensors
from notsure.core.target import Response, Target

if TYPE_CHECKING:
    from notsure.attacks.generative import AdvGAN

SMALLEST = 8
"""Height and width, in pixels, below which the networks have nothing left to convolve."""


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    """Two convolutions around an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to the same shape."""
        result: torch.Tensor = x + self.body(x)
        return result


class _Enlarging(nn.Module):
    """A transposed convolution of stride 2, to whatever size the encoder came from."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1)
        self.after = nn.Sequential(nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, C', *size)."""
        result: torch.Tensor = self.after(self.convolution(x, output_size=list(size)))
        return result


class Generator(nn.Module):
    """Xiao et al.'s generator: encoder, four residual blocks, decoder; images to raw perturbations.

    Its normalisation is each image's own, so that an image does not feel its batch mates.

    Args:
        channels: of the images.
        width: channels of the first layer; 8 in the paper.
    """

    def __init__(self, *, channels: int, width: int = 8) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.first = _convolution(channels, width)
        self.halve1 = _convolution(width, 2 * width, stride=2)
        self.halve2 = _convolution(2 * width, 4 * width, stride=2)
        self.middle = nn.Sequential(*(_Residual(4 * width) for _ in range(4)))
        self.double1 = _Enlarging(4 * width, 2 * width)
        self.double2 = _Enlarging(2 * width, width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) in [0,1] to numbers of any size, (B, C, H, W)."""
        full = self.first(2 * x - 1)
        half = self.halve1(full)
        coded = self.middle(self.halve2(half))
        decoded = self.double2(self.double1(coded, half.shape[2:]), full.shape[2:])
        raw: torch.Tensor = self.last(decoded)
        return raw


class Discriminator(nn.Module):
    """Tells perturbed images from clean ones: strided convolutions, one number an image."""

    def __init__(self, *, channels: int, height: int, width: int, filters: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        # a map of a single pixel has nothing to normalise over: small images get a layer less
        for depth in range(3 if min(height, width) >= 2 * SMALLEST else 2):
            outputs = filters * 2**depth
            layers.append(nn.Conv2d(channels, outputs, 4, stride=2, padding=1))
            if depth > 0:
                layers.append(nn.InstanceNorm2d(outputs, affine=True))
            layers.append(nn.LeakyReLU(0.2))
            channels, height, width = outputs, height // 2, width // 2
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * height * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) in [0,1] to (B,); 1 stands for clean, 0 for perturbed."""
        told: torch.Tensor = self.dense(self.layers(2 * x - 1).flatten(1))
        return told[:, 0]


def length_of(delta: torch.Tensor) -> torch.Tensor:
    """The l2 length of each perturbation, (B, 1, 1, 1)."""
    length: torch.Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return length


_KIND = "AdvGAN training"


def _under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a name, without it."""
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in tensors.items() if key.startswith(start)}


def _random_states(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Where the generators are that a target may draw from."""
    states = {"cpu": torch.get_rng_state()}
    if x.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(x.device)
    return states


def _set_random_states(x: torch.Tensor, states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if x.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], x.device)


class Training:
    """The generator and the discriminator while they learn."""

    def __init__(
        self,
        advgan: AdvGAN,
        target: Target,
        goal: Goal,
        kappa: float,
        x: torch.Tensor,
        labels: torch.Tensor,
        seed: int,
    ) -> None:
        self.advgan, self.target, self.goal, self.kappa = advgan, target, goal, kappa
        self.x, self.labels, self.seed = x, labels, seed
        _, channels, height, width = x.shape
        self.generator = Generator(channels=channels, width=advgan.width).to(x)
        self.discriminator = Discriminator(channels=channels, height=height, width=width).to(x)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=advgan.learning_rate)
            for network in (self.generator, self.discriminator)
        ]
        longest = advgan.radius if advgan.norm == "l2" else advgan.radius * math.sqrt(x[0].numel())
        self.bound = longest if advgan.bound is None else advgan.bound
        self.history: list[float] = []

    def save(self, path: Path) -> None:
        """Writes all that the rest of the training depends on, atomically."""
        tensors = {f"random.{name}": state for name, state in _random_states(self.x).items()}
        for name, network in self._networks().items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for place, optimizer in enumerate(self.optimizers):
            for index, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"adam.{place}.{index}.{key}": v for key, v in entries.items()}
        note = {"kind": _KIND, "identity": self._identity(), "history": self.history}
        save_tensors(path, tensors, note=note)

    def restore(self, path: Path) -> None:
        """Goes on from what `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or of another training.
        """
        tensors, note = load_tensors(path)
        if note.get("kind") != _KIND or note.get("identity") != self._identity():
            raise CheckpointError(
                f"{str(path)!r} is no checkpoint of this training of AdvGAN: remove it, or give "
                "another path."
            )
        try:
            for name, network in self._networks().items():
                network.load_state_dict(_under(tensors, name))
            for place, optimizer in enumerate(self.optimizers):
                state: dict[int, dict[str, torch.Tensor]] = {}
                for key, value in _under(tensors, f"adam.{place}").items():
                    index, _, entry = key.partition(".")
                    state.setdefault(int(index), {})[entry] = value
                optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            self.history = [float(share) for share in note["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{str(path)!r} does not fit AdvGAN: {error}") from error
        _set_random_states(self.x, _under(tensors, "random"))

    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint has to agree with to be gone on with."""
        own = self.target
        return {
            "advgan": json.dumps(self.advgan.settings(), sort_keys=True, default=str),
            "target": weights_hash(own) if isinstance(own, nn.Module) else type(own).__name__,
            "goal": repr(self.goal),
            "kappa": self.kappa,
            "seed": self.seed,
            "images": tensors_hash({"x": self.x, "labels": self.labels}),
        }

    def epoch(self, number: int) -> float:
        """One pass over the images; returns the share that reached the goal on the way."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                done = number / self.advgan.epochs
                group["lr"] = self.advgan.learning_rate * (1 + math.cos(math.pi * done)) / 2
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", number))
        order = torch.randperm(len(self.x), generator=generator)
        fooled = 0.0
        for rows in torch.split(order, self.advgan.batch_size):
            with torch.enable_grad():
                fooled += self._step(self.x[rows], self.labels[rows])
        self.history.append(fooled / len(self.x))
        return self.history[-1]

    def _step(self, x: torch.Tensor, labels: torch.Tensor) -> float:
        """One step of both networks; returns how many images reached the goal before it."""
        advgan = self.advgan
        delta = advgan.proposed(self.generator, x)
        images = advgan.applied(delta, x)
        if advgan.alpha > 0:
            told_clean, told = self.discriminator(x), self.discriminator(images.detach())
            self._descend(1, ((told_clean - 1).square() + told.square()).mean())
        response = self.target.respond(images)
        if not response.logits.requires_grad:
            raise UnsupportedError(
                f"No gradient of {type(self.target).__name__} reaches the generator: the network "
                "detaches its input or works outside torch. Fit on a distilled substitute of it."
            )
        loss = self._class_loss(response, labels).mean()
        loss = loss + advgan.beta * (length_of(delta) - self.bound).clamp_min(0).mean()
        if advgan.alpha > 0:
            loss = loss + advgan.alpha * (self.discriminator(images) - 1).square().mean()
        self._descend(0, loss)
        return float(self.goal.reached(response, labels).sum())

    def _class_loss(self, response: Response, labels: torch.Tensor) -> torch.Tensor:
        """How far each image is from what is wanted of it, (B,), at least 0."""
        by = lead(response.logits, labels, self.goal)
        loss = (self.kappa - by).clamp_min(0)
        if self.goal.undetected and response.rejection is not None:
            detected = (response.rejection + self.advgan.rejection_slack).clamp_min(0)
            # the detector judges the predicted class: it has no say before that is the wanted one
            loss = loss + torch.where(by > 0, detected, 0)
        return loss

    def _descend(self, network: int, loss: torch.Tensor) -> None:
        """One step of one of the networks; the others, the target too, get no gradients."""
        optimizer = self.optimizers[network]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters)
        if not math.isfinite(loss.item()):
            raise NotSureError(
                f"AdvGAN's loss became {loss.item()} in epoch {len(self.history) + 1}: lower the "
                "learning rate."
            )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
