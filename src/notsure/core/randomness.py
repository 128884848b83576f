"""Random streams that belong to a sample, not to its batch.

A sample's noise is a pure function of (seed, the sample's content, a purpose, a position): it does
not change with batch mates, batch size, order or device, and no global generator is touched. The
function is SplitMix64 (Steele, Lea & Flood 2014) in counter form, computed for a whole batch at
once on torch's 64-bit integers, whose arithmetic wraps around as the algorithm wants it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_WEYL = _signed(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (zero-filling) shift; torch's own keeps the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer, in place on a 64-bit integer tensor."""
    z ^= _shift_right(z, 30)
    z *= _MULTIPLIER_1
    z ^= _shift_right(z, 27)
    z *= _MULTIPLIER_2
    z ^= _shift_right(z, 31)
    return z


@dataclass(frozen=True, eq=False)
class Streams:
    """One independent random stream per sample of a batch.

    Attributes:
        keys: int64 (B,), the state that a sample's numbers are a function of.
    """

    keys: torch.Tensor

    @classmethod
    def of(cls, content: torch.Tensor, seed: int) -> Streams:
        """The streams of samples with these content keys (int64 (B,)) under a seed."""
        return cls(content).fork(seed)

    def __len__(self) -> int:
        return len(self.keys)

    def fork(self, purpose: int | torch.Tensor) -> Streams:
        """Streams independent of these ones and of those of every other purpose.

        Args:
            purpose: one for all samples, or one each, int64 (B,).
        """
        given = torch.as_tensor(purpose, dtype=torch.int64, device=self.keys.device)
        mixed = _mix(given.reshape(-1) + _WEYL)
        return Streams(_mix((self.keys ^ mixed) + _WEYL))

    def select(self, rows: torch.Tensor) -> Streams:
        """The streams of some of the samples (index or mask)."""
        return Streams(self.keys[rows])

    def _bits(self, size: int) -> torch.Tensor:
        counters = torch.arange(1, size + 1, dtype=torch.int64, device=self.keys.device) * _WEYL
        return _mix(self.keys[:, None] + counters)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Uniform numbers in the open interval (0, 1), (B, *shape).

        Calling it again yields the same numbers: fork for others.
        """
        bits = _shift_right(self._bits(math.prod(shape)), 40)
        # 24 bits are what float32 holds exactly; the half keeps 0 and 1 out, for logarithms
        numbers = bits.to(torch.float64 if dtype == torch.float64 else torch.float32)
        numbers = numbers.add_(0.5).mul_(2.0**-24)
        return numbers.clamp_(max=1 - 2.0**-24).to(dtype).view(len(self), *shape)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Standard normal numbers (B, *shape), by the Box-Muller transform."""
        size = math.prod(shape)
        half = (size + 1) // 2
        numbers = self.uniform((2 * half,), dtype=dtype)
        radius = numbers[:, :half].log().mul_(-2).sqrt_()
        angle = numbers[:, half:] * (2 * math.pi)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs[:, :size].reshape(len(self), *shape)

    def exponential(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Exponential numbers of mean 1, (B, *shape)."""
        return self.uniform(shape, dtype=dtype).log_().neg_()


class _Source:
    """The streams that a pass over a stochastic network draws from, and how often it has."""

    def __init__(self, streams: Streams) -> None:
        self.streams, self.drawn = streams, 0


_SOURCE: ContextVar[_Source | None] = ContextVar("notsure_streams", default=None)


@contextmanager
def drawing_from(streams: Streams) -> Iterator[None]:
    """Inside, `own_streams` hands out these streams: one for each sample of the batch."""
    token = _SOURCE.set(_Source(streams))
    try:
        yield
    finally:
        _SOURCE.reset(token)


def own_streams(count: int) -> Streams | None:
    """Fresh streams for a stochastic layer's pass over `count` samples, or None.

    None where no caller named the samples' streams, or for another number of samples: the layer
    then draws from torch's global generator, as layers do.
    """
    source = _SOURCE.get()
    if source is None or len(source.streams) != count:
        return None
    source.drawn += 1
    return source.streams.fork(source.drawn)
