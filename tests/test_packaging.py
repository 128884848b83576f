"""The built distributions, and notsure with its core dependencies alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import notsure as ns

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "notsure"


@dataclass(frozen=True)
class Built:
    """The distributions."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of the working tree, and the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


def files_of_the_package() -> set[str]:
    """Every file below src/notsure, code and data."""
    return {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry = archive.read(f"{folder}/entry_points.txt").decode()
    inside = {name for name in names if not name.startswith(f"{folder}/")}
    assert inside == files_of_the_package()
    for data in ("studies/files/pang.yaml", "report/template.html", "defences.json", "py.typed"):
        assert f"notsure/{data}" in inside
    assert f"{folder}/licenses/LICENSE" in names
    assert "notsure = notsure.cli:main" in entry
    assert metadata["Version"] == ns.__version__
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    core = {one.name for one in needed if one.marker is None}
    assert {"torch", "numpy", "typer"} <= core
    assert not core & {"timm", "transformers", "datasets", "fastapi", "onnx", "ray", "pytest"}
    assert not [one for one in needed if "<" in str(one.specifier)]


def test_the_sdist_holds_what_the_project_is_made_of(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in files_of_the_package()} <= names
    for name in ("pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "constraints.txt"):
        assert name in names
    assert "tests/test_packaging.py" in names
    # a README whose pictures and pages are missing is half a README
    for link in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text()):
        assert any(name == link.rstrip("/") or name.startswith(link) for name in names), link
    assert not [name for name in names if name.startswith((".venv", "runs", ".git/", "build/"))]


def core_distributions() -> list[Distribution]:
    """What an installation without extras brings, with all that these need."""
    found: dict[str, Distribution] = {}
    waiting = [("notsure", "")]
    while waiting:
        name, extra = waiting.pop()
        for text in distribution(name).requires or ():
            one = Requirement(text)
            if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                continue
            if canonicalize_name(one.name) not in found:
                found[canonicalize_name(one.name)] = distribution(one.name)
                waiting += [(one.name, asked) for asked in ("", *one.extras)]
    return list(found.values())


RUN = """
import contextlib, io, json, sys, traceback

from notsure.cli import main

found = []
for words in json.loads(sys.stdin.read()):
    sys.argv, told, code = ["notsure", *words], io.StringIO(), 0
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc(file=told)
            code = "traceback"
    found.append((code, told.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def core_alone(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that sees the wheel and the core dependencies, and nothing else.

    The packages are those of this environment, linked into a folder of their own.
    """
    folder = tmp_path_factory.mktemp("core")
    with zipfile.ZipFile(built.wheel) as archive:
        for name in archive.namelist():
            archive.extract(name, folder)
    for one in core_distributions():
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "")}:
            place = folder / top
            if not place.exists() and top != "__pycache__":
                place.symlink_to(Path(str(one.locate_file(top))).resolve())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kept.pop("NOTSURE_DATA", None)
    return {**kept, "PYTHONPATH": str(folder), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def outcomes(
    commands: list[list[str]], environment: dict[str, str], cwd: Path
) -> list[tuple[Any, str]]:
    """The exit code of each command, or "traceback", and what it printed."""
    done = subprocess.run(
        # without site-packages
        [sys.executable, "-S", "-c", RUN],
        input=json.dumps(commands),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def demo(core_alone: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `notsure demo` wrote, with the core dependencies alone."""
    folder = tmp_path_factory.mktemp("alone")
    command = ["demo", "--epochs", "2", "--count", "10", "--eps", "0.1", "--out", "demo"]
    ((code, told),) = outcomes([command], core_alone, folder)
    assert code == 0, told
    assert (folder / "demo" / "report.html").is_file()
    return folder


def test_the_core_dependencies_are_alone(core_alone: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import importlib.util as found, notsure\n"
        "assert not [p for p in ('timm', 'PIL', 'datasets', 'onnx', 'fastapi', 'ray', 'pytest')"
        " if found.find_spec(p)]\n"
        "print(notsure.__file__, [getattr(notsure, name) for name in notsure.__all__][-1])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path, env=core_alone, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(core_alone["PYTHONPATH"])


def test_what_needs_no_extra_works_without(core_alone: dict[str, str], demo: Path) -> None:
    commands = [
        ["attacks"],
        ["defences", "--markdown"],
        ["run", "pang", "--dry-run"],
        ["report", "demo", "--format", "md"],
        ["audit", "--help"],
    ]
    for words, (code, told) in zip(commands, outcomes(commands, core_alone, demo), strict=True):
        assert code == 0, f"notsure {' '.join(words)}: {told}"


def test_what_needs_an_extra_says_which(core_alone: dict[str, str], demo: Path) -> None:
    for name in ("cat", "dog"):
        (demo / "images" / name).mkdir(parents=True)
        for number in range(3):
            (demo / "images" / name / f"{number}.png").write_bytes(b"\x89PNG")
    wanted = {
        "report demo --format tex": "paper",
        "report demo --format pdf": "paper",
        "run digits --ray": "ray",
        "run digits --mlflow": "mlflow",
        "export demo/ce-k-density": "export",
        "serve demo/ce-k-density --port 0": "serve",
        "playground demo/ce-k-density --port 0": "playground",
        "demo --data images --out other": "data",
        "audit timm:resnet18 --data digits": "zoo",
        "audit hf:some/model --data digits": "transformers",
        "audit demo/ce-k-density --data images": "data",
        "guard fit timm:resnet18 --data digits": "zoo",
        "compare digits_cnn timm:resnet18 --data digits --epochs 1": "zoo",
    }
    found = outcomes([words.split() for words in wanted], core_alone, demo)
    for (words, extra), (code, told) in zip(wanted.items(), found, strict=True):
        assert code == 1, f"notsure {words}: {told}"
        assert f"notsure[{extra}]" in told, f"notsure {words}: {told}"
        assert "Traceback" not in told
