"""Score a data set's images in four tiers of degradation: rows with logits, in a log that the same call resumes from.

Evaluation, calibration and the bias check score through this module, on whole files as prediction does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from mai_app import __version__
from mai_app.config import QUALITY_LIMITS, TIERS, Tier
from mai_app.core.device import one_thread_each
from mai_app.core.files import append_rows, lock, resume_rows
from mai_app.core.log import bar, say
from mai_app.core.parallel import ordered_map
from mai_app.data.layout import Record, listing_hash, read_layout
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet, find_prepared, open_prepared
from mai_app.errors import DataError, ImageError
from mai_app.evaluation.audit import file_properties
from mai_app.images.decode import DecodedImage, Pixels, decode, read_file
from mai_app.images.preprocess import shrink, to_inputs
from mai_app.images.quality import TIER_SETTINGS, degrade, save_as, unjudgeable_reason
from mai_app.inference.detector import Detector

TRAIN_FILES: Final = 1000
"""Where the train part has twice as many files or more, the format-only baseline is fitted on every k-th of them: at
least this many, under twice as many."""

Row = dict[str, Any]
"""An image's record and its part: judged, train, refused or other. If judged, also logits and doubts by tier, the
views' logits where there are several, and file properties by tier; if train, the properties; else the reason."""
Look = Callable[[Record], tuple[Row, list[Pixels]]]
"""Makes of an image its row, without logits, and the network's inputs: one for each name in the row's `doubts`."""


@dataclass(frozen=True)
class Images:
    """The images of a data set that can be scored."""

    data: str
    """Names the data set: another value where its files are others."""
    records: list[Record]
    """With their splits."""
    read: Callable[[Record], bytes]
    """Reads an image's file; raises ImageError."""


def open_images(data: Path, split: str, prepared: Path) -> Images:
    """Find the images of a folder or of a prepared set, of which `split` (train, val, test or all) is to be scored.

    Where the folders do not divide the images, the seeded split of the set prepared from them does. Raises DataError
    for what is no data set, and for a prepared set without image files.
    """
    if found := find_prepared(data, prepared):
        made = open_prepared(found)
        rows = [row for row in range(len(made)) if made.original_bytes[row]]
        where = {made.table["file"][row].as_py(): row for row in rows}
        if not where:
            raise DataError(f"{data}: keeps no image files; name the folder of images that it was made from")
        records = _of_manifest(made, rows)
        say(f"{data} keeps the files of its val and test parts alone, {len(records)} of them")
        return Images(made.fingerprint, records, lambda record: made.original(where[record.file]))

    layout = read_layout(data)
    records = layout.records
    splits = {record.split for record in records}
    name = listing_hash(data, records)
    if split != "all" and ("" in splits or ("val" not in splits and split != "test")):
        say(f"the folders do not say which images are {split} images: the prepared set's seeded draw does")
        made = prepare(data, prepared)
        refused = {row["file"] for row in made.rejected()}
        # What could not be decoded has no split; it is named among the refused of any.
        records = [replace(record, split=split) for record in records if record.file in refused]
        records += _of_manifest(made, range(len(made)))
    else:  # preparing says it, too
        for note in layout.notes:
            say(note)
    return Images(name, records, lambda record: read_file(data / record.file))


def score(
    detector: Detector, images: Images, split: str, workers: int, path: Path, tiers: Sequence[Tier] = TIERS
) -> list[Row]:
    """Score the images of a split in four tiers, and return a row for each; resumes from the rows in `path`.

    Of the split test also a row, without logits, for each file of the train part (every k-th of many). `tiers` are
    fewer only where nothing but them is to be looked at. Raises DataError for a damaged `path`.
    """
    training = [record for record in images.records if record.split == "train"] if split == "test" else []
    every = max(1, len(training) // TRAIN_FILES)
    wanted = training[::every] + [record for record in images.records if split in ("all", record.split)]
    longest = detector.info.preprocessing.longest

    def look(record: Record) -> tuple[Row, list[Pixels]]:
        judged = split in ("all", record.split)
        row: Row = asdict(record)
        try:
            image = decode(images.read(record), record.file)
        except ImageError as error:
            say(f"left out: {error}")
            return row | {"part": "refused" if judged else "other", "reason": error.reason}, []
        seen = shrink(image.pixels, longest or None)
        # Scaling down costs as much as the rest: what the network sees of the image as found may be what a tier saves.
        versions: dict[str, DecodedImage] = {
            tier: save_as(seen, tier) if TIER_SETTINGS.get(tier, (None,))[0] == longest else degrade(image, tier)
            for tier in tiers
        }
        row["properties"] = {tier: file_properties(version) for tier, version in versions.items()}
        if not judged:
            return row | {"part": "train"}, []
        doubts, inputs = seen_by(detector, versions, {"clean": seen})
        return row | {"part": "judged", "doubts": doubts}, inputs

    header = {"split": split, "tiers": {tier: list(TIER_SETTINGS[tier]) for tier in tiers if tier != "clean"}}
    return score_records(detector, images, list(dict.fromkeys(wanted)), look, workers, path, header, "scoring")


def seen_by(
    detector: Detector, versions: Mapping[str, DecodedImage], known: Mapping[str, Pixels] | None = None
) -> tuple[dict[str, str | None], list[Pixels]]:
    """For each of an image's versions, by name, the reason for doubt (or None), and the detector's inputs of it.

    `known` has versions scaled down to the detector's `longest`, as far as that is done already.
    """
    how = detector.info.preprocessing
    known = known or {}
    seen = {
        name: known[name] if name in known else shrink(version.pixels, how.longest or None)
        for name, version in versions.items()
    }
    doubts = {
        name: unjudgeable_reason(version.pixels, version.jpeg_quality, seen[name]) for name, version in versions.items()
    }
    return doubts, [to_inputs(pixels, how) for pixels in seen.values()]


def score_records(
    detector: Detector,
    images: Images,
    wanted: list[Record],
    look: Look,
    workers: int,
    path: Path,
    header: Row,
    what: str,
) -> list[Row]:
    """Return the row that `look` makes of each wanted image, with its logits; each is appended to `path` when done.

    Rows that an earlier call with the same header, weights and data has written are reused. Raises DataError for a
    damaged `path`, and for one that another process writes.
    """
    header = {
        "mai_version": __version__,
        "weights": detector.checkpoint.weights_sha256,
        "preprocessing": asdict(detector.info.preprocessing),
        "doubt": asdict(QUALITY_LIMITS),
        "data": images.data,
        **header,
    }

    def with_logits(looked: tuple[Row, list[Pixels]]) -> Row:
        row, inputs = looked
        if inputs:
            columns = detector.view_logits(inputs)
            row["logits"] = dict(zip(row["doubts"], detector.fuse(columns).tolist(), strict=True))
            if columns.shape[1] > 1:
                row["views"] = dict(zip(row["doubts"], columns.tolist(), strict=True))
        return row

    # On a CPU each thread takes an image from its file to its logits, as in prediction.
    apart = detector.device.type == "cpu" and workers > 0
    threads = torch.get_num_threads()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        try:
            lock(stream, wait=False)
            rows = resume_rows(path, header)
        except BlockingIOError:
            raise DataError(f"{path}: another process writes it at this moment; wait until that is done") from None
        except ValueError as error:
            raise DataError(f"{path}: is damaged ({error}); delete it, and its images are scored anew") from None
        done = {row["file"] for row in rows}
        todo = [record for record in wanted if record.file not in done]
        progress = bar(total=len(done) + len(todo), initial=len(done), desc=what, unit="image")
        with progress, one_thread_each() if apart else nullcontext():
            if apart:
                made = ordered_map(lambda record: with_logits(look(record)), todo, threads, ahead=threads)
            else:
                made = map(with_logits, ordered_map(look, todo, workers))
            for row in made:
                append_rows(stream, [row])
                rows.append(row)
                progress.update()
    return rows


def scores_of(detector: Detector, judged: Iterable[Row], name: str) -> npt.NDArray[np.float64]:
    """Calibrated scores (n,), 0 to 1, of judged rows in one tier or other version of the images; not clipped."""
    return detector.p_synthetic(np.array([row["logits"][name] for row in judged], dtype=np.float64))


def verdicts_of(detector: Detector, judged: Iterable[Row], name: str) -> npt.NDArray[np.str_]:
    """Verdicts (n,) of judged rows in one tier or other version of the images: unsure where there is doubt."""
    rows = list(judged)
    pairs = zip(scores_of(detector, rows, name).tolist(), [row["doubts"][name] for row in rows], strict=True)
    return np.array([detector.verdict(p, reason) for p, reason in pairs], dtype=np.str_)


def _of_manifest(prepared: PreparedSet, rows: Iterable[int]) -> list[Record]:
    """The rows' records, with the splits that preparing gave them, without the images that it excluded."""
    columns = ["file", "label", "split", "source", "generator", "kind", "tie"]
    chosen = prepared.table.select(columns).take(list(rows)).to_pylist()
    return [Record(**row) for row in chosen if row["split"]]
