"""A training run's folder and state: checked settings, weights and optimizer, metrics, and how it resumes."""

import copy
import io
import json
import math
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mai_app import __version__
from mai_app.config import (
    IMAGE_SIZE,
    PREPARED_LONGEST,
    PREPARED_WINDOW,
    SMALLEST_CROP,
    Preprocessing,
    TrainConfig,
    from_recipe,
)
from mai_app.core.files import append_rows, describe_changes, resume_rows, write_bytes, write_text
from mai_app.data.prepared import PreparedSet
from mai_app.errors import RunError
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.description import training_flags
from mai_app.models.networks import MODELS
from mai_app.models.registry import find_checkpoint
from mai_app.training.distributed import Group

LAST: Final = "last.pt"
"""File of the state that a run resumes from, in its folder."""
METRICS: Final = "metrics.jsonl"
"""File of a run's metrics, one row per epoch, in its folder."""
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
"""Settings that may differ when a run is resumed: they do not shape the weights, or are checked otherwise."""


@dataclass(frozen=True)
class Run:
    """A training run's settings and images, the same in each of its processes."""

    config: TrainConfig
    folder: Path
    prepared: PreparedSet
    train_rows: npt.NDArray[np.int64]
    """Rows (n,) of the prepared set to train on."""
    val_rows: npt.NDArray[np.int64]
    """Rows (n,) to validate on."""
    precision: str
    """float32 or bfloat16; a run that is resumed keeps its own."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How validation and prediction see an image."""
        return Preprocessing(input=self.config.input, longest=self.config.longest)


@dataclass
class TrainingState:
    """All that changes while a run trains."""

    network: nn.Module
    averaged: nn.Module
    """The moving average (EMA) of the network, which is validated and saved; without --ema the network itself."""
    optimizer: torch.optim.Optimizer
    precision: str
    """float32 or bfloat16."""
    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps of the current epoch that are done."""
    loss_sum: float = 0.0
    """Sum of those steps' losses."""
    best: float = math.inf
    """Least validation loss of an epoch so far."""


def check_options(config: TrainConfig) -> TrainConfig:
    """Return the settings, with those for crops at rest where the whole image is the input.

    Raises RunError for a value that can't be, and for settings that do not fit together.
    """
    if config.batch_size < 2 or config.batch_size % 2:
        raise RunError(f"--batch-size {config.batch_size}: must be even, for half a batch is of either class")
    if config.epochs < 1:
        raise RunError(f"--epochs {config.epochs}: must be at least 1")
    if config.input == "resize":  # --crop-size and --longest are for crops
        config = replace(config, crop_size=IMAGE_SIZE, longest=0)
    if config.crop_size != IMAGE_SIZE and config.model == "baseline":
        raise RunError(
            f"--crop-size {config.crop_size}: the baseline takes {IMAGE_SIZE}; --recipe baseline sets all that it needs"
        )
    if not SMALLEST_CROP <= config.crop_size <= PREPARED_WINDOW:
        raise RunError(f"--crop-size {config.crop_size}: must be from {SMALLEST_CROP} to {PREPARED_WINDOW} pixels")
    if config.longest not in (0, PREPARED_LONGEST):
        raise RunError(f"--longest {config.longest}: must be 0 or {PREPARED_LONGEST}")
    if not 0 <= config.ema < 1:
        raise RunError(f"--ema {config.ema}: must be at least 0 and under 1")
    return config


def settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that shape the weights, by name."""
    return {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE} | {"epochs": config.epochs}


def check_settings(config: TrainConfig, folder: Path, fingerprint: str, precision: str) -> None:
    """Write a run's config.json, or check the settings against the one that is there.

    Raises RunError where they differ, with the options of `mai train` that resume the run.
    """
    path = folder / "config.json"
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
            raise RunError(f"{folder}: was started on other data than {config.data} holds now; choose another --name")
        # A constant learning rate allows for any number of epochs, a schedule does not.
        fixed = {name: new[name] for name in settings(config) if name != "epochs" or config.optimizer == "adamw"}
        if changes := describe_changes(old, fixed):
            epochs = old["epochs"] if old["optimizer"] == "adamw" else config.epochs
            flags = training_flags({name: old[name] for name in settings(config)} | {"epochs": epochs})
            raise RunError(
                f"{folder}: was started with other settings ({changes}); choose another --name, or carry on with: "
                f"{shlex.join(flags)}"
            )
    write_text(path, json.dumps(new | {"mai_version": __version__}, indent=2) + "\n")


def start_or_resume(run: Run, group: Group) -> TrainingState:
    """Build the networks and the optimizer, with the weights that the run starts from or the state that it saved.

    Raises RunError for a damaged state, and for weights that do not fit the network.
    """
    config = run.config
    torch.manual_seed(config.seed)
    saved = _load_state(run.folder / LAST)
    network = MODELS[config.model]()
    _initialize(network, config, load=group.rank == 0 and not saved)
    network.to(group.device).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network) if config.ema else network
    state = TrainingState(network, averaged, make_optimizer(config, network), run.precision)
    if saved:
        network.load_state_dict(saved["network"])
        averaged.load_state_dict(saved.get("averaged", saved["network"]))
        state.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        for name in ("epoch", "step", "loss_sum", "best", "precision"):
            setattr(state, name, saved[name])
        resumed = f"carrying on at epoch {state.epoch + 1}, step {state.step}"
        group.say(resumed if state.epoch < config.epochs else f"all epochs ({state.epoch}) are done")
    return state


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name, for the network's parameters that are not frozen."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.05)
    return torch.optim.RMSprop(trained, lr=config.learning_rate)


def save_state(folder: Path, state: TrainingState) -> None:
    """Write the state that a run resumes from to last.pt, atomically."""
    document = {
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": state.epoch,
        "step": state.step,
        "loss_sum": state.loss_sum,
        "best": state.best,
        "precision": state.precision,
    }
    if state.averaged is not state.network:
        document["averaged"] = state.averaged.state_dict()
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_bytes(folder / LAST, buffer.getvalue())


def cut_metrics(folder: Path, epochs: int) -> None:
    """Cut off the metrics of all but the first epochs: those that a killed run wrote after its last save come again.

    Raises RunError for a damaged file.
    """
    try:
        resume_rows(folder / METRICS, keep=lambda row: bool(row["epoch"] <= epochs))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / METRICS}: is damaged ({error}); choose another --name") from None


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append one epoch's row to a run's metrics."""
    with (folder / METRICS).open("ab") as stream:
        append_rows(stream, [row])


def _load_state(path: Path) -> dict[str, Any] | None:
    """The state that was saved there; None where there is none. Raises RunError for a damaged file."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise RunError(f"{path}: is damaged ({type(error).__name__}); choose another --name") from None
    return state


def _initialize(network: nn.Module, config: TrainConfig, load: bool) -> None:
    """Freeze the layers that are not trained, and, with `load`, load the weights that the settings start from."""
    if config.start_from == "imagenet" or config.frozen:
        from mai_app.models.backbones import Backbone  # noqa: PLC0415 - a second that other trainings need not wait

        if not isinstance(network, Backbone):
            raise RunError(f"--start-from imagenet and --frozen are for torchvision's networks, not {config.model}")
        if config.start_from == "imagenet" and load:
            network.load_imagenet()
        if config.frozen:
            network.freeze()
    if load and config.start_from not in ("", "imagenet"):
        checkpoint = load_checkpoint(find_checkpoint(config.start_from, config.runs))
        if checkpoint.info.model != config.model:
            raise RunError(f"--start-from {config.start_from}: is a {checkpoint.info.model}, not a {config.model}")
        network.load_state_dict(checkpoint.network.state_dict())
