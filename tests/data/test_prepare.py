"""Prepared sets of folders: decoded once, lossless, the same however often the work was killed, split without leaks."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mai_app.config import PREPARED_WINDOW, PrepareConfig, PreparedForm, prepared_form
from mai_app.data import plan
from mai_app.data.prepare import prepare, prepare_sources
from mai_app.data.prepared import PreparedSet, open_prepared
from mai_app.data.shards import pixel_hash
from mai_app.errors import DataError
from mai_app.images.decode import decode_file
from mai_app.images.preprocess import central_square, resize, shrink
from tests.conftest import Run, picture, write_data_set


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared set but its plan, which names the place that it was made from."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", "plan.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def column(prepared: PreparedSet, name: str) -> list[object]:
    return prepared.table[name].to_pylist()  # type: ignore[no-any-return]


def two_classes(root: Path, count: int, seed: int = 1) -> Path:
    """A folder with the two class folders alone, so many pictures in each."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(("authentic", "synthetic")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(rng, label, 60, 60)).save(root / name / f"{i:04}.png", compress_level=1)
    return root


def test_stored_pixels_are_those_of_the_files(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    assert len(prepared) == 128
    assert prepared.facts["left_out"] == 0
    for row in range(0, 128, 7):
        pixels = decode_file(data_set / prepared.file(row)).pixels
        assert column(prepared, "sha256")[row] == pixel_hash(pixels)
        np.testing.assert_array_equal(prepared.stretched(row), resize(pixels, 200))
        np.testing.assert_array_equal(prepared.window(row), pixels)  # under the window's bound: the whole image


def test_a_large_image_keeps_a_native_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = {}
    for name in ("authentic", "synthetic"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        large[name] = rng.integers(0, 256, (300, 700, 3), dtype=np.uint8)
        Image.fromarray(large[name]).save(tmp_path / "d" / "train" / name / "a.png")
    prepared = prepare(tmp_path / "d", tmp_path / "p")
    for row, name in enumerate(large):
        window = prepared.window(row)
        assert window.shape == (PREPARED_WINDOW, PREPARED_WINDOW, 3)
        rows = np.lib.stride_tricks.sliding_window_view(large[name][:, :, 0], PREPARED_WINDOW, axis=1)
        ((y, x),) = np.argwhere((rows == window[0, :, 0]).all(axis=2))
        np.testing.assert_array_equal(window, large[name][y : y + PREPARED_WINDOW, x : x + PREPARED_WINDOW])


def test_an_image_over_512_pixels_keeps_a_window_of_itself_scaled_down(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"large.png": (600, 900), "large.jpg": (300, 513), "small.jpg": (500, 512)}
    (tmp_path / "d" / "train" / "synthetic").mkdir(parents=True)
    (tmp_path / "d" / "train" / "authentic").mkdir(parents=True)
    Image.fromarray(picture(rng, 0, 40, 40)).save(tmp_path / "d" / "train" / "authentic" / "a.png")
    for name, size in sizes.items():
        Image.fromarray(picture(rng, 1, *size)).save(tmp_path / "d" / "train" / "synthetic" / name)
    prepared = prepare(tmp_path / "d", tmp_path / "p")
    rows = {Path(prepared.file(row)).name: row for row in range(len(prepared))}
    for name in sizes:
        row, pixels = rows[name], decode_file(tmp_path / "d" / "train" / "synthetic" / name).pixels
        window = prepared.window(row, scaled=True)
        small = shrink(pixels, 512)
        across = np.lib.stride_tricks.sliding_window_view(small[:, :, 0], window.shape[1], axis=1)
        ((y, x),) = np.argwhere((across == window[0, :, 0]).all(axis=2))
        np.testing.assert_array_equal(window, small[y : y + window.shape[0], x : x + window.shape[1]])
        assert window.shape == (256, 256, 3)
        assert np.array_equal(window, prepared.window(row)) == (name == "small.jpg")
    # What was scaled down has no blocks of JPEG left to speak of.
    assert [prepared.lossy(rows[name]) for name in sizes] == [False, True, True]
    assert [prepared.lossy(rows[name], scaled=True) for name in sizes] == [False, False, True]


def test_for_views_a_set_keeps_the_central_square_and_larger_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"large.png": (600, 900), "large.jpg": (400, 400), "small.jpg": (330, 512)}
    for name, size in sizes.items():
        for label in ("authentic", "synthetic"):
            path = tmp_path / "d" / "train" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(rng, 1, *size)).save(path)
    prepared = prepare(tmp_path / "d", tmp_path / "p", form=prepared_form(224))
    assert prepared.form == PreparedForm(window=336, whole=336)
    for row in range(len(prepared)):
        pixels = decode_file(tmp_path / "d" / prepared.file(row)).pixels
        np.testing.assert_array_equal(prepared.whole(row), central_square(pixels, 336))
        assert prepared.window(row).shape == (min(336, pixels.shape[0]), 336, 3)
        name = Path(prepared.file(row)).name
        assert prepared.whole_lossy(row) == (name == "small.jpg")  # what is scaled down has lost its blocks
    # Another form is another set, and sets of both lie side by side.
    plain = prepare(tmp_path / "d", tmp_path / "p")
    assert plain.folder != prepared.folder
    assert plain.whole(0).size == 0
    assert plain.fingerprint == prepared.fingerprint


def test_a_second_call_decodes_nothing(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(data_set, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("mai_app.data.shards.decode", refuse)
    assert prepare(data_set, tmp_path).fingerprint == first.fingerprint
    assert prepare(first.folder, tmp_path / "elsewhere").folder == first.folder
    assert prepare(Path(first.folder.name), tmp_path).folder == first.folder


def test_the_number_of_workers_changes_nothing(data_set: Path, tmp_path: Path) -> None:
    one, four = prepare(data_set, tmp_path / "a", workers=1), prepare(data_set, tmp_path / "b", workers=4)
    assert contents(one.folder) == contents(four.folder)


def test_the_manifest_says_of_each_image_what_its_file_was(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "d", train=2, val=1, test=0)
    drawn = Image.fromarray(picture(np.random.default_rng(5), 0, 120, 90))
    drawn.save(root / "train" / "authentic" / "a.jpg", quality=83)
    drawn.rotate(90, expand=True).save(root / "train" / "synthetic" / "b.webp", lossless=True)
    with (root / "manifest.csv").open("w") as stream:
        stream.write("file,source,generator,kind\ntrain/synthetic/b.webp,gallery,sdxl,drawing\n")
    prepared = prepare(root, tmp_path / "p")
    with (prepared.folder / "manifest.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    jpeg, webp = rows["train/authentic/a.jpg"], rows["train/synthetic/b.webp"]
    assert (jpeg["format"], jpeg["lossy"], jpeg["jpeg_quality"]) == ("JPEG", "1", "83")
    assert (jpeg["width"], jpeg["height"]) == ("90", "120")
    assert int(jpeg["file_bytes"]) == (root / "train" / "authentic" / "a.jpg").stat().st_size
    assert (webp["format"], webp["lossy"], webp["jpeg_quality"]) == ("WEBP", "0", "")
    assert (webp["source"], webp["generator"], webp["kind"], webp["split"]) == ("gallery", "sdxl", "drawing", "train")
    assert all(row["group"] == row["sha256"][:16] for row in rows.values())


def test_bad_files_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data_set(tmp_path / "d", train=3, val=2, test=0)
    (root / "train" / "authentic" / "empty.jpg").touch()
    prepared = prepare(root, tmp_path / "p")
    assert len(prepared) == 10
    reason = {"file": "train/authentic/empty.jpg", "source": "d", "reason": "is empty (0 bytes)"}
    assert prepared.rejected() == [reason]
    assert "empty.jpg: is empty" in capsys.readouterr().err


def test_a_set_of_bad_files_alone_is_refused(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match="none of its 2 images can be decoded"):
        prepare(tmp_path / "d", tmp_path / "p")


@pytest.mark.parametrize("name", ["new\nline.png", 'quote",comma.png', "blank .png", "\udcff.png", "ümlaut 図.png"])
def test_any_file_name_finds_its_way_into_the_manifest(tmp_path: Path, name: str) -> None:
    root = write_data_set(tmp_path / "d", train=2, val=1, test=0)
    Image.fromarray(picture(np.random.default_rng(3), 0, 50, 50)).save(root / "train" / "authentic" / "x.png")
    (root / "train" / "authentic" / "x.png").rename(root / "train" / "authentic" / name)
    prepared = prepare(root, tmp_path / "p")
    shown = name.replace("\udcff", "\\xff")
    assert f"train/authentic/{shown}" in column(prepared, "file")
    assert len(prepared) == 7


def test_a_changed_folder_is_prepared_anew(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "d", train=3, val=2, test=0)
    before = prepare(root, tmp_path / "p")
    Image.fromarray(picture(np.random.default_rng(9), 0)).save(root / "train" / "authentic" / "new.png")
    after = prepare(root, tmp_path / "p")
    assert len(after) == len(before) + 1
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ["units/00000/pixels.u8", "manifest.csv", "prepared.json"])
def test_a_damaged_set_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    prepared = prepare(write_data_set(tmp_path / "d", train=3, val=2, test=0), tmp_path / "p")
    with (prepared.folder / name).open("r+b") as stream:
        stream.truncate((prepared.folder / name).stat().st_size // 2)
    with pytest.raises(DataError, match="delete it"):
        open_prepared(prepared.folder)


def test_killed_at_any_moment_it_ends_with_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = two_classes(tmp_path / "d", 300)
    monkeypatch.setattr(plan, "FILES_PER_SHARD", 100)
    whole = prepare(root, tmp_path / "whole")
    assert len(whole.facts["units"]) == 6
    code = f"""
from pathlib import Path
from mai_app.data import plan
from mai_app.data.prepare import prepare
plan.FILES_PER_SHARD = 100
prepare(Path({str(root)!r}), Path('p'))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    folder = tmp_path / "p" / whole.folder.name

    def size() -> int:
        return sum(path.stat().st_size for path in (folder / "units").glob(".*.tmp/*.u8"))

    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
        # Long enough to import, so that the kills fall into the work: while a shard grows, ends, is joined.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                growing = size()
            except OSError:  # renamed while we looked
                growing = 1
            if growing:
                time.sleep(rng.random() * 0.25)
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if (folder / "prepared.json").exists():
            break
    assert kills >= 2
    assert contents(prepare(root, tmp_path / "p").folder) == contents(whole.folder)


def test_the_same_picture_never_stands_on_two_sides(tmp_path: Path) -> None:
    root = tmp_path / "d"
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        (root / name).mkdir(parents=True)
        for i in range(60):
            # Finer than conftest's pictures: with so little in them as those have, noise decides a perceptual hash.
            drawn = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((90, 80))
            drawn.save(root / name / f"{i}.png")
            drawn.save(root / name / f"again{i}.bmp")  # other bytes, other name, the same pixels
            drawn.resize((70, 60)).save(root / name / f"small{i}.jpg", quality=70)  # the same picture, other pixels
    prepared = prepare(root, tmp_path / "p")
    of_picture: dict[str, set[str]] = {}
    for file, split in zip(column(prepared, "file"), prepared.splits, strict=True):
        number = "".join(filter(str.isdigit, str(file)))
        of_picture.setdefault(f"{str(file)[:4]} {number}", set()).add(str(split))
    assert len(of_picture) == 120
    assert all(len(splits) == 1 for splits in of_picture.values())
    assert set(prepared.splits) == {"train", "val", "test"}


def test_what_is_in_test_is_left_out_of_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data_set(tmp_path / "d", train=4, val=3, test=3)
    tested = Image.open(root / "test" / "authentic" / "source0" / "000.png")
    tested.save(root / "train" / "authentic" / "copy.jpg", quality=80)
    tested.save(root / "val" / "authentic" / "copy.png")
    prepared = prepare(root, tmp_path / "p")
    excluded = {f: why for f, why in zip(column(prepared, "file"), column(prepared, "left_out"), strict=True) if why}
    assert excluded == dict.fromkeys(
        ("train/authentic/copy.jpg", "val/authentic/copy.png"), "the same picture is in test"
    )
    assert (prepared.splits == "").sum() == 2
    assert "left out: 2 images: the same picture is in test" in capsys.readouterr().err


def test_a_picture_with_both_labels_is_left_out_unless_it_is_a_pair(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "d", 12)
    drawn = Image.fromarray(picture(np.random.default_rng(77), 0))
    for name in ("authentic", "synthetic"):
        drawn.save(root / name / "stray.png")
        drawn.rotate(180).save(root / name / "twin.png")
    (root / "manifest.csv").write_text("file,pair\nauthentic/twin.png,7\nsynthetic/twin.png,7\n")
    prepared = prepare(root, tmp_path / "p")
    splits = dict(zip(column(prepared, "file"), prepared.splits.tolist(), strict=True))
    assert splits["authentic/stray.png"] == splits["synthetic/stray.png"] == ""
    assert splits["authentic/twin.png"] == splits["synthetic/twin.png"] != ""
    assert prepared.facts["left_out"] == 2


def test_folders_are_sources_of_a_set_like_others(tmp_path: Path, mai: Run) -> None:
    two_classes(tmp_path / "classes", 20)
    rng = np.random.default_rng(8)
    (tmp_path / "mine").mkdir()
    for i in range(20):
        Image.fromarray(picture(rng, 1)).save(tmp_path / "mine" / f"{i}.png")
    words = ("prepare", "--source", "classes", "--source", "./mine", "--label", "synthetic", "--label", "synthetic")
    wrong = mai(*words, "--label", "synthetic", "--name", "both")
    assert wrong.returncode == 2
    assert "--label comes 3 times for 2 sources" in wrong.stderr

    done = mai("prepare", "--source", "./mine", "--label", "synthetic", "--name", "one")
    assert done.returncode == 0, done.stderr
    assert "20 images" in done.stdout

    config = PrepareConfig(source=(str(tmp_path / "classes"),), name="classes", prepared=tmp_path / "prepared")
    prepared = prepare_sources(config)
    assert sorted(set(prepared.sources)) == ["classes"]
    assert column(prepared, "file")[0] == "classes/authentic/0000.png"
    # A set that is there is not made again; a changed folder is not taken for it.
    assert prepare_sources(config).fingerprint == prepared.fingerprint
    (tmp_path / "classes" / "authentic" / "0000.png").unlink()
    with pytest.raises(DataError, match=r"has changed since .* choose another --name"):
        prepare_sources(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "nowhere"), "no folder here, no owner/name of the Hub, not one of diffusiondb, flickr30k"),
        (("--source", "owner/name"), "needs its --label"),
        (("--source", "covers", "--source", "Alphonsce/metal_album_covers"), "two are called covers"),
        (("--source", "covers", "--require", "posters"), "--require posters: not among the sources (covers)"),
        (("--source", "covers", "--cap", "0"), "--cap 0: must be at least 1"),
    ],
)
def test_wrong_words_are_refused_with_what_to_do(mai: Run, words: tuple[str, ...], message: str) -> None:
    done = mai("prepare", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_it_stops_soon_and_carries_on(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "d", 900)
    code = (
        f"from pathlib import Path; from mai_app.data.prepare import prepare; prepare(Path({str(root)!r}), Path('p'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("p/*/units/.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert not list(tmp_path.glob("p/*/units/.*.tmp"))
    assert not list(tmp_path.glob("p/*/prepared.json"))
    assert len(prepare(root, tmp_path / "p")) == 1800


def test_facts_name_the_units_and_their_sizes(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    facts = json.loads((prepared.folder / "prepared.json").read_text())
    assert facts["images"] == 128
    assert facts["units"] == {"00000": (prepared.folder / "units" / "00000" / "pixels.u8").stat().st_size}
    assert facts["units"]["00000"] == 128 * 3 * (200 * 200 + 210 * 220)
