"""A Ray cluster of two nodes on this machine does what one process does, also when a node dies."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import notsure
from notsure.cli import app, completed_options
from notsure.core.errors import (
    CheckpointError,
    ClusterError,
    ConfigurationError,
    DeadlineError,
    FailedError,
    InputError,
)
from notsure.evaluation import Records
from notsure.studies import scale_out
from notsure.studies.examining import Evaluate
from notsure.studies.kinds import study_steps
from notsure.studies.results import versions
from notsure.studies.run import plan, run_plan
from notsure.studies.scale_out import run_plan_on_ray
from notsure.studies.scale_out.carrying import packed, unpack
from notsure.studies.scale_out.cluster import Cluster
from notsure.studies.scale_out.pieces import EvaluateRows, Teach, cut
from notsure.studies.scale_out.worker import Look, Order, execute, scratch
from notsure.studies.spec import study_of
from notsure.studies.steps import Context, Step
from notsure.studies.store import Store
from tests.test_shards import check_same
from tests.toy_steps import Chain, Fail, Write, log_of, script, tree, until

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

DIGITS = Path(notsure.__file__).parent / "studies" / "files" / "digits.yaml"

SUITE = """\
  suite:
    guards: [ce]
    suite: quick
    threats: [transfer]
    eps: [0.1]
    count: 8
    batch_size: 4
    probes: 0
"""


class TwoNodes:
    """A head that does nothing, and two nodes with a processor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as LocalCluster

        little: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0, **little})
        self.nodes = [self._added(), self._added()]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def _added(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    def node_of(self, process: int) -> Any:
        """The node whose worker a process is."""
        parent = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        for node in self.nodes:
            if node.all_processes["raylet"][0].process.pid == parent:
                return node
        raise AssertionError(f"{process} is no worker of this cluster")

    def kill(self, node: Any) -> None:
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def mend(self) -> None:
        """Has two nodes again."""
        while len(self.nodes) < 2:
            self.nodes.append(self._added())

    def stop(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        nodes = TwoNodes()
        yield nodes
        nodes.stop()


@contextmanager
def one_node_dies(
    nodes: TwoNodes, store: Store, step: Step, when: Callable[[], bool]
) -> Iterator[None]:
    """Kills the node that is at a step once something has happened; later there are two again."""
    errors: list[BaseException] = []

    def kill() -> None:
        try:
            until(when, seconds=100)
            lock = f".locks/{step.identity}.lock"
            marks = [path.name for path in (store.root / ".cluster").iterdir()]
            roots = [store.root, *map(scratch, marks)]
            texts = [(root / lock).read_text() for root in roots if (root / lock).exists()]
            held = {json.loads(text)["pid"] for text in texts if text}
            # where nothing is shared this process has a lock of its own
            (process,) = held - {os.getpid()}
            nodes.kill(nodes.node_of(process))
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        nodes.mend()
    assert not errors


def names(steps: Any) -> list[str]:
    return [step.name for step in steps]


def chains(log: Path | None, pause: float, *, links: int = 12) -> tuple[Step, ...]:
    """Four slow chains that start from the same step, and a step that needs them all."""
    first = Write(name="first", text="f", log=log)
    slow = tuple(
        Chain(name=f"chain {n}", links=links + n, pause=pause, sources=(first,), log=log)
        for n in range(4)
    )
    return plan([Write(name="last", text="l", sources=slow, log=log)])


# toy steps


@pytest.mark.parametrize("shared", [None, False])
def test_steps_are_done_once_and_leave_what_one_process_leaves(
    two_nodes: TwoNodes, shared: bool | None, tmp_path: Path
) -> None:
    steps, log = chains(tmp_path / "log", 0.02), tmp_path / "log"
    run_plan(chains(None, 0), Store(tmp_path / "alone"))
    outcome = run_plan_on_ray(steps, Store(tmp_path / "s"), shared=shared)
    assert outcome.finished
    assert names(outcome.done) == names(steps)
    assert set(outcome.seconds) == {step.identity for step in steps}
    assert tree(tmp_path / "s") == tree(tmp_path / "alone")
    lines = log_of(log)
    assert len(lines) == len(set(lines)) == 2 + 12 + 13 + 14 + 15
    assert (lines[0], lines[-1]) == ("first", "last")
    # two at a time: the second chain began before the first had ended
    assert lines.index("chain 1 0") < lines.index("chain 0 11")
    # nothing but results is left there, and nothing is done again
    assert {path.name for path in (tmp_path / "s").glob(".*")} == {".work", ".locks"}
    assert list((tmp_path / "s" / ".work").iterdir()) == []
    again = run_plan_on_ray(steps, Store(tmp_path / "s"), shared=shared)
    assert (again.done, names(again.skipped)) == ((), names(steps))
    assert len(log_of(log)) == len(lines)


@pytest.mark.parametrize("shared", [None, False])
def test_when_a_node_dies_only_what_it_was_at_is_done_again(
    two_nodes: TwoNodes, shared: bool | None, tmp_path: Path
) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "s")
    # so long that the first chain is not over before its node is found and killed
    steps = chains(log, 0.4, links=30)
    run_plan(chains(None, 0, links=30), Store(tmp_path / "alone"))
    with one_node_dies(two_nodes, store, steps[1], lambda: "chain 0 7" in log_of(log)):
        outcome = run_plan_on_ray(steps, store, shared=shared)
    assert outcome.finished
    assert tree(tmp_path / "s") == tree(tmp_path / "alone")
    lines = log_of(log)
    twice = {line for line in lines if lines.count(line) > 1}
    assert all(lines.count(line) == 2 for line in twice)
    assert twice
    assert {line.rpartition(" ")[0] for line in twice} == {"chain 0"}
    if shared is None:
        # it went on from its last checkpoint
        assert len(twice) == 1


@pytest.mark.parametrize("shared", [None, False])
def test_at_the_deadline_steps_stop_at_checkpoints_and_go_on_in_the_next_call(
    two_nodes: TwoNodes, shared: bool | None, tmp_path: Path
) -> None:
    run_plan(chains(None, 0, links=20), Store(tmp_path / "alone"))
    log, store, calls = tmp_path / "log", Store(tmp_path / "s"), 0
    while True:
        outcome = run_plan_on_ray(chains(log, 0.1, links=20), store, deadline=2.0, shared=shared)
        calls += 1
        if outcome.finished:
            break
        assert names(outcome.left)[-1] == "last"
        last = outcome.why[outcome.left[-1].identity]
        assert last.startswith("needs chain 'chain"), last
        assert calls < 30
    assert calls >= 2
    lines = log_of(log)
    assert len(lines) == len(set(lines)) == 2 + 20 + 21 + 22 + 23
    assert tree(tmp_path / "s") == tree(tmp_path / "alone")
    chain = store.result(outcome.skipped[1] if len(outcome.skipped) > 1 else outcome.done[1])
    assert chain is not None
    # what it took is the sum of its attempts
    assert chain.seconds >= 20 * 0.1


def test_what_cannot_end_in_time_is_not_begun(two_nodes: TwoNodes, tmp_path: Path) -> None:
    long = Write(name="long", text="l", seconds=3600)
    after = Write(name="after", text="a", sources=(long,))
    short = Write(name="short", text="s", seconds=0.1)
    outcome = run_plan_on_ray([after, short], Store(tmp_path), deadline="20s")
    assert names(outcome.done) == ["short"]
    assert names(outcome.left) == ["long", "after"]
    assert outcome.why[long.identity].startswith("takes about 1 h and leaves no checkpoints; ")
    assert outcome.why[after.identity] == "needs write 'long', which is left"


@pytest.mark.parametrize("shared", [None, False])
def test_a_step_that_fails_takes_with_it_only_what_needs_it(
    two_nodes: TwoNodes, shared: bool | None, tmp_path: Path
) -> None:
    top = Write(name="top", text="t")
    fails = Fail(name="fails", sources=(top,))
    below = Write(name="below", text="b", sources=(fails,))
    steps = [below, *chains(None, 0.05)]
    outcome = run_plan_on_ray(steps, Store(tmp_path), shared=shared)
    assert names(outcome.left) == ["fails", "below"]
    assert outcome.why[below.identity] == "needs fail 'fails', which failed"
    with pytest.raises(FailedError, match="fail 'fails': ZeroDivisionError: on purpose"):
        outcome.require_success()
    assert Store(tmp_path).state(top) == "done"
    # its claim is let go of
    with Store(tmp_path).claim(fails, wait=False):
        pass


def test_damaged_checkpoints_are_put_aside_on_a_worker_too(
    two_nodes: TwoNodes, tmp_path: Path
) -> None:
    damaged = Chain(name="chain", links=2)
    store = Store(tmp_path)
    store.work(damaged).mkdir(parents=True)
    (store.work(damaged) / "checkpoint.json").write_text('{"link": 1, ')
    # it is put aside and begun anew, as in one process
    assert run_plan_on_ray([damaged], store).finished
    assert len(list((tmp_path / ".damaged").iterdir())) == 1


@pytest.mark.parametrize("shared", [None, False])
def test_what_another_process_is_at_is_waited_for(
    two_nodes: TwoNodes, shared: bool | None, tmp_path: Path
) -> None:
    step, store = Write(name="taken", text="t"), Store(tmp_path)
    more = Write(name="more", text="m", sources=(step,))
    with Store(tmp_path).claim(step):
        outcome = run_plan_on_ray([more], store, deadline=1.5, shared=shared)
    assert names(outcome.left) == ["taken", "more"]
    assert "'taken' is being run by process" in outcome.why[step.identity]
    claim = Store(tmp_path).claim(step)
    claim.__enter__()
    timer = threading.Timer(1.5, lambda: claim.__exit__(None, None, None))
    timer.start()
    assert run_plan_on_ray([more], store, shared=shared).finished
    timer.join()


@dataclass(frozen=True, kw_only=True)
class Dies(Write):
    """Takes its process with it."""

    def run(self, context: Context) -> None:
        os._exit(1)


def test_a_step_that_kills_its_workers_is_given_up(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_out.cluster, "RETRIES", 0)
    with pytest.raises(ClusterError, match="write 'dies' was lost with its worker"):
        run_plan_on_ray([Dies(name="dies")], Store(tmp_path))


# studies


def study_text() -> str:
    """The library's own study, in small batches, with a suite that teaches a substitute."""
    text = DIGITS.read_text(encoding="utf-8")
    assert "epochs: 8" in text
    assert "count: 100, probes: 20" in text
    text = text.replace("epochs: 8", "epochs: 2")
    text = text.replace("count: 100, probes: 20", "count: 40, probes: 6, batch_size: 10")
    return text.replace("\nfigures:", SUITE + "\nfigures:")


def digits_study() -> tuple[Step, ...]:
    return plan(study_steps(study_of(study_text(), "digits.yaml", "smoke")))


def evaluations(steps: tuple[Step, ...]) -> list[Evaluate]:
    return [step for step in steps if isinstance(step, Evaluate)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The study as one process with one thread leaves it."""
    store = Store(tmp_path_factory.mktemp("alone"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run_plan(digits_study(), store).finished
    finally:
        torch.set_num_threads(threads)
    return store


def check_study(found: Store, wanted: Store, steps: tuple[Step, ...]) -> None:
    """Trained things to the byte, records but for rounding and the attacks' times."""
    assert {r.folder.name for r in found.results()} == {step.identity for step in steps}
    for step in steps:
        ours, theirs = found.folder(step), wanted.folder(step)
        if isinstance(step, Evaluate):
            check_same(*(Records.read(one / "records.parquet") for one in (ours, theirs)))
            files = {path.name for path in ours.iterdir()}
            assert files == {"records.parquet", "run.json", "done.json"}
            assert (ours / "run.json").read_text() == (theirs / "run.json").read_text()
        else:
            ours_whole, theirs_whole = packed(ours), packed(theirs)
            for files_of in (ours_whole, theirs_whole):
                del files_of["done.json"]
            assert ours_whole == theirs_whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Spoilt(Evaluate):
    """Fails at its second batch."""

    def examine(self, context: Context, **more: Any) -> None:
        if more["rows"] == (10, 20):
            raise InputError("on purpose")
        super().examine(context, **more)


def test_a_shard_that_fails_is_told_of_its_evaluation(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    steps = digits_study()
    evaluation = next(one for one in evaluations(steps) if one.attacks is not None)
    spoilt = Spoilt(**{one.name: getattr(evaluation, one.name) for one in fields(evaluation)})
    store = Store(tmp_path / "s")
    shutil.copytree(alone.root, store.root)
    shutil.rmtree(store.folder(evaluation))
    outcome = run_plan_on_ray([spoilt, Write(name="after", text="a")], store)
    assert names(outcome.done) == ["after"]
    assert names(outcome.left) == [evaluation.name]
    assert outcome.why[spoilt.identity] == "3 of 4 shards are done; failed with InputError"
    with pytest.raises(FailedError, match=f"evaluate '{evaluation.name}': InputError: on purpose"):
        outcome.require_success()


def test_the_study_survives_the_death_of_a_node(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    steps, store = digits_study(), Store(tmp_path)
    pieces = cut(evaluations(steps)[0], None)
    assert pieces is not None
    shard = pieces.shards[1]
    with one_node_dies(
        two_nodes, store, shard, lambda: any(store.work(shard).glob("parts/0000*.parquet"))
    ):
        outcome = run_plan_on_ray(steps, store)
    assert outcome.finished
    assert names(outcome.done) == names(steps)
    check_study(store, alone, steps)
    # its time is that of its shards
    result = store.result(evaluations(steps)[0])
    assert result is not None
    assert result.seconds > 0


def test_the_study_is_the_same_where_no_folder_is_shared(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    steps, store = digits_study(), Store(tmp_path / "s")
    shutil.copytree(alone.root, store.root)
    for step in evaluations(steps):
        shutil.rmtree(store.folder(step))
    # in two calls, of which the first leaves some shards
    first = run_plan_on_ray(steps, store, shared=False, only=["suite"])
    assert names(first.done) == ["suite"]
    piece = Chain(name="nothing", links=1)
    assert run_plan_on_ray([piece], store, shared=False).finished
    shutil.rmtree(store.folder(piece))
    outcome = run_plan_on_ray(steps, store, shared=False, shard=20)
    assert names(outcome.done) == ["robustness"]
    check_study(store, alone, steps)


def test_shards_that_are_done_are_kept_and_joined_in_the_next_call(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    steps = digits_study()
    store, whole = Store(tmp_path / "s"), evaluations(steps)[0]
    shutil.copytree(alone.root, store.root)
    shutil.rmtree(store.folder(whole))
    pieces = cut(whole, None)
    assert pieces is not None
    for shard in pieces.shards[:3]:
        run_plan([shard], store)
    before = {shard.identity: (store.folder(shard) / "done.json").stat() for shard in
              pieces.shards[:3]}  # fmt: skip
    stopped = run_plan_on_ray(steps, store, deadline=0.001)
    assert stopped.why[whole.identity].startswith("3 of 4 shards are done; the deadline came")
    for shard in pieces.shards[:3]:
        assert (store.folder(shard) / "done.json").stat() == before[shard.identity]
    assert run_plan_on_ray(steps, store).finished
    check_study(store, alone, steps)


def test_an_evaluation_that_one_process_has_begun_is_gone_on_with_as_one(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    steps = digits_study()
    store, whole = Store(tmp_path / "s"), evaluations(steps)[0]
    shutil.copytree(alone.root, store.root)
    shutil.rmtree(store.folder(whole))
    lefts = iter([1e9, 1e9, 1e9])
    results = {need.identity: store.folder(need) for need in whole.needs}
    with store.claim(whole) as claim:
        told = Context(folder=claim.begin(), seconds_left=lambda: next(lefts, 0.0), results=results)
        with pytest.raises(DeadlineError):
            whole.run(told)
    parts = {path.name for path in (store.work(whole) / "parts").iterdir()}
    assert parts
    marked = store.work(whole) / "parts" / min(parts)
    stamp = marked.stat().st_mtime_ns
    folder, seen = store.work(whole), []
    sends = Cluster.submit

    def submit(self: Cluster, name: str, *rest: Any) -> Any:
        seen.append((name, marked.stat().st_mtime_ns == stamp))
        return sends(self, name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "submit", submit)
        assert run_plan_on_ray(steps, store).finished
    assert seen == [("evaluate robustness", True)]
    assert not folder.exists()
    check_study(store, alone, steps)


def test_the_command_line_sends_a_study_to_the_cluster(
    two_nodes: TwoNodes, alone: Store, tmp_path: Path
) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(study_text())
    steps, store = digits_study(), Store(tmp_path / "s")
    shutil.copytree(alone.root, store.root)
    shutil.rmtree(store.folder(evaluations(steps)[1]))
    called = CliRunner().invoke(app, ["run", str(path), "--out", str(store.root), "--ray"])
    assert called.exit_code == 0, called.output
    assert "1 steps done" in called.output
    assert "0 left" in called.output
    manifest = json.loads((tmp_path / "s" / "digits-smoke" / "manifest.json").read_text())
    assert manifest["versions"]["ray"] == ray.__version__


def test_a_cluster_on_this_machine_is_started_and_stopped(tmp_path: Path) -> None:
    code = """
import os, sys
from notsure.studies.scale_out import run_plan_on_ray
from notsure.studies.store import Store
from tests.toy_steps import Write
outcome = run_plan_on_ray([Write(name="one", text="1")], Store(sys.argv[1]))
import ray
print(outcome.finished, ray.is_initialized(), os.environ["RAY_USAGE_STATS_ENABLED"])
"""
    with script(code, str(tmp_path)) as process:
        told = process.communicate(timeout=120)[0]
    assert told.split() == ["True", "False", "0"]


# without a cluster


def test_a_cut_depends_on_the_evaluation_and_the_size_alone() -> None:
    whole, suite = evaluations(digits_study())
    pieces = cut(whole, None)
    assert pieces is not None
    assert [(one.start, one.stop) for one in pieces.shards] == [
        (0, 10), (10, 20), (20, 30), (30, 40)
    ]  # fmt: skip
    assert pieces.teaching == ()
    assert len({one.identity for one in (*pieces.steps, whole)}) == 5
    again = cut(evaluations(digits_study())[0], 1)
    assert again is not None
    assert [one.identity for one in again.steps] == [one.identity for one in pieces.steps]
    assert sum(one.estimate() for one in pieces.shards) == pytest.approx(whole.estimate())
    large = cut(whole, 11)
    assert large is not None
    assert [(one.start, one.stop) for one in large.shards] == [(0, 20), (20, 40)]
    assert cut(whole, 40) is None
    assert cut(whole.needs[0], 1) is None
    taught = cut(suite, None)
    assert taught is not None
    assert [type(one) for one in taught.steps] == [Teach, EvaluateRows, EvaluateRows]
    assert taught.shards[0].needs == (*suite.needs, *taught.teaching)


class Pretended:
    """What is asked of Ray's module, with answers that are made up."""

    def __init__(self, resources: dict[str, float], looks: tuple[Look, ...] = ()) -> None:
        self.resources, self.looks = resources, looks
        self.options: dict[str, Any] = {}
        self.exceptions = SimpleNamespace(RayError=OSError)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": alive, "NodeID": "ab" * 28, "Resources": {"CPU": cpus}}
            for alive, cpus in ((True, 4.0), (True, 2.0), (False, 64.0))
        ]

    def remote(self, function: Any) -> Any:
        def options(**told: Any) -> Any:
            self.options = told
            return SimpleNamespace(remote=lambda *arguments: (function, arguments))

        return SimpleNamespace(options=options)

    def get(self, asked: list[Any], *, timeout: float) -> tuple[Look, ...]:
        assert len(asked) == 2
        return self.looks


def test_steps_ask_for_gpus_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTSURE_DEVICE", raising=False)
    with_gpus = Pretended({"CPU": 64, "GPU": 8})
    cluster = Cluster(with_gpus, local=False)
    cluster.submit("step", 2, "order")
    assert (with_gpus.options["num_gpus"], with_gpus.options["num_cpus"]) == (1, 2)
    assert with_gpus.options["max_retries"] > 0
    assert cluster.places(2) == 8
    monkeypatch.setenv("NOTSURE_DEVICE", "cpu")
    cluster.submit("step", 2, "order")
    assert with_gpus.options["num_gpus"] == 0
    assert cluster.places(2) == 32
    assert Cluster(Pretended({}), local=False).places(4) == 1


def test_a_cluster_that_cannot_do_it_is_refused() -> None:
    own = versions()
    good, blind = Look(True, own), Look(False, own)
    other = Look(True, {**own, "torch": "0.9"})
    assert Cluster(Pretended({}, (good, good)), local=False).check("/r", "m")
    assert not Cluster(Pretended({}, (good, blind)), local=False).check("/r", "m")
    with pytest.raises(ClusterError, match=r"torch 0\.9, and here it is"):
        Cluster(Pretended({}, (good, other)), local=False).check("/r", "m")
    with pytest.raises(ClusterError, match=r"5 processors, and the largest .* has 4"):
        Cluster(Pretended({}), local=False).require_place(5)
    Cluster(Pretended({}), local=False).require_place(4)


@pytest.mark.parametrize("told", [{"cpus": 0}, {"shard": 0}])
def test_settings_are_checked_before_anything_is_started(
    told: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="has to be at least 1; got 0"):
        run_plan_on_ray([Write(name="one")], Store(tmp_path), **told)  # type: ignore[arg-type]


def ordered(step: Step, root: Path, **more: Any) -> Order:
    told = {
        "step": step, "root": str(root), "mark": "test-mark", "shared": True,
        "until": float("inf"), "estimate": float("nan"), "threads": 1, "device": None,
    }  # fmt: skip
    return Order(**{**told, **more})


def test_a_worker_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="does not see the results' folder"):
        execute(ordered(Write(name="one"), tmp_path / "elsewhere"), None)
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_brought_to_a_worker_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    top = Write(name="top", text="t")
    step = Write(name="step", text="s", sources=(top,))
    run_plan([top], Store(tmp_path / "s"))
    files = packed(Store(tmp_path / "s").folder(top))
    order = ordered(step, tmp_path / "s", shared=False, needs=(top.identity,))
    with pytest.raises(CheckpointError, match="SHA-256"):
        execute(order, None, {**files, "out.txt": b"x"})
    reply = execute(order, None, files)
    assert reply.state == "done"
    assert reply.result is not None
    assert reply.result["out.txt"] == b"s|t"


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt"])
def test_files_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere inside"):
        unpack({name: b"x"}, tmp_path / "in")
    assert list(tmp_path.rglob("*.txt")) == []


def test_half_written_files_are_not_carried(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "whole.bin").write_bytes(b"w")
    (tmp_path / ".half.json.123.part").write_bytes(b"h")
    assert packed(tmp_path) == {"deep/whole.bin": b"w"}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("run digits --ray", "run digits --ray=local"),
        ("run --ray digits", "run --ray=local digits"),
        ("run digits --ray auto --scale cpu", "run digits --ray auto --scale cpu"),
        ("run --ray 10.0.0.1:6379 digits", "run --ray 10.0.0.1:6379 digits"),
        ("run --ray --mlflow digits", "run --ray=local --mlflow=default digits"),
        ("run --mlflow http://here:5000 --ray", "run --mlflow http://here:5000 --ray=local"),
        ("run --ray=auto digits --mlflow=runs/ml", "run --ray=auto digits --mlflow=runs/ml"),
        ("run --scale cpu digits", "run --scale cpu digits"),
    ],
)
def test_options_may_stand_alone(words: str, completed: str) -> None:
    assert completed_options(words.split()) == completed.split()
