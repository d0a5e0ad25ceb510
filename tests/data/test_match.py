"""Matching: the classes' files agree in what an audit sees, by a draw that nothing but seed and pixels decides."""

import csv
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mai_app.cli import main
from mai_app.config import PrepareConfig
from mai_app.data.match import SURPLUS, file_cells, find_surplus
from mai_app.data.prepare import prepare_sources
from mai_app.data.prepared import PreparedSet, describe_prepared
from mai_app.data.source_row import RetryPolicy
from mai_app.errors import DataError
from mai_app.evaluation.audit import audit
from mai_app.evaluation.audit_page import text_report
from tests.conftest import picture
from tests.data.test_hub import point_at
from tests.data.test_prepare import contents
from tests.data.test_prepare_hub import archive
from tests.hub import Hub

COUNT = 320
"""Images of a class, of which every 16th is saved as the other class's are."""


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose authentic images are JPEG files and whose synthetic ones are PNG, nearly all."""
    root = tmp_path_factory.mktemp("folder") / "photos"
    rng = np.random.default_rng(0)
    for name, usual, other in (("authentic", "jpg", "png"), ("synthetic", "png", "jpg")):
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            # Pictures of both classes are alike: files alone tell them apart.
            image = Image.fromarray(picture(rng, 0, 48, 48))
            image.save(root / name / f"{i:04}.{usual if i % 16 else other}")
    (root / "authentic" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return root


@pytest.fixture(scope="module")
def matched(told_apart: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    return prepare(told_apart, tmp_path_factory.mktemp("matched"), match=True)


def prepare(source: Path | str, folder: Path, **settings: Any) -> PreparedSet:
    return prepare_sources(PrepareConfig(source=(str(source),), prepared=folder, **settings), RetryPolicy(0))


def auroc(made: PreparedSet) -> float:
    value = audit(made.table, made.rejected(), "photos")["all"]["auroc"]["value"]
    assert isinstance(value, float)
    return value


def rows(made: PreparedSet) -> list[dict[str, str]]:
    with (made.folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_told_the_classes_apart_is_gone_and_every_image_is_counted(
    told_apart: Path, matched: PreparedSet, tmp_path: Path
) -> None:
    as_it_is = prepare(told_apart, tmp_path)
    assert auroc(as_it_is) > 0.9
    assert abs(auroc(matched) - 0.5) < 0.12
    used = [row for row in rows(matched) if row["split"]]
    assert {row["left_out"] for row in rows(matched) if not row["split"]} == {SURPLUS}
    assert len(used) + matched.facts["left_out"] == len(rows(matched)) == 2 * COUNT
    assert matched.facts["refused"] == 1
    assert len(used) > COUNT // 8
    report = audit(matched.table, matched.rejected(), "photos")
    assert report["left_out"] == {SURPLUS: matched.facts["left_out"]}
    assert sum(report["used"].values()) + sum(report["left_out"].values()) == 2 * COUNT
    assert "matched:" in describe_prepared(matched)
    assert "matched:" not in describe_prepared(as_it_is)
    assert report["before_matching"]["auroc"]["value"] > 0.9
    assert report["before_matching"]["images"] == 2 * COUNT
    assert "before --match" in text_report(report)
    assert "before --match" not in text_report(audit(as_it_is.table, [], "photos"))


def test_each_split_has_as_many_of_either_class_in_each_cell(matched: PreparedSet) -> None:
    cells = file_cells(matched.table).tolist()
    counts = Counter(
        (split, *cell, label) for split, cell, label in zip(matched.splits, cells, matched.labels.tolist(), strict=True)
    )
    for *place, label in list(counts):
        if place[0]:
            assert counts[*place, label] == counts[*place, 1 - label]
    assert {split for split, *_ in counts} >= {"train", ""}


def test_the_same_command_makes_the_same_set_on_one_worker_and_on_four(
    told_apart: Path, matched: PreparedSet, tmp_path: Path
) -> None:
    again = prepare(told_apart, tmp_path, match=True, jobs=4)
    assert contents(again.folder) == contents(matched.folder)


def test_a_set_that_is_there_is_matched_and_taken_back_without_decoding_anything(
    told_apart: Path, matched: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(prepare(told_apart, tmp_path).folder)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("mai_app.data.shards.decode", refuse)
    assert contents(prepare(told_apart, tmp_path, match=True).folder) == contents(matched.folder)
    assert contents(prepare(told_apart, tmp_path).folder) == before


def test_sources_of_the_hub_are_matched_file_by_file_as_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        for part in range(3):
            hub.add("someone/drawings", f"{part}.zip", archive(6, 10 * part))
            hub.add("someone/photographs", f"{part}.zip", archive(4, 100 + 10 * part))
        words: dict[str, Any] = {
            "source": ("someone/photographs", "someone/drawings"),
            "label": ("authentic", "synthetic"),
        }
        one, four = (
            prepare_sources(
                PrepareConfig(prepared=tmp_path / str(jobs), match=True, jobs=jobs, **words), RetryPolicy(0)
            )
            for jobs in (1, 4)
        )
    assert contents(one.folder) == contents(four.folder)
    counts = Counter((row["split"], row["label"]) for row in rows(one))
    assert sum(counts.values()) == 30
    for split in ("train", "val", "test"):
        assert counts[split, "0"] == counts[split, "1"]
    assert counts["train", "0"] > 0


def test_a_set_of_one_class_is_refused_and_made_without_matching(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(picture(rng, 0, 48, 48)).save(tmp_path / "photos" / f"{i}.png")
    words: dict[str, Any] = {"label": ("authentic",), "name": "mine"}
    with pytest.raises(DataError, match="--match leaves no image"):
        prepare(tmp_path / "photos", tmp_path / "prepared", match=True, **words)
    made = prepare(tmp_path / "photos", tmp_path / "prepared", **words)
    before = contents(made.folder)
    with pytest.raises(DataError, match="--match leaves no image"):
        prepare(tmp_path / "photos", tmp_path / "prepared", match=True, **words)
    assert contents(made.folder) == before


def test_the_command_says_how_many_were_left_out(
    told_apart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--source", str(told_apart), "--match", "--prepared", str(tmp_path), "--name", "mine"]) == 0
    said = capsys.readouterr()
    assert f"images: {SURPLUS}" in said.out + said.err


def table(*files: tuple[str, int, int, int, int | None]) -> pa.Table:
    """Files of (format, width, height, bytes, JPEG quality)."""
    formats, widths, heights, sizes, qualities = zip(*files, strict=True)
    lossy = [int(name == "JPEG") for name in formats]
    return pa.table(
        {"format": formats, "width": widths, "height": heights, "file_bytes": sizes, "lossy": lossy}
        | {"jpeg_quality": pa.array(qualities, pa.int64())}
    )


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (("JPEG", 640, 424, 90_000, 92), True),
        (("JPEG", 640, 424, 300_000, 92), True),  # of a JPEG the quality counts, not the bytes
        (("PNG", 640, 424, 90_000, None), False),
        (("JPEG", 640, 424, 90_000, 75), False),
        (("JPEG", 1640, 1088, 90_000, 92), False),
        (("JPEG", 424, 640, 90_000, 92), False),
        (("JPEG", 640, 640, 90_000, 92), False),
        (("JPEG", 641, 425, 90_000, 92), False),
    ],
)
def test_a_cell_holds_files_alike(other: tuple[str, int, int, int, int | None], alike: bool) -> None:
    first, second = file_cells(table(("JPEG", 648, 432, 80_000, 90), other)).tolist()
    assert (first == second) is alike


def test_of_other_formats_the_bytes_a_pixel_count() -> None:
    cells = file_cells(
        table(("WEBP", 512, 512, 20_000, None), ("WEBP", 512, 512, 22_000, None), ("WEBP", 512, 512, 400_000, None))
    ).tolist()
    assert cells[0] == cells[1] != cells[2]


def test_the_order_of_the_images_decides_nothing_and_pairs_stay_whole() -> None:
    rng = random.Random(0)
    # Of one split and cell: 20 pairs, 10 synthetic images and 30 authentic ones more; and what is in no split.
    images = [(label, "train", f"{i + 50 * label:064x}", f"{i:016x}") for i in range(20) for label in (0, 1)]
    images += [(int(i > 29), "train", f"{200 + i:064x}", f"{200 + i:016x}") for i in range(40)]
    images += [(1, "", f"{300 + i:064x}", f"{300 + i:016x}") for i in range(40)]
    found = []
    for seed in (0, 0, 1):
        rng.shuffle(images)
        labels, splits, hashes, groups = (np.array(column) for column in zip(*images, strict=True))
        cells = np.zeros((len(images), 2), dtype=np.int64)
        sources = np.full(len(images), "one")
        surplus = find_surplus(cells, labels, splits, sources, hashes.astype("S64"), groups, seed)
        found.append({str(name) for name in groups[surplus]})
        assert Counter(labels[surplus].tolist()) == {0: 20}
        assert (splits[surplus] == "train").all()
    assert found[0] == found[1] != found[2]
    assert min(found[0]) >= f"{200:016x}"


def test_sources_take_turns() -> None:
    labels = np.array([0] * 12 + [1] * 4)
    sources = np.array(["large"] * 9 + ["a", "b", "c"] + ["other"] * 4)
    names = np.array([f"{i:064x}" for i in range(16)])
    cells = np.zeros((16, 1), dtype=np.int64)
    surplus = find_surplus(cells, labels, np.full(16, "train"), sources, names.astype("S64"), names, 0)
    assert Counter(sources[~surplus].tolist()) == {"large": 1, "a": 1, "b": 1, "c": 1, "other": 4}
