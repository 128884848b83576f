"""How a study's file becomes a study: scale, defaults, grids, and errors that name the line.

The form of a study is checked here, and that what it names is there; what its parts are told is
looked into by `notsure.studies.parts`, for which it takes torch.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path as FilePath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from notsure.core.errors import ConfigurationError
from notsure.studies.declared import Study
from notsure.studies.document import Node, Path, merged, nearest, parse
from notsure.studies.forms import Scale
from notsure.studies.grid import expanded
from notsure.studies.question_checks import check_questions

__all__ = ["SECTIONS", "Scale", "Study", "load_study", "names", "study_of", "study_text"]

_GRIDDED = ("data", "networks", "purifiers", "attacks", "guards", "evaluations", "figures")
"""Sections whose entries may have grids; in the others braces hold columns of cells."""

SECTIONS = (*_GRIDDED, "cells", "waiting", "adaptive")
"""What has entries by name; defaults and scales work on these."""

_SHORT = ("attacks", "purifiers")
"""Sections whose entries may be a kind alone."""

_MOST = 10
"""So many errors of one file are told at once."""


def names() -> tuple[str, ...]:
    """The studies that come with the library, sorted."""
    files = resources.files("notsure.studies").joinpath("files")
    found = [one.name for one in files.iterdir() if one.name.endswith(".yaml")]
    return tuple(sorted(name.removesuffix(".yaml") for name in found))


def load_study(path_or_name: str | FilePath, scale: str = "smoke") -> Study:
    """Reads a study.

    A file holds a `name`, a `title`, the sections of `Study`, and:

    - `defaults`: by section, what each of its entries has where it says nothing else;
    - `scales`: by scale, what differs from the rest of the file. An entry that is null is left out;
    - `grid` in an entry: by key a list of values, see `notsure.studies.grid`; not in `cells`,
      `waiting` and `adaptive`.

    `cells` say which result answers which published figures, `waiting` which have no answer at
    this scale, and `adaptive` what is told under an adaptive attacker: see `CellsSpec`,
    `WaitingSpec` and `AdaptiveSpec` in `notsure.studies.declared_cells`. `figures` say which
    pictures stand for the report's: see `FigureSpec` in `notsure.studies.declared_figures`.

    Args:
        path_or_name: a YAML file, or the name of a study that comes with the library.
        scale: one of those that the study declares.

    Returns:
        The study at that scale.

    Raises:
        ConfigurationError: there is no such study or scale, or something in it cannot be; the
            message names the file, the line and the column, and the nearest known word.
    """
    text, file = study_text(path_or_name)
    return study_of(text, file, scale)


def study_text(path_or_name: str | FilePath) -> tuple[str, str]:
    """What a study's file says, and what the file is called.

    Args:
        path_or_name: as `load_study` takes it.

    Raises:
        ConfigurationError: there is no such study, or the file is no text.
    """
    path = FilePath(path_or_name)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path_or_name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{str(path)!r} cannot be read as text: {error}.") from error
    if len(path.parts) > 1 or path.suffix in (".yaml", ".yml"):
        raise ConfigurationError(
            f"There is no file {str(path)!r}: give a study's YAML file, or the name of one of "
            f"the library's: {', '.join(names())}."
        )
    if path.name not in names():
        raise ConfigurationError(
            f"There is no study {path.name!r}, and no file of that name."
            f"{nearest(path.name, names())}"
        )
    file = resources.files("notsure.studies").joinpath("files").joinpath(f"{path.name}.yaml")
    return file.read_text(encoding="utf-8"), file.name


def study_of(text: str, file: str, scale: str) -> Study:
    """The study that a text declares.

    Args:
        text: YAML.
        file: what errors call it.
        scale: one of those that it declares.

    Raises:
        ConfigurationError: as `load_study`.
    """
    document = parse(text, file)
    top = document.mapping("A study")
    for key in top:
        known = [*(name for name in Study.model_fields if name != "scale"), "defaults", "scales"]
        if key not in known:
            place = document.keys[key]
            raise place.error(f"A study has no {key!r}.{nearest(key, known)}")
    document = _with_scale(document, scale)
    document = _with_entries(document)
    fields = {key: node for key, node in document.mapping("A study").items() if key != "defaults"}
    fields["scale"] = Node(scale, document.place)
    document = _with_matches(Node(fields, document.place, document.keys))
    try:
        study = Study.model_validate(document.plain())
    except ValidationError as error:
        raise _told(error, document) from None
    study = study.with_document(document)
    study.check_names()
    check_questions(study)
    return study


def _with_scale(document: Node, scale: str) -> Node:
    """The document with what differs at a scale, without the others."""
    fields = dict(document.mapping("A study"))
    declared = fields.pop("scales", Node(None, document.place))
    scales = declared.mapping("scales")
    for name in scales:
        if name not in get_args(Scale):
            raise declared.keys[name].error(
                f"There is no scale {name!r}.{nearest(name, get_args(Scale))}"
            )
    if scale not in scales:
        place = document.keys.get("scales", document.place)
        raise place.error(
            f"This study has no scale {scale!r}.{nearest(scale, scales)} A scale is declared "
            "under scales, with what differs in it, or nothing."
        )
    own = scales[scale]
    for key, changes in own.mapping(f"The scale {scale!r}").items():
        place = own.keys[key]
        if key not in (*SECTIONS, "defaults"):
            raise place.error(
                f"A scale changes entries and defaults, not {key!r}."
                f"{nearest(key, (*SECTIONS, 'defaults'))}"
            )
        base = fields.get(key, Node({}, place))
        if key != "defaults":
            base = _without_dropped(key, base, changes)
            kept = {n: v for n, v in changes.mapping(key).items() if v.value is not None}
            changes = Node(kept, changes.place, changes.keys)
        fields[key] = merged(Node(base.mapping(key), base.place, base.keys), changes)
    return Node(fields, document.place, document.keys)


def _without_dropped(section: str, base: Node, changes: Node) -> Node:
    """The section without the entries that a scale leaves out."""
    entries = dict(base.mapping(section))
    for name, change in changes.mapping(section).items():
        if name not in entries:
            raise changes.keys[name].error(
                f"A scale changes what is there, and {section} has no {name!r}."
                f"{nearest(name, entries)}"
            )
        if change.value is None:
            del entries[name]
        elif section in _SHORT:
            entries[name] = _as_mapping(entries[name])
    return Node(entries, base.place, base.keys)


def _with_entries(document: Node) -> Node:
    """The document with the defaults in its entries, and these one by one."""
    fields = dict(document.mapping("A study"))
    given = fields.get("defaults", Node({}, document.place))
    defaults = given.mapping("defaults")
    for section in defaults:
        if section not in SECTIONS:
            raise given.keys[section].error(
                f"There are no defaults for {section!r}.{nearest(section, SECTIONS)}"
            )
    for section in SECTIONS:
        if section not in fields:
            continue
        entries: dict[str, Node] = {}
        keys = {}
        for name, node in fields[section].mapping(section).items():
            place = fields[section].keys.get(name, node.place)
            entry = _as_mapping(node) if section in _SHORT else node
            entry = Node(entry.mapping(f"{section}: {name}"), entry.place, entry.keys)
            # what is made of another network is trained as that one was
            if section in defaults and "retrofit" not in entry.mapping(name):
                entry = merged(defaults[section], entry)
            gridded = section in _GRIDDED
            for own, body in expanded(name, place, entry) if gridded else [(name, entry)]:
                if own in entries:
                    raise place.error(f"There are two {section} of the name {own!r}.")
                entries[own], keys[own] = body, place
        fields[section] = Node(entries, fields[section].place, keys)
    return Node(fields, document.place, document.keys)


def _as_mapping(entry: Node) -> Node:
    """An entry that is a kind alone, written out."""
    if not isinstance(entry.value, str):
        return entry
    return Node({"kind": entry}, entry.place, {"kind": entry.place})


def _with_matches(document: Node) -> Node:
    """The document with the guards that "ce-*" stands for in its evaluations."""
    fields = dict(document.mapping("A study"))
    evaluations, guards = fields.get("evaluations"), fields.get("guards")
    if evaluations is None or guards is None or not isinstance(guards.value, dict):
        return document
    entries = dict(evaluations.mapping("evaluations"))
    for name, entry in entries.items():
        listed = entry.mapping(name).get("guards")
        if listed is None or not isinstance(listed.value, list):
            continue
        matched = list(_matches(listed.value, list(guards.value)))
        own = {**entry.mapping(name), "guards": Node(matched, listed.place)}
        entries[name] = Node(own, entry.place, entry.keys)
    fields["evaluations"] = Node(entries, evaluations.place, evaluations.keys)
    return Node(fields, document.place, document.keys)


def _matches(listed: Sequence[Node], known: Sequence[str]) -> Iterator[Node]:
    seen: set[str] = set()
    for node in listed:
        pattern = node.value
        found = [str(pattern)]
        if isinstance(pattern, str) and "*" in pattern:
            found = [one for one in known if fnmatchcase(one, pattern)]
            if not found:
                raise node.place.error(f"No guard fits {pattern!r}.{nearest(pattern, known)}")
        elif not isinstance(pattern, str):
            yield node
            continue
        for one in found:
            if one not in seen:
                seen.add(one)
                yield Node(one, node.place)


def _told(error: ValidationError, document: Node) -> ConfigurationError:
    """The errors of a study's form, each with its place, in the order of the file."""
    lines: dict[tuple[int, int], list[str]] = {}
    files: dict[tuple[int, int], str] = {}
    for one in error.errors():
        path: Path = one["loc"]
        surplus = one["type"] == "extra_forbidden"
        place = document.place_of(path, key=surplus)
        if surplus:
            known = _keys_of(path)
            text = f"There is no key {path[-1]!r} here.{nearest(path[-1], known)}"
        elif one["type"] == "missing":
            text = f"{path[-1]!r} is missing{f' in {_shown(path[:-1])}' * (len(path) > 1)}."
        elif one["type"] == "too_short":
            text = f"{_shown(path)}: there has to be at least one."
        else:
            text = f"{_shown(path)}: {one['msg'].removeprefix('Value error, ')}"
            text = f"{text.rstrip('.')}."
            if not isinstance(one["input"], dict | list) and one["type"] != "value_error":
                text = f"{text[:-1]}; got {one['input']!r}."
        here = (place.line, place.column)
        lines.setdefault(here, []).append(text)
        files[here] = str(place)
    told = [f"{files[here]}: {' '.join(dict.fromkeys(lines[here]))}" for here in sorted(lines)]
    if len(told) > _MOST:
        told = [*told[:_MOST], f"... and {len(told) - _MOST} more."]
    return ConfigurationError("\n".join(told))


def _shown(path: Path) -> str:
    return ".".join(str(step) for step in path)


def _keys_of(path: Path) -> Sequence[str]:
    """The keys of the model that a path leads into."""
    kind: Any = Study
    for step in path[:-1]:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(step)].annotation
        elif get_origin(kind) in (dict, Mapping):
            kind = get_args(kind)[1]
        elif get_origin(kind) is tuple:
            kind = get_args(kind)[0]
    kind = _bare(kind)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _bare(kind: Any) -> Any:
    """A type without Annotated and None around it."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    return kind
