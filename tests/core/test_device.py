"""Devices: results leave them through one function, and what MPS lacks, or gets wrong, is not asked of it."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mai_app.config import Architecture, Preprocessing
from mai_app.core.device import autocast, choose_precision, memory_format, one_thread_each, to_numpy
from mai_app.data.prepare import prepare
from mai_app.errors import RunError
from mai_app.images.preprocess import to_floats
from mai_app.inference.detector import Detector, load
from mai_app.inference.engine import make_engine
from mai_app.inference.heatmap import heatmap_png
from mai_app.models.backbones import Body
from mai_app.models.calibration import Calibration
from mai_app.models.checkpoint import Checkpoint
from mai_app.models.description import CheckpointInfo
from mai_app.models.views import ViewsNet
from mai_app.training import autoencoder
from mai_app.training.distributed import check_processes
from mai_app.training.features import compute_features
from mai_app.training.loop import predict_logits, train
from tests.conftest import picture, png_bytes, small, write_data_set

ROOT = Path(__file__).parents[2]
CPU, MPS = torch.device("cpu"), torch.device("mps")


class OnMps(torch.Tensor):
    """A tensor that refuses what one on MPS does: float64, and numpy before it was brought to the CPU."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.double or torch.float64 in [
            value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)
        ]:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        if function in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        result = super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def mps(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(OnMps)


@pytest.fixture
def all_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """All inputs of networks, and so all that is computed from them, are as on MPS."""
    for name in ("inference.engine", "inference.heatmap", "training.loop", "training.features"):
        monkeypatch.setattr(f"mai_app.{name}.to_floats", lambda images, device: mps(to_floats(images, device)))


def test_the_tensor_refuses_what_mps_does() -> None:
    tensor = mps(torch.ones(2)) * 2
    for refused in (tensor.double, lambda: tensor.to(torch.float64), lambda: tensor.to(dtype=torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            refused()
    with pytest.raises(TypeError, match="numpy"):
        tensor.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(tensor)
    assert type(tensor.cpu().double()) is torch.Tensor


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_of_result_becomes_numpy(kind: torch.dtype) -> None:
    result = mps(torch.tensor([0.1, -3.0], dtype=kind, requires_grad=True))
    assert to_numpy(result).dtype == np.float64
    assert to_numpy(result).tolist() == result.cpu().double().tolist()
    assert to_numpy(result, torch.float16).dtype == np.float16
    assert to_numpy(torch.tensor([[1, 255]], dtype=torch.uint8), torch.uint8).tolist() == [[1, 255]]


def test_results_leave_a_device_nowhere_else() -> None:
    elsewhere = re.compile(r"\.double\(|torch\.float64|\.numpy\(\)")
    on_cpu = ("device.py", "distributed.py", "checkpoint.py")  # checkpoints are read onto the CPU
    for path in sorted((ROOT / "mai_app").rglob("*.py")):
        text = path.read_text()
        if re.search(r"^import torch$", text, re.MULTILINE) and path.name not in on_cpu:
            found = [line for line in text.splitlines() if elsewhere.search(line)]
            assert [line for line in found if "session.run" not in line] == [], path
    # Processes exchange float64, on CUDA and CPU alone.
    with pytest.raises(RunError, match="only CUDA GPUs and the CPU"):
        check_processes(2, 16, MPS)


def test_predictions_and_heatmaps(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(f"{i}.png", png_bytes(picture(np.random.default_rng(i), i % 2))) for i in range(3)]
    for model in (trained_run, "traces"):
        detector = load(model, "cpu")
        rows, drawn = list(detector.predict(files)), heatmap_png(detector, *files[1])
        with monkeypatch.context() as patched:
            for name in ("engine", "heatmap"):
                patched.setattr(f"mai_app.inference.{name}.to_floats", lambda i, d: mps(to_floats(i, d)))
            assert list(detector.predict(files)) == rows
            assert heatmap_png(detector, *files[1]) == drawn


@pytest.mark.usefixtures("all_on_mps")
def test_training_validates_and_carries_on(tmp_path: Path) -> None:
    config = replace(small(write_data_set(tmp_path / "d", 8, 4, 0), tmp_path), epochs=1, ema=0.9)
    folder = train(config)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    train(replace(config, epochs=2))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def views_detector(traces: bool) -> Detector:
    torch.manual_seed(0)
    architecture = Architecture(backbone="test_vit", blocks=(1, 3), size=64, traces=traces)
    network = ViewsNet(architecture, Body(architecture)).eval()
    info = CheckpointInfo(
        model="test_vit",
        mai_version="1",
        preprocessing=Preprocessing(input="views", size=64, crops=5),
        calibration=Calibration(1.0, 0.5, 0.4, 0.6, 20, 20),
        data="d",
        data_fingerprint="f",
        epoch=1,
        val_loss=0.5,
        training={},
        architecture=architecture,
    )
    return Detector(Checkpoint(Path("m"), network, info, "0" * 64, "0" * 64), CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("traces", [False, True])
def test_a_network_of_views_with_and_without_autocast(
    traces: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = views_detector(traces)
    network = detector.checkpoint.network
    detector.engine = make_engine(network, CPU, precision)
    inputs = [np.random.default_rng(i).integers(0, 256, (6, 64, 64, 3), np.uint8) for i in range(2)]
    expected = detector.logits(inputs)
    network.fusion = mps(network.fusion)  # type: ignore[arg-type]
    detector = Detector(detector.checkpoint, CPU)
    detector.engine = make_engine(network, CPU, precision)
    monkeypatch.setattr("mai_app.inference.engine.to_floats", lambda i, d: mps(to_floats(i, d)))
    assert detector.view_logits(inputs).dtype == np.float64
    assert detector.logits(inputs).tolist() == expected.tolist()


def test_validation_and_features_of_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mai_app.config import prepared_form  # noqa: PLC0415

    prepared = prepare(write_data_set(tmp_path / "d", 2, 2, 0), tmp_path / "prepared", form=prepared_form(64))
    network: Any = views_detector(False).checkpoint.network
    rows, how = prepared.rows("val"), Preprocessing(input="views", size=64, crops=1)
    expected = predict_logits(network, prepared, rows, how, 2, CPU)
    keys = [(int(row), -1) for row in rows]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    found = []
    for name in ("a", "b"):
        made = compute_features(network, prepared, keys, lambda _: pixels, {"name": name}, CPU, "bfloat16")
        found.append(made.read(keys))
        for module in ("loop", "features"):
            monkeypatch.setattr(f"mai_app.training.{module}.to_floats", lambda i, d: mps(to_floats(i, d)))
    assert np.array_equal(found[0], found[1])
    assert found[0].dtype == np.float16
    network.fusion = mps(network.fusion)
    assert predict_logits(network, prepared, rows, how, 2, CPU).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", autoencoder.DECODERS)
def test_the_autoencoders(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "_BATCH", 2)
    monkeypatch.setattr(autoencoder, "_PATCHES", 20)
    prepared = prepare(write_data_set(tmp_path / "d", 2, 1, 0), tmp_path / "prepared")
    pixels = picture(np.random.default_rng(1), 0, 53, 75)
    drawn = autoencoder._crops
    found = []
    for wrap in (lambda tensor: tensor, mps):
        monkeypatch.setattr(autoencoder, "_crops", lambda *given, wrap=wrap: wrap(drawn(*given)))
        network, losses = autoencoder.train_small(kind, prepared, prepared.rows("train"), 2, 0, CPU)
        forward = network.forward
        monkeypatch.setattr(network, "forward", lambda images, wrap=wrap, forward=forward: forward(wrap(images)))
        found.append((losses, autoencoder.small_reconstruction(network, CPU)(pixels).tolist()))
    assert found[0] == found[1]


class Moved(torch.Tensor):
    """A tensor that notes how it is moved, and stays where it is."""

    moves: list[tuple[Any, Any]]

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.to:
            cls.moves.append((args[1], kwargs))
            return args[0]
        return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("views", [False, True])
def test_inputs_reach_each_device_as_it_wants_them(views: bool) -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8, 3) if views else (2, 8, 8, 3), dtype=torch.uint8)
    expected = pixels.movedim(-1, -3).float() / 255
    for name, overlaps in (("cpu", False), ("mps", False), ("cuda", True)):
        Moved.moves = []
        for images in (pixels, expected.half()):
            found = to_floats(images.as_subclass(Moved), torch.device(name))
            assert found.dtype == torch.float32
        assert Moved.moves == [(torch.device(name), {"non_blocking": overlaps})] * 2
        plain = to_floats(pixels.as_subclass(Moved), torch.device(name)).as_subclass(torch.Tensor)
        torch.testing.assert_close(plain, expected)
        assert plain.is_contiguous() is (name == "mps")
    assert [memory_format(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [
        torch.channels_last,
        torch.channels_last,
        torch.contiguous_format,
    ]


def test_autocast_is_entered_for_bfloat16_alone() -> None:
    for device in (CPU, MPS, torch.device("cuda"), torch.device("meta")):
        assert isinstance(autocast(device, "float32"), nullcontext)
    assert choose_precision("auto", MPS) == "float32"
    context = autocast(MPS, "bfloat16")
    assert isinstance(context, torch.autocast)
    assert (context.device, context.fast_dtype, context._enabled) == ("mps", torch.bfloat16, True)
    with autocast(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_threads_compute_with_one_thread_each_until_the_last_has_ended() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread_each(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
            second = one_thread_each()
            with second:
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="x"), one_thread_each():
            raise ValueError("x")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
