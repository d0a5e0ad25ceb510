"""Judging files by the thousand into one file of rows: it carries on where it was stopped, one row a file."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from mai_app.config import ScanConfig
from mai_app.core.files import lock
from mai_app.core.log import bar
from mai_app.errors import DataError, ImageError, RunError
from mai_app.images.decode import read_file
from mai_app.images.find import find_images
from mai_app.inference.prediction import Prediction

if TYPE_CHECKING:
    from mai_app.inference.detector import Detector

Chunk = list[str | tuple[str, bytes] | ImageError]
"""Files judged in one go: paths, or names with the files' bytes; an ImageError becomes the row that reports it."""
Judge = Callable[[Iterator[Chunk]], Iterator[list[dict[str, Any]] | Exception]]
"""Judges chunks, in any order: for each, its rows, or the exception for which there are none."""

CHUNK_FILES: Final = 32
CHUNK_BYTES: Final = 16 * 2**20

_COLUMNS: Final = [field.name for field in fields(Prediction)]
_START: Final = b'{"path": "'  # of every row
_MODEL: Final = {"threshold": 0.0, "unsure_low": 0.0, "unsure_high": 0.0, "model": "", "version": ""}
"""What rows say of a model as yet unknown."""


@dataclass(frozen=True)
class ScanCounts:
    """How many of the files in a scan's file have which verdict."""

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
        """0 if all files were judged, 1 if some were not, 2 if none was."""
        return 2 if not self.judged else 1 if self.failed else 0

    def summary(self, out: Path) -> str:
        """The counts in a line; `out` is the file of the rows."""
        return (
            f"{self.files} files: {self.authentic} authentic, {self.unsure} unsure, {self.synthetic} synthetic, "
            f"{self.failed} not judged; rows in {out}"
        )


def predict_chunks(detector: "Detector", workers: int) -> Judge:
    """A detector as the judge of a scan's chunks."""

    def judge(chunks: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        for chunk in chunks:
            try:
                rows = [asdict(prediction) for prediction in detector.predict(chunk, len(chunk), workers)]
            except Exception as error:  # whatever one file did to its chunk, the others go on
                yield error
            else:
                yield rows

    return judge


def list_files(path: str) -> Iterator[str | ImageError]:
    """The files that a folder, an image's path or a list of files names, in order, found as they are asked for.

    A list is a .txt file with a path a line, or a .csv file with a column path or file; its relative paths start at
    its own folder. What can't be searched comes as an ImageError. Raises DataError for what is missing, for a folder
    without an image, and for a list that can't be read.
    """
    root = Path(path)
    if not path:  # an unset variable of a script must not mean the folder that it runs in
        raise DataError("an empty name names no file")
    if root.is_dir():
        found = find_images([path])
        first = next(found)
        if isinstance(first, ImageError):
            raise DataError(str(first))
        return _names(first, found)
    try:
        there = root.exists()
    except OSError as error:
        raise DataError(f"{path}: can't be reached ({error.strerror})") from None
    if not there:
        raise DataError(f"{path}: no such file or folder")
    if root.suffix.lower() == ".txt":
        return _below(root, _lines(root))
    if root.suffix.lower() == ".csv":
        return _below(root, _column(root))
    return iter([str(root)])


def chunks(
    files: Iterable[str | ImageError], done: Collection[str], read: bool, most: int = CHUNK_FILES
) -> Iterator[Chunk]:
    """Files in chunks of at most `most`, each name once, without those in `done`.

    With `read` a file goes with its bytes, at most CHUNK_BYTES a chunk unless one file alone has more, and an
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
        if len(chunk) >= most:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def scan(config: ScanConfig, judge: Judge, files: Callable[[], Iterable[str | ImageError]], read: bool) -> ScanCounts:
    """Judge what has no row in config.out yet, and return what all its rows say.

    Rows are on the disk chunk by chunk, so that the same call carries on after an interrupt or a kill. What a first
    pass leaves without a row, because judging its chunk failed, is judged once more, each file alone; what fails
    again gets a row with that error. `read`: judge is given the files' bytes, not their paths.

    Raises RunError where another scan writes config.out, where it holds other rows than a scan's, or rows of other
    weights; and what `files` and `judge` raise.
    """
    listed = files()  # before the file is made: a mistyped path leaves none behind
    with _opened(config.out) as stream:
        rows = _Rows(config.out, stream)
        waiting: dict[str, str | ImageError] = {}

        def handed_out() -> Iterator[Chunk]:
            for chunk in chunks(listed, rows.done, read):
                for item in chunk:
                    waiting[_name(item)] = item if isinstance(item, ImageError) else _name(item)
                yield chunk

        with bar(desc="scan", unit=" files", initial=len(rows.done), leave=False) as shown:
            stream_of_chunks = handed_out()
            for answer in judge(stream_of_chunks):
                if not isinstance(answer, Exception):
                    shown.update(rows.write(answer, waiting))
            for _ in stream_of_chunks:  # what a judge that ended early never asked for
                pass
            for name, file in list(waiting.items()):
                reason = "it gave no row"
                for chunk in chunks([file], (), read, most=1):
                    for answer in judge(iter([chunk])):
                        if isinstance(answer, Exception):
                            reason = str(answer).strip() or type(answer).__name__
                        else:
                            shown.update(rows.write(answer, waiting))
                if name in waiting:
                    shown.update(rows.write([rows.failure(name, f"could not be judged: {reason}")], waiting))
        return rows.counts()


class _Rows:
    """The rows in a scan's file, which is open and locked."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.done: set[str] = set()
        self._stream = stream
        self._verdicts: Counter[str] = Counter()
        self._model: dict[str, Any] = dict(_MODEL)
        self._load()

    def write(self, rows: Iterable[dict[str, Any]], waiting: dict[str, str | ImageError]) -> int:
        """Bring the rows of waiting files to the disk, and take those off `waiting`; returns how many there were."""
        new = {row["path"]: row for row in rows if row["path"] in waiting and row["path"] not in self.done}
        for row in new.values():
            known, version = self._model["version"], row["version"]
            if known and version and known != version:
                raise RunError(
                    f"{self.path}: was made with other weights ({known}) than these ({version}); choose another --out"
                )
            self._count(row)
        # As `mai predict --jsonl` writes them: names that are not UTF-8 with JSON's escapes.
        text = "".join(
            json.dumps({key: row[key] for key in _COLUMNS}, ensure_ascii=False) + "\n" for row in new.values()
        )
        self._stream.write(text.encode("utf-8", "backslashreplace"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        for name in new:
            del waiting[name]
        return len(new)

    def failure(self, name: str, reason: str) -> dict[str, Any]:
        """The row of a file that could not be judged."""
        nothing = dict.fromkeys(("p_synthetic", "verdict", "image", "evidence"))
        return {"path": name, **nothing, **self._model, "notes": (), "error": reason}

    def counts(self) -> ScanCounts:
        """What the rows say."""
        return ScanCounts(**{field.name: self._verdicts[field.name] for field in fields(ScanCounts)})

    def _load(self) -> None:
        """Read the rows that are there, and cut off a last one that a kill left unfinished."""
        self._stream.seek(0)
        whole = 0
        for number, line in enumerate(self._stream, 1):
            if not line.endswith(b"\n") and _START.startswith(line[: len(_START)]):
                self._stream.truncate(whole)
                return
            try:
                row = json.loads(line)
                if row["path"] not in self.done:
                    self._count(row)
            except (ValueError, TypeError, KeyError):  # another file, which must not be written into
                raise RunError(f"{self.path}: line {number} is no row of a scan; choose another --out") from None
            whole += len(line)

    def _count(self, row: dict[str, Any]) -> None:
        model = {key: row[key] for key in _MODEL}
        self._verdicts["failed" if row["error"] is not None else row["verdict"]] += 1
        self.done.add(row["path"])
        if model["version"]:
            self._model = model


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, made if need be, open for reading and appending, for this process alone."""
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
    if isinstance(item, ImageError):
        return item.name
    return item[0] if isinstance(item, tuple) else str(Path(item))


def read_item(name: str) -> tuple[str, bytes] | ImageError:
    """A file's name with its bytes, or the error that its row will report."""
    try:
        return name, read_file(Path(name))
    except ImageError as error:
        return ImageError(name, error.reason)


def _names(first: Path, rest: Iterator[Path | ImageError]) -> Iterator[str | ImageError]:
    yield str(first)
    for found in rest:
        yield found if isinstance(found, ImageError) else str(found)


def _below(path: Path, names: Iterator[str]) -> Iterator[str]:
    """A list's names, seen from where MAI runs. The first is asked for at once, so that a bad list is refused now."""
    first = next(names, None)
    if first is None:
        raise DataError(f"{path}: lists no file")
    return (str(path.parent / name) for part in ([first], names) for name in part)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream):
                name = line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip(b"\r\n")
                if name.strip():
                    yield os.fsdecode(name)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None


def _column(path: Path) -> Iterator[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            column = next((name for name in ("path", "file") if name in columns), None)
            if column is None:
                raise DataError(
                    f"{path}: has no column 'path' or 'file'; its columns are {', '.join(columns) or 'none'}"
                )
            for row in reader:
                if row[column]:
                    yield row[column]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: can't be read as comma-separated values ({error})") from None
