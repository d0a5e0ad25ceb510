"""Counts of a prepared set's manifest: images by column, duplicates, and how the classes' files differ, in words."""

import re
from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mai_app.config import CLASSES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_EXAMPLES: Final = 10
"""Maximum number of groups whose files are named."""
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def encode_column(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    """Encode a column of strings as codes (n,) and the list of names that they index; null is the empty string."""
    column = table.column(name).cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    return np.asarray(column.indices.to_numpy(zero_copy_only=False), dtype=np.int64), column.dictionary.to_pylist()


def count_codes(codes: Ints) -> list[tuple[int, int]]:
    """Count how often each code occurs."""
    return [(int(code), int(n)) for code, n in zip(*np.unique(codes, return_counts=True), strict=True)]


def counts_by(
    table: pa.Table, column: str, labels: Ints, used: Bools, rows: Bools, refused: Counter[str] | None = None
) -> list[dict[str, Any]]:
    """Count images by a column's values, the largest first: of either class, left out, and refused (unreadable)."""
    codes, names = encode_column(table, column)
    which = np.where(used, labels, 2)
    counts = np.bincount(codes[rows] * 3 + which[rows], minlength=3 * len(names)).reshape(-1, 3).tolist()
    table_of = {name: [*row, 0] for name, row in zip(names, counts, strict=True) if any(row)}
    for name, n in (refused or Counter()).items():
        table_of.setdefault(name, [0, 0, 0, 0])[3] = n
    keys = ("name", *CLASSES, "left_out", "refused")
    found = [dict(zip(keys, (name or "(not named)", *row), strict=True)) for name, row in table_of.items()]
    return sorted(found, key=lambda row: (-row[CLASSES[0]] - row[CLASSES[1]], -row["left_out"], row["name"]))


def duplicates(table: pa.Table, groups: Ints, labels: Ints) -> dict[str, Any]:
    """Count duplicate groups: all, exact copies, and those that span several given splits or both labels."""
    sizes = np.bincount(groups)
    copies = np.bincount(encode_column(table, "sha256")[0])
    given, names = encode_column(table, "given_split")
    has_split = np.array([bool(name) for name in names], dtype=bool)[given]
    return {
        "groups": int((sizes > 1).sum()),
        "images": int(sizes[sizes > 1].sum()),
        "exact_groups": int((copies > 1).sum()),
        "exact_images": int(copies[copies > 1].sum()),
        "across_given_splits": _mixed_groups(table, groups, given, has_split, names),
        "both_labels": _mixed_groups(table, groups, labels, np.ones(len(labels), dtype=bool), list(CLASSES)),
    }


def _mixed_groups(table: pa.Table, groups: Ints, values: Ints, rows: Bools, names: list[str]) -> dict[str, Any]:
    """Count groups that hold images of more than one value, and their images; examples name a file for each value."""
    pairs, first = np.unique(np.stack([groups[rows], values[rows]], axis=1), axis=0, return_index=True)
    mixed = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    files = table.column("file")
    return {
        "groups": len(mixed),
        "images": int(np.isin(groups[rows], mixed).sum()),
        "examples": [
            {names[pairs[i, 1]]: files[int(np.flatnonzero(rows)[first[i]])].as_py() for i in np.flatnonzero(at)}
            for at in (pairs[:, 0] == group for group in mixed[:MAX_EXAMPLES])
        ],
    }


def describe_property(name: str, values: Floats, labels: Ints) -> list[str]:
    """Describe in up to two sentences how the classes differ in a property: medians, and the largest difference."""
    of = ""
    if name == "JPEG quality":
        of, values, labels = "of the JPEG files: ", values[values > 0], labels[values > 0]
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        return [f"no {CLASSES[int(np.argmin(counts))]} image{' is a JPEG file' if of else ''}"]
    known, codes = np.unique(values, return_inverse=True)
    by_value = np.bincount(codes * 2 + labels, minlength=2 * len(known)).reshape(-1, 2) / counts
    apart = np.abs(by_value[:, 1] - by_value[:, 0])

    def shares(words: str, pair: Floats) -> str:
        return f"{words}: {100 * pair[0]:.0f} % of the {CLASSES[0]}, {100 * pair[1]:.0f} % of the {CLASSES[1]} images"

    if name == "format":
        words = [FORMATS[int(value)] if value == value else "other formats" for value in known]  # noqa: PLR0124 - NaN
        return [shares(words[i], by_value[i]) for i in np.argsort(-apart, kind="stable")[:2]]
    medians = [_show(float(np.median(values[labels == label]))) for label in (0, 1)]
    found = [f"{of}median {medians[0]} ({CLASSES[0]}), {medians[1]} ({CLASSES[1]})"]
    below = by_value.cumsum(axis=0)
    cut, most = int(np.argmax(np.abs(below[:, 1] - below[:, 0]))), int(np.argmax(apart))
    # One value that only one class has, as of images made at one size, says more than a cut that does a little better.
    if apart[most] >= 0.5 * abs(below[cut, 1] - below[cut, 0]) > 0:
        found.append(shares(f"exactly {_show(known[most])}", by_value[most]))
    elif abs(below[cut, 1] - below[cut, 0]) > 0:
        found.append(shares(f"at most {_show(known[cut])}", below[cut]))
    return found


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def generalize_reason(row: dict[str, str]) -> str:
    """Strip a reason of what is specific to one file: name, quoted bytes, addresses, numbers (but for "16 bits")."""
    reason = row["reason"].replace(row["file"], "…")
    reason = re.sub(r"(?<!\w)b?'[^']*'(?!\w)|<[^>]*>|0x[0-9a-f]+", "…", reason)
    return re.sub(r"\d+(?:[.,]\d+)*(?![.,]?\d|-bit| bits| or \d)", "…", reason)
