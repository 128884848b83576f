"""What every request has to pass: who asks, how much, how fast, and how many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from notsure.serving.limits import Limits, RefusalError
from notsure.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")
"""What is answered without a key: nothing of these tells anything of what was judged."""

WATCHING_PATHS = ("/health", "/metrics")
"""What is answered however much there is to do: who watches has to see just that."""

_DRAIN_SECONDS = 1.0
_GONE = 499
"""The status under which requests are counted whose client went away."""

_log = logging.getLogger("notsure.serving")


class _GoneError(Exception):
    """The client went away."""


class Gate:
    """Stands before an application and hands it requests that are whole.

    A body is read before the application hears of the request, so that nothing but a few bytes of
    memory belongs to a client that is slow; of its memory there is a budget.

    Args:
        app: the application.
        limits: what a request may be.
        metrics: where requests are counted.
        key: what clients have to show; None for nothing.
        hosts: the names under which the service may be called; None for any. A page of somebody
            else's that has its own name point to this machine is kept out by it.
        paths: the paths that requests are counted under; others are "other".
    """

    def __init__(
        self,
        app: Application,
        limits: Limits,
        metrics: Metrics,
        *,
        key: str | None = None,
        hosts: frozenset[str] | None = None,
        paths: tuple[str, ...] = (),
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._hosts, self._paths = hosts, paths
        # the digests have one length, whatever was sent
        self._key = None if key is None else _digest(key)
        self._active, self._buffered = 0, 0
        metrics.gauge("active_requests", "Requests that are worked on.", lambda: self._active)
        metrics.gauge("buffered_bytes", "Bodies in memory.", lambda: self._buffered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def telling(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = bytearray()
        # one who asks before sending has not begun, until we read
        sending = not dict(scope["headers"]).get(b"expect")
        try:
            try:
                self._admit(scope)
                sending = True
                await self._read(receive, body)
            except RefusalError as refusal:
                if sending:
                    await self._drain(receive)
                await _refuse(telling, refusal)
                return
            await self._answer(scope, _replayed(bytes(body), receive), telling)
        except _GoneError:
            status = _GONE
        except Exception:
            # the application has answered 500 already, unless it had begun to answer
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if status == 0:
                await _refuse(
                    telling, RefusalError(500, "error", "The service failed; see its log.")
                )
        finally:
            self._buffered -= len(body)
            self._count(scope, status or _GONE, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a whole request on, where there is room for another one.

        Who has not sent all of his does not take anybody's room.
        """
        if self._active >= self._limits.requests and scope["path"] not in WATCHING_PATHS:
            await _refuse(
                send,
                RefusalError(
                    429,
                    "too_many_requests",
                    f"{self._limits.requests} requests are worked on at a time: try again in a "
                    "second.",
                ),
            )
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        path: str = scope["path"]
        first = "/" + path.split("/")[1] if path.startswith("/") else path
        known = first if first in self._paths else "other"
        self._metrics.requests.add(path=known, status=str(status))
        if known == "/judge" and status == 200:
            self._metrics.request_seconds.add(seconds, path=known)

    def _admit(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._hosts is not None and _host_of(headers.get(b"host", b"")) not in self._hosts:
            raise RefusalError(
                421,
                "wrong_host",
                f"This service is called {' or '.join(sorted(self._hosts))}; with an API key "
                "(NOTSURE_API_KEY) it may be called anything.",
            )
        if _is_foreign(scope["method"], headers):
            raise RefusalError(403, "cross_site", "Pages of other sites may not ask in your name.")
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            self._check_key(headers)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not given and scheme.lower() == b"bearer":
            given = token.strip()
        if self._key is None or not hmac.compare_digest(_digest(given), self._key):
            raise RefusalError(
                401,
                "unauthorized",
                "Send the API key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            )

    def _too_large(self) -> RefusalError:
        return RefusalError(
            413,
            "body_too_large",
            f"A body may have {self._limits.body_bytes} bytes: send fewer or smaller images.",
        )

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Reads the body within its time."""
        try:
            await asyncio.wait_for(self._read_all(receive, body), self._limits.body_seconds)
        except asyncio.TimeoutError as error:
            raise RefusalError(
                408,
                "too_slow",
                f"The body of a request has to come within {self._limits.body_seconds:g} s.",
            ) from error

    async def _read_all(self, receive: Receive, body: bytearray) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > self._limits.body_bytes:
                raise self._too_large()
            if self._buffered + len(chunk) > self._limits.buffered_bytes:
                raise RefusalError(
                    429, "too_busy", "Too many large requests at a time: try again in a second."
                )
            body += chunk
            self._buffered += len(chunk)
            if not message.get("more_body", False):
                return

    async def _drain(self, receive: Receive) -> None:
        """Lets a client finish what it is sending, up to a point, so that it hears the answer."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(receive), _DRAIN_SECONDS)

    async def _discard(self, receive: Receive) -> None:
        left = 4 * self._limits.body_bytes
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _host_of(header: bytes) -> str:
    """The name in a Host header, without its port."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0][1:]
    return text.partition(":")[0]


def _is_foreign(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser asks for a page of another origin, as far as it tells."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        # a link from elsewhere may be followed; a page of another port is another's as well
        followed = method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        return site not in (b"same-origin", b"none") and not followed
    # browsers that do not tell the site, or not to an address without TLS, tell the origin
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body at once, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _refuse(send: Send, refusal: RefusalError) -> None:
    body = json.dumps({"error": refusal.code, "detail": refusal.detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # what is left of its body is not read
        (b"connection", b"close"),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
