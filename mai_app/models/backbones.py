"""Backbones of torchvision with one output: with random weights, or with those pretrained on ImageNet."""

import urllib.error
from typing import Final

import torch
import torchvision
from torch import nn

from mai_app.errors import RunError

HEADS: Final = {"resnet18": "fc", "convnext-base": "classifier.2"}
"""Supported networks and the name of their last layer."""


class Backbone(nn.Module):
    """A torchvision network whose last layer gives one logit.

    Input (n, 3, height, width) float in [0, 1], 32 pixels a side or more, normalised by ImageNet's mean and deviation
    here; output (n,) logits, above 0 for synthetic.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
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
