"""YAML that remembers where everything stands, so that an error can point at it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from notsure.core.errors import ConfigurationError

Path = tuple[str | int, ...]
"""The keys and positions that lead to a value, from the top of a document."""


@dataclass(frozen=True)
class Place:
    """Where something is written.

    Attributes:
        file: the file, as it was given.
        line: from 1.
        column: from 1.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def error(self, text: str) -> ConfigurationError:
        """The error that points here."""
        return ConfigurationError(f"{self}: {text}")


@dataclass(frozen=True)
class Node:
    """A value of a document with its place.

    Attributes:
        value: a scalar, a list of nodes, or nodes by key.
        place: where the value begins.
        keys: of a mapping, where each key stands.
    """

    value: str | int | float | bool | list[Node] | dict[str, Node] | None
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def mapping(self, what: str) -> dict[str, Node]:
        """Its nodes by key; none where nothing is written.

        Raises:
            ConfigurationError: it is something else.
        """
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.place.error(f"{what} has to be a mapping, key: value.")
        return self.value

    def place_of(self, path: Path, *, key: bool = False) -> Place:
        """Where the value at a path stands, or the nearest value around it that there is.

        Args:
            path: keys and positions; those that lead nowhere are passed over.
            key: give the place of the last key in place of that of its value.
        """
        place, node = self.place, self
        for step in path:
            if isinstance(node.value, dict) and step in node.value:
                place = node.keys.get(str(step), node.place)
                node = node.value[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                place = node.place
            else:
                continue
            if not key:
                place = node.place
        return place


class _Loader(yaml.SafeLoader):
    """YAML with the words and numbers of JSON: "no" and "off" are text, 1e-3 is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the base class's own form)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


def parse(text: str, file: str) -> Node:
    """Reads a document.

    Args:
        text: YAML.
        file: what errors call it.

    Raises:
        ConfigurationError: it is no YAML, holds a key twice, or something that holds itself.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise Place(file, 1, 1).error("There is nothing in it.")
        return _node(root, file, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, 1, 1) if mark is None else _place(mark, file)
        said = error.problem or error.context
        raise place.error(f"This is no YAML: {said}.") from error
    except yaml.YAMLError as error:
        raise Place(file, 1, 1).error(f"This is no YAML: {error}.") from error
    finally:
        loader.dispose()


def _place(mark: yaml.Mark, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _node(raw: yaml.Node, file: str, around: tuple[int, ...]) -> Node:
    place = _place(raw.start_mark, file)
    if id(raw) in around:
        raise place.error("An anchor is used within what it stands for, which has no end.")
    inside = (*around, id(raw))
    if isinstance(raw, yaml.MappingNode):
        values: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key, value in raw.value:
            here = _place(key.start_mark, file)
            if not isinstance(key, yaml.ScalarNode):
                raise here.error("A key has to be a word.")
            name = str(key.value)
            if name in values:
                raise here.error(f"The key {name!r} is there twice, first at {keys[name]}.")
            values[name] = _node(value, file, inside)
            keys[name] = here
        return Node(values, place, keys)
    if isinstance(raw, yaml.SequenceNode):
        return Node([_node(entry, file, inside) for entry in raw.value], place)
    return Node(_scalar(raw, place), place)


def _scalar(raw: yaml.Node, place: Place) -> str | int | float | bool | None:
    """The value of a scalar; YAML's own reading takes 010 for eight."""
    text, tag = str(raw.value), raw.tag.removeprefix("tag:yaml.org,2002:")
    if tag == "int":
        return int(text)
    if tag == "float":
        return float(text)
    if tag == "bool":
        return text == "true"
    if tag == "null":
        return None
    if tag != "str":
        raise place.error(f"A value of the type {raw.tag} has no meaning here: write text.")
    return text


def merged(base: Node, over: Node) -> Node:
    """Two documents as one; where both speak, `over` has the word.

    Mappings are merged key by key, all else is replaced as a whole: lists, and parts that are of
    another kind, whose settings would mean something else.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    ours, theirs = base.value.get("kind"), over.value.get("kind")
    if ours is not None and theirs is not None and ours.plain() != theirs.plain():
        return over
    values = dict(base.value)
    for key, node in over.value.items():
        values[key] = merged(values[key], node) if key in values else node
    return Node(values, over.place, {**base.keys, **over.keys})


def nearest(word: object, known: Iterable[str]) -> str:
    """What is known in place of a word that is not, as the end of an error's message."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1)
    if not close:
        # "kdensity" is near to "KDensity" for people, though not letter by letter
        folded = {name.lower(): name for name in names}
        found = difflib.get_close_matches(str(word).lower(), folded, n=1)
        close = [folded[one] for one in found]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    there = f" There are: {', '.join(names)}." if names else " There are none."
    return hint + there
