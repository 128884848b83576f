"""The API reference is built, and every public name has a docstring that says what it has to."""

from __future__ import annotations

import ast
import functools
import html
import importlib
import inspect
import itertools
import os
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"))
PUBLIC: dict[str, tuple[str, ...]] = REFERENCE["public_names"]()
NAMES = [f"{module}.{name}" for module, names in PUBLIC.items() for name in names]

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)
_VERB = re.compile(r"[A-Z][a-z]+s\b")
_PLURAL = {"Batches", "Classes", "Images", "Limits", "Logits", "Rows", "Success", "Versions"}
"""First words that look like a verb and are a noun: what is returned, in the summary itself."""


def sections_of(one: Any) -> dict[str, str]:
    """The sections of a docstring in Google's style by their names, what comes before as ""."""
    before, *rest = _SECTION.split(inspect.cleandoc(one.__doc__ or ""))
    return {"": before, **dict(zip(rest[::2], rest[1::2], strict=True))}


def described(section: str) -> set[str]:
    """The names that a section describes, also several in one entry."""
    found = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?:", section, re.MULTILINE)
    return {name.strip("* ") for names in found for name in names.split(",")}


def parameters_of(one: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(one).parameters) - {"self", "cls"}


@functools.cache
def raised_by(code: Any) -> frozenset[str]:
    """The errors that a function raises itself, by their names."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    raised = [one.exc for one in ast.walk(tree) if isinstance(one, ast.Raise) and one.exc]
    names = {ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in raised}
    return frozenset(name for name in names if name.endswith("Error"))


def fields_of(kind: type[Any]) -> set[str]:
    """The fields of a class that have a docstring of their own, below them."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        one.target.id
        for one, after in itertools.pairwise(tree.body)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def gaps_of_function(
    one: Callable[..., Any], *, least: int = 1, overridden: bool = False
) -> Iterator[str]:
    """What the docstring of a function or method does not say.

    A method that overrides one of ours need not repeat what is said there.

    Args:
        one: the function.
        least: with how many parameters they have to be described one by one, and not in passing.
        overridden: whether what it overrides has a docstring.
    """
    if overridden:
        return
    sections = sections_of(one)
    if not sections[""].strip():
        yield "has no docstring"
        return
    parameters = parameters_of(one)
    missing = parameters - described(sections.get("Args", ""))
    if missing and (len(parameters) >= least or "Args" in sections):
        yield f"does not describe {', '.join(sorted(missing))}"
    wanted = raised_by(one) - described(sections.get("Raises", ""))
    if wanted:
        yield f"does not say when it raises {', '.join(sorted(wanted))}"
    verb = _VERB.match(sections[""])
    returns = inspect.signature(one).return_annotation not in ("None", None)
    if returns and verb and verb[0] not in _PLURAL and not {"Returns", "Yields"} & sections.keys():
        yield "does not say what it returns"


def gaps_of_class(kind: type[Any]) -> Iterator[str]:
    """What the docstrings of a class do not say, its methods' and properties' among them."""
    if not kind.__doc__:
        yield "has no docstring"
        return
    family = [one for one in kind.__mro__ if one.__module__.startswith("notsure.")]
    told: set[str] = set()
    for one in family:
        sections = sections_of(one)
        told |= described(sections.get("Args", "")) | described(sections.get("Attributes", ""))
        told |= fields_of(one)
    built = any("__init__" in vars(one) for one in family) and not getattr(kind, "_is_protocol", 0)
    if built and not issubclass(kind, BaseException):
        missing = parameters_of(kind) - told
        if missing:
            yield f"does not describe {', '.join(sorted(missing))}"
    for name, member in vars(kind).items():
        if name.startswith("_") and name != "__call__":
            continue
        overridden = any(getattr(vars(base).get(name), "__doc__", "") for base in kind.__mro__[1:])
        if isinstance(member, property | functools.cached_property):
            if not (member.__doc__ or overridden):
                yield f"{name}: has no docstring"
            continue
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function):
            gaps = gaps_of_function(function, least=2, overridden=overridden)
            yield from (f"{name}: {gap}" for gap in gaps)


def gaps_of(one: Any, module: str, name: str) -> list[str]:
    """What is missing of a public name's docstring."""
    if isinstance(one, ModuleType):
        return [] if one.__doc__ else ["has no docstring"]
    if inspect.isclass(one) and one.__module__.startswith("notsure."):
        return list(gaps_of_class(one))
    if inspect.isfunction(one):
        return list(gaps_of_function(one))
    return [] if REFERENCE["variable_docstring"](module, name) else ["has no docstring"]


@pytest.mark.parametrize("path", NAMES)
def test_every_public_name_says_what_a_user_has_to_know(path: str) -> None:
    module, _, name = path.rpartition(".")
    one = getattr(importlib.import_module(module), name)
    gaps = gaps_of(one, module, name)
    assert not gaps, f"{path} " + "; ".join(gaps)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "reference.py"), str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warn:" not in done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_on_the_page_with_its_docstring(module: str, reference: Path) -> None:
    page = (reference / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
    for name in PUBLIC[module]:
        one = getattr(importlib.import_module(module), name)
        if isinstance(one, ModuleType):
            assert f'href="{module}/{name}.html"' in page or f'href="{name}.html"' in page, name
            continue
        section = page.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        said = one.__doc__ if callable(one) and one.__doc__ else ""
        said = said or REFERENCE["variable_docstring"](module, name)
        first = re.findall(r"[A-Za-z]+", said)[:4]
        words = re.findall(r"[A-Za-z]+", html.unescape(re.sub(r"<[^>]+>", " ", section)))
        assert " ".join(first) in " ".join(words), f"{module}.{name}"


def test_the_index_leads_to_every_module(reference: Path) -> None:
    index = (reference / "index.html").read_text(encoding="utf-8")
    for module in PUBLIC:
        assert f'href="{module.replace(".", "/")}.html"' in index
    assert (reference / "search.js").stat().st_size > 10_000


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path) -> None:
    (tmp_path / "pdoc.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "reference.py"), str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "pip install 'notsure[docs]'" in done.stderr
    assert "Traceback" not in done.stderr
