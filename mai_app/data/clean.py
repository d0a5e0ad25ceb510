"""Prepared sets that are no longer used: made of folders that are gone, have changed, or were uploaded anew since."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mai_app.config import PreparedForm
from mai_app.core.files import locked
from mai_app.data.contents import read_marker
from mai_app.data.plan import plan_folder
from mai_app.errors import DataError


@dataclass(frozen=True)
class Unused:
    """A prepared set that nothing would use again."""

    folder: Path
    bytes: int
    why: str


def unused_sets(prepared: Path) -> Iterator[Unused]:
    """The sets below a folder that a folder of images was prepared as, and would not be now.

    Sets of the Hub, those with a name of their own, and those of an older MAI, which noted relative paths, are
    never among them.
    """
    for folder in sorted(path for path in prepared.glob("*") if (path / "plan.json").is_file()):
        try:
            plan = json.loads((folder / "plan.json").read_text())
            data = Path(plan["folder"])
            form = json.loads((folder / "prepared.json").read_text())["form"]
            why = _why_unused(folder, data, PreparedForm(**form)) if data.is_absolute() else ""
        except (OSError, ValueError, KeyError, TypeError):  # not of a folder alone, unfinished, or damaged
            continue
        if why:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield Unused(folder, size, why)


def older_uploads(data: Path) -> list[str]:
    """Names of the complete uploads below a folder of which a newer one of the same folder is there."""
    found = [(marker["uploaded"], path.name) for path in data.glob("*@*") if (marker := read_marker(path))]
    newest = {name.rpartition("@")[0]: name for _, name in sorted(found)}
    return sorted(name for _, name in found if newest[name.rpartition("@")[0]] != name)


def remove_unused(prepared: Path) -> str:
    """Delete the prepared sets that are no longer used, and return what was deleted, for people."""
    lines, freed = [], 0
    for unused in unused_sets(prepared):
        try:
            with locked(unused.folder, wait=False):
                shutil.rmtree(unused.folder)
        except BlockingIOError:
            lines.append(f"{unused.folder}: kept, another process uses it")
            continue
        freed += unused.bytes
        lines.append(f"{unused.folder}: removed, {unused.bytes / 10**9:.2f} GB: {unused.why}")
    return "\n".join([*lines, f"{freed / 10**9:.2f} GB freed in {prepared}/"])


def _why_unused(folder: Path, data: Path, form: PreparedForm) -> str:
    """Why nothing would use the set again; empty if something would."""
    if not data.is_dir():
        return f"{data} is gone"
    if data.parent.name in older_uploads(data.parent.parent):
        return f"{data.name} was uploaded anew since"
    try:
        return "" if plan_folder(data, form)[0] == folder.name else f"{data} has changed since"
    except DataError as error:
        return f"it would not be prepared now: {error}"
