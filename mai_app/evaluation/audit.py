"""What the files alone give away: how well format, size and JPEG quality predict the class, with no look at a pixel."""

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
from mai_app.evaluation.audit_counts import (
    FORMATS,
    Floats,
    Ints,
    column_codes,
    counts_by,
    duplicates,
    plain_reason,
    statements,
    tally,
)
from mai_app.images.decode import DecodedImage

Folds = list[tuple[Ints, Ints]]
"""Rows to fit on and rows to score, fold by fold."""

PROPERTIES: Final = ("format", "width", "height", "aspect", "bytes a pixel", "JPEG quality")
SAMPLE: Final = 50_000
"""Of more images than this, a seeded sample is measured: half a minute's work, and an interval of ±0.005."""
_FOLDS: Final = 5
_FEWEST: Final = 10
"""Images of a class below which nothing is measured."""
_TREES: Final = 60
_BINS: Final = 255
"""Values of a property told apart, the most that the trees can."""
_ROUNDS: Final = 200
"""Bootstrap rounds, as many as the groups of an evaluation get."""
_BAGS: Final = 1000


def file_properties(image: DecodedImage) -> list[float]:
    """The PROPERTIES of an image's file as numbers; the format by its place in a list, no JPEG has quality 0."""
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
    codes, names = column_codes(table, "format")
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
    files; where there are too few of either class, fitted and judged by five-fold cross-validation on the judged
    files themselves, or NaN if they are too few for that, too.
    """
    trees = _trees([0])
    # So little work is done before threads have found each other; on a busy machine they would wait for long.
    with threadpool_limits(1):
        if np.bincount(train_labels, minlength=2).min() >= _FEWEST:
            trees.fit(np.asarray(train), train_labels)
            return np.asarray(trees.predict_proba(np.asarray(judged))[:, 1], dtype=np.float64)
        if np.bincount(labels, minlength=2).min() >= _FEWEST:
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            scores = cross_val_predict(trees, np.asarray(judged), labels, cv=folds, method="predict_proba")
            return np.asarray(scores[:, 1], dtype=np.float64)
    return np.full(len(judged), np.nan)


def audit(table: pa.Table, refused: list[dict[str, str]], name: str, seed: int = 0) -> dict[str, Any]:
    """How well the files alone predict the class of a prepared set's images, and what else is odd about the set.

    `table` is the manifest, a row an image: file, label (0, 1), split ("" where left out), left_out (why, or ""),
    group (of its duplicates), source, generator, kind, format, width, height, file_bytes, jpeg_quality (null if no
    JPEG), sha256 (of the pixels), given_split. `refused` names the files that could not be read: file, reason, source.

    Synthetic images are often PNG of one size and authentic ones JPEG of many, and detectors learn that (Grommelt et
    al. 2024, "Fake or JPEG?"). So boosted trees that see PROPERTIES alone are judged by the AUROC, 0 to 1, of scores
    that each image gets from trees that have seen none of its duplicates (five-fold cross-validation by `group`);
    then each property alone; then all of them with whole sources held out, since a source's own way of saving files
    tells its images' class without telling a new source's. Intervals are 95 % bootstrap ones: of images, and of
    sources where sources are held out. They take the trees as given: on small sets they are somewhat too narrow.

    Returns plain values for JSON. What can't be measured is None, and `reason` says why; nothing is raised for that.
    """
    labels = np.asarray(table.column("label").to_numpy(), dtype=np.int64)
    codes, reasons = column_codes(table, "left_out")
    used = np.array([not reason for reason in reasons], dtype=bool)[codes]
    x, groups, sources = table_properties(table), column_codes(table, "group")[0], column_codes(table, "source")[0]
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
        "splits": counts_by(table, "split", labels, used, used),
        "sources": counts_by(table, "source", labels, used, every, Counter(row.get("source", "") for row in refused)),
        "kinds": counts_by(table, "kind", labels, used, every),
        "generators": counts_by(table, "generator", labels, used, labels == 1),
        "duplicates": duplicates(table, groups, labels),
        "left_out": dict(Counter({str(reasons[i]): int(n) for i, n in tally(codes[~used])}).most_common()),
        "refused": {
            "count": len(refused),
            "reasons": dict(Counter(plain_reason(row) for row in refused).most_common()),
            "files": [{"file": row["file"], "reason": row["reason"]} for row in refused[:20]],
        },
    }
    order = {"train": 0, "val": 1, "test": 2}
    report["splits"].sort(key=lambda row: order.get(row["name"], 3))
    for row in report["properties"]:
        row["statements"] = statements(row["name"], x[used, PROPERTIES.index(row["name"])], labels[used])
    return report


def over(report: dict[str, Any], threshold: float) -> bool:
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
    area, at_half = _figure(metrics.auroc, scores, labels), _figure(_at_half, scores, labels)
    fpr, tpr = metrics.roc_curve(scores, labels) if folds else (np.zeros(1), np.zeros(1))
    kept = np.unique(np.linspace(0, len(fpr) - 1, 200).astype(np.int64))
    singles: list[dict[str, Any]] = []
    for i, name in enumerate(PROPERTIES):
        alone = _out_of_fold(x[:, [i]], labels, folds, [0] if name == "format" else [])
        single = _figure(metrics.auroc, alone, labels)
        predicts = None if single["value"] is None else max(single["value"], 1 - single["value"])
        singles.append({"name": name, "auroc": single, "predicts": predicts})
    singles.sort(key=lambda row: -(row["predicts"] or 0))

    not_counted = ", not counting those with duplicates in other sources"
    # A duplicate in another source would stand on both sides.
    pairs = np.unique(np.stack([groups, sources], axis=1), axis=0)
    alone_in = np.bincount(pairs[:, 0], minlength=groups.max(initial=0) + 1)[groups] == 1
    x, labels, sources = x[alone_in], labels[alone_in], np.unique(sources[alone_in], return_inverse=True)[1]
    source_folds, source_reason = _folds(labels, sources, "source", _FOLDS, seed)
    held_out = _figure(metrics.auroc, _out_of_fold(x, labels, source_folds, [0]), labels, sources)
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


def _folds(labels: Ints, clusters: Ints, word: str, fewest: int, seed: int) -> tuple[Folds, str]:
    """Up to five folds that part no cluster, or none and the reason."""
    for label, name in enumerate(CLASSES):
        if (n := int((labels == label).sum())) < _FEWEST:
            return [], f"{n} {name} images; at least {_FEWEST} of each class are needed"
    kinds = [len(np.unique(clusters[labels == label])) for label in (0, 1)]
    if min(kinds) < fewest:
        name = CLASSES[int(np.argmin(kinds))]
        return [], f"the {name} images are of {min(kinds)} {word}{'s'[: min(kinds) != 1]}; at least {fewest} are needed"
    if clusters.max() >= _BAGS:
        # scikit-learn tries every fold for every cluster, slowly. Bags of whole clusters part none either.
        clusters = np.random.default_rng(seed).permutation(clusters.max() + 1)[clusters] % _BAGS
    parts = StratifiedGroupKFold(min(_FOLDS, *kinds), shuffle=True, random_state=seed)
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


def _figure(
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


def _at_half(scores: Floats, labels: Ints) -> float:
    return metrics.balanced_accuracy(scores, labels, 0.5)
