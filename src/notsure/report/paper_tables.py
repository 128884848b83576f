"""The tables of a paper-ready document: what is left, what is detected, what transfers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from notsure.evaluation.detection import Detection, detection, generalisation
from notsure.evaluation.intervals import Area, Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, RobustnessRow, Run
from notsure.evaluation.transferability import transfer_matrix
from notsure.report.document import Column, Table
from notsure.report.formatting import DASH, budget_text, norm_text, number, rate_short
from notsure.report.tables import OBLIVIOUS, threats_of

_Run = TypeVar("_Run", bound=Run)

Labels = Mapping[str | None, str]
"""A name for each attack's identity."""


def share(rate: Rate, usual: int | None = None) -> str:
    """A rate in per cent with its interval, and with its n unless that is the usual one."""
    if rate.n == 0:
        return DASH if usual == 0 else f"{DASH} of 0"
    return rate_short(rate) if rate.n == usual else f"{rate_short(rate)} of {rate.n}"


def area(one: Area, usual: int | None = None) -> str:
    """An area with its interval, and with its adversarial images unless they are the usual ones."""
    if math.isnan(one.value):
        return DASH if one.positives == usual else f"{DASH} of {one.positives}"
    text = f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
    return text if one.positives == usual else f"{text} of {one.positives}"


def budget(norm: str | None, eps: float | None, *, short: bool = False) -> str:
    """A budget with its norm's sign; of linf on the scale 0..255 as well, unless short."""
    if eps is None:
        return "none" if short else norm_text(None)
    long = norm == "linf" and not short
    return budget_text(norm, eps) if long else f"{norm_text(norm)} {number(eps)}"


def largest_budgets(rows: Sequence[_Run]) -> list[_Run]:
    """Of some rows, those whose eps is the largest of their guard and norm."""
    largest: dict[tuple[str, str | None], float] = {}
    for row in rows:
        key = (row.guard, row.norm)
        largest[key] = max(largest.get(key, 0.0), row.eps or 0.0)
    return [row for row in rows if (row.eps or 0.0) == largest[row.guard, row.norm]]


def ordered(rows: Sequence[Any], records: Records, *first: str) -> list[Any]:
    """Rows by some of their attributes, then by budget, guard and threat.

    Guards, threats and detectors stand in the order that the records have them in.
    """
    places = {
        "guard": {name: i for i, name in enumerate(records.guards)},
        "threat": {name: i for i, name in enumerate(threats_of(records))},
        "detector": {name: i for i, name in enumerate(records.detectors)},
    }

    def place(row: Any, name: str) -> tuple[Any, ...]:
        if name == "budget":
            return (row.norm is None, row.norm or "", row.eps or 0.0)
        value = getattr(row, name)
        return (places[name].get(value, len(places[name])) if name in places else 0, str(value))

    return sorted(
        rows, key=lambda row: tuple(place(row, n) for n in (*first, "budget", "guard", "threat"))
    )


def headline(records: Records, rows: Sequence[RobustnessRow]) -> Table:
    """What is left of every guard at the largest eps, under the strongest threat and oblivious."""
    strongest = threats_of(records)[-1]
    worst = [
        row
        for row in largest_budgets([row for row in rows if row.attack == WORST_CASE])
        if row.threat in (strongest, OBLIVIOUS)
    ]
    n = worst[0].lenient.n
    return Table(
        identifier="headline",
        caption="What is left of each guard at the largest eps: worst case, image by image, over "
        f"all attacks and all eps up to the stated one. Per cent with 95 % intervals, n = {n}.",
        columns=[
            Column(head="guard", width=0.21, grouped=True),
            Column(head="clean accuracy", width=0.135, grouped=True),
            Column(head="clean rejection", width=0.135, grouped=True),
            Column(head="worst case at", width=0.135, grouped=True),
            Column(head="threat", width=0.115),
            Column(head="lenient", width=0.135, number=True),
            Column(head="strict", width=0.135, number=True),
        ],
        rows=[
            (
                row.guard,
                share(row.clean_accuracy, n),
                share(row.clean_rejection, n),
                budget(row.norm, row.eps),
                row.threat,
                share(row.lenient, n),
                share(row.strict, n),
            )
            for row in ordered(worst, records, "guard")
        ],
    )


def worst_cases(records: Records, rows: Sequence[RobustnessRow]) -> Table:
    """The worst case of every guard at every eps, guards side by side."""
    worst = ordered([row for row in rows if row.attack == WORST_CASE], records)
    n = worst[0].lenient.n
    return Table(
        identifier="worst-case",
        caption="Worst case, image by image, over all attacks of the threat and of those that it "
        "includes, and over all eps up to the stated one. " + _robustness_words(n),
        columns=[
            Column(head="eps", width=0.148, grouped=True),
            Column(head="guard", width=0.162, grouped=True),
            Column(head="threat", width=0.105),
            *_ROBUSTNESS_COLUMNS,
        ],
        rows=[
            (budget(row.norm, row.eps), row.guard, row.threat, *_robustness_cells(row, n))
            for row in worst
        ],
    )


def every_attack(records: Records, rows: Sequence[RobustnessRow], labels: Labels) -> list[Table]:
    """Every attack at every eps, a table for each guard."""
    tables = []
    for position, guard in enumerate(records.guards):
        own = [row for row in rows if row.guard == guard and row.attack != WORST_CASE]
        if not own:
            continue
        n = own[0].lenient.n
        tables.append(
            Table(
                identifier=f"attacks-{position + 1}",
                caption=f"{guard}: every attack by itself. " + _robustness_words(n),
                columns=[
                    Column(head="eps", width=0.148, grouped=True),
                    Column(head="attack", width=0.162, grouped=True),
                    Column(head="threat", width=0.105),
                    *_ROBUSTNESS_COLUMNS,
                ],
                rows=[
                    (
                        budget(row.norm, row.eps),
                        labels[row.attack_id],
                        row.threat,
                        *_robustness_cells(row, n),
                    )
                    for row in ordered(own, records, "budget", "attack", "attack_id")
                ],
            )
        )
    return tables


_ROBUSTNESS_COLUMNS = (
    Column(head="lenient", width=0.135, number=True),
    Column(head="strict", width=0.135, number=True),
    Column(head="flagged", width=0.135, number=True),
    Column(head="success", width=0.18, number=True),
)


def _robustness_cells(row: RobustnessRow, n: int) -> tuple[str, ...]:
    return (share(row.lenient, n), share(row.strict, n), share(row.flagged, n), share(row.success))


def _robustness_words(n: int) -> str:
    return (
        "Lenient: not fooled, a rejected image counts as safe. Strict: accepted and right. "
        "Flagged: rejected. Success: fooled, of the images that were accepted and right. "
        f"Per cent with 95 % intervals, n = {n} unless stated."
    )


def detections(records: Records, labels: Labels) -> list[Table]:
    """Every detector against every attack at every eps, two tables for each guard."""
    rows = ordered(
        detection(records), records, "control", "detector", "budget", "attack", "attack_id"
    )
    tables = []
    for position, guard in enumerate(records.guards):
        own = [row for row in rows if row.guard == guard]
        if own:
            number = position + 1
            tables += [_of_successful(own, labels, number), _of_everything(own, labels, number)]
    return tables


_DETECTION_COLUMNS = (
    Column(head="detector", width=0.14, grouped=True),
    Column(head="eps", width=0.08, grouped=True),
    Column(head="attack", width=0.14, grouped=True),
    Column(head="threat", width=0.12),
)


def _detection_cells(row: Detection, labels: Labels) -> tuple[str, ...]:
    return (
        f"{row.detector} (control)" if row.control else row.detector,
        budget(row.norm, row.eps, short=True),
        labels[row.attack_id] + _detection_marks(row),
        row.threat,
    )


def _of_successful(rows: Sequence[Detection], labels: Labels, number: int) -> Table:
    """On the images that an attack newly made wrong, which is the papers' convention."""
    return Table(
        identifier=f"detection-{number}",
        caption=f"{rows[0].guard}: detection of the images that the attack newly made wrong, each "
        "oblivious row above its adaptive ones. AUC: area under the ROC curve against their own "
        "clean versions; found: the share above the frozen threshold; false alarms: the share of "
        "the clean versions that is flagged where the threshold finds 95 % of them. In per cent, "
        "with 95 % intervals. n: images made wrong. Who is told the verdict, under the white-box "
        "and the query threats, succeeds only with what is accepted: there nothing is found by "
        "construction, and the AUC says only how clean these images look below the threshold."
        + _without_adaptive(rows),
        columns=[
            *_DETECTION_COLUMNS,
            Column(head="n", width=0.05, number=True),
            Column(head="AUC, made wrong", width=0.17, number=True),
            Column(head="found", width=0.15, number=True),
            Column(head="false alarms", width=0.15, number=True),
        ],
        rows=[
            (
                *_detection_cells(row, labels),
                str(row.successful.positives),
                area(row.successful, row.successful.positives),
                share(row.flagged, row.successful.positives) if row.flagged.n else DASH,
                share(row.false_positives, row.successful.positives),
            )
            for row in rows
        ],
    )


def _of_everything(rows: Sequence[Detection], labels: Labels, number: int) -> Table:
    """On all images, and what evades the threshold."""
    n = rows[0].everything.positives
    return Table(
        identifier=f"detection-all-{number}",
        caption=f"{rows[0].guard}: detection of all attacked images against all clean ones; what "
        "the attack left as it was counts as attacked, so an attack that fails draws the AUC "
        "towards 0.5. Evaded: made wrong and not flagged by the frozen threshold, which is what "
        "counts against an attacker who is told the verdict. In per cent, with 95 % intervals, "
        f"n = {n} unless stated.",
        columns=[
            *_DETECTION_COLUMNS,
            Column(head="evaded", width=0.12, number=True),
            Column(head="AUC, all", width=0.16, number=True),
            Column(head="found, of all", width=0.12, number=True),
            Column(head="false alarms, of all", width=0.12, number=True),
        ],
        rows=[
            (
                *_detection_cells(row, labels),
                share(row.evaded, n) if row.evaded.n else DASH,
                area(row.everything, n),
                share(row.flagged_everything, n) if row.flagged_everything.n else DASH,
                share(row.false_positives_everything, n),
            )
            for row in rows
        ],
    )


def _detection_marks(row: Detection) -> str:
    marks = ["noise"] if row.noise else []
    if row.held_out is not None:
        marks.append("held out" if row.held_out else "trained on")
    return f" ({', '.join(marks)})" if marks else ""


def _without_adaptive(rows: Sequence[Detection]) -> str:
    alone = [
        row
        for row in rows
        if row.threat == "oblivious" and row.adaptive is None and not (row.control or row.noise)
    ]
    if not alone:
        return ""
    return (
        f" {len(alone)} oblivious rows have no adaptive counterpart: they say nothing about an "
        "attacker who knows the detector."
    )


def generalisations(records: Records) -> list[Table]:
    """Detectors taught by one attack and tested on another."""
    rows = generalisation(records)
    if not rows:
        return []
    return [
        Table(
            identifier="generalisation",
            caption="Area under the ROC curve of a logistic regression on the detectors' scores, "
            "taught by one attack on half of the images and tested on another attack and the "
            "other half; oblivious attackers at the largest eps; 95 % intervals.",
            columns=[
                Column(head="guard", width=0.25, grouped=True),
                Column(head="trained on", width=0.25, grouped=True),
                Column(head="tested on", width=0.25),
                Column(head="AUC", width=0.25, number=True),
            ],
            rows=[(row.guard, row.trained_on, row.tested_on, area(row.area)) for row in rows],
        )
    ]


def transfers(records: Records) -> list[Table]:
    """What was made against a substitute, sent to each guard."""
    places = {guard: place for place, guard in enumerate(records.guards)}
    rows = sorted(
        transfer_matrix(records),
        key=lambda row: (
            *(row.norm is None, row.norm or "", row.eps or 0.0),
            *(row.attack, row.attack_id or "", row.substitute, places[row.guard]),
        ),
    )
    if not any(row.substitute != "itself" for row in rows):
        return []
    return [
        Table(
            identifier="transfer",
            caption="Transfer: images made against a substitute and sent to each guard; 'itself' "
            "is the guard's own bare classifier. Success: fooled, of the images that were accepted "
            "and right; flagged: rejected. Per cent with 95 % intervals.",
            columns=[
                Column(head="eps", width=0.14, grouped=True),
                Column(head="attack", width=0.2, grouped=True),
                Column(head="substitute", width=0.16, grouped=True),
                Column(head="guard", width=0.16),
                Column(head="success", width=0.17, number=True),
                Column(head="flagged", width=0.17, number=True),
            ],
            rows=[
                (
                    budget(row.norm, row.eps),
                    row.attack,
                    row.substitute,
                    row.guard,
                    share(row.success),
                    share(row.flagged),
                )
                for row in rows
            ],
        )
    ]
