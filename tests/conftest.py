"""What tests share: small data sets of real image files, and the command line in a process of its own."""

import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copy, copytree

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mai_app.config import TrainConfig, from_recipe
from mai_app.models.registry import shipped_models

Pixels = npt.NDArray[np.uint8]
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_sessionfinish() -> None:
    """Let what a command of the tests has frozen (cli.import_torch) be freed at the end, or libraries complain."""
    gc.unfreeze()


def picture(rng: np.random.Generator, label: int, height: int = 210, width: int = 220) -> Pixels:
    """A smooth random picture, (height, width, 3) uint8; label 1 carries a grid that a network learns at once."""
    coarse = rng.integers(40, 216, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    if label:
        smooth[::8] -= 40
        smooth[:, ::8] -= 40
    return (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)


def png_bytes(pixels: Pixels) -> bytes:
    """A PNG file's bytes of (height, width, 3) uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_data_set(root: Path, train: int = 32, val: int = 16, test: int = 16, seed: int = 0) -> Path:
    """A data set in {split}/{class}/{source}/ folders: so many pictures of either class in each split, as PNG."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for label, name in enumerate(("authentic", "synthetic")):
            for i in range(count):
                folder = root / split / name / f"source{i % 3}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(rng, label)).save(folder / f"{i:03}.png")
    return root


def small(data: Path, folder: Path) -> TrainConfig:
    """Settings of a short run on a small data set, the same on every machine."""
    return from_recipe(
        "baseline",
        data,
        degrade=True,
        name="r",
        epochs=2,
        batch_size=16,
        learning_rate=3e-4,
        device="cpu",
        precision="float32",
        runs=folder / "runs",
        prepared=folder / "prepared",
    )


def pytest_configure() -> None:
    # Before a test module imports torch, and inherited by what tests start: as many threads as the smallest machine has
    # cores, for their number changes how sums are rounded; and none that spins while it waits, for `make test` has
    # two workers at once.
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # one from outside wins: the tests have to pass with any number
    os.environ["OMP_WAIT_POLICY"] = "passive"


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set that the baseline learns; for reading only."""
    return write_data_set(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def trained_run(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `data_set`; for reading only."""
    from mai_app.training.loop import train  # noqa: PLC0415 - torch, which most tests do not need

    # Without augmentation: so short a run learns the plain pictures only.
    return train(replace(small(data_set, tmp_path_factory.mktemp("trained")), name="small", epochs=3, degrade=False))


@pytest.fixture(scope="session")
def plain(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The settings of a finished run, `small` as it is, never disturbed; its folder is for reading only."""
    from mai_app.training.loop import train  # noqa: PLC0415

    config = replace(small(data_set, tmp_path_factory.mktemp("plain")), save_minutes=0)
    train(config)
    return config


def folder_of(config: TrainConfig) -> Path:
    """Where a run of these settings lies."""
    return config.runs / config.name


def copied(config: TrainConfig, folder: Path) -> TrainConfig:
    """Settings of a finished run's copy, in that folder, with which a test may do what it likes."""
    copytree(folder_of(config), folder / config.name)
    return replace(config, runs=folder)


@pytest.fixture
def mai(tmp_path: Path) -> Run:
    """Run `mai WORDS…` in a process of its own, in tmp_path, and return what it did."""

    def run(*words: object, stdin: str | bytes | None = None, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, "-m", "mai_app", *map(str, words)],
            input=data if data is not None else b"",
            capture_output=True,
            timeout=240,
            cwd=cwd,
            env=environment,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    return run


@pytest.fixture(scope="session")
def model_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: copies of the shipped model, r5 the newest, and a damaged one."""
    folder = tmp_path_factory.mktemp("models") / "runs"
    for number, name in enumerate(["bad", "odd name", *(f"r{i}" for i in range(6))]):
        (folder / name).mkdir(parents=True)
        path = folder / name / "best.safetensors"
        copy(shipped_models()["traces"], path)
        if name == "bad":
            path.write_bytes(b"damaged")
        os.utime(path, (1e9 + number, 1e9 + number))
    return folder
