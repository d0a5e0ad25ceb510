"""From batches of pixels to logits: the networks, and nothing else."""

from collections.abc import Callable
from typing import Final

import torch
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


MODELS: Final[dict[str, Callable[[], nn.Module]]] = {"baseline": MaiCNN}
"""The networks by name."""
