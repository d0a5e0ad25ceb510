"""Two thousand requests from the interface's own description, as it says and damaged: each gets an answer it describes.

About 20 seconds of one slow core, the same requests every time.
"""

import http.client
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mai_app.config import ServeLimits
from mai_app.inference.prediction import ModelFacts, prediction_of
from mai_app.serve.api import create_app
from tests.serve.serving import FORM, Fake, serving

CASES = 250
DAMAGED = 3  # requests made of each of them, each damaged in another way
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KINDS = (
    "multipart/form-data",
    FORM,
    "application/json",
    "application/octet-stream",
    "image/png",
    "image/",
    "text/plain",
    "",
    "\xff/\xff; boundary=\x80",
)
MODELS = ("", "fake", "none", "damaged", "busy", "..", "%00", "a/b", "x" * 101)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(
        Fake().backend, limits=ServeLimits(requests_per_minute=10**9, max_body_bytes=100_000, max_files=2)
    )


@pytest.fixture(scope="module")
def connection(app: FastAPI) -> Iterator[http.client.HTTPConnection]:
    with serving(app) as asked:
        opened = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=30)  # type: ignore[attr-defined]
        yield opened
        opened.close()


def damaged(rng: random.Random, body: bytes, kind: str) -> tuple[bytes, str, str]:
    """The request with something wrong: its body, content type and query."""
    model, how = rng.choice(MODELS), rng.randrange(5)
    if how == 0:
        body = body[: rng.randrange(len(body) + 1)]
    elif how == 1 and body:
        changed = bytearray(body)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        body = bytes(changed)
    elif how == 2:
        body *= rng.randrange(2, 5)
    elif how == 3:
        body += rng.randbytes(rng.choice((1, 1000, 99_000)))
    else:
        kind = rng.choice(KINDS)
    return body, kind, f"?model={model}&name={'n' * rng.choice((0, 1, 1000, 1001))}"


def assert_described(described: dict[str, Any], answer: http.client.HTTPResponse, content: bytes) -> None:
    """That an answer is one of those that the description has, and has what belongs into it."""
    (kind,) = described[str(answer.status)]["content"]
    assert answer.headers["content-type"] == kind
    assert answer.status < 500 or (answer.status == 503 and int(answer.headers["retry-after"]) > 0)
    if kind != "image/png":
        said = json.loads(content)
        if answer.status == 200:
            assert all(prediction_of(row) for row in said["predictions"])
            assert all(ModelFacts(**facts) for facts in said["models"])
        else:
            assert set(said) == {"type", "title", "status", "detail", "request_id"}
            assert said["status"] == answer.status


@pytest.mark.filterwarnings("ignore")  # what schemathesis warns of is its own
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/heatmap"])
def test_whatever_is_asked_the_answer_is_described(
    app: FastAPI, connection: http.client.HTTPConnection, path: str
) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["POST"]
    described = app.openapi()["paths"][path]["post"]["responses"]
    rng = random.Random(6)
    counts: Counter[int] = Counter()

    @settings(
        max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        counts[answer.status_code] += 1
        body = answer.request.body or b""
        body = body.encode() if isinstance(body, str) else body
        for _ in range(DAMAGED):
            other, kind, query = damaged(rng, body, answer.request.headers.get("content-type", ""))
            connection.request("POST", path + query, other, {"Content-Type": kind})
            got = connection.getresponse()
            assert_described(described, got, got.read())
            counts[got.status] += 1

    ask()
    assert counts.total() >= CASES * (1 + DAMAGED)
    # The damage reaches what it should.
    assert {200, 400, 413, 415, 422, 503} <= set(counts), counts
    assert counts[500] == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["/v1/models", "/healthz"])
def test_what_needs_no_body_is_as_described(app: FastAPI, path: str) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["GET"]
    case = operation.Case()
    case.call_and_validate(checks=CHECKS)
