"""Make synthetic twins of authentic images: the same picture, size and coding, passed through an autoencoder."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from mai_app.config import TwinsConfig
from mai_app.core.device import choose_device, describe_device
from mai_app.core.files import append_rows, describe_changes, locked, resume_rows, write_bytes, write_text
from mai_app.core.log import bar, say, stop_signals
from mai_app.core.parallel import ordered_map
from mai_app.data.prepare import prepare
from mai_app.data.prepared import PreparedSet, find_prepared
from mai_app.errors import DataError, ImageError
from mai_app.images.decode import DecodedImage, Pixels, decode, read_file
from mai_app.training.autoencoder import (
    DECODERS,
    Reconstruct,
    hub_reconstruction,
    load_small,
    save_small,
    small_reconstruction,
    train_small,
)
from mai_app.training.pairs import (
    FOLDER,
    GRID,
    Unpaired,
    counterpart,
    link_images,
    psnr,
    saved_alike,
    window,
    write_manifest,
)

STATE: Final = ".twins"
"""Hidden folder with settings, trained weights, and a log with one row per image that is done."""
LOG: Final = "twins.jsonl"
"""The log, in that folder."""
MAY_CHANGE: Final = ("data", "out", "device", "prepared")
"""Settings that may differ when a set is resumed."""
WORKERS: Final = 2
"""Threads that decode, and as many that encode."""


@dataclass(frozen=True)
class Job:
    """One twin to make: the row of its original in the prepared set, their files below OUT, and the autoencoder."""

    row: int
    file: str
    twin: str
    generator: str
    sha256: str


@dataclass(frozen=True)
class Twin:
    """The result of a job; one row of the log."""

    file: str
    twin: str
    """The twin's file, below OUT; empty if there is none."""
    generator: str
    psnr: float
    """Peak signal-to-noise ratio (PSNR) between the two files' pixels, in decibels; 0 if there is no twin."""
    reason: str
    """Why there is no twin, or empty."""


def make_twins(config: TwinsConfig) -> list[Twin]:
    """Make, or resume, the data set config.out: that of config.data, and twins of its authentic train and val images.

    An image and its twin differ only in the traces of a decoder, so a detector trained on them can't rely on content,
    size or coding (Rajan et al. 2024, "Aligned datasets improve detection of latent diffusion-generated images"; Chen
    et al. 2025, "Dual Data Alignment", for the coding and `mix`). Images are linked, not copied, where the disk allows
    it. Killed at any moment, the same call resumes; on a CPU, it ends with the very same files.

    Raises DataError for unusable folders or settings, CheckpointError for an unavailable autoencoder, and
    KeyboardInterrupt for SIGINT or SIGTERM.
    """
    _check(config)
    device = choose_device(config.device)
    prepared = prepare(config.data, config.prepared)
    state = config.out / STATE
    try:
        with locked(state, wait=False), stop_signals() as stopped:
            _check_settings(config, prepared)
            files = link_images(config.data, config.out, prepared, stopped)
            jobs = _jobs(config, prepared, files)
            done = _done(config.out)
            todo = [job for job in jobs if job.file not in done]
            if todo:
                say(f"{config.out}: {len(todo)} of {len(jobs)} twins to make, on {describe_device(device)}")
                networks = _autoencoders(config, prepared, {job.generator for job in todo}, device, stopped)
                done |= _make(config, prepared, todo, networks, stopped)
            twins = [done[job.file] for job in jobs]
            made = {twin.file: (twin.twin, twin.generator) for twin in twins if not twin.reason}
            write_manifest(config.out, prepared, files, made)
    except BlockingIOError:
        raise DataError(f"{config.out}: another process makes it at this moment; choose another --out") from None
    return twins


def summary(twins: list[Twin], config: TwinsConfig) -> str:
    """What was made, in one line for people."""
    made = [twin for twin in twins if not twin.reason]
    likeness = f", alike to {np.mean([twin.psnr for twin in made]):.1f} dB (PSNR, mean)" if made else ""
    without = f"; {len(twins) - len(made)} images have none" if len(made) < len(twins) else ""
    return f"{config.out}: {len(made)} twins{likeness}{without}. Next: mai train --data {config.out}"


def _check(config: TwinsConfig) -> None:
    data, out = config.data.resolve(), config.out.resolve()
    if data == out or data in out.parents or out in data.parents:
        raise DataError(f"--out {config.out}: one of it and {config.data} lies in the other; name a folder beside it")
    if config.side and config.side < GRID:
        raise DataError(f"--side {config.side}: must be 0, for the whole image, or at least {GRID}")
    if not 0 <= config.mix < 1:
        raise DataError(f"--mix {config.mix}: must be from 0 to less than 1, a share of the authentic image")
    if config.steps < 1:
        raise DataError(f"--steps {config.steps}: must be at least 1")
    small = ("mixed", *DECODERS)
    if config.autoencoder not in small and "/" not in config.autoencoder and not Path(config.autoencoder).is_dir():
        raise DataError(f"--autoencoder {config.autoencoder}: must be {', '.join(small)}, OWNER/NAME or a folder")
    if find_prepared(config.data, config.prepared):
        raise DataError(f"{config.data}: is a prepared set, without its files; name a folder laid out by class")
    if config.out.is_dir() and any(config.out.iterdir()) and not (config.out / STATE).is_dir():
        raise DataError(f"{config.out}: holds files that `mai twins` did not make; name another --out")


def _check_settings(config: TwinsConfig, prepared: PreparedSet) -> None:
    """Write the settings, or check them against those that are there; raises DataError where they differ."""
    path = config.out / STATE / "settings.json"
    new = {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE}
    new |= {"data": prepared.folder.name}
    try:
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
        changes = describe_changes(old, new)
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); name another --out") from None
    if changes:
        raise DataError(f"{config.out}: was made otherwise ({changes}); name another --out")
    write_text(path, json.dumps(new, indent=1) + "\n")


def _jobs(config: TwinsConfig, prepared: PreparedSet, files: dict[int, str]) -> list[Job]:
    """A job for each authentic image of train and val; none for those that are excluded, or are in test as well."""
    hashes = prepared.table["sha256"].to_pylist()
    chosen = (prepared.labels == 0) & np.isin(prepared.splits, ("train", "val"))
    jobs = []
    for row in np.flatnonzero(chosen).tolist():
        kind = DECODERS[int(hashes[row][:8], 16) % len(DECODERS)] if config.autoencoder == "mixed" else ""
        kind = kind or config.autoencoder
        name = (
            f"small-{kind}" if kind in DECODERS else Path(kind).name if Path(kind).is_dir() else kind.partition("@")[0]
        )
        kept = prepared.table["format"][row].as_py() in ("JPEG", "PNG", "WEBP", "BMP")
        twin = counterpart(files[row]) + ("" if kept else ".twin.png")
        jobs.append(Job(row, files[row], twin, f"twin:{name}", hashes[row]))
    if not jobs:
        raise DataError(f"{config.data}: has no authentic image in train or val that a twin could be made of")
    taken = set(files.values()) & {job.twin for job in jobs}
    if taken:
        raise DataError(f"{config.data}: holds {min(taken)} already, where a twin would go; rename its folder {FOLDER}")
    return jobs


def _autoencoders(
    config: TwinsConfig,
    prepared: PreparedSet,
    generators: set[str],
    device: torch.device,
    stopped: Callable[[], bool],
) -> dict[str, Reconstruct]:
    """Load the autoencoders, by generator name; the small ones are trained first where their weights are missing."""
    networks = {}
    rows = np.flatnonzero((prepared.labels == 0) & (prepared.splits == "train"))
    for generator in sorted(generators):
        kind = generator.removeprefix("twin:small-")
        if kind not in DECODERS:
            networks[generator] = hub_reconstruction(config.autoencoder, device)
            continue
        path = config.out / STATE / f"{kind}.safetensors"
        if not path.exists():
            if not len(rows):
                raise DataError(f"{config.data}: has no authentic train image to train an autoencoder on")
            network, losses = train_small(kind, prepared, rows, config.steps, config.seed, device, stopped)
            few = max(1, len(losses) // 10)
            first, last = np.mean(losses[:few]), np.mean(losses[-few:])
            say(f"autoencoder {kind}: {len(losses)} steps, loss from {first:.4f} to {last:.4f}")
            save_small(path, network, {"steps": config.steps, "seed": config.seed, "loss": last})
        # Read back even if just trained: then a set that was resumed is made by the same function.
        networks[generator] = small_reconstruction(load_small(path, kind), device)
    return networks


def _make(
    config: TwinsConfig,
    prepared: PreparedSet,
    todo: list[Job],
    networks: dict[str, Reconstruct],
    stopped: Callable[[], bool],
) -> dict[str, Twin]:
    """Make the missing twins, with a row in the log after each, by original; threads decode and encode."""
    unpaired = Unpaired(prepared, [job.row for job in todo])

    def load(job: Job) -> tuple[Job, bytes, DecodedImage] | Twin:
        try:
            data = read_file(config.out / job.file)
            return job, data, decode(data, job.file)
        except ImageError as error:
            return Twin(job.file, "", job.generator, 0.0, error.reason)

    def reconstruct() -> Iterator[tuple[Job, bytes, DecodedImage, Pixels, Pixels] | Twin]:
        for loaded in ordered_map(load, todo, WORKERS):
            if isinstance(loaded, Twin):
                yield loaded
                continue
            job, data, image = loaded
            rng = np.random.default_rng((config.seed, int(job.sha256[:16], 16)))
            pixels = window(image.pixels, config.side, rng)
            share = np.float32(rng.uniform(0, config.mix) if config.mix else 0)
            made = networks[job.generator](pixels)
            if share:
                made = np.rint(share * pixels + (1 - share) * made).astype(np.uint8)
            yield job, data, image, pixels, made

    def save(item: tuple[Job, bytes, DecodedImage, Pixels, Pixels] | Twin) -> tuple[Twin, bytes]:
        if isinstance(item, Twin):
            return item, b""
        job, data, image, pixels, made = item
        try:
            twin = saved_alike(made, data, image)
            again = decode(twin, job.twin).pixels
        except (ImageError, OSError, ValueError) as error:
            return Twin(job.file, "", job.generator, 0.0, f"its twin can't be saved like it ({error})"), b""
        if unpaired.has(again):
            return Twin(job.file, "", job.generator, 0.0, "its twin looks like another image, which has none"), b""
        return Twin(job.file, job.twin, job.generator, round(psnr(pixels, again), 3), ""), twin

    done = {}
    progress = bar(total=len(todo), desc="twins", unit="image")
    with progress, (config.out / STATE / LOG).open("ab") as stream:
        for twin, data in ordered_map(save, reconstruct(), WORKERS):
            if twin.reason:
                say(f"no twin: {twin.file}: {twin.reason}")
            else:
                write_bytes(config.out / twin.twin, data)
            append_rows(stream, [asdict(twin)])
            done[twin.file] = twin
            progress.update()
            if stopped():
                raise KeyboardInterrupt
    return done


def _done(out: Path) -> dict[str, Twin]:
    """The twins that are done and there, by their originals' files; raises DataError for a damaged log."""
    path = out / STATE / LOG
    try:
        twins = [Twin(**row) for row in resume_rows(path)]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); name another --out") from None
    return {twin.file: twin for twin in twins if twin.reason or (out / twin.twin).is_file()}
