"""The networks alone, by what computes them: torch in float32, bfloat16 and compiled, ONNX Runtime, OpenVINO, int8.

python -m benchmarks.runtimes [--data DIR]    Rates over torch's float32, images at a time as named. Needs the extra
`export`; OpenVINO is measured where it can be imported, torch.compile where a C++ compiler is found. int8 is static,
calibrated on other images of the same kind. No limits: the fastest whose scores move by at most 0.01 is what MAI takes.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.pictures import image_files
from benchmarks.results import Options, Result, pair_ratios, run
from mai_app.config import ExportConfig
from mai_app.core.device import to_numpy
from mai_app.images.decode import Pixels, decode_file
from mai_app.images.preprocess import to_floats, to_inputs
from mai_app.inference.detector import Detector, load
from mai_app.inference.engine import in_bfloat16, make_engine
from mai_app.inference.export import export
from mai_app.models.views import ViewsNet

IMAGES = 16
CALIBRATION = 32
AT_A_TIME = (1, 4)

Logits = npt.NDArray[Any]
Compute = Callable[[Pixels], Any]
"""Logits of pixels (n, views, size, size, 3) or (n, size, size, 3) uint8."""


def measure(options: Options) -> Iterator[Result]:
    """Each way by turns with torch's float32, on the inputs of the same images."""
    for model in ("mai-1", "traces"):
        yield from _measure(model, options)


def _measure(model: str, options: Options) -> Iterator[Result]:
    count = 4 if options.quick else IMAGES
    files = image_files(options, count + (4 if options.quick else CALIBRATION))
    detector = load(model, "cpu", Path("none"))
    inputs = [to_inputs(decode_file(path).pixels, detector.info.preprocessing) for path in files]
    views = detector.info.preprocessing.input == "views"
    pixels = np.stack(inputs[:count]) if views else np.concatenate(inputs[:count])
    calibration = np.stack(inputs[count:]) if views else np.concatenate(inputs[count:])
    ends = np.cumsum([len(one) for one in inputs[:count]])[:-1]

    def scores(logits: Logits) -> Logits:
        whole = logits if views else np.array([part.mean() for part in np.split(logits, ends)])
        return detector.p_synthetic(detector.fuse(whole) if whole.ndim == 2 else whole)

    plain = torch_with(detector, "float32")
    reference = scores(in_parts(plain, pixels, 4))
    for name, compute in ways(detector, calibration, options.folder):
        for at in AT_A_TIME:
            try:
                moved = np.abs(scores(in_parts(compute, pixels, at)) - reference).mean()
                ratios, taken, _ = pair_ratios(
                    partial(in_parts, plain, pixels, at), partial(in_parts, compute, pixels, at)
                )
            except Exception as error:  # whatever a runtime lacks is its row
                yield Result(f"{model}: {name} failed ({str(error).splitlines()[0][:80]})", (0.0,))
                break
            facts = {"mean change of the scores": f"{moved:.4f}", "float32 images/s": round(count / taken, 1)}
            yield Result(f"{model}: {name}, {at} at a time, over torch float32", ratios, facts=facts)


def ways(detector: Detector, calibration: Pixels, folder: Path) -> Iterator[tuple[str, Compute]]:
    """The ways to compute the detector's network that this machine has."""
    yield "torch bfloat16 (MAI's with AMX)", torch_with(detector, "bfloat16")
    if shutil.which("g++") or shutil.which("clang++"):
        network = detector.checkpoint.network
        yield "torch.compile float32", compiled(network)
        if (half := in_bfloat16(network)) is not None:
            yield "torch.compile bfloat16", compiled(half)
    path = folder / f"{detector.facts.name}.onnx"
    with contextlib.redirect_stdout(sys.stderr):
        export(ExportConfig(path, detector.facts.name, Path("none")))
    yield "ONNX Runtime float32", onnx(path)
    quantised = quantise(path, calibration)
    yield "ONNX Runtime int8", onnx(quantised)
    if importlib.util.find_spec("openvino"):
        for precision in ("f32", "bf16"):
            yield f"OpenVINO {precision}", openvino(path, precision)
        yield "OpenVINO int8", openvino(quantised, "f32")


def torch_with(detector: Detector, precision: str) -> Compute:
    """The engine that MAI would take for that precision."""
    return torch_compute(make_engine(detector.checkpoint.network, detector.device, precision).run)


def torch_compute(compute: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
    """From arrays to arrays."""
    return lambda pixels: to_numpy(compute(torch.from_numpy(pixels)))


def compiled(network: nn.Module) -> Compute:
    """The network compiled for this processor."""
    run = torch.compile(network.view_logits if isinstance(network, ViewsNet) else network)

    def compute(pixels: Pixels) -> Logits:
        with torch.no_grad():
            return to_numpy(run(to_floats(torch.from_numpy(pixels), torch.device("cpu"))))

    return compute


def floats(pixels: Pixels) -> npt.NDArray[np.float32]:
    """(…, size, size, 3) uint8 as (…, 3, size, size) in [0, 1]."""
    return np.divide(np.moveaxis(pixels, -1, -3), 255, dtype=np.float32)


def onnx(path: Path) -> Compute:
    """The exported file in ONNX Runtime, with as many threads as torch."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixels": floats(pixels)})[0].astype(np.float64)


def quantise(path: Path, calibration: Pixels) -> Path:
    """The exported file in int8: weights a channel, activations by what the calibration images show."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static  # noqa: PLC0415

    class Images(CalibrationDataReader):  # type: ignore[misc]
        left = iter(range(len(calibration)))

        def get_next(self) -> dict[str, Any] | None:
            at = next(self.left, None)
            return None if at is None else {"pixels": floats(calibration[at : at + 1])}

    quantised = path.with_suffix(".int8.onnx")
    quantize_static(
        path,
        quantised,
        Images(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        extra_options={"MatMulConstBOnly": True},
    )
    return quantised


def openvino(path: Path, precision: str) -> Compute:
    """The exported file in OpenVINO, with as many threads as torch."""
    import openvino  # type: ignore[import-not-found] # noqa: PLC0415

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda pixels: compiled(floats(pixels))[0].astype(np.float64)


def in_parts(compute: Compute, pixels: Pixels, at_a_time: int) -> Logits:
    """Logits of all pixels, so many at a time."""
    return np.concatenate([compute(pixels[at : at + at_a_time]) for at in range(0, len(pixels), at_a_time)])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_LOGS", "-all")
    sys.exit(run(measure, __doc__))
