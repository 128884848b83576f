"""A study's pages: its report's figures and ours, its cells, and a page for each evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import load_json
from notsure.evaluation import Records
from notsure.report import write_report
from notsure.report.collection import Chapter, Part, Sheet, Tiles, write_collection
from notsure.report.figures import Figure
from notsure.report.gallery import Gallery
from notsure.studies.adaptive import HEAD, NOT_MEASURED, SCALE, concluded, left_rows, told
from notsure.studies.cell_tables import cell_fields, count, read_rows
from notsure.studies.declared import Study
from notsure.studies.examining import RECORDS
from notsure.studies.manifest import MANIFEST
from notsure.studies.pictures import drawn, named, nothing
from notsure.studies.publishing import CELLS
from notsure.studies.spec import load_study, names, study_of
from notsure.studies.verdicts import CellRow

PAGE, STUDY = "report.html", "study.yaml"


def is_of_study(folder: str | Path) -> bool:
    """Whether a folder is a study's: that of a run, or one that was published."""
    folder = Path(folder)
    return (folder / MANIFEST).is_file() and not (folder / RECORDS).exists()


class StudyFolder:
    """What a study has left: in the folder of a run, or where it was published.

    Args:
        folder: such as "runs/studies/pang-cpu" or "results/pang".

    Raises:
        CheckpointError: its manifest is damaged.
        ConfigurationError: which study it is of cannot be told.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = load_json(self.folder / MANIFEST)
        self._entries: Mapping[str, Mapping[str, str]] = manifest.get("entries", {})
        self.study = self._study(manifest)

    def _study(self, manifest: Mapping[str, Any]) -> Study:
        name, scale, own = manifest.get("study"), manifest.get("scale"), self.folder / STUDY
        if own.is_file():
            return study_of(own.read_text(encoding="utf-8"), str(own), str(scale))
        if name in names():
            return load_study(str(name), str(scale))
        raise ConfigurationError(
            f"{str(self.folder)!r} is of the study {name!r}, which is none of the library's, and "
            f"holds no {STUDY}: run the study again, which writes it there."
        )

    def records(self, evaluation: str) -> Records | None:
        """The records of an evaluation; None where there are none.

        Raises:
            CheckpointError: they are damaged.
        """
        published = self.folder / f"{evaluation}.parquet"
        if published.is_file():
            return Records.read(published)
        path = self._result("evaluations", evaluation)
        return None if path is None else Records.read(path / RECORDS)

    def guard(self, name: str) -> Path | None:
        """The folder of a guard; None where there is none."""
        return self._result("guards", name)

    def _result(self, section: str, name: str) -> Path | None:
        identity = self._entries.get(section, {}).get(name)
        folder = None if identity is None else self.folder.parent / identity
        return folder if folder is not None and folder.is_dir() else None

    def rows(self) -> list[CellRow]:
        """The rows of cells; none where the study answers no report."""
        path = self.folder / CELLS
        return read_rows(path) if path.is_file() else []


def report_study(
    folder: str | Path, *, kind: str | None = None, out: str | Path | None = None
) -> Path:
    """What `notsure report` does for a study: see `write_study_pages`.

    Args:
        folder: of the study.
        kind: the format; there is HTML alone.
        out: the folder to write to.

    Raises:
        ConfigurationError: as `write_study_pages`; or another format is asked for.
        CheckpointError: something in the folder is damaged.
    """
    if kind not in (None, "html"):
        raise ConfigurationError(
            f"The pages of a study are HTML, not {kind}: a paper is made of one evaluation's "
            "records."
        )
    return write_study_pages(folder, out)


def write_study_pages(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes a study's page, and a report of each of its evaluations beside it.

    The page holds what stands for the report's figures, the report's cells beside ours, and what an
    adaptive attacker leaves. What is not finished is named.

    Args:
        folder: of a run, such as "runs/studies/pang-cpu", or of what was published of one.
        out: where the pages go, the study's as `report.html`; by default into that folder.

    Returns:
        The path of the study's page.

    Raises:
        ConfigurationError: the folder is none of a study, or cannot be written to.
        CheckpointError: something in it is damaged.
    """
    if not is_of_study(folder):
        raise ConfigurationError(
            f"{str(folder)!r} is no folder of a study: give that in which a run has left its "
            f"{MANIFEST}, such as runs/studies/digits-smoke."
        )
    source = StudyFolder(folder)
    study, target = source.study, Path(folder if out is None else out)
    records = {name: source.records(name) for name in study.evaluations}
    for name, own in records.items():
        if own is not None:
            write_report(own, target / f"{name}.html", title=f"{study.name}: {name}")
    lead = f"{study.title}. Scale {study.scale}."
    return write_collection(
        target / PAGE,
        title=study.name,
        lead=lead,
        chapters=[
            Chapter(
                identifier="pictures",
                heading="The report's figures, and ours" if study.report else "Figures",
                parts=[
                    figure_part(source, name, place, records)
                    for place, name in enumerate(study.figures)
                ],
            ),
            Chapter(identifier="cells", heading="Cells", parts=cells_parts(source.rows())),
            Chapter(
                identifier="adaptive",
                heading="Under an adaptive attacker",
                parts=[adaptive_part(study, name, records) for name in study.adaptive],
            ),
            Chapter(
                identifier="evaluations",
                heading="Every evaluation",
                words=["Everything that was measured: curves, tables, flags, images."],
                parts=[_links(records)],
            ),
        ],
    )


def figure_part(
    source: StudyFolder, name: str, place: int, records: Mapping[str, Records | None]
) -> Part:
    """What stands for one of the report's figures.

    Args:
        source: the study's folder.
        name: of the figure in the study.
        place: of the figure among all, which its pictures are told apart by.
        records: by evaluation; None where it is not finished.
    """
    study, spec = source.study, source.study.figures[name]
    shows = " ".join(spec.shows.split())
    if study.report:
        heading, words = f"Figure {name}", [f"The report shows {shows}."]
    else:
        heading, words = name, [f"{shows[0].upper()}{shows[1:]}."]
    figures: list[Figure] = []
    galleries: list[Gallery] = []
    sheets: list[Sheet] = []
    tiles: list[Tiles] = []
    links: list[tuple[str, str]] = []
    why = " ".join(spec.why.split())
    notes = [f"Ours: {why}."] if why else []
    if spec.disabled:
        notes.append("The detectors are taken away: every answer counts.")
    for number, evaluation in enumerate(spec.evaluations):
        own = records[evaluation]
        if own is None:
            notes.append(f"{NOT_MEASURED}: waits for the evaluation {evaluation!r}.")
            continue
        guards = [source.guard(one) for one in spec.guards or study.evaluations[evaluation].guards]
        there = all(one is not None for one in guards)
        found = drawn(own, study, spec, partial(_folder_of, source) if there else None)
        prefix = f"figure-{place + 1}-{number + 1}"
        figures += [named(one, prefix) for one in found.figures]
        galleries += [named(one, prefix) for one in found.galleries]
        sheets += found.sheets
        tiles += found.tiles
        scale = own.meta.get(SCALE, study.scale)
        told_of = f"{own.meta['count']} test images of {own.meta['data']}, at {scale} scale."
        notes.append(f"{evaluation}: {nothing(spec) if found.empty else told_of}")
        links.append((f"{evaluation}.html", f"all of {evaluation}"))
    return Part(
        identifier=f"figure-{place + 1}",
        heading=heading,
        words=[*words, *dict.fromkeys(notes)],
        figures=figures,
        galleries=galleries,
        sheets=sheets,
        tiles=tiles,
        links=links,
    )


def _folder_of(source: StudyFolder, guard: str) -> Path:
    found = source.guard(guard)
    if found is None:
        raise CheckpointError(f"The guard {guard!r} is not in the results any more.")
    return found


def cells_parts(rows: Sequence[CellRow]) -> list[Part]:
    """The report's cells beside ours; nothing without cells."""
    if not rows:
        return []
    told = count(rows)
    return [
        Part(
            identifier="cells-all",
            heading="",
            words=[
                f"{told.answered} of {told.cells} cells are answered at cpu or paper scale, "
                f"{told.smoke} at smoke scale."
            ],
            sheets=[
                Sheet(
                    caption="Published, ours with its 95 % interval, and what that comes to.",
                    head=[
                        *("cell", "unit", "published", "ours [95 % interval]", "n", "scale"),
                        *("verdict", "why"),
                    ],
                    rows=[cell_fields(row) for row in rows],
                )
            ],
        )
    ]


def adaptive_part(study: Study, name: str, records: Mapping[str, Records | None]) -> Part:
    """What an adaptive attacker leaves of the report's systems."""
    spec = study.adaptive[name]
    claim, own = " ".join(spec.claim.split()), records[spec.evaluation]
    identifier, heading = f"adaptive-{list(study.adaptive).index(name) + 1}", name
    if own is None:
        waits = f"{NOT_MEASURED}: waits for the evaluation {spec.evaluation!r}."
        return Part(identifier=identifier, heading=heading, words=[claim, waits])
    found, raised = concluded(own)
    return Part(
        identifier=identifier,
        heading=heading,
        words=[claim, told(own, spec.evaluation, own.meta.get(SCALE, study.scale))],
        sheets=[
            Sheet(caption="What is left, in % with 95 % intervals.", head=HEAD, rows=left_rows(own))
        ],
        remarks=[
            *((f"{guard}: {judgement}.", because) for guard, judgement, because in found),
            *((f"Flag {flag}.", because) for flag, because in raised),
        ],
        links=[(f"{spec.evaluation}.html", f"all of {spec.evaluation}")],
    )


def _links(records: Mapping[str, Records | None]) -> Part:
    waiting = [name for name, own in records.items() if own is None]
    return Part(
        identifier="evaluations-all",
        heading="",
        words=[f"{NOT_MEASURED}: {', '.join(waiting)}."] if waiting else [],
        links=[(f"{name}.html", name) for name, own in records.items() if own is not None],
    )
