"""Images a batch at a time, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from notsure.core import checks
from notsure.core.errors import InputError
from notsure.data.images import Images


@dataclass(frozen=True, eq=False)
class Stream:
    """Images in [0,1] with or without labels, floats made per batch.

    Attributes:
        source: a tensor (N, C, H, W) in [0,1], or 8-bit images.
        labels: int64 (N,), or None.
    """

    source: torch.Tensor | Images
    labels: torch.Tensor | None

    @classmethod
    def of(cls, x: torch.Tensor | Images, y: torch.Tensor | None = None) -> Stream:
        """A stream of a tensor and its labels, or of images that bring their own.

        Raises:
            InputError: labels were given beside images that have theirs.
        """
        if isinstance(x, Images):
            if y is not None:
                raise InputError("Images bring their own labels: leave y out.")
            return cls(x, x.labels)
        return cls(x, y)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self) -> torch.Tensor:
        """What a check has to see: all of a tensor, one of many 8-bit images."""
        if isinstance(self.source, Images):
            return self.source.select(slice(0, 1)).x
        return self.source

    def batches(self, size: int, device: torch.device) -> Iterator[torch.Tensor]:
        """The images, `size` at a time."""
        if isinstance(self.source, Images):
            for x, _ in self.source.batches(size):
                yield x.to(device)
        else:
            for start in range(0, len(self.source), size):
                yield self.source[start : start + size].detach().to(device)

    def content_keys(self) -> torch.Tensor:
        """A 64-bit key of each image's content, int64 (N,) on the CPU."""
        if isinstance(self.source, Images):
            return self.source.content_keys().cpu()
        return checks.content_keys(self.source).cpu()
