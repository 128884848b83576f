"""What MLflow is told of a run, in a folder that needs no server."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from notsure.cli import app
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import load_json
from notsure.studies.cell_tables import write_rows
from notsure.studies.cells import published
from notsure.studies.manifest import write_manifest
from notsure.studies.run import plan, run_plan
from notsure.studies.store import Store
from notsure.studies.tracking import EXPERIMENT, track
from notsure.studies.verdicts import CellRow
from tests.toy_steps import Chain, Write

mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")

ANSWERED = "pang.t1.mnist.resnet32.ce.clean.error_rate"
OPEN = "pang.t1.cifar10.resnet32.ce.clean.error_rate"

STUDY = """\
name: little
title: A network and what FGSM leaves of it
data:
  digits: {source: digits, train: 200, calibration: 100, test: 40}
networks:
  ce:
    architecture: digits_cnn
    data: digits
    seed: 5
    recipe: {epochs: 1, batch_size: 50, learning_rate: 3e-3, precision: fp32}
attacks:
  fgsm: FGSM
guards:
  bare: {network: ce}
evaluations:
  main: {guards: [bare], attacks: {oblivious: [fgsm]}, eps: [0.1], count: 20, probes: 0}
scales:
  smoke:
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two steps, of which one is left, and of two cells."""
    done = Chain(name="long (odd) name, 100%", links=2)
    left = Write(name="left", text="l", more={"seed": 7}, seconds=1e6)
    steps, store = plan([done, left]), Store(tmp_path / "s")
    outcome = run_plan(steps, store, deadline=60.0)
    folder = tmp_path / "s" / "toy-smoke"
    write_manifest(folder, steps, store, outcome, study="toy", scale="smoke")
    cells = published()
    rows = [
        CellRow(
            cell=cells[ANSWERED], ours=0.5, low=0.4, high=0.6, n=100, scale="cpu",
            verdict="within", why="",
        ),
        CellRow(
            cell=cells[OPEN], ours=None, low=None, high=None, n=None, scale=None,
            verdict="not comparable", why="waits",
        ),
    ]  # fmt: skip
    write_rows(folder / "cells.csv", rows)
    return folder


def told(address: str, identity: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=address).get_run(identity)


def test_a_run_is_logged_with_all_that_it_left(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "ml"
    identity = track(run, uri=str(place))
    found, manifest = told(place.as_uri(), identity), load_json(run / "manifest.json")
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "toy-smoke"
    assert found.data.tags["finished"] == "false"
    params = found.data.params
    assert (params["study"], params["scale"]) == ("toy", "smoke")
    assert params["version/torch"] == manifest["versions"]["torch"]
    assert params["machine/cores"] == str(manifest["machine"]["cores"])
    assert params["seed/write/left/seed"] == "7"
    metrics = found.data.metrics
    assert metrics["wall_seconds"] == manifest["wall_seconds"]
    # what MLflow does not allow in a name is replaced
    assert metrics["seconds/chain/long _odd_ name_ 100_"] == manifest["steps"][0]["seconds"]
    assert not any(name.startswith("seconds/write") for name in metrics)
    assert (metrics["steps_done"], metrics["steps_left"]) == (1, 1)
    cells = {name: value for name, value in metrics.items() if name.startswith("cell/")}
    assert cells == {
        f"cell/{ANSWERED}": 0.5,
        f"cell/{ANSWERED}.low": 0.4,
        f"cell/{ANSWERED}.high": 0.6,
        f"cell/{ANSWERED}.published": 0.38,
    }
    kept = Path(found.info.artifact_uri.removeprefix("file://"))
    assert json.loads((kept / "manifest.json").read_text()) == manifest
    with (kept / "cells.csv").open(newline="") as file:
        assert [row["cell_id"] for row in csv.DictReader(file)] == [ANSWERED, OPEN]


def test_each_call_is_a_run_of_the_same_experiment(run: Path, tmp_path: Path) -> None:
    (run / "cells.csv").unlink()
    first, second = (track(run, uri=str(tmp_path / "ml")) for _ in range(2))
    assert first != second
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "ml").as_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    assert {one.info.run_id for one in runs} == {first, second}
    assert not any(name.startswith("cell/") for one in runs for name in one.data.metrics)


def test_where_it_goes_if_nothing_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    identity = track(run)
    assert told((run.parent / "mlruns").as_uri(), identity).info.run_id == identity
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "told"))
    identity = track(run)
    assert told((tmp_path / "told").as_uri(), identity).info.run_id == identity


def test_the_command_line_logs_only_when_asked(tmp_path: Path) -> None:
    path, out = tmp_path / "little.yaml", tmp_path / "out"
    path.write_text(STUDY)
    quiet = CliRunner().invoke(app, ["run", str(path), "--out", str(out)])
    assert quiet.exit_code == 0, quiet.output
    assert not (out / "mlruns").exists()
    place = tmp_path / "ml"
    loud = CliRunner().invoke(app, ["run", str(path), "--out", str(out), f"--mlflow={place}"])
    assert loud.exit_code == 0, loud.output
    identity = loud.output.partition("logged to MLflow as run ")[2].split()[0]
    found = told(place.as_uri(), identity)
    assert found.data.tags["study"] == "little"
    assert found.data.tags["finished"] == "true"
    assert found.data.metrics["seconds/train/ce"] > 0
    assert found.data.params["seed/train/ce/seed"] == "5"


def test_what_cannot_be_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        track(tmp_path)
    with pytest.raises(ConfigurationError, match="MLflow cannot use 'odd://there'"):
        track(run, uri="odd://there")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'notsure\[mlflow\]'"):
        track(run)
    told = CliRunner().invoke(app, ["run", "digits", "--out", str(tmp_path / "o"), "--mlflow"])
    assert isinstance(told.exception, ConfigurationError)
    assert not (tmp_path / "o").exists()
