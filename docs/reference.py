"""Writes the API reference from the docstrings: `python docs/reference.py build/reference`."""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import os
import pkgutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import notsure

SOURCE = Path(notsure.__file__).resolve().parent


def public_names() -> dict[str, tuple[str, ...]]:
    """By module, what is public: its `__all__`, unless its package says the same.

    Modules are read and not imported.
    """
    declared = {notsure.__name__: _declared(notsure.__name__)}
    for one in pkgutil.walk_packages([str(SOURCE)], f"{notsure.__name__}."):
        declared[one.name] = _declared(one.name)
    return {
        name: names
        for name, names in declared.items()
        if names and not set(names) <= set(declared.get(name.rpartition(".")[0], ()))
    }


def _declared(module: str) -> tuple[str, ...]:
    for one in _body(module):
        if isinstance(one, ast.Assign) and [ast.unparse(to) for to in one.targets] == ["__all__"]:
            return tuple(ast.literal_eval(one.value))
    return ()


@cache
def _body(module: str) -> list[ast.stmt]:
    path = SOURCE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []


def variable_docstring(module: str, name: str) -> str:
    """What is said of a variable below its assignment, in the module it was imported from.

    Args:
        module: where it is public.
        name: its name there.

    Returns:
        The docstring; empty where there is none.
    """
    body = _body(module)
    for one, after in zip(body, [*body[1:], None], strict=True):
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if name in [to.id for to in targets if isinstance(to, ast.Name)]:
            said = after.value if isinstance(after, ast.Expr) else None
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                return inspect.cleandoc(said.value)
            return ""
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return variable_docstring(node.module, alias.name)
    return ""


def write_reference(folder: Path) -> list[Path]:
    """Writes a page for every module that says what of it is public, an index, and a search.

    Args:
        folder: where to.

    Returns:
        The pages of the modules.

    Raises:
        SystemExit: pdoc is not installed.
    """
    try:
        from pdoc import doc, render
    except ImportError as error:
        raise SystemExit(
            f"The reference is written by the package pdoc, which is not there ({error}): "
            "pip install 'notsure[docs]'"
        ) from error
    pages = {name: folder / f"{name.replace('.', '/')}.html" for name in public_names()}
    modules = {}
    for name, public in public_names().items():
        module = importlib.import_module(name)
        for one in public:
            # what is loaded when it is first used is loaded now
            vars(module).setdefault(one, getattr(module, one))
        modules[name] = doc.Module(module)
        for one in public:
            _complete(modules[name].members.get(one), name, one, pages[name])
    render.configure(
        docformat="google", show_source=True, footer_text=f"notsure {notsure.__version__}"
    )
    # a dataclass inherits annotations whose names pdoc does not know; it shows them all the same
    warnings.filterwarnings("ignore", "Error parsing type annotation", UserWarning)
    for name, page in pages.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render.html_module(modules[name], modules), encoding="utf-8")
    (folder / "index.html").write_text(_index(modules), encoding="utf-8")
    (folder / "search.js").write_text(render.search_index(modules), encoding="utf-8")
    return list(pages.values())


def _complete(described: Any, module: str, name: str, page: Path) -> None:
    """Says what pdoc does not know: the docstrings of variables, the files of sources."""
    if described is None or described.kind == "module":
        return
    if described.kind == "variable":
        # pdoc looks where it is public, and nowhere else
        described.docstring = described.docstring or variable_docstring(module, name)
        return
    constructor = described.members.get("__init__") if described.kind == "class" else None
    if constructor is not None and not vars(described.obj).get("__init__", object).__doc__:
        # it would be torch's
        constructor.docstring = ""
    file = Path(inspect.getsourcefile(inspect.unwrap(described.obj)) or SOURCE)
    if file.is_relative_to(SOURCE):
        link = os.path.relpath(file, page.parent.resolve())
        described.docstring += f"\n\nSource: [{file.relative_to(SOURCE.parent)}]({link})"


_INDEX = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>notsure: reference</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto }}
td {{ padding: .2rem 1.5rem .2rem 0; vertical-align: top }} a {{ color: #0a5bb5 }}
</style><h1>notsure {version}</h1><p>Every public name, module by module.</p>
<table>{rows}</table></html>
"""


def _index(modules: Mapping[str, Any]) -> str:
    """A page that leads to every module."""
    rows = "".join(
        f'<tr><td><a href="{name.replace(".", "/")}.html">{name}</a></td>'
        f"<td>{html.escape(one.docstring.partition(chr(10))[0])}</td></tr>"
        for name, one in modules.items()
    )
    return _INDEX.format(version=notsure.__version__, rows=rows)


def main(arguments: Sequence[str]) -> None:
    """Writes the reference into the folder that is named."""
    if len(arguments) != 1:
        raise SystemExit("python docs/reference.py FOLDER")
    try:
        pages = write_reference(Path(arguments[0]))
    except notsure.NotSureError as error:
        raise SystemExit(f"{error} (The reference describes what every extra brings.)") from error
    sys.stdout.write(f"wrote {len(pages)} modules to {Path(arguments[0]) / 'index.html'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
