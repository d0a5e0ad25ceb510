"""Train a detector: from settings and a data set to a checkpoint, in one loop that saves as it goes and resumes."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app import __version__
from mai_app.config import SIMULATED, Preprocessing, TrainConfig, prepared_form, run_name
from mai_app.core.device import (
    autocast,
    choose_device,
    choose_precision,
    describe_device,
    loader_workers,
    to_numpy,
)
from mai_app.core.files import locked
from mai_app.core.log import bar, say, stop_signals
from mai_app.core.metrics import auroc
from mai_app.data.batches import (
    TrainingData,
    TrainingImages,
    capped,
    draw_epoch,
    training_batches,
    undamaged_input,
    validation_batches,
)
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet
from mai_app.errors import DataError, RunError
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import to_floats
from mai_app.models.backbones import OPEN_LICENCES
from mai_app.models.calibration import balanced_loss, calibrate
from mai_app.models.checkpoint import save_checkpoint
from mai_app.models.description import CheckpointInfo
from mai_app.models.registry import BEST
from mai_app.models.views import ViewsNet
from mai_app.training.distributed import Group, check_processes, processes
from mai_app.training.features import CachedImages, Features, compute_features
from mai_app.training.folds import fit_out_of_source, train_folds
from mai_app.training.run_folder import (
    Run,
    append_metrics,
    architecture,
    check_options,
    check_settings,
    cut_metrics,
    make_network,
    merged,
    settings,
    start_licence,
)
from mai_app.training.state import TrainingState, save_state, start_or_resume


def train(config: TrainConfig, on_save: Callable[[], None] | None = None) -> Path:
    """Train, or resume, the run that `config` names, and return its folder.

    The folder holds config.json, metrics.jsonl (one row per epoch), best.safetensors (the weights of least validation
    loss, for use) and the state to resume from (last.pt; state.py has the files beside it). Killed at any moment, the
    same call resumes from the last save; on a CPU, with as many threads, it ends with the very same weights. `on_save`
    is called after each save.

    Raises DataError for an unusable data set, RunError for settings that do not fit together or the run's folder, and
    KeyboardInterrupt, after saving, for SIGINT or SIGTERM.
    """
    config = check_options(config)
    device = choose_device(config.device)
    check_processes(config.processes, config.batch_size, device)
    precision = choose_precision(config.precision, device)
    folder = config.runs / run_name(config)
    say(f"run {folder}: {config.model}, {config.input}, on {describe_device(device)} in {precision}")
    if device.type == "cpu":
        say("no accelerator is used: on a CPU a large data set takes hours")
    views = config.view_size if config.input == "views" else 0
    if config.start_from and views:
        _say_licence(config)
    prepared = prepare(config.data, config.prepared, form=prepared_form(views))
    prepared.refuse_training("training")
    if prepared.form.whole < views:
        raise RunError(f"{prepared.folder}: keeps no views; prepare it anew with --view-size {config.view_size}")
    try:
        with locked(folder, wait=False):
            rows = {split: _rows_of_both_classes(config, prepared, split) for split in ("train", "val")}
            check_settings(config, folder, prepared.fingerprint, precision)
            run = Run(config, folder, prepared, rows["train"], rows["val"], precision)
            if config.cache and config.draws and config.tune == "head" and views:
                run = replace(run, features=_cache_features(run, device))

            def train_run(part: Run) -> None:
                part.folder.mkdir(exist_ok=True)
                with processes(config.processes, device, _train_epochs, part) as group:
                    _train_epochs(part, group, on_save or (lambda: None))

            if config.folds:
                scored = train_folds(run, train_run, device)
            train_run(run)
            if config.folds:
                fit_out_of_source(folder / BEST, scored, prepared.name or config.data.resolve().name)
    except BlockingIOError:
        raise RunError(f"{folder}: another process trains it at this moment; choose another --name") from None
    return folder


def _say_licence(config: TrainConfig) -> None:
    """Say under which licence the weights are that training starts from: it reaches what is trained from them."""
    licence = start_licence(config)
    more = "" if licence in OPEN_LICENCES else "; read it before you use or pass on what is trained from them"
    say(f"weights of {config.model}: licence {licence or 'not stated'}{more}")


def _cache_features(run: Run, device: torch.device) -> Features:
    """The features of all versions of the train images and of the undamaged val images."""
    config = run.config
    images = _training_images(run, epoch=0)

    def make_input(key: tuple[int, int]) -> Pixels:
        row, version = key
        return undamaged_input(run.prepared, row, run.preprocessing) if version < 0 else images.version(row, version)

    keys = [(int(row), version) for row in run.train_rows for version in range(config.draws)]
    keys += [(int(row), -1) for row in run.val_rows]
    torch.manual_seed(config.seed)
    network = make_network(config, pretrained=True)
    shaping = {name: getattr(config, name) for name in ("seed", "draws", "degrade", "view_size")}
    return compute_features(cast("ViewsNet", network), run.prepared, keys, make_input, shaping, device, run.precision)


def _train_epochs(run: Run, group: Group, on_save: Callable[[], None] = lambda: None) -> None:
    """Train and validate epoch by epoch, the same in every process of the group; only rank 0 writes and speaks."""
    config, first = run.config, group.rank == 0
    state = start_or_resume(run, group)
    if first:
        cut_metrics(run.folder, state.epoch)
    network = group.wrap(state.network)

    def save() -> None:
        if first:
            save_state(run.folder, state)
            on_save()

    with stop_signals() as stopped:
        while state.epoch < config.epochs:
            started, first_step = time.monotonic(), state.step
            steps = train_epoch(run, group, state, network, stopped, save)
            seconds = time.monotonic() - started
            dealt = run.val_rows[group.rank :: group.size]
            how, size = run.preprocessing, config.batch_size
            logits = group.gather(
                predict_logits(state.averaged, run.prepared, dealt, how, size, group.device, run.features)
            )
            if first:
                _record_epoch(run, state, logits, steps, (steps - first_step) * config.batch_size, seconds)
            state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
            save()


def train_epoch(
    run: Run,
    group: Group,
    state: TrainingState,
    network: nn.Module,
    stopped: Callable[[], bool],
    save: Callable[[], None],
) -> int:
    """Train what is left of an epoch, and return how many steps the whole of it has; saves every so many minutes.

    `network` is the state's, wrapped for the group. Raises KeyboardInterrupt, after saving, where `stopped` says so in
    any process, and RunError for a loss that is no longer a number.
    """
    config, epoch = run.config, f"epoch {state.epoch + 1}"
    images, draws = draw_batches(run, group, state.epoch)
    steps = len(draws)
    fair = max(1, (os.cpu_count() or 1) // group.size)
    workers = config.workers if config.workers >= 0 else min(fair, loader_workers(group.device))
    state.network.train()
    pairs = averaged_pairs(state.averaged, state.network)
    saved = time.monotonic()
    quiet = None if group.rank == 0 else True
    with bar(total=steps, initial=state.step, desc=f"{epoch}/{config.epochs}", leave=False, disable=quiet) as progress:
        for pixels, targets in training_batches(images, draws[state.step :], workers):
            step = state.epoch * steps + state.step
            for parameters in state.optimizer.param_groups:
                share = parameters.get("share", 1.0)  # none in what version 0.2 saved
                parameters["lr"] = share * learning_rate(config, step, config.epochs * steps)
            loss = take_step(network, state.optimizer, pixels, targets, group.device, state.precision)
            if config.ema:
                update_ema(pairs, config.ema, step)
            # All processes must stop at the same step, or the others would wait for ever.
            loss, stopping = group.mean([loss, float(stopped())])
            state.loss_sum += loss
            state.step += 1
            if not math.isfinite(state.loss_sum):
                raise RunError(
                    f"{run.folder}: the loss is no longer a number at {epoch}, step {state.step}; choose another "
                    f"--name and a lower --learning-rate"
                )
            progress.update()
            progress.set_postfix(loss=f"{state.loss_sum / state.step:.4f}", refresh=False)
            if stopping:
                break
            if time.monotonic() - saved > config.save_minutes * 60:
                save()
                saved = time.monotonic()
    if group.any(stopped()):
        save()
        group.say(f"stopped at {epoch}, step {state.step} of {steps}, and saved; the same command carries on")
        raise KeyboardInterrupt
    return steps


def _training_images(run: Run, epoch: int) -> TrainingImages:
    config = run.config
    how = run.training_preprocessing
    return TrainingImages(run.prepared, how, config.seed, epoch, config.degrade, config.draws)


def draw_batches(run: Run, group: Group, epoch: int) -> tuple[TrainingData, list[list[tuple[int, int]]]]:
    """Draw an epoch's batches: its images, and this process's (row, draw) pairs of each batch."""
    config, rows, sources = run.config, run.train_rows, run.prepared.sources
    batches = draw_epoch(
        run.prepared.labels[rows],
        [sources[row] for row in rows],
        config.batch_size,
        config.source_balance,
        config.seed,
        epoch,
    )
    images = _training_images(run, epoch)
    of_rank = [[(int(rows[i]), draw) for i, draw in group.share(batch)] for batch in batches]
    return images if run.features is None else CachedImages(images, run.features), of_rank


def _record_epoch(
    run: Run, state: TrainingState, logits: npt.NDArray[np.float64], steps: int, images: int, seconds: float
) -> None:
    """Write a finished epoch's metrics, and its weights where their validation loss is the least so far.

    `logits` (n,) are those of the val images, `images` how many were trained on in `seconds`.
    """
    config, labels, epoch = run.config, run.prepared.labels[run.val_rows], state.epoch + 1
    val_loss = balanced_loss(logits, labels)
    row = {
        "epoch": epoch,
        "train_loss": state.loss_sum / steps,
        "val_loss": val_loss,
        "val_auroc": auroc(logits, labels),
        "learning_rate": learning_rate(config, epoch * steps - 1, config.epochs * steps),
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1) if images else None,  # none where all steps were done before
    }
    # With folds no source is held out from the last training: nothing is left to choose an epoch by.
    better = epoch == config.epochs if config.folds else val_loss < state.best
    if better:
        state.best = val_loss
        info = CheckpointInfo(
            model=config.model,
            mai_version=__version__,
            preprocessing=run.preprocessing,
            calibration=calibrate(logits, labels),
            data=run.prepared.name or config.data.resolve().name,
            data_fingerprint=run.prepared.fingerprint,
            epoch=epoch,
            val_loss=val_loss,
            training=settings(config) | {"precision": state.precision},
            architecture=architecture(config),
            weights_licence=start_licence(config),
            data_licences=run.prepared.facts.get("licences", {}),
            simulated=run.prepared.kinds(run.train_rows) == {SIMULATED},
        )
        save_checkpoint(run.folder / BEST, merged(state.averaged), info)
    append_metrics(run.folder, row)
    speed = f", {row['images_per_second']:.0f} images/s" if images else ""
    say(
        f"epoch {epoch}/{config.epochs}: train loss {row['train_loss']:.4f}, val loss {val_loss:.4f}, "
        f"val AUROC {row['val_auroc']:.3f}{speed}{', best' if better else ''}"
    )


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    device: torch.device,
    precision: str,
) -> float:
    """Train on one batch: its images or features, and targets (n,) float of 0 and 1; returns its mean loss."""
    with autocast(device, precision):
        logits = network(to_floats(pixels, device))
    targets = targets.to(device)
    if logits.dim() > 1:  # an image's views are trained apart
        targets = targets[:, None].expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning-rate schedule: constant for rmsprop; for adamw a linear warm-up over 5 %, then a cosine to zero."""
    if config.optimizer == "rmsprop":
        return config.learning_rate
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def averaged_pairs(average: nn.Module, network: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors of an average and of the network that it follows, side by side, without those that are frozen.

    They share their memory with the networks. Finding them anew at each step would cost as much as training a head.
    """
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    tensors = zip(network.state_dict().items(), average.state_dict().values(), strict=True)
    return [(old, new) for (name, new), old in tensors if name not in frozen]


def update_ema(pairs: list[tuple[torch.Tensor, torch.Tensor]], decay: float, step: int) -> None:
    """Update the exponential moving average (EMA) of a network's weights and statistics after a step.

    The decay is lower in the first steps, or the random weights of the beginning would stay for long.
    """
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for old, new in pairs:
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def predict_logits(
    network: nn.Module,
    prepared: PreparedSet,
    rows: npt.NDArray[np.int64],
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device,
    features: Features | None = None,
) -> npt.NDArray[np.float64]:
    """Predict the logits (n,) of the given rows of a prepared set, undamaged, in float32 arithmetic.

    With `features` by those of the rows' inputs.
    """
    network.eval()
    if features is None:
        batches = (pixels for pixels, _ in validation_batches(prepared, rows, preprocessing, batch_size))
    else:
        keys = [(int(row), -1) for row in rows]
        chunks = (keys[start : start + batch_size] for start in range(0, len(keys), batch_size))
        batches = (torch.from_numpy(features.read(chunk)) for chunk in chunks)
    with torch.inference_mode():
        parts = [to_numpy(network(to_floats(inputs, device))) for inputs in batches]
    return np.concatenate([np.empty(0), *parts])  # of many processes, one may have no row


def _rows_of_both_classes(config: TrainConfig, prepared: PreparedSet, split: str) -> npt.NDArray[np.int64]:
    """The rows (n,) of a split's images; raises DataError where it lacks a class."""
    rows = prepared.rows(split)
    if split == "train" and config.source_cap:
        rows = capped(prepared, rows, config.source_cap)
    counts = np.bincount(prepared.labels[rows], minlength=2)
    if not counts.all():
        raise DataError(
            f"{config.data}: its {split} part holds {counts[0]} authentic and {counts[1]} synthetic images; "
            f"training needs some of both"
        )
    say(f"{split}: {counts[0]} authentic, {counts[1]} synthetic")
    return rows
