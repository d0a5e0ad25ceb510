"""Prepared sets: decoded once, lossless, the same however often the preparation was killed, split without leaks."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mai_app.config import PREPARED_WINDOW
from mai_app.data.images import decode_file
from mai_app.data.inputs import resize
from mai_app.data.prepare import PreparedSet, assign_split, open_prepared, pixel_hash, prepare
from mai_app.errors import DataError
from tests.conftest import picture, write_data_set


def contents(prepared: PreparedSet) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in prepared.folder.iterdir()
        if path.name in ("resized.u8", "windows.u8", "index.jsonl", "refused.jsonl", "prepared.json")
    }


def test_stored_pixels_are_those_of_the_files(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    assert len(prepared.images) == 128
    for i in range(0, 128, 7):
        image = prepared.images[i]
        pixels = decode_file(data_set / image.file).pixels
        assert image.sha256 == pixel_hash(pixels)
        np.testing.assert_array_equal(prepared.resized[i], resize(pixels, 200))
        window = prepared.window(i)
        assert window.shape == (210, 220, 3)  # smaller than the window's bound: the whole image
        np.testing.assert_array_equal(window, pixels)


def test_a_large_image_keeps_a_native_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("authentic", "synthetic"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        large = rng.integers(0, 256, (300, 700, 3), dtype=np.uint8)
        Image.fromarray(large).save(tmp_path / "d" / "train" / name / "a.png")
    prepared = prepare(tmp_path / "d", tmp_path / "p")
    window = prepared.window(1)
    assert window.shape == (PREPARED_WINDOW, PREPARED_WINDOW, 3)
    rows = {large[y, x : x + PREPARED_WINDOW].tobytes() for y in range(300) for x in range(700 - PREPARED_WINDOW + 1)}
    assert all(window[y].tobytes() in rows for y in range(0, PREPARED_WINDOW, 50))


def test_a_second_call_decodes_nothing(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(data_set, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("mai_app.data.prepare.decode_file", refuse)
    assert prepare(data_set, tmp_path).fingerprint == first.fingerprint


def test_the_number_of_workers_changes_nothing(data_set: Path, tmp_path: Path) -> None:
    assert contents(prepare(data_set, tmp_path / "a", workers=1)) == contents(
        prepare(data_set, tmp_path / "b", workers=4)
    )


def test_bad_files_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data_set(tmp_path / "d", train=3, val=2, test=0)
    (root / "train" / "authentic" / "empty.jpg").touch()
    prepared = prepare(root, tmp_path / "p")
    assert len(prepared.images) == 10
    refused = [json.loads(line) for line in (prepared.folder / "refused.jsonl").read_text().splitlines()]
    assert refused == [{"file": "train/authentic/empty.jpg", "reason": "is empty (0 bytes)"}]
    assert "empty.jpg: is empty" in "".join(capsys.readouterr())


def test_a_set_of_bad_files_alone_is_refused(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match="none of its 2 images can be decoded"):
        prepare(tmp_path / "d", tmp_path / "p")


def test_a_changed_folder_is_prepared_anew(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "d", train=3, val=2, test=0)
    before = prepare(root, tmp_path / "p")
    Image.fromarray(picture(np.random.default_rng(9), 0)).save(root / "train" / "authentic" / "new.png")
    after = prepare(root, tmp_path / "p")
    assert len(after.images) == len(before.images) + 1
    assert after.fingerprint != before.fingerprint


def test_a_damaged_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    prepared = prepare(write_data_set(tmp_path / "d", train=3, val=2, test=0), tmp_path / "p")
    with (prepared.folder / "windows.u8").open("ab") as stream:
        stream.truncate(1000)
    with pytest.raises(DataError, match="delete it"):
        open_prepared(prepared.folder)


def test_killed_at_any_moment_it_ends_with_the_same_set(tmp_path: Path) -> None:
    root = tmp_path / "d"
    rng = np.random.default_rng(1)
    for label, name in enumerate(("authentic", "synthetic")):
        (root / name).mkdir(parents=True)
        for i in range(400):
            Image.fromarray(picture(rng, label)).save(root / name / f"{i:03}.png", compress_level=1)
    whole = prepare(root, tmp_path / "whole")
    code = (
        f"from pathlib import Path; from mai_app.data.prepare import prepare; prepare(Path({str(root)!r}), Path('p'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    kills = 0
    for i in range(12):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
        # Long enough to import, so that the kills fall into the work: while files grow.
        folder = tmp_path / "p" / whole.folder.name
        before = (folder / "resized.u8").stat().st_size if (folder / "resized.u8").exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / "resized.u8").exists() and (folder / "resized.u8").stat().st_size > before:
                time.sleep(0.01 * (i % 5))
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if (folder / "prepared.json").exists():
            break
    assert kills >= 2
    assert contents(prepare(root, tmp_path / "p")) == contents(whole)


def test_the_same_picture_never_stands_on_two_sides(tmp_path: Path) -> None:
    root = tmp_path / "d"
    rng = np.random.default_rng(0)
    for label, name in enumerate(("real", "fake")):
        (root / name).mkdir(parents=True)
        for i in range(60):
            drawn = Image.fromarray(picture(rng, label, 40, 40))
            drawn.save(root / name / f"{i}.png")
            drawn.save(root / name / f"again{i}.bmp")  # other bytes, other name, the same pixels
    images = prepare(root, tmp_path / "p").images
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.sha256, set()).add(image.split)
    assert len(splits) == 120
    assert all(len(found) == 1 for found in splits.values())
    assert {image.split for image in images} == {"train", "val", "test"}


def test_splits_follow_the_folders_and_else_a_seeded_hash() -> None:
    from mai_app.config import Splitting  # noqa: PLC0415

    everything = frozenset(("train", "val", "test"))
    hashes = [f"{i:064x}" for i in range(4000)]
    assert {assign_split("train", sha, everything) for sha in hashes} == {"train"}
    assert {assign_split("test", sha, frozenset(("train", "test"))) for sha in hashes} == {"test"}
    carved = [assign_split("train", sha, frozenset(("train", "test"))) for sha in hashes]
    assert set(carved) == {"train", "val"}
    assert 0.07 < carved.count("val") / 4000 < 0.13
    drawn = [assign_split("", sha, frozenset()) for sha in hashes]
    assert 0.07 < drawn.count("val") / 4000 < 0.13
    assert 0.07 < drawn.count("test") / 4000 < 0.13
    other = [assign_split("", sha, frozenset(), replace(Splitting(), seed=1)) for sha in hashes]
    assert drawn != other
