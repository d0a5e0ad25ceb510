"""One thread that works through the files of all requests, as many together as fit; of too many, no more are taken."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mai_app.serve.backend import BusyError, Files

BATCH: Final = 32
"""Files judged together."""

What = Literal["judge", "heatmap"]
Work = Callable[[What, str, Files], Iterator[Any]]
"""Takes what is to be made, a model's name and files; yields a result a file, in order."""


@dataclass(eq=False)
class _Request:
    what: What
    model: str
    files: Files
    future: "Future[list[Any]]" = field(default_factory=Future)
    results: dict[int, Any] = field(default_factory=dict)


_File = tuple[_Request, int]
"""A file that waits: its request, and which of its files it is."""


class Line:
    """Files that wait, first come first served, and the thread that works for them."""

    def __init__(self, work: Work, most: int) -> None:
        """Take files up to so many that are not yet done."""
        self._work, self._most = work, most
        self._waiting: deque[_File] = deque()
        self._in_hand = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    def put(self, what: What, model: str, files: Files) -> "Future[list[Any]]":
        """Queue one request's files; its result is a list of theirs, in order, or what the work raised.

        Cancelling it takes those that wait out of the line. Raises BusyError if they do not fit.
        """
        request = _Request(what, model, files)
        with self._changed:
            if self._closed or len(self._waiting) + self._in_hand + len(files) > self._most:
                raise BusyError("too many images are waiting; try again in a moment")
            self._waiting.extend((request, number) for number in range(len(files)))
            self._changed.notify()
        request.future.add_done_callback(self._leave)
        return request.future

    def close(self) -> None:
        """End after the batch in hand; those who still wait get a BusyError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for request in {request for request, _ in self._waiting}:
            _fail(request, BusyError("the server is ending"))

    def _leave(self, future: "Future[list[Any]]") -> None:
        if future.cancelled() or future.exception():
            with self._changed:
                self._waiting = deque(file for file in self._waiting if file[0].future is not future)

    def _run(self) -> None:
        while batch := self._next():
            self._try(batch)
            batch.clear()  # while nothing is to do, no image is held

    def _try(self, batch: list[_File]) -> None:
        try:
            self._do(batch)
        # Whatever it is, a panic of foreign code too: those who asked must hear of it, and the others be served.
        except BaseException as error:
            failure = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
            for request in {request for request, _ in batch}:
                _fail(request, failure)

    def _next(self) -> list[_File]:
        """Up to BATCH of the files that wait for the same as the first; none at the end."""
        with self._changed:
            self._in_hand = 0
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            first, _ = self._waiting[0]
            most = BATCH if first.what == "judge" else 1
            batch: list[_File] = []
            others: deque[_File] = deque()
            for file in self._waiting:
                alike = (file[0].what, file[0].model) == (first.what, first.model)
                (batch if alike and len(batch) < most else others).append(file)
            self._waiting, self._in_hand = others, len(batch)
            return batch

    def _do(self, batch: list[_File]) -> None:
        first, _ = batch[0]
        files = [request.files[number] for request, number in batch]
        for (request, number), result in zip(batch, self._work(first.what, first.model, files), strict=True):
            request.results[number] = result
            if len(request.results) == len(request.files):
                with suppress(InvalidStateError):  # cancelled meanwhile
                    request.future.set_result([request.results[i] for i in range(len(request.files))])


def _fail(request: _Request, error: Exception) -> None:
    with suppress(InvalidStateError):  # answered or cancelled before
        request.future.set_exception(error)
