"""Hugging Face Hub client: list a data set's files, and download them completely or not at all, with retries.

Everything goes through the Hub's own client, which reads HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE by itself. Addresses
are cut at the question mark before they are shown: behind it a signature may stand.
"""

import errno
import fnmatch
import hashlib
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import huggingface_hub
import tqdm
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from mai_app.data.source_row import RemoteFile, RetryPolicy
from mai_app.errors import DataError, SourceError

TRIES: Final = 6
LONGEST_PAUSE: Final = 300.0  # seconds
_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


def list_files(
    repository: str, revision: str, patterns: tuple[str, ...], retry_policy: RetryPolicy
) -> tuple[str, list[RemoteFile]]:
    """The commit that a revision stands for, and its files that match a pattern, ordered by path.

    Raises SourceError where the data set is gone, closed, or has none of the files.
    """
    api = huggingface_hub.HfApi(library_name="mai")
    named = f"{repository}@{revision}"

    def ask() -> tuple[str, list[RemoteFile]]:
        commit = str(api.dataset_info(repository, revision=revision).sha)
        # A folder at a time: one of the six sets has 16,000 files, of which a folder is needed.
        found = {}
        for folder in sorted({_folder(pattern) for pattern in patterns}):
            listing = api.list_repo_tree(
                repository,
                folder or None,
                recursive=any("**" in p or _folder(p) != _parent(p) for p in patterns if _folder(p) == folder),
                revision=commit,
                repo_type="dataset",
            )
            for entry in listing:
                if isinstance(entry, huggingface_hub.RepoFile) and _matches(entry.path, patterns):
                    sha256 = entry.lfs.sha256 if entry.lfs else None
                    found[entry.path] = RemoteFile(entry.path, entry.size, sha256)
        return commit, [found[path] for path in sorted(found)]

    commit, files = _with_retries(ask, named, retry_policy)
    if not files:
        raise SourceError(f"{named}: holds no file named {' or '.join(patterns)}")
    return commit, files


def download(
    repository: str,
    file: RemoteFile,
    commit: str,
    folder: Path,
    retry_policy: RetryPolicy,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Path:
    """Download a file into a folder, or take it from the client's cache; returns its path, size and SHA-256 checked.

    `progress` gets the number of bytes as they come, a negative one where some come again; what it raises ends the
    download. Raises SourceError where the file is unavailable, DataError where the disk is full.
    """
    name = f"{repository}/{file.path}"
    cached = huggingface_hub.try_to_load_from_cache(repository, file.path, revision=commit, repo_type="dataset")
    if isinstance(cached, str) and _is_whole(Path(cached), file):
        progress(file.size)
        return Path(cached)
    reported = 0
    spoilt = False

    class ForwardedProgress(tqdm.tqdm):  # type: ignore[type-arg]
        """The client's progress bar: shows nothing, and passes the byte counts on."""

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            nonlocal reported
            reported += int(n or 0)
            progress(int(n or 0))

    def fetch() -> Path:
        nonlocal reported, spoilt
        progress(-reported)
        reported = 0
        path = Path(
            huggingface_hub.hf_hub_download(
                repository,
                file.path,
                repo_type="dataset",
                revision=commit,
                local_dir=folder,
                # Else the client would take a damaged file out of its own cache again and again.
                force_download=spoilt,
                library_name="mai",
                tqdm_class=ForwardedProgress,
            )
        )
        if not _is_whole(path, file):
            path.unlink()
            spoilt = True
            raise _NotWholeError
        return path

    return _with_retries(fetch, name, retry_policy)


class _NotWholeError(Exception):
    def __str__(self) -> str:
        return "what came is not the file that the Hub lists: another length or SHA-256"


def _with_retries(action: Callable[[], Result], name: str, retry_policy: RetryPolicy) -> Result:
    """The action's result; transient failures are retried, permanent ones raise SourceError at once."""
    # The client reports its own tries with whole addresses.
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    pause = retry_policy.first_pause
    for left in reversed(range(TRIES)):
        try:
            return action()
        except (httpx.HTTPError, OSError, _NotWholeError) as error:
            reason, again, wait = _classify_error(error)
            if not again or not left:
                tries = f" ({TRIES} tries)" if again else ""
                # One file that is missing or damaged says nothing of the others.
                whole = isinstance(error, (httpx.HTTPError, LocalEntryNotFoundError))
                whole &= not isinstance(error, RemoteEntryNotFoundError)
                raise SourceError(f"{name}: {reason}{tries}", whole) from None
        retry_policy.sleep(min(wait if wait is not None else pause, LONGEST_PAUSE))
        pause *= 2
    raise AssertionError("unreachable")


def _classify_error(error: Exception) -> tuple[str, bool, float | None]:
    """The reason as text, whether to retry, and the delay in seconds that the server asks for."""
    if isinstance(error, LocalEntryNotFoundError):
        # What the client makes of any failure to ask for a file's head.
        cause = error.__cause__
        if isinstance(cause, (httpx.HTTPError, OSError)):
            return _classify_error(cause)
    if isinstance(error, OfflineModeIsEnabled) or huggingface_hub.constants.is_offline_mode():
        return "not fetched yet, and HF_HUB_OFFLINE is set", False, None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DataError(
            f"the disk is full ({error.filename or 'downloads'}); free some space, the same command carries on"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if isinstance(error, EntryNotFoundError):
            return "the Hub has no such file (404)", False, None
        words = {
            401: "gone, or not for everyone: log in or set HF_TOKEN (401)",
            403: "not for this account: ask for access on its page, set HF_TOKEN (403)",
            404: "the Hub has no such data set or revision (404)",
        }.get(status, f"the Hub answers {status}")
        seconds = error.response.headers.get("Retry-After", "")
        return words, status in _AGAIN, float(seconds) if seconds.isdecimal() else None
    if str(error).startswith("Consistency check failed"):  # how the client puts it that the length is wrong
        return str(_NotWholeError()), True, None
    text = re.sub(r"\?\S+", "?…", str(error)).strip() or type(error).__name__
    # An OSError with a number is this machine's: no permission, no such folder.
    local = isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)
    return text.splitlines()[0], not local, None


def _is_whole(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is None:
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _folder(pattern: str) -> str:
    """The folder in which a pattern's files lie: what stands before its first wildcard's component."""
    fixed = []
    for part in PurePosixPath(_parent(pattern)).parts:
        if any(sign in part for sign in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed)


def _parent(pattern: str) -> str:
    return "/".join(PurePosixPath(pattern).parts[:-1])


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
