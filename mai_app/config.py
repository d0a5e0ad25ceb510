"""Every default of MAI: frozen dataclasses, most of which are also the flags of the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

IMAGE_SIZE = 200
"""Side of the network's input, in pixels."""

SPLITS = ("train", "val", "test")
CLASSES = ("authentic", "synthetic")
"""Class names by label: authentic = 0, synthetic = 1."""

InputMode = Literal["resize", "crop"]
Verdict = Literal["authentic", "unsure", "synthetic"]
ModelName = Literal["baseline", "traces", "resnet18", "convnext-base"]
Tier = Literal["clean", "q90", "web", "hard"]
TIERS: tuple[Tier, ...] = ("clean", "q90", "web", "hard")


@dataclass(frozen=True)
class Limits:
    """What the decoder accepts, checked before any pixel is decoded."""

    max_bytes: int = 128 * 2**20
    max_pixels: int = 100_000_000
    max_side: int = 65_500  # the longest that a JPEG can have, so that every tier can be made


LIMITS = Limits()


@dataclass(frozen=True)
class ServeLimits:
    """Limits of the HTTP API, per request and in total; LIMITS has those of a single image."""

    max_body_bytes: int = 64 * 2**20  # of one request; larger ones get 413
    max_files: int = 32  # of one request; more get 413
    max_requests: int = 64  # concurrent, with a body; more get 503
    max_queued_files: int = 256  # received and not yet finished; more get 503
    max_bytes_in_flight: int = 512 * 2**20  # of request bodies not yet answered; more get 503
    requests_per_minute: int = 600  # with a body, per client address, on average; more get 429
    retry_after_seconds: int = 2  # Retry-After of a 503


SERVE_LIMITS = ServeLimits()


@dataclass(frozen=True)
class DoubtLimits:
    """What an image must have for a verdict: beyond these limits it is unsure, whatever its score.

    Set so that next to none of the development set's val images, as found, falls under them (docs/decisions.md).
    """

    shorter_side: int = 64  # pixels; a crop would be more mirror image than image, a stretched image more guess
    detail: float = 0.5  # grey levels; rounding to 8 bits alone leaves 0.3
    resolution: float = 0.09  # the finest octave's share of the finest three; 0.4 as a rule, 0.09 if enlarged threefold
    jpeg_quality: int = 20  # half of the hard tier's: nothing that the figures tell of was saved so


DOUBT_LIMITS = DoubtLimits()


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; stored with every checkpoint."""

    input: InputMode = "resize"
    """resize: the whole image, stretched to the input's size. crop: native pixels, several crops averaged."""
    size: int = IMAGE_SIZE
    """Side of the square input, in pixels."""
    crops: int = 5
    """Crops an image at prediction: the four corners and the centre (5), or the centre alone (1). crop only."""
    longest: int = 0
    """Images with a longer side are scaled down to it first, in pixels; 0: never."""


@dataclass(frozen=True)
class Splitting:
    """How a data set without split folders is divided, by a seeded hash of each group of duplicates."""

    seed: int = 0
    val: float = 0.1
    test: float = 0.1


SPLITTING = Splitting()

PREPARED_WINDOW = 256
"""Largest side, in pixels, of the windows that a prepared set keeps of an image."""
PREPARED_LONGEST = 512
"""Longest side, in pixels, to which larger images are scaled down for their second window."""
SMALLEST_CROP = 32
"""Smallest side of a training crop, in pixels."""
NEAR_DUPLICATE_BITS = 4
"""Images whose 64-bit perceptual hashes differ in at most so many bits are near duplicates (docs/decisions.md)."""
AUDIT_LIMIT = 0.6
"""`mai audit --strict` fails where the files alone tell the classes apart with a higher AUROC."""

FPR_CEILING = 0.05
"""The decision threshold lets at most this share of the authentic validation images be called synthetic."""
UNSURE_ACCURACY = 0.95
"""Verdicts outside the unsure band are right at least this often on the validation images."""
UNSURE_MIN_IMAGES = 20
"""A side of the unsure band is opened only if at least this many validation images lie beyond it."""
CALIBRATION_MIN_IMAGES = 20
"""Images of either class that `mai calibrate` needs: of fewer, FPR_CEILING is not even one."""
SHOWN_SCORES = (0.01, 0.99)
"""Scores are shown no nearer to 0 and 1: a few hundred validation images can't tell one image of 100 from none."""

SHIPPED = "traces"
"""Name of the model that comes with MAI (mai_app/models/weights/): used where there is no run and none is named."""

RUNS = Path("runs")
PREPARED = Path("prepared")
TEST_IMAGES = "test_images"
"""Folder that `mai predict` judges when it is given no path, as the first MAI did."""


ModelOption = Annotated[
    str,
    tyro.conf.arg(
        help="Checkpoint file, run folder, or name of a run or shipped model. Default: the run trained last, else "
        f"{SHIPPED}."
    ),
]
DeviceOption = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, cuda:1, mps, …")]
WorkersOption = Annotated[int, tyro.conf.arg(help="Threads that read and decode images.")]
RunsOption = Annotated[Path, tyro.conf.arg(help="Folder of the runs.")]
PreparedOption = Annotated[Path, tyro.conf.arg(help="Folder of the prepared sets: images decoded once, without loss.")]
FormatOption = Annotated[
    Literal["table", "json", "jsonl", "csv"],
    tyro.conf.arg(
        help="table: for people; json: one array; jsonl: an object a line, as they come; csv: with a header."
    ),
]
PlaceOption = Annotated[
    Literal["local", "modal"], tyro.conf.arg(help="Where the command runs: on this machine, or in the cloud on Modal.")
]
DetachOption = Annotated[
    bool, tyro.conf.arg(help="With --on modal: what has started there goes on when this command ends.")
]


@dataclass(frozen=True)
class PrepareConfig:
    """Make a training set from the Hub's data sets, or your own: downloaded, grouped, split, stored without loss.

    The same command carries on where it was stopped. Exit code 0: all sources are in it, 1: some could not be had.
    """

    source: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A row of --list, owner/name[@revision] of the Hub, or a folder here; once for each. Default: all rows."""
    label: tyro.conf.UseAppendAction[tuple[Literal["authentic", "synthetic"], ...]] = ()
    """Label of sources of your own: one for all of them, or one for each. Default: a folder's class folders."""
    files: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Pattern of the zip or parquet files to take from your own Hub data sets. Default: all, from the main branch."""
    list: bool = False
    """Show the table of sources, and make nothing."""
    name: str = "six"
    """Name of the prepared set, a folder below --prepared."""
    parts: int | None = None
    """Remote files a source at most, drawn by the seed. Default: the row's."""
    cap: int | None = None
    """Images a source at most, drawn by the seed, shared evenly by its files. Default: the row's."""
    require: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A source without which nothing is made, or all; once for each."""
    seed: int = 0
    """Seed of all draws and of the split."""
    jobs: int = 2
    """Remote files worked on at a time."""
    retry_seconds: float = 2.0
    """First pause before a failed download is tried again; it doubles five times."""
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


@dataclass(frozen=True)
class AuditConfig:
    """Measure what the files alone give away: format, size, JPEG quality; and what is twice or unreadable."""

    data: Annotated[Path, tyro.conf.Positional]
    """Data set: a folder laid out by class, or a prepared set."""
    strict: bool = False
    """Exit code 3 if the files alone tell the classes apart with an AUROC over --limit."""
    limit: float = AUDIT_LIMIT
    """AUROC allowed by --strict."""
    out: Path | None = None
    """Folder of the report. Default: audit/, in the prepared set."""
    prepared: PreparedOption = PREPARED


@dataclass(frozen=True)
class TwinsConfig:
    """Make a data set with a synthetic twin of each authentic train and val image: like it, but for a decoder's traces.

    The same command carries on where it was stopped.
    """

    data: Path
    """Data set: a folder laid out by class."""
    out: Path
    """Folder of the new data set: the images of --data, linked, and the twins."""
    autoencoder: str = "mixed"
    """nearest, transposed or shuffle: a small one, trained here; mixed: all three; or OWNER/NAME of the Hub."""
    steps: int = 600
    """Steps of training a small autoencoder."""
    side: int = 0
    """Of larger images make the twin of a window of at most so many pixels a side; 0: always of the whole image."""
    mix: float = 0.0
    """Mix up to this share of the original into its twin, drawn for each image."""
    seed: int = 0
    """Seed of the training and of all draws."""
    device: DeviceOption = "auto"
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


RecipeName = Literal["traces", "baseline"]
RECIPES: Final[dict[RecipeName, dict[str, Any]]] = {
    # What the shipped weights were trained with: the defaults of TrainConfig.
    "traces": {},
    # The first MAI, exactly.
    "baseline": {
        "model": "baseline",
        "input": "resize",
        "crop_size": IMAGE_SIZE,
        "longest": 0,
        "epochs": 20,
        "optimizer": "rmsprop",
        "learning_rate": 1e-3,
        "ema": 0.0,
        "degrade": False,
    },
}
"""By name the settings of `mai train` that differ from its defaults."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on a folder of images. The same command carries on a run that was stopped."""

    data: Path
    """Data set: {train,val,test}/{authentic,synthetic}/…, or the two class folders; or a prepared set, or its name."""
    recipe: RecipeName = "traces"
    """Named settings, which every other option overrides. traces: the best today. baseline: the first MAI exactly."""
    name: str = ""
    """Name of the run, a folder below --runs. Default: DATA-MODEL-INPUT."""
    model: ModelName = "traces"
    """Network. traces: small, for crops. baseline: the first MAI's. resnet18, convnext-base: torchvision's."""
    start_from: str = ""
    """Start from these weights: a checkpoint file, a run, a shipped model, or imagenet. Default: random ones."""
    frozen: bool = False
    """Train the last layer alone. torchvision's networks only."""
    input: InputMode = "crop"
    """What the network sees. crop: windows of native pixels. resize: the whole image, stretched to 200×200."""
    crop_size: int = 104
    """Side of the training crops, in pixels; smaller ones train faster. --input crop only."""
    longest: int = 512
    """512: scale images with a longer side down to it first. 0: never. --input crop only."""
    epochs: int = 24
    """Epochs in all; raise it to train a finished run further."""
    batch_size: int = 64
    """Images a batch, half of either class."""
    optimizer: Literal["rmsprop", "adamw"] = "adamw"
    """adamw: linear warm-up, then a cosine schedule to zero. rmsprop: constant learning rate, as the first MAI."""
    learning_rate: float = 2e-3
    """Learning rate; adamw's is the highest of its schedule."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights, which is validated and saved; 0: none."""
    degrade: bool = True
    """Augment training images of both classes alike: JPEG, WebP, rescaling, blur, noise."""
    source_balance: float = 0.5
    """Sampling of sources within a class: 1 draws all alike, 0 all images alike, 0.5 by the root of a source's size."""
    seed: int = 0
    """Seed of weights, order and crops."""
    device: DeviceOption = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast where the hardware computes in it, else float32."""
    workers: int = -1
    """Loader processes; the results do not depend on it. -1: some beside an accelerator, none where there is none."""
    processes: int = 1
    """Processes that share each batch, one a GPU; with --device cpu for trying it out."""
    save_minutes: float = 5.0
    """Save the state at least this often within an epoch, in minutes."""
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


def from_recipe(recipe: RecipeName, data: Path, **settings: Any) -> TrainConfig:
    """The settings of a recipe for a data set, with `settings` in the place of the recipe's own."""
    return TrainConfig(**{"data": data, "recipe": recipe, **RECIPES[recipe], **settings})


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a checkpoint on a data set: whole, per source, generator and kind, in four tiers of damage."""

    data: Path
    """Data set, as for training."""
    model: ModelOption = ""
    split: Literal["train", "val", "test", "all"] = "test"
    """Which part of the data set is judged."""
    bias: bool = False
    """Also save some images differently (PNG, JPEG, WebP, cut, rescaled) and see whether their scores follow."""
    bias_images: int = 300
    """Images of --bias at most, half of them of either class, drawn by a fixed seed."""
    out: Path | None = None
    """Folder of the report. Default: RUN/report-SPLIT."""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


@dataclass(frozen=True)
class CalibrateConfig:
    """Fit a checkpoint's scores, threshold and unsure band on whole val images in all four tiers of damage.

    Writes them into the checkpoint; the weights stay as they are.
    """

    data: Path
    """Data set, as for training; its val part is judged."""
    model: ModelOption = ""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


@dataclass(frozen=True)
class PredictConfig:
    """Judge image files: a row each, in order. Exit code 0: all judged, 1: some not, 2: none, or bad usage."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = field(default_factory=tuple)
    """Files, folders, globs, or - for a list on standard input. Default: the folder test_images/."""
    model: ModelOption = ""
    format: FormatOption = "table"
    evidence: bool = False
    """Also say what the files say of their making: Content Credentials, EXIF, text of generators, …"""
    heatmap: Path | None = None
    """Folder to write a picture into for each image: where in it the score comes from."""
    device: DeviceOption = "auto"
    batch_size: int = 32
    """Images judged at a time."""
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    on: Annotated[
        Literal["local", "modal", "hosted"],
        tyro.conf.arg(help="As for other commands; hosted: in the app that `modal deploy modal_app.py` keeps there."),
    ] = "local"


@dataclass(frozen=True)
class ScanConfig:
    """Judge files by the thousand into a file of rows; the same command carries on where it was stopped.

    Exactly one row a file, as `mai predict --jsonl` writes it. Exit code 0: all judged, 1: some not, 2: none, or bad
    usage.
    """

    path: Annotated[str, tyro.conf.Positional]
    """Folder, image, or list of files: .txt with a path a line, or .csv with a column path or file."""
    out: Path = Path("scan.jsonl")
    """File of the rows; those that it holds already are not judged again."""
    model: ModelOption = ""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    on: PlaceOption = "local"


@dataclass(frozen=True)
class SweepConfig:
    """Train a few settings by a few seeds, and show which is best on validation images. It carries on when stopped.

    Exit code 0: all runs finished, 1: some did not, 2: none did, or bad usage.
    """

    data: Path
    """Data set, as for training."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=VALUE[,VALUE…] of `mai train`; once for each setting; one value fixes it."""
    seeds: int = 2
    """Runs a combination of settings, each with another seed."""
    name: str = "sweep"
    """Start of the runs' names, and the folder below --runs with the results."""
    device: DeviceOption = "auto"
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False


@dataclass(frozen=True)
class ServeConfig:
    """Serve the web page and the HTTP API, by default for this machine only. Images are neither stored nor logged."""

    model: ModelOption = ""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network, without authentication."""
    port: int = 8000
    """Port to listen on; 0: any free port."""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class ExportConfig:
    """Write a model as ONNX, for use without torch, and check that it says the same."""

    out: Path = Path("model.onnx")
    """File to write."""
    model: ModelOption = ""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class ModelsConfig:
    """List the models that can be named with --model: the runs, and those that come with MAI."""

    format: Literal["table", "json"] = "table"
    """table: for people; json: one array."""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class CardConfig:
    """Write a model card: what a checkpoint is, how well it does by its report, and what it can't do."""

    report: Path
    """Folder of the report that `mai evaluate` wrote of this model, on images that it was not trained on."""
    beside: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Folder of a report of another model on the same images, for comparison; once for each."""
    model: str = ""
    """Checkpoint file, run folder, or name of a run or shipped model. Default: the file that the report names."""
    out: Path | None = None
    """File of the card, Markdown. Default: MODEL_CARD.md in the report's folder."""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class DemoConfig:
    """Make simulated images, train, evaluate and predict on them: the whole way, with no network."""

    out: Path = Path("demo")
    """Folder for the images, the run and the report."""
    scenes: int = 700
    """Scenes rendered; each gives one authentic and one synthetic image."""
    epochs: int = 5
    """Epochs of training."""
    learning_rate: float = 3e-4
    """Learning rate; at the first MAI's 0.001 so few and so faint pictures teach it nothing."""
    seed: int = 0
    """Seed of scenes and training."""
