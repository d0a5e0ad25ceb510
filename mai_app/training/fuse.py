"""Fuse a run of views and a run of traces into one model, by scores of images whose sources neither has seen."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from mai_app import __version__
from mai_app.config import FuseConfig, Preprocessing
from mai_app.core.device import choose_device
from mai_app.core.files import locked
from mai_app.errors import RunError
from mai_app.evaluation.score import Images, Row, open_images
from mai_app.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mai_app.models.networks import TraceNet
from mai_app.models.registry import BEST, find_checkpoint
from mai_app.models.views import ViewsNet, build_network
from mai_app.training.folds import fit_out_of_source, read_folds, score_fold


def fuse(config: FuseConfig) -> Path:
    """Make the fused model's folder, below config.runs, and return it; the same command resumes.

    Both runs must have been trained with --folds, each with as many as it likes. An image's columns come from the
    networks that did without its source; TraceNet sees the native windows of the views, as it does in the fused model.
    By these columns the weights of whole image, native windows and traces, threshold and unsure band are fitted.

    Raises CheckpointError for an unusable run, RunError for runs that do not fit together.
    """
    paths = [find_checkpoint(name, config.runs) for name in (config.views, config.traces)]
    views, traces = (load_checkpoint(path) for path in paths)
    folder, device = config.runs / config.name, choose_device(config.device)
    if folder in (path.parent for path in paths):
        raise RunError(f"--name {config.name}: is one of the two runs; choose another")
    if views.info.data_fingerprint != traces.info.data_fingerprint:
        raise RunError(f"{views.path} and {traces.path}: were trained on other data; train both on {config.data}")
    try:
        with locked(folder, wait=False):
            images = open_images(config.data, "val", config.prepared)
            rows = _joined_rows(views, traces, images, device)
            _join(views, traces, folder / BEST)
            fit_out_of_source(folder / BEST, rows, config.data.resolve().name)
    except BlockingIOError:
        raise RunError(f"{folder}: another process writes it at this moment; choose another --name") from None
    return folder


def _joined_rows(views: Checkpoint, traces: Checkpoint, images: Images, device: torch.device) -> list[Row]:
    """The out-of-source rows of the run of views, with the traces' logits as one more column."""
    rows = [row for fold in read_folds(views.path.parent) for row in score_fold(fold, images, device)]
    how = views.info.preprocessing
    windows = Preprocessing(input="crop", size=how.size, crops=how.crops)
    scored = [
        row for fold in read_folds(traces.path.parent) for row in score_fold(fold, images, device, windows, "native")
    ]
    logits = {row["file"]: row["logits"] for row in scored}
    if missing := [row["file"] for row in rows if row["file"] not in logits]:
        raise RunError(f"{traces.path.parent}: has no scores of {len(missing)} images, {missing[0]} among them")
    for row in rows:
        row["views"] = {tier: [*columns, logits[row["file"]][tier]] for tier, columns in row["views"].items()}
    return rows


def _join(views: Checkpoint, traces: Checkpoint, out: Path) -> None:
    """Write a checkpoint with the networks of both, its fusion and calibration not fitted yet."""
    built = views.info.architecture
    if built is None or built.traces:
        raise RunError(f"{views.path}: is no run of views alone; train one with --recipe views")
    if not isinstance(traces.network, TraceNet):
        raise RunError(f"{traces.path}: is a {traces.info.model}, not a run of traces")
    architecture = replace(built, traces=True)
    network = cast("ViewsNet", build_network(views.info.model, architecture))
    network.body.load_state_dict(cast("ViewsNet", views.network).body.state_dict())
    network.heads.load_state_dict(cast("ViewsNet", views.network).heads.state_dict())
    cast("TraceNet", network.traces).load_state_dict(traces.network.state_dict())
    training = dict(views.info.training) | {"traces": dict(traces.info.training)}
    info = replace(views.info, architecture=architecture, mai_version=__version__, training=training)
    save_checkpoint(out, network, info)
