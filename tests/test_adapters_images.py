"""Images from outside: every mode, size and layout, damaged files, and the order of the classes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from notsure import adapters, data
from notsure.core.errors import ConfigurationError, DataError
from notsure.data import Images

Image = pytest.importorskip("PIL.Image")


def folder_of(root: Path, files: dict[str, Any]) -> Path:
    """Writes images, or bytes, under class folders."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return root


def grey(level: int, size: tuple[int, int] = (4, 4)) -> Any:
    return Image.new("L", size, level)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        {
            "dog/a.png": grey(10),
            "cat/test_1.png": grey(20),
            "cat/b.png": grey(30),
            "cat/n.txt": b"",
            "cat/._b.png": b"left by another system",
        },
    )
    loaded = adapters.load_images(tmp_path)
    assert loaded.images.class_names == ("cat", "dog")
    # in the order of the classes and of the names in them; a file named test is no test set
    assert loaded.images.pixels[:, 0, 0, 0].tolist() == [30, 20, 10]
    assert loaded.images.labels.tolist() == [0, 0, 1]
    assert loaded.images.image_shape == (1, 4, 4)
    assert any("1 files are no images" in note for note in loaded.notes)


def test_published_parts(tmp_path: Path) -> None:
    files = {f"train/{c}/{i}.png": grey(i) for c in "ab" for i in range(40)}
    files |= {f"test/{c}/{i}.png": grey(100 + i) for c in "ab" for i in range(3)}
    folder_of(tmp_path, files)
    assert len(adapters.load_images(tmp_path).images) == 6
    assert len(adapters.load_images(tmp_path, part="train").images) == 80
    split = adapters.load_split(tmp_path).split
    assert len(split.test) == 6
    assert split.record.how == "published test set"
    keys = [set(part.content_keys().tolist()) for part in (split.train, split.calibration)]
    assert not keys[0] & keys[1]


def test_every_mode_of_pixels(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 2), (200, 0, 0))
    palette = red.convert("P", palette=Image.Palette.ADAPTIVE)
    see_through = Image.new("P", (4, 2), 5)
    see_through.putpalette([200, 0, 0] * 256)
    see_through.info["transparency"] = 5
    ramp = np.array([[0, 257, 257 * 100, 65535]] * 2, np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (2, 4), (0, 0, 0))
    turned.putpixel((0, 3), (255, 255, 255))
    turned.save(tmp_path / "turned.png", exif=exif)
    files = {
        "a/0-palette.png": palette,
        "a/1-see-through.png": see_through,
        "a/2-rgba.png": Image.new("RGBA", (4, 2), (200, 0, 0, 0)),
        "a/3-cmyk.jpg": red.convert("CMYK"),
        "a/4-sixteen.png": Image.fromarray(ramp),
        "a/5-bits.png": Image.new("1", (4, 2), 1),
        "a/6-grey-alpha.png": Image.new("LA", (4, 2), (7, 100)),
        "a/7-turned.png": (tmp_path / "turned.png").read_bytes(),
        "b/0.png": red,
    }
    (tmp_path / "turned.png").unlink()
    loaded = adapters.load_images(folder_of(tmp_path, files))
    pixels = loaded.images.pixels
    assert pixels.shape == (9, 3, 2, 4)
    for row in (0, 1, 2, 8):
        assert pixels[row, :, 0, 0].tolist() == [200, 0, 0]
    assert int(pixels[3, 0, 0, 0]) > 190
    assert pixels[4, :, 0].tolist() == [[0, 1, 100, 255]] * 3
    assert set(pixels[5].flatten().tolist()) == {255}
    assert set(pixels[6].flatten().tolist()) == {7}
    # orientation 6 is to be turned by 90 degrees clockwise: the lower left comes to the upper left
    assert (pixels[7, 0] == 255).nonzero().tolist() == [[0, 0]]
    told = " ".join(loaded.notes)
    assert "1 were turned upright" in told
    assert "1 had 16 bits" in told
    assert "3 had transparency" in told


def test_channels_are_those_of_the_model(tmp_path: Path) -> None:
    rgb = Image.new("RGB", (4, 4), (255, 0, 0))
    folder_of(tmp_path, {"a/0.png": rgb, "b/0.png": grey(9)})
    assert adapters.load_images(tmp_path).images.in_channels == 3
    one = adapters.load_images(tmp_path, channels=1).images
    assert one.pixels[:, 0, 0, 0].tolist() == [round(0.299 * 255), 9]
    with pytest.raises(ConfigurationError, match="1 or 3 channels; the model takes 4"):
        adapters.load_images(tmp_path, channels=4)


def test_mixed_sizes_are_brought_to_the_models(tmp_path: Path) -> None:
    wide = Image.new("L", (40, 20), 0)
    wide.paste(255, (10, 0, 30, 20))
    folder_of(tmp_path, {"a/0.png": wide, "b/0.png": grey(9, (8, 8)), "b/1.png": grey(9, (5, 5))})
    with pytest.raises(ConfigurationError, match=r"different sizes: .*0\.png is 20x40 .*--size"):
        adapters.load_images(tmp_path)
    squeezed = adapters.load_images(tmp_path, size=8)
    assert squeezed.images.image_shape == (1, 8, 8)
    assert int(squeezed.images.pixels[0, 0, 4, 0]) == 0
    cut = adapters.load_images(tmp_path, size=adapters.Resizing(height=8, width=8, shortest_edge=8))
    # the black margins are beside the middle that is cut out
    assert int(cut.images.pixels[0].min()) > 200
    told = " ".join(cut.notes)
    assert "3 sizes, from 5x5 to 20x40" in told
    assert "2 were resized (shorter side to 8" in told
    # what has the size already is left as it is, to the bit
    assert torch.equal(squeezed.images.pixels[1], adapters.load_images(
        folder_of(tmp_path / "same", {"a/0.png": grey(9, (8, 8)), "b/0.png": grey(9, (8, 8))})
    ).images.pixels[0])  # fmt: skip


def test_resizing_is_pillows_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    resizing = adapters.Resizing(height=12, width=10, shortest_edge=16, interpolation="bicubic")
    folder_of(tmp_path, {"a/0.png": image, "b/0.png": image})
    found = adapters.load_images(tmp_path, size=resizing).images.pixels[0]
    expected = image.resize((23, 16), Image.Resampling.BICUBIC).crop((6, 2, 16, 14))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def _truncated(size: tuple[int, int]) -> bytes:
    import io

    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()[:-200]


@pytest.mark.parametrize(
    "damage",
    [lambda: b"", lambda: b"no image", lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
     lambda: _truncated((64, 64)), lambda: gzip.compress(b"x" * 100)],
)  # fmt: skip
def test_a_damaged_image_in_the_middle(tmp_path: Path, damage: Callable[[], bytes]) -> None:
    files: dict[str, Any] = {f"{c}/{i}.png": grey(i) for c in "ab" for i in range(4)}
    files["a/2.png"] = damage()
    folder_of(tmp_path, files)
    with pytest.raises(DataError, match=r"a/2\.png: it cannot be decoded .*--skip-bad"):
        adapters.load_images(tmp_path)
    loaded = adapters.load_images(tmp_path, skip_bad=True)
    assert len(loaded.images) == 7
    assert loaded.images.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert loaded.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 0, 1, 2, 3]
    assert len(loaded.skipped) == 1
    assert "a/2.png" in loaded.skipped[0]
    assert any("1 could not be read and were left out" in note for note in loaded.notes)


def test_an_image_that_unpacks_to_too_much_is_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder_of(tmp_path, {"a/0.png": grey(0, (40, 40)), "b/0.png": grey(1)})
    with pytest.raises(DataError, match="decompression bomb"):
        adapters.load_images(tmp_path)


def test_nothing_but_damaged_images(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a/0.png": b"x", "b/0.png": b"y"})
    with pytest.raises(DataError, match="None of the 2 images"):
        adapters.load_images(tmp_path, skip_bad=True)


def test_some_of_the_images_in_the_proportions_of_the_classes() -> None:
    whole = adapters.load_images("digits")
    some = adapters.load_images("digits", count=100, seed=1)
    assert len(some.images) == 100
    counts = torch.bincount(some.images.labels)
    share = torch.bincount(whole.images.labels) / len(whole.images) * 100
    assert float((counts - share).abs().max()) <= 1
    again = adapters.load_images("digits", count=100, seed=1)
    other = adapters.load_images("digits", count=100, seed=2)
    assert some.images.digest() == again.images.digest() != other.images.digest()


# arrays


def arrays(channels_last: bool = False) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    x = np.random.default_rng(0).integers(0, 256, (30, 3, 6, 5), dtype=np.uint8)
    return (x.transpose(0, 2, 3, 1) if channels_last else x), np.arange(30) % 3


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_npz_of_every_layout(tmp_path: Path, channels_last: bool, kind: str) -> None:
    x, y = arrays(channels_last)
    values = x if kind == "uint8" else (x / 255).astype(kind)
    np.savez(tmp_path / "d.npz", x=values, y=y)
    loaded = adapters.load_images(tmp_path / "d.npz")
    assert np.array_equal(loaded.images.pixels.numpy(), arrays()[0])
    assert loaded.images.labels.tolist() == y.tolist()
    assert len(loaded.notes) == 1


def test_npz_of_floats_between_the_levels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((9, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(9) % 3)
    loaded = adapters.load_images(tmp_path / "d.npz")
    assert np.abs(loaded.images.x[:, 0].numpy() - x).max() <= 0.5 / 255 + 1e-6
    assert any("rounded to 8 bits" in note for note in loaded.notes)
    for bad in (x * 255, x * 2 - 1, np.full_like(x, np.nan)):
        np.savez(tmp_path / "bad.npz", x=bad, y=np.arange(9) % 3)
        with pytest.raises(DataError, match=r"have to lie in \[0,1\]"):
            adapters.load_images(tmp_path / "bad.npz")


def test_npz_is_resized_as_files_are(tmp_path: Path) -> None:
    x, y = arrays()
    np.savez(tmp_path / "d.npz", x=x, y=y)
    found = adapters.load_images(tmp_path / "d.npz", size=3, channels=1).images.pixels[0, 0]
    image = Image.fromarray(x[0].transpose(1, 2, 0))
    expected = image.resize((3, 3), Image.Resampling.BILINEAR).convert("L")
    assert np.array_equal(found.numpy(), np.asarray(expected))


def test_npz_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], object), y=np.zeros(1, int))
    with pytest.raises(DataError, match="plain arrays"):
        adapters.load_images(tmp_path / "d.npz")


# tables of the datasets library


def test_tables_are_read_as_notsures_own_reader_does(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8)) for _ in range(70)]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    table = datasets.Dataset.from_dict(
        {"image": pictures, "label": [i % 2 for i in range(70)]}, features=features
    )
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "one.parquet")
    for spec in ("saved", "one.parquet"):
        loaded = adapters.load_images(tmp_path / spec)
        assert loaded.images.class_names == ("cat", "dog")
        expected = np.stack([np.asarray(one) for one in pictures])
        assert np.array_equal(loaded.images.pixels[:, 0].numpy(), expected)
        assert loaded.images.labels.tolist() == [i % 2 for i in range(70)]
    split = data.load(tmp_path / "saved", calibration=0.2)
    ours = adapters.load_split(tmp_path / "saved").split
    assert split.test.digest() == ours.test.digest()


def test_a_damaged_row_of_a_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": _png(i) if i != 2 else b"no", "path": None} for i in range(6)],
            "label": [0, 1] * 3,
        },
        features=datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
        ),
    )
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"row 2 of .*cannot be decoded"):
        adapters.load_images(tmp_path / "saved")
    loaded = adapters.load_images(tmp_path / "saved", skip_bad=True)
    assert loaded.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5]


def _png(level: int) -> bytes:
    import io

    buffer = io.BytesIO()
    grey(level).save(buffer, "PNG")
    return buffer.getvalue()


def test_names_are_looked_for_in_the_folder_of_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "mine", {"a/0.png": grey(1), "b/0.png": grey(2)})
    monkeypatch.setenv("NOTSURE_DATA", str(tmp_path))
    assert len(adapters.load_images("mine").images) == 2
    with pytest.raises(DataError, match="There is no file or folder 'other'"):
        adapters.load_images("other")


# classes


def labelled(names: tuple[str, ...]) -> Images:
    count = len(names)
    pixels = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    return Images(pixels, torch.arange(count), names)


def test_classes_are_matched_by_their_names() -> None:
    images, told = adapters.matched(
        labelled(("Golden_Retriever", "tench", "n02123045")),
        ("tench, Tinca tinca", "n02123045, tabby, tabby cat", "golden retriever", "toaster"),
        4,
    )
    assert images.labels.tolist() == [2, 0, 1]
    assert images.class_names[3] == "toaster"
    assert "renumbered" in told
    same, told = adapters.matched(labelled(("a", "b")), ("A", "B"), 2)
    assert same.labels.tolist() == [0, 1]
    assert "same order" in told


def test_classes_without_names_keep_their_positions() -> None:
    for own, model in ((("0", "1", "2"), ("cat", "dog", "owl")), (("cat", "dog", "owl"), ())):
        images, told = adapters.matched(labelled(own), model, 3)
        assert images.labels.tolist() == [0, 1, 2]
        assert images.class_names == ("cat", "dog", "owl")
        assert "by position" in told
    # numbers that both have are names
    assert adapters.matched(labelled(("0", "1")), ("1", "0"), 2)[0].labels.tolist() == [1, 0]
    named = labelled(("cat", "dog", "owl"))
    assert adapters.matched(named, ("x", "y", "z"), 3, by_position=True)[0].class_names[0] == "x"


def test_classes_that_do_not_match_are_an_error_that_shows_both() -> None:
    with pytest.raises(ConfigurationError, match=r"'cta'.*nearest.*'cat'.*'dog', 'cta'.*'cat', 'd"):
        adapters.matched(labelled(("dog", "cta")), ("cat", "dog"), 2)
    with pytest.raises(ConfigurationError, match="have 3 classes and the model 2"):
        adapters.matched(labelled(("0", "1", "2")), ("cat", "dog"), 2)
    with pytest.raises(ConfigurationError, match="2 classes of the data are none"):
        adapters.matched(labelled(("xyz", "uvw")), ("cat", "dog"), 2)
    with pytest.raises(ConfigurationError, match="are all the model's"):
        adapters.matched(labelled(("cat", "CAT")), ("cat", "dog"), 2)


def test_what_no_one_can_tell_of_pixels_is_an_error(tmp_path: Path) -> None:
    """32-bit integers up to 200: as 16 bits they would be black."""
    levels = np.full((4, 4), 200, np.int32)
    folder_of(tmp_path, {"a/0.tif": Image.fromarray(levels), "b/0.png": grey(9)})
    with pytest.raises(DataError, match=r"0\.tif: its pixels are 32-bit integers up to 200"):
        adapters.load_images(tmp_path)
    folder_of(tmp_path, {"a/0.tif": Image.fromarray(257 * levels)})
    assert int(adapters.load_images(tmp_path).images.pixels[0].min()) == 200


def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    image = Image.new("L", (4, 2), 7)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.jpg", exif=exif)
    loaded = adapters.load_images(tmp_path)
    assert not any("upright" in note for note in loaded.notes)


def test_numbered_folders_come_in_the_order_of_texts_and_that_is_told(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{i}/0.png": grey(i) for i in range(11)})
    images = adapters.load_images(tmp_path).images
    named, told = adapters.matched(images, tuple(map(str, range(11))), 11)
    assert named.labels.tolist() == named.pixels[:, 0, 0, 0].tolist()
    _, told = adapters.matched(images, (), 11)
    assert "order of their names as texts (0, 1, 10, 2, ...)" in told
    _, told = adapters.matched(labelled(("0", "1")), (), 2)
    assert "texts" not in told


def test_a_whole_name_goes_before_a_part_of_another() -> None:
    images, _ = adapters.matched(
        labelled(("missile", "projectile")), ("projectile, missile", "missile", "x"), 3
    )
    assert images.labels.tolist() == [1, 0]
