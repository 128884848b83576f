"""Models side by side: what fits is used, what does not is given a new head and trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import notsure as ns
from notsure import data
from notsure.audit import compare_models
from notsure.audit.fitting import AS_IS, TRAINED, TUNED, made_for
from notsure.core.errors import ConfigurationError
from notsure.core.state import seeded
from notsure.data import Images

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def train_images() -> Images:
    return data.load("digits").train.select(slice(0, 256))


def made(spec: str, images: Images, folder: Path, **settings: Any) -> Any:
    given: dict[str, Any] = {
        "pretrained": False,
        "epochs": 1,
        "by_position": False,
        "seed": 0,
        "checkpoint": folder / "model.safetensors",
        "progress": False,
    }
    return made_for(spec, images, **{**given, **settings})


def test_what_does_not_fit_keeps_its_body_and_gets_a_new_head(
    tmp_path: Path, train_images: Images
) -> None:
    with seeded(1):
        model = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    timm.models.save_for_hf(
        model, tmp_path / "timm", safe_serialization=True,
        data_config={"input_size": (1, 32, 32), "mean": [0.5], "std": [0.5]},
    )  # fmt: skip
    found = made(f"timm:{tmp_path / 'timm'}", train_images, tmp_path)
    assert found.how == TUNED
    assert "and 2 made anew" in found.told
    with torch.inference_mode():
        assert found.classifier.logits(train_images.x[:2]).shape == (2, 10)
    # the body started from its own weights: one short epoch moves them only so far
    own = model.state_dict()["layer1.0.conv1.weight"]
    tuned = dict(found.classifier.module.named_parameters())
    name = next(one for one in tuned if one.endswith("layer1.0.conv1.weight"))
    with seeded(2):
        other = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    far = float((other.state_dict()["layer1.0.conv1.weight"] - own).norm())
    assert float((tuned[name].detach() - own).norm()) < 0.2 * far
    # the checkpoint is read again in place of the training
    again = made(f"timm:{tmp_path / 'timm'}", train_images, tmp_path)
    assert torch.equal(
        again.classifier.logits(train_images.x[:4]), found.classifier.logits(train_images.x[:4])
    )


def test_a_model_of_transformers_is_tuned_and_one_that_fits_is_used(
    tmp_path: Path, train_images: Images
) -> None:
    def saved(name: str, names: list[str]) -> Path:
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
            layer_type="basic", num_labels=len(names), id2label=dict(enumerate(names)),
        )  # fmt: skip
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / name)
        processor = transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5]
        )
        processor.save_pretrained(tmp_path / name)
        return tmp_path / name

    found = made(f"hf:{saved('three', ['a', 'b', 'c'])}", train_images, tmp_path)
    assert found.how == TUNED
    assert "and 2 made anew" in found.told
    used = made(f"hf:{saved('ten', [str(i) for i in range(10)])}", train_images, tmp_path)
    assert used.how == AS_IS
    # at the data's own size, resized within
    x = train_images.x[:2].requires_grad_()
    logits = used.classifier.logits(x)
    assert logits.shape == (2, 10)
    assert float(torch.autograd.grad(logits.sum(), x)[0].abs().sum()) > 0
    # other names of as many classes are no fit: they are an error that shows both
    named = Images(train_images.pixels, train_images.labels, tuple("abcdefghij"))
    folder = saved("words", [f"word {c}" for c in "klmnopqrst"])
    with pytest.raises(ConfigurationError, match="none of the model's"):
        made(f"hf:{folder}", named, tmp_path)


def test_a_foreign_head_that_cannot_be_replaced(tmp_path: Path, train_images: Images) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\nsize = 8\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())\n"
    )
    with pytest.raises(ConfigurationError, match=r"3 classes .* the data have 10"):
        made(f"{tmp_path / 'm.py'}:build", train_images, tmp_path)


def test_several_models_on_the_same_images(tmp_path: Path) -> None:
    told: list[str] = []
    settings: dict[str, Any] = {
        "eps": [0.1], "epochs": 6, "train_count": 600, "count": 40, "pretrained": False,
        "told": told.append,
    }  # fmt: skip
    specs = ["digits_cnn", "timm:test_resnet"]
    done = compare_models(specs, "digits", tmp_path / "out", **settings)
    assert list(done.figures) == ["digits_cnn", "test_resnet"]
    assert {one.how for one in done.made.values()} == {TRAINED}
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name in done.figures:
        records = done.records.where(guard=name, threat="clean")
        right = records.column("prediction") == records.column("y")
        assert content[name]["clean"]["count"] == int(right.sum())
        assert content[name]["made"]["parameters"] == done.made[name].parameters
    first, second = (done.records.where(guard=n, threat="clean") for n in done.figures)
    assert np.array_equal(first.column("y"), second.column("y"))
    assert float(np.mean(first.column("prediction") == first.column("y"))) > 0.6
    assert (tmp_path / "out" / "report.html").is_file()
    assert any("trained from scratch for 6 epochs" in line for line in told)
    # what is done is not done again: the same call reads it
    again = compare_models(specs, "digits", tmp_path / "out", **settings)
    assert again.figures["digits_cnn"].line == done.figures["digits_cnn"].line


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least two models"):
        compare_models(["digits_cnn"], "digits", tmp_path, eps=[0.1])
    with pytest.raises(ConfigurationError, match="given twice"):
        compare_models(["digits_cnn", "digits_cnn"], "digits", tmp_path, eps=[0.1])


def _written(folder: Path, layers: str, wrapped: str = "return self.m(x)") -> str:
    """A model of digits in a file; 10 classes, without names."""
    path = folder / f"m{len(list(folder.glob('*.py')))}.py"
    path.write_text(
        "import torch\nfrom torch import nn\nsize = 8\nmean, std = 0.25, 0.5\n"
        "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.m = nn.Sequential({layers})\n"
        f"    def forward(self, x):\n        {wrapped}\n"
        "def build():\n    torch.manual_seed(0)\n    return M()\n"
    )
    return f"{path}:build"


def test_a_model_of_coloured_images_is_used_on_grey_ones(
    tmp_path: Path, train_images: Images
) -> None:
    spec = _written(tmp_path, "nn.Conv2d(3, 10, 8), nn.Flatten()")
    found = made(spec, train_images, tmp_path)
    assert found.how == AS_IS
    x = train_images.x[:4]
    own = found.classifier.module.classifier.module.m
    with torch.no_grad():
        expected = own((x.repeat(1, 3, 1, 1) - 0.25) / 0.5)
        torch.testing.assert_close(found.classifier.logits(x), expected)
    # and an attack keeps the images grey
    y = expected.argmax(dim=1)
    changed = ns.attacks.PGD(eps=0.3)(found.classifier, x, y, seed=0)
    assert changed.x.shape == x.shape
    assert bool(changed.success.any())


def test_with_a_model_without_gradients_all_are_attacked_alike(tmp_path: Path) -> None:
    layers = "nn.Conv2d(1, 10, 8), nn.Flatten()"
    specs = [
        _written(tmp_path, layers),
        _written(tmp_path, layers, "with torch.no_grad():\n            return self.m(x)"),
    ]
    told: list[str] = []
    done = compare_models(
        specs, "digits", tmp_path / "out", eps=[0.1], train_count=600, count=20, told=told.append
    )
    threats = {"clean", "transfer", "query-decisions", "query-scores"}
    assert set(done.records.column("threat")) == threats
    assert any("No gradients reach the images of m1" in line for line in told)
    # the same network, found out in the same way
    assert len({one.robust for one in done.figures.values()}) == 1
