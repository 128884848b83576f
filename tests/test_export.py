"""A guard as one graph says what the guard says, or says why it cannot."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import notsure as ns
from notsure import export
from notsure.attacks import FGSM
from notsure.cli import app
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    NotFittedError,
    UnsupportedError,
    VerificationError,
)
from notsure.core.part import Part
from notsure.core.state import seeded, weights_hash
from notsure.correctors import LogitSVM
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    Detector,
    FeatureSqueezing,
    KDensity,
    LearnedCombination,
    LogOdds,
    Mahalanobis,
    NonMaximalEntropy,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.export import forms
from notsure.export.graph import GuardGraph
from notsure.export.running import OUTPUTS
from notsure.models import Randomized, build
from notsure.observation import Observation
from notsure.purifiers import Autoencoder, DefenseGAN, DenoisingAutoencoder, MagNet, Purifier, PuVAE
from notsure.training import Recipe
from tests.conftest import Digits
from tests.toys import SmallNetwork, images

BRIEF = Recipe(epochs=6, batch_size=32, optimizer="adamw", learning_rate=5e-3, weight_decay=0)


def guarded(
    detectors: list[Detector],
    *,
    num_classes: int = 3,
    channels: int = 1,
    double: bool = True,
    corrector: LogitSVM | None = None,
    **settings: Any,
) -> tuple[ns.Guard, torch.Tensor]:
    """A guard around a random network on random images, fitted, and images it has not seen."""
    with seeded(num_classes):
        network = SmallNetwork(num_classes, channels)
    if double:
        network = network.double()
    classifier = ns.Classifier(network.eval(), mean=0.4, std=0.5, **settings)
    x = images(1400, (channels, 6, 6), seed=3).to(torch.float64 if double else torch.float32)
    with torch.no_grad():
        # every class has its share of the images
        logits = classifier.logits(x)
        network.head.bias.sub_(logits.mean(dim=0))
        network.head.weight.mul_(4 / logits.std(dim=0)[:, None])
        network.head.bias.mul_(4 / logits.std(dim=0))
        y = classifier.logits(x).argmax(dim=1)
    train, calibration, test = x[:800], x[800:1200], x[1200:]
    guard = ns.Guard(classifier, detectors, corrector=corrector)
    guard.fit(train, y[:800], attack=FGSM(eps=0.3)).calibrate(calibration, fpr=0.1)
    return guard, test


def every_detector() -> list[Detector]:
    """One of each that does without a purifier; several settings where they change the sums."""
    return [
        Confidence(),
        KDensity(),
        KDensity(bandwidth=0.7, max_points=60),
        Mahalanobis(),
        Mahalanobis(relative=True),
        LID(neighbours=8, reference=300),
        DeepKNN(neighbours=4),
        DeepKNN(neighbours=3, max_points=50),
        FeatureSqueezing(),
        FeatureSqueezing(bits=None, median=3),
        LogOdds(draws=3, tau=0.4),
        LearnedCombination({"a": Confidence(), "b": KDensity()}),
    ]


def test_every_part_of_the_library_has_a_form_or_a_reason() -> None:
    known = {kind.__name__ for kind in forms._MAKERS} | {kind.__name__ for kind in forms._REASONS}
    parts = {*ns.detectors.__all__, *ns.purifiers.__all__, *ns.correctors.__all__}
    assert parts - {"Detector", "Purifier", "Corrector"} <= known


@pytest.mark.parametrize(("num_classes", "channels"), [(2, 1), (3, 3), (10, 1)])
def test_forms_are_the_detectors_to_rounding(num_classes: int, channels: int) -> None:
    detectors = every_detector() + ([NonMaximalEntropy()] if num_classes > 2 else [])
    guard, x = guarded(detectors, num_classes=num_classes, channels=channels)
    verdict = guard.judge(x)
    label, accepted, scores = GuardGraph(guard, x[:4])(x)
    assert 0 < int((~verdict.accepted).sum()) < len(x)
    assert torch.equal(label, verdict.label)
    assert torch.equal(accepted, verdict.accepted)
    for column, (name, score) in zip(scores.T, verdict.scores.items(), strict=True):
        torch.testing.assert_close(column, score, rtol=1e-8, atol=1e-8, msg=name)


def test_more_classes_than_features_pick_their_points_first() -> None:
    guard, x = guarded([KDensity()], num_classes=10)
    assert GuardGraph(guard, x[:4]).detectors[0].picks_first
    few, _ = guarded([KDensity()], num_classes=3)
    assert not GuardGraph(few, x[:4]).detectors[0].picks_first


def test_an_outlying_point_keeps_a_density_that_is_not_infinite() -> None:
    guard, x = guarded([KDensity(bandwidth=0.003)])
    verdict = guard.judge(x)
    _, _, scores = GuardGraph(guard, x[:4])(x)
    torch.testing.assert_close(scores[:, 0], verdict.scores["KDensity"], rtol=1e-8, atol=1e-6)
    assert float(scores.max()) > 1000


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_a_corrector_answers_in_the_graph_as_well(kernel: Any) -> None:
    guard, x = guarded([Confidence()], corrector=LogitSVM(kernel=kernel))
    verdict = guard.judge(x)
    label, accepted, _ = GuardGraph(guard, x[:4])(x)
    changed = verdict.corrected & (verdict.label != guard.classifier.logits(x).argmax(dim=1))
    assert int(changed.sum()) > 0
    assert torch.equal(label, verdict.label)
    assert bool(accepted.all())


def test_all_detectors_have_to_flag_where_the_rule_says_so() -> None:
    guard, x = guarded([Confidence(), Mahalanobis()])
    either = ns.Guard(guard.classifier, dict(guard.named_detectors()), rule="all")
    either.fit(images(800, (1, 6, 6), seed=9), torch.arange(800) % 3)
    either.calibrate(images(400, (1, 6, 6), seed=10), fpr=0.1)
    label, _, _ = GuardGraph(either, x[:4])(x)
    assert torch.equal(label, either.judge(x).label)


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 1)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.Flatten(0)),
    ],
    ids=["(B, 1)", "(B,)"],
)
def test_one_logit_and_negated_logits(network: Any) -> None:
    with seeded(1):
        module = network()
    classifier = ns.Classifier(module, reverse_logits=True)
    guard = ns.Guard(classifier, [Confidence(), Mahalanobis()])
    x = images(600, (1, 6, 6)).float()
    guard.fit(x[:300], torch.arange(300) % 2).calibrate(x[300:500], fpr=0.1)
    label, _, scores = GuardGraph(guard, x[:4])(x[500:])
    verdict = guard.judge(x[500:])
    assert torch.equal(label, verdict.label)
    torch.testing.assert_close(scores[:, 1], verdict.scores["Mahalanobis"], rtol=1e-4, atol=1e-4)


def test_named_features_are_taken_from_where_they_were_named() -> None:
    guard, x = guarded([KDensity(), LID(neighbours=5, reference=200)], features="body.5")
    _, _, scores = GuardGraph(guard, x[:4])(x)
    torch.testing.assert_close(scores[:, 1], guard.judge(x).scores["LID"], rtol=1e-8, atol=1e-8)


@pytest.fixture(scope="module")
def whole(digits: Digits) -> dict[str, ns.Guard]:
    """Guards with purifiers and every detector, on the digits."""
    train, calibration = digits.split.train, digits.split.calibration
    denoiser = DenoisingAutoencoder(noise=0.2, width=16)
    denoiser.fit(train, recipe=BRIEF, progress=False)
    found = {}
    found["rejecting"] = ns.Guard(
        digits.guard.classifier,
        [
            Confidence(),
            NonMaximalEntropy(),
            KDensity(),
            Mahalanobis(),
            LID(),
            DeepKNN(),
            FeatureSqueezing(),
            LogOdds(draws=4),
            LearnedCombination({"a": Confidence(), "b": KDensity(max_points=40)}),
            ReconstructionError(),
            ReconstructionError(of=untrained(Autoencoder), p=1),
            ProbabilityDivergence(),
            ProbabilityDivergence(of=untrained(MagNet, count=1), temperature=3.0),
        ],
        purifier=denoiser,
    )
    found["correcting"] = ns.Guard(
        digits.guard.classifier,
        [KDensity(max_points=40), ReconstructionError()],
        purifier=denoiser,
        corrector=LogitSVM(limit=40),
    )
    for guard in found.values():
        guard.fit(train, attack=FGSM(eps=0.3)).calibrate(calibration, fpr=0.1)
    return found


def untrained(
    kind: type[Purifier], shape: tuple[int, int, int] = (1, 8, 8), **told: Any
) -> Purifier:
    """A purifier with its initial weights that takes itself for trained."""
    made: Purifier = kind(shape=shape, **told)
    made.trained.fill_(True)
    return made


@pytest.mark.parametrize("architecture", ["C", "D"])
def test_the_nearest_reconstruction_is_the_same(digits: Digits, architecture: Any) -> None:
    told = {"latent": 6, "width": 4, "dense": 16, "num_classes": 10, "architecture": architecture}
    puvae = untrained(PuVAE, **told).double()
    x = digits.x[:40].double()
    form = forms.form_of(puvae, torch.float64)
    torch.testing.assert_close(form(x), puvae(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["rejecting", "correcting"])
def test_onnxruntime_says_what_the_guard_says(
    whole: dict[str, ns.Guard], digits: Digits, tmp_path: Path, name: str
) -> None:
    guard = whole[name]
    before = weights_hash(guard)
    x = torch.cat([digits.x, FGSM(eps=0.3)(digits.guard.classifier, digits.x, digits.y).x])
    written = export.to_onnx(guard, tmp_path / "guard.onnx", images=x)
    assert [path.name for path in tmp_path.iterdir()] == ["guard.onnx"]
    assert written.check.count == len(x)
    assert written.check.differing == 0
    assert written.check.largest_relative_difference <= 1e-4
    verdict = guard.judge(x)
    if name == "rejecting":
        assert 0.1 < float((~verdict.accepted).float().mean()) < 1
    runtime = export.OnnxGuard(tmp_path / "guard.onnx")
    for size in (1, 2, 7):
        answer = runtime.judge(x[:size])
        assert torch.equal(answer.label, verdict.label[:size])
        assert torch.equal(answer.accepted, verdict.accepted[:size])
    assert runtime.description.detectors == tuple(verdict.scores)
    assert guard.calibration is not None
    assert runtime.description.thresholds == guard.calibration.thresholds
    assert (runtime.description.shape, runtime.description.num_classes) == ((1, 8, 8), 10)
    # nothing of the guard was touched
    assert weights_hash(guard) == before
    assert not any(part._forward_hooks for part in guard.modules())


@pytest.fixture(scope="module")
def small_file(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' guard as an ONNX file."""
    path = tmp_path_factory.mktemp("export") / "guard.onnx"
    export.to_onnx(digits.guard, path)
    return path


def test_the_file_stands_for_itself(small_file: Path) -> None:
    model = onnx.load(str(small_file))
    onnx.checker.check_model(model, full_check=True)
    (given,) = model.graph.input
    assert given.name == "image"
    sizes = given.type.tensor_type.shape.dim
    assert [size.dim_value for size in sizes][1:] == [1, 8, 8]
    assert sizes[0].dim_param != ""
    assert tuple(output.name for output in model.graph.output) == OUTPUTS
    noted = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(noted["notsure"])["detectors"] == ["KDensity"]
    here = str(Path(ns.__file__).parents[2]).encode()
    assert here not in small_file.read_bytes()


def test_a_program_says_what_the_guard_says(
    whole: dict[str, ns.Guard], digits: Digits, tmp_path: Path
) -> None:
    guard, x = whole["correcting"], digits.x[:200]
    written = export.to_program(guard, tmp_path / "guard.pt2", images=x)
    assert written.check.differing == 0
    program = export.ProgramGuard(tmp_path / "guard.pt2")
    verdict = guard.judge(x)
    for size in (1, 2, 200):
        assert torch.equal(program.judge(x[:size]).label, verdict.label[:size])
    assert program.description == written.description
    here = str(Path(ns.__file__).parents[2]).encode()
    with zipfile.ZipFile(tmp_path / "guard.pt2") as archive:
        assert not any(here in archive.read(name) for name in archive.namelist())


def test_a_guard_without_detectors_accepts_everything(tmp_path: Path) -> None:
    guard, x = ns.Guard(SmallNetwork(3)), torch.rand(9, 1, 6, 6)
    export.to_onnx(guard, tmp_path / "guard.onnx", size=6)
    answer = export.OnnxGuard(tmp_path / "guard.onnx").judge(x)
    assert torch.equal(answer.label, guard.judge(x).label)
    assert bool(answer.accepted.all())
    assert answer.scores == {}


def test_an_exported_guard_refuses_what_the_guard_refuses(digits: Digits, small_file: Path) -> None:
    runtime = export.OnnxGuard(small_file)
    with pytest.raises(InputError, match=r"divide by 255"):
        runtime.judge(digits.x[:2] * 255)
    with pytest.raises(InputError, match="resize"):
        runtime.judge(torch.rand(2, 1, 9, 9))


class OfOnePixel(Detector):
    """A detector that the library does not know."""

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        return observation.x[:, 0, 0, 0] + observation.x[:, 0, 5, 5]


class _OfOnePixel(export.Form):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, observation: Observation) -> torch.Tensor:
        return observation.x[:, 0, 0, 0] + observation.x[:, 0, 5, 5] + self.offset


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(forms._MAKERS)
    yield
    forms._MAKERS.clear()
    forms._MAKERS.update(before)


def test_ones_own_detector_is_exported_once_it_is_told_how(registry: None, tmp_path: Path) -> None:
    guard, x = guarded([OfOnePixel()], double=False)
    with pytest.raises(UnsupportedError, match=r"'OfOnePixel'.*register_form\(OfOnePixel\)"):
        export.to_onnx(guard, tmp_path / "guard.onnx", images=x)
    export.register_form(OfOnePixel)(lambda _part, _dtype: _OfOnePixel(0.0))
    assert export.to_program(guard, tmp_path / "guard.pt2", images=x).check.differing == 0


def test_what_does_not_hold_is_not_written(registry: None, tmp_path: Path) -> None:
    guard, x = guarded([OfOnePixel()], double=False)
    path = tmp_path / "guard.pt2"
    path.write_bytes(b"what was there before")
    export.register_form(OfOnePixel)(lambda _part, _dtype: _OfOnePixel(0.3))
    with pytest.raises(VerificationError, match=r"scores differ by up to 0\.3"):
        export.to_program(guard, path, images=x)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_reasons_name_every_part_that_cannot_be_exported() -> None:
    decoder = PuVAE(latent=2, width=2, dense=4, num_classes=3, shape=(1, 8, 8))
    decoder.trained.fill_(True)
    network = Randomized(SmallNetwork(3, size=8), sigma=0.1)
    guard = ns.Guard(
        ns.Classifier(network),
        {"noise": LogOdds(fresh=True), "confidence": Confidence()},
        purifier=DefenseGAN(generator=decoder, steps=1),
    )
    told = export.reasons(guard)
    assert set(told) == {"classifier", "detector 'noise'", "purifier"}
    assert "Randomized" in told["classifier"]
    assert "random" in told["detector 'noise'"]
    assert "gradient descent" in told["purifier"]
    assert (
        "random"
        in export.reasons(ns.Guard(SmallNetwork(3), purifier=MagNet(count=3, shape=(1, 6, 6))))[
            "purifier"
        ]
    )


def test_parts_within_parts_are_told_of_as_well() -> None:
    together = LearnedCombination({"mine": OfOnePixel(), "confidence": Confidence()})
    told = export.reasons(ns.Guard(SmallNetwork(3), {"both": together}))
    assert told["detector 'both'"].startswith("its detector 'mine': OfOnePixel is not known")


class Branching(nn.Module):
    """Decides in Python by what a tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits * 2 if float(x.mean()) > 0.2 else logits


def test_a_network_that_cannot_be_traced_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="decides in Python"):
        export.to_program(ns.Guard(Branching()), tmp_path / "g.pt2", images=torch.rand(8, 1, 6, 6))


def test_what_is_missing_is_asked_for(digits: Digits, tmp_path: Path) -> None:
    guard = ns.Guard(SmallNetwork(3))
    with pytest.raises(ConfigurationError, match="size of the images is not known"):
        export.to_onnx(guard, tmp_path / "guard.onnx")
    assert export.to_program(guard, tmp_path / "guard.pt2", size=6).description.shape == (1, 6, 6)
    fresh = ns.Guard(digits.guard.classifier, [Confidence()])
    with pytest.raises(NotFittedError, match="calibrate"):
        export.to_onnx(fresh, tmp_path / "guard.onnx")


def test_the_size_is_read_off_whoever_knows_it() -> None:
    from notsure.export.graph import shape_of_guard

    assert shape_of_guard(ns.Guard(build("digits_cnn", size=9)), None) == (1, 9, 9)
    wrapped = build("jump_relu", of="digits_cnn", size=10, in_channels=3)
    assert shape_of_guard(ns.Guard(wrapped), None) == (3, 10, 10)
    purified = ns.Guard(SmallNetwork(3), purifier=MagNet(count=1, shape=(1, 5, 7)))
    assert shape_of_guard(purified, None) == (1, 5, 7)
    assert shape_of_guard(purified, (4, 3)) == (1, 4, 3)


@pytest.mark.parametrize("kind", [export.OnnxGuard, export.ProgramGuard])
def test_damaged_files_are_told(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        kind(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        kind(tmp_path / "bad")


def test_somebody_elses_graph_is_no_guard(small_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "guard.onnx"
    model = onnx.load(str(small_file))
    for text, message in (
        (None, "no guard that notsure exported"),
        ('{"format": 99}', "in format 99"),
        ('{"format": 1}', "damaged"),
        ("nothing", "damaged"),
    ):
        del model.metadata_props[:]
        if text is not None:
            onnx.helper.set_model_props(model, {"notsure": text})
        onnx.save(model, str(path))
        with pytest.raises(CheckpointError, match=message):
            export.OnnxGuard(path)


def test_the_command_line(digits: Digits, tmp_path: Path) -> None:
    folder = digits.guard.save(tmp_path / "guard")
    done = CliRunner().invoke(app, ["export", str(folder), "--data", "digits", "--format", "torch"])
    assert done.exit_code == 0, done.output
    assert "checked on 539 given images" in done.output
    assert "0 decided otherwise" in done.output
    x = digits.x[:50]
    answer = export.ProgramGuard(folder / "guard.pt2").judge(x)
    assert torch.equal(answer.label, digits.guard.judge(x).label)
    # a file more in the folder does not keep the guard from being loaded
    assert torch.equal(ns.Guard.load(folder).judge(x).label, answer.label)
    wrong = CliRunner().invoke(app, ["export", str(folder), "--format", "tflite"])
    assert isinstance(wrong.exception, ConfigurationError)


def test_parts_are_found_by_their_own_class_alone(registry: None) -> None:
    class Louder(Confidence):
        def score(self, observation: Observation) -> torch.Tensor:
            return 2 * super().score(observation)

    try:
        assert (
            "Louder" in export.reasons(ns.Guard(SmallNetwork(3), [Louder()]))["detector 'Louder'"]
        )
    finally:
        Part._kinds.pop("Louder")
