"""The caller's side of MAI on Modal: uploads what is needed, says what it costs, calls, and shows the results.

It gets the app as `remote`, the module modal_app, and so imports nothing of it.
"""

import contextlib
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any

import modal
from modal.exception import AuthError, NotFoundError

from mai_app import cli
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
from mai_app.inference.prediction import Prediction, prediction_of, show_predictions
from mai_app.inference.scan import list_files, read_item
from mai_app.inference.scan import scan as scan_here
from mai_app.remote.costs import describe_cost
from mai_app.remote.payload import SIMULATED, extract_settings, unwrap
from mai_app.training import sweep as sweeps


def run_command(remote: ModuleType, config: Any) -> int:
    """Do a command with --on modal in an app of its own, or with --on hosted in the deployed one; the exit code.

    With --detach what has started there goes on when this process ends. Raises MaiError for whatever goes wrong.
    """
    results = sys.stdout
    # Modal's own progress goes to standard error, so that the output is the same as on this machine.
    with _errors_as_lines(), contextlib.redirect_stdout(sys.stderr), modal.enable_output():
        if config.on == "hosted":
            return _show_rows(remote, config, results, hosted_judge(config.model))
        with remote.app.run(detach=getattr(config, "detach", False)):
            return dispatch(remote, config, results)


def run_in_app(remote: ModuleType, config: Any) -> int:
    """The same inside `modal run`, which has started the app; errors are printed, as `mai` does."""

    def work() -> int:
        with _errors_as_lines():
            return dispatch(remote, config)

    return cli.run(work)


def dispatch(remote: ModuleType, config: Any, stream: IO[str] | None = None) -> int:
    """Hand a command to the running app and print its results to `stream`; returns the exit code."""
    work = getattr(sys.modules[__name__], cli.command_of(config).on_modal)
    return int(work(remote, config, stream))


def hosted_judge(model: str = "") -> Any:
    """The judge of the deployed app, for a run of its Volume (default: the one trained last, else MAI's own).

    `hosted_judge().remote((name, data))` gives a row, `.map(pairs)` rows in order: fields of Prediction, and "facts" of
    the model, or "mai_error". Raises MaiError where nothing is deployed.
    """
    with _errors_as_lines():
        judge = modal.Cls.from_name("mai", "Judge")
        judge.hydrate()
        return judge(model=model).judge


def prepare(remote: ModuleType, config: PrepareConfig, stream: IO[str] | None) -> int:
    """Make a prepared set on the Volume and print its summary; 1 if sources are missing."""
    # A row of the table goes before a folder of its name, as it does on this machine.
    rows = {name for source in SOURCES for name in (source.name, source.repository)}
    if config.list or any(Path(name).is_dir() for name in config.source if name not in rows):
        raise MaiError("--list and folders are for this machine; bring a folder there by training on it")
    say(describe_cost("prepare", remote.FETCHER))
    result = unwrap(remote.prepare.remote(extract_settings(config)))
    print(f"{result['summary']}\nNext: train --data {result['set']}, on Modal", file=stream)
    return 1 if result["missing"] else 0


def twins(remote: ModuleType, config: TwinsConfig, stream: IO[str] | None) -> int:
    """Make a data set of twins on the Volume."""
    say(describe_cost("twins", remote.TRAINER, containers=1))
    settings = extract_settings(config)
    result = unwrap(remote.twins.remote(_upload_data(remote, config.data), config.out.name, settings))
    print(f"{result['text']}, on Modal", file=stream)
    return 0


def train(remote: ModuleType, config: TrainConfig, stream: IO[str] | None) -> int:
    """Train on a data set of the Volume, uploaded first if it is a folder here."""
    say(describe_cost("train", remote.TRAINER, containers=1))
    data = _upload_and_decode(remote, config.data)
    say("training starts; with --detach it goes on when this machine sleeps")
    result = unwrap(remote.train.remote(data, extract_settings(config)))
    figures = result["last_epoch"]
    loss = f"val loss {figures['val_loss']:.4f}"
    print(f"done: run {result['run']} on the Volume, epoch {figures['epoch']}, {loss}", file=stream)
    return 0


def sweep(remote: ModuleType, config: SweepConfig, stream: IO[str] | None) -> int:
    """Train the runs of a sweep side by side and print their table."""
    say(describe_cost("sweep", remote.TRAINER, containers=len(sweeps.plan(config))))
    result = unwrap(remote.run_sweep.remote(_upload_and_decode(remote, config.data), extract_settings(config)))
    results = [sweeps.Result(**row) for row in result["results"]]
    print(sweeps.summary(results, config), file=stream)
    return sweeps.exit_code(results)


def calibrate(remote: ModuleType, config: CalibrateConfig, stream: IO[str] | None) -> int:
    """Calibrate a run of the Volume."""
    say(describe_cost("calibrate", remote.EVALUATOR))
    result = unwrap(remote.calibrate.remote(_upload_data(remote, config.data), extract_settings(config)))
    print(f"{result['text']}\n\ncalibrated: run {result['run']} on the Volume", file=stream)
    return 0


def evaluate(remote: ModuleType, config: EvaluateConfig, stream: IO[str] | None) -> int:
    """Evaluate a run of the Volume and download its report."""
    say(describe_cost("evaluate", remote.EVALUATOR))
    settings = extract_settings(config)
    report = unwrap(remote.evaluate.remote(_upload_data(remote, config.data), settings))
    there = PurePosixPath(report["folder"]).relative_to(remote.VOLUME)
    here = config.out or config.runs / there.relative_to("runs")
    for name in ("report.json", "report.html"):
        write_bytes(here / name, b"".join(remote.volume.read_file(str(there / name))))
    from mai_app.evaluation.report import summary  # noqa: PLC0415 - imports matplotlib

    print(summary(report | {"folder": str(here)}), file=stream)
    return 0


def predict(remote: ModuleType, config: PredictConfig, stream: IO[str] | None) -> int:
    """Predict files of this machine in an app of its own."""
    return _show_rows(remote, config, stream, remote.Judge(model=config.model).judge)


def _show_rows(remote: ModuleType, config: PredictConfig, stream: IO[str] | None, judge: Any) -> int:
    if config.heatmap is not None:
        raise MaiError("--heatmap runs on the local machine only; leave out --on")
    say(describe_cost("predict", remote.JUDGE))
    # What can't be read here goes along as the error to report.
    files = (f if isinstance(f, ImageError) else read_item(str(f)) for f in find_images(cli.paths_to_judge(config)))

    def rows() -> Iterator[Prediction]:
        for row in _mapped(judge, files):
            del row["facts"]
            yield prediction_of(row if config.evidence else row | {"evidence": None})

    return show_predictions(rows(), config.format, stream)


def _mapped(function: Any, inputs: Iterator[Any], **how: Any) -> Iterator[Any]:
    """Results of a remote map; after the first error nothing more is sent, and it is raised when the rest has come."""
    errors: list[dict[str, Any]] = []

    def wanted(_input: Any) -> bool:
        return not errors

    # To leave the loop early would leave tasks of the client behind, which complain at the end.
    for result in function.map(takewhile(wanted, inputs), **how):
        rows = result if isinstance(result, list) else [result]
        errors += [row for row in rows if isinstance(row, dict) and "mai_error" in row]
        if not errors:
            yield result
    if errors:
        unwrap(errors[0])


def scan(remote: ModuleType, config: ScanConfig, stream: IO[str] | None) -> int:
    """Predict the files of a folder or list, here or on the Volume, in many containers."""
    say(describe_cost("scan", remote.SCANNER))
    judge = remote.Scanner(model=config.model).judge

    def judged(chunks: Iterator[Any]) -> Iterator[list[dict[str, Any]] | Exception]:
        yield from _mapped(judge, chunks, order_outputs=False, return_exceptions=True)

    is_here = Path(config.path).exists()
    names = [] if is_here else [name for part in remote.list_images.remote_gen(config.path) for name in part]
    for error in [name for name in names if isinstance(name, dict)]:
        unwrap(error)
    counts = scan_here(config, judged, lambda: list_files(config.path) if is_here else names, read=is_here)
    print(counts.summary(config.out), file=stream)
    return counts.exit_code


def _upload_and_decode(remote: ModuleType, data: Path) -> str:
    """Bring a data set to the Volume and decode its images there, without a GPU; returns its name."""
    say(describe_cost("decoding", remote.DECODER))
    name = _upload_data(remote, data)
    unwrap(remote.prepare_folder.remote(name))
    return name


def _upload_data(remote: ModuleType, data: Path) -> str:
    """Name of a data set on the Volume, after uploading it if it is a folder here."""
    if str(data) == SIMULATED:
        remote.make_demo_data.remote(DemoConfig.scenes, DemoConfig.seed)
    elif data.is_dir():
        name = data.resolve().name
        say(f"uploading {data} to data/{name} on the Volume (unchanged files are not sent again)")
        with remote.volume.batch_upload(force=True) as batch:
            batch.put_directory(data, str(PurePosixPath("/data") / name))
        return name
    return str(data)


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Raise whatever goes wrong, here or on Modal, as a MaiError, which prints as one line."""
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
