"""What a sanity check came to, and how it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MANY = 3
"""How many cases are told; the others are counted."""


@dataclass(frozen=True)
class Finding:
    """What a check came to.

    Attributes:
        looked: whether the records hold what it takes to tell.
        raised: whether something is wrong.
        because: what was seen, or what is missing.
    """

    looked: bool
    raised: bool
    because: str


def missing(what: str) -> Finding:
    """Nothing could be told, because of what is missing."""
    return Finding(False, False, what)


def found(wrong: Sequence[str], otherwise: str) -> Finding:
    """What is wrong, the first few of it; or, if nothing is, what was looked at."""
    if not wrong:
        return Finding(True, False, otherwise)
    more = f" And {len(wrong) - MANY} more." if len(wrong) > MANY else ""
    return Finding(True, True, " ".join(wrong[:MANY]) + more)


def percent(share: float) -> str:
    """A share in [0,1] as "97.2 %"."""
    return f"{100 * share:.1f} %"


def listed(names: Sequence[str]) -> str:
    """Names as "a, b and c", each once."""
    once = list(dict.fromkeys(names))
    return " and ".join([", ".join(once[:-1]), once[-1]]) if len(once) > 1 else "".join(once)


def largest_first(cases: list[tuple[float, str]]) -> list[str]:
    """The texts of (size, text), the largest size first."""
    return [text for _, text in sorted(cases, key=lambda case: -case[0])]
