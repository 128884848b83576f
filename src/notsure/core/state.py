"""Working on somebody's network without leaving a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(target: object, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode inside; every submodule's mode and the global random state as before, after.

    Args:
        target: whatever is used inside; a module is put into evaluation mode, anything else is
            left alone.
        device: where the work happens, so that this device's generator is restored too.
    """
    modes = (
        [(module, module.training) for module in target.modules()]
        if isinstance(target, nn.Module)
        else []
    )
    with torch.random.fork_rng(devices=_of_cuda(device)):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators start from `seed` inside and go on as before, after.

    For what draws from them and cannot be told otherwise: initial weights and dropout.
    """
    with torch.random.fork_rng(devices=_of_cuda(device)):
        _start(seed, device)
        yield


def _start(seed: int, device: torch.device | None) -> None:
    torch.default_generator.manual_seed(seed)
    for one in _of_cuda(device):
        with torch.cuda.device(one):
            torch.cuda.manual_seed(seed)


def _of_cuda(device: torch.device | None) -> list[torch.device]:
    return [device] if device is not None and device.type == "cuda" else []


@contextmanager
def detached_work(target: object, seed: int, device: torch.device) -> Iterator[None]:
    """Where attacks and trainings against a target work: seeded, without gradients or traces.

    Inside, the target is in evaluation mode, the global generators start from `seed`, and tensors
    are ordinary ones without a graph; `torch.enable_grad()` gets one where it is wanted.
    """
    with torch.inference_mode(False), torch.no_grad(), undisturbed(target, device):
        _start(seed, device)
        yield


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts, such as (seed, "order", epoch)."""
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over everything in the module's state."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
