"""What a row of the benchmark is, and how much of it is done."""

from __future__ import annotations

from dataclasses import dataclass

from contestants import Contestant

SMOKE_IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack on one network by several contestants.

    Attributes:
        name: what it is selected by.
        title: what it is called in the table.
        network: one of `networks.NAMES`.
        count: how many images.
        contestants: ours first.
        batch: how many images each call gets at most.
        norm: "l0", "l2" or "linf": that of the ball, or in which nearness is measured.
        eps: the radius of the ball; None for an attack that looks for the nearest image.
        shift: targets are (y + shift) % classes; None for an untargeted attack.
        slack: by what share our median distance may exceed a peer's and still be as good.
        note: what has to be known to read it.
    """

    name: str
    title: str
    network: str
    count: int
    contestants: tuple[Contestant, ...]
    batch: int = 256
    norm: str = "linf"
    eps: float | None = None
    shift: int | None = None
    slack: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done: all of it, or just enough to see that it runs."""

    smoke: bool

    def images(self, count: int) -> int:
        """How many images."""
        return min(count, SMOKE_IMAGES) if self.smoke else count

    def steps(self, count: int, smallest: int = 3) -> int:
        """How many steps."""
        return min(count, smallest) if self.smoke else count
