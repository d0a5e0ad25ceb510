"""Folder layouts of data sets: label, split, source, generator and kind of each image file."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mai_app.config import CLASSES
from mai_app.errors import DataError
from mai_app.images.find import walk_images

CLASS_NAMES: Final = {
    **dict.fromkeys(("authentic", "real", "nature", "0_real"), 0),
    **dict.fromkeys(("synthetic", "fake", "ai", "1_fake"), 1),
}
"""Folder names of the classes, in MAI and in the field's data sets (GenImage, ForenSynths and others)."""
SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
PAIR: Final = "pair:"
"""Start of the group key of images that were made from one another on purpose, whatever their labels."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image file of a data set."""

    file: str
    """Path below the data set's folder, with forward slashes."""
    label: int
    """0 authentic, 1 synthetic."""
    split: str
    """train, val or test; empty where the folders do not say."""
    source: str
    """Where the image comes from: the manifest's word, else the folder below the class folder."""
    generator: str
    """What made a synthetic image; empty if unknown or authentic."""
    kind: str
    """What an image shows or is: photo, painting, poster, …; empty if unknown."""
    tie: str = ""  # the group key; stored scores, listing hashes and manifests have it by this name
    """Images with the same key, a prompt for example, belong on one side of the split; empty if there is none."""


def scan(root: Path) -> list[Record]:
    """Records of a data set's folder, ordered by file; raises DataError if it is not laid out by class.

    The class is the outermost folder with a class's name, at any depth; a split's name above or below it gives
    the split. manifest.csv, if there is one, has the columns file, source, generator, kind and pair, all but the
    first optional (without generator, a synthetic image's kind is taken for it). Images with the same, non-empty
    pair were made from one another: they stay on one side, and may carry different labels.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    manifest = _read_manifest(root / "manifest.csv")
    records = []
    outside: Counter[str] = Counter()
    for path in walk_images(root):
        parts = path.relative_to(root).parts
        folders = [part.lower() for part in parts[:-1]]
        at = next((i for i, name in enumerate(folders) if name in CLASS_NAMES), None)
        if at is None:
            outside[parts[0] if len(parts) > 1 else "."] += 1
            continue
        label = CLASS_NAMES[folders[at]]
        split = next((SPLIT_NAMES[name] for name in folders if name in SPLIT_NAMES), "")
        file = "/".join(parts)
        row = manifest.get(file, {})
        kind = row.get("kind", "")
        generator = row.get("generator", "")
        # GenImage and ForenSynths name the generator by the folder above the class.
        near = [name for name in (*parts[at + 1 : -1], *reversed(parts[:at])) if name.lower() not in SPLIT_NAMES]
        source = row.get("source", "") or (near[0] if near else root.resolve().name)
        if label == 0:
            generator = ""
        elif "generator" not in row:
            generator, kind = kind, ""
        group_key = f"{PAIR}{row['pair']}" if row.get("pair") else ""
        records.append(Record(file, label, split, source, generator, kind, group_key))
    if any(record.split for record in records):
        # Beside split folders, what lies in none of them has no place.
        records = [record for record in records if record.split]
    _check(root, records, outside)
    return sorted(records, key=lambda record: record.file)


@dataclass(frozen=True)
class Folder:
    """A local folder as a source: with one label for all of its images, or with class folders."""

    name: str
    path: Path
    label: int | None

    def records(self) -> list[Record]:
        """Its image files; raises DataError if it has none, or no class folders where it needs them."""
        if self.label is None:
            return scan(self.path)
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder")
        files = sorted("/".join(path.relative_to(self.path).parts) for path in walk_images(self.path))
        if not files:
            raise DataError(f"{self.path}: holds no image")
        return [Record(file, self.label, "", self.name, "", "") for file in files]


def listing_hash(root: Path, records: Iterable[Record], settings: str = "") -> str:
    """SHA-256 of the records, of their files' sizes and times, and of settings: changes when the folder does."""
    digest = hashlib.sha256(settings.encode())
    for record in records:
        try:
            status = (root / record.file).stat()
            facts = [status.st_size, status.st_mtime_ns]
        except OSError:  # a dangling link; decoding will say so
            facts = []
        digest.update(json.dumps([asdict(record), facts]).encode())
    return digest.hexdigest()


def _check(root: Path, records: list[Record], outside: Counter[str]) -> None:
    if not records:
        seen = ", ".join(f"{name}/ ({count} images)" for name, count in outside.most_common(3))
        raise DataError(
            f"{root}: no image in a class folder{f', but in {seen}' if seen else ''}. Lay it out as "
            f"{root.name}/authentic/… and {root.name}/synthetic/…, or with train/, val/ and test/ above them "
            f"(known class folders: {', '.join(CLASS_NAMES)})"
        )
    for label, name in enumerate(CLASSES):
        if all(record.label != label for record in records):
            folders = ", ".join(folder for folder, value in CLASS_NAMES.items() if value == label)
            where = " in its split folders" if records[0].split else ""
            raise DataError(f"{root}: holds no {name} image{where}; a detector needs both classes (folders: {folders})")


def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "file" not in (reader.fieldnames or ()):
                raise DataError(f"{path}: has no column 'file'; its columns are {reader.fieldnames}")
            return {row["file"]: {k: v or "" for k, v in row.items() if k} for row in reader}
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read as UTF-8 comma-separated values ({error})") from None
