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
    from mai_app.inference.detector import load
    from mai_app.inference.prediction import Prediction


def __getattr__(name: str) -> Any:
    # Late, so that `mai --help` and the calling side of Modal need not wait for torch.
    if name == "load":
        from mai_app.inference.detector import load  # noqa: PLC0415

        return load
    if name == "Prediction":
        from mai_app.inference.prediction import Prediction  # noqa: PLC0415

        return Prediction
    raise AttributeError(f"module 'mai_app' has no attribute {name!r}")
