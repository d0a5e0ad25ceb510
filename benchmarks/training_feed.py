"""Images a second in training, over the same steps fed one batch from memory again and again: the cost of the feed.

python benchmarks/training_feed.py [--images 512]    prints a ratio an input mode; exit code 1 if one is under LIMIT
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from mai_app.config import InputMode, Preprocessing
from mai_app.core.device import choose_device, choose_precision, describe_device
from mai_app.data.batches import Batch, TrainingImages, draw_epoch, training_batches
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet
from mai_app.models.networks import MaiCNN
from mai_app.training.loop import take_step

LIMIT = 0.9
BATCH = 64
ROUNDS = 5


def main() -> int:
    """Measure both input modes, feeds taking turns, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512, help="images in the data set, made at random")
    images = parser.parse_args().images
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
