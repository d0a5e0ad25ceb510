"""The simulated data set: same arguments, same bytes; twins that differ in nothing but their making."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mai_app.config import CLASSES, SPLITS
from mai_app.demo.images import (
    APART,
    APART_PAIRS,
    DECODERS,
    MANIFEST,
    MARKER,
    Exposure,
    generate,
    make_demo,
    photograph,
)
from mai_app.demo.scenes import FAMILIES, render
from mai_app.errors import DataError

SCENES = 4


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, SCENES, 0)
    return root


def rows(root: Path) -> list[dict[str, str]]:
    with (root / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_arguments_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make_demo(tmp_path, SCENES, 0)
    assert digests(tmp_path) == digests(made)


def test_another_seed_gives_other_images(made: Path, tmp_path: Path) -> None:
    make_demo(tmp_path, 3, 1)
    assert not set(digests(tmp_path).values()) & set(digests(made).values())


def test_worker_processes_change_nothing(made: Path, tmp_path: Path) -> None:
    # 14 scenes and the pairs apart are enough work for a second process; the first 2 are training scenes in both.
    make_demo(tmp_path, 14, 0)
    many, few = digests(tmp_path), digests(made)
    shared = [name for name in few if name.startswith(("train/", f"{APART}/"))]
    assert len(shared) == 2 * (2 + APART_PAIRS)
    assert all(many[name] == few[name] for name in shared)


def test_counts_and_splits(made: Path) -> None:
    for split, count in zip(SPLITS, (2, 1, 1), strict=True):
        for name in CLASSES:
            assert len(list((made / split / name).iterdir())) == count
    assert len(list((made / APART).glob("camera-*"))) == APART_PAIRS
    assert len(list((made / APART).glob("generator-*"))) == APART_PAIRS


def test_manifest_rows_match_the_files(made: Path) -> None:
    listed = rows(made)
    files = {path.relative_to(made).as_posix() for split in SPLITS for path in (made / split).rglob("*.*")}
    assert {row["file"] for row in listed} == files
    assert len(listed) == 2 * SCENES
    for row in listed:
        assert list(row) == ["file", "label", "kind", "generator", "source", "pair"]
        assert row["pair"] == Path(row["file"]).stem
        assert row["label"] == row["file"].split("/")[1]
        assert row["kind"] == "simulated"
        assert row["source"] in FAMILIES
        assert row["generator"] in (DECODERS if row["label"] == "synthetic" else ("",))


def test_twins_share_format_size_and_about_their_bytes(made: Path) -> None:
    pairs = [(path, Path(str(path).replace("authentic", "synthetic"))) for path in made.glob("*/authentic/*")]
    pairs += [(path, path.with_name(path.name.replace("camera", "generator"))) for path in made.glob("apart/camera-*")]
    assert len(pairs) == SCENES + APART_PAIRS
    ratios = []
    for authentic, synthetic in pairs:
        with Image.open(authentic) as one, Image.open(synthetic) as other:
            assert (one.format, one.size, one.mode) == (other.format, other.size, other.mode)
            assert getattr(one, "quantization", None) == getattr(other, "quantization", None)
            assert not np.array_equal(np.asarray(one), np.asarray(other))
        ratios.append(synthetic.stat().st_size / authentic.stat().st_size)
    assert 0.9 < np.median(ratios) < 1.1


def test_a_whole_set_is_left_alone(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_demo(made, SCENES, 0)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize("damage", ["lost image", "unfinished", "other arguments"])
def test_an_incomplete_or_other_set_is_made_anew(made: Path, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(made, root)
    (root / "mine.txt").write_text("kept")
    marker = json.loads((root / MARKER).read_text())
    if damage == "lost image":
        next((root / "train" / "authentic").iterdir()).unlink()
    elif damage == "unfinished":
        (root / MARKER).write_text(json.dumps({**marker, "complete": False}))
        (root / MANIFEST).unlink()
    else:
        (root / MARKER).write_text(json.dumps({**marker, "seed": 1}))
        next((root / "train" / "authentic").iterdir()).write_bytes(b"another scene")
    make_demo(root, SCENES, 0)
    assert (root / "mine.txt").read_text() == "kept"
    (root / "mine.txt").unlink()
    assert digests(root) == digests(made)


def test_somebody_elses_data_set_is_not_touched(tmp_path: Path) -> None:
    photo = tmp_path / "train" / "authentic" / "0001.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"a photo")
    with pytest.raises(DataError, match="name another folder"):
        make_demo(tmp_path, 3, 0)
    assert photo.read_bytes() == b"a photo"
    assert not (tmp_path / MARKER).exists()


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ask for 3 or more"):
        make_demo(tmp_path, 2, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scenes_and_twins_keep_shape_and_range(family: str) -> None:
    rng = np.random.default_rng(0)
    scene = render(rng, family, 61, 50)
    assert scene.shape == (122, 100, 3)
    assert scene.dtype == np.float32
    assert scene.min() >= 0
    assert scene.max() <= 1
    photo = photograph(rng, scene, Exposure(1e-3, 1e-3, 0.2))
    assert photo.shape == (61, 50, 3)
    assert photo.dtype == np.uint8
    for decoder in DECODERS:
        for part in generate(rng, scene, Exposure(1e-3, 1e-3, 0.2), decoder):
            assert part.shape == (61, 50, 3)
            assert part.dtype == np.float32


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_noise_the_twins_show_the_same_picture(decoder: str) -> None:
    rng = np.random.default_rng(1)
    scene = render(rng, "shapes", 96, 96)
    exposure = Exposure(0.0, 0.0, 0.0)
    photo = photograph(rng, scene, exposure).astype(np.float32) / 255
    image = generate(rng, scene, exposure, decoder)[0]
    blocks = [picture.reshape(12, 8, 12, 8, 3).mean(axis=(1, 3)) for picture in (photo, image)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 0.03
