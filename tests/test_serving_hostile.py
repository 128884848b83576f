"""Clients that are slow, many or gone, and a process that is killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

import notsure as ns
from notsure.core.errors import ConfigurationError
from notsure.core.state import seeded
from notsure.detectors import Confidence
from notsure.serving.command import checked_key, is_loopback
from notsure.serving.limits import Limits
from notsure.serving.review import ReviewQueue
from tests.served import Brightness, everything, flat, served, until


def is_cut_off(connection: socket.socket, said: bytes, *, pause: float = 0, times: int) -> bool:
    """Whether the other end hangs up while the same is said again and again."""
    try:
        for _ in range(times):
            connection.sendall(said)
            time.sleep(pause)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("said", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_head_that_does_not_come_ends_the_connection(tmp_path: Path, said: bytes) -> None:
    with served(tmp_path, header_seconds=0.5) as client, client.open() as connection:
        connection.sendall(said)
        began = time.monotonic()
        assert everything(connection).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 5


def test_dripping_a_head_does_not_buy_time(tmp_path: Path) -> None:
    with served(tmp_path, header_seconds=0.6) as client, client.open() as connection:
        began = time.monotonic()
        assert is_cut_off(connection, b"G", pause=0.1, times=100)
        assert time.monotonic() - began < 5


def test_a_second_head_has_its_time_as_well(tmp_path: Path) -> None:
    whole = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with served(tmp_path, header_seconds=0.6) as client, client.open() as connection:
        connection.sendall(whole)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:10])
        assert everything(connection).startswith(b"HTTP/1.1 408")


def test_a_body_that_drips_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, body_seconds=0.5) as client, client.open() as connection:
        connection.sendall(b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n1")
        began = time.monotonic()
        assert b" 408 " in connection.recv(4096)
        assert time.monotonic() - began < 5
        assert client.judge(flat(0.5))[0] == 200


def test_slow_clients_keep_nobody_waiting(tmp_path: Path) -> None:
    with served(tmp_path, connections=200) as client:
        slow = [client.open() for _ in range(60)]
        for one in slow:
            one.sendall(b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n1")
        began = time.monotonic()
        for _ in range(20):
            assert client.judge(flat(0.5))[0] == 200
        assert time.monotonic() - began < 10
        for one in slow:
            one.close()


def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    with served(tmp_path, connections=5) as client:
        kept = [client.open() for _ in range(5)]
        until(lambda: client_refused(client.port))
        for one in kept:
            one.close()
        until(lambda: not client_refused(client.port))


def client_refused(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return b" 429 " in everything(connection)


def test_too_many_requests_at_a_time_are_refused(tmp_path: Path) -> None:
    judge = Brightness()
    judge.go.clear()
    with served(tmp_path, judge, requests=3) as client, ThreadPoolExecutor(8) as pool:
        first = [pool.submit(client.judge, flat(0.1)) for _ in range(3)]
        until(lambda: client.service.waiting == 3)
        status, answer = client.judge(flat(0.1))
        assert (status, answer["error"]) == (429, "too_many_requests")
        # who watches is told all the same
        assert client.ask("GET", "/health")[0] == client.ask("GET", "/metrics")[0] == 200
        judge.go.set()
        assert [one.result()[0] for one in first] == [200] * 3


def test_who_has_not_sent_everything_takes_nobodys_room(tmp_path: Path) -> None:
    with served(tmp_path, requests=3) as client:
        slow = [client.open() for _ in range(6)]
        for one in slow:
            one.sendall(b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n1")
        until(lambda: "notsure_buffered_bytes 6" in client.ask("GET", "/metrics")[1].decode())
        assert client.judge(flat(0.5))[0] == 200
        for one in slow:
            one.close()


def test_bodies_have_a_budget_together(tmp_path: Path) -> None:
    with served(tmp_path, body_bytes=50_000, buffered_bytes=60_000) as client:
        with client.open() as connection:
            connection.sendall(
                b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n\r\n" + b" " * 49_000
            )
            until(
                lambda: "notsure_buffered_bytes 49000" in client.ask("GET", "/metrics")[1].decode()
            )
            status, answer = client.send(b" " * 20_000)
            assert (status, answer["error"]) == (429, "too_busy")
        until(lambda: "notsure_buffered_bytes 0" in client.ask("GET", "/metrics")[1].decode())
        assert client.send(b" " * 20_000)[0] == 422


def test_whoever_does_not_read_is_cut_off(tmp_path: Path) -> None:
    with served(tmp_path, send_seconds=0.5) as client:
        connection = socket.socket()
        # a small window, so that the answers come to a stop
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.settimeout(20)
        ask = b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n"
        assert is_cut_off(connection, ask, times=20_000)
        connection.close()
        assert client.judge(flat(0.5))[0] == 200


def test_requests_that_are_broken_off_are_forgotten(tmp_path: Path) -> None:
    judge = Brightness()
    judge.go.clear()
    with served(tmp_path, judge, waiting=300) as client:
        body = json.dumps(flat(0.1)).encode()
        head = b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        for _ in range(5):
            with client.open() as connection:
                length = str(len(body)).encode()
                connection.sendall(head + b"content-length: " + length + b"\r\n\r\n" + body)
                time.sleep(0.02)
        with client.open() as connection:
            connection.sendall(head + b"content-length: 500\r\n\r\n[[0.1")
        judge.go.set()
        until(lambda: client.service.waiting == 0)
        assert client.judge(flat(0.5))[0] == 200
        text = client.ask("GET", "/metrics")[1].decode()
        assert "notsure_active_requests 1" in text


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /judge HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /judge HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ],
    ids=["TLS", "version", "headers", "negative", "two lengths", "chunks", "path"],
)
def test_what_is_not_http_is_not_answered_with_500(tmp_path: Path, said: bytes) -> None:
    with served(tmp_path, header_seconds=1, body_seconds=1, idle_seconds=1) as client:
        with client.open() as connection:
            connection.sendall(said)
            answer = everything(connection)
        assert not answer or answer.split(b" ")[1][:1] in (b"2", b"4"), answer[:200]
        assert not answer.startswith(b"HTTP/1.1 4") or b'"detail"' in answer, answer[:200]
        assert client.judge(flat(0.5))[0] == 200


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard that rejects about half of random images."""
    with seeded(0):
        network = ns.models.build("digits_cnn")
        x = torch.rand(600, 1, 8, 8)
    guard = ns.Guard(ns.Classifier(network.eval()), [Confidence()])
    with torch.no_grad():
        network.dense[2].weight.mul_(30)  # type: ignore[index, union-attr]
    guard.fit(x[:300], torch.arange(300) % 10).calibrate(x[300:], fpr=0.5)
    return guard.save(tmp_path_factory.mktemp("guard") / "guard")


@contextmanager
def process(
    folder: Path, *more: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`notsure serve` in a process of its own, and its port."""
    command = [sys.executable, "-u", "-m", "notsure", "serve", str(folder), "--port", "0", *more]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert started.stdout is not None
        found = re.search(r":(\d+)$", started.stdout.readline().strip())
        assert found is not None
        yield started, int(found[1])
    finally:
        started.kill()
        started.wait(20)
        if started.stdout is not None:
            started.stdout.close()


def asked(port: int, x: torch.Tensor) -> list[int]:
    """The numbers under which rejected images wait, as the service answered."""
    body = json.dumps({"images": x.tolist()})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/judge", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
    return [one["review"] for one in content["verdicts"] if one["review"] is not None]


def test_nothing_that_was_answered_is_lost_when_the_process_is_killed(
    guard_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "review.sqlite"
    answered: dict[int, torch.Tensor] = {}
    x = torch.rand(400, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    guard = ns.Guard.load(guard_folder)
    with process(guard_folder, "--review", str(path)) as (started, port):

        def ask(number: int) -> bool:
            try:
                numbers = asked(port, x[number])
            except (OSError, http.client.HTTPException):
                return False
            rejected = x[number][~guard.judge(x[number]).accepted]
            answered.update(zip(numbers, rejected, strict=True))
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(ask, number) for number in range(len(x))]
            until(lambda: sum(one.done() for one in done) >= 60, 60)
            os.kill(started.pid, signal.SIGKILL)
            results = [one.result() for one in done]
    assert 60 <= sum(results) < len(x)
    queue = ReviewQueue(path, shape=(1, 8, 8), num_classes=10)
    assert len(answered) > 80
    for number, image in answered.items():
        kept = queue.image(number)
        assert kept is not None
        torch.testing.assert_close(kept, image, rtol=0, atol=1e-6)
    queue.close()


def test_a_service_is_stopped_without_a_trace(guard_folder: Path, tmp_path: Path) -> None:
    with process(guard_folder, "--review", str(tmp_path / "r.sqlite")) as (started, port):
        asked(port, torch.rand(8, 1, 8, 8))
        started.send_signal(signal.SIGTERM)
        # uvicorn raises the signal again once everything is closed
        assert started.wait(30) in (0, -signal.SIGTERM)
    # closed in order, the log of changes is part of the file again
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.sqlite"]


def test_a_key_is_needed_where_others_reach_the_service() -> None:
    assert checked_key(None, "127.0.0.1") is None
    assert checked_key("", "::1") is None
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):  # noqa: S104
        with pytest.raises(ConfigurationError, match="NOTSURE_API_KEY"):
            checked_key(None, host)
        assert checked_key("k" * 16, host) == "k" * 16
    with pytest.raises(ConfigurationError, match="16"):
        checked_key("short", "127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("localhost.example.org")


def test_limits_are_checked_where_they_are_set() -> None:
    for name in ("body_bytes", "header_seconds", "images"):
        with pytest.raises(ConfigurationError, match=name):
            Limits(**{name: 0})
    with pytest.raises(ConfigurationError, match="waiting=10"):
        Limits(waiting=10)
    with pytest.raises(ConfigurationError, match="buffered_bytes"):
        Limits(buffered_bytes=100)
    with pytest.raises(ConfigurationError, match="batch_wait"):
        Limits(batch_wait=float("nan"))
