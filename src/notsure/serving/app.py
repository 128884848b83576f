"""The routes of a service."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

import notsure
from notsure.core.errors import ConfigurationError
from notsure.serving import pages
from notsure.serving.decoding import pillow
from notsure.serving.gate import Gate
from notsure.serving.limits import RefusalError
from notsure.serving.metrics import CONTENT_TYPE
from notsure.serving.review import State
from notsure.serving.service import Service

_SMALL = 16 << 10
"""Bytes of a body that is read on the spot; to hand it over would take longer."""


class VerdictOfOne(BaseModel):
    """What is said of one image."""

    label: int = Field(description="The class, or -1 for NOT SURE.")
    accepted: bool
    scores: dict[str, float | None] | None = Field(
        description="By detector, higher = more adversarial; null for one that is not finite."
    )
    review: int | None = Field(description="The number under which it waits for a person.")


class Verdicts(BaseModel):
    """What is said of the images of a request, in their order."""

    verdicts: list[VerdictOfOne]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="The reason, for programs.")
    detail: str = Field(description="The reason and the remedy, for people.")


class Decision(BaseModel):
    """What a person says of an image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: int | None = Field(description="Its class, or null where nobody can tell.")
    note: str | None = Field(default=None, max_length=1000)


def create_app(
    service: Service, *, key: str | None = None, hosts: frozenset[str] | None = None
) -> Gate:
    """The application that a server runs.

    Args:
        service: what it works with.
        key: what clients have to show; None for nothing.
        hosts: the names under which it may be called; None for any.
    """
    app = FastAPI(
        title="notsure",
        version=notsure.__version__,
        description="Judges images: a class, or NOT SURE (-1).",
        lifespan=service.running,
        docs_url=None,
        redoc_url=None,
        responses={code: {"model": Problem} for code in (400, 401, 408, 413, 422, 429)},
    )
    _add_errors(app)
    _add_judging(app, service)
    _add_review(app, service)
    _add_looking(app, service)
    paths = ("/judge", "/health", "/metrics", "/review", "/guard")
    return Gate(app, service.limits, service.metrics, key=key, hosts=hosts, paths=paths)


def _problem(status: int, code: str, detail: str) -> JSONResponse:
    # half of a surrogate pair, which JSON can bring, has no UTF-8
    detail = detail.encode(errors="replace").decode()
    headers = {"retry-after": "1"} if status == 429 else None
    return JSONResponse({"error": code, "detail": detail}, status, headers=headers)


def _add_errors(app: FastAPI) -> None:
    """One form for every answer that is none."""

    @app.exception_handler(RefusalError)
    async def refused(_request: Request, error: RefusalError) -> JSONResponse:
        return _problem(error.status, error.code, error.detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            told += "; send it with Content-Type: application/json"
        return _problem(422, "invalid", f"{told}.")

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "malformed")
        told = str(error.detail)
        if request.scope.get("route") is None:
            told = f"{told}: {request.method} {request.url.path}; /docs has what can be asked."
        return _problem(error.status_code, code, told)

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        # its log has the error, and nobody else is told what broke
        return _problem(500, "error", "The service failed; see its log.")

    @app.exception_handler(ConfigurationError)
    async def out_of_range(_request: Request, error: ConfigurationError) -> JSONResponse:
        return _problem(422, "invalid", str(error))


_BODIES = {
    "requestBody": {
        "required": True,
        "description": "One image or several: a JSON array in [0,1] (an image, or a list of "
        "them; also as the `image` or `images` of an object), an image file, or a form of files.",
        "content": {
            "application/json": {"schema": {"title": "Images"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
        },
    }
}


def _add_judging(app: FastAPI, service: Service) -> None:
    @app.post("/judge", response_model=Verdicts, openapi_extra=_BODIES)
    async def judge(request: Request) -> Response:
        """Judges images, and keeps those that it rejects for a person."""
        outcome = await service.judge(await _images(request, service))
        if outcome.refused:
            raise RefusalError(
                429,
                "review_full",
                f"An image was rejected, and {service.limits.review_items} wait for a person "
                "already: it was not kept. Label some, or start the service with a larger limit.",
            )
        return JSONResponse(service.told(outcome))


async def _images(request: Request, service: Service) -> torch.Tensor:
    """The images of a request, whichever form they have."""
    told = request.headers.get("content-type", "")
    kind = told.partition(";")[0].strip().lower()
    decoder, body = service.decoder, await request.body()
    work: Callable[[], torch.Tensor]
    if kind == "application/json":
        work = partial(decoder.array, body)
    elif kind == "multipart/form-data":
        work = partial(decoder.form, body, told)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        work = partial(decoder.files, [body])
    else:
        raise RefusalError(
            415,
            "unknown_content_type",
            f"Content-Type is {kind or 'missing'}; send application/json, image/png (or another "
            "image), or multipart/form-data with files.",
        )
    # resizing, a few bytes may hold many pixels
    many_pixels = decoder.resize and kind != "application/json"
    if len(body) <= _SMALL and not many_pixels:
        return work()
    return await service.decoded(work)


def _add_review(app: FastAPI, service: Service) -> None:
    queue = service.queue

    @app.get("/review")
    def waiting(
        state: State | None = "waiting",
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Rejected images, in the order in which they came, and how many there are."""
        items = queue.items(state, after=after, limit=limit)
        return {"counts": queue.counts(), "items": [service.shown(item) for item in items]}

    @app.get("/review/export", response_class=FileResponse)
    def exported() -> FileResponse:
        """What was labelled, as an .npz file that notsure.data.load reads."""
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
            path = Path(file.name)
            try:
                queue.write_data_set(file)
            except BaseException:
                path.unlink()
                raise
        return FileResponse(
            path,
            media_type="application/zip",
            filename="review.npz",
            background=BackgroundTask(path.unlink, missing_ok=True),
        )

    @app.get("/review/{number}")
    def item(number: int) -> dict[str, Any]:
        """One of them, and what a person said of it."""
        found = queue.item(_in_range(number))
        if found is None:
            raise HTTPException(404, f"There is no item {number}.")
        return service.shown(found)

    @app.get("/review/{number}/image", response_class=Response)
    def image(number: int) -> Response:
        """Its image as PNG."""
        x = queue.image(_in_range(number))
        if x is None:
            raise HTTPException(404, f"There is no item {number}.")
        return Response(_png(x), media_type="image/png")

    @app.post("/review/{number}")
    def decide(number: int, decision: Decision) -> dict[str, Any]:
        """Says what it is, or that nobody can tell."""
        queue.decide(_in_range(number), decision.label, decision.note)
        return item(number)


def _in_range(number: int) -> int:
    """A number that SQLite can hold; others are of no item."""
    return number if 0 <= number < 2**63 else 0


def _png(x: torch.Tensor) -> bytes:
    levels = (x * 255).round().to(torch.uint8).numpy()
    array = levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
    buffer = BytesIO()
    pillow().fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _add_looking(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether it judges."""
        told = {"status": "ok" if service.alive else "stopped", "version": notsure.__version__}
        return JSONResponse(told, 200 if service.alive else 503)

    @app.get("/guard")
    async def guard() -> dict[str, Any]:
        """What judges: images that it takes, detectors, thresholds."""
        about = service.about
        return {
            "shape": about.shape,
            "num_classes": about.num_classes,
            "detectors": about.detectors,
            "thresholds": about.thresholds,
            "rule": about.rule,
            "corrects": about.corrects,
            "fpr": about.fpr,
        }

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @cache
    def listed() -> str:
        return pages.documentation(app.openapi())

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(listed(), headers=pages.HEADERS)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(pages.REVIEW, headers=pages.HEADERS)
