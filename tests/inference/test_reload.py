"""Reloading detectors: new weights are loaded, unusable ones leave the old in place; the cache keeps a few models."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mai_app.config import SHIPPED, ServeConfig
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.inference.detector import load
from mai_app.inference.known import known_models
from mai_app.inference.reload import MAX_LOADED, DetectorCache, LiveDetector
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.registry import shipped_models


def test_it_waits_for_weights_follows_them_and_keeps_what_works(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mai_app.models.registry.FOLDER", tmp_path / "weights")  # no model comes with MAI
    refreshed: list[int] = []
    live = LiveDetector("", tmp_path, 0, lambda: refreshed.append(1))
    with pytest.raises(CheckpointError, match="no trained model"):
        live.detector()

    best = tmp_path / "r" / "best.safetensors"
    best.parent.mkdir()
    shutil.copy(trained_run / "best.safetensors", best)
    first = live.detector()
    assert live.detector() is first

    checkpoint = load_checkpoint(best)
    save_checkpoint(best, checkpoint.network, replace(checkpoint.info, epoch=99))
    second = live.detector()
    assert second.info.epoch == 99

    best.write_bytes(b"no weights")
    assert live.detector() is second
    best.unlink()
    assert live.detector() is second
    assert len(refreshed) == 6


def test_it_looks_only_now_and_then(trained_run: Path, tmp_path: Path) -> None:
    best = tmp_path / "r" / "best.safetensors"
    best.parent.mkdir()
    shutil.copy(trained_run / "best.safetensors", best)
    live = LiveDetector("r", tmp_path, 3600)
    first = live.detector()
    os.utime(best, (1, 1))
    assert live.detector() is first


def test_a_shipped_model_serves_until_there_is_a_run(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "weights" / f"{SHIPPED}.safetensors"
    shipped.parent.mkdir()
    shutil.copy(trained_run / "best.safetensors", shipped)
    monkeypatch.setattr("mai_app.models.registry.FOLDER", shipped.parent)
    live = LiveDetector("", tmp_path / "runs", 0)
    assert live.detector().checkpoint.path == shipped
    assert capsys.readouterr().err.startswith(f"{SHIPPED}: weights ")
    best = tmp_path / "runs" / "r" / "best.safetensors"
    best.parent.mkdir(parents=True)
    shutil.copy(shipped, best)
    assert live.detector().checkpoint.path == best


def test_a_shared_folder_out_of_reach_takes_nothing_away(trained_run: Path) -> None:
    reachable = [False, True, False]

    def refresh() -> None:
        if not reachable.pop(0):
            raise ConnectionError("no route")

    live = LiveDetector(str(trained_run), Path("none"), 0, refresh)
    with pytest.raises(ConnectionError):
        live.detector()
    first = live.detector()
    assert live.detector() is first
    assert not reachable


def test_known_models_lists_usable_ones_with_the_default_first(model_runs: Path, tmp_path: Path) -> None:
    facts = known_models(ServeConfig(runs=model_runs))
    assert facts[0] == load(model_runs / "r5", "cpu").facts
    assert sorted(one.name for one in facts) == sorted(["r0", "r1", "r2", "r3", "r4", "r5", *shipped_models()])
    shutil.copy(model_runs / "r0" / "best.safetensors", tmp_path / "mine.safetensors")
    facts = known_models(ServeConfig(model=str(tmp_path / "mine.safetensors"), runs=model_runs))
    assert facts[0].name == "mine"
    assert len(facts) == 9
    assert [one.name for one in known_models(ServeConfig(runs=model_runs / "none"))] == [SHIPPED, "traces"]
    with pytest.raises(CheckpointError):
        known_models(ServeConfig(model="nothing", runs=model_runs))


def test_the_cache_gives_detectors_by_name(model_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_runs / "r0" / "best.safetensors", tmp_path / "file.safetensors")
    detectors = DetectorCache(ServeConfig(runs=model_runs, device="cpu"))
    default = detectors.detector("")
    assert default.facts.name == "r5"
    assert detectors.detector("r5") is default
    for name in [*(f"r{i}" for i in range(5)), SHIPPED, "r0"]:
        assert detectors.detector(name).facts.name == name
        assert detectors.detector(name) is detectors.detector(name)
        assert len(detectors._others) <= MAX_LOADED - 1
    # Only runs and shipped models can be selected, whatever other files exist.
    for name in ("file.safetensors", "..", str(model_runs / "r0"), "none", "odd name"):
        with pytest.raises(ModelNameError):
            detectors.detector(name)
    with pytest.raises(CheckpointError):
        detectors.detector("bad")
    with pytest.raises(CheckpointError):
        DetectorCache(ServeConfig(model="none", runs=model_runs))
