"""Calibrate a checkpoint on the val part of a data set: whole files, in all four tiers of degradation.

RUN/calibration/ holds scores.jsonl, one row per image: an interrupted calibration resumes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from mai_app.config import (
    CALIBRATION_CONFIDENCE,
    CALIBRATION_MIN_IMAGES,
    CALIBRATION_MIN_SOURCES,
    CLASSES,
    TIERS,
    CalibrateConfig,
)
from mai_app.core.device import choose_device
from mai_app.core.display import show_percent
from mai_app.core.files import locked
from mai_app.core.log import say
from mai_app.errors import CheckpointError, DataError
from mai_app.evaluation.score import open_images, score
from mai_app.inference.detector import Detector
from mai_app.models import registry
from mai_app.models.calibration import Calibration, calibrate_tiers
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.hub import cached_name
from mai_app.models.registry import BEST, find_checkpoint, name_of

FOLDER: Final = "calibration"
"""Folder of the scores, beside the checkpoint."""


def calibrate_checkpoint(config: CalibrateConfig) -> tuple[Path, Calibration]:
    """Fit a checkpoint's calibration on the val part of a data set, and write it into the checkpoint's file.

    Images are scored as in evaluation and prediction: whole files, all crops; here in all four tiers. The file is
    replaced atomically; its weights stay as they are. Returns the file and its new calibration.

    Raises CheckpointError for a shipped, downloaded or unusable checkpoint, and one that is trained at the same time,
    DataError for an unusable data set or too few val images.
    """
    path = find_checkpoint(config.model, config.runs)
    if path.parent == registry.FOLDER or cached_name(path):
        whose = f"{name_of(path)}: was downloaded" if cached_name(path) else f"{path}: comes with MAI"
        raise CheckpointError(
            f"{whose} and stays as it is; copy {path} to {config.runs / 'mine' / BEST}, and calibrate that with "
            f"--model mine"
        )
    with _not_trained(path):  # told now, and not after an hour of scoring
        checkpoint = load_checkpoint(path)
    detector = Detector(checkpoint, choose_device(config.device))
    images = open_images(config.data, "val", config.prepared)
    _check_enough([record.label for record in images.records if record.split == "val"], config)
    rows = score(detector, images, "val", config.workers, path.parent / FOLDER / "scores.jsonl")
    judged = [row for row in rows if row["part"] == "judged"]
    _check_enough([row["label"] for row in judged], config)
    calibration = calibrate_tiers(
        {tier: np.array([row["logits"][tier] for row in judged]) for tier in TIERS},
        np.array([row["label"] for row in judged]),
        {tier: np.array([row["doubts"][tier] is not None for row in judged]) for tier in TIERS},
        config.data.resolve().name,
        [row["source"] for row in judged],
    )
    with _not_trained(path):
        if load_checkpoint(path).sha256 != checkpoint.sha256:
            raise CheckpointError(
                f"{path}: was changed meanwhile, perhaps by its training; calibrate it once that is done"
            )
        save_checkpoint(path, checkpoint.network, replace(checkpoint.info, calibration=calibration))
    say(f"{path}: temperature {checkpoint.info.calibration.temperature:.3f} → {calibration.temperature:.3f}")
    return path, calibration


@contextmanager
def _not_trained(path: Path) -> Iterator[None]:
    """Keep training out of a run's folder; raises CheckpointError where it is at work there."""
    if path.name != BEST:
        yield
        return
    try:
        with locked(path.parent, wait=False):
            yield
    except BlockingIOError:
        raise CheckpointError(f"{path}: is being trained at this moment; calibrate it once that is done") from None


def text_table(calibration: Calibration) -> str:
    """A calibration as plain text: threshold, unsure band, and the rates in each tier."""
    columns = ("FPR", "FPR bound", "TPR", "coverage", "right", "right bound")
    images = (calibration.authentic_images, calibration.synthetic_images)
    sources = (calibration.authentic_sources, calibration.synthetic_sources)
    classes = [
        f"{count} {name} images" + (f" of {units} sources" if units else "")
        for name, count, units in zip(CLASSES, images, sources, strict=True)
    ]
    lines = [
        f"Threshold {calibration.threshold:.3f}, unsure from {calibration.unsure_low:.3f} to "
        f"{calibration.unsure_high:.3f}, fitted on the val part of {calibration.data}:",
        f"{' and '.join(classes)}, in four tiers.",
        "",
        f"{'tier':<6}{'images':>7}" + "".join(f"{column:>13}" for column in columns),
    ]
    for tier in TIERS:
        rates = calibration.tiers[tier]
        shares = (rates.fpr, rates.fpr_bound, rates.tpr, 1 - rates.unsure, rates.right, rates.right_bound)
        lines.append(f"{tier:<6}{rates.images:>7}" + "".join(f"{show_percent(share):>13}" for share in shares))
    lines += [
        "coverage: share of the images that get a verdict; right: share of these that are right; –: none is given",
        f"FPR, TPR, right: sources and classes count alike; bounds: {100 * CALIBRATION_CONFIDENCE:.0f} %, one-sided",
    ]
    if few := [name for name, units in zip(CLASSES, sources, strict=True) if not units]:
        lines.append(
            f"fewer than {CALIBRATION_MIN_SOURCES} {' and '.join(few)} sources: each image counts as one; "
            "expect more errors on other sources"
        )
    return "\n".join(lines)


def _check_enough(labels: list[int], config: CalibrateConfig) -> None:
    counts = [labels.count(label) for label in (0, 1)]
    if min(counts) < CALIBRATION_MIN_IMAGES:
        raise DataError(
            f"{config.data}: its val part holds {counts[0]} authentic and {counts[1]} synthetic images whose files are "
            f"there and can be read; calibrating needs {CALIBRATION_MIN_IMAGES} of each. Name a data set with more val "
            f"images, or, for a prepared set, the folder of images that it was made from"
        )
