"""The files of a multipart form, found by splitting the body and never byte by byte."""

from __future__ import annotations

import re

from notsure.serving.limits import RefusalError

_BOUNDARY = re.compile(
    r""";\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)""", re.IGNORECASE
)
_FILE = re.compile(rb"^content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)

_LONGEST_HEAD = 8192
"""Bytes of a part's headers."""


def files_of(body: bytes, content_type: str, *, most: int) -> list[bytes]:
    """The files of a form (RFC 7578), in their order.

    Args:
        body: of the request.
        content_type: its header, which names the boundary between the parts.
        most: so many files and no more.

    Raises:
        RefusalError: it is no form, it holds something else than files, or too many.
    """
    named = _BOUNDARY.search(content_type)
    if named is None:
        raise _malformed("Content-Type names no boundary of 1 to 70 characters, boundary=...")
    boundary = b"\r\n--" + (named[1] or named[2]).encode("latin-1")
    # the first boundary may stand at the very beginning
    _, *parts = (b"\r\n" + body).split(boundary, most + 1)
    files: list[bytes] = []
    for part in parts:
        if part.startswith(b"--"):
            return files
        if len(files) == most:
            raise RefusalError(
                413,
                "too_many_images",
                f"A form may hold {most} files: send them in several requests.",
            )
        files.append(_file(part))
    raise _malformed("The boundary that ends the form is missing")


def _file(part: bytes) -> bytes:
    """What a part holds, which is all that stands between two boundaries."""
    rest_of_line, _, part = part.partition(b"\r\n")
    head, ended, content = part.partition(b"\r\n\r\n")
    if rest_of_line.strip(b" \t") or not ended or len(head) > _LONGEST_HEAD:
        raise _malformed("A part has no headers, or no end of them")
    if _FILE.search(head) is None:
        raise _malformed("A part is no file (it has no filename), and only files are taken")
    return content


def _malformed(reason: str) -> RefusalError:
    return RefusalError(
        400, "malformed_form", f"{reason}. `curl -F image=@one.png` sends a form as it has to be."
    )
