"""Which images of a file are taken, and what they are: by their columns' values, drawn by a seed up to the caps."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mai_app.data.source_row import ImageColumn, Source
from mai_app.errors import ImageError, SourceError

Values = Mapping[str, Any]
"""An image's values, by column."""


@dataclass(frozen=True)
class Quota:
    """How much is taken of a file."""

    seed: int
    max_images: int | None = None
    """Maximum number of images; None: all."""
    max_per_generator: int | None = None
    """Maximum number of synthetic images of one generator; None: all."""
    excluded: frozenset[str] = frozenset()
    """Names of images, without their folders, that are not taken."""


@dataclass(frozen=True)
class Choice:
    """What an image that is taken is."""

    label: int
    """0 authentic, 1 synthetic."""
    generator: str = ""
    """What made a synthetic image; empty if unknown or authentic."""
    group_key: str = ""
    """Images with the same key, a prompt for example, form one group; empty if there is none."""


@dataclass(frozen=True)
class Member:
    """One image of an archive or table."""

    name: str
    """Its path in the archive; or its row's number in the table and, of several columns, the column."""
    content: bytes | ImageError
    choice: Choice


def draw(names: Iterable[str], max_count: int | None, seed: int) -> set[str]:
    """At most `max_count` of the names, drawn by a seeded hash: a smaller draw is part of a larger one."""
    if max_count is None:
        return set(names)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return set(heapq.nsmallest(max_count, names, key=rank))


def deciding_columns(source: Source) -> list[str]:
    """The columns that say which images are taken and what they are, without those of the images."""
    columns = [source.labels.column if source.labels else "", source.generator_column]
    columns += [column.generator_column for column in source.columns]
    columns += [without.column for without in source.without]
    return list(dict.fromkeys(filter(None, columns)))


def choose(
    images: Iterable[tuple[str, ImageColumn, Values, str]], source: Source, quota: Quota, file: str
) -> dict[str, Choice]:
    """By name the images that are taken, of (name, column, values, group key) each.

    First what the values leave out goes, then what is over a generator's cap, then what is over the file's. Raises
    SourceError where a label's value is none that the source's row knows.
    """
    wanted: dict[str, Choice] = {}
    by_generator = defaultdict(list)
    for name, column, values, group_key in images:
        label = _label(source, values, file)
        left_out = any(as_word(values[without.column]) in without.values for without in source.without)
        if label is None or left_out:
            continue
        named = str(values[column.generator_column] or "").strip() if column.generator_column else ""
        generator = (named or column.generator) if label else ""
        wanted[name] = Choice(label, generator, group_key)
        by_generator[generator].append(name)
    if quota.max_per_generator is not None:
        for generator, names in by_generator.items():
            kept = draw(names, quota.max_per_generator if generator else None, quota.seed)
            for name in names:
                if name not in kept:
                    del wanted[name]
    chosen = draw(wanted, quota.max_images, quota.seed)
    return {name: choice for name, choice in wanted.items() if name in chosen}


def as_word(value: Any) -> str:
    """A column's value as the table of sources writes it."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value).strip().lower().replace(" ", "_").replace("-", "_")


def same_text(text: str) -> str:
    """Texts that differ in case and spacing alone are one."""
    return " ".join(text.lower().split())


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _label(source: Source, values: Values, file: str) -> int | None:
    """0 or 1; None for an image that is left out by its label."""
    labels = source.labels
    if labels is None:
        return source.label
    value = values[labels.column]
    word = as_word(value)
    for label, words in ((0, labels.authentic), (1, labels.synthetic), (None, labels.left_out)):
        if word in words:
            return label
    known = ", ".join((*labels.authentic, *labels.synthetic, *labels.left_out))
    raise SourceError(
        f"{file}: its column {labels.column!r} says {value!r}, and is known to say {known}; nothing is taken of the "
        f"file. What its values mean stands in the row of {source.name} in mai_app/data/sources.py"
    )
