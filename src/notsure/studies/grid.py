"""Grids: one entry of a study that stands for one per combination of values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from notsure.core.errors import ConfigurationError
from notsure.studies.document import Node, Place, nearest

GRID = "grid"
"""The key under which an entry has its grid."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z_]\w*")


def expanded(name: str, place: Place, entry: Node) -> Iterator[tuple[str, Node]]:
    """The entries that one entry stands for, by name.

    `{key}` in the entry's name, its fields and their keys becomes the value of that key of the
    grid; a field that is nothing but "{key}" becomes the value itself, of whatever type. The values
    of a key may hold other keys. "{{" and "}}" are braces.

    Args:
        name: of the entry.
        place: where the name stands.
        entry: the entry, perhaps with a grid.

    Raises:
        ConfigurationError: a placeholder is no key of the grid, keys depend on themselves, or two
            combinations get the same name.
    """
    fields = dict(entry.value) if isinstance(entry.value, dict) else None
    grid = fields.pop(GRID, None) if fields is not None else None
    body = entry if fields is None else Node(fields, entry.place, entry.keys)
    axes = {} if grid is None else _axes(grid)
    names: set[str] = set()
    for chosen in itertools.product(*axes.values()):
        values = _resolved(dict(zip(axes, chosen, strict=True)), grid or entry)
        own = _text(name, place, values)
        if own in names:
            raise place.error(
                f"Two combinations of the grid get the name {own!r}: name every key of the grid "
                f"that has several values in it, such as {name}-{{{next(iter(axes))}}}."
            )
        names.add(own)
        yield own, _substituted(body, values)


def _axes(grid: Node) -> dict[str, list[Node]]:
    axes: dict[str, list[Node]] = {}
    for key, values in grid.mapping("A grid").items():
        if not _WORD.fullmatch(key):
            raise grid.keys[key].error(
                f"{key!r} cannot be the key of a grid: take letters, digits and underscores."
            )
        if not isinstance(values.value, list) or not values.value:
            raise values.place.error(f"The values of {key!r} have to be a list of at least one.")
        axes[key] = values.value
    return axes


def _resolved(values: Mapping[str, Node], grid: Node) -> dict[str, Node]:
    """The values of one combination, without placeholders."""
    done: dict[str, Node] = {}

    def resolve(key: str, waiting: tuple[str, ...]) -> None:
        if key in done:
            return
        if key in waiting:
            circle = " -> ".join([*waiting[waiting.index(key) :], key])
            place = grid.keys.get(key, grid.place)
            raise place.error(f"The grid goes round in a circle: {circle}.")
        for other in _placeholders(values[key]):
            if other in values:
                resolve(other, (*waiting, key))
        done[key] = _substituted(values[key], done, known=values)

    for key in values:
        resolve(key, ())
    return {key: done[key] for key in values}


def _placeholders(node: Node) -> Iterator[str]:
    if isinstance(node.value, dict):
        for key, value in node.value.items():
            yield from _in_text(key)
            yield from _placeholders(value)
    elif isinstance(node.value, list):
        for value in node.value:
            yield from _placeholders(value)
    elif isinstance(node.value, str):
        yield from _in_text(node.value)


def _in_text(text: str) -> Iterator[str]:
    for found in _PLACEHOLDER.finditer(text):
        if found[1] is not None:
            yield found[1]


def _substituted(
    node: Node, values: Mapping[str, Node], known: Mapping[str, Node] | None = None
) -> Node:
    if isinstance(node.value, dict):
        _refuse_unquoted(node, values)
        fields: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key, value in node.value.items():
            place = node.keys.get(key, node.place)
            own = _text(key, place, values, known)
            if own in fields:
                raise place.error(f"The grid makes the key {own!r} twice.")
            fields[own], keys[own] = _substituted(value, values, known), place
        return Node(fields, node.place, keys)
    if isinstance(node.value, list):
        return Node([_substituted(one, values, known) for one in node.value], node.place)
    if isinstance(node.value, str):
        whole = _PLACEHOLDER.fullmatch(node.value)
        if whole is not None and whole[1] in values:
            return values[whole[1]]
        return Node(_text(node.value, node.place, values, known), node.place)
    return node


def _refuse_unquoted(node: Node, values: Mapping[str, Node]) -> None:
    """Refuses `field: {key}`, which is a mapping to YAML."""
    if isinstance(node.value, dict) and len(node.value) == 1:
        ((key, value),) = node.value.items()
        if key in values and value.value is None:
            raise node.place.error(f'Quote the placeholder, or YAML takes it apart: "{{{key}}}".')


def _text(
    text: str, place: Place, values: Mapping[str, Node], known: Mapping[str, Node] | None = None
) -> str:
    def replaced(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        if found[1] not in values:
            raise _unknown(found[1], place, values if known is None else known)
        return _written(found[1], values[found[1]], place)

    return _PLACEHOLDER.sub(replaced, text)


def _unknown(key: str, place: Place, known: Mapping[str, Node]) -> ConfigurationError:
    if not known:
        return place.error(
            f"{{{key}}} stands for a value of a grid, and there is no grid here: add one, "
            f"{GRID}: {{{key or 'key'}: [...]}}, or write {{{{{key}}}}} for braces."
        )
    return place.error(f"{{{key}}} is no key of this grid.{nearest(key, known)}")


def _written(key: str, node: Node, place: Place) -> str:
    value = node.value
    if isinstance(value, dict | list):
        raise place.error(
            f"{{{key}}} is not one word but a mapping or a list, which cannot be part of a text: "
            "take it for a whole field."
        )
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
