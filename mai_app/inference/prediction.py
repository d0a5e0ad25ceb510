"""Predictions: one row per image file, and its text forms: table, JSON, JSON lines and CSV."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import IO, Any, Final, Literal

from mai_app.config import Verdict
from mai_app.evidence.statements import Evidence
from mai_app.models.description import CheckpointInfo

Format = Literal["table", "json", "jsonl", "csv"]


@dataclass(frozen=True)
class ImageFacts:
    """How an image was read."""

    width: int
    """Pixels, after orientation."""
    height: int
    format: str
    """JPEG, PNG, WEBP, GIF, BMP or TIFF."""
    file_bytes: int
    orientation: int
    """EXIF orientation that was applied, 1 (as stored) to 8."""
    jpeg_quality: int | None
    """Estimated quality of a JPEG's tables, 1 to 100."""
    crops: int
    """Windows that the network looked at."""


@dataclass(frozen=True)
class ModelFacts:
    """The model behind a score: name, version, calibration and error rates, from its checkpoint."""

    name: str
    """Name that --model takes."""
    network: str
    version: str
    """Names weights and calibration: the first digits of sha256. A Prediction has it too."""
    sha256: str
    """Of the checkpoint's file."""
    trained_on: str
    """Name of the data set."""
    threshold: float
    """Score from which on an image counts as synthetic where a yes or no is needed."""
    unsure_low: float
    """Verdict authentic below this score."""
    unsure_high: float
    """Verdict synthetic above this score; between the two, unsure."""
    calibrated_on: str
    """Name of the data set on whose val part the three were fitted; empty: the one trained on."""
    authentic_images: int
    """Images they were fitted on."""
    synthetic_images: int
    tiers: Mapping[str, Mapping[str, float | None]]
    """By tier (clean, q90, web, hard) on those images: images, fpr, tpr, unsure, right; empty where not measured."""


@dataclass(frozen=True)
class Prediction:
    """What MAI says about one image file. It is never a proof: see the model's measured error rates."""

    path: str
    """The file, as it was named."""
    p_synthetic: float | None
    """Score from 0.01, authentic, to 0.99, synthetic; calibrated on validation images of both classes alike."""
    verdict: Verdict | None
    """authentic, unsure or synthetic, by the score before it is clipped; unsure where a note says why not judged."""
    threshold: float
    """Score, before it is clipped, from which on the image counts as synthetic where a yes or no is needed."""
    unsure_low: float
    """Verdict authentic below this score."""
    unsure_high: float
    """Verdict synthetic above this score; between the two, unsure."""
    model: str
    """Name of the network."""
    version: str
    """Names weights and calibration: the first digits of the checkpoint's SHA-256."""
    image: ImageFacts | None
    """How the file was read; None where it could not be."""
    notes: tuple[str, ...]
    """What to know about how this image was read, and why it can't be judged where that is so."""
    evidence: tuple[Evidence, ...] | None
    """What the file says of its making; None where it was not asked for, or could not be read."""
    error: str | None
    """Why the file could not be read; then p_synthetic and verdict are None."""


def model_facts(name: str, sha256: str, info: CheckpointInfo) -> ModelFacts:
    """The facts of a checkpoint from its file's hash and what it says about itself."""
    fit = info.calibration
    return ModelFacts(
        name=name,
        network=info.model,
        version=sha256[:12],
        sha256=sha256,
        trained_on=info.data,
        threshold=round(fit.threshold, 6),
        unsure_low=round(fit.unsure_low, 6),
        unsure_high=round(fit.unsure_high, 6),
        calibrated_on=fit.data,
        authentic_images=fit.authentic_images,
        synthetic_images=fit.synthetic_images,
        tiers={tier: asdict(rates) for tier, rates in fit.tiers.items()},
    )


def prediction_of(row: Mapping[str, Any]) -> Prediction:
    """A Prediction from its fields as plain values, as asdict or JSON gives them."""
    image, evidence = row["image"], row["evidence"]
    nested = {
        "image": None if image is None else ImageFacts(**image),
        "notes": tuple(row["notes"]),
        "evidence": None
        if evidence is None
        else tuple(
            Evidence(**{**one, "fields": tuple((name, value) for name, value in one["fields"])}) for one in evidence
        ),
    }
    return Prediction(**{**row, **nested})


COLUMNS: Final = tuple(
    column
    for field in fields(Prediction)
    for column in (("width", "height", "format") if field.name == "image" else (field.name,))
)
"""Columns of a CSV file: a Prediction's fields, with three of the image's own."""


def write_rows(
    predictions: Iterable[Prediction], form: Format, stream: IO[str], model: Callable[[], str]
) -> Iterator[Prediction]:
    """Write each prediction to the stream and hand it on.

    `model` gives the name of the model, which a table begins with; it is called once there is a first prediction.
    """
    if form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
    elif form == "json":
        stream.write("[")
    for i, prediction in enumerate(predictions):
        if form == "csv":
            writer.writerow(["" if value is None else value for value in _cells(prediction)])
        elif form == "jsonl":
            stream.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
        elif form == "json":
            stream.write(("," if i else "") + "\n  " + json.dumps(asdict(prediction), ensure_ascii=False))
        else:
            if i == 0:
                stream.write(f"model: {model()}, version {prediction.version}\np_synthetic  verdict    file\n")
            stream.write(_line(prediction))
        stream.flush()
        yield prediction
    if form == "json":
        stream.write("\n]\n")


def show_predictions(
    predictions: Iterable[Prediction], form: Format, model: Callable[[], str], stream: IO[str] | None = None
) -> int:
    """Print predictions as they come; returns 0 if all files have a score, 1 if some have not, 2 if none has."""
    scored = failed = 0
    for prediction in write_rows(predictions, form, stream or sys.stdout, model):
        scored += prediction.error is None
        failed += prediction.error is not None
    if failed:
        print(f"mai: {failed} of {scored + failed} files have no score", file=sys.stderr)
    elif not scored:
        print("mai: no file was named", file=sys.stderr)
    return 2 if not scored else 1 if failed else 0


def _cells(prediction: Prediction) -> Iterator[Any]:
    values = asdict(prediction) | (asdict(prediction.image) if prediction.image else {})
    values["notes"] = "; ".join(prediction.notes)
    values["evidence"] = "; ".join(f"{one.source}: {one.says}" for one in prediction.evidence or ())
    for column in COLUMNS:
        yield values.get(column)


def _line(prediction: Prediction) -> str:
    if prediction.error is not None:
        line = f"{'–':>11}  {'–':<9}  {prediction.path}: {prediction.error}"
    else:
        notes = f"  ({'; '.join(prediction.notes)})" if prediction.notes else ""
        line = f"{prediction.p_synthetic:>11.3f}  {prediction.verdict:<9}  {prediction.path}{notes}"
    evidence = (f"{'':>13}{one.source}: {one.says}" for one in prediction.evidence or ())
    # A file's name must not move the cursor or end the line.
    return "".join(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in part) + "\n"
        for part in (line, *evidence)
    )
