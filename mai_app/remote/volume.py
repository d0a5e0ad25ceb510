"""Data sets on the Volume, found by name."""

from pathlib import Path

from mai_app.data.contents import read_marker, uploaded_folder
from mai_app.data.prepared import is_prepared
from mai_app.errors import DataError


def find_data(name: str, data: Path, prepared: Path) -> Path:
    """The data set of that name: a prepared set, a folder, or an upload by its own or its folder's name.

    What follows a slash lies below it. Raises DataError where several uploads of the folder are there, or the one that
    is meant is incomplete.
    """
    name, slash, below = name.partition("/")
    return find_data(name, data, prepared) / below if slash else _find_whole(name, data, prepared)


def _find_whole(name: str, data: Path, prepared: Path) -> Path:
    if is_prepared(prepared / name):
        return prepared / name
    if read_marker(data / name):
        return uploaded_folder(data / name)
    if "@" in name and uploaded_folder(data / name).is_dir():
        raise DataError(f"{name}: its upload was interrupted; name the folder on your machine once more")
    uploads = sorted(path.name for path in data.glob("*@*") if path.name.startswith(f"{name}@") and read_marker(path))
    if len(uploads) > 1 and not (data / name).is_dir():
        raise DataError(f"{name}: has been uploaded in several states; name one of {', '.join(uploads)}")
    return uploaded_folder(data / uploads[0]) if uploads and not (data / name).is_dir() else data / name
