"""MAI, the Multilayer Authenticity Identifier: tells synthetic images from authentic ones.

import mai_app

detector = mai_app.load("runs/demo")
for prediction in detector.predict(["photo.jpg", "poster.png"]):
    print(prediction.path, prediction.p_synthetic, prediction.verdict)
"""

from typing import TYPE_CHECKING, Any

from mai_app.errors import (
    CheckpointError,
    DataError,
    ImageError,
    MaiError,
    ModelNameError,
    RunError,
    SourceError,
)

__version__ = "0.2.0"
__all__ = [
    "CheckpointError",
    "DataError",
    "Detector",
    "ImageError",
    "MaiError",
    "ModelNameError",
    "Prediction",
    "RunError",
    "SourceError",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from mai_app.inference.detector import Detector, load
    from mai_app.inference.prediction import Prediction


def __getattr__(name: str) -> Any:
    # Late, so that `mai --help` and the calling side of Modal need not wait for torch.
    if name in ("Detector", "load"):
        from mai_app.inference import detector  # noqa: PLC0415

        return getattr(detector, name)
    if name == "Prediction":
        from mai_app.inference.prediction import Prediction  # noqa: PLC0415

        return Prediction
    raise AttributeError(f"module 'mai_app' has no attribute {name!r}")
