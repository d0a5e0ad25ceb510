"""Models that come with MAI: found after the runs, listed with them, and all that `mai predict` needs."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import pytest
from PIL import Image

from mai_app import load
from mai_app.cli import main
from mai_app.config import SHIPPED
from mai_app.errors import CheckpointError
from mai_app.models.calibration import TierRates
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.registry import BEST, find_checkpoint, list_models, table
from tests.conftest import picture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the shipped models, empty at first, in place of the package's."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr("mai_app.models.registry.FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def ship(trained_run: Path, folder: Path, name: str = SHIPPED) -> Path:
    """A calibrated checkpoint among the shipped ones."""
    checkpoint = load_checkpoint(trained_run / BEST)
    rates = {"clean": TierRates(200, 0.01, 0.6, 0.5, 0.96), "hard": TierRates(200, 0.055, 0.5, 1.0, None)}
    fit = dataclasses.replace(checkpoint.info.calibration, data="photos", tiers=rates)
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, checkpoint.network, dataclasses.replace(checkpoint.info, calibration=fit))
    return path


def test_a_shipped_model_is_used_where_there_is_no_run(trained_run: Path, weights: Path) -> None:
    runs = Path("runs")
    with pytest.raises(CheckpointError, match=r"no trained model in runs/; .*; shipped models = \[\]$"):
        find_checkpoint("", runs)
    other = ship(trained_run, weights, "other")
    with pytest.raises(CheckpointError, match=r"shipped models = \['other'\]$"):
        find_checkpoint("", runs)  # it can be named; config.py says which one goes without saying
    path = ship(trained_run, weights)
    assert find_checkpoint("", runs) == path
    assert find_checkpoint(SHIPPED, runs) == path
    assert find_checkpoint("other", runs) == other
    assert load(device="cpu").checkpoint.path == path
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("lion", runs)
    assert str(caught.value) == (
        f"model 'lion' not found; available runs in runs/ = [], shipped models = {sorted(['other', SHIPPED])}"
    )


def test_a_run_goes_first(trained_run: Path, weights: Path) -> None:
    shipped = ship(trained_run, weights)
    run = copytree(trained_run, Path("runs") / SHIPPED)
    assert find_checkpoint("", Path("runs")) == run / BEST
    assert find_checkpoint(SHIPPED, Path("runs")) == run / BEST
    (run / BEST).unlink()
    assert find_checkpoint(SHIPPED, Path("runs")) == shipped


def test_a_run_on_simulated_images_is_used_only_where_it_is_named(trained_run: Path, weights: Path) -> None:
    shipped, runs = ship(trained_run, weights), Path("runs")
    checkpoint = load_checkpoint(trained_run / BEST)
    demo = runs / "demo" / BEST
    save_checkpoint(demo, checkpoint.network, dataclasses.replace(checkpoint.info, simulated=True))
    assert find_checkpoint("", runs) == shipped
    assert find_checkpoint("demo", runs) == demo
    assert {model.name: model.default for model in list_models(runs)} == {SHIPPED: True, "demo": False}
    real = copytree(trained_run, runs / "real") / BEST
    os.utime(real, (1, 1))  # trained before the other
    assert find_checkpoint("", runs) == real


def test_a_package_without_the_folder_ships_nothing(weights: Path) -> None:
    (weights / "README.md").write_text("no model")
    assert list_models(Path("runs")) == []
    weights.joinpath("README.md").unlink()
    weights.rmdir()
    assert list_models(Path("runs")) == []
    assert table([], Path("runs")) == "no model comes with this MAI, and none is in runs/; train one with `mai train`"


def test_models_lists_what_there_is(trained_run: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ship(trained_run, weights)
    checkpoint = load_checkpoint(path)
    assert main(["models", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "name": SHIPPED,
        "kind": "shipped",
        "path": str(path),
        "bytes": path.stat().st_size,
        "version": checkpoint.version,
        "default": True,
        "model": "baseline",
        "trained_on": "pictures",
        "epoch": checkpoint.info.epoch,
        "worst_tier": "hard",
        "worst_fpr": 0.055,
        "cpu_precision": "float32",
        "error": None,
    }
    copytree(trained_run, Path("runs") / "small")
    damaged = Path("runs") / "dam\naged" / BEST
    damaged.parent.mkdir()
    damaged.write_bytes(path.read_bytes()[:1000])
    os.utime(damaged, (1, 1))
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", SHIPPED, "dam\\naged", "dam\\naged:", "*", "*"]
    assert f"shipped  baseline  {checkpoint.version}" in lines[1]
    assert lines[1].split()[-4:] == ["5.5", "%,", "hard", "float32"]
    assert "truncated, or no safetensors file" in lines[3]
    assert lines[4].startswith("* small")
    assert lines[4].split()[-2:] == ["–", "float32"]  # calibrated in training alone
    # A run hides the shipped model of its name, which can no longer be named.
    copytree(trained_run, Path("runs") / SHIPPED)
    assert [(model.name, model.kind) for model in list_models(Path("runs")) if model.name == SHIPPED] == [
        (SHIPPED, "run")
    ]


def test_weights_of_others_and_damaged_descriptions_are_rows(trained_run: Path, weights: Path) -> None:
    # A header by hand: weights of others have no description, and this one's is no JSON.
    for name, metadata in (("foreign", {}), ("damaged", {"__metadata__": {"mai": "{"}})):
        header = json.dumps(metadata).encode()
        (weights / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (weights / "folder.safetensors").mkdir()
    errors = {model.name: model.error or "" for model in list_models(Path("runs"))}
    assert errors["foreign"].startswith("holds weights, but not MAI's; ")
    assert errors["damaged"].startswith("its description is damaged (")
    assert errors["folder"].startswith("can't be read (")


@pytest.fixture(scope="module")
def installed(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a package lies that has a shipped model, as pip leaves it; for reading only."""
    site = tmp_path_factory.mktemp("site")
    copytree(ROOT / "mai_app", site / "mai_app", ignore=ignore_patterns("__pycache__", "*.safetensors"))
    copy(trained_run / BEST, site / "mai_app" / "models" / "weights" / f"{SHIPPED}.safetensors")
    return site


def in_python(code: str, installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that has MAI from there and nowhere else."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_predict_works_right_after_installation(installed: Path, trained_run: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(np.random.default_rng(0), 1)).save(tmp_path / "photo.jpg")
    code = (
        "import sys, mai_app\n"
        "detector = mai_app.load()\n"
        "print(detector.checkpoint.path)\n"
        "from mai_app.cli import main\n"
        "sys.exit(main(['predict', '--format', 'json', 'photo.jpg']))"
    )
    done = in_python(code, installed, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    path, rows = done.stdout.split("\n", 1)
    assert path == str(installed / "mai_app" / "models" / "weights" / f"{SHIPPED}.safetensors")
    (row,) = json.loads(rows)
    assert row["version"] == load_checkpoint(trained_run / BEST).version
    assert row["error"] is None


def test_models_needs_no_torch(installed: Path, tmp_path: Path) -> None:
    code = "import sys; from mai_app.cli import main; sys.exit(main(['models']) or 'torch' in sys.modules)"
    done = in_python(code, installed, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f"* {SHIPPED}  shipped  baseline  ")


def test_the_package_takes_its_weights_along() -> None:
    # The wheel holds what git does not ignore: neither the folder nor a model in it may be.
    ignored = [line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()]
    assert not {"weights", "mai_app", "*.safetensors", "*.md"} & set(ignored)
    assert (ROOT / "mai_app" / "models" / "weights").is_dir()
