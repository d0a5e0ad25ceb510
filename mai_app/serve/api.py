"""The HTTP interface: hands the images of a request to a backend and answers with what it says of them."""

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
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mai_app import __version__
from mai_app.config import SERVE_LIMITS, ServeLimits
from mai_app.errors import ImageError, MaiError, ModelNameError
from mai_app.inference.prediction import ModelFacts, Prediction
from mai_app.models.registry import MODEL_NAME
from mai_app.serve.admission import Turns
from mai_app.serve.backend import Backend, Files
from mai_app.serve.openapi import BODY, MODEL_EXAMPLE, PREDICTIONS_EXAMPLE, PROBLEMS, problem, responses
from mai_app.serve.uploads import MAX_NAME, READ_SECONDS, read_files

Result = TypeVar("Result")

_ModelName = Annotated[
    str,
    Query(
        pattern=f"^({MODEL_NAME.pattern})?$",
        description="Name of a model, from /v1/models. Default: the first of them.",
    ),
]
_FileName = Annotated[
    str, Query(max_length=MAX_NAME, description="What to call the image, where the body is one image's bytes.")
]


@dataclass(frozen=True)
class Predictions:
    """What a request for predictions is answered with."""

    request_id: str
    models: list[ModelFacts]
    """Those that judged, once each."""
    predictions: list[Prediction]
    """One a file, in order."""


@dataclass(frozen=True)
class Models:
    """The models that there are to choose from."""

    models: list[ModelFacts]
    """The default first."""


@dataclass(frozen=True)
class Health:
    """That the server answers."""

    status: str


class _Png(Response):
    media_type = "image/png"


_log = logging.getLogger(__name__)
_PAGE: Final = Path(__file__).with_name("page") / "index.html"
_WRONG: Final = {
    "model": "a model's name has letters, digits, . _ - and at most 100 characters; /v1/models lists them",
    "name": f"the name of a file is over {MAX_NAME} characters long",
}
_HEADERS: Final = {
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
    """The web application that hands the images of a request to `backend`; `open_page` puts a page for people at /.

    Where `hosts` are given, only requests that name one of them as the host are answered. What can't be answered
    becomes a problem of RFC 9457. Raises OSError if the page is not installed.
    """
    # The usual pages of documentation load scripts from elsewhere; /openapi.json is there all the same.
    app = FastAPI(title="MAI", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    turns = Turns(limits)
    always = [421] if hosts else []
    with_body = sorted([400, 408, 413, 415, 422, 429, 500, 503, *always])

    async def refused(request: Request, error: Exception) -> Response:
        return _refusal(error, request.scope["request_id"], limits.retry_seconds)

    for kind in (HTTPException, RequestValidationError, ClientDisconnect, MaiError):
        app.add_exception_handler(kind, refused)
    app.add_middleware(_outermost, hosts=hosts)

    @app.post(
        "/v1/predict",
        response_model=Predictions,
        responses=responses(PREDICTIONS_EXAMPLE, with_body),
        openapi_extra={"requestBody": BODY},
    )
    async def predict(request: Request, model: _ModelName = "", name: _FileName = "image") -> Response:
        """Judge images: a prediction each, in order, and the models behind them."""
        with turns.turn(_address(request)) as hold:
            files = await read_files(request, name, limits, hold, read_seconds)
            judged = await _unless_gone(request, backend.judge(files, model))
        models = {facts["sha256"]: facts for _, facts in judged}
        said = {"models": list(models.values()), "predictions": [prediction for prediction, _ in judged]}
        return JSONResponse({"request_id": request.scope["request_id"], **said})

    @app.post(
        "/v1/heatmap",
        response_class=_Png,
        responses=responses(None, with_body, "image/png"),
        openapi_extra={"requestBody": BODY},
    )
    async def heatmap(request: Request, model: _ModelName = "", name: _FileName = "image") -> Response:
        """Show where in an image the score comes from: blue pulls to authentic, orange to synthetic."""
        with turns.turn(_address(request)) as hold:
            (file_name, data) = _only(await read_files(request, name, limits, hold, read_seconds))
            return _Png(await _unless_gone(request, backend.heatmap(file_name, data, model)))

    @app.get("/v1/models", response_model=Models, responses=responses({"models": [MODEL_EXAMPLE]}, [*always, 500, 503]))
    async def models() -> Response:
        """List the models, the default first."""
        return JSONResponse({"models": await backend.models()})

    @app.get("/healthz", response_model=Health, responses=responses({"status": "ok"}, always))
    async def healthz() -> Response:
        """Whether the server answers; no model is loaded for it."""
        return JSONResponse({"status": "ok"})

    if open_page:
        text = _PAGE.read_text("utf-8")

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return HTMLResponse(text, headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    # FastAPI leaves out what is null, which a Prediction does not.
    described = app.openapi()["paths"]["/v1/predict"]["post"]["responses"]["200"]
    described["content"]["application/json"]["example"] = PREDICTIONS_EXAMPLE
    return app


def _outermost(app: ASGIApp, hosts: Collection[str]) -> ASGIApp:
    """Around everything: the headers of every answer, the host's check, and what to say where MAI fails."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["request_id"] = uuid.uuid4().hex[:16]
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update({**_HEADERS, "X-Request-ID": request_id})
            await send(message)

        asked = _host(Headers(scope=scope).get("host", ""))
        if hosts and asked not in hosts:
            # A page of another site whose name was made to mean this machine.
            refusal = _problem(421, f"this server answers as {' or '.join(sorted(hosts))} only", request_id)
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await app(scope, receive, send_with_headers)
        except Exception as error:
            _log.error("request %s failed\n%s", request_id, _where(error))
            if started:
                raise RuntimeError(f"request {request_id} failed while it was answered") from None
            await _problem(500, PROBLEMS[500], request_id)(scope, receive, send_with_headers)

    return answered


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    host, colon, port = header.lower().rpartition(":")
    return host if colon and port.isdecimal() else header.lower()


def _where(error: BaseException) -> str:
    """Where in the code something failed: not its message, which may quote a file or its name."""
    lines = [f"{type(error).__name__}\n", *traceback.format_tb(error.__traceback__)]
    cause = error.__cause__ or error.__context__
    return "".join(lines) + (f"because of {_where(cause)}" if cause else "")


def _refusal(error: Exception, request_id: str, retry_seconds: int) -> Response:
    match error:
        case HTTPException():
            detail = error.detail if error.status_code not in (404, 405) else PROBLEMS[error.status_code]
            return _problem(error.status_code, detail, request_id, error.headers)
        case RequestValidationError():
            return _problem(422, _WRONG[error.errors()[0]["loc"][-1]], request_id)
        case ClientDisconnect():
            return _problem(400, "the body ended early", request_id)
        case ImageError():
            return _problem(422, error.reason, request_id)
        case ModelNameError():
            return _problem(422, str(error), request_id)
    return _problem(503, str(error), request_id, {"Retry-After": str(retry_seconds)})


def _problem(status: int, detail: str, request_id: str, headers: Any = None) -> Response:
    return JSONResponse(problem(status, detail, request_id), status, headers, media_type="application/problem+json")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _only(files: Files) -> tuple[str, bytes]:
    if len(files) > 1:
        raise HTTPException(422, "there is more than one image in the body")
    return files[0]


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The work's result. If the client goes away first, the work is cancelled and ClientDisconnect raised."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
