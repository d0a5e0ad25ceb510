"""Predictions: the detector in Python, and `mai predict` as a person runs it, with all that can be wrong with files."""

import csv
import dataclasses
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import mai_app
from mai_app.config import PredictConfig, TrainConfig
from mai_app.errors import CheckpointError, ImageError, MaiError, RunError
from mai_app.evidence.statements import Evidence
from mai_app.images.decode import encode_jpeg
from mai_app.images.find import walk_images
from mai_app.inference.detector import Detector, Judgeable, load
from mai_app.inference.prediction import Format, ImageFacts, Prediction, prediction_of, write_rows
from mai_app.models.checkpoint import load_checkpoint
from tests.conftest import Run, picture

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
    return as_png(picture(np.random.default_rng(5), 0, height, width))


def as_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


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
    assert list(write_rows(rows, form, stream)) == list(rows)
    return stream.getvalue()


# The package


def test_all_that_the_package_offers_is_to_be_had() -> None:
    for name in mai_app.__all__:
        assert getattr(mai_app, name) is not None
    assert mai_app.load is load
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
    items: list[Judgeable] = [
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
    (prediction,) = sure.predict([("a.png", as_png(pixels))])
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
        assert taken <= done + 4 + 2 + 2 + 1  # the batch, a file a worker, two waiting, one more in hand
    rows.close()  # type: ignore[attr-defined]


def test_several_logits_of_an_image_are_averaged(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (n, 200, 200, 3), dtype=np.uint8) for n in (3, 1)]
    single = detector.logits([crop[None] for part in crops for crop in part])
    assert detector.logits(crops) == pytest.approx([single[:3].mean(), single[3]], abs=1e-4)


def test_a_device_that_is_not_there_is_refused(trained_run: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(RunError, match=f"--device {device}: not to be had"):
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

    assert len(list(write_rows(rows(), "jsonl", stream))) == 2


# The command


def test_help_and_version_are_quick_and_complete(mai: Run) -> None:
    done = mai("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mai {mai_app.__version__}\n", "")
    done = mai("--help")
    assert done.returncode == 0
    for command in ("train", "evaluate", "predict", "demo"):
        assert command in done.stdout
    script = (
        "import sys; from mai_app.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    help_of_predict = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert help_of_predict.stdout.splitlines()[-1] == "0 False"
    for flag in ("--model", "--json", "--jsonl", "--csv", "--device", "--batch-size", "--workers", "--runs"):
        assert flag in help_of_predict.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "--modle", "x", "a.jpg"], "--model"),
        (["predikt", "a.jpg"], "predict"),
        (["predict", "--batch-size", "many"], "--batch-size"),
        (["train"], "--data"),
        ([], "predict"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_a_hint(mai: Run, words: list[str], expected: str) -> None:
    done = mai(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_files_folders_patterns_and_what_is_wrong_come_as_one_table(
    mai: Run, trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in ("Größe 写真.png", "b\x1b[31m\nc.png", "[1].png"):
        (folder / name).write_bytes(png())
    (folder / "small.png").write_bytes(png(60, 80))
    (folder / "cut.png").write_bytes(png()[:5000])
    (tmp_path / "empty").mkdir()
    done = mai("predict", "--model", trained_run, "my photos", images[0], "my photos/[[]*.png", "empty", "*.gif", "-")
    lines = done.stdout.splitlines()
    assert lines[0] == "p_synthetic  verdict    file"
    rows = [re.fullmatch(r" *([\d.]+|–) {2}(\w+|–) +(\S.*)", line) for line in lines[1:]]
    assert [match and match[3] for match in rows] == [
        "my photos/Größe 写真.png",
        "my photos/[1].png",
        "my photos/b\\x1b[31m\\nc.png",
        "my photos/cut.png: is damaged or truncated (image file is truncated); get the original file again",
        "my photos/small.png  (80×60 pixels, smaller than 200×200: enlarged, less reliable; "
        "too small to be judged: 80×60 pixels, a side under 64)",
        str(images[0]),
        "my photos/[1].png",
        "empty: is a folder without an image file",
        "*.gif: no file matches the pattern",
    ]
    assert (done.returncode, done.stderr) == (1, "mai: 3 of 9 files could not be judged\n")


def test_json_takes_any_name_from_standard_input(mai: Run, trained_run: Path, tmp_path: Path) -> None:
    names = [b"two words.png", "Größe 写真.png".encode(), b"not-utf8-\xff.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(png())
    stdin = b"\n" + names[0] + b"\r\n   \n" + names[1] + b"\n\n" + names[2] + b"\nnul\0byte.png\n" + b"x" * 300
    done = mai("predict", "-", "--json", "--model", "small", "--runs", trained_run.parent, stdin=stdin)
    rows = json.loads(done.stdout)
    assert [os.fsencode(prediction["path"]) for prediction in rows] == [*names, b"nul\0byte.png", b"x" * 300]
    assert [list(prediction) for prediction in rows] == [FIELDS] * 5
    assert all(0 <= prediction["p_synthetic"] <= 1 for prediction in rows[:3])
    assert all("can't be read" in prediction["error"] for prediction in rows[3:])
    assert (done.returncode, done.stderr) == (1, "mai: 2 of 5 files could not be judged\n")


def test_jsonl_without_a_path_judges_the_folder_test_images(
    mai: Run, trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "test_images").mkdir()
    (tmp_path / "runs").symlink_to(trained_run.parent)  # the default, too: the run trained last, below runs/
    for i, path in enumerate(images[:3]):
        (tmp_path / "test_images" / f"{i}.png").write_bytes(path.read_bytes())
    done = mai("predict", "--jsonl", "--batch-size", "2", "--workers", "0")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [prediction["path"] for prediction in rows] == [f"test_images/{i}.png" for i in range(3)]
    assert (done.returncode, done.stderr) == (0, "")


def test_csv_has_a_row_a_file_and_code_2_says_that_none_was_judged(mai: Run, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / 'a, "b".jpg').write_text("text")
    done = mai("predict", "--csv", "--model", trained_run, 'a, "b".jpg', "missing.jpg")
    head, *rows = csv.reader(io.StringIO(done.stdout))
    assert head == CELLS.split(",")
    assert [values[0] for values in rows] == ['a, "b".jpg', "missing.jpg"]
    assert rows[1][-1] == "no such file"
    assert (done.returncode, done.stderr) == (2, "mai: 2 of 2 files could not be judged\n")


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, in tmp_path: for what needs no process of its own."""
    cli = importlib.import_module("mai_app.cli")

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mai_app.models.registry.FOLDER", tmp_path / "weights")  # no model comes with MAI
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b" \n\n")))
    return run


def test_what_can_not_be_done_is_said_in_one_line_with_code_2(
    run_main: Callable[..., tuple[int, str, str]], trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((trained_run / "best.safetensors").read_bytes()[:1_000_000])
    for words, expected in (
        (["--model", trained_run], "nothing to judge: name files or folders, or put images into test_images/"),
        (
            ["--model", trained_run, "--json"],
            "nothing to judge: name files or folders, or put images into test_images/",
        ),
        (["--model", trained_run, images[0], "--json", "--csv"], "--json and --csv exclude each other"),
        (
            ["--model", trained_run, images[0], "--json", "--jsonl", "--csv"],
            "--json and --jsonl and --csv exclude each",
        ),
        (["--model", cut, images[0]], f"{cut}: truncated, or no safetensors file"),
        (["--model", "lion", images[0]], "model 'lion' not found; available runs in runs/ = []"),
        ([images[0]], "no trained model in runs/; train one with `mai train`"),
        (["--model", trained_run, "--device", "abacus", images[0]], "--device abacus: not to be had"),
    ):
        code, out, err = run_main("predict", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"mai: {expected}")
        assert err.count("\n") == 1


def test_an_empty_list_on_standard_input_is_said(
    run_main: Callable[..., tuple[int, str, str]], trained_run: Path
) -> None:
    code, out, err = run_main("predict", "--json", "--model", trained_run, "-")
    assert (code, json.loads(out)) == (2, [])
    assert err == "mai: no file was named\n"


def test_an_interrupt_and_a_refusal_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli = importlib.import_module("mai_app.cli")

    def interrupted(config: object) -> int:
        raise KeyboardInterrupt

    def refused(config: object) -> int:
        raise MaiError("the reason")

    assert cli.run(TrainConfig(data=Path("x")), interrupted) == 130
    assert capsys.readouterr().err.splitlines() == ["mai: interrupted"]
    assert cli.run(PredictConfig(), refused) == 2
    assert capsys.readouterr().err.splitlines() == ["mai: the reason"]


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    trained_run: Path, data_set: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "mai_app",
        "predict",
        "--batch-size",
        "1",
        "--model",
        str(trained_run),
        str(data_set),
    ]
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.join(command)} | head -1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "p_synthetic  verdict    file\n", "")


def test_local_entry_does_what_mai_does(mai: Run, trained_run: Path, images: list[Path], tmp_path: Path) -> None:
    words = ["predict", "--model", str(trained_run), "--device", "cpu", str(images[0]), "missing.jpg"]

    def local_entry(*arguments: str) -> subprocess.CompletedProcess[str]:
        # From another folder, as a script: it has to find the package beside itself.
        return subprocess.run(
            [sys.executable, str(ROOT / "local_entry.py"), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    by_mai, by_script = mai(*words), local_entry("--on", "local", *words)
    assert (by_script.returncode, by_script.stdout, by_script.stderr) == (
        by_mai.returncode,
        by_mai.stdout,
        by_mai.stderr,
    )
    assert by_mai.returncode == 1
    assert len(by_mai.stdout.splitlines()) == 3
    nowhere = local_entry(*words, "--on", "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert nowhere.stderr == "local_entry.py: --on nowhere: not one of local, modal, hosted\n"


def test_the_place_is_taken_out_of_the_command_line() -> None:
    take_place = importlib.import_module("local_entry").take_place
    assert take_place(["predict", "a.jpg"]) == (["predict", "a.jpg"], "local", False)
    assert take_place(["predict", "--on", "modal", "a.jpg"]) == (["predict", "a.jpg"], "modal", False)
    assert take_place(["--on=modal", "train", "--detach"]) == (["train"], "modal", True)
    assert take_place(["predict", "--on"]) == (["predict"], "", False)
