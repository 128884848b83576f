"""The guards that are chosen among."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from notsure.choosing.named import AUTO, DETECTORS, PURIFIERS, Named, detectors_in, purifier_in
from notsure.core.errors import ConfigurationError

BARE = "no guard"
"""What the network by itself is called."""

CHOSEN_AMONG = ("DenoisingAutoencoder", "MagNet", "PuVAE")
"""The purifiers of `auto`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A guard that is yet to be built.

    Attributes:
        detectors: what may flag an image; any of them does.
        purifier: what cleans images beforehand.
        optional: whether it may be left out where it does not suit the model.
    """

    detectors: tuple[Named, ...] = ()
    purifier: Named | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """Its parts, such as "PuVAE + KDensity"; "no guard" where there are none."""
        parts = [*([self.purifier] if self.purifier is not None else []), *self.detectors]
        return " + ".join(str(one) for one in parts) or BARE

    @property
    def bare(self) -> bool:
        """Whether it is the network by itself."""
        return not self.detectors and self.purifier is None

    @property
    def purifiers(self) -> tuple[Named, ...]:
        """Every purifier that has to be trained for it."""
        own = [self.purifier, *(one.own_purifier for one in self.detectors)]
        return tuple(one for one in own if one is not None)

    def check(self) -> None:
        """Builds the parts once, so that a wrong setting is told before anything is trained.

        Raises:
            ConfigurationError: a setting is out of range or of another type.
        """
        untrained = {str(one): one.build() for one in self.purifiers}
        for one in self.detectors:
            one.build(untrained)


def candidates(
    detectors: Sequence[str] = ("kdensity",), purifiers: Sequence[str] = ("none",)
) -> tuple[Candidate, ...]:
    """Every combination of detectors and purifiers that was asked for, without doubles.

    Args:
        detectors: each of one guard: "kdensity", "kdensity + LID(neighbours=10)", "none"; or
            "auto" for each of the library's by itself, and none.
        purifiers: each of one guard: "denoiser", "none"; or "auto" for each of the library's,
            and none.

    Raises:
        ConfigurationError: one cannot be read, does not exist, or needs a purifier that is not
            there; or there would be no guard at all.
    """
    fronts: list[Named | None] = []
    for text in purifiers:
        if text.strip().lower() == AUTO:
            fronts += [None, *(Named(kind=name) for name in CHOSEN_AMONG)]
        else:
            fronts.append(purifier_in(text))
    found = [one for front in fronts for one in _behind(front, detectors)]
    unique: dict[str, Candidate] = {}
    for one in found:
        # what was asked for by its name is not left out for being one of auto as well
        if not one.bare and (one.name not in unique or unique[one.name].optional):
            unique[one.name] = one
    if not unique:
        raise ConfigurationError(
            "Without detector and purifier there is no guard: give --detector or --purifier."
        )
    return tuple(unique.values())


def _behind(front: Named | None, detectors: Iterable[str]) -> list[Candidate]:
    """The candidates with one purifier."""
    found = []
    for text in detectors:
        if text.strip().lower() == AUTO:
            singles: list[tuple[Named, ...]] = [(), *((Named(kind=name),) for name in DETECTORS)]
            found += [
                Candidate(detectors=own, purifier=front, optional=True)
                for own in singles
                if front is not None or not any(one.compares for one in own)
            ]
            continue
        own = detectors_in(text)
        lonely = [one for one in own if one.compares and front is None]
        if lonely:
            raise ConfigurationError(
                f"{lonely[0].kind} compares an image with what a purifier makes of it, and there "
                f"is none: give --purifier, or {lonely[0].kind}(of=denoiser) for one that it has "
                f"to itself. There are: {', '.join(PURIFIERS)}."
            )
        found.append(Candidate(detectors=own, purifier=front))
    return found
