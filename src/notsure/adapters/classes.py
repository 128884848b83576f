"""The classes of a model and of data: matched by their names, or by their positions if unnamed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch

from notsure.core.errors import ConfigurationError
from notsure.data import Images

_TOLD = 6


def matched(
    images: Images, class_names: Sequence[str], num_classes: int, *, by_position: bool = False
) -> tuple[Images, str]:
    """The images with the model's class numbers and names.

    Names are compared without regard to case, spaces, hyphens and underscores; of a name such as
    "tench, Tinca tinca" any part will do. Data whose classes are numbered only ("0", "1", ...) keep
    their numbers.

    Args:
        images: the data, numbered by its own classes.
        class_names: the model's, in the order of its logits; empty where it has none.
        num_classes: K of the model.
        by_position: keep the data's numbers whatever the names are.

    Returns:
        The images with labels in the order of the logits, and a sentence that says how the classes
        were matched.

    Raises:
        ConfigurationError: a class of the data is none of the model's, or there are too many; both
            lists are shown.
    """
    own = images.class_names
    nameless = (_numbered(own) or _numbered(class_names)) and not set(own) <= set(class_names)
    if not class_names or by_position or nameless:
        if len(own) > num_classes:
            raise ConfigurationError(
                f"The data have {len(own)} classes and the model {num_classes}: "
                f"{_both(own, class_names)}."
            )
        names = _named(own, class_names, num_classes)
        why = "as asked" if by_position else "one of the two has no names"
        told = f"Classes by position ({why}): {len(own)} of the data, {num_classes} of the model."
        if _numbered(own) and list(own) != sorted(own, key=_number):
            told += (
                f" The data's are in the order of their names as texts ({', '.join(own[:4])}, "
                "...), not of their numbers."
            )
        return Images(images.pixels, images.labels, names), told
    # a whole name goes before the part of another
    places = {_plain(name): place for place, name in reversed(list(enumerate(class_names)))}
    for place, name in enumerate(class_names):
        for part in _parts(name):
            places.setdefault(part, place)
    to_model = [
        next((places[part] for part in _parts(name) if part in places), None) for name in own
    ]
    present = set(images.labels.tolist())
    foreign = [name for i, name in enumerate(own) if to_model[i] is None and i in present]
    if foreign:
        near = difflib.get_close_matches(_plain(foreign[0]), list(places), n=1)
        hint = ""
        if near:
            hint = f" The nearest to {foreign[0]!r} is {class_names[places[near[0]]]!r}."
        raise ConfigurationError(
            f"{len(foreign)} classes of the data are none of the model's, {foreign[0]!r} among "
            f"them.{hint} {_both(own, class_names)}. Rename them, or match them by their positions "
            "(--by-position) if the order is the same."
        )
    found = [-1 if place is None else place for place in to_model]
    twice = [place for place in set(found) if place >= 0 and found.count(place) > 1]
    if twice:
        both = [own[i] for i, place in enumerate(found) if place == twice[0]]
        raise ConfigurationError(
            f"The data's classes {both} are all the model's {class_names[twice[0]]!r}: rename them."
        )
    labels = torch.tensor(found)[images.labels]
    moved = any(place not in (i, -1) for i, place in enumerate(found))
    order = "in the same order"
    if moved:
        order = "in another order than the data's, so the labels were renumbered"
    told = f"Classes by name: {len(present)} of the model's {num_classes} have images, {order}."
    return Images(images.pixels, labels, tuple(class_names)), told


def _named(own: Sequence[str], model: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """The names to report: the model's if it has any, else the data's and numbers for the rest."""
    if model:
        return tuple(model)
    return (*own, *(str(i) for i in range(len(own), num_classes)))


def _numbered(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"(LABEL_|class[ _-]?)?\d+", name) for name in names)


def _number(name: str) -> int:
    """The number in a numbered name."""
    return int(re.sub(r"\D", "", name))


def _parts(name: str) -> list[str]:
    """The whole name and its parts between commas, in a plain form."""
    return [one for one in map(_plain, [name, *name.split(",")]) if one]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()


def _both(own: Sequence[str], model: Sequence[str]) -> str:
    return f"The data have {_listed(own)}; the model has {_listed(model) or 'no names'}"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)})" if len(names) > _TOLD else ""
    return ", ".join(map(repr, names[:_TOLD])) + more
