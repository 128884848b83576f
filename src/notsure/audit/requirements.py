"""What an audit is to come to for a pipeline to go on: limits, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from notsure.core.errors import ConfigurationError

CLEAN, ROBUST, STRICT, BELIEVABLE = "clean", "robust", "strict", "believable"

FIGURES: Mapping[str, str] = {
    CLEAN: "clean images that are accepted and right",
    ROBUST: "images that nothing fooled within the largest budget; a rejected one counts as safe",
    STRICT: "images that are accepted and right whatever was tried within the largest budget",
    BELIEVABLE: "1 if no flag says that the attacks were weaker than they look, otherwise 0",
}
"""The figures that there are limits for."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A limit.

    Attributes:
        figure: one of `FIGURES`.
        at_least: the smallest share in [0,1] that will do.

    Raises:
        ConfigurationError: there is no such figure, or the limit is no share.
    """

    figure: str
    at_least: float

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise ConfigurationError(
                f"There is no limit for {self.figure!r}. There are: {', '.join(FIGURES)}."
            )
        if not 0 <= self.at_least <= 1:
            raise ConfigurationError(
                f"{self.figure} is a share in [0,1], such as 0.4; got {self.at_least}."
            )


def requirements(texts: Sequence[str]) -> tuple[Requirement, ...]:
    """Limits as the command line has them: "robust=0.4".

    Raises:
        ConfigurationError: one is none, or a figure has two.
    """
    found = []
    for text in texts:
        figure, equals, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            equals = ""
            limit = 0.0
        if not equals:
            raise ConfigurationError(
                f"--fail-under takes a figure and a share, such as robust=0.4; got {text!r}."
            )
        found.append(Requirement(figure=figure.strip(), at_least=limit))
    names = [one.figure for one in found]
    if len(set(names)) < len(names):
        raise ConfigurationError("--fail-under has two limits for one figure: give one each.")
    return tuple(found)
