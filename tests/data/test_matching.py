"""Matching: what is left has as many images of both classes in each cell, and the files alone tell little."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mai_app.config import PrepareConfig
from mai_app.data.matching import UNMATCHED, unmatched
from mai_app.data.prepare import prepare_sources
from mai_app.errors import DataError
from mai_app.images.decode import encode_jpeg
from tests.conftest import Run, png_bytes


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def lopsided(root: Path) -> Path:
    """80 authentic JPEG of which 16 are square, 80 synthetic images: 60 square PNG, 20 JPEG like the authentic ones."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("authentic", "synthetic")):
        (root / name).mkdir(parents=True)
        for i in range(80):
            # As many of either class, in like numbers: 16 square JPEG, and 4 of the other shape among the synthetic.
            square = i < 16 or (label == 1 and i >= 20)
            pixels = noise(rng, 64, 64 if square else 90)
            if label and i >= 20:
                (root / name / f"{i}.png").write_bytes(png_bytes(pixels))
            else:
                (root / name / f"{i}.jpg").write_bytes(encode_jpeg(pixels, 85))
    return root


def table_of(**columns: object) -> pa.Table:
    n = len(columns["label"])  # type: ignore[arg-type]
    plain = {"source": ["s"] * n, "format": ["JPEG"] * n, "width": [100] * n, "height": [100] * n}
    hashes = [f"{i:064x}" for i in range(n)]
    return pa.table({**plain, "jpeg_quality": pa.array([90] * n), "sha256": hashes} | columns)


def test_every_cell_keeps_as_many_of_both_classes(tmp_path: Path) -> None:
    data = lopsided(tmp_path / "photos")
    sets = [
        prepare_sources(PrepareConfig(source=(str(data),), name=f"m{jobs}", prepared=tmp_path, match=True, jobs=jobs))
        for jobs in (1, 4)
    ]
    assert len({(one.folder / "manifest.csv").read_bytes() for one in sets}) == 1
    rows = sets[0].table.to_pylist()
    assert len(rows) == 160
    used = [row for row in rows if row["split"]]
    cells = Counter((row["split"], row["format"], row["width"], row["label"]) for row in used)
    assert cells
    assert all(cells[split, form, width, 1 - label] == n for (split, form, width, label), n in cells.items())
    assert Counter(row["left_out"] for row in rows) == {"": len(used), UNMATCHED: 160 - len(used)}
    assert 24 <= len(used) <= 40  # at most 16 + 4 of either class; each split alone loses some


def test_the_audit_shows_what_it_was_and_what_is_left(tmp_path: Path, mai: Run) -> None:
    data = lopsided(tmp_path / "photos")
    done = mai("prepare", "--source", data, "--match", "--name", "matched", "--prepared", tmp_path)
    assert done.returncode == 0, done.stderr
    assert UNMATCHED in done.stderr
    done = mai("audit", tmp_path / "matched", "--out", tmp_path / "audit")
    assert done.returncode == 0, done.stderr
    assert "before --match" in done.stdout
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["before_matching"]["auroc"]["value"] > 0.9
    assert report["before_matching"]["images"] == 160
    assert report["all"]["auroc"]["low"] < 0.6
    assert "before --match" in (tmp_path / "audit" / "audit.html").read_text()


def test_another_choice_is_not_mixed_into_a_set(tmp_path: Path, mai: Run) -> None:
    words = ("prepare", "--source", lopsided(tmp_path / "photos"), "--name", "one", "--prepared", tmp_path)
    assert mai(*words).returncode == 0
    done = mai(*words, "--match")
    assert done.returncode == 2
    assert "--match" in done.stderr
    assert "choose another --name" in done.stderr


def test_sources_take_turns() -> None:
    label = [0] * 12 + [1] * 4
    source = ["large"] * 9 + ["a", "b", "c"] + ["x"] * 4
    out = unmatched(table_of(label=label, source=source), np.array(["train"] * 16), 0)
    kept = Counter(name for name, gone in zip(source, out, strict=True) if not gone)
    assert kept == {"large": 1, "a": 1, "b": 1, "c": 1, "x": 4}


def test_the_order_of_images_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    n = 200
    columns = {
        "label": rng.integers(0, 2, n),
        "width": rng.integers(60, 300, n),
        "jpeg_quality": rng.integers(50, 100, n),
        "sha256": np.array([f"{i:064x}" for i in range(n)]),
    }
    splits = rng.choice(["train", "val", "test", ""], n)
    once = unmatched(table_of(**columns), splits, 3)
    order = rng.permutation(n)
    again = unmatched(table_of(**{name: values[order] for name, values in columns.items()}), splits[order], 3)
    assert (once[order] == again).all()
    assert not once[splits == ""].any()
    assert 0 < once.sum() < (splits != "").sum()


def test_classes_that_share_nothing_are_an_error() -> None:
    columns = {"label": [0] * 5 + [1] * 5, "format": ["JPEG"] * 5 + ["PNG"] * 5}
    with pytest.raises(DataError, match="leaves nothing of train"):
        unmatched(table_of(**columns), np.array(["train"] * 10), 0)
