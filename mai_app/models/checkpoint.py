"""From a trained network to one file and back: safetensors weights with everything that predicting needs, as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, get_args

import safetensors
import safetensors.torch
import torch
from torch import nn

from mai_app.config import IMAGE_SIZE, SHIPPED, InputMode, Preprocessing, Verdict
from mai_app.core.files import write_bytes
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.models import shipped
from mai_app.models.networks import MODELS

FORMAT_VERSION: Final = 2
"""2 added what a calibration says of the tiers; files of 1 are read."""
BEST: Final = shipped.BEST
"""Name of the checkpoint in a run's folder that is meant for use."""


@dataclass(frozen=True)
class TierRates:
    """What a calibration comes to in one tier, on the images that it was fitted on."""

    images: int
    """Images judged, of both classes."""
    fpr: float
    """Share of the authentic images called synthetic at the threshold."""
    tpr: float
    """Share of the synthetic images called synthetic at the threshold."""
    unsure: float
    """Share of the images whose verdict is unsure."""
    right: float | None
    """Share of the verdicts given that are right, the classes counting alike; None where none is given."""


@dataclass(frozen=True)
class Calibration:
    """How a logit becomes a score and a score a verdict; fitted on validation images, stored with the weights."""

    temperature: float
    """p_synthetic = sigmoid(logit / temperature)."""
    threshold: float
    """p_synthetic from here on counts as synthetic where a yes or no is needed."""
    unsure_low: float
    """Verdict authentic below this score."""
    unsure_high: float
    """Verdict synthetic above this score; between the two, unsure."""
    authentic_images: int
    """Authentic images it was fitted on."""
    synthetic_images: int
    """Synthetic images it was fitted on."""
    data: str = ""
    """Name of the data set on whose val part it was fitted; empty: the one trained on, in training."""
    tiers: Mapping[str, TierRates] = field(default_factory=dict)
    """By tier, what it comes to; empty: fitted in training, on windows of undamaged images alone."""

    def verdict(self, p_synthetic: float) -> Verdict:
        """authentic, unsure or synthetic."""
        if p_synthetic < self.unsure_low:
            return "authentic"
        return "synthetic" if p_synthetic > self.unsure_high else "unsure"


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


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the network in evaluation mode, what it says about itself, and its file's SHA-256."""

    path: Path
    network: nn.Module
    info: CheckpointInfo
    sha256: str
    weights_sha256: str
    """SHA-256 of the weights alone, with the network's name: another calibration does not change it."""

    @property
    def version(self) -> str:
        """Names weights and calibration: the first 12 digits of the file's SHA-256."""
        return self.sha256[:12]


def save_checkpoint(path: Path, network: nn.Module, info: CheckpointInfo) -> None:
    """Write network and info to one safetensors file, whole or not at all; equal content gives equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    document = json.dumps({"format_version": FORMAT_VERSION, **asdict(info)}, sort_keys=True)
    write_bytes(path, safetensors.torch.save(tensors, metadata={"mai": document}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; raises CheckpointError if it is missing, damaged, foreign or too new."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    try:
        tensors = safetensors.torch.load(data)
        # safetensors checked the header just above; its metadata is only to be had from the header itself.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:  # KeyError: numbers that torch does not have
        raise CheckpointError(f"{path}: truncated, or no safetensors file ({error}); copy or train it anew") from None
    document = (header.get("__metadata__") or {}).get("mai")
    if document is None:
        raise CheckpointError(f"{path}: holds weights, but not MAI's; a MAI checkpoint comes from `mai train`")
    info = _read_info(path, document)
    if info.model not in MODELS:
        raise CheckpointError(f"{path}: model {info.model!r} not found; available models = {sorted(MODELS)}")
    network = MODELS[info.model]()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: its weights do not fit the model {info.model!r} ({reason})") from None
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"{path}: holds weights that are not finite numbers; train it anew")
    network.eval()
    weights = hashlib.sha256(info.model.encode() + data[8 + int.from_bytes(data[:8], "little") :])
    return Checkpoint(path, network, info, hashlib.sha256(data).hexdigest(), weights.hexdigest())


def find_checkpoint(name: str, runs: Path) -> Path:
    """The checkpoint that a user means: a file, a run's folder, or else the name of a run or of a shipped model.

    For "" it is the run trained last, or, where there is none, the shipped model that config.SHIPPED names.

    Raises CheckpointError that lists what there is.
    """
    there, come_with = shipped.trained_runs(runs), shipped.shipped_models()
    if not name:
        if there:
            return list(there.values())[-1]
        if SHIPPED in come_with:
            return come_with[SHIPPED]
        raise CheckpointError(
            f"no trained model in {runs}/; train one with `mai train`, or name a file with --model; "
            f"shipped models = {list(come_with)}"
        )
    named = [models[name] for models in (there, come_with) if name in models]
    candidates = [Path(name), Path(name) / BEST, *named]
    try:
        return next(path for path in candidates if path.is_file())
    except OSError as error:  # a name too long, or in a closed folder
        raise CheckpointError(f"model {name!r} can't be read ({error.strerror})") from None
    except StopIteration:
        raise ModelNameError(
            f"model {name!r} not found; available runs in {runs}/ = {list(there)}, shipped models = {list(come_with)}"
        ) from None


def _read_info(path: Path, document: str) -> CheckpointInfo:
    try:
        facts = json.loads(document)
        version = facts.pop("format_version")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: written by a newer MAI ({facts.get('mai_version')}, format {version}; this one reads up to "
                f"{FORMAT_VERSION}); update MAI"
            )
        facts["preprocessing"] = Preprocessing(**facts["preprocessing"])
        fit = facts["calibration"]
        rates = {tier: TierRates(**values) for tier, values in fit.pop("tiers", {}).items()}  # none in format 1
        facts["calibration"] = Calibration(**fit, tiers=rates)
        info = CheckpointInfo(**{f.name: facts[f.name] for f in fields(CheckpointInfo)})
        _check(info)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error}); copy or train it anew") from None
    return info


def _check(info: CheckpointInfo) -> None:
    """Raise ValueError or TypeError for what would only fail, or mislead, at the first image."""
    if not isinstance(info.model, str):
        raise TypeError(f"model {info.model!r}")
    how = info.preprocessing
    if how.input not in get_args(InputMode) or how.size != IMAGE_SIZE or how.crops < 1 or how.longest < 0:
        raise ValueError(str(how))
    fit = info.calibration
    if not (fit.temperature > 0 and 0 <= fit.unsure_low <= fit.threshold <= fit.unsure_high <= 1):
        raise ValueError(str(fit))
    for tier, rates in fit.tiers.items():
        shares = [rates.fpr, rates.tpr, rates.unsure, *([] if rates.right is None else [rates.right])]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"{tier}: {rates}")
