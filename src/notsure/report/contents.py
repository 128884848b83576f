"""What stands in a paper-ready document, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from notsure.evaluation.records import Records
from notsure.evaluation.robustness import robustness
from notsure.report.description import describe_substitutes
from notsure.report.document import Document, Passage, Section
from notsure.report.formatting import listing
from notsure.report.paper_facts import (
    attacks_table,
    costs_table,
    distortions,
    flag_tables,
    guards_table,
)
from notsure.report.paper_tables import (
    detections,
    every_attack,
    generalisations,
    headline,
    transfers,
    worst_cases,
)
from notsure.report.plots import accuracy_plots, attack_plots, rejects
from notsure.report.reading import FlagGroups, flag_groups, threat_lines, uneven_attacks
from notsure.report.score_plots import (
    coverage_plot,
    distance_plot,
    histogram_plots,
    query_plot,
    roc_plot,
    scores_of,
)
from notsure.report.tables import (
    OBLIVIOUS,
    attack_labels,
    check_records,
    robustness_table,
    threats_of,
)


def document_of(records: Records, *, title: str | None = None) -> Document:
    """The document of a run, or of several joined ones.

    Args:
        records: of one seed, of one or more attacks.
        title: of the document; by default it names the data.

    Raises:
        ConfigurationError: there are no records, or of no attack, or of several seeds.
    """
    check_records(records)
    rows = robustness(records)
    labels = attack_labels(records)
    scores = scores_of(records, rows, labels)
    flags = flag_groups(records.flags())
    sections = [
        Section(
            heading="What is left",
            passages=_warnings(records, flags),
            parts=[headline(records, rows)],
        ),
        _how_to_read(records, flags),
        Section(
            heading="Robustness",
            parts=[
                *accuracy_plots(records),
                worst_cases(records, rows),
                *attack_plots(records, robustness_table(records)),
                *coverage_plot(records, rows),
            ],
        ),
        Section(
            heading="Detection",
            parts=[
                *roc_plot(scores, threats_of(records)),
                *histogram_plots(scores),
                *detections(records, labels),
                *generalisations(records),
            ],
        ),
        Section(heading="Transfer", parts=transfers(records)),
        Section(
            heading="Distances and costs",
            parts=[
                *distance_plot(records, labels),
                *query_plot(records, labels),
                *distortions(records, labels),
                *costs_table(records, labels),
            ],
        ),
        Section(heading="Every attack", parts=every_attack(records, rows, labels)),
        Section(
            heading="What was attacked, and how",
            passages=_substitutes(records),
            parts=[guards_table(records), attacks_table(records, labels)],
        ),
    ]
    return Document(
        title=title or f"What is left: {records.meta.get('data') or 'unnamed data'}",
        about=_about(records.meta),
        sections=[one for one in sections if one.passages or one.parts],
    )


def _about(meta: Mapping[str, Any]) -> str:
    """One line about where the figures come from."""
    suite = meta.get("suite")
    runs = meta.get("runs")
    return "; ".join(
        filter(
            None,
            (
                f"runs {listing(list(runs))}" if runs else "",
                f"data {meta.get('data') or 'unnamed'}, the first {meta.get('count')} test images",
                f"suite {suite['name']}, version {suite['version']}"
                if suite
                else "no suite: the attacks were chosen by hand",
                f"seed {meta.get('seed')}",
                f"notsure {meta.get('notsure')}, torch {meta.get('torch')}",
            ),
        )
    )


def _warnings(records: Records, flags: FlagGroups) -> list[Passage]:
    """What has to be said before any figure."""
    found = []
    if threats_of(records) == [OBLIVIOUS]:
        found.append(
            Passage(
                lead="Oblivious attackers only.",
                text="Attackers who know the guard were not tested: these figures hold only while "
                "the guard stays secret.",
            )
        )
    uneven = uneven_attacks(records)
    if uneven:
        found.append(
            Passage(
                lead="The guards were not attacked alike.",
                text=f"{' '.join(uneven)} A worst case over fewer attacks looks better.",
            )
        )
    raised = [flag.name for flag in flags.raised]
    if raised:
        found.append(
            Passage(
                lead=f"Flags raised: {listing(raised)}.",
                text="The figures are not to be believed before these are understood; see below.",
            )
        )
    return found


def _substitutes(records: Records) -> list[Passage]:
    """What transfers were made from."""
    told = describe_substitutes(records)
    return [Passage(lead="Substitutes.", text="; ".join(told) + ".")] if told else []


def _how_to_read(records: Records, flags: FlagGroups) -> Section:
    threats = threat_lines(records)
    tested = [Passage(lead=f"Tested: {one.name}.", text=one.means) for one in threats if one.tested]
    untested = [
        Passage(lead=f"Not tested: {one.name}.", text=one.left_open)
        for one in threats
        if not one.tested
    ]
    kinds = (
        [
            Passage(
                lead="Lenient and strict.",
                text="Lenient counts a rejected image as safe, as papers mostly do; strict counts "
                "it as lost. The truth for a user lies between the two.",
            )
        ]
        if any(rejects(records, guard) for guard in records.guards)
        else []
    )
    return Section(
        heading="How to read this",
        passages=[
            *kinds,
            *tested,
            *untested,
            Passage(
                lead="Flags.",
                text=f"Raised: {len(flags.raised)} of {flags.count}; not looked at for want of "
                f"records: {len(flags.unlooked)}.",
            ),
        ],
        parts=flag_tables([*flags.raised, *flags.unlooked, *flags.quiet]),
    )
