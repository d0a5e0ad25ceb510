"""The model registry: every model that --model can name (runs, shipped ones, the Hub's), with path and description."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mai_app.config import SHIPPED
from mai_app.core.display import show_name, show_percent
from mai_app.core.processor import Precision, cpu_precision
from mai_app.errors import CheckpointError, ModelNameError
from mai_app.models.description import read_description, read_info
from mai_app.models.hub import PREFIX, cached_name, download, is_hub_name, parse_name

FOLDER: Final = Path(__file__).with_name("weights")
"""The checkpoints that come with the package, NAME.safetensors each."""
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
"""Names by which clients of the HTTP API may select a model: no paths, no hidden files."""
BEST: Final = "best.safetensors"
"""Name of the checkpoint in a run's folder that is meant for use."""


def shipped_models() -> dict[str, Path]:
    """The checkpoints that come with the package, by name; none where its folder is empty or missing."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def trained_runs(runs: Path) -> dict[str, Path]:
    """The runs' checkpoints by the run's name, the one trained last at the end."""
    return {path.parent.name: path for path in sorted(runs.glob(f"*/{BEST}"), key=lambda p: p.stat().st_mtime)}


def default_model(runs: Path) -> Path | None:
    """The checkpoint that is used where none is named: the run trained last, else the one that config.SHIPPED names.

    A run on simulated images, as `mai demo` trains it, is none: it says nothing about real ones. None: there is none.
    """
    for path in reversed(trained_runs(runs).values()):
        try:
            if not read_info(path).simulated:
                return path
        except CheckpointError:
            return path  # whoever trained it last is told that it can't be read
    return shipped_models().get(SHIPPED)


def name_of(path: Path) -> str:
    """What a checkpoint is called: by its repository on the Hub, by its run's folder, or, any other file, by itself."""
    if found := cached_name(path):
        return f"{PREFIX}{found.repository}"
    return path.absolute().parent.name if path.name == BEST else path.stem


def find_checkpoint(name: str, runs: Path) -> Path:
    """The checkpoint that a user means: a file, a run's folder, or else the name of a run or of a shipped model.

    For "" it is that of `default_model`; for hf:owner/name[@revision] that file of the Hub, downloaded unless it is in
    the cache. Raises CheckpointError that lists what there is, or says why the Hub's can't be had.
    """
    if is_hub_name(name):
        return download(parse_name(name), BEST)
    trained, shipped = trained_runs(runs), shipped_models()
    if not name:
        if default := default_model(runs):
            return default
        raise CheckpointError(
            f"no trained model in {runs}/; train one with `mai train`, or name a file with --model; "
            f"shipped models = {list(shipped)}"
        )
    named = [models[name] for models in (trained, shipped) if name in models]
    candidates = [Path(name), Path(name) / BEST, *named]
    try:
        return next(path for path in candidates if path.is_file())
    except OSError as error:  # a name too long, or in a closed folder
        raise CheckpointError(f"model {name!r} can't be read ({error.strerror})") from None
    except StopIteration:
        raise ModelNameError(
            f"model {name!r} not found; available runs in {runs}/ = {list(trained)}, shipped models = {list(shipped)}"
        ) from None


def pin_revision(name: str, runs: Path) -> str:
    """A name of the Hub as the file that it stands for now, so that it is asked once; any other name as it is."""
    return str(find_checkpoint(name, runs)) if is_hub_name(name) else name


def results_folder(path: Path, runs: Path) -> Path:
    """Where reports on a checkpoint go: its own folder; of a shipped or downloaded one a folder below `runs`."""
    if found := cached_name(path):
        return runs / found.repository.replace("/", "--")
    return runs / path.stem if path.parent == FOLDER else path.parent


@dataclass(frozen=True)
class ListedModel:
    """A model that can be named, as far as its file tells without loading it; what it does not tell is None."""

    name: str
    """What to say after --model."""
    kind: Literal["run", "shipped"]
    path: str
    """The checkpoint's file."""
    bytes: int | None = None
    version: str | None = None
    """Names weights and calibration: the first 12 digits of the file's SHA-256."""
    default: bool = False
    """Whether it is the one that is used where none is named."""
    model: str | None = None
    """Name of the network."""
    trained_on: str | None = None
    """Name of the data set."""
    epoch: int | None = None
    """Epochs of training behind the weights."""
    worst_tier: str | None = None
    """The tier with the most false positives, on the images that it was calibrated on; None without `mai calibrate`."""
    worst_fpr: float | None = None
    """Share of the authentic images called synthetic in that tier."""
    cpu_precision: Precision | None = None
    """In what it predicts on this machine's CPU, chosen by the processor."""
    error: str | None = None
    """Why the file can't be used."""


def list_models(runs: Path) -> list[ListedModel]:
    """All models that --model knows by name, the shipped ones first and the run trained last at the end.

    A file that can't be read is a row with its error. torch is not needed: the weights are hashed and not loaded.
    """
    trained, shipped = trained_runs(runs), shipped_models()
    default = default_model(runs)
    # A run goes before a shipped model of its name, which then has none to be asked for by.
    rows = [_listed(name, "shipped", path, path == default) for name, path in shipped.items() if name not in trained]
    return rows + [_listed(name, "run", path, path == default) for name, path in trained.items()]


def table(models: Iterable[ListedModel], runs: Path) -> str:
    """A line a model, the one that is used where none is named marked."""
    rows: list[tuple[str, ...]] = [
        ("  name", "kind", "network", "version", "trained on", "size", "epoch", "FPR, worst tier", "on this CPU")
    ]
    errors = {}
    for number, model in enumerate(models, 1):
        size = "–" if model.bytes is None else f"{model.bytes / 1e6:.1f} MB"
        fpr = "–" if model.worst_tier is None else f"{show_percent(model.worst_fpr)}, {model.worst_tier}"
        facts = (model.model, model.version, model.trained_on, size, model.epoch, fpr, model.cpu_precision)
        mark = "* " if model.default else "  "
        rows.append((f"{mark}{show_name(model.name)}", model.kind, *("–" if f is None else str(f) for f in facts)))
        if model.error is not None:
            errors[number] = show_name(f"    {model.name}: {model.error}")
    if len(rows) == 1:
        return f"no model comes with this MAI, and none is in {runs}/; train one with `mai train`"
    rows = [tuple(map(show_name, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [errors[number]] if number in errors else []
    lines.append(
        "* is used where no --model is named; FPR: on the images that `mai calibrate` fitted it on, – not calibrated so"
    )
    return "\n".join(lines)


def _listed(name: str, kind: Literal["run", "shipped"], path: Path, default: bool) -> ListedModel:
    try:
        found = read_description(path)
    except CheckpointError as error:
        return ListedModel(name, kind, str(path), default=default, error=str(error).removeprefix(f"{path}: "))
    rates = {tier: rate.fpr for tier, rate in found.info.calibration.tiers.items()}
    worst = max(rates, key=lambda tier: rates[tier], default=None)
    return ListedModel(
        name=name,
        kind=kind,
        path=str(path),
        bytes=found.bytes,
        version=found.sha256[:12],
        default=default,
        model=found.info.model,
        trained_on=found.info.data,
        epoch=found.info.epoch,
        worst_tier=worst,
        worst_fpr=None if worst is None else rates[worst],
        cpu_precision=cpu_precision() if found.info.takes_bfloat16 else "float32",
    )
