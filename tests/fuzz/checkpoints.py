"""The fuzzer's target for whole checkpoints: loaded, shown and used to score a picture."""

import atexit
import io
import json
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from mai_app.errors import CheckpointError
from mai_app.inference.detector import Detector
from mai_app.inference.prediction import prediction_of, write_rows
from mai_app.models import networks
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.description import parse_info, read_info
from mai_app.models.registry import list_models, table
from mai_app.models.views import build_network
from tests.fuzz.seeds import NOISE, info_seeds
from tests.fuzz.targets import check_refusal


def checkpoint(document: bytes, network: torch.nn.Module) -> bytes:
    """A safetensors file with that description and that network's weights."""
    return safetensors.torch.save(network.state_dict(), metadata={"mai": document.decode()})


class Tiny(nn.Module):
    """A network of four weights, in the place of the baseline: loading is what is tried, not computing."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of images (n, 3, height, width)."""
        logits: torch.Tensor = self.last(images.mean((2, 3)))
        return logits.squeeze(1)


@cache
def checkpoint_seeds() -> tuple[bytes, ...]:
    """Whole checkpoints of the tiny network, and of a small one of views."""
    documents = info_seeds()
    views = parse_info(Path("seed"), documents[1].decode())
    torch.manual_seed(0)
    made = build_network(views.model, views.architecture)
    return (
        *(checkpoint(documents[i], Tiny()) for i in (0, 2)),
        checkpoint(documents[1], made),
        b"",
        b"\x08" + bytes(7),
    )


@cache
def _scratch() -> Path:
    """A file in memory, where the system has such."""
    folder = Path(tempfile.mkdtemp(prefix="mai-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "hostile").mkdir()
    return folder / "hostile" / "best.safetensors"


@cache
def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(NOISE, (12, 10, 1))).save(buffer, "PNG")
    return buffer.getvalue()


def read_checkpoint(data: bytes) -> None:
    """Load a checkpoint and score a picture with it: CheckpointError, or finite scores."""
    path = _scratch()
    path.write_bytes(data)
    before = networks.MODELS["baseline"]
    networks.MODELS["baseline"] = Tiny
    try:
        (listed,) = (model for model in list_models(path.parent.parent) if model.kind == "run")
        table([listed], Path("runs"))
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            check_refusal(error)
            return
        assert listed.error is None
        assert read_info(path) == loaded.info
        rows = list(Detector(loaded, torch.device("cpu")).predict([("a.png", _picture())], workers=1))
        stream = io.StringIO()
        (prediction,) = write_rows(rows, "jsonl", stream, lambda: "x")
        assert prediction_of(json.loads(stream.getvalue())) == prediction
        assert prediction.error is not None or (
            prediction.p_synthetic is not None and math.isfinite(prediction.p_synthetic)
        )
    finally:
        networks.MODELS["baseline"] = before
