"""torchvision's networks: one logit, fetched weights but for the last layer, frozen where asked."""

import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from mai_app.errors import RunError
from mai_app.inference.detector import load
from mai_app.models.backbones import HEADS, Backbone
from mai_app.models.checkpoint import load_checkpoint
from mai_app.training.loop import train
from tests.conftest import small


@pytest.mark.parametrize("name", HEADS)
def test_one_logit_an_image_of_any_size(name: str) -> None:
    network = Backbone(name).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 64, 96)).shape == (2,)
    assert network.network.get_submodule(HEADS[name]).out_features == 1


def test_the_pretrained_weights_are_taken_but_for_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18().state_dict()  # in place of the fetched file: the same names and shapes
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda _self, **_how: theirs)
    network = Backbone("resnet18")
    head = network.network.get_submodule("fc")
    own = next(head.parameters()).clone()
    network.load_imagenet()
    assert torch.equal(next(head.parameters()), own)
    for name, tensor in network.network.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, theirs[name]), name


def test_without_the_network_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_self: object, **_how: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", closed)
    with pytest.raises(RunError, match=r"could not be fetched .*no route"):
        Backbone("resnet18").load_imagenet()


def test_frozen_it_trains_the_last_layer_alone(data_set: Path, tmp_path: Path) -> None:
    config = replace(small(data_set, tmp_path), model="resnet18", epochs=1, learning_rate=1e-2, ema=0.5)
    whole = load_checkpoint(train(replace(config, name="whole")) / "best.safetensors")
    frozen = train(replace(config, name="frozen", tune="head", start_from=str(whole.path)))
    before, after = whole.network.state_dict(), load_checkpoint(frozen / "best.safetensors").network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.fc.weight", "network.fc.bias"}
    (row,) = load(frozen, "cpu").predict(next((data_set / "test").rglob("*.png")))
    assert row.error is None


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("traces", {"start_from": "imagenet"}, "for torchvision's networks, not traces"),
        ("baseline", {"tune": "head"}, "baseline is trained as a whole"),
    ],
)
def test_what_is_for_torchvision_alone_is_refused_elsewhere(
    data_set: Path, tmp_path: Path, model: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        train(replace(small(data_set, tmp_path), model=model, **change))


def test_a_start_from_another_network_is_refused(data_set: Path, trained_run: Path, tmp_path: Path) -> None:
    config = replace(small(data_set, tmp_path), model="traces", start_from=str(trained_run))
    with pytest.raises(RunError, match="is a baseline, not a traces"):
        train(config)
