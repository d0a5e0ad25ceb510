"""Shards: images decoded once and stored atomically, and joined into a prepared set's manifest.

A shard is a folder with
    pixels.u8       one image after another: the whole image stretched to (200, 200, 3) uint8, its window of native
                    pixels (≤ window, ≤ window, 3) uint8, the same of the image scaled down if a side is over 512
                    pixels, the whole image's central square (≤ whole, ≤ whole, 3) uint8, where the form has one, and,
                    of images that may be tested on, their file's own bytes
    index.csv       one row per image: where it came from, how its file stored it, where its pixels lie
    refused.jsonl   one row per file that could not be decoded
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mai_app.config import FORM, IMAGE_SIZE, PREPARED_LONGEST, PreparedForm, Splitting
from mai_app.core.files import replacing, sync_folder, write_text
from mai_app.core.log import say
from mai_app.core.parallel import ordered_map
from mai_app.data.dedup import assign_splits, group_images, held_out_alone, perceptual_hash
from mai_app.data.layout import Record
from mai_app.data.match import SURPLUS, file_cells, find_surplus
from mai_app.errors import DataError, ImageError
from mai_app.images.decode import Pixels, decode, read_file
from mai_app.images.preprocess import central_square, random_window, resize, shrink

STRETCHED_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE * 3

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
    "whole": pa.int64(),
    "original_bytes": pa.int64(),
}
"""Columns of index.csv. sha256 is that of the decoded pixels, phash the perceptual hash in hexadecimal (0: none).
window_… is the shape of the native window, scaled_… that of the scaled image's: 0 for images that are small enough;
whole is the side of the central square, 0 where none is kept."""
VERSION: Final = 4
"""4 added the central square; complete sets of 3 are read."""
MANIFEST: Final = {"split": pa.string(), "left_out": pa.string(), "group": pa.string(), "unit": pa.string(), **COLUMNS}
"""Columns of manifest.csv: the shards' own, and split (empty where left out), left_out (why), group and shard."""


@dataclass(frozen=True)
class Item:
    """One image on its way into a shard."""

    record: Record
    content: bytes | Path | ImageError


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of the decoded pixels and their shape: the same picture whatever the file around it."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def write_shard(
    folder: Path,
    items: Iterable[Item],
    splitting: Splitting,
    keep_originals: bool,
    on_image: Callable[[], None] = lambda: None,
    workers: int = 2,
    form: PreparedForm = FORM,
) -> None:
    """Decode and store the items, in their order, as the folder, which appears when all of it is on the disk.

    With keep_originals the files of images that are in test, or drawn into it or val, are kept, too. `on_image` is
    called after each item; what it, or the items, raise leaves nothing behind, OSError for a full disk included.
    """

    def work(item: Item) -> tuple[dict[str, Any], list[bytes]] | dict[str, str]:
        return _decode(item, splitting, keep_originals, form)

    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with (
            (unfinished / "pixels.u8").open("wb") as pixels,
            (unfinished / "index.csv").open("w", encoding="utf-8", newline="") as index,
            (unfinished / "refused.jsonl").open("w", encoding="utf-8") as rejected,
        ):
            rows = csv.DictWriter(index, COLUMNS, lineterminator="\n")
            rows.writeheader()
            at = 0
            for result in ordered_map(work, items, workers):
                if isinstance(result, dict):
                    rejected.write(json.dumps(result) + "\n")
                else:
                    row, parts = result
                    rows.writerow(row | {"at": at})
                    pixels.writelines(parts)
                    at += sum(map(len, parts))
                on_image()
            _sync(pixels, index, rejected)
        sync_folder(unfinished)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _decode(
    item: Item, splitting: Splitting, keep_originals: bool, form: PreparedForm
) -> tuple[dict[str, Any], list[bytes]] | dict[str, str]:
    """An image's row and what is stored of it; or why it is rejected."""
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
    window = random_window(image.pixels, form.window, np.random.default_rng(seeds))
    scaled = image.pixels[:0, :0]
    if max(height, width) > PREPARED_LONGEST:
        small = shrink(image.pixels, PREPARED_LONGEST)
        scaled = random_window(small, form.window, np.random.default_rng(seeds))
    whole = central_square(image.pixels, form.whole) if form.whole else image.pixels[:0, :0]
    stretched = resize(image.pixels, IMAGE_SIZE)
    held_out = record.split == "test" or held_out_alone(sha256, splitting)
    original = data if keep_originals and held_out else b""
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
        "whole": whole.shape[0],
        "original_bytes": len(original),
    }
    return row, [stretched.tobytes(), window.tobytes(), scaled.tobytes(), whole.tobytes(), original]


def _sync(*streams: IO[Any]) -> None:
    for stream in streams:
        stream.flush()
        os.fsync(stream.fileno())


def join_shards(
    folder: Path,
    missing: dict[str, str],
    notes: tuple[str, ...],
    splitting: Splitting,
    form: PreparedForm,
    name: str = "",
    test_only: tuple[str, ...] = (),
    match: bool = False,
    licences: Mapping[str, str] | None = None,
) -> None:
    """Group and split what the shards hold, and write the manifest; prepared.json comes last.

    `name` is that of the folder that all of it was made from, if there is one; `test_only` are the sources whose
    images no training may see; `licences` are the sources' own. With `match` images are left out until the classes'
    files agree. Raises DataError if no image is left; a set that was complete stays so where matching leaves none.
    """
    names = sorted(path.name for path in (folder / "units").glob("[!.]*"))
    tables = []
    for shard in names:
        table = read_table(folder / "units" / shard / "index.csv", COLUMNS)
        tables.append(table.append_column("unit", pa.array([shard] * table.num_rows, pa.string())))
    rejected = []
    for shard in names:
        rejected += (folder / "units" / shard / "refused.jsonl").read_text().splitlines(keepends=True)
    _report_rejected([json.loads(line) for line in rejected[:10]], len(rejected), folder)
    if not names or not sum(table.num_rows for table in tables):
        (folder / "prepared.json").unlink(missing_ok=True)
        write_text(folder / "refused.jsonl", "".join(rejected))
        reasons = "; ".join(missing.values()) or f"{folder / 'refused.jsonl'} says why"
        raise DataError(f"{folder}: none of its {len(rejected)} images can be decoded; {reasons}")

    table = pa.concat_tables(tables)
    sha256 = table["sha256"].to_numpy().astype("S64")  # a quarter of the memory of text
    group_keys = table["tie"].to_numpy().astype(str)
    hashes = np.array([int(text, 16) for text in table["phash"].to_pylist()], dtype=np.uint64)
    groups = group_images(sha256, hashes, group_keys)
    labels, given = table["label"].to_numpy(), table["given_split"].to_numpy().astype(str)
    splits, excluded = assign_splits(groups, labels, group_keys, given, splitting)
    if match:
        sources = table["source"].to_numpy().astype(str)
        surplus = find_surplus(file_cells(table), labels, splits, sources, sha256, groups, splitting.seed)
        splits, excluded = np.where(surplus, "", splits), np.where(surplus, SURPLUS, excluded)
        if not (splits != "").any():
            raise DataError(f"{folder}: --match leaves no image: nowhere are files of both classes alike; leave it out")
    columns = {"split": splits, "left_out": excluded, "group": groups}
    for column, values in columns.items():
        table = table.append_column(column, pa.array(values, pa.string()))
    table = table.select(list(MANIFEST))
    for reason, count in zip(*np.unique(excluded[excluded != ""], return_counts=True), strict=True):
        say(f"left out: {count} images: {reason}")

    (folder / "prepared.json").unlink(missing_ok=True)
    write_text(folder / "refused.jsonl", "".join(rejected))
    with replacing(folder / "manifest.csv") as stream:
        pyarrow.csv.write_csv(table, stream)
    facts = {
        "version": VERSION,
        "name": name,
        "images": table.num_rows,
        "left_out": int((excluded != "").sum()),
        "refused": len(rejected),
        "missing": missing,
        "notes": notes,
        "seed": splitting.seed,
        "form": asdict(form),
        "units": {shard: (folder / "units" / shard / "pixels.u8").stat().st_size for shard in names},
        "fingerprint": _fingerprint(table),
        **({"test_only": test_only} if test_only else {}),
        **({"match": match} if match else {}),
        **({"licences": dict(licences)} if licences else {}),
    }
    write_text(folder / "prepared.json", json.dumps(facts, indent=1) + "\n")


def _fingerprint(table: pa.Table) -> str:
    columns = ["sha256", "label", "split", "source"]
    digest = hashlib.sha256()
    for batch in table.select(columns).sort_by([(name, "ascending") for name in columns]).to_batches(10_000):
        for row in batch.to_pylist():
            digest.update(f"{list(row.values())}\n".encode() if row["split"] else b"")
    return digest.hexdigest()


def _report_rejected(rows: list[dict[str, str]], count: int, folder: Path) -> None:
    for row in rows:
        say(f"left out: {row['file']}: {row['reason']}")
    if count > len(rows):
        say(f"left out: {count - len(rows)} more, listed in {folder / 'refused.jsonl'}")


def read_table(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    """These columns of a comma-separated table; raises ValueError, KeyError or OSError where it does not have them."""
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
    )
