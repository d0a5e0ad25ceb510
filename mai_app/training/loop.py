"""From settings and a data set to a checkpoint: one flat loop that saves as it goes and carries on when killed."""

import copy
import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app import __version__
from mai_app.config import IMAGE_SIZE, PREPARED_LONGEST, PREPARED_WINDOW, SMALLEST_CROP, Preprocessing, TrainConfig
from mai_app.core.device import choose_device, choose_precision, describe_device, loader_workers
from mai_app.core.files import locked, write_bytes
from mai_app.core.log import bar, say
from mai_app.core.metrics import auroc
from mai_app.core.signals import stop_signals
from mai_app.data.batches import TrainingImages, draw_epoch, training_batches, validation_batches
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet
from mai_app.errors import DataError, RunError
from mai_app.images.preprocess import to_floats
from mai_app.models.calibration import balanced_loss, calibrate
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.description import CheckpointInfo
from mai_app.models.networks import MODELS
from mai_app.models.registry import BEST, find_checkpoint
from mai_app.training.distributed import Group, check_processes, processes
from mai_app.training.optim import follow, learning_rate, make_optimizer
from mai_app.training.run_folder import check_settings, keep_metrics, load_state, settings

LAST: Final = "last.pt"


def train(config: TrainConfig, on_save: Callable[[], None] | None = None) -> Path:
    """Train, or carry on, the run that `config` names, and return its folder.

    The folder holds config.json, metrics.jsonl (a line an epoch), best.safetensors (the weights of least validation
    loss, for use) and last.pt (everything needed to carry on). Killed at any moment, the same call carries on from
    the last save; on a CPU, with as many threads, to the very same weights. `on_save` is called after each save.

    Raises DataError for an unusable data set, RunError for settings that do not fit the run's folder, and
    KeyboardInterrupt, after saving, for SIGINT or SIGTERM.
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
    device = choose_device(config.device)
    check_processes(config.processes, config.batch_size, device)
    precision = choose_precision(config.precision, device)
    run = config.runs / (config.name or f"{config.data.resolve().name}-{config.model}-{config.input}")
    say(f"run {run}: {config.model}, {config.input}, on {describe_device(device)} in {precision}")
    if device.type == "cpu":
        say("no accelerator is used: on a processor a large data set takes hours")
    prepared = prepare(config.data, config.prepared)
    try:
        with locked(run, wait=False):
            rows = _rows(config, prepared)
            check_settings(config, run, prepared.fingerprint, precision)
            work = (config, run, prepared, rows, precision)
            with processes(config.processes, device, _run, *work) as group:
                _run(*work, group, on_save or (lambda: None))
    except BlockingIOError:
        raise RunError(f"{run}: another process trains it at this moment; choose another --name") from None
    return run


def _run(
    config: TrainConfig,
    run: Path,
    prepared: PreparedSet,
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    precision: str,
    group: Group,
    on_save: Callable[[], None] = lambda: None,
) -> None:
    """The loop, the same in every process of the group; only the first one writes and speaks."""
    training, validation = rows
    device, first = group.device, group.rank == 0
    labels, sources = prepared.labels, prepared.sources
    preprocessing = Preprocessing(input=config.input, longest=config.longest)
    crops = replace(preprocessing, size=config.crop_size)

    torch.manual_seed(config.seed)
    fair = max(1, (os.cpu_count() or 1) // group.size)
    workers = config.workers if config.workers >= 0 else min(fair, loader_workers(device))
    state = load_state(run / LAST)
    network = MODELS[config.model]()
    _start(network, config, fetch=first and not state)
    network.to(device).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network) if config.ema else network
    optimizer = make_optimizer(config, network)
    epoch, step, loss_sum, best = 0, 0, 0.0, math.inf

    if state:
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state.get("averaged", state["network"]))
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        epoch, step, loss_sum, best = state["epoch"], state["step"], state["loss_sum"], state["best"]
        precision = state["precision"]
        goes_on = f"carrying on at epoch {epoch + 1}, step {step}"
        group.say(goes_on if epoch < config.epochs else f"all epochs ({epoch}) are done")
    if first:
        keep_metrics(run / "metrics.jsonl", before=epoch + 1)
    shared = group.wrap(network)

    def save() -> None:
        if not first:
            return
        document = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "epoch": epoch,
            "step": step,
            "loss_sum": loss_sum,
            "best": best,
            "precision": precision,
        } | ({"averaged": averaged.state_dict()} if config.ema else {})
        buffer = io.BytesIO()
        torch.save(document, buffer)
        write_bytes(run / LAST, buffer.getvalue())
        on_save()

    with stop_signals() as stopped:
        while epoch < config.epochs:
            started = saved = time.monotonic()
            first_step = step
            batches = draw_epoch(
                labels[training],
                [sources[row] for row in training],
                config.batch_size,
                config.source_balance,
                config.seed,
                epoch,
            )
            steps = len(batches)
            draws = [[(int(training[i]), draw) for i, draw in group.share(batch)] for batch in batches]
            images = TrainingImages(prepared, crops, config.seed, epoch, config.degrade)
            network.train()
            progress = bar(
                total=steps,
                initial=step,
                desc=f"epoch {epoch + 1}/{config.epochs}",
                leave=False,
                disable=None if first else True,
            )
            with progress:
                for pixels, targets in training_batches(images, draws[step:], workers):
                    rate = learning_rate(config, epoch * steps + step, config.epochs * steps)
                    for parameters in optimizer.param_groups:
                        parameters["lr"] = rate
                    loss = take_step(shared, optimizer, pixels, targets, device, precision)
                    if config.ema:
                        follow(averaged, network, config.ema, epoch * steps + step)
                    # All processes must stop at the same step, or the others would wait for ever.
                    loss, stopping = group.mean([loss, float(stopped())])
                    loss_sum += loss
                    step += 1
                    if not math.isfinite(loss_sum):
                        raise RunError(
                            f"{run}: the loss is no longer a number at epoch {epoch + 1}, step {step}; "
                            f"choose another --name and a lower --learning-rate"
                        )
                    progress.update()
                    progress.set_postfix(loss=f"{loss_sum / step:.4f}", refresh=False)
                    if stopping:
                        break
                    if time.monotonic() - saved > config.save_minutes * 60:
                        save()
                        saved = time.monotonic()
            if group.any(stopped()):
                save()
                group.say(
                    f"stopped at epoch {epoch + 1}, step {step} of {steps}, and saved; the same command carries on"
                )
                raise KeyboardInterrupt
            seconds = time.monotonic() - started

            dealt = validation[group.rank :: group.size]
            logits_of = group.gather(
                predict_logits(averaged, prepared, dealt, preprocessing, config.batch_size, device)
            )
            if not first:
                epoch, step, loss_sum = epoch + 1, 0, 0.0
                continue
            val_loss = balanced_loss(logits_of, labels[validation])
            row = {
                "epoch": epoch + 1,
                "train_loss": loss_sum / steps,
                "val_loss": val_loss,
                "val_auroc": auroc(logits_of, labels[validation]),
                "learning_rate": learning_rate(config, (epoch + 1) * steps - 1, config.epochs * steps),
                "seconds": round(seconds, 3),
                "images_per_second": round((steps - first_step) * config.batch_size / seconds, 1),
            }
            better = val_loss < best
            if better:
                best = val_loss
                info = CheckpointInfo(
                    model=config.model,
                    mai_version=__version__,
                    preprocessing=preprocessing,
                    calibration=calibrate(logits_of, labels[validation]),
                    data=config.data.resolve().name,
                    data_fingerprint=prepared.fingerprint,
                    epoch=epoch + 1,
                    val_loss=val_loss,
                    training=settings(config) | {"precision": precision},
                )
                save_checkpoint(run / BEST, averaged, info)
            with (run / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            say(
                f"epoch {epoch + 1}/{config.epochs}: train loss {row['train_loss']:.4f}, val loss {val_loss:.4f}, "
                f"val AUROC {row['val_auroc']:.3f}, {row['images_per_second']:.0f} images/s{', best' if better else ''}"
            )
            epoch, step, loss_sum = epoch + 1, 0, 0.0
            save()


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    device: torch.device,
    precision: str,
) -> float:
    """One step on a batch: pixels (n, size, size, 3) uint8, targets (n,) float of 0 and 1; returns its mean loss."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(to_floats(pixels, device))
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.to(device))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def predict_logits(
    network: nn.Module,
    prepared: PreparedSet,
    rows: npt.NDArray[np.int64],
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device,
) -> npt.NDArray[np.float64]:
    """Logits (n,) of the given images of a prepared set, in float32 arithmetic as prediction uses."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(to_floats(pixels, device)).double().cpu().numpy()
            for pixels, _ in validation_batches(prepared, rows, preprocessing, batch_size)
        ]
    return np.concatenate([np.empty(0), *parts])  # of many processes, one may have no row


def _start(network: nn.Module, config: TrainConfig, fetch: bool) -> None:
    """Give the network the weights that the settings start from, where they are not another process's job."""
    if config.start_from == "imagenet" or config.frozen:
        from mai_app.models.backbones import Backbone  # noqa: PLC0415 - a second that other trainings need not wait

        if not isinstance(network, Backbone):
            raise RunError(f"--start-from imagenet and --frozen are for torchvision's networks, not {config.model}")
        if config.start_from == "imagenet" and fetch:
            network.load_imagenet()
        if config.frozen:
            network.freeze()
    if fetch and config.start_from not in ("", "imagenet"):
        checkpoint = load_checkpoint(find_checkpoint(config.start_from, config.runs))
        if checkpoint.info.model != config.model:
            raise RunError(f"--start-from {config.start_from}: is a {checkpoint.info.model}, not a {config.model}")
        network.load_state_dict(checkpoint.network.state_dict())


def _rows(config: TrainConfig, prepared: PreparedSet) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    parts = []
    for split in ("train", "val"):
        rows = prepared.rows(split)
        counts = np.bincount(prepared.labels[rows], minlength=2)
        if not counts.all():
            raise DataError(
                f"{config.data}: its {split} part holds {counts[0]} authentic and {counts[1]} synthetic images; "
                f"training needs some of both"
            )
        say(f"{split}: {counts[0]} authentic, {counts[1]} synthetic")
        parts.append(rows)
    return parts[0], parts[1]
