"""t-SNE of the clean features, as in Pang et al. 2018, figure 1b-c."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.figures import INK, PALETTE, Figure, Panel, arranged
from notsure.report.formatting import class_text

MOST_POINTS = 1000
FEWEST_POINTS = 10
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_LARGEST_LEGEND = 20

_Floats = npt.NDArray[np.float64]


def embedding_figure(records: Records) -> Figure | None:
    """Where the clean images' features lie, a panel for each guard; None without features."""
    panels: list[Panel] = []
    rows: list[dict[str, Any]] = []
    known: dict[bytes, _Floats] = {}
    for guard in records.guards:
        clean = records.where(guard=guard, threat=CLEAN)
        clean = Records(clean.table.filter(pc.is_valid(clean.table["features"])), records.meta)
        clean = Records(clean.table.slice(0, MOST_POINTS), records.meta)
        if len(clean) < FEWEST_POINTS:
            continue
        features = np.stack([np.asarray(row, float) for row in clean.table["features"].to_pylist()])
        if not np.isfinite(features).all() or float(features.std(axis=0).max()) == 0.0:
            continue
        # guards on one network have the same features
        key = features.tobytes()
        points = known[key] if key in known else tsne(features)
        known[key] = points
        panels.append(_panel(guard, clean, points, first=not panels))
        rows += _rows(guard, clean, points)
    if not panels:
        return None
    return Figure(
        identifier="features",
        heading="t-SNE",
        caption="t-SNE of the features of the first clean images of each guard, coloured by their "
        "class; crosses mark wrong predictions, rings rejected images. t-SNE keeps neighbours "
        "together; distances between clusters mean nothing.",
        alt="Scatter plots of the clean images' features by guard, coloured by class.",
        alternatives={"": arranged(panels, columns=2, height=420, narrow_height=330)},
        rows=rows,
    )


def _rows(guard: str, clean: Records, points: _Floats) -> list[dict[str, Any]]:
    names = ("index", "y", "prediction", "accepted")
    return [
        {
            "guard": guard,
            "x": round(float(place[0]), 3),
            "y": round(float(place[1]), 3),
            "image": int(index),
            "label": int(label),
            "prediction": int(prediction),
            "accepted": bool(accepted),
        }
        for place, index, label, prediction, accepted in zip(
            points, *(clean.column(name) for name in names), strict=True
        )
    ]


def tsne(features: _Floats) -> _Floats:
    """Points (N, 2) in the plane for features (N, D), the same ones each time."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    model = TSNE(
        n_components=2,
        perplexity=min(30.0, (len(features) - 1) / 3),
        init="pca",
        learning_rate="auto",
        random_state=0,
        angle=0.7,
    )
    # one thread sums in one order, and does not wait for another on a busy machine
    with threadpool_limits(limits=1):
        return np.asarray(model.fit_transform(features.astype(np.float32)), float)


def _panel(guard: str, clean: Records, points: _Floats, *, first: bool) -> Panel:
    y, prediction = clean.column("y"), clean.column("prediction")
    accepted = clean.column("accepted").astype(bool)
    index = clean.column("index")
    names = clean.meta.get("class_names", [])
    hover = np.array(
        [
            html.escape(
                f"image {i}: {class_text(int(label), names)}, "
                + (f"answered {class_text(int(said), names)}" if sure else "NOT SURE")
            )
            for i, label, said, sure in zip(index, y, prediction, accepted, strict=True)
        ]
    )
    classes = [int(label) for label in np.unique(y)]
    traces = [
        _points(
            points[y == label],
            hover[y == label],
            name=html.escape(class_text(label, names)),
            marker={
                "color": PALETTE[label % len(PALETTE)],
                "symbol": _SYMBOLS[label // len(PALETTE) % len(_SYMBOLS)],
                "size": 5.5,
                "opacity": 0.8,
            },
            legend=first and len(classes) <= _LARGEST_LEGEND,
        )
        for label in classes
    ]
    marks = (
        ("wrong", prediction != y, {"symbol": "x-thin", "size": 9, "line": _line(2.0)}),
        ("rejected", ~accepted, {"symbol": "circle-open", "size": 12, "line": _line(1.5)}),
    )
    for name, mask, marker in marks:
        traces.append(
            _points(
                points[mask],
                hover[mask],
                name=name,
                marker={"color": INK, **marker},
                legend=first,
            )
        )
    remark = f"{int((prediction != y).sum())} wrong, {int((~accepted).sum())} rejected"
    bare = {
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
        "mirror": True,
        "showline": True,
    }
    return Panel(
        title=f"<b>{html.escape(guard)}</b><br><span style='font-size:11px'>"
        f"{len(points)} images, {remark}</span>",
        traces=traces,
        x=bare,
        y=bare,
    )


def _line(width: float) -> dict[str, Any]:
    return {"color": INK, "width": width}


def _points(
    points: _Floats, hover: npt.NDArray[Any], *, name: str, marker: dict[str, Any], legend: bool
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        # without any point there would be no entry in the legend
        "x": [round(float(x), 2) for x in points[:, 0]] or [None],
        "y": [round(float(y), 2) for y in points[:, 1]] or [None],
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "marker": marker,
        "hoverinfo": "text",
        "hovertext": hover.tolist(),
    }
