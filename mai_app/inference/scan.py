"""Predict files by the thousand into a JSON-lines file with one row per file; the same call resumes it."""

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from mai_app.config import ScanConfig
from mai_app.core.files import append_rows, lock, read_names, read_rows, text_encoding
from mai_app.core.log import bar
from mai_app.errors import DataError, ImageError, RunError
from mai_app.images.decode import read_file
from mai_app.images.find import find_images
from mai_app.inference.prediction import Prediction

if TYPE_CHECKING:
    from mai_app.inference.detector import Detector

Chunk = list[str | tuple[str, bytes] | ImageError]
"""Files predicted in one call: paths, or names with the files' bytes; an ImageError becomes the row that reports it."""
Answer = list[dict[str, Any]] | Exception
"""A chunk's rows, or the exception that prevented them."""
PredictChunks = Callable[[Iterator[Chunk]], Iterator[Answer]]
"""Predicts chunks, in any order: one answer for each."""

CHUNK_FILES: Final = 32
CHUNK_BYTES: Final = 16 * 2**20

_COLUMNS: Final = [field.name for field in fields(Prediction)]
_START: Final = b'{"path": "'  # what every row begins with
_MODEL: Final = {"threshold": 0.0, "unsure_low": 0.0, "unsure_high": 0.0, "model": "", "version": ""}
"""The model's columns in rows written before any prediction has named it."""


@dataclass(frozen=True)
class ScanCounts:
    """Numbers of files in a scan's output, by verdict."""

    authentic: int
    unsure: int
    synthetic: int
    failed: int

    @property
    def judged(self) -> int:
        """Files with a verdict."""
        return self.authentic + self.unsure + self.synthetic

    @property
    def files(self) -> int:
        """All files."""
        return self.judged + self.failed

    @property
    def exit_code(self) -> int:
        """0 if all files have a verdict, 1 if some have not, 2 if none has."""
        return 2 if not self.judged else 1 if self.failed else 0

    def summary(self, out: Path) -> str:
        """The counts in one line; `out` is the file of the rows."""
        return (
            f"{self.files} files: {self.authentic} authentic, {self.unsure} unsure, {self.synthetic} synthetic, "
            f"{self.failed} not judged; rows in {out}"
        )


def predict_chunks(detector: "Detector", workers: int) -> PredictChunks:
    """Make the function with which `scan` predicts by a detector of this process."""

    def predict(chunks: Iterator[Chunk]) -> Iterator[Answer]:
        for chunk in chunks:
            try:
                rows = [asdict(prediction) for prediction in detector.predict(chunk, len(chunk), workers)]
            except Exception as error:  # whatever one file did to its chunk, the others go on
                yield error
            else:
                yield rows

    return predict


def list_files(path: str) -> Iterator[str | ImageError]:
    """List the files that a folder, an image's path or a list of files names, in order, lazily.

    A list is a .txt file with one path per line, or a .csv file with a column path or file, relative to its own folder;
    in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
    A folder that can't be searched comes as an ImageError. Raises DataError for a path that is missing, a folder
    without an image, and a list that can't be read.
    """
    root = Path(path)
    if not path:  # an unset variable of a script must not mean the folder that it runs in
        raise DataError("an empty name names no file")
    if root.is_dir():
        found = find_images([path])
        first = next(found)
        if isinstance(first, ImageError):
            raise DataError(str(first))
        return (item if isinstance(item, ImageError) else str(item) for item in chain([first], found))
    try:
        there = root.exists()
    except OSError as error:
        raise DataError(f"{path}: can't be reached ({error.strerror})") from None
    if not there:
        raise DataError(f"{path}: no such file or folder")
    names_in = {".txt": _lines, ".csv": _column}.get(root.suffix.lower())
    return _below(root, names_in(root)) if names_in else iter([str(root)])


def chunks(
    files: Iterable[str | ImageError], done: Collection[str], read: bool, max_files: int = CHUNK_FILES
) -> Iterator[Chunk]:
    """Divide files into chunks of at most `max_files`, each name once, without those in `done`.

    With `read` a file comes with its bytes, at most CHUNK_BYTES per chunk unless one file alone has more, and an
    unreadable one as its ImageError. Memory grows with the names, not with the files.
    """
    seen: set[str] = set()
    chunk: Chunk = []
    held = 0
    for file in files:
        # As the detector names it: ./a.png is a.png.
        name = _name(file)
        if name in done or name in seen:
            continue
        seen.add(name)
        item = read_item(name) if read and isinstance(file, str) else file if isinstance(file, ImageError) else name
        size = len(item[1]) if isinstance(item, tuple) else 0
        if chunk and held + size > CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(item)
        held += size
        if len(chunk) >= max_files:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def scan(
    config: ScanConfig,
    predict: PredictChunks,
    files: Callable[[], Iterable[str | ImageError]],
    read: bool,
    max_files: int = CHUNK_FILES,
) -> ScanCounts:
    """Predict the files that have no row in config.out yet, and return the counts of all its rows.

    Rows are synced to the disk chunk by chunk, so that the same call resumes after an interrupt or a kill. A file
    without a row after the first pass, because predicting its chunk failed, is predicted once more, alone; if that
    fails, it gets a row with the error. With `read`, `predict` is given the files' bytes, not their paths. A chunk has
    at most `max_files`.

    Raises RunError where another scan writes config.out, and where it holds rows of other weights or is no scan's
    output; and what `files` and `predict` raise.
    """
    listed = files()  # before the file is made: a mistyped path leaves none behind
    with _opened(config.out) as stream:
        rows = _Rows(config.out, stream)
        waiting: dict[str, str | ImageError] = {}

        def first_pass() -> Iterator[Chunk]:
            for chunk in chunks(listed, rows.done, read, max_files):
                for item in chunk:
                    waiting[_name(item)] = item if isinstance(item, ImageError) else _name(item)
                yield chunk

        with bar(desc="scan", unit=" files", initial=len(rows.done), leave=False) as progress:
            offered = first_pass()
            for answer in predict(offered):
                if not isinstance(answer, Exception):
                    progress.update(rows.write(answer, waiting))
            for _ in offered:  # chunks that `predict` ended before: they are waiting, too
                pass
            for name, file in list(waiting.items()):
                reason = "it gave no row"
                for answer in predict(chunks([file], (), read)):
                    if isinstance(answer, Exception):
                        reason = str(answer).strip() or type(answer).__name__
                    else:
                        progress.update(rows.write(answer, waiting))
                if name in waiting:
                    progress.update(rows.write([rows.failure(name, f"could not be judged: {reason}")], waiting))
        return rows.counts()


class _Rows:
    """The rows in a scan's output file, which is open and locked; raises RunError for a file of something else."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.done: set[str] = set()
        self._stream = stream
        self._verdicts: Counter[str] = Counter()
        self._model: dict[str, Any] = dict(_MODEL)
        number = 1
        try:
            for row in read_rows(self._stream, start=_START):
                if row["path"] not in self.done:
                    self._count(row)
                number += 1
        except (ValueError, TypeError, KeyError):  # another file, which must not be written into
            raise RunError(f"{self.path}: line {number} is no row of a scan; choose another --out") from None

    def write(self, rows: Iterable[dict[str, Any]], waiting: dict[str, str | ImageError]) -> int:
        """Append the rows of waiting files, synced, and remove these from `waiting`; returns their number.

        Raises RunError for rows of other weights than those in the file.
        """
        new = {row["path"]: row for row in rows if row["path"] in waiting and row["path"] not in self.done}
        for row in new.values():
            known, version = self._model["version"], row["version"]
            if known and version and known != version:
                raise RunError(
                    f"{self.path}: was made with other weights ({known}) than these ({version}); choose another --out"
                )
            self._count(row)
        ordered = [{key: row[key] for key in _COLUMNS} for row in new.values()]  # as `mai predict --format jsonl`
        append_rows(self._stream, ordered, ascii_only=False, sync=True)
        for name in new:
            del waiting[name]
        return len(new)

    def failure(self, name: str, reason: str) -> dict[str, Any]:
        """The row of a file that could not be predicted."""
        return dict.fromkeys(_COLUMNS) | self._model | {"path": name, "notes": (), "error": reason}

    def counts(self) -> ScanCounts:
        """Count the rows by verdict."""
        return ScanCounts(**{field.name: self._verdicts[field.name] for field in fields(ScanCounts)})

    def _count(self, row: dict[str, Any]) -> None:
        model = {key: row[key] for key in _MODEL}
        self._verdicts["failed" if row["error"] is not None else row["verdict"]] += 1
        self.done.add(row["path"])
        if model["version"]:
            self._model = model


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the file, made if need be, for reading and appending by this process alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    except OSError as error:
        raise RunError(f"{path}: can't be written ({error.strerror}); choose another --out") from None
    with stream:
        try:
            lock(stream, wait=False)
        except BlockingIOError:
            raise RunError(f"{path}: another scan writes it at this moment; choose another --out") from None
        yield stream


def _name(item: str | tuple[str, bytes] | ImageError) -> str:
    return item.name if isinstance(item, ImageError) else item[0] if isinstance(item, tuple) else str(Path(item))


def read_item(name: str) -> tuple[str, bytes] | ImageError:
    """Read a file: its name with its bytes, or the error that its row will report."""
    try:
        return name, read_file(Path(name))
    except ImageError as error:
        return ImageError(name, error.reason)


def _below(path: Path, names: Iterator[str]) -> Iterator[str]:
    """A list's names, relative to the working folder; the first is read at once, so that a bad list is refused now."""
    first = next(names, None)
    if first is None:
        raise DataError(f"{path}: lists no file")
    return (str(path.parent / name) for name in chain([first], names))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            yield from read_names(stream)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None


def _column(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            encoding = text_encoding(stream.read(4))
        with path.open(newline="", encoding=encoding, errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            column = next((name for name in ("path", "file") if name in columns), None)
            if column is None:
                there = ", ".join(columns) or "none"
                raise DataError(f"{path}: has no column 'path' or 'file'; its columns are {there}")
            for row in reader:
                if row[column]:
                    yield row[column]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read as comma-separated values ({error})") from None
