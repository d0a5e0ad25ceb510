"""The bias check: what moves the scores is named, what does not is nought, rows are taken over, all of it is shown."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mai_app import load
from mai_app.config import CLASSES, SHOWN_SCORES, EvaluateConfig
from mai_app.core import metrics
from mai_app.errors import DataError
from mai_app.evaluation import bias as module
from mai_app.evaluation.bias import VERSIONS, bias_figures, draw_files
from mai_app.evaluation.evaluate import evaluate
from mai_app.evaluation.report import text_tables
from mai_app.evaluation.score import seen_by
from mai_app.images.decode import decode, decode_file, encode_jpeg
from mai_app.inference.detector import Detector
from mai_app.models.checkpoint import load_checkpoint
from tests.conftest import picture

IMAGES = 12


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, rounds=30))
        yield


@pytest.fixture(scope="module")
def folder(data_set: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an evaluation with the bias check; for reading only."""
    out = tmp_path_factory.mktemp("bias")
    evaluate(settings(data_set, trained_run, out))
    return out


@pytest.fixture(scope="module")
def detector(trained_run: Path) -> Detector:
    return load(trained_run, "cpu")


def settings(data: Path, run: Path, out: Path, images: int = IMAGES) -> EvaluateConfig:
    return EvaluateConfig(data=data, model=str(run), out=out, device="cpu", bias=True, bias_images=images)


def figures_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())["bias"]
    return report


def test_shifts_are_the_differences_of_what_predict_says(data_set: Path, detector: Detector, folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "bias.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == IMAGES
    for version in figures_of(folder)["versions"]:
        for label, name in enumerate(CLASSES):
            files = [data_set / row["file"] for row in rows if row["label"] == label]
            assert len(files) == IMAGES // 2
            saved = [VERSIONS[version["name"]](decode_file(file).pixels) for file in files]
            logits = [
                detector.logits([seen_by(detector, {"": image})[1][0] for image in images])
                for images in ([decode_file(file) for file in files], [decode(data, "") for data in saved])
            ]
            before, after = (detector.p_synthetic(part) for part in logits)
            assert version["shift"][name]["value"] == pytest.approx((after - before).mean(), abs=1e-6)


def test_the_same_pixels_have_the_same_scores(folder: Path) -> None:
    (png,) = [version for version in figures_of(folder)["versions"] if version["name"] == "PNG"]
    assert png["shift"] == {name: {"value": 0, "low": 0, "high": 0} for name in CLASSES}
    assert (png["verdicts_flipped"], png["threshold_crossed"]) == (0, 0)
    assert set(png["auroc_saved_alone"].values()) == {figures_of(folder)["auroc"]}


def made_up(detector: Detector, jpeg: float, doubt: str | None = None) -> list[dict[str, Any]]:
    """Rows of images whose score JPEG 75 alone moves, for synthetic images, by a logit."""
    temperature = detector.info.calibration.temperature
    rows = []
    for i in range(20):
        label = i % 2
        logits = dict.fromkeys(["as found", *VERSIONS], temperature * (i / 10 - 1))
        logits["JPEG 75"] += temperature * jpeg * label
        doubts = dict.fromkeys(logits) | {"JPEG 75": doubt}
        rows.append({"file": str(i), "label": label, "part": "judged", "logits": logits, "doubts": doubts})
    return rows


def test_the_largest_shift_is_named_with_its_sign(detector: Detector) -> None:
    figures = bias_figures(detector, made_up(detector, -2.0))
    assert figures["images"] == {"authentic": 10, "synthetic": 10}
    assert (figures["largest"]["version"], figures["largest"]["class"]) == ("JPEG 75", "synthetic")
    assert -0.5 < figures["largest"]["shift"] < -0.2
    for version in figures["versions"]:
        shifted = version["name"] == "JPEG 75"
        assert (version["shift"]["synthetic"]["high"] < 0) == shifted
        assert version["shift"]["authentic"]["value"] == 0
        # Saved so, the synthetic images alone hide; the authentic ones are what they were.
        assert (version["auroc_saved_alone"]["synthetic"] < figures["auroc"] - 0.2) == shifted
        assert version["auroc_saved_alone"]["authentic"] == figures["auroc"]


def test_crossing_and_flipping_are_counted(trained_run: Path) -> None:
    checkpoint = load_checkpoint(trained_run / "best.safetensors")
    before = checkpoint.info.calibration.threshold
    # A verdict for every score, so that it can flip.
    fit = replace(checkpoint.info.calibration, unsure_low=before, unsure_high=before)
    detector = Detector(replace(checkpoint, info=replace(checkpoint.info, calibration=fit)), torch.device("cpu"))
    still, moved = (bias_figures(detector, made_up(detector, shift))["versions"][2] for shift in (0, 50.0))
    assert (still["threshold_crossed"], still["verdicts_flipped"]) == (0, 0)
    below = sum(row["logits"]["PNG"] < _logit(before, detector) for row in made_up(detector, 0) if row["label"])
    assert moved["threshold_crossed"] == below / 20
    assert moved["verdicts_flipped"] == below / 20
    # Doubt alone makes a verdict unsure.
    doubted = bias_figures(detector, made_up(detector, 0, "too small"))["versions"][2]
    assert (doubted["threshold_crossed"], doubted["verdicts_flipped"]) == (0, 1)


def _logit(score: float, detector: Detector) -> float:
    return float(np.log(score / (1 - score))) * detector.info.calibration.temperature


def test_each_version_is_the_picture_saved_so() -> None:
    pixels = picture(np.random.default_rng(0), 1)
    seen = {name: decode(save(pixels), name) for name, save in VERSIONS.items()}
    formats = {name: image.format for name, image in seen.items()}
    assert formats == {
        "PNG": "PNG",
        "JPEG 95": "JPEG",
        "JPEG 75": "JPEG",
        "WebP 80": "WEBP",
        "cut by 8 pixels": "PNG",
        "rescaled by 0.9": "PNG",
    }
    np.testing.assert_array_equal(seen["PNG"].pixels, pixels)
    np.testing.assert_array_equal(seen["cut by 8 pixels"].pixels, pixels[8:, 8:])
    assert seen["rescaled by 0.9"].pixels.shape == (189, 198, 3)
    assert (seen["JPEG 95"].jpeg_quality, seen["JPEG 75"].jpeg_quality) == (95, 75)
    assert seen["WebP 80"].lossy
    tiny = picture(np.random.default_rng(0), 1, 5, 1)
    assert decode(VERSIONS["cut by 8 pixels"](tiny), "").pixels.shape == (1, 1, 3)


def test_the_draw_is_of_both_classes_alike_and_of_no_order() -> None:
    rows = [{"file": f"{i:03}", "label": int(i >= 30)} for i in range(100)]
    files = draw_files(rows, 40)
    assert [sum(file >= "030" for file in files), len(set(files))] == [20, 40]
    assert draw_files(rows[::-1], 40) == files
    assert len(draw_files(rows, 300)) == 60
    assert draw_files(rows[:30], 40) == []


def test_without_both_classes_it_says_so(data_set: Path, trained_run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_bytes((folder / "scores.jsonl").read_bytes())
    with pytest.raises(DataError, match="--bias-images 1: the bias check needs an image of either class"):
        evaluate(settings(data_set, trained_run, tmp_path, images=1))


def test_it_carries_on_where_it_stopped(
    data_set: Path, trained_run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / "bias.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "scores.jsonl").write_bytes((folder / "scores.jsonl").read_bytes())
    (tmp_path / "bias.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:40])
    saved = []

    def counting(pixels: Any) -> bytes:
        saved.append(pixels)
        return encode_jpeg(pixels, 95)

    monkeypatch.setitem(module.VERSIONS, "JPEG 95", counting)
    evaluate(settings(data_set, trained_run, tmp_path))
    assert len(saved) == IMAGES - 8
    assert sorted((tmp_path / "bias.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
    assert (tmp_path / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_it_is_in_the_tables_and_on_the_page_if_asked_for(
    data_set: Path, trained_run: Path, folder: Path, tmp_path: Path
) -> None:
    report = json.loads((folder / "report.json").read_text())
    text, page = text_tables(report), (folder / "report.html").read_text()
    for name in VERSIONS:
        assert f"\n{name}" in text
        assert f"<th>{name}</th>" in page
    assert "Largest shift: " in text
    assert "Largest shift: " in page
    assert max(map(len, text.splitlines()[3:])) <= 120
    (tmp_path / "scores.jsonl").write_bytes((folder / "scores.jsonl").read_bytes())
    without = evaluate(EvaluateConfig(data=data_set, model=str(trained_run), out=tmp_path, device="cpu"))
    assert without["bias"] is None
    assert "Largest shift" not in text_tables(without) + (tmp_path / "report.html").read_text()


def test_scores_are_not_clipped(folder: Path) -> None:
    # The run's scores are extreme, so that clipped ones would move less.
    assert figures_of(folder)["largest"]["shift"] not in (0, SHOWN_SCORES[1] - SHOWN_SCORES[0])
