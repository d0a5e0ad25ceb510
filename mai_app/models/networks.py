"""The networks: from batches of pixels to logits. Adding one is adding a class and a row of MODELS."""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app.config import IMAGE_SIZE


class MaiCNN(nn.Module):
    """The baseline, exactly the first MAI's network: 4,827,365 parameters.

    Input (n, 3, 200, 200) float in [0, 1]; output (n,) logits, above 0 for synthetic.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),  # 64 × 25 × 25 = 40,000
            nn.ReLU(),
            nn.Linear(64 * (IMAGE_SIZE // 8) ** 2, 120),
            nn.ReLU(),
            nn.Linear(120, 30),
            nn.Linear(30, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of images (n, 3, 200, 200)."""
        logits: torch.Tensor = self.layers(images)
        return logits.squeeze(1)


class TraceNet(nn.Module):
    """Looks at small neighbourhoods of native pixels for what a generator's decoder leaves there: 518,033 parameters.

    Beside the colours it sees each pixel's difference from its neighbours, in which upsampling shows (Tan et al. 2024,
    "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable Deepfake Detection"). No
    unit sees more than 44 pixels across, so that it learns textures rather than scenes (Chai et al. 2020, "What makes
    fake images detectable?"). The first step turns each square of 2×2 pixels into channels: nothing is lost, as it
    would be by an early stride or pooling, and it costs less than a layer on all pixels. An image's logit is the mean
    over all patches.

    Input (n, 3, height, width) float in [0, 1], 16 pixels a side or more; output (n,) logits, above 0 for synthetic.
    1.14 GFLOP for a 200×200 crop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(24, 56),
            _convolution(56, 96, stride=2),
            _Residual(96),
            _convolution(96, 144, stride=2),
            _convolution(144, 192, stride=2),
        )
        self.judge = nn.Conv2d(192, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of images (n, 3, height, width)."""
        return self.patch_logits(images).mean((1, 2), dtype=torch.float32)

    def patch_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, height / 16, width / 16), rounded up, of 16×16 pixel patches; their mean is the image's logit."""
        height, width = images.shape[2:]
        images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        around = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        # Differences between neighbours are small: this brings them to the size of the colours.
        pixels = torch.cat([2 * images - 1, 8 * (images - around)], dim=1)
        logits: torch.Tensor = self.judge(self.layers(F.pixel_unshuffle(pixels.to(self.judge.weight.dtype), 2)))
        return logits.squeeze(1)


class _Residual(nn.Module):
    """A 3×3 convolution whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = _convolution(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.layers(features)  # type: ignore[no-any-return]


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _backbone(name: str) -> nn.Module:
    # torchvision takes a second to import, and these alone need it.
    from mai_app.models.backbones import Backbone  # noqa: PLC0415

    return Backbone(name)


MODELS: Final[dict[str, Callable[[], nn.Module]]] = {
    "baseline": MaiCNN,
    "traces": TraceNet,
    "resnet18": partial(_backbone, "resnet18"),
    "convnext-base": partial(_backbone, "convnext-base"),
}
"""The networks by name, with random weights; those of views are made from their architecture."""
