"""The folder of a run: the settings it was started with, the state to carry on from, and its epochs' figures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from mai_app import __version__
from mai_app.config import TrainConfig, from_recipe
from mai_app.core.files import write_text
from mai_app.errors import RunError

MAY_CHANGE: Final = (
    "data",
    "recipe",
    "name",
    "epochs",
    "device",
    "precision",
    "workers",
    "processes",
    "save_minutes",
    "runs",
    "prepared",
    "on",
    "detach",
)
"""Settings that may differ when a run is carried on: they do not shape the weights, or are checked otherwise."""


def settings(config: TrainConfig) -> dict[str, Any]:
    """What shapes the weights, by name."""
    return {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE} | {"epochs": config.epochs}


def check_settings(config: TrainConfig, run: Path, fingerprint: str, precision: str) -> None:
    """Write config.json, or hold the settings against the one that is there; raises RunError where they differ."""
    path = run / "config.json"
    new = settings(config) | {
        "data": str(config.data),
        "data_fingerprint": fingerprint,
        "precision": precision,
    }
    if path.exists():
        try:
            # A setting that the run's MAI did not have yet was as the first MAI did it.
            old = settings(from_recipe("baseline", config.data)) | json.loads(path.read_text())
        except (ValueError, TypeError) as error:  # TypeError: JSON, but no settings
            raise RunError(f"{path}: is damaged ({error}); choose another --name") from None
        if old.get("data_fingerprint") != fingerprint:
            raise RunError(f"{run}: was started on other data than {config.data} holds now; choose another --name")
        fixed = [n for n in settings(config) if n != "epochs" or config.optimizer == "adamw"]
        changed = [f"{n} {old.get(n)} → {new[n]}" for n in fixed if old.get(n) != new[n]]
        if changed:
            raise RunError(f"{run}: was started with other settings ({'; '.join(changed)}); choose another --name")
    write_text(path, json.dumps(new | {"mai_version": __version__}, indent=2) + "\n")


def load_state(path: Path) -> dict[str, Any] | None:
    """What was saved there; None where nothing was. Raises RunError for a damaged file."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise RunError(f"{path}: is damaged ({type(error).__name__}); choose another --name") from None
    return state


def keep_metrics(path: Path, before: int) -> None:
    """Cut off what a killed run wrote after its last save: those epochs come again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["epoch"] >= before:
            break
        kept.append(line)
    write_text(path, "".join(kept))
