"""MAI on Modal: images, Volume, machines and remote functions. mai_app does the work; modal_client.py is the caller.

modal run modal_app.py                           train the demo's settings on simulated images, made on the Volume
modal run modal_app.py --data photos             train on the folder photos/ here, or else on that of the Volume
modal run modal_app.py::app.scan --path photos   score a folder, here or on the Volume, in many containers
modal run modal_app.py::app.sweep --data photos  train several settings by several seeds in parallel
modal run --detach modal_app.py …                and go on there when this command or this machine stops
modal deploy modal_app.py                        host all of it, with an HTTP API behind proxy auth
MAI_GPU=H100 modal run …                         on another GPU; H100:2 trains on two of them
MAI_OPEN_PAGE=1 modal deploy modal_app.py        and a page that is open to everyone
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, ParamSpec

import modal
import modal.exception

import mai_app
from mai_app import cli
from mai_app.config import (
    CalibrateConfig,
    CardConfig,
    DemoConfig,
    EvaluateConfig,
    PrepareConfig,
    ServeConfig,
    Splitting,
    SweepConfig,
    TrainConfig,
    TwinsConfig,
    prepared_form,
)
from mai_app.core.log import named_lines
from mai_app.errors import ImageError, MaiError, RunError, SourceError
from mai_app.remote.costs import Hire, Machine, choose_gpus
from mai_app.remote.packages import Needs, locked
from mai_app.remote.payload import (
    DATA,
    DEMO,
    PREPARED,
    RUNS,
    VOLUME,
    Payload,
    error_payload,
    extract_settings,
    return_errors,
    unwrap,
)

MINUTES = 60  # seconds
HOURS = 60 * MINUTES

GPUS = choose_gpus(os.environ.get("MAI_GPU"))  # the first that is free
ONE_GPU = tuple(gpu.partition(":")[0] for gpu in GPUS)  # only training uses several
RETRIES = 4  # each attempt carries on from the last save
TRAINER = Machine(cores=8, gib=16, timeout=24 * HOURS, containers=8, gpus=GPUS, retries=RETRIES)
# The recipe strong: twice the cores that keep an H100 busy, by arithmetic (docs/train.md).
STRONG = Machine(
    cores=8,
    gib=32,
    timeout=24 * HOURS,
    containers=8,
    gpus=GPUS if os.environ.get("MAI_GPU") else ("H100",),
    retries=RETRIES,
)
TWINNER = Machine(cores=8, gib=16, timeout=24 * HOURS, gpus=ONE_GPU, retries=RETRIES)
EVALUATOR = Machine(cores=8, gib=16, timeout=4 * HOURS, gpus=ONE_GPU)
DECODER = Machine(cores=4, gib=4, timeout=24 * HOURS, retries=RETRIES)
FETCHER = Machine(cores=2, gib=4, timeout=6 * HOURS, containers=10, retries=RETRIES)
# Leaders hand out the work of others, and wait for days: they are small, and not preempted.
LEADER = Machine(cores=1 / 8, gib=1, timeout=24 * HOURS, containers=8, retries=RETRIES, preemptible=False)
PLANNER = Machine(cores=1, gib=2, timeout=24 * HOURS, retries=RETRIES, preemptible=False)
IDLE = 5 * MINUTES  # that a container of the hosted detector waits for the next call
# No GPU: a container without one starts sooner, and its idle minutes cost a fifth.
JUDGE = Machine(cores=4, gib=4, timeout=10 * MINUTES, containers=10, idle=IDLE)
SCANNER = Machine(cores=4, gib=4, timeout=30 * MINUTES, containers=20)
LISTER = Machine(cores=1 / 2, gib=2, timeout=10 * MINUTES, containers=2)
WEB = Machine(cores=1 / 2, gib=1, timeout=30 * MINUTES, containers=4, idle=IDLE)

MACHINES: Final = {
    "prepare_folder": DECODER,
    "prepare": PLANNER,
    "prepare_unit": FETCHER,
    "clean": DECODER,
    "twins": TWINNER,
    "train": TRAINER,
    "train_strong": STRONG,
    "run_sweep": LEADER,
    "evaluate": EVALUATOR,
    "calibrate": EVALUATOR,
    "lead": LEADER,
}
"""By name the machines of the functions that a budget is for."""

WITHOUT_SAVE = 3  # attempts of one training that end before they save anything: another would, too
RELOAD_SECONDS = float(os.environ.get("MAI_LIVE_SECONDS", "30"))  # between two checks for new weights
OPEN_PAGE = os.environ.get("MAI_OPEN_PAGE", "") == "1"
# Beside this file in a checkout, inside the package where MAI was installed from a wheel.
_beside = Path(__file__).with_name("requirements.lock")
LOCK = _beside if _beside.exists() else Path(mai_app.__file__).with_name("requirements.lock")


def _image(needs: Needs) -> modal.Image:
    return (
        modal.Image.debian_slim(python_version="3.11")
        .pip_install(*(locked(LOCK, needs) if LOCK.exists() else ()))  # a container has the packages, and no lock
        .env({name: os.environ[name] for name in ("MAI_LIVE_SECONDS", "MAI_OPEN_PAGE") if name in os.environ})
        # Logs have no terminal: a line now and then instead of a bar. Times of files on a Volume say nothing.
        .env({"MAI_PROGRESS_SECONDS": "20", "MAI_IGNORE_FILE_TIMES": "1"})
        # All files but bytecode: by default the page, the weights and others that end not in .py stay out.
        .add_local_python_source("mai_app", ignore=["**/__pycache__/**"])
    )


app = modal.App("mai")
volume = modal.Volume.from_name("mai", create_if_missing=True, version=2)
# Calls that were started, by who started them; which call trains a run; attempts that saved nothing.
state = modal.Dict.from_name("mai-state", create_if_missing=True)
web_image, data_image, torch_image = _image("web"), _image("data"), _image("torch")
Mounts = dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]
P = ParamSpec("P")
Limits = dict[str, int]  # by function the seconds of an attempt that a budget leaves
writable: Mounts = {VOLUME: volume}
readable: Mounts = {VOLUME: volume.with_mount_options(read_only=True)}
retries = modal.Retries(initial_delay=0.0, max_retries=RETRIES)
# For private data sets and models and for mirrors of the Hub; the sources in MAI's own table need neither.
hub = [modal.Secret.from_dict({name: os.environ[name] for name in ("HF_TOKEN", "HF_ENDPOINT") if name in os.environ})]

OVER: Final = "the time that --budget leaves is over; what is done is kept, and the same command carries on"


def in_time(function: Callable[P, Payload]) -> Callable[P, Payload]:
    """The function, but an attempt that begins after the time that a budget leaves the call raises MaiError.

    Time limits alone do not bound it: Modal begins anew, with all of its time, what it has preempted.
    """

    @functools.wraps(function)
    def starting(*args: P.args, **kwargs: P.kwargs) -> Payload:
        state.put(f"began/{modal.current_function_call_id()}", time.time(), skip_if_exists=True)
        _check_time("begin")
        return function(*args, **kwargs)

    return starting


def _check_time(until: str) -> None:
    """Raise MaiError where the call's attempts may no longer begin, or go on ("end"), by its budget."""
    call = modal.current_function_call_id()
    limits = state.get(f"limits/{call}")
    if limits and time.time() - state[f"began/{call}"] > limits[until]:
        raise MaiError(OVER)


with web_image.imports():  # type: ignore[no-untyped-call]
    from mai_app.inference.known import known_models
    from mai_app.serve.hosted import create_hosted_app

with data_image.imports():  # type: ignore[no-untyped-call]
    from mai_app.data.catalogue import set_name
    from mai_app.data.clean import older_uploads, remove_unused
    from mai_app.data.layout import read_layout
    from mai_app.data.plan import Shard
    from mai_app.data.prepare import prepare as prepare_images
    from mai_app.data.prepare import prepare_shard, prepare_sources
    from mai_app.data.prepared import describe_prepared, is_prepared
    from mai_app.data.source_row import RetryPolicy
    from mai_app.demo.images import make_demo
    from mai_app.inference.scan import list_files
    from mai_app.remote.volume import find_data
    from mai_app.training.sweep import Result, best_epoch, failed, finished
    from mai_app.training.sweep import sweep as sweep_runs

with torch_image.imports():  # type: ignore[no-untyped-call]
    import torch

    from mai_app.evaluation.calibrate import calibrate_checkpoint, text_table
    from mai_app.evaluation.evaluate import evaluate as evaluate_model
    from mai_app.evaluation.model_card import write_card
    from mai_app.evaluation.report import text_tables
    from mai_app.inference.heatmap import heatmap_png
    from mai_app.inference.reload import LiveDetector
    from mai_app.training.loop import train as train_model
    from mai_app.training.twins import make_twins, summary


# Making data sets


@app.function(image=data_image, volumes=writable, retries=retries, **DECODER.modal_kwargs())
@return_errors
def make_demo_data(name: str, scenes: int, seed: int) -> Payload:
    """Make the simulated data set on the Volume, unless it is there."""
    make_demo(Path(DATA / name), scenes, seed)
    commit()
    return {}


@app.function(image=data_image, volumes=writable, retries=retries, single_use_containers=True, **DECODER.modal_kwargs())
@return_errors
@in_time
def prepare_folder(data: str, view_size: int = 0) -> Payload:
    """Decode a folder of images on the Volume without paying for a GPU meanwhile; returns the prepared set's name."""
    volume.reload()
    prepared = prepare_images(_find(data), Path(PREPARED), workers=4, form=prepared_form(view_size))
    commit()
    return {"set": prepared.folder.name, "images": len(prepared)}


@app.function(
    image=data_image,
    volumes=writable,
    secrets=hub,
    retries=retries,
    single_use_containers=True,
    **PLANNER.modal_kwargs(),
)
@return_errors
@in_time
def prepare(settings: dict[str, Any], limits: Limits) -> Payload:
    """Make a prepared set on the Volume, one container per remote file; returns its summary and what is missing."""
    unit = _limited(prepare_unit, "prepare_unit", limits)
    began = state[f"began/{modal.current_function_call_id()}"]
    until = began + limits.get("prepare_unit", PLANNER.timeout)
    config = PrepareConfig(prepared=Path(PREPARED), **settings)

    def run_elsewhere(shards: list[Shard]) -> Iterator[tuple[Shard, SourceError | None]]:
        commit()  # the other containers read the plan, and the names of images to leave out
        calls = [(shard, set_name(config), config.seed, config.retry_seconds, until) for shard in shards]
        late = 0
        for shard, failure in zip(shards, unit.starmap(calls), strict=True):
            late += failure is not None and failure["reason"] == OVER
            yield shard, SourceError(failure["reason"], failure["whole"]) if failure else None
        if late:  # a set without the files that were left would look like a whole one
            raise MaiError(f"{late} of {len(shards)} files were not begun: {OVER}")
        volume.reload()

    made = prepare_sources(config, run_elsewhere=run_elsewhere)
    commit()
    return {"set": made.folder.name, "summary": describe_prepared(made), "missing": made.facts["missing"]}


@app.function(image=data_image, volumes=writable, secrets=hub, retries=retries, **FETCHER.modal_kwargs())
def prepare_unit(shard: Any, name: str, seed: int, retry_seconds: float, until: float) -> dict[str, Any] | None:
    """Download one remote file to the container's disk and store its images; returns why it failed, or None.

    Not after `until`, in seconds since 1970.
    """
    if time.time() > until:
        return {"reason": OVER, "whole": False}
    volume.reload()
    own_disk = Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(own_disk).free) < shard.bytes_at_a_time:
        return {
            "reason": f"{shard.name}: {shard.bytes_at_a_time:,} bytes to download, {free:,} are free",
            "whole": False,
        }
    try:
        prepare_shard(shard, Path(PREPARED / name), own_disk, Splitting(seed=seed), RetryPolicy(retry_seconds))
    except SourceError as error:
        return {"reason": str(error), "whole": error.whole}
    commit()
    return None


@app.function(image=data_image, volumes=writable, retries=retries, **DECODER.modal_kwargs())
@return_errors
@in_time
def clean() -> Payload:
    """Remove the prepared sets that are no longer used; returns what was removed, and the uploads that are outdated."""
    volume.reload()
    text = remove_unused(Path(PREPARED))
    commit()
    return {"text": text, "uploads": older_uploads(Path(DATA))}


@app.function(image=torch_image, volumes=writable, secrets=hub, retries=retries, **TWINNER.modal_kwargs())
@return_errors
@in_time
def twins(data: str, settings: dict[str, Any], out: str) -> Payload:
    """Make a data set of the Volume with a synthetic twin of each authentic image; returns its summary as text."""
    volume.reload()
    config = TwinsConfig(data=_find(data), out=Path(DATA / out), prepared=Path(PREPARED), **settings)
    made = make_twins(config)
    commit()
    return {"text": summary(made, dataclasses.replace(config, out=Path(out)))}


# Training

training: dict[str, Any] = {
    "image": torch_image,
    "volumes": writable,
    "secrets": hub,
    "retries": retries,
    "single_use_containers": True,
}


@app.function(**training, **TRAINER.modal_kwargs())
@return_errors
@in_time
def train(data: str, settings: dict[str, Any]) -> Payload:
    """Train a run on the Volume's set of that name; returns the run's name and its last and best epoch."""
    result = _train(data, settings, TRAINER)
    commit()
    return result


@app.function(**training, **STRONG.modal_kwargs())
@return_errors
@in_time
def train_strong(data: str, settings: dict[str, Any]) -> Payload:
    """As train, for the recipe strong."""
    result = _train(data, settings, STRONG)
    commit()
    return result


def _train(data: str, settings: dict[str, Any], machine: Machine) -> Payload:
    run, call = settings["name"], modal.current_function_call_id() or ""
    _claim(run, call)
    attempts = state.get(f"attempts/{call}", 0)
    if attempts >= WITHOUT_SAVE:
        raise RunError(
            f"{run}: {attempts} attempts ended before they saved anything, for want of memory perhaps; see the log. A "
            f"smaller --batch-size takes less; the same command carries on"
        )
    state[f"attempts/{call}"] = attempts + 1

    def saved() -> None:
        state[f"attempts/{call}"] = 0
        commit()
        _check_time("end")

    volume.reload()
    gpus = torch.cuda.device_count()
    settings = settings | {"processes": max(gpus, settings["processes"])}
    if gpus and settings["workers"] < 0:  # what can be counted here are the cores of more than this container
        settings["workers"] = max(1, int(machine.cores) // gpus)
    config = TrainConfig(data=_find(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    try:
        with named_lines(run):
            folder = train_model(config, on_save=saved)
    except KeyboardInterrupt:  # preempted, which is no fault of the training
        state[f"attempts/{call}"] = attempts
        raise
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {"run": folder.name, "last_epoch": last, "best_epoch": best_epoch(folder)}


@app.function(image=data_image, volumes=writable, retries=retries, **LEADER.modal_kwargs())
@return_errors
@in_time
def run_sweep(data: str, settings: dict[str, Any], limits: Limits) -> Payload:
    """Decode, and train every combination of the settings with every seed, a container a run; returns the results."""
    config = SweepConfig(data=Path(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)

    def train_all(runs: list[TrainConfig]) -> Iterator[Result]:
        names = [trainer(run.recipe) for run in runs]
        given = [_trained_on(data, extract_settings(run), limits) for run in runs]
        calls = [_spawn_once(run.name, name, limits, *one) for run, name, one in zip(runs, names, given, strict=True)]
        for run, name, call in zip(runs, names, calls, strict=True):
            try:
                result = _result(call, name, limits)
            except Exception as error:  # whatever that container met
                result = error_payload(MaiError(f"{type(error).__name__}: {error}"))
            failure = result.get("mai_error")
            yield failed(run, failure) if failure else finished(run, result["best_epoch"])

    results = sweep_runs(config, train_all)
    commit()
    return {"results": [dataclasses.asdict(result) for result in results]}


@app.function(image=torch_image, volumes=writable, secrets=hub, **EVALUATOR.modal_kwargs())
@return_errors
@in_time
def evaluate(data: str, settings: dict[str, Any]) -> Payload:
    """Evaluate a run on a data set of the Volume; returns the tables as text, and the report's folder there."""
    volume.reload()
    config = EvaluateConfig(data=_find(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    report = evaluate_model(config)
    write_card(CardConfig(report=Path(report["folder"]), runs=Path(RUNS)))
    commit()
    return {"text": text_tables(report), "folder": report["folder"].removeprefix(f"{VOLUME}/")}


@app.function(image=torch_image, volumes=writable, **EVALUATOR.modal_kwargs())
@return_errors
@in_time
def calibrate(data: str, settings: dict[str, Any]) -> Payload:
    """Calibrate a run's scores on a data set's val part; returns a table of the result as text, and the run's name."""
    volume.reload()
    config = CalibrateConfig(data=_find(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    path, calibration = calibrate_checkpoint(config)
    commit()
    return {"text": text_table(calibration), "run": path.parent.name}


@app.function(image=data_image, volumes=readable, retries=retries, **LEADER.modal_kwargs())
@return_errors
@in_time
def lead(command: str, data: str, settings: dict[str, Any], limits: Limits, *more: str) -> Payload:
    """Decode the data set first, where the command needs that, then do the command: nothing depends on the caller.

    `limits`: by function the time limit of an attempt in seconds, where it is another than its own.
    """
    volume.reload()
    name, arguments = command, (data, settings)
    if command == "train":
        name, arguments = trainer(settings["recipe"]), _trained_on(data, settings, limits)
    elif command == "twins" or not _has_parts(data):
        _prepared_set(data, 0, limits)
    return _result(_spawn_once(command, name, limits, *arguments, *more), name, limits)


# Predicting


@app.cls(
    image=torch_image,
    volumes=readable,
    secrets=hub,
    scaledown_window=IDLE,
    enable_memory_snapshot=True,
    **JUDGE.modal_kwargs(),
)
class Judge:
    """The hosted detector: one file per call; calls that arrive together become one batch."""

    # A run of the Volume, or hf:owner/name; "": the run trained last, else MAI's own model.
    model: str = modal.parameter(default="")

    @modal.enter(snap=True)
    def build(self) -> None:
        """Nothing but the imports, which take seconds: the memory snapshot of new containers holds them."""

    @modal.enter(snap=False)
    def load(self) -> None:
        """Load the newest weights, which a snapshot can't hold."""
        self.live = _load_detector(self.model)

    @modal.batched(max_batch_size=32, wait_ms=50)
    def judge(self, files: list[tuple[str, bytes] | ImageError]) -> list[Payload]:
        """Per file (name and bytes) the fields of `mai predict --evidence`, and "facts" of the model."""
        try:
            detector = self.live.detector()
            facts = dataclasses.asdict(detector.facts)
            rows = detector.predict(files, workers=4, evidence=True)
            return [dataclasses.asdict(row) | {"facts": facts} for row in rows]
        except MaiError as error:
            return [error_payload(error)] * len(files)


@app.function(image=torch_image, volumes=readable, secrets=hub, scaledown_window=IDLE, **JUDGE.modal_kwargs())
@return_errors
def draw_heatmap(name: str, data: bytes, model: str) -> Payload:
    """Draw where in a file the score comes from; returns {"png": bytes}."""
    return {"png": heatmap_png(_load_detector(model).detector(), name, data)}


@app.function(image=web_image, volumes=readable, **LISTER.modal_kwargs())
def list_models() -> list[Payload]:
    """Return the facts of the Volume's runs and of MAI's own models, the default first."""
    volume.reload()
    try:
        return [dataclasses.asdict(facts) for facts in known_models(ServeConfig(runs=Path(RUNS)))]
    except MaiError as error:
        return [error_payload(error)]


@app.function(image=web_image, **WEB.modal_kwargs())
def predict(files: list[tuple[str, bytes] | ImageError], model: str = "") -> list[Payload]:
    """Score files (names and bytes) with a run of the Volume (default: the last, else MAI's own), in order."""
    return list(_judge_of(model).map(files))


@app.function(image=web_image, scaledown_window=IDLE, **WEB.modal_kwargs())
@modal.concurrent(max_inputs=32)
@modal.asgi_app(requires_proxy_auth=True)
def api() -> Any:
    """The HTTP API, for holders of a proxy token of the workspace."""
    return _create_web(open_page=False)


if OPEN_PAGE:

    @app.function(image=web_image, scaledown_window=IDLE, **WEB.modal_kwargs())
    @modal.concurrent(max_inputs=32)
    @modal.asgi_app()
    def page() -> Any:
        """The page and its API, open to everyone; it has to be enabled, because the owner pays for every call."""
        return _create_web(open_page=True)


@app.cls(image=torch_image, volumes=readable, secrets=hub, retries=3, **SCANNER.modal_kwargs())
class Scanner:
    """Scores the chunks of a scan."""

    model: str = modal.parameter(default="")

    @modal.enter()
    def load(self) -> None:
        """Load the newest weights."""
        self.live = _load_detector(self.model)

    @modal.method()
    def judge(self, chunk: list[Any]) -> list[Payload]:
        """One row per file: of names with bytes, or of names below data/ on the Volume."""
        try:
            detector = self.live.detector()
        except MaiError as error:
            return [error_payload(error)]
        items = [str(DATA / item) if isinstance(item, str) else item for item in chunk]
        rows = [dataclasses.asdict(row) for row in detector.predict(items, workers=4)]
        return [row | {"path": row["path"].removeprefix(f"{DATA}/")} for row in rows]


@app.function(image=data_image, volumes=readable, **LISTER.modal_kwargs())
def list_images(path: str) -> Iterator[list[Any]]:
    """Yield the names of the images in a folder or list below data/ on the Volume, a thousand at a time."""
    volume.reload()
    try:
        found = list_files(str(_find(path)))
        names = (name if isinstance(name, ImageError) else name.removeprefix(f"{DATA}/") for name in found)
        while part := list(islice(names, 1000)):
            yield part
    except MaiError as error:
        yield [error_payload(error)]


# What the functions share


def commit() -> None:
    """Commit the Volume. Where Modal wants to reload it then, that fails while files are open: after the commit."""
    try:
        volume.commit()
    except RuntimeError as error:
        if "open files" not in str(error):
            raise


def _find(data: str) -> Path:
    return find_data(data, Path(DATA), Path(PREPARED))


def _has_parts(data: str) -> bool:
    """Whether a data set says itself which of its images are for testing."""
    folder = _find(data)
    return is_prepared(folder) or all(record.split for record in read_layout(folder).records)


def _prepared_set(data: str, view_size: int, limits: Limits) -> str:
    """The name of the prepared set of a data set; decoded first, unless that is done. Raises MaiError."""
    name = "prepare_folder"
    call = _spawn_once(f"prepare {view_size}", name, limits, data, view_size)
    return str(unwrap(_result(call, name, limits), "")["set"])


def _trained_on(data: str, settings: dict[str, Any], limits: Limits) -> tuple[str, dict[str, Any]]:
    """The arguments of `train`: the prepared set, so that no attempt has to look through the folder of images.

    With folds the folder: whole images are scored by what was trained without their sources.
    """
    view_size = settings["view_size"] if settings["input"] == "views" else 0
    prepared = _prepared_set(data, view_size, limits)
    return (data if settings["folds"] else prepared), settings


def trainer(recipe: str) -> str:
    """The name of the function that trains a recipe."""
    return "train_strong" if recipe == "strong" else "train"


def _limited(function: Any, name: str, limits: Limits) -> Any:
    """The function with the time limit that a budget leaves it, where there is one."""
    return function.with_options(timeout=limits[name]) if name in limits else function


def spawn(name: str, limits: Limits, *arguments: Any) -> Any:
    """Start the remote function of that name, and note how long its attempts may begin, and go on, by its budget."""
    call = _limited(globals()[name], name, limits).spawn(*arguments)
    if name in limits:
        rounds = Hire(MACHINES[name]).rounds
        state[f"limits/{call.object_id}"] = {"begin": (rounds - 1) * limits[name], "end": rounds * limits[name]}
    return call


def _spawn_once(key: str, name: str, limits: Limits, *arguments: Any) -> Any:
    """As spawn, or find the call that this function's interrupted attempt had started under that key."""
    key = f"started/{modal.current_function_call_id()}/{key}"
    if started := state.get(key):
        return modal.FunctionCall.from_id(started)
    call = spawn(name, limits, *arguments)
    state[key] = call.object_id
    return call


def _result(call: Any, name: str, limits: Limits) -> Payload:
    """The result of a call; raises MaiError where a budget's time limit has ended all of its attempts."""
    try:
        result: Payload = call.get()
    except modal.exception.FunctionTimeoutError:
        if name in limits:
            raise MaiError(f"{name}: {OVER}") from None
        raise
    return result


def _claim(run: str, call: str) -> None:
    """Note that this call trains the run; raises RunError where another does. Locks do not reach across containers."""
    key = f"trains/{run}"
    if state.put(key, call, skip_if_exists=True):
        return
    other = state.get(key)
    if other != call and _is_running(other):
        raise RunError(f"{run}: is being trained by another command; wait for it, or choose another --name")
    state[key] = call


def _is_running(call: str) -> bool:
    try:
        modal.FunctionCall.from_id(call).get(timeout=0)
    except TimeoutError:
        return True
    except Exception:  # it failed, was stopped, or is forgotten
        return False
    return False


def _judge_of(model: str) -> Any:
    # Modal makes the __init__, which type checkers can't see.
    return Judge(model=model).judge  # type: ignore[call-arg]


@functools.cache  # one per container: draw_heatmap is no class that could hold it
def _load_detector(model: str) -> Any:
    return LiveDetector(model, Path(RUNS), RELOAD_SECONDS, volume.reload)


def _create_web(open_page: bool) -> Any:
    heatmap, models = draw_heatmap.remote.aio, list_models.remote.aio
    return create_hosted_app(lambda model: _judge_of(model).remote.aio, heatmap, models, open_page)


# Entrypoints, which run on the caller's machine: the same commands as `mai … --on modal`


@app.local_entrypoint()
def main(data: str = "", recipe: str = "traces", name: str = "", epochs: int = 0) -> None:
    """Train: with the demo's settings on simulated images if no data set is named."""
    words = [f"--name={name}"]
    if data:
        words += [f"--data={data}", f"--recipe={recipe}", *[f"--epochs={epochs}"] * bool(epochs)]
    else:
        words += [f"--data={DEMO}", "--recipe=baseline", f"--epochs={epochs or DemoConfig.epochs}"]
        words += [f"--learning-rate={DemoConfig.learning_rate}"]
    _run(["train", *words])


# Under the App's name alone: `modal run modal_app.py` takes the one entrypoint that the file itself names.
@app.local_entrypoint(name="scan")
def _scan(path: str, out: str = "scan.jsonl", model: str = "") -> None:
    """Score a folder, or a list of files, in many containers; run again, it carries on where it stopped."""
    _run(["scan", path, f"--out={out}", f"--model={model}"])


@app.local_entrypoint(name="sweep")
def _sweep(data: str, vary: str = "", seeds: int = 2, name: str = "sweep") -> None:
    """Train several settings by several seeds; --vary "learning-rate=1e-3,3e-4; input=resize,crop"."""
    varied = [f"--vary={part.strip()}" for part in vary.split(";") if part.strip()]
    _run(["sweep", f"--data={data}", *varied, f"--seeds={seeds}", f"--name={name}"])


del _scan, _sweep


def _run(words: list[str]) -> None:
    if code := cli.main([*words, "--on=modal"]):  # an exit with 0 would be reported as an exception, too
        sys.exit(code)
