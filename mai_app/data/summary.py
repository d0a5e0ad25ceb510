"""What can be prepared, and what was: two tables for a terminal."""

from collections import Counter
from typing import Final

from mai_app.config import CLASSES
from mai_app.data.prepared import PreparedSet
from mai_app.data.shards import MOST_BYTES
from mai_app.data.sources import SOURCES

SHOWN: Final = 20
"""Sources in the summary at most, the largest ones."""


def source_table() -> str:
    """The table of Hub data sets that MAI knows: a few lines a source, with about what it fetches and stores."""
    lines = []
    total_fetched = total_stored = 0
    for source in SOURCES:
        fetched = source.images * source.image_bytes
        # A fifth of the files is kept, of val and test.
        stored = source.images * MOST_BYTES + fetched // 5
        total_fetched, total_stored = total_fetched + fetched, total_stored + stored
        drawn = [
            f"{source.parts} drawn" if source.parts else "",
            f"at most {source.cap:,} images" if source.cap else "",
        ]
        lines += [
            f"{source.name:<12}{CLASSES[source.label]:<11}{source.repository} ({source.generator or source.kind})",
            f"{'':<12}{', '.join([*source.files, *filter(None, drawn)])}",
            f"{'':<12}about {source.images:,} images, {_gb(fetched)} fetched, {_gb(stored)} stored at most",
            f"{'':<12}licence: {source.licence}; {source.notes}",
            "",
        ]
    lines.append(
        f"mai prepare takes them all: about {sum(source.images for source in SOURCES):,} images, {_gb(total_fetched)} "
        f"fetched, {_gb(total_stored)} stored at most.\n--source, --parts and --cap choose. Mind the licences."
    )
    return "\n".join(lines)


def summary(prepared: PreparedSet) -> str:
    """Images by source and split of a prepared set, what was left out, and its size on the disk."""
    table = prepared.table
    columns = zip(prepared.sources, prepared.labels.tolist(), prepared.splits.tolist(), strict=True)
    counts = Counter(columns)
    refused = Counter(row["source"] for row in prepared.refused())
    sizes = Counter((label, source) for source, label, _ in counts.elements())
    names = sorted(name for name, _ in sizes.most_common(SHOWN))
    header = "".join(f"{column:>10}" for column in ("train", "val", "test", "left out", "refused"))
    lines = [f"{'source':<40}{'label':<10}{header}"]
    for label, source in names:
        cells = [counts[source, label, split] for split in ("train", "val", "test", "")] + [refused[source]]
        shown = source if len(source) < 40 else f"{source[:38]}…"
        lines.append(f"{shown:<40}{CLASSES[label]:<10}" + "".join(f"{cell:>10,}" for cell in cells))
    if len(sizes) > SHOWN:
        rest = sum(sizes.values()) - sum(sizes[name] for name in names)
        lines.append(
            f"and {len(sizes) - SHOWN} smaller ones with {rest:,} images; {prepared.folder / 'manifest.csv'} has all"
        )
    size = sum(prepared.facts["units"].values())
    lines.append(f"{table.num_rows:,} images in {size / 10**9:.2f} GB, {size / table.num_rows / 1000:.0f} kB an image")
    lines += [f"note: {note}" for note in prepared.facts["notes"]]
    lines += [f"missing: {reason}" for reason in prepared.facts["missing"].values()]
    return "\n".join(lines)


def _gb(count: int) -> str:
    return f"{count / 10**9:.1f} GB"
