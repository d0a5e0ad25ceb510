"""The caller's side of MAI on Modal: brings what is needed there, says what is hired, and shows what comes back."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import modal
from mai_app.inference.output import chosen_format, show_predictions, show_report, show_scan, show_sweep
from modal.exception import AuthError, NotFoundError

import modal_app
from mai_app.cli import Config, parse, paths_to_judge, run
from mai_app.config import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PredictConfig,
    PrepareConfig,
    ScanConfig,
    SweepConfig,
    TrainConfig,
    TwinsConfig,
)
from mai_app.core.files import write_bytes
from mai_app.core.log import say
from mai_app.data.sources import SOURCES
from mai_app.errors import ImageError, MaiError
from mai_app.images.find import find_images
from mai_app.inference.prediction import Prediction, prediction_of
from mai_app.inference.scan import list_files, read_item
from mai_app.inference.scan import scan as scan_here
from mai_app.remote.costs import hire
from mai_app.training.sweep import Result, plan
from modal_app import DEMO, PLACES, answer, settings_of, volume


def run_there(config: Config, detach: bool = False, hosted: bool = False) -> int:
    """What mai_app.cli.run_here does, on Modal; returns the exit code.

    With `detach` what has been started there goes on when this process ends; with `hosted` predict uses the app that
    is deployed, instead of one of its own. Raises MaiError for whatever goes wrong, here or there.
    """
    results = sys.stdout
    # Modal's own progress goes the other way, so that the output is the same as here.
    with _said(), contextlib.redirect_stdout(sys.stderr), modal.enable_output():
        if hosted:
            if not isinstance(config, PredictConfig):
                raise MaiError("the hosted app is for predict; --on modal runs this command in an app of its own")
            return _predict(config, results, hosted_judge(config.model))
        with modal_app.app.run(detach=detach):
            return dispatch(config, results)


def run_in_app(config: Config) -> int:
    """The same inside `modal run`, which has started the app."""

    def work(config: Config) -> int:
        with _said():
            return dispatch(config)

    return run(config, work)


def scan_there(path: str, out: str, model: str) -> int:
    """`modal run modal_app.py::scan`; returns the exit code."""
    return run(ScanConfig(path=path, out=Path(out), model=model), run_there)


def sweep_there(data: str, vary: str, seeds: int, name: str, detach: bool) -> int:
    """`modal run modal_app.py::sweep`; settings to vary are separated by semicolons; returns the exit code."""
    words = [word for part in vary.split(";") if part.strip() for word in ("--vary", part.strip())]
    config = parse(["sweep", "--data", data, *words, "--seeds", str(seeds), "--name", name])
    return run(config, lambda config: run_there(config, detach))


def hosted_judge(model: str = "") -> Any:
    """The judge of the deployed app, for a run of its Volume (default: the one trained last, else MAI's own).

    `hosted_judge().remote((name, data))` gives a row, `.map(pairs)` rows in order: fields of Prediction, and "facts" of
    the model, or "mai_error". Raises MaiError where nothing is deployed.
    """
    with _said():
        judge = modal.Cls.from_name("mai", "Judge")
        judge.hydrate()
        return judge(model=model).judge


def dispatch(config: Config, stream: IO[str] | None = None) -> int:
    """Hand a command to the running app and show what comes back; returns the exit code."""
    work: dict[type, Callable[[Any, IO[str] | None], int]] = {
        PrepareConfig: _prepare,
        TwinsConfig: _twins,
        TrainConfig: _train,
        SweepConfig: _sweep,
        CalibrateConfig: _calibrate,
        EvaluateConfig: _evaluate,
        PredictConfig: _predict_there,
        ScanConfig: _scan,
    }
    if type(config) not in work:
        words = "this command runs on the local machine only; `modal run modal_app.py` trains on simulated images"
        raise MaiError(words)
    return work[type(config)](config, stream)


def _prepare(config: PrepareConfig, stream: IO[str] | None) -> int:
    # A row of the table goes before a folder of its name, as it does on this machine.
    rows = {name for source in SOURCES for name in (source.name, source.repository)}
    if config.list or any(Path(name).is_dir() for name in config.source if name not in rows):
        raise MaiError("--list and folders are for this machine; bring a folder there by training on it")
    say(hire("prepare", modal_app.FETCHER))
    result = answer(modal_app.prepare.remote(settings_of(config, "prepared")))
    print(f"{result['summary']}\nNext: train --data {result['set']}, on Modal", file=stream)
    return 1 if result["missing"] else 0


def _twins(config: TwinsConfig, stream: IO[str] | None) -> int:
    say(hire("twins", modal_app.TRAINER, containers=1))
    settings = settings_of(config, *PLACES, "out")
    result = answer(modal_app.twins.remote(_data_on_volume(config.data), config.out.name, settings))
    print(f"{result['text']}, on Modal", file=stream)
    return 0


def _train(config: TrainConfig, stream: IO[str] | None) -> int:
    say(hire("train", modal_app.TRAINER, containers=1))
    data = _prepared_on_volume(config.data)
    say("training starts; with --detach it goes on when this machine sleeps")
    result = answer(modal_app.train.remote(data, settings_of(config, *PLACES)))
    figures = result["last_epoch"]
    loss = f"val loss {figures['val_loss']:.4f}"
    print(f"done: run {result['run']} on the Volume, epoch {figures['epoch']}, {loss}", file=stream)
    return 0


def _sweep(config: SweepConfig, stream: IO[str] | None) -> int:
    say(hire("sweep", modal_app.TRAINER, containers=len(plan(config))))
    result = answer(modal_app.run_sweep.remote(_prepared_on_volume(config.data), settings_of(config, *PLACES)))
    return show_sweep([Result(**row) for row in result["results"]], config, stream)


def _calibrate(config: CalibrateConfig, stream: IO[str] | None) -> int:
    say(hire("calibrate", modal_app.EVALUATOR))
    result = answer(modal_app.calibrate.remote(_data_on_volume(config.data), settings_of(config, *PLACES)))
    print(f"{result['text']}\n\ncalibrated: run {result['run']} on the Volume", file=stream)
    return 0


def _evaluate(config: EvaluateConfig, stream: IO[str] | None) -> int:
    say(hire("evaluate", modal_app.EVALUATOR))
    settings = settings_of(config, *PLACES, "out")
    report = answer(modal_app.evaluate.remote(_data_on_volume(config.data), settings))
    there = PurePosixPath(report["folder"]).relative_to(modal_app.VOLUME)
    here = config.out or config.runs / there.relative_to("runs")
    for name in ("report.json", "report.html"):
        write_bytes(here / name, b"".join(volume.read_file(str(there / name))))
    show_report(report | {"folder": str(here)}, stream)
    return 0


def _predict_there(config: PredictConfig, stream: IO[str] | None) -> int:
    return _predict(config, stream, modal_app.Judge(model=config.model).judge)  # type: ignore[call-arg]


def _predict(config: PredictConfig, stream: IO[str] | None, judge: Any) -> int:
    if config.heatmap is not None:
        raise MaiError("--heatmap runs on the local machine only; leave out --on")
    say(hire("predict", modal_app.JUDGE))
    # What can't be read here goes along as the error to report.
    files = (f if isinstance(f, ImageError) else read_item(str(f)) for f in find_images(paths_to_judge(config)))

    def rows() -> Iterator[Prediction]:
        for row in _mapped(judge, files):
            del row["facts"]
            yield prediction_of(row if config.evidence else row | {"evidence": None})

    return show_predictions(rows(), chosen_format(config), stream)


def _mapped(function: Any, inputs: Iterator[Any], **how: Any) -> Iterator[Any]:
    """Results of a remote map; at a refusal nothing more is sent, what is under way is waited for, and it is raised."""
    refused: list[dict[str, Any]] = []

    def wanted(_input: Any) -> bool:
        return not refused

    # To leave the loop early would leave tasks of the client behind, which complain at the end.
    for result in function.map(takewhile(wanted, inputs), **how):
        rows = result if isinstance(result, list) else [result]
        refused += [row for row in rows if isinstance(row, dict) and "mai_error" in row]
        if not refused:
            yield result
    if refused:
        answer(refused[0])


def _scan(config: ScanConfig, stream: IO[str] | None) -> int:
    say(hire("scan", modal_app.SCANNER))
    judge = modal_app.Scanner(model=config.model).judge  # type: ignore[call-arg]

    def judged(chunks: Iterator[Any]) -> Iterator[list[dict[str, Any]] | Exception]:
        yield from _mapped(judge, chunks, order_outputs=False, return_exceptions=True)

    is_here = Path(config.path).exists()
    names = [] if is_here else [name for part in modal_app.list_images.remote_gen(config.path) for name in part]
    for refused in [name for name in names if isinstance(name, dict)]:
        answer(refused)
    counts = scan_here(config, judged, lambda: list_files(config.path) if is_here else names, read=is_here)
    return show_scan(counts, config.out, stream)


def _prepared_on_volume(data: Path) -> str:
    """Name of a data set on the Volume whose images are decoded: a GPU need not wait for that."""
    say(hire("decoding", modal_app.DECODER))
    name = _data_on_volume(data)
    answer(modal_app.prepare_folder.remote(name))
    return name


def _data_on_volume(data: Path) -> str:
    """Name of a data set on the Volume: a folder that is here is brought there first."""
    if str(data) == DEMO:
        modal_app.make_demo_data.remote(DemoConfig.scenes, DemoConfig.seed)
    elif data.is_dir():
        name = data.resolve().name
        say(f"bringing {data} to data/{name} on the Volume (what is there already is not sent again)")
        with volume.batch_upload(force=True) as batch:
            batch.put_directory(data, str(PurePosixPath("/data") / name))
        return name
    return str(data)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Whatever goes wrong on the way or over there becomes one line."""
    try:
        yield
    except MaiError:
        raise
    except AuthError as error:
        raise MaiError(f"no Modal account is set up here ({error}); run `modal setup`") from None
    except NotFoundError as error:
        raise MaiError(f"not found on Modal ({error}); `modal deploy modal_app.py` hosts the app") from None
    except (OSError, EOFError):
        raise
    except Exception as error:
        # Its own log, with the place in the code, has been shown above.
        raise MaiError(f"on Modal: {type(error).__name__}: {error}") from None
