"""What an audit is asked for: budgets, and the limits that a pipeline goes on by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.evaluation.suites import check_suite
from notsure.evaluation.threats import NAMES

CLEAN, ROBUST, STRICT, BELIEVABLE = "clean", "robust", "strict", "believable"

FIGURES: Mapping[str, str] = {
    CLEAN: "clean images that are accepted and right",
    ROBUST: "images that nothing fooled within the largest budget; a rejected one counts as safe",
    STRICT: "images that are accepted and right whatever was tried within the largest budget",
    BELIEVABLE: "1 if attacks followed gradients and no flag says that they were weaker than they "
    "look, otherwise 0",
}
"""The figures that there are limits for."""

WITHOUT_GRADIENTS = ("transfer", "query-decisions", "query-scores")
"""The threats that are left where no gradient reaches a model's images."""

NORMS = ("linf", "l2")
"""The norms of budgets, for which suites have attacks."""


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

    Args:
        texts: each a figure, an equals sign and its least value.

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


def budgets_of(
    eps: Sequence[float | str],
    *,
    norm: str,
    suite: str,
    threats: Sequence[str] = (),
) -> list[float]:
    """The budgets, ascending; what cannot be is told before anything is loaded.

    Args:
        eps: in [0,1] pixel units, numbers or fractions such as "8/255".
        norm: of the budgets.
        suite: the name of one.
        threats: the names of those that are asked for.

    Raises:
        ConfigurationError: there is no budget above 0, one is more than all of a pixel, or there is
            no such norm, suite or threat.
    """
    radii = sorted({parse_size(one, what="eps") for one in eps})
    if not radii or radii[-1] <= 0:
        raise ConfigurationError("An audit takes a budget above 0, such as eps=['8/255'].")
    if norm not in NORMS:
        raise ConfigurationError(f"norm is {' or '.join(NORMS)}; got {norm!r}.")
    if norm == "linf" and radii[-1] > 1:
        raise ConfigurationError(
            f"eps is in units of pixels in [0,1], of which {radii[-1]:g} is more than all; "
            f"{radii[-1]:g} of 255 levels are {radii[-1]:g}/255."
        )
    check_suite(suite)
    unknown = [name for name in threats if name not in NAMES]
    if unknown:
        raise ConfigurationError(
            f"There is no threat {unknown[0]!r}. There are: {', '.join(NAMES)}."
        )
    return radii
