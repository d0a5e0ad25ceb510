"""Matching: which images to leave out so that in each cell of files alike there are as many of either class."""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mai_app.data.dedup import draw_number

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]

SIDES: Final = (96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Edges of the longer side's bins, in pixels."""
QUALITIES: Final = (50, 70, 80, 90, 95)
"""Edges of the JPEG quality's bins."""
BYTES_A_PIXEL: Final = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Edges of the bins of bytes a pixel, which stand for the quality where a file is no JPEG."""
GRID: Final = 8
"""Generators make sides that are multiples of this; a photograph's are by chance, or by a standard."""
SURPLUS: Final = "the other class has fewer files like it"
"""Why an image is left out."""


def file_cells(table: pa.Table) -> Ints:
    """Cells (n, 6) of files alike, by the same properties of a manifest's rows as the audit's baseline sees.

    Format, lossy or not, the longer side, square or lying or standing, both sides on the grid of 8 pixels or not, and
    the JPEG quality or else the bytes a pixel; all but the first in coarse bins.
    """
    width, height, size, quality, lossy = (
        np.asarray(table.column(name).cast(pa.int64()).fill_null(0).to_numpy(), dtype=np.int64)
        for name in ("width", "height", "file_bytes", "jpeg_quality", "lossy")
    )
    formats = np.unique(table.column("format").to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    shape = np.sign(width - height)
    on_grid = (width % GRID == 0) & (height % GRID == 0)
    by_bytes = len(QUALITIES) + 1 + np.digitize(size / (width * height), BYTES_A_PIXEL)
    stored = np.where(quality > 0, np.digitize(quality, QUALITIES), by_bytes)
    columns = (formats, lossy, np.digitize(np.maximum(width, height), SIDES), shape, on_grid, stored)
    return np.stack([column.astype(np.int64) for column in columns], axis=1)


def find_surplus(
    cells: Ints,
    labels: Ints,
    splits: Texts,
    sources: Texts,
    sha256: npt.NDArray[np.bytes_],
    groups: Texts,
    seed: int,
) -> Bools:
    """Which of n images to leave out, so that each split has as many of either class in each of the cells (n, m).

    Of the class that has more, as many stay as the other has: first those that have an image of the other class in
    their group and cell, then one of each source, another of each, and so on, since sources are what generalises.
    Within a source a hash of the seed and the pixels draws, whatever the order of the files. What is in no split
    counts for nothing, and is no surplus.
    """
    used = np.flatnonzero(splits != "")
    split = np.unique(splits[used], return_inverse=True)[1]
    cell = _number(np.column_stack([split, cells[used]]))
    counts = _counts(cell, labels[used])
    group = _number(np.stack([np.unique(groups[used], return_inverse=True)[1], cell], axis=1))
    paired = (_counts(group, labels[used]).min(axis=1) > 0)[group]
    draws = np.array([draw_number(f"match:{name.decode()}", seed) for name in sha256[used].tolist()])

    part = 2 * cell + labels[used]
    of_source = _number(np.stack([np.unique(sources[used], return_inverse=True)[1], part], axis=1))
    turn = np.empty(len(used), dtype=np.int64)
    order = np.lexsort((draws, ~paired, of_source))
    turn[order] = _places(of_source[order])
    order = np.lexsort((draws, turn, ~paired, part))
    place = _places(part[order])
    surplus = np.zeros(len(splits), dtype=bool)
    surplus[used[order[place >= counts.min(axis=1)[cell[order]]]]] = True
    return surplus


def _number(rows: Ints) -> Ints:
    """Number rows (n, m): equal ones alike, from 0 on."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _places(values: Ints) -> Ints:
    """The place of each of n sorted values among those that equal it, from 0 on."""
    return np.arange(len(values)) - np.searchsorted(values, values)


def _counts(cell: Ints, labels: Ints) -> Ints:
    """How many of n images each cell has of either class: (cells, 2)."""
    return np.bincount(2 * cell + labels, minlength=2 * (int(cell.max(initial=-1)) + 1)).reshape(-1, 2)
