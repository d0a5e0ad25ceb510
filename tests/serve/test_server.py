"""`mai serve`: one queue for all requests, models by name, nothing stored or logged, an orderly shutdown."""

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mai_app.config import SHIPPED, ServeConfig, ServeLimits
from mai_app.errors import CheckpointError, MaiError
from mai_app.inference.detector import Detector, load
from mai_app.serve.api import create_app
from mai_app.serve.backend import BusyError, Files
from mai_app.serve.queue import BATCH, PredictionQueue, Task
from mai_app.serve.server import local_backend, serve
from tests.serve.serving import FORM, Ask, as_json, asking, assert_problem, form, png, serving

# ---- The queue


class Slow:
    """Processing for a PredictionQueue that waits for its gate and notes its batches; what is named bad fails."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, str, list[str]]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, task: Task, model: str, files: Files) -> Iterator[str]:
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append((task, model, [name for name, _ in files]))
        for name, _ in files:
            if name == "bad":
                raise SystemExit("a panic")
            yield name.upper()


def named(*names: str) -> Files:
    return [(name, b"") for name in names]


@pytest.fixture
def slow() -> Iterator[Slow]:
    work = Slow()
    yield work
    work.gate.set()


def test_queued_files_share_batches_in_order(slow: Slow) -> None:
    queue = PredictionQueue(slow, 256)
    first = queue.submit("predict", "", named("a"))
    assert slow.entered.wait(30)
    many = queue.submit("predict", "", named(*(f"m{i}" for i in range(30))))
    other = queue.submit("predict", "x", named("o"))
    maps = [queue.submit("heatmap", "", named(name)) for name in "hi"]
    more = queue.submit("predict", "", named("p", "q", "r"))
    slow.gate.set()
    assert first.result(30) == ["A"]
    assert many.result(30) == [f"M{i}" for i in range(30)]
    assert other.result(30) == ["O"]
    assert [one.result(30) for one in maps] == [["H"], ["I"]]
    assert more.result(30) == ["P", "Q", "R"]
    assert BATCH == 32
    assert [(task, model, len(names)) for task, model, names in slow.batches] == [
        ("predict", "", 1),
        ("predict", "", 32),
        ("predict", "x", 1),
        ("heatmap", "", 1),
        ("heatmap", "", 1),
        ("predict", "", 1),
    ]
    queue.close()


def test_a_full_queue_refuses_and_loses_nothing(slow: Slow) -> None:
    queue = PredictionQueue(slow, 4)
    first = queue.submit("predict", "", named("a"))
    assert slow.entered.wait(30)
    second = queue.submit("predict", "", named("b", "c"))
    with pytest.raises(BusyError):
        queue.submit("predict", "", named("d", "e"))
    third = queue.submit("predict", "", named("d"))
    slow.gate.set()
    assert [one.result(30) for one in (first, second, third)] == [["A"], ["B", "C"], ["D"]]
    assert queue.submit("predict", "", named(*"abcd")).result(30) == [*"ABCD"]
    queue.close()


def test_a_failed_batch_fails_only_its_own_requests(slow: Slow) -> None:
    queue = PredictionQueue(slow, 256)
    first = queue.submit("predict", "", named("a"))
    assert slow.entered.wait(30)
    done = queue.submit("predict", "", named("b"))
    bad = queue.submit("predict", "", named("bad", *(f"m{i}" for i in range(40))))
    other = queue.submit("predict", "x", named("c"))
    slow.gate.set()
    assert (first.result(30), done.result(30), other.result(30)) == (["A"], ["B"], ["C"])
    with pytest.raises(RuntimeError, match="SystemExit"):
        bad.result(30)
    assert queue.submit("predict", "", named("d")).result(30) == ["D"]
    # The rest of the failed request has not been processed.
    assert sum(len(names) for _, _, names in slow.batches) == 1 + 32 + 1 + 1
    queue.close()


def test_cancelled_requests_leave_the_queue_at_once(slow: Slow) -> None:
    queue = PredictionQueue(slow, 3)
    first = queue.submit("predict", "", named("a"))
    assert slow.entered.wait(30)
    second = queue.submit("predict", "", named("b", "c"))
    assert second.cancel()
    third = queue.submit("predict", "", named("d", "e"))
    assert first.cancel()  # in progress already: processed, and the result discarded
    slow.gate.set()
    assert third.result(30) == ["D", "E"]
    assert [names for _, _, names in slow.batches] == [["a"], ["d", "e"]]
    with pytest.raises(CancelledError):
        second.result(0)
    queue.close()


def test_close_finishes_the_current_batch(slow: Slow) -> None:
    queue = PredictionQueue(slow, 9)
    first = queue.submit("predict", "", named("a"))
    assert slow.entered.wait(30)
    second = queue.submit("predict", "", named("b"))
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    slow.gate.set()
    closing.join(30)
    assert first.result(0) == ["A"]
    for one in (second, _refused(queue)):
        with pytest.raises(BusyError):
            one.result(0)


def _refused(queue: PredictionQueue) -> "Future[list[Any]]":
    future: Future[list[Any]] = Future()
    try:
        queue.submit("predict", "", named("z"))
    except BusyError as error:
        future.set_exception(error)
    return future


# ---- The whole


@pytest.fixture(scope="module")
def config(model_runs: Path) -> ServeConfig:
    return ServeConfig(runs=model_runs, device="cpu")


@pytest.fixture(scope="module")
def ask(config: ServeConfig) -> Iterator[Ask]:
    with local_backend(config) as backend, serving(create_app(backend)) as asked:
        yield asked


def test_all_three_bodies_give_what_the_detector_says(ask: Ask, config: ServeConfig) -> None:
    detector = load("", "cpu", config.runs)
    files = [("a b.png", png(1, 0)), ("broken.jpg", b"\xff\xd8 no"), ("é.png", png(2, 1))]
    # As JSON has it: a tuple is a list.
    expected = json.loads(json.dumps([asdict(row) for row in detector.predict(files, evidence=True)]))
    assert [row["error"] is None for row in expected] == [True, False, True]
    for body, kind in ((form(files), FORM), (as_json(files), "application/json; charset=utf-8")):
        answer = ask("/v1/predict", body, kind)
        assert answer.status == 200
        assert answer.body["predictions"] == expected
        assert answer.body["models"] == json.loads(json.dumps([asdict(detector.facts)]))
    for name, (_, data), other in zip(("a%20b.png", "broken.jpg", "%C3%A9.png"), files, expected, strict=True):
        (row,) = ask(f"/v1/predict?name={name}", data, "image/png").body["predictions"]
        # Alone or in a batch: the score's last digit may differ.
        assert row.pop("p_synthetic") == pytest.approx(other["p_synthetic"], abs=2e-6)
        assert row == {key: value for key, value in other.items() if key != "p_synthetic"}


def test_models_and_heatmaps_over_http(ask: Ask) -> None:
    names = [one["name"] for one in ask("/v1/models").body["models"]]
    assert names[0] == "r5"
    assert SHIPPED in names
    answer = ask(f"/v1/predict?model={SHIPPED}", png(), "image/png")
    assert [one["name"] for one in answer.body["models"]] == [SHIPPED]
    assert_problem(ask("/v1/predict?model=lion", png(), "image/png"), 422, "'lion' not found")
    assert_problem(ask("/v1/predict?model=bad", png(), "image/png"), 503)
    pytest.importorskip("mai_app.inference.heatmap")
    answer = ask(f"/v1/heatmap?model={SHIPPED}", png(), "image/png")
    assert (answer.status, answer.kind, answer.body[:4]) == (200, "image/png", b"\x89PNG")
    assert_problem(ask("/v1/heatmap", b"\xff\xd8 no", "image/png"), 422, "damaged")


def test_many_clients_at_once_get_their_own_answers(ask: Ask) -> None:
    def own(number: int) -> None:
        width = 40 + number
        files = [(f"{number}-{i}.png", png(number, 0, 40 + i, width)) for i in range(2)]
        if number % 2:
            rows = ask("/v1/predict", form(files), FORM).body["predictions"]
        else:
            rows = [ask("/v1/predict?name=" + n, data, "image/png").body["predictions"][0] for n, data in files]
        got = [(row["path"], row["image"]["width"], row["image"]["height"]) for row in rows]
        assert got == [(name, width, 40 + i) for i, (name, _) in enumerate(files)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(own, range(24)))


def test_a_full_queue_is_503_and_nothing_is_lost(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, entered = threading.Event(), threading.Event()
    judged = Detector.predict

    def gated(self: Detector, *args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert gate.wait(60)
        return judged(self, *args, **kwargs)

    monkeypatch.setattr(Detector, "predict", gated)
    limits = ServeLimits(max_queued_files=4)
    with local_backend(config, limits) as backend, serving(create_app(backend, limits=limits)) as asked:
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(asked, "/v1/predict", png(i, 0, 60, 60 + i), "image/png") for i in range(12)]
            assert entered.wait(30)
            while sum(one.done() for one in answers) < 8:
                time.sleep(0.01)
            gate.set()
        statuses = [one.result().status for one in answers]
        assert (statuses.count(200), statuses.count(503)) == (4, 8)
        for number, one in enumerate(answers):
            if one.result().status == 503:
                assert_problem(one.result(), 503, "waiting")
                assert one.result().headers["retry-after"] == "2"
            else:
                assert one.result().body["predictions"][0]["image"]["width"] == 60 + number
        assert asked("/v1/predict", png(), "image/png").status == 200


def test_a_failure_is_500_and_the_next_request_is_served(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Detector, "logits", None)
        assert_problem(ask("/v1/predict", png(), "image/png"), 500)
    assert ask("/v1/predict", png(), "image/png").status == 200


_watched: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _watched.append(f"{event} {path}")
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkstemp", "tempfile.mkdtemp"):
        _watched.append(f"{event} {arguments}")


def test_nothing_is_stored_and_nothing_is_logged(
    ask: Ask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    global _watched  # noqa: PLW0603 - a hook can't be taken away again
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # A file without a name leaves an empty folder empty, so its making is refused too.
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    caplog.set_level(logging.DEBUG)
    name, mark = "my-secret-holiday", b"RECOGNISABLE"
    image = png() + mark + bytes(5 * 2**20)
    sys.addaudithook(_watch)
    _watched = []
    try:
        files = [(f"{name}.png", image)]
        assert ask("/v1/predict", form(files), FORM).body["predictions"][0]["error"] is None
        assert ask("/v1/predict", as_json(files), "application/json").status == 200
        assert ask(f"/v1/predict?name={name}", image, "image/png").status == 200
        assert ask(f"/v1/heatmap?name={name}", image, "image/png").status in (200, 500)
        assert ask(f"/v1/predict?name={name}", mark, "image/png").body["predictions"][0]["error"]
        assert_problem(ask("/v1/predict", form(files, end=name), FORM), 400)
        assert_problem(ask(f"/v1/predict?model={name}", image, "image/png"), 422)

        def failing(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{name} {mark!r}")

        monkeypatch.setattr(Detector, "predict", failing)
        failed = ask("/v1/predict", form(files), FORM)
        assert_problem(failed, 500)
        assert name not in str(failed)
    finally:
        seen, _watched = _watched, None
    assert not seen
    assert not list(tmp_path.iterdir())
    # The failure is in the log, by where it was; no name and no image.
    assert failed.body["request_id"] in caplog.text
    assert "RuntimeError" in caplog.text
    captured = capfd.readouterr()
    for text in (caplog.text, captured.out, captured.err):
        assert name not in text
        assert mark.decode() not in text


def test_the_watch_sees_a_file_that_is_written(tmp_path: Path) -> None:
    global _watched  # noqa: PLW0603
    sys.addaudithook(_watch)
    _watched = []
    try:
        (tmp_path / "x").write_bytes(b"")
        tempfile.mkstemp(dir=tmp_path)
    finally:
        seen, _watched = _watched, None
    assert len(seen) >= 2


def test_memory_stays_flat(ask: Ask) -> None:
    body = os.urandom(2**20)  # no image: read, queued, answered

    def several(count: int) -> int:
        for number in range(count):
            kind = (FORM, "image/png")[number % 2]
            assert ask("/v1/predict", form([("x", body)]) if kind == FORM else body, kind).status == 200
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = several(10)
        assert several(60) - before < 5 * 2**20
    finally:
        tracemalloc.stop()


# ---- serve


def test_serve_says_what_it_needs(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MaiError, match=f"port {port} is in use.*--port"):
            serve(replace(config, port=port))
    with pytest.raises(MaiError, match="65535"):
        serve(replace(config, port=70_000))
    with pytest.raises(MaiError, match=r"no\.such\.host\.invalid"):
        serve(replace(config, host="no.such.host.invalid"))
    with pytest.raises(CheckpointError, match="lion"):
        serve(replace(config, port=0, model="lion"))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MaiError, match=r"pip install 'mai-app\[serve\]'"):
        serve(replace(config, port=0))


@contextmanager
def serve_command(config: ServeConfig, **changes: Any) -> Iterator[Ask]:
    """`mai serve` with these settings, in a thread; yields a function that asks it."""
    servers: list[uvicorn.Server] = []
    make = uvicorn.Server.__init__

    def noted(self: uvicorn.Server, *args: Any) -> None:
        make(self, *args)
        servers.append(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uvicorn.Server, "__init__", noted)
        patched.setattr("mai_app.serve.server._stop_on_signals", nullcontext)  # only a main thread gets signals
        thread = threading.Thread(target=serve, args=(replace(config, port=0, **changes),))
        thread.start()
        try:
            while not (servers and servers[0].started):
                assert thread.is_alive()
                time.sleep(0.01)
            yield asking(servers[0].servers[0].sockets[0].getsockname()[1])
        finally:
            servers[0].should_exit = True
            thread.join()


def test_a_proxy_may_pass_the_name_that_was_allowed(config: ServeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("Mai.Example.org", "bücher.example", "10.1.2.3", "fd00::1", "final.dot.")
    with serve_command(config, allowed_host=names) as ask:
        for host in (
            "mai.example.org",
            "MAI.example.org:8443",
            "xn--bcher-kva.example",
            "10.1.2.3",
            "[fd00::1]:80",
            "mai.example.org.",
        ):
            assert ask("/healthz", Host=host).status == 200, host
        for host in ("localhost", "127.0.0.1:1"):
            assert ask("/", Host=host).status == 200, host
        for host in ("example.org", "evil.mai.example.org", "mai.example.org.evil.example", "fd00::1", ""):
            assert_problem(ask("/healthz", Host=host), 421, "mai.example.org")
    assert (
        "answers as 10.1.2.3, [fd00::1], final.dot, mai.example.org, xn--bcher-kva.example, too"
        in capsys.readouterr().err
    )
    # With a name allowed, a server that listens to the network answers to that name and its own alone.
    with serve_command(config, host="0.0.0.0", allowed_host=("mai.example.org",)) as ask:
        assert ask("/healthz", Host="mai.example.org").status == 200
        assert ask("/healthz").status == 200
        assert_problem(ask("/healthz", Host="evil.example"), 421)
    with serve_command(config, host="0.0.0.0") as ask:
        assert ask("/healthz", Host="any.example").status == 200


@pytest.mark.parametrize(
    "name",
    ["https://mai.example.org", "mai.example.org:8443", "mai.example.org/x", "*", "*.example.org", "", "a..b", "a b"],
)
def test_an_allowed_host_is_a_name(config: ServeConfig, name: str) -> None:
    with pytest.raises(MaiError, match=r"--allowed-host .*: no host name; write it as mai\.example\.org"):
        serve(replace(config, port=0, allowed_host=(name,)))


@pytest.mark.parametrize(("host", "anybody"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_serve_says_where_it_is_and_to_whom(
    config: ServeConfig,
    host: str,
    anybody: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: None)
    serve(replace(config, host=host, port=0))
    said = capsys.readouterr().err
    assert "http://" in said
    assert "model r5, version " in said
    assert "neither stored nor logged" in said
    assert ("anyone who can reach" in said) is anybody


def test_a_server_ends_in_order(model_runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mai_app.config import ServeConfig;"
        "from mai_app.serve.server import serve; serve(ServeConfig(runs=Path(sys.argv[1]), device='cpu', port=0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(model_runs)],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    assert process.stderr
    try:
        line = next(line for line in process.stderr if "neither stored" in line)
        port = int(line.partition(":")[2].partition(":")[2].partition("/")[0])
        ask = asking(port)
        assert ask("/").kind == "text/html; charset=utf-8"
        assert_problem(ask("/", Host=f"evil.example:{port}"), 421)
        assert ask("/v1/predict", png(), "image/png").status == 200
        image = png()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as begun:
            head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            begun.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image[:1000])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            begun.sendall(image[1000:])
            assert begun.recv(100).startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
