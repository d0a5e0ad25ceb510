"""Find image files: from file names, folders (searched recursively), glob patterns and lists on standard input."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mai_app.core.files import read_names
from mai_app.core.log import say
from mai_app.errors import DataError, ImageError
from mai_app.images.decode import OTHER_SUFFIXES, SUFFIXES

IMAGE_SUFFIXES: Final = (
    SUFFIXES
    | OTHER_SUFFIXES
    # JPEG by its rarer names; Chrome saves .pjp and .pjpeg.
    | frozenset((".pjp", ".pjpeg", ".jif", ".jfi"))
    # HEIF, AVIF, JPEG 2000 and JPEG XR: not decoded, but each a row that says so.
    | frozenset((".hif", ".heics", ".heifs", ".avci", ".avifs", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxr", ".wdp"))
)
"""Names of files that are taken from a folder as images, whether or not MAI decodes them."""
HIDDEN: Final = "hidden by a dot in front of a name"
BY_PROGRAMS: Final = "in folders of thumbnails, snapshots or deleted files"
LEADS_BACK: Final = "leads back to a folder that holds it"
OTHER_NAME: Final = "not named like an image"
NO_IMAGE: Final = "without a suffix, and no image by their first bytes"
PROGRAM_FOLDERS: Final = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot"),
        *("$recycle.bin", "system volume information", "lost+found"),
    )
)
"""Folders that systems and NAS devices make beside a person's files, in lower case."""

# What download tools append to a suffix: .jpg_large, .jpg:orig, .jpg!w700, .jpg?name=small, and wget's .jpg.1.
_NAME: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})"
    r"(?:[_:-](?:large|medium|small|tiny|orig|thumb|\d+x\d+)|[!@][^.]*|\?.*|\.\d{1,2})?$"
)
_SUFFIX: Final = re.compile(r"\.[a-z][a-z0-9_~-]*$")
_HEADS: Final = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\x00\x00\x00\x0cJXL ", b"\xff\x0a", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR"),
)
"""First bytes of the files that IMAGE_SUFFIXES name; what needs more than a beginning is in looks_like_image."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or a linked folder, that a search does not take."""

    path: Path
    reason: str
    image: bool
    """Whether it is named like an image."""


def has_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's, in whatever case and with what download tools append."""
    return _NAME.search(name.lower()) is not None


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with these bytes (32 are enough) is an image that IMAGE_SUFFIXES would name."""
    if head[:2] == b"BM":  # two letters alone begin many a text: four zeros, and a known header, do not
        return head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    if head[4:8] == b"ftyp":  # videos have it too
        brands = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx ", b"jp2 ")
        return head[8:12] in brands
    return head.startswith(_HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def walk(folder: Path) -> Iterator[Path | LeftOut | ImageError]:
    """Every file below a folder in a fixed order, depth first: to take, or left out with the reason.

    Linked folders are followed, unless they lead back to a folder that holds them. In the place of a folder that
    can't be listed comes its error. Memory does not grow with the number of folders, only with the largest one.
    """
    return _walk(folder, (os.path.realpath(folder),))


def walk_images(folder: Path) -> Iterator[Path]:
    """Image files below a folder in a fixed order, depth first; raises DataError for a folder that can't be listed.

    An image is what is named like one, or has no suffix and begins like one. Hidden files and folders, and those of
    PROGRAM_FOLDERS, are left out.
    """
    for found in walk(folder):
        if isinstance(found, ImageError):
            raise DataError(str(found))
        if isinstance(found, Path):
            yield found


def find_images(paths: Iterable[str]) -> Iterator[Path | ImageError]:
    """The image files that a user names, in the order given: files, folders (searched through), glob patterns.

    What names nothing, or can't be searched, comes as the ImageError to report for it, so that the rest goes on. What
    a folder's search leaves out and is named like an image, or is a linked folder, is counted on standard error.
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
    """The names of a command line, with - replaced by the lines on standard input, as they come.

    Quotes around a line, as Windows copies a path, are taken off, unless a file has them in its name.
    """
    for name in names:
        if name == "-":
            for line in read_names(sys.stdin.buffer):
                quoted = len(line) > 2 and line[0] == line[-1] == '"' and not os.path.lexists(line)
                yield line[1:-1] if quoted else line
        else:
            yield name


def _walk(folder: Path, trail: tuple[str, ...]) -> Iterator[Path | LeftOut | ImageError]:
    """What walk yields; `trail` are the real paths of the folder and of those through which it was reached."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield ImageError(str(folder), f"can't be listed ({error.strerror})")
        return
    for entry in entries:
        path = Path(entry.path)
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself, or into a closed folder: reading it says so
            is_folder = False
        hidden = HIDDEN if entry.name.startswith(".") else ""
        reason = BY_PROGRAMS if is_folder and entry.name.lower() in PROGRAM_FOLDERS else hidden
        if is_folder and reason:
            yield from _all_below(path, reason)
        elif is_folder:
            real = os.path.realpath(path)
            if entry.is_symlink() and any(Path(held).is_relative_to(real) for held in trail):
                yield LeftOut(path, LEADS_BACK, image=False)
            else:
                yield from _walk(path, (*trail, real))
        elif reason := hidden or _reason(path):
            yield LeftOut(path, reason, has_image_name(entry.name))
        else:
            yield path


def _all_below(folder: Path, reason: str) -> Iterator[LeftOut]:
    for below, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield LeftOut(Path(below, name), reason, has_image_name(name))


def _reason(path: Path) -> str:
    """Why a file is not taken for an image; empty if it is."""
    name = path.name.lower()
    if has_image_name(name):
        return ""
    # .raw is what some cameras write, and many other programs.
    if _SUFFIX.search(name) and not name.endswith(".raw"):
        return OTHER_NAME
    try:
        if not path.is_file():
            return "" if path.is_symlink() else OTHER_NAME  # a link that leads nowhere: reading it says so
        with path.open("rb") as stream:
            return "" if looks_like_image(stream.read(32)) else NO_IMAGE
    except OSError:  # reading it says so
        return ""


def _named(name: str) -> tuple[Iterator[Path | ImageError], str]:
    """What a name stands for, and the reason to report if that is nothing."""
    path = Path(name)
    if path.is_dir():
        return _counted(path), "is a folder without an image file"
    if glob.has_magic(name) and not path.exists():
        # glob's own order is the file system's.
        matches = map(Path, sorted(glob.glob(name, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        return iter([match for match in matches if not match.is_dir()]), "no file matches the pattern"
    return iter([path]), ""


def _counted(folder: Path) -> Iterator[Path | ImageError]:
    """The files to take; at the end a line for each reason for which images were left out."""
    counts: Counter[str] = Counter()
    for found in walk(folder):
        if not isinstance(found, LeftOut):
            yield found
        elif found.image or found.reason == LEADS_BACK:
            counts[found.reason] += 1
    for reason, count in counts.items():
        what = "linked folder" if reason == LEADS_BACK else "file"
        say(f"{folder}: left out: {count} {what}{'s' if count > 1 else ''} {'that ' * (what != 'file')}{reason}")
