"""From a folder of images to a prepared set: every image decoded once, its pixels kept losslessly in few files.

A prepared set is a folder with
    resized.u8      n × (200, 200, 3) uint8: each whole image, stretched
    windows.u8      one after the other, each image's (≤ 256, ≤ 256, 3) uint8 window of native pixels
    index.jsonl     a line an image: where it came from, how its file stored it, where its window lies
    refused.jsonl   a line a file that could not be decoded
    prepared.json   written last: without it the set is not complete, and preparing goes on where it stopped
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from mai_app.atomic import locked, write_text
from mai_app.config import IMAGE_SIZE, PREPARED_WINDOW, SPLITTING, Splitting
from mai_app.data.folders import Record, scan
from mai_app.data.images import Pixels, decode_file
from mai_app.data.inputs import random_window, resize
from mai_app.data.streaming import ordered_map
from mai_app.errors import DataError, ImageError

VERSION = 1
CHUNK = 128
"""Images between two syncs to the disk."""


@dataclass(frozen=True)
class PreparedImage:
    """One image of a prepared set: its record, its file's properties, and the place of its window."""

    file: str
    label: int
    split: str
    source: str
    generator: str
    kind: str
    format: str
    width: int
    height: int
    file_bytes: int
    jpeg_quality: int | None
    sha256: str
    """Of the decoded pixels."""
    window_at: int
    """First byte of the window in windows.u8."""
    window_height: int
    window_width: int


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A complete prepared set, its pixels mapped into memory, not read."""

    folder: Path
    images: list[PreparedImage]
    resized: Pixels
    """(n, 200, 200, 3) uint8, memory-mapped."""
    windows: Pixels
    """(bytes,) uint8, memory-mapped."""
    fingerprint: str
    """SHA-256 over all images' pixels, labels, splits and sources: names the data that a model was trained on."""

    def __reduce__(self) -> tuple[Any, ...]:
        # For a loader's processes: to map the files again, not to send the pixels.
        return open_prepared, (self.folder,)

    def window(self, i: int) -> Pixels:
        """The native-size window of image i, (≤ 256, ≤ 256, 3) uint8: a view, not a copy."""
        image = self.images[i]
        shape = (image.window_height, image.window_width, 3)
        return self.windows[image.window_at : image.window_at + np.prod(shape)].reshape(shape)


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of the decoded pixels and their shape: the same picture whatever the file around it."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def assign_split(split: str, sha256: str, splits: frozenset[str], splitting: Splitting = SPLITTING) -> str:
    """The part of the data set, train, val or test, in which an image belongs.

    `split` is what its folder says and `splits` all that the folders say. Without split folders a seeded hash of
    the pixels decides, so that the same picture never stands on two sides; without a val folder it takes a share
    of train.
    """
    if split and not (split == "train" and "val" not in splits):
        return split
    digest = hashlib.sha256(f"{splitting.seed}:{sha256}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < splitting.val:
        return "val"
    return "test" if not split and draw < splitting.val + splitting.test else "train"


def prepare(data: Path, prepared: Path, workers: int = 2) -> PreparedSet:
    """The prepared set of a data set's folder, made below `prepared` unless it is there already.

    The set's name carries a hash of the files' names, sizes and times, so that a changed folder is prepared anew.
    Interrupted, it carries on after the last synced images. Raises DataError for a folder that can't serve.
    """
    records = scan(data)
    folder = prepared / f"{data.resolve().name}-{listing_hash(data, records)[:12]}"
    with locked(folder, wait=True):
        if not (folder / "prepared.json").is_file():
            _store(data, records, folder, workers)
    return open_prepared(folder)


def open_prepared(folder: Path) -> PreparedSet:
    """Map a complete prepared set into memory; raises DataError if it is missing, incomplete or damaged."""
    try:
        facts = json.loads((folder / "prepared.json").read_text())
        if facts["version"] != VERSION:
            raise DataError(f"{folder}: of version {facts['version']}, this MAI reads {VERSION}; delete it")
        with (folder / "index.jsonl").open(encoding="utf-8") as stream:
            images = [PreparedImage(**json.loads(line)) for line in stream]
        resized = np.memmap(folder / "resized.u8", np.uint8, "r", shape=(len(images), IMAGE_SIZE, IMAGE_SIZE, 3))
        windows = np.memmap(folder / "windows.u8", np.uint8, "r", shape=(facts["window_bytes"],))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a complete prepared set ({error}); delete it, it will be made anew") from None
    return PreparedSet(folder, images, resized, windows, facts["fingerprint"])


def listing_hash(data: Path, records: Iterable[Record]) -> str:
    """SHA-256 of the records and of their files' sizes and times: changes when the folder does."""
    digest = hashlib.sha256(f"{VERSION} {PREPARED_WINDOW} {SPLITTING}".encode())
    for record in records:
        try:
            status = (data / record.file).stat()
            facts = [status.st_size, status.st_mtime_ns]
        except OSError:  # a dangling link; decoding will say so
            facts = []
        digest.update(json.dumps([asdict(record), facts]).encode())
    return digest.hexdigest()


def _store(data: Path, records: list[Record], folder: Path, workers: int) -> None:
    splits = frozenset(record.split for record in records) - {""}
    images, refused = _resume(folder)
    done = {image.file for image in images} | {row["file"] for row in refused}
    todo = [record for record in records if record.file not in done]
    window_at = sum(image.window_height * image.window_width * 3 for image in images)

    def decode(record: Record) -> tuple[PreparedImage, Pixels, Pixels] | dict[str, str]:
        try:
            decoded = decode_file(data / record.file)
        except ImageError as error:
            return {"file": record.file, "reason": error.reason}
        sha256 = pixel_hash(decoded.pixels)
        height, width = decoded.pixels.shape[:2]
        # The window depends on the pixels alone, so that a resumed or re-ordered run takes the same one.
        rng = np.random.default_rng(int(sha256[:16], 16))
        window = random_window(decoded.pixels, PREPARED_WINDOW, rng).copy()
        image = PreparedImage(
            **asdict(record) | {"split": assign_split(record.split, sha256, splits)},
            format=decoded.format,
            width=width,
            height=height,
            file_bytes=decoded.file_bytes,
            jpeg_quality=decoded.jpeg_quality,
            sha256=sha256,
            window_at=0,
            window_height=window.shape[0],
            window_width=window.shape[1],
        )
        return image, resize(decoded.pixels, IMAGE_SIZE), window

    progress = tqdm(total=len(records), initial=len(done), desc="preparing", unit="image", disable=None)
    with (
        progress,
        (folder / "resized.u8").open("ab") as resized_file,
        (folder / "windows.u8").open("ab") as windows_file,
        (folder / "index.jsonl").open("a", encoding="utf-8") as index_file,
        (folder / "refused.jsonl").open("a", encoding="utf-8") as refused_file,
    ):
        for chunk in _chunks(ordered_map(decode, todo, workers), CHUNK):
            lines = []
            for result in chunk:
                progress.update()
                if isinstance(result, dict):
                    refused.append(result)
                    refused_file.write(json.dumps(result) + "\n")
                    continue
                image, resized, window = result
                image = PreparedImage(**asdict(image) | {"window_at": window_at})
                window_at += window.nbytes
                resized_file.write(resized.tobytes())
                windows_file.write(window.tobytes())
                images.append(image)
                lines.append(json.dumps(asdict(image)) + "\n")
            # Pixels first: a line of the index says that its pixels are on the disk.
            _sync(resized_file, windows_file, refused_file)
            index_file.writelines(lines)
            _sync(index_file)
    for row in refused[:10]:
        tqdm.write(f"left out: {data / row['file']}: {row['reason']}")
    if len(refused) > 10:
        tqdm.write(f"left out: {len(refused) - 10} more, listed in {folder / 'refused.jsonl'}")
    if not images:
        raise DataError(
            f"{data}: none of its {len(refused)} images can be decoded; {folder / 'refused.jsonl'} says why"
        )
    facts = {
        "version": VERSION,
        "images": len(images),
        "refused": len(refused),
        "window_bytes": window_at,
        "fingerprint": _fingerprint(images),
    }
    write_text(folder / "prepared.json", json.dumps(facts, indent=2) + "\n")


def _resume(folder: Path) -> tuple[list[PreparedImage], list[dict[str, str]]]:
    """What an interrupted preparation has on the disk; whatever lies beyond it is cut off."""
    images = [PreparedImage(**row) for row in _whole_lines(folder / "index.jsonl")]
    refused: list[dict[str, str]] = _whole_lines(folder / "refused.jsonl")
    window_bytes = sum(image.window_height * image.window_width * 3 for image in images)
    for name, size in (
        ("resized.u8", len(images) * IMAGE_SIZE * IMAGE_SIZE * 3),
        ("windows.u8", window_bytes),
    ):
        with (folder / name).open("ab") as stream:
            stream.truncate(size)
    return images, refused


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    with path.open("a+b") as stream:
        stream.seek(0)
        data = stream.read()
        end = data.rfind(b"\n") + 1
        stream.truncate(end)
    return [json.loads(line) for line in data[:end].splitlines()]


def _sync(*streams: IO[Any]) -> None:
    for stream in streams:
        stream.flush()
        os.fsync(stream.fileno())


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _fingerprint(images: Iterable[PreparedImage]) -> str:
    lines = sorted(f"{i.sha256} {i.label} {i.split} {i.source}\n" for i in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
