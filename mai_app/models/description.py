"""Checkpoint metadata: the JSON in a checkpoint's header, read and checked without torch and without the weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, get_args

import safetensors

from mai_app.config import (
    IMAGE_SIZE,
    LARGEST_VIEW,
    MODEL_NAMES,
    RECIPES,
    Architecture,
    HeadKind,
    InputMode,
    Preprocessing,
    TrainConfig,
)
from mai_app.core.display import bounded
from mai_app.errors import CheckpointError
from mai_app.models.calibration import Calibration, TierRates
from mai_app.models.hub import show_path

FORMAT_VERSION: Final = 3
"""2 added what a calibration says of the tiers, 3 what it says of sources and the architecture of networks of views;
files of 1 and 2 are read."""

TEMPERATURES: Final = (1e-6, 1e6)
"""Least and largest temperature that is read; fitted ones lie from 0.05 to 50."""
_LARGEST: Final = 2**53
"""What no number in a description reaches."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says about itself."""

    model: str
    """Name of the network."""
    mai_version: str
    """Version of MAI that trained it."""
    preprocessing: Preprocessing
    calibration: Calibration
    data: str
    """Name of the data set's folder."""
    data_fingerprint: str
    """SHA-256 that names the images and labels it was trained on."""
    epoch: int
    """Epochs of training behind these weights."""
    val_loss: float
    """Mean binary cross-entropy on the validation images, per class and then averaged."""
    training: Mapping[str, Any]
    """The settings that shaped the weights."""
    architecture: Architecture | None = None
    """What a network of views is made of; None for the others."""
    weights_licence: str = ""
    """Licence that timm states for the pretrained weights that training started from; "" where there are none."""
    data_licences: Mapping[str, str] = field(default_factory=dict)
    """By data set from the Hub that its images are of, the licence that MAI knows of it; "" where it knows none."""
    simulated: bool = False
    """Whether it was trained on simulated images, as those of `mai demo`: it then says nothing about real ones."""

    @property
    def takes_bfloat16(self) -> bool:
        """Whether it predicts in bfloat16 where the hardware is faster in it (mai_app/inference/engine.py)."""
        return self.architecture is not None or self.model == "traces"


@dataclass(frozen=True)
class Description:
    """What is known of a checkpoint's file without loading its weights."""

    path: Path
    bytes: int
    sha256: str
    info: CheckpointInfo


def read_description(path: Path) -> Description:
    """Describe a checkpoint's file; raises CheckpointError, naming the file, for one that can't be used."""
    where = show_path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(f"{where}: can't be read ({error.strerror})") from None
    return _read_unchanged(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=256)
def _read_unchanged(path: Path, modified: int, size: int, number: int) -> Description:  # noqa: ARG001 - the cache's key
    """The description of a file as it was at that time: hashing a large file takes a second.

    A clock that was set back gives a new file an old time; its number is another one.
    """
    info, where = read_info(path), show_path(path)
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{where}: can't be read ({error.strerror})") from None
    return Description(path, size, sha256, info)


def read_info(path: Path) -> CheckpointInfo:
    """What a checkpoint says about itself, from its header alone; raises CheckpointError, naming the file."""
    where = show_path(path)
    try:
        with safetensors.safe_open(path, "np") as opened:
            document = (opened.metadata() or {}).get("mai")
    except OSError as error:
        raise CheckpointError(f"{where}: can't be read ({error.strerror})") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{where}: truncated, or no safetensors file ({bounded(error)}); copy or train it anew"
        ) from None
    return parse_info(path, document)


def info_document(info: CheckpointInfo) -> str:
    """The JSON text that a checkpoint's header holds; equal content gives equal text."""
    return json.dumps({"format_version": FORMAT_VERSION, **asdict(info)}, sort_keys=True)


def parse_info(path: Path, document: str | None) -> CheckpointInfo:
    """The info in a header's JSON text; raises CheckpointError, naming the file, if it is foreign, new or damaged."""
    where = show_path(path)
    if document is None:
        raise CheckpointError(f"{where}: holds weights, but not MAI's; a MAI checkpoint comes from `mai train`")
    try:
        facts = json.loads(document)
        version = facts.pop("format_version")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{where}: written by a newer MAI ({bounded(facts.get('mai_version'), 80)}, format "
                f"{bounded(version, 80)}; this one reads up to {FORMAT_VERSION}); update MAI"
            )
        facts["preprocessing"] = Preprocessing(**facts["preprocessing"])
        fit = facts["calibration"]
        rates = {tier: TierRates(**values) for tier, values in fit.pop("tiers", {}).items()}  # none in format 1
        facts["calibration"] = Calibration(**fit, tiers=rates)
        if (built := facts.setdefault("architecture", None)) is not None:  # no such key before format 3
            facts["architecture"] = Architecture(**built | {"blocks": tuple(built["blocks"])})
        for name, value in (
            ("simulated", False),
            ("weights_licence", ""),
            ("data_licences", {}),
        ):  # nor these up to version 0.2
            facts.setdefault(name, value)
        info = CheckpointInfo(**{f.name: facts[f.name] for f in fields(CheckpointInfo)})
        _check(info)
    # OverflowError: an integer that no floating-point number holds.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{where}: its description is damaged ({bounded(error)}); copy or train it anew"
        ) from None
    if info.architecture is None and info.model not in MODEL_NAMES:
        available = sorted(MODEL_NAMES)
        raise CheckpointError(f"{where}: model {bounded(info.model)!r} not found; available models = {available}")
    return info


def training_flags(training: Mapping[str, Any]) -> list[str]:
    """The options of `mai train` for the settings that a checkpoint or a run names, as far as this MAI knows them."""
    words = []
    # A setting that an older MAI did not have yet was as the first MAI did it.
    training = RECIPES["baseline"] | dict(training)
    if training.get("frozen"):  # its name up to version 0.2
        training["tune"] = "head"
    for item in fields(TrainConfig):
        value, flag = training.get(item.name), item.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value not in (None, ""):
            words += [f"--{flag}", str(value)]
    return words


def _check(info: CheckpointInfo) -> None:
    """Raise ValueError or TypeError for what would only fail, or mislead, at the first image."""
    how, built, fit = info.preprocessing, info.architecture, info.calibration
    _check_kinds(info, str, "model", "mai_version", "data", "data_fingerprint", "weights_licence")
    _check_kinds(info, Mapping, "training", "data_licences")
    _check_kinds(info, float, "val_loss")
    _check_kinds(info, int, "epoch")
    _check_kinds(info, bool, "simulated")
    _check_kinds(how, int, "size", "crops", "longest")
    _check_kinds(fit, float, "temperature", "threshold", "unsure_low", "unsure_high")
    _check_kinds(fit, int, "authentic_images", "synthetic_images", "authentic_sources", "synthetic_sources")
    _check_kinds(fit, str, "data")
    if not all(isinstance(licence, str) for licence in info.data_licences.values()):
        raise TypeError("data_licences")
    size = IMAGE_SIZE if built is None else built.size
    if how.input not in get_args(InputMode) or how.size != size or how.crops < 1 or how.longest < 0:
        raise ValueError(str(how))
    if (built is not None) != (how.input == "views"):
        raise ValueError(f"input {how.input} and architecture {built}")
    if built is not None:
        _check_kinds(built, str, "backbone")
        _check_kinds(built, int, "size")
        _check_kinds(built, bool, "traces")
        if (
            built.head not in get_args(HeadKind)
            or built.backbone != info.model
            or not 1 <= built.size <= LARGEST_VIEW
            or not all(isinstance(block, int) and block >= 1 for block in built.blocks)
        ):
            raise ValueError(str(built))
    low, high = TEMPERATURES
    if not (low <= fit.temperature <= high and 0 <= fit.unsure_low <= fit.threshold <= fit.unsure_high <= 1):
        raise ValueError(str(fit))
    for tier, rates in fit.tiers.items():
        _check_kinds(rates, int, "images")
        shares = [rates.fpr, rates.tpr, rates.unsure, rates.right, rates.fpr_bound, rates.right_bound]
        if not all(share is None or 0 <= share <= 1 for share in shares):
            raise ValueError(f"{tier}: {rates}")


def _check_kinds(owner: object, kind: type, *names: str) -> None:
    """Raise TypeError or ValueError for a field of another kind; a float may be an integer, and must be finite."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{name} {value!r}")
        if isinstance(value, int | float) and not abs(value) < _LARGEST:
            raise ValueError(f"{name} {value!r}")
