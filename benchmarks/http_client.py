"""A small HTTP client that costs little beside the service that it loads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An answer: its status, 0 where the connection ended without one, and its body."""

    status: int
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Its two ends, opened if need be."""
        if self._streams is None or self._streams[1].is_closing():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def ask(self, request: bytes) -> Reply:
        """Sends a request as it is; a connection that was closed meanwhile is opened again."""
        for _ in range(2):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await self.streams()
                writer.write(request)
                await writer.drain()
                return await self._reply(reader)
            self.close()
        return Reply(0)

    async def _reply(self, reader: asyncio.StreamReader) -> Reply:
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if b"connection: close" in lower:
            self.close()
        return Reply(int(head[9:12]), body)

    def close(self) -> None:
        """Closes it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[Connection]:
    """A connection that is closed at the end."""
    found = Connection(port)
    try:
        yield found
    finally:
        found.close()


def post(path: str, body: bytes, kind: str) -> bytes:
    """A whole request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """A whole request."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def form(files: list[bytes]) -> tuple[bytes, str]:
    """A body of files, and its content type."""
    edge = b"edge-of-a-part"
    head = b'content-disposition: form-data; name="image"; filename="image.png"\r\n'
    parts = [b"--" + edge + b"\r\n" + head + b"\r\n" + file + b"\r\n" for file in files]
    return b"".join(
        parts
    ) + b"--" + edge + b"--\r\n", f"multipart/form-data; boundary={edge.decode()}"
