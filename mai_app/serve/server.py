"""The page and the HTTP API, served on this machine with a queue behind them."""

import asyncio
import errno
import ipaddress
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Final

from mai_app.config import SERVE_LIMITS, ServeConfig, ServeLimits
from mai_app.core.log import say
from mai_app.errors import MaiError
from mai_app.inference.known import known_models
from mai_app.inference.reload import DetectorCache
from mai_app.models.registry import pin_revision
from mai_app.serve.backend import Backend, FileResult, Files
from mai_app.serve.queue import BATCH, PredictionQueue, Task

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))
"""Host names that are accepted when serving this machine only."""
SHUTDOWN_SECONDS: Final = 30
"""Seconds that open requests get to finish at shutdown."""
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@contextmanager
def local_backend(config: ServeConfig, limits: ServeLimits = SERVE_LIMITS) -> Iterator[Backend]:
    """Run this machine's models as a Backend until the context ends, in one thread that batches queued images.

    Raises CheckpointError or RunError at once if the default model is unusable.
    """
    config = replace(config, model=pin_revision(config.model, config.runs))
    detectors = DetectorCache(config)

    def process(task: Task, model: str, files: Files) -> Iterator[Any]:
        detector = detectors.detector(model)
        if task == "heatmap":
            from mai_app.inference.heatmap import heatmap_png  # noqa: PLC0415 - only when requested

            yield from (heatmap_png(detector, name, data) for name, data in files)
            return
        facts = asdict(detector.facts)
        for prediction in detector.predict(files, BATCH, config.workers, evidence=True):
            yield asdict(prediction), facts

    queue = PredictionQueue(process, limits.max_queued_files)

    async def predict(files: Files, model: str) -> list[FileResult]:
        return await asyncio.wrap_future(queue.submit("predict", model, files))

    async def heatmap(name: str, data: bytes, model: str) -> bytes:
        (png,) = await asyncio.wrap_future(queue.submit("heatmap", model, [(name, data)]))
        return bytes(png)

    async def models() -> list[dict[str, Any]]:
        return [asdict(facts) for facts in await asyncio.to_thread(known_models, config)]

    try:
        yield Backend(predict, heatmap, models)
    finally:
        queue.close()


def serve(config: ServeConfig, limits: ServeLimits = SERVE_LIMITS) -> None:
    """Serve until SIGINT or SIGTERM, then finish open requests.

    Raises MaiError if the port is unavailable, an allowed host is no host name, or the packages of the extra `serve`
    are missing, CheckpointError or RunError if the model is unusable.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from mai_app.serve.api import create_app  # noqa: PLC0415
    except ImportError as error:
        raise MaiError(f"`mai serve` needs {error.name}; pip install 'mai-app[serve]'") from None
    allowed = frozenset(map(_host_name, config.allowed_host))
    with _open_listener(config.host, config.port) as listener, local_backend(config, limits) as backend:
        address, port = listener.getsockname()[:2]
        own = ipaddress.ip_address(address.partition("%")[0])
        host = f"[{address}]" if own.version == 6 else address
        hosts = LOOPBACK | {host} | allowed if own.is_loopback or allowed else ()
        app = create_app(backend, open_page=True, limits=limits, hosts=hosts)
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
                proxy_headers=False,  # clients could forge their address and evade the rate limit
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        model = known_models(config)[0]
        url = f"http://{'localhost' if own.is_unspecified else host}:{port}/"
        say(f"{url}  model {model.name}, version {model.version}; images are neither stored nor logged; Ctrl-C stops")
        if not own.is_loopback:
            say(f"there is no authentication: anyone who can reach port {port} of this machine can use it")
        if allowed:
            say(f"it answers as {', '.join(sorted(allowed))}, too: whoever the proxy in front lets through can use it")
        with _stop_on_signals(lambda: setattr(server, "should_exit", True)):
            server.run([listener])


def _host_name(given: str) -> str:
    """A name of --allowed-host as Host headers write it: lower case, ASCII, IPv6 in brackets. Raises MaiError."""
    try:
        address = ipaddress.ip_address(given.removeprefix("[").removesuffix("]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        pass
    try:
        name = given.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise MaiError(f"--allowed-host {given}: no host name; write it as mai.example.org, without https:// and port")
    return name


@contextmanager
def _open_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Open a listening socket before the slow start; raises MaiError if the address or port is unavailable.

    Clients that connect early wait until the server runs.
    """
    if not 0 <= port <= 65535:
        raise MaiError(f"--port {port}: a port is from 1 to 65535, or 0 for any free port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise MaiError(f"--host {host}: unknown host; 127.0.0.1 serves this machine only") from None
    with socket.socket(found[0], found[1]) as listener:
        try:
            if os.name == "posix":  # on Windows it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise MaiError(
                    f"port {port} is in use; stop the program that uses it, or choose another with --port"
                ) from None
            raise MaiError(
                f"can't listen on {host}, port {port} ({error.strerror}); choose with --host, --port"
            ) from None
        yield listener


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM. uvicorn would stop too, but then raise the signal again."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
