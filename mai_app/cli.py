"""The `mai` command: reads the command line, calls what does the work, shows the result."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import tyro

from mai_app import __version__
from mai_app.config import (
    TEST_IMAGES,
    AuditConfig,
    DemoConfig,
    EvaluateConfig,
    PredictConfig,
    PrepareConfig,
    ScanConfig,
    SweepConfig,
    TrainConfig,
)
from mai_app.errors import MaiError
from mai_app.prediction import Format, Prediction, write_rows

if TYPE_CHECKING:
    from mai_app.scan import Chunk, ScanCounts
    from mai_app.sweep import Result

Config = (
    PrepareConfig | AuditConfig | TrainConfig | SweepConfig | EvaluateConfig | PredictConfig | ScanConfig | DemoConfig
)

DESCRIPTION: Final = (
    "MAI, the Multilayer Authenticity Identifier: tells synthetic (AI-made) images from authentic ones. "
    "Scores run from 0 (authentic) to 1 (synthetic); no score is a proof."
)

_Command = (
    Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
    | Annotated[AuditConfig, tyro.conf.subcommand("audit")]
    | Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[PredictConfig, tyro.conf.subcommand("predict")]
    | Annotated[ScanConfig, tyro.conf.subcommand("scan")]
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
        TrainConfig: _train,
        SweepConfig: _sweep,
        EvaluateConfig: _evaluate,
        PredictConfig: _predict,
        ScanConfig: _scan,
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
    from mai_app.atomic import write_text  # noqa: PLC0415
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


def _train(config: TrainConfig) -> int:
    from mai_app.train import train  # noqa: PLC0415

    folder = train(config)
    print(f"done: {folder}. Next: mai evaluate --data {config.data} --model {folder}")
    return 0


def _sweep(config: SweepConfig) -> int:
    from mai_app.sweep import one_by_one, plan, sweep  # noqa: PLC0415

    plan(config)  # a wrong --vary is refused at once, before the seconds that torch takes
    from mai_app.train import train  # noqa: PLC0415

    return show_sweep(sweep(config, lambda runs: one_by_one(runs, train)), config)


def _evaluate(config: EvaluateConfig) -> int:
    from mai_app.evaluation.evaluate import evaluate  # noqa: PLC0415

    show_report(evaluate(config))
    return 0


def _predict(config: PredictConfig) -> int:
    from mai_app.data.folders import find_images  # noqa: PLC0415
    from mai_app.predict import load  # noqa: PLC0415

    form = chosen_format(config)
    paths = paths_to_judge(config)
    detector = load(config.model, config.device, config.runs)
    return show_predictions(detector.predict(find_images(paths), config.batch_size, config.workers), form)


def _scan(config: ScanConfig) -> int:
    from mai_app.predict import load  # noqa: PLC0415
    from mai_app.scan import list_files, scan  # noqa: PLC0415

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


def _demo(config: DemoConfig) -> int:
    from mai_app.demo import demo  # noqa: PLC0415

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


def chosen_format(config: PredictConfig) -> Format:
    """The form in which predictions are printed; raises MaiError if several are asked for."""
    asked: dict[Format, bool] = {"json": config.json, "jsonl": config.jsonl, "csv": config.csv}
    forms = [form for form, wanted in asked.items() if wanted]
    if len(forms) > 1:
        raise MaiError(f"--{' and --'.join(forms)} exclude each other")
    return forms[0] if forms else "table"


def show_predictions(predictions: Iterable[Prediction], form: Format, stream: IO[str] | None = None) -> int:
    """Print predictions as they come; returns 0 if all files were judged, 1 if some were not, 2 if none was."""
    judged = failed = 0
    for prediction in write_rows(predictions, form, stream or sys.stdout):
        judged += prediction.error is None
        failed += prediction.error is not None
    if failed:
        print(f"mai: {failed} of {judged + failed} files could not be judged", file=sys.stderr)
    elif not judged:
        print("mai: no file was named", file=sys.stderr)
    return 2 if not judged else 1 if failed else 0


def show_scan(counts: "ScanCounts", out: Path, stream: IO[str] | None = None) -> int:
    """Print what a scan's rows say in all; returns 0 if all files were judged, 1 if some were not, 2 if none was."""
    print(
        f"{counts.files} files: {counts.authentic} authentic, {counts.unsure} unsure, {counts.synthetic} synthetic, "
        f"{counts.failed} not judged; rows in {out}",
        file=stream,
    )
    return 2 if not counts.judged else 1 if counts.failed else 0


def show_sweep(results: "Sequence[Result]", config: SweepConfig, stream: IO[str] | None = None) -> int:
    """Print a sweep's table, and where its file is; returns 0 if all runs finished, 1 if some did not, 2 if none."""
    from mai_app.sweep import json_path, table  # noqa: PLC0415

    print(f"{table(results)}\n\nresults: {json_path(config)}", file=stream)
    failed = sum(result.error is not None for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


def show_report(report: dict[str, Any], stream: IO[str] | None = None) -> None:
    """Print a report's tables, and where its page is."""
    from mai_app.evaluation.report import text_tables  # noqa: PLC0415

    print(f"{text_tables(report)}\n\npage: {Path(report['folder']) / 'report.html'}", file=stream)
