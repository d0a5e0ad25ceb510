"""The page and the HTTP API on this machine: its own judge behind a queue, and the server around both."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from mai_app.config import SERVE_LIMITS, ServeConfig, ServeLimits
from mai_app.core.log import say
from mai_app.errors import MaiError
from mai_app.inference.reload import DetectorCache, known_models
from mai_app.serve.backend import Backend, Files, Judged
from mai_app.serve.queue import BATCH, Line, What

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))
"""Names by which a browser on this machine may ask for it."""
END_SECONDS: Final = 30
"""How long requests that have begun are waited for at the end."""


@contextmanager
def local_backend(config: ServeConfig, limits: ServeLimits = SERVE_LIMITS) -> Iterator[Backend]:
    """This machine as the judge, until the end of the `with`: one thread, which takes what waits together.

    Raises CheckpointError or RunError at once if the default model can't be used.
    """
    detectors = DetectorCache(config)

    def work(what: What, model: str, files: Files) -> Iterator[Any]:
        detector = detectors.detector(model)
        if what == "heatmap":
            from mai_app.inference.heatmap import heatmap_png  # noqa: PLC0415 - only where one is asked for

            yield from (heatmap_png(detector, name, data) for name, data in files)
            return
        facts = asdict(detector.facts)
        for prediction in detector.predict(files, BATCH, config.workers, evidence=True):
            yield asdict(prediction), facts

    line = Line(work, limits.waiting_files)

    async def judge(files: Files, model: str) -> list[Judged]:
        return await asyncio.wrap_future(line.put("judge", model, files))

    async def heatmap(name: str, data: bytes, model: str) -> bytes:
        (png,) = await asyncio.wrap_future(line.put("heatmap", model, [(name, data)]))
        return bytes(png)

    async def models() -> list[dict[str, Any]]:
        return [asdict(facts) for facts in await asyncio.to_thread(known_models, config)]

    try:
        yield Backend(judge, heatmap, models)
    finally:
        line.close()


def serve(config: ServeConfig, limits: ServeLimits = SERVE_LIMITS) -> None:
    """Serve until SIGINT or SIGTERM; requests that have begun are answered first.

    Raises MaiError if the port can't be had or the packages of the extra `serve` are missing, CheckpointError or
    RunError if the model can't be used.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from mai_app.serve.api import create_app  # noqa: PLC0415
    except ImportError as error:
        raise MaiError(f"`mai serve` needs {error.name}; pip install 'mai-app[serve]'") from None
    with _listening(config.host, config.port) as listener, local_backend(config, limits) as backend:
        address, port = listener.getsockname()[:2]
        own = ipaddress.ip_address(address.partition("%")[0])
        shown = f"[{address}]" if own.version == 6 else address
        app = create_app(backend, open_page=True, limits=limits, hosts=LOOPBACK | {shown} if own.is_loopback else ())
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # anybody could write another address there, and so ask as often as they like
                timeout_graceful_shutdown=END_SECONDS,
            )
        )
        model = known_models(config)[0]
        place = f"http://{'localhost' if own.is_unspecified else shown}:{port}/"
        say(f"{place}  model {model.name}, version {model.version}; images are neither stored nor logged; Ctrl-C ends")
        if not own.is_loopback:
            say(f"anybody who can reach this machine's port {port} may use it")
        with _ended_by_signals(lambda: setattr(server, "should_exit", True)):
            server.run([listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket of that address, had before anything slow is done; raises MaiError if it can't be had.

    Whoever connects early is answered when the server runs.
    """
    if not 0 <= port <= 65535:
        raise MaiError(f"--port {port}: a port is from 1 to 65535, or 0 for one that is free")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise MaiError(f"--host {host}: no address of that name; 127.0.0.1 is this machine for itself alone") from None
    with socket.socket(found[0], found[1]) as listener:
        try:
            if os.name == "posix":  # elsewhere it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise MaiError(f"port {port} is taken; end what uses it, or choose another with --port") from None
            raise MaiError(
                f"can't listen on {host}, port {port} ({error.strerror}); choose with --host, --port"
            ) from None
        yield listener


@contextmanager
def _ended_by_signals(end: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM end the server in order: uvicorn does so too, but then raises them once more."""
    before = {number: signal.signal(number, lambda *_: end()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
