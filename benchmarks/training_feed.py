"""Images a second in training over those of the same loop on one resident batch: what making the batches costs.

On a CPU the batches are made on the cores that the network computes on: where all of them are busy, the ratio can be no
more than the network's share of the processor's time, which stands beside it. The last rows are the processor's time
for decoding a file over that for one degraded training input, both views, from the prepared set.

python -m benchmarks.training_feed [--quick] [--json FILE]
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.results import PAIRS, Options, Result, run
from mai_app.config import Preprocessing, RecipeName, from_recipe, prepared_form
from mai_app.core.device import choose_device, choose_precision, describe_device
from mai_app.data.batches import Batch, Draw, TrainingData, TrainingImages, training_batches
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet
from mai_app.images.decode import decode_file
from mai_app.training import loop
from mai_app.training.distributed import Group
from mai_app.training.features import PER_FILE, Features
from mai_app.training.run_folder import Run, check_options
from mai_app.training.state import start_or_resume

LIMIT: Final = 0.95
VIEWS_LIMITS: Final = {224: 0.6, 336: 0.3, 448: 0.2}
"""By size of the views, in pixels."""
WIDTH: Final = 6144
"""Numbers of a view's features in the recipe of mai-1."""
FILES: Final = 12
SIDE: Final = 1024

Settings = dict[str, Any]


def measure(options: Options) -> Iterator[Result]:
    """Measure the loop, fed and resident by turns, recipe by recipe; then decoding over training inputs."""
    photos = prepare(
        _noise(options.folder / "photos", 64 if options.quick else 256, (400, 360)),
        options.folder / "prepared",
        form=prepared_form(224),
    )
    many = prepare(
        _noise(options.folder / "many", 256 if options.quick else 2048, (64, 64)), options.folder / "prepared"
    )
    views: Settings = {"start_from": "", "folds": 0, "source_cap": 0}
    features = _features(options.folder / "features", many)
    yield _loop(options, "--recipe baseline", photos, "baseline", {})
    yield _loop(options, "--recipe views, heads on stored features (mai-1)", many, "views", views, features)
    whole: Settings = views | {"tune": "all", "draws": 0, "batch_size": 8}
    if options.quick:
        whole |= {"model": "test_vit", "blocks": "", "view_size": 224}
    rows = photos.rows("train")
    rows = rows[:: max(1, len(rows) // (32 if options.quick else 16))]  # they are in the classes' order
    yield _loop(options, "--recipe views, the body trained, too", photos, "views", whole, rows=rows)
    yield _loop(options, "--recipe traces", photos, "traces", {}, limit=None)
    yield from _views(options.folder)


def _loop(
    options: Options,
    name: str,
    prepared: PreparedSet,
    recipe: RecipeName,
    settings: Settings,
    features: Features | None = None,
    rows: "np.ndarray[Any, np.dtype[np.int64]] | None" = None,
    limit: float | None = LIMIT,
) -> Result:
    device = choose_device("auto")
    config = check_options(from_recipe(recipe, prepared.folder, **settings))
    chosen = prepared.rows("train") if rows is None else rows
    precision = choose_precision("auto", device)
    run_of = Run(config, options.folder / "none", prepared, chosen, chosen, precision, features)
    group = Group(0, 1, device)
    state = start_or_resume(run_of, group)

    def resident(images: TrainingData, batches: list[list[Draw]], workers: int) -> Iterator[Batch]:
        one = next(iter(training_batches(images, batches[:1], workers)))
        return itertools.repeat(one, len(batches))

    def epoch(number: int, feed: Callable[..., Iterator[Batch]]) -> tuple[float, float]:
        """Seconds and processor seconds an image."""
        state.epoch, state.step, state.loss_sum = number, 0, 0.0
        started, processor = time.perf_counter(), time.process_time()
        with patch.object(loop, "training_batches", feed):
            steps = loop.train_epoch(run_of, group, state, state.network, lambda: False, lambda: None)
        images = steps * config.batch_size
        return (time.perf_counter() - started) / images, (time.process_time() - processor) / images

    epoch(0, training_batches)
    epoch(0, resident)
    pairs = [(epoch(number, training_batches), epoch(number, resident)) for number in range(1, PAIRS + 1)]
    feed = _feed_seconds(run_of, group)
    network = median(pair[1][1] for pair in pairs)
    facts = {
        "images a second": round(1 / median(pair[0][0] for pair in pairs)),
        "resident": round(1 / median(pair[1][0] for pair in pairs)),
        "feed, processor time an image": f"{feed * 1000:.3f} ms",
        "network's share of the processor": round(network / (network + feed), 3),
        "device": f"{describe_device(device)}, {precision}",
    }
    return Result(name, tuple(resident[0] / fed[0] for fed, resident in pairs), limit, least=True, facts=facts)


def _feed_seconds(run_of: Run, group: Group) -> float:
    """Processor seconds for making an image's part of a batch, alone."""
    images, batches = loop.draw_batches(run_of, group, 1)
    started = time.process_time()
    for batch in batches:
        images.__getitems__(batch)
    return (time.process_time() - started) / sum(map(len, batches))


def _features(folder: Path, prepared: PreparedSet) -> Features:
    """Random features of two versions of each image, stored as computed ones are."""
    folder.mkdir()
    keys = [(row, version) for row in range(len(prepared)) for version in range(2)]
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, len(keys), PER_FILE)):
        count = min(PER_FILE, len(keys) - start)
        made = rng.standard_normal((count, 2, WIDTH), dtype=np.float32).astype(np.float16)
        np.save(folder / f"{number:06}.npy", made)
    return Features(folder, {key: at for at, key in enumerate(keys)})


def _views(folder: Path) -> Iterator[Result]:
    """One core, CPU time: decoding a JPEG file of SIDE × SIDE pixels, and both views of an image for training."""
    torch.set_num_threads(1)
    files = sorted(_photographs(folder / "large").rglob("*.jpg"))
    for size, limit in VIEWS_LIMITS.items():
        prepared = prepare(folder / "large", folder / f"prepared-{size}", form=prepared_form(size))
        images = TrainingImages(prepared, Preprocessing(input="views", size=size), seed=0, epoch=0, degrade=True)
        draws = [(int(row), draw) for draw, row in enumerate(prepared.rows("train"))]
        make = partial(images.__getitems__, draws)
        make()
        pairs = [
            (_cpu_seconds(lambda: [decode_file(path) for path in files]), _cpu_seconds(make)) for _ in range(PAIRS)
        ]
        stored = sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file())
        facts = {
            "training inputs a second and core": round(len(draws) / median(made for _, made in pairs)),
            "MB an image in the prepared set": round(stored / len(draws) / 1e6, 2),
        }
        name = f"processor time of decoding a {SIDE}×{SIDE} JPEG, over that of degraded views of {size} pixels"
        yield Result(name, tuple(decoding / made for decoding, made in pairs), limit, least=True, facts=facts)


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


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


def _noise(root: Path, count: int, size: tuple[int, int]) -> Path:
    """So many images of enlarged noise, to train on; JPEG and PNG by turns."""
    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / "train" / ("authentic", "synthetic")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.{('jpg', 'jpg', 'png', 'png')[i % 4]}")
    return root


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
