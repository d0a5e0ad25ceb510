"""Prepared set: the manifest as columns, and pixels memory-mapped from its shards.

The folder holds plan.json (what it is made of), units/ (the pixels), manifest.csv (one row per image), refused.jsonl
(one row per file that could not be decoded) and prepared.json (written last: without it the set is not complete).
"""

import json
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mai_app.config import CLASSES, IMAGE_SIZE, PreparedForm
from mai_app.data.augment import Jpegs
from mai_app.data.match import SURPLUS
from mai_app.data.shards import MANIFEST, STRETCHED_BYTES, VERSION, read_table
from mai_app.errors import DataError
from mai_app.images.decode import SAMPLINGS, Pixels

MAX_OPEN_SHARDS: Final = 256
"""Shards mapped at a time: each takes one of the process's open files."""
MAX_SOURCES_SHOWN: Final = 20
"""Maximum number of sources in `describe_prepared`, the largest ones."""


class PreparedSet:
    """A prepared set's images by their row in the manifest; the left-out ones are among them, with no split."""

    def __init__(self, folder: Path, facts: dict[str, Any], table: pa.Table) -> None:
        self.folder = folder
        self.facts = facts
        """prepared.json."""
        self.table = table
        """The manifest, (n rows)."""
        self.labels: npt.NDArray[np.int64] = table["label"].to_numpy()
        self.splits: npt.NDArray[np.str_] = table["split"].to_numpy().astype(str)
        self._lossy: npt.NDArray[np.bool_] = table["lossy"].to_numpy().astype(bool)
        self._at = table["at"].to_numpy()
        self._windows = np.stack([table[f"window_{side}"].to_numpy() for side in ("height", "width")], axis=1)
        self._scaled = np.stack([table[f"scaled_{side}"].to_numpy() for side in ("height", "width")], axis=1)
        self._whole = table["whole"].to_numpy()
        self._shorter_sides = np.minimum(table["height"].to_numpy(), table["width"].to_numpy())
        self.original_bytes: npt.NDArray[np.int64] = table["original_bytes"].to_numpy()
        shards = table["unit"].combine_chunks().dictionary_encode()
        self._shard_of, self._shards = shards.indices.to_numpy(), shards.dictionary.to_pylist()
        self._maps: OrderedDict[int, Pixels] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        # For a loader's processes: to map the files again, not to send the pixels.
        return open_prepared, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all images' pixels, labels, splits and sources: names the data that a model was trained on."""
        return str(self.facts["fingerprint"])

    @property
    def name(self) -> str:
        """Name of the folder that it was made from; empty for a set of several sources, and one by an older MAI."""
        return str(self.facts.get("name", ""))

    @property
    def test_only(self) -> list[str]:
        """Its sources that are for testing only."""
        return list(self.facts.get("test_only", []))

    def refuse_training(self, what: str) -> None:
        """Raise DataError, which says what can't be done, if the set holds images that are for testing only."""
        if self.test_only:
            raise DataError(
                f"{self.folder}: holds {', '.join(self.test_only)}, for testing only: {what} on it would make every "
                f"later figure on it worthless; use another set for that, and this one with mai evaluate"
            )

    @property
    def form(self) -> PreparedForm:
        """How large it keeps each image's parts."""
        return PreparedForm(**self.facts.get("form", {}))

    @property
    def sources(self) -> list[str]:
        """Each image's source."""
        return self.table["source"].to_pylist()  # type: ignore[no-any-return]

    def kinds(self, rows: npt.NDArray[np.int64]) -> set[str]:
        """What these rows' images show or are."""
        return set(self.table["kind"].take(rows).to_pylist())

    def file(self, row: int) -> str:
        """The image's name in the manifest."""
        return str(self.table["file"][row])

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Rows of the split's images."""
        return np.flatnonzero(self.splits == split)

    def stretched(self, row: int) -> Pixels:
        """The whole image, stretched: (200, 200, 3) uint8, a view."""
        return self._bytes(row, 0, STRETCHED_BYTES).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)

    def window(self, row: int, scaled: bool = False) -> Pixels:
        """The image's window of native pixels, (≤ form.window, ≤ form.window, 3) uint8, a view.

        With `scaled` of the image scaled down first, by Lanczos to PREPARED_LONGEST, if it is larger than that.
        """
        if not (scaled and self._scaled[row].any()):
            return self._bytes(row, STRETCHED_BYTES, _size(self._windows[row])).reshape(*self._windows[row], 3)
        start = STRETCHED_BYTES + _size(self._windows[row])
        return self._bytes(row, start, _size(self._scaled[row])).reshape(*self._scaled[row], 3)

    def whole(self, row: int) -> Pixels:
        """The whole image's central square, scaled down to form.whole if it is larger: (n, n, 3) uint8, a view."""
        side = int(self._whole[row])
        start = STRETCHED_BYTES + _size(self._windows[row]) + _size(self._scaled[row])
        return self._bytes(row, start, 3 * side * side).reshape(side, side, 3)

    def lossy(self, row: int, scaled: bool = False) -> bool:
        """Whether the window's pixels come from lossy coding as they are: scaling down leaves little of its traces."""
        return bool(self._lossy[row]) and not (scaled and self._scaled[row].any())

    def whole_lossy(self, row: int) -> bool:
        """Whether the central square's pixels come from lossy coding as they are, not scaled down."""
        return bool(self._lossy[row]) and int(self._whole[row]) == int(self._shorter_sides[row])

    def original(self, row: int) -> bytes:
        """The image's own file, where the set keeps it; else no bytes."""
        start = STRETCHED_BYTES + _size(self._windows[row]) + _size(self._scaled[row]) + 3 * int(self._whole[row]) ** 2
        return self._bytes(row, start, int(self.original_bytes[row])).tobytes()

    def jpegs(self, rows: npt.NDArray[np.int64]) -> Jpegs:
        """(m, 2): quality and index in SAMPLINGS of those of the rows' files that are colour JPEG."""
        columns = self.table.select(["jpeg_quality", "jpeg_sampling"]).take(rows).to_pydict()
        pairs = zip(columns["jpeg_quality"], columns["jpeg_sampling"], strict=True)
        known = [(quality, SAMPLINGS.index(sampling)) for quality, sampling in pairs if quality and sampling]
        return np.array(known, dtype=np.int64).reshape(-1, 2)

    def rejected(self) -> list[dict[str, str]]:
        """The files that could not be decoded: file, source, reason."""
        with (self.folder / "refused.jsonl").open(encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    def _bytes(self, row: int, offset: int, size: int) -> Pixels:
        shard = int(self._shard_of[row])
        pixels = self._maps.get(shard)
        if pixels is None:
            path = self.folder / "units" / self._shards[shard] / "pixels.u8"
            pixels = self._maps[shard] = np.memmap(path, np.uint8, "r")
            if len(self._maps) > MAX_OPEN_SHARDS:
                self._maps.popitem(last=False)
        start = int(self._at[row]) + offset
        return pixels[start : start + size]


def _size(window: npt.NDArray[np.int64]) -> int:
    """Bytes of a window of this height and width."""
    return int(window.prod()) * 3


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared set, or the beginning of one."""
    return (folder / "plan.json").is_file()


def find_prepared(data: Path, prepared: Path) -> Path | None:
    """The prepared set that `data` means: as a path, or by its name below `prepared`; None if it means neither."""
    by_name = not data.exists() and is_prepared(prepared / data)
    return prepared / data if by_name else data if is_prepared(data) else None


def open_prepared(folder: Path) -> PreparedSet:
    """Map a complete prepared set into memory; raises DataError if it is missing, incomplete or damaged."""
    if is_prepared(folder) and not (folder / "prepared.json").is_file():
        raise DataError(f"{folder}: is not complete; the command that began it (mai prepare, mai train) carries on")
    try:
        facts = json.loads((folder / "prepared.json").read_text())
        if facts["version"] not in (3, VERSION):
            raise DataError(f"{folder}: of version {facts['version']}, this MAI reads {VERSION}; delete it")
        columns = {name: kind for name, kind in MANIFEST.items() if name != "whole" or facts["version"] == VERSION}
        table = read_table(folder / "manifest.csv", columns)
        if "whole" not in columns:
            table = table.append_column("whole", pa.array([0] * table.num_rows, pa.int64()))
        for shard, size in facts["units"].items():
            if (folder / "units" / shard / "pixels.u8").stat().st_size != size:
                raise ValueError(f"{shard} is not as long as it was")
        if table.num_rows != facts["images"]:
            raise ValueError("manifest.csv is not as long as it was")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not a complete prepared set ({error}); delete it, it will be made anew") from None
    return PreparedSet(folder, facts, table)


def describe_prepared(prepared: PreparedSet) -> str:
    """Images by source and split of a prepared set, what was left out, and its size on the disk."""
    table = prepared.table
    columns = zip(prepared.sources, prepared.labels.tolist(), prepared.splits.tolist(), strict=True)
    counts = Counter(columns)
    rejected = Counter(row["source"] for row in prepared.rejected())
    sizes = Counter((label, source) for source, label, _ in counts.elements())
    names = sorted(name for name, _ in sizes.most_common(MAX_SOURCES_SHOWN))
    header = "".join(f"{column:>10}" for column in ("train", "val", "test", "left out", "refused"))
    lines = [f"{'source':<40}{'label':<10}{header}"]
    for label, source in names:
        # Which class a rejected image was of is not known: a mixed source's stand in its first row.
        cells = [counts[source, label, split] for split in ("train", "val", "test", "")] + [rejected.pop(source, 0)]
        shown = source if len(source) < 40 else f"{source[:38]}…"
        lines.append(f"{shown:<40}{CLASSES[label]:<10}" + "".join(f"{cell:>10,}" for cell in cells))
    if len(sizes) > MAX_SOURCES_SHOWN:
        rest = sum(sizes.values()) - sum(sizes[name] for name in names)
        lines.append(
            f"and {len(sizes) - MAX_SOURCES_SHOWN} smaller ones with {rest:,} images; "
            f"{prepared.folder / 'manifest.csv'} has all"
        )
    size = sum(prepared.facts["units"].values())
    lines.append(f"{table.num_rows:,} images in {size / 10**9:.2f} GB, {size / table.num_rows / 1000:.0f} kB an image")
    lines += [f"for testing only: {', '.join(prepared.test_only)}"] if prepared.test_only else []
    if prepared.facts.get("match"):
        surplus = sum(reason == SURPLUS for reason in table["left_out"].to_pylist())
        lines.append(f"matched: {surplus:,} images are left out, since {SURPLUS}")
    lines += [f"note: {note}" for note in prepared.facts["notes"]]
    lines += [f"missing: {reason}" for reason in prepared.facts["missing"].values()]
    return "\n".join(lines)
