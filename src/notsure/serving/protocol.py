"""HTTP connections with an end to their patience."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from notsure.serving.limits import Limits

_LATE = 0.5
"""Seconds; a clock that rings so much later says that the whole machine stood still."""


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, for clients that are slow or too many.

    uvicorn waits for ever for the head of a request and for a client to read its answer. This one
    gives both a time, after which the connection is cut. `patient` makes the class for given
    limits.
    """

    limits: Limits

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_due, self._head_excused = 0.0, False
        self._send_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock, or turns the client away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(429, "too_many_connections", "Too many connections: try again later.")
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Takes in what came; the clock of the head runs on until the head is whole."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._between_requests():
            self._expect_head()
        else:
            self._stop_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        self._stop_head_timer()
        self._stop_send_timer()
        if self._end_timer is not None:
            self._end_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: it has so long to begin."""
        super().pause_writing()
        self._stop_send_timer()
        self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_send_timer()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP in the form of all refusals, unless an answer is under way."""
        if self._between_requests() or not self.cycle.response_started:
            self._refuse(400, "malformed_http", f"{msg} Send HTTP/1.1.")
        else:
            self.transport.close()
            self._end()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a silent connection, also where the client leaves its last answer unread."""
        super().timeout_keep_alive_handler()
        self._end()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_due = self.loop.time() + self.limits.header_seconds
            self._head_timer = self.loop.call_at(self._head_due, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        late = self.loop.time() - self._head_due > _LATE
        if late and not self._head_excused:
            # the client may have stood still as well: once it gets its time again
            self._head_excused = True
            self._expect_head()
        elif self._between_requests() and not self.transport.is_closing():
            seconds = f"{self.limits.header_seconds:g}"
            self._refuse(408, "too_slow", f"The head of a request has to come within {seconds} s.")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answers for the application, which never hears of it."""
        body = json.dumps({"error": code, "detail": detail}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._end()

    def _end(self) -> None:
        # closing waits until everything is sent, which a client can put off for ever
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer, self._head_excused = None, False

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None


def patient(limits: Limits) -> type[PatientProtocol]:
    """The protocol under these limits."""
    return type("PatientProtocol", (PatientProtocol,), {"limits": limits})
