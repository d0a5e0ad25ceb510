"""The sources that a command line names: rows of the table by preset and licence, data sets of the Hub, folders."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mai_app.config import CLASSES, FORM, PrepareConfig, PreparedForm
from mai_app.data.layout import Folder
from mai_app.data.source_row import Source
from mai_app.data.sources import PRESETS, SOURCES
from mai_app.errors import DataError

OWN_IMAGES: Final = ("**.zip", "**.parquet")
"""Files taken of a Hub data set that no row of the table describes."""


def choose_sources(config: PrepareConfig) -> list[Source | Folder]:
    """What the command line names: rows of the table, data sets of the Hub, folders. Raises DataError for others."""
    rows = {source.name: source for source in SOURCES}
    # Of a repository with several rows, the first is meant: the one for training.
    rows |= {source.repository: source for source in reversed(SOURCES)}
    own = [name for name in config.source if name not in rows]
    if len(config.label) > 1 and len(config.label) != len(own):
        raise DataError(
            f"--label comes {len(config.label)} times for {len(own)} sources of your own: once, or for each"
        )
    labels = dict(zip(own, config.label * len(own) if len(config.label) == 1 else config.label, strict=False))
    chosen: list[Source | Folder] = []
    for name in (*(source.name for source in preset_rows(config)), *config.source):
        label = CLASSES.index(labels[name]) if name in labels else None
        if name in rows:
            chosen.append(rows[name])
        elif Path(name).is_dir():
            chosen.append(Folder(slug(Path(name).resolve().name), Path(name), label))
        elif re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", name) and not name.startswith("."):
            chosen.append(_own_source(name, label, config.files))
        else:
            known = ", ".join(source.name for source in SOURCES)
            raise DataError(f"--source {name}: no folder here, no owner/name of the Hub, not one of {known}")
    names = [source.name for source in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"--source: two are called {', '.join(twice)}")
    if unknown := sorted(set(config.require) - set(names) - {"all"}):
        raise DataError(f"--require {', '.join(unknown)}: not among the sources ({', '.join(names)})")
    return [source if isinstance(source, Folder) else _limited(source, config) for source in chosen]


def preset_rows(config: PrepareConfig, preset: str = "") -> list[Source]:
    """The rows that --preset (or `preset`) and --licence choose: the six, or none where --source names others.

    Raises DataError if none is left.
    """
    preset = preset or config.preset or ("" if config.source else "six")
    rows = [source for source in PRESETS.get(preset, ()) if config.licence == "any" or source.commercial]
    if preset and not rows and not config.list:
        raise DataError(f"--preset {preset}: none of its sources has a licence that allows commercial use")
    return rows


def set_name(config: PrepareConfig) -> str:
    """The name of the prepared set: --name, or else the preset's."""
    return config.name or config.preset or "six"


def kept_bytes(source: Source, images: int) -> int:
    """About how many bytes of the images' own files are kept: a fifth, of val and test, or all, for testing."""
    return images * source.image_bytes // (1 if source.use == "testing" else 5)


def source_table(config: PrepareConfig) -> str:
    """The table of Hub data sets that MAI knows, or of a preset: a few lines a source, and each preset's sums."""
    chosen = [config.preset] if config.preset else list(PRESETS)
    rows = dict.fromkeys(source for preset in chosen for source in preset_rows(config, preset))
    lines = [line for source in rows for line in _describe(source)]
    for preset in chosen:
        sources = preset_rows(config, preset)
        what = "mai prepare" if preset == "six" else f"mai prepare --preset {preset}"
        lines.append(f"{what} takes {len(sources)}: {describe_sums(sources)}.")
    lines += ["--source, --parts, --cap, --cap-per-generator and --fetch-gb choose. Mind the licences and the traps."]
    return "\n".join(lines)


def describe_sums(sources: Sequence[Source], form: PreparedForm = FORM) -> str:
    """About how many images the sources have, and how many bytes are fetched and stored for them."""
    images, synthetic = sum(s.images for s in sources), sum(map(_synthetic, sources))
    stored = sum(s.images * form.max_bytes + kept_bytes(s, s.images) for s in sources)
    return (
        f"about {images - synthetic:,} authentic and {synthetic:,} synthetic images, "
        f"{_gb(sum(map(_fetched, sources)))} fetched, {_gb(stored)} stored at most"
    )


def _describe(source: Source) -> list[str]:
    drawn = [
        f"{source.parts} drawn" if source.parts else "",
        f"files of {_gb(source.max_fetch)} drawn" if source.max_fetch else "",
        f"at most {source.cap:,} images" if source.cap else "",
        f"at most {source.cap_per_generator:,} of a generator" if source.cap_per_generator else "",
    ]
    made = ", ".join(dict.fromkeys(c.generator for c in source.columns)) or source.generators or source.generator
    label = "mixed" if source.label is None else CLASSES[source.label]
    synthetic = _synthetic(source)
    counts = [f"{source.images - synthetic:,} authentic" if synthetic < source.images else ""]
    counts += [f"{synthetic:,} synthetic ({made})" if synthetic else ""]
    stored = source.images * FORM.max_bytes + kept_bytes(source, source.images)
    allows = {True: "", False: ", forbids commercial use", None: ", nothing said of commercial use"}[source.commercial]
    return [
        f"{source.name:<11} {label:<11}{source.repository} ({made or source.kind})",
        f"{'':<12}{', '.join([*source.files, *filter(None, drawn)])}",
        f"{'':<12}about {' and '.join(filter(None, counts))} images, {_gb(_fetched(source))} fetched, "
        f"{_gb(stored)} stored at most",
        f"{'':<12}licence: {source.licence}{allows}; {source.notes}",
        *([f"{'':<12}traps: {source.traps}"] if source.traps else []),
        *([f"{'':<12}for testing only"] if source.use == "testing" else []),
        "",
    ]


def _synthetic(source: Source) -> int:
    """About how many of the images that are taken are synthetic."""
    return source.synthetic_images if source.label is None else source.images * source.label


def _fetched(source: Source) -> int:
    """About how many bytes are fetched."""
    return source.max_fetch or source.images * source.image_bytes


def slug(text: str) -> str:
    """A name for a folder: letters, digits, dots and single hyphens."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


def _own_source(name: str, label: int | None, files: tuple[str, ...]) -> Source:
    repository, _, revision = name.partition("@")
    if label is None:
        raise DataError(f"--source {name}: needs its --label, authentic or synthetic")
    return Source(
        name=slug(repository),
        repository=repository,
        label=label,
        container="zip",
        files=files or OWN_IMAGES,
        revision=revision or "main",
        licence="see its card",
    )


def _limited(source: Source, config: PrepareConfig) -> Source:
    for flag, value in (
        ("parts", config.parts),
        ("cap", config.cap),
        ("cap-per-generator", config.cap_per_generator),
    ):
        if value is not None and value < 1:
            raise DataError(f"--{flag} {value}: must be at least 1")
    max_fetch = source.max_fetch
    if config.fetch_gb is not None:
        if config.fetch_gb <= 0:
            raise DataError(f"--fetch-gb {config.fetch_gb}: must be more than 0")
        max_fetch = int(config.fetch_gb * 10**9)
    return replace(
        source,
        parts=source.parts if config.parts is None else config.parts,
        cap=source.cap if config.cap is None else config.cap,
        cap_per_generator=config.cap_per_generator or source.cap_per_generator,
        max_fetch=max_fetch,
    )


def _gb(count: int) -> str:
    return f"{count / 10**9:.1f} GB"
