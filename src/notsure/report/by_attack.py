"""Accuracy against eps, attack by attack: a panel an attack, the guards in one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from notsure.evaluation.intervals import Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import (
    WORST_CASE,
    RobustnessRow,
    accuracy_against_eps,
    robustness,
)
from notsure.report.curves import Curve, bold_panels
from notsure.report.figures import Figure, arranged, guard_colours, guard_symbols
from notsure.report.formatting import budget_text, norm_text
from notsure.report.tables import attack_labels, threats_of

COUNTED = {
    "lenient": "accuracy, rejected counts as safe",
    "strict": "accuracy, rejected counts as lost",
    "flagged": "rejected",
}
"""What the curves may be of, and what that is called."""

PLAIN = "accuracy"
"""What it is called where nothing rejects."""

_PER_ROW = 3

_Rows = Mapping[tuple[str, str, str], Sequence[RobustnessRow]]


def by_attack_figures(records: Records, *, only: str | None = None) -> list[Figure]:
    """What each attack leaves of each guard at each eps, for each norm.

    Other than in the curves of the worst case, every attack and every eps stands by itself, so that
    a line may rise. Attacks without a budget are left out.

    Args:
        records: of one seed; rows of probes are left out.
        only: the one of `COUNTED` that is wanted; None for all that say something.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    labels = attack_labels(records)
    found: dict[str, dict[tuple[str, str, str], list[RobustnessRow]]] = {}
    for row in robustness(records):
        if row.attack != WORST_CASE and row.norm is not None and row.eps is not None:
            key = (row.threat, labels[row.attack_id], row.guard)
            found.setdefault(row.norm, {}).setdefault(key, []).append(row)
    clean = {key: rows[0] for key, rows in accuracy_against_eps(records).items()}
    for norm, by_key in found.items():
        for (threat, _, guard), rows in by_key.items():
            rows.sort(key=lambda row: row.eps or 0.0)
            rows.insert(0, clean[guard, threat, norm])
    rejecting = any(records.meta["guards"][guard]["detectors"] for guard in records.guards)
    counted = dict(COUNTED) if rejecting else {"lenient": PLAIN}
    if only is not None:
        counted = {only: COUNTED[only]}
    return [_figure(records, norm, by_key, counted) for norm, by_key in found.items()]


def _figure(records: Records, norm: str, rows: _Rows, counted: Mapping[str, str]) -> Figure:
    threats = [name for name in threats_of(records)[::-1] if any(key[0] == name for key in rows)]
    return Figure(
        identifier=f"by-attack-{norm}",
        heading=f"Attack by attack, {norm_text(norm)}",
        caption="What one attack at one eps leaves; at 0 stand the clean images. No worst case is "
        "taken, so a line may rise with eps. A diamond marks the eps that serves the attacker "
        "best, where a rejected image counts as safe.",
        alt=f"Curves of accuracy against eps in {norm_text(norm)}, a panel for each attack.",
        alternatives={
            f"{words}, {threat}": _drawn(records, norm, rows, threat, name, words)
            for name, words in counted.items()
            for threat in threats
        },
        rows=[
            {
                "guard": guard,
                "threat": threat,
                "attack": attack,
                "norm": norm,
                "eps": row.eps,
                **{name: getattr(row, name) for name in counted},
            }
            for (threat, attack, guard), its in rows.items()
            for row in its
        ],
        choice="Figure",
    )


def _drawn(
    records: Records, norm: str, rows: _Rows, threat: str, counted: str, words: str
) -> dict[str, object]:
    attacks = dict.fromkeys(attack for under, attack, _ in rows if under == threat)
    panels = {
        attack: [
            _curve(records, guard, norm, its, counted, words)
            for guard in records.guards
            if (its := rows.get((threat, attack, guard)))
        ]
        for attack in attacks
    }
    largest = max(row.eps or 0.0 for its in rows.values() for row in its) or 1.0
    return arranged(
        bold_panels(
            panels,
            x={
                "title": {"text": f"eps ({norm_text(norm)})", "standoff": 4},
                "range": [-0.02 * largest, 1.03 * largest],
                "nticks": 6,
            },
            y_title=f"{words.partition(',')[0]}, %",
        ),
        columns=min(_PER_ROW, max(2, len(panels))),
        height=240,
        narrow_height=230,
        shared_y=True,
    )


def _curve(
    records: Records,
    guard: str,
    norm: str,
    rows: Sequence[RobustnessRow],
    counted: str,
    words: str,
) -> Curve:
    rates: list[Rate] = [getattr(row, counted) for row in rows]
    best = min(range(len(rows)), key=lambda place: rows[place].lenient.value)
    return Curve(
        name=guard,
        colour=guard_colours(records)[guard],
        symbol=guard_symbols(records)[guard],
        x=[row.eps or 0.0 for row in rows],
        rates=rates,
        marked=best if rows[best].eps else None,
        words=[f"{guard}, {words}, {budget_text(norm, row.eps)}" for row in rows],
    )
