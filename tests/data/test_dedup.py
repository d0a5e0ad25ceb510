"""Groups of duplicates: found without comparing all with all, joined, and never on two sides of the split."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from mai_app.config import NEAR_DUPLICATE_BITS, SPLITTING
from mai_app.data.dedup import Digests, assign_splits, group_images, held_out_alone, near_pairs, perceptual_hash
from mai_app.images.preprocess import resize

Texts = npt.NDArray[np.str_]


def scene(seed: int) -> Image.Image:
    """A picture with structure at several scales, as photographs have it."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((320, 240))).astype(float)
        for n in (4, 9, 20, 50)
    ]
    mixed = layers[0] * 0.4 + layers[1] * 0.3 + layers[2] * 0.2 + layers[3] * 0.1
    return Image.fromarray(mixed.astype(np.uint8))


def hash_of(image: Image.Image) -> int:
    return perceptual_hash(resize(np.asarray(image), 200))


def saved(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, 40),
        lambda image: image.resize((160, 120), Image.Resampling.LANCZOS),
        lambda image: saved(image.resize((256, 192), Image.Resampling.BICUBIC), 75),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["jpeg 40", "half", "80 % jpeg 75", "brighter", "grey"],
)
def test_a_changed_copy_keeps_its_hash(change: object) -> None:
    near = [(hash_of(scene(s)) ^ hash_of(change(scene(s)))).bit_count() for s in range(30)]  # type: ignore[operator]
    assert np.mean([bits <= NEAR_DUPLICATE_BITS for bits in near]) > 0.9


def test_other_pictures_have_other_hashes() -> None:
    hashes = np.array([hash_of(scene(s)) for s in range(300)], dtype=np.uint64)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(300, 1)]
    assert apart.min() > NEAR_DUPLICATE_BITS
    assert len(near_pairs(np.unique(hashes))) == 0


def test_a_flat_picture_has_no_hash() -> None:
    assert perceptual_hash(np.full((200, 200, 3), 130, np.uint8)) == 0
    rng = np.random.default_rng(0)
    assert perceptual_hash(rng.integers(126, 134, (200, 200, 3), dtype=np.uint8)) == 0


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4, 6])
def test_all_near_pairs_and_no_others_are_found(bits: int) -> None:
    rng = np.random.default_rng(bits)
    centres = rng.integers(1, 2**63, 60, dtype=np.uint64)
    hashes = np.repeat(centres, 30)
    for _ in range(3):  # up to three bits away from the centre, up to six from each other
        hashes ^= np.where(rng.random(1800) < 0.7, np.uint64(1) << rng.integers(0, 64, 1800, dtype=np.uint64), 0)
    hashes = np.unique(hashes)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    left, right = np.nonzero(np.triu(apart <= bits, 1))
    assert (len(left) > 100) == (bits > 0)
    np.testing.assert_array_equal(near_pairs(hashes, bits), np.stack([left, right], axis=1))


def digests(count: int) -> Digests:
    return np.array([hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)], dtype="S64")


def far_hashes(count: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(9).integers(1, 2**63, count, dtype=np.uint64)


def test_a_group_is_what_equal_near_and_tied_images_join() -> None:
    sha, hashes, group_keys = digests(8), far_hashes(8), np.array(["", "", "", "", "", "p:1", "", "p:1"])
    sha[1] = sha[0]  # equal pixels
    hashes[1] = hashes[0]
    hashes[2] = hashes[1] ^ np.uint64(0b1011)  # near to 1
    hashes[5] = hashes[2] ^ np.uint64(0b1011 << 40)  # near to 2, far from 1; tied to 7
    hashes[4] = hashes[6] = 0  # flat: near to nothing, not to each other either
    groups = group_images(sha, hashes, group_keys)
    assert len(set(groups[[0, 1, 2, 5, 7]])) == 1
    assert len(set(groups[[3, 4, 6]]) | {groups[0]}) == 4
    assert groups[0] == min(sha[[0, 1, 2, 5, 7]].tolist())[:16].decode()
    assert groups[3] == sha[3][:16].decode()


def test_groups_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(2)
    sha, hashes = digests(500), far_hashes(500)
    hashes[:200] = hashes[rng.integers(200, 500, 200)] ^ np.uint64(1)
    group_keys = np.array([f"p:{i}" if i < 60 else "" for i in rng.integers(0, 300, 500)])
    groups = group_images(sha, hashes, group_keys)
    order = rng.permutation(500)
    np.testing.assert_array_equal(group_images(sha[order], hashes[order], group_keys[order]), groups[order])
    assert 200 < len(set(groups)) < 350


def split(
    groups: Texts, given: Texts | None = None, labels: object = None, group_keys: Texts | None = None, seed: int = 0
) -> tuple[Texts, Texts]:
    n = len(groups)
    nothing = np.full(n, "")
    return assign_splits(
        groups,
        np.zeros(n, dtype=np.int64) if labels is None else np.array(labels),
        nothing if group_keys is None else group_keys,
        nothing if given is None else given,
        replace(SPLITTING, seed=seed),
    )


def test_without_folders_a_seeded_hash_of_the_group_decides() -> None:
    groups = np.repeat([str(name[:16], "ascii") for name in digests(4000)], 2)
    splits, excluded = split(groups)
    assert (excluded == "").all()
    assert (splits[::2] == splits[1::2]).all()
    assert np.mean(splits == "val") == pytest.approx(0.1, abs=0.02)
    assert np.mean(splits == "test") == pytest.approx(0.1, abs=0.02)
    assert set(splits) == {"train", "val", "test"}
    np.testing.assert_array_equal(split(groups)[0], splits)
    assert np.mean(split(groups, seed=1)[0] != splits) > 0.2
    # What an image alone would be drawn into is known before its group is.
    alone = [held_out_alone(f"{group}{'0' * 48}", SPLITTING) for group in groups]
    np.testing.assert_array_equal(splits != "train", alone)


def test_a_folders_word_holds_and_test_comes_before_val_before_train() -> None:
    groups = np.array(["a", "a", "a", "b", "b", "c", "c", "d"])
    given = np.array(["train", "val", "test", "train", "val", "train", "", "test"])
    splits, excluded = split(groups, given)
    assert splits.tolist() == ["", "", "test", "", "val", "train", "train", "test"]
    assert excluded.tolist()[:4] == ["the same picture is in test"] * 2 + ["", "the same picture is in val"]


def test_a_train_folder_without_val_yields_its_share() -> None:
    groups = np.array([str(name[:16], "ascii") for name in digests(3000)])
    splits, excluded = split(groups, np.where(np.arange(3000) % 5 == 0, "test", "train"))
    assert (excluded == "").all()
    assert (splits[::5] == "test").all()
    rest = np.delete(splits, np.arange(0, 3000, 5))
    assert set(rest) == {"train", "val"}
    assert np.mean(rest == "val") == pytest.approx(0.1, abs=0.02)


def test_both_labels_in_one_group_leave_it_out_unless_all_are_pairs() -> None:
    groups = np.array(["a", "a", "b", "b", "c", "c", "c"])
    labels = [0, 1, 0, 1, 0, 1, 1]
    group_keys = np.array(["", "", "pair:1", "pair:1", "pair:2", "pair:2", ""])
    splits, excluded = split(groups, labels=labels, group_keys=group_keys)
    assert (excluded != "").tolist() == [True, True, False, False, True, True, True]
    assert set(excluded[[0, 1, 4, 5, 6]]) == {"the same picture carries the other label"}
    assert splits[2] == splits[3] != ""
