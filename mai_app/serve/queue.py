"""A bounded queue of image files and the single worker thread that processes them in batches across requests."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mai_app.serve.backend import BusyError, Files

BATCH: Final = 32
"""Files predicted in one batch."""

Task = Literal["predict", "heatmap"]
ProcessFiles = Callable[[Task, str, Files], Iterator[Any]]
"""Takes a task, a model name and files; yields one result per file, in order."""


@dataclass(eq=False)
class _Request:
    task: Task
    model: str
    files: Files
    future: "Future[list[Any]]" = field(default_factory=Future)
    results: dict[int, Any] = field(default_factory=dict)


_QueuedFile = tuple[_Request, int]
"""A request, and the index of one of its files."""


class PredictionQueue:
    """Processes queued files first come, first served, in one thread; files of several requests share a batch."""

    def __init__(self, process: ProcessFiles, max_files: int) -> None:
        """Accept at most `max_files` unfinished files, and process them with `process` in a thread of its own."""
        self._process, self._max_files = process, max_files
        self._queued: deque[_QueuedFile] = deque()
        self._in_progress = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    def submit(self, task: Task, model: str, files: Files) -> "Future[list[Any]]":
        """Queue one request's files. The future's result is one result per file, in order, or the error raised.

        Cancelling it removes its files that are still queued. Raises BusyError if the files don't fit.
        """
        request = _Request(task, model, files)
        with self._changed:
            if self._closed or len(self._queued) + self._in_progress + len(files) > self._max_files:
                raise BusyError("too many images are waiting; try again in a moment")
            self._queued.extend((request, number) for number in range(len(files)))
            self._changed.notify()
        request.future.add_done_callback(self._remove_unfinished)
        return request.future

    def close(self) -> None:
        """Finish the current batch and stop; requests still queued get a BusyError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for request in {request for request, _ in self._queued}:
            _set_error(request, BusyError("the server is shutting down"))

    def _remove_unfinished(self, future: "Future[list[Any]]") -> None:
        """Remove the queued files of a request that was cancelled or failed."""
        if future.cancelled() or future.exception():
            with self._changed:
                self._queued = deque(file for file in self._queued if file[0].future is not future)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._process_batch(batch)
            # Of any kind, panics of native code included: the clients get an answer, and the thread goes on.
            except BaseException as error:
                failure = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
                for request in {request for request, _ in batch}:
                    _set_error(request, failure)
            batch.clear()  # so that no image stays in memory while the queue is empty

    def _next_batch(self) -> list[_QueuedFile]:
        """Wait for files and take up to BATCH with the task and model of the first; empty once closed."""
        with self._changed:
            self._in_progress = 0
            self._changed.wait_for(lambda: self._queued or self._closed)
            if self._closed:
                return []
            first, _ = self._queued[0]
            size = BATCH if first.task == "predict" else 1
            batch: list[_QueuedFile] = []
            rest: deque[_QueuedFile] = deque()
            for file in self._queued:
                fits = (file[0].task, file[0].model) == (first.task, first.model) and len(batch) < size
                (batch if fits else rest).append(file)
            self._queued, self._in_progress = rest, len(batch)
            return batch

    def _process_batch(self, batch: list[_QueuedFile]) -> None:
        first, _ = batch[0]
        files = [request.files[number] for request, number in batch]
        for (request, number), result in zip(batch, self._process(first.task, first.model, files), strict=True):
            request.results[number] = result
            if len(request.results) == len(request.files):
                with suppress(InvalidStateError):  # cancelled meanwhile
                    request.future.set_result([request.results[i] for i in range(len(request.files))])


def _set_error(request: _Request, error: Exception) -> None:
    with suppress(InvalidStateError):  # done or cancelled already
        request.future.set_exception(error)
