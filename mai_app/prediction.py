"""What MAI says about an image file, and that as rows of text: a table, JSON, JSON lines or CSV."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import IO, Literal

from mai_app.config import Verdict

Format = Literal["table", "json", "jsonl", "csv"]


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
    model: str
    """Name of the network."""
    version: str
    """Names weights and calibration: the first digits of the checkpoint's SHA-256."""
    notes: tuple[str, ...]
    """What to know about how this image was read, and why it can't be judged where that is so."""
    error: str | None
    """Why the file could not be judged; then p_synthetic and verdict are None."""


def write_rows(predictions: Iterable[Prediction], form: Format, stream: IO[str]) -> Iterator[Prediction]:
    """Write each prediction to the stream and hand it on."""
    if form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Prediction)])
    elif form == "json":
        stream.write("[")
    for i, prediction in enumerate(predictions):
        if form == "csv":
            row = asdict(prediction) | {"notes": "; ".join(prediction.notes)}
            writer.writerow(["" if value is None else value for value in row.values()])
        elif form == "jsonl":
            stream.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
        elif form == "json":
            stream.write(("," if i else "") + "\n  " + json.dumps(asdict(prediction), ensure_ascii=False))
        else:
            if i == 0:
                stream.write("p_synthetic  verdict    file\n")
            stream.write(_line(prediction))
        stream.flush()
        yield prediction
    if form == "json":
        stream.write("\n]\n")


def _line(prediction: Prediction) -> str:
    if prediction.error is not None:
        line = f"{'–':>11}  {'–':<9}  {prediction.path}: {prediction.error}"
    else:
        notes = f"  ({'; '.join(prediction.notes)})" if prediction.notes else ""
        line = f"{prediction.p_synthetic:>11.3f}  {prediction.verdict:<9}  {prediction.path}{notes}"
    # A file's name must not move the cursor or end the line.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) + "\n"
