"""The detector: from image files to predictions, as a stream of one row per file, in order, errors included."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mai_app.config import RUNS, SHOWN_SCORES, Verdict
from mai_app.core.device import choose_device, choose_precision, one_thread_each, to_numpy
from mai_app.core.parallel import batched, ordered_map
from mai_app.errors import ImageError
from mai_app.evidence.statements import Evidence
from mai_app.images.decode import Pixels, decode, read_file
from mai_app.images.preprocess import input_notes, shrink, to_inputs
from mai_app.images.quality import unjudgeable_reason
from mai_app.inference.engine import make_engine
from mai_app.inference.prediction import ImageFacts, ModelFacts, Prediction, model_facts
from mai_app.models.checkpoint import Checkpoint, load_checkpoint
from mai_app.models.registry import find_checkpoint, name_of
from mai_app.models.views import ViewsNet

ImageInput = str | Path | tuple[str, bytes] | ImageError
"""A file's path, or a name with a file's bytes; an ImageError becomes the row that reports it."""


IMAGES_A_THREAD: Final = 4
"""Images that a thread of many takes at a time, from files to scores."""


@dataclass(frozen=True, eq=False)
class _LoadedImage:
    """One image read, decoded and preprocessed, or the reason why not."""

    name: str
    inputs: Pixels | None = None
    pixels: Pixels | None = None
    image: ImageFacts | None = None
    unjudgeable: str | None = None
    evidence: tuple[Evidence, ...] | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None


class Detector:
    """A checkpoint loaded onto one device, ready to predict."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.info = checkpoint.info
        self.device = device
        precision = choose_precision("auto", device) if self.info.takes_bfloat16 else "float32"
        self.engine = make_engine(checkpoint.network, device, precision)
        self._fusion = to_numpy(checkpoint.network.fusion) if isinstance(checkpoint.network, ViewsNet) else None

    @property
    def facts(self) -> ModelFacts:
        """Name, version, calibration and training data of the model."""
        return model_facts(name_of(self.checkpoint.path), self.checkpoint.sha256, self.info)

    def predict(
        self, images: str | Path | Iterable[ImageInput], batch_size: int = 32, workers: int = 2, evidence: bool = False
    ) -> Iterator[Prediction]:
        """Predict images one after the other: a Prediction each, in order, made as it is asked for.

        An image is a path, or a pair of a name and a file's bytes. A file that can't be read gives a Prediction
        with its error. With `evidence` it also has what the file says of its making, which never moves the score.
        Memory does not grow with the number of images. On a CPU many images go through as many threads as torch has,
        each from the file to the score, whatever `workers` is; torch meanwhile computes with one thread in each.
        """
        load = partial(self._load, evidence, False)
        images = iter([images] if isinstance(images, str | Path) else images)
        threads = torch.get_num_threads() if self.device.type == "cpu" and workers else 1
        size = min(batch_size, IMAGES_A_THREAD)
        first = list(islice(images, threads * size))
        images = chain(first, images)
        if threads == 1 or len(first) < threads * size:
            for batch in batched(ordered_map(load, images, workers, ahead=workers + 2), batch_size):
                yield from self._predict_batch(batch)
            return
        # Threads that read and threads that compute would wait for one another.
        with one_thread_each():
            for rows in ordered_map(
                lambda batch: list(self._predict_batch(map(load, batch))), batched(images, size), threads, ahead=threads
            ):
                yield from rows

    def predict_pixels(
        self, images: Iterable[ImageInput], workers: int = 2, evidence: bool = False
    ) -> Iterator[tuple[Prediction, Pixels | None]]:
        """As `predict`, image by image, each with its pixels (height, width, 3) uint8; None where it has an error."""
        for item in ordered_map(partial(self._load, evidence, True), images, workers, ahead=workers):
            (prediction,) = self._predict_batch([item])
            yield prediction, item.pixels

    def logits(self, inputs: Sequence[Pixels]) -> npt.NDArray[np.float64]:
        """Logits (n,), one an image: inputs are (k, size, size, 3) uint8 each; an image's k logits are averaged."""
        return self.fuse(self.view_logits(inputs))

    def view_logits(self, inputs: Sequence[Pixels]) -> npt.NDArray[np.float64]:
        """Logits (n, columns): of a network of views those that it fuses, of others the image's one."""
        if not inputs:  # a batch of unreadable files, or none left
            return np.empty((0, 1 if self._fusion is None else len(self._fusion) - 1))
        pixels = torch.from_numpy(np.concatenate(inputs) if self._fusion is None else np.stack(inputs))
        at_a_time = self.engine.inputs_at_a_time
        if self._fusion is not None:
            at_a_time = max(1, at_a_time // pixels.shape[1])
        logits = np.concatenate([to_numpy(self.engine.run(part)) for part in torch.split(pixels, at_a_time)])
        if self._fusion is not None:
            return logits
        ends = np.cumsum([len(part) for part in inputs])
        return np.array([[part.mean()] for part in np.split(logits, ends[:-1])])

    def fuse(self, columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Logits (n,) of an image from those (n, columns) of its views."""
        if self._fusion is None:
            return columns[:, 0]
        return np.asarray(columns @ self._fusion[:-1] + self._fusion[-1])

    def p_synthetic(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Calibrated scores (n,) in [0, 1] of logits (n,); a Prediction shows them clipped to SHOWN_SCORES."""
        return self.info.calibration.scores(logits)

    def verdict(self, p_synthetic: float, unjudgeable: str | None) -> Verdict:
        """The verdict on an image of this unclipped score: unsure, whatever the score, where it is unjudgeable."""
        return self.info.calibration.verdict(p_synthetic, unjudgeable)

    def _load(self, evidence: bool, keep_pixels: bool, image: ImageInput) -> _LoadedImage:
        try:
            if isinstance(image, ImageError):
                raise image
            name, data = image if isinstance(image, tuple) else (str(image), read_file(Path(image)))
            decoded = decode(data, name)
        except ImageError as error:
            return _LoadedImage(error.name, error=error.reason)
        height, width = decoded.pixels.shape[:2]
        seen = shrink(decoded.pixels, self.info.preprocessing.longest or None)
        inputs = to_inputs(seen, self.info.preprocessing)
        reason = unjudgeable_reason(decoded.pixels, decoded.jpeg_quality, seen)
        return _LoadedImage(
            name=name,
            inputs=inputs,
            pixels=decoded.pixels if keep_pixels else None,
            image=ImageFacts(
                width=width,
                height=height,
                format=decoded.format,
                file_bytes=decoded.file_bytes,
                orientation=decoded.orientation,
                jpeg_quality=decoded.jpeg_quality,
                crops=len(inputs),
            ),
            unjudgeable=reason,
            evidence=_read_evidence(data) if evidence else None,
            notes=decoded.notes + input_notes(height, width, self.info.preprocessing) + ((reason,) if reason else ()),
        )

    def _predict_batch(self, images: Iterable[_LoadedImage]) -> Iterator[Prediction]:
        batch = list(images)
        scores = iter(self.p_synthetic(self.logits([loaded.inputs for loaded in batch if loaded.inputs is not None])))
        low, high = SHOWN_SCORES
        for loaded in batch:
            # Six digits: beyond them the score depends on the processor and on the batch's size.
            score = None if loaded.inputs is None else round(float(next(scores)), 6)
            error = loaded.error
            if score is not None and not math.isfinite(score):
                score, error = None, "the model's answer is no number: its weights are damaged; choose another --model"
            yield Prediction(
                path=loaded.name,
                p_synthetic=None if score is None else min(max(score, low), high),
                verdict=None if score is None else self.verdict(score, loaded.unjudgeable),
                threshold=round(self.info.calibration.threshold, 6),
                unsure_low=round(self.info.calibration.unsure_low, 6),
                unsure_high=round(self.info.calibration.unsure_high, 6),
                model=self.info.model,
                version=self.checkpoint.version,
                image=loaded.image,
                notes=loaded.notes,
                evidence=loaded.evidence,
                error=error,
            )


def _read_evidence(data: bytes) -> tuple["Evidence", ...]:
    # A wing that most predictions do without.
    from mai_app.evidence.read import read_evidence  # noqa: PLC0415

    return read_evidence(data)


def load(model: str | Path = "", device: str = "auto", runs: Path = RUNS) -> Detector:
    """Load a detector: a checkpoint file, a run's folder, or the name of a run or of a model that comes with MAI.

    By default it is the run trained last, or, where there is none, the model that comes with MAI. hf:owner/name is a
    model of the Hub, hf:owner/name@revision that of a branch, a tag or a commit; it is downloaded once.

    Raises CheckpointError if there is none or it can't be used, RunError if the device is unavailable.
    """
    return Detector(load_checkpoint(find_checkpoint(str(model), runs)), choose_device(device))
