"""Files that are either whole or not there, and folders that one process at a time writes in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: no locks there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes `path`'s place when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers apart; a killed one's leftover is overwritten or ignored.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold the folder, made if need be, for this process; it is free again when the process ends, however it ends.

    Raises BlockingIOError where another process holds it and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as stream:
        lock(stream, wait)
        yield


def lock(stream: IO[bytes], wait: bool) -> None:
    """Hold an open file for this process until it is closed.

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
    """Bring a folder's list of names to the disk: what was renamed in it stays renamed."""
    if os.name == "nt":  # Windows can't open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
