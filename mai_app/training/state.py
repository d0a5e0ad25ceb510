"""The state that a training run resumes from: saved whole, the one before it kept, checked when it is read."""

import copy
import io
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from mai_app.core.device import memory_format
from mai_app.core.files import write_bytes
from mai_app.errors import RunError
from mai_app.training.distributed import Group
from mai_app.training.run_folder import Run, make_network, make_optimizer

LAST: Final = "last.pt"
"""File of the state that a run resumes from, in its folder."""
BEFORE: Final = "before.pt"
"""File of the state before that, for a last one that is damaged."""
FROZEN: Final = "frozen.pt"
"""File of the weights that are not trained, written once: both states need them."""
_KEYS: Final = frozenset(("network", "optimizer", "rng", "epoch", "step", "loss_sum", "best", "precision"))


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
    last_is_whole: bool = True
    """Whether last.pt can be read, so that the next save keeps it as the one before."""


def start_or_resume(run: Run, group: Group) -> TrainingState:
    """Build the networks and the optimizer, with the weights that the run starts from or the state that it saved.

    Where the last state is damaged it is the one before. Raises RunError where there is none that can be read, and for
    weights that do not fit the network.
    """
    config = run.config
    torch.manual_seed(config.seed)
    saved, whole = _load_state(run.folder, group.say)
    if not saved and group.rank == 0:
        (run.folder / FROZEN).unlink(missing_ok=True)  # of a run that began and never saved
    network = make_network(config, pretrained=not saved)
    network.to(group.device).to(memory_format=memory_format(group.device))
    averaged = copy.deepcopy(network) if config.ema else network
    state = TrainingState(network, averaged, make_optimizer(config, network), run.precision, last_is_whole=whole)
    if saved:
        # A run of version 0.2 has what is frozen in each state.
        frozen = _read(run.folder / FROZEN) if set(network.state_dict()) - set(saved["network"]) else {}
        network.load_state_dict(frozen | saved["network"])
        averaged.load_state_dict(frozen | saved.get("averaged", saved["network"]))
        state.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        for name in ("epoch", "step", "loss_sum", "best", "precision"):
            setattr(state, name, saved[name])
        resumed = f"carrying on at epoch {state.epoch + 1}, step {state.step}"
        group.say(resumed if state.epoch < config.epochs else f"all epochs ({state.epoch}) are done")
    return state


def save_state(folder: Path, state: TrainingState) -> None:
    """Write the state that a run resumes from to last.pt, atomically, and keep the one before it as before.pt."""
    frozen = {name for name, parameter in state.network.named_parameters() if not parameter.requires_grad}
    if frozen and not (folder / FROZEN).exists():
        _write(folder / FROZEN, {name: state.network.state_dict()[name] for name in frozen})
    document = {
        "network": _without(frozen, state.network),
        "optimizer": state.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": state.epoch,
        "step": state.step,
        "loss_sum": state.loss_sum,
        "best": state.best,
        "precision": state.precision,
    }
    if state.averaged is not state.network:
        document["averaged"] = _without(frozen, state.averaged)
    if state.last_is_whole and (folder / LAST).exists():
        _keep_as(folder / LAST, folder / BEFORE)
    _write(folder / LAST, document)
    state.last_is_whole = True


def _without(names: set[str], network: nn.Module) -> dict[str, Any]:
    return {name: tensor for name, tensor in network.state_dict().items() if name not in names}


def _write(path: Path, document: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_bytes(path, buffer.getvalue())


def _keep_as(path: Path, other: Path) -> None:
    """Give a file a second name in place of another file; where the file system has none, copy it."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(other)


def _load_state(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, bool]:
    """The last state that can be read, None where there is none, and whether it is last.pt's.

    Raises RunError where there are states and none can be read.
    """
    damage = None
    for name in (LAST, BEFORE):
        if not (folder / name).exists():
            continue
        try:
            state = _read(folder / name)
            if missing := _KEYS - set(state):
                raise RunError(f"{folder / name}: is damaged (no {min(missing)}); choose another --name")
        except RunError as error:
            damage = damage or error
            continue
        if damage:
            say(f"{str(damage).partition(';')[0]}; carrying on from the save before it, {name}")
        return state, name == LAST
    if damage:
        raise damage
    return None, True


def _read(path: Path) -> dict[str, Any]:
    """What was saved there; raises RunError for a damaged file. torch alone does not see a changed byte of a weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(changed)
        document: dict[str, Any] = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds on a damaged file
        raise RunError(f"{path}: is damaged ({type(error).__name__}); choose another --name") from None
    return document
