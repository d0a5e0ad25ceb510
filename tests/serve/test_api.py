"""The HTTP API on a real port: kinds of body, problems, limits, the page."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.exceptions import HTTPException

from mai_app.config import ServeLimits
from mai_app.inference.prediction import ModelFacts, prediction_of
from mai_app.serve import admission, uploads
from mai_app.serve.admission import AdmissionControl
from mai_app.serve.api import create_app
from mai_app.serve.backend import BusyError
from mai_app.serve.uploads import decode_base64
from tests.serve.serving import FACTS, FORM, Ask, Fake, as_json, assert_problem, form, png, serving

LIMITS = ServeLimits(max_body_bytes=8 * 2**20, max_files=3)
RAW = "application/octet-stream"


@pytest.fixture(scope="module")
def fake() -> Fake:
    return Fake()


@pytest.fixture(scope="module")
def ask(fake: Fake) -> Iterator[Ask]:
    with serving(create_app(fake.backend, limits=LIMITS)) as asked:
        yield asked


def test_names_orders_and_broken_files(ask: Ask) -> None:
    files = [(f"{i}.png", png(height=210 + i) if i != 1 else b"") for i in range(3)]
    for body, kind in ((form(files), FORM), (as_json(files), "application/json; charset=utf-8")):
        answer = ask("/v1/predict", body, kind)
        assert (answer.status, answer.kind) == (200, "application/json")
        assert set(answer.body) == {"request_id", "models", "predictions"}
        assert answer.body["request_id"] == answer.headers["x-request-id"]
        assert answer.body["models"] == [FACTS]
        rows = [prediction_of(row) for row in answer.body["predictions"]]
        assert [row.path for row in rows] == ["0.png", "1.png", "2.png"]
        assert [row.image and row.image.height for row in rows] == [210, None, 212]
        assert rows[1].error == "is empty (0 bytes)"
    assert ask("/v1/predict", png(), "IMAGE/PNG").body["predictions"][0]["path"] == "image"
    assert ask("/v1/predict?name=%C3%A9%20b.png", png(), RAW).body["predictions"][0]["path"] == "é b.png"
    # An input left empty, and a name that is not Unicode.
    assert len(ask("/v1/predict", form([("", b""), ("x", png())]), FORM).body["predictions"]) == 1
    odd = b'{"images": [{"name": "\\ud800.png", "data": ""}]}'
    assert ask("/v1/predict", odd, "application/json").body["predictions"][0]["path"] == "?.png"


def base64_forms(data: bytes) -> dict[str, str]:
    """The forms in which clients send an image's base64, by what makes them."""
    plain = base64.b64encode(data).decode()
    escaped = plain.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    return {
        "plain": plain,
        "base64 of a shell": base64.encodebytes(data).decode(),
        "MIME": "\r\n".join(textwrap.wrap(plain, 76)) + "\r\n",
        "indented": "\n    ".join(textwrap.wrap(plain, 64)),
        "for URLs": base64.urlsafe_b64encode(data).decode(),
        "unpadded": plain.rstrip("="),
        "for URLs, unpadded": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "over-padded": plain.rstrip("=") + "====",
        "canvas": f"data:image/png;base64,{plain}",
        "file reader": f"data:application/octet-stream;base64,{plain}",
        "without a type": f"data:;base64,{plain}",
        "with parameters": f"data:image/png;charset=utf-8;name=a%20b.png;base64,{plain}",
        "in capitals": f"DATA:IMAGE/PNG;BASE64,{plain}",
        "with spaces": f"  data:image/png; base64, {plain} \n",
        "without its scheme": f"image/png;base64,{plain}",
        "escaped": f"data:image/png;base64,{escaped}",
        "escaped as a whole": quote(f"data:image/png;base64,{plain}", safe=""),
        "escaped line ends": quote("\r\n".join(textwrap.wrap(f"data:image/png;base64,{plain}", 76)), safe=";,:"),
        "with a comma in its name": f'data:image/png;name="a, b.png";base64,{plain}',
        "all of it": "data:;base64,"
        + "\n".join(textwrap.wrap(base64.urlsafe_b64encode(data).decode().rstrip("="), 76)),
    }


def test_every_form_of_base64_is_the_same_image(ask: Ask) -> None:
    seen = set()
    for height in range(30, 48):  # of all lengths modulo 3
        data = png(height=height, width=40)
        seen |= {*base64.b64encode(data).decode()} & {*"+/="}
        forms = base64_forms(data)
        expected = {"path": "x.png", "image": ask("/v1/heatmap", data, RAW).body}
        for name, text in forms.items():
            assert decode_base64(text) == data, name
        if height < 33:
            for name, text in forms.items():
                body = json.dumps({"images": [{"name": "x.png", "data": text}]})
                if name == "base64 of a shell":
                    body = body.replace("\\n", "\n")
                (row,) = ask("/v1/predict", body, "application/json").body["predictions"]
                assert (row["path"], row["error"], row["image"]["file_bytes"]) == ("x.png", None, len(data)), name
                assert ask("/v1/heatmap", body, "application/json").body == expected["image"], name
    assert seen == {*"+/="}


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a.png",
        "data:image/png,%89PNG",
        "data:image/png;base64",
        "b'QUJD'",
        "QUJD,QUJD",
        "A",
        "QQ==QQ==",
        "QU%4",
        "é",
        "\ud800",
    ],
)
def test_what_is_no_base64_is_refused_by_its_number(ask: Ask, text: str) -> None:
    body = json.dumps({"images": [{"data": "QUJD"}, {"data": text}]})
    assert_problem(ask("/v1/predict", body, "application/json"), 400, "images[1] is neither base64 nor a data URL")


def test_a_name_that_is_null_is_none(ask: Ask) -> None:
    body = json.dumps({"images": [{"name": None, "data": ""}, {"name": "", "data": ""}]})
    rows = ask("/v1/predict", body, "application/json").body["predictions"]
    assert [row["path"] for row in rows] == ["image", ""]


@pytest.mark.parametrize(
    ("body", "kind", "status", "part"),
    [
        (b"{", "application/json", 400, "images"),
        (b"[" * 100_000, "application/json", 400, "images"),
        (b'{"images": {}}', "application/json", 400, "images"),
        (b'{"images": ["x"]}', "application/json", 400, "images"),
        (b'{"images": [{"data": "not base64!"}]}', "application/json", 400, "base64"),
        (b'{"images": [{"data": 5}]}', "application/json", 400, "base64"),
        (as_json([("n" * 1001, b"a")]), "application/json", 400, "1000 characters"),
        (b"nothing", FORM, 400, ""),
        (b"nothing", "multipart/form-data", 400, "oundary"),
        (form([("a", b"a")], end=""), FORM, 400, "no end"),
        (form([("a", b"a")]), FORM + "; charset=punycode", 400, ""),
        (form([("a", b"a")] * 4), FORM, 413, "Too many files"),
        (as_json([("a", b"a")] * 4), "application/json", 413, "over 3"),
        (bytes(LIMITS.max_body_bytes + 1), "image/png", 413, "bytes"),
        (form([("a", bytes(LIMITS.max_body_bytes))]), FORM, 413, "bytes"),
        (b"x", "text/plain", 415, "text/plain"),
        (b"x", "", 415, "no content type"),
        (b"", "image/png", 422, "no image"),
        (b'{"images": []}', "application/json", 422, "no image"),
        (form([]), FORM, 422, "no image"),
        (form([("", b"")]), FORM, 422, "no image"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/heatmap"])
def test_a_bad_body_is_a_problem(ask: Ask, path: str, body: bytes, kind: str, status: int, part: str) -> None:
    assert_problem(ask(path, body, kind), status, part)


def test_the_limit_counts_what_comes_without_a_length(ask: Ask) -> None:
    for kind in ("image/png", FORM, "application/json"):
        prefix = form([("a", b"")], end="") if kind == FORM else b""
        assert_problem(ask("/v1/predict", iter([prefix, *[bytes(2**20)] * 9]), kind), 413, "bytes")
    image = png()
    chunks = iter([image[:1000], image[1000:]])
    assert ask("/v1/predict", chunks, "image/png").body["predictions"][0]["error"] is None


def test_a_heatmap_is_of_one_image_that_can_be_decoded(ask: Ask) -> None:
    for body, kind in ((png(), "image/png"), (form([("a.png", png())]), FORM)):
        answer = ask("/v1/heatmap", body, kind)
        assert (answer.status, answer.kind) == (200, "image/png")
        assert answer.body == png()
    assert_problem(ask("/v1/heatmap", form([("a", png())] * 2), FORM), 422, "more than one")
    assert_problem(ask("/v1/heatmap", b"\xff\xd8 no", "image/jpeg"), 422, "damaged")


def test_unavailable_models(ask: Ask, fake: Fake) -> None:
    for path in ("/v1/predict", "/v1/heatmap"):
        assert_problem(ask(f"{path}?model=none", png(), "image/png"), 422, "no model none")
        for model in ("damaged", "busy"):
            answer = ask(f"{path}?model={model}", png(), "image/png")
            assert_problem(answer, 503)
            assert answer.headers["retry-after"] == str(LIMITS.retry_after_seconds)
        broken = ask(f"{path}?model=broken", png(), "image/png")
        assert_problem(broken, 500)
        assert "secret" not in str(broken)
    fake.requested_models.clear()
    names = (
        "..",
        ".",
        ".hidden",
        "a/b",
        "%2e%2e%2fx",
        "/etc/passwd",
        "a%00",
        "a%0A",
        "a%20b",
        "a%5Cb",
        "%C3%A9",
        "a" * 101,
    )
    for name in names:
        assert_problem(ask(f"/v1/predict?model={name}", png(), "image/png"), 422, "at most 100")
    assert not fake.requested_models
    assert ask("/v1/predict?model=Run_1.b-" + "a" * 92, png(), "image/png").status == 200


def test_other_answers(ask: Ask) -> None:
    assert_problem(ask("/nowhere"), 404)
    assert_problem(ask("/v1/predict/", b"x", "image/png"), 404)
    wrong = ask("/v1/predict")
    assert_problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    assert ask("/healthz").body == {"status": "ok"}
    assert ask("/v1/models").body == {"models": [FACTS]}


def test_head_is_get_without_the_body(ask: Ask, fake: Fake) -> None:
    with serving(create_app(fake.backend, open_page=True)) as opened:
        for path in ("/", "/healthz", "/v1/models", "/openapi.json"):
            got, head = opened(path), opened(path, method="HEAD")
            assert (head.status, head.kind, head.body) == (200, got.kind, "")
            named = {"content-length", "content-security-policy", "cache-control"}
            assert {k: v for k, v in head.headers.items() if k in named} == {
                k: v for k, v in got.headers.items() if k in named
            }
            assert set(opened(path, method="DELETE").headers["allow"].split(", ")) == {"GET", "HEAD"}
    for path, status in (("/", 404), ("/nowhere", 404), ("/v1/predict", 405)):
        refused = ask(path, method="HEAD")
        assert (refused.status, refused.body) == (status, "")
    # It describes itself as before.
    assert set(ask("/openapi.json").body["paths"]["/healthz"]) == {"get"}


def talk(port: int, head: str, chunks: Iterable[bytes]) -> bytes:
    """Send a whole request, then read: what came before the connection was closed. Raises OSError for a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(chunk)
        said = b""
        while part := connection.recv(2**16):
            said += part
        return said


@pytest.mark.parametrize(("version", "sized"), [("1.0", True), ("1.1", True), ("1.1", False)])
@pytest.mark.parametrize(
    ("path", "kind", "status", "detail"),
    [
        ("/v1/predict", "image/png", 413, "the body is over"),
        ("/v1/heatmap", "application/json", 413, "the body is over"),
        ("/v1/predict", FORM, 413, "the body is over"),
        ("/v1/predict", "text/plain", 415, "text/plain"),
        ("/v1/predict?model=..", "image/png", 422, "at most 100"),
        ("/nowhere", "image/png", 404, "nothing"),
        ("/healthz", "image/png", 405, "method"),
    ],
)
def test_a_client_that_still_sends_can_read_the_answer(
    ask: Ask, version: str, path: str, kind: str, status: int, detail: str, sized: bool
) -> None:
    size = 3 * LIMITS.max_body_bytes
    length = f"Content-Length: {size}" if sized else "Transfer-Encoding: chunked"
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: {kind}\r\nConnection: close\r\n{length}\r\n\r\n"
    part = form([("a", b"")], end="") if kind == FORM else b""
    part += bytes(2**20 - len(part))

    def pieces() -> Iterator[bytes]:
        for _ in range(size // 2**20):
            yield part if sized else b"%x\r\n%b\r\n" % (len(part), part)
        yield b"" if sized else b"0\r\n\r\n"

    port: int = ask.port  # type: ignore[attr-defined]
    said, _, body = talk(port, head, pieces()).partition(b"\r\n\r\n")
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    problem = json.loads(body)
    assert problem["status"] == status
    assert detail in problem["detail"]


def test_the_answer_does_not_wait_for_the_rest(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 1000.0)
    port: int = ask.port  # type: ignore[attr-defined]
    head = "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 999999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as early:
        early.sendall(head.encode() + bytes(1000))
        assert early.recv(1000).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as asking_first:
        asking_first.sendall(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n").encode())
        assert asking_first.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_body_that_nobody_wants_is_not_awaited_for_long(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    limits = ServeLimits(max_body_bytes=1000, max_requests=1)
    head = "POST /v1/predict HTTP/1.0\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    with serving(create_app(fake.backend, limits=limits, read_seconds=0.6)) as asked:
        port: int = asked.port  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
            silent.sendall(head.encode())
            assert silent.recv(1000).startswith(b"HTTP/1.1 413")
            # Meanwhile its place is another's.
            assert asked("/v1/predict", b"x", RAW).status == 200
            while silent.recv(1000):
                pass
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as endless, suppress(ConnectionError):
            endless.sendall(head.encode())
            while time.monotonic() - begun < 20:
                endless.sendall(b"-")
                time.sleep(0.05)
        assert time.monotonic() - begun < 15


def test_every_answer_has_the_security_headers(ask: Ask) -> None:
    answers = [
        ask("/healthz"),
        ask("/v1/models"),
        ask("/nowhere"),
        ask("/v1/predict"),
        ask("/v1/predict", png(), "image/png"),
        ask("/v1/heatmap", png(), "image/png"),
        ask("/v1/predict?model=broken", png(), "image/png"),
        ask("/v1/predict?model=..", png(), "image/png"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_the_page_is_there_only_when_open(ask: Ask, fake: Fake) -> None:
    assert_problem(ask("/"), 404)
    with serving(create_app(fake.backend, open_page=True)) as opened:
        answer = opened("/")
    assert (answer.status, answer.kind) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


def test_only_the_hosts_given_are_answered(fake: Fake) -> None:
    with serving(create_app(fake.backend, True, hosts=("localhost", "127.0.0.1", "[::1]"))) as asked:
        for host in (
            "localhost",
            "127.0.0.1:8000",
            "[::1]:80",
            "LOCALHOST:1",
            "localhost.",
            "localhost.:80",
            "localhost:",
        ):
            assert asked("/healthz", Host=host).status == 200
        for host in (
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            ".",
            ":80",
        ):
            for path in ("/", "/healthz", "/nowhere", "/openapi.json"):
                refused = asked(path, Host=host)
                assert_problem(refused, 421, "127.0.0.1")
                assert "--allowed-host" in refused.body["detail"]
                assert refused.headers["x-content-type-options"] == "nosniff"


def test_the_interface_describes_itself(ask: Ask) -> None:
    document = ask("/openapi.json").body
    for path, kind in (("/v1/predict", "application/json"), ("/v1/heatmap", "image/png")):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]
        assert set(body) == {"multipart/form-data", "application/json", "image/*", RAW}
        assert set(operation["responses"]["200"]["content"]) == {kind}
        for status in ("400", "408", "413", "415", "422", "429", "500", "503"):
            content = operation["responses"][status]["content"]["application/problem+json"]
            assert content["example"]["status"] == int(status)
        example = json.dumps(body["application/json"]["example"])
        assert ask(path, example, "application/json").status == 200
    example = document["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert [prediction_of(row).error for row in example["predictions"]] == [None]
    assert prediction_of(example["predictions"][0]).evidence
    (facts,) = document["paths"]["/v1/models"]["get"]["responses"]["200"]["content"]["application/json"]["example"][
        "models"
    ]
    assert ModelFacts(**facts).name == "traces"


def test_the_rate_limit_of_an_address(fake: Fake) -> None:
    with serving(create_app(fake.backend, limits=ServeLimits(requests_per_minute=3))) as asked:
        assert [asked("/v1/predict", png(), "image/png").status for _ in range(3)] == [200, 200, 200]
        for path in ("/v1/predict", "/v1/heatmap"):
            refused = asked(path, png(), "image/png", **{"X-Forwarded-For": "192.0.2.1"})
            assert_problem(refused, 429)
            assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert asked("/v1/models").status == 200


def test_admission_control_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    control = AdmissionControl(ServeLimits(requests_per_minute=2, max_requests=3, max_bytes_in_flight=10), lambda: now)

    def refused(address: str) -> str:
        try:
            with control.admit(address):
                return ""
        except HTTPException as error:
            return (error.headers or {})["Retry-After"] if error.status_code == 429 else str(error)

    assert [refused("192.0.2.1") for _ in range(3)] == ["", "", "30"]
    assert refused("192.0.2.2") == ""
    now += 20
    assert refused("192.0.2.1") == "10"
    now += 10
    assert [refused("192.0.2.1") for _ in range(2)] == ["", "30"]
    now += 10_000  # no more than a minute's requests are saved up
    assert [refused("192.0.2.1") for _ in range(3)] == ["", "", "30"]
    # Addresses of an IPv6 /64 network count as one.
    assert [refused(f"2001:db8::{i}") for i in range(3)] == ["", "", "30"]
    assert refused("2001:db8:0:1::1") == ""
    # Beyond MAX_ADDRESSES, the least recently seen address is forgotten.
    monkeypatch.setattr(admission, "MAX_ADDRESSES", 5)
    assert refused("192.0.2.1") != ""
    assert [refused(f"198.51.100.{i}") for i in range(5)] == [""] * 5
    assert refused("192.0.2.1") == ""
    # Requests and bytes in flight, released in any case.
    with control.admit("a") as first, control.admit("b") as second, control.admit("c"):
        with pytest.raises(BusyError), control.admit("d"):
            pass
        first(6)
        second(4)
        with pytest.raises(BusyError):
            first(1)
    with control.admit("e") as reserve:
        reserve(10)


def test_too_many_requests_or_bytes_at_a_time_are_refused_and_the_rest_answered() -> None:
    fake = Fake()
    limits = ServeLimits(max_requests=2, max_bytes_in_flight=300_000, retry_after_seconds=7)
    with serving(create_app(fake.backend, limits=limits)) as asked, ThreadPoolExecutor(2) as pool:
        first = pool.submit(asked, "/v1/predict?model=slow", png(width=250), "image/png")
        assert fake.entered.wait(30)
        assert_problem(asked("/v1/predict", bytes(300_000), RAW), 503, "images at a time")
        second = pool.submit(asked, "/v1/predict?model=slow", png(width=260, height=64), "image/png")
        while len(fake.requested_models) < 2:
            time.sleep(0.01)
        refused = asked("/v1/predict", b"x", RAW)
        assert_problem(refused, 503, "requests at a time")
        assert refused.headers["retry-after"] == "7"
        assert asked("/healthz").status == 200
        fake.gate.set()
        widths = [one.result().body["predictions"][0]["image"]["width"] for one in (first, second)]
        assert widths == [250, 260]
        assert asked("/v1/predict", png(), RAW).status == 200


def test_a_slow_body_times_out(fake: Fake) -> None:
    limits = ServeLimits(max_requests=1)
    with serving(create_app(fake.backend, limits=limits, read_seconds=0.4)) as asked:
        port: int = asked.port  # type: ignore[attr-defined]
        for kind in (FORM, RAW, "application/json"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
                head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
                slow.sendall(head.encode() + (form([("a", b"")], end="") if kind == FORM else b""))
                said = b""
                begun = time.monotonic()
                slow.settimeout(0.1)
                while not said and time.monotonic() - begun < 30:  # a byte now and then does not help
                    slow.sendall(b"-")
                    try:
                        said = slow.recv(1000)
                    except TimeoutError:
                        continue
                assert said.startswith(b"HTTP/1.1 408")
                assert time.monotonic() - begun < 20
            assert asked("/v1/predict", png(), RAW).status == 200


def test_a_disconnect_cancels_its_request() -> None:
    fake = Fake()
    with serving(create_app(fake.backend, limits=ServeLimits(max_requests=1))) as asked:
        port: int = asked.port  # type: ignore[attr-defined]
        head = (
            "POST /v1/predict?model=slow HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port)) as judged:
            judged.sendall(head.format(1).encode() + b"x")
            assert fake.entered.wait(30)
        assert fake.cancelled.wait(30)
        with socket.create_connection(("127.0.0.1", port)) as reading:
            reading.sendall(head.format(100).encode() + b"x")
            time.sleep(0.1)
        for _ in range(100):
            if asked("/v1/predict", png(), RAW).status == 200:
                break
            time.sleep(0.02)
        assert asked("/v1/predict", png(), RAW).status == 200


def test_many_clients_get_their_own_answers(ask: Ask) -> None:
    def own(number: int) -> None:
        files = [(f"{number}-{i}.png", png(number, 0, 30 + i, 40 + number)) for i in range(3)]
        body, kind = (form(files), FORM) if number % 2 else (as_json(files), "application/json")
        rows = ask("/v1/predict", body, kind).body["predictions"]
        assert [(row["path"], row["image"]["width"], row["image"]["height"]) for row in rows] == [
            (name, 40 + number, 30 + i) for i, (name, _) in enumerate(files)
        ]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(own, range(40)))
    assert threading.active_count() < 60


def test_a_hosted_server_starts_and_ends_it(fake: Fake) -> None:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(create_app(fake.backend, hosts=("localhost",))({"type": "lifespan", "state": {}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_interface_needs_neither_torch_nor_modal() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['modal'] = None; import mai_app.serve.api"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
