"""Which models can be named with --model: the runs and those that come with MAI, told from their files' headers."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors

from mai_app.config import SHIPPED
from mai_app.core.display import show_name, show_percent
from mai_app.errors import CheckpointError
from mai_app.models.shipped import shipped_models, trained_runs


@dataclass(frozen=True)
class Listed:
    """A model that can be named, as far as its file tells without loading it; what it does not tell is None."""

    name: str
    """What to say after --model."""
    kind: Literal["run", "shipped"]
    path: str
    """The checkpoint's file."""
    bytes: int | None
    version: str | None
    """Names weights and calibration: the first 12 digits of the file's SHA-256."""
    default: bool
    """Whether it is the one that is used where none is named."""
    model: str | None = None
    """Name of the network."""
    trained_on: str | None = None
    """Name of the data set."""
    epoch: int | None = None
    """Epochs of training behind the weights."""
    worst_tier: str | None = None
    """The tier with the most false positives, on the images that it was calibrated on; None without `mai calibrate`."""
    worst_fpr: float | None = None
    """Share of the authentic images called synthetic in that tier."""
    error: str | None = None
    """Why the file can't be used."""


def list_models(runs: Path) -> list[Listed]:
    """All models that --model knows by name, the shipped ones first and the run trained last at the end.

    A file that can't be read is a row with its error. torch is not needed: the weights are hashed and not loaded.
    """
    there, come_with = trained_runs(runs), shipped_models()
    default = list(there)[-1] if there else SHIPPED
    # A run goes before a shipped model of its name, which then has none to be asked for by.
    rows = [_listed(name, "shipped", path, name == default) for name, path in come_with.items() if name not in there]
    return rows + [_listed(name, "run", path, name == default) for name, path in there.items()]


def table(models: Iterable[Listed], runs: Path) -> str:
    """A line a model, the one that is used where none is named marked."""
    rows: list[tuple[str, ...]] = [
        ("  name", "kind", "network", "version", "trained on", "size", "epoch", "FPR, worst tier")
    ]
    errors = {}
    for number, model in enumerate(models, 1):
        size = "–" if model.bytes is None else f"{model.bytes / 1e6:.1f} MB"
        fpr = "–" if model.worst_tier is None else f"{show_percent(model.worst_fpr)}, {model.worst_tier}"
        facts = (model.model, model.version, model.trained_on, size, model.epoch, fpr)
        mark = "* " if model.default else "  "
        rows.append((f"{mark}{show_name(model.name)}", model.kind, *("–" if f is None else str(f) for f in facts)))
        if model.error is not None:
            errors[number] = show_name(f"    {model.name}: {model.error}")
    if len(rows) == 1:
        return f"no model comes with this MAI, and none is in {runs}/; train one with `mai train`"
    rows = [tuple(map(show_name, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [errors[number]] if number in errors else []
    lines.append(
        "* is used where no --model is named; FPR: on the images that `mai calibrate` fitted it on, – not calibrated so"
    )
    return "\n".join(lines)


def _listed(name: str, kind: Literal["run", "shipped"], path: Path, default: bool) -> Listed:
    size = version = None
    try:
        with path.open("rb") as stream:
            version = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
        size = path.stat().st_size
        facts = _description(path)
        rates = {tier: float(rate["fpr"]) for tier, rate in facts["calibration"].get("tiers", {}).items()}
        worst = max(rates, key=lambda tier: rates[tier], default=None)
        return Listed(
            name=name,
            kind=kind,
            path=str(path),
            bytes=size,
            version=version,
            default=default,
            model=str(facts["model"]),
            trained_on=str(facts["data"]),
            epoch=int(facts["epoch"]),
            worst_tier=worst,
            worst_fpr=None if worst is None else rates[worst],
        )
    except CheckpointError as error:
        reason = str(error)
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"its description is damaged ({error})"
    return Listed(name, kind, str(path), size, version, default, error=reason)


def _description(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself, unchecked; raises CheckpointError, with the reason alone, if it is none."""
    try:
        with safetensors.safe_open(path, "np") as opened:
            document = (opened.metadata() or {}).get("mai")
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"truncated, or no safetensors file ({error})") from None
    if document is None:
        raise CheckpointError("holds weights, but not MAI's")
    facts: dict[str, Any] = json.loads(document)
    return facts
