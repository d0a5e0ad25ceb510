"""Checkpoints: a trained network saved as one safetensors file with all that predicting needs, and loaded again."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from mai_app.core.display import bounded
from mai_app.core.files import write_bytes
from mai_app.errors import CheckpointError, RunError
from mai_app.models.description import CheckpointInfo, info_document, parse_info
from mai_app.models.hub import show_path
from mai_app.models.views import build_empty


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
    tensors = {name: _stored(name, tensor.detach().cpu()) for name, tensor in network.state_dict().items()}
    write_bytes(path, safetensors.torch.save(tensors, metadata={"mai": info_document(info)}))


def _stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as the file holds it: pretrained bodies in half precision, which moves no score that is shown."""
    return (tensor.half() if name.startswith("body.") and tensor.is_floating_point() else tensor).contiguous()


def _typed(tensors: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors in the types that the network computes with."""
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in tensors.items()}


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; raises CheckpointError if it is missing, damaged, foreign or too new."""
    where = show_path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{where}: can't be read ({error.strerror})") from None
    with ThreadPoolExecutor(2) as pool:  # hashing takes as long as the rest
        whole = pool.submit(_sha256, data)
        try:
            tensors = safetensors.torch.load(data)
            # safetensors checked the header just above; its metadata is only to be had from the header itself.
            start = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:start])
        except (safetensors.SafetensorError, ValueError, KeyError) as error:  # KeyError: types that torch does not have
            raise CheckpointError(
                f"{where}: truncated, or no safetensors file ({bounded(error)}); copy or train it anew"
            ) from None
        info = parse_info(path, (header.get("__metadata__") or {}).get("mai"))
        weights = pool.submit(_sha256, info.model.encode(), memoryview(data)[start:])
        network = _build(where, info, tensors)
        return Checkpoint(path, network, info, whole.result(), weights.result())


def _build(where: str, info: CheckpointInfo, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network that the info describes, with these weights; raises CheckpointError, naming the file."""
    # One sum is quicker than a test of each number; what is not finite stays so, and float64 holds any other sum.
    if not all(torch.isfinite(tensor.sum(dtype=torch.float64)) for tensor in tensors.values()):
        raise CheckpointError(f"{where}: holds weights that are not finite numbers; train it anew")
    network = _made(where, info, tensors)
    try:
        network.load_state_dict(_typed(tensors, network), assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: its weights do not fit the model {info.model!r} ({bounded(error)})") from None
    return network.eval()


def _made(where: str, info: CheckpointInfo, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network that the info describes, for these weights; raises CheckpointError where it can't be made.

    It is first made without memory and compared: a small file that names a network of gigabytes does not cost these.
    """
    try:
        with torch.device("meta"):
            wanted = build_empty(info.model, info.architecture).state_dict()
        unfit = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
        if unfit:
            raise CheckpointError(
                f"{where}: its weights do not fit the model {info.model!r} ({len(unfit)} tensors are missing or of "
                f"another shape, {unfit[0]} among them)"
            )
        return build_empty(info.model, info.architecture)
    except RunError as error:
        raise CheckpointError(f"{where}: its network can't be built ({bounded(error)})") from None


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
