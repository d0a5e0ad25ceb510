"""Folder layouts of data sets: label, split, source, generator and kind of each image file; what is left out, and why.

A folder's name alone decides nothing: a category may be called train, test, nature or AI. What stands beside and below
a folder tells whether it is a class, a split or a category.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from mai_app.config import CLASSES
from mai_app.core.log import say
from mai_app.data.contents import file_state, known_contents
from mai_app.data.manifest import SHOWN, Manifest, Row, examples
from mai_app.errors import DataError, ImageError
from mai_app.images.find import BY_PROGRAMS, HIDDEN, LEADS_BACK, OTHER_NAME, LeftOut, has_image_name, walk

CLASS_NAMES: Final = {
    **dict.fromkeys(("authentic", "real", "nature", "0_real"), 0),
    **dict.fromkeys(("synthetic", "fake", "ai", "1_fake"), 1),
}
"""Folder names of the classes, in MAI and in the field's data sets (GenImage, ForenSynths and others)."""
CONTENT_NAMES: Final = frozenset(("nature", "ai"))
"""Those of them that may as well say what an image shows: they are classes where nothing else speaks."""
SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LABEL_WORDS: Final = {**CLASS_NAMES, "0": 0, "1": 1}
"""What the column label of a manifest may say."""
PAIR: Final = "pair:"
"""Start of the group key of images that were made from one another on purpose, whatever their labels."""
NO_CLASS: Final = "in no class folder"
NO_SPLIT: Final = "beside the split folders, and in none"

Folders = tuple[str, ...]
"""The folders on the way from a data set's folder to a file, outermost first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image file of a data set."""

    file: str
    """Path below the data set's folder, with forward slashes."""
    label: int
    """0 authentic, 1 synthetic."""
    split: str
    """train, val or test; empty where neither the folders nor the manifest say."""
    source: str
    """Where the image comes from: the manifest's word, else the folder below the class folder."""
    generator: str
    """What made a synthetic image; empty if unknown or authentic."""
    kind: str
    """What an image shows or is: photo, painting, poster, …; empty if unknown."""
    tie: str = ""  # the group key; stored scores, listing hashes and manifests have it by this name
    """Images with the same key, a prompt for example, belong on one side of the split; empty if there is none."""


@dataclass(frozen=True)
class Layout:
    """A data set's folder as it was read: its images, and every other file below it with the reason."""

    records: list[Record]
    """Ordered by file."""
    left_out: dict[str, list[str]]
    """By reason the files that are not used, below the folder. With the records they are all of its files."""
    notes: tuple[str, ...]
    """What a person should know of it, a line each."""


def scan(root: Path) -> list[Record]:
    """The records of read_layout; its notes are said on standard error."""
    layout = read_layout(root)
    for note in layout.notes:
        say(note)
    return layout.records


def read_layout(root: Path) -> Layout:
    """Read a data set's folder; raises DataError if it is not laid out by class, or if names contradict each other.

    The class is the outermost folder with a class's name, at any depth; nature and ai are categories where another
    class name speaks. A split's name above or below the class gives the split, unless other folders stand beside it,
    so that it names a category.

    manifest.csv, if there is one, has the columns file, label, split, source, generator, kind and pair, all but the
    first optional (without generator, a synthetic image's kind is taken for it). A row names a file, or a folder and so
    all of its files. Images with the same, non-empty pair were made from one another: they stay on one side, and may
    carry different labels.
    """
    files, left_out, notes = _list(root)
    manifest = Manifest(root, files, {"label": LABEL_WORDS.keys(), "split": SPLIT_NAMES.keys()})
    notes += manifest.notes
    classes = _Classes(map(_folders, files))
    labels = _labels(root, files, manifest, classes)
    outside = [file for file in files if file not in labels]
    splits, split_notes = _splits(labels, manifest, classes)
    notes += split_notes
    divided = any(split for split, _ in splits.values())
    records = [
        _record(root, file, labels[file], split, classes.position(_folders(file)), at, manifest.row(file))
        for file, (split, at) in splits.items()
        if split or not divided
    ]
    _check(root, records, outside, classes, left_out, _said(manifest))
    left_out[NO_CLASS] = outside
    left_out[NO_SPLIT] = [file for file, (split, _) in splits.items() if divided and not split]
    left_out = {reason: names for reason, names in left_out.items() if names}
    notes += [note for reason, names in left_out.items() if (note := _note(root, reason, names, classes))]
    return Layout(sorted(records, key=lambda record: record.file), left_out, tuple(notes))


@dataclass(frozen=True)
class Folder:
    """A local folder as a source: with one label for all of its images, or with class folders."""

    name: str
    path: Path
    label: int | None

    def read(self) -> Layout:
        """Its image files; raises DataError if it has none, or no class folders where it needs them."""
        if self.label is None:
            return read_layout(self.path)
        files, left_out, notes = _list(self.path)
        if not files:
            raise DataError(f"{self.path}: holds no image")
        notes += [note for reason, names in left_out.items() if (note := _note(self.path, reason, names, None))]
        records = [Record(file, self.label, "", self.name, "", "") for file in sorted(files)]
        return Layout(records, left_out, tuple(notes))


def listing_hash(root: Path, records: Iterable[Record], settings: str = "") -> str:
    """SHA-256 of the records, of their files' states, and of settings: changes when the folder does.

    A file's state is its size and time; its contents where those are known, or where times say nothing.
    """
    contents = known_contents(root)
    digest = hashlib.sha256(f"{settings}{contents}".encode())
    for record in records:
        state = [] if contents else file_state(root / record.file)
        digest.update(json.dumps([asdict(record), state]).encode())
    return digest.hexdigest()


def class_position(folders: Folders) -> int | None:
    """The index of the folder that gives the class, for a path that names no class in contradiction; None: none."""
    names = [name.lower() for name in folders]
    at = [i for i, name in enumerate(names) if name in CLASS_NAMES and name not in CONTENT_NAMES]
    return next(iter(at or [i for i, name in enumerate(names) if name in CONTENT_NAMES]), None)


class _Classes:
    """Which folders of a data set give the class, told by all of its folders."""

    def __init__(self, all_folders: Iterable[Folders]) -> None:
        self.below: defaultdict[Folders, set[str]] = defaultdict(set)
        """By folder the names of the folders in it, as far as they hold images."""
        self._holding: set[Folders] = set()  # folders with a class folder somewhere below
        self._are_named = False  # whether classes have a name elsewhere that says nothing else, or stand in pairs
        for folders in set(all_folders):
            for i, name in enumerate(folders):
                self.below[folders[:i]].add(name)
                if name.lower() in CLASS_NAMES:
                    self._holding.update(folders[:j] for j in range(i + 1))
                    self._are_named = self._are_named or name.lower() not in CONTENT_NAMES
        self._are_named = self._are_named or any(map(self._has_both, list(self.below)))
        self.positions = cache(self._positions)

    def position(self, folders: Folders) -> int | None:
        """The index of the folder that gives the class; None without one."""
        return next(iter(self.positions(folders)), None)

    def _positions(self, folders: Folders) -> tuple[int, ...]:
        """The index of the folder that gives the class, and of those that could as well; empty without one."""
        names = [name.lower() for name in folders]
        plain = [i for i, name in enumerate(names) if name in CLASS_NAMES and name not in CONTENT_NAMES]
        content = [i for i, name in enumerate(names) if name in CONTENT_NAMES and not self._is_category(folders[:i])]
        if not plain:
            return tuple(content)
        # Below a class folder nature is what its images show; above one it is as well, if both classes are in it.
        open_question = [i for i in content if i < plain[0]] if not self._has_both(folders[: plain[0]]) else []
        return (*plain, *open_question)

    def _has_both(self, folder: Folders) -> bool:
        return {CLASS_NAMES.get(name.lower()) for name in self.below[folder]} >= {0, 1}

    def _is_category(self, folder: Folders) -> bool:
        """Whether nature or ai in this folder is a category, as its neighbours are.

        They have class folders in them, or none, where classes are named otherwise: midjourney/{nature,city} beside
        real and fake is no authentic nature.
        """
        others = [name for name in self.below[folder] if name.lower() not in CLASS_NAMES]
        if self._has_both(folder) or not others:
            return False
        return self._are_named or any((*folder, name) in self._holding for name in others)

    def outermost_without(self, folders: Folders) -> str:
        """The outermost folder on the way that says nothing of a class and stands beside others, for a message."""
        for i, name in enumerate(folders):
            alone = len(self.below[folders[:i]]) == 1
            if folders[: i + 1] not in self._holding and name.lower() not in SPLIT_NAMES and not alone:
                return "/".join(folders[: i + 1])
        return "/".join(folders)


def _list(root: Path) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """The image files below a folder, the others by reason, and notes; raises DataError if it can't be listed."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    files: list[str] = []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    notes = []
    for found in walk(root):
        if isinstance(found, ImageError):
            raise DataError(str(found))
        path = found.path if isinstance(found, LeftOut) else found
        file = "/".join(path.relative_to(root).parts)
        if not isinstance(found, LeftOut):
            files.append(file)
        elif found.reason == LEADS_BACK:
            notes.append(f"{path}: a linked folder, not followed: it {LEADS_BACK}")
        else:
            left_out[found.reason].append(file)
    return files, dict(left_out), notes


def _folders(file: str) -> Folders:
    return tuple(file.split("/")[:-1])


def _labels(root: Path, files: list[str], manifest: Manifest, classes: _Classes) -> dict[str, int]:
    """The label of each file that has one; raises DataError where two names contradict each other."""
    labels: dict[str, int] = {}
    refused: list[tuple[str, str]] = []
    for file in files:
        folders = _folders(file)
        named = [folders[i] for i in classes.positions(folders)]
        by_folders = {CLASS_NAMES[name.lower()] for name in named}
        word = manifest.word(file, "label")
        if word in LABEL_WORDS:
            labels[file] = LABEL_WORDS[word]
            if named and by_folders == {1 - labels[file]} and named[0].lower() not in CONTENT_NAMES:
                refused.append((file, f"{named[0]} and, in manifest.csv, {word}"))
        elif len(by_folders) == 1:
            labels[file] = by_folders.pop()
        elif by_folders:
            refused.append((file, " and ".join(dict.fromkeys(named))))
    if refused:
        file, names = refused[0]
        raise DataError(
            f"{root}: names of both classes stand on the way to {len(refused)} images, such as {file} ({names}). "
            f"Rename the folder that is no class, or give its images a label in {root / 'manifest.csv'}: a line "
            f"file,label and one for each folder, such as {'/'.join(_folders(file))},authentic (or synthetic)"
            f"{_said(manifest)}"
        )
    return labels


def _splits(
    files: Collection[str], manifest: Manifest, classes: _Classes
) -> tuple[dict[str, tuple[str, int | None]], list[str]]:
    """Each file's split, empty if there is none, with the index of the folder that says it; and notes."""
    beside: defaultdict[Folders, set[str]] = defaultdict(set)
    class_folders = {
        folders[: i + 1] for folders in set(map(_folders, files)) if (i := classes.position(folders)) is not None
    }
    for file in files:
        parts = tuple(file.split("/"))
        for i, name in enumerate(parts):
            beside[parts[:i]].add(name if i < len(parts) - 1 else "")

    @cache
    def is_split(folder: Folders) -> bool:
        """Whether the names in a folder that are those of splits are splits, and not categories."""
        others = {(*folder, name) for name in beside[folder] if name.lower() not in SPLIT_NAMES}
        return divides(folder) or others <= class_folders

    @cache
    def divides(folder: Folders) -> bool:
        return len({SPLIT_NAMES.get(name.lower(), "") for name in beside[folder]} - {""}) > 1

    def position(folders: Folders) -> int | None:
        named = (i for i, name in enumerate(folders) if name.lower() in SPLIT_NAMES)
        return next((i for i in named if is_split(folders[:i])), None)

    at = {folders: position(folders) for folders in {_folders(file) for file in files}}
    found = [folders[:i] for folders, i in at.items() if i is not None]
    if len(found) < len(at) and not any(divides(folder) or len(beside[folder]) > 1 for folder in found):
        # One name here and there, and images without any: it divides nothing.
        at = dict.fromkeys(at)
    categories = {
        "/".join(folders[: i + 1])
        for folders, chosen in at.items()
        for i, name in enumerate(folders)
        if chosen is None and name.lower() in SPLIT_NAMES
    }
    splits: dict[str, tuple[str, int | None]] = {}
    for file in files:
        chosen = at[_folders(file)]
        by_folder = "" if chosen is None else SPLIT_NAMES[_folders(file)[chosen].lower()]
        splits[file] = SPLIT_NAMES.get(manifest.word(file, "split"), by_folder), chosen
    notes = [
        f"{examples(sorted(categories))}: taken for categories, not for splits, as what lies beside them is in none; "
        "manifest.csv can say otherwise (file,split)"
    ]
    return splits, notes if categories else []


def _record(
    root: Path, file: str, label: int, split: str, class_at: int | None, split_at: int | None, row: Row
) -> Record:
    folders = [(i, name) for i, name in enumerate(_folders(file)) if i not in (class_at, split_at)]
    # GenImage and ForenSynths name the generator by the folder above the class.
    near = [name for i, name in folders if class_at is not None and i > class_at]
    near += [name for i, name in reversed(folders) if class_at is None or i < class_at]
    source = row.get("source", "") or (near[0] if near else root.resolve().name)
    kind, generator = row.get("kind", ""), row.get("generator", "")
    if label == 0:
        generator = ""
    elif "generator" not in row:
        generator, kind = kind, ""
    return Record(file, label, split, source, generator, kind, f"{PAIR}{row['pair']}" if row.get("pair") else "")


def _check(
    root: Path, records: list[Record], outside: list[str], classes: _Classes, left_out: dict[str, list[str]], said: str
) -> None:
    """Raise DataError where an image of each class is missing; `said` is what to say of the manifest."""
    places = Counter(classes.outermost_without(_folders(file)) for file in outside)
    manifest = ""
    if named := [place for place, _ in places.most_common(SHOWN) if place]:
        rows = ", ".join(f"{place},synthetic" for place in named)
        manifest = (
            f". Or give folders a label in {root / 'manifest.csv'}: a line file,label and one for each folder, such as "
            f"{rows} (or authentic)"
        )
    for reason, files in left_out.items():
        manifest += f". Left out: {len(files)} {reason} ({examples(files)})"
    manifest += said
    if not records:
        seen = ", ".join(f"{place or '.'}/ ({count} images)" for place, count in places.most_common(SHOWN))
        raise DataError(
            f"{root}: no image in a class folder{f', but in {seen}' if seen else ''}. Lay it out as "
            f"{root.name}/authentic/… and {root.name}/synthetic/…, or with train/, val/ and test/ above them "
            f"(known class folders: {', '.join(CLASS_NAMES)}){manifest}"
        )
    for label, name in enumerate(CLASSES):
        if all(record.label != label for record in records):
            folders = ", ".join(folder for folder, value in CLASS_NAMES.items() if value == label)
            where = " in its split folders" if records[0].split else ""
            raise DataError(
                f"{root}: holds no {name} image{where}; a detector needs both classes (folders: {folders}){manifest}"
            )


def _said(manifest: Manifest) -> str:
    """The manifest's notes, for the end of a refusal: a row that was to help may have named nothing."""
    return "".join(f". {note}" for note in manifest.notes)


def _note(root: Path, reason: str, files: list[str], classes: _Classes | None) -> str:
    """A line about files that are left out; empty if no image seems to be among them."""
    if reason == OTHER_NAME:
        files = [file for file in files if file != "manifest.csv"]
        kinds = Counter(Path(file).suffix.lower() or Path(file).name for file in files)
        where = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(SHOWN))
    elif reason == NO_CLASS and classes:
        places = Counter(classes.outermost_without(_folders(file)) or "." for file in files)
        where = ", ".join(f"{place}/ {count}" for place, count in places.most_common(SHOWN))
        where += ", …" if len(places) > SHOWN else ""
        where += "; manifest.csv can give them a label: a line file,label and one for each folder or file"
    elif reason == NO_SPLIT:
        where = ", ".join(f"{name}/ {count}" for name, count in Counter(file.split("/")[0] for file in files).items())
    else:
        files = [file for file in files if has_image_name(file) or reason not in (HIDDEN, BY_PROGRAMS)]
        where = examples(files)
    return f"{root}: left out: {len(files)} {'files' if len(files) > 1 else 'file'} {reason} ({where})" if files else ""
