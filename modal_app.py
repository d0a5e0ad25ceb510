"""MAI on Modal: image, Volume, machines and remote functions. mai_app does the work; modal_client.py is the caller.

modal run modal_app.py                           train the demo's settings on simulated images, made on the Volume
modal run modal_app.py --data photos             train on the folder photos/ here, or else on data/photos of the Volume
modal run modal_app.py::scan --path photos       score a folder, here or on the Volume, in many containers
modal run modal_app.py::sweep --data photos …    train several settings by several seeds in parallel
modal deploy modal_app.py                        host all of it, with an HTTP API behind proxy auth
MAI_GPU=H100 modal run …                         on another GPU; H100:2 trains on two of them
MAI_OPEN_PAGE=1 modal deploy modal_app.py        and a page that is open to everyone
"""

import dataclasses
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import modal

import mai_app
from mai_app import cli
from mai_app.config import CalibrateConfig, EvaluateConfig, PrepareConfig, SweepConfig, TrainConfig, TwinsConfig
from mai_app.errors import ImageError, MaiError, SourceError
from mai_app.remote.costs import Machine
from mai_app.remote.payload import DATA, PREPARED, RUNS, VOLUME, Payload, error_payload, extract_settings, return_errors

MINUTES = 60  # seconds
HOURS = 60 * MINUTES

GPUS = tuple(os.environ.get("MAI_GPU", "L4,A10,T4").split(","))  # the first that is free
TRAINER = Machine(cores=8, gib=16, timeout=24 * HOURS, containers=8, gpus=GPUS)
EVALUATOR = Machine(cores=8, gib=16, timeout=4 * HOURS, gpus=GPUS)
DECODER = Machine(cores=4, gib=4, timeout=24 * HOURS)
FETCHER = Machine(cores=2, gib=4, timeout=6 * HOURS, containers=10)
LEADER = Machine(cores=1, gib=2, timeout=24 * HOURS)  # hands out the work of others
# No GPU: decoding takes longer than so small a network, and a container without one starts sooner.
JUDGE = Machine(cores=4, gib=4, timeout=10 * MINUTES, containers=10)
SCANNER = Machine(cores=4, gib=4, timeout=30 * MINUTES, containers=20)
LISTER = Machine(cores=1 / 2, gib=2, timeout=10 * MINUTES, containers=2)
WEB = Machine(cores=1 / 2, gib=1, timeout=30 * MINUTES, containers=4)
IDLE = 5 * MINUTES  # that a container of the hosted detector waits for the next call

RELOAD_SECONDS = float(os.environ.get("MAI_LIVE_SECONDS", "30"))  # between two checks for new weights
OPEN_PAGE = os.environ.get("MAI_OPEN_PAGE", "") == "1"
# Beside this file in a checkout, inside the package where MAI was installed from a wheel.
_beside = Path(__file__).with_name("requirements.lock")
LOCK = _beside if _beside.exists() else Path(mai_app.__file__).with_name("requirements.lock")

app = modal.App("mai")
volume = modal.Volume.from_name("mai", create_if_missing=True, version=2)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install_from_requirements(str(LOCK))
    .env({name: os.environ[name] for name in ("MAI_LIVE_SECONDS", "MAI_OPEN_PAGE") if name in os.environ})
    .env({"MAI_PROGRESS_SECONDS": "20"})  # logs have no terminal: print a line now and then instead of a bar
    # All files of the package but bytecode: by default the page, the weights and others that end not in .py stay out.
    .add_local_python_source("mai_app", ignore=["**/__pycache__/**"])
)
Mounts = dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]
writable: Mounts = {VOLUME: volume}
readable: Mounts = {VOLUME: volume.with_mount_options(read_only=True)}
retries = modal.Retries(initial_delay=0.0, max_retries=10)  # each attempt carries on from the last save
# For private data sets and for mirrors of the Hub; the sources in MAI's own table need neither.
hub = [modal.Secret.from_dict({name: os.environ[name] for name in ("HF_TOKEN", "HF_ENDPOINT") if name in os.environ})]


@app.function(image=image, volumes=writable, **DECODER.modal_kwargs())
def make_demo_data(name: str, scenes: int, seed: int) -> None:
    """Make the simulated data set on the Volume, unless it is there."""
    from mai_app.demo.images import make_demo

    make_demo(Path(DATA / name), scenes, seed)
    volume.commit()


@app.function(image=image, volumes=writable, retries=retries, single_use_containers=True, **DECODER.modal_kwargs())
@return_errors
def prepare_folder(data: str) -> Payload:
    """Decode a folder of images on the Volume without paying for a GPU meanwhile; returns the number of images."""
    from mai_app.data.prepare import prepare as prepare_here

    prepared = prepare_here(_find_data(data), Path(PREPARED), workers=4)
    volume.commit()
    return {"images": len(prepared)}


@app.function(
    image=image, volumes=writable, secrets=hub, retries=retries, single_use_containers=True, **LEADER.modal_kwargs()
)
@return_errors
def prepare(settings: dict[str, Any]) -> Payload:
    """Make a prepared set on the Volume, one container per remote file; returns its summary and what is missing."""
    from mai_app.data.plan import Shard
    from mai_app.data.prepare import prepare_sources
    from mai_app.data.prepared import describe_prepared

    config = PrepareConfig(prepared=Path(PREPARED), **settings)

    def run_elsewhere(shards: list[Shard]) -> Iterator[tuple[Shard, SourceError | None]]:
        volume.commit()  # the other containers read the plan, and the names of images to leave out
        calls = [(shard, config.name, config.seed, config.retry_seconds) for shard in shards]
        for shard, failure in zip(shards, prepare_unit.starmap(calls), strict=True):
            yield shard, SourceError(failure["reason"], failure["whole"]) if failure else None
        volume.reload()

    made = prepare_sources(config, run_elsewhere=run_elsewhere)
    volume.commit()
    return {"set": made.folder.name, "summary": describe_prepared(made), "missing": made.facts["missing"]}


@app.function(image=image, volumes=writable, secrets=hub, retries=retries, **FETCHER.modal_kwargs())
def prepare_unit(shard: Any, name: str, seed: int, retry_seconds: float) -> dict[str, Any] | None:
    """Download one remote file to the container's disk and store its images; returns why it failed, or None."""
    from mai_app.config import Splitting
    from mai_app.data.prepare import prepare_shard
    from mai_app.data.sources import RetryPolicy

    volume.reload()
    own_disk = Path(tempfile.gettempdir())
    try:
        prepare_shard(shard, Path(PREPARED / name), own_disk, Splitting(seed=seed), RetryPolicy(retry_seconds))
    except SourceError as error:
        return {"reason": str(error), "whole": error.whole}
    volume.commit()
    return None


@app.function(image=image, volumes=writable, retries=retries, single_use_containers=True, **TRAINER.modal_kwargs())
@return_errors
def train(data: str, settings: dict[str, Any]) -> Payload:
    """Train a run on the Volume's set of that name; returns the run's name and its last and best epoch."""
    import torch

    from mai_app.training.loop import train as train_here
    from mai_app.training.sweep import best_epoch

    settings = settings | {"processes": max(torch.cuda.device_count(), settings["processes"])}
    config = TrainConfig(data=_find_data(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    folder = train_here(config, on_save=volume.commit)
    volume.commit()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {"run": folder.name, "last_epoch": last, "best_epoch": best_epoch(folder)}


@app.function(image=image, volumes=writable, retries=retries, **LEADER.modal_kwargs())
@return_errors
def run_sweep(data: str, settings: dict[str, Any]) -> Payload:
    """Train every combination of the settings with every seed, one container per run; returns the results."""
    from mai_app.training.sweep import Result, failed, finished
    from mai_app.training.sweep import sweep as sweep_here

    config = SweepConfig(data=Path(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)

    def train_all(runs: list[TrainConfig]) -> Iterator[Result]:
        calls = [(data, extract_settings(run)) for run in runs]
        for run, result in zip(runs, train.starmap(calls, return_exceptions=True), strict=True):
            if isinstance(result, Exception):
                yield failed(run, f"{type(result).__name__}: {result}")
            elif "mai_error" in result:
                yield failed(run, result["mai_error"])
            else:
                yield finished(run, result["best_epoch"])

    results = sweep_here(config, train_all)
    volume.commit()
    return {"results": [dataclasses.asdict(result) for result in results]}


@app.function(image=image, volumes=writable, **EVALUATOR.modal_kwargs())
@return_errors
def evaluate(data: str, settings: dict[str, Any]) -> Payload:
    """Evaluate a run on a data set of the Volume; returns the tables as text, and the report's folder there."""
    from mai_app.evaluation.evaluate import evaluate as evaluate_here
    from mai_app.evaluation.report import text_tables

    volume.reload()
    config = EvaluateConfig(data=_find_data(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    report = evaluate_here(config)
    volume.commit()
    return {"text": text_tables(report), "folder": report["folder"].removeprefix(f"{VOLUME}/")}


@app.function(image=image, volumes=writable, **EVALUATOR.modal_kwargs())
@return_errors
def calibrate(data: str, settings: dict[str, Any]) -> Payload:
    """Calibrate a run's scores on a data set's val part; returns a table of the result as text, and the run's name."""
    from mai_app.evaluation.calibrate import calibrate_checkpoint, text_table

    volume.reload()
    config = CalibrateConfig(data=_find_data(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    path, calibration = calibrate_checkpoint(config)
    volume.commit()
    return {"text": text_table(calibration), "run": path.parent.name}


@app.function(image=image, volumes=writable, secrets=hub, retries=retries, **TRAINER.modal_kwargs())
@return_errors
def twins(data: str, out: str, settings: dict[str, Any]) -> Payload:
    """Make a data set of the Volume with a synthetic twin of each authentic image; returns its summary as text."""
    from mai_app.training.twins import make_twins, summary

    config = TwinsConfig(data=Path(DATA / data), out=Path(DATA / out), prepared=Path(PREPARED), **settings)
    made = make_twins(config)
    volume.commit()
    return {"text": summary(made, dataclasses.replace(config, out=Path(out)))}


@app.cls(image=image, volumes=readable, scaledown_window=IDLE, enable_memory_snapshot=True, **JUDGE.modal_kwargs())
class Judge:
    """The hosted detector: one file per call; calls that arrive together become one batch."""

    model: str = modal.parameter(default="")  # a run of the Volume; "": the one trained last, else MAI's own

    @modal.enter(snap=True)
    def build(self) -> None:
        """Import what takes seconds and needs no weights: the memory snapshot of new containers holds it."""
        import mai_app.inference.reload  # noqa: F401

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


@app.function(image=image, volumes=readable, scaledown_window=IDLE, **JUDGE.modal_kwargs())
@return_errors
def draw_heatmap(name: str, data: bytes, model: str) -> Payload:
    """Draw where in a file the score comes from; returns {"png": bytes}."""
    from mai_app.inference.heatmap import heatmap_png

    return {"png": heatmap_png(_load_detector(model).detector(), name, data)}


@app.function(image=image, volumes=readable, **LISTER.modal_kwargs())
def list_models() -> list[Payload]:
    """Return the facts of the Volume's runs and of MAI's own models, the default first."""
    from mai_app.config import ServeConfig
    from mai_app.inference.reload import known_models

    volume.reload()
    try:
        return [dataclasses.asdict(facts) for facts in known_models(ServeConfig(runs=Path(RUNS)))]
    except MaiError as error:
        return [error_payload(error)]


@app.function(image=image, **WEB.modal_kwargs())
def predict(files: list[tuple[str, bytes] | ImageError], model: str = "") -> list[Payload]:
    """Score files (names and bytes) with a run of the Volume (default: the last, else MAI's own), in order."""
    return list(_judge_of(model).map(files))


@app.function(image=image, scaledown_window=IDLE, **WEB.modal_kwargs())
@modal.concurrent(max_inputs=32)
@modal.asgi_app(requires_proxy_auth=True)
def api() -> Any:
    """The HTTP API, for holders of a proxy token of the workspace."""
    return _create_web(open_page=False)


if OPEN_PAGE:

    @app.function(image=image, scaledown_window=IDLE, **WEB.modal_kwargs())
    @modal.concurrent(max_inputs=32)
    @modal.asgi_app()
    def page() -> Any:
        """The page and its API, open to everyone; it has to be enabled, because the owner pays for every call."""
        return _create_web(open_page=True)


@app.cls(image=image, volumes=readable, retries=3, **SCANNER.modal_kwargs())
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


@app.function(image=image, volumes=readable, **LEADER.modal_kwargs())
def list_images(path: str) -> Iterator[list[Any]]:
    """Yield the names of the images in a folder or list below data/ on the Volume, a thousand at a time."""
    from itertools import islice

    from mai_app.inference.scan import list_files

    volume.reload()
    try:
        names = (n if isinstance(n, ImageError) else n.removeprefix(f"{DATA}/") for n in list_files(str(DATA / path)))
        while part := list(islice(names, 1000)):
            yield part
    except MaiError as error:
        yield [error_payload(error)]


def _judge_of(model: str) -> Any:
    # Modal makes the __init__, which type checkers can't see.
    return Judge(model=model).judge  # type: ignore[call-arg]


@functools.cache  # one per container: draw_heatmap is no class that could hold it
def _load_detector(model: str) -> Any:
    from mai_app.inference.reload import LiveDetector

    return LiveDetector(model, Path(RUNS), RELOAD_SECONDS, volume.reload)


def _find_data(name: str) -> Path:
    """Path of the Volume's data set of that name: a prepared set, or else a folder of images."""
    from mai_app.data.prepared import is_prepared

    return Path(PREPARED / name) if is_prepared(Path(PREPARED / name)) else Path(DATA / name)


def _create_web(open_page: bool) -> Any:
    from mai_app.serve.server import create_hosted_app

    heatmap, models = draw_heatmap.remote.aio, list_models.remote.aio
    return create_hosted_app(lambda model: _judge_of(model).remote.aio, heatmap, models, open_page)


# The rest runs on the caller's machine, where alone modal_client is imported.


def run_command(config: Any) -> int:
    """Run a command of `mai` on Modal (`--on modal`) or in the deployed app (`--on hosted`); returns the exit code.

    Raises MaiError for everything that goes wrong, here or there.
    """
    import modal_client

    return modal_client.run_command(config, sys.modules[__name__])


@app.local_entrypoint()
def main(data: str = "", recipe: str = "traces", name: str = "", epochs: int = 0) -> None:
    """Train: with the demo's settings on simulated images if no data set is named."""
    import modal_client

    def work() -> int:
        config = modal_client.training_config(data, recipe, name, epochs)
        with modal_client.raise_as_mai_error():
            arguments = modal_client.prepare_training(config, sys.modules[__name__])
            return modal_client.show_training(train.remote(*arguments))

    sys.exit(cli.run(work))


def scan_files(path: str, out: str = "scan.jsonl", model: str = "") -> None:
    """Score a folder, or a list of files, in many containers; run again, it carries on where it stopped."""
    sys.exit(cli.main(["scan", path, f"--out={out}", f"--model={model}", "--on=modal"]))


def sweep_settings(data: str, vary: str = "", seeds: int = 2, name: str = "sweep", detach: bool = False) -> None:
    """Train several settings by several seeds; --vary "learning-rate=1e-3,3e-4; input=resize,crop"."""
    varied = [f"--vary={part.strip()}" for part in vary.split(";") if part.strip()]
    words = [f"--data={data}", *varied, f"--seeds={seeds}", f"--name={name}", *["--detach"] * detach]
    sys.exit(cli.main(["sweep", *words, "--on=modal"]))


# `modal run modal_app.py` takes the file's one entrypoint and refuses to choose between several. So scan and sweep are
# entrypoints of Apps of these names, which have nothing else; they run the app above.
scan = modal.App("mai-scan")
scan.local_entrypoint()(scan_files)
sweep = modal.App("mai-sweep")
sweep.local_entrypoint()(sweep_settings)
