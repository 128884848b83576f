"""A step's identity changes with whatever its result depends on, and with nothing else."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from notsure.core.errors import (
    ConfigurationError,
)
from notsure.studies.run import run_step
from notsure.studies.steps import Context, Step
from notsure.studies.store import Store
from tests.toy_steps import (
    Write,
    script,
)


def test_an_identity_is_the_hash_of_kind_version_settings_and_needs() -> None:
    need = Write(name="a", text="x")
    step = Write(name="b", text="ü", more={"z": [1, 2.5, None], "a": {"k": True}}, sources=(need,))

    def expected(settings: str, needs: str) -> str:
        text = f'{{"kind": "write", "needs": [{needs}], "settings": {settings}, "version": 1}}'
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    first = expected('{"text": "x"}', "")
    assert need.identity == first
    settings = '{"a": {"k": true}, "text": "\\u00fc", "z": [1, 2.5, null]}'
    assert step.identity == expected(settings, f'"{first}"')


def test_an_identity_is_the_same_in_every_process() -> None:
    code = (
        "from tests.toy_steps import Write\n"
        "more = {k: {j: 1 for j in {'p', 'q', 'r'}} for k in {'a', 'b', 'c', 'd'}}\n"
        "print(Write(name='n', text='t', more=more, sources=(Write(name='m'),)).identity)"
    )
    found = set()
    for seed in ("1", "2", "3"):
        with script(code, seed=seed) as process:
            found.add(process.communicate(timeout=60)[0].strip())
    assert len(found) == 1
    assert len(found.pop()) == 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewWrite(Write):
    version: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherWrite(Write):
    kind: ClassVar[str] = "other"


class Colour(str, enum.Enum):
    RED = "red"


NEED, OTHER = Write(name="need", text="n"), Write(name="other", text="o")
BASE = Write(name="base", text="t", more={"a": 1, "b": {"c": [1, 2]}}, sources=(NEED, OTHER))


@pytest.mark.parametrize(
    "step",
    [
        dataclasses.replace(BASE, text="u"),
        dataclasses.replace(BASE, more={"a": 1.0, "b": {"c": [1, 2]}}),
        dataclasses.replace(BASE, more={"a": "1", "b": {"c": [1, 2]}}),
        dataclasses.replace(BASE, more={"a": True, "b": {"c": [1, 2]}}),
        dataclasses.replace(BASE, more={"a": 1, "b": {"c": [2, 1]}}),
        dataclasses.replace(BASE, more={"a": 1, "b": {"c": [1, 2]}, "d": None}),
        dataclasses.replace(BASE, sources=(OTHER, NEED)),
        dataclasses.replace(BASE, sources=(NEED,)),
        dataclasses.replace(BASE, sources=(dataclasses.replace(NEED, text="m"), OTHER)),
        NewWrite(name="base", text="t", more=BASE.more, sources=BASE.sources),
        OtherWrite(name="base", text="t", more=BASE.more, sources=BASE.sources),
    ],
)
def test_an_identity_changes_with_whatever_the_result_depends_on(step: Step) -> None:
    assert step.identity != BASE.identity


@pytest.mark.parametrize(
    "step",
    [
        dataclasses.replace(BASE, name="another name"),
        dataclasses.replace(BASE, seconds=3.0, log=Path("log")),
        dataclasses.replace(BASE, more={"b": {"c": (1, 2)}, "a": 1}),
        dataclasses.replace(BASE, sources=(dataclasses.replace(NEED, name="else"), OTHER)),
    ],
)
def test_an_identity_does_not_change_with_anything_else(step: Step) -> None:
    assert step.identity == BASE.identity


def test_an_enumeration_stands_for_its_value() -> None:
    named = Write(name="a", more={"colour": Colour.RED})
    assert named.identity == Write(name="a", more={"colour": "red"}).identity


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1, 2}, "settings.bad is of type set"),
        (Path("x"), "type PosixPath"),
        ([{"deep": 1j}], r"settings.bad\[0\].deep is of type complex"),
        ({1: "x"}, "the key 1 is no string"),
    ],
)
def test_settings_have_to_be_ready_for_json(value: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        _ = Write(name="a", more={"bad": value}).identity


def test_a_step_reads_only_what_it_names_among_its_needs(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Sneaky(Write):
        def run(self, context: Context) -> None:
            context.folder_of(NEED)

    store = Store(tmp_path)
    run_step(NEED, store)
    with pytest.raises(ConfigurationError, match="add it to `needs`"):
        run_step(Sneaky(name="sneaky"), store)
