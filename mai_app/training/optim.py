"""How weights move: the optimiser, its learning rate, and the average over the way."""

import math

import torch
from torch import nn

from mai_app.config import TrainConfig


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the settings name, of the network's parameters."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.05)
    return torch.optim.RMSprop(trained, lr=config.learning_rate)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Constant for rmsprop; for adamw linear over the first twentieth, then half a cosine down to zero."""
    if config.optimizer == "rmsprop":
        return config.learning_rate
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def follow(average: nn.Module, network: nn.Module, share: float, step: int) -> None:
    """Move the averaged network a step after the trained one: an exponential moving average of weights and statistics.

    The share of the past is lower in the first steps, or the random weights of the beginning would stay for long.
    """
    share = min(share, (1 + step) / (10 + step))
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - share)
            else:
                old.copy_(new)
