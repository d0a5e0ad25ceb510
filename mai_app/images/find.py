"""Find image files: from file names, folders (searched recursively), glob patterns and lists on standard input."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mai_app.errors import DataError, ImageError
from mai_app.images.decode import OTHER_SUFFIXES, SUFFIXES


def walk_images(folder: Path) -> Iterator[Path]:
    """Image files below a folder in a fixed order, depth first; hidden files and folders are left out.

    An image is what is named like one, or has no suffix at all. Linked folders are not followed.
    Memory does not grow with the number of folders, only with the largest one.
    """
    for found in _walk(folder):
        if isinstance(found, ImageError):
            raise DataError(str(found))
        yield found


def find_images(paths: Iterable[str]) -> Iterator[Path | ImageError]:
    """The image files that a user names, in the order given: files, folders (searched through), glob patterns.

    What names nothing, or can't be searched, comes as the ImageError to report for it, so that the rest goes on.
    """
    for name in paths:
        if not name:  # an unset variable of a script must not mean the folder that it runs in
            yield ImageError("''", "an empty name names no file")
            continue
        try:
            found, missing = _named(name)
        except (OSError, ValueError):  # no file can have this name, or its folder is closed: reading it says so
            yield Path(name)
            continue
        first = next(found, None)
        if first is None:
            yield ImageError(name, missing)
            continue
        yield first
        yield from found


def named_paths(names: Iterable[str]) -> Iterator[str]:
    """The names of a command line, with - replaced by the lines on standard input, as they come."""
    for name in names:
        if name == "-":
            for line in sys.stdin.buffer:
                if line.strip():
                    yield os.fsdecode(line.rstrip(b"\r\n"))
        else:
            yield name


def _walk(folder: Path) -> Iterator[Path | ImageError]:
    """What walk_images yields; in the place of a folder that can't be listed, the error."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield ImageError(str(folder), f"can't be listed ({error.strerror})")
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself, or into a closed folder: reading it says so
            is_folder = False
        if not is_folder:
            suffix = Path(entry.name).suffix.lower()
            if not suffix or suffix in SUFFIXES or suffix in OTHER_SUFFIXES:
                yield Path(entry.path)
        elif not entry.is_symlink():
            yield from _walk(Path(entry.path))


def _named(name: str) -> tuple[Iterator[Path | ImageError], str]:
    """What a name stands for, and the reason to report if that is nothing."""
    path = Path(name)
    if path.is_dir():
        return _walk(path), "is a folder without an image file"
    if glob.has_magic(name) and not path.exists():
        # glob's own order is the file system's.
        matches = map(Path, sorted(glob.glob(name, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        return iter([match for match in matches if not match.is_dir()]), "no file matches the pattern"
    return iter([path]), ""
