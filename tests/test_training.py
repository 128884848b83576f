"""Training: objectives against the formula, resume to the bit, interruption, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import notsure as ns
from notsure import models
from notsure.core.errors import CheckpointError, ConfigurationError, InputError, NotSureError
from notsure.core.state import seeded, weights_hash
from notsure.core.storage import load_tensors, save_tensors
from notsure.training import Augmentation, CrossEntropy, Recipe, ReverseCrossEntropy, train
from tests.test_guard import blobs

RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=0.05, augmentation=Augmentation(flip=True))


def fresh(architecture: str = "wester_a", *, reverse_logits: bool = False) -> ns.Classifier:
    """A network with dropout, so that a resume has randomness to get right."""
    with seeded(7):
        module = models.build(architecture, num_classes=4, in_channels=1, size=8)
    return ns.Classifier(module, mean=0.5, std=0.5, reverse_logits=reverse_logits)


def test_reverse_cross_entropy_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    reverse_label = torch.full((6, 5), 1 / 4, dtype=torch.float64)
    reverse_label[torch.arange(6), y] = 0
    expected = -(reverse_label * torch.log_softmax(raw, dim=1)).sum(dim=1)
    # the objective sees the Classifier's logits, which are the module's negated
    assert torch.allclose(ReverseCrossEntropy()(-raw, y), expected)
    assert torch.allclose(
        CrossEntropy()(raw, y), -torch.log_softmax(raw, dim=1)[torch.arange(6), y]
    )
    with_gradient = raw.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ReverseCrossEntropy()(-z, y), (with_gradient,))


@pytest.mark.parametrize("objective", [CrossEntropy(), ReverseCrossEntropy()])
def test_training_learns(objective: Any) -> None:
    classifier = fresh("digits_cnn", reverse_logits=objective.reverse_logits)
    recipe = Recipe(epochs=5, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle")
    history = train(classifier, blobs(400, 0), objective=objective, recipe=recipe, progress=False)
    x, y = blobs(200, 9)
    assert float((classifier.logits(x).argmax(dim=1) == y).double().mean()) > 0.98
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert not classifier.training
    if objective.reverse_logits:
        # equal other classes is what reverse cross-entropy is for
        spread = classifier.logits(x).detach().scatter(1, y[:, None], torch.nan)
        spread = spread.nan_to_num(-torch.inf).amax(1) - spread.nan_to_num(torch.inf).amin(1)
        assert float(spread.median()) < 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path: Path, optimizer: Any) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
    whole = fresh()
    train(whole, blobs(100, 0), recipe=recipe, progress=False)
    path = tmp_path / "checkpoint.safetensors"

    for stop_at in (2, 6):  # in the middle of the first epoch, and of the second
        calls: list[int] = []

        def stop(
            *_: object, calls: list[int] = calls, stop_at: int = stop_at, **__: object
        ) -> None:
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)

        part = fresh()
        handle = part.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            train(part, blobs(100, 0), recipe=recipe, checkpoint=path, progress=False)
        handle.remove()
    resumed = fresh()
    with torch.random.fork_rng():
        torch.rand(3)  # the global state must not matter
        history = train(resumed, blobs(100, 0), recipe=recipe, checkpoint=path, progress=False)
    assert weights_hash(resumed) == weights_hash(whole)
    assert [epoch.number for epoch in history.epochs] == [1, 2, 3]
    finished = fresh()
    train(finished, blobs(100, 0), recipe=recipe, checkpoint=path, progress=False)
    assert weights_hash(finished) == weights_hash(whole)


def test_the_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    train(fresh(), blobs(64, 0), recipe=replace(RECIPE, epochs=1), progress=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    script = textwrap.dedent(f"""
        from tests.test_training import RECIPE, fresh, blobs
        from dataclasses import replace
        from notsure.training import train
        print("ready", flush=True)
        train(fresh(), blobs(400, 0), recipe=replace(RECIPE, epochs=500), checkpoint={str(path)!r})
    """)
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while not path.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in errors
    note = load_tensors(path)[1]
    assert note["step"] > 0
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(CheckpointError, match="recipe: there"):
        train(fresh(), blobs(400, 0), recipe=RECIPE, checkpoint=path, progress=False)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    recipe = replace(RECIPE, epochs=1)
    train(fresh(), blobs(64, 0), recipe=recipe, checkpoint=path, progress=False)
    with pytest.raises(CheckpointError, match="another training"):
        train(fresh(), blobs(64, 1), recipe=recipe, checkpoint=path, progress=False)
    with pytest.raises(CheckpointError, match="network"):
        train(fresh("digits_cnn"), blobs(64, 0), recipe=recipe, checkpoint=path, progress=False)
    save_tensors(path, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no training checkpoint"):
        train(fresh(), blobs(64, 0), recipe=recipe, checkpoint=path, progress=False)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="damaged or not a safetensors"):
        train(fresh(), blobs(64, 0), recipe=recipe, checkpoint=path, progress=False)


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="give another one"):
        train(fresh(), blobs(64, 0), checkpoint=tmp_path / "file" / "c.safetensors")


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="reverse_logits=True"):
        train(fresh(), blobs(64, 0), objective=ReverseCrossEntropy())
    with pytest.raises(ConfigurationError, match="reverse_logits=False"):
        train(fresh(reverse_logits=True), blobs(64, 0))
    x, y = blobs(64, 0)
    with pytest.raises(InputError, match="divide by 255"):
        train(fresh(), (x * 255, y))
    with pytest.raises(NotSureError, match="lower the learning rate"):
        train(fresh(), blobs(64, 0), recipe=replace(RECIPE, learning_rate=1e30), progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"weight_decay": -1},
        {"momentum": 1},
        {"optimizer": "adam"},
        {"schedule": "steps"},
        {"precision": "fp8"},
    ],
)
def test_recipes_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Recipe(**settings)


def test_schedules() -> None:
    cosine, cycle = Recipe(), Recipe(schedule="one-cycle", learning_rate=0.4)
    assert cosine.rate(0) == 0.1
    assert cosine.rate(0.5) == pytest.approx(0.05)
    assert cycle.rate(0.3) == pytest.approx(0.4)
    assert cycle.rate(0) < 0.02
    assert cycle.rate(0.999) < 0.001
    assert Recipe(schedule="constant").rate(0.9) == 0.1


def test_augmentation_moves_and_mirrors() -> None:
    x = torch.zeros(200, 1, 8, 8)
    x[:, :, 3, 2] = 1
    generator = torch.Generator().manual_seed(0)
    moved = Augmentation(crop_padding=2, flip=True)(x, generator)
    assert moved.shape == x.shape
    assert bool((moved.flatten(1).sum(dim=1) == 1).all())
    places = {(int(i[1]), int(i[2])) for i in moved[:, 0].nonzero()}
    assert {row for row, _ in places} == {1, 2, 3, 4, 5}
    assert {column for _, column in places} == {0, 1, 2, 3, 4} | {3, 4, 5, 6, 7}
    larger = Augmentation(resize_crop=10)(x, generator)
    assert larger.shape == x.shape
    assert float(larger.amax()) < 1  # interpolated
    with pytest.raises(ConfigurationError, match="smaller than the images"):
        Augmentation(resize_crop=4)(x, generator)
    with pytest.raises(ConfigurationError, match="not both"):
        Augmentation(resize_crop=10, crop_padding=1)


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Through accelerate: each process takes half of every batch, to the same gradient."""
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from accelerate import Accelerator
            from notsure.core.storage import save_tensors
            from notsure.training import Recipe, train
            from tests.test_guard import blobs
            from tests.test_training import fresh

            accelerator = Accelerator(cpu=True)
            assert accelerator.num_processes == 2
            classifier = fresh("digits_cnn")
            recipe = Recipe(epochs=2, batch_size=30, learning_rate=0.05, precision="fp32")
            path = sys.argv[1] + "/checkpoint.safetensors"
            train(classifier, blobs(100, 0), recipe=recipe, accelerator=accelerator,
                  checkpoint=path, progress=False)
            if accelerator.is_main_process:
                save_tensors(sys.argv[1] + "/result.safetensors", classifier.module.state_dict())
        """)
    )
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2"]
    subprocess.run(
        [*command, str(script), str(tmp_path)],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        },
        check=True,
        timeout=180,
    )
    result, _ = load_tensors(tmp_path / "result.safetensors")
    alone = fresh("digits_cnn")
    recipe = Recipe(epochs=2, batch_size=30, learning_rate=0.05, precision="fp32")
    train(alone, blobs(100, 0), recipe=recipe, progress=False)
    for name, value in alone.module.state_dict().items():
        assert torch.allclose(result[name], value, atol=1e-4), name
    assert (tmp_path / "checkpoint.safetensors").exists()
