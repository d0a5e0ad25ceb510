"""From a request's body to image files: in memory alone, and within the limits at every moment of reading."""

import asyncio
import base64
import json
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from mai_app.config import ServeLimits
from mai_app.serve.backend import Files

READ_SECONDS: Final = 30.0
"""A body may take so long, and a second more for each READ_RATE bytes of it that have come."""
READ_RATE: Final = 256 * 1024
MAX_NAME: Final = 1000
"""Characters of a file's name."""
MALFORMED_JSON: Final = 'the body is not {"images": [{"name": "…", "data": "<base64>"}]}'

# What it says of a malformed form quotes the form.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Text takes several times the room of the images in it.
_one_json_at_a_time: Final = threading.Lock()


class _MemoryParser(MultiPartParser):
    """A form's parser that never moves a file to the disk, and knows whether it saw the form's end."""

    spool_max_size = sys.maxsize
    complete = False

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        """Close every file, those too that are in no form because their part has no end."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_files(
    request: Request,
    name: str,
    limits: ServeLimits,
    hold: Callable[[int], None],
    read_seconds: float = READ_SECONDS,
) -> Files:
    """The files of a request's body; `name` is for a body that is one image's bytes.

    `hold` is told the size of each part as it comes, and may raise. Raises HTTPException for what is malformed, too
    large, too slow, or holds no image, and ClientDisconnect.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = _chunks(request, limits, hold, read_seconds)
    if kind == "multipart/form-data":
        files = await _from_form(request, chunks, limits)
    elif kind in ("application/json", "application/octet-stream") or kind.startswith("image/"):
        body = b"".join([chunk async for chunk in chunks])
        files = [(name, body)] if body else []
        if kind == "application/json":
            # Seconds of work for a large body, in which other requests want answers.
            files = await run_in_threadpool(_from_json, body, limits)
    else:
        said = f"{kind or 'no content type'} is not taken"
        raise HTTPException(415, f"{said}: send multipart/form-data, application/json, or an image's bytes as image/*")
    if not files:
        raise HTTPException(422, "there is no image in the body")
    if any(len(name) > MAX_NAME for name, _ in files):
        raise HTTPException(400, f"the name of a file is over {MAX_NAME} characters long")
    # What JSON can escape, a lone half of a surrogate pair, UTF-8 can't hold.
    return [(name.encode(errors="replace").decode(), data) for name, data in files]


async def _chunks(
    request: Request, limits: ServeLimits, hold: Callable[[int], None], read_seconds: float
) -> AsyncGenerator[bytes, None]:
    """The body as it comes; stops with HTTPException at the limits, whatever the headers promised."""
    too_large = HTTPException(413, f"the body is over {limits.max_bytes} bytes")
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > limits.max_bytes:
        raise too_large
    size = 0
    stream = request.stream()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        try:
            async with asyncio.timeout_at(begun + read_seconds + size / READ_RATE):
                chunk = await anext(stream, None)
        except TimeoutError:
            # Whoever is so slow is not waited for to end it.
            raise HTTPException(408, "the body came too slowly", {"Connection": "close"}) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > limits.max_bytes:
            raise too_large
        hold(len(chunk))
        yield chunk


async def _from_form(request: Request, chunks: AsyncGenerator[bytes, None], limits: ServeLimits) -> Files:
    parser = _MemoryParser(request.headers, chunks, max_files=limits.max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # The parser stops at the first file too many and says so by its message alone.
        raise HTTPException(413 if error.message.startswith("Too many files") else 400, error.message) from error
    except ValueError as error:  # a charset in which a name can't be read
        raise HTTPException(400, "the form can't be read") from error
    uploads = [(field, file) for field, file in form.multi_items() if isinstance(file, UploadFile)]
    # A browser sends a file input that was left empty as a file with no name and no bytes.
    files = [(file.filename or field, await file.read()) for field, file in uploads if file.filename or file.size]
    parser.close()
    if not parser.complete:
        raise HTTPException(400, "the form has no end")
    return files


def _from_json(body: bytes, limits: ServeLimits) -> Files:
    try:
        with _one_json_at_a_time:
            images = json.loads(body)["images"]
            if not isinstance(images, list):
                raise TypeError("images is no list")
            if len(images) > limits.max_files:
                raise HTTPException(413, f"there are over {limits.max_files} images")
            return [(str(one.get("name", "image")), base64.b64decode(one["data"], validate=True)) for one in images]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise HTTPException(400, MALFORMED_JSON) from error
