"""MAI, the Multilayer Authenticity Identifier: tells synthetic images from authentic ones.

import mai_app

detector = mai_app.load("runs/demo")
for prediction in detector.predict(["photo.jpg", "poster.png"]):
    print(prediction.path, prediction.p_synthetic, prediction.verdict)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prediction", "__version__", "load"]

if TYPE_CHECKING:
    from mai_app.predict import Prediction, load


def __getattr__(name: str) -> Any:
    # Late, so that `mai --help` and the calling side of Modal need not wait for torch.
    if name in ("Prediction", "load"):
        from mai_app import predict  # noqa: PLC0415

        return getattr(predict, name)
    raise AttributeError(f"module 'mai_app' has no attribute {name!r}")
