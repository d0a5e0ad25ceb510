"""The `mai` command: one table of commands, from which come parser, help, docs and work, here and on Modal."""

import difflib
import errno
import gc
import importlib
import inspect
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from mai_app import __version__
from mai_app.config import (
    RECIPES,
    TEST_IMAGES,
    AuditConfig,
    CalibrateConfig,
    CardConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    FuseConfig,
    ModelsConfig,
    PredictConfig,
    PrepareConfig,
    PushConfig,
    ScanConfig,
    ServeConfig,
    SweepConfig,
    TrainConfig,
    TwinsConfig,
)
from mai_app.core.display import show_text
from mai_app.errors import MaiError

Config = (
    PrepareConfig
    | AuditConfig
    | TwinsConfig
    | TrainConfig
    | SweepConfig
    | FuseConfig
    | CalibrateConfig
    | EvaluateConfig
    | PredictConfig
    | ScanConfig
    | ServeConfig
    | ExportConfig
    | ModelsConfig
    | CardConfig
    | PushConfig
    | DemoConfig
)

DESCRIPTION: Final = (
    "MAI, the Multilayer Authenticity Identifier: tells synthetic (AI-made) images from authentic ones. "
    "Scores run from 0.01 (authentic) to 0.99 (synthetic); no score is a proof."
)
OLD_FLAGS: Final = {"--json": "json", "--jsonl": "jsonl", "--csv": "csv"}
"""Flags of version 0.1 that --format has replaced, and its value that does the same."""


@dataclass(frozen=True)
class Command:
    """One command: its options, its work on this machine, and its side of Modal where it has one."""

    config: type[Any]
    """Dataclass whose fields are the options and whose docstring is the help."""
    work: Callable[[Any], int]
    """Does it here and returns the exit code. Imports what it needs itself: torch takes seconds, --help needs none."""
    on_modal: str = ""
    """Name of the function in modal_client.py that does it there; empty: it runs on this machine only."""


DISK_ERRORS: Final = {
    errno.ENOSPC: "free some space; what is written stays whole, and the same command carries on",
    errno.EDQUOT: "free some space; what is written stays whole, and the same command carries on",
    errno.EFBIG: "the disk or the user's limit allows no larger file; choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose a place that this user may use",
    errno.EPERM: "choose a place that this user may use",
    errno.EIO: "the disk fails; check it, or choose another place",
}
"""What to do about errors of disks, which can come up wherever something is written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; `arguments` are those of the process by default."""
    # Names of files that are not UTF-8 are shown, and are valid JSON, with escapes.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        return run(lambda: _show(f"mai {__version__}"))
    if words in (["--help"], ["-h"]):
        return run(lambda: _show(overview()))
    return run(lambda: dispatch(parse(words)))


def _show(text: str) -> int:
    print(text)
    return 0


def overview() -> str:
    """What `mai --help` prints: a line a command."""
    summaries = {name: (command.config.__doc__ or "").partition("\n")[0] for name, command in COMMANDS.items()}
    lines = [f"  {name:<10} {summary}" for name, summary in summaries.items()]
    options = "  --help     Show this, or with a command its options.\n  --version  Show the version."
    return "\n".join(
        ["usage: mai COMMAND [options]", "", DESCRIPTION, "", "commands:", *lines, "", "options:", options]
    )


def parse(arguments: Sequence[str]) -> Config:
    """The command line as a config; ends the process with code 2, and says why, if it is wrong.

    Raises MaiError for a command that is not known, and for one that does not run where it is meant to.
    """
    name, words = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        if name.startswith("-"):
            meant = "; options stand after the command"
        said = f"{name!r} is no command{meant}" if name else "name a command"
        raise MaiError(f"{said}: {', '.join(COMMANDS)}; `mai --help` says what each does")
    command = COMMANDS[name]
    if not command.on_modal and any(word.partition("=")[0] in ("--on", "--detach", "--budget") for word in words):
        there = ", ".join(name for name, command in COMMANDS.items() if command.on_modal)
        raise MaiError(f"mai {name} runs on this machine only; --on, --detach and --budget are for {there}")
    import tyro  # noqa: PLC0415 - a moment that `mai --help` need not wait

    default = tyro.MISSING_NONPROP if command.config is not TrainConfig else _recipe_defaults(words)
    return cast(
        "Config",
        tyro.cli(
            command.config,
            prog=f"mai {name}",
            description=inspect.cleandoc(command.config.__doc__ or ""),
            args=_rename_old_flags(command, words),
            default=default,
            # Only switches that a recipe turns on or off need both forms.
            config=() if command.config is TrainConfig else (tyro.conf.FlagCreatePairsOff,),
        ),
    )


def _recipe_defaults(words: Sequence[str]) -> Any:
    """The options of `mai train` as the recipe that the command line names has them."""
    import tyro  # noqa: PLC0415

    named = [after for word, after in itertools.pairwise(words) if word == "--recipe"]
    named += [word.removeprefix("--recipe=") for word in words if word.startswith("--recipe=")]
    recipe = named[-1] if named and named[-1] in RECIPES else "traces"
    return TrainConfig(**{"data": tyro.MISSING, **RECIPES[recipe]})


def _rename_old_flags(command: Command, words: Sequence[str]) -> list[str]:
    """The words with flags of version 0.1 as --format; says so to standard error. Raises MaiError for several."""
    old = [word for word in words if word in OLD_FLAGS] if hasattr(command.config, "format") else []
    if len(old) > 1:
        raise MaiError(f"{' and '.join(old)} exclude each other; name one --format")
    for word in old:
        print(f"mai: {word} is now --format {OLD_FLAGS[word]}", file=sys.stderr)
    return [f"--format={OLD_FLAGS[word]}" if word in old else word for word in words]


def run(work: Callable[[], int]) -> int:
    """Do the work; what MAI refuses, and an interrupt, end in one line and an exit code instead of a traceback."""
    try:
        code = work()
        sys.stdout.flush()  # or a full disk behind it would be told by Python alone, with a traceback
        return code
    except MaiError as error:
        print(show_text(f"mai: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mai: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        _close_output()
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"mai: {where}{error.strerror}; {DISK_ERRORS[error.errno]}", file=sys.stderr)
        if error.filename is None:  # perhaps the output itself
            _close_output()
        return 2


def _close_output() -> None:
    """Let what is left of the output go nowhere: Python would complain once more when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(config: Config) -> int:
    """Do a command's work at the place that it names; returns the exit code."""
    place = getattr(config, "on", "local")
    if getattr(config, "detach", False) and place == "local":
        raise MaiError("--detach is for --on modal: work on this machine ends with its command")
    if getattr(config, "budget", 0.0) and place == "local":
        raise MaiError("--budget is for --on modal: work on this machine costs nothing")
    if place == "local":
        return command_of(config).work(config)
    try:
        # By its name: MAI on this machine needs no modal, and this package imports none.
        modal_client = importlib.import_module("modal_client")
    except ModuleNotFoundError as error:
        raise MaiError(
            f"--on {place} needs {error.name}; install MAI with `pip install .`, or run in its folder"
        ) from None
    return int(modal_client.run_command(config))


def command_of(config: Config) -> Command:
    """The command whose options these are."""
    return next(command for command in COMMANDS.values() if command.config is type(config))


def import_torch() -> None:
    """Import torch, before what else imports it, without collecting garbage meanwhile: a tenth of the time it takes.

    Of the objects that it makes, hundreds of thousands, none is garbage.
    """
    gc.disable()
    import torch  # noqa: F401, PLC0415

    gc.freeze()
    gc.enable()


def _prepare(config: PrepareConfig) -> int:
    from mai_app.data.catalogue import source_table  # noqa: PLC0415
    from mai_app.data.clean import remove_unused  # noqa: PLC0415
    from mai_app.data.prepare import prepare_sources  # noqa: PLC0415
    from mai_app.data.prepared import describe_prepared  # noqa: PLC0415

    if config.list:
        print(source_table(config))
        return 0
    if config.clean:
        print(remove_unused(config.prepared))
        return 0
    made = prepare_sources(config)
    print(f"{describe_prepared(made)}\nNext: mai audit {made.folder}; mai train --data {made.folder}")
    return 1 if made.facts["missing"] else 0


def _audit(config: AuditConfig) -> int:
    from mai_app.core.files import write_text  # noqa: PLC0415
    from mai_app.data.prepare import prepare  # noqa: PLC0415
    from mai_app.evaluation.audit import audit, exceeds_limit  # noqa: PLC0415
    from mai_app.evaluation.audit_page import html_page, text_report  # noqa: PLC0415

    prepared = prepare(config.data, config.prepared)
    report = audit(prepared.table, prepared.rejected(), str(config.data))
    report["notes"] = prepared.facts["notes"]
    out = config.out or prepared.folder / "audit"
    write_text(out / "audit.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "audit.html", html_page(report, prepared.table))
    print(f"{text_report(report)}\n\npage: {out / 'audit.html'}")
    if not config.strict:
        return 0
    if report["all"]["auroc"]["value"] is None:
        raise MaiError(f"--strict: nothing could be measured: {report['all']['reason']}")
    if exceeds_limit(report, config.limit):
        print(f"mai: the files alone reach an AUROC over {config.limit}", file=sys.stderr)
        return 3
    return 0


def _twins(config: TwinsConfig) -> int:
    from mai_app.training.twins import make_twins, summary  # noqa: PLC0415

    print(summary(make_twins(config), config))
    return 0


def _train(config: TrainConfig) -> int:
    import_torch()
    from mai_app.training.loop import train  # noqa: PLC0415

    folder = train(config)
    print(f"done: {folder}. Next: mai evaluate --data {config.data} --model {folder}")
    return 0


def _sweep(config: SweepConfig) -> int:
    from mai_app.training.sweep import exit_code, one_by_one, plan, summary, sweep  # noqa: PLC0415

    plan(config)  # a wrong --vary is refused at once, before the seconds that torch takes
    from mai_app.training.loop import train  # noqa: PLC0415

    results = sweep(config, lambda runs: one_by_one(runs, train))
    print(summary(results, config))
    return exit_code(results)


def _fuse(config: FuseConfig) -> int:
    from mai_app.training.fuse import fuse  # noqa: PLC0415

    folder = fuse(config)
    print(f"done: {folder}. Next: mai evaluate --data {config.data} --model {folder}")
    return 0


def _calibrate(config: CalibrateConfig) -> int:
    from mai_app.evaluation.calibrate import calibrate_checkpoint, text_table  # noqa: PLC0415

    path, calibration = calibrate_checkpoint(config)
    print(f"{text_table(calibration)}\n\ncalibrated: {path}. Next: mai evaluate --data {config.data} --model {path}")
    return 0


def _evaluate(config: EvaluateConfig) -> int:
    import_torch()
    from mai_app.evaluation.evaluate import evaluate  # noqa: PLC0415
    from mai_app.evaluation.report import summary  # noqa: PLC0415

    print(summary(evaluate(config)))
    return 0


def _predict(config: PredictConfig) -> int:
    import_torch()
    from mai_app.images.find import find_images  # noqa: PLC0415
    from mai_app.inference.detector import load  # noqa: PLC0415
    from mai_app.inference.prediction import show_predictions  # noqa: PLC0415

    files = find_images(paths_to_judge(config))
    detector = load(config.model, config.device, config.runs)
    if config.heatmap is None:
        rows = detector.predict(files, config.batch_size, config.workers, config.evidence)
    else:
        from mai_app.inference.heatmap import predict_with_heatmaps  # noqa: PLC0415

        rows = predict_with_heatmaps(detector, files, config.heatmap, config.workers, config.evidence)
    return show_predictions(rows, config.format, lambda: detector.facts.name)


def _scan(config: ScanConfig) -> int:
    import_torch()
    from mai_app.inference.detector import load  # noqa: PLC0415
    from mai_app.inference.scan import CHUNK_FILES, list_files, predict_chunks, scan  # noqa: PLC0415

    judge = predict_chunks(load(config.model, config.device, config.runs), config.workers)
    many = CHUNK_FILES * (os.cpu_count() or 1)  # at a chunk's end some cores wait for the last one
    counts = scan(config, judge, lambda: list_files(config.path), read=False, max_files=many)
    print(counts.summary(config.out))
    return counts.exit_code


def _serve(config: ServeConfig) -> int:
    import_torch()
    from mai_app.serve.server import serve  # noqa: PLC0415

    serve(config)
    return 0


def _export(config: ExportConfig) -> int:
    from mai_app.inference.export import export, summary  # noqa: PLC0415

    print(summary(export(config)))
    return 0


def _models(config: ModelsConfig) -> int:
    from mai_app.models.registry import list_models, table  # noqa: PLC0415

    models = list_models(config.runs)
    print(
        json.dumps([asdict(model) for model in models], indent=2)
        if config.format == "json"
        else table(models, config.runs)
    )
    return 0


def _card(config: CardConfig) -> int:
    from mai_app.evaluation.model_card import write_card  # noqa: PLC0415

    print(f"card: {write_card(config)}")
    return 0


def _push(config: PushConfig) -> int:
    from mai_app.evaluation.push import push, summary  # noqa: PLC0415

    print(summary(push(config)))
    return 0


def _demo(config: DemoConfig) -> int:
    from mai_app.demo.run import demo  # noqa: PLC0415

    demo(config)
    return 0


def paths_to_judge(config: PredictConfig) -> Iterator[str]:
    """The paths of the command line; raises MaiError if there are none and the default folder is not there."""
    from mai_app.images.find import named_paths  # noqa: PLC0415

    if not config.paths and not Path(TEST_IMAGES).is_dir():
        raise MaiError(f"nothing to predict: name files or folders, or put images into {TEST_IMAGES}/")
    return named_paths(config.paths or (TEST_IMAGES,))


COMMANDS: Final[dict[str, Command]] = {
    "prepare": Command(PrepareConfig, _prepare, on_modal="prepare"),
    "audit": Command(AuditConfig, _audit),
    "twins": Command(TwinsConfig, _twins, on_modal="twins"),
    "train": Command(TrainConfig, _train, on_modal="train"),
    "sweep": Command(SweepConfig, _sweep, on_modal="sweep"),
    "fuse": Command(FuseConfig, _fuse),
    "calibrate": Command(CalibrateConfig, _calibrate, on_modal="calibrate"),
    "evaluate": Command(EvaluateConfig, _evaluate, on_modal="evaluate"),
    "predict": Command(PredictConfig, _predict, on_modal="predict"),
    "scan": Command(ScanConfig, _scan, on_modal="scan"),
    "serve": Command(ServeConfig, _serve),
    "export": Command(ExportConfig, _export),
    "models": Command(ModelsConfig, _models),
    "card": Command(CardConfig, _card),
    "push": Command(PushConfig, _push),
    "demo": Command(DemoConfig, _demo),
}
"""All commands by name, in the order of the help: adding a command is adding a row, a config and its work."""
