"""From a folder or the Hub to a prepared set: each remote file, or thousand local ones, a unit of work; then the join.

A finished unit is skipped, an interrupted one starts over, and the set is complete when its prepared.json is there.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mai_app.config import SPLITTING, PrepareConfig, Splitting
from mai_app.core.files import locked, replacing, write_text
from mai_app.core.log import bar, say
from mai_app.core.parallel import ordered_map
from mai_app.core.signals import stop_signals
from mai_app.data.archives import read_flags, read_members
from mai_app.data.dedup import assign_splits, group_images
from mai_app.data.hub import Patience, download
from mai_app.data.layout import Record
from mai_app.data.plan import FolderUnit, Plan, RemoteUnit, Unit, bytes_needed, make_plan, plan_folder
from mai_app.data.prepared import MANIFEST, VERSION, PreparedSet, find_prepared, open_prepared, read_table
from mai_app.data.shards import COLUMNS, Item, write_unit
from mai_app.errors import DataError, ImageError, SourceError


def prepare(data: Path, prepared: Path, workers: int = 2) -> PreparedSet:
    """The prepared set of a data set's folder, made below `prepared` unless it is there; a prepared set as it is.

    A prepared set may be named by its name alone.

    Its name carries a hash of the files' names, sizes and times, so that a changed folder is prepared anew. Raises
    DataError for a folder that can't serve, KeyboardInterrupt for SIGINT or SIGTERM.
    """
    if found := find_prepared(data, prepared):
        return open_prepared(found)
    name, units = plan_folder(data)
    folder = prepared / name
    with _full_disk_said(folder), locked(folder, wait=True):
        if not (folder / "prepared.json").is_file():
            write_text(folder / "plan.json", json.dumps({"version": VERSION, "folder": str(data)}) + "\n")
            _make(folder, Plan(tuple(units)), SPLITTING, 1, workers, Patience())
    return open_prepared(folder)


Spread = Callable[[list[Unit]], Iterator[tuple[Unit, SourceError | None]]]
"""Makes units elsewhere, in any order: each as it is done, with what was wrong with it."""


def prepare_sources(
    config: PrepareConfig, patience: Patience | None = None, spread: Spread | None = None
) -> PreparedSet:
    """The prepared set that the command line describes, below config.prepared; carried on where it was stopped.

    With `spread` the units are made by other machines that write into the same folder; without it, here, config.jobs
    at a time. What could not be had is listed in its facts under "missing". Raises DataError for what can't be made
    at all, KeyboardInterrupt for SIGINT or SIGTERM.
    """
    patience = patience or Patience(config.retry_seconds)
    folder = config.prepared / config.name
    try:
        # Between machines a lock is of no use, and its open file would keep their folder from being brought up to date.
        lock = nullcontext() if spread else locked(folder, wait=False)
        with _full_disk_said(folder), lock:
            plan = make_plan(config, folder, patience)
            for reason in plan.missing.values():
                say(f"left out: {reason}")
            todo = [unit for unit in plan.units if not (folder / "units" / unit.name).is_dir()]
            _check_disk(folder, todo, config.jobs)
            if todo or plan.missing or not (folder / "prepared.json").is_file():
                required = frozenset(config.require)
                _make(folder, plan, Splitting(seed=config.seed), config.jobs, 2, patience, required, spread)
    except BlockingIOError:
        raise DataError(f"{folder}: another process prepares it at this moment; choose another --name") from None
    return open_prepared(folder)


def prepare_unit(
    unit: Unit,
    folder: Path,
    downloads: Path,
    splitting: Splitting,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda _bytes: None,
    on_image: Callable[[], None] = lambda: None,
    workers: int = 2,
) -> None:
    """Make one unit below folder/units, unless it is there: fetch its file, store its images, delete the file.

    Images that the source's own table says to leave out are left out if their names are in the folder already.

    Raises SourceError for a file that can't be had or read, and whatever the two callbacks raise.
    """
    place = folder / "units" / unit.name
    if place.is_dir():
        return
    if isinstance(unit, FolderUnit):
        write_unit(place, _folder_items(unit), splitting, False, on_image, workers)
        return
    fetched = downloads / unit.name
    try:
        path = download(unit.source.repository, unit.file, unit.commit, fetched, patience or Patience(), on_bytes)
        names = _names(unit.source.name, folder)
        left_out = frozenset(names.read_text(encoding="utf-8").splitlines() if names.exists() else ())
        write_unit(place, _remote_items(unit, path, splitting.seed, left_out), splitting, True, on_image, workers)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _make(
    folder: Path,
    plan: Plan,
    splitting: Splitting,
    jobs: int,
    workers: int,
    patience: Patience,
    required: frozenset[str] = frozenset(),
    spread: Spread | None = None,
) -> None:
    """Make the units that are not there yet, and join them all."""
    downloads = folder / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)
    for leftover in (*folder.glob(".*.tmp"), *(folder / "left-out").glob(".*.tmp")):
        leftover.unlink()  # of a process that was killed while it wrote
    todo = [unit for unit in plan.units if not (folder / "units" / unit.name).is_dir()]
    remote = sum(unit.file.size for unit in todo if isinstance(unit, RemoteUnit))
    remote += sum(table.file.size for table in plan.flags.values() if not _names(table.name, folder).exists())
    fetched = bar(total=remote, desc="fetching", unit="B", unit_scale=True, disable=None if remote else True)
    # Of remote files the number of images is an estimate until they are read.
    stored = bar(total=sum(unit.images for unit in todo), desc="preparing", unit="image")
    failed: dict[str, str] = {}

    with stop_signals() as stopped, fetched, stored:

        def on_bytes(count: int) -> None:
            fetched.update(count)
            if stopped():
                raise KeyboardInterrupt

        def on_image() -> None:
            stored.update()
            if stopped():
                raise KeyboardInterrupt

        def fail(name: str, source: str, error: SourceError) -> None:
            if source in required or "all" in required:
                raise SourceError(f"{error}; {source} is --require'd, so the set was not made") from None
            say(f"left out: {error}")
            failed[source if error.whole else name] = str(error)

        def source_of(unit: Unit) -> str:
            return unit.source.name if isinstance(unit, RemoteUnit) else ""

        def work(unit: Unit) -> None:
            source = source_of(unit)
            count = 0

            def counted() -> None:
                nonlocal count
                count += 1
                on_image()

            if source not in failed:
                try:
                    prepare_unit(unit, folder, downloads, splitting, patience, on_bytes, counted, workers)
                except SourceError as error:
                    fail(unit.name, source, error)
            stored.total = (stored.total or 0) + count - unit.images

        try:
            for name, table in plan.flags.items():
                try:
                    _fetch_names(table, folder, downloads, patience, on_bytes)
                except SourceError as error:
                    fail(name, name, error)
            if spread:
                # A source whose table can't be had is left: what the table marks could not be left out.
                for unit, reason in spread([u for u in todo if source_of(u) not in failed]):
                    if reason:
                        fail(unit.name, source_of(unit), reason)
                    stored.update(unit.images)
                    if stopped():
                        raise KeyboardInterrupt
            else:
                for _ in ordered_map(work, todo, jobs, ahead=jobs - 1):
                    pass
        finally:
            shutil.rmtree(downloads, ignore_errors=True)
    for note in plan.notes:
        say(note)
    _join(folder, plan.missing | dict(sorted(failed.items())), plan.notes, splitting)


def _names(source: str, folder: Path) -> Path:
    """Where the names are kept of the images that a source's own table says to leave out."""
    return folder / "left-out" / f"{source}.txt"


def _fetch_names(
    table: RemoteUnit, folder: Path, downloads: Path, patience: Patience, on_bytes: Callable[[int], None]
) -> None:
    """Write down the names of the images that a source's own table says to leave out; it is fetched once."""
    place = _names(table.name, folder)
    if not place.exists() and table.source.flags:
        fetched = downloads / f"table-{table.name}"
        try:
            path = download(table.source.repository, table.file, table.commit, fetched, patience, on_bytes)
            write_text(place, "".join(f"{name}\n" for name in read_flags(path, table.source.flags)))
        finally:
            shutil.rmtree(fetched, ignore_errors=True)


def _folder_items(unit: FolderUnit) -> Iterator[Item]:
    for record in unit.records:
        yield Item(replace(record, file=f"{unit.prefix}{record.file}"), unit.root / record.file)


def _remote_items(unit: RemoteUnit, path: Path, seed: int, left_out: frozenset[str]) -> Iterator[Item]:
    source = unit.source
    for member in read_members(path, source, unit.most, seed, left_out):
        file = f"{source.repository}/{unit.file.path}/{member.name}"
        # The prompt itself is nobody's business.
        tie = f"{source.tie}:{hashlib.sha256(member.tie.encode()).hexdigest()[:16]}" if member.tie else ""
        record = Record(file, source.label, "", source.name, source.generator, source.kind, tie)
        content = member.content
        yield Item(record, ImageError(file, content.reason) if isinstance(content, ImageError) else content)


def _join(folder: Path, missing: dict[str, str], notes: tuple[str, ...], splitting: Splitting) -> None:
    """Group and split what the units hold, and write the manifest; prepared.json comes last."""
    (folder / "prepared.json").unlink(missing_ok=True)
    names = sorted(path.name for path in (folder / "units").glob("[!.]*"))
    tables = []
    for name in names:
        table = read_table(folder / "units" / name / "index.csv", COLUMNS)
        tables.append(table.append_column("unit", pa.array([name] * table.num_rows, pa.string())))
    refused = []
    for name in names:
        refused += (folder / "units" / name / "refused.jsonl").read_text().splitlines(keepends=True)
    write_text(folder / "refused.jsonl", "".join(refused))
    _say_refused([json.loads(line) for line in refused[:10]], len(refused), folder)
    if not names or not sum(table.num_rows for table in tables):
        reasons = "; ".join(missing.values()) or f"{folder / 'refused.jsonl'} says why"
        raise DataError(f"{folder}: none of its {len(refused)} images can be decoded; {reasons}")

    table = pa.concat_tables(tables)
    sha256 = table["sha256"].to_numpy().astype("S64")  # a quarter of the memory of text
    ties = table["tie"].to_numpy().astype(str)
    hashes = np.array([int(text, 16) for text in table["phash"].to_pylist()], dtype=np.uint64)
    groups = group_images(sha256, hashes, ties)
    labels, given = table["label"].to_numpy(), table["given_split"].to_numpy().astype(str)
    splits, left_out = assign_splits(groups, labels, ties, given, splitting)
    columns = {"split": splits, "left_out": left_out, "group": groups}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    table = table.select(list(MANIFEST))
    for reason, count in zip(*np.unique(left_out[left_out != ""], return_counts=True), strict=True):
        say(f"left out: {count} images: {reason}")

    with replacing(folder / "manifest.csv") as stream:
        pyarrow.csv.write_csv(table, stream)
    facts = {
        "version": VERSION,
        "images": table.num_rows,
        "left_out": int((left_out != "").sum()),
        "refused": len(refused),
        "missing": missing,
        "notes": notes,
        "seed": splitting.seed,
        "units": {name: (folder / "units" / name / "pixels.u8").stat().st_size for name in names},
        "fingerprint": _fingerprint(table),
    }
    write_text(folder / "prepared.json", json.dumps(facts, indent=1) + "\n")


def _fingerprint(table: pa.Table) -> str:
    columns = ["sha256", "label", "split", "source"]
    digest = hashlib.sha256()
    for batch in table.select(columns).sort_by([(name, "ascending") for name in columns]).to_batches(10_000):
        for row in batch.to_pylist():
            digest.update(f"{list(row.values())}\n".encode() if row["split"] else b"")
    return digest.hexdigest()


def _say_refused(rows: list[dict[str, str]], count: int, folder: Path) -> None:
    for row in rows:
        say(f"left out: {row['file']}: {row['reason']}")
    if count > len(rows):
        say(f"left out: {count - len(rows)} more, listed in {folder / 'refused.jsonl'}")


def _check_disk(folder: Path, todo: list[Unit], jobs: int) -> None:
    stored, fetched = bytes_needed(todo, jobs)
    free = shutil.disk_usage(folder).free
    if todo:
        say(f"{folder}: needs about {_gb(stored)} and, on the way, {_gb(fetched)} for downloads; {_gb(free)} are free")
    if stored + fetched > free:
        raise DataError(
            f"{folder}: needs about {_gb(stored + fetched)}, and {_gb(free)} are free; choose fewer --parts, a smaller "
            f"--cap, or another --prepared"
        )


@contextmanager
def _full_disk_said(folder: Path) -> Iterator[None]:
    """Whatever is being written when the disk is full, down to plan and manifest: a DataError says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{folder}: the disk is full; free some space, the same command carries on") from None
        raise


def _gb(count: int) -> str:
    return f"{count / 10**9:.2f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"
