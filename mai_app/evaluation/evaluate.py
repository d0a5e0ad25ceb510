"""From a checkpoint and a data set to figures: every image judged in four tiers, then counted in every way that helps.

The report's folder holds scores.jsonl (a line an image, written as they come: an interrupted evaluation carries on),
report.json and report.html.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mai_app import __version__
from mai_app.atomic import write_text
from mai_app.checkpoint import find_checkpoint, load_checkpoint
from mai_app.config import FPR_CEILING, TIERS, EvaluateConfig, Preprocessing
from mai_app.data.augment import TIER_SETTINGS, TIER_WORDS, degrade
from mai_app.data.folders import Record, listing_hash, scan
from mai_app.data.images import Pixels, decode, read_file
from mai_app.data.inputs import to_inputs
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet, find_prepared, open_prepared
from mai_app.data.streaming import ordered_map
from mai_app.device import choose_device
from mai_app.errors import DataError, ImageError
from mai_app.evaluation import metrics
from mai_app.evaluation.audit import file_properties, format_only_scores
from mai_app.evaluation.report import html_page
from mai_app.predict import Detector
from mai_app.progress import bar, say

TRAIN_FILES: Final = 1000
"""Where the train part has twice as many files or more, the format-only baseline is fitted on every k-th of them: at
least this many, under twice as many."""
GROUPS: Final = (("kind", 0), ("source", 0), ("generator", 1), ("source", 1))
"""Groups that are counted apart: by which column, in which class."""

Row = dict[str, Any]


def evaluate(config: EvaluateConfig, note: str = "") -> dict[str, Any]:
    """Measure a checkpoint on a data set and return the report, which is also written to the report's folder.

    A `note` on the data stands at the head of the report.

    Raises CheckpointError and DataError for what can't be measured. Plain numbers, strings, lists and dicts only.
    """
    path = find_checkpoint(config.model, config.runs)
    detector = Detector(load_checkpoint(path), choose_device(config.device))
    out = config.out or path.parent / f"report-{config.split}"
    data, records, read = _open(config)
    header = {
        "mai_version": __version__,
        "checkpoint": detector.checkpoint.sha256,
        "data": data,
        "split": config.split,
        "tiers": {tier: list(settings) for tier, settings in TIER_SETTINGS.items()},
    }
    rows = _score(config, detector, records, read, out / "scores.jsonl", header)
    judged = [row for row in rows if row["part"] == "judged"]
    counts = [sum(row["label"] == label for row in judged) for label in (0, 1)]
    if not all(counts):
        raise DataError(
            f"{config.data}: its {config.split} part holds {counts[0]} authentic and {counts[1]} synthetic images; "
            "evaluation needs some of both"
        )
    report = {
        "mai_version": __version__,
        "note": note,
        "model": detector.info.model,
        "version": detector.checkpoint.version,
        "checkpoint": str(path),
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
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "report.html", html_page(report, _curves(detector, judged)))
    return report | {"folder": str(out)}


def _open(config: EvaluateConfig) -> tuple[str, list[Record], Callable[[Record], bytes]]:
    """What names the data, its images with their splits, and the function that reads an image's file."""
    if found := find_prepared(config.data, config.prepared):
        prepared = open_prepared(found)
        rows = [row for row in range(len(prepared)) if prepared.original_bytes[row]]
        where = {prepared.table["file"][row].as_py(): row for row in rows}
        if not where:
            raise DataError(f"{config.data}: keeps no image files; name the folder of images that it was made from")
        records = _of_manifest(prepared, rows)
        say(f"{config.data} keeps the files of its test part alone, {len(records)} of them")
        return prepared.fingerprint, records, lambda record: prepared.original(where[record.file])

    records = scan(config.data)
    splits = {record.split for record in records}
    data = listing_hash(config.data, records)
    if config.split != "all" and ("" in splits or ("val" not in splits and config.split != "test")):
        say("the folders do not say which images are test images: the prepared set's seeded draw does")
        prepared = prepare(config.data, config.prepared)
        refused = {row["file"] for row in prepared.refused()}
        # What could not be decoded has no split; it is named among the refused of any.
        records = [replace(record, split=config.split) for record in records if record.file in refused]
        records += _of_manifest(prepared, range(len(prepared)))
    return data, records, lambda record: read_file(config.data / record.file)


def _of_manifest(prepared: PreparedSet, rows: Iterable[int]) -> list[Record]:
    """The rows' records, with the splits that preparing gave them; those that it left out are left out."""
    columns = ["file", "label", "split", "source", "generator", "kind", "tie"]
    chosen = prepared.table.select(columns).take(list(rows)).to_pylist()
    return [Record(**row) for row in chosen if row["split"]]


def _score(
    config: EvaluateConfig,
    detector: Detector,
    records: list[Record],
    read: Callable[[Record], bytes],
    path: Path,
    header: dict[str, Any],
) -> list[Row]:
    """A row for each image judged, each file of the train part, and each file refused; taken up where it stopped."""
    rows = _resume(path, header)
    done = {row["file"] for row in rows}
    training = [record for record in records if record.split == "train"] if config.split == "test" else []
    every = max(1, len(training) // TRAIN_FILES)
    wanted = training[::every] + [record for record in records if config.split in ("all", record.split)]
    wanted = [record for record in dict.fromkeys(wanted) if record.file not in done]

    def look(record: Record) -> tuple[Row, list[Pixels]]:
        return _look(config, record, read, detector.info.preprocessing)

    progress = bar(total=len(done) + len(wanted), initial=len(done), desc="evaluating", unit="image")
    with progress, path.open("a", encoding="utf-8") as stream:
        for row, inputs in ordered_map(look, wanted, config.workers):
            if inputs:
                row["logits"] = dict(zip(TIERS, detector.logits(inputs).tolist(), strict=True))
            stream.write(json.dumps(row) + "\n")
            rows.append(row)
            progress.update()
    return rows


def _look(
    config: EvaluateConfig, record: Record, read: Callable[[Record], bytes], preprocessing: Preprocessing
) -> tuple[Row, list[Pixels]]:
    """An image's row, without its logits yet, and its inputs in each tier, where it is to be judged."""
    row: Row = asdict(record)
    judged = config.split in ("all", record.split)
    try:
        image = decode(read(record), record.file)
    except ImageError as error:
        say(f"left out: {error}")
        return row | {"part": "refused" if judged else "other", "reason": error.reason}, []
    tiers = [degrade(image, tier) for tier in TIERS]
    row["properties"] = {tier: file_properties(seen) for tier, seen in zip(TIERS, tiers, strict=True)}
    if not judged:
        return row | {"part": "train"}, []
    return row | {"part": "judged"}, [to_inputs(seen.pixels, preprocessing) for seen in tiers]


def _resume(path: Path, header: dict[str, Any]) -> list[Row]:
    """The whole rows of an earlier evaluation of the same things; leaves a file of the header and these."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    if rows[:1] != [header]:
        rows = [header]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows[1:]


def _figures(detector: Detector, judged: list[Row], train: list[Row]) -> dict[str, Any]:
    labels = np.array([row["label"] for row in judged])
    train_labels = np.array([row["label"] for row in train], dtype=np.int64)
    calibration = detector.info.calibration
    tiers: dict[str, Any] = {}
    for tier in TIERS:
        scores = _scores(detector, judged, tier)
        alone = format_only_scores(
            [row["properties"][tier] for row in judged],
            labels,
            [row["properties"][tier] for row in train],
            train_labels,
        )
        verdicts = np.array([calibration.verdict(score) for score in scores])
        right = np.where(labels == 1, "synthetic", "authentic") == verdicts
        given = verdicts != "unsure"
        figures: dict[str, Callable[[metrics.Floats, metrics.Ints], float]] = {
            "auroc": metrics.auroc,
            "average_precision": metrics.average_precision,
            "balanced_accuracy": lambda s, y: metrics.balanced_accuracy(s, y, calibration.threshold),
            "tpr": lambda s, y: metrics.rate_above(s[y == 1], calibration.threshold),
            "fpr": lambda s, y: metrics.rate_above(s[y == 0], calibration.threshold),
            "tpr_at_5_fpr": lambda s, y: metrics.tpr_at_fpr(s, y, FPR_CEILING),
            "ece": metrics.expected_calibration_error,
        }
        tiers[tier] = {
            **{name: _plain(metrics.bootstrap(figure, scores, labels)) for name, figure in figures.items()},
            "unsure": float((~given).mean()),
            "verdicts": int(given.sum()),
            "verdicts_right": float(right[given].mean()) if given.any() else None,
            "format_only_auroc": _plain(metrics.bootstrap(metrics.auroc, alone, labels)),
            "groups": list(_groups(judged, labels, scores, calibration.threshold)),
        }
    return tiers


def _groups(judged: list[Row], labels: metrics.Ints, scores: metrics.Floats, threshold: float) -> Iterator[Row]:
    for column, label in GROUPS:
        names = np.array([row[column] or "(not named)" for row in judged])
        for name in sorted(set(names[labels == label])):
            members = (labels == label) & (names == name)
            # Against all images of the other class: one group alone seldom has both.
            against = members | (labels != label)
            n = int(members.sum())
            yield {
                "column": column,
                "label": label,
                "name": str(name),
                "images": n,
                "called_synthetic": _plain(metrics.wilson(metrics.rate_above(scores[members], threshold), n)),
                "auroc": _plain(metrics.bootstrap(metrics.auroc, scores[against], labels[against], rounds=200)),
                "mean_p_synthetic": float(scores[members].mean()),
            }


def _curves(detector: Detector, judged: list[Row]) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Scores and labels by tier, for the plots."""
    labels = np.array([row["label"] for row in judged])
    return {tier: (_scores(detector, judged, tier), labels) for tier in TIERS}


def _scores(detector: Detector, judged: Iterable[Row], tier: str) -> npt.NDArray[np.float64]:
    return detector.p_synthetic(np.array([row["logits"][tier] for row in judged]))


def _plain(interval: metrics.Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in asdict(interval).items()}
