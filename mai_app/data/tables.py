"""Read images out of parquet tables: each row's own bytes, of one or several columns, and what its columns say of it.

Of a row group no more is decoded than one column of images at a time, and nothing where no image is taken. Writers that
put a row group's images into one page make that twice the row group's size: a page is held as it is stored, and
unpacked (benchmarks/readers.py: 2.2 times at most, where reading with `datasets` took 4.4 to 5.2).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mai_app.data.selection import Member, Quota, choose, deciding_columns, one_line, same_text
from mai_app.data.source_row import Flags, Source
from mai_app.errors import ImageError, SourceError

READ_BYTES = 1 << 20
"""Read at a time from the file."""
_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, LookupError)


def read_table(path: Path, source: Source, quota: Quota) -> Iterator[Member]:
    """The images of a parquet file: row group by row group, column by column, row by row.

    Raises SourceError for a file that is no such table, or lacks a column, or breaks off.
    """
    try:
        table = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
        columns, count = table.schema_arrow.names, table.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path.name}: not a parquet table that can be read ({one_line(error)})") from None
    with table:
        deciding = list(dict.fromkeys([*deciding_columns(source), *filter(None, [source.tie])]))
        needed = [*(column.name for column in source.image_columns), *deciding]
        if missing := [column for column in needed if column not in columns]:
            raise SourceError(f"{path.name}: has no column {missing[0]!r}; its columns are {', '.join(columns)}")
        try:
            values = table.read(columns=deciding).to_pylist() if deciding else [{}] * count
            images = (
                (_name(row, column.name, source), column, of_row, _group_key(of_row, row, source, path))
                for row, of_row in enumerate(values)
                if str(row) not in quota.excluded
                for column in source.image_columns
            )
            chosen = choose(images, source, quota, path.name)
            for name, value in _read_images(table, source, frozenset(chosen)):
                yield Member(name, _content(value, name), chosen[name])
        except _DAMAGE as error:
            raise SourceError(f"{path.name}: breaks off ({one_line(error)})") from None


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
        raise SourceError(
            f"{flags.file}: not a table with {flags.name} and {flags.score} ({one_line(error)})"
        ) from None
    return sorted(names)


def _read_images(table: pq.ParquetFile, source: Source, chosen: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Name and value of each chosen image."""
    start = 0
    for group in range(table.num_row_groups):
        rows = range(start, start + table.metadata.row_group(group).num_rows)
        start = rows.stop
        for column in source.image_columns:
            names = [_name(row, column.name, source) for row in rows]
            if chosen.isdisjoint(names):
                continue
            # A row at a time: a batch of many would hold their images beside the pages that they come from.
            batches = table.iter_batches(batch_size=1, row_groups=[group], columns=[column.name], use_threads=False)
            for name, batch in zip(names, batches, strict=True):
                if name in chosen:
                    yield name, batch.column(0)[0].as_py()
            # Else the next group's pages come beside this one's, which wait to be used again.
            del batches, batch
            pa.default_memory_pool().release_unused()


def _name(row: int, column: str, source: Source) -> str:
    return f"{row}/{column}" if source.columns else str(row)


def _group_key(values: dict[str, Any], row: int, source: Source, path: Path) -> str:
    if source.tie:
        return same_text(str(values[source.tie] or ""))
    return f"{path.name} {row}" if source.columns else ""


def _content(value: Any, name: str) -> bytes | ImageError:
    # A path without bytes may be any address: it is never followed.
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None or isinstance(content, str):
        return ImageError(name, "has no bytes in the table")
    if not isinstance(content, bytes):
        raise TypeError(f"its images are of the type {type(content).__name__}")
    return content
