"""A step of a study: what it depends on, what it is told, and how it is run."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from notsure.core.errors import ConfigurationError, DeadlineError

IDENTITY_DIGITS = 16
"""How many hexadecimal digits stand for a step."""


def _no_end() -> float:
    return math.inf


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step has while it runs.

    Attributes:
        folder: empty, or holding the step's own checkpoints where it is resumable; what is in it
            when `run` returns is the result, so that checkpoints have to be gone by then.
        seconds_left: how many seconds there are until the deadline; infinity where there is none.
        progress: whether to show bars.
        results: the folders of what the step needs, by identity.
    """

    folder: Path
    seconds_left: Callable[[], float] = _no_end
    progress: bool = False
    results: Mapping[str, Path] = field(default_factory=dict)

    def folder_of(self, step: Step) -> Path:
        """The finished result of one of the step's needs, to be read and left as it is.

        Raises:
            ConfigurationError: the step does not name it in `needs`.
        """
        if step.identity not in self.results:
            raise ConfigurationError(
                f"The result of {step.kind} {step.name!r} is asked for by a step that does not "
                "name it among its needs: add it to `needs`, on which the identity rests."
            )
        return self.results[step.identity]

    def require_time(self) -> None:
        """Raises DeadlineError once the time is over; to be called when a checkpoint is written."""
        if self.seconds_left() <= 0:
            raise DeadlineError("The deadline has come; the same command goes on from here.")


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One piece of work with a result in files: a training, a fit, an attack, ...

    A concrete step is a frozen, keyword-only dataclass. Its `needs` are other steps that it holds
    as fields, by which no cycle can come about.

    Attributes:
        kind: what sort of work it is: "train", "attack", ...
        version: raised when the same settings would give another result than before.
        resumable: whether an interrupted run goes on from checkpoints in its folder. It is then
            also expected to stop at the deadline, by `Context.require_time`.
        name: for people; the result does not depend on it.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = False

    name: str

    @property
    def needs(self) -> tuple[Step, ...]:
        """The steps whose results it reads, in an order that is always the same."""
        return ()

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the result depends on besides its needs, in JSON's own types."""

    @abstractmethod
    def run(self, context: Context) -> None:
        """Does the work and writes its result into `context.folder`.

        Raises:
            DeadlineError: the time is over; a checkpoint is left.
        """

    def estimate(self) -> float:
        """How many seconds it takes, roughly; NaN if unknown."""
        return math.nan

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits that stand for the result: no two results share them.

        Raises:
            ConfigurationError: the settings are not JSON-ready.
        """
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_DIGITS]

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """What the identity is made of: kind, version, settings, and the needs' identities.

        Raises:
            ConfigurationError: the settings are not JSON-ready.
        """
        return {
            "kind": self.kind,
            "version": self.version,
            "settings": _json_ready(self.settings(), f"{self.kind} {self.name!r}: settings"),
            "needs": [step.identity for step in self.needs],
        }


def _json_ready(value: Any, where: str) -> Any:
    """The value in JSON's own types, so that it is the same when it is read back.

    Raises:
        ConfigurationError: it holds something else.
    """
    if value is None or isinstance(value, bool):
        return value
    # of subclasses (an enumeration, a NumPy float) the plain value, as JSON has it
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple):
        return [_json_ready(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ConfigurationError(
                f"{where}: the key {wrong[0]!r} is no string, as JSON's keys have to be."
            )
        return {str(key): _json_ready(entry, f"{where}.{key}") for key, entry in value.items()}
    raise ConfigurationError(
        f"{where} is of type {type(value).__name__}, which a step's identity cannot rest on: give "
        "numbers, strings, lists and dictionaries."
    )
