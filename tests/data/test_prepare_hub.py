"""`mai prepare` from the Hub: over real HTTP, what it makes is right, and the same whatever goes wrong on the way."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from mai_app.cli import main
from mai_app.config import PrepareConfig, Splitting
from mai_app.data.hub import TRIES
from mai_app.data.plan import Shard, make_plan
from mai_app.data.prepare import RunElsewhere, prepare_shard, prepare_sources
from mai_app.data.prepared import PreparedSet, describe_prepared, open_prepared
from mai_app.data.shards import pixel_hash, write_shard
from mai_app.data.source_row import RetryPolicy
from mai_app.data.sources import SIX, SOURCES
from mai_app.errors import DataError, SourceError
from mai_app.images.decode import decode
from tests import hub as stand_in
from tests.conftest import picture
from tests.data.test_hub import point_at
from tests.data.test_prepare import contents
from tests.hub import (
    COVERS,
    DIFFUSIONDB,
    FLICKR,
    PAINTINGS,
    POSTERS,
    SCENERY,
    SIGNATURE,
    Fault,
    Hub,
    Member,
    Planted,
    add_six,
    bad_parquet,
    bomb_zip,
    broken_zip,
    outside_zip,
    zip_of,
)

NAMES = ("diffusiondb", "flickr30k", "paintings", "scenery", "posters", "covers")
OWN = "someone/pictures"
KILLS = int(os.environ.get("MAI_TEST_KILLS", "8"))
OTHER_TOKEN = "hf_of_somebody_else"
SECRETS = (SIGNATURE, Hub().token, OTHER_TOKEN)
ROOT = Path(__file__).parents[2]


class Six(NamedTuple):
    """The stand-in with the six data sets, and where sets are made that nothing disturbs."""

    hub: Hub
    planted: Planted
    folder: Path


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Six]:
    """For reading only; a test that changes a data set fills a Hub of its own."""
    with Hub() as hub:
        yield Six(hub, add_six(hub, images=5), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def hub(six: Six, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    point_at(six.hub, tmp_path / "home", monkeypatch)
    six.hub.requests.clear()
    yield six.hub
    unused = [fault for fault in six.hub.faults if fault.times > 0]
    six.hub.faults.clear()
    six.hub.private.clear()
    assert not unused, "a fault that never happened"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the test fills and may change."""
    with Hub() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def prepare(folder: Path, *names: str, patience: RetryPolicy | None = None, **more: Any) -> PreparedSet:
    config = PrepareConfig(source=names, name="s", prepared=folder, **more)
    return prepare_sources(config, patience or RetryPolicy(0))


def undisturbed(six: Six, *names: str, **more: Any) -> dict[str, bytes]:
    """The files of the set that nothing disturbed."""
    folder = six.folder / f"{'-'.join(names)}{sorted(more.items())}".replace("/", "-")
    return contents(prepare(folder, *names, **more).folder)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The manifest by file, read by other code than MAI's."""
    with (folder / "manifest.csv").open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def name(member: Member) -> str:
    return "/".join(member)


def run(hub: Hub, home: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mai WORDS…` in a process that sees the stand-in alone, in the folder beside its home."""
    variables = {**hub.environment(home, **environment), "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "mai_app", *map(str, words)],
        env=variables,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def no_secret(folder: Path, *texts: str) -> None:
    for secret in SECRETS:
        assert not [text for text in texts if secret in text]
        assert not [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# The whole command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Hub, Planted, Path, subprocess.CompletedProcess[str]]]:
    """`mai prepare --parts 3` on all six, in a process of its own: the Hub, its pictures, the folder, what was said."""
    folder = tmp_path_factory.mktemp("whole")
    with Hub() as hub:
        planted = add_six(hub, images=12)
        yield hub, planted, folder, run(hub, folder / "home", "prepare", "--parts", 3)


Whole = tuple[Hub, Planted, Path, subprocess.CompletedProcess[str]]


def test_the_six_are_prepared_by_one_command(whole: Whole) -> None:
    _, _, folder, done = whole
    assert done.returncode == 0, done.stderr
    prepared = open_prepared(folder / "prepared" / "six")
    assert Counter(prepared.sources) == {
        "diffusiondb": 33,  # of 3 parts, but the flagged image of each
        "flickr30k": 12,
        "paintings": 36,
        "scenery": 22,  # but the two tagged ones
        "posters": 12,
        "covers": 36,
    }
    assert (prepared.facts["images"], prepared.facts["refused"], prepared.facts["missing"]) == (151, 0, {})
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(
        (".lock", "left-out", "manifest.csv", "plan.json", "prepared.json", "refused.jsonl", "units")
    )
    assert "151 images" in done.stdout
    assert "Next: mai audit prepared/six; mai train --data prepared/six" in done.stdout
    no_secret(folder / "prepared", done.stdout, done.stderr)
    # No progress bar and no line of the clients where there is no terminal.
    assert "\r" not in done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["prepared/six", "left out"]


def test_every_planted_picture_is_where_it_belongs(whole: Whole) -> None:
    hub, planted, folder, _ = whole
    manifest = rows(folder / "prepared" / "six")
    for absent in (*planted.nsfw, planted.nude, planted.ai_generated, *(mini for _, mini in planted.repeated)):
        assert name(absent) not in manifest
    for first, second in (planted.exact, planted.near):
        one, other = manifest[name(first)], manifest[name(second)]
        assert one["group"] == other["group"]
        assert one["split"] == other["split"] != ""
    assert manifest[name(planted.exact[0])]["sha256"] == manifest[name(planted.exact[1])]["sha256"]
    plan = json.loads((folder / "prepared" / "six" / "plan.json").read_text())
    parts = [file["path"] for file in plan["sources"]["diffusiondb"]["files"]]
    assert len(parts) == 3
    authentic, synthetic = planted.contradiction
    both = [name(member) for member in (authentic, synthetic) if name(member) in manifest]
    assert len(both) == (2 if synthetic[1] in parts else 1)
    for file in both if len(both) == 2 else []:
        assert (manifest[file]["split"], manifest[file]["left_out"]) == ("", "the same picture carries the other label")
    assert sum(row["left_out"] != "" for row in manifest.values()) == (2 if len(both) == 2 else 0)
    assert not [path for _, path, _ in hub.requests if "valid-mini" in path or "large" in path]
    assert not [file for file in manifest if "__MACOSX" in file or "/." in file or file.endswith((".json", ".txt"))]


def test_a_prompt_s_images_lie_on_one_side(whole: Whole) -> None:
    hub, _, folder, _ = whole
    manifest = rows(folder / "prepared" / "six")
    of_prompt: dict[str, set[tuple[str, str]]] = {}
    sizes: Counter[str] = Counter()
    for number in (1, 2, 3, 4):
        path = f"images/part-{number:06}.zip"
        with zipfile.ZipFile(io.BytesIO(served(hub, DIFFUSIONDB, path))) as archive:
            prompts = json.loads(archive.read(f"part-{number:06}.json"))
        for image, about in prompts.items():
            if row := manifest.get(f"{DIFFUSIONDB}/{path}/{image}"):
                of_prompt.setdefault(about["p"], set()).add((row["group"], row["split"]))
                sizes[about["p"]] += 1
    assert max(sizes.values()) == 2
    assert all(len(sides) == 1 for sides in of_prompt.values())
    assert not [row for row in manifest.values() if "a prompt that two used" in str(row)]


def served(hub: Hub, repository: str, path: str) -> bytes:
    source = hub.files(repository, hub.commit(repository), f"Bearer {hub.token}")[1][path].source
    assert isinstance(source, bytes)
    return source


def test_the_manifest_says_of_each_image_what_its_file_is(whole: Whole) -> None:
    hub, _, folder, _ = whole
    prepared = open_prepared(folder / "prepared" / "six")
    manifest = rows(prepared.folder)
    places = {prepared.file(row): row for row in range(len(prepared))}
    compared: Counter[str] = Counter()
    archives = [(FLICKR, "flickr30k-images.zip"), (SCENERY, "data/data-0000.zip"), (PAINTINGS, "data/test.zip")]
    for repository, path in archives:
        with zipfile.ZipFile(io.BytesIO(served(hub, repository, path))) as archive:
            for member in archive.namelist():
                if row := manifest.get(f"{repository}/{path}/{member}"):
                    compare(archive.read(member), row, prepared, places[row["file"]])
                    compared[row["format"]] += 1
    table = pq.read_table(io.BytesIO(served(hub, COVERS, "data/train-00001-of-00003.parquet"))).to_pylist()
    for number, cover in enumerate(table):
        row = manifest[f"{COVERS}/data/train-00001-of-00003.parquet/{number}"]
        compare(cover["image"]["bytes"], row, prepared, places[row["file"]])
    assert min(compared[kind] for kind in ("JPEG", "PNG", "WEBP")) >= 3
    kinds = {(row["source"], row["label"], row["kind"], row["generator"]) for row in manifest.values()}
    assert kinds == {(s.name, str(s.label), s.kind, s.generator) for s in SIX}
    # Of val and test, or nearly, the files themselves are kept, and of train hardly any.
    for split, share in (("val", 1), ("test", 1), ("train", 0)):
        alone = [
            int(row["original_bytes"]) > 0 for row in manifest.values() if row["split"] == split and not row["tie"]
        ]
        assert abs(sum(alone) - share * len(alone)) <= 4


def compare(data: bytes, row: dict[str, str], prepared: PreparedSet, place: int) -> None:
    image = Image.open(io.BytesIO(data))
    assert (row["format"], int(row["file_bytes"])) == (image.format, len(data))
    assert (int(row["width"]), int(row["height"])) == image.size
    expected = {"JPEG": ("90", "92"), "PNG": ("",), "WEBP": ("",)}[str(image.format)]
    assert row["jpeg_quality"] in expected
    pixels = decode(data, "x").pixels
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert row["sha256"] == pixel_hash(pixels)
    if max(image.size) <= 256:
        np.testing.assert_array_equal(prepared.window(place), pixels)
    assert prepared.original(place) == (data if int(row["original_bytes"]) else b"")


def test_a_finished_set_asks_nobody_and_stays_as_it_is(whole: Whole) -> None:
    hub, _, folder, _ = whole
    before, asked = contents(folder / "prepared" / "six"), len(hub.requests)
    again = run(hub, folder / "home", "prepare", "--parts", 3)
    assert again.returncode == 0, again.stderr
    offline = run(hub, folder / "home", "prepare", "--parts", 3, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(hub.requests) == asked
    assert contents(folder / "prepared" / "six") == before


def test_one_file_at_a_time_makes_the_same_set(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _, folder, _ = whole
    point_at(hub, tmp_path / "home", monkeypatch)
    made = prepare_sources(PrepareConfig(parts=3, jobs=1, prepared=tmp_path), RetryPolicy(0))
    assert contents(made.folder) == contents(folder / "prepared" / "six")
    assert (made.folder / "plan.json").read_bytes() == (folder / "prepared" / "six" / "plan.json").read_bytes()


def test_it_can_be_trained_on_and_judged(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # With this seed, few as they are, each part has images of both classes.
    sources = [word for name in ("diffusiondb", "posters", "flickr30k") for word in ("--source", name)]
    assert main(["prepare", "--parts", "3", "--seed", "19", *sources]) == 0
    few = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--precision", "float32", "--name", "r"]
    assert main(["train", "--data", "prepared/six", *few]) == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "r" / "best.safetensors").is_file()
    capsys.readouterr()
    assert main(["evaluate", "--data", "prepared/six", "--model", "runs/r", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    (kept,) = re.findall(r"prepared/six keeps the files of its val and test parts alone, (\d+) of them", said.err)
    assert int(kept) > 4
    assert "judged on prepared/six, test part: " in said.out
    assert "page: runs/r/report-test/report.html" in said.out
    # Its val files are there, though too few here to fit anything on.
    assert main(["calibrate", "--data", "prepared/six", "--model", "runs/r", "--device", "cpu"]) == 2
    assert not re.search(r"holds 0 authentic|and 0 synthetic", capsys.readouterr().err)


# What is taken -------------------------------------------------------------------------------------------------------


def test_the_table_names_all_six_and_their_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--list"]) == 0
    text = capsys.readouterr().out
    for source in SOURCES:
        assert f"{source.repository} (" in text
        assert f"licence: {source.licence}" in text
    assert [line.split()[0] for line in text.splitlines() if line[:1].isalpha()][:6] == list(NAMES)


def test_a_cap_is_never_exceeded_and_a_smaller_one_is_part_of_a_larger(hub: Hub, tmp_path: Path) -> None:
    taken = {}
    for cap in (1, 3, 4, 6, 7, 100):
        prepared = prepare(tmp_path / str(cap), "paintings", "posters", cap=cap)
        taken[cap] = set(rows(prepared.folder))
        counts = Counter(prepared.sources)
        assert counts == {"paintings": min(cap, 15), "posters": min(cap, 5)}
    assert taken[1] < taken[3] < taken[4] < taken[6] < taken[7] < taken[100]


def test_parts_are_drawn_by_the_seed(hub: Hub, tmp_path: Path) -> None:
    drawn = set()
    for seed in range(6):
        prepared = prepare(tmp_path / str(seed), "diffusiondb", parts=2, seed=seed)
        files = json.loads((prepared.folder / "plan.json").read_text())["sources"]["diffusiondb"]["files"]
        drawn.add(tuple(file["path"] for file in files))
        assert {file.split("/")[3] for file in rows(prepared.folder)} == {Path(p["path"]).name for p in files}
    assert all(len(parts) == 2 for parts in drawn)
    assert len(drawn) > 2
    with pytest.raises(DataError, match=r"was planned with another seed \(0 → 1\); choose another --name"):
        prepare(tmp_path / "0", "diffusiondb", parts=2, seed=1)
    with pytest.raises(DataError, match=r"was planned with another diffusiondb \(parts 2 → 3\)"):
        prepare(tmp_path / "0", "diffusiondb", parts=3)


def pictures(count: int, start: int = 0) -> list[bytes]:
    found = []
    for number in range(start, start + count):
        stream = io.BytesIO()
        Image.fromarray(picture(np.random.default_rng(number), number % 2, 90, 80)).save(stream, "png")
        found.append(stream.getvalue())
    return found


def archive(count: int, start: int = 0) -> bytes:
    return zip_of({f"{i:03}.png": data for i, data in enumerate(pictures(count, start))})


def parquet(count: int, start: int = 0) -> bytes:
    stream = io.BytesIO()
    images: list[dict[str, object] | None] = [{"bytes": data, "path": None} for data in pictures(count, start)]
    pq.write_table(stand_in._image_table(images, ["x"] * count), stream)
    return stream.getvalue()


def test_data_sets_of_your_own(own: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own.add(OWN, "deep/down/a.zip", archive(4))
    own.add(OWN, "table.parquet", parquet(4))
    own.add(OWN, "README.md", b"hello")
    own.add(OWN, "TEST/test/0000.parquet", parquet(3, 50), "refs/convert/parquet")
    own.add(OWN, "mini/test/0000.parquet", parquet(3, 50), "refs/convert/parquet")
    own.add("someone/text", "a.txt", b"no image")

    def make(name: str, *words: str) -> dict[str, dict[str, str]]:
        assert main(["prepare", "--prepared", str(tmp_path), "--name", name, *words]) == 0, capsys.readouterr().err
        return rows(tmp_path / name)

    zipped = make("zip", "--source", OWN, "--label", "synthetic")
    assert list(zipped) == [f"{OWN}/deep/down/a.zip/{i:03}.png" for i in range(4)]
    assert {(row["source"], row["label"]) for row in zipped.values()} == {("someone-pictures", "1")}
    table = make("parquet", "--source", OWN, "--label", "authentic", "--files", "*.parquet")
    assert list(table) == [f"{OWN}/table.parquet/{i}" for i in range(4)]
    assert [row["sha256"] for row in table.values()] == [row["sha256"] for row in zipped.values()]
    words = ("--source", f"{OWN}@refs/convert/parquet", "--label", "authentic", "--files")
    assert list(make("converted", *words, "TEST/test/*.parquet")) == [
        f"{OWN}/TEST/test/0000.parquet/{i}" for i in range(3)
    ]
    assert len(make("both", *words, "*/test/*.parquet")) == 6

    capsys.readouterr()
    text = ["prepare", "--prepared", str(tmp_path), "--source", "someone/text", "--label", "authentic", "--name", "t"]
    assert main(text) == 2
    said = capsys.readouterr().err
    assert "none of the sources can be had: someone/text@main: holds no file named **.zip or **.parquet" in said
    assert not (tmp_path / "t" / "plan.json").exists()


def test_an_unfinished_set_keeps_to_the_commit_it_was_planned_with(own: Hub, tmp_path: Path) -> None:
    own.add(OWN, "a.zip", archive(3))
    own.add(OWN, "b.zip", archive(3, 20))
    mine: dict[str, Any] = {"label": ("authentic",)}
    alone = contents(prepare(tmp_path / "alone", OWN, **mine).folder)
    own.faults.append(Fault("/b.zip", "status", status=404, times=-1, method=""))
    unfinished = prepare(tmp_path / "set", OWN, **mine)
    assert len(unfinished.facts["missing"]) == 1
    planned = own.commit(OWN)
    own.add(OWN, "b.zip", archive(7, 40))
    own.add(OWN, "c.zip", archive(7, 60))
    assert own.commit(OWN) != planned
    own.faults.clear()
    (unfinished.folder / ".manifest.csv.1.tmp").write_text("left by a process that was killed")
    assert contents(prepare(tmp_path / "set", OWN, **mine).folder) == alone
    assert len(prepare(tmp_path / "new", OWN, **mine)) == 3 + 7 + 7


# What goes wrong on the way ------------------------------------------------------------------------------------------

POSTER = "/data/movie-poster-5k.zip"
FAULTS = {
    "cut early": Fault(f"/cdn/{POSTERS}", "cut", at=0.1),
    "cut": Fault(f"/cdn/{POSTERS}", "cut"),
    "cut late": Fault(f"/cdn/{POSTERS}", "cut", at=0.99),
    "cut for long": Fault(f"/cdn/{POSTERS}", "cut", times=20),
    "reset": Fault(f"/cdn/{POSTERS}", "reset", times=3),
    "stall": Fault(f"/cdn/{POSTERS}", "stall", times=2),
    "short": Fault(f"/cdn/{POSTERS}", "short", times=2),
    "long": Fault(f"/cdn/{POSTERS}", "long", at=0.01, times=2),
    "429": Fault(f"/cdn/{POSTERS}", "status", status=429, retry_after=0),
    "429 with a pause": Fault(f"/cdn/{POSTERS}", "status", status=429, retry_after=1, times=3),
    "500 five times": Fault(f"/cdn/{POSTERS}", "status", times=TRIES - 1),
    "500 five times at the head": Fault(f"{POSTERS}/resolve", "status", times=5, method="HEAD"),
    "503 at the listing": Fault(f"/api/datasets/{POSTERS}/tree", "status", status=503, times=2),
    "503 at the commit": Fault(f"/api/datasets/{POSTERS}/revision", "status", status=503, times=5),
    "cut listing": Fault(f"/api/datasets/{POSTERS}/tree", "cut", times=2),
    "everything, now and then": Fault("", "status", status=502, times=5, method=""),
    "a table cut": Fault("/cdn/Alphonsce", "cut", times=2),
    "a table of flags cut": Fault("metadata.parquet", "cut", times=2),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_after_any_fault_the_set_is_the_undisturbed_one(
    six: Six, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(stand_in, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    names = ("posters", "paintings")
    if "Alphonsce" in fault.path or "metadata" in fault.path:
        names = ("covers", "diffusiondb")
    expected = undisturbed(six, *names)
    hub.faults.append(replace(fault))
    assert contents(prepare(tmp_path, *names).folder) == expected
    assert not hub.faults[0].times


def test_a_file_over_the_client_s_piece_is_resumed(own: Hub, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8)).save(
        stream, "png", compress_level=0
    )
    own.add(OWN, "a.zip", zip_of({"large.png": stream.getvalue(), "small.png": pictures(1)[0]}))
    mine: dict[str, Any] = {"label": ("authentic",)}
    expected = contents(prepare(tmp_path / "a", OWN, **mine).folder)
    own.requests.clear()
    own.faults += [Fault("/cdn/", "cut", at=0.99), Fault("/cdn/", "reset", at=0.5)]
    assert contents(prepare(tmp_path / "b", OWN, **mine).folder) == expected
    ranges = [headers.get("range") for _, path, headers in own.requests if "/cdn/" in path]
    assert ranges[:2] == [None, "bytes=10485760-"]
    assert not [fault for fault in own.faults if fault.times]


def test_what_fails_for_ever_is_missing_until_it_is_back(
    six: Six, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(six, "posters", "paintings")
    hub.faults += [Fault(f"/cdn/{POSTERS}", "status", times=-1), Fault("test.zip", "short", times=-1)]
    pauses: list[float] = []
    first = prepare(tmp_path, "posters", "paintings", patience=RetryPolicy(2, pauses.append), jobs=1)
    assert pauses == [2, 4, 8, 16, 32] * 2
    missing = first.facts["missing"]
    assert list(missing) == ["paintings--00000-data-test.zip", "posters"]
    assert missing["posters"] == f"{POSTERS}{POSTER}: the Hub answers 500 (6 tries)"
    assert Counter(first.sources) == {"paintings": 10}
    words = ["prepare", "--source", "posters", "--source", "paintings", "--prepared", str(tmp_path), "--name", "s"]
    assert main([*words, "--retry-seconds", "0"]) == 1
    said = capsys.readouterr()
    assert f"missing: {POSTERS}{POSTER}: the Hub answers 500" in said.out
    assert f"left out: {POSTERS}{POSTER}: the Hub answers 500" in said.err
    assert SIGNATURE not in said.out + said.err
    hub.faults.clear()
    assert main([*words, "--retry-seconds", "0"]) == 0
    assert contents(tmp_path / "s") == expected


def test_a_source_that_dies_after_it_was_planned_is_asked_once(hub: Hub, tmp_path: Path) -> None:
    config = PrepareConfig(source=("posters", "paintings"), prepared=tmp_path, name="s")
    (tmp_path / "s").mkdir()
    make_plan(config, tmp_path / "s", RetryPolicy(0))
    hub.faults.append(Fault("keremberke/painting", "status", status=404, times=-1, method=""))
    hub.requests.clear()
    made = prepare(tmp_path, "posters", "paintings", jobs=1)
    assert list(made.facts["missing"]) == ["paintings"]
    assert len([path for _, path, _ in hub.requests if "keremberke/painting" in path]) == 1
    assert set(made.sources) == {"posters"}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("removed", f"{POSTERS}@main: the Hub has no such data set or revision (404)"),
        ("file removed", f"{POSTERS}@main: holds no file named data/movie-poster-5k.zip"),
        ("private", f"{POSTERS}@main: gone, or not for everyone: log in or set HF_TOKEN (401)"),
        ("gated", f"{POSTERS}@main: not for this account: ask for access on its page, set HF_TOKEN (403)"),
    ],
)
def test_a_source_that_cannot_be_had_is_named_and_the_others_go_on(
    own: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    words: str,
) -> None:
    add_six(own, images=4)
    if what == "removed":
        own.remove(POSTERS)
    elif what == "file removed":
        own.remove(POSTERS, "data/movie-poster-5k.zip")
        own.add(POSTERS, "data/other.txt", b"")
    else:
        own.private.add(POSTERS)
        if what == "gated":
            monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    command = ["prepare", "--source", "posters", "--source", "paintings", "--prepared", str(tmp_path), "--name", "s"]
    for require in ("posters", "all"):
        assert main([*command, "--require", require]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"mai: {words}; it is --require'd, so nothing was made"
        assert not (tmp_path / "s" / "prepared.json").exists()
        assert not (tmp_path / "s" / "units").exists()
    assert main([*command, "--require", "paintings"]) == 1
    said = capsys.readouterr()
    assert f"missing: {words}" in said.out
    assert f"left out: {words}" in said.err
    assert set(open_prepared(tmp_path / "s").sources) == {"paintings"}
    no_secret(tmp_path / "s", said.out, said.err)


def test_a_required_file_that_fails_stops_the_work(six: Six, hub: Hub, tmp_path: Path) -> None:
    expected = undisturbed(six, "posters", "paintings")
    hub.faults.append(Fault(f"/cdn/{POSTERS}", "status", times=-1))
    with pytest.raises(
        SourceError, match=r"the Hub answers 500 \(6 tries\); posters is --require'd, so the set was not"
    ):
        prepare(tmp_path, "posters", "paintings", require=("posters",))
    assert not (tmp_path / "s" / "prepared.json").exists()
    assert not (tmp_path / "s" / "downloads").exists()
    with pytest.raises(DataError, match="is not complete; the command that began it"):
        open_prepared(tmp_path / "s")
    hub.faults.clear()
    assert contents(prepare(tmp_path, "posters", "paintings", require=("posters",)).folder) == expected


def test_no_more_files_lie_on_the_disk_than_are_worked_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying = []

    def count(place: Path, *arguments: Any) -> None:
        lying.append(len(list((tmp_path / "s" / "downloads").iterdir())))
        write_shard(place, *arguments)

    monkeypatch.setattr("mai_app.data.prepare.write_shard", count)
    prepare(tmp_path, "paintings", jobs=1)
    assert lying == [1, 1, 1]


def test_what_was_fetched_stays_when_its_source_vanishes(own: Hub, tmp_path: Path) -> None:
    add_six(own, images=4)
    before = contents(prepare(tmp_path / "a", "posters", "paintings").folder)
    own.faults.append(Fault("/data/test.zip", "status", status=404, times=-1, method=""))
    prepare(tmp_path / "b", "posters", "paintings")
    own.faults.clear()
    own.remove(POSTERS)
    assert contents(prepare(tmp_path / "b", "posters", "paintings").folder) == before
    own.remove(PAINTINGS)
    assert contents(prepare(tmp_path / "b", "posters", "paintings").folder) == before


def test_without_its_table_of_flags_a_source_is_taken_whole_and_it_is_said(
    own: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = add_six(own, images=4)
    own.remove(DIFFUSIONDB, "metadata.parquet")
    prepared = prepare(tmp_path, "diffusiondb", "posters")
    assert {name(member) for member in planted.nsfw} <= set(prepared.table["file"].to_pylist())
    note = "diffusiondb: has no metadata.parquet, so what it marks could not be left out"
    assert prepared.facts["notes"] == [note]
    assert note in capsys.readouterr().err
    assert f"note: {note}" in describe_prepared(prepared)


def test_a_source_whose_table_of_flags_is_damaged_is_not_taken(own: Hub, tmp_path: Path) -> None:
    add_six(own, images=4)
    own.add(DIFFUSIONDB, "metadata.parquet", b"no table")
    prepared = prepare(tmp_path, "diffusiondb", "posters")
    assert set(prepared.sources) == {"posters"}
    assert "metadata.parquet: not a table" in prepared.facts["missing"]["diffusiondb"]


def test_a_source_whose_table_of_flags_lacks_a_column_is_left_out_whole_which_is_said_first(
    own: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_six(own, images=4)
    stream = io.BytesIO()
    pq.write_table(pa.table({"image_name": ["a.png"], "nsfw": [0.1]}), stream)
    own.add(DIFFUSIONDB, "metadata.parquet", stream.getvalue())
    prepared = prepare(tmp_path, "diffusiondb", "posters")
    assert set(prepared.sources) == {"posters"}
    reason = "diffusiondb as a whole: metadata.parquet: has no column image_nsfw, by which images are left out"
    assert prepared.facts["missing"]["diffusiondb"] == f"{reason}; its columns are image_name, nsfw"
    assert f"left out: {reason}" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_does_not_stay(six: Six, hub: Hub, tmp_path: Path) -> None:
    for folder in (tmp_path / "s", tmp_path / "s" / "left-out"):
        folder.mkdir()
        (folder / ".half.txt.8361.tmp").write_text("half a list")
    made = prepare(tmp_path, "posters", "diffusiondb")
    assert contents(made.folder) == undisturbed(six, "posters", "diffusiondb")


def elsewhere(folder: Path, downloads: Path) -> RunElsewhere:
    """Makes shards as other machines would: last first, knowing nothing but the shard and the folder."""

    def run_elsewhere(shards: list[Shard]) -> Iterator[tuple[Shard, SourceError | None]]:
        for shard in reversed(shards):
            try:
                prepare_shard(shard, folder / "s", downloads, Splitting(seed=0), RetryPolicy(0))
                yield shard, None
            except SourceError as error:
                yield shard, error

    return run_elsewhere


def test_shards_made_elsewhere_make_the_same_set(six: Six, hub: Hub, tmp_path: Path) -> None:
    names = ("posters", "diffusiondb")
    config = PrepareConfig(source=names, name="s", prepared=tmp_path)
    made = prepare_sources(config, RetryPolicy(0), elsewhere(tmp_path, tmp_path / "own disk"))
    assert contents(made.folder) == undisturbed(six, *names)
    assert not list((tmp_path / "own disk").iterdir())


def test_elsewhere_too_a_source_without_its_flags_is_not_taken(own: Hub, tmp_path: Path) -> None:
    add_six(own, images=4)
    own.add(DIFFUSIONDB, "metadata.parquet", b"no table")
    config = PrepareConfig(source=("diffusiondb", "posters"), name="s", prepared=tmp_path)
    made = prepare_sources(config, RetryPolicy(0), elsewhere(tmp_path, tmp_path / "own disk"))
    assert set(made.sources) == {"posters"}
    assert "metadata.parquet: not a table" in made.facts["missing"]["diffusiondb"]


def test_a_private_data_set_takes_the_token_and_tells_nobody(own: Hub, tmp_path: Path) -> None:
    own.add(OWN, "a.zip", archive(4))
    own.private.add(OWN)
    words = ("prepare", "--source", OWN, "--label", "authentic", "--name", "s")
    done = run(own, tmp_path / "home", *words, HF_TOKEN=own.token)
    assert done.returncode == 0, done.stderr
    assert len(open_prepared(tmp_path / "prepared" / "s")) == 4
    no_secret(tmp_path, done.stdout, done.stderr)


def test_offline_an_unplanned_set_says_so(
    six: Six, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(six, "posters")
    prepare(tmp_path, "posters")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert contents(prepare(tmp_path, "posters").folder) == expected
    words = ["prepare", "--source", "paintings", "--prepared", str(tmp_path), "--name", "new"]
    assert main(words) == 2
    assert "not fetched yet, and HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not hub.requests


# Hostile files -------------------------------------------------------------------------------------------------------


def test_hostile_files_cost_no_more_than_themselves(own: Hub, tmp_path: Path) -> None:
    files = {"bad.parquet": bad_parquet(), "bomb.zip": bomb_zip(), "outside.zip": outside_zip(), "z.zip": broken_zip()}
    for path, data in files.items():
        own.add(OWN, path, data)
    before = set(tmp_path.rglob("*"))
    prepared = prepare(tmp_path / "p", OWN, label=("synthetic",), files=("*.zip", "*.parquet"))
    assert list(prepared.facts["missing"]) == ["someone-pictures--00003-z.zip"]
    assert "z.zip: not a zip archive that can be read" in prepared.facts["missing"]["someone-pictures--00003-z.zip"]
    assert sorted(file.removeprefix(f"{OWN}/") for file in rows(prepared.folder)) == [
        "bad.parquet/0",
        "bad.parquet/4",
        "bomb.zip/0.png",
        "bomb.zip/1.png",
        "outside.zip/0.png",
        "outside.zip/1.png",
    ]
    rejected = {row["file"].removeprefix(f"{OWN}/"): row["reason"] for row in prepared.rejected()}
    assert sorted(rejected) == [
        *(f"bad.parquet/{i}" for i in (1, 2, 3)),
        "bomb.zip/bomb.png",
        "outside.zip/../outside.png",
    ]
    assert all(rejected.values())
    made = {path for path in set(tmp_path.rglob("*")) - before if (tmp_path / "p") not in (path, *path.parents)}
    assert not [path for path in made if path.suffix == ".png"]
    assert not list(tmp_path.parent.glob("*.png"))


def test_a_bomb_takes_no_memory(own: Hub, tmp_path: Path) -> None:
    own.add("someone/good", "a.zip", archive(2))
    own.add("someone/bad", "a.zip", bomb_zip())
    peaks = {}
    for kind in ("good", "bad"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, f"someone/{kind}"],
            env={**own.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks[kind] = int(done.stdout) / 1024
    assert peaks["bad"] < peaks["good"] + 150


PEAK = """
import resource, sys
from pathlib import Path
from mai_app.config import PrepareConfig, Splitting
from mai_app.data.prepare import prepare_sources
prepare_sources(PrepareConfig(source=(sys.argv[1],), label=("authentic",), name=sys.argv[1].replace("/", "-")))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# A full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk (tmpfs)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    own: Hub, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.add("own/big", "a.zip", bytes(9 << 20))
    assert (
        main(["prepare", "--prepared", str(small_disk), "--source", "own/big", "--label", "synthetic", "--name", "s"])
        == 2
    )
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"mai: {small_disk}/s: needs about \d+\.\d MB, and 8\.4 MB are free; choose fewer --parts", said)
    assert not [path for _, path, _ in own.requests if "/cdn/" in path or "/resolve/" in path]


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
@pytest.mark.parametrize("left", [0, 0.002, 0.01, 0.1, 0.4, 0.8, 0.999])
def test_on_a_full_disk_nothing_half_written_is_taken_for_whole(
    six: Six,
    hub: Hub,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: float,
) -> None:
    expected = undisturbed(six, "posters", "paintings")
    with (small_disk / "filler").open("wb") as filler:
        # What is left, a share of what the set takes, is room for less than all of it: whole pages are given out.
        pages = sum(-(-len(data) // 4096) for data in expected.values())
        filler.write(bytes(8 * 2**20 - int(pages * left) * 4096))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    words = ["prepare", "--prepared", str(small_disk), "--source", "posters", "--source", "paintings", "--name", "s"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "the disk is full" in said.splitlines()[-1]
    assert "free some space, the same command carries on" in said.splitlines()[-1]
    assert not (small_disk / "s" / "prepared.json").exists()
    for shard in small_disk.glob("s/units/*"):
        assert not shard.name.startswith(".")
        whole_shard = {path: data for path, data in expected.items() if f"/{shard.name}/" in path}
        assert {
            path.relative_to(small_disk / "s").as_posix(): path.read_bytes() for path in shard.iterdir()
        } == whole_shard
    (small_disk / "filler").unlink()
    assert main(words) == 0
    assert contents(small_disk / "s") == expected


# kill -9 -------------------------------------------------------------------------------------------------------------

NURSERY = """
# Imports once, and for each line starts a process that prepares: killing costs no seconds of imports.
import os, sys, time
import datasets, huggingface_hub
from pathlib import Path
import mai_app.data.shards as shards
from mai_app.config import PrepareConfig, Splitting
from mai_app.data.prepare import prepare_sources

decode = shards.decode
def slowly(*arguments):
    time.sleep(0.02)
    return decode(*arguments)
shards.decode = slowly
for line in sys.stdin:
    child = os.fork()
    if not child:
        prepare_sources(PrepareConfig(parts=3, name="s", prepared=Path(line.strip())))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_any_moment_it_ends_with_the_same_set(six: Six, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "p" / "s"
    rng = np.random.default_rng(0)
    kills = while_working = 0
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        env={**hub.environment(tmp_path / "nursery"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nursery.stdin
    assert nursery.stdout
    with nursery:
        while while_working < KILLS and not (folder / "prepared.json").exists():
            nursery.stdin.write(f"{tmp_path / 'p'}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            asked = len(hub.requests)
            # While it plans, fetches, stores, joins: at any time from its start.
            time.sleep(float(rng.random()) * 0.25)
            with contextlib.suppress(ProcessLookupError):  # it was done, and is gone
                os.kill(child, signal.SIGKILL)
            killed = int(nursery.stdout.readline()) == -signal.SIGKILL
            kills += killed
            while_working += killed and len(hub.requests) > asked
        nursery.stdin.close()
    print(f"{kills} kills, {while_working} of them while it worked, {len(list(folder.glob('units/[!.]*')))} shards")
    assert while_working >= 8
    assert contents(prepare(tmp_path / "p", parts=3).folder) == undisturbed(six, parts=3)
    assert not list(folder.rglob(".*.tmp"))
    assert not (folder / "downloads").exists()
