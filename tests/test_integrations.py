"""Metrics, callbacks and the assertion: right figures, no traces, messages that say enough."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import notsure as ns
from notsure.attacks import DDN, FGSM, PGD
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.state import seeded
from notsure.evaluation import WORST_CASE, robustness
from notsure.evaluation.outcomes import outcomes
from notsure.integrations import DetectionAUROC, RobustAccuracy, measure
from notsure.integrations.accumulation import Accumulator
from notsure.testing import assert_robust
from tests.conftest import Digits
from tests.toys import LinearModel, images, optimal_distance, small_network

COUNT = 40
EPS = 0.1


@pytest.fixture(scope="module")
def few(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    return digits.x[:COUNT], digits.y[:COUNT]


def test_what_is_left_of_a_linear_model_is_what_geometry_says() -> None:
    shape = (1, 3, 3)
    model = LinearModel(shape, 2, seed=1)
    x = images(60, shape, seed=2)
    y = model(x).argmax(dim=1)
    # six are wrong as they are
    y[:6] = 1 - y[:6]

    def distances(norm: str) -> torch.Tensor:
        pairs = zip(x[6:], y[6:].tolist(), strict=True)
        return torch.tensor([optimal_distance(model, image, y, norm, None) for image, y in pairs])

    linf, l2 = distances("linf"), distances("l2")
    eps = _in_a_gap(linf)
    found = measure(model, x, y, eps=eps, attacks=[PGD(steps=100)])
    assert (found.n, found.right) == (60, 54)
    assert found.lenient.count == found.strict.count == int((linf > eps).sum())
    # an attack without a budget counts as far as it stays within it
    eps = _in_a_gap(l2)
    near = measure(model, x, y, eps=eps, norm="l2", attacks=[DDN(steps=200)])
    assert near.lenient.count == int((l2 > eps).sum())


def _in_a_gap(distances: torch.Tensor) -> float:
    """A budget between two distances that are well apart, so that no search has to be perfect."""
    ordered = distances.sort().values[15:40]
    at = int(ordered.diff().argmax())
    return float(ordered[at] + ordered[at + 1]) / 2


def test_the_figures_are_those_of_the_examiner(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = measure(digits.guard, *few, eps=EPS)
    rows = {
        row.threat: row
        for row in robustness(found.records)
        if row.attack == WORST_CASE and row.eps == EPS
    }
    row = rows["white-box"]
    assert (found.lenient, found.strict) == (row.lenient, row.strict)
    assert (found.clean_accuracy, found.clean_rejection) == (
        row.clean_accuracy,
        row.clean_rejection,
    )
    ignorant = outcomes(found.records, norm="linf", eps=EPS, threats=["oblivious"])
    assert int((~ignorant.fooled).sum()) == rows["oblivious"].lenient.count
    # who knows the detector does more than who does not
    assert found.lenient.count < rows["oblivious"].lenient.count
    assert next(iter(found.attacks)).startswith("white-box")
    assert {"oblivious RandomNoise", "white-box SelectivePGD"} <= set(found.attacks)
    assert all(rate.count >= found.lenient.count for rate in found.attacks.values())


def test_a_budget_in_another_norm_is_refused(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with pytest.raises(ConfigurationError, match="norm='l2'"):
        measure(digits.guard, *few, eps=EPS, attacks=[PGD(norm="l2", eps=1.0)])
    with pytest.raises(ConfigurationError, match="linf, l2, l1"):
        measure(digits.guard, *few, eps=EPS, norm="max")


def test_batches_add_up_and_a_call_gives_the_value_of_its_batch(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = few
    classifier = digits.guard.classifier
    whole = RobustAccuracy(eps=EPS)
    whole.update(classifier, x, y)
    parts = RobustAccuracy(eps=EPS)
    values = [parts(classifier, x[rows], y[rows]) for rows in (slice(0, 25), slice(25, COUNT))]
    assert float(parts.compute()) == pytest.approx(float(whole.compute()))
    together = (25 * float(values[0]) + 15 * float(values[1])) / COUNT
    assert together == pytest.approx(float(whole.compute()))
    assert parts.rates() == whole.rates()
    assert whole.rates()["lenient"].n == COUNT
    parts.reset()
    assert parts.rates()["lenient"].n == 0
    assert bool(parts.compute().isnan())


def test_a_rejected_image_is_safe_or_lost(digits: Digits) -> None:
    # noise, which a guard rejects and a network answers
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = digits.guard.classifier.logits(x).argmax(dim=1)
    lenient, strict = RobustAccuracy(eps=0.001), RobustAccuracy(eps=0.001, strict=True)
    for metric in (lenient, strict):
        metric.update(digits.guard, x, y)
    rejected = lenient.rates()["clean_rejection"].value
    assert rejected > 0.5
    assert float(lenient.compute()) >= float(strict.compute()) + rejected - 1e-6


def _again(name: str) -> ModuleType:
    """A module of ours, executed once more."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _example() -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    x, model = images(20, (1, 6, 6)), small_network(3)
    return x, model(x).argmax(dim=1), model


def test_without_torchmetrics_the_figures_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    room = "notsure.integrations"
    accumulation = _again(f"{room}.accumulation")
    monkeypatch.setitem(sys.modules, f"{room}.accumulation", accumulation)
    plain = _again(f"{room}.metrics")
    assert issubclass(plain.RobustAccuracy, accumulation.Accumulator)
    assert not issubclass(RobustAccuracy, Accumulator)
    x, y, model = _example()
    values = []
    for kind in (plain.RobustAccuracy, RobustAccuracy):
        metric = kind(eps=0.05, attacks=[FGSM()])
        first = metric(model, x[:5], y[:5])
        metric.update(model, x[5:], y[5:])
        values.append((float(first), float(metric.compute()), metric.rates()["lenient"]))
        metric.reset()
        metric.update(model, x[:5], y[:5])
        assert float(metric.compute()) == float(first)
    assert values[0] == values[1]
    assert 0 < values[0][1] < 1
    area = plain.DetectionAUROC()
    assert bool(area(torch.tensor([0.0, 2.0]), False).isnan())
    area.update(torch.tensor([1.0, 3.0]), True)
    assert (float(area.compute()), area.area().positives) == (0.75, 2)
    area.reset()
    assert bool(area.compute().isnan())


PROCESSES = """
import sys
import torch, torch.distributed as dist
from notsure.attacks import FGSM
from notsure.integrations import DetectionAUROC, RobustAccuracy
from tests.toys import small_network, images

def work(rank, path):
    dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
    x, model = images(20, (1, 6, 6)), small_network(3)
    y = model(x).argmax(dim=1)
    metric, area = RobustAccuracy(eps=0.05, attacks=[FGSM()]), DetectionAUROC()
    metric.update(model, x[rank::2], y[rank::2])
    area.update(torch.tensor([float(rank), 2.0 + rank]), torch.tensor([False, True]))
    told = metric.compute(), metric.rates()["lenient"].n, area.compute(), area.area().negatives
    if rank == 0:
        print(*map(float, told))
    dist.destroy_process_group()

if __name__ == "__main__":
    import torch.multiprocessing as several
    several.start_processes(work, args=(sys.argv[1],), nprocs=2, start_method="fork")
"""


def test_two_processes_have_one_figure(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "meeting")],
        cwd=Path(__file__).resolve().parents[1],
        env={"PYTHONPATH": ".", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    x, y, model = _example()
    metric = RobustAccuracy(eps=0.05, attacks=[FGSM()])
    metric.update(model, x, y)
    # scores 0 and 1 of clean images, 2 and 3 of adversarial ones
    assert done.stdout.split() == [str(float(metric.compute())), "20.0", "1.0", "2.0"]


def test_torchmetrics_takes_them_for_its_own() -> None:
    torchmetrics: Any = pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(200, generator=generator)
    which = torch.rand(200, generator=generator) < 0.4
    scores[which] += 0.7
    ours, theirs = DetectionAUROC(), torchmetrics.classification.BinaryAUROC()
    both: Any = torchmetrics.MetricCollection({"ours": ours})
    for rows in torch.split(torch.arange(200), 70):
        both.update(scores[rows], which[rows])
        theirs.update(scores[rows].sigmoid(), which[rows].int())
    value = float(both.compute()["ours"])
    assert value == pytest.approx(float(theirs.compute()), abs=1e-6)
    assert value == pytest.approx(roc_auc_score(which.numpy(), scores.numpy()), abs=1e-6)
    # the model is no part of it, so a copy of the metric copies no model
    metric: Any = RobustAccuracy(eps=EPS)
    assert list(metric.clone().state_dict()) == []


def test_an_area_needs_scores_of_both_and_none_that_is_nan() -> None:
    metric = DetectionAUROC()
    metric.update(torch.tensor([1.0, 2.0]), False)
    assert bool(metric.compute().isnan())
    with pytest.raises(ConfigurationError, match="1 of 2 scores are NaN"):
        metric.update(torch.tensor([1.0, torch.nan]), True)
    with pytest.raises(InputError, match="one bool"):
        metric.update(torch.tensor([1.0, 2.0]), torch.tensor([True]))
    with pytest.raises(InputError, match="0 and 1"):
        metric.update(torch.tensor([1.0, 2.0]), torch.tensor([0.2, 0.7]))
    metric.update(torch.tensor([3.0]), True)
    assert metric.area().value == 1.0
    assert (metric.area().positives, metric.area().negatives) == (1, 2)


def test_an_assertion_that_fails_says_how_far_and_by_what(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = digits.guard.classifier
    model.train()
    try:
        with pytest.raises(AssertionError) as caught:
            assert_robust(model, *few, eps=EPS, at_least=0.95)
        assert model.training
    finally:
        model.eval()
    found = measure(model, *few, eps=EPS)
    told = str(caught.value)
    left = found.lenient
    assert f"{100 * left.value:.1f} % [{100 * left.low:.1f}, {100 * left.high:.1f}]" in told
    assert f"{left.count} of {COUNT} images are withstood and 38 have to be" in told
    assert "below 95 %" in told
    assert next(iter(found.attacks)) in told
    assert f"{100 * found.clean_accuracy.value:.1f} %" in told
    # the share that is there is enough, one image more is not
    assert assert_robust(model, *few, eps=EPS, at_least=left.value).lenient == left
    with pytest.raises(AssertionError, match="more images would tell"):
        assert_robust(model, *few, eps=EPS, at_least=left.value + 1 / COUNT)
    with pytest.raises(ConfigurationError, match=r"in \[0,1\]; got 40"):
        assert_robust(model, *few, eps=EPS, at_least=40)


class Saturated(nn.Module):
    """A network whose loss has no gradient in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 1e4 * self.network(x)
        return logits


def test_what_passes_for_lack_of_gradients_passes_with_a_warning(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    fooled = ns.Classifier(Saturated(digits.guard.classifier.module), mean=0.5, std=1.0)
    with pytest.warns(UserWarning, match="zero-gradients"):
        assert_robust(fooled, *few, eps=EPS, at_least=0.5, attacks=[PGD()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_robust(digits.guard.classifier, *few, eps=0.01, at_least=0.5)


def _network() -> nn.Module:
    with seeded(5):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Dropout(0.2), nn.Linear(24, 10))


def _batches(digits: Digits) -> list[tuple[torch.Tensor, torch.Tensor]]:
    train = digits.split.train
    return [
        (train.x[rows], train.labels[rows])
        for rows in (slice(start, start + 48) for start in range(0, 480, 48))
    ]


class _Loader:
    """Batches that are loaded already; a list would be taken for several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _trained_by_lightning(
    digits: Digits, folder: Path, callbacks: list[Any], **options: Any
) -> Any:
    pytest.importorskip("lightning")
    from lightning import pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = _network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x)
            return logits

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    with seeded(7), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=any("Checkpoint" in type(one).__name__ for one in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks,
            **options,
        )
        batches = _batches(digits)
        trainer.fit(module, _Loader(batches), _Loader(batches[:1]))
    return trainer, module


@pytest.fixture
def quiet() -> Iterator[None]:
    import logging

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    yield
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


@pytest.mark.usefixtures("quiet")
def test_a_training_in_half_precision_is_watched(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """No budget can be kept in bfloat16: the same weights are asked in float32."""
    pytest.importorskip("lightning")
    from notsure.integrations.lightning import RobustAccuracyCallback

    attack = [PGD(steps=5)]
    watch = RobustAccuracyCallback(*few, eps=0.05, attacks=attack, every=2)
    trainer, module = _trained_by_lightning(digits, tmp_path, [watch], precision="bf16-true")
    assert {one.dtype for one in module.parameters()} == {torch.bfloat16}
    found = measure(copy.deepcopy(module.net).float(), *few, eps=0.05, attacks=attack)
    logged = trainer.callback_metrics
    assert float(logged["val/robust_accuracy"]) == pytest.approx(found.lenient.value)
    assert 0 < found.lenient.value < 1
    # a training that goes on from a checkpoint counts on
    again = RobustAccuracyCallback(*few, eps=0.05, attacks=attack, every=2)
    again.load_state_dict(watch.state_dict())
    assert again.state_dict() == {"ended": 4}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_every_precision_are_measured(dtype: torch.dtype) -> None:
    with seeded(2):
        module = nn.Sequential(nn.Conv2d(1, 4, 6), nn.BatchNorm2d(4), nn.Flatten()).to(dtype)
    module.train()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    x = images(30, (1, 6, 6)).float()
    whole = copy.deepcopy(module).float()
    y = ns.Classifier(whole.eval(), mean=0.5, std=0.2).logits(x).argmax(dim=1)
    attack = [PGD(steps=5)]
    expected = measure(ns.Classifier(whole, mean=0.5, std=0.2), x, y, eps=0.03, attacks=attack)
    for model, given in ((ns.Classifier(module, mean=0.5, std=0.2), x), (module, x)):
        found = measure(model, given, y, eps=0.03, attacks=attack)
        if model is not module:
            assert found.lenient.count == expected.lenient.count
    assert 0 < expected.lenient.count < 30
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, kept[name])
        assert value.dtype == kept[name].dtype


@pytest.mark.usefixtures("quiet")
def test_lightning_logs_what_is_left_and_trains_as_without(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    from notsure.integrations.lightning import RobustAccuracyCallback

    attack = [PGD(steps=5)]
    watch = RobustAccuracyCallback(*few, eps=0.05, attacks=attack, every=2)
    keep = ModelCheckpoint(
        dirpath=tmp_path / "kept", monitor="val/robust_accuracy", mode="max", every_n_epochs=2
    )
    trainer, module = _trained_by_lightning(digits, tmp_path, [watch, keep])
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    found = measure(module, *few, eps=0.05, attacks=attack)
    assert logged["val/robust_accuracy"] == pytest.approx(found.lenient.value)
    assert logged["val/clean_accuracy"] == pytest.approx(found.clean_accuracy.value)
    assert 0 < found.lenient.value < found.clean_accuracy.value
    assert "val/clean_rejection" not in logged
    assert keep.best_model_score is not None
    assert float(keep.best_model_score) >= logged["val/robust_accuracy"]
    _, plain = _trained_by_lightning(digits, tmp_path, [])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name


def test_the_preprocessing_of_a_model_in_training_is_told_to_the_callback(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor]
) -> None:
    from notsure.integrations.watching import Watch

    x, y = few
    module = digits.guard.classifier.module
    told = Watch(x=x, y=y, eps=EPS, mean=0.5, std=1.0, attacks=[FGSM()], batch_size=16)
    wrapped = Watch(
        x=x, y=y, eps=EPS, attacks=[FGSM()], wrap=lambda m: ns.Classifier(m, mean=0.5, std=1.0)
    )
    expected = measure(digits.guard.classifier, x, y, eps=EPS, attacks=[FGSM()])
    for watch in (told, wrapped):
        assert watch.look(module, watch.metric()).rates()["lenient"] == expected.lenient
    # two processes share the images
    shared = told.metric()
    told.look(module, shared, rank=0, world=2)
    assert shared.rates()["lenient"].n == COUNT // 2
    told.look(module, shared, rank=1, world=2)
    assert shared.rates()["lenient"] == expected.lenient
    with pytest.raises(ConfigurationError, match="leave these out"):
        Watch(x=x, y=y, eps=EPS, mean=0.5, wrap=lambda m: m)
    with pytest.raises(ConfigurationError, match="at least 1"):
        Watch(x=x, y=y, eps=EPS, every=0)
    with pytest.raises(InputError, match="divide by 255"):
        Watch(x=255 * x, y=y, eps=EPS)


def _trained_by_transformers(
    digits: Digits, folder: Path, callbacks: list[Any], **options: Any
) -> tuple[Any, Any]:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
    )
    train = digits.split.train
    rows = [
        {"pixel_values": image - 0.5, "labels": int(label)}
        for image, label in zip(train.x[:320], train.labels[:320], strict=True)
    ]
    with seeded(3):
        model = transformers.ViTForImageClassification(config)
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=32,
            learning_rate=1e-2,
            eval_strategy="epoch",
            logging_strategy="epoch",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
            **options,
        )
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=rows[:40],
            callbacks=callbacks,
        )
        trainer.train()
    return trainer, model


def test_a_trainer_reports_what_is_left_and_can_go_by_it(
    digits: Digits, few: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from notsure.integrations.transformers import RobustAccuracyCallback

    def watch() -> RobustAccuracyCallback:
        return RobustAccuracyCallback(*few, eps=0.05, attacks=[PGD(steps=5)], mean=0.5, std=1.0)

    trainer, model = _trained_by_transformers(
        digits, tmp_path / "plain", [watch()], save_strategy="no"
    )
    logged = [
        one["eval_robust_accuracy"]
        for one in trainer.state.log_history
        if "eval_robust_accuracy" in one
    ]
    assert len(logged) == 3
    classifier = ns.Classifier(model, mean=0.5, std=1.0)
    found = measure(classifier, *few, eps=0.05, attacks=[PGD(steps=5)])
    assert logged[-1] == pytest.approx(found.lenient.value)
    assert trainer.evaluate()["eval_robust_accuracy"] == pytest.approx(found.lenient.value)
    assert trainer.evaluate()["eval_robust_clean_accuracy"] == pytest.approx(
        found.clean_accuracy.value
    )
    state = copy.deepcopy(model.state_dict())
    _, other = _trained_by_transformers(digits, tmp_path / "without", [], save_strategy="no")
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key
    best, _ = _trained_by_transformers(
        digits,
        tmp_path / "best",
        [watch()],
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="robust_accuracy",
        greater_is_better=True,
    )
    assert best.state.best_metric == pytest.approx(max(logged))


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("lightning", ("lightning.pytorch", "pytorch_lightning")),
        ("transformers", ("transformers",)),
    ],
)
def test_without_the_library_the_remedy_is_told(
    name: str, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'notsure\[{name}\]'"):
        _again(f"notsure.integrations.{name}")
