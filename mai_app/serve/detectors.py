"""The models that this machine can judge with: their facts from their files' heads, and the few that are loaded."""

import hashlib
import json
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Final

import safetensors

from mai_app.config import ServeConfig
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.inference.detector import Detector
from mai_app.inference.prediction import ModelFacts, model_facts
from mai_app.inference.reload import LiveDetector
from mai_app.models.checkpoint import FORMAT_VERSION, find_checkpoint
from mai_app.models.networks import MODELS
from mai_app.models.shipped import name_of, shipped_models, trained_runs
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
        stat = path.stat()
        return _facts_of(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, CheckpointError):
        return None


@lru_cache(maxsize=256)
def _facts_of(path: Path, modified: int, size: int) -> ModelFacts:  # noqa: ARG001 - they are the cache's key
    """The facts of a file as it was at that time: the sum of a large file takes a second."""
    try:
        with safetensors.safe_open(path, "np") as opened:
            document = json.loads((opened.metadata() or {})["mai"])
        if document["format_version"] > FORMAT_VERSION or document["model"] not in MODELS:
            raise CheckpointError(f"{path}: of another MAI")
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return model_facts(name_of(path), sha256, document)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be used ({error})") from None
