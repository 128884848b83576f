"""A guard as a folder: what is written, and what is checked when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import notsure
from notsure.calibration import Calibration, Rule
from notsure.classifier import Classifier
from notsure.core.errors import CheckpointError, ConfigurationError, NotFittedError
from notsure.core.part import Part, rebuilt, under
from notsure.core.state import weights_hash
from notsure.core.storage import load_json, load_tensors, save_json, save_tensors, writable_folder
from notsure.correctors.base import Corrector
from notsure.detectors.base import Detector
from notsure.models import architecture_of, build
from notsure.purifiers.base import Purifier

FORMAT = 2
DESCRIPTION, WEIGHTS, STATE = "guard.json", "classifier.safetensors", "parts.safetensors"

_DETECTOR = "detector."


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a guard is made of.

    Attributes:
        classifier: what answers.
        detectors: what may flag an image, by name.
        purifier: what cleans images beforehand, if anything.
        corrector: who answers what is flagged, if anybody.
        rule: how the detectors are combined.
        calibration: the thresholds; None for a guard without detectors that was not calibrated.
        seen: content keys of the images that it was fitted and calibrated on.
        fitted_on: the attack that its parts learnt from, with its settings, if any.
    """

    classifier: Classifier
    detectors: dict[str, Detector]
    purifier: Purifier | None
    corrector: Corrector | None
    rule: Rule
    calibration: Calibration | None
    seen: dict[str, torch.Tensor]
    fitted_on: dict[str, Any] | None


def save_contents(contents: Contents, folder: str | Path) -> Path:
    """See `Guard.save`."""
    if contents.detectors and contents.calibration is None:
        raise NotFittedError("The guard has no thresholds yet: calibrate it before saving it.")
    folder = writable_folder(folder)
    classifier = contents.classifier
    architecture = architecture_of(classifier.module)
    state = _prefixed("seen", contents.seen)
    for name, part in _parts(contents).items():
        state |= _prefixed(name, part.state_dict())
    files = {STATE: state}
    if architecture is not None:
        files[WEIGHTS] = dict(classifier.module.state_dict())
    for name, tensors in files.items():
        save_tensors(folder / name, tensors)
    # last of all, so that a folder with a description is a whole one
    save_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "notsure": notsure.__version__,
            "classifier": {
                "architecture": None if architecture is None else asdict(architecture),
                "module": type(classifier.module).__name__,
                "settings": classifier.settings(),
                "weights": weights_hash(classifier.module),
            },
            "detectors": [
                {"name": name, **part.description()} for name, part in contents.detectors.items()
            ],
            "purifier": None if contents.purifier is None else contents.purifier.description(),
            "corrector": None if contents.corrector is None else contents.corrector.description(),
            "rule": contents.rule,
            "calibration": None if contents.calibration is None else asdict(contents.calibration),
            "fitted_on": contents.fitted_on,
            "files": {name: _digest(folder / name) for name in files},
        },
    )
    return folder


def load_contents(folder: str | Path, classifier: Classifier | None) -> Contents:
    """See `Guard.load`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {str(folder)!r}: give one that save() wrote.")
    content = load_json(folder / DESCRIPTION)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(folder)!r} has guard format {content.get('format')!r}; this version of notsure "
            f"({notsure.__version__}) reads format {FORMAT}. Save it again with this version."
        )
    try:
        for name, digest in content["files"].items():
            if not (folder / name).is_file() or _digest(folder / name) != digest:
                raise CheckpointError(
                    f"{name} in {str(folder)!r} is missing or was changed after it was saved: "
                    "restore it, or save the guard again."
                )
        classifier = _classifier(content["classifier"], folder, classifier)
        tensors, _ = load_tensors(folder / STATE)
        detectors = {
            entry["name"]: rebuilt(entry, Detector, under(f"{_DETECTOR}{entry['name']}.", tensors))
            for entry in content["detectors"]
        }
        purifier, corrector = content["purifier"], content["corrector"]
        calibration = content["calibration"]
        return Contents(
            classifier=classifier,
            detectors=detectors,
            purifier=None
            if purifier is None
            else rebuilt(purifier, Purifier, under("purifier.", tensors)),
            corrector=None
            if corrector is None
            else rebuilt(corrector, Corrector, under("corrector.", tensors)),
            rule=content["rule"],
            calibration=None if calibration is None else Calibration(**calibration),
            seen=under("seen.", tensors),
            fitted_on=content.get("fitted_on"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{DESCRIPTION} in {str(folder)!r} is not one of ours, or was changed by hand "
            f"({type(error).__name__}: {error})."
        ) from error


def _classifier(content: Mapping[str, Any], folder: Path, given: Classifier | None) -> Classifier:
    architecture, settings = content["architecture"], content["settings"]
    if given is None:
        if architecture is None:
            raise CheckpointError(
                f"The guard in {str(folder)!r} stands before a {content['module']}, which is not "
                "one of notsure's architectures: hand it in, Guard.load(folder, classifier=...)."
            )
        try:
            module = build(architecture["name"], **architecture["arguments"])
            weights, _ = load_tensors(folder / WEIGHTS)
            module.load_state_dict(weights)
            # as training leaves it: faster, and the same to the bit
            module.to(memory_format=torch.channels_last)
        except (ConfigurationError, RuntimeError) as error:
            raise CheckpointError(f"The classifier cannot be rebuilt: {error}") from error
        given = Classifier(
            module,
            mean=settings["mean"] if len(settings["mean"]) > 1 else settings["mean"][0],
            std=settings["std"] if len(settings["std"]) > 1 else settings["std"][0],
            reverse_logits=settings["reverse_logits"],
            features=settings["features"],
        )
        given.eval()
    if weights_hash(given.module) != content["weights"]:
        raise CheckpointError(
            "The classifier's weights are not those that the guard was fitted and calibrated for: "
            "load the right ones, or fit and calibrate a new guard."
        )
    if given.settings() != settings:
        raise CheckpointError(
            f"The classifier's settings {given.settings()} are not those that the guard was made "
            f"for, {settings}."
        )
    return given


def _parts(contents: Contents) -> dict[str, Part]:
    """The parts by the names that their tensors get in the file."""
    parts: dict[str, Part] = {
        f"{_DETECTOR}{name}": detector for name, detector in contents.detectors.items()
    }
    if contents.purifier is not None:
        parts["purifier"] = contents.purifier
    if contents.corrector is not None:
        parts["corrector"] = contents.corrector
    return parts


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
