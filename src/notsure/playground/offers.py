"""The attacks that can be tried on the page, with settings that answer within seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from notsure import attacks
from notsure.attacks import Attack
from notsure.attacks.catalogue import Entry, catalogue
from notsure.choosing.fitting import COLOUR, GREY, SMALL
from notsure.core.errors import ConfigurationError
from notsure.purifiers.base import Shape

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "FGSM": {},
    "BIM": {},
    "PGD": {},
    "MIM": {},
    "ILCM": {},
    "APGD": {},
    "SelectivePGD": {},
    "OrthogonalPGD": {},
    "RandomNoise": {"restarts": 100},
    "CarliniWagner": {"steps": 200, "binary_search_steps": 6},
    "DeepFool": {},
    "DDN": {},
    "FAB": {},
    "NewtonFool": {},
    "JSMA": {},
    "Square": {"queries": 2000},
    "NES": {"queries": 2000},
    "HopSkipJump": {"queries": 2000},
}
"""Where they differ from the attacks' own: a person waits for them."""

_CALLED = {"CarliniWagner": "C&W"}

_UNITS = ("linf", "l2", "l1")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The eps that can be chosen in a norm, in [0,1] pixel units.

    Attributes:
        most: the largest.
        usual: where the choice starts.
        step: between two choices.
    """

    most: float
    usual: float
    step: float


@dataclass(frozen=True, kw_only=True)
class Offer:
    """An attack that can be tried.

    Attributes:
        entry: what the catalogue says of it.
        settings: where they differ from its own defaults.
    """

    entry: Entry
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called."""
        return _CALLED.get(self.entry.name, self.entry.name)

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms to choose from, the usual one first."""
        return self.entry.norms

    @property
    def bounded(self) -> bool:
        """Whether it takes eps; otherwise it looks for the nearest image that fools."""
        return self.entry.bounded

    def build(self, norm: str | None, eps: float | str | None) -> Attack:
        """The attack.

        Args:
            norm: one of `norms`; None for the first.
            eps: the budget of a bounded attack, in [0,1] pixel units; others take none.

        Raises:
            ConfigurationError: the norm or eps does not suit it.
        """
        norm = self.norms[0] if norm is None else norm
        if norm not in self.norms:
            raise ConfigurationError(
                f"{self.name} is not defined in {norm}: choose {' or '.join(self.norms)}."
            )
        if self.bounded and eps is None:
            raise ConfigurationError(f"{self.name} stays within a budget: give an eps.")
        kind: type[Attack] = getattr(attacks, self.entry.name)
        settings = dict(self.settings)
        if "norm" in kind.__dataclass_fields__:
            settings["norm"] = norm
        if self.bounded:
            settings["eps"] = eps
        return kind(**settings)


def offers() -> dict[str, Offer]:
    """The attacks that can be tried, by what they are called."""
    known = {entry.name: entry for entry in catalogue()}
    found = [Offer(entry=known[name], settings=own) for name, own in _SETTINGS.items()]
    return {offer.name: offer for offer in found}


def range_of(norm: str, shape: Shape) -> Range:
    """The eps that can be chosen for images of a shape.

    In linf the usual one is the larger budget that `notsure guard fit` takes for such images; in
    l2 and l1 it is a fifth, or a twentieth, of what so large a change of every pixel comes to.

    Args:
        norm: "linf", "l2" or "l1".
        shape: channels, height and width of the images.

    Raises:
        ConfigurationError: eps means nothing in this norm.
    """
    if norm not in _UNITS:
        raise ConfigurationError(f"eps is chosen in {', '.join(_UNITS)}; got norm={norm!r}.")
    channels, rows, _ = shape
    usual = (SMALL if rows < 20 else GREY if channels == 1 else COLOUR)[-1]
    size = math.prod(shape)
    if norm == "l2":
        usual *= math.sqrt(size) / 5
    if norm == "l1":
        usual *= size / 20
    step = {"linf": 0.001, "l2": 0.01, "l1": 0.1}[norm]
    most = min(4 * usual, 1.0) if norm == "linf" else 4 * usual
    return Range(most=_rounded(most, step), usual=_rounded(usual, step), step=step)


def _rounded(value: float, step: float) -> float:
    return round(round(value / step) * step, 6)
