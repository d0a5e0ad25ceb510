"""How a network computes when it predicts: in which precision, how many inputs at a time, chosen by the processor.

On a processor with AMX a copy of the weights in bfloat16 is several times as fast as float32 and moves scores by 0.002
in the mean; what else was tried is no faster for mai-1, or needs more than torch (`python -m benchmarks.runtimes`).
Elsewhere it is float32.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mai_app.core.device import autocast, memory_format
from mai_app.images.preprocess import to_floats
from mai_app.models.networks import TraceNet
from mai_app.models.transformer import PlainBody
from mai_app.models.views import ViewsNet

VIEWS_ON_CPU: Final = 16
"""Views that a CPU computes at a time: more only overflow its caches."""
CROPS_ON_CPU: Final = 8
"""Crops, likewise: a convolution's maps are larger."""
INPUTS_ON_GPU: Final = 512


@dataclass(frozen=True, eq=False)
class Engine:
    """A network ready to compute on one device."""

    name: str
    """The precision and where: "bfloat16 on cpu"."""
    inputs_at_a_time: int
    run: Callable[[torch.Tensor], torch.Tensor]
    """Logits (n, columns) or (n,) of pixels: (n, views, size, size, 3) or (n, size, size, 3) uint8."""


def make_engine(network: nn.Module, device: torch.device, precision: str) -> Engine:
    """The engine for this network on this device in that precision, float32 or bfloat16.

    The network moves to the device; what is computed in bfloat16 on a CPU is a copy.
    """
    views = isinstance(network, ViewsNet)
    on_cpu = device.type == "cpu"
    network = network.to(device).to(memory_format=memory_format(device))
    half = in_bfloat16(network) if precision == "bfloat16" and on_cpu else None
    computes = network if half is None else half

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), autocast(device, precision) if half is None else nullcontext():
            floats = to_floats(pixels, device)
            return computes.view_logits(floats) if isinstance(computes, ViewsNet) else computes(floats)

    most = (VIEWS_ON_CPU if views else CROPS_ON_CPU) if on_cpu else INPUTS_ON_GPU
    return Engine(f"{precision} on {device.type}", most, run)


def in_bfloat16(network: nn.Module) -> nn.Module | None:
    """A copy with weights in bfloat16, which saves what autocast does at each step; None where it has no such form."""
    if isinstance(network, ViewsNet):
        if not isinstance(network.body, PlainBody):
            return None
        # The body is not copied before it is cast: to deepcopy, its weights are copied already.
        cast_already = {id(one): nn.Parameter(one.bfloat16(), False) for one in network.body.network.parameters()}
        network = copy.deepcopy(network, cast_already)
        if network.traces is not None:
            network.traces = fold_norms(network.traces).to(torch.bfloat16)
        return network
    return fold_norms(copy.deepcopy(network)).to(torch.bfloat16) if isinstance(network, TraceNet) else None


def fold_norms(network: TraceNet) -> TraceNet:
    """The network with its batch normalisations folded into the convolutions before them."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):
            module[0] = fuse_conv_bn_eval(cast("nn.Conv2d", module[0]), module[1])
            module[1] = nn.Identity()
    return network
