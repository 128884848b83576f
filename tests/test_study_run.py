"""A plan of steps: its order, what is run and what is not, killed, late, twice at once."""

from __future__ import annotations

import dataclasses
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    FailedError,
    InputError,
    RunningError,
)
from notsure.studies.run import plan, run_plan
from notsure.studies.steps import Context, Step
from notsure.studies.store import Store
from tests.toy_steps import (
    Chain,
    Fail,
    Write,
    flip,
    log_of,
    script,
    tree,
    until,
)


def names(steps: Any) -> list[str]:
    return [step.name for step in steps]


def diamond(log: Path | None = None, *, text: str = "left") -> Write:
    top = Write(name="top", text="t", log=log)
    left = Write(name="left", text=text, sources=(top,), log=log)
    right = Write(name="right", text="right", sources=(top,), log=log)
    return Write(name="bottom", text="b", sources=(left, right), log=log)


# the plan


def test_a_plan_has_every_step_once_after_what_it_needs() -> None:
    bottom = diamond()
    same_as_top = Write(name="of another study", text="t")
    steps = plan([Write(name="alone", text="a"), bottom, same_as_top, bottom.needs[1]])
    assert names(steps) == ["alone", "top", "left", "right", "bottom"]
    assert plan(steps) == steps
    assert plan([]) == ()


def test_a_plan_of_many_ways_down_takes_no_longer_for_it() -> None:
    step = Write(name="0", text="0")
    for level in range(1, 40):
        step = Write(name=str(level), text=str(level), sources=(step, step))
    assert names(plan([step])) == [str(level) for level in range(40)]


def test_steps_in_a_circle_are_named() -> None:
    first = Write(name="first")
    second = Write(name="second", sources=(first,))
    third = Write(name="third", sources=(second,))
    object.__setattr__(first, "sources", (third,))
    with pytest.raises(
        ConfigurationError, match=r"circle: write 'third' -> write 'second' -> write 'first' -> wr"
    ):
        plan([third])


def test_needs_that_never_end_are_an_error() -> None:
    class Endless(Write):
        @property
        def needs(self) -> tuple[Step, ...]:
            return (Endless(name=self.name),)

    with pytest.raises(ConfigurationError, match="'deep' never end"):
        plan([Endless(name="deep")])


# running


def test_a_plan_is_run_once_and_only_what_changed_is_run_again(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "s")
    first = run_plan(plan([diamond(log)]), store)
    assert names(first.done) == log_of(log) == ["top", "left", "right", "bottom"]
    assert first.finished
    assert (first.skipped, first.left) == ((), ())
    assert set(first.seconds) == {step.identity for step in first.done}
    assert (store.folder(diamond()) / "out.txt").read_text() == "b|left|t|right|t"
    whole = tree(tmp_path / "s")

    second = run_plan(plan([diamond(log)]), Store(tmp_path / "s"))
    assert (second.done, len(second.skipped)) == ((), 4)
    assert tree(tmp_path / "s") == whole

    third = run_plan(plan([diamond(log, text="new")]), Store(tmp_path / "s"))
    assert names(third.done) == ["left", "bottom"]
    assert names(third.skipped) == ["top", "right"]
    assert whole.items() <= tree(tmp_path / "s").items()


@pytest.mark.parametrize("by", ["name", "kind", "identity"])
def test_only_what_is_asked_for_is_run_and_what_it_needs(by: str, tmp_path: Path) -> None:
    bottom = diamond()
    chain = Chain(name="right", links=1, sources=bottom.needs[1].needs)
    word = {"name": "right", "kind": "chain", "identity": chain.identity}[by]
    outcome = run_plan(
        plan([bottom, chain] if by != "name" else [bottom]), Store(tmp_path), only=[word]
    )
    assert names(outcome.done) == ["top", "right"]


def test_an_unknown_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="called 'botom': did you mean 'bottom'"):
        run_plan([diamond()], Store(tmp_path), only=["botom"])


def test_a_step_that_fails_takes_with_it_only_what_needs_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    top = Write(name="top", text="t")
    fails = Fail(name="fails", sources=(top,))
    below = Write(name="below", text="b", sources=(fails,))
    lowest = Write(name="lowest", text="l", sources=(below,))
    steps = plan([lowest, Write(name="after", text="a", sources=(top,))])
    outcome = run_plan(steps, Store(tmp_path))
    assert names(outcome.done) == ["top", "after"]
    assert names(outcome.left) == ["fails", "below", "lowest"]
    assert not outcome.finished
    assert outcome.why == {
        fails.identity: "failed with ZeroDivisionError",
        below.identity: "needs fail 'fails', which failed",
        lowest.identity: "needs write 'below', which is left",
    }
    assert list((tmp_path / ".work").iterdir()) == []
    # no error of ours: whoever mends it wants the place
    told = capfd.readouterr().err
    assert "raise ZeroDivisionError" in told
    assert "fail 'fails' failed: ZeroDivisionError: on purpose" in told
    with pytest.raises(FailedError, match=r"(?s)1 step failed.*fail 'fails': Zero"):
        outcome.require_success()
    # it is tried again by the same command, and nothing else is
    again = run_plan(steps, Store(tmp_path))
    assert (names(again.done), names(again.skipped)) == ([], ["top", "after"])
    assert set(again.errors) == {fails.identity}


def test_what_several_steps_raise_is_told_once(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Refuse(Write):
        kind: ClassVar[str] = "refuse"

        def run(self, context: Context) -> None:
            raise InputError(self.text)

    parts = [Refuse(name=n, text=t, more={"n": n}) for n, t in (("a", "x"), ("b", "y"), ("c", "x"))]
    outcome = run_plan(plan(parts), Store(tmp_path))
    with pytest.raises(FailedError) as caught:
        outcome.require_success()
    assert str(caught.value).splitlines()[1:] == [
        "refuse 'a', refuse 'c': InputError: x",
        "refuse 'b': InputError: y",
    ]


def test_a_run_without_a_failure_has_nothing_to_raise(tmp_path: Path) -> None:
    outcome = run_plan([Write(name="late", seconds=3600)], Store(tmp_path), deadline=1)
    assert (names(outcome.left), outcome.errors) == (["late"], {})
    outcome.require_success()


def test_damaged_checkpoints_are_put_aside_and_the_step_begun_anew(tmp_path: Path) -> None:
    step = Chain(name="chain", links=3)
    run_plan([step], Store(tmp_path / "whole"))
    work = tmp_path / "s" / ".work" / step.identity
    work.mkdir(parents=True)
    (work / "checkpoint.json").write_text('{"link": 2, ')
    with pytest.warns(UserWarning, match="put aside in .damaged: checkpoint.json is damaged"):
        run_plan([step], Store(tmp_path / "s"))
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def test_a_step_that_finds_other_damage_than_its_own_is_not_run_for_ever(tmp_path: Path) -> None:
    runs = []

    class Complains(Chain):
        def run(self, context: Context) -> None:
            runs.append(1)
            raise CheckpointError("something else is damaged")

    step = Complains(name="complains", links=1)
    outcome = run_plan([step], Store(tmp_path))
    assert isinstance(outcome.errors[step.identity], CheckpointError)
    assert len(runs) == 1


def test_damage_below_is_repaired_before_it_is_used(tmp_path: Path) -> None:
    bottom = diamond()
    run_plan([bottom], Store(tmp_path))
    whole = tree(tmp_path)
    top = bottom.needs[0].needs[0]
    flip(Store(tmp_path).folder(top) / "out.txt")
    with pytest.warns(UserWarning, match="'top' is done again.*out.txt"):
        outcome = run_plan([bottom], Store(tmp_path))
    assert names(outcome.done) == ["top"]
    assert tree(tmp_path) == whole


def test_results_of_other_versions_are_used_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = plan([diamond()])
    monkeypatch.setattr("notsure.__version__", "0.0.7")
    run_plan(steps[:1], Store(tmp_path))
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"1 of 4 steps were done with notsure 0\.0\.7 \(here"):
        outcome = run_plan(steps, Store(tmp_path))
    assert names(outcome.skipped) == ["top"]


# killed

RUNS = """
import sys
from pathlib import Path
from notsure.studies.run import run_plan
from notsure.studies.store import Store
from tests.toy_steps import Chain, Write
log, stall = Path(sys.argv[2]), sys.argv[3]
stalls_at = int(stall) if stall.isdigit() else None
first = Write(name="first", text="f", log=log)
chain = Chain(name="chain", links=12, stall=stalls_at, sources=(first,), log=log)
last = Write(name="last", text="l", sources=(chain,), pause=60 * (stall == "last"), log=log)
outcome = run_plan([last], Store(sys.argv[1]))
print([step.name for step in outcome.done])
"""


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    with script(RUNS, str(tmp_path / "whole"), str(tmp_path / "log"), "never") as process:
        assert process.communicate(timeout=60)[0] == "['first', 'chain', 'last']\n"
    log = tmp_path / "log2"

    def killed(stall: str, line: str) -> None:
        with script(RUNS, str(tmp_path / "s"), str(log), stall) as process:
            until(lambda: line in log_of(log))
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL

    for link in (0, 3, 4, 11):
        killed(str(link), f"chain {link}")
    # this one has no checkpoints
    killed("last", "last")
    with script(RUNS, str(tmp_path / "s"), str(log), "never") as process:
        assert process.communicate(timeout=60)[0] == "['last']\n"
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")
    # nothing was lost but what was being made when the signal came
    lines = log_of(log)
    twice = [line for line in dict.fromkeys(lines) if lines.count(line) > 1]
    assert twice == ["chain 0", "chain 3", "chain 4", "chain 11", "last"]
    assert len(lines) == 14 + len(twice)


def test_killed_between_two_steps_it_goes_on_with_the_second(tmp_path: Path) -> None:
    code = RUNS.replace(
        "outcome =",
        "import os, signal, notsure.studies.run as run\n"
        "once = run.run_step\n"
        "def then_die(step, *rest, **more):\n"
        "    found = once(step, *rest, **more)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.run_step = then_die\n"
        "outcome =",
    )
    log = tmp_path / "log"
    for done in (1, 2, 3):
        with script(code, str(tmp_path / "s"), str(log), "never") as process:
            assert process.wait(60) == -signal.SIGKILL
        assert len(Store(tmp_path / "s").results()) == done
    assert len(log_of(log)) == 14
    with script(RUNS, str(tmp_path / "s"), str(log), "never") as process:
        assert process.communicate(timeout=60)[0] == "[]\n"


# several at once


def test_two_processes_share_the_work_and_do_nothing_twice(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from notsure.studies.run import run_plan
from notsure.studies.store import Store
from tests.toy_steps import Write
log, go = Path(sys.argv[2]), Path(sys.argv[3])
parts = [Write(name=f"part {i}", text=str(i), pause=0.15, log=log) for i in range(8)]
whole = Write(name="whole", text="w", sources=tuple(parts), pause=0.2, log=log)
print("ready", flush=True)
while not go.exists():
    time.sleep(0.01)
outcome = run_plan([whole], Store(sys.argv[1]))
print(len(outcome.done), len(outcome.skipped), len(outcome.left))
"""
    log, go = tmp_path / "log", tmp_path / "go"
    two = [script(code, str(tmp_path / "s"), str(log), str(go)) for _ in range(2)]
    with two[0] as first, two[1] as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        go.touch()
        told = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    assert sorted(log_of(log)) == sorted([f"part {i}" for i in range(8)] + ["whole"])
    counts = [[int(count) for count in line] for line in told]
    assert sum(done for done, _, _ in counts) == 9
    assert all(done + skipped == 9 and left == 0 for done, skipped, left in counts)
    # neither looked on while the other did it all
    assert all(done >= 2 for done, _, _ in counts)


def test_a_second_process_that_will_not_wait_is_told_who_is_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    chain = Chain(name="chain", links=12, sources=(Write(name="first", text="f"),))
    with script(RUNS, str(tmp_path / "s"), str(log), "0") as process:
        until(lambda: "chain 0" in log_of(log))
        with pytest.raises(RunningError, match=f"'chain' is being run by process {process.pid} "):
            run_plan([chain], Store(tmp_path / "s"), wait=False)
        late = run_plan([chain], Store(tmp_path / "s"), deadline=0.3)
        assert names(late.left) == ["chain"]
        assert "another process" in late.why[chain.identity]


# deadlines


def test_a_run_stops_at_the_deadline_and_goes_on_in_the_next_call(tmp_path: Path) -> None:
    def steps(pause: float, log: Path | None = None) -> tuple[Step, ...]:
        chain = Chain(name="chain", links=10, pause=pause, log=log)
        return plan([Write(name="end", text="e", sources=(chain,))])

    run_plan(steps(0), Store(tmp_path / "whole"))
    log, calls = tmp_path / "log", 0
    while True:
        outcome = run_plan(steps(0.12, log), Store(tmp_path / "s"), deadline=0.3)
        calls += 1
        if outcome.finished:
            break
        assert outcome.wall < 5
        chain, end = steps(0)
        if Store(tmp_path / "s").state(chain) == "begun":
            assert names(outcome.left) == ["chain", "end"]
            assert "goes on from here" in outcome.why[chain.identity]
            assert outcome.why[end.identity] == "needs chain 'chain', which is left"
        else:
            assert outcome.why == {end.identity: "the deadline came before it was begun"}
        assert calls < 30
    assert calls >= 3
    # nothing was done twice
    assert log_of(log) == [f"chain {number}" for number in range(10)]
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")
    # what it took is the sum of its attempts
    result = Store(tmp_path / "s").result(chain)
    assert result is not None
    assert result.seconds >= 10 * 0.12


def test_a_step_without_checkpoints_is_not_begun_where_it_does_not_fit(tmp_path: Path) -> None:
    long = Write(name="long", text="l", seconds=3600)
    after = Write(name="after", text="a", sources=(long,))
    short = Write(name="short", text="s", seconds=0.1)
    unknown = Write(name="unknown", text="u")
    outcome = run_plan([after, short, unknown], Store(tmp_path), deadline="20s")
    assert names(outcome.done) == ["short", "unknown"]
    assert names(outcome.left) == ["long", "after"]
    assert outcome.why[long.identity].startswith("takes about 1 h and leaves no checkpoints; ")


def test_nothing_is_begun_after_the_deadline(tmp_path: Path) -> None:
    slow = Write(name="slow", text="s", pause=0.3)
    outcome = run_plan([slow, Chain(name="chain", links=1)], Store(tmp_path), deadline=0.2)
    assert names(outcome.done) == ["slow"]
    assert list(outcome.why.values()) == ["the deadline came before it was begun"]


# the machinery itself


def test_the_machinery_runs_without_torch() -> None:
    code = (
        "import sys, notsure.studies.run, notsure.studies.store, notsure.studies.steps\n"
        "print('torch' in sys.modules)"
    )
    with script(code) as process:
        assert process.communicate(timeout=60)[0] == "False\n"


def test_a_run_says_what_it_does_and_only_when_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = plan([diamond()])
    run_plan(steps[:2], Store(tmp_path))
    assert capfd.readouterr() == ("", "")
    run_plan(steps, Store(tmp_path), progress=True)
    out, told = capfd.readouterr()
    assert out == ""
    assert "step 3 of 4: write 'right'" in told
    assert "write 'bottom': done in 0.0 s" in told
    assert "'top'" not in told


def test_a_quiet_run_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            run_plan([dataclasses.replace(diamond())], Store(tmp_path))
