"""Purifiers trained and detectors fitted, once for all candidates that share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from notsure.choosing.candidates import Candidate
from notsure.choosing.named import Named, file_name
from notsure.classifier import Classifier
from notsure.core.errors import NotSureError
from notsure.data import Images
from notsure.guard import Guard
from notsure.purifiers import Purifier
from notsure.training import Recipe


@dataclass(frozen=True, eq=False)
class Workshop:
    """Makes guards of candidates; what two of them share is made once.

    Attributes:
        classifier: what is guarded.
        train: the training images.
        folder: where the checkpoints of purifiers are, so that training goes on after a break.
        purifier_epochs: how long purifiers are trained; None for what their reports have.
        seed: of the training of purifiers.
        progress: whether to show progress bars.
        trained: the purifiers so far, by what they are written as.
        left_out: candidates that do not suit the model, with the reason.
    """

    classifier: Classifier
    train: Images
    folder: Path
    purifier_epochs: int | None = None
    seed: int = 0
    progress: bool = True
    trained: dict[str, Purifier] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def fitted(self, candidates: Sequence[Candidate]) -> dict[str, Guard]:
        """The guards of the candidates, fitted and not calibrated, by name.

        An optional candidate that does not suit the model is put into `left_out`.

        Raises:
            NotSureError: another one does not suit it.
        """
        ready = [one for one in candidates if self._done(one, self._train_purifiers, one)]
        found: dict[str, Guard] = {}
        for front in dict.fromkeys(str(one.purifier) for one in ready):
            own = [one for one in ready if str(one.purifier) == front]
            try:
                self._fit(found, own)
            except NotSureError:
                # one of them does not suit the model: which?
                for one in own:
                    self._done(one, self._fit, found, [one])
        return {one.name: found[one.name] for one in candidates if one.name in found}

    def _done(self, candidate: Candidate, work: Callable[..., None], *given: Any) -> bool:
        """Whether work on a candidate could be done."""
        try:
            work(*given)
        except NotSureError as error:
            if not candidate.optional:
                raise
            self.left_out[candidate.name] = str(error)
            return False
        return True

    def _train_purifiers(self, candidate: Candidate) -> None:
        for one in candidate.purifiers:
            if str(one) not in self.trained:
                self.trained[str(one)] = self._trained(one)

    def _trained(self, named: Named) -> Purifier:
        purifier: Purifier = named.build()
        self.folder.mkdir(parents=True, exist_ok=True)
        purifier.fit(
            self.train,
            classifier=self.classifier,
            recipe=self._recipe(purifier),
            checkpoint=self.folder / f"{file_name(str(named))}.safetensors",
            progress=self.progress,
        )
        return purifier

    def _recipe(self, purifier: Purifier) -> Recipe | None:
        if self.purifier_epochs is None:
            return None
        own = getattr(purifier, "recipe", None)
        base = (
            own
            if isinstance(own, Recipe)
            else Recipe(batch_size=128, optimizer="adamw", learning_rate=1e-3, weight_decay=0)
        )
        return replace(base, epochs=self.purifier_epochs, seed=self.seed)

    def _fit(self, found: dict[str, Guard], candidates: Sequence[Candidate]) -> None:
        """Puts guards with one purifier into `found`; one pass over the images fits them all."""
        named = {str(one): one for own in candidates for one in own.detectors}
        parts = {text: one.build(self.trained) for text, one in named.items()}
        front = candidates[0].purifier
        purifier = None if front is None else self.trained[str(front)]
        whole = Guard(
            self.classifier,
            {f"part {number}": part for number, part in enumerate(parts.values())},
            purifier=purifier,
        )
        whole.fit(self.train, progress=self.progress)
        for one in candidates:
            guard = Guard(
                self.classifier, [parts[str(own)] for own in one.detectors], purifier=purifier
            )
            guard.seen = dict(whole.seen)
            found[one.name] = guard
