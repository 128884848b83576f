"""The moves of the Square attack: per-sample squares, as masks over the whole batch.

A start takes the samples' streams, the clean images (R, C, H, W) and eps; a move also the current
images and the side of the square. Both return candidates in ball and box.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from notsure.attacks.geometry import L2
from notsure.core.randomness import Streams

_STRETCH = 3.0
"""How much further than eps a perturbation in l2 is scaled where the box takes part of it away."""


def _signs(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """-1 or 1 for each uniform number."""
    return torch.where(numbers < 0.5, -1, 1).to(like.dtype)


def stripes(streams: Streams, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Every column of every channel moved by +-eps."""
    signs = _signs(streams.uniform((x.shape[1], 1, x.shape[3])), x)
    return (x + eps * signs).clamp_(0, 1)


def recoloured(
    streams: Streams, x: torch.Tensor, current: torch.Tensor, eps: float, side: int
) -> torch.Tensor:
    """One random square of each image, every channel of it moved by +-eps from the clean image."""
    numbers = streams.uniform((2 + x.shape[1],), dtype=torch.float64)
    inside, _, _ = _window(numbers[:, :2], x, side)
    change = _signs(numbers[:, 2:], x)[:, :, None, None] * (eps * inside)
    candidate = torch.where(inside, (x + change).clamp_(0, 1), current)
    # a query is not spent on what is known
    same = (candidate == current).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    return torch.where(inside & same, (x - change).clamp_(0, 1), candidate)


def _window(
    place: torch.Tensor, like: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square of each image, placed by two uniform numbers (R, 2).

    Returns:
        Where it is, bool (R, 1, H, W), and the rows (R, H, 1) and columns (R, 1, W) counted from
        its corner.
    """
    height, width = like.shape[2:]
    top = (place[:, :1] * (height - side + 1)).long()
    left = (place[:, 1:] * (width - side + 1)).long()
    down = torch.arange(height, device=like.device) - top
    across = torch.arange(width, device=like.device) - left
    tall, wide = (down >= 0) & (down < side), (across >= 0) & (across < side)
    return (tall[:, :, None] & wide[:, None])[:, None], down[:, :, None], across[:, None]


def _bump(height: int, width: int) -> torch.Tensor:
    """A rounded hill over a rectangle, of length 1, (height, width)."""
    reach = max(height, width) // 2
    # a pixel at distance d from the middle lies in all the nested rectangles from d on
    weights = 1 / torch.arange(1, reach + 2, dtype=torch.float64).square()
    heights = weights.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()[:, None]
    across = (torch.arange(width) - width // 2).abs()[None]
    hill: torch.Tensor = heights[torch.maximum(down, across)]
    return hill / hill.square().sum().sqrt().clamp_min(1e-30)


@lru_cache(maxsize=64)
def _eta(side: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The published pattern: a hill beside a hollow, of length 1, (side, side)."""
    half = side // 2
    pattern: torch.Tensor = torch.cat([_bump(half, side), -_bump(side - half, side)])
    return (pattern / pattern.square().sum().sqrt()).to(dtype=dtype, device=device)


def grid(streams: Streams, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The published pattern on each of 5 x 5 tiles, turned and signed at random, of length eps."""
    channels, height, width = x.shape[1:]
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    down = torch.arange(height, device=x.device) - (height - rows * side) // 2
    across = torch.arange(width, device=x.device) - (width - columns * side) // 2
    tile_row, tile_column = (down // side)[:, None], (across // side)[None]
    inside = (tile_row >= 0) & (tile_row < rows) & (tile_column >= 0) & (tile_column < columns)
    tile_row, tile_column = tile_row.clamp(0, rows - 1), tile_column.clamp(0, columns - 1)
    turned = streams.fork(1).uniform((rows, columns))[:, tile_row, tile_column] < 0.5
    signs = _signs(streams.fork(2).uniform((channels, rows, columns)), x)
    signs = signs[:, :, tile_row, tile_column]
    pattern = _eta(side, x.dtype, x.device)
    here = pattern[(down % side)[:, None], (across % side)[None]]
    there = pattern[(across % side)[None], (down % side)[:, None]]
    delta = torch.where(turned, there, here)[:, None] * signs * inside
    return _of_length(delta, x, eps)


def shifted(
    streams: Streams, x: torch.Tensor, current: torch.Tensor, eps: float, side: int
) -> torch.Tensor:
    """Takes the perturbation out of one window and adds its mass, reshaped, to another."""
    delta = current - x
    numbers = streams.uniform((5 + x.shape[1],), dtype=torch.float64)
    target, down, across = _window(numbers[:, :2], x, side)
    source, _, _ = _window(numbers[:, 2:4], x, side)
    pattern = _eta(side, x.dtype, x.device)
    down, across = down.clamp(0, side - 1), across.clamp(0, side - 1)
    turned = numbers[:, 4].view(-1, 1, 1) < 0.5
    shape = torch.where(turned, pattern[across, down], pattern[down, across])[:, None]
    fresh = shape * target * _signs(numbers[:, 5:], x)[:, :, None, None]
    fresh = _unit(fresh + _unit(delta * target))
    # each channel gets what its two windows hold and its part of what the ball has left
    spare = (eps**2 - delta.square().sum(dim=(1, 2, 3), keepdim=True)).clamp_min(0) / x.shape[1]
    held = (delta * (target | source)).square().sum(dim=(2, 3), keepdim=True)
    delta = torch.where(target, fresh * (spare + held).sqrt(), torch.where(source, 0, delta))
    return _of_length(delta, x, eps)


def _unit(delta: torch.Tensor) -> torch.Tensor:
    """Every channel scaled to length 1, or 0 where it is 0."""
    size = delta.square().sum(dim=(2, 3), keepdim=True).sqrt()
    return delta / size.clamp_min(1e-10)


def _of_length(delta: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The image moved by a perturbation that fills the ball, clipped to [0,1]."""
    size = delta.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    delta = delta * (_STRETCH * eps / size.clamp_min(1e-30))
    return x + L2().project(delta, eps, -x, 1 - x)
