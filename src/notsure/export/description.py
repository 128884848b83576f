"""What has to be known of an exported guard besides its graph."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import notsure
from notsure.calibration import Rule
from notsure.core.errors import CheckpointError
from notsure.guard import Guard
from notsure.purifiers.base import Shape

FORMAT = 1
KEY = "notsure"
"""Under which name the description lies in a file."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What has to be known of an exported guard besides its graph.

    Attributes:
        shape: channels, height and width of the images that it takes.
        num_classes: K.
        detectors: their names, in the order of the columns of `scores`.
        thresholds: of each detector; a higher score flags.
        scales: of each detector, the distance from the clean median to the threshold.
        rule: whether any detector flags an image by itself, or only all together.
        corrects: whether a corrector answers what is flagged, so that everything is accepted.
        fpr: the share of clean images that may be flagged; None without detectors.
        precision: the type of float that images come and scores go in, "float32" or "float64".
        version: of notsure that made it.
    """

    shape: Shape
    num_classes: int
    detectors: tuple[str, ...]
    thresholds: dict[str, float]
    scales: dict[str, float]
    rule: Rule
    corrects: bool
    fpr: float | None
    precision: str
    version: str

    @classmethod
    def of(cls, guard: Guard, shape: Shape, *, num_classes: int, precision: str) -> Description:
        """The description of a guard on images of this shape.

        Args:
            guard: fitted and calibrated.
            shape: channels, height and width.
            num_classes: K.
            precision: of the graph's floats, such as "float32".
        """
        calibration = guard.calibration
        names = tuple(name for name, _ in guard.named_detectors())
        known = calibration is not None and names != ()
        return cls(
            shape=shape,
            num_classes=num_classes,
            detectors=names,
            thresholds=dict(calibration.thresholds) if calibration is not None else {},
            scales=dict(calibration.scales) if calibration is not None else {},
            rule=guard.rule,
            corrects=guard.corrector is not None,
            fpr=calibration.fpr if calibration is not None and known else None,
            precision=precision,
            version=notsure.__version__,
        )

    def to_json(self) -> str:
        """As it is written into a file."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | None, where: str) -> Description:
        """What `to_json` wrote.

        Args:
            text: what was found in the file; None where nothing was.
            where: the file, for the message.

        Raises:
            CheckpointError: it is not a description, or of another format.
        """
        if text is None:
            raise CheckpointError(
                f"{where} is no guard that notsure exported: `notsure export GUARD` writes one."
            )
        try:
            content: dict[str, Any] = json.loads(text)
            found = content.pop("format")
            if found != FORMAT:
                raise CheckpointError(
                    f"{where} was exported in format {found!r}; this version of notsure "
                    f"({notsure.__version__}) reads format {FORMAT}: export the guard again."
                )
            channels, rows, columns = (int(value) for value in content.pop("shape"))
            return cls(
                shape=(channels, rows, columns),
                detectors=tuple(content.pop("detectors")),
                **content,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"The description in {where} is damaged ({type(error).__name__}: {error}): export "
                "the guard again."
            ) from error
