"""Progress of long work: messages and progress bars on standard error, and deferred stop signals."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

from mai_app.core.display import show_text

_prefix: ContextVar[str] = ContextVar("prefix", default="")


def say(text: str) -> None:
    """Print a line to standard error, above a progress bar if there is one."""
    tqdm.write(show_text(f"{_prefix.get()}{text}"), file=sys.stderr)


@contextmanager
def named_lines(name: str) -> Iterator[None]:
    """Let each line that is said begin with a name: where the logs of several machines are shown together."""
    before = _prefix.set(f"{name}: ")
    try:
        yield
    finally:
        _prefix.reset(before)


def bar(**how: Any) -> "tqdm[Any]":
    """A tqdm progress bar on a terminal, and nothing elsewhere; `how`: tqdm's own arguments.

    Where MAI_PROGRESS_SECONDS is set and there is no terminal, as in a container whose log is watched, a line every
    so many seconds.
    """
    seconds = float(os.environ.get("MAI_PROGRESS_SECONDS", "0"))
    if not seconds or sys.stderr.isatty() or how.get("disable"):
        return tqdm(**{"disable": None, **how})
    lines = {"file": _Lines(), "disable": False, "ncols": 100, "leave": False}
    return tqdm(**{**how, **lines, "delay": seconds, "mininterval": seconds, "maxinterval": seconds})


class _Lines:
    """Standard error, with a line for each state of a bar instead of one line written over and over."""

    def write(self, text: str) -> None:
        shown = text.replace("\r", "").strip()
        if shown:
            sys.stderr.write(f"{shown}\n")

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Defer SIGINT and SIGTERM; yields a function that tells whether one has come, to ask where stopping is safe.

    A second signal raises KeyboardInterrupt at once. Only a process's main thread can set signal handlers; in other
    threads the signals keep their handlers, and the function returns False.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
