"""CITATION.cff is what tools for citations read: the Citation File Format 1.2.0, as far as used."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

import notsure as ns

ROOT = Path(__file__).resolve().parents[1]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

REQUIRED = {"cff-version", "message", "title", "authors"}
KNOWN = REQUIRED | {"type", "abstract", "version", "license", "keywords", "references"}
PERSON = {"family-names", "given-names", "affiliation"}
IN_REFERENCE = {"type", "title", "authors", "year", "month", "notes"}
IN_REFERENCE |= {"institution", "conference", "thesis-type"}
TYPES = {"article", "conference-paper", "report", "thesis"}


def test_the_file_has_what_the_format_requires_and_nothing_it_does_not_know() -> None:
    assert CITATION.keys() >= REQUIRED
    assert CITATION.keys() <= KNOWN
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["authors"] == [{"name": "notsure contributors"}]
    assert CITATION["version"] == ns.__version__
    assert all(isinstance(word, str) for word in CITATION["keywords"])


def test_it_says_what_the_package_says() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'license = "{CITATION["license"]}"' in project


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda one: one["title"][:20])
def test_references_are_of_the_format(reference: dict[str, Any]) -> None:
    assert {"type", "title", "authors"} <= reference.keys() <= IN_REFERENCE
    assert reference["type"] in TYPES
    for author in reference["authors"]:
        assert {"family-names", "given-names"} <= author.keys() <= PERSON
    for entity in ("institution", "conference"):
        assert entity not in reference or reference[entity].keys() == {"name"}
    assert isinstance(reference.get("year", 2020), int)
    assert 1 <= reference.get("month", 1) <= 12


def test_every_report_whose_figures_are_here_is_cited() -> None:
    published = ROOT / "src" / "notsure" / "studies" / "published.csv"
    with published.open(encoding="utf-8", newline="") as file:
        reports = {row["paper"] for row in csv.DictReader(file)}
    cited = {one["notes"].rpartition("(")[2].rstrip(").") for one in CITATION["references"]}
    assert len(reports) == 5
    assert cited == reports
