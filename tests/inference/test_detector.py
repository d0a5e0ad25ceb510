"""Predictions: the detector in Python, and `mai predict` as a person runs it, with all that can be wrong with files."""

import csv
import dataclasses
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import mai_app
import mai_app.errors
from mai_app.errors import CheckpointError, ImageError, RunError
from mai_app.evidence.statements import Evidence
from mai_app.images.decode import encode_jpeg
from mai_app.images.find import walk_images
from mai_app.images.preprocess import shrink
from mai_app.inference.detector import Detector, ImageInput, load
from mai_app.inference.prediction import Format, ImageFacts, Prediction, prediction_of, write_rows
from mai_app.models.checkpoint import load_checkpoint
from tests.conftest import picture, png_bytes

ROOT = Path(__file__).parents[2]
FIELDS = [field.name for field in dataclasses.fields(Prediction)]
CELLS = (
    "path,p_synthetic,verdict,threshold,unsure_low,unsure_high,model,version,width,height,format,notes,evidence,error"
)
SAYS = Evidence("XMP", "synthetic", "declared", "says\nso")


@pytest.fixture(scope="module")
def detector(trained_run: Path) -> Detector:
    return load(trained_run, "cpu")


@pytest.fixture(scope="module")
def sure(trained_run: Path) -> Detector:
    """The detector, with a verdict for every score."""
    checkpoint = load_checkpoint(trained_run / "best.safetensors")
    threshold = checkpoint.info.calibration.threshold
    fit = dataclasses.replace(checkpoint.info.calibration, unsure_low=threshold, unsure_high=threshold)
    info = dataclasses.replace(checkpoint.info, calibration=fit)
    return Detector(dataclasses.replace(checkpoint, info=info), torch.device("cpu"))


@pytest.fixture(scope="module")
def images(data_set: Path) -> list[Path]:
    """Test pictures of both classes."""
    return list(walk_images(data_set / "test"))[::4]


def png(height: int = 210, width: int = 220) -> bytes:
    return png_bytes(picture(np.random.default_rng(5), 0, height, width))


def row(**changes: Any) -> Prediction:
    """A prediction, with some of it changed."""
    facts: dict[str, Any] = {
        "path": "a.jpg",
        "p_synthetic": 0.25,
        "verdict": "authentic",
        "threshold": 0.5,
        "unsure_low": 0.25,
        "unsure_high": 0.75,
        "model": "baseline",
        "version": "0123456789ab",
        "image": ImageFacts(220, 210, "JPEG", 9999, 6, 90, 5),
        "notes": (),
        "evidence": (Evidence("EXIF", "authentic", "hint", "names a camera", (("Make", "A"),)), SAYS),
        "error": None,
    }
    return Prediction(**facts | changes)


def written(form: Format, *rows: Prediction) -> str:
    stream = io.StringIO()
    assert list(write_rows(rows, form, stream, lambda: "m")) == list(rows)
    return stream.getvalue()


# The package


def test_what_is_public_is_this_and_no_more() -> None:
    errors = {name for name, value in vars(mai_app.errors).items() if isinstance(value, type)}
    assert set(mai_app.__all__) == errors | {"Detector", "Prediction", "__version__", "load"}
    assert mai_app.__all__ == sorted(mai_app.__all__)
    for name in errors:
        assert getattr(mai_app, name) is getattr(mai_app.errors, name)
        assert issubclass(getattr(mai_app, name), mai_app.MaiError)
    assert mai_app.load is load
    assert mai_app.Detector is Detector
    assert mai_app.Prediction is Prediction
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mai_app.lode  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", mai_app.__version__)


def test_the_example_of_the_package_runs(trained_run: Path, images: list[Path]) -> None:
    detector = mai_app.load(str(trained_run))
    (prediction,) = detector.predict(images[0])
    assert prediction.path == str(images[0])
    assert prediction.p_synthetic is not None
    assert 0 <= prediction.p_synthetic <= 1


# The detector


def test_a_row_an_image_in_order_with_all_that_it_says(detector: Detector, images: list[Path]) -> None:
    rows = list(detector.predict(images))
    assert [prediction.path for prediction in rows] == [str(path) for path in images]
    calibration = detector.info.calibration
    for prediction in rows:
        assert prediction.p_synthetic is not None
        assert 0 <= prediction.p_synthetic <= 1
        # Nowhere near the band's edges do the shown and the unclipped score differ here.
        assert prediction.verdict == calibration.verdict(prediction.p_synthetic)
        assert (prediction.model, prediction.version) == ("baseline", detector.checkpoint.version)
        assert prediction.threshold == pytest.approx(calibration.threshold, abs=1e-6)
        assert (prediction.notes, prediction.error) == ((), None)
    # The run has learnt: pictures with the grid score above those without.
    scores = {
        label: [r.p_synthetic or 0 for r in rows if f"/{label}/" in r.path] for label in ("authentic", "synthetic")
    }
    assert np.mean(scores["synthetic"]) > np.mean(scores["authentic"])


def test_batch_size_and_workers_do_not_change_the_scores(detector: Detector, images: list[Path]) -> None:
    reference = [prediction.p_synthetic for prediction in detector.predict(images)]
    for batch_size, workers in ((1, 0), (3, 1), (5, 4), (100, 2)):
        rows = list(detector.predict(images, batch_size, workers))
        assert [prediction.path for prediction in rows] == [str(path) for path in images]
        assert [prediction.p_synthetic for prediction in rows] == pytest.approx(reference, abs=1e-5)


def test_bytes_and_their_file_are_judged_alike(detector: Detector, images: list[Path]) -> None:
    from_files = list(detector.predict([str(path) for path in images]))
    from_bytes = list(detector.predict((str(path), path.read_bytes()) for path in images))
    assert from_bytes == from_files


def test_a_bad_file_is_a_row_and_the_rest_goes_on(detector: Detector, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    items: list[ImageInput] = [
        images[0],
        tmp_path / "text.jpg",
        tmp_path / "missing.jpg",
        ("upload.png", b""),
        ImageError("*.gif", "no file matches the pattern"),
        images[1],
    ]
    rows = list(detector.predict(items, batch_size=4))
    assert [prediction.path for prediction in rows] == [
        str(images[0]),
        str(tmp_path / "text.jpg"),
        str(tmp_path / "missing.jpg"),
        "upload.png",
        "*.gif",
        str(images[1]),
    ]
    for prediction, words in zip(rows[1:5], ("is no JPEG", "no such file", "is empty", "no file matches"), strict=True):
        assert words in (prediction.error or "")
        assert (prediction.p_synthetic, prediction.verdict, prediction.notes) == (None, None, ())
    good = list(detector.predict(images[:2]))
    assert [rows[0].p_synthetic, rows[5].p_synthetic] == pytest.approx([p.p_synthetic for p in good], abs=1e-5)


def test_only_bad_files_and_no_files_at_all_are_no_trouble(detector: Detector) -> None:
    assert [prediction.error for prediction in detector.predict([("a", b""), ("b", b"")])] == ["is empty (0 bytes)"] * 2
    assert list(detector.predict([])) == []


def test_a_small_or_animated_image_is_noted(detector: Detector, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(np.random.default_rng(i), 0, 60, 80)) for i in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (prediction,) = detector.predict(tmp_path / "a.gif")
    assert prediction.error is None
    assert prediction.notes == (
        "first of 2 frames",
        "80×60 pixels, smaller than 200×200: enlarged, less reliable",
        "too small to be judged: 80×60 pixels, a side under 64",
    )
    assert prediction.verdict == "unsure"


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((300, 300, 3), 99, np.uint8), "too smooth to be judged: next to no detail"),
        (picture(np.random.default_rng(0), 1, 63, 220), "too small to be judged: 220×63 pixels, a side under 64"),
    ],
)
def test_what_can_not_be_judged_is_unsure_and_says_why(
    sure: Detector, pixels: npt.NDArray[np.uint8], reason: str
) -> None:
    (prediction,) = sure.predict([("a.png", png_bytes(pixels))])
    assert prediction.verdict == "unsure"
    assert prediction.notes[-1] == reason
    assert prediction.p_synthetic is not None
    assert prediction.error is None


def test_a_strongly_compressed_file_is_unsure_and_a_better_one_of_it_is_not(sure: Detector) -> None:
    pixels = picture(np.random.default_rng(0), 1)
    rows = list(sure.predict((f"{quality}.jpg", encode_jpeg(pixels, quality)) for quality in (10, 95)))
    assert [row.verdict == "unsure" for row in rows] == [True, False]
    assert rows[0].notes == ("too degraded to be judged: JPEG quality 10, under 20",)
    assert rows[1].notes == ()


def test_a_strip_is_judged_by_what_the_network_sees_of_it(sure: Detector) -> None:
    how = dataclasses.replace(sure.info.preprocessing, input="crop", longest=512)
    info = dataclasses.replace(sure.info, preprocessing=how)
    detector = Detector(dataclasses.replace(sure.checkpoint, info=info), torch.device("cpu"))
    strip = np.tile(picture(np.random.default_rng(0), 1, 220, 500), (1, 22, 1))
    seen = shrink(strip, 512)
    whole, small = detector.predict([("strip.png", png_bytes(strip)), ("seen.png", png_bytes(seen))])
    assert (whole.verdict, whole.notes) == (small.verdict, small.notes)
    assert whole.verdict == "unsure"
    assert whole.notes[-1] == "too small to be judged: 512×10 pixels, a side under 64"
    assert whole.p_synthetic == pytest.approx(small.p_synthetic, abs=1e-5)
    # A network that does not scale down sees a small part of it.
    (part,) = sure.predict([("strip.png", png_bytes(strip))])
    assert part.verdict == "unsure"
    assert part.notes[-1] == "too small to be judged: 11000×220 pixels, one side over 8 times the other"


def test_shown_scores_stay_off_0_and_1_and_verdicts_do_not_follow(
    sure: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its band the detector is unsure up to 0.995 and from 0.005 on: only the unclipped score tells.
    fit = dataclasses.replace(sure.info.calibration, unsure_low=0.005, unsure_high=0.995)
    checkpoint = dataclasses.replace(sure.checkpoint, info=dataclasses.replace(sure.info, calibration=fit))
    detector = Detector(checkpoint, sure.device)
    logits = fit.temperature * np.log(np.array([0.004, 0.006, 0.5, 0.994, 0.996]) / [0.996, 0.994, 0.5, 0.006, 0.004])
    monkeypatch.setattr(detector, "logits", lambda _: logits)
    rows = list(detector.predict([(f"{i}.png", png()) for i in range(5)]))
    assert [row.p_synthetic for row in rows] == [0.01, 0.01, 0.5, 0.99, 0.99]
    assert [row.verdict for row in rows] == ["authentic", "unsure", "unsure", "unsure", "synthetic"]


def test_images_are_taken_only_so_far_ahead(detector: Detector) -> None:
    # What was taken ahead of the rows is what is held in memory.
    taken = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        while True:
            taken += 1
            yield f"{taken}.png", data

    data = png()
    rows = detector.predict(endless(), batch_size=4, workers=2)
    assert taken == 0
    for done in range(1, 14):
        assert next(rows).path == f"{done}.png"
        # A batch a thread, one that waits, one in hand.
        assert taken <= done + 4 * (torch.get_num_threads() + 2)
    rows.close()  # type: ignore[attr-defined]


def test_several_logits_of_an_image_are_averaged(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (n, 200, 200, 3), dtype=np.uint8) for n in (3, 1)]
    single = detector.logits([crop[None] for part in crops for crop in part])
    assert detector.logits(crops) == pytest.approx([single[:3].mean(), single[3]], abs=1e-4)


def test_a_device_that_is_not_there_is_refused(trained_run: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(RunError, match=f"--device {device}: unavailable"):
            load(trained_run, device)


def test_a_run_that_is_not_there_is_refused_with_those_that_are(trained_run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model 'lion' not found; available runs in .* = \['small'\]"):
        load("lion", runs=trained_run.parent)
    assert load("", "cpu", trained_run.parent).checkpoint.path.parent == trained_run


# Rows


def test_every_form_writes_what_its_readers_expect() -> None:
    good = row(path='Größe, "2".png', notes=("first of 2 frames", "small"))
    nothing = dict.fromkeys(("p_synthetic", "verdict", "image", "evidence"))
    bad = row(path="b\nc\x1b[31m.jpg", **nothing, error="is empty (0 bytes)")
    assert written("table", good, bad).splitlines() == [
        "model: m, version 0123456789ab",
        "p_synthetic  verdict    file",
        '      0.250  authentic  Größe, "2".png  (first of 2 frames; small)',
        "             EXIF: names a camera",
        "             XMP: says\\nso",
        "          –  –          b\\nc\\x1b[31m.jpg: is empty (0 bytes)",
    ]
    as_json = json.loads(json.dumps([dataclasses.asdict(prediction) for prediction in (good, bad)]))
    assert [prediction_of(values) for values in as_json] == [good, bad]
    assert json.loads(written("json", good, bad)) == as_json
    assert [json.loads(line) for line in written("jsonl", good, bad).splitlines()] == as_json
    head, first, second = csv.reader(io.StringIO(written("csv", good, bad)))
    assert head == CELLS.split(",")
    assert dict(zip(head, first, strict=True)) == {
        **{name: str(value) for name, value in as_json[0].items() if name != "image"},
        "width": "220",
        "height": "210",
        "format": "JPEG",
        "notes": "first of 2 frames; small",
        "evidence": "EXIF: names a camera; XMP: says\nso",
        "error": "",
    }
    assert second[0] == "b\nc\x1b[31m.jpg"
    assert second[1:3] == ["", ""]


def test_no_rows_are_valid_in_every_form() -> None:
    assert json.loads(written("json")) == []
    assert written("jsonl") == written("table") == ""
    assert written("csv") == CELLS + "\n"


@pytest.mark.parametrize("name", ["\u202egpj.exe", "a\rb", "\x9b2J", "tab\t.jpg", "\udcff.jpg", "\u2028.jpg"])
def test_a_name_can_not_move_the_cursor(name: str) -> None:
    line = written("table", row(path=name, evidence=None)).splitlines(keepends=True)[1]
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_rows_are_written_as_they_come() -> None:
    stream = io.StringIO()

    def rows() -> Iterator[Prediction]:
        yield row(path="one.jpg")
        assert "one.jpg" in stream.getvalue()
        yield row(path="two.jpg")

    assert len(list(write_rows(rows(), "jsonl", stream, lambda: "m"))) == 2


def test_many_images_in_threads_are_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load("traces", "cpu", Path("none"))
    rng = np.random.default_rng(0)
    files: list[tuple[str, bytes]] = [(f"{i}.png", png_bytes(picture(rng, i % 2, 220, 240 + i))) for i in range(23)]
    files[7] = ("7.png", b"no image")
    alone = [next(detector.predict([file])) for file in files]
    used = set()
    load_one = detector._load

    def noting(*given: Any) -> Any:
        used.add(threading.get_ident())
        return load_one(*given)

    monkeypatch.setattr(detector, "_load", noting)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = list(detector.predict(files))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert len(used) == 3
    for one, other in zip(alone, together, strict=True):
        assert dataclasses.replace(one, p_synthetic=None) == dataclasses.replace(other, p_synthetic=None)
        assert one.p_synthetic == pytest.approx(other.p_synthetic, abs=0.005)
