"""Cached features: what a frozen body makes of each version of each image, computed once, stored, resumed."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL
import torch

from mai_app import __version__
from mai_app.core.device import autocast, to_numpy
from mai_app.core.files import write_bytes, write_text
from mai_app.core.log import bar, stop_signals
from mai_app.core.parallel import ordered_map
from mai_app.data import augment
from mai_app.data.batches import Batch, Draw, TrainingData, TrainingImages
from mai_app.data.prepared import PreparedSet
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import to_floats
from mai_app.models.views import ViewsNet

PER_FILE: Final = 256
"""Inputs whose features are stored in one file, unless that makes more than MAX_FILES: a killed run loses no more."""
MAX_FILES: Final = 100
"""Files of one network's features, at most: all stay open while it is trained."""
AT_A_TIME: Final = 16
"""Inputs a forward pass."""

Key = tuple[int, int]
"""An image's row in the prepared set, and its version; -1: undamaged."""


@dataclass(frozen=True)
class Features:
    """Features on the disk, by image and version."""

    folder: Path
    where: dict[Key, int]
    """The position of each input."""
    per_file: int = PER_FILE

    def __reduce__(self) -> tuple[Any, ...]:
        # For a loader's processes: to map the files again, not to send what is in them.
        return Features, (self.folder, self.where, self.per_file)

    @cached_property
    def files(self) -> list[npt.NDArray[np.float16]]:
        """The files in their order, mapped into memory."""
        count = -(-len(self.where) // self.per_file)
        # Plain arrays: a memmap's own indexing costs as much as copying an input's features.
        return [np.asarray(np.load(self.folder / f"{number:06}.npy", mmap_mode="r")) for number in range(count)]

    def read(self, keys: Sequence[Key]) -> npt.NDArray[np.float16]:
        """Features (n, views, width) float16 of the inputs of these keys."""
        places = (divmod(self.where[key], self.per_file) for key in keys)
        return np.stack([self.files[number][at] for number, at in places])


class CachedImages(TrainingData):
    """Draws as batches of features, in the place of TrainingImages, which says what each draw is."""

    at_a_time = 8

    def __init__(self, images: TrainingImages, features: Features) -> None:
        self.labels = images.prepared.labels.astype(np.float32)
        self.version_of = images.version_of
        self.features = features

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """The batch of these draws: features and labels."""
        features = self.features.read([(row, self.version_of(draw)) for row, draw in draws])
        return torch.from_numpy(features), torch.from_numpy(self.labels[[row for row, _ in draws]])


def compute_features(
    network: ViewsNet,
    prepared: PreparedSet,
    keys: Sequence[Key],
    make_input: Callable[[Key], Pixels],
    settings: dict[str, Any],
    device: torch.device,
    precision: str,
) -> Features:
    """The features of these inputs, from the disk as far as they are there; stored below the prepared set.

    `settings` are what the inputs depend on beside the prepared set. The folder's name is a hash of all that the
    features depend on: those, the data, the body's weights, the way of augmenting, the precision and the versions of
    the libraries. Raises KeyboardInterrupt for SIGINT or SIGTERM; what is done by then is kept.
    """
    facts = settings | {
        "data": prepared.fingerprint,
        "form": asdict(prepared.form),
        "keys": hashlib.sha256(np.array(keys, dtype=np.int64).tobytes()).hexdigest(),
        "body": _weights_hash(network.body),
        "blocks": network.body.indices,
        "augment": {name: repr(value) for name, value in vars(augment).items() if name.isupper()},
        "precision": precision,
        "versions": [__version__, torch.__version__, PIL.__version__],
    }
    per_file = max(PER_FILE, -(-len(keys) // MAX_FILES))
    if per_file != PER_FILE:
        facts["per_file"] = per_file
    text = json.dumps(facts, sort_keys=True, default=str)
    folder = prepared.folder / "features" / hashlib.sha256(text.encode()).hexdigest()[:16]
    parts = list(_parts(keys, per_file))
    todo = [number for number in range(len(parts)) if not (folder / f"{number:06}.npy").is_file()]
    network.to(device).eval()
    if todo:
        write_text(folder / "facts.json", text + "\n")
    done = len(keys) - sum(len(parts[number]) for number in todo)
    progress = bar(total=len(keys), initial=done, desc="features", unit="image", disable=None if todo else True)
    inputs = ordered_map(make_input, (key for number in todo for key in parts[number]), 2, ahead=2 * AT_A_TIME)
    with stop_signals() as stopped, progress:
        for number in todo:
            made = []
            for chunk in _parts(parts[number], AT_A_TIME):
                if stopped():
                    raise KeyboardInterrupt
                pixels = torch.from_numpy(np.stack([next(inputs) for _ in chunk]))
                with torch.inference_mode(), autocast(device, precision):
                    made.append(to_numpy(network.features(to_floats(pixels, device)), torch.float16))
                progress.update(len(chunk))
            _write(folder / f"{number:06}.npy", np.concatenate(made))
    return Features(folder, {key: at for at, key in enumerate(keys)}, per_file)


def _parts(keys: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _weights_hash(body: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        digest.update(name.encode())
        digest.update(to_numpy(tensor, tensor.dtype).tobytes())
    return digest.hexdigest()


def _write(path: Path, array: npt.NDArray[np.float16]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())
