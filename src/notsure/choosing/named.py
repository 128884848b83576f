"""Parts of a guard as they are written on a command line: `kdensity`, `LID(neighbours=10)`."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from notsure import detectors, purifiers
from notsure.core.errors import ConfigurationError
from notsure.core.part import Part
from notsure.detectors import Detector
from notsure.purifiers import Purifier

NONE, AUTO = "none", "auto"
"""The words for no part, and for those that are chosen among."""

_ALSO = {"nonme": "NonMaximalEntropy", "denoiser": "DenoisingAutoencoder"}
"""What the reports call them."""

_WITHOUT = {
    "LearnedCombination": "it learns from the attacks that it is then examined with; build it in "
    "Python, notsure.Guard(...).fit(..., attack=...)",
    "DefenseGAN": "it takes a trained generator; build it in Python, "
    "notsure.purifiers.DefenseGAN(generator=...)",
}
"""The parts that no line of text describes, and why."""

_NOT_SETTINGS = ("shape", "num_classes")
"""What is read off the data."""


def _public(room: Any, kind: type[Part], also_abstract: tuple[str, ...]) -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for name in room.__all__:
        one = getattr(room, name)
        if inspect.isclass(one) and issubclass(one, kind) and not inspect.isabstract(one):
            found[name] = one
    return {name: one for name, one in found.items() if name not in also_abstract}


DETECTORS: Mapping[str, type[Detector]] = _public(detectors, Detector, tuple(_WITHOUT))
"""The detectors that can be written down, by the names of their classes."""

PURIFIERS: Mapping[str, type[Purifier]] = _public(purifiers, Purifier, tuple(_WITHOUT))
"""The same of purifiers."""

_COMPARING = tuple(
    name for name, kind in DETECTORS.items() if "of" in inspect.signature(kind).parameters
)
"""The detectors that compare an image with what a purifier makes of it."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A part as it was written: its class and what it is told.

    Attributes:
        kind: the name of its class.
        settings: as they were given; a part within is one of these again.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is written."""
        told = ", ".join(f"{key}={_written(value)}" for key, value in self.settings.items())
        return f"{self.kind}({told})" if told else self.kind

    @property
    def compares(self) -> bool:
        """Whether it is a detector that compares with the guard's purifier."""
        return self.kind in _COMPARING and self.settings.get("of") is None

    @property
    def own_purifier(self) -> Named | None:
        """The purifier that a detector was given for itself."""
        given = self.settings.get("of")
        return given if isinstance(given, Named) else None

    def build(self, purifiers_by_text: Mapping[str, Purifier] | None = None) -> Any:
        """The part.

        Args:
            purifiers_by_text: trained purifiers, by what they are written as.

        Raises:
            ConfigurationError: a setting is out of range or of another type.
        """
        settings = {
            name: (purifiers_by_text or {})[str(value)] if isinstance(value, Named) else value
            for name, value in self.settings.items()
        }
        kind: type[Any] = {**DETECTORS, **PURIFIERS}[self.kind]
        try:
            return kind(**settings)
        except TypeError as error:
            raise ConfigurationError(f"{self}: {error}") from error


def _written(value: Any) -> str:
    return str(value) if isinstance(value, Named) else repr(value)


def detectors_in(text: str) -> tuple[Named, ...]:
    """The detectors of one guard: `kdensity`, `kdensity + LID(neighbours=10)`, or `none`.

    Raises:
        ConfigurationError: it cannot be read, there is no such detector or setting, or one is
            named twice.
    """
    if text.strip().lower() == NONE:
        return ()
    found = tuple(_named(one, DETECTORS, "detector", text) for one in _summands(text))
    if len({one.kind for one in found}) < len(found):
        raise ConfigurationError(f"--detector {text!r} names a detector twice: name each once.")
    return found


def purifier_in(text: str) -> Named | None:
    """A purifier: `denoiser`, `PuVAE(latent=16)`, or `none`.

    Raises:
        ConfigurationError: it cannot be read, or there is no such purifier or setting.
    """
    if text.strip().lower() == NONE:
        return None
    found = _summands(text)
    if len(found) > 1:
        raise ConfigurationError(f"A guard has one purifier; --purifier {text!r} names several.")
    return _named(found[0], PURIFIERS, "purifier", text)


def _summands(text: str) -> list[ast.expr]:
    """The parts between plus signs. A hyphen is a letter of a name, as in K-density."""
    joined = re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", "_", text.strip())
    try:
        tree = ast.parse(joined, mode="eval").body
    except SyntaxError as error:
        raise _unreadable(text) from error
    parts: list[ast.expr] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        parts.insert(0, tree.right)
        tree = tree.left
    return [tree, *parts]


def _unreadable(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} cannot be read: write a name, with settings where they differ from the "
        "defaults, such as 'kdensity', 'LID(neighbours=10)' or 'kdensity + confidence'."
    )


def _named(node: ast.expr, known: Mapping[str, type[Any]], what: str, text: str) -> Named:
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call is not None else node
    if not isinstance(name, ast.Name) or (call is not None and call.args):
        raise _unreadable(text)
    kind = _kind(name.id, known, what)
    settings: dict[str, Any] = {}
    allowed = _settings_of(known[kind])
    for keyword in call.keywords if call is not None else ():
        if keyword.arg not in allowed:
            near = difflib.get_close_matches(str(keyword.arg), allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(
                f"{kind} has no setting {keyword.arg!r}.{hint} It has: "
                f"{', '.join(allowed) or 'none'}."
            )
        settings[keyword.arg] = _value(keyword.value, keyword.arg, text)
    return Named(kind=kind, settings=settings)


def _value(node: ast.expr, setting: str, text: str) -> Any:
    if setting == "of" and not isinstance(node, ast.Constant):
        return _named(node, PURIFIERS, "purifier", text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise _unreadable(text) from error


def _kind(name: str, known: Mapping[str, type[Any]], what: str) -> str:
    wanted = _plain(name)
    by_plain = {_plain(one): one for one in known}
    by_plain |= {short: one for short, one in _ALSO.items() if one in known}
    if wanted in by_plain:
        return by_plain[wanted]
    for one, why in _WITHOUT.items():
        if _plain(one) == wanted:
            raise ConfigurationError(f"{one} is not built from a line of text: {why}.")
    near = difflib.get_close_matches(wanted, by_plain, n=1)
    hint = f" Did you mean {by_plain[near[0]]}?" if near else ""
    raise ConfigurationError(f"There is no {what} {name!r}.{hint} There are: {', '.join(known)}.")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def file_name(text: str) -> str:
    """A part or a guard as it is written, in letters that suit a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _settings_of(kind: type[Any]) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    named = [one.name for one in parameters if one.kind == one.KEYWORD_ONLY]
    return [name for name in named if name not in _NOT_SETTINGS]
