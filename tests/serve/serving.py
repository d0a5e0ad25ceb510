"""Shared by the tests of the HTTP API: a server on a free port, request bodies, and a fake backend that decodes."""

import asyncio
import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from mai_app.errors import CheckpointError, ImageError, ModelNameError
from mai_app.images.decode import decode
from mai_app.inference.prediction import ImageFacts, ModelFacts, Prediction
from mai_app.serve.backend import Backend, BusyError, FileResult, Files
from tests.conftest import picture

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
FACTS = asdict(ModelFacts("fake", "none", "0" * 12, "0" * 64, "data", 0.5, 0.2, 0.8, "", 30, 30, {}))


@dataclass(frozen=True)
class Answer:
    """An answer's status, content type, body (from JSON, text, or bytes) and headers."""

    status: int
    kind: str
    body: Any
    headers: dict[str, str]


Ask = Callable[..., Answer]


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[Ask]:
    """The app on a free port, or this one; yields a function that asks it, whose `port` is that port."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", ws="none", lifespan="off", proxy_headers=False
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield asking(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def asking(port: int) -> Ask:
    """A function that asks the server on that port."""

    def ask(path: str, body: Any = None, kind: str = "", method: str = "", **more: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = ({"Content-Type": kind} if kind else {}) | more
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            said, content = answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()
        if said.startswith("image/"):
            return Answer(answer.status, said, content, dict(answer.headers))
        read = json.loads(content) if "json" in said and content else content.decode()
        return Answer(answer.status, said, read, dict(answer.headers))

    ask.port = port  # type: ignore[attr-defined]
    return ask


def decoded(name: str, data: bytes) -> FileResult:
    """The fake backend's result for a file: its size, or why it can't be decoded."""
    try:
        image = decode(data, name)
    except ImageError as error:
        return asdict(
            Prediction(name, None, None, 0.5, 0.2, 0.8, "none", "0" * 12, None, (), None, error.reason)
        ), FACTS
    height, width = image.pixels.shape[:2]
    facts = ImageFacts(width, height, image.format, image.file_bytes, image.orientation, image.jpeg_quality, 1)
    return asdict(Prediction(name, 0.5, "unsure", 0.5, 0.2, 0.8, "none", "0" * 12, facts, (), (), None)), FACTS


class Fake:
    """A backend that only decodes and records the requested models; some models fail."""

    def __init__(self) -> None:
        self.requested_models: list[str] = []
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.backend = Backend(self.predict, self.heatmap, self.models)

    async def predict(self, files: Files, model: str) -> list[FileResult]:
        """Each file's size."""
        await self._ready(model, files[0][0])
        return [decoded(name, data) for name, data in files]

    async def heatmap(self, name: str, data: bytes, model: str) -> bytes:
        """The image itself as PNG."""
        await self._ready(model, name)
        return png_of(decode(data, name).pixels)

    async def models(self) -> list[dict[str, Any]]:
        """One."""
        return [FACTS]

    async def _ready(self, model: str, name: str) -> None:
        self.requested_models.append(model)
        if model == "none":
            raise ModelNameError("no model none")
        if model == "damaged":
            raise CheckpointError("the model is damaged")
        if model == "busy":
            raise BusyError("too much to do")
        if model == "broken":
            raise RuntimeError(f"a secret of the server about {name}")
        if model == "slow":
            self.entered.set()
            try:
                while not self.gate.is_set():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise


def png_of(pixels: Any) -> bytes:
    """PNG bytes of pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png(seed: int = 5, label: int = 0, height: int = 210, width: int = 220) -> bytes:
    """A PNG file's bytes."""
    return png_of(picture(np.random.default_rng(seed), label, height, width))


def form(files: Files, end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    """The files as a form."""
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f{i}"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for i, (name, data) in enumerate(files)
    )
    return b"".join(parts) + end.encode()


def as_json(files: Files) -> bytes:
    """The files as JSON."""
    images = [{"name": name, "data": base64.b64encode(data).decode()} for name, data in files]
    return json.dumps({"images": images}).encode()


def assert_problem(answer: Answer, status: int, part: str = "") -> None:
    """That an answer is a problem with this status, and this in its detail."""
    assert (answer.status, answer.kind) == (status, "application/problem+json"), answer
    assert set(answer.body) == {"type", "title", "status", "detail", "request_id"}
    assert answer.body["status"] == status
    assert part in answer.body["detail"]
    assert answer.body["request_id"] == answer.headers["x-request-id"]
