"""What a row of the table of sources says: where a data set lies, what its columns mean, and what is taken of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Container = Literal["zip", "parquet", "tar", "file"]
"""What the images of a remote file lie in; file: the remote file is an image itself."""


@dataclass(frozen=True)
class Flags:
    """A table, beside the images, that says which of them to leave out."""

    file: str
    """Parquet file of the repository."""
    name: str
    """Column with the image's name."""
    score: str
    """Column with a number."""
    most: float  # plan.json has this field by its name
    """Images whose number is higher are left out."""


@dataclass(frozen=True)
class Labels:
    """The column that says which class an image is of, and what its values mean.

    Values are compared as text, without regard to case; spaces and hyphens are underscores, whole numbers have no
    decimal places, and truth values are 0 and 1.
    """

    column: str
    authentic: tuple[str, ...]
    synthetic: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Values of neither class, as of authentic images that were edited."""


@dataclass(frozen=True)
class Without:
    """Values of a column whose images are left out; compared as those of Labels are."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class ImageColumn:
    """One of several columns with images."""

    name: str
    generator: str = ""
    """What made its images; or"""
    generator_column: str = ""
    """the column that says it."""


@dataclass(frozen=True)
class LabelFile:
    """A table of comma-separated values within an archive, with a row for each of its images."""

    file: str
    """Its name, in whatever folder of the archive."""
    name: str
    """Column with the image's name: as a path, without its folder, or without its suffix, too."""


@dataclass(frozen=True)
class Source:
    """One data set: where it lies, what is taken of it, and what its images are."""

    name: str
    repository: str
    """owner/name on the Hub."""
    label: int | None
    """0 authentic, 1 synthetic; None: a column says it (labels)."""
    container: Container
    """Of files whose names do not tell it."""
    files: tuple[str, ...]
    """Patterns of the remote files; each works on its own folder, so that nothing else is listed."""
    kind: str = ""
    """What the authentic images are."""
    generator: str = ""
    """What made the synthetic images."""
    revision: str = "main"
    """Branch, tag or commit; what it stood for when the set was planned is recorded in plan.json, and kept to."""
    parts: int | None = None
    """Remote files taken, drawn by the seed; None: all."""
    cap: int | None = None
    """Maximum number of images, drawn by the seed; None: all."""
    column: str = "image"
    """parquet: column of the images."""
    tie: str = ""  # plan.json has this field by its name
    """Group key: of the JSON beside the images (zip), or a column (parquet); equal values make one group."""
    flags: Flags | None = None
    """Table of images to leave out."""
    without_tags: frozenset[str] = frozenset()
    """Images with one of these tags, in the text file of the same name, are left out."""
    images: int = 0
    """How many images that gives, about, for the table; 0: not known."""
    image_bytes: int = 100_000
    """Size of an image's file, about, for the estimate of images and disk."""
    licence: str = ""
    """As the data set's card states it."""
    notes: str = ""
    labels: Labels | None = None
    """Where both classes lie in one file, the column that tells them apart."""
    generator_column: str = ""
    """Column with what made a synthetic image."""
    columns: tuple[ImageColumn, ...] = ()
    """parquet: columns with images, where there are several; those of a row form one group."""
    table: LabelFile | None = None
    """zip: where the columns are those of a table in the archive."""
    without: tuple[Without, ...] = ()
    """Images to leave out."""
    cap_per_generator: int | None = None
    """Maximum number of images of one generator, drawn by the seed; None: all."""
    max_fetch: int | None = None
    """Maximum number of bytes fetched: files spread evenly over the listing, drawn by the seed; None: no limit."""
    use: Literal["training", "testing"] = "training"
    """testing: no training accepts a set with these images."""
    synthetic_images: int = 0
    """Of a mixed data set, how many of `images` are synthetic, about, for the table."""
    generators: str = ""
    """Of a data set with many generators, which ones, for the table."""
    commercial: bool | None = None
    """Whether the licence allows commercial use; None: not stated."""
    traps: str = ""
    """What to beware of in these images, for the table."""

    @property
    def image_columns(self) -> tuple[ImageColumn, ...]:
        """The columns with images, also where it is one."""
        return self.columns or (ImageColumn(self.column, self.generator, self.generator_column),)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository, as its listing names it."""

    path: str
    size: int
    sha256: str | None
    """Of the content, where the Hub knows it: of every large file."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a request that fails is tried again."""

    first_pause: float = 2.0
    """Seconds; doubles from one try to the next, unless the server names the time itself."""
    sleep: Callable[[float], None] = time.sleep
