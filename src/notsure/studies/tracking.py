"""What a run leaves, told to MLflow as well; off unless it is asked for."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from notsure.core.errors import ConfigurationError
from notsure.core.storage import load_json
from notsure.studies.cell_tables import read_rows
from notsure.studies.manifest import MANIFEST

DEFAULT = "default"
"""What stands for the address that MLflow is told of, or a folder beside the results."""

CELLS = "cells.csv"

EXPERIMENT = "notsure"
"""The MLflow experiment that runs are logged under."""

_ADDRESS, _FILES_ALLOWED = "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_FORBIDDEN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]+:", flags=re.IGNORECASE)
_AT_A_TIME = 500
"""How many metrics a request may hold, by MLflow's own limit less some."""


def track(folder: str | Path, *, uri: str | None = None) -> str:
    """Logs a run to MLflow: one MLflow run for every call of `notsure run`.

    Parameters are the study, the scale, the versions, the commit, the machine and the seeds;
    metrics the wall time, the seconds of each step ("seconds/<kind>/<name>") and each cell that is
    answered ("cell/<cell_id>", with ".low", ".high" and ".published"); artefacts the files
    themselves. The tag "finished" tells whether anything is left.

    Args:
        folder: where `manifest.json` is, and `cells.csv` if there is one.
        uri: of the tracking server, or a folder; None for the one that MLFLOW_TRACKING_URI names,
            else the folder `mlruns` beside `folder`.

    Returns:
        The MLflow run's id.

    Raises:
        ConfigurationError: MLflow is not installed, or cannot be reached.
        CheckpointError: there is no manifest in the folder.
    """
    folder = Path(folder)
    manifest = load_json(folder / MANIFEST)
    client, wrong = _client(_address(folder, uri))
    try:
        return _logged(client, folder, manifest)
    except wrong as error:
        raise ConfigurationError(
            f"MLflow did not take the run ({_line(error)}): the run itself is done, and its "
            f"manifest is in {str(folder)!r}. Check the address, and give the same command again."
        ) from error


def require_mlflow() -> Any:
    """The module.

    Raises:
        ConfigurationError: it is not installed.
    """
    # nothing is told to anybody but the tracking server
    os.environ.update(_QUIET)
    try:
        import mlflow
    except ImportError as error:
        raise ConfigurationError(
            "MLflow is not installed: pip install 'notsure[mlflow]', or run without --mlflow."
        ) from error
    return mlflow


def _address(folder: Path, uri: str | None) -> str:
    address = uri or os.environ.get(_ADDRESS) or str(folder.parent / "mlruns")
    if not _SCHEME.match(address):
        address = Path(address).expanduser().resolve().as_uri()
    return address


def _client(address: str) -> tuple[Any, type[Exception]]:
    """A client of the server, and the errors that it raises."""
    require_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    if address.startswith("file:"):
        # mlflow wants its users to have a data base; a folder is what needs no server
        os.environ.setdefault(_FILES_ALLOWED, "true")
    try:
        return MlflowClient(tracking_uri=address), MlflowException
    except MlflowException as error:
        raise ConfigurationError(
            f"MLflow cannot use {address!r}: {_line(error)} Give a folder or a server's address."
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _logged(client: Any, folder: Path, manifest: dict[str, Any]) -> str:
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
    run = client.create_run(
        experiment,
        run_name=f"{manifest['study']}-{manifest['scale']}",
        tags={"study": manifest["study"], "finished": str(manifest["finished"]).lower()},
    )
    identity: str = run.info.run_id
    now = int(time.time() * 1000)
    found = [*_metrics(manifest), *_cells(folder / CELLS)]
    metrics = [Metric(_name(name), value, now, 0) for name, value in found]
    params = [Param(_name(name), str(value)) for name, value in _params(manifest)]
    status = "FAILED"
    try:
        for start in range(0, len(params), 100):
            client.log_batch(identity, params=params[start : start + 100])
        for start in range(0, len(metrics), _AT_A_TIME):
            client.log_batch(identity, metrics=metrics[start : start + _AT_A_TIME])
        for name in (MANIFEST, CELLS):
            if (folder / name).is_file():
                client.log_artifact(identity, str(folder / name))
        status = "FINISHED"
    finally:
        client.set_terminated(identity, status=status)
    return identity


def _name(text: str) -> str:
    return _FORBIDDEN.sub("_", text)


def _params(manifest: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "study", manifest["study"]
    yield "scale", manifest["scale"]
    for name, version in manifest["versions"].items():
        yield f"version/{name}", version
    if manifest["commit"] is not None:
        yield "commit", manifest["commit"]["commit"]
        yield "changed", manifest["commit"]["changed"]
    for name, value in manifest["machine"].items():
        yield f"machine/{name}", value
    for step in manifest["steps"]:
        for name, seed in step["seeds"].items():
            yield f"seed/{step['kind']}/{step['name']}/{name}", seed


def _metrics(manifest: dict[str, Any]) -> Iterator[tuple[str, float]]:
    yield "wall_seconds", manifest["wall_seconds"]
    yield "step_seconds", manifest["step_seconds"]
    done = [step for step in manifest["steps"] if step["done"]]
    yield "steps_done", len(done)
    yield "steps_left", len(manifest["steps"]) - len(done)
    for step in done:
        yield f"seconds/{step['kind']}/{step['name']}", step["seconds"]


def _cells(path: Path) -> Iterator[tuple[str, float]]:
    """The numbers of the cells that are answered."""
    if not path.is_file():
        return
    for row in read_rows(path):
        if row.ours is None:
            continue
        name = f"cell/{row.cell.cell_id}"
        numbers = {"": row.ours, ".low": row.low, ".high": row.high, ".published": row.cell.value}
        for suffix, value in numbers.items():
            if value is not None and math.isfinite(value):
                yield name + suffix, value
