"""The house: imports only go down, and nobody does what nobody may."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "notsure"

# from the ground up; a room may use those before it
ROOMS = [
    "core",
    "models",
    "data",
    "classifier",
    "views",
    "smoothing",
    "attacks",
    "training",
    "observation",
    "purifiers",
    "detectors",
    "correctors",
    "calibration",
    "verdict",
    "guard_files",
    "fitting",
    "guard",
    "adapters",
    "export",
    "defences",
    "evaluation",
    "integrations",
    "testing",
    "choosing",
    "report",
    "audit",
    "serving",
    "playground",
    "studies",
    "demo",
    "cli_audit",
    "cli_guards",
    "cli",
    "__main__",
]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "notsure" and len(parts) > 1 else None


def runtime_imports(path: Path) -> list[str]:
    """Modules imported anywhere but under TYPE_CHECKING."""
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            if node.module == "notsure":
                found.extend(f"notsure.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_go_down(path: Path) -> None:
    here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert here in ROOMS, f"{here} has no place in the house yet"
    for module in runtime_imports(path):
        there = room_of(module)
        if there is None or there == here:
            continue
        assert ROOMS.index(there) <= ROOMS.index(here), f"{here} imports {there}, which is above it"


FORBIDDEN = {
    r"torch\.manual_seed": "the global generator is the user's",
    r"\.cuda\(": "the device is the user's choice",
    r"\bpickle\b(?!\.)(?=\s*(import|as|$))|import pickle": "files that run code are not read",
    r"torch\.(save|load)\(": "files that run code are not read",
    r"^\s*assert ": "asserts vanish under -O",
    r"(?<!\.)\bprint\(": "progress goes through rich",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_does_what_nobody_may(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for pattern, why in FORBIDDEN.items():
        found = re.search(pattern, text, flags=re.MULTILINE)
        assert not found, f"{found[0] if found else ''}: {why}"


def test_rooms_are_small_enough_to_hold_in_mind() -> None:
    long = {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 450}
    assert not long
