"""What a study declares, as typed models; `notsure.studies.spec` reads them from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, model_validator

from notsure.core.errors import ConfigurationError
from notsure.studies.declared_cells import AdaptiveSpec, CellsSpec, WaitingSpec
from notsure.studies.declared_figures import PICTURE_OF_CLASSES, FigureSpec
from notsure.studies.document import Node, Path, nearest
from notsure.studies.forms import FORM, Count, Number, Parameter, Scale, Statistic, Text, Whole


class _Model(BaseModel):
    model_config = FORM


def _as_part(value: Any) -> Any:
    """A part's kind alone stands for the part with its usual settings."""
    return {"kind": value} if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [_as_part(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _without_nulls(value: Any) -> Any:
    """Null takes away what the defaults have put there."""
    if not isinstance(value, dict):
        return value
    return {key: entry for key, entry in value.items() if entry is not None}


Dropping = BeforeValidator(_without_nulls)


class PartSpec(_Model):
    """A part of the library by its class's name.

    Attributes:
        kind: "KDensity", "PGD", "CrossEntropy", ...
        settings: the constructor's arguments; what holds other parts holds them in this same form.
    """

    kind: Text
    settings: dict[Text, Any] = {}


class DataSpec(_Model):
    """Images, cut into three parts that share none.

    Attributes:
        source: "digits", or a path under the data root, to what `notsure.data.load` takes.
        train: how many images of the part, drawn in the proportions of the classes; None for all.
        calibration: the same of the part that thresholds are set on.
        test: the same of the part that figures are measured on.
        seed: of the cut and of these draws.
        stand_in: a source that is taken where the first is not under the data root; whatever is
            measured on it says so.
    """

    source: Text
    train: Count | None = None
    calibration: Count | None = None
    test: Count | None = None
    seed: Whole = 0
    stand_in: Text | None = None


class RetrofitSpec(_Model):
    """JumpReLU in the place of ReLU, in a network that is trained already.

    Attributes:
        of: the network, by name.
        kappa: the threshold, see `notsure.models.JumpReLU`.
        accuracy_loss: in place of kappa, by how much the accuracy on the calibration images may
            fall, see `notsure.training.retrofit`.
        spread: how far kappa may be off, drawn anew for every sample and layer.
    """

    of: Text
    kappa: Number | None = None
    accuracy_loss: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = None
    spread: Number = 0.0

    @model_validator(mode="after")
    def _one_of_them(self) -> RetrofitSpec:
        if (self.kappa is None) == (self.accuracy_loss is None):
            raise ValueError("A retrofit has kappa or an accuracy_loss to find it by: give one.")
        return self


class NetworkSpec(_Model):
    """A classifier and how it is trained; or how it is made of another one.

    Attributes:
        architecture: a name of `notsure.models`, or "timm:NAME" for a model of timm.
        arguments: what the architecture takes besides what is read off the data.
        objective: what is minimised; of several the sum.
        recipe: settings of `notsure.training.Recipe`; its seed is the network's unless given.
        data: the data it is trained on, by name.
        seed: of the initial weights.
        mean: of the preprocessing, see `notsure.Classifier`.
        std: of the preprocessing.
        retrofit: what is changed in a network that is trained already; it has no other keys then.
    """

    architecture: Text | None = None
    arguments: dict[Text, Any] = {}
    objective: Annotated[tuple[PartSpec, ...], BeforeValidator(_as_parts), Field(min_length=1)] = (
        PartSpec(kind="CrossEntropy"),
    )
    recipe: dict[Text, Any] = {}
    data: Text | None = None
    seed: Whole = 0
    mean: Statistic | None = None
    std: Statistic | None = None
    retrofit: RetrofitSpec | None = None

    @model_validator(mode="after")
    def _trained_or_retrofitted(self) -> NetworkSpec:
        if self.retrofit is not None:
            surplus = sorted(self.model_fields_set - {"retrofit"})
            if surplus:
                raise ValueError(
                    f"A retrofitted network is trained as the one it is made of: leave "
                    f"{', '.join(surplus)} out."
                )
            return self
        missing = [key for key in ("architecture", "data") if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{' and '.join(map(repr, missing))} missing: a network needs both.")
        return self


class PurifierSpec(PartSpec):
    """A purifier and how it is trained.

    Attributes:
        data: the data it is trained on, by name.
        recipe: settings of `notsure.training.Recipe`.
        network: the classifier that takes part in its training, for those that need one.
    """

    data: Text
    recipe: dict[Text, Any]
    network: Text | None = None


class AttackSpec(PartSpec):
    """An attack; one that learns is fitted first.

    Attributes:
        network: the classifier that it is fitted against, on the training images of that one, by
            name; for those that learn alone.
        recipe: how it is fitted, see `notsure.studies.fitted_attacks.FitRecipe`.
    """

    network: Text | None = None
    recipe: dict[Text, Any] = {}


class GuardSpec(_Model):
    """A network and what guards it, fitted and calibrated on the network's data.

    Attributes:
        network: the classifier, by name.
        detectors: by the names that records call them; a detector's `of` names a purifier.
        purifier: what cleans the images beforehand, by name.
        corrector: who answers what is flagged.
        rule: "any" or "all", see `notsure.Guard`.
        fpr: the share of clean images that may be flagged, in (0, 1).
        attack: for parts that learn from adversarial examples: what makes them, by name.
        examples: from how many images.
        parameters: what heat maps are laid out by, see `notsure.evaluate`.
    """

    network: Text
    detectors: Annotated[dict[Text, Annotated[PartSpec, BeforeValidator(_as_part)]], Dropping] = {}
    purifier: Text | None = None
    corrector: Annotated[PartSpec | None, BeforeValidator(_as_part)] = None
    rule: Literal["any", "all"] = "any"
    fpr: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.01
    attack: Text | None = None
    examples: Count = 2000
    parameters: Annotated[dict[Text, Parameter], Dropping] = {}

    @model_validator(mode="after")
    def _corrects_what_is_flagged(self) -> GuardSpec:
        if self.corrector is not None and not self.detectors:
            raise ValueError("A corrector answers what detectors flag: give detectors as well.")
        return self


class SubstituteSpec(_Model):
    """What a transfer is made from.

    Attributes:
        network: a bare network, by name.
        guard: a guard, by name.
    """

    network: Text | None = None
    guard: Text | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> SubstituteSpec:
        if (self.network is None) == (self.guard is None):
            raise ValueError("A substitute is a network or a guard: name one of them.")
        return self


class EvaluationSpec(_Model):
    """An examination of guards, as `notsure.evaluate` makes it, on their test images.

    Attributes:
        guards: by name; "ce-*" stands for all whose names fit.
        attacks: the names of attacks by the threat that they are run under.
        suite: "quick", "standard" or "full", in place of attacks.
        threats: of a suite, those that are wanted; None for all.
        eps: budgets to run each bounded attack with, in place of its own; a suite needs them.
        norm: of a suite's budgets.
        count: how many test images are attacked, drawn in the proportions of the classes; None for
            all.
        substitutes: what transfers are made from, by the names that records call them.
        seed: of the attacks.
        batch_size: how many images are attacked at a time.
        illustrated: see `notsure.evaluate`, as the rest.
    """

    guards: Annotated[tuple[Text, ...], Field(min_length=1)]
    attacks: Annotated[dict[Text, tuple[Text, ...]] | None, Dropping] = None
    suite: Text | None = None
    threats: tuple[Text, ...] | None = None
    eps: Annotated[tuple[Number | Text, ...], Field(min_length=1)] | None = None
    norm: Literal["linf", "l2"] = "linf"
    count: Count | None = None
    substitutes: Annotated[dict[Text, SubstituteSpec], Dropping] = {}
    seed: Whole = 0
    batch_size: Count = 256
    illustrated: Whole = 12
    embedded: Whole = 1000
    probes: Whole = 100
    controlled: Whole = 1000

    @model_validator(mode="after")
    def _attacks_or_a_suite(self) -> EvaluationSpec:
        if (self.attacks is None) == (self.suite is None):
            raise ValueError("An evaluation has attacks or a suite that chooses them: give one.")
        if self.suite is not None and self.eps is None:
            raise ValueError("A suite takes budgets, such as eps: [0.1, 0.2] or eps: [8/255].")
        if self.suite is None and self.threats is not None:
            raise ValueError("threats belong to a suite; attacks are given by their threat.")
        if self.attacks is not None and self.substitutes and "transfer" not in self.attacks:
            raise ValueError("There are substitutes and no attacks under 'transfer' to make.")
        if self.attacks is not None and "transfer" in self.attacks and not self.substitutes:
            raise ValueError("A transfer is made from substitutes: give them.")
        return self


class Study(_Model):
    """A declared experiment.

    Attributes:
        name: what it is called by, in one word.
        title: what it is, in a line.
        report: the report whose figures it answers; empty for none.
        scale: how large it is run.
        data: the images, by name, as all that follows.
        networks: the classifiers.
        purifiers: what cleans images.
        attacks: the attacks that guards are fitted with and evaluations run.
        guards: the guards.
        evaluations: what is measured.
        cells: which result answers which published figures.
        waiting: which published figures have no answer at this scale, and what they wait for.
        adaptive: what is told of the report's systems under an adaptive attacker.
        figures: which pictures stand for the report's figures, by what the report calls these.
    """

    name: Text
    title: Text
    report: str = ""
    scale: Scale
    data: dict[Text, DataSpec]
    networks: dict[Text, NetworkSpec]
    purifiers: dict[Text, PurifierSpec] = {}
    attacks: dict[Text, Annotated[AttackSpec, BeforeValidator(_as_part)]] = {}
    guards: dict[Text, GuardSpec] = {}
    evaluations: dict[Text, EvaluationSpec] = {}
    cells: dict[Text, CellsSpec] = {}
    waiting: dict[Text, WaitingSpec] = {}
    adaptive: dict[Text, AdaptiveSpec] = {}
    figures: dict[Text, FigureSpec] = {}

    _document: Node | None = PrivateAttr(default=None)

    def where(self, *path: str | int, key: bool = False) -> str:
        """The file, line and column of the value at a path, as an error's message begins.

        Args:
            *path: keys and positions from the top, such as "networks", "ce", "recipe".
            key: the place of the last key in place of that of its value.
        """
        if self._document is None:
            return f"study {self.name!r}, {'.'.join(str(step) for step in path)}"
        return str(self._document.place_of(path, key=key))

    def error(self, text: str, *path: str | int, key: bool = False) -> ConfigurationError:
        """The error that points at the value at a path.

        Args:
            text: what is wrong.
            path: keys and positions from the top, such as "networks", "ce", "recipe".
            key: the place of the last key in place of that of its value.
        """
        return ConfigurationError(f"{self.where(*path, key=key)}: {text}")

    def check_names(self) -> None:
        """Checks that every entry that is named exists.

        Raises:
            ConfigurationError: one does not; the nearest name that does is suggested.
        """
        for section, name, path in _references(self):
            known: Mapping[str, Any] = getattr(self, section)
            if name not in known:
                one = section.removesuffix("s") if section != "data" else section
                raise self.error(f"There is no {one} {name!r}.{nearest(name, known)}", *path)
        for name, figure in self.figures.items():
            self._check_figure(name, figure)

    def _check_figure(self, name: str, figure: FigureSpec) -> None:
        """Checks that the guards and attacks of a figure are those of its evaluations."""
        evaluations = [self.evaluations[one] for one in figure.evaluations]
        guards = list(dict.fromkeys(one for its in evaluations for one in its.guards))
        attacks = [
            one for its in evaluations for own in (its.attacks or {}).values() for one in own
        ]
        # a suite's attacks have no names here
        named = {"guards": guards, "attacks": list(dict.fromkeys(attacks))}
        for section, known in named.items():
            for position, one in enumerate(getattr(figure, section) or ()):
                if one not in known:
                    raise self.error(
                        f"{', '.join(figure.evaluations)} has no {section.removesuffix('s')} "
                        f"{one!r}.{nearest(one, known)}",
                        *("figures", name, section, position),
                    )
        # records are told apart by the attack's kind
        chosen = {self.attacks[one].kind: one for one in figure.attacks or ()}
        for other in named["attacks"]:
            kind = self.attacks[other].kind
            if kind in chosen and other not in (figure.attacks or ()):
                raise self.error(
                    f"{other!r} is a {kind}, too, as {chosen[kind]!r} is: a figure shows all "
                    "attacks of a kind, so name both, or run them in evaluations of their own.",
                    *("figures", name),
                )
        if figure.picture == PICTURE_OF_CLASSES:
            for guard in figure.guards or guards:
                purifier = self.guards[guard].purifier
                if purifier is None or self.purifiers[purifier].kind != "PuVAE":
                    raise self.error(
                        f"The guard {guard!r} has no PuVAE, which reconstructs an image as every "
                        "class: name those that have, guards: [...].",
                        *("figures", name),
                    )

    def with_document(self, document: Node) -> Study:
        """The same study, whose errors point into a document."""
        copy = self.model_copy()
        copy._document = document
        return copy


def _references(study: Study) -> Iterator[tuple[str, str, Path]]:
    """The section, the name and the place of every entry that is named."""
    for name, network in study.networks.items():
        if network.data is not None:
            yield "data", network.data, ("networks", name, "data")
        if network.retrofit is not None:
            yield "networks", network.retrofit.of, ("networks", name, "retrofit", "of")
    for name, fitted in study.attacks.items():
        if fitted.network is not None:
            yield "networks", fitted.network, ("attacks", name, "network")
    for name, purifier in study.purifiers.items():
        yield "data", purifier.data, ("purifiers", name, "data")
        if purifier.network is not None:
            yield "networks", purifier.network, ("purifiers", name, "network")
    for name, guard in study.guards.items():
        yield "networks", guard.network, ("guards", name, "network")
        if guard.purifier is not None:
            yield "purifiers", guard.purifier, ("guards", name, "purifier")
        if guard.attack is not None:
            yield "attacks", guard.attack, ("guards", name, "attack")
    for name, evaluation in study.evaluations.items():
        top: Path = ("evaluations", name)
        for position, guard_name in enumerate(evaluation.guards):
            yield "guards", guard_name, (*top, "guards", position)
        for threat, attacks in (evaluation.attacks or {}).items():
            for position, attack in enumerate(attacks):
                yield "attacks", attack, (*top, "attacks", threat, position)
        for called, substitute in evaluation.substitutes.items():
            for section, own in (("networks", substitute.network), ("guards", substitute.guard)):
                if own is not None:
                    yield section, own, (*top, "substitutes", called, section.removesuffix("s"))
    for name, figure in study.figures.items():
        for position, own in enumerate(figure.evaluations):
            yield "evaluations", own, ("figures", name, "evaluations", position)
    for name, told in study.adaptive.items():
        yield "evaluations", told.evaluation, ("adaptive", name, "evaluation")
