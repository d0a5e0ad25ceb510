"""Images a second that a detector judges on this machine, one by one and in batches, and the share of reading in it.

python benchmarks/predict_speed.py --model MODEL [--files 64]    exit code 1 if batches are slower than LIMIT allows
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mai_app.images.decode import decode_file
from mai_app.images.preprocess import to_inputs
from mai_app.inference.detector import load

LIMIT = 0.9
"""Of the speed one by one that batches must reach."""
BATCH = 32
SIZE = (1024, 768)
ROUNDS = 3
"""The best of so many counts: others use the machine too."""


def main() -> int:
    """Judge the same JPEG files in both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="checkpoint, run folder or model's name; default: as mai predict")
    parser.add_argument("--files", type=int, default=64)
    arguments = parser.parse_args()
    detector = load(arguments.model, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder), arguments.files)

        def read() -> None:
            for path in files:
                to_inputs(decode_file(path).pixels, detector.info.preprocessing)

        def judge(batch: int) -> None:
            for prediction in detector.predict(files, batch, workers=1):
                assert prediction.error is None

        reading = _best(read)
        single, batched = _best(lambda: judge(1)), _best(lambda: judge(BATCH))
    for name, seconds in (("batch 1", single), (f"batch {BATCH}", batched)):
        share = reading / seconds
        print(f"{name}: {len(files) / seconds:.1f} images/s, {share:.0%} of the time is reading and decoding")
    ratio = single / batched
    print(f"{detector.info.model}, JPEG of {SIZE[0]}×{SIZE[1]}: batches reach {ratio:.2f} of the speed (limit {LIMIT})")
    return 0 if ratio >= LIMIT else 1


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
