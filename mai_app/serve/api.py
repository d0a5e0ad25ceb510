"""The HTTP API and web page, as a FastAPI application around a Backend."""

import asyncio
import logging
import traceback
import uuid
from collections.abc import Awaitable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mai_app import __version__
from mai_app.config import SERVE_LIMITS, ServeLimits
from mai_app.errors import ImageError, MaiError, ModelNameError
from mai_app.inference.prediction import ModelFacts, Prediction
from mai_app.models.registry import MODEL_NAME
from mai_app.serve.admission import AdmissionControl
from mai_app.serve.backend import Backend, Files
from mai_app.serve.openapi import (
    MODEL_EXAMPLE,
    PREDICTIONS_EXAMPLE,
    PROBLEMS,
    REQUEST_BODY,
    describe_responses,
    problem_details,
)
from mai_app.serve.uploads import MAX_NAME, READ_SECONDS, discard_rest, read_files

Result = TypeVar("Result")

_ModelName = Annotated[
    str,
    Query(
        pattern=f"^({MODEL_NAME.pattern})?$",
        description="Name of a model from /v1/models. Default: the first one.",
    ),
]
_FileName = Annotated[
    str, Query(max_length=MAX_NAME, description="Name of the image, if the body is one image's bytes.")
]


@dataclass(frozen=True)
class Predictions:
    """The response of /v1/predict."""

    request_id: str
    models: list[ModelFacts]
    """The models used, once each."""
    predictions: list[Prediction]
    """One per file, in order."""


@dataclass(frozen=True)
class Models:
    """The response of /v1/models."""

    models: list[ModelFacts]
    """Every usable model, the default first."""


@dataclass(frozen=True)
class Health:
    """The response of /healthz."""

    status: str


class _Png(Response):
    media_type = "image/png"


_log = logging.getLogger(__name__)
_PAGE: Final = Path(__file__).with_name("page") / "index.html"
_PARAMETER_ERRORS: Final = {
    "model": "a model name consists of at most 100 letters, digits, . _ -; /v1/models lists the models",
    "name": f"the file name is longer than {MAX_NAME} characters",
}
_SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(
    backend: Backend,
    open_page: bool = False,
    limits: ServeLimits = SERVE_LIMITS,
    hosts: Collection[str] = (),
    read_seconds: float = READ_SECONDS,
) -> FastAPI:
    """Create the web application around `backend`; `open_page` adds the web page at /.

    With `hosts`, requests with any other Host header get 421. Errors are problem details after RFC 9457. A body may
    take `read_seconds`, plus 1 second per uploads.READ_RATE bytes; what is left of one that was answered before its
    end, `read_seconds` more. Raises OSError if the page is not installed.
    """
    # FastAPI's documentation pages load scripts from other servers; /openapi.json is served regardless.
    app = FastAPI(title="MAI", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    admission = AdmissionControl(limits)
    common = [421] if hosts else []
    body_errors = sorted([400, 408, 413, 415, 422, 429, 500, 503, *common])

    async def answer_error(request: Request, error: Exception) -> Response:
        return _error_response(error, request.scope["request_id"], limits.retry_after_seconds)

    for kind in (HTTPException, RequestValidationError, ClientDisconnect, MaiError):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(_add_headers_and_errors, hosts=hosts, discard_seconds=read_seconds)

    @app.post(
        "/v1/predict",
        response_model=Predictions,
        responses=describe_responses(PREDICTIONS_EXAMPLE, body_errors),
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def predict(request: Request, model: _ModelName = "", name: _FileName = "image") -> Response:
        """Score images: one prediction per image, in order, and the models used."""
        with admission.admit(_client_address(request)) as reserve:
            files = await read_files(request, name, limits, reserve, read_seconds)
            results = await _cancel_on_disconnect(request, backend.predict(files, model))
        models = {facts["sha256"]: facts for _, facts in results}
        predictions = [prediction for prediction, _ in results]
        content = {
            "request_id": request.scope["request_id"],
            "models": list(models.values()),
            "predictions": predictions,
        }
        return JSONResponse(content)

    @app.post(
        "/v1/heatmap",
        response_class=_Png,
        responses=describe_responses(None, body_errors, "image/png"),
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def heatmap(request: Request, model: _ModelName = "", name: _FileName = "image") -> Response:
        """Draw which regions of an image drive its score: blue towards authentic, orange towards synthetic."""
        with admission.admit(_client_address(request)) as reserve:
            (file_name, data) = _single_file(await read_files(request, name, limits, reserve, read_seconds))
            return _Png(await _cancel_on_disconnect(request, backend.heatmap(file_name, data, model)))

    @app.get(
        "/v1/models",
        response_model=Models,
        responses=describe_responses({"models": [MODEL_EXAMPLE]}, [*common, 500, 503]),
    )
    async def models() -> Response:
        """List the models, the default first."""
        return JSONResponse({"models": await backend.models()})

    @app.get("/healthz", response_model=Health, responses=describe_responses({"status": "ok"}, common))
    async def healthz() -> Response:
        """Report that the server is up, without loading a model."""
        return JSONResponse({"status": "ok"})

    if open_page:
        text = _PAGE.read_text("utf-8")

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return HTMLResponse(text, headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    # FastAPI drops null fields from examples; a Prediction has them.
    success = app.openapi()["paths"]["/v1/predict"]["post"]["responses"]["200"]
    success["content"]["application/json"]["example"] = PREDICTIONS_EXAMPLE
    # After the description: there a HEAD would be an operation of its own, with the GET's id.
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
    return app


def _add_headers_and_errors(app: ASGIApp, hosts: Collection[str], discard_seconds: float) -> ASGIApp:
    """Middleware: request id, security headers, check of the Host header, and a 500 without details for bugs.

    A response to a body that is still being sent (too large, not supported, …) is sent whole, and then the rest of
    the body is discarded for `discard_seconds` at most. A connection closed before would be reset, and what the client
    has not read by then be lost.
    """

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and end of a hosted server
            await app(scope, receive, send)
            return
        request_id = scope["request_id"] = uuid.uuid4().hex[:16]
        started = False
        headers = Headers(scope=scope)
        unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

        async def receive_body() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update({**_SECURITY_HEADERS, "X-Request-ID": request_id})
            elif unread and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await discard_rest(receive, discard_seconds)
                message = {"type": "http.response.body"}
            await send(message)

        if hosts and _strip_port(headers.get("host", "")) not in hosts:
            # DNS rebinding: a web site whose host name resolves to this machine.
            known = " or ".join(sorted(hosts))
            detail = f"unknown host name; this server only answers as {known}; mai serve --allowed-host NAME adds one"
            response = _problem_response(421, detail, request_id)
            await response(scope, receive, send_with_headers)
            return
        try:
            await app(scope, receive_body, send_with_headers)
        except Exception as error:
            _log.error("request %s failed\n%s", request_id, _format_traceback(error))
            if started:
                raise RuntimeError(f"request {request_id} failed after the response had started") from None
            await _problem_response(500, PROBLEMS[500], request_id)(scope, receive, send_with_headers)

    return middleware


def _strip_port(header: str) -> str:
    """Return a Host header in lower case, without its port, which may be empty, and the dot of a full name."""
    host, colon, port = header.lower().rpartition(":")
    return (host if colon and (port.isdecimal() or not port) else header.lower()).removesuffix(".")


def _format_traceback(error: BaseException) -> str:
    """Format a traceback without the error's message, which could contain file names or contents."""
    lines = [f"{type(error).__name__}\n", *traceback.format_tb(error.__traceback__)]
    cause = error.__cause__ or error.__context__
    return "".join(lines) + (f"because of {_format_traceback(cause)}" if cause else "")


def _error_response(error: Exception, request_id: str, retry_after_seconds: int) -> Response:
    match error:
        case HTTPException():
            detail = error.detail if error.status_code not in (404, 405) else PROBLEMS[error.status_code]
            return _problem_response(error.status_code, detail, request_id, error.headers)
        case RequestValidationError():
            return _problem_response(422, _PARAMETER_ERRORS[error.errors()[0]["loc"][-1]], request_id)
        case ClientDisconnect():
            return _problem_response(400, "the body is incomplete", request_id)
        case ImageError():
            return _problem_response(422, error.reason, request_id)
        case ModelNameError():
            return _problem_response(422, str(error), request_id)
    return _problem_response(503, str(error), request_id, {"Retry-After": str(retry_after_seconds)})


def _problem_response(status: int, detail: str, request_id: str, headers: Any = None) -> Response:
    return JSONResponse(
        problem_details(status, detail, request_id), status, headers, media_type="application/problem+json"
    )


def _client_address(request: Request) -> str:
    return request.client.host if request.client else ""


def _single_file(files: Files) -> tuple[str, bytes]:
    if len(files) > 1:
        raise HTTPException(422, "there is more than one image in the body; a heatmap is of one")
    return files[0]


async def _cancel_on_disconnect(request: Request, awaitable: Awaitable[Result]) -> Result:
    """Await a result; if the client disconnects first, cancel and raise ClientDisconnect."""
    result = asyncio.ensure_future(awaitable)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((result, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        for task in (result, disconnect):
            task.cancel()
        await asyncio.gather(result, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
