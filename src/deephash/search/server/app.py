"""The web application of ``deephash serve``: one page, and the HTTP API that it uses."""

import asyncio
import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import deephash
from deephash.errors import DataError, DeephashError
from deephash.retrieval.codes import bit_text
from deephash.search.collection import label_names
from deephash.search.server.guard import Guard
from deephash.search.server.service import (
    Options,
    PictureSize,
    SearchResult,
    Service,
    UnknownImageError,
)

log = logging.getLogger(__name__)

MOST_RESULTS = 500

UPLOADS = 8
"""Uploads in memory at a time; further ones wait."""

ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True)
class Limits:
    """Limits on uploads.

    Attributes:
        size: of the file in bytes.
        seconds: time in which it must arrive, and for which an upload waits for others.
        uploads: uploads in memory at a time.
    """

    size: int = 20_000_000
    seconds: float = 30.0
    uploads: int = UPLOADS


class Health(BaseModel):
    """Whether the server works."""

    status: str = "ok"
    images: int = Field(description="number of images in the index")
    version: str = Field(description="of deephash")


class Info(BaseModel):
    """What is searched, and with which encoder."""

    name: str = Field(description="of the collection")
    images: int
    nbit: int = Field(description="bits of a code")
    encoder: str = Field(description="fingerprint of the encoder")
    method: str | None
    dataset: str | None = Field(description="that the encoder was trained on")
    classes: list[str] = Field(description="labels of the images")
    most_results: int = MOST_RESULTS
    max_bytes: int = Field(description="of an upload")


class Image(BaseModel):
    """An image of the index."""

    id: str
    labels: list[str]


class Result(Image):
    """An image near the query."""

    distance: int = Field(description="number of bits in which the codes differ")


class Results(BaseModel):
    """The images near a query."""

    code: str = Field(description="of the query, as hexadecimal digits")
    bits: str = Field(description="of the query, as K characters 0 and 1")
    values: list[float] | None = Field(
        description="real-valued code of an uploaded image; a bit is 1 where it is at least 0"
    )
    labels: list[str] = Field(description="of the query, if it is in the index")
    results: list[Result] = Field(description="nearest first")
    more: int = Field(
        description="further images at the last distance; with a radius, further ones within it"
    )
    searched: int = Field(description="number of images that were searched")
    engine: str = Field(description="that searched: exact within a radius or a class")
    encode_ms: float
    search_ms: float


class Failure(BaseModel):
    """Why a request failed."""

    error: str


Top = Annotated[int, Query(ge=1, le=MOST_RESULTS, description="number of images")]
Radius = Annotated[int | None, Query(ge=0, description="largest distance; any by default")]
Label = Annotated[str | None, Query(max_length=1000, description="only images of this class")]
Id = Annotated[str, Query(min_length=1, max_length=4096, description="of an image of the index")]


def make_app(service: Service, limits: Limits, token: str | None = None) -> FastAPI:
    """Return the web application.

    Args:
        service: computes the answers.
        limits: on uploads.
        token: that requests must have; None if only this machine can connect.

    Example:
        >>> app = make_app(service, Limits())  # doctest: +SKIP
        >>> uvicorn.run(app)  # doctest: +SKIP
    """
    app = FastAPI(
        title="deephash search",
        version=deephash.__version__,
        description="Find similar images by the Hamming distance of their codes.",
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
        dependencies=[Depends(_refuse_unknown)],
        responses={code: {"model": Failure} for code in (400, 401, 403, 404, 408, 413, 422, 503)},
    )
    app.add_middleware(Guard, token=token)
    _add_errors(app)
    _add_assets(app)
    slots = asyncio.Semaphore(limits.uploads)

    @app.get("/api/health")
    async def health() -> Health:
        """Return whether the server works."""
        snapshot = await run_in_threadpool(service.snapshot)
        return Health(images=len(snapshot), version=deephash.__version__)

    @app.get("/api/info")
    async def info() -> Info:
        """Return what is searched, and with which encoder."""
        described = service.index.encoder.describe()
        return Info(
            name=service.index.collection.path.name,
            images=len(await run_in_threadpool(service.snapshot)),
            nbit=service.index.encoder.nbit,
            encoder=service.index.encoder.fingerprint,
            method=described.get("method"),
            dataset=described.get("dataset"),
            classes=await run_in_threadpool(service.classes),
            max_bytes=limits.size,
        )

    @app.get("/api/images")
    async def images(top: Top = 24, label: Label = None) -> list[Image]:
        """Return some images of the index, to start a search from."""
        sample = await run_in_threadpool(service.sample, top, label)
        return [Image(id=name, labels=list(labels)) for name, labels in sample]

    @app.get("/api/picture", response_class=Response)
    async def picture(id: Id, size: PictureSize = "small") -> Response:
        """Return an image of the index as a JPEG of at most 256 or 1600 pixels."""
        content = await run_in_threadpool(service.picture, id, size)
        cached = {"Cache-Control": "private, max-age=300"}
        return Response(content, media_type="image/jpeg", headers=cached)

    @app.get("/api/similar")
    async def similar(id: Id, top: Top = 20, radius: Radius = None, label: Label = None) -> Results:
        """Find the images nearest to one of the index."""
        options = Options(top, radius, label)
        return _results(service, await run_in_threadpool(service.search_similar, id, options))

    body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post("/api/search", openapi_extra={"requestBody": {**body, "required": True}})
    async def search(
        request: Request, top: Top = 20, radius: Radius = None, label: Label = None
    ) -> Results:
        """Find the images nearest to an uploaded one; the request's body is the image file."""
        _check_length(request, limits.size)
        try:
            async with asyncio.timeout(limits.seconds):
                await slots.acquire()
        except TimeoutError:
            raise HTTPException(503, "The server is busy: try again later.") from None
        try:
            content = await _body(request, limits)
            options = Options(top, radius, label)
            result = await run_in_threadpool(service.search_upload, content, options)
        finally:
            slots.release()
        return _results(service, result)

    return app


def _refuse_unknown(request: Request) -> None:
    """Raise HTTPException for a parameter that a route of the API does not have.

    The page may be opened with any, such as a token of an earlier start.
    """
    path, route = request.url.path, request.scope["route"]
    if not path.startswith("/api/"):
        return
    known = [parameter.alias for parameter in route.dependant.query_params]
    unknown = [name for name in request.query_params if name not in known]
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    takes = ", ".join(known) or "no parameters"
    raise HTTPException(422, f"{path} has no parameter {unknown[0]!r}.{hint} It takes {takes}.")


def _results(service: Service, result: SearchResult) -> Results:
    answer = result.answer
    return Results(
        code=answer.hex,
        bits=bit_text(answer.code, service.index.encoder.nbit),
        values=None if result.values is None else [round(float(v), 4) for v in result.values],
        labels=list(result.labels),
        results=[
            Result(id=hit.id, labels=list(label_names(hit.label)), distance=hit.distance)
            for hit in answer.hits
        ],
        more=answer.more,
        searched=result.searched,
        engine=result.engine,
        encode_ms=round(result.encode_ms, 3),
        search_ms=round(result.search_ms, 3),
    )


def _check_length(request: Request, limit: int) -> None:
    """Raise HTTPException for an upload that is declared too large, or without a valid length."""
    declared = request.headers.get("content-length")
    if declared is None:
        return
    if not declared.isdecimal():
        raise HTTPException(400, "Content-Length is no number.")
    if int(declared) > limit:
        raise HTTPException(413, _too_large(limit))


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request, within the limits."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.size:
                    raise HTTPException(413, _too_large(limits.size))
                parts.append(part)
    except TimeoutError:
        message = f"The image did not arrive within {limits.seconds:g} seconds."
        raise HTTPException(408, message) from None
    return b"".join(parts)


def _too_large(limit: int) -> str:
    return f"The image is larger than {limit / 1e6:g} MB."


def _add_assets(app: FastAPI) -> None:
    """Add the files of the page."""
    folder = files("deephash.search.server") / "static"

    def add(path: str, name: str, kind: str) -> None:
        content = folder.joinpath(name).read_bytes()

        async def asset() -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        app.add_api_route(path, asset, include_in_schema=False, methods=["GET", "HEAD"])

    for path, (name, kind) in ASSETS.items():
        add(path, name, kind)


def _add_errors(app: FastAPI) -> None:
    """Turn all errors into responses with a message."""

    def handler(status: Callable[[Any], int], message: Callable[[Any], str]) -> Any:
        async def respond(request: Request, error: Exception) -> JSONResponse:
            headers = getattr(error, "headers", None)
            return JSONResponse({"error": message(error)}, status(error), headers)

        return respond

    def unexpected(error: Exception) -> str:
        log.error("a request failed", exc_info=error)
        return "The server failed; its terminal shows why."

    app.add_exception_handler(UnknownImageError, handler(lambda _: 404, str))
    app.add_exception_handler(DataError, handler(lambda _: 422, str))
    app.add_exception_handler(DeephashError, handler(lambda _: 503, str))
    app.add_exception_handler(
        HTTPException, handler(lambda error: error.status_code, lambda error: str(error.detail))
    )
    app.add_exception_handler(RequestValidationError, handler(lambda _: 422, _explain))
    app.add_exception_handler(Exception, handler(lambda _: 500, unexpected))


def _explain(error: RequestValidationError) -> str:
    """Return what is wrong with the parameters of a request.

    >>> _explain(RequestValidationError([{"loc": ("query", "top"), "msg": "Input too small"}]))
    'top: Input too small.'
    """
    parts = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
    return "; ".join(parts) + "."
