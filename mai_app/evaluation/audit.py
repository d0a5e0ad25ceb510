"""Data set audit: how well format, size and JPEG quality alone predict an image's class, without its pixels."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from mai_app import __version__
from mai_app.config import CLASSES
from mai_app.core import metrics
from mai_app.data.match import SURPLUS
from mai_app.evaluation.audit_counts import (
    FORMATS,
    Bools,
    Floats,
    Ints,
    count_codes,
    counts_by,
    describe_property,
    duplicates,
    encode_column,
    generalize_reason,
)
from mai_app.images.decode import DecodedImage

Folds = list[tuple[Ints, Ints]]
"""Rows to fit on and rows to score, fold by fold."""

PROPERTIES: Final = ("format", "width", "height", "aspect", "bytes a pixel", "JPEG quality")
SAMPLE: Final = 50_000
"""Larger data sets are measured on a seeded sample of this size: half a minute, and an interval of ±0.005."""
_FOLDS: Final = 5
_MIN_IMAGES: Final = 10
"""Minimum number of images of a class; with fewer, nothing is measured."""
_TREES: Final = 60
_BINS: Final = 255
"""Histogram bins of a property, the maximum that the trees allow."""
_ROUNDS: Final = 200
"""Bootstrap rounds, as for the groups of an evaluation."""
_BAGS: Final = 1000


def file_properties(image: DecodedImage) -> list[float]:
    """The PROPERTIES of an image's file as numbers; the format by its index in FORMATS, quality 0 if no JPEG."""
    height, width = image.pixels.shape[:2]
    return [
        float(FORMATS.index(image.format)),
        float(width),
        float(height),
        width / height,
        image.file_bytes / (width * height),
        float(image.jpeg_quality or 0),
    ]


def table_properties(table: pa.Table) -> Floats:
    """The PROPERTIES (n, 6) of a manifest's rows, as file_properties gives them; an unknown format is NaN."""
    codes, names = encode_column(table, "format")
    formats = np.array([float(FORMATS.index(name)) if name in FORMATS else np.nan for name in names])
    width, height, size, quality = (
        np.asarray(table.column(name).cast(pa.float64()).fill_null(0.0).to_numpy(), dtype=np.float64)
        for name in ("width", "height", "file_bytes", "jpeg_quality")
    )
    return np.stack([formats[codes], width, height, width / height, size / (width * height), quality], axis=1)


def format_only_scores(
    judged: Sequence[Sequence[float]],
    labels: Ints,
    train: Sequence[Sequence[float]],
    train_labels: Ints,
) -> Floats:
    """Scores (n,) of the baseline that sees files' properties alone, for the `judged` (n, 6) files.

    Boosted trees (scikit-learn's histogram gradient boosting, after LightGBM, Ke et al. 2017), fitted on the `train`
    files; with too few of either class there, by five-fold cross-validation on the judged files themselves. NaN if
    those are too few as well.
    """
    trees = _trees([0])
    # One thread: on so little data, several cost more in synchronization than they gain.
    with threadpool_limits(1):
        if np.bincount(train_labels, minlength=2).min() >= _MIN_IMAGES:
            trees.fit(np.asarray(train), train_labels)
            return np.asarray(trees.predict_proba(np.asarray(judged))[:, 1], dtype=np.float64)
        if np.bincount(labels, minlength=2).min() >= _MIN_IMAGES:
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            scores = cross_val_predict(trees, np.asarray(judged), labels, cv=folds, method="predict_proba")
            return np.asarray(scores[:, 1], dtype=np.float64)
    return np.full(len(judged), np.nan)


def audit(table: pa.Table, refused: list[dict[str, str]], name: str, seed: int = 0) -> dict[str, Any]:
    """Measure how well file properties alone predict the class in a prepared set, and count its duplicates and rejects.

    `table` is the manifest, a row an image: file, label (0, 1), split ("" where left out), left_out (why, or ""),
    group (of its duplicates), source, generator, kind, format, width, height, file_bytes, jpeg_quality (null if no
    JPEG), sha256 (of the pixels), given_split. `refused` names the files that could not be read: file, reason, source.

    Synthetic images are often PNG of one size and authentic ones JPEG of many, and detectors learn that (Grommelt et
    al. 2024, "Fake or JPEG?"). Boosted trees see PROPERTIES alone; the measure is the AUROC, 0 to 1, of out-of-fold
    scores (five-fold cross-validation grouped by `group`, so that no image is scored by trees fitted on a duplicate):
    of all properties, of each alone, and of all with whole sources held out, since how a source saves its files
    predicts the class of its own images and not of a new source's. Intervals are 95 % bootstrap ones, over images, or
    over sources where sources are held out. They take the trees as given: on small sets they are somewhat too narrow.

    Returns plain values for JSON. What can't be measured is None, and `reason` says why; nothing is raised for that.
    """
    labels = np.asarray(table.column("label").to_numpy(), dtype=np.int64)
    codes, reasons = encode_column(table, "left_out")
    used = np.array([not reason for reason in reasons], dtype=bool)[codes]
    x, groups, sources = table_properties(table), encode_column(table, "group")[0], encode_column(table, "source")[0]
    rows = _sample(np.flatnonzero(used), labels, seed)
    every = np.ones(len(labels), dtype=bool)
    report = {
        "mai_version": __version__,
        "name": name,
        "seed": seed,
        "images": len(labels),
        "used": {word: int((used & (labels == label)).sum()) for label, word in enumerate(CLASSES)},
        "measured": len(rows),
        "sampled": len(rows) < int(used.sum()),
        **_measure(x[rows], labels[rows], groups[rows], sources[rows], seed),
        "before_matching": _before_matching(x, labels, groups, used, codes, reasons, seed),
        "splits": counts_by(table, "split", labels, used, used),
        "sources": counts_by(table, "source", labels, used, every, Counter(row.get("source", "") for row in refused)),
        "kinds": counts_by(table, "kind", labels, used, every),
        "generators": counts_by(table, "generator", labels, used, labels == 1),
        "duplicates": duplicates(table, groups, labels),
        "left_out": dict(Counter({str(reasons[i]): int(n) for i, n in count_codes(codes[~used])}).most_common()),
        "refused": {
            "count": len(refused),
            "reasons": dict(Counter(generalize_reason(row) for row in refused).most_common()),
            "files": [{"file": row["file"], "reason": row["reason"]} for row in refused[:20]],
        },
    }
    order = {"train": 0, "val": 1, "test": 2}
    report["splits"].sort(key=lambda row: order.get(row["name"], 3))
    for row in report["properties"]:
        row["statements"] = describe_property(row["name"], x[used, PROPERTIES.index(row["name"])], labels[used])
    return report


def exceeds_limit(report: dict[str, Any], threshold: float) -> bool:
    """Whether the files' properties together, cross-validated by groups, reach an AUROC above the threshold (0 to 1).

    False where that could not be measured: report["all"]["reason"] then says why.
    """
    value = report["all"]["auroc"]["value"]
    return value is not None and value > threshold


def _trees(categorical: list[int]) -> Any:
    return HistGradientBoostingClassifier(
        categorical_features=categorical,
        class_weight="balanced",
        min_samples_leaf=5,
        max_iter=_TREES,
        max_bins=_BINS,
        random_state=0,
    )


def _sample(rows: Ints, labels: Ints, seed: int) -> Ints:
    """Of more than SAMPLE rows as many, the classes as near to half and half as there are images."""
    if len(rows) <= SAMPLE:
        return rows
    parts = [rows[labels[rows] == label] for label in (0, 1)]
    few = min(len(parts[0]), len(parts[1]), SAMPLE // 2)
    rng = np.random.default_rng(seed)
    wanted = [few if len(part) == few else min(len(part), SAMPLE - few) for part in parts]
    return np.sort(np.concatenate([rng.choice(part, n, False) for part, n in zip(parts, wanted, strict=True)]))


def _measure(x: Floats, labels: Ints, groups: Ints, sources: Ints, seed: int) -> dict[str, Any]:
    """The AUROCs: of all properties, of each alone, of all where whole sources are held out; and the ROC curve."""
    folds, reason = _folds(labels, groups, "duplicate group", 2, seed)
    scores = _out_of_fold(x, labels, folds, [0])
    area, at_half = _estimate(metrics.auroc, scores, labels), _estimate(_accuracy_at_half, scores, labels)
    fpr, tpr = metrics.roc_curve(scores, labels) if folds else (np.zeros(1), np.zeros(1))
    kept = np.unique(np.linspace(0, len(fpr) - 1, 200).astype(np.int64))
    singles: list[dict[str, Any]] = []
    for i, name in enumerate(PROPERTIES):
        alone = _out_of_fold(x[:, [i]], labels, folds, [0] if name == "format" else [])
        single = _estimate(metrics.auroc, alone, labels)
        predicts = None if single["value"] is None else max(single["value"], 1 - single["value"])
        singles.append({"name": name, "auroc": single, "predicts": predicts})
    singles.sort(key=lambda row: -(row["predicts"] or 0))

    not_counted = ", not counting those with duplicates in other sources"
    # A duplicate in another source would stand on both sides.
    pairs = np.unique(np.stack([groups, sources], axis=1), axis=0)
    alone_in = np.bincount(pairs[:, 0], minlength=groups.max(initial=0) + 1)[groups] == 1
    x, labels, sources = x[alone_in], labels[alone_in], np.unique(sources[alone_in], return_inverse=True)[1]
    source_folds, source_reason = _folds(labels, sources, "source", _FOLDS, seed)
    held_out = _estimate(metrics.auroc, _out_of_fold(x, labels, source_folds, [0]), labels, sources)
    gap = None if area["value"] is None or held_out["value"] is None else area["value"] - held_out["value"]
    return {
        "all": {"auroc": area, "balanced_accuracy": at_half, "folds": len(folds), "reason": reason},
        "roc": {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()},
        "properties": singles,
        "worst": singles[0]["name"] if folds else None,
        "sources_held_out": {
            "auroc": held_out,
            "gap": gap,
            "images": len(labels),
            "folds": len(source_folds),
            "reason": source_reason + (not_counted if source_reason and not alone_in.all() else ""),
        },
    }


def _before_matching(
    x: Floats, labels: Ints, groups: Ints, used: Bools, codes: Ints, reasons: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """Of a set whose classes were matched, the AUROC of all properties together with the images left out for that."""
    if SURPLUS not in reasons:
        return None
    rows = _sample(np.flatnonzero(used | (codes == list(reasons).index(SURPLUS))), labels, seed)
    folds, reason = _folds(labels[rows], groups[rows], "duplicate group", 2, seed)
    scores = _out_of_fold(x[rows], labels[rows], folds, [0])
    return {"auroc": _estimate(metrics.auroc, scores, labels[rows]), "images": len(rows), "reason": reason}


def _folds(labels: Ints, clusters: Ints, word: str, min_clusters: int, seed: int) -> tuple[Folds, str]:
    """Up to five folds that part no cluster, or none and the reason."""
    for label, name in enumerate(CLASSES):
        if (n := int((labels == label).sum())) < _MIN_IMAGES:
            return [], f"{n} {name} images; at least {_MIN_IMAGES} of each class are needed"
    counts = [len(np.unique(clusters[labels == label])) for label in (0, 1)]
    if min(counts) < min_clusters:
        name = CLASSES[int(np.argmin(counts))]
        plural = "" if min(counts) == 1 else "s"
        return [], f"the {name} images are of {min(counts)} {word}{plural}; at least {min_clusters} are needed"
    if clusters.max() >= _BAGS:
        # scikit-learn tries every fold for every cluster, slowly. Bags of whole clusters part none either.
        clusters = np.random.default_rng(seed).permutation(clusters.max() + 1)[clusters] % _BAGS
    parts = StratifiedGroupKFold(min(_FOLDS, *counts), shuffle=True, random_state=seed)
    folds = [(fit, score) for fit, score in parts.split(clusters, labels, clusters) if len(score)]
    if any(len(np.unique(labels[fit])) < 2 for fit, _ in folds):
        return [], f"nearly all images of a class are of one {word}"
    return folds, ""


def _out_of_fold(x: Floats, labels: Ints, folds: Folds, categorical: list[int]) -> Floats:
    """Scores (n,), each of trees that were fitted on the other folds; NaN without folds."""
    scores = np.full(len(labels), np.nan)
    with threadpool_limits(1):
        for fit, score in folds:
            trees = _trees(categorical).fit(x[fit], labels[fit])
            scores[score] = trees.predict_proba(x[score])[:, 1]
    return scores


def _estimate(
    figure: Callable[[Floats, Ints], float], scores: Floats, labels: Ints, clusters: Ints | None = None
) -> dict[str, float | None]:
    """A figure with its 95 % bootstrap interval for JSON, None for NaN; whole clusters redrawn where they are given."""
    if np.isnan(scores).any() or not len(scores):
        return {"value": None, "low": None, "high": None}
    if clusters is None:
        return asdict(metrics.bootstrap(figure, scores, labels, _ROUNDS))
    # Images of one source are not independent: an interval of images would be far too narrow.
    rows = np.split(np.argsort(clusters, kind="stable"), np.cumsum(np.bincount(clusters))[:-1])
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))]) for _ in range(_ROUNDS)]
    low, high = np.nanquantile([figure(scores[part], labels[part]) for part in drawn], [0.025, 0.975])
    return {"value": figure(scores, labels), "low": float(low), "high": float(high)}


def _accuracy_at_half(scores: Floats, labels: Ints) -> float:
    return metrics.balanced_accuracy(scores, labels, 0.5)
