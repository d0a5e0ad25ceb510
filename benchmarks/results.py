"""What a benchmark gives: ratios from pairs measured by turns, their limit, and how they are printed and kept.

A benchmark is a module with a function `measure(options)` that yields a Result for each ratio, and ends with
`run(measure, __doc__)` when it is called by itself.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

PAIRS: Final = 5
"""Pairs of measurements behind a ratio: the two sides by turns, so that a busy moment hits both."""


@dataclass(frozen=True)
class Options:
    """How a benchmark is run."""

    quick: bool = False
    """A smaller run that shows that it works; its ratios say little."""
    folder: Path = Path()
    """Where it may write; empty, and removed afterwards."""
    data: Path | None = None
    """Folder of images to measure with; None: images that the benchmark makes."""


@dataclass(frozen=True)
class Result:
    """A ratio with its limit."""

    name: str
    """What was measured, in a few words, with what it is a ratio to."""
    ratios: tuple[float, ...]
    """One for each pair of measurements."""
    limit: float | None = None
    """None: shown for comparison."""
    least: bool = False
    """Whether the limit is the least that the ratio may be; otherwise the most."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further numbers and words: images a second, megabytes, the processor's path."""

    @property
    def ratio(self) -> float:
        """The median over the pairs."""
        return median(self.ratios)

    @property
    def kept(self) -> bool | None:
        """Whether the ratio keeps to its limit; None without one."""
        return None if self.limit is None else self.ratio >= self.limit if self.least else self.ratio <= self.limit


def pair_ratios(
    measured: Callable[[], object], reference: Callable[[], object], pairs: int = PAIRS
) -> tuple[tuple[float, ...], float, float]:
    """Time two pieces of work by turns: ratios of their seconds, one a pair, and the median seconds of each.

    Both run once before, untimed: files and code are then in memory.
    """
    measured()
    reference()
    seconds = [(_seconds(measured), _seconds(reference)) for _ in range(pairs)]
    return tuple(a / b for a, b in seconds), median(a for a, _ in seconds), median(b for _, b in seconds)


def line(result: Result) -> str:
    """A result in a line: ratio, spread, limit, name, facts."""
    limit = "" if result.limit is None else f"{'≥' if result.least else '≤'} {result.limit:g}"
    mark = {None: "", True: "kept", False: "MISSED"}[result.kept]
    spread = f"{min(result.ratios):.3g} to {max(result.ratios):.3g}, {len(result.ratios)} pairs"
    facts = ", ".join(f"{name} {value}" for name, value in result.facts.items())
    return f"{result.ratio:8.3f}  {limit:>7}  {mark:<6}  ({spread})  {result.name}" + (f": {facts}" if facts else "")


def run(
    measure: Callable[[Options], Iterator[Result]], about: str | None, arguments: Sequence[str] | None = None
) -> int:
    """Run one benchmark from its command line; returns 1 if a ratio is beyond its limit."""
    import tempfile  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller run; its ratios say little")
    parser.add_argument("--data", type=Path, help="folder of images to measure with")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    given = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in measure(Options(given.quick, Path(folder), given.data)):
            print(line(result), flush=True)
            results.append(result)
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return int(any(result.kept is False for result in results))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
