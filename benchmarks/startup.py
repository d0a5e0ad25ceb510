"""How long commands take to start, over `python -c "import torch"` in the same run.

python -m benchmarks.startup    Each is a process of its own, taken by turns so that a busy moment hits all of them.
"""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.results import PAIRS, Options, Result, run

ROUNDS = 2 * PAIRS + 1
PREDICT = ("predict", "one.jpg", "--device", "cpu")
COMMANDS = {
    "mai --help": (("--help",), 0.3),
    "mai models": (("models",), 0.4),
    "mai predict ONE.jpg": (PREDICT, 1.2),
    "mai predict ONE.jpg --model traces": ((*PREDICT, "--model", "traces"), 1.2),
}
"""Words of the command, and its limit."""
SERVE_LIMIT = 1.5


def measure(options: Options) -> Iterator[Result]:
    """Start each command in turn, in a folder with one image."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(options.folder / "one.jpg")
    seconds: dict[str, list[float]] = {name: [] for name in ("import torch", *COMMANDS, "mai serve, first answer")}
    for turn in range(3 if options.quick else ROUNDS + 1):
        taken = {"import torch": _seconds(options.folder, "-c", "import torch")}
        for name, (words, _) in COMMANDS.items():
            taken[name] = _seconds(options.folder, "-m", "mai_app", *words)
        taken["mai serve, first answer"] = _first_answer(options.folder)
        if turn:  # the first reads files that are not yet in memory
            for name, value in taken.items():
                seconds[name].append(value)
    torch = seconds.pop("import torch")
    for name, values in seconds.items():
        limit = COMMANDS[name][1] if name in COMMANDS else SERVE_LIMIT
        ratios = tuple(one / other for one, other in zip(values, torch, strict=True))
        yield Result(f"{name}, over importing torch", ratios, limit, facts={"seconds": round(median(values), 2)})


def _seconds(folder: Path, *words: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def _first_answer(folder: Path) -> float:
    """Seconds from the start of `mai serve` to the score of the first image that is sent to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", (folder / "one.jpg").read_bytes())
    request.add_header("Content-Type", "image/jpeg")
    begun = time.perf_counter()
    words = [sys.executable, "-m", "mai_app", "serve", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                try:
                    with urllib.request.urlopen(request) as answer:
                        answer.read()
                    return time.perf_counter() - begun
                except urllib.error.URLError:
                    time.sleep(0.01)
        finally:
            server.terminate()
    raise RuntimeError("mai serve ended before it answered")


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
