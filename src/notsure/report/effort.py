"""What an attacker needs: the distance to go, and the queries to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from notsure.evaluation.costs import QueryCurve, success_against_queries
from notsure.evaluation.distances import DistancePoint, accuracy_against_distance
from notsure.evaluation.records import Records
from notsure.report.curves import Curve, bold_panels
from notsure.report.figures import (
    DASHES,
    PALETTE,
    Figure,
    arranged,
    guard_colours,
    guard_dashes,
)
from notsure.report.formatting import budget_text, norm_text, number
from notsure.report.tables import attack_labels, threats_of

_NORM = "l2"
_POINTS = 51
"""Of a curve against distance: more would make the page large and show nothing new."""
_PER_ROW = 3


def distance_figures(records: Records) -> list[Figure]:
    """Accuracy against l2 distance: guards compared under each attack, attacks on each guard."""
    found = accuracy_against_distance(records, norm=_NORM, points=_POINTS, bounded=True)
    labels = attack_labels(records)
    # the attack that leaves least is shown first
    strongest = sorted(found.items(), key=lambda one: one[1][-1].lenient.value)
    told = {
        (guard, threat, _label(labels, attack)): points
        for (guard, threat, attack), points in strongest
    }
    if not told:
        return []
    rows = [
        {
            "guard": guard,
            "threat": threat,
            "attack": attack,
            "norm": _NORM,
            "distance": point.distance,
            "lenient": point.lenient,
        }
        for (guard, threat, attack), points in told.items()
        for point in points
    ]
    caption = (
        f"Share of images that an attack has not fooled within a distance in {norm_text(_NORM)} "
        "([0,1] pixel units); a rejected image counts as safe. At 0 stand the clean images. Of an "
        "attack with a budget all eps count as one search, and each image by the nearest that "
        "fooled the guard."
    )
    alt = f"Curves of robust accuracy against the {norm_text(_NORM)} distance, by threat"
    order = threats_of(records)[::-1]
    return [
        Figure(
            identifier="distance",
            heading="Accuracy against distance, guard by guard",
            caption=caption,
            alt=f"{alt}, the guards in one plot.",
            alternatives=_distances(records, told, order, by="attack"),
            rows=rows,
        ),
        Figure(
            identifier="distance-attacks",
            heading="Accuracy against distance, attack by attack",
            caption=caption,
            alt=f"{alt}, the attacks in one plot.",
            alternatives=_distances(records, told, order, by="guard"),
            rows=rows,
            choice="Guard",
        ),
    ]


_Told = Mapping[tuple[str, str, str], Sequence[DistancePoint]]


def _distances(
    records: Records, told: _Told, order: Sequence[str], *, by: str
) -> dict[str, dict[str, Any]]:
    """The panels of each threat: by attack with a line a guard, by guard with a line an attack."""
    attacks = list(dict.fromkeys(attack for _, _, attack in told))
    styles = {
        "attack": (guard_colours(records), guard_dashes(records)),
        "guard": (
            {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(attacks)},
            {name: DASHES[i // len(PALETTE) % len(DASHES)] for i, name in enumerate(attacks)},
        ),
    }
    colours, dashes = styles[by]
    choices: dict[str, dict[str, list[Curve]]] = {}
    for (guard, threat, attack), points in told.items():
        choice, name = (attack, guard) if by == "attack" else (guard, attack)
        choices.setdefault(choice, {}).setdefault(threat, []).append(
            Curve(
                name=name,
                colour=colours[name],
                symbol="",
                dash=dashes[name],
                x=[point.distance for point in points],
                rates=[point.lenient for point in points],
                words=[f"{name}, distance at most {number(p.distance)}" for p in points],
            )
        )
    names = list(colours)
    return {
        choice: _side_by_side(
            {
                threat: sorted(curves, key=lambda curve: names.index(curve.name))
                for threat, curves in by_threat.items()
            },
            order,
            title=f"{norm_text(_NORM)} distance",
            y_title="robust accuracy, %",
        )
        for choice, by_threat in choices.items()
    }


def _label(labels: Mapping[str | None, str], attack: str) -> str:
    """An attack that is told by its identity, by what it differs in."""
    name, _, identity = attack.partition(" #")
    return labels.get(identity, name)


def queries_figure(records: Records) -> Figure | None:
    """Success against the number of queries of the query threats; None without any."""
    labels = attack_labels(records)
    found = success_against_queries(records)
    if not found:
        return None
    colours, dashes = guard_colours(records), guard_dashes(records)

    def label(one: QueryCurve) -> str:
        return f"{labels[one.attack_id]}, {budget_text(one.norm, one.eps)}"

    choices: dict[str, dict[str, list[Curve]]] = {}
    for one in found:
        panel = choices.setdefault(label(one), {}).setdefault(one.threat, [])
        panel.append(_query_curve(one, colours[one.guard], dashes[one.guard]))
    return Figure(
        identifier="queries",
        heading="Success against queries",
        caption="Of the images that are accepted and right when clean, the share that fools the "
        "guard after so many queries. An image counts from the number of queries on that it took "
        "in all: an attack that goes on to bring a fooled image nearer spends its whole budget, "
        "and its curve rises at the end alone.",
        alt="Curves of attack success against the number of queries, by threat.",
        alternatives={
            name: _side_by_side(
                by_threat, threats_of(records), title="queries", y_title="attack success, %"
            )
            for name, by_threat in choices.items()
        },
        rows=[
            {
                "guard": one.guard,
                "threat": one.threat,
                "attack": labels[one.attack_id],
                "norm": one.norm,
                "eps": one.eps,
                "queries": point.queries,
                "success": point.success,
            }
            for one in found
            for point in one.points
        ],
    )


def _query_curve(one: QueryCurve, colour: str, dash: str) -> Curve:
    return Curve(
        name=one.guard,
        colour=colour,
        symbol="",
        dash=dash,
        x=[float(point.queries) for point in one.points],
        rates=[point.success for point in one.points],
        words=[f"{one.guard}, {number(point.queries)} queries" for point in one.points],
    )


def _side_by_side(
    by_threat: dict[str, list[Curve]], order: Sequence[str], *, title: str, y_title: str
) -> dict[str, Any]:
    place: Callable[[str], int] = list(order).index
    panels = {threat: by_threat[threat] for threat in sorted(by_threat, key=place)}
    largest = max(max(curve.x) for curves in by_threat.values() for curve in curves) or 1.0
    return arranged(
        bold_panels(
            panels,
            x={
                "title": {"text": title, "standoff": 4},
                "range": [-0.02 * largest, 1.03 * largest],
                "nticks": 6,
            },
            y_title=y_title,
        ),
        columns=min(_PER_ROW, max(2, len(panels))),
        height=250,
        narrow_height=230,
        shared_y=True,
    )
