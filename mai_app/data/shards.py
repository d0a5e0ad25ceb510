"""The store: a unit of images decoded once and written as a whole, or not at all.

A unit is a folder with
    pixels.u8       an image after the other: the whole image stretched to (200, 200, 3) uint8, its window of native
                    pixels (≤ 256, ≤ 256, 3) uint8, the same of the image scaled down if a side is over 512 pixels,
                    and, of images that may be tested on, their file's own bytes
    index.csv       a line an image: where it came from, how its file stored it, where its pixels lie
    refused.jsonl   a line a file that could not be decoded
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from mai_app.config import IMAGE_SIZE, PREPARED_LONGEST, PREPARED_WINDOW, Splitting
from mai_app.core.files import sync_folder
from mai_app.core.parallel import ordered_map
from mai_app.data.dedup import held_out_alone, perceptual_hash
from mai_app.data.layout import Record
from mai_app.errors import ImageError
from mai_app.images.decode import Pixels, decode, read_file
from mai_app.images.preprocess import random_window, resize, shrink

STRETCHED_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE * 3
MOST_BYTES: Final = STRETCHED_BYTES + 2 * PREPARED_WINDOW * PREPARED_WINDOW * 3
"""Pixels stored of an image at most."""

COLUMNS: Final = {
    "file": pa.string(),
    "label": pa.int64(),
    "given_split": pa.string(),
    "source": pa.string(),
    "generator": pa.string(),
    "kind": pa.string(),
    "tie": pa.string(),
    "format": pa.string(),
    "lossy": pa.int64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "file_bytes": pa.int64(),
    "jpeg_quality": pa.int64(),
    "jpeg_sampling": pa.string(),
    "sha256": pa.string(),
    "phash": pa.string(),
    "at": pa.int64(),
    "window_height": pa.int64(),
    "window_width": pa.int64(),
    "scaled_height": pa.int64(),
    "scaled_width": pa.int64(),
    "original_bytes": pa.int64(),
}
"""Columns of index.csv. sha256 is that of the decoded pixels, phash the perceptual hash in hexadecimal (0: none).

window_… is the shape of the native window, scaled_… that of the scaled image's: 0 for images that are small enough."""


@dataclass(frozen=True)
class Item:
    """One image on its way into a unit."""

    record: Record
    content: bytes | Path | ImageError


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of the decoded pixels and their shape: the same picture whatever the file around it."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def write_unit(
    folder: Path,
    items: Iterable[Item],
    splitting: Splitting,
    keep_originals: bool,
    on_image: Callable[[], None] = lambda: None,
    workers: int = 2,
) -> None:
    """Decode and store the items, in their order, as the folder, which appears when all of it is on the disk.

    With keep_originals the files of images that the seed draws into val or test are kept, too. `on_image` is
    called after each item; what it, or the items, raise leaves nothing behind, OSError for a full disk included.
    """

    def work(item: Item) -> tuple[dict[str, Any], list[bytes]] | dict[str, str]:
        return _decode(item, splitting, keep_originals)

    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with (
            (unfinished / "pixels.u8").open("wb") as pixels,
            (unfinished / "index.csv").open("w", encoding="utf-8", newline="") as index,
            (unfinished / "refused.jsonl").open("w", encoding="utf-8") as refused,
        ):
            rows = csv.DictWriter(index, COLUMNS, lineterminator="\n")
            rows.writeheader()
            at = 0
            for result in ordered_map(work, items, workers):
                if isinstance(result, dict):
                    refused.write(json.dumps(result) + "\n")
                else:
                    row, parts = result
                    rows.writerow(row | {"at": at})
                    pixels.writelines(parts)
                    at += sum(map(len, parts))
                on_image()
            _sync(pixels, index, refused)
        sync_folder(unfinished)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _decode(
    item: Item, splitting: Splitting, keep_originals: bool
) -> tuple[dict[str, Any], list[bytes]] | dict[str, str]:
    """An image's row and what is stored of it; or why it is refused."""
    record = item.record
    # Names that are not UTF-8 are written with escapes.
    file = record.file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    try:
        if isinstance(item.content, ImageError):
            raise item.content
        data = read_file(item.content) if isinstance(item.content, Path) else item.content
        image = decode(data, file)
    except ImageError as error:
        return {"file": file, "source": record.source, "reason": error.reason}
    sha256 = pixel_hash(image.pixels)
    height, width = image.pixels.shape[:2]
    # The windows depend on the pixels and the seed alone, not on the order of things.
    seeds = [splitting.seed, int(sha256[:16], 16)]
    window = random_window(image.pixels, PREPARED_WINDOW, np.random.default_rng(seeds))
    scaled = image.pixels[:0, :0]
    if max(height, width) > PREPARED_LONGEST:
        small = shrink(image.pixels, PREPARED_LONGEST)
        scaled = random_window(small, PREPARED_WINDOW, np.random.default_rng(seeds))
    stretched = resize(image.pixels, IMAGE_SIZE)
    original = data if keep_originals and held_out_alone(sha256, splitting) else b""
    row = {
        "file": file,
        "label": record.label,
        "given_split": record.split,
        "source": record.source,
        "generator": record.generator,
        "kind": record.kind,
        "tie": record.tie,
        "format": image.format,
        "lossy": int(image.lossy),
        "width": width,
        "height": height,
        "file_bytes": image.file_bytes,
        "jpeg_quality": image.jpeg_quality,
        "jpeg_sampling": image.jpeg_sampling,
        "sha256": sha256,
        "phash": f"{perceptual_hash(stretched):016x}",
        "window_height": window.shape[0],
        "window_width": window.shape[1],
        "scaled_height": scaled.shape[0],
        "scaled_width": scaled.shape[1],
        "original_bytes": len(original),
    }
    return row, [stretched.tobytes(), window.tobytes(), scaled.tobytes(), original]


def _sync(*streams: IO[Any]) -> None:
    for stream in streams:
        stream.flush()
        os.fsync(stream.fileno())
