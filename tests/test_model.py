"""The baseline network is the first MAI's: its layers, the shape of every parameter, and what it puts out."""

import pytest
import torch
from torch import nn

from mai_app.model import MODELS, MaiCNN


@pytest.fixture(scope="module")
def network() -> MaiCNN:
    torch.manual_seed(0)
    return MaiCNN().eval()


def test_the_baseline_has_4827365_parameters(network: MaiCNN) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_827_365
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert list(network.buffers()) == []


def test_the_layers_are_the_first_mais_in_its_order(network: MaiCNN) -> None:
    block = ["Conv2d", "MaxPool2d", "ReLU"]
    head = ["Flatten", "ReLU", "Linear", "ReLU", "Linear", "Linear"]
    assert [type(layer).__name__ for layer in network.layers] == block * 3 + head
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (2, 2)


def test_every_parameter_has_its_name_and_shape(network: MaiCNN) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == {
        "layers.0.weight": (16, 3, 3, 3),
        "layers.0.bias": (16,),
        "layers.3.weight": (32, 16, 3, 3),
        "layers.3.bias": (32,),
        "layers.6.weight": (64, 32, 3, 3),
        "layers.6.bias": (64,),
        "layers.11.weight": (120, 40_000),
        "layers.11.bias": (120,),
        "layers.13.weight": (30, 120),
        "layers.13.bias": (30,),
        "layers.14.weight": (1, 30),
        "layers.14.bias": (1,),
    }


def test_the_convolutions_hand_on_40000_features(network: MaiCNN) -> None:
    with torch.inference_mode():
        features = network.layers[:10](torch.rand(2, 3, 200, 200))
    assert features.shape == (2, 40_000)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_output_is_a_logit_an_image(network: MaiCNN, n: int) -> None:
    with torch.inference_mode():
        logits = network(torch.rand(n, 3, 200, 200))
    assert logits.shape == (n,)
    assert logits.dtype == torch.float32


def test_black_white_and_noise_give_finite_logits(network: MaiCNN) -> None:
    images = torch.stack([torch.zeros(3, 200, 200), torch.ones(3, 200, 200), torch.rand(3, 200, 200)])
    with torch.inference_mode():
        logits = network(images)
    assert torch.isfinite(logits).all()
    assert len(set(logits.tolist())) == 3


def test_an_image_is_judged_alike_alone_and_among_others(network: MaiCNN) -> None:
    torch.manual_seed(1)
    images = torch.rand(3, 3, 200, 200)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = MaiCNN()
    network(torch.rand(2, 3, 200, 200)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_baseline_is_to_be_had_by_its_name() -> None:
    assert isinstance(MODELS["baseline"](), MaiCNN)
