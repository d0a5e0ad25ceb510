"""The networks: the baseline is the first MAI's in every layer and shape; traces keeps to its size and its sight."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app.models.networks import MODELS, MaiCNN, TraceNet


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


@pytest.fixture(scope="module")
def traces() -> TraceNet:
    torch.manual_seed(0)
    return TraceNet().eval()


def test_traces_keeps_to_its_size_and_its_arithmetic(traces: TraceNet) -> None:
    assert sum(parameter.numel() for parameter in traces.parameters()) == 518_033
    operations = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal operations
        operations += 2 * output[0, 0].numel() * next(layer.parameters()).numel()

    for layer in traces.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        TraceNet.forward(traces, torch.rand(1, 3, 200, 200))
    assert 1.1e9 < operations < 1.2e9
    for layer in traces.modules():
        layer._forward_hooks.clear()


def test_no_unit_of_traces_sees_more_than_44_pixels(traces: TraceNet) -> None:
    images = torch.rand(1, 3, 200, 200, requires_grad=True)
    traces.patch_logits(images)[0, 6, 6].backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1)) > 0
    assert (seen.any(0).sum().item(), seen.any(1).sum().item()) == (44, 44)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (200, 200), (33, 257)])
def test_traces_takes_any_size_and_averages_its_patches(traces: TraceNet, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        places, logits = traces.patch_logits(images), traces(images)
    assert places.shape == (2, -(-height // 16), -(-width // 16))
    torch.testing.assert_close(places.mean((1, 2)), logits)


def test_traces_sees_what_differs_between_neighbours(traces: TraceNet) -> None:
    grid = torch.full((1, 3, 32, 32), 0.5)
    grid[:, :, ::2, ::2] += 4 / 255
    seen: list[torch.Tensor] = []
    handle = traces.layers.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        traces(grid)
    handle.remove()
    pixels = F.pixel_shuffle(seen[0], 2)[0]
    colours, differences = pixels[:3], pixels[3:]
    assert colours.min() == 0
    assert differences.mean().abs() < 1e-3
    assert differences.amax().item() == pytest.approx(8 * 4 / 255 * 8 / 9, rel=1e-4)  # the only bright one of 3×3
