"""Whether scores follow how a file is saved: the same images saved differently, and how far their scores move.

After Ricker et al. 2026, "BIAS-ID" (arXiv 2605.31153): a detector that is biased towards a way of saving files takes it
for a trace of how the image was made. The pictures stay what they are, so that an unbiased detector's scores stay too.
"""

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from mai_app.config import CLASSES
from mai_app.core import metrics
from mai_app.core.log import say
from mai_app.data.layout import Record
from mai_app.errors import DataError, ImageError
from mai_app.evaluation.score import Images, Row, score_records, scores_of, seen_by, verdicts_of
from mai_app.images.decode import DecodedImage, Pixels, decode, encode_jpeg
from mai_app.inference.detector import Detector

CUT: Final = 8
"""Pixels cut off at the left and at the top: JPEG's blocks stay where they are, in relation to the new corner."""
SCALE: Final = 0.9
SEED: Final = 0
AS_FOUND: Final = "as found"


def judge_versions(
    detector: Detector, images: Images, judged: list[Row], most: int, workers: int, path: Path
) -> list[Row]:
    """Rows of at most `most` of the judged images, half of either class, with the logits of all their VERSIONS.

    Drawn by a fixed seed, taken up where `path` stopped. Raises DataError where that is no image of either class.
    """
    files = drawn(judged, most)
    if not files:
        raise DataError(f"--bias-images {most}: the bias check needs an image of either class at least")
    records = {record.file: record for record in images.records}

    def look(record: Record) -> tuple[Row, list[Pixels]]:
        row: Row = asdict(record)
        try:
            found = decode(images.read(record), record.file)
            versions = {AS_FOUND: found} | {name: _saved(found, save) for name, save in VERSIONS.items()}
        except ImageError as error:  # as found it was decoded: WebP holds no side over 16,383 pixels
            say(f"left out of the bias check: {error}")
            return row | {"part": "refused", "reason": error.reason}, []
        doubts, inputs = seen_by(detector, versions)
        return row | {"part": "judged", "doubts": doubts}, inputs

    header = {"versions": list(VERSIONS), "drawn": files}
    return score_records(detector, images, [records[file] for file in files], look, workers, path, header, "bias check")


def drawn(judged: list[Row], most: int) -> list[str]:
    """Files of at most `most` judged images, as many of either class, drawn by a fixed seed whatever their order."""
    rng = np.random.default_rng(SEED)
    by_class = [sorted(row["file"] for row in judged if row["label"] == label) for label in (0, 1)]
    count = min(most // 2, *map(len, by_class))
    return [files[i] for files in by_class for i in sorted(rng.permutation(len(files))[:count].tolist())]


def bias_figures(detector: Detector, rows: list[Row]) -> dict[str, Any]:
    """What saving images differently does to the scores of these rows, for the report; plain values for JSON.

    By version: the mean shift of p_synthetic against the file as found, by class, with its 95 % bootstrap interval;
    the AUROC where that class alone is saved so; the share of the verdicts that are others then, and that of the images
    on the other side of the threshold.
    """
    judged = [row for row in rows if row["part"] == "judged"]
    labels = np.array([row["label"] for row in judged], dtype=np.int64)
    threshold = detector.info.calibration.threshold
    before, verdicts = scores_of(detector, judged, AS_FOUND), verdicts_of(detector, judged, AS_FOUND)
    versions: list[dict[str, Any]] = []
    for name in VERSIONS:
        after = scores_of(detector, judged, name)
        shifts = {
            word: metrics.plain(
                metrics.bootstrap(lambda s, _: float(s.mean()), *_of_class(after - before, labels, label))
            )
            for label, word in enumerate(CLASSES)
        }
        versions.append(
            {
                "name": name,
                "shift": shifts,
                "auroc_saved_alone": {
                    word: metrics.auroc(np.where(labels == label, after, before), labels)
                    for label, word in enumerate(CLASSES)
                },
                "verdicts_flipped": float((verdicts_of(detector, judged, name) != verdicts).mean()),
                "threshold_crossed": float(((after >= threshold) != (before >= threshold)).mean()),
            }
        )
    most = [(abs(version["shift"][word]["value"]), version, word) for version in versions for word in CLASSES]
    _, version, word = max(most, key=lambda entry: entry[0])
    return {
        "images": {word: int((labels == label).sum()) for label, word in enumerate(CLASSES)},
        "auroc": metrics.auroc(before, labels),
        "versions": versions,
        "largest": {"version": version["name"], "class": word, "shift": version["shift"][word]["value"]},
    }


def _of_class(shifts: metrics.Floats, labels: metrics.Ints, label: int) -> tuple[metrics.Floats, metrics.Ints]:
    return shifts[labels == label], labels[labels == label]


def _saved(image: DecodedImage, save: Callable[[Pixels], bytes]) -> DecodedImage:
    """The image saved and read again, as a file of its own."""
    return decode(save(image.pixels), "bias check")


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _webp(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, "WEBP", quality=80)
    except (OSError, ValueError) as error:
        raise ImageError("bias check", f"can't be saved as WebP ({error})") from None
    return buffer.getvalue()


def _cut(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    return _png(np.ascontiguousarray(pixels[min(CUT, height - 1) :, min(CUT, width - 1) :]))


def _rescaled(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * SCALE)), max(1, round(height * SCALE)))
    return _png(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)))


VERSIONS: Final[dict[str, Callable[[Pixels], bytes]]] = {
    "PNG": _png,
    "JPEG 95": lambda pixels: encode_jpeg(pixels, 95),
    "JPEG 75": lambda pixels: encode_jpeg(pixels, 75),
    "WebP 80": _webp,
    "cut by 8 pixels": _cut,
    "rescaled by 0.9": _rescaled,
}
"""Ways to save an image: from (height, width, 3) uint8 pixels to a file's bytes. Cut and rescaled ones are PNG."""
