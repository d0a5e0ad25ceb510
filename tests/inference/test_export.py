"""Exporting: the ONNX file gives the same scores, its metadata suffice to run it, and what is wrong is said."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps

from mai_app.config import Architecture, ExportConfig, Preprocessing
from mai_app.errors import MaiError
from mai_app.images.preprocess import to_inputs
from mai_app.inference.detector import load
from mai_app.inference.engine import make_engine
from mai_app.inference.export import Exported, export, metadata, summary
from mai_app.models.backbones import Body
from mai_app.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mai_app.models.networks import MODELS
from mai_app.models.registry import find_checkpoint
from mai_app.models.views import ViewsNet
from tests.conftest import picture

TOOLS = ("onnx", "onnxruntime", "onnxscript")
needs_tools = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in TOOLS), reason="the extra export is not installed"
)
Session = Any
Score = Callable[[bytes], float]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The shipped model, exported; in a folder that has to be made."""
    return export(ExportConfig(tmp_path_factory.mktemp("traces") / "new" / "traces.onnx", "traces", Path("none")))


@pytest.fixture(scope="module")
def baseline(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run's baseline, exported."""
    return export(ExportConfig(tmp_path_factory.mktemp("baseline") / "b.onnx", trained_run.name, trained_run.parent))


@needs_tools
@pytest.mark.parametrize(
    ("backbone", "traces_too", "crops"),
    [("test_vit", False, 1), ("test_vit", True, 5), ("vit_small_patch14_reg4_dinov2", False, 1)],
)
def test_of_a_network_of_views_the_file_takes_all_views(
    tmp_path: Path, backbone: str, traces_too: bool, crops: int
) -> None:
    size = 64 if backbone == "test_vit" else 42
    architecture = Architecture(backbone=backbone, blocks=(1, 3), size=size, traces=traces_too)
    network = ViewsNet(architecture, Body(architecture)).eval()
    network.fusion = torch.tensor([0.7, 0.2, 0.4, -0.1] if traces_too else [0.7, 0.2, -0.1])
    info = load_checkpoint(find_checkpoint("traces", Path("none"))).info
    how = Preprocessing(input="views", size=size, crops=crops)
    path = tmp_path / "v.safetensors"
    save_checkpoint(path, network, replace(info, model=backbone, preprocessing=how, architecture=architecture))
    exported = export(ExportConfig(tmp_path / "v.onnx", str(path), Path("none")))
    run = session(exported)
    facts = json.loads(run.get_modelmeta().custom_metadata_map["preprocessing"])
    assert (facts["input"], facts["crops"], facts["size"]) == ("views", crops, size)
    pixels = picture(np.random.default_rng(0), 1, 100, 130)
    inputs = to_inputs(pixels, how)
    tensor = (inputs.transpose(0, 3, 1, 2)[None] / 255).astype(np.float32)
    (found,) = run.run(["logits"], {"pixels": np.concatenate([tensor, tensor, tensor])})
    assert found.shape == (3,)
    assert found[0] == pytest.approx(load(path, "cpu").logits([inputs])[0], abs=2e-2)  # bfloat16, where it has AMX


def session(exported: Exported) -> Session:
    import onnxruntime  # noqa: PLC0415 - of an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported.path, options, providers=["CPUExecutionProvider"])


def independent(exported: Exported) -> Score:
    """A runner of the file's own: ONNX Runtime, NumPy and Pillow, told by the metadata alone what to do."""
    run = session(exported)
    facts = {name: json.loads(text) for name, text in run.get_modelmeta().custom_metadata_map.items()}
    how = facts["preprocessing"]
    size = how["size"]

    def score(data: bytes) -> float:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert image is not None
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGB", layer.size, "white")
            image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("RGB")
        if 0 < how["longest"] < max(image.size):
            scale = how["longest"] / max(image.size)
            width, height = (round(side * scale) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        if how["input"] == "resize":
            windows = [np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))]
        else:
            pixels = np.asarray(image)
            below, right = (max(0, size - side) for side in pixels.shape[:2])
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), "symmetric")
            bottom, end = (side - size for side in pixels.shape[:2])
            places = {(bottom // 2, end // 2)}
            if how["crops"] > 1:
                places |= {(0, 0), (0, end), (bottom, 0), (bottom, end)}
            windows = [pixels[y : y + size, x : x + size] for y, x in places]
        batch = np.stack(windows).transpose(0, 3, 1, 2).astype(np.float32) / 255
        (logits,) = run.run(["logits"], {"pixels": batch})
        return float(1 / (1 + np.exp(-logits.mean() / facts["temperature"])))

    return score


def files() -> dict[str, bytes]:
    """Image files whose pixels are not simply what is stored, and small ones."""
    rng = np.random.default_rng(3)
    made = {name: io.BytesIO() for name in ("turned.jpg", "clear.png", "small.png", "grey.webp", "large.jpg")}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(rng, 1, 240, 330)).save(made["turned.jpg"], "JPEG", quality=90, exif=exif)
    clear = Image.fromarray(picture(rng, 0, 260, 250))
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(made["clear.png"], "PNG")
    Image.fromarray(picture(rng, 0, 90, 220)).save(made["small.png"], "PNG")
    Image.fromarray(picture(rng, 0, 201, 307)).convert("L").save(made["grey.webp"], "WEBP", lossless=True)
    Image.fromarray(picture(rng, 1, 700, 1100)).save(made["large.jpg"], "JPEG", quality=90)
    return {name: buffer.getvalue() for name, buffer in made.items()}


@needs_tools
@pytest.mark.parametrize("which", ["traces", "baseline"])
def test_others_get_the_same_scores_by_the_metadata_alone(
    which: str, request: pytest.FixtureRequest, trained_run: Path
) -> None:
    exported: Exported = request.getfixturevalue(which)
    detector = load(trained_run if which == "baseline" else "traces", "cpu", Path("none"))
    detector.engine = make_engine(detector.checkpoint.network, detector.device, "float32")  # as the file
    score = independent(exported)
    ours = {row.path: row.p_synthetic for row in detector.predict(files().items())}
    assert len(set(ours.values())) >= 4
    for name, data in files().items():
        shown = min(max(score(data), 0.01), 0.99)
        assert shown == pytest.approx(ours[name], abs=2e-5), name


def picture_batch(n: int, height: int, width: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(n)
    batch = np.stack([picture(rng, i % 2, height, width) for i in range(n)])
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@needs_tools
@pytest.mark.parametrize(
    "size", [(1, 16, 16), (2, 200, 200), (5, 33, 17), (1, 201, 120), (1, 120, 201), (3, 137, 251), (1, 1, 3)]
)
def test_traces_takes_any_number_of_images_of_any_size(traces: Exported, size: tuple[int, int, int]) -> None:
    batch = picture_batch(*size)
    network = load_checkpoint(find_checkpoint("traces", Path("none"))).network
    with torch.inference_mode():
        ours = network(torch.from_numpy(batch)).numpy()
    (theirs,) = session(traces).run(["logits"], {"pixels": batch})
    assert theirs.shape == (size[0],)
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


@needs_tools
def test_the_baseline_takes_any_number_of_images_of_its_size(baseline: Exported, trained_run: Path) -> None:
    run = session(baseline)
    network = load_checkpoint(trained_run / "best.safetensors").network
    for n in (1, 7):
        batch = picture_batch(n, 200, 200)
        with torch.inference_mode():
            ours = network(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(run.run(["logits"], {"pixels": batch})[0], ours, atol=1e-4)
    with pytest.raises(Exception, match="Got invalid dimensions for input: pixels"):
        run.run(["logits"], {"pixels": picture_batch(1, 200, 208)})


@needs_tools
def test_what_was_measured_is_told(traces: Exported, baseline: Exported) -> None:
    for exported, sizes in ((traces, 6), (baseline, 3)):
        assert exported.bytes == exported.path.stat().st_size
        assert list(exported.path.parent.iterdir()) == [exported.path]  # nothing beside it
        assert len(exported.sizes) == sizes
        assert {n for n, _, _ in exported.sizes} == {1, 2, 5}
        assert 0 < exported.score_difference < 1e-5
        assert 0 < exported.logit_difference < 1e-4
    words = summary(traces)
    assert words.startswith(
        f"exported: {traces.path} ({traces.bytes:,} bytes), model traces; any number of images of any"
    )
    assert "2×137×251" in words
    assert "images of 200×200 pixels" in summary(baseline)


@needs_tools
def test_the_file_says_what_it_is_and_no_place_of_this_machine(traces: Exported, trained_run: Path) -> None:
    run = session(traces)
    (given,), (answer,) = run.get_inputs(), run.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(float)", ["n", 3, "height", "width"])
    assert (answer.name, answer.shape) == ("logits", ["n"])
    facts = {name: json.loads(text) for name, text in run.get_modelmeta().custom_metadata_map.items()}
    checkpoint = load_checkpoint(find_checkpoint("traces", Path("none")))
    fit = checkpoint.info.calibration
    assert facts["checkpoint_sha256"] == checkpoint.sha256
    assert (facts["temperature"], facts["threshold"]) == (fit.temperature, fit.threshold)
    assert facts["unsure_band"] == [fit.unsure_low, fit.unsure_high]
    assert facts["labels"] == {"0": "authentic", "1": "synthetic"}
    assert facts["tiers"]["hard"]["fpr"] == fit.tiers["hard"].fpr
    assert facts["trained_on"] == checkpoint.info.data
    assert facts["model"] == "traces"
    data = traces.path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in data
    assert b".py" not in data
    assert metadata(load_checkpoint(trained_run / "best.safetensors"))["model"] == trained_run.name


def other(folder: Path, name: str) -> Checkpoint:
    """A checkpoint of another network, with random weights that give logits of both signs."""
    shipped = load_checkpoint(find_checkpoint("traces", Path("none")))
    torch.manual_seed(0)
    save_checkpoint(folder / "r.safetensors", MODELS[name](), replace(shipped.info, model=name))
    return load_checkpoint(folder / "r.safetensors")


@needs_tools
def test_a_network_of_torchvision_is_exported_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = other(tmp_path, "resnet18")
    exported = export(ExportConfig(tmp_path / "r.onnx", str(checkpoint.path), tmp_path))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
    batch = picture_batch(4, 200, 200)
    with torch.inference_mode():
        ours = checkpoint.network(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(session(exported).run(["logits"], {"pixels": batch})[0], ours, atol=1e-4)


@needs_tools
def test_a_file_that_says_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In place of the translated network another one, whose logit is 0.01 higher.
    import onnx  # noqa: PLC0415 - of an extra

    def translated(checkpoint: Checkpoint, _any_size: bool) -> Any:
        kind = onnx.TensorProto.FLOAT
        weights = {name: tensor.numpy() for name, tensor in checkpoint.network.state_dict().items()}
        tensors = [onnx.numpy_helper.from_array(weights["bias"] + 0.01, "bias")]
        nodes = [
            onnx.helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
            onnx.helper.make_node("Add", ["mean", "bias"], ["logits"]),
        ]
        given = onnx.helper.make_tensor_value_info("pixels", kind, ["n", 3, 200, 200])
        answer = onnx.helper.make_tensor_value_info("logits", kind, ["n"])
        graph = onnx.helper.make_graph(nodes, "g", [given], [answer], tensors)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3)) + self.bias

    monkeypatch.setitem(MODELS, "baseline", Mean)
    monkeypatch.setattr("mai_app.inference.export._translated", translated)
    checkpoint = other(tmp_path, "baseline")
    with pytest.raises(MaiError, match=r"x\.onnx: not written, .* p_synthetic differs from torch's by up to 0\.00"):
        export(ExportConfig(tmp_path / "x.onnx", str(checkpoint.path), tmp_path))
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("missing", TOOLS)
def test_without_the_extra_it_is_said(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MaiError, match=r"mai export needs \w+; install it with pip install 'mai-app\[export\]'"):
        export(ExportConfig(tmp_path / "x.onnx", "traces", Path("none")))


@needs_tools
def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(MaiError, match="is a folder; name a file with --out"):
        export(ExportConfig(tmp_path, "traces", Path("none")))
