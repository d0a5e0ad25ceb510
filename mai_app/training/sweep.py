"""Hyperparameter sweeps: combinations of settings by seeds, their runs, and a table ranked by validation loss."""

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Final, get_args

import tyro

from mai_app.config import SweepConfig, TrainConfig, from_recipe
from mai_app.core.files import write_text
from mai_app.errors import MaiError, RunError

FIXED: Final = ("data", "name", "seed", "device", "runs", "prepared", "on", "detach", "budget")
"""Settings of `mai train` that a sweep sets itself."""
_LONGEST_NAME: Final = 200  # bytes; file systems end at 255, and temporary files add to a name


@dataclass(frozen=True)
class Result:
    """The result of one run: the metrics of its best epoch, or why there are none."""

    name: str
    """Name of the run."""
    settings: dict[str, Any]
    """The settings that --vary names; `sweep` fills them in."""
    seed: int
    """Seed of the run."""
    val_loss: float | None = None
    """Least validation loss of an epoch."""
    val_auroc: float | None = None
    """Validation AUROC of that epoch; None where it is undefined."""
    epoch: int | None = None
    """That epoch, counted from 1."""
    error: str | None = None
    """Why the run did not finish; then there are no figures."""


def plan(config: SweepConfig) -> list[TrainConfig]:
    """Plan the runs of a sweep: each combination of the varied settings with each of the seeds 0, 1, ….

    Raises RunError for a setting that `mai train` does not have or a sweep can't vary, and for a value that it does
    not take.
    """
    if config.seeds < 1:
        raise RunError(f"--seeds {config.seeds}: must be at least 1")
    if not re.fullmatch(r"[\w-][\w.-]*", config.name):
        raise RunError(f"--name {config.name!r}: takes letters, digits, - _ and . only; the runs' names start with it")
    varied = _varied(config)
    runs = []
    for values in product(*varied.values()):
        settings = dict(zip(varied, values, strict=True))
        for seed in range(config.seeds):
            parts = [config.name, *(f"{_flag(key)}-{_safe(value)}" for key, value in settings.items()), f"seed{seed}"]
            run = from_recipe(
                **{"recipe": "traces", **settings},
                data=config.data,
                name="-".join(parts),
                seed=seed,
                device=config.device,
                runs=config.runs,
                prepared=config.prepared,
            )
            runs.append(run)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise RunError("--vary: two values give runs of the same name; leave one of them out")
    if max(len(name.encode()) for name in names) > _LONGEST_NAME:
        raise RunError("--vary: the runs' names become too long; vary fewer settings, or shorten --name")
    return runs


def sweep(config: SweepConfig, train_all: Callable[[list[TrainConfig]], Iterable[Result]]) -> list[Result]:
    """Train the planned runs, and return one result per run, in order; runs/NAME/sweep.json holds them, too.

    `train_all` trains runs and gives their results, in any order. After an interrupt the same call resumes: training
    a finished run again does nothing. Raises what `plan` and `train_all` raise.
    """
    runs = plan(config)
    varied = list(_varied(config))
    results = {
        run.name: Result(run.name, {_flag(key): getattr(run, key) for key in varied}, run.seed, error="gave no result")
        for run in runs
    }
    for result in train_all(runs):
        results[result.name] = replace(result, settings=results[result.name].settings)
    document = {
        "data": str(config.data),
        "seeds": config.seeds,
        "runs": [asdict(result) for result in results.values()],
    }
    write_text(json_path(config), json.dumps(document, indent=1, default=str) + "\n")
    return list(results.values())


def json_path(config: SweepConfig) -> Path:
    """The path of a sweep's results."""
    return config.runs / config.name / "sweep.json"


def one_by_one(runs: Iterable[TrainConfig], train: Callable[[TrainConfig], Path]) -> Iterator[Result]:
    """Train runs one after the other, and yield their results; a MaiError becomes a result with the reason."""
    for run in runs:
        try:
            result = finished(run, best_epoch(train(run)))
        except MaiError as error:
            result = failed(run, error)
        yield result


def finished(run: TrainConfig, best: dict[str, Any]) -> Result:
    """The result of a run with the metrics of its best epoch, as `best_epoch` returns them."""
    auroc = best.get("val_auroc")
    return Result(run.name, {}, run.seed, val_loss=best["val_loss"], val_auroc=auroc, epoch=best["epoch"])


def failed(run: TrainConfig, error: object) -> Result:
    """The result of a run that did not finish."""
    return Result(run.name, {}, run.seed, error=str(error) or type(error).__name__)


def best_epoch(run_folder: Path) -> dict[str, Any]:
    """The row of metrics.jsonl with the least validation loss; raises RunError if there is none."""
    path = run_folder / "metrics.jsonl"
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        return min(rows, key=lambda row: float(row["val_loss"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{path}: holds no finished epoch, or is damaged") from None


def exit_code(results: Sequence[Result]) -> int:
    """0 if all runs finished, 1 if some did not, 2 if none did."""
    failed = sum(result.error is not None for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


def summary(results: Sequence[Result], config: SweepConfig) -> str:
    """The table of a sweep, and the path of its file, for people."""
    return f"{table(results)}\n\nresults: {json_path(config)}"


def table(results: Iterable[Result]) -> str:
    """One line per combination of settings: means over its seeds; the least mean validation loss is marked with *."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        words = " ".join(f"{key}={value}" for key, value in result.settings.items())
        groups.setdefault(words or "(the defaults)", []).append(result)
    losses = {words: [r.val_loss for r in group if r.val_loss is not None] for words, group in groups.items()}
    # A mean over fewer seeds does not compare with one over all: it wins only where no combination is complete.
    complete = [words for words, group in groups.items() if len(losses[words]) == len(group)]
    rivals = complete or [words for words in groups if losses[words]]
    best = min(rivals, key=lambda words: fmean(losses[words]), default=None)
    width = max(len("settings"), *map(len, groups))
    lines = [f"  {'settings':<{width}}  val loss  (min–max)         val AUROC  best epoch  seeds"]
    for words, group in groups.items():
        mark = "*" if words == best else " "
        lines.append(f"{mark} {words:<{width}}  {_figures(group, losses[words])}")
        lines += [f"    {result.name}: {result.error}" for result in group if result.error is not None]
    if best is None:
        lines.append("no run finished")
    else:
        lines.append(f"* {best}: best by validation loss; the test part was not looked at")
    return "\n".join(lines)


def _figures(group: list[Result], losses: list[float]) -> str:
    if not losses:
        return f"{'–':>8}  {'–':<16}  {'–':>9}  {'–':<10}  0 of {len(group)}"
    aurocs = [result.val_auroc for result in group if result.val_auroc is not None]
    spread = f"({min(losses):.4f}–{max(losses):.4f})"
    auroc = f"{fmean(aurocs):.3f}" if aurocs else "–"
    epochs = ",".join(str(result.epoch) for result in group if result.epoch is not None)
    return f"{fmean(losses):>8.4f}  {spread:<16}  {auroc:>9}  {epochs:<10}  {len(losses)} of {len(group)}"


def _varied(config: SweepConfig) -> dict[str, list[Any]]:
    """The values of each varied setting, by field name; raises RunError for an option that can't be varied."""
    known = [item.name for item in fields(TrainConfig) if item.name not in FIXED]
    varied: dict[str, list[Any]] = {}
    for words in config.vary:
        flag, _, values = words.partition("=")
        key = flag.strip().removeprefix("--").replace("-", "_")
        if key not in known:
            why = "a sweep sets it itself" if key in FIXED else "`mai train` has no such setting"
            raise RunError(f"--vary {words}: {why}; those to vary are {', '.join(map(_flag, known))}")
        if key in varied:
            raise RunError(f"--vary {words}: {_flag(key)} is named twice; give all its values at once, with commas")
        varied[key] = [_parsed(words, key, value.strip()) for value in values.split(",")]
        if any(value in varied[key][:i] for i, value in enumerate(varied[key])):
            raise RunError(f"--vary {words}: names a value twice")
    return varied


def _parsed(words: str, key: str, value: str) -> Any:
    """Parse a value as `mai train` does; raises RunError for one that it does not take."""
    try:
        # tyro shows its complaint in a box and ends the process; here it is one of MAI's lines.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            arguments = ["--data", ".", f"--{_flag(key)}={value}"]
            parsed = tyro.cli(TrainConfig, args=arguments, config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        kind = next(item.type for item in fields(TrainConfig) if item.name == key)
        takes = ", ".join(map(str, get_args(kind))) or (
            "True, False" if kind is bool else getattr(kind, "__name__", kind)
        )
        raise RunError(f"--vary {words}: {value!r} is no value of {_flag(key)}, which takes {takes}") from None
    return getattr(parsed, key)


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _safe(value: object) -> str:
    """A value as part of a folder name."""
    return re.sub(r"[^\w.+-]", "_", str(value))
