"""Data sets with pairs: the paths of images and their twins, and the manifest that pairs them."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from mai_app.config import IMAGE_SIZE, NEAR_DUPLICATE_BITS
from mai_app.core.files import write_bytes, write_text
from mai_app.data.dedup import perceptual_hash
from mai_app.data.layout import CLASS_NAMES, PAIR
from mai_app.data.prepared import PreparedSet
from mai_app.data.shards import pixel_hash
from mai_app.images.decode import Pixels, read_file
from mai_app.images.preprocess import resize

FOLDER: Final = "twins"
"""Folder of the twins, in the class folder of the synthetic images."""


def link_images(data: Path, out: Path, prepared: PreparedSet, stopped: Callable[[], bool]) -> dict[int, str]:
    """Link all images of the data set into the new one, or copy them where links fail; returns their files by row.

    A data set without split folders gets them, so that its test part stays as it was, without twins. Raises
    KeyboardInterrupt when `stopped` returns True.
    """
    divided = any(prepared.table["given_split"].to_pylist())
    files = {}
    for row in range(len(prepared)):
        file = prepared.file(row)
        if not divided and not prepared.splits[row]:
            continue  # the same picture has both labels
        files[row] = file if divided else f"{prepared.splits[row]}/{file}"
        path = out / files[row]
        if stopped():
            raise KeyboardInterrupt
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        original = (data / file).resolve()
        try:
            os.link(original, path)
        except OSError:  # another disk, or one without links
            write_bytes(path, read_file(original))
    return files


def counterpart(file: str) -> str:
    """The path of an original's twin: the same below the synthetic class's folder, in a folder `twins`."""
    authentic = [name for name, label in CLASS_NAMES.items() if label == 0]
    synthetic = [name for name, label in CLASS_NAMES.items() if label == 1]
    parts = PurePosixPath(file).parts
    at = next(i for i, part in enumerate(parts) if part.lower() in authentic)
    return "/".join((*parts[:at], synthetic[authentic.index(parts[at].lower())], FOLDER, *parts[at + 1 :]))


class Unpaired:
    """The images that have no twin: a twin that looked like one of them would exclude it, even from test."""

    def __init__(self, prepared: PreparedSet, rows: list[int]) -> None:
        groups = np.asarray(prepared.table["group"].to_pylist())
        paired = np.isin(groups, groups[rows])
        columns = prepared.table.select(["sha256", "phash"]).to_pydict()
        self.sha256 = {name for name, in_pair in zip(columns["sha256"], paired, strict=True) if not in_pair}
        hashes = np.array([int(text, 16) for text in columns["phash"]], dtype=np.uint64)
        self.hashes = np.unique(hashes[~paired & (hashes != 0)])

    def has(self, pixels: Pixels) -> bool:
        """Whether one of them is a duplicate of pixels (height, width, 3) uint8, by the rules of `mai prepare`."""
        seen = np.uint64(perceptual_hash(resize(pixels, IMAGE_SIZE)))
        near = bool(seen) and bool((np.bitwise_count(self.hashes ^ seen) <= NEAR_DUPLICATE_BITS).any())
        return near or pixel_hash(pixels) in self.sha256


def write_manifest(out: Path, prepared: PreparedSet, files: dict[int, str], twins: dict[str, tuple[str, str]]) -> None:
    """Write the new data set's manifest.csv, with a pair for each group of duplicates that has a twin.

    `files` are the originals' paths by row, `twins` each twin's path and generator by its original's path. A pair holds
    the whole group: a duplicate of an original outside its pair would exclude them all.
    """
    columns = prepared.table.select(["source", "generator", "kind", "tie", "group"]).to_pydict()
    paired = {columns["group"][row] for row, file in files.items() if file in twins}
    rows = []
    for row, file in files.items():
        source, generator, kind, group_key, group = (column[row] for column in columns.values())
        pair = group if group in paired else group_key.removeprefix(PAIR)
        rows.append((file, source, generator, kind, pair))
        if file in twins:
            twin, generator = twins[file]
            rows.append((twin, source, generator, kind, pair))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "source", "generator", "kind", "pair"), *sorted(rows)])
    write_text(out / "manifest.csv", text.getvalue())
