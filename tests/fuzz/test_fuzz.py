"""What the fuzzer has found stays fixed, and some thousand mutations, the same every time, find nothing new."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mai_app.errors import CheckpointError, ImageError
from mai_app.evidence.read import read_evidence
from mai_app.images.decode import decode
from mai_app.models.checkpoint import load_checkpoint
from mai_app.models.description import parse_info
from tests.evidence.files import chunk, saved
from tests.fuzz.mutate import flat, mutate_file, mutate_json, mutate_safetensors
from tests.fuzz.seeds import info_seeds
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
HEAD = b"\x89PNG\r\n\x1a\n"
GIF = b"GIF89a\1\0\1\0\0\0\0"


def tiff(*entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """A TIFF by hand: entries of tag, type, count and the field's four bytes, and what stands behind them."""
    directory = b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + more


FOUND: dict[str, tuple[str, bytes]] = {
    "a GIF that ends within a comment": ("metadata", GIF + b"\x21\xfe" + b"\3abc" * 3),
    "a GIF that ends within credentials": ("metadata", GIF + b"\x21\xff\x0bC2PA_GIF\1\0\0" + b"\3abc" * 3),
    "a PNG without a head": ("parts", HEAD + chunk(b"tRNS", b"")),
    "a directory before the file's beginning": ("decode", tiff((330, 9, 1, struct.pack("<l", -5)))),
    "a directory a little before it": ("parts", tiff((330, 8, 1, struct.pack("<hh", -1, -1)), more=bytes(40))),
    "a TIFF of many depths": (
        "decode",
        tiff(
            (256, 3, 1, b"\1\0\0\0"),
            (257, 3, 1, b"\1\0\0\0"),
            (258, 16, 60, struct.pack("<L", 50)),
            more=bytes(range(256)) * 4,
        ),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_a_file_that_broke_a_reader_breaks_none(what: str) -> None:
    name, data = FOUND[what]
    TARGETS[name].run(data)
    for target in ("decode", "parts", "metadata"):
        TARGETS[target].run(data)


def test_a_gif_that_ends_within_a_comment_keeps_what_it_said_before() -> None:
    data = GIF + b"\x21\xfe\x14Made with Midjourney\0" + b"\x21\xfe" + b"\3abc" * 3
    assert read_evidence(data) != ()


def test_a_directory_before_the_files_beginning_costs_no_batch() -> None:
    with pytest.raises(ImageError):
        decode(tiff((330, 9, 1, struct.pack("<l", -5))), "a.tif")


def changed(*path: str, value: Any, which: int = 0) -> str:
    """A description with one value at a path replaced."""
    document = json.loads(info_seeds()[which])
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        changed("training", value=0.5),
        changed("training", value="x"),
        changed("data", value=5),
        changed("data", value=None),
        changed("mai_version", value=[]),
        changed("data_fingerprint", value={}),
        changed("data_licences", value=[1]),
        changed("data_licences", value={"a": 1}),
        changed("simulated", value="no"),
        changed("epoch", value="3"),
        changed("epoch", value=10**400),
        changed("val_loss", value=float("nan")),
        changed("calibration", "temperature", value=1e-320),
        changed("calibration", "temperature", value=float("inf")),
        changed("calibration", "temperature", value=10**400),
        changed("calibration", "authentic_images", value="many"),
        changed("calibration", "tiers", "clean", "images", value=None),
        changed("preprocessing", "crops", value=5.5),
        changed("preprocessing", "longest", value=10**400),
        changed("model", value="x\n" * 5000),
        changed("mai_version", value="\n" * 5000).replace('"format_version": 3', '"format_version": 99'),
        changed("architecture", "backbone", value=None, which=1),
        changed("architecture", "backbone", value="vit_giant_patch14_reg4_dinov2", which=1),
        changed("architecture", "blocks", value=[0.5], which=1),
        changed("architecture", "size", value=4096, which=1),
        changed("architecture", "traces", value=5, which=1),
        "[" * 100_000,
    ],
)
def test_a_description_that_would_fail_later_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_info(Path("x.safetensors"), text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_small_file_that_names_a_network_of_gigabytes_is_refused_without_them(tmp_path: Path) -> None:
    from tests.fuzz.checkpoints import Tiny, checkpoint  # noqa: PLC0415 - torch, which the others do without

    names = ["vit_large_patch14_dinov2", "convnext-base", "vit_giant_patch14_reg4_dinov2"]
    for name in names:
        document = json.loads(info_seeds()[0 if name == "convnext-base" else 1])
        document["model"] = name
        if document["architecture"]:
            document["architecture"]["backbone"] = name
        (tmp_path / name).write_bytes(checkpoint(json.dumps(document).encode(), Tiny()))
    code = (
        "import resource, sys; from pathlib import Path; from mai_app.errors import CheckpointError\n"
        "from mai_app.models.checkpoint import load_checkpoint; import timm, torchvision, torch._dynamo\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try: load_checkpoint(Path(name))\n"
        "    except CheckpointError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    paths = [tmp_path / name for name in names]
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    assert ["do not fit the model" in line for line in said] == [True] * 3
    assert int(grown) < 150  # MiB; convnext-base alone has 350, the giant 4,500


def test_a_network_of_which_few_blocks_are_used_is_loaded(tmp_path: Path) -> None:
    from mai_app.models.views import build_network  # noqa: PLC0415
    from tests.fuzz.checkpoints import checkpoint  # noqa: PLC0415

    document = json.loads(info_seeds()[1])
    document["architecture"]["blocks"] = [1]
    info = parse_info(Path("x"), json.dumps(document))
    network = build_network(info.model, info.architecture)
    path = tmp_path / "m.safetensors"
    path.write_bytes(checkpoint(json.dumps(document).encode(), network))
    assert load_checkpoint(path).info == info


def test_a_model_whose_answers_are_no_numbers_says_so(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    from mai_app.inference.detector import load  # noqa: PLC0415
    from mai_app.models.networks import TraceNet  # noqa: PLC0415
    from tests.fuzz.checkpoints import checkpoint  # noqa: PLC0415

    network = TraceNet()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.where(torch.rand_like(parameter) < 0.5, -3e38, 3e38))
    document = changed("model", value="traces").encode()
    (tmp_path / "m.safetensors").write_bytes(checkpoint(document, network))
    (row,) = load(tmp_path / "m.safetensors", "cpu").predict([("a.png", saved("PNG"))])
    assert (row.p_synthetic, row.verdict) == (None, None)
    assert row.error
    assert "no number" in row.error


RUNS = {
    "decode": 1500,
    "parts": 3000,
    "metadata": 2000,
    "credentials": 100,
    "blocks": 4000,
    "info": 1500,
    "checkpoint": 60,
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # of odd numbers and types, which the command line does not show either
def test_mutations_find_nothing(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = [seed for seed in target.seeds() if seed]
    if not seeds:
        pytest.skip("needs the extra `provenance`")
    damage: Callable[[bytes], bytes] = lambda data: flat(rng, data)  # noqa: E731
    for seed in seeds:
        target.run(seed)
    for _ in range(RUNS[name]):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 2, 3))):
            if target.form == "file":
                data = mutate_file(rng, data, seeds, damage)
            elif target.form == "json":
                data = mutate_json(rng, data)
            elif target.form == "safetensors":
                data = mutate_safetensors(rng, data, damage)
            else:
                data = data[:1] + flat(rng, data[1:])
        target.run(data[: target.max_bytes])
