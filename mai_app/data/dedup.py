"""Deduplication and splits: groups of equal and near-duplicate images, and the split that each group belongs to."""

import hashlib
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mai_app.config import NEAR_DUPLICATE_BITS, SPLITTING, Splitting
from mai_app.data.layout import PAIR
from mai_app.images.decode import Pixels

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Texts = npt.NDArray[np.str_]
Digests = npt.NDArray[np.bytes_]
"""SHA-256 in hexadecimal, 64 bytes."""

FLAT: Final = 2.0
"""Standard deviation, in grey levels of the 32×32 thumbnail, under which a picture has nothing to compare by."""


def perceptual_hash(stretched: Pixels) -> int:
    """64-bit hash of the whole image stretched to a square, (n, n, 3) uint8; 0 if it is too flat to have one.

    The signs of the 64 lowest frequencies, but the mean, of a 32×32 grey thumbnail's cosine transform against their
    median (pHash, Zauner 2010): alike for rescaled, recompressed and slightly retouched copies.
    """
    grey = Image.fromarray(stretched).convert("L").resize((32, 32), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.float64)
    if levels.std() < FLAT:
        return 0
    low = dctn(levels, norm="ortho")[:9, :8].ravel()[1:65]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_pairs(hashes: Hashes, bits: int = NEAR_DUPLICATE_BITS) -> Ints:
    """All pairs (m, 2) of indices in (n,) distinct hashes that differ in 1 to `bits` bits.

    Banding: cut into bits + 2 bands, two hashes with so few differences agree in two whole bands at least. For each
    choice of two bands the hashes are sorted by them and compared with those that agree: time grows as n log n as
    long as few hashes share the some 21 bits of a choice.
    """
    bands = bits + 2
    edges = np.linspace(0, 64, bands + 1).astype(int)
    found = [np.empty((0, 2), dtype=np.int64)]
    for choice in combinations(range(bands), 2):
        mask = np.uint64(sum(((1 << int(edges[i + 1] - edges[i])) - 1) << int(edges[i]) for i in choice))
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        step = 1
        # Neighbours, then those two apart, and so on, as long as any run of equal keys is so long.
        alike = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
        while len(alike):
            left, right = order[alike], order[alike + step]
            near = np.bitwise_count(hashes[left] ^ hashes[right]) <= bits
            found.append(np.stack([left[near], right[near]], axis=1))
            step += 1
            alike = alike[alike + step < len(order)]
            alike = alike[sorted_keys[alike] == sorted_keys[alike + step]]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def group_images(sha256: Digests, phashes: Hashes, group_keys: Texts, bits: int = NEAR_DUPLICATE_BITS) -> Texts:
    """The group of each of n images: the smallest SHA-256 among its members, cut to 16 digits.

    One group are images with equal pixels (sha256), near ones (perceptual hashes, 0: none), and those of equal,
    non-empty group keys, and whatever these join to each other.
    """
    n = len(sha256)
    distinct, first = np.unique(phashes, return_index=True)
    near = near_pairs(distinct[distinct != 0], bits)
    near = first[distinct != 0][near]
    edges = [near, _equal(sha256), _equal(phashes, phashes != 0), _equal(group_keys, group_keys != "")]
    left, right = np.concatenate(edges).T
    _, component = connected_components(coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n)))
    # The first of each component, when sorted by hash, names it.
    order = np.argsort(sha256, kind="stable")
    _, first_of = np.unique(component[order], return_index=True)
    return np.asarray(sha256[order[first_of]].astype("S16").astype("<U16")[component])


def assign_splits(
    groups: Texts, labels: Ints, group_keys: Texts, given: Texts, splitting: Splitting = SPLITTING
) -> tuple[Texts, Texts]:
    """For n images the split, train, val or test, and why it was left out; one of the two is empty.

    A group lies on one side as a whole. Where folders say the split (`given`, else empty), what is in test stays
    there, and its duplicates in val and train are left out; the same for val and train. Else a seeded hash of the
    group decides; a given train without a given val yields val's share in the same way. Groups with both labels are
    left out, unless each of their images was paired on purpose.
    """
    names, group = np.unique(groups, return_inverse=True)
    n = len(names)
    has = {split: _any(given == split, group, n) for split in ("train", "val", "test")}
    draws = np.array([draw_number(str(name), splitting.seed) for name in names])
    split = np.where(draws < splitting.val, "val", np.where(draws < splitting.val + splitting.test, "test", "train"))
    if has["val"].any():
        split[has["train"]] = "train"
    else:
        split[has["train"]] = np.where(draws[has["train"]] < splitting.val, "val", "train")
    split[has["val"]] = "val"
    split[has["test"]] = "test"
    # The folder that speaks for the group; of a train without val both parts are train's.
    speaks = np.where(has["test"], "test", np.where(has["val"], "val", np.where(has["train"], "train", "")))
    both = _any(labels == 0, group, n) & _any(labels == 1, group, n)
    both &= _any(~np.char.startswith(group_keys, PAIR), group, n)

    excluded = np.zeros(len(groups), dtype="<U48")
    duplicate = (given != "") & (given != speaks[group])
    excluded[duplicate] = np.char.add("the same picture is in ", speaks[group[duplicate]])
    excluded[both[group]] = "the same picture carries the other label"
    return np.where(excluded == "", split[group], ""), excluded


def draw_number(name: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) from the seed and the name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64


def held_out_alone(sha256: str, splitting: Splitting) -> bool:
    """Whether an image without duplicates, of that hash, is drawn into the val or the test part."""
    return draw_number(sha256[:16], splitting.seed) < splitting.val + splitting.test


def _equal(values: npt.NDArray[np.generic], where: npt.NDArray[np.bool_] | None = None) -> Ints:
    """Pairs (m, 2) that chain the indices of equal values."""
    indices = np.arange(len(values)) if where is None else np.flatnonzero(where)
    order = indices[np.argsort(values[indices], kind="stable")]
    same = values[order][1:] == values[order][:-1]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _any(truth: npt.NDArray[np.bool_], group: Ints, n: int) -> npt.NDArray[np.bool_]:
    """For each of n groups, whether any member is True."""
    return np.bincount(group[truth], minlength=n) > 0
