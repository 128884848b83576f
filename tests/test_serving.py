"""A service answers what the judge says, and refuses what it should with a reason."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import notsure as ns
from notsure.serving.backend import Judged
from tests.served import Brightness, Client, everything, flat, form, png, served, until


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service with narrow limits."""
    folder = tmp_path_factory.mktemp("serving")
    with served(folder, images=8, waiting=64, body_bytes=1 << 16, image_pixels=10_000) as found:
        yield found


def labels(answer: Any) -> list[int]:
    return [one["label"] for one in answer["verdicts"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"image": flat(0.1)}, [0]),
        ({"image": flat(0.1, (1, 4, 4))}, [0]),
        ({"image": flat(0.5, (4, 4, 1))}, [1]),
        ({"images": [flat(0.1), flat(0.7), flat(0.9)]}, [0, 2, -1]),
        ({"images": [flat(0.5, (1, 4, 4))]}, [1]),
        ({"images": flat(0.4, (2, 4, 4, 1))}, [1, 1]),
        (flat(0.5), [1]),
        ([flat(0.5), flat(0.5)], [1, 1]),
        (flat(1, (4, 4)), [-1]),
    ],
)
def test_arrays_are_judged_in_every_usual_layout(
    client: Client, content: Any, expected: list[int]
) -> None:
    status, answer = client.judge(content)
    assert status == 200
    assert labels(answer) == expected


def test_image_files_are_judged_alone_and_together(client: Client) -> None:
    assert labels(client.send(png(0.5))[1]) == [1]
    assert labels(client.send(png(0.1), "application/octet-stream")[1]) == [0]
    body, kind = form(png(0.1), png(0.5), png(1.0))
    assert labels(client.send(body, kind)[1]) == [0, 1, -1]


def test_an_answer_has_what_is_needed_to_act_on_it(client: Client) -> None:
    _, answer = client.judge({"images": [flat(0.5), flat(0.9)]})
    clear, unsure = answer["verdicts"]
    assert clear == {
        "label": 1,
        "accepted": True,
        "scores": {"brightness": 0.5},
        "review": None,
    }
    assert (unsure["label"], unsure["accepted"]) == (-1, False)
    assert client.ask("GET", f"/review/{unsure['review']}")[1]["prediction"] == 2


REFUSED: list[tuple[str, bytes, str, int, str]] = [
    ("nothing", b"", "application/json", 400, "malformed_json"),
    ("half an array", b"[[0.1, 0.2], [0.3", "application/json", 400, "malformed_json"),
    ("no number", b"[[NaN]]", "application/json", 400, "malformed_json"),
    ("infinity", b"[[-Infinity]]", "application/json", 400, "malformed_json"),
    ("not UTF-8", b'["\xff\xfe"]', "application/json", 400, "malformed_json"),
    ("deep nesting", b"[" * 30_000 + b"]" * 30_000, "application/json", 400, "malformed_json"),
    ("no image", b'{"picture": []}', "application/json", 422, "no_images"),
    ("both names", b'{"image": [], "images": []}', "application/json", 422, "no_images"),
    ("a number", b"3", "application/json", 422, "no_images"),
    ("an empty list", b"[]", "application/json", 422, "wrong_shape"),
    ("an empty batch", b'{"images": [[]]}', "application/json", 422, "wrong_shape"),
    ("lists too deep", b"[[[[[0.5]]]]]", "application/json", 422, "wrong_shape"),
    ("ragged lists", b"[[0.1, 0.2], [0.3]]", "application/json", 422, "wrong_shape"),
    ("texts", json.dumps(np.full((4, 4), "a").tolist()).encode(), "application/json", 422,
     "not_an_image"),
    ("a text among numbers", b'[["a", 1, 2, 3]]', "application/json", 422, "not_an_image"),
    ("true", b"[[true, false]]", "application/json", 422, "not_an_image"),
    ("null", json.dumps([[None] * 4] * 4).encode(), "application/json", 422, "not_an_image"),
    ("a huge integer", b"[[" + b"9" * 5000 + b"]]", "application/json", 400, "malformed_json"),
    ("a large integer", b"[[" + b"9" * 400 + b"]]", "application/json", 422, "not_an_image"),
    ("beyond floats", json.dumps([[1e39] * 4] * 4).encode(), "application/json", 422,
     "not_an_image"),
    ("0..255", json.dumps(flat(128.0)).encode(), "application/json", 422, "not_an_image"),
    ("another size", json.dumps(flat(0.5, (5, 5))).encode(), "application/json", 422,
     "wrong_shape"),
    ("too many", json.dumps([flat(0.5)] * 9).encode(), "application/json", 413, "too_many_images"),
    ("no image file", b"GIF89a, or so it says", "image/gif", 422, "damaged_image"),
    ("half an image file", png(0.5, (60, 60))[:60], "image/png", 422, "wrong_size"),
    ("cut off pixels", png(0.5)[:45], "image/png", 422, "damaged_image"),
    ("another size of file", png(0.5, (5, 4)), "image/png", 422, "wrong_size"),
    ("a bomb", png(0.0, (2000, 2000)), "image/png", 413, "image_too_large"),
    ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422,
     "damaged_image"),
    ("a form of nothing", form()[0], form()[1], 422, "no_images"),
    ("a form without an edge", b"abc", "multipart/form-data", 400, "malformed_form"),
    ("a form that ends early", form(png())[0][:60], form()[1], 400, "malformed_form"),
    ("a form of fields", form(png())[0].replace(b"; filename=x.png", b""), form()[1], 400,
     "malformed_form"),
    ("too many files", form(*[png()] * 9)[0], form()[1], 413, "too_many_images"),
    ("text", b"hello", "text/plain", 415, "unknown_content_type"),
    ("a pickle", b"\x80\x04K\x01.", "application/x-pickle", 415, "unknown_content_type"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "status", "error"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_bad_requests_are_refused_with_a_reason(
    client: Client, body: bytes, kind: str, status: int, error: str
) -> None:
    found, answer = client.send(body, kind)
    assert (found, answer["error"]) == (status, error), answer
    assert len(answer["detail"]) > 10
    # and the service is as good as before
    assert labels(client.judge(flat(0.5))[1]) == [1]


def test_what_is_not_there_is_told_in_the_same_form(client: Client) -> None:
    for method, path, status, error in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/judge", 405, "wrong_method"),
        ("DELETE", "/review/1", 405, "wrong_method"),
        ("GET", "/review/999999", 404, "not_found"),
        ("GET", f"/review/{2**80}", 404, "not_found"),
        ("GET", "/review/abc", 422, "invalid"),
        ("GET", "/review/1234/image", 404, "not_found"),
        ("GET", "/review?limit=0", 422, "invalid"),
        ("GET", "/review?state=lost", 422, "invalid"),
    ):
        found, answer = client.ask(method, path)
        assert (found, answer["error"]) == (status, error), path
        assert len(answer["detail"]) > 15, path


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    status, answer = client.judge(flat(0.123456789, (40, 40, 40)))
    assert (status, answer["error"]) == (413, "body_too_large")
    # also where its length is not told beforehand
    with client.open() as connection:
        connection.sendall(
            b"POST /judge HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/json\r\n\r\n"
        )
        for _ in range(20):
            connection.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_one_who_was_let_begin_hears_why_it_was_too_much(client: Client) -> None:
    with client.open() as connection:
        connection.sendall(
            b"POST /judge HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"expect: 100-continue\r\ncontent-type: image/png\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        # more than the service would read before it answers
        for _ in range(8):
            connection.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")
        assert b"body_too_large" in everything(connection)


def test_one_who_asks_before_sending_too_much_is_told_at_once(client: Client) -> None:
    with client.open() as connection:
        connection.sendall(
            b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n"
            b"expect: 100-continue\r\ncontent-type: image/png\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_person_labels_what_was_rejected(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.judge({"images": [flat(0.8), flat(0.5), flat(0.9), flat(1.0), flat(0.95)]})
        _, found = client.ask("GET", "/review")
        assert [one["id"] for one in found["items"]] == [1, 2, 3, 4]
        assert found["counts"] == {"waiting": 4, "labelled": 0, "set aside": 0}
        _, rest = client.ask("GET", "/review?after=1&limit=2")
        assert [one["id"] for one in rest["items"]] == [2, 3]
        decide = {"content_type": "application/json"}
        for number, body in ((1, b'{"label": 2}'), (3, b'{"label": 0, "note": "inverted"}')):
            status, item = client.ask("POST", f"/review/{number}", body, **decide)
            assert (status, item["state"]) == (200, "labelled")
        assert item["note"] == "inverted"
        _, item = client.ask("POST", "/review/4", b'{"label": null}', **decide)
        assert item["state"] == "set aside"
        status, answer = client.ask("POST", "/review/2", b'{"label": 1}', content_type="text/plain")
        assert (status, "application/json" in answer["detail"]) == (422, True)
        for wrong in (b'{"label": 3}', b'{"label": -1}', b'{"label": "1"}', b"{}", b'{"x": 1}'):
            assert client.ask("POST", "/review/2", wrong, **decide)[0] == 422
        assert client.ask("POST", "/review/77", b'{"label": 1}', **decide)[0] == 404
        assert client.ask("GET", "/review")[1]["counts"] == {
            "waiting": 1,
            "labelled": 2,
            "set aside": 1,
        }
        # an image that comes again is the same item, whatever became of it
        _, answer = client.judge(flat(0.8))
        assert answer["verdicts"][0]["review"] == 1
        assert client.ask("GET", "/review/1")[1]["times"] == 2
        _, content = client.ask("GET", "/review/export")
    path = tmp_path / "review.npz"
    path.write_bytes(content)
    with np.load(path) as arrays:
        assert arrays["id"].tolist() == [1, 3]
        assert arrays["y"].tolist() == [2, 0]
        np.testing.assert_array_equal(arrays["x"][:, 0, 0, 0], [204, 255])
    split = ns.data.sources.read(path)
    assert split["all"].image_shape == (1, 4, 4)


def test_an_items_image_is_what_was_judged(tmp_path: Path) -> None:
    from PIL import Image

    with served(tmp_path, Brightness(channels=3)) as client:
        colours = np.full((4, 4, 3), 200, np.uint8)
        colours[..., 1] = 255
        buffer = io.BytesIO()
        Image.fromarray(colours).save(buffer, "PNG")
        _, answer = client.send(buffer.getvalue())
        status, content = client.ask("GET", f"/review/{answer['verdicts'][0]['review']}/image")
        assert status == 200
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), colours)


def test_nothing_is_answered_that_could_not_be_kept(tmp_path: Path) -> None:
    with served(tmp_path, review_items=2) as client:
        assert client.judge({"images": [flat(0.8), flat(0.9)]})[0] == 200
        status, answer = client.judge({"images": [flat(0.5), flat(0.95)]})
        assert (status, answer["error"]) == (429, "review_full")
        # what was kept before, and what is clear, is answered all the same
        assert client.judge({"images": [flat(0.5), flat(0.8)]})[0] == 200
        client.ask("POST", "/review/1", b'{"label": 2}', content_type="application/json")
        assert client.judge(flat(0.95))[0] == 200


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.judge({"images": [flat(0.5), flat(0.5), flat(0.9), flat(1.0)]})
        client.judge([[1]])
        _, content = client.ask("GET", "/metrics")
    text = content.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['notsure_verdicts_total{accepted="true",label="1"}'] == "2"
    assert values['notsure_verdicts_total{accepted="false",label="-1"}'] == "2"
    assert values['notsure_requests_total{path="/judge",status="200"}'] == "1"
    assert values['notsure_requests_total{path="/judge",status="422"}'] == "1"
    # (0.5 - 0.75) / 0.25 = -1, twice; 0.6 and 1
    excess = 'notsure_score_excess_bucket{detector="brightness",le="'
    assert values[f'{excess}-1.0"}}'] == "2"
    assert values[f'{excess}0.0"}}'] == "2"
    assert values[f'{excess}+Inf"}}'] == "4"
    assert values["notsure_review_waiting"] == "2"
    assert float(values["notsure_resident_bytes"]) > 1e6
    assert values["notsure_active_requests"] == "1"


def test_requests_that_come_together_are_judged_together(tmp_path: Path) -> None:
    judge = Brightness()
    judge.go.clear()
    with served(tmp_path, judge, batch_size=16) as client, ThreadPoolExecutor(20) as pool:
        first = pool.submit(client.judge, flat(0.1))
        assert judge.began.wait(10)
        rest = [pool.submit(client.judge, flat(level / 20)) for level in range(14)]
        until(lambda: client.service.waiting == 15)
        judge.go.set()
        assert labels(first.result()[1]) == [0]
        expected = [min(2, int(level / 20 * 3)) for level in range(14)]
        assert [labels(one.result()[1])[0] for one in rest] == expected
    assert judge.batches == [1, 14]


def test_who_comes_when_too_many_wait_is_sent_away(tmp_path: Path) -> None:
    judge = Brightness()
    judge.go.clear()
    with served(tmp_path, judge, waiting=8, images=8) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.judge, [flat(0.1)] * 6)
        assert judge.began.wait(10)
        status, answer = client.judge([flat(0.1)] * 3)
        assert (status, answer["error"]) == (429, "too_busy")
        second = pool.submit(client.judge, [flat(0.1)] * 2)
        until(lambda: client.service.waiting == 8)
        judge.go.set()
        assert first.result()[0] == second.result()[0] == 200
        assert client.judge([flat(0.1)] * 8)[0] == 200


def test_a_batch_that_fails_is_a_500_and_the_next_one_is_not(tmp_path: Path) -> None:
    judge = Brightness()
    with served(tmp_path, judge) as client:
        judge.error = RuntimeError("the network is broken")
        status, answer = client.judge(flat(0.5))
        assert (status, answer["error"]) == (500, "error")
        # nobody is told what broke
        assert "network" not in str(answer)
        judge.error = None
        assert client.judge(flat(0.5))[0] == 200
        assert client.service.waiting == 0


def test_a_slow_disk_keeps_those_waiting_alone_whose_images_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, written = Brightness(), threading.Event()
    with served(tmp_path, judge) as client, ThreadPoolExecutor(2) as pool:
        add = client.service.queue.add

        def slow(rejected: Any) -> Any:
            written.wait(20)
            return add(rejected)

        monkeypatch.setattr(client.service.queue, "add", slow)
        unsure = pool.submit(client.judge, flat(0.9))
        until(lambda: len(judge.batches) == 1)
        assert labels(client.judge(flat(0.5))[1]) == [1]
        assert not unsure.done()
        written.set()
        assert unsure.result()[1]["verdicts"][0]["review"] == 1
        until(lambda: client.service.waiting == 0)


def test_what_cannot_be_kept_is_a_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as client:

        def broken(rejected: Any) -> Any:
            raise OSError("no space left on device")

        monkeypatch.setattr(client.service.queue, "add", broken)
        assert client.judge([flat(0.5), flat(0.9)])[0] == 500
        assert client.judge(flat(0.5))[0] == 200
        assert client.service.waiting == 0


def test_images_that_were_not_told_of_are_a_500_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    class Short(Brightness):
        short = True

        def judge(self, x: torch.Tensor) -> Judged:
            found = super().judge(x)
            if self.short:
                return Judged(found.label[1:], found.accepted[1:], found.scores[1:], None)
            return found

    judge = Short()
    with served(tmp_path, judge) as client:
        assert client.judge(flat(0.5))[0] == 500
        judge.short = False
        assert client.judge(flat(0.5))[0] == 200
        assert client.ask("GET", "/health")[0] == 200


def test_half_a_surrogate_pair_is_no_label(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.judge(flat(0.9))
        for body in (
            rb'{"\ud800": 1}',
            rb'{"label": "\ud800"}',
            rb'{"label": 1, "note": "\ud800"}',
        ):
            found = client.ask("POST", "/review/1", body, content_type="application/json")
            assert found[0] == 422, found


def test_the_files_of_a_form_are_what_stands_between_its_boundaries(client: Client) -> None:
    body, kind = form(png(0.1), png(0.5))
    for told in (
        kind.replace("edge", '"edge"'),
        kind.upper().replace("EDGE", "edge"),
        kind + "; charset=undefined",
    ):
        assert labels(client.send(b"before\r\n" + body + b"after", told)[1]) == [0, 1]
    for wrong in ("", "; boundary=", "; boundary=" + 71 * "e", "; boundary=dge"):
        status, answer = client.send(body, f"multipart/form-data{wrong}")
        assert (status, answer["error"]) == (400, "malformed_form"), wrong


def test_large_bodies_are_taken_apart_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path) as client:
        where = []
        for name in ("array", "files", "form"):
            work = getattr(client.service.decoder, name)

            def noted(*given: Any, work: Any = work) -> Any:
                where.append(threading.current_thread().name.partition("_")[0])
                return work(*given)

            monkeypatch.setattr(client.service.decoder, name, noted)
        spaces = b" " * 20_000
        assert client.send(b"[[" + spaces + b"]]", "application/json")[0] == 422
        assert client.send(spaces)[0] == 422
        body, kind = form(spaces)
        assert client.send(body, kind)[0] == 422
        assert set(where) == {"decoding"}


def test_the_key_is_asked_for(tmp_path: Path) -> None:
    with served(tmp_path, key="correct horse battery") as client:
        assert client.ask("GET", "/health")[0] == 200
        for path in ("/review", "/metrics", "/guard", "/review/export"):
            status, answer = client.ask("GET", path)
            assert (status, answer["error"]) == (401, "unauthorized")
        for wrong in ("correct horse batter", "correct horse battery ", "", "\xe9"):
            assert client.ask("GET", "/guard", x_api_key=wrong.strip() + "!")[0] == 401
        assert client.ask("GET", "/guard", x_api_key="correct horse battery")[0] == 200
        bearer = "Bearer correct horse battery"
        assert client.ask("GET", "/guard", authorization=bearer)[0] == 200
        assert client.ask("GET", "/guard", authorization="Basic correct horse battery")[0] == 401
        assert client.ask("POST", "/judge", b"x" * 1000)[0] == 401


def test_a_service_without_a_key_answers_to_its_own_name_alone(tmp_path: Path) -> None:
    with served(tmp_path, hosts=frozenset({"127.0.0.1", "localhost"})) as client:
        assert client.ask("GET", "/review")[0] == 200
        assert client.ask("GET", "/review", host="localhost:1234")[0] == 200
        for host in ("attacker.example", "127.0.0.1.attacker.example", "", "[::2]:80"):
            assert client.ask("GET", "/review", host=host)[0] == 421
        for method, path, headers in (
            ("POST", "/judge", {"sec_fetch_site": "cross-site"}),
            ("POST", "/judge", {"sec_fetch_site": "same-site"}),
            ("POST", "/review/1", {"origin": "http://attacker.example"}),
            ("POST", "/review/1", {"origin": "null"}),
            ("POST", "/review/1", {"origin": "http://localhost:3000", "host": "localhost:8000"}),
            ("GET", "/review/1/image", {"sec_fetch_site": "cross-site"}),
        ):
            status, answer = client.ask(method, path, b"", **headers)
            assert (status, answer["error"]) == (403, "cross_site"), headers
        # its own page, and a link to it
        own = {"origin": "http://localhost:8000", "host": "localhost:8000"}
        assert client.ask("GET", "/review", None, **own)[0] == 200
        assert client.ask("GET", "/review", None, sec_fetch_site="same-origin", **own)[0] == 200
        followed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
        assert client.ask("GET", "/", None, **followed)[0] == 200
        assert client.ask("POST", "/judge", b"", **followed)[0] == 403


def test_scores_can_be_kept_back(tmp_path: Path) -> None:
    with served(tmp_path, show_scores=False) as client:
        assert client.judge([flat(0.5), flat(0.9)])[1]["verdicts"][0]["scores"] is None
        assert client.ask("GET", "/review/1")[1]["scores"] is None
        assert client.ask("GET", "/review")[1]["items"][0]["scores"] is None


def test_files_are_resized_where_that_was_asked_for(tmp_path: Path) -> None:
    with served(tmp_path, resize=True) as client:
        assert labels(client.send(png(0.5, (31, 17), "RGB"))[1]) == [1]


def test_the_description_and_the_pages_need_nothing_from_outside(client: Client) -> None:
    _, description = client.ask("GET", "/openapi.json")
    assert {"/judge", "/health", "/metrics", "/review", "/review/{number}"} <= set(
        description["paths"]
    )
    assert "multipart/form-data" in str(description["paths"]["/judge"])
    for path in ("/docs", "/"):
        status, page = client.ask("GET", path)
        assert status == 200
        assert b"http://" not in page
        assert b"https://" not in page
    assert b"POST /judge" in client.ask("GET", "/docs")[1]


def test_what_waits_is_answered_before_the_service_ends(tmp_path: Path) -> None:
    judge = Brightness()
    judge.go.clear()
    with ThreadPoolExecutor(2) as pool:
        with served(tmp_path, judge) as client:
            answer = pool.submit(client.judge, flat(0.9))
            assert judge.began.wait(10)
            threading.Timer(0.3, judge.go.set).start()
            began = time.monotonic()
        assert labels(answer.result()[1]) == [-1]
        assert time.monotonic() - began < 20
