"""Where checkpoints are: those that come with the package, and those of the runs; nothing of what is in them."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("weights")
"""The checkpoints that come with the package, NAME.safetensors each."""
BEST: Final = "best.safetensors"
"""Name of the checkpoint in a run's folder that is meant for use."""


def shipped_models() -> dict[str, Path]:
    """The checkpoints that come with the package, by name; none where its folder is empty or missing."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def trained_runs(runs: Path) -> dict[str, Path]:
    """The runs' checkpoints by the run's name, the one trained last at the end."""
    return {path.parent.name: path for path in sorted(runs.glob(f"*/{BEST}"), key=lambda p: p.stat().st_mtime)}


def name_of(path: Path) -> str:
    """What a checkpoint is called: by its run's folder, or, for any other file, by itself."""
    return path.absolute().parent.name if path.name == BEST else path.stem
