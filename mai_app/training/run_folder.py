"""A training run's folder: checked settings, the network and optimizer that they describe, and metrics."""

import copy
import json
import shlex
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mai_app import __version__
from mai_app.config import (
    IMAGE_SIZE,
    LARGEST_VIEW,
    MODEL_NAMES,
    PREPARED_LONGEST,
    PREPARED_WINDOW,
    SMALLEST_CROP,
    Architecture,
    Preprocessing,
    TrainConfig,
    from_recipe,
)
from mai_app.core.files import append_rows, describe_changes, resume_rows, write_text
from mai_app.data.prepared import PreparedSet
from mai_app.errors import RunError
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.description import training_flags
from mai_app.models.registry import find_checkpoint
from mai_app.models.views import ViewsNet, build_network
from mai_app.training.features import Features

if TYPE_CHECKING:
    from mai_app.models.backbones import Body

METRICS: Final = "metrics.jsonl"
"""File of a run's metrics, one row per epoch, in its folder."""
LAYER_DECAY: Final = 0.8
"""Learning rate of a block, as a share of that of the block above it."""
WEIGHT_DECAY: Final = 0.05
"""AdamW's."""
MAY_CHANGE: Final = (
    "data",
    "recipe",
    "name",
    "epochs",
    "device",
    "precision",
    "workers",
    "processes",
    "cache",
    "save_minutes",
    "runs",
    "prepared",
    "on",
    "detach",
    "budget",
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
    features: Features | None = None
    """Those of all rows' inputs, where they are cached."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How validation and prediction see an image."""
        config = self.config
        if config.input == "views":
            return Preprocessing(input="views", size=config.view_size, crops=config.windows)
        return Preprocessing(input=config.input, longest=config.longest)

    @property
    def training_preprocessing(self) -> Preprocessing:
        """How training sees an image."""
        return replace(self.preprocessing, size=self.config.crop_size)


def check_options(config: TrainConfig) -> TrainConfig:
    """Return the settings, with those for crops at rest where they are not the input.

    Raises RunError for a value that can't be, and for settings that do not fit together.
    """
    if config.batch_size < 2 or config.batch_size % 2:
        raise RunError(f"--batch-size {config.batch_size}: must be even, for half a batch is of either class")
    if config.epochs < 1:
        raise RunError(f"--epochs {config.epochs}: must be at least 1")
    _check_views(config)
    if config.input != "crop":  # --crop-size and --longest are for crops
        config = replace(config, crop_size=IMAGE_SIZE if config.input == "resize" else config.view_size, longest=0)
    if config.crop_size != IMAGE_SIZE and config.model == "baseline":
        raise RunError(
            f"--crop-size {config.crop_size}: the baseline takes {IMAGE_SIZE}; --recipe baseline sets all that it needs"
        )
    if config.input == "crop" and not SMALLEST_CROP <= config.crop_size <= PREPARED_WINDOW:
        raise RunError(f"--crop-size {config.crop_size}: must be from {SMALLEST_CROP} to {PREPARED_WINDOW} pixels")
    if config.longest not in (0, PREPARED_LONGEST):
        raise RunError(f"--longest {config.longest}: must be 0 or {PREPARED_LONGEST}")
    if not 0 <= config.ema < 1:
        raise RunError(f"--ema {config.ema}: must be at least 0 and under 1")
    return config


def _check_views(config: TrainConfig) -> None:
    """Raise RunError for settings of views, of what is tuned and of folds that can't be."""
    if (config.model not in MODEL_NAMES) != (config.input == "views"):
        raise RunError(
            f"--model {config.model} --input {config.input}: views are for timm's networks, and these for views; "
            f"--recipe views sets both, MAI's own networks are {', '.join(MODEL_NAMES)}"
        )
    if config.model in ("baseline", "traces") and config.tune != "all":
        raise RunError(f"--tune {config.tune}: {config.model} is trained as a whole; pretrained networks need not be")
    if config.windows not in (1, 5):
        raise RunError(f"--windows {config.windows}: must be 1, the centre, or 5, the corners, too")
    if not SMALLEST_CROP <= config.view_size <= LARGEST_VIEW:
        raise RunError(f"--view-size {config.view_size}: must be from {SMALLEST_CROP} to {LARGEST_VIEW} pixels")
    if config.folds == 1 or min(config.folds, config.draws, config.source_cap) < 0:
        raise RunError("--folds must be 0 or at least 2; --draws and --source-cap at least 0")
    architecture(config)


def architecture(config: TrainConfig) -> Architecture | None:
    """What the settings' network of views is made of; None for other networks. Raises RunError for wrong --blocks."""
    if config.input != "views":
        return None
    words = config.blocks.split(",") if config.blocks else []
    if not all(word.strip().isdecimal() for word in words):
        raise RunError(f"--blocks {config.blocks}: must be numbers such as 6,9, or nothing for all")
    blocks = tuple(sorted({int(word) for word in words}))
    return Architecture(backbone=config.model, blocks=blocks, size=config.view_size, head=config.head)


def start_licence(config: TrainConfig) -> str:
    """The licence of the pretrained weights that the settings start from; "" for none, or where none is stated."""
    if config.input != "views" or not config.start_from:
        return ""
    from mai_app.models.backbones import weights_licence  # noqa: PLC0415 - timm, which other trainings need not wait for

    return weights_licence(config.model)


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
            old["tune"] = "head" if old.pop("frozen", False) else old["tune"]  # its name up to version 0.2
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


def make_network(config: TrainConfig, pretrained: bool) -> nn.Module:
    """The settings' network, and, if it is `pretrained`, the weights that it starts from; what is not tuned is frozen.

    Raises RunError for weights that do not fit.
    """
    built, start = architecture(config), config.start_from
    weights = start if pretrained and (start == "hub" or start.endswith(".safetensors")) else ""
    network = build_network(config.model, built, weights if built else "")
    if pretrained and start and not (built and weights):
        _load_weights(network, config)
    if isinstance(network, ViewsNet):
        cast("Body", network.body).choose_trained(config.tune)
    elif config.tune != "all":
        _freeze(network, config)
    return network


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name, for the network's parameters that are not frozen.

    A pretrained body learns at its own rate, which falls by LAYER_DECAY from each block to the one below it, since the
    lower ones hold what is general (Howard and Ruder 2018, "Universal Language Model Fine-tuning"). Low-rank matrices
    learn at one rate: they can't undo what the blocks hold.
    """
    shares: dict[int, float] = {}
    if isinstance(network, ViewsNet):
        top = config.body_learning_rate / config.learning_rate
        blocks = cast("Body", network.body).blocks()
        decay = 1.0 if config.tune.startswith("lora") else LAYER_DECAY
        shares = {id(parameter): top * decay ** len(blocks) for parameter in network.body.parameters()}
        for depth, block in enumerate(reversed(blocks)):
            shares |= {id(parameter): top * decay**depth for parameter in block.parameters()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": list(group), "share": share}
        for share, group in groupby(
            sorted(trained, key=lambda p: shares.get(id(p), 1.0)), key=lambda p: shares.get(id(p), 1.0)
        )
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    return torch.optim.RMSprop(groups, lr=config.learning_rate)


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


def merged(network: nn.Module) -> nn.Module:
    """The network as a checkpoint holds it: low-rank matrices added to their weights, in a copy."""
    if not isinstance(network, ViewsNet) or not any(".parametrizations." in name for name in network.state_dict()):
        return network
    network = copy.deepcopy(network)
    cast("Body", network.body).merge_low_rank()
    return network


def _load_weights(network: nn.Module, config: TrainConfig) -> None:
    """Load the weights that the settings start from: torchvision's, or those of a checkpoint of the same network."""
    if config.start_from == "imagenet":
        from mai_app.models.backbones import Backbone  # noqa: PLC0415 - a second that other trainings need not wait

        if not isinstance(network, Backbone):
            raise RunError(f"--start-from imagenet: is for torchvision's networks, not {config.model}")
        network.load_imagenet()
        return
    checkpoint = load_checkpoint(find_checkpoint(config.start_from, config.runs))
    if checkpoint.info.model != config.model:
        raise RunError(f"--start-from {config.start_from}: is a {checkpoint.info.model}, not a {config.model}")
    try:
        network.load_state_dict(checkpoint.network.state_dict())
    except RuntimeError:
        raise RunError(f"--start-from {config.start_from}: has other blocks, another head or size") from None


def _freeze(network: nn.Module, config: TrainConfig) -> None:
    from mai_app.models.backbones import Backbone  # noqa: PLC0415

    if config.tune != "head" or not isinstance(network, Backbone):
        raise RunError(f"--tune {config.tune}: torchvision's networks take head or all")
    network.freeze()
