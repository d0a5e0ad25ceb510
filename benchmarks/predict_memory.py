"""Peak memory of `mai predict` on many files over that on few: whether a stream stays a stream.

python benchmarks/predict_memory.py --model RUN [--files 100000]    exit code 1 if the ratio is over LIMIT
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

LIMIT = 1.1
FEW = 1000


def main() -> int:
    """Judge FEW files, then many, each in a process of its own, and compare their peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint, run folder or run's name")
    parser.add_argument("--files", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few = _peak(arguments.model, _links(Path(folder) / "few", FEW), FEW)
        many = _peak(arguments.model, _links(Path(folder) / "many", arguments.files), arguments.files)
    print(
        f"peak memory: {few / 1024:.0f} MiB on {FEW:,} files, {many / 1024:.0f} MiB on {arguments.files:,}: "
        f"ratio {many / few:.3f} (limit {LIMIT})"
    )
    return 0 if many / few <= LIMIT else 1


def _links(folder: Path, count: int) -> Path:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for start in range(0, count, FEW):
        # A file system allows only so many links to one file: each folder has a file of its own.
        part = folder / f"{start:06}"
        part.mkdir(parents=True)
        image.save(part / "0.jpg")
        for i in range(1, min(FEW, count - start)):
            (part / f"{i}.jpg").hardlink_to(part / "0.jpg")
    return folder


def _peak(model: str, folder: Path, count: int) -> int:
    """Peak resident memory in KiB of judging the folder."""
    command = [sys.executable, "-m", "mai_app", "predict", str(folder), "--model", model, "--format", "jsonl"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        rows = sum(1 for _ in output)
    if process.returncode or rows != count:
        raise SystemExit(f"predict ended with {process.returncode} and {rows:,} rows for {count:,} files")
    return usage.ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
