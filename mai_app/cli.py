"""The `mai` command: reads the command line, calls what does the work, shows the result."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from mai_app import __version__
from mai_app.config import (
    TEST_IMAGES,
    AuditConfig,
    CalibrateConfig,
    CardConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ModelsConfig,
    PredictConfig,
    PrepareConfig,
    ScanConfig,
    ServeConfig,
    SweepConfig,
    TrainConfig,
    TwinsConfig,
)
from mai_app.errors import ImageError, MaiError
from mai_app.inference.output import chosen_format, show_predictions, show_report, show_scan, show_sweep

if TYPE_CHECKING:
    from mai_app.inference.scan import Chunk

Config = (
    PrepareConfig
    | AuditConfig
    | TwinsConfig
    | TrainConfig
    | SweepConfig
    | CalibrateConfig
    | EvaluateConfig
    | PredictConfig
    | ScanConfig
    | ServeConfig
    | ExportConfig
    | ModelsConfig
    | CardConfig
    | DemoConfig
)

DESCRIPTION: Final = (
    "MAI, the Multilayer Authenticity Identifier: tells synthetic (AI-made) images from authentic ones. "
    "Scores run from 0.01 (authentic) to 0.99 (synthetic); no score is a proof."
)

_Command = (
    Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
    | Annotated[AuditConfig, tyro.conf.subcommand("audit")]
    | Annotated[TwinsConfig, tyro.conf.subcommand("twins")]
    | Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
    | Annotated[CalibrateConfig, tyro.conf.subcommand("calibrate")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[PredictConfig, tyro.conf.subcommand("predict")]
    | Annotated[ScanConfig, tyro.conf.subcommand("scan")]
    | Annotated[ServeConfig, tyro.conf.subcommand("serve")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[ModelsConfig, tyro.conf.subcommand("models")]
    | Annotated[CardConfig, tyro.conf.subcommand("card")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


def main(arguments: Sequence[str] | None = None, work: Callable[[Config], int] | None = None) -> int:
    """Run one command, here unless `work` does it elsewhere; returns the exit code."""
    # Names of files that are not UTF-8 are shown, and are valid JSON, with escapes.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"mai {__version__}")
        return 0
    return run(parse(words), work or run_here)


def parse(arguments: Sequence[str], program: str = "mai") -> Config:
    """The command line as a config; ends the process with code 2, and says why, if it is wrong."""
    config: Config = tyro.cli(
        _Command,
        prog=program,
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return config


def run(config: Config, work: Callable[[Config], int]) -> int:
    """Do the work; what MAI refuses, and an interrupt, end in one line and an exit code instead of a traceback."""
    try:
        return work(config)
    except MaiError as error:
        print(f"mai: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mai: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_here(config: Config) -> int:
    """Do a command's work on this machine; returns the exit code."""
    # A function a command, each with its own imports: torch takes seconds, and --help needs none of them.
    work: dict[type, Callable[[Any], int]] = {
        PrepareConfig: _prepare,
        AuditConfig: _audit,
        TwinsConfig: _twins,
        TrainConfig: _train,
        SweepConfig: _sweep,
        CalibrateConfig: _calibrate,
        EvaluateConfig: _evaluate,
        PredictConfig: _predict,
        ScanConfig: _scan,
        ServeConfig: _serve,
        ExportConfig: _export,
        ModelsConfig: _models,
        CardConfig: _card,
        DemoConfig: _demo,
    }
    return work[type(config)](config)


def _prepare(config: PrepareConfig) -> int:
    from mai_app.data.prepare import prepare_sources  # noqa: PLC0415
    from mai_app.data.summary import source_table, summary  # noqa: PLC0415

    if config.list:
        print(source_table())
        return 0
    made = prepare_sources(config)
    print(f"{summary(made)}\nNext: mai audit {made.folder}; mai train --data {made.folder}")
    return 1 if made.facts["missing"] else 0


def _audit(config: AuditConfig) -> int:
    from mai_app.core.files import write_text  # noqa: PLC0415
    from mai_app.data.prepare import prepare  # noqa: PLC0415
    from mai_app.evaluation.audit import audit, over  # noqa: PLC0415
    from mai_app.evaluation.audit_page import html_page, text  # noqa: PLC0415

    prepared = prepare(config.data, config.prepared)
    report = audit(prepared.table, prepared.refused(), str(config.data))
    out = config.out or prepared.folder / "audit"
    write_text(out / "audit.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "audit.html", html_page(report, prepared.table))
    print(f"{text(report)}\n\npage: {out / 'audit.html'}")
    if not config.strict:
        return 0
    if report["all"]["auroc"]["value"] is None:
        raise MaiError(f"--strict: nothing could be measured: {report['all']['reason']}")
    if over(report, config.limit):
        print(f"mai: the files alone reach an AUROC over {config.limit}", file=sys.stderr)
        return 3
    return 0


def _twins(config: TwinsConfig) -> int:
    from mai_app.training.twins import make_twins, summary  # noqa: PLC0415

    print(summary(make_twins(config), config))
    return 0


def _train(config: TrainConfig) -> int:
    from mai_app.training.loop import train  # noqa: PLC0415

    folder = train(config)
    print(f"done: {folder}. Next: mai evaluate --data {config.data} --model {folder}")
    return 0


def _sweep(config: SweepConfig) -> int:
    from mai_app.training.sweep import one_by_one, plan, sweep  # noqa: PLC0415

    plan(config)  # a wrong --vary is refused at once, before the seconds that torch takes
    from mai_app.training.loop import train  # noqa: PLC0415

    return show_sweep(sweep(config, lambda runs: one_by_one(runs, train)), config)


def _calibrate(config: CalibrateConfig) -> int:
    from mai_app.evaluation.calibrate import recalibrate, text_table  # noqa: PLC0415

    path, calibration = recalibrate(config)
    print(f"{text_table(calibration)}\n\ncalibrated: {path}. Next: mai evaluate --data {config.data} --model {path}")
    return 0


def _evaluate(config: EvaluateConfig) -> int:
    from mai_app.evaluation.evaluate import evaluate  # noqa: PLC0415

    show_report(evaluate(config))
    return 0


def _predict(config: PredictConfig) -> int:
    from mai_app.images.find import find_images  # noqa: PLC0415
    from mai_app.inference.detector import load  # noqa: PLC0415

    form = chosen_format(config)
    paths = paths_to_judge(config)
    detector = load(config.model, config.device, config.runs)
    files = find_images(paths)
    if config.heatmap is None:
        return show_predictions(detector.predict(files, config.batch_size, config.workers, config.evidence), form)
    from mai_app.inference.heatmap import is_heatmap, write_heatmaps  # noqa: PLC0415

    # Run again, a folder that holds the heatmaps has more images than the user put there.
    maps = config.heatmap
    own = (file for file in files if isinstance(file, ImageError) or not is_heatmap(file, maps))
    rows = detector.predict(own, config.batch_size, config.workers, config.evidence)
    return show_predictions(write_heatmaps(detector, rows, maps), form)


def _scan(config: ScanConfig) -> int:
    from mai_app.inference.detector import load  # noqa: PLC0415
    from mai_app.inference.scan import list_files, scan  # noqa: PLC0415

    detector = load(config.model, config.device, config.runs)

    def judge(chunks: "Iterator[Chunk]") -> Iterator[list[dict[str, Any]] | Exception]:
        for chunk in chunks:
            try:
                answer = [asdict(prediction) for prediction in detector.predict(chunk, len(chunk), config.workers)]
            except Exception as error:  # whatever one file did to its chunk, the others go on
                yield error
            else:
                yield answer

    return show_scan(scan(config, judge, lambda: list_files(config.path), read=False), config.out)


def _serve(config: ServeConfig) -> int:
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
    print(json.dumps([asdict(model) for model in models], indent=2) if config.json else table(models, config.runs))
    return 0


def _card(config: CardConfig) -> int:
    from mai_app.evaluation.model_card import write_card  # noqa: PLC0415

    print(f"card: {write_card(config)}")
    return 0


def _demo(config: DemoConfig) -> int:
    from mai_app.demo.run import demo  # noqa: PLC0415

    demo(config)
    return 0


def paths_to_judge(config: PredictConfig) -> Iterable[str]:
    """The paths of the command line, with - replaced by the list on standard input, as it comes."""
    if not config.paths and not Path(TEST_IMAGES).is_dir():
        raise MaiError(f"nothing to judge: name files or folders, or put images into {TEST_IMAGES}/")
    return _listed(config.paths or (TEST_IMAGES,))


def _listed(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name == "-":
            for line in sys.stdin.buffer:
                if line.strip():
                    yield os.fsdecode(line.rstrip(b"\r\n"))
        else:
            yield name
