"""The network of views: the whole image and native windows, scored apart by pretrained features, and fused."""

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from mai_app.config import Architecture
from mai_app.models.networks import MODELS, TraceNet
from mai_app.models.transformer import PlainBody, is_plain

if TYPE_CHECKING:
    from mai_app.models.backbones import Body

DROPOUT: Final = 0.2
"""Share of an MLP head's units that are left out at each training step."""


def build_network(model: str, architecture: Architecture | None = None, weights: str = "") -> nn.Module:
    """The network of that name with random weights; one of views where there is an architecture.

    weights: for the body of a network of views, as create_timm takes them. Raises RunError for what can't be made.
    """
    if architecture is None:
        return MODELS[model]()
    from mai_app.models.backbones import Body  # noqa: PLC0415 - timm, which predicting need not wait for

    return ViewsNet(architecture, Body(architecture, weights))


def build_empty(model: str, architecture: Architecture | None) -> nn.Module:
    """The network of that name for weights that are to be loaded, with assign=True: it need not be trainable."""
    if architecture is not None and is_plain(architecture):
        return ViewsNet(architecture, PlainBody(architecture))
    return build_network(model, architecture)


class ViewsNet(nn.Module):
    """Scores an image's views apart, each kind by a head of its own, and adds the scores up by fitted weights.

    The whole image shows content, composition and anatomy, native windows show texture and traces: each fails where
    the other holds. Their scores are fused, not their features: what fits best on the training sources together does
    not on others. With `traces` a TraceNet scores the native windows, too.

    Input (n, views, 3, size, size) float in [0, 1], the whole image first, native windows after it; or the features
    (n, views, width) of these. Output (n,) logits, above 0 for synthetic; in training (n, columns), each trained apart.
    """

    fusion: torch.Tensor

    def __init__(self, architecture: Architecture, body: "Body | PlainBody") -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleList(_head(architecture.head, self.body.width) for _ in ("whole", "native"))
        self.traces = TraceNet() if architecture.traces else None
        columns = 3 if architecture.traces else 2
        self.register_buffer("fusion", torch.tensor([1 / columns] * columns + [0.0]))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of views (n, views, 3, size, size) or of their features; in training (n, columns)."""
        logits = self.view_logits(views)
        return logits if self.training else self.fuse(logits)

    def fuse(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of an image from those (n, columns) of its views: weighted, plus a constant."""
        return logits @ self.fusion[:-1] + self.fusion[-1]

    def view_logits(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (n, columns): of the whole image, of the native windows, and, with traces, of these by TraceNet.

        Those of several windows are averaged.
        """
        features = views if views.dim() == 3 else self.features(views)
        whole, native = self.heads
        columns = [whole(features[:, 0]).squeeze(-1), native(features[:, 1:]).squeeze(-1).mean(1)]
        if self.traces is not None:
            windows = views[:, 1:]
            columns.append(self.traces(windows.flatten(0, 1)).unflatten(0, windows.shape[:2]).mean(1))
        return torch.stack([column.float() for column in columns], dim=1)

    def features(self, views: torch.Tensor) -> torch.Tensor:
        """Features (n, views, width) of views (n, views, 3, size, size)."""
        return self.body(views.flatten(0, 1)).unflatten(0, views.shape[:2])  # type: ignore[no-any-return]


class MlpHead(nn.Sequential):
    """Two layers with a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 256), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(256, 1))


def _head(kind: str, width: int) -> nn.Module:
    return MlpHead(width) if kind == "mlp" else nn.Linear(width, 1)
