"""The models that can be selected by name, and their facts, read from file headers without torch."""

from pathlib import Path

from mai_app.config import ServeConfig
from mai_app.errors import CheckpointError
from mai_app.inference.prediction import ModelFacts, model_facts
from mai_app.models.description import read_description
from mai_app.models.registry import MODEL_NAME, find_checkpoint, name_of, shipped_models, trained_runs


def known_models(config: ServeConfig) -> list[ModelFacts]:
    """Return the facts of every usable model, the default first; reads file headers and loads no weights.

    Raises CheckpointError if there is no default model.
    """
    return [facts for path in find_models(config).values() if (facts := _read_facts(path))]


def find_models(config: ServeConfig) -> dict[str, Path]:
    """Return checkpoints by name, the default first; only runs and shipped models can be selected by name."""
    default = find_checkpoint(config.model, config.runs)
    # A run takes precedence over a shipped model of the same name.
    others = {**shipped_models(), **trained_runs(config.runs)}
    named = {name: path for name, path in others.items() if MODEL_NAME.fullmatch(name)}
    return {name_of(default): default, **{n: path for n, path in named.items() if n != name_of(default)}}


def _read_facts(path: Path) -> ModelFacts | None:
    """Return a checkpoint's facts; None for an unusable file."""
    try:
        found = read_description(path)
    except CheckpointError:
        return None
    return model_facts(name_of(path), found.sha256, found.info)
