"""How long commands take to start, as a ratio to `python -c "import torch"` in the same run.

Limits: `mai --help` 0.3, `mai models` 0.4, `mai predict ONE.jpg` 1.3 with traces and 3 with mai-1, which needs timm
and reads 40 MB. Each is the median of several runs in processes
of their own, taken by turns so that a busy moment hits all of them. Run it in an environment that has MAI.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROUNDS = 7
LIMITS = {"--help": 0.3, "models": 0.4, "predict --model traces": 1.3, "predict": 3.0}


def main() -> int:
    """Print the ratios; 1 if one of them is over its limit."""
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
        Image.fromarray(noise).save(Path(folder) / "one.jpg")
        commands = {
            "torch": ["-c", "import torch"],
            "--help": ["-m", "mai_app", "--help"],
            "models": ["-m", "mai_app", "models"],
            "predict --model traces": ["-m", "mai_app", "predict", "one.jpg", "--device", "cpu", "--model", "traces"],
            "predict": ["-m", "mai_app", "predict", "one.jpg", "--device", "cpu"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(ROUNDS + 1):
            for name, words in commands.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
                if turn:  # the first reads files that are not yet in memory
                    seconds[name].append(time.perf_counter() - begun)
    whole = statistics.median(seconds["torch"])
    failed = False
    for name, limit in LIMITS.items():
        ratio = statistics.median(seconds[name]) / whole
        failed |= ratio > limit
        print(f"mai {name}: {ratio:.3f} of importing torch (limit {limit})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
