"""What an image costs on this processor, by model, number of views and batch; as multiples of reading the file.

python benchmarks/predict_speed.py [--model MODEL ...] [--files 32]    exit code 1 if batches are below LIMIT
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mai_app.images.decode import decode_file
from mai_app.images.preprocess import to_inputs
from mai_app.inference.detector import Detector, load

LIMIT = 0.9
"""Of the speed one by one that batches must reach, with the stored number of windows."""
BATCHES = (1, 32)
WINDOWS = 5
"""Native windows that a network of views is measured with, too."""
SIZE = (1024, 768)
ROUNDS = 3
"""The best of so many counts: others use the machine too."""


def main() -> int:
    """Judge the same JPEG files with each model, one by one and in batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["traces", "mai-1"], help="checkpoints, run folders or names")
    parser.add_argument("--files", type=int, default=32)
    arguments = parser.parse_args()
    worst = np.inf
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder), arguments.files)
        print(f"JPEG of {SIZE[0]}×{SIZE[1]}. Reading: file to the network's inputs, one thread. Costs: in readings")
        print(f"{'model':16} {'windows':>7} {'reading':>12} " + " ".join(f"{f'batch {n}':>20}" for n in BATCHES))
        for model in arguments.model:
            detector = load(model, "cpu")
            stored = detector.info.preprocessing
            for windows in (stored.crops, WINDOWS) if stored.input == "views" else (stored.crops,):
                detector.info = dataclasses.replace(
                    detector.info, preprocessing=dataclasses.replace(stored, crops=windows)
                )
                ratio = _report(model, windows, detector, files)
                worst = min(worst, ratio) if windows == stored.crops else worst
    print(f"batches reach at least {worst:.2f} of the speed one by one (limit {LIMIT})")
    return 0 if worst >= LIMIT else 1


def _report(model: str, windows: int, detector: Detector, files: list[Path]) -> float:
    """Print a row of the table; the speed of batches over that one by one."""

    def read() -> None:
        for path in files:
            to_inputs(decode_file(path).pixels, detector.info.preprocessing)

    def judge(batch: int) -> None:
        for prediction in detector.predict(files, batch, workers=1):
            assert prediction.error is None

    reading = _best(read)
    seconds = [_best(lambda batch=batch: judge(batch)) for batch in BATCHES]  # type: ignore[misc]
    cells = [f"{f'{len(files) / taken:.1f}/s {taken / reading:7.1f} ×':>20}" for taken in seconds]
    print(f"{model:16} {windows:7} {len(files) / reading:10.1f}/s", *cells, flush=True)
    return seconds[0] / seconds[-1]


def _write(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        files.append(folder / f"{i}.jpg")
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(files[-1], quality=85)
    return files


def _best(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
