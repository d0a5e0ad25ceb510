"""Files on disk: atomic writes, folder locks, and the JSON-lines logs that interrupted work resumes from."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no locks there
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]
"""One line of a JSON-lines log."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing that replaces `path` atomically, or is deleted if the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers apart; a killed one's leftover is overwritten or ignored.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: whole or not at all."""
    with replacing(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically: whole or not at all."""
    write_bytes(path, text.encode())


def text_encoding(head: bytes) -> str:
    """The encoding of a text that begins with these bytes, by its byte order mark or the zeros of UTF-16; else UTF-8.

    Windows PowerShell writes UTF-16. No file name and no table holds a zero byte otherwise; in UTF-16 the zeros of
    Latin letters, dots and slashes stand all before them or all behind.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if (0 in head[0::2]) != (0 in head[1::2]):
        return "utf-16-be" if 0 in head[0::2] else "utf-16-le"
    return "utf-8-sig"


def read_names(stream: IO[bytes]) -> Iterator[str]:
    """File names of a list with one a line, as they come; empty lines are none. UTF-16 is read as a whole first."""
    first = stream.readline()
    encoding = text_encoding(first)
    lines: Iterator[str]
    if encoding == "utf-8-sig":
        # Names on a disk may be no UTF-8: their bytes are kept.
        lines = (os.fsdecode(line) for line in chain([first.removeprefix(b"\xef\xbb\xbf")], stream))
    else:
        lines = iter((first + stream.read()).decode(encoding, "replace").split("\n"))
    for line in lines:
        name = line.rstrip("\r\n")
        if name.strip():
            yield name


def resume_rows(path: Path, header: Row | None = None, keep: Callable[[Row], bool] | None = None) -> list[Row]:
    """Read a JSON-lines log that interrupted work resumes from, without its header; an absent log has no rows.

    With a `header`, a log whose first row is another one is started anew, and an absent one is made. For the rest see
    `read_rows`. Raises ValueError for a line that is not JSON.
    """
    if header is None and not path.exists():
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        rows = list(read_rows(stream, keep))
        if header is None:
            return rows
        if rows[:1] == [header]:
            return rows[1:]
        stream.truncate(0)
        append_rows(stream, [header])
        return []


def read_rows(stream: IO[bytes], keep: Callable[[Row], bool] | None = None, start: bytes = b"") -> Iterator[Row]:
    """Yield the rows of a JSON-lines log that is open for reading and appending ("a+b").

    Cuts off a last line that a kill left unfinished, and everything from the first row on for which `keep` is false.
    `start` is what each line begins with. Raises ValueError, naming the line, for one that is not JSON or, unfinished,
    does not begin so: nothing is cut off then.
    """
    stream.seek(0)
    whole = 0
    for number, line in enumerate(stream, 1):
        unfinished = not line.endswith(b"\n")
        if unfinished and start.startswith(line[: len(start)]):
            break
        try:
            if unfinished:
                raise ValueError("unfinished")
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no row ({error})") from None
        if keep and not keep(row):
            break
        yield row
        whole += len(line)
    else:
        return
    stream.truncate(whole)


def append_rows(stream: IO[bytes], rows: Iterable[Row], ascii_only: bool = True, sync: bool = False) -> None:
    """Append rows to a JSON-lines log that is open in binary mode, in one write, and flush it; `sync`: to the disk.

    Without `ascii_only` text is UTF-8; of names that are not UTF-8 the bytes in question are escaped as JSON does.
    """
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    try:
        stream.write(text.encode("utf-8", "backslashreplace"))
        stream.flush()
        if sync:
            os.fsync(stream.fileno())
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(stream.name)) from None


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings of `new` that `old` has otherwise, as `name old → new; …`; empty if there are none."""
    return "; ".join(f"{name} {old.get(name)} → {value}" for name, value in new.items() if old.get(name) != value)


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a lock on a folder, made if need be, for this process; it ends with the process, however that ends.

    Raises BlockingIOError where another process holds it and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as stream:
        lock(stream, wait)
        yield


def lock(stream: IO[bytes], wait: bool) -> None:
    """Lock an open file for this process until it is closed.

    Raises BlockingIOError where another process holds it and `wait` is False.
    """
    if fcntl:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # a network file system without locks: then nothing keeps two processes apart


def sync_folder(folder: Path) -> None:
    """Sync a folder's list of names to the disk: what was renamed in it stays renamed."""
    if os.name == "nt":  # Windows can't open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
