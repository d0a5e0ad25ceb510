"""Make a prepared set from a folder or the Hub: one shard per remote file, or per thousand local ones, then the join.

A finished shard is skipped, an interrupted one starts over, and the set is complete when its prepared.json is there.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mai_app.config import FORM, SPLITTING, PrepareConfig, PreparedForm, Splitting
from mai_app.core.files import locked, write_text
from mai_app.core.log import bar, say, stop_signals
from mai_app.core.parallel import ordered_map
from mai_app.data.catalogue import set_name
from mai_app.data.layout import PAIR, Record
from mai_app.data.plan import FolderShard, Plan, RemoteShard, Shard, bytes_needed, make_plan, plan_folder
from mai_app.data.prepared import PreparedSet, find_prepared, open_prepared
from mai_app.data.selection import Quota
from mai_app.data.shards import VERSION, Item, join_shards, write_shard
from mai_app.data.source_row import RemoteFile, RetryPolicy
from mai_app.errors import DataError, ImageError, SourceError


def prepare(data: Path, prepared: Path, workers: int = 2, form: PreparedForm = FORM) -> PreparedSet:
    """The prepared set of a data set's folder, made below `prepared` unless it is there; a prepared set as it is.

    A prepared set may be named by its name alone; it keeps the form that it has. Its name carries a hash of the form
    and of the files' names, sizes and times, so that a changed folder is prepared again.

    Raises DataError for a folder that can't be prepared, KeyboardInterrupt for SIGINT or SIGTERM.
    """
    if found := find_prepared(data, prepared):
        return open_prepared(found)
    name, plan = plan_folder(data, form)
    for note in plan.notes:
        say(note)
    folder = prepared / name
    with _full_disk_as_error(folder), locked(folder, wait=True):
        if not (folder / "prepared.json").is_file():
            write_text(folder / "plan.json", json.dumps({"version": VERSION, "folder": str(data.resolve())}) + "\n")
            _make(folder, plan, SPLITTING, 1, workers, RetryPolicy())
    return open_prepared(folder)


RunElsewhere = Callable[[list[Shard]], Iterator[tuple[Shard, SourceError | None]]]
"""Makes shards elsewhere, in any order: each as it is done, with what was wrong with it."""


def prepare_sources(
    config: PrepareConfig, retry_policy: RetryPolicy | None = None, run_elsewhere: RunElsewhere | None = None
) -> PreparedSet:
    """The prepared set that the command line describes, below config.prepared; carried on where it was stopped.

    With `run_elsewhere` other machines make the shards and write into the same folder; without it this one does,
    config.jobs at a time. What is unavailable is listed in its facts under "missing". Raises DataError for
    what can't be made at all, KeyboardInterrupt for SIGINT or SIGTERM.
    """
    retry_policy = retry_policy or RetryPolicy(config.retry_seconds)
    folder = config.prepared / set_name(config)
    try:
        # Between machines a lock is of no use, and its open file would keep their folder from being brought up to date.
        lock = nullcontext() if run_elsewhere else locked(folder, wait=False)
        with _full_disk_as_error(folder), lock:
            plan = make_plan(config, folder, retry_policy)
            for reason in plan.missing.values():
                say(f"left out: {reason}")
            for note in plan.notes:
                say(note)
            todo = _missing_shards(plan, folder)
            _check_disk(folder, todo, config.jobs, bool(run_elsewhere))
            if todo or plan.missing or not _is_joined(folder, plan):
                required = frozenset(config.require)
                _make(folder, plan, Splitting(seed=config.seed), config.jobs, 2, retry_policy, required, run_elsewhere)
    except BlockingIOError:
        raise DataError(f"{folder}: another process prepares it at this moment; choose another --name") from None
    return open_prepared(folder)


def prepare_shard(
    shard: Shard,
    folder: Path,
    downloads: Path,
    splitting: Splitting,
    retry_policy: RetryPolicy | None = None,
    on_bytes: Callable[[int], None] = lambda _bytes: None,
    on_image: Callable[[], None] = lambda: None,
    workers: int = 2,
) -> None:
    """Make one shard below folder/units, unless it is there: fetch its file, store its images, delete the file.

    Images that the source's own table says to leave out are left out if their names are in the folder already.
    Raises SourceError for a file that is unavailable or can't be read, and whatever the two callbacks raise.
    """
    shard_folder = _shard_folder(shard, folder)
    if shard_folder.is_dir():
        return
    if isinstance(shard, FolderShard):
        write_shard(shard_folder, _folder_items(shard), splitting, False, on_image, workers, shard.form)
        return
    from mai_app.data.hub import download  # noqa: PLC0415 - a folder needs no Hub

    fetched, policy = downloads / shard.name, retry_policy or RetryPolicy()
    try:
        names = _names(shard.source.name, folder)
        excluded = frozenset(names.read_text(encoding="utf-8").splitlines() if names.exists() else ())
        quota = Quota(splitting.seed, shard.max_images, shard.max_per_generator, excluded)

        def fetch(file: RemoteFile) -> Path:
            return download(shard.source.repository, file, shard.commit, fetched, policy, on_bytes)

        # An archive is there before anything is stored; of images each is fetched when it is its turn.
        first = fetch(shard.file)
        paths = chain([(shard.file, first)], ((file, fetch(file)) for file in shard.more))
        items = chain.from_iterable(_remote_items(shard, file, path, quota) for file, path in paths)
        write_shard(shard_folder, items, splitting, True, on_image, workers, shard.form)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _make(
    folder: Path,
    plan: Plan,
    splitting: Splitting,
    jobs: int,
    workers: int,
    retry_policy: RetryPolicy,
    required: frozenset[str] = frozenset(),
    run_elsewhere: RunElsewhere | None = None,
) -> None:
    """Make the missing shards, and join all of them."""
    downloads = folder / "downloads"
    _remove_leftovers(folder, downloads)
    todo = _missing_shards(plan, folder)
    remote = _bytes_to_fetch(plan, todo, folder)
    fetched = bar(total=remote, desc="fetching", unit="B", unit_scale=True, disable=None if remote else True)
    # Of remote files the number of images is an estimate until they are read.
    stored = bar(total=sum(shard.images for shard in todo), desc="preparing", unit="image")
    failed: dict[str, str] = {}

    with stop_signals() as stopped, fetched, stored:
        add_bytes, add_images = _advance(fetched, stopped), _advance(stored, stopped)

        def work(shard: Shard) -> None:
            count = 0

            def on_image() -> None:
                nonlocal count
                count += 1
                add_images(1)

            if _source_name(shard) not in failed:
                try:
                    prepare_shard(shard, folder, downloads, splitting, retry_policy, add_bytes, on_image, workers)
                except SourceError as error:
                    failed.update(_failure(shard.name, _source_name(shard), error, required))
            stored.total = (stored.total or 0) + count - shard.images

        try:
            for name, table in plan.flags.items():
                try:
                    _fetch_names(table, folder, downloads, retry_policy, add_bytes)
                except SourceError as error:
                    # Images that the table marks could not be left out.
                    failed.update(_failure(name, name, SourceError(f"{name} as a whole: {error}", True), required))
            if run_elsewhere:
                # A source whose table is unavailable is skipped: images that it marks could not be excluded.
                for shard, reason in run_elsewhere([s for s in todo if _source_name(s) not in failed]):
                    if reason:
                        failed.update(_failure(shard.name, _source_name(shard), reason, required))
                    add_images(shard.images)
            else:
                for _ in ordered_map(work, todo, jobs, ahead=jobs - 1):
                    pass
        finally:
            shutil.rmtree(downloads, ignore_errors=True)
    missing = plan.missing | dict(sorted(failed.items()))
    join_shards(folder, missing, plan.notes, splitting, plan.form, plan.name, plan.test_only, plan.match, plan.licences)


def _advance(progress: "tqdm[Any]", stopped: Callable[[], bool]) -> Callable[[int], None]:
    """A function that advances a progress bar; it raises KeyboardInterrupt once a stop signal has come."""

    def advance(count: int) -> None:
        progress.update(count)
        if stopped():
            raise KeyboardInterrupt

    return advance


def _failure(shard: str, source: str, error: SourceError, required: frozenset[str]) -> dict[str, str]:
    """The reason by the name of what failed, the shard or its whole source; raises SourceError if it is required."""
    if source in required or "all" in required:
        raise SourceError(f"{error}; {source} is --require'd, so the set was not made") from None
    say(f"left out: {error}")
    return {source if error.whole else shard: str(error)}


def _remove_leftovers(folder: Path, downloads: Path) -> None:
    """Delete what a process that was killed left behind."""
    shutil.rmtree(downloads, ignore_errors=True)
    for leftover in (*folder.glob(".*.tmp"), *(folder / "left-out").glob(".*.tmp")):
        leftover.unlink()


def _missing_shards(plan: Plan, folder: Path) -> list[Shard]:
    return [shard for shard in plan.shards if not _shard_folder(shard, folder).is_dir()]


def _is_joined(folder: Path, plan: Plan) -> bool:
    """Whether the set is complete, and matched or not as it is asked for now."""
    try:
        facts = json.loads((folder / "prepared.json").read_text())
        return bool(facts.get("match")) == plan.match
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError):
        return True  # damaged: whoever opens it says what to do


def _shard_folder(shard: Shard, folder: Path) -> Path:
    return folder / "units" / shard.name  # this folder's name is kept for sets that exist


def _bytes_to_fetch(plan: Plan, shards: list[Shard], folder: Path) -> int:
    tables = [table for table in plan.flags.values() if not _names(table.name, folder).exists()]
    return sum(shard.bytes_to_fetch for shard in (*shards, *tables) if isinstance(shard, RemoteShard))


def _source_name(shard: Shard) -> str:
    return shard.source.name if isinstance(shard, RemoteShard) else ""


def _names(source: str, folder: Path) -> Path:
    """File with the names of the images that a source's own table excludes."""
    return folder / "left-out" / f"{source}.txt"


def _fetch_names(
    table: RemoteShard, folder: Path, downloads: Path, retry_policy: RetryPolicy, on_bytes: Callable[[int], None]
) -> None:
    """Store the names of the images that a source's own table excludes; the table is fetched once."""
    from mai_app.data.hub import download  # noqa: PLC0415
    from mai_app.data.tables import read_flags  # noqa: PLC0415

    names = _names(table.name, folder)
    if not names.exists() and table.source.flags:
        fetched = downloads / f"table-{table.name}"
        try:
            path = download(table.source.repository, table.file, table.commit, fetched, retry_policy, on_bytes)
            write_text(names, "".join(f"{name}\n" for name in read_flags(path, table.source.flags)))
        finally:
            shutil.rmtree(fetched, ignore_errors=True)


def _folder_items(shard: FolderShard) -> Iterator[Item]:
    for record in shard.records:
        yield Item(replace(record, file=f"{shard.prefix}{record.file}"), shard.root / record.file)


def _remote_items(shard: RemoteShard, file: RemoteFile, path: Path, quota: Quota) -> Iterator[Item]:
    """The images of one file of a shard; a file that is an image is deleted when it is read."""
    from mai_app.data.archives import read_members  # noqa: PLC0415

    source = shard.source
    for member in read_members(path, source, quota):
        name = "/".join(filter(None, (source.repository, file.path, member.name)))
        choice, content = member.choice, member.content
        # A hash: prompts may be private. Authentic and synthetic images of one prompt were paired on purpose.
        hashed = hashlib.sha256(choice.group_key.encode()).hexdigest()[:16]
        pair = PAIR if source.label is None else ""
        group_key = f"{pair}{source.tie or 'row'}:{hashed}" if choice.group_key else ""
        split = "test" if source.use == "testing" else ""
        kind = "" if source.label is None and choice.label else source.kind
        record = Record(name, choice.label, split, source.name, choice.generator, kind, group_key)
        yield Item(record, ImageError(name, content.reason) if isinstance(content, ImageError) else content)
    if source.container == "file":
        path.unlink(missing_ok=True)


def _check_disk(folder: Path, todo: list[Shard], jobs: int, shared: bool) -> None:
    """Say what the missing shards need, and raise DataError where less is free.

    A folder that several machines share need not tell what is free there; each has a disk of its own for downloads.
    """
    stored, fetched = bytes_needed(todo, jobs)
    if shared:
        each = bytes_needed(todo, 1)[1]
        if todo:
            say(
                f"{folder}: needs about {_gb(stored)}; what is free there is not known here. Each machine downloads "
                f"{_gb(each)} at most to its own disk"
            )
        return
    free = shutil.disk_usage(folder).free
    if todo:
        say(f"{folder}: needs about {_gb(stored)} and, on the way, {_gb(fetched)} for downloads; {_gb(free)} are free")
    if stored + fetched > free:
        raise DataError(
            f"{folder}: needs about {_gb(stored + fetched)}, and {_gb(free)} are free; choose fewer --parts, a smaller "
            f"--cap, or another --prepared"
        )


@contextmanager
def _full_disk_as_error(folder: Path) -> Iterator[None]:
    """Raise DataError, with the folder and what to do, when the disk is full or over quota."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{folder}: the disk is full; free some space, the same command carries on") from None
        raise


def _gb(count: int) -> str:
    return f"{count / 10**9:.2f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"
