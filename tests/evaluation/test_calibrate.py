"""`mai calibrate`: the same weights, other figures, fitted on what evaluation measures; it carries on, and refuses."""

import json
import re
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mai_app.cli import main
from mai_app.config import CALIBRATION_MIN_SOURCES, FPR_CEILING, TIERS, CalibrateConfig, EvaluateConfig
from mai_app.core import metrics
from mai_app.core.display import show_percent
from mai_app.data.prepare import prepare
from mai_app.errors import CheckpointError, DataError
from mai_app.evaluation import calibrate as module
from mai_app.evaluation.calibrate import calibrate_checkpoint, text_table
from mai_app.evaluation.evaluate import evaluate
from mai_app.evaluation.score import Row, score
from mai_app.models.checkpoint import Checkpoint, load_checkpoint
from mai_app.models.registry import BEST, find_checkpoint
from tests.conftest import picture, write_data_set

COUNT = 24
"""Images of either class in val."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with enough val images, which training has not seen; for reading only."""
    return write_data_set(tmp_path_factory.mktemp("calibrate") / "photos", train=1, val=COUNT, test=1, seed=7)


@pytest.fixture(scope="module")
def calibrated(photos: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated copy of the trained run; for reading only."""
    run = copytree(trained_run, tmp_path_factory.mktemp("calibrated") / "small")
    calibrate_checkpoint(CalibrateConfig(data=photos, model=str(run), device="cpu"))
    return run


def copied(run: Path, folder: Path) -> Path:
    return copytree(run, folder / "small")


def test_the_weights_stay_and_the_calibration_says_what_it_comes_to(trained_run: Path, calibrated: Path) -> None:
    before, after = load_checkpoint(trained_run / BEST), load_checkpoint(calibrated / BEST)
    for name, tensor in before.network.state_dict().items():
        assert torch.equal(after.network.state_dict()[name], tensor)
    assert after.weights_sha256 == before.weights_sha256
    assert after.sha256 != before.sha256
    fit = after.info.calibration
    assert before.info.calibration.tiers == {}
    assert (fit.authentic_images, fit.synthetic_images, fit.data) == (COUNT, COUNT, "photos")
    assert sorted(fit.tiers) == sorted(TIERS)
    assert all(rates.images == 2 * COUNT and rates.fpr <= FPR_CEILING for rates in fit.tiers.values())
    assert all(rates.fpr <= (rates.fpr_bound or 0) <= FPR_CEILING for rates in fit.tiers.values())
    # Three sources are too few to be the unit.
    assert (fit.authentic_sources, fit.synthetic_sources) == (0, 0)
    table = text_table(fit).splitlines()
    assert (
        f"fewer than {CALIBRATION_MIN_SOURCES} authentic and synthetic sources: each image counts as one;" in table[-1]
    )
    assert tuple(line.split()[0] for line in table if line.startswith(TIERS)) == TIERS
    assert max(map(len, table)) <= 120
    # All else that a checkpoint says stays.
    assert {**vars(after.info), "calibration": None} == {**vars(before.info), "calibration": None}


def test_evaluation_measures_what_was_fitted(
    photos: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, rounds=20))
    copied(calibrated, tmp_path)
    report = evaluate(EvaluateConfig(data=photos, model="small", split="val", device="cpu", runs=tmp_path))
    fit = load_checkpoint(calibrated / BEST).info.calibration
    for tier in TIERS:
        figures, rates = report["tiers"][tier], fit.tiers[tier]
        assert figures["fpr"]["value"] == pytest.approx(rates.fpr)
        assert figures["tpr"]["value"] == pytest.approx(rates.tpr)
        assert figures["unsure"] == pytest.approx(rates.unsure)


def test_rows_name_the_sources(photos: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mai_app.models.calibration.CALIBRATION_MIN_SOURCES", 3)
    run = copied(calibrated, tmp_path)
    fit = calibrate_checkpoint(CalibrateConfig(data=photos, model=str(run), device="cpu"))[1]
    assert (fit.authentic_sources, fit.synthetic_sources) == (3, 3)
    assert load_checkpoint(run / BEST).info.calibration == fit
    table = text_table(fit)
    assert f"{COUNT} authentic images of 3 sources and {COUNT} synthetic images of 3 sources, in four tiers." in table
    assert "fewer than" not in table
    for tier in TIERS:
        rates = fit.tiers[tier]
        (line,) = [line for line in table.splitlines() if line.startswith(tier)]
        shares = (rates.fpr, rates.fpr_bound, rates.tpr, 1 - rates.unsure, rates.right, rates.right_bound)
        assert re.sub(" +", " ", line).endswith(" ".join(map(show_percent, shares)))


def test_calibrated_again_nothing_is_judged_twice(photos: Path, calibrated: Path, tmp_path: Path) -> None:
    run = copied(calibrated, tmp_path)
    written = (run / "calibration" / "scores.jsonl").read_bytes()
    # Cut in the middle of a row: the rest is judged, and all comes out the same.
    (run / "calibration" / "scores.jsonl").write_bytes(written[: len(written) // 2])
    calibrate_checkpoint(CalibrateConfig(data=photos, model=str(run), device="cpu"))
    again = (run / "calibration" / "scores.jsonl").read_bytes()
    assert sorted(again.splitlines()) == sorted(written.splitlines())
    assert again.startswith(written[: written[: len(written) // 2].rindex(b"\n") + 1])
    assert (run / BEST).read_bytes() == (calibrated / BEST).read_bytes()


def test_the_command_prints_the_table_and_what_is_next(
    photos: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(calibrated, tmp_path)
    assert main(["calibrate", "--data", str(photos), "--model", str(run), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^clean +48 +\d+\.\d % ", out, re.MULTILINE)
    assert f"Next: mai evaluate --data {photos} --model {run / BEST}" in out


def test_a_plain_folder_is_split_by_the_prepared_draw(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("authentic", "synthetic")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(50):
            Image.fromarray(picture(rng, label, 70, 70)).save(tmp_path / "d" / name / f"{i}.png", compress_level=0)
    prepared = prepare(tmp_path / "d", tmp_path / "prepared")
    drawn = prepared.rows("val")
    counts = np.bincount(prepared.labels[drawn], minlength=2).tolist()
    assert min(counts) >= 2
    run = copied(trained_run, tmp_path)
    config = CalibrateConfig(data=tmp_path / "d", model=str(run), device="cpu", prepared=tmp_path / "prepared")
    with pytest.raises(DataError, match=f"val part holds {counts[0]} authentic and {counts[1]} synthetic images whose"):
        calibrate_checkpoint(config)
    monkeypatch.setattr(module, "CALIBRATION_MIN_IMAGES", 2)
    fit = calibrate_checkpoint(config)[1]
    assert [fit.authentic_images, fit.synthetic_images] == counts
    rows = [json.loads(line) for line in (run / "calibration" / "scores.jsonl").read_text().splitlines()[1:]]
    assert sorted(row["file"] for row in rows) == sorted(prepared.file(int(row)) for row in drawn)


def test_a_prepared_set_keeps_no_val_files_and_that_is_said(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    prepared = prepare(photos, tmp_path)
    run = copied(trained_run, tmp_path)
    with pytest.raises(DataError, match="name the folder of images that it was made from"):
        calibrate_checkpoint(CalibrateConfig(data=prepared.folder, model=str(run), device="cpu"))


@pytest.mark.parametrize("broken", [False, True])
def test_too_few_images_are_refused_and_nothing_is_written(trained_run: Path, tmp_path: Path, broken: bool) -> None:
    root = write_data_set(tmp_path / "d", train=1, val=20 if broken else 19, test=1)
    if broken:
        next((root / "val" / "synthetic").rglob("*.png")).write_bytes(b"no image")
    run = copied(trained_run, tmp_path)
    before = (run / BEST).read_bytes()
    counts = "20 authentic and 19" if broken else "19 authentic and 19"
    with pytest.raises(DataError, match=f"d: its val part holds {counts} synthetic images .* needs 20 of each"):
        calibrate_checkpoint(CalibrateConfig(data=root, model=str(run), device="cpu"))
    assert (run / BEST).read_bytes() == before


def test_a_checkpoint_that_changes_meanwhile_is_not_written_over(
    photos: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(calibrated, tmp_path)

    def slow(*arguments: Any) -> list[Row]:
        rows = score(*arguments)
        (run / BEST).write_bytes(better)
        return rows

    better = saved_with(load_checkpoint(run / BEST), 0.1, tmp_path / "better.safetensors")
    monkeypatch.setattr(module, "score", slow)
    with pytest.raises(CheckpointError, match="was changed meanwhile"):
        calibrate_checkpoint(CalibrateConfig(data=photos, model=str(run), device="cpu"))
    assert (run / BEST).read_bytes() == better


def saved_with(checkpoint: Checkpoint, bias: float, path: Path) -> bytes:
    """A checkpoint's bytes with other weights."""
    from mai_app.models.checkpoint import save_checkpoint  # noqa: PLC0415

    with torch.no_grad():
        next(checkpoint.network.parameters()).add_(bias)
    save_checkpoint(path, checkpoint.network, checkpoint.info)
    return path.read_bytes()


def test_what_comes_with_mai_is_not_written_to(
    photos: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mai_app.models.registry.FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    model = tmp_path / "weights" / "model.safetensors"
    model.write_bytes((calibrated / BEST).read_bytes())
    for command in (["calibrate"], ["evaluate", "--split", "val"]):
        words = [*command, "--data", str(photos), "--model", "model", "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, rounds=5))
        assert main([*words, "--device", "cpu"]) == (2 if command == ["calibrate"] else 0)
    assert list((tmp_path / "weights").iterdir()) == [model]
    assert model.read_bytes() == (calibrated / BEST).read_bytes()
    assert (tmp_path / "runs" / "model" / "report-val" / "report.html").is_file()


def test_a_calibrated_run_is_found_as_before(calibrated: Path) -> None:
    assert find_checkpoint("small", calibrated.parent) == calibrated / BEST
    header = json.loads((calibrated / "calibration" / "scores.jsonl").read_text().splitlines()[0])
    assert header["weights"] == load_checkpoint(calibrated / BEST).weights_sha256
