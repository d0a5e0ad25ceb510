"""Read the images of a source's file, whatever container they lie in, one at a time as their original bytes."""

from collections.abc import Iterator
from pathlib import Path

from mai_app.data.selection import Member, Quota, choose
from mai_app.data.source_row import Source
from mai_app.data.tables import read_table
from mai_app.data.tars import read_tar
from mai_app.data.zips import read_zip


def read_members(path: Path, source: Source, quota: Quota) -> Iterator[Member]:
    """The images of a source's file that its row and the quota take, in a fixed order.

    Raises SourceError for a file that is no such archive, or whose columns are not what the row says; one bad member
    is a Member with its ImageError.
    """
    readers = {"zip": read_zip, "parquet": read_table, "tar": read_tar, "file": _read_file}
    return readers[source.container](path, source, quota)


def _read_file(path: Path, source: Source, quota: Quota) -> Iterator[Member]:
    (column,) = source.image_columns
    for choice in choose([("", column, {}, "")], source, quota, path.name).values():
        yield Member("", path.read_bytes(), choice)
