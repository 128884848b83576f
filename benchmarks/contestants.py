"""Who takes part: notsure, a bare loop, and the peers, each called as its documentation says.

All of them get the same module, the same images in the same batches and the same hyperparameters.
What has to be known of a peer so that it does what its settings say is said where it is called.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure import Classifier
from notsure.attacks import Targeted

Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a batch of clean images and their true labels to adversarial images."""


class UnavailableError(Exception):
    """A contestant that cannot take part; the message is the reason that is recorded."""


@dataclass(frozen=True, eq=False)
class Task:
    """What every contestant of a row gets.

    Attributes:
        classifier: the network under attack, in evaluation mode.
        batch: how many images a call gets at most.
        image: (C, H, W).
        classes: how many.
        shift: targets are (y + shift) % classes; None for an untargeted attack.
    """

    classifier: Classifier
    batch: int
    image: tuple[int, int, int]
    classes: int = 10
    shift: int | None = None

    @property
    def module(self) -> nn.Module:
        """The plain network, without anything of notsure's around it."""
        return self.classifier.module

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.classifier.device

    def targets(self, y: torch.Tensor) -> torch.Tensor:
        """The wanted labels (B,) of a targeted attack, and the true ones of another."""
        return y if self.shift is None else (y + self.shift) % self.classes


@dataclass(frozen=True, kw_only=True)
class Contestant(ABC):
    """One way to run an attack.

    Attributes:
        attack: its name in its library.
        settings: what it is given, by the library's own names.
        required: by what factor ours has to be faster; None where nothing was promised.
        count: on how many images it runs at most, where it is too slow for all of them.
        variant: what tells it from another contestant of the same library.
    """

    library: ClassVar[str]

    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    required: float | None = None
    count: int | None = None
    variant: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.library} ({self.variant})" if self.variant else self.library

    @property
    def call(self) -> str:
        """The call as a line of code."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        return f"{self.library}: {self.attack}({settings})"

    @abstractmethod
    def prepare(self, task: Task) -> Run:
        """Builds the attack, outside what is timed.

        Raises:
            UnavailableError: its library is not there, or does not have it.
        """


@dataclass(frozen=True, kw_only=True)
class NotSure(Contestant):
    """Ours: checks, counting and the final judgement included."""

    library = "notsure"

    def prepare(self, task: Task) -> Run:
        """The attack on the Classifier."""
        kind = _member("notsure.attacks", self.attack)
        try:
            attack = kind(**self.settings)
        except TypeError as error:
            raise UnavailableError(f"notsure.attacks.{self.attack}: {error}") from error

        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            goal = None if task.shift is None else Targeted(label=task.targets(y))
            result: torch.Tensor = attack(task.classifier, x, y, goal=goal, batch_size=task.batch).x
            return result

        return run


@dataclass(frozen=True, kw_only=True)
class BareLoop(Contestant):
    """Linf PGD by hand, nothing but its arithmetic: what no library can undercut by much."""

    library = "bare loop"

    def prepare(self, task: Task) -> Run:
        """The loop."""
        eps, step_size, steps = (self.settings[key] for key in ("eps", "step_size", "steps"))

        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            low, high = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
            moved = torch.empty_like(x).uniform_(-eps, eps).add_(x).clamp_(0, 1)
            for _ in range(steps):
                moved.requires_grad_()
                loss = F.cross_entropy(task.module(moved), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
                moved = moved.detach().add_(gradient.sign_(), alpha=step_size)
                moved = torch.minimum(torch.maximum(moved, low), high)
            return moved

        return run


@dataclass(frozen=True, kw_only=True)
class TorchAttacks(Contestant):
    """Torchattacks takes the module itself.

    It normalises nothing unless told to (`set_normalization_used`), and it must not be told here:
    the networks take [0,1] images. Its AutoAttack does not hand a number of steps on: APGD,
    targeted APGD and FAB take 10 each where the published protocol has 100, so `steps_of_parts`
    sets them. Attacks that are seeded by the clock get `seed`.
    """

    library = "torchattacks"
    steps_of_parts: int | None = None

    def prepare(self, task: Task) -> Run:
        """The attack on the plain module."""
        attack = _member("torchattacks", self.attack)(task.module, **self.settings)
        if task.shift is not None:
            attack.set_mode_targeted_by_function(lambda _, y: task.targets(y), quiet=True)
        if self.steps_of_parts is not None:
            for part in attack._autoattack.attacks:
                if hasattr(part, "steps"):
                    part.steps = self.steps_of_parts
        run: Run = attack
        return run

    @property
    def call(self) -> str:
        """The call as a line of code."""
        steps = self.steps_of_parts
        return super().call + ("" if steps is None else f" with {steps} steps for each part")


@dataclass(frozen=True, kw_only=True)
class Foolbox(Contestant):
    """Foolbox needs the bounds of the pixels, and takes the first GPU where it is not told.

    Without a radius (`eps`) a minimisation attack returns the nearest image it found; C&W returns
    an image of zeros where it found none.
    """

    library = "foolbox"
    eps: float | None = None

    def prepare(self, task: Task) -> Run:
        """The attack on foolbox's model of the module."""
        model = _member("foolbox", "PyTorchModel")(task.module, bounds=(0, 1), device=task.device)
        attack = _member("foolbox.attacks", self.attack)(**self.settings)
        criterion = _member("foolbox.criteria", "Misclassification")

        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = attack(model, x, criterion(y), epsilons=self.eps)[1]
            return result

        return run


@dataclass(frozen=True, kw_only=True)
class Art(Contestant):
    """ART takes and returns numpy arrays, and clips to nothing without `clip_values`.

    Its `predict` returns what the module yields: where an attack is defined on probabilities
    (NewtonFool), the module has to end in a softmax, or the attack descends on a logit.
    """

    library = "ART"
    softmax: bool = False

    def prepare(self, task: Task) -> Run:
        """The attack on ART's estimator of the module."""
        kind = _member("art.attacks.evasion", self.attack)
        estimator = _member("art.estimators.classification", "PyTorchClassifier")(
            model=nn.Sequential(task.module, nn.Softmax(dim=1)) if self.softmax else task.module,
            loss=nn.CrossEntropyLoss(),
            input_shape=task.image,
            nb_classes=task.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if task.device.type == "cuda" else "cpu",
        )
        attack = kind(estimator, batch_size=task.batch, verbose=False, **self.settings)

        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            moved = attack.generate(x=x.cpu().numpy(), y=task.targets(y).cpu().numpy())
            return torch.from_numpy(moved).to(x)

        return run

    @property
    def call(self) -> str:
        """The call as a line of code."""
        return super().call + (" behind a softmax" if self.softmax else "")


@dataclass(frozen=True, kw_only=True)
class AdvLib(Contestant):
    """adv-lib's attacks are functions; some of their keywords are Greek letters."""

    library = "adv-lib"

    def prepare(self, task: Task) -> Run:
        """The function with the module and the settings filled in."""
        function = _member("adv_lib.attacks", self.attack)

        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = function(task.module, x, y, **self.settings)
            return result

        return run


def _member(module: str, name: str) -> Any:
    """Something of a module that may not be installed, or may not have it."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"{module} cannot be imported ({error}); benchmarks/README.md says how to install it"
        ) from error
    if not hasattr(found, name):
        raise UnavailableError(f"{module} has no {name}")
    return getattr(found, name)
