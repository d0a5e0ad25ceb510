"""What it takes to read images out of the containers of Hub data sets: time over that of decoding them, and memory.

python benchmarks/readers.py [--images 150]    exit code 1 if a ratio is over its limit; needs 5 MB an image on the disk

The same JPEG files lie in a zip archive with a table of labels, in a tar archive with JSON files, in a packed one, in a
parquet table of one row group, and each in a file of its own.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mai_app.images.decode import decode

TIME_LIMIT = 0.5
"""Of the time of decoding an image that reading it may take."""
MEMORY_LIMIT = {"parquet": 2.5}
"""Peak memory over the size of all images: of a row group a page is held as it is stored, and unpacked."""
OTHERS_LIMIT = 0.3
"""The same of the other containers, which give one image after the other."""
SIDE = 1024

READ = """
import json, re, sys, time
from pathlib import Path
from mai_app.data.archives import read_members
from mai_app.data.selection import Quota
from mai_app.data.source_row import LabelFile, Labels, Source
container, root = sys.argv[1], Path(sys.argv[2])
labels = Labels("label", ("0",), ("1",)) if container != "file" else None
source = Source("t", "o/t", None if labels else 0, container, ("*",), labels=labels,
                table=LabelFile("labels.csv", "name") if container == "zip" else None)
def peak():  # not getrusage: a child begins with the peak of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
paths = sorted(root.iterdir()) if root.is_dir() else [root]
def read():
    return sum(len(member.content) for path in paths for member in read_members(path, source, Quota(0)))
before, size, seconds = peak(), 0, []
for _ in range(3):
    started = time.perf_counter()
    size = read()
    seconds.append(time.perf_counter() - started)
print(json.dumps({"seconds": min(seconds), "memory": (peak() - before) / size}))
"""


def main() -> int:
    """Write the containers, read each in a process of its own, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150)
    count = parser.parse_args().images
    within = True
    with tempfile.TemporaryDirectory() as folder:
        files = _pictures(count)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            for data in files:
                decode(data, "picture.jpg")
            seconds.append(time.perf_counter() - started)
        decoding = min(seconds)
        print(f"{count} JPEG of {SIDE}×{SIDE}, {sum(map(len, files)) / 1e6:.0f} MB; decoding {count / decoding:.0f}/s")
        print(f"{'container':12} {'images/s':>9} {'of decoding':>12} {'limit':>6} {'memory':>7} {'limit':>6}")
        for name, container, path in _containers(files, Path(folder)):
            done = subprocess.run(
                [sys.executable, "-c", READ, container, str(path)], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout)
            share, most = found["seconds"] / decoding, MEMORY_LIMIT.get(name, OTHERS_LIMIT)
            within &= share <= TIME_LIMIT and found["memory"] <= most
            speed, memory = count / found["seconds"], found["memory"]
            print(f"{name:12} {speed:9.0f} {share:12.3f} {TIME_LIMIT:6} {memory:7.2f} {most:6}")
    return 0 if within else 1


def _pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def _containers(files: list[bytes], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, container and place of each form, written when it is its turn."""
    labels = [str(i % 2) for i in range(len(files))]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        table = io.StringIO()
        csv.writer(table).writerows([("name", "label"), *((f"{i}.jpg", label) for i, label in enumerate(labels))])
        archive.writestr("labels.csv", table.getvalue())
        for i, data in enumerate(files):
            archive.writestr(f"images/{i}.jpg", data)
    yield "zip", "zip", folder / "a.zip"
    for name, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(folder / f"a.{name}", mode) as archive_of:  # type: ignore[call-overload]
            for i, (data, label) in enumerate(zip(files, labels, strict=True)):
                for suffix, content in (("jpg", data), ("json", json.dumps({"label": label}).encode())):
                    member = tarfile.TarInfo(f"{i}.{suffix}")
                    member.size = len(content)
                    archive_of.addfile(member, io.BytesIO(content))
        yield name, "tar", folder / f"a.{name}"
    images = pa.array([{"bytes": data, "path": None} for data in files])
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "a.parquet", row_group_size=len(files))
    yield "parquet", "parquet", folder / "a.parquet"
    (folder / "files").mkdir()
    for i, data in enumerate(files):
        (folder / "files" / f"{i}.jpg").write_bytes(data)
    yield "files", "file", folder / "files"


if __name__ == "__main__":
    sys.exit(main())
