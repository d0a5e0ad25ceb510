"""Table of the Hub data sets that MAI trains on: one row each, no logic. Adding a source is adding a row."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

GB: Final = 10**9
NOT_SAFE: Final = frozenset(
    ("nsfw", "explicit", "questionable", "nude", "completely nude", "nipples", "pussy", "penis", "sex", "topless")
)
"""Tags, of the Danbooru kind, of images that are left out."""
NOT_AUTHENTIC: Final = frozenset(("ai-generated", "ai generated", "ai-assisted", "ai assisted", "stable diffusion"))
"""Tags of images that can't be taken for authentic."""


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
class Source:
    """One data set: where it lies, what is taken of it, and what its images are."""

    name: str
    repository: str
    """owner/name on the Hub."""
    label: int
    """0 authentic, 1 synthetic."""
    container: Literal["zip", "parquet"]
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


SOURCES: Final = (
    Source(
        name="diffusiondb",
        repository="poloclub/diffusiondb",
        label=1,
        container="zip",
        files=("images/part-*.zip",),
        generator="stable-diffusion-1",
        parts=50,
        tie="p",
        # 2.0 marks what Stable Diffusion's own filter blurred; below 1 it is the likelihood of a second detector.
        flags=Flags("metadata.parquet", "image_name", "image_nsfw", most=0.9),
        images=50_000,
        image_bytes=600_000,
        licence="CC0-1.0",
        notes="2,000 parts of 1,000 PNG; the first MAI took 50,000 images",
    ),
    Source(
        name="flickr30k",
        repository="nlphuji/flickr30k",
        label=0,
        container="zip",
        files=("flickr30k-images.zip",),
        kind="photo",
        images=31_000,
        image_bytes=141_000,
        licence="none stated",
        notes="about 31,000 JPEG of everyday scenes, 2010 to 2014",
    ),
    Source(
        name="paintings",
        repository="keremberke/painting-style-classification",
        label=0,
        container="zip",
        # Not valid-mini.zip: its images are in valid.zip.
        files=("data/train.zip", "data/valid.zip", "data/test.zip"),
        kind="painting",
        images=6_417,
        image_bytes=33_000,
        licence="CC BY 4.0",
        notes="6,417 images, stretched to 416×416",
    ),
    Source(
        name="scenery",
        repository="animelover/scenery-images",
        label=0,
        container="zip",
        files=("data/data-*.zip",),
        kind="drawing",
        cap=20_000,
        without_tags=NOT_SAFE | NOT_AUTHENTIC,
        images=20_000,
        image_bytes=500_000,
        licence="none stated",
        notes="drawn scenery with tags; may be gone at any time",
    ),
    Source(
        name="posters",
        repository="nanxstats/movie-poster-5k",
        label=0,
        container="zip",
        files=("data/movie-poster-5k.zip",),
        kind="poster",
        images=5_102,
        image_bytes=325_000,
        licence="openrail (the uploader's tag)",
        notes="5,102 portrait film posters",
    ),
    Source(
        name="covers",
        repository="Alphonsce/metal_album_covers",
        label=0,
        container="parquet",
        files=("data/train-*.parquet",),
        kind="album cover",
        tie="text",
        images=12_813,
        image_bytes=113_000,
        licence="apache-2.0 (the uploader's tag)",
        notes="12,813 covers, 256×256",
    ),
)
