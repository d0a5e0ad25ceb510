"""MAI on Modal: what runs there, on which machines. mai_app does the work, modal_client.py the caller's side.

modal run modal_app.py                           train on simulated images, made on the Volume
modal run modal_app.py --data photos             train on the folder photos/ here, or else on data/photos of the Volume
modal run modal_app.py::scan --path photos       judge a folder, here or on the Volume, in many containers
modal run modal_app.py::sweep --data photos …    train a few settings by a few seeds side by side
modal deploy modal_app.py                        host all of it, with an HTTP API behind proxy auth
MAI_GPU=H100 modal run …                         on another GPU; H100:2 trains on two of them
MAI_OPEN_PAGE=1 modal deploy modal_app.py        and a page that is open to everyone
"""

import asyncio
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

from mai_app.config import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PrepareConfig,
    ServeLimits,
    SweepConfig,
    TrainConfig,
    TwinsConfig,
)
from mai_app.errors import ImageError, MaiError, ModelNameError, SourceError
from mai_app.remote.costs import Machine

GPUS = tuple(os.environ.get("MAI_GPU", "L4,A10,T4").split(","))  # the first that is free
TRAINER = Machine(cores=8, gib=16, hours=24, containers=8, gpus=GPUS)
EVALUATOR = Machine(cores=8, gib=16, hours=4, gpus=GPUS)
DECODER = Machine(cores=4, gib=4, hours=24)
FETCHER = Machine(cores=2, gib=4, hours=6, containers=10)
LEADER = Machine(cores=1, gib=2, hours=24)  # hands out the work of others
# No GPU: beside decoding, so small a network costs little, and a container without one starts sooner.
JUDGE = Machine(cores=4, gib=4, hours=1 / 6, containers=10)
SCANNER = Machine(cores=4, gib=4, hours=1 / 2, containers=20)
LISTER = Machine(cores=1 / 2, gib=2, hours=1 / 6, containers=2)
WEB = Machine(cores=1 / 2, gib=1, hours=1 / 2, containers=4)
IDLE = 5 * 60  # seconds that a container of the hosted detector waits for the next call

VOLUME = PurePosixPath("/mai")  # data sets, prepared sets and runs, in folders of these names
DATA, PREPARED, RUNS = VOLUME / "data", VOLUME / "prepared", VOLUME / "runs"
PLACES = ("data", "runs", "prepared")  # fields of a configuration that the Volume has its own of
DEMO = "simulated-demo"  # name of the simulated data set, also where a folder here has it
LIVE_SECONDS = float(os.environ.get("MAI_LIVE_SECONDS", "30"))  # until new weights are noticed
OPEN_PAGE = os.environ.get("MAI_OPEN_PAGE", "") == "1"

app = modal.App("mai")
volume = modal.Volume.from_name("mai", create_if_missing=True, version=2)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install_from_requirements(str(Path(__file__).with_name("requirements.lock")))
    .env({name: os.environ[name] for name in ("MAI_LIVE_SECONDS", "MAI_OPEN_PAGE") if name in os.environ})
    .env({"MAI_PROGRESS_SECONDS": "20"})  # no terminal there: a line now and then instead of a bar
    # Everything of the package but what Python leaves behind: the page is no Python file.
    .add_local_python_source("mai_app", ignore=["**/__pycache__/**"])
)
writable: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = {VOLUME: volume}
readable: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = {
    VOLUME: volume.with_mount_options(read_only=True)
}
carry_on = modal.Retries(initial_delay=0.0, max_retries=10)  # each attempt goes on from the last save
# For data sets that are not for everyone, and for mirrors; the six need neither.
hub_settings = modal.Secret.from_dict({n: os.environ[n] for n in ("HF_TOKEN", "HF_ENDPOINT") if n in os.environ})


@app.function(image=image, volumes=writable, **DECODER.asked())
def make_demo_data(scenes: int, seed: int) -> None:
    """Make the simulated data set on the Volume, unless it is there."""
    from mai_app.demo.images import make_demo  # noqa: PLC0415

    make_demo(Path(DATA / DEMO), scenes, seed)
    volume.commit()


@app.function(image=image, volumes=writable, retries=carry_on, single_use_containers=True, **DECODER.asked())
def prepare_folder(data: str) -> dict[str, Any]:
    """Decode a folder of images on the Volume, where no GPU waits for it; returns the set's size."""
    from mai_app.data.prepare import prepare as prepare_here  # noqa: PLC0415

    try:
        prepared = prepare_here(_on_volume(data), Path(PREPARED), workers=4)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return {"images": len(prepared)}


@app.function(
    image=image,
    volumes=writable,
    secrets=[hub_settings],
    retries=carry_on,
    single_use_containers=True,
    **LEADER.asked(),
)
def prepare(settings: dict[str, Any]) -> dict[str, Any]:
    """Make a prepared set on the Volume, a container a remote file; returns its summary and what could not be had."""
    from mai_app.data.plan import Unit  # noqa: PLC0415
    from mai_app.data.prepare import prepare_sources  # noqa: PLC0415
    from mai_app.data.summary import summary  # noqa: PLC0415

    config = PrepareConfig(prepared=Path(PREPARED), **settings)

    def spread(units: list[Unit]) -> Iterator[tuple[Unit, SourceError | None]]:
        volume.commit()  # for the units to see: the plan, and the names of images to leave out
        calls = [(unit, config.name, config.seed, config.retry_seconds) for unit in units]
        for unit, failure in zip(units, prepare_unit.starmap(calls), strict=True):
            yield unit, SourceError(failure["reason"], failure["whole"]) if failure else None
        volume.reload()

    try:
        made = prepare_sources(config, spread=spread)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return {"set": made.folder.name, "summary": summary(made), "missing": made.facts["missing"]}


@app.function(image=image, volumes=writable, secrets=[hub_settings], retries=carry_on, **FETCHER.asked())
def prepare_unit(unit: Any, name: str, seed: int, retry_seconds: float) -> dict[str, Any] | None:
    """Fetch one remote file to this container's own disk and store its images; returns why not, or None."""
    from mai_app.config import Splitting  # noqa: PLC0415
    from mai_app.data.hub import Patience  # noqa: PLC0415
    from mai_app.data.prepare import prepare_unit as prepare_unit_here  # noqa: PLC0415

    volume.reload()
    own_disk = Path(tempfile.gettempdir())
    try:
        prepare_unit_here(unit, Path(PREPARED / name), own_disk, Splitting(seed=seed), Patience(retry_seconds))
    except SourceError as error:
        return {"reason": str(error), "whole": error.whole}
    volume.commit()
    return None


@app.function(image=image, volumes=writable, retries=carry_on, single_use_containers=True, **TRAINER.asked())
def train(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a run on the Volume's set of that name; returns the run's name and its last and best figures."""
    import torch  # noqa: PLC0415

    from mai_app.training.loop import train as train_here  # noqa: PLC0415
    from mai_app.training.sweep import best_epoch  # noqa: PLC0415

    settings = settings | {"processes": max(torch.cuda.device_count(), settings["processes"])}
    config = TrainConfig(data=_on_volume(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    try:
        folder = train_here(config, on_save=volume.commit)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {"run": folder.name, "last_epoch": last, "best_epoch": best_epoch(folder)}


@app.function(image=image, volumes=writable, retries=carry_on, **LEADER.asked())
def run_sweep(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the settings by the seeds, a container each; returns the results."""
    from mai_app.training.sweep import Result, failed, finished  # noqa: PLC0415
    from mai_app.training.sweep import sweep as sweep_here  # noqa: PLC0415

    config = SweepConfig(data=Path(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)

    def train_all(configs: list[TrainConfig]) -> Iterator[Result]:
        calls = [(data, settings_of(one, *PLACES)) for one in configs]
        answers = train.starmap(calls, return_exceptions=True)
        for one, figures in zip(configs, answers, strict=True):
            if isinstance(figures, Exception):
                yield failed(one, f"{type(figures).__name__}: {figures}")
            elif "mai_error" in figures:
                yield failed(one, figures["mai_error"])
            else:
                yield finished(one, figures["best_epoch"])

    try:
        results = sweep_here(config, train_all)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return {"results": [dataclasses.asdict(result) for result in results]}


@app.function(image=image, volumes=writable, **EVALUATOR.asked())
def evaluate(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure a run of the Volume on a data set of the Volume; returns the report."""
    from mai_app.evaluation.evaluate import evaluate as evaluate_here  # noqa: PLC0415

    volume.reload()
    config = EvaluateConfig(data=_on_volume(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    try:
        report = evaluate_here(config)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return report


@app.function(image=image, volumes=writable, **EVALUATOR.asked())
def calibrate(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fit a run's scores on a data set's val part; returns what it comes to, in words."""
    from mai_app.evaluation.calibrate import calibrate_checkpoint, text_table  # noqa: PLC0415

    volume.reload()
    config = CalibrateConfig(data=_on_volume(data), runs=Path(RUNS), prepared=Path(PREPARED), **settings)
    try:
        path, calibration = calibrate_checkpoint(config)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return {"text": text_table(calibration), "run": path.parent.name}


@app.function(image=image, volumes=writable, secrets=[hub_settings], retries=carry_on, **TRAINER.asked())
def twins(data: str, out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Make a data set of the Volume with a synthetic twin of each authentic image; returns what was made, in words."""
    from mai_app.training.twins import make_twins, summary  # noqa: PLC0415

    config = TwinsConfig(data=Path(DATA / data), out=Path(DATA / out), prepared=Path(PREPARED), **settings)
    try:
        made = make_twins(config)
    except MaiError as error:
        return refusal(error)
    volume.commit()
    return {"text": summary(made, dataclasses.replace(config, out=Path(out)))}


@app.cls(image=image, volumes=readable, scaledown_window=IDLE, enable_memory_snapshot=True, **JUDGE.asked())
class Judge:
    """The hosted detector: one file a call; calls that come together are judged together."""

    model: str = modal.parameter(default="")  # a run of the Volume; "": the one trained last, else MAI's own

    @modal.enter(snap=True)
    def build(self) -> None:
        """What takes seconds and needs no weights: it is in the snapshot that containers start from."""
        import mai_app.inference.reload  # noqa: F401, PLC0415

    @modal.enter(snap=False)
    def load(self) -> None:
        """What a snapshot can't hold: the newest weights."""
        self.live = _live(self.model)

    @modal.batched(max_batch_size=32, wait_ms=50)
    def judge(self, files: list[tuple[str, bytes] | ImageError]) -> list[dict[str, Any]]:
        """A row of `mai predict --evidence` for each file, given as its name and bytes, with "facts" of the model."""
        try:
            detector = self.live.detector()
            facts = dataclasses.asdict(detector.facts)
            rows = detector.predict(files, workers=4, evidence=True)
            return [dataclasses.asdict(row) | {"facts": facts} for row in rows]
        except MaiError as error:
            return [refusal(error)] * len(files)


@app.function(image=image, volumes=readable, scaledown_window=IDLE, **JUDGE.asked())
def draw_heatmap(name: str, data: bytes, model: str) -> dict[str, Any]:
    """Where in a file the score comes from, as {"png": bytes}."""
    from mai_app.inference.heatmap import heatmap_png  # noqa: PLC0415

    try:
        return {"png": heatmap_png(_live(model).detector(), name, data)}
    except MaiError as error:
        return refusal(error)


@app.function(image=image, volumes=readable, **LISTER.asked())
def list_models() -> list[dict[str, Any]]:
    """The facts of the Volume's runs and of MAI's own models, the default first."""
    from mai_app.config import ServeConfig  # noqa: PLC0415
    from mai_app.inference.reload import known_models  # noqa: PLC0415

    volume.reload()
    try:
        return [dataclasses.asdict(facts) for facts in known_models(ServeConfig(runs=Path(RUNS)))]
    except MaiError as error:
        return [refusal(error)]


@app.function(image=image, **WEB.asked())
def predict(files: list[tuple[str, bytes] | ImageError], model: str = "") -> list[dict[str, Any]]:
    """Judge files, given as names and bytes, with a run of the Volume (default: the last, else MAI's own), in order."""
    return list(_judge(model).map(files))


@app.function(image=image, scaledown_window=IDLE, **WEB.asked())
@modal.concurrent(max_inputs=32)
@modal.asgi_app(requires_proxy_auth=True)
def api() -> Any:
    """The HTTP API, for those who have a proxy token of the workspace."""
    return _web(open_page=False)


if OPEN_PAGE:

    @app.function(image=image, scaledown_window=IDLE, **WEB.asked())
    @modal.concurrent(max_inputs=32)
    @modal.asgi_app()
    def page() -> Any:
        """The page and its API, for everyone: switched on deliberately, for everyone's calls are paid for."""
        return _web(open_page=True)


@app.cls(image=image, volumes=readable, retries=3, **SCANNER.asked())
class Scanner:
    """Judges the chunks of a scan."""

    model: str = modal.parameter(default="")

    @modal.enter()
    def load(self) -> None:
        """The newest weights."""
        self.live = _live(self.model)

    @modal.method()
    def judge(self, chunk: list[Any]) -> list[dict[str, Any]]:
        """A row a file: of names with bytes, or of names below data/ on the Volume."""
        try:
            detector = self.live.detector()
        except MaiError as error:
            return [refusal(error)]
        items = [str(DATA / item) if isinstance(item, str) else item for item in chunk]
        rows = [dataclasses.asdict(row) for row in detector.predict(items, workers=4)]
        return [row | {"path": row["path"].removeprefix(f"{DATA}/")} for row in rows]


@app.function(image=image, volumes=readable, **LEADER.asked())
def list_images(path: str) -> Iterator[list[Any]]:
    """Names of the images in a folder or list below data/ on the Volume, a thousand at a time."""
    from itertools import islice  # noqa: PLC0415

    from mai_app.inference.scan import list_files  # noqa: PLC0415

    volume.reload()
    try:
        names = (n if isinstance(n, ImageError) else n.removeprefix(f"{DATA}/") for n in list_files(str(DATA / path)))
        while part := list(islice(names, 1000)):
            yield part
    except MaiError as error:
        yield [refusal(error)]


def _judge(model: str) -> Any:
    # Modal makes the __init__, which type checkers can't see.
    return Judge(model=model).judge  # type: ignore[call-arg]


@functools.cache  # a container's own: draw_heatmap is no class that could hold them
def _live(model: str) -> Any:
    from mai_app.inference.reload import LiveDetector  # noqa: PLC0415

    return LiveDetector(model, Path(RUNS), LIVE_SECONDS, volume.reload)


def _web(open_page: bool) -> Any:
    from mai_app.serve.api import create_app  # noqa: PLC0415
    from mai_app.serve.backend import Backend, FileResult, Files  # noqa: PLC0415

    def chosen(model: str) -> str:
        # Each name of a run has containers of its own: the open page serves one run.
        return "" if open_page else model

    async def judge(files: Files, model: str) -> list[FileResult]:
        rows = await asyncio.gather(*map(_judge(chosen(model)).remote.aio, files))
        return [(row, row.pop("facts")) for row in map(answer, rows)]

    async def heatmap(name: str, data: bytes, model: str) -> bytes:
        png: bytes = answer(await draw_heatmap.remote.aio(name, data, chosen(model)))["png"]
        return png

    async def models() -> list[dict[str, Any]]:
        known = [answer(facts) for facts in await list_models.remote.aio()]
        return known[:1] if open_page else known

    # Of the machine's memory: a body may be there twice.
    return create_app(Backend(judge, heatmap, models), open_page, ServeLimits(max_bytes_in_flight=128 * 2**20))


def _on_volume(name: str) -> Path:
    """Where the Volume has the data set of that name: as a prepared set, or as images."""
    from mai_app.data.prepared import is_prepared  # noqa: PLC0415

    return Path(PREPARED / name) if is_prepared(Path(PREPARED / name)) else Path(DATA / name)


def settings_of(config: Any, *not_there: str) -> dict[str, Any]:
    """A configuration as a plain dict, without the fields that mean something on the caller's machine only."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in not_there}


def refusal(error: MaiError) -> dict[str, Any]:
    """What MAI refuses, as a value: raised, it would be tried again and come back as a stack of remote frames."""
    return {"mai_error": str(error), "kind": type(error).__name__, "reason": getattr(error, "reason", "")}


def answer(result: dict[str, Any]) -> dict[str, Any]:
    """A remote function's result; raises MaiError for what was refused there, of the kinds that the API tells apart."""
    if "mai_error" not in result:
        return result
    if result["kind"] == "ImageError":
        raise ImageError(result["mai_error"].removesuffix(f": {result['reason']}"), result["reason"])
    raise (ModelNameError if result["kind"] == "ModelNameError" else MaiError)(f"on Modal: {result['mai_error']}")


@app.local_entrypoint()
def main(data: str = "", name: str = "", epochs: int = 0) -> None:
    """Train: on simulated images if no data set is named."""
    import modal_client  # noqa: PLC0415

    defaults = TrainConfig if data else DemoConfig
    config = TrainConfig(
        data=Path(data or DEMO),
        name=name,
        epochs=epochs or defaults.epochs,
        learning_rate=defaults.learning_rate,
        degrade=bool(data),  # the simulated pairs are saved alike
    )
    sys.exit(modal_client.run_in_app(config))


def scan_files(path: str, out: str = "scan.jsonl", model: str = "") -> None:
    """Judge a folder, or a list of files, in many containers; carried on where it was stopped."""
    import modal_client  # noqa: PLC0415

    sys.exit(modal_client.scan_there(path, out, model))


def sweep_settings(data: str, vary: str = "", seeds: int = 2, name: str = "sweep", detach: bool = False) -> None:
    """Train a few settings by a few seeds; --vary "learning-rate=1e-3,3e-4; input=resize,crop"."""
    import modal_client  # noqa: PLC0415

    sys.exit(modal_client.sweep_there(data, vary, seeds, name, detach))


# `modal run modal_app.py` takes the file's one entrypoint and refuses to choose between several. So scan and sweep are
# entrypoints of Apps of these names, which have nothing else; they run the app above.
scan = modal.App("mai-scan")
scan.local_entrypoint()(scan_files)
sweep = modal.App("mai-sweep")
sweep.local_entrypoint()(sweep_settings)
