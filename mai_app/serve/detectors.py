"""The models that this machine can judge with: their facts from their files' heads, and the few that are loaded."""

from collections import OrderedDict
from pathlib import Path
from typing import Final

from mai_app.config import ServeConfig
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.inference.detector import Detector
from mai_app.inference.prediction import ModelFacts, model_facts
from mai_app.inference.reload import LiveDetector
from mai_app.models.description import read_description
from mai_app.models.registry import find_checkpoint, name_of, shipped_models, trained_runs
from mai_app.serve.backend import MODEL_NAME

LOADED: Final = 4
"""Models in memory at most."""
LOOK_SECONDS: Final = 2.0
"""How often a model's file is looked at for new weights."""


def known_models(config: ServeConfig) -> list[ModelFacts]:
    """The facts of every model that can be asked for by name and used, the default first; no weights are loaded.

    Raises CheckpointError if there is no default.
    """
    return [facts for path in _paths(config).values() if (facts := _facts(path))]


class Detectors:
    """The default model, and those asked for last, loaded; for use by one thread at a time."""

    def __init__(self, config: ServeConfig) -> None:
        """Load the default; raises CheckpointError where it can't be used, RunError if there is no such device."""
        self._config = config
        self._default = LiveDetector(config.model, config.runs, LOOK_SECONDS, device=config.device)
        self._others: OrderedDict[str, LiveDetector] = OrderedDict()
        self.detector("")

    def detector(self, name: str) -> Detector:
        """The newest detector of that name, the default's being ""; raises CheckpointError if it can't be had."""
        return self._live(name).detector()

    def _live(self, name: str) -> LiveDetector:
        if not name:
            return self._default
        paths = _paths(self._config)
        if name not in paths:
            self._others.pop(name, None)
            raise ModelNameError(f"model {name!r} not found; available models = {list(paths)}")
        if name == next(iter(paths)):
            return self._default
        live = self._others.pop(name, None) or LiveDetector(
            str(paths[name]), self._config.runs, LOOK_SECONDS, device=self._config.device
        )
        self._others[name] = live
        if len(self._others) > LOADED - 1:
            self._others.popitem(last=False)
        return live


def _paths(config: ServeConfig) -> dict[str, Path]:
    """The checkpoints by name, the default first; only what lies where models lie, whatever the name."""
    default = find_checkpoint(config.model, config.runs)
    # A run goes before a shipped model of its name.
    others = {**shipped_models(), **trained_runs(config.runs)}
    named = {name: path for name, path in others.items() if MODEL_NAME.fullmatch(name)}
    return {name_of(default): default, **{n: path for n, path in named.items() if n != name_of(default)}}


def _facts(path: Path) -> ModelFacts | None:
    """A checkpoint's facts; None for a file that can't be used."""
    try:
        found = read_description(path)
    except CheckpointError:
        return None
    return model_facts(name_of(path), found.sha256, found.info)
