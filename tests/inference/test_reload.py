"""A detector that follows its run: new weights are taken up, bad ones leave the old in place."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mai_app.config import SHIPPED
from mai_app.errors import CheckpointError
from mai_app.inference.reload import LiveDetector
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint


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
