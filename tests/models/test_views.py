"""The network of views: shapes, fusion, blocks and weights of timm's networks, what is tuned, its checkpoint."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from mai_app.config import Architecture, Preprocessing
from mai_app.errors import CheckpointError, RunError
from mai_app.models.backbones import Body
from mai_app.models.calibration import Calibration
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.description import CheckpointInfo
from mai_app.models.views import ViewsNet, build_network

TINY = Architecture(backbone="test_vit", blocks=(1, 3), size=64)


def views(count: int = 2, number: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, number, 3, size, size, generator=torch.Generator().manual_seed(1))


def info(architecture: Architecture) -> CheckpointInfo:
    return CheckpointInfo(
        model=architecture.backbone,
        mai_version="1",
        preprocessing=Preprocessing(input="views", size=architecture.size, crops=1),
        calibration=Calibration(1.0, 0.5, 0.4, 0.6, 20, 20),
        data="d",
        data_fingerprint="f",
        epoch=1,
        val_loss=0.5,
        training={},
        architecture=architecture,
    )


def body_of(network: ViewsNet) -> Body:
    assert isinstance(network.body, Body)
    return network.body


@pytest.mark.parametrize("windows", [1, 5])
def test_an_image_has_one_logit_and_in_training_one_a_kind_of_view(windows: int) -> None:
    network = ViewsNet(TINY, Body(TINY)).eval()
    with torch.inference_mode():
        assert network(views(3, 1 + windows)).shape == (3,)
        assert network.train()(views(3, 1 + windows)).shape == (3, 2)
        assert ViewsNet(replace(TINY, traces=True), Body(TINY))(views(3, 1 + windows)).shape == (3, 3)


def test_features_and_images_give_the_same_logits() -> None:
    network = ViewsNet(TINY, Body(TINY)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(network.features(views())), network(views()))


def test_the_views_are_weighted_and_windows_averaged() -> None:
    network = ViewsNet(replace(TINY, traces=True), Body(TINY)).eval()
    network.fusion = torch.tensor([2.0, 0.0, 0.0, 0.5])
    images = views(2, 6)
    other = images.clone()
    other[:, 1:] = 0.3
    with torch.inference_mode():
        torch.testing.assert_close(network(images), network(other))  # the windows weigh nothing
        columns = network.view_logits(images)
        torch.testing.assert_close(network(images), 2 * columns[:, 0] + 0.5)
        each = torch.stack([network.view_logits(images[:, [0, i]])[:, 1] for i in range(1, 6)], dim=1)
        torch.testing.assert_close(columns[:, 1], each.mean(1))


def test_blocks_after_the_last_chosen_one_are_dropped() -> None:
    whole, part = Body(replace(TINY, blocks=())), Body(replace(TINY, blocks=(1, 2)))
    assert len(part.blocks()) == 2
    assert len(whole.blocks()) == 6
    assert whole.width == 3 * part.width
    with pytest.raises(RunError, match=r"--blocks 7: test_vit has the blocks 1 to 6"):
        Body(replace(TINY, blocks=(7,)))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_of_networks_without_tokens_it_is_the_stages(name: str) -> None:
    architecture = Architecture(backbone=name, blocks=(2, 3), size=64)
    network = ViewsNet(architecture, Body(architecture)).eval()
    with torch.inference_mode():
        assert network(views()).shape == (2,)
    body_of(network).choose_trained("last:1")
    assert 0 < sum(p.requires_grad for p in network.body.parameters()) < len(list(network.body.parameters()))


def test_a_name_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(RunError, match="neither a network of MAI nor one of timm"):
        Body(replace(TINY, backbone="vit_smalll"))


def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model("test_vit", img_size=64, num_classes=0)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    body = Body(TINY, str(path))
    for name, tensor in body.network.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    with torch.inference_mode():  # the features are those blocks' tokens
        expected = theirs.forward_intermediates(  # type: ignore[operator]
            (torch.full((1, 3, 64, 64), 0.25) - body.mean) / body.deviation,
            indices=[0, 2],
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        classes = [torch.nn.functional.layer_norm(tokens[:, 0], tokens.shape[2:]) for _, tokens in expected]
        found = body(torch.full((1, 3, 64, 64), 0.25)).chunk(4, dim=1)
    torch.testing.assert_close(found[0], classes[0])
    torch.testing.assert_close(found[2], classes[1])


def test_files_that_hold_no_such_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no safetensors file; name one, or hub"):
        Body(TINY, str(tmp_path / "missing.safetensors"))
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="test_vit could not be made"):
        Body(TINY, str(path))


@pytest.mark.parametrize(
    ("tune", "trained"),
    [("head", set()), ("last:1", {"blocks.2"}), ("last:2", {"blocks.1", "blocks.2"})],
)
def test_what_is_tuned(tune: str, trained: set[str]) -> None:
    body = Body(TINY)
    body.choose_trained(tune)
    names = {name for name, parameter in body.network.named_parameters() if parameter.requires_grad}
    assert {".".join(name.split(".")[:2]) for name in names} == trained
    assert body.train().training == (tune != "head")


def test_low_rank_matrices_start_at_nothing_and_are_merged() -> None:
    network = ViewsNet(TINY, Body(TINY)).eval()
    images = views()
    with torch.inference_mode():
        before = network(images)
    names = set(network.state_dict())
    body_of(network).choose_trained("lora:2")
    trained = [parameter for parameter in network.body.parameters() if parameter.requires_grad]
    assert {min(parameter.shape) for parameter in trained} == {2}
    with torch.no_grad():
        torch.testing.assert_close(network(images), before)
        for parameter in trained:
            parameter.add_(0.05)
        changed = network(images)
        assert not torch.allclose(changed, before, atol=1e-3)
        body_of(network).merge_low_rank()
        torch.testing.assert_close(network(images), changed, atol=1e-4, rtol=1e-4)
    assert set(network.state_dict()) == names


def test_merging_a_copy_leaves_the_network_that_is_trained_as_it_is() -> None:
    network = ViewsNet(TINY, Body(TINY)).eval()
    body_of(network).choose_trained("lora:2")
    with torch.inference_mode():
        before = network(views())
        body_of(copy.deepcopy(network)).merge_low_rank()
        torch.testing.assert_close(network(views()), before)  # torch's way would take the weight off both


@pytest.mark.parametrize("tune", ["last", "last:0", "last:9", "lora:x", "some", "head:1"])
def test_what_can_not_be_tuned_is_refused(tune: str) -> None:
    with pytest.raises(RunError, match=f"--tune {tune}"):
        Body(TINY).choose_trained(tune)


def test_its_checkpoint_comes_back_in_half_precision(tmp_path: Path) -> None:
    architecture = replace(TINY, head="mlp", traces=True)
    network = ViewsNet(architecture, Body(architecture)).eval()
    network.fusion = torch.tensor([0.5, 0.2, 0.1, -0.3])
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, network, info(architecture))
    read = load_checkpoint(path)
    assert read.info.architecture == architecture
    tensors = safetensors.torch.load_file(path)
    halves = {name for name, tensor in tensors.items() if tensor.dtype == torch.float16}
    assert halves == {name for name in tensors if name.startswith("body.")}
    with torch.inference_mode():
        torch.testing.assert_close(read.network(views()), network(views()), atol=5e-3, rtol=5e-3)


def test_a_checkpoint_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    network = build_network("test_vit", TINY)
    save_checkpoint(path, network, replace(info(TINY), architecture=replace(TINY, blocks=(1, 2, 3))))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(path)
    save_checkpoint(path, network, replace(info(TINY), model="no_such", architecture=replace(TINY, backbone="no_such")))
    with pytest.raises(CheckpointError, match=r"can't be built"):
        load_checkpoint(path)
    save_checkpoint(path, network, replace(info(TINY), preprocessing=Preprocessing(input="crop", size=64)))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
