"""What a service is made of, by itself: decoding, the review queue, backends."""

from __future__ import annotations

import json
import sqlite3
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import notsure as ns
from notsure import export
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.state import seeded
from notsure.detectors import Confidence
from notsure.purifiers.base import Shape
from notsure.serving.backend import GuardBackend, backend_of
from notsure.serving.decoding import Decoder
from notsure.serving.limits import Limits, RefusalError
from notsure.serving.metrics import Counter, Histogram
from notsure.serving.review import Rejected, ReviewQueue
from tests.served import encoded
from tests.toys import SmallNetwork

SHAPE: Shape = (1, 4, 4)


def decoded(body: bytes, shape: Shape = (3, 2, 3), **settings: Any) -> torch.Tensor:
    return Decoder(shape, Limits(), **settings).files([body])[0]


PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14


def test_colours_come_in_order() -> None:
    x = decoded(encoded(Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(x.numpy(), PIXELS.transpose(2, 0, 1).astype(np.float32) / 255)


def test_pixels_are_those_that_data_sets_give() -> None:
    images = ns.data.from_arrays(PIXELS[None], np.array([0]))
    assert torch.equal(decoded(encoded(Image.fromarray(PIXELS))), images.x[0])


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "CMYK"])
def test_every_mode_becomes_what_the_guard_takes(mode: str) -> None:
    grey = Image.new("L", (3, 2), 102)
    image = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    for shape in ((3, 2, 3), (1, 2, 3)):
        x = decoded(encoded(image, kind), shape)
        assert x.shape == shape
        torch.testing.assert_close(x, torch.full(shape, 0.4), atol=0.005, rtol=0)


def test_transparency_is_dropped_as_data_sets_drop_it() -> None:
    image = Image.new("RGBA", (3, 2), (51, 102, 153, 0))
    x = decoded(encoded(image))
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([0.2, 0.4, 0.6]))


def test_sixteen_bits_keep_their_range() -> None:
    levels = np.array([[0, 32768, 65535], [1, 257, 40000]], np.uint16)
    x = decoded(encoded(Image.fromarray(levels)), (1, 2, 3))
    np.testing.assert_allclose(x[0].numpy(), levels / 65535, atol=0.5 / 255 + 1e-6)
    assert float(x.max()) == 1


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(PIXELS)
    # stored 2 high and 3 wide, shown 3 high and 2 wide
    x = decoded(encoded(stored, "PNG", exif=exif), (3, 3, 2))
    np.testing.assert_array_equal(
        x.numpy() * 255, np.rot90(PIXELS, -1).transpose(2, 0, 1).astype(np.float32)
    )
    with pytest.raises(RefusalError, match="3x2 pixels"):
        decoded(encoded(stored, "PNG", exif=exif), (3, 2, 3))


def test_an_animation_is_judged_by_its_first_picture() -> None:
    first, second = Image.new("L", (3, 2), 255), Image.new("L", (3, 2), 0)
    body = encoded(first, "PNG", save_all=True, append_images=[second])
    assert bool((decoded(body, (1, 2, 3)) == 1).all())


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM"])
def test_what_can_ask_for_any_memory_or_time_is_not_decoded(kind: str) -> None:
    with pytest.raises(RefusalError, match="Formats: PNG, JPEG, WEBP, BMP") as refused:
        decoded(encoded(Image.new("L", (3, 2)), kind), (1, 2, 3))
    assert refused.value.status == 422


def test_a_jpeg_does_not_go_over_its_pixels_for_ever() -> None:
    body = encoded(Image.fromarray(PIXELS), "JPEG", progressive=True)
    last = body[body.rindex(b"\xff\xda") : -2]
    assert decoded(body[:-2] + 50 * last + body[-2:]).shape == (3, 2, 3)
    with pytest.raises(RefusalError, match=r"1\d\d times") as refused:
        decoded(body[:-2] + 100 * last + body[-2:])
    assert refused.value.status == 422


def most_memory(body: bytes) -> tuple[RefusalError, int]:
    """Why an array is refused, and the bytes of memory that it took to find out."""
    decoder = Decoder(SHAPE, Limits())
    tracemalloc.start()
    try:
        with pytest.raises(RefusalError) as refused:
            decoder.array(body)
        return refused.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_text_among_numbers_takes_its_own_room_alone() -> None:
    body = json.dumps(["a" * 3000, *range(3000)]).encode()
    refusal, most = most_memory(body)
    assert refusal.code == "not_an_image"
    assert most < 2**20


def test_too_many_numbers_are_counted_before_they_are_made_objects() -> None:
    refusal, most = most_memory(b"[" + b"[]," * 1_000_000 + b"[]]")
    assert (refusal.status, refusal.code) == (413, "too_many_images")
    assert most < 2**20


def test_a_huge_picture_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encoded(Image.new("1", (9000, 9000)))
    assert len(body) < 20_000

    def load(self: Image.Image) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(RefusalError, match="9000x9000") as refused:
        decoded(body, resize=True)
    assert refused.value.status == 413
    # nor is one of the wrong size, where sizes are not changed
    with pytest.raises(RefusalError, match="takes 2x3"):
        decoded(encoded(Image.new("L", (50, 50))))


def test_resizing_keeps_a_gradient() -> None:
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    x = decoded(encoded(Image.fromarray(ramp)), (1, 8, 8), resize=True)
    steps = x[0].diff(dim=1)
    assert bool((steps > 0.08).all())
    assert bool((steps < 0.16).all())


@pytest.fixture
def queue(tmp_path: Path) -> ReviewQueue:
    return ReviewQueue(tmp_path / "queue.sqlite", shape=SHAPE, num_classes=3, most=10)


def rejected(level: float) -> Rejected:
    return Rejected(torch.full(SHAPE, level), 1, {"a": level})


def test_images_are_kept_to_the_bit(queue: ReviewQueue) -> None:
    eight = torch.randint(0, 256, SHAPE).float() / 255
    exact = torch.rand(SHAPE)
    numbers = queue.add([Rejected(eight, 1, {}), Rejected(exact, None, {"a": 2.5})])
    for number, image in zip(numbers, (eight, exact), strict=True):
        assert number is not None
        kept = queue.image(number)
        assert kept is not None
        assert torch.equal(kept, image)
    item = queue.item(2)
    assert item is not None
    assert (item["prediction"], item["scores"], item["state"]) == (None, {"a": 2.5}, "waiting")


def test_the_same_image_is_one_item(queue: ReviewQueue) -> None:
    assert queue.add([rejected(0.1), rejected(0.2), rejected(0.1)]) == [1, 2, 1]
    assert queue.add([rejected(0.2)]) == [2]
    assert queue.waiting == 2
    assert [item["times"] for item in queue.items()] == [2, 2]


def test_what_does_not_fit_is_told_and_the_rest_is_kept(queue: ReviewQueue) -> None:
    numbers = queue.add([rejected(level / 20) for level in range(12)])
    assert numbers == [*range(1, 11), None, None]
    assert queue.add([rejected(0.0)]) == [1]
    queue.decide(1, None)
    assert queue.add([rejected(0.99)]) == [11]
    assert queue.waiting == 10


def test_a_failure_in_the_middle_keeps_nothing(queue: ReviewQueue) -> None:
    bad = Rejected(torch.zeros(SHAPE), 1, {"a": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        queue.add([rejected(0.1), bad])
    assert queue.waiting == 0
    assert queue.items() == []
    assert queue.add([rejected(0.1)]) == [1]


class Refusing:
    """A connection whose next COMMIT fails."""

    def __init__(self, of: sqlite3.Connection) -> None:
        self._of, self.refuses = of, True

    def execute(self, statement: str, *given: Any) -> Any:
        if statement == "COMMIT" and self.refuses:
            self.refuses = False
            raise sqlite3.OperationalError("disk I/O error")
        return self._of.execute(statement, *given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def test_a_commit_that_fails_keeps_nothing_and_is_got_over(queue: ReviewQueue) -> None:
    queue.add([rejected(0.1)])
    queue._writer = Refusing(queue._writer)  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        queue.add([rejected(0.2)])
    assert queue.waiting == queue.counts()["waiting"] == 1
    assert queue.add([rejected(0.3)]) == [2]
    queue._writer = Refusing(queue._writer)  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        queue.decide(2, 1)
    assert queue.waiting == queue.counts()["waiting"] == 2


def test_a_full_disk_is_got_over_once_there_is_room(queue: ReviewQueue) -> None:
    queue.most = 10_000
    queue.add([rejected(0.1)])
    pages = queue._writer.execute("PRAGMA page_count").fetchone()[0]
    queue._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        queue.add([Rejected(torch.rand(SHAPE), None, {}) for _ in range(500)])
    assert queue.waiting == queue.counts()["waiting"] == 1
    queue._writer.execute("PRAGMA max_page_count = 1000000")
    assert queue.add([rejected(0.2)]) == [2]


def test_a_queue_is_found_again(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.add([rejected(0.1), rejected(0.2)])
    queue.decide(2, 1, "a note")
    queue.close()
    again = ReviewQueue(tmp_path / "queue.sqlite", shape=SHAPE, num_classes=3)
    assert again.waiting == 1
    assert again.counts() == {"waiting": 1, "labelled": 1, "set aside": 0}
    with pytest.raises(CheckpointError, match="num_classes 3"):
        ReviewQueue(tmp_path / "queue.sqlite", shape=SHAPE, num_classes=4)
    with pytest.raises(CheckpointError, match="shape"):
        ReviewQueue(tmp_path / "queue.sqlite", shape=(3, 4, 4), num_classes=3)


def test_a_file_that_is_no_queue_is_told(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(CheckpointError, match="damaged or no review queue"):
        ReviewQueue(path, shape=SHAPE, num_classes=3)
    with pytest.raises(ConfigurationError, match=r"review|folder"):
        ReviewQueue(path / "inside.sqlite", shape=SHAPE, num_classes=3)


def test_reading_and_deciding_while_images_come(queue: ReviewQueue) -> None:
    queue.most = 10_000
    errors: list[BaseException] = []

    def come(first: int) -> None:
        try:
            for level in range(100):
                queue.add([Rejected(torch.rand(SHAPE), first + level, {})])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come, args=(number,)) for number in (0, 1000)]
    for thread in threads:
        thread.start()
    decided = 0
    while any(thread.is_alive() for thread in threads):
        for item in queue.items(limit=5):
            queue.decide(item["id"], 0)
            decided += 1
    assert errors == []
    assert queue.waiting == 200 - decided == queue.counts()["waiting"]


def test_a_data_set_larger_than_a_page(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.most = 1000
    with seeded(0):
        x = torch.randint(0, 256, (600, *SHAPE)).float() / 255
    queue.add([Rejected(image, None, {}) for image in x])
    for number in range(1, 601):
        queue.decide(number, number % 3)
    with (tmp_path / "out.npz").open("wb") as file:
        assert queue.write_data_set(file) == 600
    images = ns.data.sources.read(tmp_path / "out.npz")["all"]
    assert torch.equal(images.x, x)
    assert images.labels.tolist() == [number % 3 for number in range(1, 601)]
    split = ns.data.load(tmp_path / "out.npz")
    assert sum(map(len, (split.train, split.calibration, split.test))) == 600


def test_what_was_committed_is_on_the_disk(queue: ReviewQueue, tmp_path: Path) -> None:
    mode = queue._writer.execute("PRAGMA synchronous").fetchone()[0]
    assert mode == 2
    queue.add([rejected(0.3)])
    # somebody else sees it at once, without this process closing anything
    with sqlite3.connect(tmp_path / "queue.sqlite") as other:
        assert other.execute("SELECT COUNT(*) FROM item").fetchone()[0] == 1


def small_guard() -> tuple[ns.Guard, torch.Tensor]:
    with seeded(0):
        network = SmallNetwork(3)
        x = torch.rand(300, 1, 6, 6)
    with torch.no_grad():
        network.head.weight.mul_(20)
    guard = ns.Guard(ns.Classifier(network.eval()), [Confidence()])
    return guard.fit(x, torch.arange(300) % 3).calibrate(x[:200] * 0.99, fpr=0.3), x


def test_a_guard_and_its_export_say_the_same(tmp_path: Path) -> None:
    guard, x = small_guard()
    export.to_onnx(guard, tmp_path / "guard.onnx", images=x)
    own, exported = GuardBackend(guard, size=6), backend_of(tmp_path / "guard.onnx")
    verdict, first, second = guard.judge(x[:50]), own.judge(x[:50]), exported.judge(x[:50])
    for judged in (first, second):
        assert torch.equal(judged.label, verdict.label)
        assert torch.equal(judged.accepted, verdict.accepted)
        torch.testing.assert_close(judged.scores[:, 0], verdict.scores["Confidence"])
    assert first.prediction is not None
    assert torch.equal(first.prediction, verdict.prediction)
    assert second.prediction is None
    assert own.description == exported.description


def test_a_guard_in_double_precision_takes_what_comes(tmp_path: Path) -> None:
    network = SmallNetwork(3).double()
    judged = GuardBackend(ns.Guard(network), size=6).judge(torch.rand(5, 1, 6, 6))
    assert judged.scores.shape == (5, 0)
    assert bool(judged.accepted.all())


def test_what_cannot_judge_is_told_before_anybody_asks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        backend_of(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="size"):
        GuardBackend(ns.Guard(SmallNetwork(3)))


def test_a_histogram_counts_what_lies_within_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0, float("nan")):
        histogram.add(value, kind='a"b')
    histogram.add(float("inf"), kind='a"b')
    lines = histogram.lines("x")
    assert [line.rsplit(" ", 1)[1] for line in lines[:3]] == ["2", "4", "7"]
    assert lines[0].startswith('x_bucket{kind="a\\"b",le="1.0"}')
    assert lines[-1].endswith(" 7")
    # a sum that is not a number would stay so for ever
    assert lines[-2].endswith(" 14")


def test_a_count_is_told_to_its_last_digit() -> None:
    counter = Counter()
    counter.add(12_345_678, path="a")
    counter.add(path="a")
    assert counter.lines("x") == ['x{path="a"} 12345679']
