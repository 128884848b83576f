"""Models from outside as people really have them: what is sloppy is understood, or told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import notsure as ns
from notsure import adapters
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError
from tests.test_adapters_models import assert_answers, images, saved_transformers

HEAD = (
    "import torch\nfrom torch import nn\n"
    "class M(nn.Module):\n"
    "    def __init__(self):\n        super().__init__()\n        self.c = nn.Conv2d(1, 3, 8)\n"
)
BUILD = "def build():\n    torch.manual_seed(0)\n    return M()\n"


def built(folder: Path, body: str, **settings: Any) -> adapters.Loaded:
    """The model of a file whose forward pass is `body`."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    (folder / "m.py").write_text(f"{HEAD}    def forward(self, x):\n{lines}{BUILD}")
    return adapters.load_model(f"{folder / 'm.py'}:build", size=8, **settings)


def convolution(loaded: adapters.Loaded) -> nn.Module:
    return next(p for p in loaded.classifier.modules() if isinstance(p, nn.Conv2d))


# files that are run


def test_neighbours_of_one_file_are_not_those_of_another(tmp_path: Path) -> None:
    """Two models in two folders, each with its own `layers.py`."""
    answers = []
    for name, bias in (("a", 1.0), ("b", -1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "layers.py").write_text(f"BIAS = {bias}\n")
        (tmp_path / name / "m.py").write_text(
            "import torch\nfrom torch import nn\nfrom layers import BIAS\n"
            "class M(nn.Module):\n"
            "    def forward(self, x):\n"
            "        return torch.stack([x.mean((1, 2, 3)), x.new_full((len(x),), BIAS)], 1)\n"
            "def build():\n    return M()\n"
        )
        loaded = adapters.load_model(f"{tmp_path / name / 'm.py'}:build", size=8)
        answers.append(float(loaded.target.logits(images(1, 3))[0, 1]))
    assert answers == [1.0, -1.0]


def test_a_file_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    """An exit code of 0 would tell a pipeline that the audit was passed."""
    (tmp_path / "m.py").write_text("import sys\ndef build():\n    return None\nsys.exit(0)\n")
    with pytest.raises(ConfigurationError, match=r"ended the program \(exit code 0\).*__main__"):
        adapters.load_model(f"{tmp_path / 'm.py'}:build")


def test_a_file_with_a_dataclass(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from torch import nn\n@dataclass\nclass Settings:\n    width: int = 64\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(Settings().width, 2))\n"
    )
    assert adapters.load_model(f"{tmp_path / 'm.py'}:build").num_classes == 2


def test_what_a_file_says_of_preprocessing_is_read_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    end = "def build():\n    return nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())\n"
    path.write_text(
        "import torch, numpy\nfrom torch import nn\nsize = [4, 4]\n"
        "mean = torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)\nstd = numpy.float32(0.5)\n" + end
    )
    loaded = adapters.load_model(f"{path}:build")
    assert (loaded.mean, loaded.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.5))
    path.write_text("from torch import mean, nn, std\nsize = 4\n" + end)
    assert adapters.load_model(f"{path}:build").mean == (0.0, 0.0, 0.0)
    for wrong, told in (
        ("mean = {'r': 0.5}", "mean in"),
        ("size = 'large'", "size in"),
        ("class_names = 'cat'", "class_names in"),
    ):
        path.write_text(f"from torch import nn\nsize = 4\n{wrong}\n{end}")
        with pytest.raises(ConfigurationError, match=told):
            adapters.load_model(f"{path}:build")


# what models answer


def test_labels_beside_logits_are_not_taken_for_them(tmp_path: Path) -> None:
    loaded = built(
        tmp_path,
        "z = self.c(x)[:, :, 0, 0]\nreturn {'predictions': z.argmax(1), 'class_scores': z}",
    )
    x = images()
    assert loaded.num_classes == 3
    assert_answers(loaded, convolution(loaded)(x)[:, :, 0, 0], x)
    with pytest.raises(UnsupportedError, match=r"int64.*labels"):
        built(tmp_path, "return self.c(x)[:, :, 0, 0].argmax(1)")


def test_which_of_several_tensors_was_taken_is_told(tmp_path: Path) -> None:
    loaded = built(tmp_path, "z = self.c(x)[:, :, 0, 0]\nreturn z, x.flatten(1)")
    assert any(r"(2, 3), (2, 64); the first is taken" in note for note in loaded.notes)
    assert not any(
        "several" in note for note in built(tmp_path, "return self.c(x)[..., 0, 0]").notes
    )


@pytest.mark.parametrize("body", ["return self.c(x).squeeze()", "return (self.c(x).squeeze(),)"])
def test_a_model_that_squeezes_a_single_image_away(tmp_path: Path, body: str) -> None:
    loaded = built(tmp_path, body)
    x = images()
    expected = convolution(loaded)(x)[:, :, 0, 0]
    for rows in (slice(0, 5), slice(2, 3)):
        assert_answers(loaded, expected[rows], x[rows])
    # an attack goes on with the samples that are left, down to one
    y = expected.argmax(dim=1)
    found = ns.attacks.PGD(eps=0.5)(loaded.target, x, y, seed=0)
    assert len(found.x) == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_another_precision(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import torch\nfrom torch import nn\ndef build():\n    torch.manual_seed(0)\n"
        f"    return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).to(torch.{dtype})\n"
    )
    loaded = adapters.load_model(f"{path}:build", size=8)
    assert any(f"kept as {dtype}" in note for note in loaded.notes)
    assert {one.dtype for one in loaded.classifier.parameters()} == {torch.float32}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).to(getattr(torch, dtype))
        torch.jit.trace(module, images(2).to(getattr(torch, dtype))).save(  # type: ignore[no-untyped-call]
            str(tmp_path / "m.pt")
        )
    traced = adapters.load_model(tmp_path / "m.pt", size=8)
    x = images()
    with torch.no_grad():
        assert_answers(traced, loaded.target.logits(x), x)


# transformers


@pytest.mark.parametrize("kind", ["DeiT", "PoolFormer", "Levit", "ConvNext", "Perceiver", "ViT"])
def test_images_are_resized_and_cut_as_the_processor_does(tmp_path: Path, kind: str) -> None:
    """Against the processor itself, on a smooth picture, so that filters do not matter."""
    transformers: Any = pytest.importorskip("transformers")
    picture = pytest.importorskip("PIL.Image")
    processor = getattr(transformers, f"{kind}ImageProcessor")(do_normalize=False)
    saved_transformers(tmp_path, processor, num_channels=3)
    resizing = adapters.load_model(tmp_path).resizing
    assert resizing is not None
    high, wide = np.meshgrid(np.linspace(0, 255, 300), np.linspace(0, 255, 420), indexing="ij")
    image = picture.fromarray(np.stack([high, wide, 0 * wide], axis=-1).astype(np.uint8))
    expected = processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
    found = np.asarray(resizing(image), np.float32) / 255
    assert found.shape == expected.shape
    # a middle cut out at another scale is off by far more
    assert np.abs(found - expected).max() < 2.5 / 255


def test_a_model_that_takes_blue_first(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    module = saved_transformers(tmp_path, processor, num_channels=3)
    with torch.no_grad():
        module.classifier[1].weight.mul_(50)  # type: ignore[union-attr, index]
    module.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = adapters.load_model(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    given = processor(pixels, return_tensors="pt")["pixel_values"]
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert not torch.allclose(module(given).logits, module(x).logits, atol=1e-3)
    assert_answers(loaded, module(given).logits.detach(), x)
    assert any("blue, green and red" in note for note in loaded.notes)


def test_a_damaged_image_processor_is_not_taken_for_none(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    saved_transformers(tmp_path, transformers.ViTImageProcessor(), num_channels=3)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json.*cannot be read"):
        adapters.load_model(tmp_path)


def test_a_folder_of_timm_given_as_one_of_transformers(tmp_path: Path) -> None:
    timm: Any = pytest.importorskip("timm")
    module = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    config = {"input_size": (1, 32, 32), "mean": [0.3], "std": [0.2]}
    timm.models.save_for_hf(module, tmp_path, data_config=config, safe_serialization=True)
    loaded = adapters.load_model(f"hf:{tmp_path}")
    assert (loaded.mean, loaded.std, loaded.size) == ((0.3,), (0.2,), (32, 32))


# ONNX


def test_weights_beside_an_onnx_file_are_part_of_what_it_is(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    from notsure.core.state import weights_hash
    from tests.test_adapters_models import onnx_file

    hashes = []
    for gain in (1.0, 2.0):
        onnx_file(tmp_path / "whole.onnx", strange=True)
        model = onnx.load(tmp_path / "whole.onnx")
        tensor = next(one for one in model.graph.initializer if one.name == "head")
        values = onnx.numpy_helper.to_array(tensor) * gain
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), "head"))
        for left in tmp_path.glob("m.onnx*"):
            left.unlink()
        onnx.save(
            model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data",
            size_threshold=0,
        )  # fmt: skip
        hashes.append(weights_hash(adapters.load_model(tmp_path / "m.onnx").classifier))
    assert hashes[0] != hashes[1]


def test_an_onnx_whose_channels_are_last_is_told(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("y", kind, ["N", 192])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="channels seem to be last"):
        adapters.load_model(tmp_path / "m.onnx")


def test_an_onnx_of_newer_operators_is_attacked_by_gradients(tmp_path: Path) -> None:
    """As torch.onnx.export writes it: opset 20, and a reshape that spares zeros."""
    onnx: Any = pytest.importorskip("onnx")
    from tests.test_adapters_models import onnx_file

    model = onnx.load(onnx_file(tmp_path / "old.onnx"))
    flatten = next(one for one in model.graph.node if one.op_type == "Flatten")
    reshape = onnx.helper.make_node("Reshape", ["p", "to"], ["f"], allowzero=1)
    flatten.CopyFrom(reshape)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4]), "to"))
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 20))
    onnx.save(model, tmp_path / "new.onnx")
    loaded = adapters.load_model(tmp_path / "new.onnx")
    assert loaded.no_gradients == ""
    x = images()
    assert_answers(loaded, adapters.load_model(tmp_path / "old.onnx").target.logits(x), x)
    x.requires_grad_()
    assert float(torch.autograd.grad(loaded.target.logits(x).sum(), x)[0].abs().max()) > 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("z = self.c(x)[:, :, 0, 0]\nreturn z + 0.1 * torch.rand_like(z)", "stochastic = True"),
        ("z = self.c(x)[:, :, 0, 0]\nreturn z - z.mean(dim=0)", "images beside it"),
    ],
)
def test_answers_that_depend_on_chance_or_company_are_told(
    tmp_path: Path, body: str, told: str
) -> None:
    with pytest.raises(UnsupportedError, match=told):
        built(tmp_path, body)
    # what declares it is taken as it is
    if "rand" in body:
        path = tmp_path / "m.py"
        declared = "nn.Module):\n    stochastic = True"
        path.write_text(path.read_text().replace("nn.Module):", declared))
        assert adapters.load_model(f"{path}:build", size=8).classifier.stochastic


def test_a_model_of_timm_built_for_another_size_is_told(tmp_path: Path) -> None:
    """A transformer's places are part of its weights: timm's own size does not fit them."""
    timm: Any = pytest.importorskip("timm")
    for size in (32, 160):
        module = timm.create_model("test_vit", num_classes=3, img_size=size)
        timm.models.save_for_hf(
            module, tmp_path / str(size), model_args={"img_size": size}, safe_serialization=True
        )
    with pytest.raises(CheckpointError, match=r"arguments of its own \(img_size\)"):
        adapters.load_model(f"timm:{tmp_path / '32'}")
    assert adapters.load_model(f"timm:{tmp_path / '160'}").size == (160, 160)


def test_tensors_that_no_layer_takes_are_told(tmp_path: Path) -> None:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    saved_transformers(tmp_path)
    path = tmp_path / "model.safetensors"
    state = safetensors.load_file(path)
    state["teacher.weight"] = torch.zeros(3)
    safetensors.save_file(state, path, metadata={"format": "pt"})
    notes = adapters.load_model(tmp_path).notes
    assert any("1 tensors of its file belong to no layer" in one for one in notes)
    assert any("teacher.weight" in one for one in notes)
