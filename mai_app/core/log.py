"""What a long work tells the person who waits: lines beside progress bars, which only a terminal shows."""

import os
import sys
from typing import Any

from tqdm import tqdm


def say(text: str) -> None:
    """One line to standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def bar(**how: Any) -> "tqdm[Any]":
    """A progress bar on a terminal, and nothing elsewhere; how: tqdm's own arguments.

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
