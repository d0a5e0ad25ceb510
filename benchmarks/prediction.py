"""`mai predict` on a CPU, over the same in plain float32, and over decoding alone; 2,000 mixed JPEG and PNG files.

python -m benchmarks.prediction [--data DIR]    Each pair of measurements takes another fifth of the files.

Limits: mai-1 at least twice as fast as in float32, where the processor has AMX; traces at least 0.8 of the decoder;
scores move by at most 0.01 in the mean.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.pictures import image_files, parts
from benchmarks.results import PAIRS, Options, Result, run
from mai_app.core.parallel import batched, ordered_map
from mai_app.images.decode import decode_file
from mai_app.inference.detector import Detector, load
from mai_app.inference.engine import make_engine

FILES = 2000
BATCH = 8
"""Images at a time in plain float32: there larger batches are slower."""


def measure(options: Options) -> Iterator[Result]:
    """Predict each part of the files as MAI does, in plain float32, and decode it."""
    files = image_files(options, 40 if options.quick else FILES)
    for model in ("mai-1", "traces"):
        detector = load(model, "cpu", Path("none"))
        plain = load(model, "cpu", Path("none"))
        plain.engine = make_engine(plain.checkpoint.network, plain.device, "float32")
        for warm in (detector, plain):
            _scores(warm, files[:BATCH])
        rates: dict[str, list[float]] = {"now": [], "plain": [], "decode": []}
        moved = []
        for part in parts(files, PAIRS):
            begun = time.perf_counter()
            scores = list(_scores(detector, part))
            now = time.perf_counter()
            before = [score for batch in batched(part, BATCH) for score in plain_scores(plain, batch)]
            then = time.perf_counter()
            for _ in ordered_map(lambda path: decode_file(path).pixels.shape, part, torch.get_num_threads()):
                pass
            ended = time.perf_counter()
            moved.append(float(np.mean(np.abs(np.array(scores) - np.array(before)))))
            for name, seconds in (("now", now - begun), ("plain", then - now), ("decode", ended - then)):
                rates[name].append(len(part) / seconds)
        facts: dict[str, object] = {f"{name} images/s": round(median(values), 1) for name, values in rates.items()}
        ratios = {name: tuple(a / b for a, b in zip(rates["now"], rates[name], strict=True)) for name in rates}
        half = detector.engine.name.startswith("bfloat16")
        limit = 2.0 if model == "mai-1" and half else None
        facts["computes in"] = detector.engine.name
        yield Result(f"{model}: predicting, over plain float32", ratios["plain"], limit, least=True, facts=facts)
        limit = 0.8 if model == "traces" else None
        yield Result(f"{model}: predicting, over decoding alone", ratios["decode"], limit, least=True)
        yield Result(f"{model}: mean change of the scores by the precision", tuple(moved), 0.01)


def _scores(detector: Detector, files: list[Path]) -> Iterator[float]:
    for row in detector.predict(files):
        if row.p_synthetic is not None:
            yield row.p_synthetic


def plain_scores(detector: Detector, batch: list[Path]) -> Iterator[float]:
    """Scores of a batch that is read by two threads, then computed: as MAI did before it knew better."""
    loaded = ordered_map(lambda path: detector._load(False, False, path), batch, 2)
    return (row.p_synthetic for row in detector._predict_batch(loaded) if row.p_synthetic is not None)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
