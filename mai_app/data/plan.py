"""Plan of a prepared set: chosen sources, their files, and the shards to make; stored in plan.json and kept to."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mai_app.config import CLASSES, FORM, NEAR_DUPLICATE_BITS, SPLITTING, PrepareConfig, PreparedForm, prepared_form
from mai_app.core.files import describe_changes, write_text
from mai_app.data.layout import Folder, Record, listing_hash, read_layout
from mai_app.data.shards import VERSION, max_image_bytes
from mai_app.data.sources import SOURCES, RemoteFile, RetryPolicy, Source
from mai_app.errors import DataError, SourceError

FILES_PER_SHARD: Final = 1000
"""Files of a local folder in one shard."""
OWN_IMAGES: Final = ("**.zip", "**.parquet")
"""Files taken of a Hub data set that no row of the table describes."""
_WORDS: Final = ("licence", "notes", "images")
"""Fields of a source that tell people about it, and don't shape the set."""


@dataclass(frozen=True)
class RemoteShard:
    """One remote file, fetched and stored as a shard."""

    name: str
    source: Source
    commit: str
    file: RemoteFile
    max_images: int | None
    """Maximum number of images taken of it, drawn by the seed."""
    form: PreparedForm = FORM

    @property
    def images(self) -> int:
        """Estimated number of images."""
        return min(self.max_images or 2**60, max(1, self.file.size // self.source.image_bytes))


@dataclass(frozen=True)
class FolderShard:
    """Some files of a local folder."""

    name: str
    root: Path
    prefix: str
    """Stands before the files' names in the manifest, where several sources share it."""
    records: tuple[Record, ...]
    form: PreparedForm = FORM

    @property
    def images(self) -> int:
        """Maximum number of images."""
        return len(self.records)


Shard = RemoteShard | FolderShard


@dataclass(frozen=True)
class Plan:
    """A prepared set's shards, and the sources that are unavailable."""

    shards: tuple[Shard, ...]
    flags: dict[str, RemoteShard] = field(default_factory=dict)
    """By source name the table of images to leave out, where the source has one."""
    missing: dict[str, str] = field(default_factory=dict)
    """By source name why it is not in the set."""
    notes: tuple[str, ...] = ()
    """What a person should know of the set."""
    form: PreparedForm = FORM
    name: str = ""
    """Name of the folder that all of it is made from, if there is one."""


def choose_sources(config: PrepareConfig) -> list[Source | Folder]:
    """What the command line names: rows of the table, data sets of the Hub, folders. Raises DataError for others."""
    rows = {source.name: source for source in SOURCES} | {source.repository: source for source in SOURCES}
    own = [name for name in config.source if name not in rows]
    if len(config.label) > 1 and len(config.label) != len(own):
        raise DataError(
            f"--label comes {len(config.label)} times for {len(own)} sources of your own: once, or for each"
        )
    labels = dict(zip(own, config.label * len(own) if len(config.label) == 1 else config.label, strict=False))
    chosen: list[Source | Folder] = []
    for name in config.source or [source.name for source in SOURCES]:
        label = CLASSES.index(labels[name]) if name in labels else None
        if name in rows:
            chosen.append(rows[name])
        elif Path(name).is_dir():
            chosen.append(Folder(_slug(Path(name).resolve().name), Path(name), label))
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


def make_plan(config: PrepareConfig, folder: Path, retry_policy: RetryPolicy) -> Plan:
    """The plan of a set's folder: read from plan.json, or made and written there.

    A remote source keeps to the commit it was planned with. One that is unavailable is missing, and is asked for again
    the next time. Raises DataError if the folder was planned with other settings, or a --required source is missing.
    """
    path = folder / "plan.json"
    form = prepared_form(config.view_size)
    written: dict[str, Any] = {"version": VERSION, "seed": config.seed, "form": asdict(form), "sources": {}}
    if path.exists():
        try:
            written = json.loads(path.read_text())
            version, seed, before_form = written["version"], written["seed"], written.get("form")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is damaged ({error}); delete {folder}") from None
        if version != VERSION:
            raise DataError(f"{folder}: of version {version}, this MAI makes {VERSION}; delete it")
        _same_as_planned(folder, "seed", seed, config.seed)
        _same_as_planned(folder, "--view-size", before_form, asdict(form))
    shards: list[Shard] = []
    flags: dict[str, RemoteShard] = {}
    missing: dict[str, str] = {}
    notes: list[str] = []
    planned: dict[str, Any] = {}
    chosen = choose_sources(config)
    if left := sorted(set(written["sources"]) - {source.name for source in chosen}):
        raise DataError(f"{folder}: was planned with {', '.join(left)}, too; name the same sources, or another --name")
    for source in chosen:
        before = written["sources"].get(source.name)
        try:
            if isinstance(source, Folder):
                entry, more, said = _plan_folder(folder, source, before, form)
                notes += said
            else:
                entry = _plan_source(folder, source, before, config.seed, retry_policy)
                *more, table = _remote_shards(source, entry, form)
                if table:
                    flags[source.name] = table
                elif source.flags:
                    notes.append(f"{source.name}: has no {source.flags.file}, so what it marks could not be left out")
        except SourceError as error:
            if source.name in config.require or "all" in config.require:
                raise SourceError(f"{error}; it is --require'd, so nothing was made") from None
            missing[source.name] = str(error)
            continue
        planned[source.name] = entry
        shards += more
    if not shards:
        raise DataError(f"{folder}: none of the sources can be had: {'; '.join(missing.values())}")
    # What is missing now may have been there before: its shards stay.
    write_text(path, json.dumps(written | {"sources": written["sources"] | planned}, indent=1) + "\n")
    return Plan(tuple(shards), flags, missing, tuple(notes), form)


def plan_folder(data: Path, form: PreparedForm) -> tuple[str, Plan]:
    """The name of a folder's prepared set, which changes when folder or form do, and its plan."""
    layout = read_layout(data)
    listing = listing_hash(data, layout.records, f"{VERSION} {form} {NEAR_DUPLICATE_BITS} {SPLITTING}")
    shards = _folder_shards("", data, layout.records, form)
    name = data.resolve().name
    return f"{name}-{listing[:12]}", Plan(tuple(shards), notes=layout.notes, form=form, name=name)


def bytes_needed(shards: list[Shard], jobs: int) -> tuple[int, int]:
    """Estimated bytes on the disk: stored in the end, and of downloads at one time."""
    stored = sum(shard.images * max_image_bytes(shard.form) for shard in shards)
    # A fifth of the files is kept as they are, of val and test.
    stored += sum(shard.images * shard.source.image_bytes // 5 for shard in shards if isinstance(shard, RemoteShard))
    sizes = sorted((shard.file.size for shard in shards if isinstance(shard, RemoteShard)), reverse=True)
    return stored, sum(sizes[:jobs])


def source_table() -> str:
    """The table of Hub data sets that MAI knows: a few lines a source, with about what it fetches and stores."""
    lines = []
    total_fetched = total_stored = 0
    for source in SOURCES:
        fetched = source.images * source.image_bytes
        # A fifth of the files is kept, of val and test.
        stored = source.images * max_image_bytes(FORM) + fetched // 5
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


def _plan_source(folder: Path, source: Source, before: Any, seed: int, retry_policy: RetryPolicy) -> dict[str, Any]:
    row = json.loads(json.dumps(asdict(source), default=sorted))
    row = {name: value for name, value in row.items() if name not in _WORDS}
    if before:
        _same_as_planned(folder, source.name, before["row"], row)
        return before  # type: ignore[no-any-return]
    from mai_app.data.archives import draw  # noqa: PLC0415 - a folder needs neither
    from mai_app.data.hub import list_files  # noqa: PLC0415

    patterns = source.files + ((source.flags.file,) if source.flags else ())
    commit, files = list_files(source.repository, source.revision, patterns, retry_policy)
    table = [file for file in files if source.flags and file.path == source.flags.file]
    images = [file for file in files if file not in table]
    if source.files == OWN_IMAGES:
        # A data set that has both has the same images in both.
        images = [file for file in images if file.path.endswith(".zip")] or images
    if not images:
        raise SourceError(f"{source.repository}: holds no file named {' or '.join(source.files)}")
    drawn = draw((file.path for file in images), source.parts, seed)
    taken = [asdict(file) for file in images if file.path in drawn]
    return {"row": row, "commit": commit, "files": taken, "flags": asdict(table[0]) if table else None}


def _remote_shards(source: Source, entry: dict[str, Any], form: PreparedForm) -> Iterator[Any]:
    """A shard a file, and at last that of the table of images to leave out, or None."""
    files = [RemoteFile(**file) for file in entry["files"]]
    for number, file in enumerate(files):
        # Even shares; the first files take what is left over. A higher cap takes no less of any file.
        max_images = source.cap // len(files) + (number < source.cap % len(files)) if source.cap is not None else None
        if max_images == 0:
            continue
        of_kind = replace(source, container="parquet" if PurePosixPath(file.path).suffix == ".parquet" else "zip")
        name = f"{source.name}--{number:05}-{_slug(file.path)}"
        yield RemoteShard(name, of_kind, entry["commit"], file, max_images, form)
    table = entry["flags"]
    yield RemoteShard(source.name, source, entry["commit"], RemoteFile(**table), None) if table else None


def _plan_folder(
    folder: Path, source: Folder, before: Any, form: PreparedForm
) -> tuple[dict[str, Any], list[FolderShard], tuple[str, ...]]:
    layout = source.read()
    entry = {"folder": str(source.path), "label": source.label, "listing": listing_hash(source.path, layout.records)}
    if before:
        _same_as_planned(folder, f"{source.name}'s label", before["label"], source.label)
        if before["listing"] != entry["listing"]:
            raise DataError(f"{source.path}: has changed since {folder} was planned; choose another --name")
    return entry, list(_folder_shards(source.name, source.path, layout.records, form)), layout.notes


def _folder_shards(prefix: str, root: Path, records: list[Record], form: PreparedForm) -> Iterator[FolderShard]:
    for number, start in enumerate(range(0, len(records), FILES_PER_SHARD)):
        name = f"{prefix}--{number:05}" if prefix else f"{number:05}"
        part = tuple(records[start : start + FILES_PER_SHARD])
        yield FolderShard(name, root, f"{prefix}/" if prefix else "", part, form)


def _own_source(name: str, label: int | None, files: tuple[str, ...]) -> Source:
    repository, _, revision = name.partition("@")
    if label is None:
        raise DataError(f"--source {name}: needs its --label, authentic or synthetic")
    return Source(
        name=_slug(repository),
        repository=repository,
        label=label,
        container="zip",
        files=files or OWN_IMAGES,
        revision=revision or "main",
        licence="see its card",
    )


def _limited(source: Source, config: PrepareConfig) -> Source:
    for flag, value in (("parts", config.parts), ("cap", config.cap)):
        if value is not None and value < 1:
            raise DataError(f"--{flag} {value}: must be at least 1")
    parts = source.parts if config.parts is None else config.parts
    return replace(source, parts=parts, cap=source.cap if config.cap is None else config.cap)


def _same_as_planned(folder: Path, what: str, before: Any, now: Any) -> None:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        changes = describe_changes(before, {key: now.get(key) for key in sorted(before.keys() | now.keys())})
    else:
        changes = f"{before} → {now}"
    raise DataError(f"{folder}: was planned with another {what} ({changes}); choose another --name")


def _slug(text: str) -> str:
    """A name for a folder: letters, digits, dots and single hyphens."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


def _gb(count: int) -> str:
    return f"{count / 10**9:.1f} GB"
