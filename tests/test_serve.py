"""The HTTP interface on a real port: the three kinds of body, the problems, the page, and nothing on the disk."""

import asyncio
import base64
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from mai_app.config import ServeLimits
from mai_app.data.images import decode
from mai_app.errors import CheckpointError, ImageError
from mai_app.predict import Detector, load
from mai_app.serve.api import Files, create_app
from tests.conftest import picture

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
LIMITS = ServeLimits(max_bytes=8 * 2**20, max_files=3)

Answer = tuple[int, str, Any]
Ask = Callable[..., Answer]


@contextmanager
def serving(app: FastAPI) -> Iterator[Ask]:
    """The app on a free port; yields a function that asks it: status, content type, and JSON or text."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def ask(path: str, body: Any = None, kind: str = "", method: str = "") -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {"Content-Type": kind} if kind else {}
            try:
                connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
                answer = connection.getresponse()
                said, text = answer.headers["Content-Type"], answer.read().decode()
            finally:
                connection.close()
            return answer.status, said, json.loads(text) if "json" in said else text

        yield ask
    finally:
        server.should_exit = True
        thread.join()


async def sizes(files: Files, model: str) -> list[dict[str, Any]]:
    """A judge that only decodes; some models fail."""
    if model == "none":
        raise CheckpointError("no model none")
    if model == "broken":
        raise RuntimeError("a secret of the server")
    rows = []
    for name, data in files:
        try:
            rows.append({"path": name, "shape": decode(data, name).pixels.shape, "error": None})
        except ImageError as error:
            rows.append({"path": name, "shape": None, "error": error.reason})
    return rows


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with serving(create_app(sizes, limits=LIMITS)) as asked:
        yield asked


def png(seed: int = 5, label: int = 0, height: int = 210) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(np.random.default_rng(seed), label, height)).save(buffer, "PNG")
    return buffer.getvalue()


def form(files: Files, end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f{i}"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for i, (name, data) in enumerate(files)
    )
    return b"".join(parts) + end.encode()


def as_json(files: Files) -> bytes:
    images = [{"name": name, "data": base64.b64encode(data).decode()} for name, data in files]
    return json.dumps({"images": images}).encode()


def assert_problem(answer: Answer, status: int, part: str = "") -> None:
    got, kind, problem = answer
    assert (got, kind) == (status, "application/problem+json"), problem
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == status
    assert part in problem["detail"]
    assert problem["request_id"]


def test_all_three_bodies_give_what_the_detector_says(trained_run: Path) -> None:
    detector: Detector = load(trained_run, "cpu")

    async def judge(files: Files, model: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(lambda: [asdict(row) for row in detector.predict(files)])

    files = [("a b.png", png(1, 0)), ("broken.jpg", b"\xff\xd8 no"), ("é.png", png(2, 1))]
    # As JSON has it: a tuple is a list.
    expected = json.loads(json.dumps([asdict(row) for row in detector.predict(files)]))
    assert [row["error"] is None for row in expected] == [True, False, True]
    with serving(create_app(judge)) as ask:
        for body, kind in ((form(files), FORM), (as_json(files), "application/json; charset=utf-8")):
            status, said, answer = ask("/v1/predict", body, kind)
            assert (status, said) == (200, "application/json")
            assert answer.pop("request_id")
            assert answer == {"predictions": expected}
        for kind in ("image/png", "application/octet-stream", "IMAGE/PNG"):
            rows = [
                ask(f"/v1/predict?name={name}", data, kind)[2]["predictions"]
                for name, data in (("a%20b.png", files[0][1]), ("broken.jpg", files[1][1]), ("%C3%A9.png", files[2][1]))
            ]
            # Alone or in a batch: the score's last digit may differ.
            for (row,), other in zip(rows, expected, strict=True):
                assert row.pop("p_synthetic") == pytest.approx(other["p_synthetic"], abs=2e-6)
                assert row == {key: value for key, value in other.items() if key != "p_synthetic"}


def test_names_orders_and_broken_files(ask: Ask) -> None:
    files = [(f"{i}.png", png(height=210 + i) if i != 1 else b"") for i in range(3)]
    for body, kind in ((form(files), FORM), (as_json(files), "application/json")):
        rows = ask("/v1/predict", body, kind)[2]["predictions"]
        assert [row["path"] for row in rows] == ["0.png", "1.png", "2.png"]
        assert [row["shape"] for row in rows] == [[210, 220, 3], None, [212, 220, 3]]
        assert rows[1]["error"] == "is empty (0 bytes)"
    assert ask("/v1/predict", png(), "image/png")[2]["predictions"][0]["path"] == "image"
    # An input left empty, and a name that is not Unicode.
    assert len(ask("/v1/predict", form([("", b""), ("x", png())]), FORM)[2]["predictions"]) == 1
    odd = b'{"images": [{"name": "\\ud800.png", "data": ""}]}'
    assert ask("/v1/predict", odd, "application/json")[2]["predictions"][0]["path"] == "?.png"


@pytest.mark.parametrize(
    ("body", "kind", "status", "part"),
    [
        (b"{", "application/json", 400, "images"),
        (b"[" * 100_000, "application/json", 400, "images"),
        (b'{"images": {}}', "application/json", 400, "images"),
        (b'{"images": ["x"]}', "application/json", 400, "images"),
        (b'{"images": [{"data": "not base64!"}]}', "application/json", 400, "base64"),
        (b'{"images": [{"data": 5}]}', "application/json", 400, "base64"),
        (b"nothing", FORM, 400, ""),
        (b"nothing", "multipart/form-data", 400, "oundary"),
        (form([("a", b"a")], end=""), FORM, 400, "no end"),
        (form([("a", b"a")]), FORM + "; charset=punycode", 400, ""),
        (form([("a", b"a")] * 4), FORM, 413, "Too many files"),
        (as_json([("a", b"a")] * 4), "application/json", 413, "over 3"),
        (bytes(LIMITS.max_bytes + 1), "image/png", 413, "bytes"),
        (form([("a", bytes(LIMITS.max_bytes))]), FORM, 413, "bytes"),
        (b"x", "text/plain", 415, "text/plain"),
        (b"x", "", 415, "no content type"),
        (b"", "image/png", 422, "no image"),
        (b'{"images": []}', "application/json", 422, "no image"),
        (form([]), FORM, 422, "no image"),
        (form([("", b"")]), FORM, 422, "no image"),
    ],
)
def test_what_is_wrong_with_a_body_is_a_problem(ask: Ask, body: bytes, kind: str, status: int, part: str) -> None:
    assert_problem(ask("/v1/predict", body, kind), status, part)


def test_the_limit_counts_what_comes_without_a_length(ask: Ask) -> None:
    for kind in ("image/png", FORM, "application/json"):
        prefix = form([("a", b"")], end="") if kind == FORM else b""
        assert_problem(ask("/v1/predict", iter([prefix, *[bytes(2**20)] * 9]), kind), 413, "bytes")
    image = png()
    chunks = iter([image[:1000], image[1000:]])
    assert ask("/v1/predict", chunks, "image/png")[2]["predictions"][0]["error"] is None


def test_other_problems(ask: Ask) -> None:
    assert_problem(ask("/v1/predict?model=none", png(), "image/png"), 503, "no model none")
    broken = ask("/v1/predict?model=broken", png(), "image/png")
    assert_problem(broken, 500)
    assert "secret" not in str(broken)
    assert_problem(ask("/nowhere"), 404)
    assert_problem(ask("/v1/predict/", b"x", "image/png"), 404)
    assert_problem(ask("/v1/predict"), 405)
    assert ask("/healthz") == (200, "application/json", {"status": "ok"})


def test_the_page_is_there_only_when_open(ask: Ask) -> None:
    assert_problem(ask("/"), 404)
    with serving(create_app(sizes, open_page=True)) as opened:
        status, kind, page = opened("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "A score is no proof" in page
    assert "Images are not stored" in page
    assert "innerHTML" not in page
    assert "//" not in page.replace("// ", "")  # comments apart, nothing that could be an address


def test_the_interface_describes_itself(ask: Ask) -> None:
    operation = ask("/openapi.json")[2]["paths"]["/v1/predict"]["post"]
    body = operation["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    for status in ("400", "413", "415", "422", "500", "503"):
        assert operation["responses"][status]["content"]["application/problem+json"]["example"]["status"] == int(status)
    example = json.dumps(body["application/json"]["example"])
    assert ask("/v1/predict", example, "application/json")[2]["predictions"][0]["shape"] == [1, 1, 3]


def test_nothing_is_written(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # A file without a name leaves an empty folder empty, so its making is refused too.
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    large = png() + bytes(5 * 2**20)
    for body, kind in ((form([("x.png", large)]), FORM), (as_json([("x.png", large)]), "application/json")):
        assert ask("/v1/predict", body, kind)[2]["predictions"][0]["shape"] == [210, 220, 3]
    assert not list(tmp_path.iterdir())


def test_the_interface_needs_neither_torch_nor_modal() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['modal'] = None; import mai_app.serve.api"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
