"""What is sent to a cluster in place of a whole evaluation: pieces, and how they become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from notsure.attacks import Distilled
from notsure.core.storage import load_json, save_json
from notsure.evaluation import evaluate
from notsure.evaluation.shards import join_folders, shard_rows
from notsure.evaluation.suites import check_suite, taught_by
from notsure.evaluation.threats import NAMES, TransferFrom
from notsure.guard import Guard
from notsure.studies.examining import Evaluate
from notsure.studies.learning import device
from notsure.studies.steps import Context, Step

_TOLD = "taught.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Teach(Step):
    """Teaches the substitute that a suite's transfers against one guard are made from.

    One process teaches it when it begins the evaluation; shards would all teach the same one.

    Attributes:
        whole: the evaluation.
        guard: the name of the guard whose answers teach.
    """

    kind: ClassVar[str] = "teach"

    whole: Evaluate
    guard: str

    @property
    def needs(self) -> tuple[Step, ...]:
        """The guard."""
        return (self.whole.guards[self.guard],)

    def settings(self) -> dict[str, Any]:
        """Which evaluation, and which of its guards."""
        return {"evaluation": self.whole.identity, "guard": self.guard}

    def run(self, context: Context) -> None:
        """Teaches."""
        guard = self.whole.guards[self.guard].guard(context)
        x = guard.classifier.check(self.whole.attacked().x.to(device()))
        taught = taught_by(guard, x, check_suite(str(self.whole.suite)), self.whole.seed)
        Guard(taught.classifier).save(context.folder)
        told = {name: value for name, value in vars(taught).items() if name != "classifier"}
        save_json(context.folder / _TOLD, told)

    def taught(self, context: Context) -> Distilled:
        """What was taught, for a step that needs it."""
        folder = context.folder_of(self)
        told = load_json(folder / _TOLD)
        told["history"] = tuple(told["history"])
        return Distilled(classifier=Guard.load(folder).classifier.to(device()), **told)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateRows(Step):
    """One shard of an evaluation: some of its images.

    Attributes:
        whole: the evaluation.
        start: the first image.
        stop: the image after the last.
        teaching: what teaches the substitutes of a suite, if any are taught.
    """

    kind: ClassVar[str] = "evaluate rows"
    resumable: ClassVar[bool] = True

    whole: Evaluate
    start: int
    stop: int
    teaching: tuple[Teach, ...] = ()

    @property
    def needs(self) -> tuple[Step, ...]:
        """What the evaluation needs, and the substitutes."""
        return (*self.whole.needs, *self.teaching)

    def settings(self) -> dict[str, Any]:
        """Which evaluation, and which of its images."""
        return {"evaluation": self.whole.identity, "rows": [self.start, self.stop]}

    def run(self, context: Context) -> None:
        """Attacks these images, or goes on with it."""
        taught: Mapping[str, Distilled] = {one.guard: one.taught(context) for one in self.teaching}
        self.whole.examine(context, rows=(self.start, self.stop), taught=taught)

    def estimate(self) -> float:
        """Seconds, roughly; NaN for a suite."""
        return self.whole.estimate() * (self.stop - self.start) / self.whole.images


@dataclass(frozen=True)
class Pieces:
    """An evaluation, cut.

    Attributes:
        teaching: the steps that come first, if any.
        shards: the steps that attack, in the order of the images.
    """

    teaching: tuple[Teach, ...]
    shards: tuple[EvaluateRows, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, each after what it needs."""
        return (*self.teaching, *self.shards)

    def join(self, folders: Sequence[Path], out: Path) -> None:
        """Writes what the whole evaluation leaves, of the folders of the shards' results."""
        join_folders(folders, out)


def cut(step: Step, size: int | None) -> Pieces | None:
    """The pieces of an evaluation; None for what is not cut: another step, or too few images.

    Where it is cut depends on the evaluation and on `size` alone, and not on the cluster, so that
    another run on another cluster goes on with the same pieces.

    Args:
        step: any step.
        size: how many images a shard has, rounded up to whole batches; None for one batch.
    """
    if not isinstance(step, Evaluate):
        return None
    batch_size = int(step.options.get("batch_size", _usual_batch()))
    rows = shard_rows(step.images, size or batch_size, batch_size)
    if len(rows) == 1:
        return None
    teaching = _teaching(step)
    return Pieces(
        teaching,
        tuple(
            EvaluateRows(
                name=f"{step.name}[{start}:{stop}]",
                whole=step,
                start=start,
                stop=stop,
                teaching=teaching,
            )
            for start, stop in rows
        ),
    )


def _usual_batch() -> int:
    return int((evaluate.__kwdefaults__ or {})["batch_size"])


def _teaching(step: Evaluate) -> tuple[Teach, ...]:
    chosen = NAMES if step.threats is None else step.threats
    if step.suite is None or TransferFrom.name not in chosen:
        return ()
    return tuple(Teach(name=f"{step.name}: {name}", whole=step, guard=name) for name in step.guards)
