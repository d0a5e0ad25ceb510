"""The caller's side of MAI on Modal: uploads data, states the costs, calls remote functions and shows the results.

modal_app.py hands itself over as `app`: it imports this module, so this module must not import it.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any, cast

import modal
from modal.exception import AuthError, NotFoundError

from mai_app.cli import command_of, parse, paths_to_judge
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
    from_recipe,
)
from mai_app.core.files import write_bytes
from mai_app.core.log import say
from mai_app.data.sources import SOURCES
from mai_app.errors import ImageError, MaiError
from mai_app.images.find import find_images, walk_images
from mai_app.inference.prediction import Prediction, prediction_of, show_predictions
from mai_app.inference.scan import list_files, read_item
from mai_app.inference.scan import scan as scan_here
from mai_app.remote.costs import describe_cost
from mai_app.remote.payload import DEMO, Payload, extract_settings, unwrap
from mai_app.training.sweep import Result, exit_code, plan, summary

Output = IO[str] | None
"""Where a command's results are written; None: standard output."""


def run_command(config: Any, app: ModuleType) -> int:
    """Run a command on Modal; `config.on` is "modal", or "hosted" for the deployed app. Returns the exit code.

    With `config.detach` work that has started there goes on when this process ends. Raises MaiError for everything
    that goes wrong, here or there.
    """
    results = sys.stdout
    # Modal shows its progress on standard error, so that standard output is the same as on this machine.
    with raise_as_mai_error(), contextlib.redirect_stdout(sys.stderr), modal.enable_output():
        if config.on == "hosted":
            return _show_predictions(config, results, hosted_judge(config.model), app)
        command: Callable[[Any, ModuleType, Output], int] = globals()[command_of(config).on_modal]
        with app.app.run(detach=getattr(config, "detach", False)):
            return command(config, app, results)


def hosted_judge(model: str = "") -> Any:
    """The remote function of the deployed app that scores files with a run of its Volume.

    `model`: name of the run; default: the run trained last, else MAI's own model. `hosted_judge().remote((name, data))`
    returns a row, `.map(pairs)` rows in order: the fields of Prediction, and "facts" of the model; or "mai_error".
    Raises MaiError if nothing is deployed.
    """
    with raise_as_mai_error():
        judge = modal.Cls.from_name("mai", "Judge")
        judge.hydrate()
        return judge(model=model).judge


def prepare(config: PrepareConfig, app: ModuleType, output: Output) -> int:
    """Make a prepared set on the Volume; exit code 1 if a source is missing."""
    # A row of the table takes precedence over a folder of its name, as on this machine.
    rows = {name for source in SOURCES for name in (source.name, source.repository)}
    if config.list or any(Path(name).is_dir() for name in config.source if name not in rows):
        raise MaiError("--list and folders are for this machine; bring a folder there by training on it")
    say(describe_cost("prepare", app.FETCHER))
    result = unwrap(app.prepare.remote(extract_settings(config)))
    print(f"{result['summary']}\nNext: mai train --data {result['set']} --on modal", file=output)
    return 1 if result["missing"] else 0


def twins(config: TwinsConfig, app: ModuleType, output: Output) -> int:
    """Make a data set with synthetic twins on the Volume, under the name of the folder --out."""
    say(describe_cost("twins", app.TRAINER, containers=1))
    data = upload_data(config.data, app)
    result = unwrap(app.twins.remote(data, config.out.name, extract_settings(config, "out")))
    print(f"{result['text']}, on Modal", file=output)
    return 0


def train(config: TrainConfig, app: ModuleType, output: Output) -> int:
    """Train a run on the Volume."""
    return show_training(app.train.remote(*prepare_training(config, app)), output)


def training_config(data: str, recipe: str, name: str, epochs: int) -> TrainConfig:
    """What `modal run modal_app.py` trains: a recipe on a data set, or the demo's settings on simulated images."""
    if not data:
        settings = {"epochs": epochs or DemoConfig.epochs, "learning_rate": DemoConfig.learning_rate, "name": name}
        return from_recipe("baseline", Path(DEMO), **settings)
    words = [f"--data={data}", f"--recipe={recipe}", f"--name={name}"]
    return cast("TrainConfig", parse(["train", *words, *([f"--epochs={epochs}"] if epochs else [])]))


def prepare_training(config: TrainConfig, app: ModuleType) -> tuple[str, dict[str, Any]]:
    """Bring a training's data to the Volume and decode it; returns the arguments of the remote train function."""
    say(describe_cost("train", app.TRAINER, containers=1))
    data = _upload_decoded(config.data, app)
    say("training starts; with --detach it goes on when this machine sleeps")
    return data, extract_settings(config)


def show_training(result: Payload, output: Output = None) -> int:
    """Show what the remote train function returned."""
    result = unwrap(result)
    last = result["last_epoch"]
    print(
        f"done: run {result['run']} on the Volume, epoch {last['epoch']}, val loss {last['val_loss']:.4f}", file=output
    )
    return 0


def sweep(config: SweepConfig, app: ModuleType, output: Output) -> int:
    """Train several settings by several seeds on the Volume, and show the table."""
    say(describe_cost("sweep", app.TRAINER, containers=len(plan(config))))
    result = unwrap(app.run_sweep.remote(_upload_decoded(config.data, app), extract_settings(config)))
    results = [Result(**row) for row in result["results"]]
    print(summary(results, config), file=output)
    return exit_code(results)


def calibrate(config: CalibrateConfig, app: ModuleType, output: Output) -> int:
    """Calibrate a run of the Volume."""
    say(describe_cost("calibrate", app.EVALUATOR))
    result = unwrap(app.calibrate.remote(upload_data(config.data, app), extract_settings(config)))
    print(f"{result['text']}\n\ncalibrated: run {result['run']} on the Volume", file=output)
    return 0


def evaluate(config: EvaluateConfig, app: ModuleType, output: Output) -> int:
    """Evaluate a run of the Volume, and download the report to --out, or else to the run's folder below --runs."""
    say(describe_cost("evaluate", app.EVALUATOR))
    result = unwrap(app.evaluate.remote(upload_data(config.data, app), extract_settings(config, "out")))
    there = PurePosixPath(result["folder"])
    here = config.out or config.runs / there.relative_to("runs")
    for name in ("report.json", "report.html"):
        write_bytes(here / name, b"".join(app.volume.read_file(str(there / name))))
    print(f"{result['text']}\n\npage: {here / 'report.html'}", file=output)
    return 0


def predict(config: PredictConfig, app: ModuleType, output: Output) -> int:
    """Score files of this machine with a run of the Volume."""
    return _show_predictions(config, output, app.Judge(model=config.model).judge, app)


def _show_predictions(config: PredictConfig, output: Output, judge: Any, app: ModuleType) -> int:
    if config.heatmap is not None:
        raise MaiError("--heatmap runs on the local machine only; leave out --on")
    say(describe_cost("predict", app.JUDGE))
    # An ImageError goes along too: it becomes the row that reports it.
    files = (f if isinstance(f, ImageError) else read_item(str(f)) for f in find_images(paths_to_judge(config)))

    def rows() -> Iterator[Prediction]:
        for row in _map_remote(judge, files):
            del row["facts"]
            yield prediction_of(row if config.evidence else row | {"evidence": None})

    return show_predictions(rows(), config.format, output)


def scan(config: ScanConfig, app: ModuleType, output: Output) -> int:
    """Score thousands of files, of this machine or of the Volume, into a file of rows here."""
    say(describe_cost("scan", app.SCANNER))
    judge = app.Scanner(model=config.model).judge

    def judged(chunks: Iterator[Any]) -> Iterator[list[dict[str, Any]] | Exception]:
        yield from _map_remote(judge, chunks, order_outputs=False, return_exceptions=True)

    is_here = Path(config.path).exists()
    names = [] if is_here else [name for part in app.list_images.remote_gen(config.path) for name in part]
    for error in [name for name in names if isinstance(name, dict)]:
        unwrap(error)
    counts = scan_here(config, judged, lambda: list_files(config.path) if is_here else names, read=is_here)
    print(counts.summary(config.out), file=output)
    return counts.exit_code


def upload_data(data: Path, app: ModuleType) -> str:
    """Return the name of a data set on the Volume, after uploading a folder that is on this machine.

    The name of the simulated data set means that one: it is made there.
    """
    if str(data) == DEMO:
        app.make_demo_data.remote(DEMO, DemoConfig.scenes, DemoConfig.seed)
    elif data.is_dir():
        name = data.resolve().name
        say(f"uploading {data} to data/{name} on the Volume (files that are there already are not sent again)")
        with app.volume.batch_upload(force=True) as batch:
            there = PurePosixPath("/data") / name
            batch.put_directory(data, str(there))
            # Modal's search does not follow linked folders, MAI's does.
            is_linked = cache(lambda folder: folder.resolve() != data.resolve() / folder.relative_to(data))
            for path in walk_images(data):
                if is_linked(path.parent):
                    batch.put_file(path, str(there / PurePosixPath(*path.relative_to(data).parts)))
        return name
    return str(data)


def _upload_decoded(data: Path, app: ModuleType) -> str:
    """The same with the images decoded there, so that no GPU waits for it."""
    say(describe_cost("decoding", app.DECODER))
    name = upload_data(data, app)
    unwrap(app.prepare_folder.remote(name))
    return name


def _map_remote(function: Any, inputs: Iterator[Any], **options: Any) -> Iterator[Any]:
    """Map a remote function over inputs. At a result with an error, send no more, drain what was sent, and raise it."""
    errors: list[Payload] = []

    def send_more(_input: Any) -> bool:
        return not errors

    # Leaving the loop early would leave tasks of the client behind, which complain when the process ends.
    for result in function.map(takewhile(send_more, inputs), **options):
        rows = result if isinstance(result, list) else [result]
        errors += [row for row in rows if isinstance(row, dict) and "mai_error" in row]
        if not errors:
            yield result
    if errors:
        unwrap(errors[0])


@contextlib.contextmanager
def raise_as_mai_error() -> Iterator[None]:
    """Raise what goes wrong on Modal as a MaiError, whose message is one line."""
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
        # The remote log, with the location in the code, has been shown above.
        raise MaiError(f"on Modal: {type(error).__name__}: {error}") from None
