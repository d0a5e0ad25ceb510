"""Evaluate a checkpoint on a data set: metrics in four tiers of degradation, overall and by group, and a report.

The report's folder holds scores.jsonl (one row per image, written as they come: an interrupted evaluation resumes),
bias.jsonl (the same for --bias), report.json and report.html.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mai_app import __version__
from mai_app.config import FPR_CEILING, TIERS, EvaluateConfig
from mai_app.core import metrics
from mai_app.core.device import choose_device
from mai_app.core.files import write_text
from mai_app.errors import DataError, ImageError
from mai_app.evaluation.audit import format_only_scores
from mai_app.evaluation.bias import bias_figures, predict_versions
from mai_app.evaluation.model_card_figures import NOT_NAMED
from mai_app.evaluation.report import Curves, html_page
from mai_app.evaluation.score import Row, open_images, score, scores_of, verdicts_of
from mai_app.images.decode import decode, encode_jpeg
from mai_app.images.preprocess import shrink
from mai_app.images.quality import TIER_WORDS
from mai_app.inference.detector import Detector
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.hub import cached_name
from mai_app.models.registry import find_checkpoint, results_folder

GROUPS: Final = (("kind", 0), ("source", 0), ("generator", 1), ("source", 1))
"""Groups that have figures of their own: column of the data set's rows, and class."""
MAX_MISTAKES: Final = 12
"""Images of a class that the report's page shows."""
THUMBNAIL_SIDE: Final = 160
"""Longest side, in pixels."""
THUMBNAIL_QUALITY: Final = 75
"""JPEG quality."""


def evaluate(config: EvaluateConfig, note: str = "") -> dict[str, Any]:
    """Evaluate a checkpoint on a data set; write the report's folder, and return the report.

    The report holds plain numbers, strings, lists and dicts only. A `note` on the data stands at its head. Raises
    CheckpointError for an unusable checkpoint, DataError for an unusable data set or a part without one of the classes.
    """
    path = find_checkpoint(config.model, config.runs)
    detector = Detector(load_checkpoint(path), choose_device(config.device))
    out = config.out or results_folder(path, config.runs) / f"report-{config.split}"
    images = open_images(config.data, config.split, config.prepared)
    rows = score(detector, images, config.split, config.workers, out / "scores.jsonl")
    judged = [row for row in rows if row["part"] == "judged"]
    counts = [sum(row["label"] == label for row in judged) for label in (0, 1)]
    if not all(counts):
        raise DataError(
            f"{config.data}: its {config.split} part holds {counts[0]} authentic and {counts[1]} synthetic images; "
            "evaluation needs some of both"
        )
    bias = None
    if config.bias:
        versions = predict_versions(detector, images, judged, config.bias_images, config.workers, out / "bias.jsonl")
        bias = bias_figures(detector, versions)
    curves: Curves = {tier: (scores_of(detector, judged, tier), _labels(judged)) for tier in TIERS}
    mistakes = worst_mistakes(judged, curves, detector.info.calibration.threshold)
    report = {
        "mai_version": __version__,
        "note": note,
        "model": detector.info.model,
        "version": detector.checkpoint.version,
        "checkpoint": str(cached_name(path) or path),
        "input": detector.info.preprocessing.input,
        "trained_on": detector.info.data,
        "data": str(config.data),
        "split": config.split,
        "authentic": counts[0],
        "synthetic": counts[1],
        "refused": [row["file"] for row in rows if row["part"] == "refused"],
        "calibration": asdict(detector.info.calibration),
        "tier_words": TIER_WORDS,
        "tiers": _figures(detector, judged, [row for row in rows if row["part"] == "train"]),
        "bias": bias,
        "mistakes": mistakes,
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    # Only the page holds pictures, so that report.json can be shared without sharing images.
    records = {record.file: record for record in images.records}
    pictures = {
        row["file"]: make_thumbnail(partial(images.read, records[row["file"]]), row["file"]) for row in mistakes
    }
    write_text(out / "report.html", html_page(report, curves, pictures))
    return report | {"folder": str(out)}


def worst_mistakes(judged: list[Row], curves: Curves, threshold: float) -> list[dict[str, Any]]:
    """Find the images whose clean scores are farthest on the wrong side of the threshold, at most MAX_MISTAKES a class.

    `curves`: scores (n,) and labels (n,) of the judged rows by tier. Returns file, label, source, generator and the
    scores by tier, authentic images first, the worst first.
    """
    scores, labels = curves["clean"]
    mistakes = []
    for label in (0, 1):
        wrong = np.flatnonzero((labels == label) & ((scores >= threshold) != (label == 1)))
        for i in sorted(wrong.tolist(), key=lambda i: (-abs(scores[i] - label), judged[i]["file"]))[:MAX_MISTAKES]:
            names = {name: judged[i][name] for name in ("file", "label", "source", "generator")}
            mistakes.append(names | {"scores": {tier: float(curves[tier][0][i]) for tier in TIERS}})
    return mistakes


def make_thumbnail(read: Callable[[], bytes], name: str) -> str:
    """A small JPEG of an image file's bytes, as a data: URI; empty for what can no longer be read."""
    try:
        pixels = shrink(decode(read(), name).pixels, THUMBNAIL_SIDE)
    except ImageError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels, THUMBNAIL_QUALITY)).decode()}"


def _figures(detector: Detector, judged: list[Row], train: list[Row]) -> dict[str, Any]:
    labels, train_labels = _labels(judged), _labels(train)
    calibration = detector.info.calibration
    tiers: dict[str, Any] = {}
    for tier in TIERS:
        scores = scores_of(detector, judged, tier)
        alone = format_only_scores(
            [row["properties"][tier] for row in judged],
            labels,
            [row["properties"][tier] for row in train],
            train_labels,
        )
        verdicts = verdicts_of(detector, judged, tier)
        groups = list(_groups(judged, labels, scores, verdicts, calibration.threshold))
        right = np.where(labels == 1, "synthetic", "authentic") == verdicts
        given = verdicts != "unsure"
        figures: dict[str, Callable[[metrics.Floats, metrics.Ints], float]] = {
            "auroc": metrics.auroc,
            "average_precision": metrics.average_precision,
            "balanced_accuracy": lambda s, y: metrics.balanced_accuracy(s, y, calibration.threshold),
            "tpr": lambda s, y: metrics.rate_above(s[y == 1], calibration.threshold),
            "fpr": lambda s, y: metrics.rate_above(s[y == 0], calibration.threshold),
            "tpr_at_5_fpr": lambda s, y: metrics.tpr_at_fpr(s, y, FPR_CEILING),
        }
        ece = metrics.expected_calibration_error(scores, labels)
        tiers[tier] = {
            **{name: metrics.plain(metrics.bootstrap(figure, scores, labels)) for name, figure in figures.items()},
            "ece": metrics.plain(metrics.Interval(ece, float("nan"), float("nan"))),
            # Of the authentic images, each source counting alike, as in `mai calibrate`.
            "fpr_by_source": float(
                np.mean([g["called_synthetic"]["value"] for g in groups if (g["column"], g["label"]) == ("source", 0)])
            ),
            "unsure": float((~given).mean()),
            "coverage": float(given.mean()),
            "doubted": float(np.mean([row["doubts"][tier] is not None for row in judged])),
            "verdicts": int(given.sum()),
            "verdicts_right": float(right[given].mean()) if given.any() else None,
            "format_only_auroc": metrics.plain(metrics.bootstrap(metrics.auroc, alone, labels)),
            "groups": groups,
        }
    return tiers


def _groups(
    judged: list[Row],
    labels: metrics.Ints,
    scores: metrics.Floats,
    verdicts: npt.NDArray[np.str_],
    threshold: float,
) -> Iterator[Row]:
    for column, label in GROUPS:
        names = np.array([row[column] or NOT_NAMED for row in judged])
        for name in sorted(set(names[labels == label])):
            members = (labels == label) & (names == name)
            # Against all images of the other class: one group alone seldom has both.
            against = members | (labels != label)
            n = int(members.sum())
            unsure = float((verdicts[members] == "unsure").mean())
            yield {
                "column": column,
                "label": label,
                "name": str(name),
                "images": n,
                "called_synthetic": metrics.plain(metrics.wilson(metrics.rate_above(scores[members], threshold), n)),
                "auroc": metrics.plain(metrics.bootstrap(metrics.auroc, scores[against], labels[against], rounds=200)),
                "mean_p_synthetic": float(scores[members].mean()),
                "unsure": unsure,
                "coverage": 1 - unsure,
            }


def _labels(rows: list[Row]) -> metrics.Ints:
    return np.array([row["label"] for row in rows], dtype=np.int64)
