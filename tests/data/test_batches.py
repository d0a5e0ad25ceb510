"""Batches: balanced over classes and sources, decided by the seed alone, whatever the number of loader workers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mai_app.config import InputMode, Preprocessing
from mai_app.data.augment import Jpegs
from mai_app.data.batches import (
    Draw,
    TrainingImages,
    draw_epoch,
    training_batches,
    validation_batches,
)
from mai_app.data.prepare import prepare
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import to_floats
from tests.conftest import picture, write_data_set

LABELS = np.array([0] * 300 + [1] * 100)
SOURCES = ["large"] * 290 + ["small"] * 10 + ["one"] * 50 + ["two"] * 50


def rows(batches: list[list[Draw]]) -> list[int]:
    return [row for batch in batches for row, _ in batch]


def test_half_of_every_batch_is_of_either_class() -> None:
    batches = draw_epoch(LABELS, SOURCES, 32, 0.5, seed=0, epoch=0)
    assert len(batches) == 400 // 32
    for batch in batches:
        assert len(batch) == 32
        assert sum(LABELS[row] for row, _ in batch) == 16
    assert sorted(draw for batch in batches for _, draw in batch) == list(range(12 * 32))


@pytest.mark.parametrize(("balance", "share"), [(0.0, 10 / 300), (0.5, 10**0.5 / (10**0.5 + 290**0.5)), (1.0, 0.5)])
def test_sources_are_drawn_as_the_balance_says(balance: float, share: float) -> None:
    drawn = Counter(
        SOURCES[row] for epoch in range(20) for row in rows(draw_epoch(LABELS, SOURCES, 40, balance, 0, epoch))
    )
    assert drawn["small"] / (drawn["small"] + drawn["large"]) == pytest.approx(share, abs=0.01)
    assert drawn["one"] / (drawn["one"] + drawn["two"]) == pytest.approx(0.5, abs=0.01)


def test_within_a_source_every_image_comes_once_before_any_comes_again() -> None:
    drawn = Counter(rows(draw_epoch(LABELS, SOURCES, 40, 1.0, seed=3, epoch=5)))
    for source in set(SOURCES):
        counts = [drawn[i] for i, name in enumerate(SOURCES) if name == source]
        assert max(counts) - min(counts) <= 1


def test_seed_and_epoch_decide_the_order() -> None:
    first = draw_epoch(LABELS, SOURCES, 40, 0.5, seed=0, epoch=0)
    assert first == draw_epoch(LABELS, SOURCES, 40, 0.5, seed=0, epoch=0)
    assert first != draw_epoch(LABELS, SOURCES, 40, 0.5, seed=0, epoch=1)
    assert first != draw_epoch(LABELS, SOURCES, 40, 0.5, seed=1, epoch=0)


def test_fewer_images_than_a_batch_still_make_one() -> None:
    batches = draw_epoch(np.array([0, 1, 1]), ["a", "b", "b"], 8, 0.5, seed=0, epoch=0)
    assert len(batches) == 1
    assert Counter(LABELS[:0].tolist() + [int(row > 0) for row, _ in batches[0]]) == {0: 4, 1: 4}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("degrade", [False, True])
@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_workers_change_nothing(data_set: Path, tmp_path: Path, mode: InputMode, degrade: bool) -> None:
    prepared = prepare(data_set, tmp_path)
    images = TrainingImages(prepared, Preprocessing(input=mode), seed=0, epoch=2, degrade=degrade)
    batches = draw_epoch(prepared.labels, prepared.sources, 16, 0.5, seed=0, epoch=2)
    alone = list(training_batches(images, batches, workers=0))
    helped = list(training_batches(images, batches, workers=2))
    assert len(alone) == len(helped) == 8
    for (pixels, targets), (same_pixels, same_targets) in zip(alone, helped, strict=True):
        assert pixels.shape == (16, 200, 200, 3)
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, same_pixels)
        assert torch.equal(targets, same_targets)


def test_the_damage_knows_what_the_files_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_data_set(tmp_path / "d", train=2, val=1, test=0)
    drawn = Image.fromarray(picture(np.random.default_rng(1), 0))
    drawn.save(root / "train" / "authentic" / "a.jpg", quality=83, subsampling="4:4:4")
    drawn.rotate(180).save(root / "val" / "authentic" / "b.jpg", quality=31)  # not of the part that is trained on
    prepared = prepare(root, tmp_path / "p")
    seen: dict[int, tuple[bool, list[list[int]]]] = {}

    def spy(window: Pixels, lossy: bool, jpegs: Jpegs, size: int, rng: np.random.Generator) -> Pixels:
        seen[row] = lossy, jpegs.tolist()
        return window[:size, :size]

    monkeypatch.setattr("mai_app.data.batches.training_crop", spy)
    images = TrainingImages(prepared, Preprocessing(input="crop"), seed=0, epoch=0, degrade=True)
    for row in prepared.rows("train").tolist():
        images.__getitems__([(row, 0)])
    assert {prepared.file(row): facts for row, facts in seen.items()} == {
        prepared.file(row): (prepared.file(row).endswith(".jpg"), [[83, 0]]) for row in prepared.rows("train").tolist()
    }
    assert sum(lossy for lossy, _ in seen.values()) == 1


def test_crops_move_from_epoch_to_epoch_and_are_native_pixels(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    draws: list[Draw] = [(3, 0)]
    crops = [
        TrainingImages(prepared, Preprocessing(input="crop"), seed=0, epoch=epoch).__getitems__(draws)[0][0].numpy()
        for epoch in range(6)
    ]
    assert len({crop.tobytes() for crop in crops}) > 1
    window = prepared.window(3)
    places = {
        window[y : y + 200, x : x + 200].tobytes()
        for y in range(window.shape[0] - 199)
        for x in range(window.shape[1] - 199)
    }
    assert all(crop.tobytes() in places for crop in crops)


def test_with_longest_crops_come_from_the_image_scaled_down(tmp_path: Path) -> None:
    for name in ("authentic", "synthetic"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        Image.fromarray(picture(np.random.default_rng(1), 0, 800, 700)).save(tmp_path / "d" / "train" / name / "a.png")
        Image.fromarray(picture(np.random.default_rng(2), 1, 700, 800)).save(tmp_path / "d" / "train" / name / "b.png")
    prepared = prepare(tmp_path / "d", tmp_path / "p")
    for longest in (0, 512):
        how = Preprocessing(input="crop", longest=longest)
        window = prepared.window(0, scaled=longest > 0)
        places = {window[y : y + 200, x : x + 200].tobytes() for y in range(57) for x in range(57)}
        crop = TrainingImages(prepared, how, seed=0, epoch=0).__getitems__([(0, 0)])[0][0].numpy()
        assert crop.tobytes() in places
        ((pixels, _),) = validation_batches(prepared, np.array([0]), how, batch_size=2)
        np.testing.assert_array_equal(pixels[0].numpy(), window[28:228, 28:228])


def test_validation_comes_in_order_with_its_labels(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    chosen = np.array([5, 100, 7])
    parts = list(validation_batches(prepared, chosen, Preprocessing(), batch_size=2))
    assert [len(pixels) for pixels, _ in parts] == [2, 1]
    labels = torch.cat([targets for _, targets in parts])
    assert labels.tolist() == prepared.labels[chosen].tolist()
    np.testing.assert_array_equal(parts[1][0][0].numpy(), prepared.stretched(7))


def test_floats_run_from_0_to_1_channels_last() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 5, 3)
    floats = to_floats(pixels, torch.device("cpu"))
    assert floats.shape == (2, 3, 4, 5)
    assert floats[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert to_floats(torch.zeros(2, 4, 5, 3, dtype=torch.uint8), torch.device("cpu")).is_contiguous(
        memory_format=torch.channels_last
    )


def test_each_version_is_drawn_as_often_and_anew_each_epoch(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    how = Preprocessing(input="crop")
    epochs = [
        [TrainingImages(prepared, how, 0, epoch, True, 3).version_of(draw) for draw in range(3000)] for epoch in (0, 1)
    ]
    for drawn in epochs:
        assert np.abs(np.bincount(drawn, minlength=3) - 1000).max() < 120
    assert 0.25 < np.mean(np.array(epochs[0]) == np.array(epochs[1])) < 0.42
    # Whether a draw takes another version than the one before tells nothing, either.
    assert 0.25 < np.mean(np.array(epochs[0][1:]) == np.array(epochs[0][:-1])) < 0.42
