"""Models on the Hugging Face Hub: names of the form hf:owner/name[@revision], downloaded once and cached.

The Hub's own client does the work, and reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE by itself; it is
imported where such a name is used, and nowhere else. A single file is fetched, a safetensors file: nothing of a
repository is run, and nothing is unpickled.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mai_app.errors import CheckpointError

PREFIX: Final = "hf:"
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{PREFIX}({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")
_CACHED: Final = re.compile(rf"models--({_PART})--({_PART})")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A model on the Hub."""

    repository: str
    """owner/name."""
    revision: str = ""
    """Branch, tag or commit; empty: the branch main."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: str) -> bool:
    """Whether a name is meant as one of a model on the Hub."""
    return name.startswith(PREFIX)


def parse_name(name: str) -> HubName:
    """The model that hf:owner/name[@revision] names; raises CheckpointError for a name of another form."""
    found = _NAME.fullmatch(name)
    # The Hub has no repository with -- or .. in its name; the cache counts on the first.
    if not found or "--" in found[1] or ".." in name:
        raise CheckpointError(
            f"{name}: is no name of a model on the Hub; write {PREFIX}owner/name, or {PREFIX}owner/name@revision with "
            f"a branch, a tag or a whole commit"
        )
    return HubName(found[1], found[2] or "")


def cached_name(path: Path) -> HubName | None:
    """Which repository and commit a file in the Hub client's cache is of; None for any other file."""
    commit, snapshots, repository = [parent.name for parent in (*path.absolute().parents, *3 * [Path()])][:3]
    found = _CACHED.fullmatch(repository)
    if not found or snapshots != "snapshots" or not _COMMIT.fullmatch(commit):
        return None
    return HubName(f"{found[1]}/{found[2]}", commit)


def show_path(path: Path) -> str:
    """A checkpoint's file as error messages name it: of a downloaded one also the repository."""
    found = cached_name(path)
    return f"{PREFIX}{found.repository} ({path})" if found else str(path)


def download(name: HubName, file: str) -> Path:
    """Path of a model's file in the Hub client's cache, after downloading it where the cache has another or none.

    Without a network, and with HF_HUB_OFFLINE=1, it is the file that the cache has. Raises CheckpointError, one line
    that says what to do, where there is none.
    """
    import huggingface_hub  # noqa: PLC0415 - for these names alone
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # noqa: PLC0415

    # The client reports its own tries, with whole addresses.
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        path = huggingface_hub.hf_hub_download(
            name.repository, file, revision=name.revision or None, library_name="mai"
        )
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name}: {_reason(error, name, file)}") from None
    return Path(path)


def _reason(error: Exception, name: HubName, file: str) -> str:
    """Why a file can't be had, and what to do."""
    from huggingface_hub import constants, errors  # noqa: PLC0415

    if isinstance(error, errors.GatedRepoError):
        return "is not open to this account; ask for access on its page, and set HF_TOKEN to a token of the account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "the Hub has no such model, or it is private; check the name, or set HF_TOKEN to a token that may read it "
            "(`hf auth login` keeps one)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {name.revision}; name a branch, a tag or a whole commit, or leave out @{name.revision}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"holds no {file}, so it is no model of MAI; `mai push` makes such a repository"
    if constants.is_offline_mode():
        return "is not in the cache, and HF_HUB_OFFLINE is set; load it once without that, and it works offline"
    return (
        f"can't be downloaded ({describe(error)}); check the network, or try again later; once loaded, it works offline"
    )


def describe(error: Exception) -> str:
    """What the Hub's client met, in one line; addresses without their query, which may hold a signature."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    # The one is raised for any failure to ask for a file, where the cache has none.
    cause = error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError):
        return f"the Hub answers {cause.response.status_code}"
    lines = re.sub(r"\?\S+", "?…", str(cause)).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
