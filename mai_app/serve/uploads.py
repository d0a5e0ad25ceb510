"""Reads image files from request bodies (form, JSON, raw bytes): in memory only, with limits enforced while reading."""

import asyncio
import base64
import json
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from mai_app.config import ServeLimits
from mai_app.serve.backend import Files

READ_SECONDS: Final = 30.0
"""Seconds that a body may take, plus 1 for each READ_RATE bytes received."""
READ_RATE: Final = 256 * 1024
"""Bytes per second that extend the time limit of a body."""
MAX_NAME: Final = 1000
"""Longest file name, in characters."""
IDLE_SECONDS: Final = 5.0
"""Seconds of silence after which the rest of a body that nobody wants is no longer awaited."""
MALFORMED_JSON: Final = 'the body is not {"images": [{"name": "…", "data": "<base64>"}]}'

# The alphabet of RFC 4648 for URLs, in the letters of the usual one; and what else than letters a data URL of an image
# has, as a URL escapes it.
_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE: Final = b" \t\r\n\f\v"
_ESCAPED: Final = {form % mark: bytes((mark,)) for mark in b'+/=:;,"- _\t\r\n' for form in (b"%%%02x", b"%%%02X")}

# Its messages about malformed forms quote the form.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Parsed JSON needs several times the memory of its images, so only one body is parsed at a time.
_json_lock: Final = threading.Lock()


class _MemoryParser(MultiPartParser):
    """A form parser that keeps all files in memory and records whether the form was complete."""

    spool_max_size = sys.maxsize
    complete = False

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        """Close all files, including those of incomplete parts."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_files(
    request: Request,
    name: str,
    limits: ServeLimits,
    reserve: Callable[[int], None],
    read_seconds: float = READ_SECONDS,
) -> Files:
    """Read the files of a request's body; `name` is the file name for a body that is one image's bytes.

    Calls `reserve` with the size of each chunk received; what it raises is passed on. Raises HTTPException for a body
    that is malformed, too large, too slow, or without image, and ClientDisconnect.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = _read_chunks(request, limits, reserve, read_seconds)
    if kind == "multipart/form-data":
        files = await _parse_form(request, chunks, limits)
    elif kind in ("application/json", "application/octet-stream") or kind.startswith("image/"):
        body = b"".join([chunk async for chunk in chunks])
        files = [(name, body)] if body else []
        if kind == "application/json":
            # Takes seconds for a large body, during which the event loop must stay responsive.
            files = await run_in_threadpool(_parse_json, body, limits)
    else:
        given = kind or "no content type"
        supported = "multipart/form-data, application/json, or an image's bytes as image/*"
        raise HTTPException(415, f"{given} is not supported: send {supported}")
    if not files:
        raise HTTPException(422, "there is no image in the body")
    if any(len(name) > MAX_NAME for name, _ in files):
        raise HTTPException(400, f"a file name is longer than {MAX_NAME} characters")
    # JSON can escape a lone surrogate, which UTF-8 can't encode.
    return [(name.encode(errors="replace").decode(), data) for name, data in files]


async def _read_chunks(
    request: Request, limits: ServeLimits, reserve: Callable[[int], None], read_seconds: float
) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks; raises HTTPException 413 or 408 at the limits, whatever the headers declare."""
    too_large = HTTPException(413, f"the body is over {limits.max_body_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise too_large
    size = 0
    stream = request.stream()
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        try:
            async with asyncio.timeout_at(started + read_seconds + size / READ_RATE):
                chunk = await anext(stream, None)
        except TimeoutError:
            # Closes the connection, so that no other request is awaited on it.
            raise HTTPException(408, "the body was sent too slowly", {"Connection": "close"}) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > limits.max_body_bytes:
            raise too_large
        reserve(len(chunk))
        yield chunk


async def _parse_form(request: Request, chunks: AsyncGenerator[bytes, None], limits: ServeLimits) -> Files:
    parser = _MemoryParser(request.headers, chunks, max_files=limits.max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # The parser reports too many files only by its message.
        raise HTTPException(413 if error.message.startswith("Too many files") else 400, error.message) from error
    except ValueError as error:  # a charset that can't decode a name
        raise HTTPException(400, "the form can't be read") from error
    uploads = [(field, file) for field, file in form.multi_items() if isinstance(file, UploadFile)]
    # A browser sends an empty file input as a file without name and bytes.
    files = [(file.filename or field, await file.read()) for field, file in uploads if file.filename or file.size]
    parser.close()
    if not parser.complete:
        raise HTTPException(400, "the form is incomplete: it has no end")
    return files


def _parse_json(body: bytes, limits: ServeLimits) -> Files:
    try:
        with _json_lock:
            # Not strict: a shell that puts the lines of base64 into a text sends them as they are.
            images = json.loads(body, strict=False)["images"]
            if not isinstance(images, list):
                raise TypeError("images is no list")
            if len(images) > limits.max_files:
                raise HTTPException(413, f"there are over {limits.max_files} images")
            return [(_name_of(one), _decode_data(number, one["data"])) for number, one in enumerate(images)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise HTTPException(400, MALFORMED_JSON) from error


def _name_of(image: dict[str, Any]) -> str:
    name = image.get("name")
    return "image" if name is None else str(name)


def _decode_data(number: int, data: Any) -> bytes:
    if not isinstance(data, str):
        raise TypeError("data is no text")
    try:
        return decode_base64(data)
    except ValueError as error:
        raise HTTPException(400, f"data of images[{number}] is neither base64 nor a data URL with base64") from error


def decode_base64(text: str) -> bytes:
    """Decode base64 in any of the forms that clients send; raises ValueError for anything else.

    A data URL (RFC 2397) or base64 alone; either alphabet of RFC 4648; with or without padding; in one line or many.
    """
    data = text.encode("ascii")
    for escaped, mark in _ESCAPED.items() if b"%" in data else ():
        data = data.replace(escaped, mark)
    head, comma, body = data.rpartition(b",")  # the last one: a parameter may hold another
    if comma:
        if not head.translate(None, _WHITE_SPACE).lower().endswith(b"base64"):
            raise ValueError("a data URL without base64")
        data = body
    data = data.translate(_STANDARD_ALPHABET, _WHITE_SPACE).rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


async def discard_rest(receive: Receive, seconds: float) -> None:
    """Receive and discard the rest of a body: until its end, `seconds`, or IDLE_SECONDS of silence."""
    now = asyncio.get_running_loop().time
    end = now() + seconds
    more = True
    with suppress(TimeoutError):
        # Looked at between two chunks, too: a time limit alone never ends what is always ready.
        while more and now() < end:
            async with asyncio.timeout_at(min(end, now() + IDLE_SECONDS)):
                message = await receive()
            more = message.get("more_body", False)  # of a disconnect: no
