"""Megabytes of Python packages in each image on Modal, as installed here from the lock; its code is a few more.

python benchmarks/image_sizes.py    exit code 1 if web or data is more than LIMIT of torch
"""

import importlib.metadata
import sys
from pathlib import Path
from typing import get_args

from packaging.requirements import Requirement

from mai_app.remote.packages import Needs, locked

LIMIT = 0.2
LOCK = Path(__file__).parents[1] / "requirements.lock"


def main() -> int:
    """Add up the files that the packages' records list."""
    sizes = {needs: sum(map(_size, locked(LOCK, needs))) / 1e6 for needs in get_args(Needs)}
    for needs, size in sizes.items():
        print(f"{needs}: {len(locked(LOCK, needs))} packages, {size:,.0f} MB")
    ratio = max(sizes["web"], sizes["data"]) / sizes["torch"]
    print(f"the larger of web and data is {ratio:.2f} of torch (limit {LIMIT})")
    return 0 if ratio <= LIMIT else 1


def _size(line: str) -> int:
    files = importlib.metadata.files(Requirement(line).name) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())


if __name__ == "__main__":
    sys.exit(main())
