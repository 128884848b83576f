"""Accuracy against eps: all guards in one plot, and each guard under each threat by itself."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from notsure.evaluation.intervals import Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import RobustnessRow, accuracy_against_eps
from notsure.report.curves import Curve, bold_panels, curve_panels, legend_entry
from notsure.report.figures import (
    DASHES,
    PALETTE,
    SYMBOLS,
    Figure,
    arranged,
    guard_colours,
    guard_symbols,
)
from notsure.report.formatting import budget_text, norm_text
from notsure.report.tables import RobustnessLine, threats_of

COUNTED = {
    "lenient": "lenient: rejected counts as safe",
    "strict": "strict: rejected counts as lost",
}
"""The two ways to count a rejected image."""

_DASHES = {"lenient": ("solid", "circle"), "strict": ("dash", "circle-open")}
_PER_ROW = 3

_Curves = Mapping[tuple[str, str, str], Sequence[RobustnessRow]]


def accuracy_figures(records: Records) -> list[Figure]:
    """Robust accuracy in the worst case: for each norm all guards in one, then each by itself."""
    curves = accuracy_against_eps(records)
    figures = []
    for norm in dict.fromkeys(norm for _, _, norm in curves):
        of_norm = {key: rows for key, rows in curves.items() if key[2] == norm}
        if len({guard for guard, _, _ in of_norm}) > 1:
            figures.append(_compared(records, norm, of_norm))
        figures.append(_by_guard(records, norm, of_norm))
    return figures


def _compared(records: Records, norm: str, curves: _Curves) -> Figure:
    threats = [name for name in threats_of(records)[::-1] if any(key[1] == name for key in curves)]
    return Figure(
        identifier=f"guards-{norm}",
        heading=f"All guards, {norm_text(norm)}",
        caption="Worst case over all attacks and all eps up to the one below, image by image; "
        "eps 0 is the clean images.",
        alt=f"Curves of robust accuracy against eps in {norm_text(norm)}, all guards in one plot "
        "for each threat; the numbers are in the table Worst case over all attacks.",
        alternatives={
            words: arranged(
                bold_panels(
                    {
                        threat: _of_threat(records, curves, norm, threat, counted)
                        for threat in threats
                    },
                    x=_eps_axis(norm, curves),
                    y_title="robust accuracy, %",
                ),
                columns=min(_PER_ROW, len(threats)),
                height=270,
                narrow_height=240,
                shared_y=True,
            )
            for counted, words in COUNTED.items()
        },
        rows=_data(curves),
        choice="Robust accuracy",
    )


def _of_threat(
    records: Records, curves: _Curves, norm: str, threat: str, counted: str
) -> list[Curve]:
    colours, symbols = guard_colours(records), guard_symbols(records)
    return [
        Curve(
            name=guard,
            colour=colours[guard],
            symbol=symbols[guard],
            x=[row.eps or 0.0 for row in rows],
            rates=[_counted(row, counted) for row in rows],
            words=[f"{guard}, {counted}, {budget_text(norm, row.eps)}" for row in rows],
        )
        for guard in records.guards
        if (rows := curves.get((guard, threat, norm)))
    ]


def _by_guard(records: Records, norm: str, curves: _Curves) -> Figure:
    threats = [name for name in threats_of(records) if any(key[1] == name for key in curves)]
    titles = {
        (guard, threat): f"<b>{html.escape(guard)}</b><br>{html.escape(threat)}"
        for guard in records.guards
        if any(key[0] == guard for key in curves)
        for threat in threats
    }
    drawn = curve_panels(
        {
            (guard, threat): _by_count(guard_colours(records)[guard], norm, rows)
            for guard, threat in titles
            if (rows := curves.get((guard, threat, norm)))
        },
        titles=titles,
        x=_eps_axis(norm, curves),
        y_title="robust accuracy, %",
        legend=[
            legend_entry(COUNTED[counted], dash=dash, symbol=symbol)
            for counted, (dash, symbol) in _DASHES.items()
        ],
    )
    return Figure(
        identifier=f"accuracy-{norm}",
        heading=f"Each guard under each threat, {norm_text(norm)}",
        caption="Worst case over all attacks and all eps up to the one below, image by image; "
        "eps 0 is the clean images. Shaded: 95 % intervals.",
        alt=f"Curves of robust accuracy against eps in {norm_text(norm)} by guard and threat; the "
        "numbers are in the table Worst case over all attacks.",
        alternatives={
            "": arranged(
                [drawn.get(place) for place in titles],
                columns=len(threats),
                height=200,
                narrow_height=200,
                shared_y=True,
            )
        },
        rows=_data(curves),
    )


def attack_figures(records: Records, lines: Sequence[RobustnessLine]) -> list[Figure]:
    """Every attack by itself against eps, for each norm: a panel a threat, a line an attack."""
    curves = accuracy_against_eps(records)
    figures = []
    for norm in dict.fromkeys(norm for _, _, norm in curves):
        own = [line for line in lines if line.norm == norm and not line.worst]
        rows: dict[tuple[str, str, str], list[RobustnessRow]] = {}
        for line in own:
            for threat, row in line.by_threat.items():
                rows.setdefault((line.guard, threat, line.attack), []).append(row)
        for (guard, threat, _), its in rows.items():
            its.sort(key=lambda row: row.eps or 0.0)
            # of a single eps there is no line to draw
            if len(its) > 1:
                its.insert(0, curves[guard, threat, norm][0])
        if rows:
            figures.append(_of_attacks(records, norm, rows, curves))
    return figures


def _of_attacks(
    records: Records,
    norm: str,
    rows: Mapping[tuple[str, str, str], Sequence[RobustnessRow]],
    curves: _Curves,
) -> Figure:
    attacks = list(dict.fromkeys(attack for _, _, attack in rows))
    alternatives = {}
    for guard in dict.fromkeys(guard for guard, _, _ in rows):
        for counted in COUNTED:
            panels: dict[str, list[Curve]] = {}
            for threat in threats_of(records)[::-1]:
                its = [
                    _attack_curve(attack, attacks.index(attack), row, counted, norm)
                    for (of, under, attack), row in rows.items()
                    if (of, under) == (guard, threat)
                ]
                if its:
                    panels[threat] = its
            alternatives[f"{guard}, {counted}"] = arranged(
                bold_panels(panels, x=_eps_axis(norm, curves), y_title="robust accuracy, %"),
                columns=min(_PER_ROW, max(2, len(panels))),
                height=250,
                narrow_height=230,
                shared_y=True,
            )
    return Figure(
        identifier=f"attacks-{norm}",
        heading=f"Each attack by itself, {norm_text(norm)}",
        caption="What one attack at one eps leaves: no worst case, so a line may rise with eps. At "
        "0 stand the clean images. Lenient counts a rejected image as safe, strict as lost.",
        alt=f"Curves of robust accuracy against eps in {norm_text(norm)}, the attacks in one plot "
        "for each threat; the numbers are in the tables of every attack.",
        alternatives=alternatives,
        rows=[
            {
                "guard": guard,
                "threat": threat,
                "attack": attack,
                "norm": norm,
                "eps": row.eps,
                "lenient": row.lenient,
                "strict": row.strict,
            }
            for (guard, threat, attack), its in rows.items()
            for row in its
        ],
        choice="Guard",
    )


def _attack_curve(
    attack: str, place: int, rows: Sequence[RobustnessRow], counted: str, norm: str
) -> Curve:
    return Curve(
        name=attack,
        colour=PALETTE[place % len(PALETTE)],
        symbol=SYMBOLS[place % len(SYMBOLS)],
        dash=DASHES[place // len(PALETTE) % len(DASHES)],
        x=[row.eps or 0.0 for row in rows],
        rates=[_counted(row, counted) for row in rows],
        words=[f"{attack}, {counted}, {budget_text(norm, row.eps)}" for row in rows],
    )


def _by_count(colour: str, norm: str, rows: Sequence[RobustnessRow]) -> list[Curve]:
    return [
        Curve(
            name=COUNTED[counted],
            colour=colour,
            dash=dash,
            symbol=symbol,
            x=[row.eps or 0.0 for row in rows],
            rates=[_counted(row, counted) for row in rows],
            words=[f"{counted}, {budget_text(norm, row.eps)}" for row in rows],
            band=True,
        )
        for counted, (dash, symbol) in _DASHES.items()
    ]


def _counted(row: RobustnessRow, counted: str) -> Rate:
    return row.lenient if counted == "lenient" else row.strict


def _eps_axis(norm: str, curves: _Curves) -> dict[str, object]:
    largest = max(row.eps or 0.0 for rows in curves.values() for row in rows) or 1.0
    return {
        "title": {"text": f"eps ({norm_text(norm)})", "standoff": 4},
        "range": [-0.02 * largest, 1.03 * largest],
        "nticks": 6,
    }


def _data(curves: _Curves) -> list[dict[str, object]]:
    return [
        {
            "guard": guard,
            "threat": threat,
            "norm": norm,
            "eps": row.eps,
            "lenient": row.lenient,
            "strict": row.strict,
        }
        for (guard, threat, norm), rows in curves.items()
        for row in rows
    ]
