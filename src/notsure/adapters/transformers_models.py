"""Models of transformers: by hub id, or from a local folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from notsure.adapters.answers import probe
from notsure.adapters.loaded import Given, Loaded, extra, per_channel
from notsure.adapters.resizing import Interpolation, Resizing, squeezed
from notsure.adapters.timm_models import load_timm
from notsure.adapters.weights import SAFE, misfit_of
from notsure.classifier import Classifier
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError
from notsure.core.storage import load_json
from notsure.models.registry import Architecture, remember

_PROCESSOR = "preprocessor_config.json"
_EIGHT_BITS = 255
_BELOW_384 = 384
_SMALL = 64
_TOLD = 3
_OF_TIMM = "timm_wrapper"
_RESAMPLING: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}


def load_transformers(name: str, given: Given) -> Loaded:
    """A model for image classification of transformers, with its image processor's settings.

    No code of the model's repository is run, and only safetensors are read.

    Args:
        name: a hub id "ORG/NAME", or a local folder that `save_pretrained` wrote.
        given: what the user says.

    Raises:
        CheckpointError: the weights are a pickle or damaged, or some are missing.
        ConfigurationError: transformers is not installed, or there is no such model.
    """
    transformers = extra(
        "transformers", name="transformers", what=f"The model hf:{name} of transformers"
    )
    if given.checkpoint:
        raise ConfigurationError(
            "A model of transformers brings its weights in its folder: leave the checkpoint out."
        )
    if _is_of_timm(Path(name)):
        return load_timm(name, given)
    with _quiet():
        model, config, foreign = _model(transformers, name)
        processor = _processor(transformers, name)
    if config.model_type == _OF_TIMM:
        raise ConfigurationError(
            f"hf:{name} is a model of timm, whose own road knows its preprocessing: give "
            f"timm:{Path(name).name}; or, for weights of another owner, download it and give "
            "timm:FOLDER."
        )
    channels = int(getattr(config, "num_channels", 3) or 3)
    resizing = _resizing(processor, config, given)
    mean, std = _normalising(processor, channels)
    size = None if resizing is None else resizing.size
    notes = [] if processor else [
        "It has no image processor, so images are given to it in [0,1] as they are."
    ]  # fmt: skip
    if foreign:
        more = ", ..." if len(foreign) > _TOLD else ""
        notes.append(
            f"{len(foreign)} tensors of its file belong to no layer and were left out: "
            f"{', '.join(foreign[:_TOLD])}{more}."
        )
    mean = per_channel(given.mean, channels, 0.0) if given.mean is not None else mean
    std = per_channel(given.std, channels, 1.0) if given.std is not None else std
    if processor.get("do_flip_channel_order"):
        _take_red_first(model, name, channels, size)
        notes.append(
            "Its image processor gives it blue, green and red; its first layer was turned round "
            "instead, so that it takes red, green and blue."
        )
    classifier = Classifier(model, mean=mean, std=std)
    classifier.eval()
    probed = probe(model, channels, size, called=f"The model hf:{name}")
    return Loaded(
        target=classifier,
        name=Path(name).name,
        origin=f"{type(model).__name__} of transformers, {_place(name)}",
        num_classes=probed.num_classes,
        channels=channels,
        size=probed.size,
        resizing=resizing or squeezed(probed.size, "bilinear"),
        mean=mean,
        std=std,
        class_names=given.class_names or _names(config),
        no_gradients=probed.no_gradients,
        notes=tuple(notes),
    )


def _take_red_first(
    model: torch.nn.Module, name: str, channels: int, size: tuple[int, int] | None
) -> None:
    """Turns round the first convolution of a model that takes blue, green and red.

    Raises:
        UnsupportedError: its first convolution is not what takes the images.
    """
    height, width = size or (_SMALL, _SMALL)
    x = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    first = next((one for one in model.modules() if isinstance(one, torch.nn.Conv2d)), None)
    with torch.no_grad():
        before = model(x.flip(1)).logits
        if first is not None and first.groups == 1 and first.in_channels == channels:
            first.weight.copy_(first.weight.flip(1))
        if not torch.allclose(model(x).logits, before, rtol=1e-4, atol=1e-5):
            raise UnsupportedError(
                f"hf:{name} takes images whose channels are blue, green and red, and not by its "
                "first convolution: exchange them in a file of yours, path/to/file.py:build_model."
            )


def _is_of_timm(folder: Path) -> bool:
    """Whether a folder was written by timm, whose models transformers wraps."""
    config = folder / "config.json"
    return config.is_file() and "architecture" in load_json(config)


def _place(name: str) -> str:
    return f"in the folder {name}" if Path(name).is_dir() else f"from the hub's {name}"


def _model(transformers: Any, name: str) -> tuple[torch.nn.Module, Any, list[str]]:
    """The network, its configuration, and what its file holds besides."""
    if Path(name).is_dir():
        _require_safetensors(Path(name))
    kinds = transformers.AutoModelForImageClassification
    try:
        model, told = kinds.from_pretrained(
            name,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # the hub's client and transformers raise many kinds
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigurationError(
            f"hf:{name} cannot be loaded as a model for image classification "
            f"({type(error).__name__}: {first[:300]}). Without the hub, give a local folder with "
            "config.json, model.safetensors and preprocessor_config.json in its place."
        ) from None
    _require_all(name, model, told)
    # in the layout in which a guard's folder is read, for the same numbers to the bit
    model = model.float().to(memory_format=torch.channels_last).eval()
    settings = json.loads(model.config.to_json_string(use_diff=False))
    remember(
        model,
        Architecture(name=f"transformers:{settings['model_type']}", arguments={"config": settings}),
    )
    foreign = sorted(str(one) for one in told.get("unexpected_keys", ()))
    return cast("torch.nn.Module", model), model.config, foreign


def _require_safetensors(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{str(folder)!r} is no folder of transformers: it has no config.json."
        )
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    what = f"pickled weights ({', '.join(pickled)})" if pickled else "no weights"
    raise CheckpointError(
        f"{str(folder)!r} holds {what} and no safetensors. A pickle runs code when it is read, and "
        f"is refused. {SAFE} model.save_pretrained(folder) writes safetensors as well."
    )


def _require_all(name: str, model: torch.nn.Module, told: Mapping[str, Any]) -> None:
    """Refuses a network of which a part would keep its untrained weights."""
    missing = sorted(str(one) for one in told.get("missing_keys", ()))
    mismatched = [tuple(one) for one in told.get("mismatched_keys", ())]
    if not missing and not mismatched:
        return
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: shape for key, shape in shapes.items() if key not in missing}
    for key, in_checkpoint, _ in mismatched:
        found[str(key)] = tuple(in_checkpoint)
    found |= {str(one): () for one in told.get("unexpected_keys", ())}
    raise CheckpointError(
        f"The weights of hf:{name} do not fill {type(model).__name__}: {misfit_of(shapes, found)} "
        "What is missing would be left untrained; fine-tune it first (notsure compare does)."
    )


def _processor(transformers: Any, name: str) -> dict[str, Any]:
    """The image processor's settings; none where the model has no processor."""
    try:
        return dict(transformers.AutoImageProcessor.from_pretrained(name).to_dict())
    except (OSError, ValueError, KeyError) as error:
        if (Path(name) / _PROCESSOR).is_file():
            first = (str(error).strip().splitlines() or [""])[0]
            raise CheckpointError(
                f"{_PROCESSOR} in {name!r} cannot be read ({type(error).__name__}: {first[:200]}): "
                "repair it, or remove it and give --size, --mean and --std."
            ) from None
        return {}


def _resizing(processor: Mapping[str, Any], config: Any, given: Given) -> Resizing | None:
    resample = processor.get("resample")
    how = "bilinear" if resample is None else _RESAMPLING.get(int(resample), "bilinear")
    if given.size is not None:
        return squeezed(given.height_and_width, how)
    if not processor:
        own = getattr(config, "image_size", None)
        return None if own is None else squeezed(_pair(own), how)
    size = processor.get("size") or {}
    cut = processor.get("crop_size") if processor.get("do_center_crop") else None
    if cut is not None:
        return _cut_out(processor, _pair(cut), size, how)
    if processor.get("do_resize") is False:
        return None
    if isinstance(size, Mapping) and size.get("shortest_edge") is not None:
        edge, share = int(size["shortest_edge"]), processor.get("crop_pct")
        if share is not None and edge >= _BELOW_384:
            return squeezed((edge, edge), how)  # as ConvNeXt's processor does with larger images
        first = edge if share is None else int(edge / float(share))
        return Resizing(height=edge, width=edge, shortest_edge=first, interpolation=how)
    return squeezed(_pair(size), how)


def _cut_out(
    processor: Mapping[str, Any], cut: tuple[int, int], size: Any, how: Interpolation
) -> Resizing:
    """The resizing of a processor that cuts out the middle."""
    kind = str(processor.get("image_processor_type") or "")
    if kind.startswith("Perceiver"):
        # it cuts first, in these proportions, and resizes what is left
        (height, width), edge = _pair(size), max(cut)
        return Resizing(
            height=height, width=width, shortest_edge=max(edge, height, width), interpolation=how
        )
    height, width = cut
    if not (isinstance(size, Mapping) and size.get("shortest_edge") is not None):
        first = _pair(size)
        if first[0] < height or first[1] < width or first == cut:
            return Resizing(height=height, width=width, interpolation=how)
        return Resizing(height=height, width=width, before_crop=first, interpolation=how)
    edge = int(size["shortest_edge"])
    if processor.get("crop_pct") is not None:
        edge = int(edge / float(processor["crop_pct"]))
    if kind.startswith("Levit"):
        edge = int(256 / 224 * edge)
    return Resizing(
        height=height, width=width, shortest_edge=max(edge, height, width), interpolation=how
    )


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ConfigurationError(
        f"The image processor's size {size!r} is not understood: give the size (--size)."
    )


def _normalising(
    processor: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in [0,1] units of all that the processor does to pixels."""
    scale, offset = 1.0, 0.0
    if processor.get("do_rescale", True) and processor:
        scale = _EIGHT_BITS * float(processor.get("rescale_factor") or 1 / _EIGHT_BITS)
        offset = 1.0 if processor.get("rescale_offset") else 0.0
    elif processor:
        scale = float(_EIGHT_BITS)
    means, stds = per_channel(None, channels, 0.0), per_channel(None, channels, 1.0)
    if processor.get("do_normalize"):
        means = per_channel(processor.get("image_mean"), channels, 0.0)
        stds = per_channel(processor.get("image_std"), channels, 1.0)
    if processor.get("include_top"):
        # EfficientNet's processor divides by the standard deviation once more
        again = per_channel(processor.get("image_std"), channels, 1.0)
        stds = tuple(one * other for one, other in zip(stds, again, strict=True))
    # (scale x - offset - mean) / std, written as (x - m) / s
    return (
        tuple((offset + mean) / scale for mean in means),
        tuple(std / scale for std in stds),
    )


def _names(config: Any) -> tuple[str, ...]:
    known = {int(key): str(name) for key, name in (getattr(config, "id2label", {}) or {}).items()}
    names = tuple(known.get(i, "") for i in range(len(known)))
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return () if unnamed or "" in names else names


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers; what counts is told by our own errors."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = extra("transformers.utils.logging", name="transformers", what="This model")
    shown = bool(bars.is_progress_bar_enabled())
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()
