"""From a study's entries to what guards are made of: data, attacks, networks, purifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import torch

from notsure import models
from notsure.attacks import AdvGAN, Attack
from notsure.attacks.generator import SMALLEST
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError, DataError
from notsure.models import with_jump_relu
from notsure.studies.datasets import PARTS, DataSet
from notsure.studies.declared import Study
from notsure.studies.document import Path
from notsure.studies.fitted_attacks import Attacker, FitAttack, FitRecipe
from notsure.studies.learning import FitPurifier, Network, Train
from notsure.studies.parts import FAMILIES, Builder, completed
from notsure.studies.retrofitting import Retrofit

_OF_DATA = ("num_classes", "in_channels", "size")
"""What an architecture is told that is read off the data."""


class Making:
    """Makes the entries of a study into steps, each when it is asked for first.

    Args:
        study: whose entries.
        data_root: the folder of data sets; None for that which NOTSURE_DATA names.
        cache: a folder that keeps decoded images; None for none.
    """

    def __init__(
        self, study: Study, data_root: str | FilePath | None, cache: str | FilePath | None
    ) -> None:
        self.study, self.data_root, self.cache = study, data_root, cache
        self.builder = Builder(self._where)
        self._made: dict[tuple[str, str], Any] = {}

    def _where(self, path: Path, key: bool) -> str:
        return self.study.where(*path, key=key)

    def _once(self, section: str, name: str, make: Callable[[], Any]) -> Any:
        if (section, name) not in self._made:
            self._made[section, name] = make()
        return self._made[section, name]

    def data(self, name: str) -> DataSet:
        """The images of that name."""
        found: DataSet = self._once("data", name, lambda: self._data(name))
        return found

    def _data(self, name: str) -> DataSet:
        spec, path = self.study.data[name], ("data", name)
        try:
            found = DataSet.found(spec, self.data_root, self.cache)
        except (DataError, ConfigurationError) as error:
            asked = next((part for part in PARTS if f"The {part} part" in str(error)), "source")
            raise type(error)(f"{self.study.where(*path, asked)}: {error}") from error
        if found.shape[1] != found.shape[2]:
            raise DataError(
                f"{self.study.where(*path)}: the architectures take square images; these are "
                f"{found.shape[1]}x{found.shape[2]} pixels."
            )
        return found

    def attack(self, name: str) -> Attacker:
        """The attack of that name, or the step that fits it."""
        found: Attacker = self._once("attacks", name, lambda: self._attack(name))
        return found

    def _attack(self, name: str) -> Attacker:
        spec, path = self.study.attacks[name], ("attacks", name)
        given = {"kind": spec.kind, "settings": spec.settings}
        if spec.kind in FAMILIES["fitted attack"]:
            return self._fitted(name)
        for key in ("network", "recipe"):
            if key in spec.model_fields_set:
                raise self.study.error(
                    f"{spec.kind} is not fitted before it is run: leave {key} out.",
                    *path,
                    key,
                    key=True,
                )
        found: Attack = self.builder.part("attack", given, path)
        return found

    def _fitted(self, name: str) -> FitAttack:
        spec, path = self.study.attacks[name], ("attacks", name)
        if spec.network is None:
            raise self.study.error(
                f"{spec.kind} is fitted before it is run, against a network: name it, network: ...",
                *path,
            )
        recipe = self.builder.fields(FitRecipe, spec.recipe, (*path, "recipe"))
        twice = sorted(recipe.settings().keys() & spec.settings.keys())
        if twice:
            raise self.study.error(
                f"{twice[0]} stands among the settings as well: give it once.",
                *path,
                "recipe",
                twice[0],
                key=True,
            )
        given = {"kind": spec.kind, "settings": {**spec.settings, **recipe.settings()}}
        attack: AdvGAN = self.builder.part("fitted attack", given, path)
        network = self.network(spec.network)
        there = network.data.counts["train"]
        if recipe.images is not None and recipe.images > there:
            raise self.study.error(
                f"There are {there} training images, fewer than {recipe.images}: ask for fewer, or "
                "leave images out for all.",
                *path,
                "recipe",
                "images",
            )
        if network.data.shape[1] < SMALLEST:
            raise self.study.error(
                f"{spec.kind} takes images from {SMALLEST}x{SMALLEST} on; these are "
                f"{network.data.shape[1]}x{network.data.shape[2]}.",
                *path,
            )
        return FitAttack(
            name=name, attack=attack, network=network, images=recipe.images, seed=recipe.seed
        )

    def network(self, name: str) -> Network:
        """The making of the network of that name."""
        found: Network = self._once("networks", name, lambda: self._network(name))
        return found

    def _network(self, name: str) -> Network:
        if self.study.networks[name].retrofit is not None:
            return self._retrofitted(name)
        return self._trained(name)

    def _retrofitted(self, name: str) -> Retrofit:
        spec, path = self.study.networks[name].retrofit, ("networks", name, "retrofit")
        if spec is None or self.study.networks[spec.of].retrofit is not None:
            raise self.study.error(
                "This network is retrofitted itself: name the one that it is made of.",
                *path,
                "of",
            )
        network: Train = self._once("networks", spec.of, lambda: self._trained(spec.of))
        step = Retrofit(
            name=name,
            data=network.data,
            network=network,
            kappa=spec.kappa,
            accuracy_loss=spec.accuracy_loss,
            spread=spec.spread,
        )
        # what cannot be changed so is told before anything is trained
        self.builder.guarded(
            lambda: with_jump_relu(_weightless(network), spec.kappa or 0.0, spec.spread), path
        )
        return step

    def _trained(self, name: str) -> Train:
        spec, path = self.study.networks[name], ("networks", name)
        data, architecture = self.data(str(spec.data)), str(spec.architecture)
        self.builder.guarded(lambda: models.factory_of(architecture), (*path, "architecture"))
        for key in _OF_DATA:
            if key in spec.arguments:
                raise self.study.error(
                    f"{key} is read off the data: leave it out.", *path, "arguments", key, key=True
                )
        channels, size, _ = data.shape
        of_data = dict(zip(_OF_DATA, (len(data.class_names), channels, size), strict=True))
        step = Train(
            name=name,
            architecture=architecture,
            arguments={**of_data, **spec.arguments},
            objective=self.builder.objective(spec.objective, (*path, "objective")),
            recipe=self.builder.recipe(spec.recipe, (*path, "recipe"), seed=spec.seed),
            data=data,
            seed=spec.seed,
            mean=spec.mean,
            std=spec.std,
        )
        self._try(step, path)
        return step

    def _try(self, step: Train, path: Path) -> None:
        """Builds the network without its weights: what cannot be trained is told at once."""
        module = self.builder.guarded(lambda: _weightless(step), (*path, "arguments"))
        classifier = self.builder.guarded(
            lambda: Classifier(
                module,
                mean=step.mean,
                std=step.std,
                reverse_logits=bool(step.objective.reverse_logits),
            ),
            (*path, "mean"),
        )
        self.builder.guarded(lambda: step.objective.require(classifier), (*path, "objective"))

    def purifier(self, name: str) -> FitPurifier:
        """The training of the purifier of that name."""
        found: FitPurifier = self._once("purifiers", name, lambda: self._purifier(name))
        return found

    def _purifier(self, name: str) -> FitPurifier:
        spec, path = self.study.purifiers[name], ("purifiers", name)
        given = {"kind": spec.kind, "settings": spec.settings}
        part = self.builder.part("purifier", given, path)
        data = self.data(spec.data)
        if part.needs_classifier and spec.network is None:
            raise self.study.error(
                f"{spec.kind} is trained with a classifier: name one, network: ...", *path
            )
        if not part.needs_classifier and spec.network is not None:
            raise self.study.error(
                f"{spec.kind} is trained without a classifier: leave network out.",
                *path,
                "network",
                key=True,
            )
        network = None if spec.network is None else self.network(spec.network)
        if network is not None:
            self._check_same_data(network.data, data, (*path, "data"))
        return FitPurifier(
            name=name,
            part=completed("purifier", given),
            recipe=self.builder.recipe(spec.recipe, (*path, "recipe")),
            data=data,
            network=network,
        )

    def _check_same_data(self, first: DataSet, second: DataSet, path: Path) -> None:
        """Refuses images of another shape, and other cuts of the same data, which would leak."""
        if first.shape != second.shape:
            raise self.study.error(
                f"The images of {first.name!r} are {first.shape} (channels, height, width), those "
                f"of {second.name!r} {second.shape}: what stands before a network is trained on "
                "images like its own.",
                *path,
            )
        if first.path == second.path and first.seed != second.seed:
            raise self.study.error(
                f"The data are cut out of {first.name!r} with the seeds {first.seed} and "
                f"{second.seed}, so that one part's training images are among the other's test "
                "images: take one cut.",
                *path,
            )


def _weightless(step: Train) -> torch.nn.Module:
    """The network of a training with the shapes of its weights alone."""
    with torch.device("meta"):
        return models.build(step.architecture, **step.arguments)
