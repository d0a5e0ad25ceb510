"""manifest.csv of a data set's folder: its rows, matched with the files and folders that they name."""

import csv
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from mai_app.core.files import text_encoding
from mai_app.errors import DataError

Row = dict[str, str]
SHOWN: Final = 3
"""Examples named in a message."""


class Manifest:
    """What manifest.csv says of the files below a folder; raises DataError for a table that can't be read.

    A row names a file, or a folder and so all files below it that have no word of their own. Names match as written;
    else with \\ for /, ./ or the folder's own path in front, another Unicode form, or other capitals, where that names
    one file alone.
    """

    def __init__(self, root: Path, files: Iterable[str], known: dict[str, Collection[str]]) -> None:
        """`known` are by column the words that mean something, in lower case, where others are told of."""
        path = root / "manifest.csv"
        rows = _read(path) if path.is_file() else []
        self._rows: dict[str, Row] = {}
        self.notes: list[str] = []
        """How many rows name nothing, or what another row names already, or hold words of no meaning."""
        if not rows:
            return
        names = _Names(root, files)
        unmatched, twice = [], []
        for row in rows:
            name = names.find(row["file"])
            if name is None:
                unmatched.append(row["file"])
            elif name in self._rows:
                twice.append(row["file"])
            if name is not None:
                self._rows[name] = row
        if unmatched:
            self.notes.append(
                f"{path}: {len(unmatched)} of {len(rows)} rows name no image here ({examples(unmatched)})"
            )
        if twice:
            self.notes.append(
                f"{path}: {len(twice)} rows name what an earlier row names ({examples(twice)}); they hold"
            )
        for column, words in known.items():
            there = [row[column] for row in rows if row.get(column) and _word(row[column]) not in words]
            if there:
                of = ", ".join(words)
                self.notes.append(f"{path}: {len(there)} rows have another {column} than {of} ({examples(set(there))})")

    def word(self, file: str, column: str) -> str:
        """A file's word in a column, in lower case; empty without one."""
        return _word(self.row(file).get(column, ""))

    def row(self, file: str) -> Row:
        """The columns of a file, each from its own row or that of the nearest folder that has a word in it."""
        merged: Row = {}
        while self._rows:
            for column, value in self._rows.get(file, {}).items():
                merged[column] = merged.get(column, "") or value
            if not file:
                break
            file = file.rpartition("/")[0]
        return merged


def examples(names: Iterable[str]) -> str:
    """The first names, for a message."""
    shown = list(names)
    return ", ".join(shown[:SHOWN]) + (", …" if len(shown) > SHOWN else "")


class _Names:
    """Files and folders below a root, found by the ways in which tables write their paths."""

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        real = root.resolve()
        self._fronts = (f"{_plain(str(real))}/", f"{real.name}/")
        self._exact: set[str] = set()
        for file in files:
            while file not in self._exact:
                self._exact.add(file)
                file = file.rpartition("/")[0]  # noqa: PLW2901 - its folder, and at last the root
        self._exact.discard("")
        # None: several names, so that none of them is meant for certain.
        self._plain: dict[str, str | None] = {}
        self._folded: dict[str, str | None] = {}
        for name in self._exact:
            plain = _plain(name)
            self._plain[plain] = None if plain in self._plain else name
            self._folded[plain.casefold()] = None if plain.casefold() in self._folded else name

    def find(self, written: str) -> str | None:
        """The one file or folder that a row means, or None."""
        if written in self._exact:
            return written
        plain = _plain(written)
        below = [plain]
        below += [plain.removeprefix(front) for front in self._fronts if plain.startswith(front)]
        found = (self._plain.get(name) or self._folded.get(name.casefold()) for name in below)
        return next(filter(None, found), None)


def _word(text: str) -> str:
    return text.strip().lower()


def _plain(name: str) -> str:
    """A path with forward slashes, without . and empty parts, in Unicode's composed form (NFC)."""
    text = unicodedata.normalize("NFC", name.strip().replace("\\", "/"))
    front = "/" if text.startswith("/") else ""
    return front + "/".join(part for part in text.split("/") if part not in ("", "."))


def _read(path: Path) -> list[Row]:
    try:
        with path.open("rb") as stream:
            encoding = text_encoding(stream.read(4))
        with path.open(newline="", encoding=encoding) as stream:
            head = stream.readline()
            # Where a comma stands in numbers, spreadsheets write semicolons, and some name the mark in a line before.
            mark = head.strip()[4:5] if head.lower().startswith("sep=") else ""
            head = stream.readline() if mark else head
            mark = mark or max(",;\t", key=head.count)
            columns = [name.strip().lower() for name in next(csv.reader([head], delimiter=mark), [])]
            if "file" not in columns:
                raise DataError(f"{path}: has no column 'file'; its columns are {columns}")
            reader = csv.DictReader(stream, columns, delimiter=mark)
            return [{k: v or "" for k, v in row.items() if k} for row in reader if row["file"]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read as UTF-8 comma-separated values ({error}); save it so") from None
