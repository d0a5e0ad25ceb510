"""Read images out of tar archives, packed or not, as WebDataset shards are: one at a time, without unpacking.

What is said of an image comes from the JSON file of the same name beside it. Memory holds one image and these files.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mai_app.config import LIMITS
from mai_app.data.selection import Member, Quota, Values, choose, deciding_columns, one_line, same_text
from mai_app.data.source_row import Source
from mai_app.data.zips import is_image_member, leads_out, member_stem
from mai_app.errors import ImageError, SourceError

MAX_HEADER = 1 << 20
"""Bytes of a long name, or of extended headers, that are read; tarfile would read whatever they declare."""
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class _Header(tarfile.TarInfo):
    """A member's header, refused where it asks for much memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if header.type in (*extended, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) and header.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def read_tar(path: Path, source: Source, quota: Quota) -> Iterator[Member]:
    """The images of a tar archive in its order; raises SourceError for a file that is none, or breaks off.

    The archive is gone through twice: for the names and what is said of them, and for the images that are taken.
    """
    try:
        names, values = _list(path, source)
        if source.tie or deciding_columns(source):
            _check_columns(names, values, source, path.name)
        (column,) = source.image_columns
        of_name = {name: values.get(member_stem(name), {}) for name in names}
        images = ((n, column, of_name[n], same_text(str(of_name[n].get(source.tie) or ""))) for n in names)
        chosen = choose(images, source, quota, path.name)
        with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
            for info in archive:
                # A name that comes twice is one image: the first.
                if choice := chosen.pop(info.name, None):
                    yield Member(info.name, _content(archive, info), choice)
    except _DAMAGE as error:
        raise SourceError(f"{path.name}: not a tar archive that can be read to its end ({one_line(error)})") from None


def _list(path: Path, source: Source) -> tuple[list[str], dict[str, Values]]:
    """The names of the images, and by stem what the JSON files say, where the source asks for it."""
    names: dict[str, None] = {}
    values: dict[str, Values] = {}
    needed = {*deciding_columns(source), source.tie} - {""}
    with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
        for info in archive:
            if is_image_member(info.name) and not info.isdir():
                names[info.name] = None
            elif needed and info.name.lower().endswith(".json"):
                content = _content(archive, info)
                said: Any = json.loads(content) if isinstance(content, bytes) else None
                if isinstance(said, dict):
                    values[member_stem(info.name)] = {column: said[column] for column in needed if column in said}
    return list(names), values


def _check_columns(names: list[str], values: dict[str, Values], source: Source, file: str) -> None:
    for name in names:
        there = values.get(member_stem(name), {})
        if missing := [column for column in (*deciding_columns(source), source.tie) if column and column not in there]:
            raise SourceError(f"{file}: {member_stem(name)}.json does not say {missing[0]!r} of {name}")


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | ImageError:
    if leads_out(info.name):
        return ImageError(info.name, "its name points out of the archive")
    if not info.isreg() or info.issparse():
        return ImageError(info.name, "is a link, or another thing than a plain file")
    if info.size > LIMITS.max_bytes:
        return ImageError(info.name, f"has {info.size:,} bytes, over the limit of {LIMITS.max_bytes:,}")
    stream = archive.extractfile(info)
    return stream.read() if stream else ImageError(info.name, "has no content")
