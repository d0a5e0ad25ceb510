"""The page and the HTTP API, hosted: remote functions do the work, so that the web server itself needs no torch."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mai_app.config import ServeLimits
from mai_app.remote.payload import Payload, unwrap
from mai_app.serve.api import create_app
from mai_app.serve.backend import Backend, FileResult, Files

LIMITS: Final = ServeLimits(max_bytes_in_flight=128 * 2**20)
"""For a container with 1 GiB of memory, in which a request's body may be held twice."""


def create_hosted_app(
    judge_of: Callable[[str], Callable[[tuple[str, bytes]], Awaitable[Payload]]],
    draw_heatmap: Callable[[str, bytes, str], Awaitable[Payload]],
    list_models: Callable[[], Awaitable[list[Payload]]],
    open_page: bool,
) -> Any:
    """Return the ASGI app. `judge_of` gives the function that scores one file with the model of that name.

    With `open_page` the page is there too, and only the default model: each model name has containers of its own,
    which the owner pays for.
    """

    def served(model: str) -> str:
        return "" if open_page else model

    async def predict(files: Files, model: str) -> list[FileResult]:
        rows = await asyncio.gather(*map(judge_of(served(model)), files))
        return [(row, row.pop("facts")) for row in map(unwrap, rows)]

    async def heatmap(name: str, data: bytes, model: str) -> bytes:
        png: bytes = unwrap(await draw_heatmap(name, data, served(model)))["png"]
        return png

    async def models() -> list[dict[str, Any]]:
        known = [unwrap(facts) for facts in await list_models()]
        return known[:1] if open_page else known

    return create_app(Backend(predict, heatmap, models), open_page, LIMITS)
