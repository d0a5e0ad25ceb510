"""Images a second in training, over the same steps fed one batch from memory again and again: the cost of the feed.

python benchmarks/training_feed.py [--images 512]    prints a ratio an input mode; exit code 1 if one is under LIMIT
python benchmarks/training_feed.py --views           prints, for views of three sizes, the CPU time that decoding a file
                                                     takes over that of making one degraded training input (both views)
                                                     from the prepared set; exit code 1 if one is under VIEWS_LIMITS
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from mai_app.config import InputMode, Preprocessing, prepared_form
from mai_app.core.device import choose_device, choose_precision, describe_device
from mai_app.data.batches import Batch, TrainingImages, draw_epoch, training_batches
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet
from mai_app.images.decode import decode_file
from mai_app.models.networks import MaiCNN
from mai_app.training.loop import take_step

LIMIT = 0.9
BATCH = 64
ROUNDS = 5
VIEWS_LIMITS = {224: 0.6, 336: 0.3, 448: 0.2}
"""By size of the views, in pixels."""
FILES = 12
SIDE = 1024


def main() -> int:
    """Measure both input modes, feeds taking turns, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512, help="images in the data set, made at random")
    parser.add_argument("--views", action="store_true", help="measure one core making inputs of views instead")
    options = parser.parse_args()
    images = options.images
    if options.views:
        return _views()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(_data_set(Path(folder) / "data", images), Path(folder) / "prepared")
        ratios = [_ratio(prepared, mode) for mode in ("resize", "crop")]
    return 0 if min(ratios) >= LIMIT else 1


def _ratio(prepared: PreparedSet, mode: InputMode) -> float:
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    torch.manual_seed(0)
    network = MaiCNN().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-4)
    labels, sources = prepared.labels, prepared.sources

    def seconds(batches: Iterable[Batch]) -> float:
        started = time.perf_counter()
        for pixels, targets in batches:
            take_step(network, optimizer, pixels, targets, device, precision)
        return time.perf_counter() - started

    fed, repeated = [], []
    for epoch in range(ROUNDS + 1):
        draws = draw_epoch(labels, sources, BATCH, 0.5, seed=0, epoch=epoch)
        images = TrainingImages(prepared, Preprocessing(input=mode), seed=0, epoch=epoch)
        one = next(training_batches(images, draws[:1], workers=0))
        repeated.append(seconds(itertools.repeat(one, len(draws))))
        fed.append(seconds(training_batches(images, draws, workers=0)))
    # The first round warms up.
    ratio = median(repeated[1:]) / median(fed[1:])
    print(
        f"{mode}: fed from the prepared set {ratio:.3f} of the speed from memory (limit {LIMIT}; "
        f"{describe_device(device)}, {precision}, {len(labels)} images, batch {BATCH}, median of {ROUNDS} rounds)"
    )
    return ratio


def _views() -> int:
    """One core, CPU time: decoding a JPEG file of SIDE × SIDE pixels, and both views of an image for training."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(_photographs(Path(folder) / "data").rglob("*.jpg"))
        decoding = _cpu_seconds(lambda: [decode_file(path) for path in files])
        print(f"decoding a {SIDE}×{SIDE} JPEG: {FILES / decoding:.0f} images a second and core")
        kept = True
        for size, limit in VIEWS_LIMITS.items():
            form = prepared_form(size)
            prepared = prepare(Path(folder) / "data", Path(folder) / f"prepared-{size}", form=form)
            how = Preprocessing(input="views", size=size)
            images = TrainingImages(prepared, how, seed=0, epoch=0, degrade=True)
            draws = [(int(row), draw) for draw, row in enumerate(prepared.rows("train"))]
            seconds = _cpu_seconds(partial(images.__getitems__, draws))
            stored = sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file())
            ratio = decoding / seconds
            kept &= ratio >= limit
            print(
                f"views of {size}: {len(draws) / seconds:.0f} training inputs a second and core, {ratio:.2f} of "
                f"decoding alone (limit {limit}); {stored / len(draws) / 1e6:.2f} MB an image in the prepared set"
            )
    return 0 if kept else 1


def _cpu_seconds(work: Callable[[], object]) -> float:
    """The least CPU time of this process for the work, of three rounds: other processes do not count."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def _photographs(root: Path) -> Path:
    """FILES images of SIDE × SIDE pixels as JPEG 90 files: smooth, with as much noise as a camera's."""
    rng = np.random.default_rng(0)
    for i in range(FILES):
        folder = root / "train" / ("authentic", "synthetic")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:02}.jpg", quality=90)
    return root


def _data_set(root: Path, images: int) -> Path:
    rng = np.random.default_rng(0)
    for name in ("authentic", "synthetic"):
        (root / "train" / name).mkdir(parents=True)
        for i in range(images // 2):
            noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            noise.resize((400, 360)).save(root / "train" / name / f"{i}.jpg")
    return root


if __name__ == "__main__":
    sys.exit(main())
