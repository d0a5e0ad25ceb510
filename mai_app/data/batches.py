"""Training batches from a prepared set: balanced over classes and sources, in an order that only the seed decides."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from mai_app.config import Preprocessing
from mai_app.data.augment import training_crop, training_stretch
from mai_app.data.prepared import PreparedSet
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import mirrored, random_window, to_inputs

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (n, size, size, 3) uint8 and labels (n,) float32."""

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


def _quotas(shares: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each share rounded down or up so that the sum stays, by systematic sampling: on average exactly the shares."""
    edges = np.floor(np.cumsum(shares) + rng.random())
    edges[-1] = round(shares.sum())
    return np.diff(edges, prepend=0).astype(np.int64)


class TrainingImages(Dataset[Batch]):
    """Draws of a prepared set as batches; each image depends on its draw alone, not on the loader that makes it."""

    def __init__(
        self, prepared: PreparedSet, preprocessing: Preprocessing, seed: int, epoch: int, degrade: bool = False
    ) -> None:
        self.prepared = prepared
        self.preprocessing = preprocessing
        self.seed = seed
        self.epoch = epoch
        self.degrade = degrade
        self.jpegs = prepared.jpegs(prepared.rows("train"))

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """The batch of these draws: pixels and labels."""
        pixels = np.stack([self._input(row, draw) for row, draw in draws])
        labels = self.prepared.labels[[row for row, _ in draws]]
        return torch.from_numpy(pixels), torch.from_numpy(labels).float()

    def _input(self, row: int, draw: int) -> Pixels:
        size = self.preprocessing.size
        rng = np.random.default_rng([self.seed, self.epoch, draw])
        if self.preprocessing.input == "resize":
            stretched = self.prepared.stretched(row)
            return training_stretch(stretched, self.jpegs, rng) if self.degrade else stretched
        scaled = self.preprocessing.longest > 0
        window = self.prepared.window(row, scaled)
        if self.degrade:
            return training_crop(window, self.prepared.lossy(row, scaled), self.jpegs, size, rng)
        return random_window(mirrored(window, size), size, rng)


def training_batches(images: TrainingImages, batches: list[list[Draw]], workers: int) -> Iterator[Batch]:
    """The batches in their order, made ahead by `workers` processes (0: by this one)."""
    loader = DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


def validation_batches(
    prepared: PreparedSet, rows: npt.NDArray[np.int64], preprocessing: Preprocessing, batch_size: int
) -> Iterator[Batch]:
    """The images of the given rows in order, one input each: the whole image, or its window's central crop."""
    central = Preprocessing(input=preprocessing.input, size=preprocessing.size, crops=1)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        if preprocessing.input == "resize":
            pixels: Pixels = np.stack([prepared.stretched(row) for row in part])
        else:
            pixels = np.concatenate(
                [to_inputs(prepared.window(row, preprocessing.longest > 0), central) for row in part]
            )
        yield torch.from_numpy(pixels), torch.from_numpy(prepared.labels[part]).float()


def _as_it_is(batch: Any) -> Any:
    return batch
