"""Models from outside: the same answers as where they came from, and what is refused."""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import notsure as ns
from notsure import adapters
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError
from notsure.core.state import seeded

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")


class Net(nn.Module):
    """Every layer whose mode matters, for grey images of any size."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.norm(self.conv(x)).relu()).mean(dim=(2, 3)))
        return logits


def small_net(classes: int = 3, channels: int = 1) -> Net:
    with seeded(3):
        net = Net(classes, channels)
        if net.norm.running_mean is not None:
            nn.init.uniform_(net.norm.running_mean, -0.2, 0.2)
    with torch.no_grad():
        net.head.weight.mul_(20)
    return net.eval()


def images(count: int = 5, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def saved_timm(folder: Path, **settings: Any) -> nn.Module:
    """A small network of timm whose answers are not constant."""
    with seeded(0):
        module = timm.create_model("resnet10t", pretrained=False, **settings)
    module.eval()
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    assert isinstance(module, nn.Module)
    return module


def saved_transformers(folder: Path, processor: Any = None, **config: Any) -> nn.Module:
    settings = {
        "num_channels": 1,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "num_labels": 3,
        "id2label": {0: "zero", 1: "one", 2: "two"},
        **config,
    }
    with seeded(0):
        module = transformers.ResNetForImageClassification(transformers.ResNetConfig(**settings))
    module.eval().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    assert isinstance(module, nn.Module)
    return module


def assert_answers(loaded: adapters.Loaded, expected: torch.Tensor, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(loaded.target.logits(x), expected, rtol=1e-4, atol=1e-4)


# timm


@pytest.mark.parametrize("wrapped", [False, True])
def test_timm_with_a_checkpoint(tmp_path: Path, wrapped: bool) -> None:
    module = saved_timm(tmp_path, num_classes=7, in_chans=1)
    path = tmp_path / "model.safetensors"
    if wrapped:
        # as training scripts leave it: a state dict of torch.save, within a dict, behind DDP
        state = OrderedDict(
            (f"module.{name}", value) for name, value in module.state_dict().items()
        )
        path = tmp_path / "last.pth.tar"
        torch.save({"epoch": 3, "state_dict": state}, path)
    loaded = adapters.load_model("timm:resnet10t", checkpoint=path, size=32, mean=0.5, std=0.25)
    assert (loaded.num_classes, loaded.channels, loaded.size) == (7, 1, (32, 32))
    x = images(size=32)
    assert_answers(loaded, module((x - 0.5) / 0.25), x)
    # gradients reach the image, through the size and the normalisation
    x.requires_grad_()
    assert float(torch.autograd.grad(loaded.target.logits(x).sum(), x)[0].abs().max()) > 0


def test_timm_tells_its_own_preprocessing(tmp_path: Path) -> None:
    saved_timm(tmp_path, num_classes=1000)
    loaded = adapters.load_model("timm:resnet10t", checkpoint=tmp_path / "model.safetensors")
    config = timm.get_pretrained_cfg("resnet10t").to_dict()
    assert loaded.mean == pytest.approx(config["mean"])
    assert loaded.std == pytest.approx(config["std"])
    assert loaded.size == tuple(config["input_size"][1:])
    assert loaded.resizing is not None
    assert loaded.resizing.interpolation == config["interpolation"]
    assert loaded.resizing.shortest_edge == int(config["input_size"][1] / config["crop_pct"])
    assert loaded.class_names[0].startswith("n01440764, tench")


def test_timm_folder_in_place_of_the_hub(tmp_path: Path) -> None:
    module = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    config = {"label_names": ["a", "b", "c"]}
    timm.models.save_for_hf(module, tmp_path, model_config=config, safe_serialization=True)
    for spec in (f"timm:{tmp_path}", str(tmp_path)):
        loaded = adapters.load_model(spec, size=32)
        assert loaded.class_names == ("a", "b", "c")
        x = images(size=32)
        mean, std = loaded.mean[0], loaded.std[0]
        assert_answers(loaded, module.eval()((x - mean) / std), x)


def test_a_guard_around_a_model_of_timm_is_saved_and_read_again(tmp_path: Path) -> None:
    saved_timm(tmp_path, num_classes=3, in_chans=1)
    loaded = adapters.load_model(
        "timm:resnet10t", checkpoint=tmp_path / "model.safetensors", size=32
    )
    x = images(40, size=32)
    ns.Guard(loaded.classifier).save(tmp_path / "guard")
    again = adapters.load_model(tmp_path / "guard")
    assert again.size == (32, 32)
    assert again.mean == pytest.approx(loaded.mean)
    verdict, other = loaded.guard.judge(x), again.guard.judge(x)
    assert torch.equal(verdict.label, other.label)
    assert torch.equal(verdict.margin, other.margin)


def test_a_checkpoint_that_does_not_fit_names_the_nearest_matches(tmp_path: Path) -> None:
    module = saved_timm(tmp_path, num_classes=4)
    state = dict(module.state_dict())
    state["fc.wait"] = state.pop("fc.weight")
    safetensors.torch.save_file(state, tmp_path / "renamed.safetensors")
    with pytest.raises(CheckpointError, match=r"1 foreign \(fc\.wait.*nearest to fc\.weight"):
        adapters.load_model("timm:resnet10t", checkpoint=tmp_path / "renamed.safetensors")
    prefixed = {f"backbone.{name}": value for name, value in module.state_dict().items()}
    safetensors.torch.save_file(prefixed, tmp_path / "prefixed.safetensors")
    with pytest.raises(CheckpointError, match=r"begins with 'backbone\.'"):
        adapters.load_model("timm:resnet10t", checkpoint=tmp_path / "prefixed.safetensors")
    with pytest.raises(CheckpointError, match="of another shape"):
        adapters.load_model("timm:resnet18", checkpoint=tmp_path / "model.safetensors", size=32)


# pickles


class Payload:
    """Leaves a file behind when it is unpickled."""

    path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (Payload.path, "w"))


def test_a_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    Payload.path = str(tmp_path / "ran")
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}, "x": Payload()}, tmp_path / "a.pth")
    torch.save(small_net(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"pickle that holds more than weights.*safetensors"):
        adapters.load_model("timm:resnet10t", checkpoint=tmp_path / "a.pth")
    for path in ("a.pth", "whole.pt"):
        with pytest.raises(CheckpointError, match=r"is a pickle.*save_file"):
            adapters.load_model(tmp_path / path)
    legacy = tmp_path / "legacy.pth"
    torch.save(small_net().state_dict(), legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="neither a safetensors"):
        adapters.load_model("timm:resnet10t", checkpoint=legacy)
    with pytest.raises(CheckpointError, match="is a pickle"):
        adapters.load_model(legacy)
    assert not (tmp_path / "ran").exists()


def test_pickles_within_an_exported_program_are_left_out_or_refused(tmp_path: Path) -> None:
    program = torch.export.export(small_net(), (images(2),))
    torch.export.save(program, tmp_path / "model.pt2")
    Payload.path = str(tmp_path / "ran")
    torch.save(Payload(), tmp_path / "payload.pt")
    payload = (tmp_path / "payload.pt").read_bytes()

    def changed(name: str, end: str, content: bytes) -> Path:
        with (
            zipfile.ZipFile(tmp_path / "model.pt2") as old,
            zipfile.ZipFile(tmp_path / name, "w") as new,
        ):
            for entry in old.namelist():
                new.writestr(entry, content if entry.endswith(end) else old.read(entry))
        return tmp_path / name

    samples = changed("samples.pt2", "sample_inputs/model.pt", payload)
    x = images()
    assert_answers(adapters.load_model(samples), small_net()(x), x)
    config = json.loads(
        zipfile.ZipFile(tmp_path / "model.pt2").read("model/data/weights/model_weights_config.json")
    )
    next(iter(config["config"].values()))["use_pickle"] = True
    weights = changed("weights.pt2", "model_weights_config.json", json.dumps(config).encode())
    with pytest.raises(CheckpointError, match="as a pickle"):
        adapters.load_model(weights)
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr("model/data/aotinductor/model/x.so", b"")
    with pytest.raises(CheckpointError, match="compiled code"):
        adapters.load_model(tmp_path / "model.pt2")
    assert not (tmp_path / "ran").exists()


# transformers


def test_transformers_folder_with_its_processor(tmp_path: Path) -> None:
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.4], image_std=[0.2], resample=3
    )
    module = saved_transformers(tmp_path, processor)
    for spec in (f"hf:{tmp_path}", str(tmp_path)):
        loaded = adapters.load_model(spec)
        assert loaded.class_names == ("zero", "one", "two")
        assert loaded.size == (16, 16)
        assert loaded.resizing is not None
        assert loaded.resizing.interpolation == "bicubic"
        x = images(size=16)
        assert_answers(loaded, module((x - 0.4) / 0.2).logits, x)
    # and a guard around it is built again without its folder
    ns.Guard(loaded.classifier).save(tmp_path / "guard")
    again = ns.Guard.load(tmp_path / "guard").judge(x)
    assert torch.equal(loaded.guard.judge(x).margin, again.margin)


def test_what_a_processor_does_to_pixels_is_what_the_classifier_does(tmp_path: Path) -> None:
    """Against the processor itself, for every way of scaling that there is."""
    ways: list[Any] = [
        transformers.ViTImageProcessor(
            size={"height": 8, "width": 8}, image_mean=[0.3, 0.4, 0.5], image_std=[0.2, 0.3, 0.4]
        ),
        transformers.ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False),
        transformers.EfficientNetImageProcessor(
            size={"height": 8, "width": 8},
            do_center_crop=False,
            rescale_factor=1 / 127.5,
            rescale_offset=True,
            do_normalize=False,
        ),
        transformers.ViTImageProcessor(
            size={"height": 8, "width": 8}, do_rescale=False, do_normalize=False
        ),
    ]
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for number, processor in enumerate(ways):
        folder = tmp_path / str(number)
        module = saved_transformers(folder, processor, num_channels=3)
        given = processor(pixels, return_tensors="pt")["pixel_values"].float()
        assert_answers(adapters.load_model(folder), module(given).logits.detach(), x)


@pytest.mark.parametrize(
    ("settings", "shortest", "size"),
    [
        ({"size": {"shortest_edge": 32}, "crop_pct": 0.5}, 64, (32, 32)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.5}, None, (384, 384)),
    ],
)
def test_convnext_cuts_out_the_middle(
    tmp_path: Path, settings: dict[str, Any], shortest: int | None, size: tuple[int, int]
) -> None:
    saved_transformers(tmp_path, transformers.ConvNextImageProcessor(**settings), num_channels=3)
    resizing = adapters.load_model(tmp_path).resizing
    assert resizing is not None
    assert (resizing.shortest_edge, resizing.size) == (shortest, size)


def test_transformers_without_safetensors_or_with_an_untrained_head(tmp_path: Path) -> None:
    module = saved_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {str(i): str(i) for i in range(5)}
    config |= {"id2label": names, "label2id": {name: int(name) for name in names}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"\(3, 16\) in the checkpoint and \(5, 16\)"):
        adapters.load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights.*refused"):
        adapters.load_model(tmp_path)


# files that are run


def test_a_python_file_builds_the_model_and_says_how(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("from torch import nn\nHEAD = nn.Linear(16, 2)\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom layers import HEAD\n"
        "mean, std, size = (0.5,), 0.25, 4\nclass_names = ['cat', 'dog']\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), HEAD)\n"
        "def broken():\n    return 1 / 0\n"
        "def wrong():\n    return 3\n"
    )
    loaded = adapters.load_model(f"{path}:build")
    assert loaded.size == (4, 4)
    assert loaded.channels == 1
    assert loaded.class_names == ("cat", "dog")
    assert "was run" in loaded.origin
    x = images(size=4)
    assert_answers(loaded, loaded.classifier.module((x - 0.5) / 0.25), x)
    with pytest.raises(ConfigurationError, match=r"ZeroDivisionError.*line 9 of mine\.py"):
        adapters.load_model(f"{path}:broken")
    with pytest.raises(UnsupportedError, match="returned int"):
        adapters.load_model(f"{path}:wrong")
    with pytest.raises(ConfigurationError, match="no function 'nothing'"):
        adapters.load_model(f"{path}:nothing")
    with pytest.raises(ConfigurationError, match=r"mine\.py:build_model"):
        adapters.load_model(path)


@pytest.mark.parametrize(
    "answer",
    ["{'aux': z[:, :2], 'logits': z}", "(z, z[:, :2])", "[z]", "Out(z)", "{'anything': z}"],
)
def test_answers_that_are_no_tensors(tmp_path: Path, answer: str) -> None:
    (tmp_path / "m.py").write_text(
        "from types import SimpleNamespace\nimport torch\nfrom torch import nn\n"
        "def Out(z):\n    return SimpleNamespace(logits=z, loss=None)\n"
        "class M(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.c = nn.Conv2d(1, 3, 8)\n"
        "    def forward(self, x):\n        z = self.c(x)[:, :, 0, 0]\n"
        f"        return {answer}\n"
        "def build():\n    torch.manual_seed(0)\n    return M()\n"
    )
    loaded = adapters.load_model(f"{tmp_path / 'm.py'}:build", size=8)
    x = images()
    module: Any = loaded.classifier.module
    convolution = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    assert_answers(loaded, convolution(x)[:, :, 0, 0], x)
    assert loaded.num_classes == 3
    assert loaded.no_gradients == ""


def test_an_answer_in_which_logits_cannot_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n"
        "class M(nn.Module):\n"
        "    def forward(self, x):\n        z = x.flatten(1)\n        return {'a': z, 'b': z}\n"
        "def build():\n    return M()\n"
    )
    with pytest.raises(UnsupportedError, match=r"a: \(2, 192\), b: .* call them 'logits'"):
        adapters.load_model(f"{tmp_path / 'm.py'}:build", size=8)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    torch.save(small_net().state_dict(), tmp_path / "w.pth")
    module = nn.Sequential(small_net(), nn.Softmax(dim=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(tmp_path / "m.pt"))  # type: ignore[no-untyped-call]
    loaded = adapters.load_model(tmp_path / "m.pt", size=8)
    assert any("probabilities" in note for note in loaded.notes)
    x = images()
    with torch.no_grad():
        assert_answers(loaded, small_net()(x).log_softmax(dim=1), x)


# programs


def traced(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.jit.trace(small_net(), images(2))  # type: ignore[no-untyped-call]
        program.save(str(path))
    return path


def exported(path: Path, *, dynamic: bool) -> Path:
    shapes: Any = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(small_net(), (images(3),), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("kind", ["traced", "dynamic", "static"])
def test_programs_answer_as_what_they_were_made_of(tmp_path: Path, kind: str) -> None:
    if kind == "traced":
        path = traced(tmp_path / "m.pt")
    else:
        path = exported(tmp_path / "m.pt2", dynamic=kind == "dynamic")
    loaded = adapters.load_model(path, size=8)
    x = images(7)
    assert_answers(loaded, small_net()(x), x)
    # in every mode and precision that the examiner asks in
    loaded.target.train()
    assert_answers(loaded, small_net()(x).double(), x.double())
    with torch.inference_mode():
        loaded.target.logits(x)
    y = small_net()(x).argmax(dim=1)
    own = ns.attacks.PGD(eps=0.2, steps=5)(small_net(), x, y, seed=0)
    ours = ns.attacks.PGD(eps=0.2, steps=5)(loaded.target, x, y, seed=0)
    assert torch.equal(own.success, ours.success)
    torch.testing.assert_close(own.x, ours.x, atol=1e-5, rtol=0)


def test_two_programs_are_told_apart_by_their_weights_hash(tmp_path: Path) -> None:
    from notsure.core.state import weights_hash

    one = adapters.load_model(exported(tmp_path / "a.pt2", dynamic=True))
    with torch.no_grad():
        other = small_net(4)
    torch.export.save(torch.export.export(other, (images(3),)), tmp_path / "b.pt2")
    again = adapters.load_model(tmp_path / "b.pt2")
    assert weights_hash(one.classifier.module) != weights_hash(again.classifier.module)


# ONNX


def onnx_file(
    path: Path, *, strange: bool = False, batch: int | str = "N", softmax: bool = False
) -> Path:
    """An ONNX file with the weights of `small_net`, written node by node."""
    helper, numbers = onnx.helper, onnx.numpy_helper
    net = small_net()
    norm = net.norm
    tensors = {
        "w": net.conv.weight,
        "b": net.conv.bias,
        "scale": norm.weight,
        "shift": norm.bias,
        "mean": norm.running_mean,
        "var": norm.running_var,
        "head": net.head.weight,
        "bias": net.head.bias,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "bias"], ["g"], transB=1),
    ]
    last = "g"
    if strange:
        # Mish-like by an operator that the converter does not know
        nodes.append(helper.make_node("ThresholdedRelu", [last], ["t"], alpha=-1e9))
        last = "t"
    if softmax:
        nodes.append(helper.make_node("Softmax", [last], ["s"], axis=1))
        last = "s"
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info(last, kind, [batch, 3])],
        [
            numbers.from_array(np.asarray(value.detach() if value is not None else 0), name)
            for name, value in tensors.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["N", 2])
def test_onnx_answers_by_onnxruntime_and_gradients_by_its_conversion(
    tmp_path: Path, batch: int | str
) -> None:
    loaded = adapters.load_model(onnx_file(tmp_path / "m.onnx", batch=batch))
    assert (loaded.size, loaded.channels, loaded.num_classes) == ((8, 8), 1, 3)
    assert loaded.no_gradients == ""
    x = images(5)
    assert_answers(loaded, small_net()(x), x)
    y = small_net()(x).argmax(dim=1)
    attack = ns.attacks.PGD(eps=0.2, steps=10)
    own, ours = attack(small_net(), x, y, seed=0), attack(loaded.target, x, y, seed=0)
    assert torch.equal(own.success, ours.success)
    assert bool(own.success.any())


def test_an_onnx_that_cannot_be_converted_is_attacked_by_its_scores(tmp_path: Path) -> None:
    loaded = adapters.load_model(onnx_file(tmp_path / "m.onnx", strange=True))
    assert "onnx2torch cannot convert" in loaded.no_gradients
    x = images(5)
    assert_answers(loaded, small_net()(x), x)
    y = small_net()(x).argmax(dim=1)
    found = ns.attacks.Square(eps=0.5, queries=200)(loaded.target, x, y, seed=0)
    assert bool(found.success.any())
    with pytest.raises(UnsupportedError, match="shows scores only"):
        ns.attacks.PGD(eps=0.5)(loaded.target, x, y)


def test_a_conversion_that_answers_otherwise_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter: Any = importlib.import_module("onnx2torch")
    convert = converter.convert

    def wrong(model: Any) -> nn.Module:
        return nn.Sequential(convert(model), nn.ReLU())

    monkeypatch.setattr(converter, "convert", wrong)
    loaded = adapters.load_model(onnx_file(tmp_path / "m.onnx"))
    assert "otherwise than onnxruntime" in loaded.no_gradients
    x = images(5)
    assert_answers(loaded, small_net()(x), x)


def test_an_onnx_with_a_softmax_inside(tmp_path: Path) -> None:
    loaded = adapters.load_model(onnx_file(tmp_path / "m.onnx", softmax=True))
    x = images(5)
    with torch.no_grad():
        assert_answers(loaded, small_net()(x).log_softmax(dim=1), x)


# the rest


def test_what_is_no_model_says_what_models_are(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"no model 'nowhere'.*timm:NAME"):
        adapters.load_model("nowhere")
    with pytest.raises(CheckpointError, match="neither a guard"):
        adapters.load_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="cannot be read by onnxruntime"):
        adapters.load_model(tmp_path / "broken.onnx")
    with pytest.raises(ConfigurationError, match="no model that is known"):
        adapters.load_model(tmp_path / "notes.txt")
    with pytest.raises(ConfigurationError, match="Did you mean 'resnet10t'"):
        adapters.load_model("timm:resnet10")
    saved_timm(tmp_path)
    with pytest.raises(CheckpointError, match="weights and no network"):
        adapters.load_model(tmp_path / "model.safetensors")
    with pytest.raises(ConfigurationError, match="3 logits, and 2 class names"):
        adapters.load_model(exported(tmp_path / "m.pt2", dynamic=True), class_names=("a", "b"))


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_file(tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'notsure\[onnx\]'"):
        adapters.load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", ["exported", "onnx"])
def test_a_guard_around_a_program_can_be_examined(tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        path = onnx_file(tmp_path / "m.onnx")
    else:
        path = exported(tmp_path / "m.pt2", dynamic=True)
    loaded = adapters.load_model(path)
    x = images(120)
    y = small_net()(x).argmax(dim=1)
    guard = ns.Guard(loaded.classifier, [ns.detectors.Confidence()])
    guard.fit(x[:50], y[:50]).calibrate(images(160)[60:], fpr=0.1)
    own = ns.Guard(small_net(), [ns.detectors.Confidence()])
    own.fit(x[:50], y[:50]).calibrate(images(160)[60:], fpr=0.1)
    attacks = [ns.attacks.PGD(eps=0.1, steps=5)]
    test = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    found = [
        ns.evaluate(one, test, small_net()(test).argmax(dim=1), attacks=attacks, probes=0)
        for one in (guard, own)
    ]
    for name in ("prediction", "accepted", "success"):
        assert np.array_equal(found[0].column(name), found[1].column(name))


def test_the_size_is_found_out_where_only_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n"
        "def fixed():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
        "def free():\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1))\n"
        "def flat():\n    return nn.Sequential(free(), nn.Flatten())\n"
    )
    loaded = adapters.load_model(f"{tmp_path / 'm.py'}:fixed")
    assert (loaded.channels, loaded.size) == (1, (8, 8))
    assert loaded.resizing is not None
    assert adapters.load_model(f"{tmp_path / 'm.py'}:flat").size is None
    with pytest.raises(UnsupportedError, match=r"shape \(2, 2, 1, 1\)"):
        adapters.load_model(f"{tmp_path / 'm.py'}:free")
