"""ONNX export: a checkpoint as a file whose metadata say how to run it, checked against torch before it is written."""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit

from mai_app import __version__
from mai_app.config import CLASSES, SHOWN_SCORES, ExportConfig
from mai_app.core.device import to_numpy
from mai_app.core.files import write_bytes
from mai_app.errors import MaiError
from mai_app.models.checkpoint import Checkpoint, load_checkpoint
from mai_app.models.registry import find_checkpoint, name_of

OPSET: Final = 18
"""The version of ONNX's operators: the oldest that the exporter writes, so that most run-times take it."""
SCORE_TOLERANCE: Final = 1e-4
"""Largest difference of p_synthetic between torch and ONNX Runtime that is let through."""

_ANY_SIZE: Final = ("traces",)  # networks whose input may have any height and width
_CHECKED: Final = ((1, 200, 200), (2, 200, 200), (5, 200, 200), (5, 16, 16), (2, 137, 251), (1, 512, 384))
_DECODING: Final = {
    "orientation": "EXIF orientation is applied",
    "transparency": "laid over white",
    "colour_profiles": "not applied",
    "pixels": "8-bit RGB; of 16 bits the high byte; grey, palette and CMYK converted; of several frames the first",
}
_STRETCHING: Final = {
    "windows": "one: the whole image, stretched to size x size",
    "resampling": "bilinear, with antialiasing where it shrinks, on 8-bit pixels (Pillow's BILINEAR)",
}
_SHRINKING: Final = {"shrink": "if longest is not 0 and a side is longer: scaled down to it first (Pillow's LANCZOS)"}
_CROPPING: Final = {
    "windows": "size x size native pixels: the centre, from ((height - size) // 2, (width - size) // 2) on, and with "
    "crops over 1 the four corners too; equal ones once; their logits are averaged",
    "smaller": "sides under size are continued to it by mirroring, to the right and below (numpy.pad, mode symmetric)",
}


_VIEWING: Final = {
    "views": "size x size each: first the whole image's central square, scaled down to size if it is larger (Pillow's "
    "BICUBIC) and up if it is smaller (BILINEAR), then the windows, of which equal ones are kept",
    "windows": _CROPPING["windows"].partition(";")[0],
    "smaller": _CROPPING["smaller"],
}


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written, and how far it is from the checkpoint that it was made of."""

    path: Path
    model: str
    """What the model is asked for by."""
    bytes: int
    """The file's size."""
    any_size: bool
    """Whether height and width of the input are free; else they are the checkpoint's own."""
    sizes: tuple[tuple[int, int, int], ...]
    """The inputs it was checked with: images, height, width."""
    logit_difference: float
    """Largest absolute difference of a logit between torch and ONNX Runtime."""
    score_difference: float
    """Largest absolute difference of p_synthetic."""


def export(config: ExportConfig) -> Exported:
    """Write a model as ONNX, in one file, after a check that ONNX Runtime gives the scores that torch gives.

    Input "pixels": float32 (n, 3, height, width), RGB in [0, 1]; n is free, height and width are for traces. Of a
    network of views it is (n, views, 3, size, size). Output "logits": float32 (n,).
    The file's metadata, JSON texts, say how an image becomes pixels and a logit a verdict.

    Raises MaiError where the extra `export` is not installed, scores differ by over SCORE_TOLERANCE, or the file can't
    be written; CheckpointError for the model.
    """
    onnx, onnxruntime = _tools()
    checkpoint = load_checkpoint(find_checkpoint(config.model, config.runs))
    if config.out.is_dir():
        raise MaiError(f"{config.out}: is a folder; name a file with --out, such as {config.out / 'model.onnx'}")
    any_size = checkpoint.info.model in _ANY_SIZE
    model = _translated(checkpoint, any_size)
    model.producer_name, model.producer_version = "MAI", __version__
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata(checkpoint).items()})
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()

    size = checkpoint.info.preprocessing.size
    sizes = _CHECKED if any_size else tuple((count, size, size) for count in (1, 2, 5))
    logits, scores = _differences(checkpoint, data, onnxruntime, sizes)
    if not scores <= SCORE_TOLERANCE:  # not a number is no pass
        raise MaiError(
            f"{config.out}: not written, for ONNX Runtime's p_synthetic differs from torch's by up to {scores:.2g}, "
            f"over {SCORE_TOLERANCE:g}; try other versions of torch, onnxscript and onnxruntime"
        )
    try:
        write_bytes(config.out, data)
    except OSError as error:
        raise MaiError(f"{config.out}: can't be written ({error.strerror}); name another file with --out") from None
    return Exported(config.out, name_of(checkpoint.path), len(data), any_size, sizes, logits, scores)


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What an exported file says about itself, as plain values by name."""
    info, fit = checkpoint.info, checkpoint.info.calibration
    how = info.preprocessing
    ways: dict[str, dict[str, Any]] = {
        "resize": _STRETCHING,
        "crop": {"crops": how.crops, **_CROPPING},
        "views": {"crops": how.crops, **_VIEWING},
    }
    making = ways[how.input]
    return {
        "model": name_of(checkpoint.path),
        "network": info.model,
        "checkpoint_sha256": checkpoint.sha256,
        "mai_version": __version__,
        "trained_on": info.data,
        "labels": dict(enumerate(CLASSES)),
        "preprocessing": {
            "decode": _DECODING,
            "longest": how.longest,
            **_SHRINKING,
            "input": how.input,
            "size": how.size,
            **making,
            "scale": "1/255",
        },
        "score": "p_synthetic = 1 / (1 + exp(-logit / temperature)); logit: "
        + ("one for all views of an image" if how.input == "views" else "the mean over the image's windows"),
        "temperature": fit.temperature,
        "threshold": fit.threshold,
        "unsure_band": [fit.unsure_low, fit.unsure_high],
        "verdict": "authentic below the unsure band, synthetic above it, else unsure; MAI also says unsure of images "
        "that are too small, too plain, enlarged or too compressed, which is not in this file",
        "shown_scores": SHOWN_SCORES,
        "calibrated_on": {"data": fit.data, "authentic": fit.authentic_images, "synthetic": fit.synthetic_images},
        "tiers": {tier: asdict(rates) for tier, rates in fit.tiers.items()},
    }


def summary(exported: Exported) -> str:
    """What was written and how it was checked, in words."""
    size = "of any height and width" if exported.any_size else "of {1}×{2} pixels".format(*exported.sizes[0])
    cases = ", ".join("×".join(map(str, case)) for case in exported.sizes)
    return (
        f"exported: {exported.path} ({exported.bytes:,} bytes), model {exported.model}; any number of images {size}\n"
        f"checked in ONNX Runtime against torch (images×height×width: {cases}): logits differ by "
        f"{exported.logit_difference:.1g} at most, p_synthetic by {exported.score_difference:.1g}\n"
        "the file's metadata say how an image becomes its input, and a logit a verdict"
    )


def _tools() -> tuple[ModuleType, ModuleType]:
    """onnx and onnxruntime; MaiError where the extra is not installed."""
    try:
        import onnx  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415
        import onnxscript  # noqa: F401, PLC0415 - torch needs it
    except ModuleNotFoundError as error:
        raise MaiError(f"mai export needs {error.name}; install it with pip install 'mai-app[export]'") from None
    return onnx, onnxruntime


def _views(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The axis of views between images and colours, for networks that have one: the whole image and its windows."""
    how = checkpoint.info.preprocessing
    return (1 + how.crops,) if how.input == "views" else ()


def _translated(checkpoint: Checkpoint, any_size: bool) -> Any:
    """The network as an ONNX model, an onnx.ModelProto, without paths of this machine."""
    size, views = checkpoint.info.preprocessing.size, _views(checkpoint)
    # Two images and odd sides: what the exporter sees only once, or only as 1, it takes for fixed.
    example = torch.zeros(2, *views, 3, *((137, 251) if any_size else (size, size)))
    names = {0: "n", 2: "height", 3: "width"} if any_size else {0: "n"}
    shapes = {axis: torch.export.Dim(name, min=1) for axis, name in names.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts, about each other
        program = torch.onnx.export(
            checkpoint.network,
            (example,),
            input_names=["pixels"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - for mypy: so it is with dynamo
    model = program.model_proto
    # The exporter writes down from which lines of which files each step comes.
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def _differences(
    checkpoint: Checkpoint, data: bytes, onnxruntime: ModuleType, sizes: tuple[tuple[int, int, int], ...]
) -> tuple[float, float]:
    """The largest differences of logits and of p_synthetic between torch and ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    scored = checkpoint.info.calibration.scores
    logits, scores = [], []
    images = _images()
    for count, height, width in sizes:
        views = _views(checkpoint)
        made = [next(images)(height, width) for _ in range(count * math.prod(views))]
        pixels = torch.stack(made).reshape(count, *views, 3, height, width)
        with torch.inference_mode():
            ours = to_numpy(checkpoint.network(pixels))
        theirs = session.run(["logits"], {"pixels": pixels.numpy()})[0].astype(np.float64)
        logits.append(np.abs(ours - theirs))
        scores.append(np.abs(scored(ours) - scored(theirs)))
    return float(np.concatenate(logits).max()), float(np.concatenate(scores).max())


def _images() -> Iterator[Any]:
    """Makers of images by turns, (height, width) → (3, height, width) float32 in [0, 1]: noise, and what is smooth."""
    source = torch.Generator().manual_seed(0)

    def noise(height: int, width: int) -> torch.Tensor:
        return torch.rand(3, height, width, generator=source)

    def smooth(height: int, width: int) -> torch.Tensor:
        coarse = torch.rand(1, 3, 6, 6, generator=source)
        image = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
        return (image + 0.02 * noise(height, width)).clamp(0, 1).mul(255).round() / 255

    while True:
        yield noise
        yield smooth
