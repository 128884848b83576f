"""A study's results as they are committed: cells, records without images, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from notsure.core.storage import atomic, load_json, save_json, writable_folder
from notsure.evaluation import Records
from notsure.studies.adaptive import SCALE, adaptive_markdown
from notsure.studies.answers import StoredFindings
from notsure.studies.cell_tables import read_rows, write_rows
from notsure.studies.cells import SCALES
from notsure.studies.manifest import MANIFEST
from notsure.studies.measures import UnfinishedError
from notsure.studies.verdicts import CellRow

CELLS, ADAPTIVE = "cells.csv", "adaptive.md"

_OTHERS = "other_scales"


def publish(
    findings: StoredFindings, rows: Sequence[CellRow], manifest: str | Path, folder: str | Path
) -> Path:
    """Writes what a run has finished to where results are kept, `folder/<study>`.

    That is `cells.csv`; the records of each finished evaluation as `<evaluation>.parquet`, without
    images and features; `adaptive.md`, where the study has that section; and `manifest.json`.

    What was published of a larger scale stays: a figure, or the records of an evaluation, is
    replaced by one of the same or a larger scale, and never by nothing.

    Args:
        findings: the study's, after the run.
        rows: a row for each of its cells.
        manifest: the run's manifest.
        folder: usually "results".

    Returns:
        The study's folder.

    Raises:
        ConfigurationError: the folder cannot be written to.
        CheckpointError: what was published before is damaged.
    """
    study = findings.study
    own = writable_folder(Path(folder) / study.name)
    for name in study.evaluations:
        _publish_records(findings, name, own)
    if rows:
        before = read_rows(own / CELLS) if (own / CELLS).is_file() else []
        write_rows(own / CELLS, _kept(before, rows))
    if study.adaptive:
        text = adaptive_markdown(study, lambda name: _published(own, name, study.scale))
        with atomic(own / ADAPTIVE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    _publish_manifest(Path(manifest), own / MANIFEST)
    return own


def rank(scale: str | None) -> int:
    """How large a scale is; -1 for none."""
    return SCALES.index(scale) if scale in SCALES else -1


def _kept(before: Sequence[CellRow], rows: Sequence[CellRow]) -> list[CellRow]:
    """Of each cell the row of the larger scale; the new one where they are of the same."""
    known = {row.cell.cell_id: row for row in before}
    kept = []
    for row in rows:
        old = known.get(row.cell.cell_id)
        kept.append(old if old is not None and rank(old.scale) > rank(row.scale) else row)
    return kept


def _publish_records(findings: StoredFindings, evaluation: str, folder: Path) -> None:
    path = folder / f"{evaluation}.parquet"
    try:
        records = findings.records(evaluation)
    except UnfinishedError:
        return
    before = Records.read(path).meta.get(SCALE) if path.is_file() else None
    if rank(before) <= rank(findings.scale):
        told = {**records.meta, SCALE: findings.scale}
        Records(records.table, told).without_images().write(path)


def _published(folder: Path, evaluation: str, scale: str) -> Records:
    path = folder / f"{evaluation}.parquet"
    if not path.is_file():
        raise UnfinishedError(f"the evaluation {evaluation!r} at {scale} scale")
    return Records.read(path)


def _publish_manifest(manifest: Path, path: Path) -> None:
    """Puts a run's manifest in place, and keeps within it that of each other scale."""
    told = load_json(manifest)
    others = {}
    if path.is_file():
        before = load_json(path)
        others = {**before.pop(_OTHERS, {}), before["scale"]: before}
    others.pop(told["scale"], None)
    save_json(path, {**told, _OTHERS: others} if others else told)
