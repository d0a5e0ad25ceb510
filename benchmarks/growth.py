"""How preparing, cached features, training, scanning and predicting grow from 1,000 to 100,000 images: time and memory.

python -m benchmarks.growth [--quick] [--data DIR] [--json FILE]

--data names a folder to work in, whose images are the benchmark's own: what is measured is kept there in growth.json,
stage by stage, and the same call carries on after a stop. Needs 150 kB of disk an image, 15 GB, and half an hour on
two cores. Each stage runs in a process of its own. Growth is judged by the processor's time, which other processes do
not count in. Memory is the most that the process had for itself; pages of mapped
files, which the system drops where it needs room, do not count. Networks are tiny, so that what grows is MAI's own.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.results import PAIRS, Options, Result, run

SIZES: Final = (1_000, 10_000, 100_000)
QUICK: Final = (100, 300, 1_000)
TIME_LIMIT: Final = 1.3
"""By how much the time an image may grow from the second size to the third."""
MEMORY_LIMITS: Final = {"prepare": 2.0, "features": 1.5, "heads": 1.5, "epoch": 1.5, "scan": 1.2, "predict": 1.1}
"""By how much the memory may; ten times the images, held whole, would be near 10."""
SEARCH_LIMIT: Final = 2.0
"""By how much the near-duplicate search's time a hash may grow; 10 would be quadratic."""
WORDS: Final = {
    "prepare": "mai prepare: decode, store, find near-duplicates, split",
    "features": "mai train --recipe views: features, computed and stored",
    "heads": "an epoch of heads on stored features",
    "epoch": "an epoch of traces on crops, with augmentation",
    "scan": "mai scan",
    "predict": "mai predict",
}
SIDE: Final = 64
PLOT: Final = Path(__file__).parents[1] / "docs" / "pictures" / "growth.png"

Measured = dict[str, dict[str, dict[str, float]]]
"""By size and stage: seconds, those of the processor, and memory in MiB."""


def measure(options: Options) -> Iterator[Result]:
    """Measure all stages at three sizes, and yield their growth from the second to the third."""
    sizes = QUICK if options.quick else SIZES
    folder = options.data or options.folder
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "growth.json"
    measured: Measured = json.loads(kept.read_text()) if kept.exists() else {}
    for count in sizes:
        _measure_size(folder / str(count), count, measured, kept)
    if not options.quick:
        _plot(measured)
    _, small, large = (str(count) for count in sizes)
    for stage, words in WORDS.items():
        before, after = measured[small][stage], measured[large][stage]
        each = {f"{count:,}": measured[str(count)][stage] for count in sizes}
        times = {f"{count} images": _times(found, int(count.replace(",", ""))) for count, found in each.items()}
        time_ratio = after["processor"] / before["processor"] * int(small) / int(large)
        yield Result(f"processor time an image, {words}", (time_ratio,), TIME_LIMIT, facts=times)
        sizes_told = {f"{count} images": f"{found['memory']:.0f} MiB" for count, found in each.items()}
        ratio = after["memory"] / before["memory"]
        yield Result(f"memory, {words}", (ratio,), MEMORY_LIMITS[stage], facts=sizes_told)
    pairs = [(_search(sizes[2]) / sizes[2]) / (_search(sizes[1]) / sizes[1]) for _ in range(PAIRS)]
    yield Result("near-duplicate search, time a hash", tuple(pairs), SEARCH_LIMIT)


def _times(found: dict[str, float], count: int) -> str:
    seconds, processor = (found[name] / count * 1000 for name in ("seconds", "processor"))
    return f"{seconds:.2f} s a thousand ({processor:.2f} s of the processor)"


def _measure_size(folder: Path, count: int, measured: Measured, kept: Path) -> None:
    """Measure the stages that are missing for so many images, each written down when it is done."""
    stages = measured.setdefault(str(count), {})
    if stages.keys() >= WORDS.keys():
        return
    free = shutil.disk_usage(kept.parent).free
    if free < count * 160_000:
        raise SystemExit(
            f"{kept.parent}: {free / 1e9:.0f} GB are free, {count:,} images need {count * 160e3 / 1e9:.0f}"
        )
    _make_images(folder / "images", count)
    for stage in WORDS:
        if stage not in stages:
            stages[stage] = _run_stage(stage, folder)
            kept.write_text(json.dumps(measured, indent=1) + "\n")
            print(f"{count:,} images, {stage}: {stages[stage]['seconds']:.1f} s, {stages[stage]['memory']:.0f} MiB")
    shutil.rmtree(folder)


def _run_stage(stage: str, folder: Path) -> dict[str, float]:
    # What an interrupted stage left would be carried on: it is measured from its beginning.
    for left in {"prepare": ["prepared", "runs"], "scan": ["scan.jsonl"]}.get(stage, [f"runs/{stage}"]):
        path = folder / left
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    if stage == "features":
        for features in folder.glob("prepared/*/features"):
            shutil.rmtree(features)
    code = "import sys; from benchmarks.growth import run_stage; run_stage(*sys.argv[1:])"
    command = [sys.executable, "-c", code, stage, str(folder)]
    # Threads that wait for each other would else count as work, on a busy machine most.
    passive = os.environ | {"OMP_WAIT_POLICY": "passive"}
    place = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=place, env=passive, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_stage(stage: str, folder: str) -> None:
    """Do one stage's work in this process, and print its seconds, without imports, and memory."""
    import timm  # noqa: F401, PLC0415 - the process that starts these is to stay small

    import mai_app.cli  # noqa: PLC0415
    import mai_app.training.loop  # noqa: F401, PLC0415

    work = {
        "prepare": _prepare,
        "features": lambda path: _train(path, "features"),
        "heads": lambda path: _train(path, "heads"),
        "epoch": _epoch,
        "scan": _scan,
        "predict": _predict,
    }[stage]
    peak = _watch_memory()
    started, processor = time.perf_counter(), time.process_time()
    work(Path(folder))
    found = {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor, "memory": peak()}
    print("\n" + json.dumps(found))


def _prepare(folder: Path) -> None:
    from mai_app.config import prepared_form  # noqa: PLC0415
    from mai_app.data.prepare import prepare  # noqa: PLC0415

    prepare(folder / "images", folder / "prepared", form=prepared_form(SIDE))


def _train(folder: Path, name: str) -> None:
    """An epoch of heads on a tiny network's features, which the first run computes."""
    from mai_app.config import from_recipe  # noqa: PLC0415
    from mai_app.training.loop import train  # noqa: PLC0415

    (data,) = (folder / "prepared").iterdir()
    settings: dict[str, Any] = {"model": "test_vit", "start_from": "", "blocks": "1,3", "view_size": SIDE}
    settings |= {"draws": 1, "epochs": 1, "folds": 0, "source_cap": 0, "runs": folder / "runs", "name": name}
    train(from_recipe("views", data, **settings, device="cpu"))


def _epoch(folder: Path) -> None:
    from mai_app.config import from_recipe  # noqa: PLC0415
    from mai_app.training.loop import train  # noqa: PLC0415

    (data,) = (folder / "prepared").iterdir()
    settings: dict[str, Any] = {"crop_size": 48, "epochs": 1, "runs": folder / "runs", "name": "epoch"}
    train(from_recipe("traces", data, **settings, device="cpu"))


def _scan(folder: Path) -> None:
    from mai_app.cli import main  # noqa: PLC0415

    words = ["scan", str(folder / "images"), "--model", str(folder / "runs" / "heads"), "--device", "cpu"]
    if main([*words, "--out", str(folder / "scan.jsonl")]):
        raise SystemExit("not every file was scanned")


def _predict(folder: Path) -> None:
    from mai_app.cli import main  # noqa: PLC0415

    words = ["predict", str(folder / "images"), "--model", str(folder / "runs" / "heads"), "--device", "cpu"]
    with (folder / "rows.jsonl").open("w") as out, contextlib.redirect_stdout(out):
        if main([*words, "--format", "jsonl"]):
            raise SystemExit("not every file was predicted")


def _watch_memory() -> Callable[[], float]:
    """Watch this process's memory from a thread; the function that comes back gives the most of it, in MiB."""
    seen = [0.0]

    def look() -> None:
        status = Path("/proc/self/status").read_text()
        kilobytes = re.search(r"RssAnon:\s+(\d+)", status)
        seen[0] = max(seen[0], int(kilobytes[1]) / 1024 if kilobytes else 0.0)

    def watch() -> None:
        while True:
            look()
            time.sleep(0.05)

    look()
    threading.Thread(target=watch, daemon=True).start()
    return lambda: seen[0]


def _make_images(folder: Path, count: int) -> None:
    """So many different images as JPEG files of about 2 kB: coarse random grids, enlarged; those there are stay."""
    if folder.with_suffix(".made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("authentic", "synthetic")[i % 2] / f"source{i // 1000}"
        if i % 1000 < 2:
            place.mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{i}.jpg", quality=85)
    os.sync()
    folder.with_suffix(".made").touch()


def _search(count: int) -> float:
    """Processor seconds for finding the near ones of so many random hashes, a tenth of them near another."""
    from mai_app.data.dedup import near_pairs  # noqa: PLC0415

    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**63, count, dtype=np.uint64)
    tenth = count // 10
    hashes[:tenth] = hashes[-tenth:] ^ (np.uint64(1) << rng.integers(0, 63, tenth, dtype=np.uint64))
    hashes = np.unique(hashes)
    started = time.process_time()
    pairs = near_pairs(hashes)
    seconds = time.process_time() - started
    if len(pairs) < tenth * 0.9:
        raise SystemExit(f"{len(pairs)} of {tenth} near hashes found")
    return seconds


def _plot(measured: Measured) -> None:
    """Draw processor seconds a thousand images and memory over the number of images, a line a stage."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for stage, words in WORDS.items():
        sizes = [count for count in SIZES if stage in measured.get(str(count), {})]
        found = [measured[str(count)][stage] for count in sizes]
        left.plot(sizes, [each["processor"] / n * 1000 for each, n in zip(found, sizes, strict=True)], marker="o")
        right.plot(sizes, [each["memory"] for each in found], marker="o", label=words)
    for axes, title in ((left, "processor seconds a thousand images"), (right, "peak memory, MiB")):
        axes.set(xscale="log", xlabel="images", title=title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(PLOT, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
