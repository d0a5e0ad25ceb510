"""Leave-sources-out folds: scores of images by networks that never saw their source, and what is chosen by them.

What holds on other images of the sources trained on need not hold on other sources: these scores show what does. Fusion
of the views, temperature, threshold and unsure band are fitted on them.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from mai_app.config import TIERS, Preprocessing
from mai_app.core.files import write_text
from mai_app.core.log import say
from mai_app.core.metrics import auroc
from mai_app.data.layout import Record
from mai_app.errors import DataError, RunError
from mai_app.evaluation.score import Images, Row, open_images, score
from mai_app.inference.detector import Detector
from mai_app.models.calibration import Calibration, calibrate_tiers
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.registry import BEST
from mai_app.models.views import ViewsNet
from mai_app.training.run_folder import Run

SCORED_PER_SOURCE: Final = 8
"""Images of a source, of each class and kind, that are scored without it: a source counts as one, however large."""
MIN_IMAGES: Final = 5
"""Images that a source must have to be named among the worst."""
WORST_SHOWN: Final = 8
"""Sources that are named as the worst."""
FOLDS: Final = "folds.json"
"""File of the folds' sources, in a run's folder."""
REPORT: Final = "out-of-source.json"
"""File of the out-of-source figures, in a run's folder."""


@dataclass(frozen=True)
class Fold:
    """A part of the sources, and the folder of the run that did without it."""

    folder: Path
    sources: frozenset[str]


def make_folds(run_folder: Path, sources: Sequence[str], labels: npt.NDArray[np.int64], count: int) -> list[Fold]:
    """Divide the sources into folds: whole sources each, so that images and sources of both classes are spread evenly.

    sources (n,) and labels (n,) of the images. The largest source goes first, each to the fold that has least of its
    class yet; ties are settled by name, so that the same data give the same folds. Raises DataError for too few.
    """
    sizes = Counter(zip(sources, labels.tolist(), strict=True))
    by_source: dict[str, tuple[int, int]] = {s: (sizes[s, 0], sizes[s, 1]) for s in set(sources)}
    filled = np.zeros((count, 2))
    parts: list[set[str]] = [set() for _ in range(count)]
    # By roots: a source of a thousand images is worth more than one of ten, but no hundred times more.
    for source in sorted(by_source, key=lambda s: (-max(by_source[s]), s)):
        share = np.sqrt(np.array(by_source[source], dtype=np.float64))
        chosen = int(np.argmin(filled @ share + 1e-9 * filled.sum(axis=1)))
        filled[chosen] += share
        parts[chosen].add(source)
    if not (filled > 0).all():
        raise DataError(
            f"--folds {count}: {len(by_source)} sources are too few for images of both classes in each; name sources "
            "by a folder each, or a manifest.csv"
        )
    return [Fold(run_folder / f"fold-{number}", frozenset(part)) for number, part in enumerate(parts, 1)]


def train_folds(run: Run, train_run: Callable[[Run], None], device: torch.device) -> list[Row]:
    """Train once without each fold's sources, and return the scored rows of the images left out.

    Each fold is a run of its own in the run's folder, resumed as any other; so is its scoring.
    """
    rows: list[Row] = []
    sources = np.array(run.prepared.sources)
    images = open_images(run.config.data, "val", run.config.prepared)
    folds = make_folds(
        run.folder, sources[run.train_rows].tolist(), run.prepared.labels[run.train_rows], run.config.folds
    )
    write_text(run.folder / FOLDS, json.dumps([sorted(fold.sources) for fold in folds], indent=1) + "\n")
    for number, fold in enumerate(folds, 1):
        say(f"fold {number} of {len(folds)}: without {len(fold.sources)} sources")
        kept = ~np.isin(sources[run.train_rows], sorted(fold.sources))
        train_run(replace(run, folder=fold.folder, train_rows=run.train_rows[kept]))
        rows += score_fold(fold, images, device)
    return rows


def read_folds(run_folder: Path) -> list[Fold]:
    """The folds that a run was trained with; raises RunError where it was trained without."""
    try:
        parts = json.loads((run_folder / FOLDS).read_text())
        return [Fold(run_folder / f"fold-{number}", frozenset(part)) for number, part in enumerate(parts, 1)]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{run_folder}: was not trained with --folds ({error})") from None


def score_fold(
    fold: Fold,
    images: Images,
    device: torch.device,
    preprocessing: Preprocessing | None = None,
    name: str = "scores",
) -> list[Row]:
    """Score images of the fold's sources, up to SCORED_PER_SOURCE of each kind, by the run that did without them."""
    checkpoint = load_checkpoint(fold.folder / BEST)
    if preprocessing:
        checkpoint = replace(checkpoint, info=replace(checkpoint.info, preprocessing=preprocessing))
    detector = Detector(checkpoint, device)
    chosen = replace(images, records=_chosen(images.records, fold.sources))
    rows = score(detector, chosen, "all", 2, fold.folder / "out-of-source" / f"{name}.jsonl")
    return [row for row in rows if row["part"] == "judged"]


def fit_out_of_source(path: Path, rows: list[Row], data: str) -> None:
    """Fit fusion and calibration on out-of-source rows, write them into the checkpoint, and report the figures."""
    checkpoint = load_checkpoint(path)
    network, labels = checkpoint.network, np.array([row["label"] for row in rows])
    sources = [row["source"] for row in rows]
    logits: dict[str, npt.NDArray[np.float64]]
    if isinstance(network, ViewsNet):
        columns: dict[str, npt.NDArray[np.float64]] = {
            tier: np.array([row["views"][tier] for row in rows]) for tier in TIERS
        }
        weights = fit_fusion(columns, labels, sources)
        network.fusion = torch.from_numpy(weights).float()
        logits = {tier: columns[tier] @ weights[:-1] + weights[-1] for tier in TIERS}
    else:
        logits = {tier: np.array([row["logits"][tier] for row in rows]) for tier in TIERS}
    doubted: dict[str, npt.NDArray[np.bool_]] = {
        tier: np.array([row["doubts"][tier] is not None for row in rows]) for tier in TIERS
    }
    calibration = calibrate_tiers(logits, labels, doubted, data, sources)
    save_checkpoint(path, network, replace(checkpoint.info, calibration=calibration))
    report = describe(logits, labels, sources) | {"kinds": describe_kinds(logits, rows, calibration)}
    if isinstance(network, ViewsNet):
        report["fusion"] = weights.tolist()
    write_text(path.parent / REPORT, json.dumps(report, indent=1) + "\n")
    of_tiers = ", ".join(f"{tier} {report['auroc'][tier]:.3f}" for tier in TIERS)
    say(f"out of source, {len(rows)} images of {len(set(sources))} sources: AUROC {of_tiers}")
    say("worst: " + ", ".join(f"{row['source']} {row['auroc']:.2f}" for row in report["sources"][:WORST_SHOWN]))


def fit_fusion(
    columns: Mapping[str, npt.NDArray[np.float64]], labels: npt.NDArray[np.int64], sources: Sequence[str]
) -> npt.NDArray[np.float64]:
    """A weight for each column of the views' logits and a constant (c + 1,), by logistic regression over all tiers.

    columns: (n, c) by tier. Each source counts alike, and so does each class.
    """
    weights = np.tile(source_weights(labels, sources), len(columns))
    stacked = np.concatenate(list(columns.values()))
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(
        stacked, np.tile(labels, len(columns)), weights * len(stacked) / 2
    )
    return np.append(fitted.coef_[0], fitted.intercept_)


def source_weights(labels: npt.NDArray[np.int64], sources: Sequence[str]) -> npt.NDArray[np.float64]:
    """Weights (n,) by which the sources of a class count alike, and the classes too; those of a class sum to 1."""
    sizes = Counter(zip(sources, labels.tolist(), strict=True))
    weights = np.array([1 / sizes[key] for key in zip(sources, labels.tolist(), strict=True)])
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    return weights


def describe(
    logits: Mapping[str, npt.NDArray[np.float64]], labels: npt.NDArray[np.int64], sources: Sequence[str]
) -> dict[str, Any]:
    """Plain figures of out-of-source scores: AUROC by tier, and by source against all of the other class, worst first.

    A source's AUROC is the mean over the tiers; sources of under MIN_IMAGES images are left out.
    """
    members: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, key in enumerate(zip(sources, labels.tolist(), strict=True)):
        members[key].append(at)
    rows = []
    for (source, label), own in members.items():
        if len(own) >= MIN_IMAGES:
            against = np.concatenate([np.array(own), np.flatnonzero(labels != label)])
            value = float(np.mean([auroc(logits[tier][against], labels[against]) for tier in TIERS]))
            rows.append({"source": source, "label": label, "images": len(own), "auroc": value})
    return {
        "images": len(labels),
        "auroc": {tier: auroc(logits[tier], labels) for tier in TIERS},
        "sources": sorted(rows, key=lambda row: row["auroc"]),
    }


def describe_kinds(
    logits: Mapping[str, npt.NDArray[np.float64]], rows: Sequence[Row], calibration: Calibration
) -> list[dict[str, Any]]:
    """Shares called synthetic at the threshold, and unsure, by tier, of each kind of authentic image, largest first.

    logits: (n,) by tier, of the rows.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row["label"] == 0:
            members[row["kind"]].append(at)
    kinds = []
    for kind, own in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        scores = {tier: calibration.scores(logits[tier][own]) for tier in TIERS}
        unsure = {
            tier: [
                calibration.verdict(float(score), rows[at]["doubts"][tier]) == "unsure"
                for score, at in zip(scores[tier], own, strict=True)
            ]
            for tier in TIERS
        }
        kinds.append(
            {
                "kind": kind,
                "images": len(own),
                "sources": len({rows[at]["source"] for at in own}),
                "fpr": {tier: float((scores[tier] >= calibration.threshold).mean()) for tier in TIERS},
                "unsure": {tier: float(np.mean(unsure[tier])) for tier in TIERS},
            }
        )
    return kinds


def _chosen(records: Iterable[Record], sources: frozenset[str]) -> list[Record]:
    """The train and val records of these sources, at most SCORED_PER_SOURCE of a class and kind of each."""
    groups: dict[tuple[str, int, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.source in sources and record.split in ("train", "val"):
            groups[record.source, record.label, record.kind, record.generator].append(record)

    def order(record: Record) -> str:
        return hashlib.sha256(record.file.encode()).hexdigest()

    return [record for group in groups.values() for record in sorted(group, key=order)[:SCORED_PER_SOURCE]]
