"""A detector that follows its run: new weights are taken up, bad ones leave the old in place."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mai_app.checkpoint import load_checkpoint, save_checkpoint
from mai_app.errors import CheckpointError
from mai_app.live import LiveDetector


def test_it_waits_for_weights_follows_them_and_keeps_what_works(trained_run: Path, tmp_path: Path) -> None:
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
