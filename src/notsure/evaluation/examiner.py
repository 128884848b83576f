"""The examiner: attacks guards under threats and writes down what happened to every image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import notsure
from notsure.attacks import Attack, Distilled
from notsure.classifier import Classifier
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError
from notsure.core.progress import progress_bar
from notsure.core.state import tensors_hash
from notsure.core.stopping import reason_to_stop
from notsure.evaluation.controls import with_noise
from notsure.evaluation.examination import Examination
from notsure.evaluation.plan import Job, description, jobs_of
from notsure.evaluation.pupils import ready
from notsure.evaluation.records import FORMAT, SHARD, Records
from notsure.evaluation.run_folder import RunFolder
from notsure.evaluation.suites import VERSION
from notsure.evaluation.threats import Threat, knowledge_of
from notsure.evaluation.wanted import Substitutes, Wanted
from notsure.guard import Guard

Guards = Guard | Classifier | nn.Module


def evaluate(
    guard: Guards | Mapping[str, Guards],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    attacks: Sequence[Attack] | Mapping[str, Sequence[Attack]] | None = None,
    threats: str | Sequence[str | Threat] | None = None,
    suite: str | None = None,
    eps: Sequence[float | str] | None = None,
    norm: str = "linf",
    substitutes: Substitutes | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    data: str = "",
    class_names: Sequence[str] | None = None,
    illustrated: int = 12,
    embedded: int = 1000,
    probes: int = 100,
    controlled: int = 1000,
    rows: tuple[int, int] | None = None,
    taught: Mapping[str, Distilled] | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Records:
    """Attacks guards under threats and records what happened to every image.

    Either a suite chooses the attacks by what each guard is (`threats="all", suite="quick"`), or
    `attacks` are given. Every adversarial image is judged by the guard, whatever the attack was
    shown, and judged again at another batch size; decisions that differ by more than rounding are
    an error. Guards around the same classifier share the attacks that see no more than that.

    Args:
        guard: a calibrated guard or a bare classifier, or several by name.
        x: test images (N, C, H, W) in [0,1], which no guard was fitted or calibrated on.
        y: their labels (N,).
        attacks: what attacks them, under every threat, or by the name of the threat.
        threats: what the attacker knows: "all", names of `notsure.evaluation.threats.NAMES`, or
            Threat objects. By default all that a suite has; with `attacks` given "oblivious" and
            "white-box", and "transfer" where there are substitutes.
        suite: "quick", "standard" or "full"; by default "standard" where no attacks are given.
        eps: budgets to run each bounded attack with, in place of its own. A suite needs them.
        norm: of a suite's budgets, "linf" or "l2".
        substitutes: by name, what transfers are made from. A suite adds one that is distilled
            from each guard's answers about `x` ("distilled"), when its first transfer is made.
        parameters: by guard, what it was made with, for heat maps: {"RCE": {"lambda": 0.1}}.
        seed: of the attacks.
        batch_size: how many images are attacked at a time.
        data: the name of the data, for the report.
        class_names: the names of the classes, for the report.
        illustrated: of how many images the pixels are kept, for the report.
        embedded: of how many clean images the features are kept, for the report.
        probes: how many images are attacked once more for the flags alone (see
            `notsure.evaluation.plan`); 0 for none.
        controlled: for how many images scores that know nothing are kept beside the detectors'.
        rows: which of the images are attacked, (start, stop); by default all. What comes out is a
            shard, of which `notsure.evaluation.shards` makes the whole.
        taught: by guard, the substitute of a suite where it was taught before (see
            `notsure.evaluation.suites.taught_by`); by default it is taught here.
        out: a folder. Records are written there as they come; the same call goes on with a run
            that was interrupted, and reads one that is over.
        progress: whether to show progress bars.

    Returns:
        One record per image for the clean image, and one per image x attack x eps x threat.

    Raises:
        CheckpointError: the folder holds another run, or is damaged.
        ConfigurationError: there is no attack or threat, or two are the same, or both a suite and
            attacks are given; or a substitute is called as the suite's own, or is for other
            images or classes; or a count is out of range.
        InputError: images or labels are not what they have to be, or were used before.
        NotFittedError: a guard is not calibrated.
        UnsupportedError: an attack does not apply to what a threat shows.
        VerificationError: a result did not hold when it was judged again.
    """
    _check_counts(batch_size, illustrated, embedded, probes, controlled)
    guards = _guards(guard)
    made_with = _parameters(parameters or {}, guards)
    chosen = slice(0, len(x)) if rows is None else _rows(rows, len(x))
    examinations = {
        name: Examination(
            name,
            one,
            x,
            y,
            seed=seed,
            batch_size=batch_size,
            illustrated=illustrated,
            controlled=controlled,
            parameters=made_with.get(name, {}),
            rows=chosen,
        )
        for name, one in guards.items()
    }
    wanted = Wanted(attacks, threats, suite, eps, norm, substitutes or {}, taught or {})
    for examination in examinations.values():
        examination.check_substitutes(wanted.targets)
    jobs = {
        name: jobs_of(one, wanted.plan_for(name, one, one.classifier.check(x), seed), probes)
        for name, one in guards.items()
    }
    for name, one in guards.items():
        for job in jobs[name]:
            job.attack.require(job.threat.target(one))
    names = sorted({j.threat.name for own in jobs.values() for j in own}, key=knowledge_of)
    meta: dict[str, Any] = {
        "format": FORMAT,
        "notsure": notsure.__version__,
        "torch": torch.__version__,
        "data": data,
        "count": len(x),
        "images": tensors_hash({"keys": content_keys(x).cpu()}),
        "image_shape": list(x.shape[1:]),
        "class_names": [str(name) for name in class_names or []],
        "seed": seed,
        "suite": None if wanted.suite is None else {"name": wanted.suite, "version": VERSION},
        "threats": names,
        "includes": {j.threat.name: list(j.threat.includes) for own in jobs.values() for j in own},
        "substitutes": wanted.description(taught=False),
        "probed": min(probes, len(x)),
        "guards": {name: one.description() for name, one in examinations.items()},
        "attacks": description([job for own in jobs.values() for job in own]),
    }
    run = _Run(examinations, jobs, meta, batch_size, embedded, seed, chosen)
    if rows is not None:
        meta |= {SHARD: {"rows": [chosen.start, chosen.stop], "sections": run.sections}}
    if out is None:
        parts = list(run.parts(None, progress))
        return Records.joined(parts, meta | {"substitutes": wanted.description(taught=True)})
    told = {
        "batch_size": batch_size,
        "illustrated": illustrated,
        "embedded": embedded,
        "controlled": controlled,
        "jobs": {name: [list(job.identity) for job in own] for name, own in jobs.items()},
    }
    folder = RunFolder(out, meta | told)
    if folder.finished:
        return folder.records()
    parts = list(run.parts(folder, progress))
    records = Records.joined(parts, meta | {"substitutes": wanted.description(taught=True)})
    folder.finish(records)
    return records


@dataclass(frozen=True)
class _Task:
    """An attack on a target, and the guards for which the same images count."""

    members: tuple[tuple[str, Job], ...]
    count: int


class _Run:
    """All that is to be done, in parts that are written one by one."""

    def __init__(
        self,
        examinations: Mapping[str, Examination],
        jobs: Mapping[str, Sequence[Job]],
        meta: Mapping[str, Any],
        batch_size: int,
        embedded: int,
        seed: int,
        rows: slice,
    ) -> None:
        self.examinations, self.meta = examinations, meta
        self.batch_size, self.seed = batch_size, seed
        # what is for the first images of all may be for none of these
        self.count = rows.stop - rows.start
        self.probed = max(0, min(meta["probed"], rows.stop) - rows.start)
        self.embedded = max(0, embedded - rows.start)
        for name, own in jobs.items():
            examinations[name].count_within(own)
        self.tasks = self._tasks(jobs)

    def _tasks(self, jobs: Mapping[str, Sequence[Job]]) -> list[_Task]:
        """Guards before which an attacker sees the same share what such an attacker finds."""
        shared: dict[tuple[Any, ...], list[tuple[str, Job]]] = {}
        for name, own in jobs.items():
            guard = self.examinations[name].guard
            for job in own:
                told = job.threat.sees_verdict
                seen = name if told else id(job.threat.target(guard))
                shared.setdefault((seen, *job.identity), []).append((name, job))
        return [
            _Task(tuple(members), self.count if members[0][1].probe is None else self.probed)
            for members in shared.values()
        ]

    @property
    def sections(self) -> list[int]:
        """How many records there are of each guard's clean images, and then of each task."""
        clean = [self.count] * len(self.examinations)
        return [*clean, *(task.count * len(task.members) for task in self.tasks)]

    def parts(self, folder: RunFolder | None, shown: bool) -> Iterator[Records]:
        """The records part by part: those of the clean images, then task by task."""
        steps = [(task, rows) for task in self.tasks for rows in self._batches(task.count)]
        there = [folder is not None and folder.has(i + 1) for i in range(len(steps))]
        sizes = [(rows.stop - rows.start) * len(task.members) for task, rows in steps]
        # what an earlier process did says nothing of how long the rest will take
        before = sum(size for size, done in zip(sizes, there, strict=True) if done)
        with progress_bar("attacking", sum(sizes), start=before, shown=shown) as advance:
            for examination in self.examinations.values():
                for rows in self._batches(self.count):
                    columns = examination.clean_columns(rows, self.embedded)
                    yield Records.of([columns], self.meta)
            for place, (task, rows) in enumerate(steps):
                part = self._part(folder, place + 1, task, rows)
                left = {name: self.examinations[name].worst for name, _ in task.members}
                name, job = min(task.members, key=lambda member: left[member[0]])
                advance(
                    0 if there[place] else sizes[place],
                    f"{name}: {job.threat.name} {job.attack.name}; left so far {left[name]:.1%}",
                )
                yield part

    def _batches(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    def _part(self, folder: RunFolder | None, number: int, task: _Task, rows: slice) -> Records:
        if folder is not None and folder.has(number):
            part = folder.read(number, self.meta)
            for name, _ in task.members:
                self.examinations[name].remember(part.where(guard=name), rows)
            return part
        name, job = task.members[0]
        first = self.examinations[name]
        target = ready(job.threat.target(first.guard))
        began = time.perf_counter()
        found = job.attack(target, first.x[rows], first.y[rows], seed=self.seed)
        seconds = (time.perf_counter() - began) / len(found.x)
        if not job.threat.sees_verdict:
            found = with_noise(job.attack, found, first.x[rows], self.seed)
        part = Records.of(
            [
                self.examinations[name].columns_of(job, found, seconds, rows)
                for name, job in task.members
            ],
            self.meta,
        )
        if folder is not None:
            folder.write(number, part)
            reason = reason_to_stop()
            if reason is not None:
                raise reason
        return part


def _guards(guard: Guards | Mapping[str, Guards]) -> dict[str, Guard]:
    if isinstance(guard, Mapping):
        if not guard:
            raise ConfigurationError("There is no guard to evaluate.")
        return {name: one if isinstance(one, Guard) else Guard(one) for name, one in guard.items()}
    if not isinstance(guard, Guard):
        guard = Guard(guard)
    return {"guard" if guard.rejects else "classifier": guard}


def _check_counts(batch_size: int, *others: int) -> None:
    if batch_size < 1 or min(others) < 0:
        raise ConfigurationError(
            f"batch_size has to be at least 1, illustrated, embedded, probes and controlled at "
            f"least 0; got {batch_size} and {', '.join(map(str, others))}."
        )


def _rows(rows: tuple[int, int], count: int) -> slice:
    start, stop = rows
    if not 0 <= start < stop <= count:
        raise ConfigurationError(
            f"rows has to be (start, stop) with 0 <= start < stop <= {count}, the number of "
            f"images; got {rows}."
        )
    return slice(start, stop)


def _parameters(
    parameters: Mapping[str, Mapping[str, Any]], guards: Mapping[str, Guard]
) -> dict[str, dict[str, Any]]:
    for name in parameters:
        if name not in guards:
            raise ConfigurationError(
                f"There are parameters of {name!r}, which is none of the guards: "
                f"{', '.join(guards)}."
            )
    return {name: dict(told) for name, told in parameters.items()}
