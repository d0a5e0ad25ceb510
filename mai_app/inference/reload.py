"""A detector that follows its run: looked at again from time to time, loaded anew when the weights have changed."""

import time
from collections.abc import Callable
from pathlib import Path

from mai_app.core.log import say
from mai_app.errors import CheckpointError
from mai_app.inference.detector import Detector, load
from mai_app.models.registry import find_checkpoint, name_of


class LiveDetector:
    """Hands out the detector of a run's newest weights; one process, one thread."""

    def __init__(
        self, model: str, runs: Path, seconds: float, refresh: Callable[[], object] = lambda: None, device: str = "auto"
    ) -> None:
        """Look every so many seconds, after `refresh`, which brings a shared folder up to date."""
        self._device = device
        self._model, self._runs, self._seconds, self._refresh = model, runs, seconds, refresh
        self._detector: Detector | None = None
        self._seen: tuple[str, int, int] | None = None
        self._looked = float("-inf")

    def detector(self) -> Detector:
        """The newest detector that can be used. Raises CheckpointError while there has never been one."""
        if time.monotonic() - self._looked < self._seconds and self._detector:
            return self._detector
        try:
            self._refresh()
        except Exception as error:  # whatever the service of a shared folder raises
            if self._detector is None:
                raise
            say(f"kept weights {self._detector.checkpoint.version}: {error}")
            self._looked = time.monotonic()
            return self._detector
        try:
            path = find_checkpoint(self._model, self._runs)
            stat = path.stat()
            seen = (str(path), stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._detector = load(path, self._device)
                self._seen = seen
                say(f"{name_of(path)}: weights {self._detector.checkpoint.version} are live")
        except (CheckpointError, OSError) as error:
            if self._detector is None:
                raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from None
            # Weights that can't be used do not take those away that can.
            say(f"kept weights {self._detector.checkpoint.version}: {error}")
        self._looked = time.monotonic()
        return self._detector  # type: ignore[return-value] # one of the branches above set it
