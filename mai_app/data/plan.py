"""Plan of a prepared set: chosen sources, their files, and the shards to make; stored in plan.json and kept to."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from mai_app.config import FORM, NEAR_DUPLICATE_BITS, SPLITTING, PrepareConfig, PreparedForm, prepared_form
from mai_app.core.files import describe_changes, write_text
from mai_app.data.catalogue import OWN_IMAGES, choose_sources, kept_bytes, slug
from mai_app.data.layout import Folder, Record, listing_hash, read_layout
from mai_app.data.selection import draw
from mai_app.data.shards import VERSION
from mai_app.data.source_row import Container, RemoteFile, RetryPolicy, Source
from mai_app.errors import DataError, SourceError
from mai_app.images.find import has_image_name

FILES_PER_SHARD: Final = 1000
"""Files of a local folder in one shard."""
FILES_PER_FETCH: Final = 200
"""Remote files that are images themselves in one shard."""
_WORDS: Final = ("licence", "notes", "images", "synthetic_images", "generators", "commercial", "traps")
"""Fields of a source that tell people about it, and don't shape the set."""
_GOLDEN: Final = (5**0.5 - 1) / 2
"""Steps of this length around a circle are spread evenly at every moment."""


@dataclass(frozen=True)
class RemoteShard:
    """One remote file, or some that are images themselves, fetched and stored as a shard."""

    name: str
    source: Source
    commit: str
    file: RemoteFile
    max_images: int | None
    """Maximum number of images taken of it, drawn by the seed."""
    form: PreparedForm = FORM
    max_per_generator: int | None = None
    """Maximum number of synthetic images of one generator taken of it, drawn by the seed."""
    more: tuple[RemoteFile, ...] = ()
    """Further files, where each is an image."""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """All files, in their order."""
        return (self.file, *self.more)

    @property
    def images(self) -> int:
        """Estimated number of images."""
        if self.source.container == "file":
            return len(self.files)
        return min(self.max_images or 2**60, max(1, self.file.size // self.source.image_bytes))

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    @property
    def bytes_at_a_time(self) -> int:
        """Bytes of the largest file: one lies on the disk at a time."""
        return max(file.size for file in self.files)


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
    test_only: tuple[str, ...] = ()
    """Names of the sources that are for testing only, those that are missing among them."""
    match: bool = False
    """Whether images are left out until the classes' files agree: a matter of the join, not of the shards."""
    licences: dict[str, str] = field(default_factory=dict)
    """By source of the Hub its licence, as its card states it; "" where that is not known."""


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
    test_only = sorted(source.name for source in chosen if isinstance(source, Source) and source.use == "testing")
    licences = {source.name: source.licence for source in chosen if isinstance(source, Source)}
    return Plan(
        tuple(shards), flags, missing, tuple(notes), form, "", tuple(test_only), match=config.match, licences=licences
    )


def plan_folder(data: Path, form: PreparedForm) -> tuple[str, Plan]:
    """The name of a folder's prepared set, which changes when folder or form do, and its plan."""
    layout = read_layout(data)
    listing = listing_hash(data, layout.records, f"{VERSION} {form} {NEAR_DUPLICATE_BITS} {SPLITTING}")
    shards = _folder_shards("", data, layout.records, form)
    name = data.resolve().name
    return f"{name}-{listing[:12]}", Plan(tuple(shards), notes=layout.notes, form=form, name=name)


def bytes_needed(shards: list[Shard], jobs: int) -> tuple[int, int]:
    """Estimated bytes on the disk: stored in the end, and of downloads at one time."""
    stored = sum(shard.images * shard.form.max_bytes for shard in shards)
    remote = [shard for shard in shards if isinstance(shard, RemoteShard)]
    stored += sum(kept_bytes(shard.source, shard.images) for shard in remote)
    sizes = sorted((shard.bytes_at_a_time for shard in remote), reverse=True)
    return stored, sum(sizes[:jobs])


def _plan_source(folder: Path, source: Source, before: Any, seed: int, retry_policy: RetryPolicy) -> dict[str, Any]:
    row = json.loads(json.dumps(asdict(source), default=sorted))
    row = {name: value for name, value in row.items() if name not in _WORDS}
    if before:
        # A plan of an older MAI lacks the fields that came since: it was made as their defaults say.
        _same_as_planned(folder, source.name, _defaults() | before["row"], row)
        return before  # type: ignore[no-any-return]
    from mai_app.data.hub import list_files  # noqa: PLC0415 - a folder needs no Hub

    patterns = source.files + ((source.flags.file,) if source.flags else ())
    commit, files = list_files(source.repository, source.revision, patterns, retry_policy)
    table = [file for file in files if source.flags and file.path == source.flags.file]
    images = [file for file in files if file not in table]
    if source.files == OWN_IMAGES:
        # A data set that has both has the same images in both.
        images = [file for file in images if file.path.endswith(".zip")] or images
    if not images:
        raise SourceError(f"{source.repository}: holds no file named {' or '.join(source.files)}")
    taken = [asdict(file) for file in _drawn_files(images, source, seed)]
    return {"row": row, "commit": commit, "files": taken, "flags": asdict(table[0]) if table else None}


def _drawn_files(files: list[RemoteFile], source: Source, seed: int) -> list[RemoteFile]:
    """The files to fetch, in their order: as many as the row says, of no more bytes than it allows."""
    max_count = source.parts
    if source.cap is not None and all(_container(file.path) == "file" for file in files):  # each is an image
        max_count = min(max_count or source.cap, source.cap)
    if source.max_fetch is None:
        drawn = draw((file.path for file in files), max_count, seed)
        return [file for file in files if file.path in drawn]
    taken: list[RemoteFile] = []
    for file in _spread(files, seed):
        if len(taken) == max_count or sum(other.size for other in taken) + file.size > source.max_fetch:
            break
        taken.append(file)
    if not taken:
        raise SourceError(
            f"{source.repository}: its files have {files[0].size / 10**9:.1f} GB each, more than may be fetched of "
            f"it ({source.max_fetch / 10**9:.1f} GB); raise --fetch-gb"
        )
    return sorted(taken, key=lambda file: file.path)


def _spread(files: list[RemoteFile], seed: int) -> Iterator[RemoteFile]:
    """The files from a place that the seed draws, in an order whose every beginning is spread evenly over the listing.

    Files are often sorted by class or generator: the first ones, or those of a plain draw, would favour some.
    """
    place = int.from_bytes(hashlib.sha256(f"{seed}".encode()).digest()[:6], "big") / 2**48
    left = dict(enumerate(files))
    while left:
        number = int(place * len(files))
        if number in left:
            yield left.pop(number)
        place = (place + _GOLDEN) % 1


def _defaults() -> dict[str, Any]:
    """The fields of a source that have a default, as plan.json holds them."""
    known = {field.name: field.default for field in fields(Source) if field.default is not MISSING}
    found: dict[str, Any] = json.loads(json.dumps(known, default=sorted))
    return {name: value for name, value in found.items() if name not in _WORDS}


def _container(path: str) -> Container:
    """What a remote file is, by its name."""
    name = path.lower()
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    return "file" if has_image_name(name) and not name.endswith(".zip") else "zip"


def _remote_shards(source: Source, entry: dict[str, Any], form: PreparedForm) -> Iterator[Any]:
    """A shard a file, and at last that of the table of images to leave out, or None."""
    files = [RemoteFile(**file) for file in entry["files"]]
    for number, (file, *more) in enumerate(_by_shard(files)):
        of_kind = replace(source, container=_container(file.path))
        # Of a file that is an image the cap is kept in choosing the files.
        max_images = None if of_kind.container == "file" else _share(source.cap, number, len(files))
        if max_images == 0:
            continue
        max_per_generator = _share(source.cap_per_generator, number, len(files))
        name = f"{source.name}--{number:05}-{slug(file.path)}"
        yield RemoteShard(name, of_kind, entry["commit"], file, max_images, form, max_per_generator, tuple(more))
    table = entry["flags"]
    yield RemoteShard(source.name, source, entry["commit"], RemoteFile(**table), None) if table else None


def _by_shard(files: list[RemoteFile]) -> Iterator[list[RemoteFile]]:
    """An archive or table alone, images many at a time."""
    images = [file for file in files if _container(file.path) == "file"]
    yield from ([file] for file in files if _container(file.path) != "file")
    for start in range(0, len(images), FILES_PER_FETCH):
        yield images[start : start + FILES_PER_FETCH]


def _share(cap: int | None, number: int, count: int) -> int | None:
    """What one of so many files gives of a cap: even shares; the first files take what is left over.

    A higher cap takes no less of any file.
    """
    return None if cap is None else cap // count + (number < cap % count)


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


def _same_as_planned(folder: Path, what: str, before: Any, now: Any) -> None:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        changes = describe_changes(before, {key: now.get(key) for key in sorted(before.keys() | now.keys())})
    else:
        changes = f"{before} → {now}"
    raise DataError(f"{folder}: was planned with another {what} ({changes}); choose another --name")
