"""Pretrained backbones: torchvision's with one output, and any of timm's as the features of several of its blocks."""

import urllib.error
from pathlib import Path
from typing import Any, Final, cast

import safetensors
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn
from torch.nn.utils import parametrize

from mai_app.config import Architecture
from mai_app.errors import RunError

HEADS: Final = {"resnet18": "fc", "convnext-base": "classifier.2"}
"""torchvision's networks that are supported, and the name of their last layer."""
OPEN_LICENCES: Final = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")
"""Licences, as timm states them, under which what was trained from the weights can be passed on with a notice alone."""
LORA_LAYERS: Final = ("attn.qkv", "attn.proj")
"""Layers of a transformer's block that --tune lora adds a low-rank matrix to."""


class Backbone(nn.Module):
    """A torchvision network whose last layer gives one logit.

    Input (n, 3, height, width) float in [0, 1], 32 pixels a side or more, normalised by ImageNet's mean and deviation
    here; output (n,) logits, above 0 for synthetic.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision  # noqa: PLC0415 - a second, and timm's networks need none of it

        self.name = name
        self.frozen = False
        self.network: nn.Module = torchvision.models.get_model(name.replace("-", "_"), num_classes=1)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of images (n, 3, height, width)."""
        logits: torch.Tensor = self.network((images - self.mean) / self.deviation)
        return logits.squeeze(1)

    def train(self, mode: bool = True) -> "Backbone":
        """As torch's, but what is frozen keeps the statistics that it was pretrained with."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def freeze(self) -> None:
        """Train the last layer alone."""
        self.frozen = True
        head = self.network.get_submodule(HEADS[self.name])
        for parameter in self.parameters():
            parameter.requires_grad = False
        for parameter in head.parameters():
            parameter.requires_grad = True
        self.train(self.training)

    def load_imagenet(self) -> None:
        """Take torchvision's weights for all but the last layer; raises RunError where they can't be fetched."""
        import torchvision  # noqa: PLC0415

        weights = torchvision.models.get_model_weights(self.name.replace("-", "_")).DEFAULT
        try:
            # check_hash: the file's name carries the start of its SHA-256.
            tensors = weights.get_state_dict(check_hash=True, weights_only=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise RunError(
                f"--start-from imagenet: torchvision's weights of {self.name} could not be fetched ({error}); "
                "they need the network once, or train without it"
            ) from None
        kept = {name: tensor for name, tensor in self.network.state_dict().items() if name.startswith(HEADS[self.name])}
        self.network.load_state_dict(tensors | kept)


class Body(nn.Module):
    """A timm network as features: of each chosen block the class token and the mean of the patch tokens.

    Several blocks tell more than the last alone (Koutlis and Papadopoulos 2024, "Leveraging Representations from
    Intermediate Encoder-blocks for Synthetic Image Detection", RINE). Of a network without tokens it is the mean of
    each chosen stage's map. What lies after the last chosen block is dropped. Each vector is standardised by itself,
    since the blocks' sizes differ a hundredfold.

    Input (n, 3, size, size) float in [0, 1], normalised here as the network wants it; output (n, width).
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, architecture: Architecture, weights: str = "") -> None:
        """Raises RunError for a name that timm does not have, for other blocks, and for weights that do not fit."""
        super().__init__()
        self.network = create_timm(architecture, weights)
        depth = len(self.network.feature_info)
        blocks = architecture.blocks or tuple(range(1, depth + 1))
        if not all(1 <= block <= depth for block in blocks):
            raise RunError(
                f"--blocks {','.join(map(str, blocks))}: {architecture.backbone} has the blocks 1 to {depth}"
            )
        self.indices = [block - 1 for block in blocks]
        self.network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.tokens = getattr(self.network, "num_prefix_tokens", 0) > 0
        self.frozen = False
        configuration = self.network.pretrained_cfg
        for name, values in (("mean", configuration["mean"]), ("deviation", configuration["std"])):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        with torch.inference_mode():
            self.width = self(torch.zeros(1, 3, architecture.size, architecture.size)).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, width) of images (n, 3, size, size)."""
        maps = self.network.forward_intermediates(
            (images - self.mean) / self.deviation,
            indices=self.indices,
            intermediates_only=True,
            **({"return_prefix_tokens": True} if self.tokens else {}),
        )
        parts = []
        for found in maps:
            patches, tokens = found if isinstance(found, tuple) else (found, None)
            vectors = [patches.mean((2, 3))] if tokens is None else [tokens[:, 0], patches.mean((2, 3))]
            parts += [F.layer_norm(vector.float(), vector.shape[1:]) for vector in vectors]
        return torch.cat(parts, dim=1)

    def train(self, mode: bool = True) -> "Body":
        """As torch's, but a frozen body stays as it predicts: no drop-out, no new statistics."""
        super().train(mode and not self.frozen)
        return self

    def choose_trained(self, tune: str) -> None:
        """Choose what is trained: head (nothing here), last:N (blocks), lora:R (rank) or all. Raises RunError."""
        how, _, number = tune.partition(":")
        count = int(number) if number.isdecimal() else 0
        if (how, bool(number)) not in (("head", False), ("all", False), ("last", True), ("lora", True)) or (
            number and count < 1
        ):
            raise RunError(f"--tune {tune}: must be head, last:N, lora:R or all")
        self.frozen = how == "head"
        for parameter in self.parameters():
            parameter.requires_grad = how == "all"
        if how in ("last", "lora"):
            blocks = self.blocks()
            if how == "last" and count > len(blocks):
                raise RunError(f"--tune {tune}: there are {len(blocks)} blocks up to the last one of --blocks")
            for block in blocks[-count:] if how == "last" else blocks:
                if how == "last":
                    block.requires_grad_(True)
                else:
                    _add_low_rank(block, count, tune)
        self.train(self.training)

    def blocks(self) -> list[nn.Module]:
        """The blocks that are left, from the first to the last."""
        for name in ("blocks", "stages"):
            if isinstance(found := getattr(self.network, name, None), nn.Sequential | nn.ModuleList):
                return list(found)
        layers = [module for name, module in self.network.named_children() if name.startswith("layer")]
        return [layer for layer in layers if list(layer.parameters())]  # without those that were dropped

    def merge_low_rank(self) -> None:
        """Add the low-rank matrices to the weights that they belong to, for good."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                # Not torch's remove_parametrizations: it takes the weight off the class, which copies share.
                weight = cast("torch.Tensor", module.weight).detach().clone()
                kind = parametrize.type_before_parametrizations(module)
                del module.parametrizations
                module.__class__ = kind
                module.weight = nn.Parameter(weight, requires_grad=False)


class LowRank(nn.Module):
    """A weight plus a trained matrix of low rank (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Models")."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        # One of them is zero, so that training starts at the pretrained weight.
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight (outputs, inputs) with what was learned on top."""
        return weight + self.up @ self.down


def create_timm(architecture: Architecture, weights: str = "") -> Any:
    """A network of timm for inputs of that size: with random weights, those of the Hub, or of a safetensors file.

    weights: "", "hub", or the file's path, whose tensors have timm's names. Raises RunError.
    """
    import timm  # noqa: PLC0415 - a second that other networks need not wait

    name = architecture.backbone
    options: dict[str, Any] = {"num_classes": 0}
    if weights == "hub":
        options["pretrained"] = True
    elif weights:
        if not Path(weights).is_file() or Path(weights).suffix != ".safetensors":
            raise RunError(f"--start-from {weights}: is no safetensors file; name one, or hub for timm's own weights")
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights, "hf_hub_id": None}}
    if not timm.is_model(name):
        raise RunError(f"--model {name}: neither a network of MAI nor one of timm; `timm.list_models()` names those")
    if _takes_size(name):
        options["img_size"] = architecture.size
    try:
        network = timm.create_model(name, **options)
        if weights and weights != "hub":
            with safetensors.safe_open(weights, "pt") as opened:
                missing = set(network.state_dict()) - set(opened.keys())
            if missing:  # timm leaves those as they are, at random
                raise ValueError(f"{len(missing)} tensors are not in the file, {min(missing)} among them")
        return network
    except Exception as error:  # of the Hub, of the file system, of torch: whatever keeps the weights away
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"--start-from {weights or 'random weights'}: {name} could not be made ({reason})") from None


def weights_licence(name: str) -> str:
    """The licence that timm states for its weights of that network, as the Hub writes it; "" where it states none."""
    import timm  # noqa: PLC0415

    configuration = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return str(getattr(configuration, "license", None) or "")


def _takes_size(name: str) -> bool:
    """Whether a timm network is made for one size of its input: transformers are, convolutions are not."""
    import timm  # noqa: PLC0415

    configuration = timm.models.get_pretrained_cfg(name)
    return configuration is not None and configuration.fixed_input_size


def _add_low_rank(block: nn.Module, rank: int, tune: str) -> None:
    for name in LORA_LAYERS:
        try:
            layer = block.get_submodule(name)
        except AttributeError:
            raise RunError(f"--tune {tune}: is for transformers; choose head, last:N or all") from None
        parametrize.register_parametrization(layer, "weight", LowRank(cast("nn.Linear", layer).weight, rank))
