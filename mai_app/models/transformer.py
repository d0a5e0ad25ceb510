"""The vision transformer of DINOv2 in plain PyTorch, for predicting: timm's tensors and results, without timm.

timm, with which such networks are trained, takes longer to import than torch itself. A test holds the two together.
"""

import re
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app.config import Architecture

_NAME: Final = re.compile(r"vit_(small|base|large)_patch14(_reg4)?_dinov2(\.[a-z0-9_]+)?")
_SIZES: Final = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width and blocks
_PATCH: Final = 14  # pixels a side
_HEAD: Final = 64  # width of an attention head
_REGISTERS: Final = 4


def is_plain(architecture: Architecture) -> bool:
    """Whether a network of views of that architecture has a body of this kind."""
    found = _NAME.fullmatch(architecture.backbone)
    return found is not None and all(1 <= block <= _SIZES[found[1]][1] for block in architecture.blocks)


class PlainBody(nn.Module):
    """What `Body` computes for a transformer of DINOv2, from tensors of the same names (backbones.py).

    Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision"; with registers, Darcet et al.
    2023, "Vision Transformers Need Registers". Input (n, 3, size, size) float in [0, 1], whatever the weights' type;
    output (n, width) float32.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        """The weights have no memory yet: load_state_dict(…, assign=True) gives it to them.

        Raises ValueError for another network.
        """
        super().__init__()
        if (found := _NAME.fullmatch(architecture.backbone)) is None:
            raise ValueError(f"{architecture.backbone}: is no transformer of DINOv2")
        width, depth = _SIZES[found[1]]
        blocks = architecture.blocks or tuple(range(1, depth + 1))
        self.indices = [block - 1 for block in blocks]
        with torch.device("meta"):  # drawing millions of random numbers takes longer than loading them
            self.network = _Transformer(width, max(blocks), architecture.size, registers=bool(found[2]))
        self.width = 2 * width * len(set(blocks))
        # ImageNet's, as timm states them for these networks.
        for name, values in (("mean", [0.485, 0.456, 0.406]), ("deviation", [0.229, 0.224, 0.225])):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, width) of images (n, 3, size, size)."""
        pixels = (images - self.mean) / self.deviation
        parts = []
        for tokens, patches in self.network(pixels, set(self.indices)):
            for vector in (tokens[:, 0], patches.mean(1, dtype=torch.float32)):
                parts.append(F.layer_norm(vector.float(), vector.shape[1:]))
        return torch.cat(parts, dim=1)


class _Transformer(nn.Module):
    def __init__(self, width: int, depth: int, size: int, registers: bool) -> None:
        super().__init__()
        patches = (size // _PATCH) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.reg_token = nn.Parameter(torch.empty(1, _REGISTERS, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, patches + (not registers), width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, _PATCH)})
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))

    def forward(self, pixels: torch.Tensor, wanted: set[int]) -> Any:
        """Of each wanted block the tokens before the patches and the patches, (n, tokens, width) each."""
        patches = self.patch_embed["proj"](pixels.to(self.cls_token.dtype)).flatten(2).transpose(1, 2)
        classes = self.cls_token.expand(pixels.shape[0], -1, -1)
        if self.reg_token is None:
            x = torch.cat([classes, patches], dim=1) + self.pos_embed
        else:
            x = torch.cat([classes, self.reg_token.expand(pixels.shape[0], -1, -1), patches + self.pos_embed], dim=1)
        before = x.shape[1] - patches.shape[1]
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in wanted:
                found.append((x[:, :before], x[:, before:]))
        return found


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls2 = _Scale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        parts = self.attn["qkv"](self.norm1(x)).view(n, tokens, 3, width // _HEAD, _HEAD).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.attn["proj"](attended) * self.ls1.gamma
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))) * self.ls2.gamma  # type: ignore[no-any-return]


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))
