"""The caller's side of MAI on Modal: uploads data, states the costs, calls remote functions and shows the results."""

import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import modal
from modal.exception import AuthError, NotFoundError

import modal_app
from mai_app.cli import command_of, paths_to_judge
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
    prepared_form,
    run_name,
)
from mai_app.core.files import write_bytes
from mai_app.core.log import bar, say
from mai_app.data.catalogue import choose_sources, describe_sums, set_name
from mai_app.data.contents import MARKER, hash_contents, list_contents, upload_name
from mai_app.data.layout import read_layout
from mai_app.data.source_row import Source
from mai_app.data.sources import SOURCES
from mai_app.errors import ImageError, MaiError, ModelNameError
from mai_app.images.find import find_images, walk_images
from mai_app.inference.prediction import Prediction, prediction_of, show_predictions
from mai_app.inference.scan import list_files, read_item
from mai_app.inference.scan import scan as scan_here
from mai_app.models.hub import is_hub_name, parse_name
from mai_app.remote.costs import (
    SPEEDS,
    STRONG_SPEEDS,
    Hire,
    Role,
    describe_bound,
    describe_cost,
    describe_training,
    limits_within,
    time_limits,
)
from mai_app.remote.payload import DEMO, Payload, extract_settings, unwrap
from mai_app.training.sweep import Result, exit_code, json_path, plan, table

Output = IO[str] | None
"""Where a command's results are written; None: standard output."""
ROLES: Final[dict[str, Role]] = {
    "prepare_unit": "pool",
    "prepare": "leader",
    "run_sweep": "leader",
    "lead": "leader",
}
"""Functions that do not do one piece of work a call, for the upper bound of what they cost."""
LONGEST: Final = 24 * 60 * 60
"""Seconds of an attempt without a budget, unless the function's own limit is less: Modal's longest."""
FILES_AT_ONCE: Final = 500
"""Files of one part of an upload: what has been sent is there even if the rest is not."""


def run_command(config: Any) -> int:
    """Run a command on Modal; `config.on` is "modal", or "hosted" for the deployed app. Returns the exit code.

    With `config.detach` work that has started there goes on when this process ends. Raises MaiError for everything
    that goes wrong, here or there.
    """
    results = sys.stdout
    # Modal shows its progress on standard error, so that standard output is the same as on this machine.
    with raise_as_mai_error(), contextlib.redirect_stdout(sys.stderr), modal.enable_output():
        if config.on == "hosted":
            return _show_predictions(config, results, hosted_judge(config.model))
        _check(config)  # before an image is built
        command: Callable[[Any, Output], int] = globals()[command_of(config).on_modal]
        if modal_app.app.app_id:  # `modal run` runs it already
            return command(config, results)
        with modal_app.app.run(detach=getattr(config, "detach", False)):
            return command(config, results)


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


def prepare(config: PrepareConfig, output: Output) -> int:
    """Make a prepared set on the Volume, or clean up there; exit code 1 if a source is missing."""
    if config.clean:
        result = _call("clean", _hire(config, {"clean": 1}))
        print(result["text"], file=output)
        for name in result["uploads"]:
            print(f"outdated: {name}; `modal volume rm -r mai data/{name}` removes it", file=output)
        return 0
    known = [source for source in choose_sources(config) if isinstance(source, Source) and source.images]
    if known:
        say(f"{set_name(config)}: {describe_sums(known, prepared_form(config.view_size))}")
    limits = _hire(config, {"prepare_unit": modal_app.FETCHER.containers, "prepare": 1})
    result = _call("prepare", limits, extract_settings(config, "clean"), limits)
    print(f"{result['summary']}\nNext: mai train --data {result['set']} --on modal", file=output)
    return 1 if result["missing"] else 0


def twins(config: TwinsConfig, output: Output) -> int:
    """Make a data set with synthetic twins on the Volume, under the name of the folder --out."""
    result = _lead("twins", config, extract_settings(config, "out"), config.out.name)
    print(f"{result['text']} --on modal", file=output)
    return 0


def train(config: TrainConfig, output: Output) -> int:
    """Train a run on the Volume."""
    # Of an upload named as photos@HASH the run is that of photos, as on this machine.
    name = run_name(config if config.data.is_dir() else replace(config, data=Path(str(config.data).partition("@")[0])))
    result = _lead("train", config, extract_settings(config) | {"name": name})
    run, best, last = result["run"], result["best_epoch"], result["last_epoch"]
    if config.folds:  # nothing is held out from the last training: its last epoch is kept
        best = last
    print(
        f"done: run {run} on the Volume; kept: epoch {best['epoch']} of {last['epoch']}, val loss "
        f"{best['val_loss']:.4f}\nNext: mai evaluate --data {config.data} --model {run} --on modal; "
        f"modal volume get mai runs/{run} runs/",
        file=output,
    )
    return 0


def sweep(config: SweepConfig, output: Output) -> int:
    """Train several settings by several seeds on the Volume, show the table, and bring it home."""
    runs = plan(config)
    forms = {run.view_size if run.input == "views" else 0 for run in runs}
    trainings = Counter(modal_app.trainer(run.recipe) for run in runs)
    limits = _hire(config, {"prepare_folder": len(forms), **trainings, "run_sweep": 1})
    data = upload_data(config.data)
    _say_started()
    results = [Result(**row) for row in _call("run_sweep", limits, data, extract_settings(config), limits)["results"]]
    here, there = json_path(config), f"runs/{config.name}/sweep.json"
    write_bytes(here, b"".join(modal_app.volume.read_file(there)))
    print(f"{table(results)}\n\nresults: {here}; the runs are on the Volume, in runs/", file=output)
    return exit_code(results)


def calibrate(config: CalibrateConfig, output: Output) -> int:
    """Calibrate a run of the Volume."""
    result = _lead("calibrate", config, extract_settings(config))
    print(f"{result['text']}\n\ncalibrated: run {result['run']} on the Volume", file=output)
    return 0


def evaluate(config: EvaluateConfig, output: Output) -> int:
    """Evaluate a run of the Volume, and download report and model card to --out, else to the run's folder in --runs."""
    result = _lead("evaluate", config, extract_settings(config, "out"))
    there = PurePosixPath(result["folder"])
    here = config.out or config.runs / there.relative_to("runs")
    for name in ("report.json", "report.html", "MODEL_CARD.md"):
        write_bytes(here / name, b"".join(modal_app.volume.read_file(str(there / name))))
    print(f"{result['text']}\n\npage: {here / 'report.html'}\ncard: {here / 'MODEL_CARD.md'}", file=output)
    return 0


def predict(config: PredictConfig, output: Output) -> int:
    """Score files of this machine with a run of the Volume."""
    return _show_predictions(config, output, modal_app.Judge(model=config.model).judge)  # type: ignore[call-arg]


def scan(config: ScanConfig, output: Output) -> int:
    """Score thousands of files, of this machine or of the Volume, into a file of rows here."""
    say(describe_cost("scan", modal_app.SCANNER))
    judge = modal_app.Scanner(model=config.model).judge  # type: ignore[call-arg] # Modal makes its __init__

    def judged(chunks: Iterator[Any]) -> Iterator[list[dict[str, Any]] | Exception]:
        yield from _map_remote(judge, chunks, order_outputs=False, return_exceptions=True)

    is_here = Path(config.path).exists()
    names = [] if is_here else [name for part in modal_app.list_images.remote_gen(config.path) for name in part]
    for error in [name for name in names if isinstance(name, dict)]:
        unwrap(error)
    counts = scan_here(config, judged, lambda: list_files(config.path) if is_here else names, read=is_here)
    print(counts.summary(config.out), file=output)
    return counts.exit_code


def upload_data(data: Path) -> str:
    """Return the name of a data set on the Volume, after uploading a folder that is on this machine.

    The name holds the first digits of a hash of the folder's contents: a folder that has changed is another one there.
    The name of the simulated data set means that one: it is made there.
    """
    if str(data) == DEMO:
        _call("make_demo_data", {}, DEMO, DemoConfig.scenes, DemoConfig.seed)
        return DEMO
    if not data.is_dir():
        return str(data)
    files = list_contents(data)
    contents = hash_contents(data, files)
    folder = data.resolve().name
    name = upload_name(folder, contents)
    there = PurePosixPath("/data", name)
    if _is_on_volume(there / MARKER):
        say(f"{data} is on the Volume already, as data/{name}")
        return name
    sizes = [(data / file).stat().st_size for file in files]
    say(f"uploading {data} to data/{name} on the Volume: {len(files)} files, {sum(sizes) / 10**6:,.1f} MB")
    with bar(total=sum(sizes), desc="uploading", unit="B", unit_scale=True) as progress:
        for start in range(0, len(files), FILES_AT_ONCE):
            with modal_app.volume.batch_upload(force=True) as batch:
                for file in files[start : start + FILES_AT_ONCE]:
                    batch.put_file(data / file, str(there / folder / file))
            progress.update(sum(sizes[start : start + FILES_AT_ONCE]))
    marker = {"contents": contents, "files": len(files), "bytes": sum(sizes), "uploaded": datetime.now(UTC).isoformat()}
    with modal_app.volume.batch_upload(force=True) as batch:  # last: it says that the upload is complete
        batch.put_file(io.BytesIO(json.dumps(marker).encode()), str(there / MARKER))
    return name


def _is_on_volume(path: PurePosixPath) -> bool:
    try:
        return any(True for _ in modal_app.volume.read_file(str(path).removeprefix("/")))
    except (NotFoundError, FileNotFoundError):
        return False


def _check(config: Any) -> None:
    """Raise MaiError for what this machine can tell to be wrong."""
    if isinstance(config, PrepareConfig):
        # A row of the table takes precedence over a folder of its name, as on this machine.
        rows = {name for source in SOURCES for name in (source.name, source.repository)}
        if config.list or any(Path(name).is_dir() for name in config.source if name not in rows):
            raise MaiError("--list and folders are for this machine; bring a folder there by training on it")
    if isinstance(config, PredictConfig) and config.heatmap is not None:
        raise MaiError("--heatmap runs on the local machine only; leave out --on")
    if isinstance(config, SweepConfig):
        plan(config)
    data = getattr(config, "data", None)
    if data is not None and data.is_dir() and not (data / "prepared.json").is_file():
        read_layout(data)
    name = getattr(config, "model", "")
    if isinstance(config, TrainConfig):
        name = config.start_from
    if is_hub_name(name):
        parse_name(name)
        if isinstance(config, CalibrateConfig):
            raise MaiError(f"{name}: a model of the Hub stays as it is; calibrate a run of the Volume")
    elif "/" in name or name.endswith(".safetensors"):
        raise MaiError(f"{name}: a file or folder of this machine; {_bring(Path(name))}")


def _bring(run: Path) -> str:
    folder = run.parent if run.suffix else run
    return f"`modal volume put mai {folder} runs/{folder.name}` brings a run there, and --model {folder.name} names it"


def _call(name: str, limits: modal_app.Limits, *arguments: Any) -> Payload:
    """The result of a remote function, which goes on, and is retried, where this process ends meanwhile."""
    return unwrap(modal_app.spawn(name, limits, *arguments).get())


def _hire(config: Any, calls: dict[str, int], images: int = 0) -> modal_app.Limits:
    """Say what a command hires, and what that costs at most; returns the time limits of its budget, if it has one.

    `calls`: by function how many calls, in containers of their own, or of a pool how many containers. `images`: how
    many are trained on in an epoch, where that is known here. Raises MaiError where --budget does not do.
    """
    hired = {name: Hire(modal_app.MACHINES[name], count, ROLES.get(name, "work")) for name, count in calls.items()}
    limits = limits_within(config.budget, hired) if config.budget else time_limits(hired, LONGEST)
    for name, hire in hired.items():
        say(describe_cost(name, replace(hire.machine, timeout=limits[name]), hire.calls))
    if images:
        name = modal_app.trainer(config.recipe)
        speeds = STRONG_SPEEDS if name == "train_strong" else SPEEDS
        say(describe_training(images, config.epochs, hired[name], limits[name], speeds))
    say(describe_bound(hired, limits, config.budget))
    return limits if config.budget else {}


def _lead(command: str, config: Any, settings: dict[str, Any], *more: str) -> Payload:
    """Bring a command's data to the Volume, and do it there; from then on nothing depends on this machine."""
    function, images = command, 0
    if command == "train":
        function = modal_app.trainer(config.recipe)
        images = sum(1 for _ in walk_images(config.data)) if config.data.is_dir() else 0
        images *= 1 + config.folds
    limits = _hire(config, {"prepare_folder": 1, function: 1, "lead": 1}, images)
    name = upload_data(config.data)
    _say_started()
    try:
        return _call("lead", limits, command, name, settings, limits, *more)
    except ModelNameError as error:
        run = Path("runs") / settings.get("model", "")
        raise MaiError(f"{error}; {run} is on this machine: {_bring(run)}" if run.is_dir() else str(error)) from None


def _say_started() -> None:
    say("all that it needs is there; with --detach it goes on when this command or this machine stops")


def _show_predictions(config: PredictConfig, output: Output, judge: Any) -> int:
    say(describe_cost("predict", modal_app.JUDGE))
    # An ImageError goes along too: it becomes the row that reports it.
    files = (f if isinstance(f, ImageError) else read_item(str(f)) for f in find_images(paths_to_judge(config)))
    names: list[str] = []

    def rows() -> Iterator[Prediction]:
        for row in _map_remote(judge, files):
            names.append(row.pop("facts")["name"])
            yield prediction_of(row if config.evidence else row | {"evidence": None})

    return show_predictions(rows(), config.format, lambda: names[-1], output)


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
