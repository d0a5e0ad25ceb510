"""Files of a twin data set: links to the originals, twins re-encoded as their originals are, pairs and manifest."""

import csv
import io
import math
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image, JpegImagePlugin

from mai_app.config import CLASSES, IMAGE_SIZE, NEAR_DUPLICATE_BITS
from mai_app.core.files import write_bytes, write_text
from mai_app.data.dedup import perceptual_hash
from mai_app.data.layout import CLASS_NAMES, PAIR, class_position
from mai_app.data.prepared import PreparedSet
from mai_app.data.shards import pixel_hash
from mai_app.images.containers import take_apart
from mai_app.images.decode import FORMATS, DecodedImage, Pixels, read_file
from mai_app.images.preprocess import resize

GRID: Final = 16
"""Step of a window's corner position, in pixels: multiples of the largest blocks that JPEG codes at once."""
FOLDER: Final = "twins"
"""Folder of the twins, in the class folder of the synthetic images."""
MANIFEST_COLUMNS: Final = ("file", "label", "split", "source", "generator", "kind", "pair")


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
    """The path of an original's twin: the same below the synthetic class's folder, in a folder `twins`.

    Where no folder says that the original is authentic, but the manifest does, a class folder goes in between.
    """
    authentic = [name for name, label in CLASS_NAMES.items() if label == 0]
    synthetic = [name for name, label in CLASS_NAMES.items() if label == 1]
    *folders, name = PurePosixPath(file).parts
    at = class_position(tuple(folders))
    if at is None or folders[at].lower() not in authentic:
        return "/".join((*folders, synthetic[0], FOLDER, name))
    return "/".join((*folders[:at], synthetic[authentic.index(folders[at].lower())], FOLDER, *folders[at + 1 :], name))


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
    the whole group: a duplicate of an original outside its pair would exclude them all. Label and split are
    repeated, for the original set may have them from its manifest.
    """
    columns = prepared.table.select(["source", "generator", "kind", "tie", "group", "label", "given_split"]).to_pydict()
    divided = any(columns["given_split"])
    paired = {columns["group"][row] for row, file in files.items() if file in twins}
    rows = []
    for row, file in files.items():
        source, generator, kind, group_key, group, label, split = (column[row] for column in columns.values())
        split = split if divided else prepared.splits[row]
        pair = group if group in paired else group_key.removeprefix(PAIR)
        rows.append((file, CLASSES[label], split, source, generator, kind, pair))
        if file in twins:
            twin, generator = twins[file]
            rows.append((twin, CLASSES[1], split, source, generator, kind, pair))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([MANIFEST_COLUMNS, *sorted(rows)])
    write_text(out / "manifest.csv", text.getvalue())


def window(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A view of at most (side, side, 3) pixels whose corner lies on JPEG's grid; all of them for side 0."""
    if not side:
        return pixels
    y, x = (GRID * int(rng.integers(max(0, length - side) // GRID + 1)) for length in pixels.shape[:2])
    return pixels[y : y + side, x : x + side]


def saved_alike(pixels: Pixels, data: bytes, image: DecodedImage) -> bytes:
    """The bytes of (height, width, 3) uint8 pixels, saved as the file `data`, which decodes to `image`, was saved.

    JPEG with the file's own quantisation tables and colour sampling (4:2:0 for samplings that Pillow can't write);
    WebP as lossy as it was; PNG and BMP as such, what else there is as PNG. Grey files stay grey. No metadata.
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(take_apart(data).pixels), formats=FORMATS) as original:
        grey = original.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
        made = Image.fromarray(pixels).convert("L" if grey else "RGB")
        if isinstance(original, JpegImagePlugin.JpegImageFile):
            tables = _tables_by_plane(original)
            sampling = JpegImagePlugin.get_sampling(original)
            progressive = bool(original.info.get("progressive"))
            made.save(
                buffer, "JPEG", qtables=tables, subsampling=sampling if sampling >= 0 else 2, progressive=progressive
            )
        elif image.format == "WEBP":
            made.save(buffer, "WEBP", **(webp_options(data, image) if image.lossy else {"lossless": True}))
        else:
            made.save(buffer, "BMP" if image.format == "BMP" else "PNG")
    return buffer.getvalue()


def _tables_by_plane(image: JpegImagePlugin.JpegImageFile) -> list[list[int]]:
    """A JPEG's quantisation tables in the order in which Pillow gives them to brightness and colours."""
    numbers = [plane[3] for plane in image.layer[:3]]
    if len(set(numbers)) == 1:
        numbers = numbers[:1]
    elif numbers[1:2] == numbers[2:]:
        numbers = numbers[:2]
    return [list(image.quantization[number]) for number in numbers]


def webp_options(data: bytes, image: DecodedImage) -> dict[str, Any]:
    """How to save WebP as lossy as a file: its quality is that at which its pixels take as many bytes once more."""
    picture = Image.fromarray(image.pixels)
    low, high = 1, 100
    while low < high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality)
        low, high = (quality + 1, high) if len(buffer.getvalue()) < len(data) else (low, quality)
    return {"quality": low}


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of two images of one shape, in decibels; at most 99."""
    error = np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, dtype=np.float64)
    return min(99.0, 10 * math.log10(255**2 / max(float(error), 1e-9)))
