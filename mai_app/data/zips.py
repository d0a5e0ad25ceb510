"""Read images out of zip archives, one at a time as their original bytes, without unpacking to the disk.

What is said of an image comes from files beside it: JSON (group keys), text (tags), or a table of comma-separated
values (labels). Memory holds one image and these files, whatever the archive's size.
"""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mai_app.config import LIMITS
from mai_app.data.selection import Member, Quota, Values, choose, deciding_columns, one_line, same_text
from mai_app.data.source_row import Source
from mai_app.errors import ImageError, SourceError
from mai_app.images.find import PROGRAM_FOLDERS, has_image_name

BOMB_RATIO = 200
"""A member that packs better than this is no image file: those are packed already."""


def read_zip(path: Path, source: Source, quota: Quota) -> Iterator[Member]:
    """The images of a zip archive in its order; raises SourceError for a file that is none, or lacks its table."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{path.name}: not a zip archive that can be read ({one_line(error)})") from None
    with archive:
        members = {info.filename: info for info in archive.infolist() if is_image_member(info.filename)}
        tags = {name: info for name, info in _texts(archive).items() if source.without_tags}
        group_keys = _group_keys(archive, source.tie, path.name) if source.tie else {}
        wanted = [
            name
            for name in members
            if PurePosixPath(name).name not in quota.excluded
            and not (source.without_tags and _tags(archive, tags.get(member_stem(name))) & source.without_tags)
        ]
        values = _values(archive, source, wanted, path.name)
        (column,) = source.image_columns
        images = ((n, column, values[n], group_keys.get(PurePosixPath(n).name, "")) for n in wanted)
        for name, choice in choose(images, source, quota, path.name).items():
            yield Member(name, _content(archive, members[name]), choice)


def leads_out(name: str) -> bool:
    """Whether a member's name points out of the folder that its archive would be unpacked to."""
    return name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts


def _values(archive: zipfile.ZipFile, source: Source, names: list[str], file: str) -> dict[str, Values]:
    """The values of each image, from the row of the archive's table that names it."""
    if source.table is None:
        return {name: {} for name in names}
    rows = _table_rows(archive, source, file)
    found: dict[str, Values] = {}
    for name in names:
        path = PurePosixPath(name)
        row = next((rows[n] for n in (name, path.name, path.stem) if n in rows), None)
        if row is None:
            raise SourceError(f"{file}: {source.table.file} has no row for {name}, so what it is is not known")
        found[name] = row
    return found


def _table_rows(archive: zipfile.ZipFile, source: Source, file: str) -> dict[str, Values]:
    """The rows of the archive's table, by the image that they name."""
    assert source.table  # noqa: S101 - the caller's
    infos = [info for info in archive.infolist() if PurePosixPath(info.filename).name == source.table.file]
    infos = [info for info in infos if "__MACOSX" not in info.filename]
    if len(infos) != 1:
        raise SourceError(f"{file}: has {len(infos) or 'no'} {source.table.file}, which says what its images are")
    content = _content(archive, infos[0])
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else ""
        reader = csv.DictReader(io.StringIO(text, newline=""))
        there = list(reader.fieldnames or ())
        rows = list(reader)
    except (UnicodeError, csv.Error) as error:
        raise SourceError(f"{file}: {source.table.file} can't be read ({one_line(error)})") from None
    needed = (source.table.name, *deciding_columns(source))
    if missing := [column for column in needed if column not in there]:
        raise SourceError(
            f"{file}: {source.table.file} has no column {missing[0]!r}; its columns are {', '.join(there)}"
        )
    by_name: dict[str, Values] = {}
    for row in rows:
        name = row[source.table.name]
        if name in by_name and by_name[name] != row:
            raise SourceError(f"{file}: {source.table.file} says two things of {name}")
        by_name[name] = row
    return by_name


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | ImageError:
    # Nothing is written under a member's name; one that points elsewhere is not meant as an image all the same.
    if leads_out(info.filename):
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
        return ImageError(info.filename, f"can't be unpacked ({one_line(error)})")


def is_image_member(name: str) -> bool:
    """Whether an archive's member is taken as an image, by its name."""
    parts = PurePosixPath(name).parts
    left_out = any(part.lower() in PROGRAM_FOLDERS or (part.startswith(".") and part != "..") for part in parts)
    return not left_out and has_image_name(name)


def member_stem(name: str) -> str:
    """A member's name without its suffix, by which files that belong together are known."""
    return str(PurePosixPath(name).with_suffix(""))


def _texts(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member_stem(info.filename): info for info in archive.infolist() if info.filename.lower().endswith(".txt")}


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
            group_keys.update({image: same_text(str(row[key])) for image, row in rows.items() if key in row})  # type: ignore[union-attr]
        except (ValueError, AttributeError, TypeError):
            raise SourceError(f"{name}: {info.filename} does not say what belongs to which image") from None
    return group_keys
