"""MAI on Modal: training on a cloud GPU, predictions from there. Decorators and hand-over; mai_app does the work.

modal run modal_app.py                      train on simulated images, made on the Volume
modal run modal_app.py --data photos        train on the folder photos/ here, or else on data/photos of the Volume
modal deploy modal_app.py                   host train, evaluate and predict
python local_entry.py … --on modal          prepare, train, evaluate and predict as `mai` does, there instead of here
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import modal

from mai_app.cli import Config, chosen_format, paths_to_judge, run, show_predictions, show_report
from mai_app.config import DemoConfig, EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig
from mai_app.data.folders import find_images
from mai_app.data.images import read_file
from mai_app.data.sources import SOURCES
from mai_app.errors import ImageError, MaiError
from mai_app.prediction import Prediction

MINUTES = 60  # seconds
HOURS = 60 * MINUTES
GPU = ["L4", "A10", "T4"]  # the first that is free

VOLUME = PurePosixPath("/mai")  # data sets, prepared sets and runs, in folders of these names
DATA, PREPARED, RUNS = VOLUME / "data", VOLUME / "prepared", VOLUME / "runs"
DEMO = "simulated-demo"  # name of the simulated data set, also where a folder here has it
BATCH_BYTES = 32 * 2**20  # of files sent in one call

app = modal.App("mai")
volume = modal.Volume.from_name("mai", create_if_missing=True, version=2)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install(requirements=[str(Path(__file__).with_name("requirements.lock"))])
    .add_local_python_source("mai_app")
)
volumes: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = {VOLUME: volume}
# For data sets that are not for everyone, and for mirrors; the six need neither.
hub_settings = modal.Secret.from_dict({n: os.environ[n] for n in ("HF_TOKEN", "HF_ENDPOINT") if n in os.environ})


@app.function(image=image, volumes=volumes, cpu=4.0, timeout=30 * MINUTES)
def make_demo_data(scenes: int, seed: int) -> None:
    """Make the simulated data set on the Volume, unless it is there."""
    from mai_app.data.demo import make_demo  # noqa: PLC0415

    make_demo(Path(DATA / DEMO), scenes, seed)
    volume.commit()


@app.function(
    image=image,
    volumes=volumes,
    secrets=[hub_settings],
    cpu=4.0,
    timeout=24 * HOURS,
    retries=modal.Retries(initial_delay=0.0, max_retries=10),  # a retry carries on after the last finished file
    single_use_containers=True,
)
def prepare(settings: dict[str, Any]) -> dict[str, Any]:
    """Make a prepared set on the Volume; returns its summary and the sources that could not be had."""
    from mai_app.data.prepare import prepare_sources  # noqa: PLC0415
    from mai_app.data.summary import summary  # noqa: PLC0415

    try:
        made = prepare_sources(PrepareConfig(prepared=Path(PREPARED), **settings))
    except MaiError as error:
        return _refusal(error)
    volume.commit()
    return {"set": made.folder.name, "summary": summary(made), "missing": made.facts["missing"]}


@app.function(
    image=image,
    volumes=volumes,
    gpu=GPU,
    timeout=12 * HOURS,
    retries=modal.Retries(initial_delay=0.0, max_retries=10),  # a retry carries on from the last save
    single_use_containers=True,
)
def train(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a run on the Volume's prepared or other set of that name; returns the run's name and its last figures."""
    import json  # noqa: PLC0415

    from mai_app.train import train as train_here  # noqa: PLC0415

    config = TrainConfig(data=_on_volume(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    try:
        folder = train_here(config, on_save=volume.commit)
    except MaiError as error:
        return _refusal(error)
    volume.commit()
    return {"run": folder.name, "last_epoch": json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])}


@app.function(image=image, volumes=volumes, gpu=GPU, timeout=2 * HOURS)
def evaluate(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure a run of the Volume on a data set of the Volume; returns the report."""
    from mai_app.evaluation.evaluate import evaluate as evaluate_here  # noqa: PLC0415

    try:
        report = evaluate_here(
            EvaluateConfig(data=_on_volume(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
        )
    except MaiError as error:
        return _refusal(error)
    volume.commit()
    return report


@app.function(image=image, volumes=volumes, gpu=GPU, timeout=10 * MINUTES, scaledown_window=2 * MINUTES)
def predict(files: list[tuple[str, bytes] | ImageError], model: str = "") -> dict[str, Any]:
    """Judge files, given as names and bytes, with a run of the Volume (default: the one trained last)."""
    from mai_app.predict import load  # noqa: PLC0415

    try:
        detector = load(model, runs=Path(RUNS))
    except MaiError as error:
        return _refusal(error)
    return {"predictions": [dataclasses.asdict(prediction) for prediction in detector.predict(files)]}


@app.local_entrypoint()
def main(data: str = "", name: str = "", epochs: int = 0) -> None:
    """Train: on simulated images if no data set is named."""
    defaults = TrainConfig if data else DemoConfig
    config = TrainConfig(
        data=Path(data or DEMO),
        name=name,
        epochs=epochs or defaults.epochs,
        learning_rate=defaults.learning_rate,
        degrade=bool(data),  # the simulated pairs are saved alike
    )
    sys.exit(run(config, dispatch))


def run_there(config: Config) -> int:
    """What mai_app.cli.run_here does, on Modal; returns the exit code."""
    results = sys.stdout
    # Modal's own progress goes the other way, so that the output is the same as here.
    with contextlib.redirect_stdout(sys.stderr), modal.enable_output(), app.run():
        return dispatch(config, results)


def dispatch(config: Config, stream: IO[str] | None = None) -> int:
    """Hand a command to the running app and show what comes back; returns the exit code."""
    if isinstance(config, PrepareConfig):
        # A row of the table goes before a folder of its name, as it does on this machine.
        rows = {name for source in SOURCES for name in (source.name, source.repository)}
        if config.list or any(Path(name).is_dir() for name in config.source if name not in rows):
            raise MaiError("--list and folders are for this machine; bring a folder there by training on it")
        result = _answer(prepare.remote(_settings(config, "prepared")))
        print(f"{result['summary']}\nNext: train --data {result['set']}, on Modal", file=stream)
        return 1 if result["missing"] else 0
    if isinstance(config, TrainConfig):
        result = _answer(train.remote(_data_on_volume(config.data), _settings(config, "data", "runs", "prepared")))
        figures = result["last_epoch"]
        loss = f"val loss {figures['val_loss']:.4f}"
        print(f"done: run {result['run']} on the Volume, epoch {figures['epoch']}, {loss}", file=stream)
        return 0
    if isinstance(config, EvaluateConfig):
        if config.out is not None:
            raise MaiError("--out is not to be had on Modal: the report lies beside the run on the Volume")
        settings = _settings(config, "data", "runs", "prepared", "out")
        show_report(_answer(evaluate.remote(_data_on_volume(config.data), settings)), stream)
        return 0
    if isinstance(config, PredictConfig):
        return show_predictions(_predictions(config), chosen_format(config), stream)
    raise MaiError("this command runs on the local machine only; `modal run modal_app.py` trains on simulated images")


def _predictions(config: PredictConfig) -> Iterator[Prediction]:
    """Rows as they come back, some files a call; what can't be read here goes along as the error to report."""
    batch: list[tuple[str, bytes] | ImageError] = []
    size = 0
    for path in find_images(paths_to_judge(config)):
        try:
            if isinstance(path, ImageError):
                raise path
            data = read_file(path)
            batch.append((str(path), data))
            size += len(data)
        except ImageError as error:
            batch.append(error)
        if len(batch) >= config.batch_size or size > BATCH_BYTES:
            yield from _judged(batch, config)
            batch, size = [], 0
    if batch:
        yield from _judged(batch, config)


def _judged(batch: list[tuple[str, bytes] | ImageError], config: PredictConfig) -> Iterator[Prediction]:
    for row in _answer(predict.remote(batch, config.model))["predictions"]:
        yield Prediction(**row)


def _on_volume(name: str) -> Path:
    """Where the Volume has the data set of that name: as a prepared set, or as images."""
    from mai_app.data.prepared import is_prepared  # noqa: PLC0415

    return Path(PREPARED / name) if is_prepared(Path(PREPARED / name)) else Path(DATA / name)


def _refusal(error: MaiError) -> dict[str, Any]:
    """What MAI refuses, as a value: raised, it would be tried again and come back as a stack of remote frames."""
    return {"mai_error": str(error)}


def _answer(result: dict[str, Any]) -> dict[str, Any]:
    if "mai_error" in result:
        raise MaiError(f"on Modal: {result['mai_error']}")
    return result


def _settings(config: Config, *not_there: str) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in not_there}


def _data_on_volume(data: Path) -> str:
    """Name of a data set on the Volume: a folder that is here is brought there first."""
    if str(data) == DEMO:
        make_demo_data.remote(DemoConfig.scenes, DemoConfig.seed)
    elif data.is_dir():
        name = data.resolve().name
        print(
            f"bringing {data} to data/{name} on the Volume (what is there already is not sent again)", file=sys.stderr
        )
        with volume.batch_upload(force=True) as batch:
            batch.put_directory(data, str(PurePosixPath("/data") / name))
        return name
    return str(data)
