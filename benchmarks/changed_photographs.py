"""How a model takes authentic photographs that people complain of: dark ones, and ones enlarged to twice their size.

python benchmarks/changed_photographs.py DATA [--model MODEL] [--images 400]    no limit: prints shares, exit code 0

DATA is a data set's folder; its authentic images of the kind photo or portrait in the test part are taken, at most
BY_SOURCE of each source. Dark: mean luminance under DARK. Enlarged: Lanczos, twice the width and height, as JPEG 95, of
images of at most LARGEST pixels; the same images as found stand beside them.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mai_app.data.layout import Record, read_layout
from mai_app.errors import ImageError
from mai_app.images.decode import Pixels, decode_file, encode_jpeg
from mai_app.inference.detector import Detector, load

KINDS = ("photo", "portrait")
BY_SOURCE = 60
DARK = 50
"""Mean luminance, of 255, under which an image counts as dark."""
LARGEST = 4_000_000
"""Pixels of an image that is enlarged: four times as many come of it."""


def main() -> int:
    """Score the images and print a row for each group of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mai-1")
    parser.add_argument("--images", type=int, default=400, help="images that are enlarged, at most")
    arguments = parser.parse_args()
    detector = load(arguments.model, "cpu")
    dark: list[Path] = []
    small: list[Path] = []
    for record in _photographs(read_layout(arguments.data).records):
        path = arguments.data / record.file
        try:
            pixels = decode_file(path).pixels
        except ImageError as error:
            print(error, file=sys.stderr)
            continue
        if np.asarray(Image.fromarray(pixels).convert("L")).mean() < DARK:
            dark.append(path)
        if pixels.shape[0] * pixels.shape[1] <= LARGEST and len(small) < arguments.images:
            small.append(path)
    print(f"{'authentic photographs':28} {'images':>6} {'called synthetic':>17} {'unsure':>7}")
    _report("dark, as found", detector, dark)
    _report("as found", detector, small)
    _report("the same, enlarged twice", detector, ((str(path), _enlarged(decode_file(path).pixels)) for path in small))
    return 0


def _photographs(records: Iterable[Record]) -> list[Record]:
    """At most BY_SOURCE authentic photographs of each source, by name."""
    by_source: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.label == 0 and record.split == "test" and record.kind in KINDS:
            by_source[record.source].append(record)
    return [row for rows in by_source.values() for row in sorted(rows, key=lambda row: row.file)[:BY_SOURCE]]


def _enlarged(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    larger = Image.fromarray(pixels).resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    return encode_jpeg(np.asarray(larger), 95)


def _report(name: str, detector: Detector, images: Iterable[Path | tuple[str, bytes]]) -> None:
    rows = [row for row in detector.predict(images) if row.error is None]
    if not rows:
        print(f"{name:28} {0:6}")
        return
    called = sum(row.p_synthetic is not None and row.p_synthetic >= row.threshold for row in rows) / len(rows)
    unsure = sum(row.verdict == "unsure" for row in rows) / len(rows)
    print(f"{name:28} {len(rows):6} {called:17.1%} {unsure:7.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
