"""What the page does when something is pressed; it answers in HTML and knows nothing of gradio."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from notsure.adapters.resizing import Resizing
from notsure.core.errors import ConfigurationError, InputError, NotSureError
from notsure.data import Images
from notsure.guard import Guard
from notsure.playground.attempt import attempt
from notsure.playground.images import Chosen, drawn, picked, uploaded
from notsure.playground.judgement import judgement_of
from notsure.playground.offers import Offer, Range, offers, range_of
from notsure.playground.panels import Frame, attempt_panel, chosen_panel, error_panel

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What can be set of an attack.

    Attributes:
        norms: the norms to choose from.
        range: of eps; None for an attack that has none.
        about: what the attack does, has to see, and where it comes from.
    """

    norms: tuple[str, ...]
    range: Range | None
    about: str


class Player:
    """A guard that is played with; one request at a time, since attacks work on its modules.

    Args:
        guard: fitted and calibrated.
        frame: what the panels have in common.
        images: to pick from; None for none.
        resizing: how image files are brought to the guard's size; squeezed by default.
    """

    def __init__(
        self,
        guard: Guard,
        frame: Frame,
        *,
        images: Images | None = None,
        resizing: Resizing | None = None,
    ) -> None:
        self.guard, self.frame, self.images, self.resizing = guard, frame, images, resizing
        self.offers: dict[str, Offer] = offers()
        self._at_a_time = threading.Lock()
        parameter = next(guard.classifier.parameters(), None)
        self._dtype = torch.float32 if parameter is None else parameter.dtype

    def pick(self, index: int) -> tuple[Chosen | None, str]:
        """Takes one of the images to pick from."""

        def choose() -> Chosen:
            if self.images is None:
                raise InputError("There are no images to pick from: start with --data.")
            return picked(self.images, index)

        return self._choose(choose)

    def draw(self, url: str | None) -> tuple[Chosen | None, str]:
        """Takes what was drawn, the data URL of a PNG."""
        return self._choose(lambda: drawn(url, self.frame.shape))

    def upload(self, path: str | Path | None) -> tuple[Chosen | None, str]:
        """Takes an image file."""

        def choose() -> Chosen:
            if path is None:
                raise InputError("There is no file: choose an image file first.")
            return uploaded(Path(path).read_bytes(), self.frame.shape, resizing=self.resizing)

        return self._choose(choose)

    def choices(self, name: str, norm: str | None = None) -> Choices:
        """What can be set of the attack of that name, in a norm or the first one it has.

        Raises:
            ConfigurationError: there is no such attack.
        """
        offer = self._offer(name)
        entry = offer.entry
        norm = norm if norm in offer.norms else offer.norms[0]
        nearest = "" if offer.bounded else " It has no eps: it looks for the nearest image."
        return Choices(
            norms=offer.norms,
            range=range_of(norm, self.frame.shape) if offer.bounded else None,
            about=f"{entry.summary} ({entry.paper}). Sees {entry.needs.name.lower()}.{nearest}",
        )

    def attack(
        self,
        chosen: Chosen | None,
        name: str,
        norm: str | None,
        eps: float | None,
        threat: str,
        seed: float | None,
    ) -> tuple[bool, str]:
        """Attacks the chosen image: whether that worked, and what came of it or went wrong."""
        done = False

        def show() -> str:
            nonlocal done
            if chosen is None:
                raise InputError("There is no image yet: pick, draw or upload one first.")
            if seed is None or seed < 0 or seed != int(seed):
                raise ConfigurationError("The seed is a whole number from 0 on: give one.")
            offer = self._offer(name)
            with self._at_a_time:
                found = attempt(
                    self.guard,
                    self._as_given(chosen.x),
                    offer.build(norm, eps if offer.bounded else None),
                    threat=threat,
                    label=chosen.label,
                    seed=int(seed),
                )
            panel = attempt_panel(found, self.frame)
            done = True
            return panel

        panel = _told(show)
        return done, panel

    def _offer(self, name: str) -> Offer:
        if name not in self.offers:
            raise ConfigurationError(
                f"There is no attack {name!r} here. There are: {', '.join(self.offers)}."
            )
        return self.offers[name]

    def _as_given(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.guard.classifier.device, self._dtype)

    def _choose(self, choose: Callable[[], Chosen]) -> tuple[Chosen | None, str]:
        found: list[Chosen] = []

        def show() -> str:
            chosen = choose()
            x = self._as_given(chosen.x)
            with self._at_a_time:
                judgement = judgement_of(self.guard, x)
                overlap = self.guard.overlap(x)
            found.append(chosen)
            return chosen_panel(chosen, judgement, self.frame, _seen(overlap))

        panel = _told(show)
        return (found[0] if found else None), panel


def _seen(overlap: dict[str, int]) -> str:
    """That the guard knows an image from its fit or its calibration, if it does."""
    parts = [part for part, count in overlap.items() if count]
    if not parts:
        return ""
    return (
        f"The guard has seen this image in its {' and its '.join(parts)}: what it says of it is "
        "flattering."
    )


def _told(show: Callable[[], str]) -> str:
    """A panel, or what kept it from being made."""
    try:
        return show()
    except NotSureError as error:
        return error_panel(str(error))
    except Exception as error:
        # whoever looks at the page cannot do anything about a stack trace; the terminal has it
        _LOG.exception("the playground failed")
        return error_panel(
            f"{type(error).__name__}: {error}. This is a fault of notsure's and not yours; the "
            "terminal that the page was started from has the details.",
            title="Something broke",
        )
