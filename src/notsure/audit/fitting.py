"""Models made to answer for the classes of some data: used as they are, fine-tuned, or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure import models
from notsure.adapters import Loaded, load_model, matched
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.core.state import derived_seed, seeded
from notsure.data import Images
from notsure.models import architecture_of
from notsure.training import Recipe, train

TRAINED, TUNED, AS_IS = "trained", "fine-tuned", "as it is"

_RATES = {TRAINED: 1e-3, TUNED: 3e-4}


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A model that answers for the classes of the data, on images of their size.

    Attributes:
        classifier: the model.
        how: "trained", "fine-tuned" or "as it is".
        told: what was done, in a sentence.
        parameters: how many numbers it has learnt.
        no_gradients: why no gradients reach its images; empty where they do.
    """

    classifier: Classifier
    how: str
    told: str
    parameters: int
    no_gradients: str = ""


class Resized(nn.Module):
    """A network behind a bilinear resizing of its images, through which gradients go.

    Args:
        network: images of that size to whatever it yields.
        size: height and width in pixels.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def extra_repr(self) -> str:
        """What images are resized to, for people."""
        return f"size={self.size}"

    def forward(self, x: torch.Tensor) -> Any:
        """What the network yields for images (B, C, H, W)."""
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return self.network(x)


class Coloured(nn.Module):
    """A classifier of coloured images that is given grey ones, whose three channels are alike.

    Args:
        classifier: images (B, 3, H, W) in [0,1] to logits.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, 1, H, W) in [0,1]."""
        logits: torch.Tensor = self.classifier(x.expand(-1, 3, -1, -1))
        return logits


def made_for(
    spec: str,
    images: Images,
    *,
    pretrained: bool,
    epochs: int,
    by_position: bool,
    seed: int,
    checkpoint: Path,
    progress: bool,
) -> Made:
    """A model that answers for the classes of the images.

    A model whose classes are those of the data is used as it is, at the size of the data: what it
    resizes to is part of it, so that the same eps means the same for every model; of grey images a
    model of coloured ones gets three channels that are alike. A network of
    timm, of transformers or of notsure that has another head gets a new one and is trained: from
    its weights, or from scratch without any. A model's own mean and std stay; untrained networks
    get 0.5 and 0.5.

    Args:
        spec: as `notsure.adapters.load_model` takes it, or the name of one of notsure's networks.
        images: the training images.
        pretrained: whether a model of timm starts from the weights of the hub.
        epochs: how long it is trained.
        by_position: whether classes are matched by their positions and not by their names.
        seed: of new weights and the training.
        checkpoint: a safetensors file that the training is kept in, and goes on from.
        progress: whether to show a progress bar.

    Raises:
        ConfigurationError: its classes are not those of the data, and it is none that can be
            trained; or the weights cannot be had.
        NotSureError: as loading and training raise it.
    """
    prefix, _, name = spec.partition(":")
    untrained = spec in models.names() or (
        prefix == "timm" and not pretrained and not Path(name).is_dir()
    )
    if untrained:
        classifier = _untrained(spec, images, seed)
        how, told = TRAINED, f"{spec} was trained from scratch"
    else:
        loaded = load_model(spec)
        if _fits(loaded, images, by_position):
            classifier = _at_size_of(loaded, images)
            told = " ".join([f"{loaded.origin}; its classes are those of the data.", *loaded.notes])
            made = _made(classifier, AS_IS, told.removesuffix("."))
            return replace(made, no_gradients=loaded.no_gradients)
        classifier, kept = _with_new_head(loaded, images, seed)
        how, told = TUNED, f"{loaded.origin}, {kept}; it was fine-tuned"
    recipe = Recipe(
        epochs=epochs,
        optimizer="adamw",
        learning_rate=_RATES[how],
        weight_decay=1e-4,
        schedule="one-cycle",
        seed=seed,
    )
    history = train(classifier, images, recipe=recipe, checkpoint=checkpoint, progress=progress)
    accuracy = f"{100 * history.epochs[-1].accuracy:.1f} %" if history.epochs else "unknown"
    epoch_text = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    told += f" for {epoch_text} on {len(images)} images (accuracy in the last: {accuracy})"
    return _made(classifier, how, told)


def _made(classifier: Classifier, how: str, told: str) -> Made:
    count = sum(one.numel() for one in classifier.module.parameters() if one.is_floating_point())
    return Made(classifier=classifier.eval(), how=how, told=f"{told}.", parameters=count)


def _untrained(spec: str, images: Images, seed: int) -> Classifier:
    with seeded(derived_seed(seed, "weights", spec)):
        module = models.build(
            spec,
            num_classes=images.num_classes,
            in_channels=images.in_channels,
            size=images.size,
        )
    return Classifier(module, mean=0.5, std=0.5)


def _fits(loaded: Loaded, images: Images, by_position: bool) -> bool:
    """Whether a model answers for the data's classes, in their order."""
    shown = loaded.channels == images.in_channels or _grey_to_coloured(loaded, images)
    if loaded.num_classes != images.num_classes or not shown:
        return False
    named, _ = matched(images, loaded.class_names, loaded.num_classes, by_position=by_position)
    if not torch.equal(named.labels, images.labels):
        raise ConfigurationError(
            f"{loaded.name} numbers its classes otherwise than the data ({loaded.class_names[:4]}, "
            f"{images.class_names[:4]}), and several models are compared on the same numbers: "
            "audit it by itself, or rename the data's classes."
        )
    return True


def _at_size_of(loaded: Loaded, images: Images) -> Classifier:
    own = loaded.classifier
    if loaded.target is not own:
        raise ConfigurationError(
            f"{loaded.name} is a guard: compare its figures by notsure report, which sets runs "
            "side by side."
        )
    if loaded.size not in (None, tuple(images.image_shape[1:])):
        own = Classifier(
            Resized(own.module, _size(loaded)),
            mean=loaded.mean,
            std=loaded.std,
            reverse_logits=own.reverse_logits,
        )
    if _grey_to_coloured(loaded, images):
        own = Classifier(Coloured(own))
        own.channels = images.in_channels
    return own


def _grey_to_coloured(loaded: Loaded, images: Images) -> bool:
    return loaded.channels == 3 and images.in_channels == 1


def _size(loaded: Loaded) -> tuple[int, int]:
    if loaded.size is None:
        raise ConfigurationError(f"The size of the images of {loaded.name} is not known.")
    return loaded.size


def _with_new_head(loaded: Loaded, images: Images, seed: int) -> tuple[Classifier, str]:
    """The model's network with layers for the data's classes and channels, and what was kept."""
    architecture = architecture_of(loaded.classifier.module)
    build = None if architecture is None else _BUILDERS.get(architecture.name.partition(":")[0])
    if architecture is None or build is None:
        raise ConfigurationError(
            f"{loaded.name} answers for {loaded.num_classes} classes of images with "
            f"{loaded.channels} channels, the data have {images.num_classes} and "
            f"{images.in_channels}: it is none of timm or transformers, so it cannot be given "
            "another head here. Train it yourself and compare the result."
        )
    with seeded(derived_seed(seed, "weights", loaded.name)):
        module = build(architecture.name, architecture.arguments, images)
    wanted, found = module.state_dict(), loaded.classifier.module.state_dict()
    fitting = {
        name: value
        for name, value in found.items()
        if name in wanted and wanted[name].shape == value.shape
    }
    module.load_state_dict({**wanted, **fitting})
    new = len(wanted) - len(fitting)
    module = module if loaded.size is None else Resized(module, loaded.size)
    mean, std = (_averaged(one, images.in_channels) for one in (loaded.mean, loaded.std))
    kept = f"{len(fitting)} of its {len(wanted)} tensors kept and {new} made anew"
    return Classifier(module, mean=mean, std=std), kept


def _averaged(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def _timm(name: str, arguments: Mapping[str, Any], images: Images) -> nn.Module:
    changed = {"num_classes": images.num_classes, "in_channels": images.in_channels}
    return models.build(name, **{**arguments, **changed})


def _transformers(name: str, arguments: Mapping[str, Any], images: Images) -> nn.Module:
    names = {str(i): one for i, one in enumerate(images.class_names)}
    changed = {
        "num_channels": images.in_channels,
        "id2label": names,
        "label2id": {one: int(i) for i, one in names.items()},
    }
    return models.build(name, config={**arguments["config"], **changed})


_BUILDERS: Mapping[str, Callable[[str, Mapping[str, Any], Images], nn.Module]] = {
    "timm": _timm,
    "transformers": _transformers,
}
