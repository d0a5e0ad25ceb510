"""Scoring in four tiers over scoring in the clean tier alone, with mai-1 and traces, on JPEG and PNG files.

Each image is decoded once, whatever the tiers; what each tier adds is saving and reading a JPEG, the quality checks,
the network's inputs and the network. The facts say what share of the processor's time the network takes: where it is
large, four tiers cost near four times one.

python -m benchmarks.evaluation_tiers [--quick] [--data DIR] [--json FILE]
"""

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from benchmarks.results import Options, Result, pair_ratios, run
from mai_app.config import TIERS, Tier
from mai_app.data.layout import Record
from mai_app.evaluation.score import Images, score
from mai_app.images.decode import read_file
from mai_app.images.find import find_images
from mai_app.inference.detector import Detector, load

LIMIT: Final = 3.0
FILES: Final = 24
"""Files of either format; with --data so many of the folder's."""
SIZES: Final = ((1024, 768), (1024, 1024), (640, 480), (2048, 1536))
"""Width and height of the images that it makes, by turns."""


def measure(options: Options) -> Iterator[Result]:
    """Score the same files in four tiers and in one, by turns, model by model and format by format."""
    sets = {"files": _given(options.data)} if options.data else _made(options.folder, 4 if options.quick else FILES)
    for model in ("traces", "mai-1"):
        detector = load(model, "cpu")
        for name, files in sets.items():
            yield _ratio(detector, model, name, files, options)


def _ratio(detector: Detector, model: str, name: str, files: list[Path], options: Options) -> Result:
    records = [Record(str(path), i % 2, "test", "s", "", "") for i, path in enumerate(files)]
    images = Images("benchmark", records, lambda record: read_file(Path(record.file)))

    def scored(tiers: tuple[Tier, ...]) -> None:
        log = options.folder / "scores.jsonl"
        log.unlink(missing_ok=True)
        rows = score(detector, images, "test", 2, log, tiers)
        if len(rows) != len(files):
            raise SystemExit(f"{len(rows)} rows of {len(files)} files")

    ratios, four, one = pair_ratios(lambda: scored(TIERS), lambda: scored(("clean",)))
    started = time.process_time()
    scored(TIERS)
    whole = time.process_time() - started
    facts = {
        "images a second": round(len(files) / four, 1),
        "in one tier": round(len(files) / one, 1),
        "processor time an image": f"{whole / len(files) * 1000:.0f} ms",
        "of it the network": f"{_network_seconds(detector) / (whole / len(files)):.0%}",
        "threads": torch.get_num_threads(),
    }
    return Result(f"four tiers over one, {model}, {name}", ratios, LIMIT, facts=facts)


def _network_seconds(detector: Detector) -> float:
    """Processor time of the network alone for one image in four tiers."""
    how = detector.info.preprocessing
    count = how.crops + (how.input == "views")
    inputs = [np.zeros((count, how.size, how.size, 3), np.uint8) for _ in TIERS]
    detector.view_logits(inputs)
    started = time.process_time()
    for _ in range(5):
        detector.view_logits(inputs)
    return (time.process_time() - started) / 5


def _given(folder: Path) -> list[Path]:
    return [path for path in find_images([str(folder)]) if isinstance(path, Path)][: 2 * FILES]


def _made(folder: Path, count: int) -> dict[str, list[Path]]:
    """As many JPEG and PNG files of the same pictures: smooth, with as much noise as a camera's."""
    rng = np.random.default_rng(0)
    sets: dict[str, list[Path]] = {"JPEG": [], "PNG": []}
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        for name, files in sets.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, name, quality=90)
            files.append(folder / f"{i:03}.{name.lower()}")
            files[-1].write_bytes(buffer.getvalue())
    return sets


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
