"""The HTTP interface: reads images out of requests, in memory alone, and answers with what a judge says of them."""

import base64
import json
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from mai_app import __version__
from mai_app.config import SERVE_LIMITS, ServeLimits
from mai_app.errors import MaiError
from mai_app.prediction import Prediction

Files = list[tuple[str, bytes]]
"""Names with the bytes of image files."""
Judge = Callable[[Files, str], Awaitable[list[dict[str, Any]]]]
"""Takes files and a model's name; returns a Prediction's fields a file, in order, or raises MaiError: no model."""


@dataclass(frozen=True)
class Answer:
    """What a request for predictions is answered with."""

    predictions: list[Prediction]
    request_id: str


_log = logging.getLogger(__name__)
_PAGE: Final = Path(__file__).with_name("page") / "index.html"
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
_IMAGE: Final = {"name": {"type": "string"}, "data": {"type": "string", "contentEncoding": "base64"}}
_IMAGES: Final = {"type": "array", "items": {"type": "object", "required": ["data"], "properties": _IMAGE}}
_BODIES: Final = {
    "multipart/form-data": {"schema": {"type": "object", "additionalProperties": _BYTES["schema"]}},
    "application/json": {
        "schema": {"type": "object", "required": ["images"], "properties": {"images": _IMAGES}},
        "example": {"images": [{"name": "x.gif", "data": "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="}]},
    },
    "image/*": _BYTES,
    "application/octet-stream": _BYTES,
}
_PROBLEMS: Final = {
    400: "The body is malformed.",
    413: "The body has too many bytes or too many files.",
    415: "The content type is none of those that are taken.",
    422: "There is no image in the body.",
    500: "The server failed.",
    503: "The model can't be had.",
}


def _problem(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """A problem's fields after RFC 9457; about:blank says that the status tells all there is to tell of its kind."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}


def _described(status: int, text: str) -> dict[str, Any]:
    example = _problem(status, text, "3f0c9a52d1e84b7f")
    kinds = {name: {"type": "integer" if name == "status" else "string"} for name in example}
    schema = {"type": "object", "required": list(example), "properties": kinds}
    return {"description": text, "content": {"application/problem+json": {"schema": schema, "example": example}}}


def create_app(judge: Judge, open_page: bool = False, limits: ServeLimits = SERVE_LIMITS) -> FastAPI:
    """The web application that hands the images of a request to `judge`; `open_page` puts a page for people at /.

    What can't be answered becomes a problem of RFC 9457; a MaiError of the judge becomes status 503 with its message.
    Raises OSError if the page is not installed.
    """
    # The usual pages of documentation load scripts from elsewhere; /openapi.json is there all the same.
    app = FastAPI(title="MAI", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        problem = _problem(error.status_code, error.detail, _request_id(request))
        return JSONResponse(problem, error.status_code, error.headers, media_type="application/problem+json")

    @app.post(
        "/v1/predict",
        response_model=Answer,
        responses={status: _described(status, text) for status, text in _PROBLEMS.items()},
        openapi_extra={"requestBody": {"required": True, "content": _BODIES}},
    )
    async def predict(request: Request, model: str = "", name: str = "image") -> Response:
        """Judge images: a row each, in order. `name` is for bodies that are one image's bytes."""
        try:
            files = await _read_files(request, name, limits)
            return JSONResponse({"predictions": await judge(files, model), "request_id": _request_id(request)})
        except HTTPException:
            raise
        except ClientDisconnect:
            raise HTTPException(400, "the body ended early") from None
        except MaiError as error:
            raise HTTPException(503, str(error)) from error
        except Exception as error:
            _log.exception("request %s failed", _request_id(request))
            raise HTTPException(500, _PROBLEMS[500]) from error

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server answers; no model is loaded for it."""
        return {"status": "ok"}

    if open_page:
        text = _PAGE.read_text("utf-8")

        @app.get("/", include_in_schema=False)
        async def page() -> HTMLResponse:
            return HTMLResponse(text)

    return app


def _request_id(request: Request) -> str:
    return str(request.scope.setdefault("request_id", uuid.uuid4().hex[:16]))


class _MemoryParser(MultiPartParser):
    """A form's parser that never moves a file to the disk, and knows whether it saw the form's end."""

    spool_max_size = sys.maxsize
    complete = False

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        """Close every file, those too that are in no form because their part has no end."""
        for file in self._files_to_close_on_error:
            file.close()


async def _read_files(request: Request, name: str, limits: ServeLimits) -> Files:
    """The files of a request's body; raises HTTPException for what is malformed, too large, or holds none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await _from_form(request, limits)
    elif kind in ("application/json", "application/octet-stream") or kind.startswith("image/"):
        body = b"".join([chunk async for chunk in _chunks(request, limits)])
        files = [(name, body)] if body else []
        if kind == "application/json":
            # Seconds of work for a large body, in which other requests want answers.
            files = await run_in_threadpool(_from_json, body, limits)
    else:
        said = f"{kind or 'no content type'} is not taken"
        raise HTTPException(415, f"{said}: send multipart/form-data, application/json, or an image's bytes as image/*")
    if not files:
        raise HTTPException(422, _PROBLEMS[422])
    # What JSON can escape, a lone half of a surrogate pair, UTF-8 can't hold.
    return [(name.encode(errors="replace").decode(), data) for name, data in files]


async def _chunks(request: Request, limits: ServeLimits) -> AsyncGenerator[bytes, None]:
    """The body as it comes; stops with HTTPException at the limit, whatever the headers promised."""
    too_large = HTTPException(413, f"the body is over {limits.max_bytes} bytes")
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > limits.max_bytes:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.max_bytes:
            raise too_large
        yield chunk


async def _from_form(request: Request, limits: ServeLimits) -> Files:
    parser = _MemoryParser(request.headers, _chunks(request, limits), max_files=limits.max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # The parser stops at the first file too many and says so by its message alone.
        raise HTTPException(413 if error.message.startswith("Too many files") else 400, error.message) from error
    except ValueError as error:  # a charset in which a name can't be read
        raise HTTPException(400, "the form can't be read") from error
    uploads = [(field, file) for field, file in form.multi_items() if isinstance(file, UploadFile)]
    # A browser sends a file input that was left empty as a file with no name and no bytes.
    files = [(file.filename or field, await file.read()) for field, file in uploads if file.filename or file.size]
    parser.close()
    if not parser.complete:
        raise HTTPException(400, "the form has no end")
    return files


def _from_json(body: bytes, limits: ServeLimits) -> Files:
    try:
        images = json.loads(body)["images"]
        if not isinstance(images, list):
            raise TypeError("images is no list")
        if len(images) > limits.max_files:
            raise HTTPException(413, f"there are over {limits.max_files} images")
        return [(str(image.get("name", "image")), base64.b64decode(image["data"], validate=True)) for image in images]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise HTTPException(400, 'the body is not {"images": [{"name": "…", "data": "<base64>"}]}') from error
