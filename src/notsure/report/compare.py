"""The report of one run or of several side by side: read, named after their folders, joined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from notsure.core.errors import ConfigurationError
from notsure.evaluation.joining import joined
from notsure.evaluation.records import Records
from notsure.evaluation.run_folder import PARTS, RECORDS
from notsure.report.html import write_report
from notsure.report.paper import FORMATS, write_paper

HTML = "html"
"""The format of the page."""


def report_runs(
    runs: Sequence[str | Path], *, kind: str | None = None, out: str | Path | None = None
) -> Path:
    """Writes the report of a run, or the comparison of several.

    Args:
        runs: records files, or the folders that a records.parquet is in.
        kind: "html", or what `write_paper` writes; by default what `out` ends in, else "html".
        out: the file to write; by default "report" beside the records of one run, and "comparison"
            in the working folder for several, with the format's ending.

    Returns:
        The path of the file.

    Raises:
        ConfigurationError: as `read_runs`, `write_report` and `write_paper` raise it; or the format
            is unknown, or another than the file's ending says.
        CheckpointError: as `read_runs` raises it.
    """
    kind = _kind(kind, None if out is None else Path(out))
    records = read_runs(runs)
    if out is None:
        beside = records_file(runs[0]).with_name(f"report.{kind}")
        out = beside if len(runs) == 1 else Path(f"comparison.{kind}")
    if kind == HTML:
        return write_report(records, out)
    return write_paper(records, out, kind=kind)


def _kind(kind: str | None, out: Path | None) -> str:
    known = (HTML, *FORMATS)
    if kind is not None and kind not in known:
        raise ConfigurationError(f"A report's format is one of {', '.join(known)}; got {kind!r}.")
    ending = "" if out is None else out.suffix.removeprefix(".").lower()
    if ending not in known:
        return kind or HTML
    if kind not in (None, ending):
        raise ConfigurationError(
            f"The format is {kind}, but {str(out)!r} ends in .{ending}: leave one of them out, or "
            "let them agree."
        )
    return ending


def records_file(run: str | Path) -> Path:
    """The file of a run that is given as a records file, or as the folder it is in.

    Raises:
        ConfigurationError: the folder is that of a run that is not over.
    """
    run = Path(run)
    if (run / PARTS).is_dir() and not (run / RECORDS).exists():
        raise ConfigurationError(
            f"The run in {str(run)!r} is not over: make the call again that began it, which goes "
            "on with it, and report on it then."
        )
    return run / RECORDS if run.is_dir() else run


def read_runs(runs: Sequence[str | Path]) -> Records:
    """The records of one run, or of several joined as one; see `joined`.

    A run is called like its folder, with as many of the folders above as it takes to tell it from
    the others. Files in one folder are parts of one run.

    Args:
        runs: records files, or the folders that a records.parquet is in.

    Raises:
        ConfigurationError: no run is given, one is given twice or is not there, or they cannot be
            compared.
        CheckpointError: a file is damaged, of another format, or does not go with another one of
            the same run.
    """
    if not runs:
        raise ConfigurationError("There is no run to report on: give a records.parquet or folder.")
    files = [records_file(run) for run in runs]
    given: dict[Path, int] = {}
    for place, file in enumerate(files):
        before = given.setdefault(file.resolve(), place)
        if before != place:
            raise ConfigurationError(
                f"The same run is given twice, as {str(runs[before])!r} and as "
                f"{str(runs[place])!r}: give each run once."
            )
    names = run_names(files)
    read = [Records.read(file) for file in files]
    return joined(list(zip(names, read, strict=True)), sources=[str(file) for file in files])


def run_names(files: Sequence[Path]) -> list[str]:
    """Each file's folder, with as many of those above as tell different folders apart."""
    folders = [file.resolve().parent for file in files]
    names = {folder: folder.name or str(folder) for folder in folders}
    for depth in range(2, max(len(folder.parts) for folder in folders) + 1):
        shared = [folder for folder, name in names.items() if list(names.values()).count(name) > 1]
        for folder in shared:
            names[folder] = "/".join(folder.parts[-depth:])
    return [names[folder] for folder in folders]
