"""Megabytes of Python packages in each image on Modal, as installed here from the lock; its code is a few more.

python -m benchmarks.image_sizes    limit: web and data at most a fifth of torch
"""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from benchmarks.results import Options, Result, run
from mai_app.remote.packages import Needs, locked

LIMIT: Final = 0.2
LOCK: Final = Path(__file__).parents[1] / "requirements.lock"


def measure(_: Options) -> Iterator[Result]:
    """Add up the files that the packages' records list; nothing is timed, so that a pair is enough."""
    torch = _image("torch")
    for needs in ("web", "data"):
        size = _image(needs)
        facts = {"MB": round(size), "MB of torch": round(torch)}
        yield Result(f"packages of the image {needs}, over those of torch", (size / torch,), LIMIT, facts=facts)


def megabytes(package: str) -> float:
    """Megabytes of an installed package with all that it needs, without extras."""
    seen: set[str] = set()
    waiting = [package]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            needed = [Requirement(line) for line in importlib.metadata.requires(name) or []]
            waiting += [
                one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": "", "extras": ""})
            ]
    return sum(map(_size, seen)) / 1e6


def _image(needs: Needs) -> float:
    return sum(_size(Requirement(line).name) for line in locked(LOCK, needs)) / 1e6


def _size(name: str) -> int:
    files = importlib.metadata.files(name) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
