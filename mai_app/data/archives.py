"""Read images out of zip archives and parquet tables, one at a time as their original bytes, without unpacking.

Memory holds one image (zip) or a few rows (parquet), whatever the archive's size.
"""

import glob
import hashlib
import heapq
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.dataset import ParquetFragmentScanOptions

from mai_app.config import LIMITS
from mai_app.data.sources import Flags, Source
from mai_app.errors import ImageError, SourceError
from mai_app.images.find import PROGRAM_FOLDERS, has_image_name

BOMB_RATIO = 200
"""A member that packs better than this is no image file: those are packed already."""


@dataclass(frozen=True)
class Member:
    """One image of an archive or table."""

    name: str
    """Its path in the zip, or its row's number in the table."""
    content: bytes | ImageError
    group_key: str = ""
    """Images with the same key, a prompt for example, form one group; empty if there is none."""


def draw(names: Iterable[str], max_count: int | None, seed: int) -> set[str]:
    """At most `max_count` of the names, drawn by a seeded hash: a smaller draw is part of a larger one."""
    if max_count is None:
        return set(names)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return set(heapq.nsmallest(max_count, names, key=rank))


def read_members(
    path: Path, source: Source, max_images: int | None, seed: int, excluded: frozenset[str] = frozenset()
) -> Iterator[Member]:
    """The images of a source's file in its order: at most `max_images`, drawn by the seed, none of those `excluded`.

    Raises SourceError for a file that is no such archive; one bad member is a Member with its ImageError.
    """
    reader = _read_zip if source.container == "zip" else _read_parquet
    return reader(path, source, max_images, seed, excluded)


def read_flags(path: Path, flags: Flags) -> list[str]:
    """Names of the images that a table says to leave out, sorted; raises SourceError if it is no such table."""
    names: list[str] = []
    try:
        with pq.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if missing := [name for name in (flags.name, flags.score) if name not in columns]:
                raise SourceError(
                    f"{flags.file}: has no column {' and no column '.join(missing)}, by which images are left out; its "
                    f"columns are {', '.join(columns)}"
                )
            for batch in table.iter_batches(columns=[flags.name, flags.score]):
                scores = batch.column(flags.score).to_numpy(zero_copy_only=False)
                names += batch.column(flags.name).filter(pa.array(scores > flags.most)).drop_null().to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise SourceError(f"{flags.file}: not a table with {flags.name} and {flags.score} ({_line(error)})") from None
    return sorted(names)


def _read_zip(
    path: Path, source: Source, max_images: int | None, seed: int, excluded: frozenset[str]
) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{path.name}: not a zip archive that can be read ({_line(error)})") from None
    with archive:
        members = {info.filename: info for info in archive.infolist() if _is_image(info.filename)}
        tags = {name: info for name, info in _texts(archive).items() if source.without_tags}
        group_keys = _group_keys(archive, source.tie, path.name) if source.tie else {}
        wanted = [
            name
            for name in members
            if PurePosixPath(name).name not in excluded
            and not (source.without_tags and _tags(archive, tags.get(_stem(name))) & source.without_tags)
        ]
        chosen = draw(wanted, max_images, seed)
        for name in wanted:
            if name in chosen:
                yield Member(name, _content(archive, members[name]), group_keys.get(PurePosixPath(name).name, ""))


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | ImageError:
    # Nothing is written under a member's name; one that points elsewhere is not meant as an image all the same.
    if info.filename.startswith(("/", "\\")) or ".." in PurePosixPath(info.filename.replace("\\", "/")).parts:
        return ImageError(info.filename, "its name points out of the archive")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Of these two ways alone zipfile unpacks no more than declared; of others a few bytes may fill the memory.
        return ImageError(info.filename, "is encrypted, or packed in another way than stored or deflated")
    if info.file_size > LIMITS.max_bytes:
        return ImageError(info.filename, f"has {info.file_size:,} bytes, over the limit of {LIMITS.max_bytes:,}")
    if info.file_size > 2**20 and info.file_size > BOMB_RATIO * info.compress_size:
        return ImageError(info.filename, f"unpacks to {info.file_size:,} bytes from {info.compress_size:,}: no image")
    try:
        # Not more than declared is ever unpacked: zipfile stops there, and then compares the checksum.
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        return ImageError(info.filename, f"can't be unpacked ({_line(error)})")


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    left_out = any(part.lower() in PROGRAM_FOLDERS or (part.startswith(".") and part != "..") for part in parts)
    return not left_out and has_image_name(name)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _texts(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {_stem(info.filename): info for info in archive.infolist() if info.filename.lower().endswith(".txt")}


def _tags(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> frozenset[str]:
    """Tags of a text file: by commas, underscores for spaces; none where there is no readable text."""
    content = _content(archive, info) if info else b""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
    return frozenset(tag.strip().replace("_", " ").lower() for tag in text.replace("\n", ",").split(","))


def _group_keys(archive: zipfile.ZipFile, key: str, name: str) -> dict[str, str]:
    """By image name the value that a JSON member gives for it."""
    group_keys = {}
    for info in archive.infolist():
        if not info.filename.lower().endswith(".json") or "__MACOSX" in info.filename:
            continue
        content = _content(archive, info)
        try:
            rows = json.loads(content) if isinstance(content, bytes) else None
            group_keys.update({image: _same(str(row[key])) for image, row in rows.items() if key in row})  # type: ignore[union-attr]
        except (ValueError, AttributeError, TypeError):
            raise SourceError(f"{name}: {info.filename} does not say what belongs to which image") from None
    return group_keys


def _same(text: str) -> str:
    """Texts that differ in case and spacing alone are one."""
    return " ".join(text.lower().split())


def _read_parquet(
    path: Path, source: Source, max_images: int | None, seed: int, excluded: frozenset[str]
) -> Iterator[Member]:
    import datasets  # noqa: PLC0415 - takes a second

    try:
        with pq.ParquetFile(path) as table:
            count, columns = table.metadata.num_rows, table.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path.name}: not a parquet table that can be read ({_line(error)})") from None
    if source.column not in columns:
        raise SourceError(f"{path.name}: has no column {source.column!r}; its columns are {', '.join(columns)}")
    keep = [column for column in (source.column, source.tie) if column]
    chosen = draw(map(str, range(count)), max_images, seed)
    try:
        rows = datasets.load_dataset(
            "parquet",
            data_files={"train": glob.escape(str(path))},
            split="train",
            streaming=True,
            columns=keep,
            # Without these it holds whole row groups, and as many of them as it can read meanwhile.
            batch_size=16,
            fragment_scan_options=ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True),
        ).cast_column(source.column, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            name = str(number)
            if name in chosen and name not in excluded:
                yield Member(name, _bytes(row[source.column], name), _same(str(row.get(source.tie) or "")))
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        # The table's own notes on its columns may be anything, too.
        raise SourceError(f"{path.name}: breaks off ({_line(error)})") from None


def _bytes(value: Any, name: str) -> bytes | ImageError:
    # A path without bytes may be any address: it is never followed.
    content = value.get("bytes") if isinstance(value, dict) else None
    if content is None:
        return ImageError(name, "has no bytes in the table")
    return bytes(content)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
