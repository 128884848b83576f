"""Running steps: in order, each once, until they are done or the time is over."""

from __future__ import annotations

import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    DeadlineError,
    FailedError,
    FullDiskError,
    NotSureError,
    RunningError,
)
from notsure.studies.disk import telling_of_full_disk
from notsure.studies.durations import Estimates, duration_text, parse_duration
from notsure.studies.order import plan, plan_table, selected
from notsure.studies.steps import Context, Step
from notsure.studies.store import Claim, Result, Store

__all__ = ["Outcome", "plan", "plan_table", "run_plan", "run_step", "selected"]

Clock = Callable[[], float]


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        done: the steps that it ran to their end.
        skipped: those that were done already, or by another process meanwhile.
        left: those that are still to be done, in order.
        why: by identity, why a step was left.
        seconds: by identity, how long each step of `done` took, earlier attempts included.
        wall: seconds that the whole run took.
        errors: by identity, what the steps of `left` that failed raised.
    """

    done: tuple[Step, ...]
    skipped: tuple[Step, ...]
    left: tuple[Step, ...]
    why: Mapping[str, str]
    seconds: Mapping[str, float]
    wall: float
    errors: Mapping[str, Exception] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return not self.left

    def require_success(self) -> None:
        """Raises what steps raised, as one error.

        Raises:
            FailedError: a step failed; the message has each error with the steps that raised it.
        """
        if not self.errors:
            return
        told: dict[str, list[str]] = {}
        for step in self.left:
            error = self.errors.get(step.identity)
            if error is not None:
                text = f"{type(error).__name__}: {error}"
                told.setdefault(text, []).append(f"{step.kind} {step.name!r}")
        lines = [f"{', '.join(names)}: {text}" for text, names in told.items()]
        steps = "1 step" if len(self.errors) == 1 else f"{len(self.errors)} steps"
        raise FailedError(
            f"{steps} failed, and nothing that needs them was begun. What else could be done is "
            "done and kept: mend the cause and give the same command again.\n" + "\n".join(lines)
        ) from next(iter(self.errors.values()))


def run_step(
    step: Step,
    store: Store,
    *,
    seconds_left: Clock = lambda: math.inf,
    progress: bool = False,
    wait: bool = True,
    estimate: float = math.nan,
) -> tuple[Result, bool]:
    """Runs one step whose needs are done, unless it is done already.

    Args:
        step: what is to be done.
        store: where results are.
        seconds_left: tells how long it may still take.
        progress: whether to say what is going on, on standard error.
        wait: whether to wait where another process is at it.
        estimate: how long it is thought to take, in seconds.

    Returns:
        Its result, and whether it was this call that made it.

    Raises:
        ConfigurationError: something that it needs is not done.
        RunningError: another process is at it, and `wait` is False.
        DeadlineError: the time is over; a resumable step goes on from there next time.
        FullDiskError: there is no space left; there is no half result.
    """
    result = store.result(step)
    if result is not None:
        return result, False
    with store.claim(step, wait=wait, seconds_left=seconds_left) as claim:
        if claim.result is not None:
            return claim.result, False
        context = Context(
            folder=claim.begin(),
            seconds_left=seconds_left,
            progress=progress,
            results={need.identity: _required(need, step, store).folder for need in step.needs},
        )
        began = time.monotonic()
        try:
            with telling_of_full_disk(step, store):
                _attempt(step, claim, context)
                return claim.publish(time.monotonic() - began, estimate), True
        except BaseException:
            claim.interrupted(time.monotonic() - began)
            claim.discard()
            raise


def _attempt(step: Step, claim: Claim, context: Context) -> None:
    """Runs the step; from the beginning where its checkpoints turn out to be damaged."""
    resumed = claim.has_checkpoint
    try:
        step.run(context)
    except CheckpointError as error:
        if not resumed:
            raise
        claim.begin_anew(error)
        step.run(context)


def _required(need: Step, step: Step, store: Store) -> Result:
    result = store.result(need)
    if result is None:
        raise ConfigurationError(
            f"{step.kind} {step.name!r} needs {need.kind} {need.name!r}, which is not done: run "
            "the whole plan."
        )
    return result


def say(text: str) -> None:
    """Tells what is going on, on standard error."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


_FAILED = "failed with "


def failed_with(error: Exception) -> str:
    """Why a step was left that raised an error; without its text, which may name folders."""
    return f"{_FAILED}{type(error).__name__}"


def because_of(need: Step, why: str) -> str:
    """Why a step was left that needs another one which was left for that reason."""
    became = "failed" if why.startswith(_FAILED) else "is left"
    return f"needs {need.kind} {need.name!r}, which {became}"


def tell_of_failure(step: Step, error: Exception) -> None:
    """Tells what a step raised, when it did; where it is no error of ours, with its traceback."""
    if not isinstance(error, NotSureError):
        traceback.print_exception(error, file=sys.stderr)
    say(f"{step.kind} {step.name!r} failed: {type(error).__name__}: {error}")


def warn_of_other_versions(
    steps: Sequence[Step], found: Mapping[str, Result], *, stacklevel: int
) -> None:
    """Tells of results that were made with other versions; they are used all the same.

    Args:
        steps: of the plan.
        found: the results that were there before, by identity.
        stacklevel: of the warning, as `warnings.warn` takes it.
    """
    told: dict[str, list[str]] = {}
    for step in steps:
        if step.identity in found:
            apart = found[step.identity].differences()
            text = ", ".join(
                f"{name} {there} (here {here})" for name, (there, here) in apart.items()
            )
            if text:
                told.setdefault(text, []).append(step.name)
    for text, names in told.items():
        warnings.warn(
            f"{len(names)} of {len(steps)} steps were done with {text}, {names[0]!r} "
            "the first: remove their results to do them again.",
            stacklevel=stacklevel,
        )


def run_plan(
    plan: Sequence[Step],
    store: Store,
    *,
    deadline: float | str | None = None,
    progress: bool = False,
    only: Collection[str] | None = None,
    wait: bool = True,
) -> Outcome:
    """Runs the steps of a plan that are not done yet.

    Several processes may run the same plan on the same store: each takes steps that nobody is at,
    and at the end they wait for each other.

    A step that raises an error is left, with all that needs it; the rest is run all the same. What
    it raised is in `Outcome.errors`, and `Outcome.require_success` raises it.

    Args:
        plan: what `plan` gave; what it lacks of its steps' needs is added.
        store: where results are.
        deadline: seconds from now, or a duration such as "9m", after which nothing is begun any
            more. A step that cannot leave a checkpoint is not begun when its estimate says that it
            would not be over by then; what comes after it is, where it fits.
        progress: whether to say what is going on, on standard error.
        only: names, kinds or identities of steps: only these are run, and what they need.
        wait: whether to wait for steps that other processes are at.

    Returns:
        What was done, what is left, and what went wrong.

    Raises:
        ConfigurationError: `deadline` is no duration, or `only` names nothing of the plan.
        RunningError: another process is at a step, and `wait` is False.
        FullDiskError: there is no space left; the steps before it are kept.
    """
    began = time.monotonic()
    allowed = math.inf if deadline is None else parse_duration(deadline)
    runner = _Runner(
        selected(plan, only),
        store,
        seconds_left=lambda: allowed - (time.monotonic() - began),
        progress=progress,
        wait=wait,
    )
    runner.run()
    return runner.outcome(time.monotonic() - began)


class _Runner:
    """One run of a plan."""

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        *,
        seconds_left: Clock,
        progress: bool,
        wait: bool,
    ) -> None:
        self.steps, self.store, self.seconds_left = tuple(steps), store, seconds_left
        self.progress, self.wait = progress, wait
        self.estimates = Estimates(store.results())
        self.made: dict[str, Result] = {}
        self.found: dict[str, Result] = {}
        self.why: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}

    def run(self) -> None:
        """Runs what can be run; goes round again for what other processes are at."""
        for step in self.steps:
            result = self.store.result(step)
            if result is not None:
                self.found[step.identity] = result
        warn_of_other_versions(self.steps, self.found, stacklevel=4)
        while True:
            busy = [step for step in self._pending() if not self._settled(step, wait=False)]
            if not busy:
                return
            # all that is left waits for others: for the first of them, and then look again
            self._settled(busy[0], wait=True)

    def _pending(self) -> list[Step]:
        return [
            step
            for step in self.steps
            if step.identity not in self.made.keys() | self.found.keys() | self.why.keys()
        ]

    def _settled(self, step: Step, *, wait: bool) -> bool:
        """Whether the step is done or left now; False where another process has a hand in it."""
        for need in step.needs:
            if need.identity in self.why:
                return self._leave(step, because_of(need, self.why[need.identity]))
            if need.identity not in self.made.keys() | self.found.keys():
                return False
        if self.seconds_left() <= 0:
            return self._leave(step, "the deadline came before it was begun")
        estimate = self.estimates.of(step)
        if not step.resumable and estimate > self.seconds_left():
            return self._leave(
                step,
                f"takes about {duration_text(estimate)} and leaves no checkpoints; "
                f"{duration_text(self.seconds_left())} were left",
            )
        self._tell(step, estimate)
        try:
            result, own = run_step(
                step,
                self.store,
                seconds_left=self.seconds_left,
                progress=self.progress,
                wait=wait,
                estimate=step.estimate(),
            )
        except RunningError as error:
            if not self.wait:
                raise
            self._say(str(error))
            return False
        except DeadlineError as error:
            return self._leave(step, str(error))
        except FullDiskError:
            # no other step could write a result either
            raise
        except Exception as error:
            self.errors[step.identity] = error
            tell_of_failure(step, error)
            return self._leave(step, failed_with(error))
        (self.made if own else self.found)[step.identity] = result
        self.estimates.learn(result)
        self._say(f"{step.kind} {step.name!r}: done in {duration_text(result.seconds)}")
        return True

    def _leave(self, step: Step, why: str) -> bool:
        self.why[step.identity] = why
        self._say(f"{step.kind} {step.name!r} is left: {why}")
        return True

    def _tell(self, step: Step, estimate: float) -> None:
        number = self.steps.index(step) + 1
        about = "" if math.isnan(estimate) else f", about {duration_text(estimate)}"
        self._say(f"step {number} of {len(self.steps)}: {step.kind} {step.name!r}{about}")

    def _say(self, text: str) -> None:
        if self.progress:
            say(text)

    def outcome(self, wall: float) -> Outcome:
        """What was done."""

        def among(known: Collection[str]) -> tuple[Step, ...]:
            return tuple(step for step in self.steps if step.identity in known)

        return Outcome(
            done=among(self.made),
            skipped=among(self.found),
            left=among(self.why),
            why=dict(self.why),
            seconds={identity: result.seconds for identity, result in self.made.items()},
            wall=wall,
            errors=dict(self.errors),
        )
