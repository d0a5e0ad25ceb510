"""All defaults and limits of MAI: constants, recipes, and the options of every command as frozen dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

IMAGE_SIZE = 200
"""Side of the network's input, in pixels."""

SPLITS = ("train", "val", "test")
CLASSES = ("authentic", "synthetic")
"""Class names by label: authentic = 0, synthetic = 1."""
SIMULATED: Final = "simulated"
"""Kind of the images of `mai demo`: a model trained on these alone is never the default."""

InputMode = Literal["resize", "crop", "views"]
Verdict = Literal["authentic", "unsure", "synthetic"]
MODEL_NAMES = ("baseline", "traces", "resnet18", "convnext-base")
"""The networks of MAI's own and torchvision's; every other name is one of timm's."""
HeadKind = Literal["linear", "mlp"]
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
class QualityLimits:
    """What an image must have for a verdict: outside these limits it is unsure, whatever its score.

    Set so that next to none of the development set's val images, as found, falls under them (docs/decisions.md).
    """

    shorter_side: int = 64  # pixels; a crop would be more mirror image than image, a stretched image more guess
    sides_ratio: int = 8  # 512 to shorter_side: of a longer strip a network sees a small part, or next to nothing
    detail: float = 0.5  # grey levels; rounding to 8 bits alone leaves 0.3
    resolution: float = 0.09  # the finest octave's share of the finest three; 0.4 as a rule, 0.09 if enlarged threefold
    jpeg_quality: int = 20  # half of the hard tier's: nothing that the figures tell of was saved so


QUALITY_LIMITS = QualityLimits()


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; stored with every checkpoint."""

    input: InputMode = "resize"
    """resize: the whole image, stretched to the input's size. crop: native pixels, several crops averaged. views: the
    whole image's central square, and native windows."""
    size: int = IMAGE_SIZE
    """Side of the square input, in pixels."""
    crops: int = 5
    """Native windows an image at prediction: the centre (1), or the four corners, too (5). Not for resize."""
    longest: int = 0
    """Images with a longer side are scaled down to it first, in pixels; 0: never."""


@dataclass(frozen=True)
class Architecture:
    """What a network of views is made of (mai_app/models/views.py); the other networks have none."""

    backbone: str
    """Name of a timm network."""
    blocks: tuple[int, ...] = ()
    """Blocks whose output are the features, from 1; empty: all."""
    size: int = 224
    """Side of its square input, in pixels."""
    head: HeadKind = "linear"
    traces: bool = False
    """Whether a TraceNet scores the native windows beside it."""


@dataclass(frozen=True)
class PreparedForm:
    """How large a prepared set keeps each image's parts; sides in pixels."""

    window: int = 256
    """Largest side of the windows."""
    whole: int = 0
    """Largest side of the whole image's central square; 0: none is kept."""

    @property
    def max_bytes(self) -> int:
        """Maximum number of bytes of pixels stored per image: stretched, two windows, the square."""
        return 3 * (IMAGE_SIZE**2 + 2 * self.window**2 + self.whole**2)


FORM = PreparedForm()
"""Without views."""


def prepared_form(view_size: int) -> PreparedForm:
    """The form that training with views of this size needs: half as large again leaves room for rescaling; 0: none."""
    side = view_size * 3 // 2
    return PreparedForm(window=max(PREPARED_WINDOW, side), whole=side)


@dataclass(frozen=True)
class Splitting:
    """How a data set without split folders is divided, by a seeded hash of each group of duplicates."""

    seed: int = 0
    val: float = 0.1
    test: float = 0.1


SPLITTING = Splitting()

PREPARED_WINDOW = PreparedForm.window
"""Largest side, in pixels, of the windows that a prepared set keeps of an image, unless larger views need more."""
PREPARED_LONGEST = 512
"""Longest side, in pixels, to which larger images are scaled down for their second window."""
SMALLEST_CROP = 32
"""Smallest side of a training crop, in pixels."""
LARGEST_VIEW = 1024
"""Largest side of a view, in pixels."""
NEAR_DUPLICATE_BITS = 4
"""Images whose 64-bit perceptual hashes differ in at most so many bits are near duplicates (docs/decisions.md)."""
AUDIT_LIMIT = 0.6
"""`mai audit --strict` fails where the files' properties alone predict the class with a higher AUROC."""

FPR_CEILING = 0.05
"""The decision threshold lets at most this share of the authentic validation images be called synthetic; `mai
calibrate` keeps the upper bound of its mean over sources below."""
UNSURE_ACCURACY = 0.82
"""Verdicts outside the unsure band are right at least this often on the validation images; in `mai calibrate` this is
the lower bound of the mean over sources (docs/decisions.md)."""
UNSURE_MIN_IMAGES = 20
"""A side of the unsure band is opened only if at least this many validation images lie beyond it."""
CALIBRATION_MIN_IMAGES = 20
"""Images of either class that `mai calibrate` needs: with fewer, FPR_CEILING is less than one image."""
CALIBRATION_MIN_SOURCES = 20
"""Sources of a class from which on `mai calibrate` counts sources, not images: redraws of fewer hardly differ."""
CALIBRATION_CONFIDENCE = 0.9
"""One-sided confidence of the bounds over sources that `mai calibrate` keeps."""
SHOWN_SCORES = (0.01, 0.99)
"""Scores are shown no nearer to 0 and 1: a few hundred validation images can't tell one image of 100 from none."""

SHIPPED = "mai-1"
"""Name of the model that comes with MAI (mai_app/models/weights/): used where there is no run and none is named."""

RUNS = Path("runs")
PREPARED = Path("prepared")
TEST_IMAGES = "test_images"
"""Folder that `mai predict` reads when it is given no path, as the first MAI did."""


ModelOption = Annotated[
    str,
    tyro.conf.arg(
        help="Checkpoint file, run folder, name of a run or shipped model, or hf:owner/name[@revision] on the Hub. "
        f"Default: the run trained last, else {SHIPPED}."
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
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="With --on modal: what has started there goes on when this command ends."),
]


BudgetOption = Annotated[
    float,
    tyro.conf.arg(
        help="With --on modal: dollars that it may cost at most. Time limits there follow. 0: no such limit."
    ),
]


@dataclass(frozen=True)
class PrepareConfig:
    """Build a training set from Hub data sets or your own folders: download, deduplicate, split, store losslessly.

    The same command resumes where it was stopped. Exit code 0: all sources are in the set, 1: some were unavailable.
    """

    source: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A row of --list, owner/name[@revision] on the Hub, or a folder; once for each. Default: the preset's rows."""
    preset: Literal["six", "modern", "all", "benchmark"] | None = None
    """Rows of --list, beside those of --source. six: the first MAI's, the default without --source. modern: the
    generators of 2024 to 2026 and authentic images of many kinds. all: every row to train on. benchmark: for testing
    only, no training accepts it."""
    licence: Literal["any", "open"] = "any"
    """open: of a preset only rows whose licence allows commercial use; where none is stated, it does not."""
    label: tyro.conf.UseAppendAction[tuple[Literal["authentic", "synthetic"], ...]] = ()
    """Label of your own sources: one for all, or one for each. Default: a folder's class folders."""
    files: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Glob pattern of the zip, parquet, tar or image files of your own Hub data sets. Default: all zip or parquet files
    on the main branch."""
    list: bool = False
    """Show the table of known sources, or of --preset and --licence, and exit."""
    clean: bool = False
    """Remove the sets that folders were prepared as which are gone or have changed since, and exit."""
    name: str = ""
    """Name of the prepared set, a folder below --prepared. Default: the preset's, or six."""
    view_size: int = 0
    """Keep what `mai train --input views` needs for views of this size in pixels, too: 224 for --recipe views, 336 for
    strong."""
    parts: int | None = None
    """Maximum number of remote files per source, drawn by the seed. Default: the row's."""
    cap: int | None = None
    """Maximum number of images per source, drawn by the seed, the same from each of its files. Default: the row's."""
    cap_per_generator: int | None = None
    """Maximum number of images per generator and source, drawn likewise. Default: the row's."""
    fetch_gb: float | None = None
    """Maximum number of gigabytes fetched per source: files spread evenly over its listing. Default: the row's."""
    match: bool = False
    """Leave out images until the classes agree in the files' format, size and JPEG quality. Of a set that is there, no
    more than the manifest is made anew; the same command without it takes them back."""
    require: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Fail if this source is unavailable; once for each, or all."""
    seed: int = 0
    """Seed of sampling and of the split."""
    jobs: int = 2
    """Remote files processed at a time."""
    retry_seconds: float = 2.0
    """Seconds before the first retry of a failed download; doubles with each of five retries."""
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False
    budget: BudgetOption = 0.0


@dataclass(frozen=True)
class AuditConfig:
    """Measure how well format, size and JPEG quality alone predict the class; list duplicates and unreadable files."""

    data: Annotated[Path, tyro.conf.Positional]
    """Data set: a folder laid out by class, or a prepared set."""
    strict: bool = False
    """Exit code 3 if the files alone tell the classes apart with an AUROC over --limit."""
    limit: float = AUDIT_LIMIT
    """Highest AUROC that --strict accepts."""
    out: Path | None = None
    """Folder of the report. Default: audit/, in the prepared set."""
    prepared: PreparedOption = PREPARED


@dataclass(frozen=True)
class TwinsConfig:
    """Make a data set with a synthetic twin of each authentic image: the same picture passed through an autoencoder.

    Train and val images get twins, test images none. The same command resumes where it was stopped.
    """

    data: Path
    """Data set: a folder laid out by class."""
    out: Path
    """Folder of the new data set: hard links to the images of --data, and the twins."""
    autoencoder: str = "mixed"
    """nearest, transposed or shuffle: a small one, trained here; mixed: all three; or OWNER/NAME on the Hub."""
    steps: int = 600
    """Training steps of a small autoencoder."""
    side: int = 0
    """Maximum side of a twin in pixels: larger images get the twin of a window. 0: always the whole image."""
    mix: float = 0.0
    """Blend up to this share of the original into its twin, drawn for each image."""
    seed: int = 0
    """Seed of training and sampling."""
    device: DeviceOption = "auto"
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False
    budget: BudgetOption = 0.0


RecipeName = Literal["traces", "baseline", "views", "strong"]
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
    # Heads on the frozen features of a pretrained network, for the whole image and for native windows.
    "views": {
        "model": "vit_small_patch14_dinov2",
        "start_from": "hub",
        "input": "views",
        "blocks": "3,4,5,6,7,8,9,10",
        "tune": "head",
        "draws": 2,
        "epochs": 16,
        "learning_rate": 1e-3,
        "source_cap": 150,
        "folds": 5,
    },
    # A large pretrained network, tuned, for a hired GPU and many images (docs/train.md says what is not measured).
    "strong": {
        "model": "vit_large_patch14_reg4_dinov2",
        "start_from": "hub",
        "input": "views",
        "view_size": 336,
        "blocks": "6,8,10,12,14,16,18,20",
        "tune": "lora:8",
        "body_learning_rate": 1e-4,
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 1e-3,
    },
}
"""By name the settings of `mai train` that differ from its defaults."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on a folder of images; the same command resumes a run that was stopped."""

    data: Path
    """Data set: {train,val,test}/{authentic,synthetic}/…, or the two class folders; or a prepared set, or its name."""
    recipe: RecipeName = "traces"
    """Named settings, which every other option overrides. traces: small and fast. views: heads on pretrained features.
    strong: a large network tuned on a hired GPU. baseline: the first MAI exactly."""
    name: str = ""
    """Name of the run, a folder below --runs. Default: DATA-MODEL-INPUT."""
    model: str = "traces"
    """Network. traces: small, for crops. baseline: the first MAI's. resnet18, convnext-base: torchvision's. Any other
    name is one of timm's, for --input views."""
    start_from: str = ""
    """Start from these weights: a checkpoint file, a run, a shipped model, hf:owner/name, imagenet (torchvision's), or,
    for timm's networks, hub or a safetensors file. Default: random ones."""
    tune: str = "all"
    """What is trained: all; head: the last layer alone; last:N: the last N blocks, too; lora:R: matrices of rank R in
    every block, too. head for torchvision's and timm's networks, last and lora for timm's."""
    input: InputMode = "crop"
    """What the network sees. crop: windows of native pixels. resize: the whole image, stretched to 200×200. views: the
    whole image, unstretched, and native windows."""
    view_size: int = 224
    """Side of the views, in pixels. --input views only, as are the next six."""
    windows: int = 1
    """Native windows an image at prediction: 1, the centre, or 5, the corners, too."""
    blocks: str = ""
    """Blocks of the network whose outputs are the features, as 6,9. Default: all."""
    head: HeadKind = "linear"
    """What turns features into a score: a linear layer, or an MLP with one hidden layer."""
    body_learning_rate: float = 3e-5
    """Learning rate of what is trained below the head; lower blocks learn more slowly."""
    draws: int = 0
    """Degraded versions of each image to train on, the same in every epoch; 0: new ones each time."""
    cache: bool = True
    """With --tune head and --draws: compute the features of all draws once, and store them beside the prepared set."""
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
    source_cap: int = 0
    """Train on at most so many images of a kind of a source, drawn by a fixed seed; 0: on all."""
    folds: int = 0
    """Also train so many times without one part of the sources each, score that part, and choose fusion, threshold and
    unsure band by these scores: they show what sources bring that nobody trained on. 0: no."""
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
    budget: BudgetOption = 0.0


def from_recipe(recipe: RecipeName, data: Path, **settings: Any) -> TrainConfig:
    """The settings of a recipe for a data set, with `settings` in the place of the recipe's own."""
    return TrainConfig(**{"data": data, "recipe": recipe, **RECIPES[recipe], **settings})


def run_name(config: TrainConfig) -> str:
    """The name of the run that the settings ask for: --name, or else made of the data set's folder and the network."""
    return config.name or f"{config.data.resolve().name}-{config.model}-{config.input}"


@dataclass(frozen=True)
class FuseConfig:
    """Fuse a run of views and a run of traces, both trained with --folds on the same data, into one model.

    The same command resumes where it was stopped.
    """

    data: Path
    """Data set that both were trained on."""
    views: str
    """Run of a network of views."""
    traces: str
    """Run of traces."""
    name: str = "fused"
    """Name of the new model, a folder below --runs."""
    device: DeviceOption = "auto"
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a checkpoint on a data set: overall and per source, generator and kind, in four tiers of degradation."""

    data: Path
    """Data set, as for training."""
    model: ModelOption = ""
    split: Literal["train", "val", "test", "all"] = "test"
    """Part of the data set to evaluate on."""
    bias: bool = False
    """Also re-save some images (PNG, JPEG, WebP, cropped, rescaled) and measure how far their scores shift."""
    bias_images: int = 300
    """Maximum number of images for --bias, half of either class, drawn by a fixed seed."""
    out: Path | None = None
    """Folder of the report. Default: RUN/report-SPLIT."""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False
    budget: BudgetOption = 0.0


@dataclass(frozen=True)
class CalibrateConfig:
    """Calibrate a checkpoint's scores, threshold and unsure band on whole val images in all four tiers.

    Writes them into the checkpoint; the weights stay as they are.
    """

    data: Path
    """Data set, as for training; its val part is used."""
    model: ModelOption = ""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False
    budget: BudgetOption = 0.0


@dataclass(frozen=True)
class PredictConfig:
    """Predict image files: one row per file, in order.

    Exit code 0: all files have a score, 1: some have not, 2: none has, or wrong usage.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = field(default_factory=tuple)
    """Files, folders, glob patterns, or - for a list on standard input. Default: the folder test_images/."""
    model: ModelOption = ""
    format: FormatOption = "table"
    evidence: bool = False
    """Also read provenance metadata: Content Credentials, EXIF, text written by generators, …"""
    heatmap: Path | None = None
    """Folder for a picture per image that shows which parts the score comes from."""
    device: DeviceOption = "auto"
    batch_size: int = 32
    """Images per forward pass."""
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    on: Annotated[
        Literal["local", "modal", "hosted"],
        tyro.conf.arg(help="As for other commands; hosted: in the app that `modal deploy modal_app.py` keeps there."),
    ] = "local"


@dataclass(frozen=True)
class ScanConfig:
    """Predict thousands of files into a JSON-lines file; the same command resumes where it was stopped.

    Exactly one row per file, as `mai predict --format jsonl` writes it. Exit code 0: all files have a score, 1: some
    have not, 2: none has, or wrong usage.
    """

    path: Annotated[str, tyro.conf.Positional]
    """Folder, image, or list of files: .txt with a path a line, or .csv with a column path or file."""
    out: Path = Path("scan.jsonl")
    """Output file; files that have a row in it are skipped."""
    model: ModelOption = ""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS
    on: PlaceOption = "local"


@dataclass(frozen=True)
class SweepConfig:
    """Train combinations of settings with several seeds and rank them by validation loss; resumes when stopped.

    Exit code 0: all runs finished, 1: some did not, 2: none did, or wrong usage.
    """

    data: Path
    """Data set, as for training."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=VALUE[,VALUE…] of `mai train`, recipe included; once for each setting. One value fixes it."""
    seeds: int = 2
    """Runs per combination of settings, each with its own seed."""
    name: str = "sweep"
    """Prefix of the runs' names, and the folder below --runs with the results."""
    device: DeviceOption = "auto"
    runs: RunsOption = RUNS
    prepared: PreparedOption = PREPARED
    on: PlaceOption = "local"
    detach: DetachOption = False
    budget: BudgetOption = 0.0


@dataclass(frozen=True)
class ServeConfig:
    """Serve the web page and the HTTP API, by default for this machine only. Images are neither stored nor logged."""

    model: ModelOption = ""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network, without authentication."""
    port: int = 8000
    """Port to listen on; 0: any free port."""
    allowed_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Host name to answer to beside this machine's own, for a proxy in front that passes it on; once for each."""
    device: DeviceOption = "auto"
    workers: WorkersOption = 2
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class ExportConfig:
    """Export a model to ONNX, for use without torch, and check that its scores are the same."""

    out: Path = Path("model.onnx")
    """File to write."""
    model: ModelOption = ""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class ModelsConfig:
    """List the models that --model can name: the runs, and those that come with MAI."""

    format: Literal["table", "json"] = "table"
    """table: for people; json: one array."""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class CardConfig:
    """Write a model card from a checkpoint and the reports of its evaluation."""

    report: Path
    """Report folder that `mai evaluate` wrote for this model, on images that it was not trained on."""
    beside: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Report folder of another model on the same images, for comparison; once for each."""
    model: str = ""
    """Checkpoint file, run folder, name of a run or shipped model, or hf:owner/name. Default: what the report names."""
    out: Path | None = None
    """File of the card, Markdown. Default: MODEL_CARD.md in the report's folder."""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class PushConfig:
    """Send a model with its calibration and its card to the Hugging Face Hub: others name it hf:owner/name.

    Needs a token with write access in HF_TOKEN, or one that `hf auth login` keeps.
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run, its folder, a checkpoint file, or name of a shipped model."""
    repository: Annotated[str, tyro.conf.Positional]
    """owner/name on the Hub; a repository that is not there is made."""
    public: bool = False
    """Let everyone see and load it. Default: private."""
    license: str = "unknown"
    """Licence of the weights, as the Hub writes it: mit, apache-2.0, cc-by-4.0, …"""
    card: Path | None = None
    """Model card, Markdown. Default: the one that `mai card` wrote, or writes now, from RUN/report-test."""
    simulated: bool = False
    """Send also what was trained on simulated images."""
    runs: RunsOption = RUNS


@dataclass(frozen=True)
class DemoConfig:
    """Run everything on simulated images, without a network: generate, train, evaluate, predict."""

    out: Path = Path("demo")
    """Folder for the images, the run and the report."""
    scenes: int = 700
    """Rendered scenes; each gives one authentic and one synthetic image."""
    epochs: int = 5
    """Epochs of training."""
    learning_rate: float = 3e-4
    """Learning rate; the first MAI's 0.001 is too high for so few images (docs/decisions.md)."""
    seed: int = 0
    """Seed of scenes and training."""
