"""A folder's contents by SHA-256: what names an upload, and what tells two states of a folder apart where times can't.

An upload of the folder `photos` lies in `photos@HASH/photos`, HASH being the first digits of its contents' hash, with
`upload.json` beside it, which is written last: without it the upload is not complete.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from mai_app.core.log import bar
from mai_app.errors import DataError, ImageError
from mai_app.images.find import NO_IMAGE, OTHER_NAME, LeftOut, walk

MARKER: Final = "upload.json"
"""File beside an uploaded folder: its contents' hash, the numbers of its files and bytes, and when it was uploaded."""
DIGITS: Final = 12
"""Of the hash in an upload's name."""
IGNORE_TIMES: Final = "MAI_IGNORE_FILE_TIMES"
"""Environment variable, set to 1 where modification times say nothing, as on a Volume of Modal."""


def list_contents(root: Path) -> list[str]:
    """The files of a folder that an upload takes, below it: all but hidden ones and those of PROGRAM_FOLDERS.

    Linked folders are followed. Raises DataError for a folder that can't be listed.
    """
    files = []
    for found in walk(root):
        if isinstance(found, ImageError):
            raise DataError(str(found))
        if isinstance(found, LeftOut) and found.reason not in (OTHER_NAME, NO_IMAGE):
            continue
        path = found.path if isinstance(found, LeftOut) else found
        if path.is_file():
            files.append(path.relative_to(root).as_posix())
    return sorted(files)


def hash_contents(root: Path, files: list[str]) -> str:
    """SHA-256 over names, sizes and contents of a folder's files, in that order; shows its progress.

    Raises DataError for a file that can't be read.
    """
    digest = hashlib.sha256()
    try:
        sizes = [(root / file).stat().st_size for file in files]
        with bar(total=sum(sizes), desc="hashing", unit="B", unit_scale=True) as progress:
            for file, size in zip(files, sizes, strict=True):
                digest.update(json.dumps([file, size, hash_file(root / file)]).encode())
                progress.update(size)
    except OSError as error:
        raise DataError(f"{error.filename}: can't be read ({error.strerror})") from None
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def upload_name(name: str, contents: str) -> str:
    """The name of the upload of a folder of that name with these contents."""
    return f"{name}@{contents[:DIGITS]}"


def uploaded_folder(upload: Path) -> Path:
    """The folder of images in an upload's."""
    return upload / upload.name.rpartition("@")[0]


def read_marker(upload: Path) -> dict[str, Any] | None:
    """What an upload's marker says; None for what is no upload, or an incomplete one."""
    try:
        marker = json.loads((upload / MARKER).read_text())
        return marker if upload.name == upload_name(uploaded_folder(upload).name, marker["contents"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_contents(root: Path) -> str:
    """The contents' hash of an uploaded folder; empty for any other."""
    marker = read_marker(root.parent)
    return marker["contents"] if marker and uploaded_folder(root.parent) == root else ""


def file_state(path: Path) -> list[Any]:
    """A file's size and what changes with its content: its time, or, where times say nothing, its hash."""
    try:
        status = path.stat()
        if os.environ.get(IGNORE_TIMES) == "1":
            return [status.st_size, hash_file(path)]
        return [status.st_size, status.st_mtime_ns]
    except OSError:  # a dangling link; decoding will say so
        return []
