"""The parts of the library by name, built from what a study tells them and described again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from notsure import attacks, correctors, detectors, purifiers, training
from notsure.attacks import AdvGAN, Attack, Goal, GradientSource, Objective
from notsure.core.errors import ConfigurationError, NotSureError
from notsure.core.part import Part
from notsure.correctors import Corrector
from notsure.detectors import Detector
from notsure.purifiers import Purifier
from notsure.studies.declared import PartSpec
from notsure.studies.document import Path, nearest
from notsure.studies.made_of_data import EmbeddedLabels
from notsure.training import Augmentation, LabelEmbedding, Recipe, Sum, TrainingObjective

F = TypeVar("F")

Where = Callable[[Path, bool], str]
"""Where the value at a path is written; True for its key. An error's message begins with it."""


def _public(room: ModuleType, kind: type[Any], *but: str) -> dict[str, type[Any]]:
    """What a room offers of a kind, by name, besides what is abstract."""
    found = [getattr(room, name) for name in room.__all__]
    return {
        one.__name__: one
        for one in found
        if inspect.isclass(one)
        and issubclass(one, kind)
        and not inspect.isabstract(one)
        and one.__name__ not in but
    }


FAMILIES: Mapping[str, Mapping[str, type[Any]]] = {
    # Sum is written as a list
    "objective": _public(training, TrainingObjective, "Sum"),
    # what is fitted first, or made of networks, is no part that settings alone describe
    "attack": _public(attacks, Attack, "AdvGAN", "FittedAdvGAN", "Transfer"),
    "fitted attack": {AdvGAN.__name__: AdvGAN},
    "attack objective": _public(attacks, Objective),
    "gradient source": _public(attacks, GradientSource),
    "goal": _public(attacks, Goal),
    "detector": _public(detectors, Detector),
    "purifier": _public(purifiers, Purifier),
    "corrector": _public(correctors, Corrector),
}
"""The parts that a study may name, by family."""

_INSTEAD = {
    "Transfer": "List the attack under the threat 'transfer', and give substitutes.",
    "AdvGAN": "It is fitted first: only an entry of attacks can be, and it names a network.",
    "FittedAdvGAN": "Its name is AdvGAN; it is fitted first, against a network.",
    "Sum": "Write a list of objectives.",
}

_OF_DATA: Mapping[tuple[str, str], tuple[str, type[Any]]] = {
    ("objective", LabelEmbedding.__name__): ("targets", EmbeddedLabels),
}
"""What is made of the training images, by family and kind, where a setting is not given."""

_INNER: Mapping[tuple[str, str], str] = {
    ("objective", "attack"): "attack",
    ("objective", "attacks"): "attack",
    ("objective", "of"): "objective",
    ("attack", "objective"): "attack objective",
    ("attack", "gradient"): "gradient source",
    ("attack", "steer"): "goal",
    ("attack objective", "base"): "attack objective",
    ("gradient source", "of"): "gradient source",
    ("goal", "goal"): "goal",
    ("detector", "detectors"): "detector",
    ("purifier", "generator"): "purifier",
}
"""The family of what a setting of a family holds."""

REFERENCE = ("detector", "of")
"""The setting that names a purifier of the study."""


def _nowhere(path: Path, _key: bool) -> str:
    return ".".join(str(step) for step in path) or "a part"


class Builder:
    """Builds parts, and tells where what cannot be built is written.

    Args:
        where: where the value at a path is written.
        purifiers: what a detector's `of` may name.
    """

    def __init__(
        self, where: Where = _nowhere, purifiers: Mapping[str, Purifier] | None = None
    ) -> None:
        self.where, self.purifiers = where, purifiers or {}

    def error(self, text: str, path: Path, *, key: bool = False) -> ConfigurationError:
        """The error that points at the value at a path."""
        return ConfigurationError(f"{self.where(path, key)}: {text}")

    def part(self, family: str, given: Any, path: Path = ()) -> Any:
        """A part of a family.

        Args:
            family: one of `FAMILIES`.
            given: its kind, or a mapping of `kind` and `settings`.
            path: where it is written.

        Raises:
            ConfigurationError: there is no such part or setting, or a setting is out of range.
        """
        kind, settings = self._kind(family, given, path), self._settings(given, path)
        called = kind.__name__
        setting, of_data = _OF_DATA.get((family, called), ("", kind))
        if setting not in settings:
            kind = of_data
        inner = (*path, "settings")
        known = settings_of(kind)
        for name in settings:
            if name not in known:
                raise self.error(
                    f"{called} has no setting {name!r}.{nearest(name, known)}",
                    (*inner, name),
                    key=True,
                )
        missing = [name for name, needed in known.items() if needed and name not in settings]
        if missing:
            raise self.error(f"{called} needs {' and '.join(missing)}.", path)
        hints = _hints(kind)
        built = {
            name: self._setting(family, name, value, hints.get(name), (*inner, name))
            for name, value in settings.items()
        }
        return self.guarded(lambda: kind(**built), path, tuple(settings))

    def guarded(self, make: Callable[[], Any], path: Path, settings: Sequence[str] = ()) -> Any:
        """What is made, or the error that says where it is written.

        Args:
            make: makes it.
            path: where it is written.
            settings: the names of its settings; an error that begins with one points at it.
        """
        try:
            return make()
        except NotSureError as error:
            name = str(error).partition(" ")[0].partition("=")[0]
            inner = (*path, "settings", name) if name in settings else path
            raise self.error(str(error), inner) from error
        except (TypeError, ValueError) as error:
            raise self.error(f"This cannot be: {error}", path) from error

    def _kind(self, family: str, given: Any, path: Path) -> type[Any]:
        kinds = FAMILIES[family]
        name = given.get("kind") if isinstance(given, Mapping) else given
        place = (*path, "kind")
        if not isinstance(name, str):
            raise self.error(
                f"Here is to be a part, {{kind: ..., settings: {{...}}}}: one of the family "
                f"{family!r}; got {given!r}.{nearest('', kinds)}",
                path,
            )
        if name not in kinds:
            instead = _INSTEAD.get(name)
            if instead is not None:
                raise self.error(f"{name} is no {family} of a study. {instead}", place)
            raise self.error(f"There is no {family} {name!r}.{nearest(name, kinds)}", place)
        return kinds[name]

    def _settings(self, given: Any, path: Path) -> Mapping[str, Any]:
        if not isinstance(given, Mapping):
            return {}
        surplus = given.keys() - {"kind", "settings"}
        if surplus:
            name = sorted(surplus)[0]
            raise self.error(
                f"A part has kind and settings, and no {name!r}: put it into its settings.",
                (*path, name),
                key=True,
            )
        settings = given.get("settings") or {}
        if not isinstance(settings, Mapping):
            raise self.error("settings have to be a mapping, name: value.", (*path, "settings"))
        return settings

    def _setting(self, family: str, name: str, value: Any, hint: Any, path: Path) -> Any:
        inner = _INNER.get((family, name))
        if (family, name) == REFERENCE and value is not None:
            if value not in self.purifiers:
                raise self.error(
                    f"There is no purifier {value!r}.{nearest(value, self.purifiers)}", path
                )
            return self.purifiers[value]
        if inner is None:
            self._check(value, hint, path)
            return tuple(value) if isinstance(value, list) else value
        if value is None:
            return None
        if (family, name) == ("detector", "detectors") and isinstance(value, Mapping):
            return {key: self.part(inner, one, (*path, key)) for key, one in value.items()}
        if not isinstance(value, list):
            return self.part(inner, value, path)
        built = tuple(self.part(inner, one, (*path, at)) for at, one in enumerate(value))
        return self.guarded(lambda: Sum(parts=built), path) if inner == "objective" else built

    def _check(self, value: Any, hint: Any, path: Path) -> None:
        """Checks a value's type, strictly: 2.0 is no number of steps, "3" is no number."""
        if hint is None or isinstance(value, list | tuple | Mapping):
            return
        try:
            config = ConfigDict(arbitrary_types_allowed=True)
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=config)
        except (PydanticSchemaGenerationError, TypeError):
            return
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            said = " or ".join(dict.fromkeys(one["msg"] for one in error.errors()))
            raise self.error(f"{path[-1]}: {said}; got {value!r}.", path) from None

    def objective(self, given: Sequence[PartSpec], path: Path = ()) -> TrainingObjective:
        """What is minimised: an objective, or the sum of several."""
        parts = [
            self.part("objective", one.model_dump(), self._of_several(path, at, len(given)))
            for at, one in enumerate(given)
        ]
        first: TrainingObjective = parts[0]
        if len(parts) == 1:
            return first
        total: TrainingObjective = self.guarded(lambda: Sum(parts=tuple(parts)), path)
        return total

    def _of_several(self, path: Path, at: int, count: int) -> Path:
        return path if count == 1 else (*path, at)

    def recipe(self, given: Mapping[str, Any], path: Path = (), *, seed: int = 0) -> Recipe:
        """How something is trained; its seed is `seed` where it is not given.

        Raises:
            ConfigurationError: there is no such setting, or it is out of range.
        """
        settings = {"seed": seed, **given}
        changes = settings.pop("augmentation", None)
        self._check_fields(Recipe, settings, path)
        if changes is not None:
            inner = (*path, "augmentation")
            if not isinstance(changes, Mapping):
                raise self.error("augmentation is a mapping of its settings.", inner)
            self._check_fields(Augmentation, changes, inner)
            settings["augmentation"] = self.guarded(lambda: Augmentation(**changes), inner)
        made: Recipe = self.guarded(lambda: Recipe(**settings), path)
        return made

    def fields(self, kind: type[F], settings: Mapping[str, Any], path: Path = ()) -> F:
        """A dataclass of plain settings.

        Raises:
            ConfigurationError: there is no such setting, or it is out of range.
        """
        self._check_fields(kind, settings, path)
        made: F = self.guarded(lambda: kind(**settings), path)
        return made

    def _check_fields(self, kind: type[Any], settings: Mapping[str, Any], path: Path) -> None:
        known, hints = settings_of(kind), _hints(kind)
        for name, value in settings.items():
            if name not in known:
                raise self.error(
                    f"{kind.__name__} has no setting {name!r}.{nearest(name, known)}",
                    (*path, name),
                    key=True,
                )
            self._check(value, hints.get(name), (*path, name))


def settings_of(kind: type[Any]) -> dict[str, bool]:
    """What a part can be told, and whether it has to be."""
    if is_dataclass(kind):
        return {
            one.name: one.default is MISSING and one.default_factory is MISSING
            for one in fields(kind)
            if one.init
        }
    return {one.name: one.default is inspect.Parameter.empty for one in _parameters(kind)}


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    """A constructor's own arguments; a part without any takes those of torch's modules."""
    return [
        one
        for one in inspect.signature(kind).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    try:
        return get_type_hints(kind if is_dataclass(kind) else kind.__init__)
    except NameError:
        return {}


def described(value: Any) -> Any:
    """What an attack, an objective or a recipe was told, in JSON's own types, defaults included."""
    if is_dataclass(value) and not isinstance(value, type):
        told = {one.name: described(getattr(value, one.name)) for one in fields(value) if one.init}
        return {"kind": type(value).__name__, "settings": told}
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    return value


def described_recipe(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe, in JSON's own types."""
    return asdict(recipe)


def completed(family: str, given: Any) -> dict[str, Any]:
    """A detector, purifier or corrector as a study has it, its defaults written out.

    Args:
        family: one of those whose members are `Part`s.
        given: its kind, or kind and settings, which `Builder.part` has accepted.
    """
    name = given["kind"] if isinstance(given, Mapping) else given
    settings = (given.get("settings") or {}) if isinstance(given, Mapping) else {}
    kind: type[Part] = FAMILIES[family][name]
    told: dict[str, Any] = {}
    for one in _parameters(kind):
        value = settings.get(one.name, None if one.default is one.empty else one.default)
        inner = _INNER.get((family, one.name))
        if inner is not None and value is not None:
            if (family, one.name) == ("detector", "detectors"):
                value = {key: completed(inner, part) for key, part in value.items()}
            else:
                value = completed(inner, value)
        told[one.name] = list(value) if isinstance(value, tuple) else value
    return {"kind": name, "settings": told}


def purifiers_named_in(given: Any) -> Iterator[str]:
    """The purifiers that a completed detector, and those within it, name by `of`."""
    for name, value in given["settings"].items():
        if name == REFERENCE[1] and value is not None:
            yield value
        elif name == "detectors":
            for one in value.values():
                yield from purifiers_named_in(one)


def with_purifiers(given: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """A completed detector with other names for the purifiers that it names."""
    told = dict(given["settings"])
    if told.get(REFERENCE[1]) is not None:
        told[REFERENCE[1]] = names[told[REFERENCE[1]]]
    if "detectors" in told:
        told["detectors"] = {
            key: with_purifiers(one, names) for key, one in told["detectors"].items()
        }
    return {"kind": given["kind"], "settings": told}
