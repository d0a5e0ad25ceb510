"""What a long work tells the person who waits: lines beside progress bars, which only a terminal shows."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """One line to standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)
