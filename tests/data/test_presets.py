"""Presets of `mai prepare` on tiny stand-ins: the same set whatever happens, and what may be done with it."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mai_app.cli import main
from mai_app.config import PrepareConfig
from mai_app.data.catalogue import choose_sources, set_name, source_table
from mai_app.data.plan import make_plan
from mai_app.data.prepare import prepare_sources
from mai_app.data.prepared import PreparedSet
from mai_app.data.source_row import RetryPolicy
from mai_app.data.sources import BENCHMARK, MODERN, PRESETS, SIX, SOURCES
from mai_app.errors import DataError
from tests.data.stand_ins import add_benchmark, add_modern, openfake, pictures, webdataset
from tests.data.test_hub import point_at
from tests.data.test_prepare import contents
from tests.data.test_prepare_hub import NURSERY, ROOT
from tests.hub import Hub

KILLS = int(os.environ.get("MAI_TEST_KILLS", "8"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        point_at(hub, tmp_path_factory.mktemp("home"), patch)
        add_modern(hub)
        add_benchmark(hub)
        yield hub


@pytest.fixture(scope="module")
def modern(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    return prepare(tmp_path_factory.mktemp("modern"), preset="modern")


def prepare(folder: Path, **settings: Any) -> PreparedSet:
    return prepare_sources(PrepareConfig(prepared=folder, **settings), RetryPolicy(0))


def rows(made: PreparedSet) -> list[dict[str, str]]:
    with (made.folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_modern_preset_takes_every_source_and_of_each_what_its_row_says(modern: PreparedSet) -> None:
    assert modern.folder.name == "modern"
    assert modern.facts["missing"] == {}
    assert "test_only" not in modern.facts
    counts = Counter((row["source"], row["label"], row["generator"]) for row in rows(modern))
    assert counts == {
        # Every fourth image is noise, and left out.
        ("openfake", "0", ""): 6,
        ("openfake", "1", "gpt-image-1"): 6,
        ("openfake", "1", "flux.1-dev"): 6,
        # The last image of each file is unsafe.
        ("community-forensics", "0", ""): 10,
        ("community-forensics", "1", "model-0"): 4,
        ("community-forensics", "1", "model-1"): 4,
        ("community-forensics", "1", "model-2"): 2,
        ("ntire", "0", ""): 6,
        ("ntire", "1", ""): 6,
        ("nano-banana", "1", "nano-banana"): 8,
        ("midjourney-v6", "1", "midjourney-6"): 8,
        ("open-image-preferences", "1", "flux-1-dev"): 12,
        ("open-image-preferences", "1", "stable-diffusion-3.5-large"): 12,
        ("flux-1-dev", "1", "flux-1-dev"): 8,
        **{(name, "0", ""): 8 for name in ("megalith", "open-images", "unsplash", "wikiart", "screenshots")},
    }
    assert not [row for row in rows(modern) if row["left_out"]]


def test_images_of_one_prompt_or_row_stay_on_one_side_whatever_their_class(modern: PreparedSet) -> None:
    sides: dict[str, set[tuple[str, str]]] = {}
    labels: dict[str, set[str]] = {}
    for row in rows(modern):
        if row["tie"]:
            sides.setdefault(row["tie"], set()).add((row["group"], row["split"]))
            labels.setdefault(row["tie"], set()).add(row["label"])
    assert all(len(side) == 1 for side in sides.values())
    assert {"0", "1"} in labels.values()
    assert {tie.rpartition(":")[0] for tie in sides} == {"pair:prompt", "row"}


def test_the_set_says_under_which_licences_its_sources_are(modern: PreparedSet) -> None:
    assert modern.facts["licences"] == {source.name: source.licence for source in MODERN}


@pytest.mark.parametrize("jobs", [1, 4])
def test_any_number_of_jobs_makes_the_same_set(hub: Hub, modern: PreparedSet, tmp_path: Path, jobs: int) -> None:
    assert contents(prepare(tmp_path, preset="modern", jobs=jobs).folder) == contents(modern.folder)


def test_killed_at_any_moment_it_ends_with_the_same_set(hub: Hub, modern: PreparedSet, tmp_path: Path) -> None:
    folder = tmp_path / "p" / "s"
    rng = np.random.default_rng(1)
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY.replace("parts=3", "preset='modern'")],
        env={**hub.environment(tmp_path / "nursery"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nursery.stdin
    assert nursery.stdout
    kills = 0
    with nursery:
        while kills < KILLS and not (folder / "prepared.json").exists():
            nursery.stdin.write(f"{tmp_path / 'p'}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            time.sleep(float(rng.random()) * 4 / KILLS)
            with contextlib.suppress(ProcessLookupError):  # it was done, and is gone
                os.kill(child, signal.SIGKILL)
            kills += int(nursery.stdout.readline()) == -signal.SIGKILL
        nursery.stdin.close()
    assert kills >= 4
    made = prepare(tmp_path / "p", preset="modern", name="s")
    assert contents(made.folder) == contents(modern.folder)
    assert not list(folder.rglob(".*.tmp"))


def test_a_file_with_an_unknown_label_is_left_out_by_name_and_the_others_go_on(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "core/train-00001-of-00608.parquet"
    bad = openfake("openfake 1").replace(b"fake", b"fuke")
    assert bad != openfake("openfake 1")
    with Hub() as other, pytest.MonkeyPatch.context() as patch:
        point_at(other, tmp_path / "home", patch)
        add_modern(other)
        other.add("ComplexDataLab/OpenFake", path, bad)
        words = ["prepare", "--source", "openfake", "--name", "s", "--prepared", str(tmp_path)]
        assert main(words) == 1
        said = capsys.readouterr()
        assert (
            "train-00001-of-00608.parquet: its column 'label' says 'fuke', and is known to say real, fake" in said.out
        )
        assert main([*words[:-1], str(tmp_path / "b"), "--require", "openfake"]) == 2
        assert "'fuke'" in capsys.readouterr().err


def test_loose_images_and_tars_of_your_own_are_taken_by_their_names(tmp_path: Path) -> None:
    with Hub() as other, pytest.MonkeyPatch.context() as patch:
        point_at(other, tmp_path / "home", patch)
        for i, data in enumerate(pictures(7, "loose")):
            other.add("o/loose", f"images/{i}.png", data)
        other.add("o/loose", "README.md", b"x")
        other.add("o/tars", "a/00000.tar", webdataset("one"))
        other.add("o/tars", "a/00001.tar.gz", webdataset("two", 3, "w:gz"))
        patch.setattr("mai_app.data.plan.FILES_PER_FETCH", 3)
        mine = {"label": ("synthetic",), "name": "s"}
        loose = prepare(tmp_path / "1", source=("o/loose",), files=("**.png",), **mine)
        assert [row["file"] for row in rows(loose)] == [f"o/loose/images/{i}.png" for i in range(7)]
        assert len(list((loose.folder / "units").iterdir())) == 3
        few = prepare(tmp_path / "2", source=("o/loose",), files=("**.png",), cap=4, **mine)
        assert len(few) == 4
        tars = prepare(tmp_path / "3", source=("o/tars",), files=("**.tar", "**.tar.gz"), **mine)
        assert Counter(row["file"].split("/")[3] for row in rows(tars)) == {"00000.tar": 4, "00001.tar.gz": 3}


def test_what_is_fetched_keeps_to_its_bound_and_is_spread_over_the_listing(tmp_path: Path) -> None:
    with Hub() as other, pytest.MonkeyPatch.context() as patch:
        point_at(other, tmp_path / "home", patch)
        for i in range(40):
            other.add("OwensLab/CommunityForensics-Small", f"data/{i:03}.parquet", bytes(1000))

        def drawn(seed: int, fetch_gb: float) -> list[int]:
            folder = tmp_path / f"{seed}-{fetch_gb}"
            folder.mkdir()
            config = PrepareConfig(source=("community-forensics",), fetch_gb=fetch_gb, seed=seed)
            make_plan(config, folder, RetryPolicy(0))
            plan = json.loads((folder / "plan.json").read_text())["sources"]["community-forensics"]
            return [int(Path(file["path"]).stem) for file in plan["files"]]

        for seed in range(5):
            few, more = drawn(seed, 8.5e-6), drawn(seed, 20e-6)
            assert (len(few), len(more)) == (8, 20)
            assert set(few) < set(more)
            assert Counter(number // 20 for number in few) == {0: 4, 1: 4}
        assert drawn(0, 9e-6) != drawn(1, 9e-6)
        with pytest.raises(DataError, match=r"more than may be fetched of it \(0\.0 GB\); raise --fetch-gb"):
            drawn(9, 0.5e-6)


def test_caps_of_a_source_and_of_its_generators_are_shared_by_its_files(hub: Hub, tmp_path: Path) -> None:
    made = prepare(tmp_path, source=("openfake", "community-forensics"), cap_per_generator=3, cap=9, name="s")
    counts = Counter((row["source"], row["generator"]) for row in rows(made))
    assert max(count for (_, generator), count in counts.items() if generator) <= 3
    assert max(Counter(row["source"] for row in rows(made)).values()) <= 9


# Testing only --------------------------------------------------------------------------------------------------------


def test_what_is_for_testing_is_all_in_test_with_its_files_and_no_training_accepts_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare(tmp_path, preset="benchmark")
    assert made.test_only == ["community-forensics-eval", "openfake-test", "so-fake-ood"]
    assert {row["split"] for row in rows(made)} == {"test"}
    assert (made.original_bytes > 0).all()
    assert Counter(made.sources) == {"so-fake-ood": 8, "community-forensics-eval": 12, "openfake-test": 24}
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", str(made.folder), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "holds community-forensics-eval, openfake-test, so-fake-ood, for testing only: training on it" in said
    assert not list(tmp_path.glob("runs/*/*"))
    # With others it stays what it is.
    mixed = prepare(tmp_path, source=("so-fake-ood", "megalith"), name="m")
    with pytest.raises(DataError, match="holds so-fake-ood, for testing only"):
        mixed.refuse_training("training")


# The table -----------------------------------------------------------------------------------------------------------


def test_presets_licences_and_names_choose_rows() -> None:
    def names(**settings: Any) -> list[str]:
        return [source.name for source in choose_sources(PrepareConfig(**settings))]

    six, modern = [source.name for source in SIX], [source.name for source in MODERN]
    assert names() == names(preset="six") == six
    assert names(preset="modern") == modern
    assert names(source=("covers",)) == ["covers"]
    assert names(preset="modern", source=("covers",)) == [*modern, "covers"]
    assert names(preset="all")[: len(six) + len(modern)] == six + modern
    assert not set(names(preset="all")) & {source.name for source in BENCHMARK}
    assert names(source=("ComplexDataLab/OpenFake",)) == ["openfake"]
    with pytest.raises(DataError, match="two are called covers"):
        names(preset="six", source=("covers",))
    assert names(preset="modern", licence="open") == ["nano-banana", "midjourney-v6", "megalith", "open-images"]
    with pytest.raises(DataError, match="--preset benchmark: none of its sources has a licence"):
        names(preset="benchmark", licence="open")
    assert [set_name(PrepareConfig(**s)) for s in ({}, {"preset": "modern"}, {"preset": "all", "name": "x"})] == [  # type: ignore[arg-type]
        "six",
        "modern",
        "x",
    ]


def test_every_row_says_what_a_person_has_to_know() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert set(PRESETS) == {"six", "modern", "all", "benchmark"}
    for source in SOURCES:
        assert source.licence, source.name
        assert source.images, source.name
        assert source.commercial is not True or "NC" not in source.licence
        assert (source.label is None) == (source.labels is not None)
        assert source.label is not None or 0 < source.synthetic_images < source.images
        assert (source.use == "testing") == (source in BENCHMARK)
        assert source.label == 0 or source.generator or source.generators or source.columns


def test_the_table_shows_licence_fetch_size_classes_generators_and_traps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--list", "--preset", "modern"]) == 0
    text = capsys.readouterr().out
    assert "about 24,000 authentic and 24,000 synthetic (some 80, to 2026, commercial ones among them) images" in text
    assert "70.0 GB fetched" in text
    assert "licence: CC BY-NC 4.0, forbids commercial use;" in text
    assert "traps: size alone tells the classes" in text
    assert "diffusiondb" not in text
    assert re.search(r"mai prepare --preset modern takes 12: about [\d,]+ authentic and [\d,]+ synthetic images", text)
    assert "openfake " not in source_table(PrepareConfig(list=True, preset="modern", licence="open"))
    whole = source_table(PrepareConfig(list=True))
    assert all(source.repository in whole for source in SOURCES)


# What older versions planned -----------------------------------------------------------------------------------------


def test_a_plan_without_the_newer_fields_is_kept_to(hub: Hub, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"source": ("nano-banana",), "name": "s"}
    made = prepare(tmp_path, **settings)
    before = contents(made.folder)
    path = made.folder / "plan.json"
    plan = json.loads(path.read_text())
    newer = ("labels", "generator_column", "columns", "table", "without", "cap_per_generator", "max_fetch", "use")
    for field in newer:
        del plan["sources"]["nano-banana"]["row"][field]
    path.write_text(json.dumps(plan))
    (made.folder / "prepared.json").unlink()
    assert contents(prepare(tmp_path, **settings).folder) == before
    with pytest.raises(DataError, match=r"was planned with another nano-banana \(max_fetch None → 5000000000\)"):
        prepare(tmp_path, **settings, fetch_gb=5)
