"""Matching: leave out images until the classes agree in every cell of format, size and JPEG quality."""

import hashlib
from collections import defaultdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mai_app.errors import DataError

UNMATCHED: Final = "the other class has fewer images of this format, size and JPEG quality"
"""Why an image was left out, in the manifest."""
SIZES_TO_DOUBLE: Final = 2
"""Steps of the longer side until it has doubled."""
SQUARE: Final = 1.05
"""Sides whose ratio is at most this make a square."""
QUALITY_STEP: Final = 10

Texts = npt.NDArray[np.str_]


def unmatched(table: pa.Table, splits: Texts, seed: int) -> npt.NDArray[np.bool_]:
    """Which images (n,) to leave out, so that each cell of each split has as many authentic images as synthetic ones.

    `table` has the columns label, source, format, width, height, jpeg_quality (null if no JPEG) and sha256, a row an
    image; `splits` (n,) are empty for images that are left out already. Of the larger class of a cell the sources take
    turns, and within a source a seeded hash of the pixels draws: the same images give the same choice, in whatever
    order they come. Grommelt et al. (2024, "Fake or JPEG?") match JPEG quality and size so, to take from a data set
    what tells its classes without a pixel.

    Raises DataError if nothing is left of a split in which both classes were.
    """
    names = ("label", "source", "format", "width", "height", "jpeg_quality", "sha256")
    cells: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    keys: list[tuple[str, bytes]] = []
    columns = (table.column(name).to_pylist() for name in names)
    for row, (split, label, source, form, width, height, quality, sha256) in enumerate(
        zip(splits.tolist(), *columns, strict=True)
    ):
        keys.append((source, hashlib.sha256(f"{seed}:{sha256}".encode()).digest()))
        if split:
            cells[split, _cell(form, width, height, quality)][label].append(row)
    kept = np.zeros(len(splits), dtype=bool)
    for rows in cells.values():
        count = min(map(len, rows))
        for of_class in rows:
            kept[_by_turns(of_class, keys)[:count]] = True
    for split in ("train", "val", "test"):
        there = splits == split
        if there.any() and not kept[there].any() and len(np.unique(np.asarray(table["label"])[there])) == 2:
            raise DataError(
                f"--match leaves nothing of {split}: no authentic image shares format, size and JPEG quality with a "
                "synthetic one; `mai audit` shows what tells them apart. Add sources, or leave --match away"
            )
    out: npt.NDArray[np.bool_] = (splits != "") & ~kept
    return out


def _cell(form: str, width: int, height: int, quality: int | None) -> tuple[str, int, int, int]:
    """What an image is matched by: format, longer side, shape and JPEG quality, the last three in coarse steps."""
    longer, shorter = max(width, height), min(width, height)
    shape = 0 if longer <= SQUARE * shorter else 1 if width > height else 2
    return form, round(SIZES_TO_DOUBLE * np.log2(longer)), shape, (quality or 0) // QUALITY_STEP


def _by_turns(rows: list[int], keys: list[tuple[str, bytes]]) -> list[int]:
    """The rows in the order in which they are taken: of each source its first, then of each its second, and so on."""
    turns: dict[str, int] = defaultdict(int)
    order = []
    for row in sorted(rows, key=lambda row: keys[row]):
        source, rank = keys[row]
        order.append((turns[source], rank, row))
        turns[source] += 1
    return [row for _, _, row in sorted(order)]
