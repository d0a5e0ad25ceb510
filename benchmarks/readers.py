"""What it takes to read images out of the containers of Hub data sets: time over that of decoding them, and memory.

python -m benchmarks.readers [--quick] [--json FILE]    needs 5 MB an image on the disk, 150 images

The same JPEG files lie in a zip archive with a table of labels, in a tar archive with JSON files, in a packed one, in a
parquet table of one row group, and each in a file of its own. Then parquet row groups of 100 MB, as OpenFake has them,
written in several ways: the memory that reading them takes over their size.
"""

import csv
import io
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.results import PAIRS, Options, Result, run
from mai_app.images.decode import decode

TIME_LIMIT: Final = 0.5
"""Of the time of decoding an image that reading it may take."""
ROW_GROUP_LIMIT: Final = 2.5
"""Peak memory over the size of all images in a row group: a page is held as it is stored, and unpacked."""
OTHERS_LIMIT: Final = 0.3
"""The same of the other containers, which give one image after the other."""
IMAGES: Final = 150
SIDE: Final = 1024
ROW_GROUP: Final = (69, 1_450_000)
"""Images of one row group, and bytes of each, as OpenFake has them."""

READ: Final = """
import json, re, sys, time
from pathlib import Path
from mai_app.data.archives import read_members
from mai_app.data.selection import Quota
from mai_app.data.source_row import LabelFile, Labels, Source
container, root, labelled = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "labelled"
labels = Labels("label", ("0",), ("1",)) if labelled else None
source = Source("t", "o/t", None if labels else 0, container, ("*",), labels=labels,
                table=LabelFile("labels.csv", "name") if container == "zip" else None)
def peak():  # not getrusage: a child begins with the peak of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
paths = sorted(root.iterdir()) if root.is_dir() else [root]
def read():
    return sum(len(member.content) for path in paths for member in read_members(path, source, Quota(0)))
before = peak()
started = time.perf_counter()
size = read()
print(json.dumps({"seconds": time.perf_counter() - started, "memory": peak() - before, "size": size}))
"""


def measure(options: Options) -> Iterator[Result]:
    """Write the containers, read each in processes of its own by turns with decoding, and compare."""
    files = _pictures(20 if options.quick else IMAGES)
    for name, container, path in _containers(files, options.folder):
        _read(container, path, container != "file")
        found, decoding = [], []
        for _ in range(PAIRS):
            found.append(_read(container, path, container != "file"))
            decoding.append(_decode_seconds(files))
        times = tuple(read["seconds"] / seconds for read, seconds in zip(found, decoding, strict=True))
        speed = {"images a second": round(len(files) / min(read["seconds"] for read in found))}
        yield Result(f"time of reading over decoding, {name}", times, TIME_LIMIT, facts=speed)
        memory = tuple(read["memory"] / read["size"] for read in found)
        limit = ROW_GROUP_LIMIT if name == "parquet" else OTHERS_LIMIT
        yield Result(f"memory of reading over all images' size, {name}", memory, limit)
    yield from _row_groups(options)


def _read(container: str, path: Path, labelled: bool) -> dict[str, Any]:
    command = [sys.executable, "-c", READ, container, str(path), "labelled" if labelled else ""]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _decode_seconds(files: list[bytes]) -> float:
    started = time.perf_counter()
    for data in files:
        decode(data, "picture.jpg")
    return time.perf_counter() - started


def _row_groups(options: Options) -> Iterator[Result]:
    """By how a file was written, the peak memory of reading its row groups, over the size of one."""
    rng = np.random.default_rng(0)
    count, size = (ROW_GROUP[0] // 5, ROW_GROUP[1]) if options.quick else ROW_GROUP
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind)])
    path = options.folder / "table.parquet"
    for groups in (1, 3):
        for codec in ("none", "snappy"):
            for dictionary in (False, True):
                with pq.ParquetWriter(path, schema, compression=codec, use_dictionary=dictionary) as writer:
                    for _ in range(groups):
                        images = [{"bytes": rng.bytes(size), "path": "1.png"} for _ in range(count)]
                        writer.write_table(pa.table({"image": images}, schema))
                ratios = tuple(_read("parquet", path, False)["memory"] / (count * size) for _ in range(PAIRS))
                name = f"{codec}{', dictionary' if dictionary else ''}, {groups} group{'s' * (groups > 1)}"
                yield Result(f"memory of a parquet row group over its size, {name}", ratios, ROW_GROUP_LIMIT)


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
    sys.exit(run(measure, __doc__))
