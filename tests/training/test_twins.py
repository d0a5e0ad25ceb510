"""Twins are stored as their originals are, stay on their side of the split, and are the same after a kill."""

import io
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from mai_app.cli import main
from mai_app.config import TwinsConfig
from mai_app.data.layout import scan
from mai_app.data.prepare import prepare
from mai_app.errors import DataError
from mai_app.images.decode import decode, read_file
from mai_app.training import twins
from mai_app.training.pairs import psnr, saved_alike, webp_options, window
from mai_app.training.twins import make_twins, summary
from tests.conftest import picture, write_data_set

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in all formats, with duplicates, a broken file, and tiny and odd sizes; for reading only."""
    root = write_data_set(tmp_path_factory.mktemp("twins") / "pictures", 4, 2, 3)
    rng = np.random.default_rng(5)
    folder = root / "train" / "authentic" / "more"
    folder.mkdir()
    photo = picture(rng, 0, 123, 201)
    Image.fromarray(photo).save(folder / "a.jpg", quality=83, subsampling=1)
    Image.fromarray(picture(rng, 0, 5, 7)).save(folder / "tiny.jpg", quality=60)
    Image.fromarray(picture(rng, 0, 90, 61)).convert("L").save(folder / "grey.jpeg", quality=71)
    Image.fromarray(picture(rng, 0, 64, 99)).save(folder / "b.webp", quality=55)
    Image.fromarray(picture(rng, 0, 64, 80)).save(folder / "c.webp", lossless=True)
    Image.fromarray(picture(rng, 0, 70, 80)).save(folder / "d.gif")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(photo).save(root / "val" / "authentic" / "again.png")
    for split, name in (("test", "same"), ("train", "same")):
        Image.fromarray(picture(np.random.default_rng(8), 0, 100, 140)).save(root / split / "authentic" / f"{name}.png")
    return root


def config_of(data: Path, folder: Path) -> TwinsConfig:
    return TwinsConfig(data, folder / "out", steps=2, device="cpu", prepared=data.parent / "prepared")


def files_in(out: Path) -> dict[str, bytes]:
    """All the files that a user sees, by name."""
    paths = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name[0] != "."}


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with twins of `data`; for reading only."""
    config = config_of(data, tmp_path_factory.mktemp("made"))
    make_twins(config)
    return config.out


def pairs(out: Path) -> list[tuple[Path, Path]]:
    """Originals and their twins."""
    found = sorted(path for path in out.rglob("twins/**/*.*"))
    names = [str(path).replace("/synthetic/twins/", "/authentic/").removesuffix(".twin.png") for path in found]
    return [(Path(name), path) for name, path in zip(names, found, strict=True)]


def test_a_set_with_twins_prepares_with_pairs_on_one_side_and_test_as_it_was(
    data: Path, made: Path, tmp_path: Path
) -> None:
    before = prepare(data, data.parent / "prepared")
    after = prepare(made, tmp_path / "prepared")
    rows = {row["file"]: row for row in after.table.to_pylist()}
    for row in before.table.to_pylist():
        assert rows[row["file"]]["split"] == row["split"]
        assert rows[row["file"]]["left_out"] == row["left_out"]
    twinned = {name: row for name, row in rows.items() if "/twins/" in name}
    assert len(twinned) == 12
    for name, row in twinned.items():
        original = rows[name.replace("/synthetic/twins/", "/authentic/").removesuffix(".twin.png")]
        assert row["split"] == original["split"] != "test"
        assert (row["group"], row["source"], row["kind"]) == (original["group"], original["source"], original["kind"])
        assert row["generator"].removeprefix("twin:small-") in ("nearest", "transposed", "shuffle")
        assert row["label"] == 1
    assert len(rows) == len(before) + 12
    # What stands in val or test as well has no twin.
    assert "train/synthetic/twins/same.png" not in twinned
    assert "train/synthetic/twins/more/a.jpg" not in twinned
    assert "val/synthetic/twins/again.png" in twinned
    assert (made / "test/authentic/same.png").samefile(data / "test/authentic/same.png")


def test_twins_are_stored_as_their_originals(made: Path) -> None:
    formats = set()
    for original, twin in pairs(made):
        with Image.open(original) as a, Image.open(twin) as b:
            if a.format != "GIF":
                assert (a.format, a.mode) == (b.format, b.mode)
            formats.add(b.format)
            assert a.size == b.size
            assert not b.getexif()
            if isinstance(a, JpegImagePlugin.JpegImageFile):
                assert isinstance(b, JpegImagePlugin.JpegImageFile)
                assert a.quantization == b.quantization
                assert JpegImagePlugin.get_sampling(a) == JpegImagePlugin.get_sampling(b)
        assert decode(original.read_bytes(), "").lossy == decode(twin.read_bytes(), "").lossy
    assert formats == {"JPEG", "PNG", "WEBP"}


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 40, "subsampling": 0},
        {"quality": 95, "subsampling": 1},
        {"quality": 5, "subsampling": 2, "progressive": True},
        {"qtables": [[3] * 64], "subsampling": 2},
        {"qtables": [[3] * 64, [5] * 64, [9] * 64], "subsampling": 0},
    ],
)
def test_saving_the_same_pixels_alike_gives_the_same_coefficients(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(np.random.default_rng(2), 0, 77, 101)).save(buffer, "JPEG", **options)
    image = decode(buffer.getvalue(), "")
    again = saved_alike(image.pixels, buffer.getvalue(), image)
    with Image.open(io.BytesIO(buffer.getvalue())) as a, Image.open(io.BytesIO(again)) as b:
        assert isinstance(a, JpegImagePlugin.JpegImageFile)
        assert isinstance(b, JpegImagePlugin.JpegImageFile)
        assert a.quantization == b.quantization
        assert a.layer == b.layer
        assert a.info.get("progressive") == b.info.get("progressive")
    assert psnr(image.pixels, decode(again, "").pixels) > 30


def test_a_file_with_metadata_that_do_not_parse_is_saved_alike() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(np.random.default_rng(2), 0, 77, 101)).save(buffer, "JPEG", quality=70)
    plain = buffer.getvalue()
    for odd in (plain[:2] + b"\xff\xe0\0\x06JFIF" + plain[2:], plain[:-2]):
        image = decode(odd, "")
        assert saved_alike(image.pixels, odd, image) == saved_alike(image.pixels, plain, image)


@pytest.mark.parametrize("quality", [30, 75, 90])
def test_webp_is_saved_about_as_lossy(quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(np.random.default_rng(2), 0, 177, 201)).save(buffer, "WEBP", quality=quality)
    options = webp_options(buffer.getvalue(), decode(buffer.getvalue(), ""))
    assert abs(options["quality"] - quality) < 15


def test_a_window_lies_on_the_grid_of_jpeg() -> None:
    pixels = np.zeros((333, 517, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(333)[:, None] // 16, np.arange(517) // 16
    corners = set()
    for seed in range(50):
        view = window(pixels, 128, np.random.default_rng(seed))
        assert view.shape == (128, 128, 3)
        assert np.array_equal(view[:16, :16, :2], np.broadcast_to(view[0, 0, :2], (16, 16, 2)))
        corners.add(tuple(view[0, 0]))
    assert len(corners) > 30
    assert window(pixels, 400, np.random.default_rng(0)).shape == (333, 400, 3)
    assert window(pixels, 0, np.random.default_rng(0)) is pixels


def test_mixing_brings_twins_nearer_to_their_originals(
    data: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config_of(data, tmp_path), mix=0.9, side=64)
    shutil.copytree(made / ".twins", config.out / ".twins")  # the same weights
    for name in ("settings.json", "twins.jsonl"):
        (config.out / ".twins" / name).unlink()
    mixed = make_twins(config)
    plain = make_twins(replace(config_of(data, tmp_path), out=made))
    assert np.mean([twin.psnr for twin in mixed]) > np.mean([twin.psnr for twin in plain]) + 2
    sizes = {decode(twin.read_bytes(), "").pixels.shape[:2] for _, twin in pairs(config.out)}
    assert max(max(size) for size in sizes) == 64
    assert (5, 7) in sizes
    assert "12 twins" in summary(mixed, config)
    assert capsys.readouterr().err.count("to make") == 1  # the second was whole already


def test_killed_and_carried_on_it_is_the_same_to_the_byte(
    data: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(data, tmp_path)
    words = ["twins", "--data", str(data), "--out", str(config.out), "--steps", "2", "--device", "cpu"]
    words += ["--prepared", str(config.prepared)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mai_app", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = config.out / ".twins" / "twins.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])  # what a kill in the middle of a write leaves
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{config.out}: 12 twins, alike to ")
    assert said.endswith(f"Next: mai train --data {config.out}\n")
    assert files_in(config.out) == files_in(made)


def test_a_file_that_goes_bad_is_named_and_the_others_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_of(data, tmp_path), autoencoder="shuffle")
    monkeypatch.setattr(twins, "read_file", lambda path: b"\xff\xd8" if path.name == "tiny.jpg" else read_file(path))
    made = make_twins(config)
    assert [twin.file for twin in made if twin.reason] == ["train/authentic/more/tiny.jpg"]
    error = capsys.readouterr().err
    assert "no twin: train/authentic/more/tiny.jpg: is " in error
    assert {twin.generator for twin in made} == {"twin:small-shuffle"}
    assert "11 twins" in summary(made, config)
    assert "; 1 images have none" in summary(made, config)


def test_a_data_set_without_parts_gets_them_and_keeps_its_test_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("0_real", "1_fake"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(picture(rng, name == "1_fake", 64, 64)).save(tmp_path / "d" / name / f"{i}.png")
    config = TwinsConfig(tmp_path / "d", tmp_path / "o", "shuffle", 1, device="cpu", prepared=tmp_path / "p")
    made = make_twins(config)
    assert all(twin.twin.split("/")[1:3] == ["1_fake", "twins"] for twin in made)
    before, after = prepare(config.data, config.prepared), prepare(config.out, config.prepared)
    for split in ("train", "val", "test"):
        was = {before.file(int(row)) for row in before.rows(split)}
        now = {after.file(int(row)).removeprefix(f"{split}/") for row in after.rows(split)}
        assert was == {name for name in now if "/twins/" not in name}
        assert split != "test" or was == now


def test_classes_and_splits_of_a_manifest_hold_for_the_twins_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, split in (("camera", "train"), ("nature/real", "val"), ("nature/fake", "test")):
        (tmp_path / "d" / folder).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(rng, "fake" in folder, 64, 64)).save(tmp_path / "d" / folder / f"{split}{i}.png")
    rows = ["camera,authentic,train", "nature/real,,val", "nature/fake,,test"]
    (tmp_path / "d" / "manifest.csv").write_text("\n".join(["file,label,split", *rows]))
    config = TwinsConfig(tmp_path / "d", tmp_path / "o", "shuffle", 1, device="cpu", prepared=tmp_path / "p")
    assert {str(Path(twin.twin).parent) for twin in make_twins(config)} == {
        "camera/synthetic/twins",
        "nature/fake/twins",
    }
    assert Counter((record.label, record.split) for record in scan(config.out)) == {
        (0, "train"): 3,
        (1, "train"): 3,
        (0, "val"): 3,
        (1, "val"): 3,
        (1, "test"): 3,
    }


Change = Callable[[TwinsConfig], TwinsConfig]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: replace(c, out=c.data / "x"), "lies in the other"),
        (lambda c: replace(c, out=c.data.parent), "lies in the other"),
        (lambda c: replace(c, side=3), "--side 3"),
        (lambda c: replace(c, mix=1.5), "--mix 1.5"),
        (lambda c: replace(c, steps=0), "--steps 0"),
        (lambda c: replace(c, autoencoder="linear"), "mixed, nearest, transposed, shuffle, OWNER/NAME"),
        (lambda c: replace(c, out=c.prepared), "did not make"),
        (lambda c: replace(c, seed=1), "seed 0 → 1"),
        (lambda c: replace(c, data=c.data.parent / "none"), "no such folder"),
    ],
)
def test_what_does_not_fit_is_refused(change: Change, words: str, data: Path, made: Path) -> None:
    config = replace(config_of(data, made.parent), out=made)
    with pytest.raises(DataError, match=words):
        make_twins(change(config))
