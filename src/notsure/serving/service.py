"""What the routes of a service work with: whatever judges, decodes, keeps and counts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch
from fastapi import FastAPI

from notsure.serving.backend import Backend, Judged
from notsure.serving.batching import Batcher, Outcome
from notsure.serving.decoding import Decoder
from notsure.serving.limits import Limits, RefusalError
from notsure.serving.metrics import Metrics
from notsure.serving.review import Rejected, ReviewQueue

T = TypeVar("T")


class Service:
    """What the routes work with.

    Args:
        backend: what judges.
        queue: where rejected images wait for a person.
        limits: what is taken on.
        resize: whether image files of another size are resized.
        show_scores: whether clients are told the scores, which help an attacker to search.
    """

    def __init__(
        self,
        backend: Backend,
        queue: ReviewQueue,
        limits: Limits,
        *,
        resize: bool = False,
        show_scores: bool = True,
    ) -> None:
        self.backend, self.queue, self.limits = backend, queue, limits
        self.show_scores = show_scores
        self.about = backend.description
        self.decoder = Decoder(self.about.shape, limits, resize=resize)
        self.metrics = Metrics()
        self._batcher: Batcher | None = None
        self._decoding = ThreadPoolExecutor(2, thread_name_prefix="decoding")
        for name, about, value in (
            ("waiting_images", "Images that wait to be judged.", lambda: self.waiting),
            ("review_waiting", "Images that wait for a person.", lambda: self.queue.waiting),
        ):
            self.metrics.gauge(name, about, value)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """While the service runs."""
        self._batcher = Batcher(self.backend.judge, self._keep, self.limits, told=self._batch_done)
        try:
            yield
        finally:
            await self._batcher.close()
            self._decoding.shutdown()
            self.queue.close()

    @property
    def waiting(self) -> int:
        """How many images wait to be judged."""
        return 0 if self._batcher is None else self._batcher.waiting

    @property
    def alive(self) -> bool:
        """Whether it judges."""
        return self._batcher is not None and self._batcher.alive

    async def judge(self, x: torch.Tensor) -> Outcome:
        """What is said of images (B, C, H, W)."""
        if self._batcher is None:
            raise RefusalError(429, "starting", "The service is not running yet: try again.")
        return await self._batcher.submit(x)

    async def decoded(self, work: Callable[[], T]) -> T:
        """What becomes of a body, worked on beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work)

    def _keep(self, x: torch.Tensor, judged: Judged) -> list[int | None]:
        names, predictions = self.about.detectors, judged.prediction
        return self.queue.add(
            [
                Rejected(
                    x[row].float(),
                    None if predictions is None else int(predictions[row]),
                    {
                        name: score
                        for name, score in zip(names, judged.scores[row].tolist(), strict=True)
                        if math.isfinite(score)
                    },
                )
                for row in range(len(x))
            ]
        )

    def shown(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item of the review queue as clients may see it."""
        return item if self.show_scores else item | {"scores": None}

    def _batch_done(self, count: int, seconds: float) -> None:
        self.metrics.batch_images.add(count)
        self.metrics.batch_seconds.add(seconds)

    def told(self, outcome: Outcome) -> dict[str, Any]:
        """The answer to a request, counted."""
        judged, names = outcome.judged, self.about.detectors
        verdicts = []
        rows = zip(
            judged.label.tolist(),
            judged.accepted.tolist(),
            judged.scores.tolist(),
            outcome.reviews,
            strict=True,
        )
        for label, accepted, scores, review in rows:
            self.metrics.verdicts.add(accepted=str(accepted).lower(), label=str(label))
            for name, score in zip(names, scores, strict=True):
                above = (score - self.about.thresholds[name]) / self.about.scales[name]
                self.metrics.excess.add(above, detector=name)
            finite = [score if math.isfinite(score) else None for score in scores]
            verdicts.append(
                {
                    "label": label,
                    "accepted": accepted,
                    "scores": dict(zip(names, finite, strict=True)) if self.show_scores else None,
                    "review": review,
                }
            )
        return {"verdicts": verdicts}
