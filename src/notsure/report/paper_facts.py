"""The tables of a paper-ready document that say how: distances, costs, flags, parts, settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from notsure.evaluation.costs import costs
from notsure.evaluation.distances import minimal_distortions
from notsure.evaluation.records import Records
from notsure.evaluation.sanity import Flag
from notsure.evaluation.threats import CLEAN
from notsure.report.description import describe_guards
from notsure.report.document import Column, Table
from notsure.report.formatting import (
    DASH,
    listing,
    norm_text,
    number,
    percent,
    rate_text,
    seconds_text,
    settings_text,
)
from notsure.report.paper_tables import Labels, budget, ordered


def distortions(records: Records, labels: Labels) -> list[Table]:
    """How far the images that were newly fooled had to be moved."""
    rows = ordered(minimal_distortions(records), records, "guard", "attack", "attack_id")
    if not rows:
        return []
    return [
        Table(
            identifier="distortions",
            caption="How far the images that the attack newly fooled were moved, in [0,1] pixel "
            "units: medians, and the mean of ℓ₂; RMS: mean over the images of the root mean square "
            "change on the scale 0..255; n counts these images.",
            columns=[
                Column(head="guard", width=0.19, grouped=True),
                Column(head="attack", width=0.165, grouped=True),
                Column(head="eps", width=0.08),
                Column(head="threat", width=0.12),
                Column(head="n", width=0.055, number=True),
                Column(head="ℓ₂", width=0.06, number=True),
                Column(head="mean ℓ₂", width=0.07, number=True),
                Column(head="RMS", width=0.06, number=True),
                Column(head="ℓ₀", width=0.06, number=True),
                Column(head="ℓ₁", width=0.07, number=True),
                Column(head="ℓ∞", width=0.07, number=True),  # noqa: RUF001
            ],
            rows=[
                (
                    row.guard,
                    labels[row.attack_id],
                    budget(row.norm, row.eps, short=True),
                    row.threat,
                    str(row.count),
                    *(
                        f"{value:.3g}" if math.isfinite(value) else DASH
                        for value in (
                            row.median,
                            row.mean,
                            row.root_mean_square,
                            row.l0,
                            row.l1,
                            row.linf,
                        )
                    ),
                )
                for row in rows
            ],
        )
    ]


def costs_table(records: Records, labels: Labels) -> list[Table]:
    """What every attack cost."""
    rows = ordered(costs(records), records, "guard", "attack", "attack_id")
    if not rows:
        return []
    return [
        Table(
            identifier="costs",
            caption="Cost of an image: median seconds, mean passes forward and backward; dead: "
            "share of the backward passes whose gradient was zero or not finite, and the latter "
            "alone.",
            columns=[
                Column(head="guard", width=0.18, grouped=True),
                Column(head="attack", width=0.165, grouped=True),
                Column(head="eps", width=0.08),
                Column(head="threat", width=0.115),
                Column(head="n", width=0.06, number=True),
                Column(head="time", width=0.08, number=True),
                Column(head="forward", width=0.08, number=True),
                Column(head="backward", width=0.08, number=True),
                Column(head="dead", width=0.08, number=True),
                Column(head="not finite", width=0.08, number=True),
            ],
            rows=[
                (
                    row.guard,
                    labels[row.attack_id],
                    budget(row.norm, row.eps, short=True),
                    row.threat,
                    str(row.n),
                    seconds_text(row.seconds),
                    number(row.forward),
                    number(row.backward),
                    percent(row.dead),
                    percent(row.non_finite),
                )
                for row in rows
            ],
        )
    ]


def flag_tables(flags: Sequence[Flag]) -> list[Table]:
    """The flags that are raised, with what they mean and what to do; then the others."""
    raised = [flag for flag in flags if flag.raised]
    others = [flag for flag in flags if not flag.raised]
    tables = []
    if raised:
        tables.append(
            Table(
                identifier="flags-raised",
                caption="Flags that are raised: what speaks against believing the figures.",
                columns=[
                    Column(head="flag", width=0.16),
                    Column(head="raised because", width=0.34),
                    Column(head="what it means", width=0.25),
                    Column(head="what to do", width=0.25),
                ],
                rows=[(flag.name, flag.because, flag.means, flag.remedy) for flag in raised],
            )
        )
    if others:
        tables.append(
            Table(
                identifier="flags",
                caption="Flags that are not raised, and those that nothing could be told of.",
                columns=[
                    Column(head="flag", width=0.22),
                    Column(head="answer", width=0.15),
                    Column(head="because", width=0.63),
                ],
                rows=[
                    (flag.name, "not raised" if flag.looked else "not looked at", flag.because)
                    for flag in others
                ],
            )
        )
    return tables


def guards_table(records: Records) -> Table:
    """What every guard is."""
    rows = []
    for guard in describe_guards(records):
        detectors = [f"{d.name} ({d.settings}; threshold {d.threshold})" for d in guard.detectors]
        target = "" if guard.target_fpr is None else f"to reject {percent(guard.target_fpr)}"
        measured = "" if guard.measured_fpr is None else f"; {rate_text(guard.measured_fpr)}"
        rows.append(
            (
                guard.name,
                f"{guard.network}, {guard.weights}, logits {guard.logits}, {guard.preprocessing}"
                + ("" if guard.others == DASH else f"; {guard.others}"),
                "; ".join(detectors) or "none",
                target + measured or "none",
            )
        )
    return Table(
        identifier="guards",
        caption="The guards: network with the first digits of its weights' hash, detectors, and "
        "the calibration on clean images with the share that it rejected.",
        columns=[
            Column(head="guard", width=0.17),
            Column(head="network", width=0.28),
            Column(head="detectors", width=0.35),
            Column(head="calibrated", width=0.2),
        ],
        rows=rows,
    )


def attacks_table(records: Records, labels: Labels) -> Table:
    """Every attack with all its settings, one row for all its eps."""
    known = records.meta.get("attacks", {})
    found: dict[tuple[str, str, str], tuple[set[float], list[str]]] = {}
    runs = records.ordinary().distinct("threat", "attack_id", "norm", "eps")
    for threat, identity, norm, eps in runs:
        if threat == CLEAN:
            continue
        settings = {
            k: v for k, v in known.get(identity, {}).items() if k not in ("name", "norm", "eps")
        }
        key = (labels[identity], norm_text(norm), settings_text(settings) or "none")
        budgets, threats = found.setdefault(key, (set(), []))
        budgets.update([] if eps is None else [eps])
        threats.extend([] if threat in threats else [threat])
    return Table(
        identifier="settings",
        caption="The attacks with all their settings.",
        columns=[
            Column(head="attack", width=0.16),
            Column(head="norm", width=0.1),
            Column(head="eps", width=0.14),
            Column(head="threats", width=0.18),
            Column(head="settings", width=0.42),
        ],
        rows=[
            (label, norm, ", ".join(map(number, sorted(eps))) or DASH, listing(threats), settings)
            for (label, norm, settings), (eps, threats) in found.items()
        ],
    )
