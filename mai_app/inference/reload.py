"""Detectors that reload their weights when the checkpoint file changes, and a cache of them by model name."""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mai_app.config import ServeConfig
from mai_app.core.log import say
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.inference.detector import Detector, load
from mai_app.inference.known import find_models
from mai_app.models.registry import find_checkpoint, name_of, pin_revision

MAX_LOADED: Final = 4
"""Models in memory at most, the default included."""
CHECK_SECONDS: Final = 2.0
"""Seconds between two checks of a checkpoint file for new weights."""


class LiveDetector:
    """The detector of a model's newest weights, reloaded when its file changes; for one thread."""

    def __init__(
        self, model: str, runs: Path, seconds: float, refresh: Callable[[], object] = lambda: None, device: str = "auto"
    ) -> None:
        """Check the file every `seconds`, after calling `refresh`, which updates a shared folder."""
        self._device = device
        self._model, self._runs, self._seconds, self._refresh = model, runs, seconds, refresh
        self._detector: Detector | None = None
        self._file_state: tuple[str, int, int, int] | None = None
        self._checked_at = float("-inf")

    def detector(self) -> Detector:
        """Return the newest usable detector; unusable new weights leave the old ones in use.

        Raises CheckpointError, or what `refresh` raised, if no weights have been loaded yet.
        """
        if time.monotonic() - self._checked_at < self._seconds and self._detector:
            return self._detector
        try:
            self._refresh()
        except Exception as error:  # whatever the shared folder's service raises
            if self._detector is None:
                raise
            say(f"kept weights {self._detector.checkpoint.version}: {error}")
            self._checked_at = time.monotonic()
            return self._detector
        try:
            # A branch of the Hub stays where it was: asking each time would be a request every few seconds.
            self._model = pin_revision(self._model, self._runs)
            path = find_checkpoint(self._model, self._runs)
            stat = path.stat()
            # The number, too: a clock that was set back gives a new file an old time.
            file_state = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if file_state != self._file_state:
                self._detector = load(path, self._device)
                self._file_state = file_state
                say(f"{name_of(path)}: weights {self._detector.checkpoint.version} loaded")
        except (CheckpointError, OSError) as error:
            if self._detector is None:
                raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from None
            say(f"kept weights {self._detector.checkpoint.version}: {error}")
        self._checked_at = time.monotonic()
        return self._detector  # type: ignore[return-value] # one of the branches above set it


class DetectorCache:
    """Keeps the default model and the most recently used others loaded, MAX_LOADED in all; for one thread."""

    def __init__(self, config: ServeConfig) -> None:
        """Load the default model. Raises CheckpointError if it is unusable, RunError if the device is missing."""
        self._config = config
        self._default = LiveDetector(config.model, config.runs, CHECK_SECONDS, device=config.device)
        self._others: OrderedDict[str, LiveDetector] = OrderedDict()
        self.detector("")

    def detector(self, name: str) -> Detector:
        """Return the newest detector of a model, "" for the default.

        Raises ModelNameError if there is no model of that name, CheckpointError if it is unusable.
        """
        return self._find(name).detector()

    def _find(self, name: str) -> LiveDetector:
        if not name:
            return self._default
        paths = find_models(self._config)
        if name not in paths:
            self._others.pop(name, None)
            raise ModelNameError(f"model {name!r} not found; available models = {list(paths)}")
        if name == next(iter(paths)):
            return self._default
        live = self._others.pop(name, None) or LiveDetector(
            str(paths[name]), self._config.runs, CHECK_SECONDS, device=self._config.device
        )
        self._others[name] = live
        if len(self._others) > MAX_LOADED - 1:
            self._others.popitem(last=False)
        return live
