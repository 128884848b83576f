"""Our pictures of a report's figures, drawn from the records of a study's evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from notsure.core.errors import ConfigurationError
from notsure.evaluation import Records, minimal_distortions, robustness
from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.robustness import WORST_CASE
from notsure.evaluation.threats import CLEAN
from notsure.guard import Guard
from notsure.purifiers import PuVAE
from notsure.report.accuracy import attack_figures
from notsure.report.by_attack import by_attack_figures
from notsure.report.collection import Sheet, Tile, Tiles
from notsure.report.effort import distance_figures, queries_figure
from notsure.report.embedding import embedding_figure
from notsure.report.figures import Figure
from notsure.report.formatting import budget_text, class_text, number, rate_text
from notsure.report.gallery import Gallery, galleries, picture_of
from notsure.report.histograms import histogram_figures
from notsure.report.matrices import AREA, grid_figures
from notsure.report.tables import attack_labels, detection_table, robustness_table
from notsure.studies.declared import Study
from notsure.studies.declared_figures import FigureSpec


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What stands for a report's figure.

    Attributes:
        figures: pictures.
        galleries: images with what a guard says of them.
        sheets: tables.
        tiles: rows of images.
    """

    figures: Sequence[Figure] = ()
    galleries: Sequence[Gallery] = ()
    sheets: Sequence[Sheet] = ()
    tiles: Sequence[Tiles] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see."""
        return not (self.figures or self.galleries or self.sheets or self.tiles)


def chosen(records: Records, study: Study, spec: FigureSpec) -> Records:
    """The records that a figure is about: of its guards and attacks, perhaps without detectors."""
    table, meta = records.ordinary().table, dict(records.meta)
    if spec.guards is not None:
        kept = pc.is_in(table["guard"], value_set=pa.array(spec.guards))
        table = table.filter(kept)
        meta["guards"] = {
            name: told for name, told in meta["guards"].items() if name in spec.guards
        }
    if spec.attacks is not None:
        # the clean images are attacked by nobody
        kinds = [*{study.attacks[name].kind for name in spec.attacks}]
        own = pc.is_in(table["attack"], value_set=pa.array(kinds))
        table = table.filter(pc.or_(own, pc.equal(table["threat"], CLEAN)))
    if spec.disabled:
        position = table.column_names.index("accepted")
        everything = pa.array(np.ones(len(table), bool))
        table = table.set_column(position, "accepted", everything)
        meta["guards"] = {name: {**its, "detectors": {}} for name, its in meta["guards"].items()}
    return Records(table, meta)


def drawn(
    records: Records, study: Study, spec: FigureSpec, guard: Callable[[str], Path] | None = None
) -> Drawn:
    """What a figure shows of one evaluation.

    Args:
        records: of the evaluation.
        study: that declares the figure.
        spec: the figure.
        guard: the folder of a guard of a name, for pictures that take it; None where there is none.

    Raises:
        ConfigurationError: the records are of several seeds.
    """
    own = chosen(records, study, spec)
    if len(own) == 0:
        return Drawn()
    if spec.picture == "reconstructions":
        return Drawn(tiles=[] if guard is None else _reconstructions(own, guard))
    if spec.picture == "errors":
        return Drawn(sheets=[errors_sheet(own)])
    if spec.picture == "distortions":
        return Drawn(sheets=[distortions_sheet(own)])
    if spec.picture == "images":
        return Drawn(galleries=galleries(own, robustness_table(own)))
    return Drawn(figures=_FIGURES[spec.picture](own))


def _scores(records: Records) -> list[Figure]:
    return histogram_figures(records, robustness_table(records), detection_table(records))


def _distance(identifier: str) -> Callable[[Records], list[Figure]]:
    def found(records: Records) -> list[Figure]:
        return [one for one in distance_figures(records) if one.identifier == identifier]

    return found


def _areas(records: Records) -> list[Figure]:
    """Of the heat maps over parameters those of areas."""
    found = []
    for one in grid_figures(records, robustness_table(records)):
        own = {label: its for label, its in one.alternatives.items() if label.startswith(AREA)}
        rows = [row for row in one.rows if str(row["figure"]).startswith(AREA)]
        if own:
            found.append(replace(one, alternatives=own, rows=rows))
    return found


def _there(figure: Figure | None) -> list[Figure]:
    return [] if figure is None else [figure]


_FIGURES: Mapping[str, Callable[[Records], Sequence[Figure]]] = {
    "eps": by_attack_figures,
    "rejected": lambda records: by_attack_figures(records, only="flagged"),
    "attacks": lambda records: attack_figures(records, robustness_table(records)),
    "distance": _distance("distance"),
    "distance-attacks": _distance("distance-attacks"),
    "queries": lambda records: _there(queries_figure(records)),
    "scores": _scores,
    "features": lambda records: _there(embedding_figure(records)),
    "parameters": lambda records: grid_figures(records, robustness_table(records)),
    "areas": _areas,
}


def errors_sheet(records: Records) -> Sheet:
    """How many images each guard gets wrong and accepts, clean and under each attack."""
    labels = attack_labels(records)
    rows: list[list[str]] = []
    seen: set[str] = set()
    for row in robustness(records):
        if row.attack == WORST_CASE:
            continue
        if row.guard not in seen:
            seen.add(row.guard)
            clean = records.where(guard=row.guard, threat=CLEAN)
            wrong = (clean.column("prediction") != clean.column("y")) & clean.column(
                "accepted"
            ).astype(bool)
            rows.append([row.guard, CLEAN, "", "", rate_text(wilson(int(wrong.sum()), len(wrong)))])
        error: Rate = row.wrong
        rows.append(
            [
                row.guard,
                labels[row.attack_id],
                budget_text(row.norm, row.eps),
                row.threat,
                rate_text(error),
            ]
        )
    return Sheet(
        caption="Of all images, the share that is accepted and classified wrongly.",
        head=["guard", "images", "eps", "threat", "error rate"],
        rows=rows,
    )


def distortions_sheet(records: Records) -> Sheet:
    """How far the images that fool a guard are from the clean ones."""
    labels = attack_labels(records)
    return Sheet(
        caption="Over the images that are accepted and right when clean, accepted and wrong when "
        "attacked. RMS is the mean of the root of the mean squared change of a pixel value, on "
        "0..255; l2 in [0,1] pixel units.",
        head=["guard", "attack", "threat", "mean RMS", "mean l2", "median l2", "images"],
        rows=[
            [
                one.guard,
                labels[one.attack_id],
                one.threat,
                number(one.root_mean_square),
                number(one.mean),
                number(one.median),
                str(one.count),
            ]
            for one in minimal_distortions(records)
        ],
    )


def _reconstructions(records: Records, guard: Callable[[str], Path]) -> list[Tiles]:
    """A clean and an attacked image, as every class, for each guard with a PuVAE."""
    found = []
    for name in records.guards:
        pair = _pair(records.where(guard=name))
        if pair is None:
            continue
        purifier = Guard.load(guard(name)).purifier
        if not isinstance(purifier, PuVAE):
            raise ConfigurationError(
                f"The guard {name!r} has no PuVAE, which reconstructs images as every class: name "
                "one that has, guards: [...]."
            )
        shape, names = records.meta["image_shape"], records.meta.get("class_names", [])
        rows = []
        for words, values in pair:
            x = torch.tensor(values, dtype=torch.float32).reshape(1, *shape)
            with torch.inference_mode():
                every = purifier.eval().reconstructions(x)[0].flatten(1).double().numpy()
            errors = np.sqrt(((every - values) ** 2).mean(axis=1))
            tiles = [Tile(picture=picture_of(values, shape), words="input")]
            tiles += [
                Tile(
                    picture=picture_of(one, shape),
                    words=f"{class_text(label, names)}, RMSE {errors[label]:.3f}",
                    marked=label == int(errors.argmin()),
                )
                for label, one in enumerate(every)
            ]
            rows.append((words, tiles))
        found.append(
            Tiles(caption=f"{name}: reconstructions as each class; framed: the nearest.", rows=rows)
        )
    return found


def _pair(records: Records) -> list[tuple[str, np.ndarray]] | None:
    """The first image that was changed at the largest eps, clean and attacked; None without one."""
    kept = Records(records.table.filter(pc.is_valid(records.table["image"])), records.meta)
    clean = {
        int(index): np.asarray(values, float) for index, values in _images(kept.where(threat=CLEAN))
    }
    attacked = Records(
        kept.table.filter(pc.and_(pc.not_equal(kept.table["threat"], CLEAN), _changed(kept))),
        kept.meta,
    )
    if len(attacked) == 0:
        return None
    # an attack without a budget comes last
    row = max(attacked.table.to_pylist(), key=lambda one: (one["eps"] or 0.0, -one["index"]))
    if row["index"] not in clean:
        return None
    label = f"{row['attack']}, {budget_text(row['norm'], row['eps'])}"
    return [("clean", clean[row["index"]]), (label, np.asarray(row["image"], float))]


def _changed(records: Records) -> pa.ChunkedArray:
    return pc.fill_null(pc.greater(records.table["linf"], 0.0), False)


def _images(records: Records) -> list[tuple[int, list[float]]]:
    return list(
        zip(records.table["index"].to_pylist(), records.table["image"].to_pylist(), strict=True)
    )


_Identified = TypeVar("_Identified", Figure, Gallery)


def named(one: _Identified, prefix: str) -> _Identified:
    """A figure or gallery under an identifier that no other of a page has."""
    return replace(one, identifier=f"{prefix}-{one.identifier}")


_KEPT = {
    "features": "features of clean images",
    "images": "images",
    "reconstructions": "attacked images beside a guard that is there",
    "scores": "scores of detectors",
    "parameters": "guards that differ in parameters",
    "areas": "guards with detectors that differ in parameters",
    "queries": "attacks that ask for scores or decisions",
}


def nothing(spec: FigureSpec) -> str:
    """What is said where there is nothing to draw."""
    what = _KEPT.get(spec.picture, "such attacks")
    return f"The records hold no {what}, so there is nothing to show."
