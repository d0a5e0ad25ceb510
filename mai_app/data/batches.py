"""Training batches from a prepared set: balanced over classes and sources, in an order that only the seed decides."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from mai_app.config import Preprocessing
from mai_app.core.parallel import ordered_map
from mai_app.data.augment import training_crop, training_square, training_stretch
from mai_app.data.prepared import PreparedSet
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import central_square, mirrored, random_window, resize, to_inputs

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (n, size, size, 3) uint8, views of images (n, 2, size, size, 3) uint8 or features of these (n, 2, width)
float16; and labels (n,) float32."""

MAX_THREADS: Final = 4
"""Threads that make batches beside a network on the CPU, at most: more would wait for Python's lock."""

Draw = tuple[int, int]
"""An image's number in the prepared set, and the draw's own number, from which its crop is drawn."""


def draw_epoch(
    labels: npt.NDArray[np.int64],
    sources: Sequence[str],
    batch_size: int,
    source_balance: float,
    seed: int,
    epoch: int,
) -> list[list[Draw]]:
    """The batches of one epoch: as many draws as there are images, in whole batches, half of them of either class.

    labels (n,) of 0 and 1, both present; sources (n,); an even batch_size. Within a class a source of n images is
    drawn in proportion to n ** (1 - source_balance); within a source every image comes once before any comes again.
    """
    rng = np.random.default_rng([seed, epoch])
    half = batch_size // 2
    steps = max(1, len(labels) // batch_size)
    of_class = []
    for label in (0, 1):
        by_source = defaultdict(list)
        for i in np.flatnonzero(labels == label).tolist():
            by_source[sources[i]].append(i)
        weights = np.array([len(members) for members in by_source.values()]) ** (1 - source_balance)
        quotas = _quotas(weights / weights.sum() * steps * half, rng)
        drawn = [
            np.concatenate([rng.permutation(members) for _ in range(quota // len(members) + 1)])[:quota]
            for members, quota in zip(by_source.values(), quotas, strict=True)
        ]
        of_class.append(rng.permutation(np.concatenate(drawn)).reshape(steps, half))
    rows = rng.permuted(np.concatenate(of_class, axis=1), axis=1)
    draws = np.arange(rows.size).reshape(rows.shape)
    return [list(zip(rows[step].tolist(), draws[step].tolist(), strict=True)) for step in range(steps)]


def capped(prepared: PreparedSet, rows: npt.NDArray[np.int64], cap: int) -> npt.NDArray[np.int64]:
    """At most `cap` of the rows of each kind and generator of each source, in their order: those of lowest SHA-256."""
    table = prepared.table.select(["source", "label", "kind", "generator", "sha256"]).take(rows).to_pydict()
    groups = defaultdict(list)
    for at, (*group, sha256) in enumerate(zip(*table.values(), strict=True)):
        groups[tuple(group)].append((sha256, at))
    return rows[sorted(at for members in groups.values() for _, at in sorted(members)[:cap])]


def _quotas(shares: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each share rounded down or up so that the sum stays, by systematic sampling: on average exactly the shares."""
    edges = np.floor(np.cumsum(shares) + rng.random())
    edges[-1] = round(shares.sum())
    return np.diff(edges, prepend=0).astype(np.int64)


class TrainingData(Dataset[Batch]):
    """What makes batches of draws."""

    at_a_time = 1
    """Batches that a thread makes in one go: more, where threads need longer to meet than to make one."""

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """The batch of these draws."""
        raise NotImplementedError


class TrainingImages(TrainingData):
    """Draws of a prepared set as batches; each image depends on its draw alone, not on the loader that makes it.

    With `versions` each image has that many degraded versions, the same in every epoch, and a draw is one of them.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        preprocessing: Preprocessing,
        seed: int,
        epoch: int,
        degrade: bool = False,
        versions: int = 0,
    ) -> None:
        self.prepared = prepared
        self.preprocessing = preprocessing
        self.seed = seed
        self.epoch = epoch
        self.degrade = degrade
        self.versions = versions
        self.jpegs = prepared.jpegs(prepared.rows("train"))

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """The batch of these draws: pixels and labels."""
        pixels = np.stack([self._input(row, draw) for row, draw in draws])
        labels = self.prepared.labels[[row for row, _ in draws]]
        return torch.from_numpy(pixels), torch.from_numpy(labels).float()

    def version_of(self, draw: int) -> int:
        """Which of an image's versions a draw takes."""
        # Making one of numpy's generators takes as long as reading an input's features.
        digest = hashlib.blake2b(f"{self.seed} {self.epoch} {draw}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.versions

    def version(self, row: int, version: int) -> Pixels:
        """One of an image's versions: the network's input of it."""
        return self._degraded(row, np.random.default_rng([self.seed, 0, version, row]))

    def _input(self, row: int, draw: int) -> Pixels:
        if self.versions:
            return self.version(row, self.version_of(draw))
        return self._degraded(row, np.random.default_rng([self.seed, self.epoch, draw]))

    def _degraded(self, row: int, rng: np.random.Generator) -> Pixels:
        size = self.preprocessing.size
        if self.preprocessing.input == "resize":
            stretched = self.prepared.stretched(row)
            return training_stretch(stretched, self.jpegs, rng) if self.degrade else stretched
        scaled = self.preprocessing.longest > 0
        window = self.prepared.window(row, scaled)
        if self.degrade:
            crop = training_crop(window, self.prepared.lossy(row, scaled), self.jpegs, size, rng)
        else:
            crop = random_window(mirrored(window, size), size, rng)
        if self.preprocessing.input == "crop":
            return crop
        whole = self.prepared.whole(row)
        if self.degrade:
            return np.stack([training_square(whole, self.prepared.whole_lossy(row), self.jpegs, size, rng), crop])
        return np.stack([resize(central_square(whole, size), size), crop])


def training_batches(images: TrainingData, batches: list[list[Draw]], workers: int) -> Iterator[Batch]:
    """The batches in their order, made ahead by `workers` processes, or, with 0, by threads of this one."""
    if not workers and not torch.cuda.is_available():
        threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))
        size = images.at_a_time
        parts = (batches[start : start + size] for start in range(0, len(batches), size))
        for made in ordered_map(lambda part: [*map(images.__getitems__, part)], parts, threads, ahead=threads):
            yield from made
        return
    loader = DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # Its own: the loader draws from it, and what networks draw must depend neither on workers nor on stops.
        generator=torch.Generator(),
    )
    yield from loader


def validation_batches(
    prepared: PreparedSet, rows: npt.NDArray[np.int64], preprocessing: Preprocessing, batch_size: int
) -> Iterator[Batch]:
    """The images of the given rows in order, one input each, as undamaged_input makes it."""
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        pixels = np.stack([undamaged_input(prepared, row, preprocessing) for row in part])
        yield torch.from_numpy(pixels), torch.from_numpy(prepared.labels[part]).float()


def undamaged_input(prepared: PreparedSet, row: int, preprocessing: Preprocessing) -> Pixels:
    """An image's input for validation: the whole image, its window's central crop, or both as (2, size, size, 3)."""
    size = preprocessing.size
    if preprocessing.input == "resize":
        return prepared.stretched(row)
    central = Preprocessing(input="crop", size=size, crops=1)
    crop: Pixels = to_inputs(prepared.window(row, preprocessing.longest > 0), central)[0]
    if preprocessing.input == "crop":
        return crop
    return np.stack([resize(central_square(prepared.whole(row), size), size), crop])


def _as_it_is(batch: Any) -> Any:
    return batch
