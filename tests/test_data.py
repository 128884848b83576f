"""Data: nothing is lost or changed on reading, and no two parts of a split share an image."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, DataError, InputError
from notsure.data import Images, Split, from_arrays, load, split

_PARTS = ("train", "calibration", "test")
_Pixels = npt.NDArray[np.uint8]


def _random_pixels(*shape: int, seed: int = 0) -> _Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _labels(count: int, classes: int = 2) -> npt.NDArray[np.int64]:
    return np.arange(count) % classes


def _assert_disjoint(parts: Split) -> None:
    keys = [set(getattr(parts, part).content_keys().tolist()) for part in _PARTS]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    splits = parts.record.source_splits
    rows = [(splits[part], row) for part in _PARTS for row in parts.record.indices[part]]
    assert len(set(rows)) == len(rows) == sum(parts.record.sizes.values())


# --- Images -------------------------------------------------------------------------------------


def test_floats_are_the_exact_256_levels() -> None:
    """Every 8-bit level becomes the float32 nearest to level/255, at once or in batches."""
    levels = np.arange(256, dtype=np.uint8)
    images = from_arrays(levels.reshape(4, 8, 8), [0, 1, 2, 2])
    expected = torch.from_numpy((levels / 255).astype(np.float32)).view(4, 1, 8, 8)
    assert images.x.dtype == torch.float32
    assert torch.equal(images.x, expected)
    batches = list(images.batches(3))
    assert [len(y) for _, y in batches] == [3, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)
    assert torch.equal(torch.cat([y for _, y in batches]), images.y)
    assert torch.equal(from_arrays(images.x, images.y).pixels, images.pixels)


def test_images_tell_their_shape_and_keys() -> None:
    """Sizes, class names and content keys are those of the pixels."""
    images = from_arrays(_random_pixels(5, 3, 4, 6), _labels(5), class_names=["cat", "dog", "owl"])
    assert (len(images), images.num_classes, images.in_channels, images.size) == (5, 3, 3, 4)
    assert images.image_shape == (3, 4, 6)
    assert images.class_names == ("cat", "dog", "owl")
    assert torch.equal(images.content_keys(), content_keys(images.x))


@pytest.mark.parametrize(
    "indices",
    [
        [3, 0],
        torch.tensor([3, 0]),
        np.array([3, 0]),
        slice(3, None, -3),
    ],
    ids=["list", "tensor", "array", "slice"],
)
def test_select_takes_positions(indices: list[int] | slice) -> None:
    """Lists, tensors, arrays and slices select in the order asked for."""
    images = from_arrays(_random_pixels(4, 2, 2), [0, 1, 2, 3])
    chosen = images.select(indices)
    assert chosen.labels.tolist() == [3, 0]
    assert torch.equal(chosen.pixels, images.pixels[[3, 0]])
    assert chosen.class_names == images.class_names


def test_select_takes_masks_and_shares_memory_for_slices() -> None:
    """A mask selects; a forward slice is a view."""
    images = from_arrays(_random_pixels(4, 2, 2), [0, 1, 2, 3])
    assert images.select(images.labels > 1).labels.tolist() == [2, 3]
    assert images.select(slice(2)).pixels.data_ptr() == images.pixels.data_ptr()
    with pytest.raises(InputError, match="at least one"):
        images.select([])


def test_images_reject_what_they_cannot_keep() -> None:
    """Wrong types, shapes and labels are named, with what to do."""
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    with pytest.raises(InputError, match="from_arrays"):
        Images(pixels.float(), labels, ("a", "b"))
    with pytest.raises(InputError, match="from_arrays"):
        Images(pixels[0], labels, ("a", "b"))
    with pytest.raises(InputError, match="2 images but 1 labels"):
        Images(pixels, labels[:1], ("a", "b"))
    with pytest.raises(InputError, match=r"numbered 0\.\.0"):
        Images(pixels, labels, ("a",))
    with pytest.raises(InputError, match="have to be integers"):
        Images(pixels, labels.float(), ("a", "b"))
    with pytest.raises(ConfigurationError, match="at least 1"):
        Images(pixels, labels, ("a", "b")).batches(0)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("layout", ["NHW", "NHW1", "N1HW", "NHWC", "NCHW"])
def test_every_layout_gives_the_same_pixels(layout: str, as_tensor: bool, as_float: bool) -> None:
    """Layouts, tensors and floats are only other ways to give the same images."""
    pixels = _random_pixels(6, 3 if "C" in layout else 1, 5, 4)
    x = pixels[:, 0] if layout == "NHW" else pixels
    x = x.transpose(0, 2, 3, 1) if layout in ("NHW1", "NHWC") else x
    given = x / np.float32(255) if as_float else x
    images = from_arrays(torch.tensor(given) if as_tensor else given, _labels(6)[:, None])
    assert np.array_equal(images.pixels.numpy(), pixels)
    assert images.pixels.is_contiguous()
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert images.class_names == ("0", "1")


def test_arrays_are_copied() -> None:
    """What the caller does to the arrays afterwards does not reach the images."""
    x, y = _random_pixels(2, 3, 3), np.array([0, 1])
    for images in (from_arrays(x, y), from_arrays(torch.from_numpy(x), torch.from_numpy(y))):
        before = images.digest()
        x += 1
        y[:] = 0
        assert images.digest() == before
        y[:] = [0, 1]


def test_floats_between_two_levels_are_refused() -> None:
    """Rounding is undone noise up to 1e-5, never a change of the image."""
    x = torch.from_numpy(_random_pixels(2, 1, 3, 3)) / 255
    noisy = (x + 5e-6).clamp(0, 1)
    assert torch.equal(from_arrays(noisy, [0, 1]).pixels, from_arrays(x, [0, 1]).pixels)
    with pytest.raises(InputError, match="pass them to attacks and guards directly"):
        from_arrays((x + 5e-5).clamp(0, 1 - 1e-3), [0, 1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3, 3), np.int64), [0, 1], r"astype\(numpy.uint8\)"),
        (np.full((2, 3, 3), 255.0), [0, 1], "divide by 255"),
        (np.full((2, 3, 3), np.nan), [0, 1], "remove or repair"),
        (np.zeros((2, 5, 3, 7), np.uint8), [0, 1], r"build notsure\.data\.Images"),
        (np.zeros((2, 9), np.uint8), [0, 1], "N x H x W"),
        (np.zeros((0, 3, 3), np.uint8), [], "at least one"),
        (np.zeros((2, 3, 3), np.uint8), [0.0, 1.0], "Number the classes"),
        (np.zeros((2, 3, 3), np.uint8), ["cat", "dog"], "class_names"),
        (np.zeros((2, 3, 3), np.uint8), torch.tensor([0.0, 1.0]), "have to be integers"),
        (np.zeros((2, 3, 3), np.uint8), [-1, 1], "Labels run from -1"),
        (np.zeros((2, 3, 3), np.uint8), [0, 1, 1], "2 images but 3 labels"),
        (np.zeros((2, 3, 3), np.uint8), np.eye(2, dtype=np.int64), "argmax"),
    ],
)
def test_arrays_that_are_no_labelled_images(
    x: npt.NDArray[np.float64], y: list[int], message: str
) -> None:
    """Each error names the remedy."""
    with pytest.raises(InputError, match=message):
        from_arrays(x, y)


# --- split --------------------------------------------------------------------------------------


def test_digits_are_scaled_to_eight_bits() -> None:
    """scikit-learn's 0..16 become round(v * 255 / 16), in its own order."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    digits = load_digits()
    parts = load("digits")
    for part in _PARTS:
        images, rows = getattr(parts, part), list(parts.record.indices[part])
        expected = [round(v * 255 / 16) for v in digits.images[rows].ravel().tolist()]
        assert images.pixels.flatten().tolist() == expected
        assert images.labels.tolist() == digits.target[rows].tolist()
    assert parts.train.image_shape == (1, 8, 8)
    assert parts.train.class_names == tuple("0123456789")


def test_digits_split_is_disjoint_stratified_and_recorded() -> None:
    """30 % test and 15 % calibration, each class in its share, nothing shared."""
    parts = load("digits", seed=3)
    _assert_disjoint(parts)
    record = parts.record
    assert (record.source, record.seed, record.how) == ("digits", 3, "held out")
    assert record.sizes == {part: len(getattr(parts, part)) for part in _PARTS}
    assert (record.sizes["test"], record.sizes["calibration"]) == (539, 270)
    assert sum(record.sizes.values()) + record.duplicates_removed == 1797
    whole = sum(torch.bincount(getattr(parts, part).labels, minlength=10) for part in _PARTS)
    shares = torch.bincount(parts.test.labels, minlength=10) / whole
    assert torch.all((shares - 0.3).abs() < 0.01)
    assert record.digests["test"] == (
        hashlib.sha256(
            parts.test.pixels.numpy().tobytes() + parts.test.labels.numpy().tobytes()
        ).hexdigest()
    )


def test_split_is_a_function_of_the_seed() -> None:
    """The same seed gives the same split, another seed another one."""
    assert load("digits", seed=1).record == load("digits", seed=1).record
    first, second = load("digits", seed=1).record, load("digits", seed=2).record
    for part in _PARTS:
        assert first.indices[part] != second.indices[part]
        assert first.digests[part] != second.digests[part]


def test_fractions_are_those_asked_for() -> None:
    """Fractions are of the whole set."""
    sizes = load("digits", calibration=0.2, test=0.5).record.sizes
    assert (sizes["calibration"], sizes["test"]) == (359, 898)


def test_no_global_generator_is_touched(tmp_path: Path) -> None:
    """Loading and splitting leave torch's, numpy's and Python's generators alone."""
    _write_image_folder(tmp_path, ["train", "test"])
    # rich, which scikit-learn imports, draws from Python's generator when first imported
    importlib.import_module("sklearn.datasets")
    numpy_state = np.random.get_state
    before = (torch.get_rng_state(), str(numpy_state()), random.getstate())
    load("digits", seed=5)
    load(tmp_path, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(numpy_state()) == before[1]
    assert random.getstate() == before[2]


def test_planted_duplicates_are_removed_from_one_set() -> None:
    """A set in which every image is there twice still splits into disjoint parts."""
    pixels = np.concatenate([_random_pixels(60, 4, 4)] * 2)
    parts = split(from_arrays(pixels, _labels(120, classes=3)), seed=0)
    _assert_disjoint(parts)
    assert (parts.record.sizes["test"], parts.record.sizes["calibration"]) == (36, 18)
    assert parts.record.duplicates_removed > 0
    assert sum(parts.record.sizes.values()) + parts.record.duplicates_removed == 120
    assert parts.record.source == "arrays"


def test_planted_duplicates_leave_a_published_test_set_whole(tmp_path: Path) -> None:
    """Duplicates go from train; the test set is as published, its own duplicates included."""
    train, test = _random_pixels(100, 4, 4), _random_pixels(20, 4, 4, seed=1)
    train[10:15] = test[:5]
    train[50] = train[51]
    test[7] = test[8]
    path = tmp_path / "set.npz"
    np.savez(path, x_train=train, y_train=_labels(100), x_test=test, y_test=_labels(20))
    for seed in range(5):
        parts = load(path, seed=seed)
        _assert_disjoint(parts)
        assert parts.record.how == "published test set"
        assert np.array_equal(parts.test.pixels[:, 0].numpy(), test)
        assert parts.record.sizes["calibration"] == 50
        assert parts.record.duplicates_removed in (5, 6)
        assert sum(parts.record.sizes.values()) + parts.record.duplicates_removed == 120
        assert not set(range(10, 15)) & {*parts.record.indices["train"]}
        assert not set(range(10, 15)) & {*parts.record.indices["calibration"]}


@pytest.mark.parametrize(
    ("count", "calibration", "expected"),
    [(100, None, 50), (1000, None, 200), (3000, None, 300), (100, 0.25, 25)],
)
def test_calibration_beside_a_published_test_set(
    tmp_path: Path, count: int, calibration: float | None, expected: int
) -> None:
    """10 % of train, at least 200 or half of it; or the fraction asked for."""
    path = tmp_path / "set.npz"
    x, y = _random_pixels(count + 10, 4, 4), _labels(count + 10)
    np.savez(path, x_train=x[10:], y_train=y[10:], x_test=x[:10], y_test=y[:10])
    parts = load(path, calibration=calibration)
    assert parts.record.sizes == {"train": count - expected, "calibration": expected, "test": 10}
    assert parts.record.source_splits == {"train": "train", "calibration": "train", "test": "test"}
    assert abs(int(parts.calibration.labels.sum()) * 2 - expected) <= 1


def test_a_class_may_be_missing_in_a_part() -> None:
    """Classes with few images do not stop a split, and keep their names everywhere."""
    parts = split(from_arrays(_random_pixels(30, 4, 4), [0] * 29 + [1]))
    assert all(getattr(parts, part).class_names == ("0", "1") for part in _PARTS)
    assert sum(int((getattr(parts, part).labels == 1).sum()) for part in _PARTS) == 1


def test_the_record_is_saved_as_json(tmp_path: Path) -> None:
    """The file holds the record, and no path of this machine."""
    record = load("digits").record
    record.save(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text()) == record.to_json()
    assert len((tmp_path / "split.json").read_text().splitlines()) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": 0.0}, "above 0 and below 1"),
        ({"test": 1.0}, "above 0 and below 1"),
        ({"calibration": 1.5}, "above 0 and below 1"),
        ({"calibration": float("nan")}, "above 0 and below 1"),
        ({"calibration": 0.5, "test": 0.5}, "below 1"),
        ({"seed": -1}, "from 0 on"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    """Each error names the range."""
    with pytest.raises(ConfigurationError, match=message):
        load("digits", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        split(from_arrays(_random_pixels(9, 4, 4), _labels(9)), **settings)  # type: ignore[arg-type]


def test_too_few_images_to_split() -> None:
    """Three different images are the least."""
    assert split(from_arrays(_random_pixels(3, 4, 4), [0, 0, 1])).record.sizes["train"] == 1
    with pytest.raises(DataError, match="Give more images"):
        split(from_arrays(_random_pixels(2, 4, 4), [0, 1]))
    with pytest.raises(DataError, match="Give more images"):
        split(from_arrays(np.zeros((50, 4, 4), np.uint8), [0] * 50))


# --- npz and unknown sources --------------------------------------------------------------------


@pytest.mark.parametrize("as_float", [False, True])
def test_npz_of_one_set(tmp_path: Path, as_float: bool) -> None:
    """Arrays in a file split as arrays in memory do."""
    pixels, labels = _random_pixels(40, 5, 5, 3), _labels(40, classes=4)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=pixels / 255 if as_float else pixels, y=labels)
    record = load(path, seed=2).record
    assert record.source == str(path)
    in_memory = split(from_arrays(pixels, labels), seed=2, source=str(path)).record
    assert record == in_memory


def test_npz_that_is_none(tmp_path: Path) -> None:
    """Names, damage and contents are told apart."""
    path = tmp_path / "set.npz"
    np.savez(path, images=_random_pixels(4, 3, 3), labels=_labels(4))
    with pytest.raises(DataError, match=r"images, labels.*Rename them"):
        load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="savez_compressed"):
        load(path)
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match="savez_compressed"):
        load(tmp_path / "notes.txt")
    np.savez(path, x=_random_pixels(4, 3, 3), y=_labels(5))
    with pytest.raises(DataError, match=r"set\.npz.*4 images but 5 labels"):
        load(path)
    np.savez(
        path,
        x_train=_random_pixels(9, 3, 3),
        y_train=_labels(9),
        x_test=_random_pixels(4, 2, 2),
        y_test=_labels(4),
    )
    with pytest.raises(DataError, match="bring them to one size"):
        load(path)


def test_test_fraction_beside_a_published_test_set(tmp_path: Path) -> None:
    """A fraction that would not be used is refused, not ignored."""
    path = tmp_path / "set.npz"
    x, y = _random_pixels(40, 4, 4), _labels(40)
    np.savez(path, x_train=x[10:], y_train=y[10:], x_test=x[:10], y_test=y[:10])
    with pytest.raises(ConfigurationError, match="leave out test"):
        load(path, test=0.3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "hub id such as 'ylecun/mnist'"),
        (Path("no/such"), "hub id such as"),
        ("", "Give 'digits'"),
        ("nonsense", "Give 'digits'"),
        ("fashion-mnist", "'zalando-datasets/fashion_mnist'"),
    ],
)
def test_sources_that_do_not_exist(source: str | Path, message: str) -> None:
    """The error says what may be given, and the hub id that was probably meant."""
    with pytest.raises(DataError, match=message):
        load(source)


# --- IDX ----------------------------------------------------------------------------------------


def _write_idx(path: Path, array: _Pixels) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_idx_folder(folder: Path, mark: str = "-", end: str = "") -> tuple[_Pixels, _Pixels]:
    train, test = _random_pixels(30, 6, 5), _random_pixels(10, 6, 5, seed=1)
    for prefix, pixels in (("train", train), ("t10k", test)):
        labels = _labels(len(pixels), classes=10).astype(np.uint8)
        _write_idx(folder / f"{prefix}-images{mark}idx3-ubyte{end}", pixels)
        _write_idx(folder / f"{prefix}-labels{mark}idx1-ubyte{end}", labels)
    return train, test


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_round_trip(tmp_path: Path, mark: str, end: str) -> None:
    """Pixels, labels and order are those of the files, plain or gzipped, under either name."""
    train, test = _write_idx_folder(tmp_path, mark, end)
    parts = load(tmp_path)
    assert np.array_equal(parts.test.pixels[:, 0].numpy(), test)
    assert parts.test.labels.tolist() == list(range(10))
    for part in ("train", "calibration"):
        rows = list(parts.record.indices[part])
        assert np.array_equal(getattr(parts, part).pixels[:, 0].numpy(), train[rows])
        assert getattr(parts, part).labels.tolist() == [row % 10 for row in rows]
    assert parts.record.how == "published test set"
    assert parts.train.class_names == tuple("0123456789")


def test_idx_without_a_test_set(tmp_path: Path) -> None:
    """Train files alone are one set, from which the test part is held out."""
    _write_idx_folder(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    assert load(tmp_path).record.how == "held out"


def _truncate(folder: Path) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[:-1]))


def _break_gzip(folder: Path) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])


def _wrong_magic(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"\x00\x00\x0d\x01 and more")


def _web_page(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_text("<html>404</html>")


def _fewer_labels(folder: Path) -> None:
    _write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(9, np.uint8))


def _no_labels(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").unlink()


def _only_test(folder: Path) -> None:
    for file in folder.glob("train-*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "truncated or damaged. Download it again"),
        (_break_gzip, "damaged gzip file .* Download it again"),
        (_wrong_magic, "magic number is 00 00 0d 01, not 00 00 08 01. Download it again"),
        (_web_page, "not an IDX file .* Download it again"),
        (_fewer_labels, "10 images but .* 9 labels.* Download it again"),
        (_no_labels, "put train-labels-idx1-ubyte"),
        (_only_test, "put train-images-idx3-ubyte"),
    ],
)
def test_idx_files_that_are_damaged(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Each kind of damage is named, with what to do."""
    _write_idx_folder(tmp_path, end=".gz")
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


# --- folders and the hub ------------------------------------------------------------------------


def _write_images(folder: Path, pixels: _Pixels) -> None:
    pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(pixels):
        # a name that `datasets`, left to itself, takes for a test split
        image.fromarray(array).save(folder / f"test_{number}.png")


def _write_image_folder(folder: Path, splits: list[str], *channels: int) -> dict[str, _Pixels]:
    written = {}
    for number, name in enumerate(splits):
        written[name] = _random_pixels(8, 5, 4, *channels, seed=number)
        for start, kind in ((0, "cat"), (4, "dog")):
            _write_images(folder / name / kind, written[name][start : start + 4])
    return written


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_image_folder_with_a_test_set(
    tmp_path: Path, test_name: str, channels: tuple[int, ...]
) -> None:
    """Class subfolders name the classes; the test folder is kept whole."""
    folder = tmp_path / "with [brackets]"
    written = _write_image_folder(folder, ["train", test_name], *channels)
    parts = load(folder)
    assert parts.train.class_names == ("cat", "dog")
    assert parts.train.image_shape == (3 if channels else 1, 5, 4)
    assert parts.test.labels.tolist() == [0] * 4 + [1] * 4
    expected = written[test_name].reshape(8, 5, 4, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(parts.test.pixels.numpy(), expected)
    assert parts.record.source_splits["test"] == test_name
    _assert_disjoint(parts)


def test_image_folder_of_one_set(tmp_path: Path) -> None:
    """Without train and test folders, one set is cut into three; other files are passed over."""
    _write_image_folder(tmp_path, ["."])
    (tmp_path / "README.md").write_text("Pets.")
    (tmp_path / "cat" / "notes.txt").write_text("Cats.")
    parts = load(str(tmp_path))
    assert parts.record.how == "held out"
    assert sum(parts.record.sizes.values()) == 8
    assert parts.record.source == str(tmp_path)


def test_image_modes(tmp_path: Path) -> None:
    """Grey images among coloured ones, palettes and transparency become plain RGB."""
    _write_images(tmp_path / "a", _random_pixels(3, 5, 4))
    _write_images(tmp_path / "b", _random_pixels(3, 5, 4, 4))
    image = pytest.importorskip("PIL.Image")
    coloured = image.fromarray(_random_pixels(5, 4, 3)).convert("P")
    coloured.save(tmp_path / "b" / "palette.png", transparency=b"\x00\x80")
    parts = load(tmp_path)
    assert parts.train.image_shape == (3, 5, 4)
    everything = torch.cat([getattr(parts, part).pixels for part in _PARTS])
    labels = torch.cat([getattr(parts, part).labels for part in _PARTS])
    grey = everything[labels == 0]
    assert torch.equal(grey[:, :1].expand(-1, 3, -1, -1), grey)
    first = torch.from_numpy(_random_pixels(3, 5, 4, 4)[0, :, :, :3]).permute(2, 0, 1)
    assert any(torch.equal(first, pixels) for pixels in everything[labels == 1])


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    """Mixed sizes, 16-bit images and damaged files are named."""
    image = pytest.importorskip("PIL.Image")
    _write_image_folder(tmp_path, ["."])
    odd = tmp_path / "cat" / "zzz.png"
    image.fromarray(_random_pixels(6, 4)).save(odd)
    with pytest.raises(DataError, match=r"image 0 is 5x4 and image 4 is 6x4.*Resize them all"):
        load(tmp_path)
    image.fromarray(np.zeros((5, 4), np.uint16)).save(odd)
    with pytest.raises(DataError, match="save the images as 8-bit"):
        load(tmp_path)
    odd.write_bytes(b"\x89PNG, or so it says")
    with pytest.raises(DataError, match=r"zzz\.png\) cannot be decoded .*remove or replace it"):
        load(tmp_path)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    """Empty folders, texts and images without classes are refused with what a folder may hold."""
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="one subfolder per class"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing\nto see\n")
    with pytest.raises(DataError, match=r"columns text, .*Rename its image column to 'image'"):
        load(tmp_path)
    (tmp_path / "notes.txt").unlink()
    _write_images(tmp_path, _random_pixels(3, 5, 4))
    with pytest.raises(DataError, match="subfolders, one for each of at least two classes"):
        load(tmp_path)


def _write_parquet(folder: Path, name: str, **columns: object) -> None:
    pytest.importorskip("datasets")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(exist_ok=True)
    parquet.write_table(arrow.table(columns), folder / f"{name}.parquet")


def _png(pixels: _Pixels, folder: Path) -> bytes:
    _write_images(folder, pixels[None])
    return (folder / "test_0.png").read_bytes()


def test_parquet_without_types_goes_by_the_usual_names(tmp_path: Path) -> None:
    """Bytes in a column img and texts in a column label are images and class names."""
    pixels = _random_pixels(12, 5, 4)
    files = [_png(image, tmp_path / "png") for image in pixels]
    names = ["dog", "cat", "owl"] * 4
    _write_parquet(tmp_path / "set", "train", img=files, label=names, extra=[0] * 12)
    parts = load(tmp_path / "set")
    assert parts.train.class_names == ("cat", "dog", "owl")
    for part in _PARTS:
        images, rows = getattr(parts, part), list(parts.record.indices[part])
        assert np.array_equal(images.pixels[:, 0].numpy(), pixels[rows])
        assert [images.class_names[y] for y in images.labels.tolist()] == [names[r] for r in rows]


def test_parquet_that_is_no_image_data_set(tmp_path: Path) -> None:
    """Columns, labels and splits that cannot be used are named."""
    file = _png(_random_pixels(5, 4), tmp_path / "png")
    folder = tmp_path / "set"
    _write_parquet(folder, "train", image=[file] * 4, species=[0, 1, 0, 1])
    with pytest.raises(DataError, match="columns image, species, "):
        load(folder)
    _write_parquet(folder, "train", image=[file] * 4, label=[0, 1, 0, -1])
    with pytest.raises(DataError, match="Save a copy without those images"):
        load(folder)
    _write_parquet(folder, "train", image=[file] * 4, label=[0.5, 1.0, 0.0, 1.0])
    with pytest.raises(DataError, match="one class number from 0 on"):
        load(folder)
    _write_parquet(folder, "train", image=[[0, 1], [2, 3]], label=[0, 1])
    with pytest.raises(DataError, match="savez_compressed"):
        load(folder)
    (folder / "train.parquet").unlink()
    for name in ("test", "validation"):
        _write_parquet(folder, name, image=[file] * 4, label=[0, 1, 0, 1])
    with pytest.raises(DataError, match="none of them is called train"):
        load(folder)


def test_saved_to_disk_by_datasets(tmp_path: Path) -> None:
    """A folder written by `save_to_disk` is read too."""
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    pixels = _random_pixels(8, 5, 4)
    columns = {"image": [image.fromarray(array) for array in pixels], "label": _labels(8)}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    assert sum(load(tmp_path / "set").record.sizes.values()) == 8


def test_progress_bars_are_silenced_and_restored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Loading prints nothing and leaves the library's setting as it was."""
    datasets = pytest.importorskip("datasets")
    _write_image_folder(tmp_path, ["train", "test"])
    datasets.enable_progress_bars()
    load(tmp_path)
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_without_the_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "notsure\[data\]"'):
        load(tmp_path)


def test_the_hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable hub is told from a data set that it does not have."""
    datasets = pytest.importorskip("datasets")

    def unreachable(name: str) -> None:
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"could not be reached.*give a local folder instead"):
        load("ylecun/mnist")

    def unknown(name: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"{name!r} doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unknown)
    with pytest.raises(DataError, match="Check the spelling"):
        load("ylecun/mnits")


def test_a_hub_id_takes_the_same_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub yields is read like a local folder; CIFAR-100's fine labels are the classes."""
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")

    def published(name: str) -> object:
        assert name == "owner/name"
        features = datasets.Features(
            {
                "img": datasets.Image(),
                "coarse_label": datasets.ClassLabel(names=["animal"]),
                "fine_label": datasets.ClassLabel(names=["cat", "dog", "owl"]),
            }
        )
        splits = {}
        for number, split_name in enumerate(["train", "test", "extra"]):
            images = [image.fromarray(a) for a in _random_pixels(6, 5, 4, 3, seed=number)]
            columns = {"img": images, "coarse_label": [0] * 6, "fine_label": [0, 1] * 3}
            splits[split_name] = datasets.Dataset.from_dict(columns, features=features)
        return datasets.DatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", published)
    parts = load("owner/name")
    assert parts.test.class_names == ("cat", "dog", "owl")
    assert parts.record.sizes == {"train": 3, "calibration": 3, "test": 6}
    assert parts.record.source == "owner/name"


# --- MNIST --------------------------------------------------------------------------------------


def test_mnist_is_read_as_published(data_root: Path) -> None:
    """60,000 + 10,000 images whose bytes have the MD5 sums of the published IDX files."""
    pytest.importorskip("datasets")
    parts = load(data_root / "mnist")
    _assert_disjoint(parts)
    record = parts.record
    held = record.sizes["train"] + record.sizes["calibration"]
    assert held + record.duplicates_removed == 60_000
    assert record.sizes["test"] == 10_000
    assert record.sizes["calibration"] == 5_000
    assert parts.train.class_names == tuple("0123456789")
    assert torch.bincount(parts.test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    header = bytes.fromhex("00000803 00002710 0000001c 0000001c")
    sums = hashlib.md5(
        header + parts.test.pixels.numpy().tobytes(), usedforsecurity=False
    ).hexdigest()
    assert sums == "2646ac647ad5339dbf082846283269ea"
    assert record.duplicates_removed == 0
    order = np.argsort([*record.indices["train"], *record.indices["calibration"]])
    pixels = torch.cat([parts.train.pixels, parts.calibration.pixels])[torch.from_numpy(order)]
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    sums = hashlib.md5(header + pixels.numpy().tobytes(), usedforsecurity=False).hexdigest()
    assert sums == "6bbc9ace898e44ae57da46a324031adb"
