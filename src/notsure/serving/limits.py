"""What a service takes on, and what it refuses, with the refusals themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from notsure.core.errors import ConfigurationError, NotSureError


class RefusalError(NotSureError):
    """A request that is answered with a 4xx status and a reason.

    Args:
        status: of HTTP, 400..499.
        code: the reason as one word with underscores, for programs.
        detail: the reason as a sentence with the remedy, for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes on at most.

    Attributes:
        body_bytes: of a request's body.
        buffered_bytes: of all bodies that are in memory at a time.
        image_pixels: height times width of an image file, known before it is decoded.
        images: in one request.
        waiting: images that wait to be judged; more are refused until there is room.
        requests: that are worked on at a time.
        connections: that are open at a time.
        batch_size: images that are judged together.
        batch_wait: seconds that a batch which is not full waits for more images. 0 takes what is
            there, which fills batches by itself while another one is being judged.
        header_seconds: that a client has for the head of a request.
        body_seconds: that it has for its body.
        send_seconds: that it may leave an answer unread.
        idle_seconds: that an open connection may be silent between two requests.
        shutdown_seconds: that requests have to end in when the service is stopped.
        review_items: that wait for a person; what is rejected beyond that is refused.

    Raises:
        ConfigurationError: one of them is not positive, or a request cannot hold what it may.
    """

    body_bytes: int = 8 << 20
    buffered_bytes: int = 256 << 20
    image_pixels: int = 16 << 20
    images: int = 256
    waiting: int = 2048
    requests: int = 256
    connections: int = 512
    batch_size: int = 128
    batch_wait: float = 0.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    idle_seconds: float = 15.0
    shutdown_seconds: float = 30.0
    review_items: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "batch_wait" else 1 if isinstance(value, int) else 1e-3
            if isinstance(value, bool) or not (math.isfinite(value) and value >= least):
                raise ConfigurationError(
                    f"The limit {field.name} has to be at least {least:g}; got {value!r}."
                )
        if self.waiting < self.images:
            raise ConfigurationError(
                f"waiting={self.waiting} images cannot hold one request of images={self.images}: "
                "raise the first or lower the second."
            )
        if self.buffered_bytes < self.body_bytes:
            raise ConfigurationError(
                f"buffered_bytes={self.buffered_bytes} cannot hold one body of "
                f"body_bytes={self.body_bytes}: raise the first or lower the second."
            )
