"""How preparing grows from 10,000 to 100,000 small images in time and memory, and what a parquet row group takes.

python benchmarks/prepare_scale.py [--small 10000] [--large 100000]    prints five ratios, one of them the memory of
an epoch; --small 0 measures the row group alone. Exit code 1 if one is over its limit. Needs about
150 kB an image on the disk, below --folder.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from mai_app.data.dedup import near_pairs

TIME_LIMIT = 1.3
"""The time an image may grow by from the small set to the large one."""
MEMORY_LIMIT = 2
"""By how much the peak memory of the whole may grow; ten times the images, held whole, would be near 10."""
SEARCH_LIMIT = 2
"""By how much the near-duplicate search's time a hash may grow; 10 would be quadratic."""
EPOCH_LIMIT = 1.5
"""By how much the anonymous memory after an epoch's batches may grow; mapped pixels are the system's to drop."""
ROW_GROUP_LIMIT = 2.5
"""The peak memory that reading a parquet row group of 100 MB takes, over its size, however it was written."""
ROW_GROUP = (69, 1_450_000)
"""Images of one row group, and bytes of each, as OpenFake has them."""

READ = """
import re, sys
from pathlib import Path
from mai_app.data.archives import read_members
from mai_app.data.selection import Quota
from mai_app.data.source_row import Source
source = Source(name="t", repository="o/t", label=0, container="parquet", files=("*",))
def peak():  # not getrusage: a child begins with the peak of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
read = sum(len(member.content) for member in read_members(Path(sys.argv[1]), source, Quota(0)))
print((peak() - before) / int(sys.argv[2]))
"""
PREPARE = """
import json, resource, sys, time
from pathlib import Path
from mai_app.data.prepare import prepare
started = time.perf_counter()
prepared = prepare(Path(sys.argv[1]), Path(sys.argv[2]))
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"folder": str(prepared.folder), "seconds": seconds, "peak": peak}))
"""
EPOCH = """
import re, sys
from pathlib import Path
from mai_app.config import Preprocessing
from mai_app.data.batches import TrainingImages, draw_epoch, training_batches
from mai_app.data.prepared import open_prepared
prepared = open_prepared(Path(sys.argv[1]))
rows = prepared.rows("train")
draws = draw_epoch(prepared.labels[rows], [prepared.sources[0]] * len(rows), 64, 0.5, 0, 0)
draws = [[(int(rows[i]), draw) for i, draw in batch] for batch in draws]
count = sum(len(labels) for _, labels in training_batches(TrainingImages(prepared, Preprocessing(), 0, 0), draws, 0))
assert count > 0.7 * len(rows)
print(int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def main() -> int:
    """Prepare both sets in processes of their own, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=10_000, help="images in the small set")
    parser.add_argument("--large", type=int, default=100_000, help="images in the large set")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    row_groups = _row_groups(options.folder)
    told = ", ".join(f"{name} × {ratio:.2f}" for name, ratio in row_groups.items())
    print(f"peak memory of a parquet row group of 100 MB over its size: {told} (limit {ROW_GROUP_LIMIT})")
    within = max(row_groups.values()) <= ROW_GROUP_LIMIT
    if not options.small:
        return 0 if within else 1
    sizes = (options.small, options.large)
    small, large = (_measure(count, options.folder) for count in sizes)
    search_small, search_large = (_search(count) for count in sizes)
    times = large["seconds"] / options.large / (small["seconds"] / options.small)
    memory = large["peak"] / small["peak"]
    search = search_large / options.large / (search_small / options.small)
    epoch = large["epoch"] / small["epoch"]
    print(
        f"from {options.small:,} to {options.large:,} images ({options.large / large['seconds']:.0f} a second): "
        f"time an image × {times:.2f} (limit {TIME_LIMIT}), "
        f"peak memory × {memory:.2f}, {small['peak']:.0f} to {large['peak']:.0f} MiB (limit {MEMORY_LIMIT}), "
        f"near-duplicate search, a hash × {search:.2f} (limit {SEARCH_LIMIT}), memory of an epoch's batches × "
        f"{epoch:.2f}, {small['epoch']:.0f} to {large['epoch']:.0f} MiB (limit {EPOCH_LIMIT})"
    )
    within &= times <= TIME_LIMIT and memory <= MEMORY_LIMIT and search <= SEARCH_LIMIT and epoch <= EPOCH_LIMIT
    return 0 if within else 1


def _row_groups(below: Path | None) -> dict[str, float]:
    """By how the file was written, the peak memory of reading its row groups, over the size of one."""
    rng = np.random.default_rng(0)
    count, size = ROW_GROUP
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind)])
    found = {}
    for groups in (1, 3):
        for codec in ("none", "snappy"):
            for dictionary in (False, True):
                with tempfile.TemporaryDirectory(dir=below) as folder:
                    path = Path(folder) / "table.parquet"
                    with pq.ParquetWriter(path, schema, compression=codec, use_dictionary=dictionary) as writer:
                        for _ in range(groups):
                            images = [{"bytes": rng.bytes(size), "path": "1.png"} for _ in range(count)]
                            writer.write_table(pa.table({"image": images}, schema))
                    arguments = [sys.executable, "-c", READ, str(path), str(count * size)]
                    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
                name = f"{codec}{', dictionary' if dictionary else ''}, {groups} group{'s' * (groups > 1)}"
                found[name] = float(done.stdout)
    return found


def _measure(count: int, below: Path | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=below) as folder:
        data = _pictures(Path(folder) / "data", count)
        arguments = [sys.executable, "-c", PREPARE, str(data), str(Path(folder) / "prepared")]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        facts = json.loads(done.stdout)
        shutil.rmtree(data)
        arguments = [sys.executable, "-c", EPOCH, facts["folder"]]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return {"seconds": facts["seconds"], "peak": facts["peak"], "epoch": float(done.stdout)}


def _search(count: int) -> float:
    """Seconds for that many random hashes, a tenth of them near another."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**63, count, dtype=np.uint64)
    tenth = count // 10
    hashes[:tenth] = hashes[-tenth:] ^ (np.uint64(1) << rng.integers(0, 63, tenth, dtype=np.uint64))
    hashes = np.unique(hashes)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        pairs = near_pairs(hashes)
        took.append(time.perf_counter() - started)
    assert len(pairs) >= tenth * 0.9
    return min(took)


def _pictures(root: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for name in ("authentic", "synthetic"):
        for i in tqdm(range(count // 2), desc=f"{count:,} pictures", disable=None):
            if i % 1000 == 0:
                folder = root / name / f"source{i // 1000}"
                folder.mkdir(parents=True)
            coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png", compress_level=1)
    return root


if __name__ == "__main__":
    sys.exit(main())
