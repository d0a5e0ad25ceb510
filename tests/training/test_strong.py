"""The recipe strong: its network and licence, low-rank matrices from the Hub's weights to ONNX, and what it learns."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from mai_app.config import ExportConfig, TrainConfig, from_recipe
from mai_app.images.preprocess import to_inputs
from mai_app.inference.detector import load
from mai_app.inference.export import export
from mai_app.models.backbones import OPEN_LICENCES, Body, weights_licence
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.views import ViewsNet
from mai_app.training.loop import train
from mai_app.training.run_folder import architecture, make_network, make_optimizer
from tests.conftest import folder_of, picture
from tests.hub import Hub
from tests.training.test_loop import metrics

STRONG = from_recipe("strong", Path("photos"))


def tiny(data: Path, folder: Path, **more: Any) -> TrainConfig:
    """The recipe with a network of a few thousand parameters, for a CPU."""
    settings = {
        "model": "test_vit",
        "blocks": "1,3",
        "view_size": 64,
        "tune": "lora:2",
        "batch_size": 8,
        "body_learning_rate": 1e-2,
        "ema": 0.5,
        "device": "cpu",
        "precision": "float32",
        "runs": folder / "runs",
        "prepared": folder / "prepared",
        "name": "s",
    }
    return from_recipe("strong", data, **settings | more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 train and 8 val images of either class."""
    root, rng = tmp_path_factory.mktemp("strong") / "d", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 8)):
        for label, name in enumerate(("authentic", "synthetic")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(rng, label, 110, 120)).save(root / split / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for the Hub's weights of test_vit: random ones, by timm's names, for timm's own input size."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrainConfig, Path, Hub]]:
    """A run by the recipe whose start weights the Hub has served: its settings, its folder, and the Hub."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch, Hub() as hub:
        hub.add("models/timm/test_vit.r160_in1k", "model.safetensors", weights)
        hub.patch(patch, folder / "hf")
        config = tiny(data, folder)
        yield config, train(config), hub


def test_the_network_is_one_that_may_be_passed_on_and_the_settings_fit_it() -> None:
    assert timm.is_model(STRONG.model)
    assert weights_licence(STRONG.model) in OPEN_LICENCES
    configuration = timm.models.get_pretrained_cfg(STRONG.model)
    assert configuration is not None
    assert configuration.hf_hub_id == "timm/vit_large_patch14_reg4_dinov2.lvd142m"
    built = architecture(STRONG)
    assert built is not None
    with torch.device("meta"):  # its shapes alone
        body = Body(built)
        body.choose_trained(STRONG.tune)
    assert STRONG.view_size % 14 == 0
    assert len(body.blocks()) == 20
    assert body.width == 8 * 2 * 1024
    # Query, key and value in one (1024 to 3072), and the projection (1024 to 1024), of rank 8, in 20 blocks.
    trained = sum(parameter.numel() for parameter in body.parameters() if parameter.requires_grad)
    assert trained == 20 * 8 * (1024 + 3072 + 1024 + 1024)


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("vit_large_patch14_reg4_dinov2", "apache-2.0"),
        ("vit_large_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("vit_pe_core_large_patch14_336", "apache-2.0"),
        ("no_such_network", ""),
    ],
)
def test_a_networks_licence_is_timms(model: str, licence: str) -> None:
    assert weights_licence(model) == licence


def test_the_start_weights_come_from_the_hub_and_their_licence_goes_along(
    run: tuple[TrainConfig, Path, Hub], weights: Path
) -> None:
    config, folder, hub = run
    assert any("timm/test_vit.r160_in1k" in path for _, path, _ in hub.requests)
    checkpoint = load_checkpoint(folder / "best.safetensors")
    assert checkpoint.info.weights_licence == "apache-2.0"
    theirs = safetensors.torch.load_file(weights)
    changed = set()
    for name, tensor in checkpoint.network.state_dict().items():
        own = name.removeprefix("body.network.")
        if own not in (name, "pos_embed") and not torch.equal(tensor, theirs[own].half().float()):
            changed.add(own.split(".", 2)[2])
    assert changed == {"attn.qkv.weight", "attn.proj.weight"}  # and no name of a low-rank matrix is left
    assert config.start_from == "hub"


def test_saved_it_is_the_network_that_was_trained(run: tuple[TrainConfig, Path, Hub]) -> None:
    config, folder, _ = run
    state, frozen = (torch.load(folder / name, weights_only=True) for name in ("last.pt", "frozen.pt"))
    trained = cast("ViewsNet", make_network(replace(config, start_from=""), pretrained=False)).eval()
    trained.load_state_dict(frozen | state["averaged"])
    assert load_checkpoint(folder / "best.safetensors").info.epoch == config.epochs  # what is compared is the last one
    ups = [tensor for name, tensor in state["averaged"].items() if name.endswith(".up")]
    assert len(ups) == 2 * 3  # of qkv and proj in the three blocks that are left
    assert all(tensor.abs().max() > 0 for tensor in ups)
    predicting = load_checkpoint(folder / "best.safetensors").network
    views = torch.rand(4, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(predicting(views), trained(views), atol=5e-3, rtol=5e-3)  # stored in half precision


@pytest.mark.skipif(not find_spec("onnxruntime") or not find_spec("onnxscript"), reason="needs the extra export")
def test_exported_it_gives_the_same_logits(run: tuple[TrainConfig, Path, Hub], tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415 - of an extra

    _, folder, _ = run
    exported = export(ExportConfig(tmp_path / "s.onnx", str(folder), Path("none")))
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    detector = load(folder, "cpu")
    how = load_checkpoint(folder / "best.safetensors").info.preprocessing
    inputs = [to_inputs(picture(np.random.default_rng(i), i % 2, 100, 130), how) for i in range(3)]
    pixels = np.stack([one.transpose(0, 3, 1, 2) for one in inputs]).astype(np.float32) / 255
    (found,) = session.run(["logits"], {"pixels": pixels})
    np.testing.assert_allclose(found, detector.logits(inputs), atol=2e-2)  # bfloat16, where it has AMX
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["input"] == "views"


def test_stopped_it_carries_on_to_the_very_same_weights(run: tuple[TrainConfig, Path, Hub], tmp_path: Path) -> None:
    config, undisturbed, _ = run
    config = replace(config, runs=tmp_path, save_minutes=0.0)

    def stop() -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(config, on_save=stop)
    assert (train(config) / "best.safetensors").read_bytes() == (undisturbed / "best.safetensors").read_bytes()


def test_two_processes_have_the_losses_of_one(run: tuple[TrainConfig, Path, Hub], tmp_path: Path) -> None:
    config, one, _ = run
    two = train(replace(config, runs=tmp_path, processes=2))
    for key in ("train_loss", "val_loss"):
        assert [row[key] for row in metrics(two)] == pytest.approx([row[key] for row in metrics(one)], rel=1e-3)
    assert folder_of(config) == one


def test_low_rank_matrices_learn_at_one_rate_and_whole_blocks_by_depth(tmp_path: Path) -> None:
    def rates(tune: str) -> list[float]:
        config = tiny(tmp_path, tmp_path, tune=tune, start_from="")
        groups = make_optimizer(config, make_network(config, pretrained=False)).param_groups
        return sorted(group["share"] * config.learning_rate for group in groups if group["share"] != 1)

    assert rates("lora:2") == pytest.approx([1e-2])
    assert rates("last:2") == pytest.approx([0.8e-2, 1e-2])
