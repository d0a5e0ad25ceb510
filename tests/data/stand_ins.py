"""Tiny stand-ins for the data sets of `--preset modern` and `benchmark`: the real names, columns and layouts."""

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests import hub as stand_in
from tests.hub import Hub, zip_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pictures(count: int, place: str) -> list[bytes]:
    """PNG files, other ones at each place."""
    rng = np.random.default_rng(zlib.crc32(place.encode()))
    return [stand_in._encode(stand_in._picture(rng, 96, 88), "png") for _ in range(count)]


def structs(count: int, place: str) -> pa.Array:
    """A column as `datasets` writes images."""
    return pa.array([{"bytes": data, "path": None} for data in pictures(count, place)], IMAGE)


def parquet(columns: dict[str, Any], rows: int = 4) -> bytes:
    """A parquet file with these columns, some rows a row group."""
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=rows)
    return stream.getvalue()


def tar(members: dict[str, bytes], mode: Any = "w") -> bytes:
    """A tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def openfake(place: str, count: int = 12) -> bytes:
    """OpenFake: text labels, the model, prompts that two images share."""
    models = ["real", "gpt-image-1", "tiny-random-sana", "flux.1-dev"]
    return parquet(
        {
            "image": structs(count, place),
            "prompt": [f"{place} {i // 2}" for i in range(count)],
            "label": ["real" if i % 4 == 0 else "fake" for i in range(count)],
            "model": [models[i % 4] for i in range(count)],
            "type": ["base"] * count,
            "release_date": ["2025-03"] * count,
        }
    )


def community_forensics(place: str, synthetic: bool, count: int = 6) -> bytes:
    """CommunityForensics: images as plain bytes, all of a file of one class, one row group."""
    return parquet(
        {
            "image_data": pa.array(pictures(count, place), pa.binary()),
            "label": [int(synthetic)] * count,
            "model_name": [f"model-{i % 3}" if synthetic else "" for i in range(count)],
            "architecture": ["LatDiff"] * count,
            "real_source": ["" if synthetic else "COCO"] * count,
            "nsfw_flag": [i == 5 for i in range(count)],
            "format": ["PNG"] * count,
        },
        count,
    )


def ntire(place: str, count: int = 6) -> bytes:
    """NTIRE: a zip of images and a table of labels, whose first column has no name."""
    table = io.StringIO()
    sheet = csv.writer(table)
    sheet.writerow(["", "image_name", "label"])
    members = {}
    for i, data in enumerate(pictures(count, place)):
        members[f"images/{place}-{i}.jpg"] = data
        sheet.writerow([i, f"{place}-{i}.jpg", i % 2])
    folder = place.partition(".")[0]
    named = {f"{folder}/{name}": data for name, data in members.items()}
    return zip_of({f"{folder}/labels.csv": table.getvalue().encode(), **named})


def so_fake(place: str, count: int = 6) -> bytes:
    """So-Fake-OOD: the scope in words, integers that count tampered images as fake."""
    return parquet(
        {
            "scope": [("real", "full_synthetic", "TAMPERED")[i % 3] for i in range(count)],
            "authenticity": ["REAL" if i % 3 == 0 else "FAKE" for i in range(count)],
            "generator": [("", "Seedream 4.5", "Nano Banana")[i % 3] for i in range(count)],
            "source_platform": ["reddit"] * count,
            "image": structs(count, place),
            "mask": structs(count, f"{place} mask"),
        }
    )


def preferences(place: str, count: int = 3) -> bytes:
    """open-image-preferences: four images a row."""
    names = ("image_quality_dev", "image_simplified_dev", "image_quality_sd", "image_simplified_sd")
    return parquet({"prompt": [place] * count, **{name: structs(count, f"{place} {name}") for name in names}})


def webdataset(place: str, count: int = 4, mode: Any = "w", **said: Any) -> bytes:
    """A tar shard: an image and what is said of it, by name."""
    members = {}
    for i, data in enumerate(pictures(count, place)):
        members[f"{i:04}.png"] = data
        members[f"{i:04}.json"] = json.dumps({key: value[i] for key, value in said.items()}).encode()
        members[f"{i:04}.txt"] = b"a caption"
    return tar(members, mode)


def add_modern(hub: Hub, files: int = 2) -> None:
    """All data sets of the preset, two files each where the real ones have many."""
    for i in range(files):
        hub.add("ComplexDataLab/OpenFake", f"core/train-{i:05}-of-00608.parquet", openfake(f"openfake {i}"))
        for synthetic in (False, True):
            place = f"community {i} {synthetic}"
            path = f"data/{'Fake' if synthetic else 'Real'}-{i:05}.parquet"
            hub.add("OwensLab/CommunityForensics-Small", path, community_forensics(place, synthetic))
        hub.add("deepfakesMSU/NTIRE-RobustAIGenDetection-train", f"shard_{i}.zip", ntire(f"shard_{i}"))
        for repository, path_of in SINGLE.items():
            hub.add(repository, path_of(i), parquet({"image": structs(4, f"{repository} {i}")}))
        path = f"data/cleaned-{i:05}.parquet"
        hub.add("data-is-better-together/open-image-preferences-v1", path, preferences(f"preferences {i}"))


def add_benchmark(hub: Hub, files: int = 2) -> None:
    """All data sets of the preset for testing."""
    for i in range(files):
        hub.add("saberzl/So-Fake-OOD", f"data/test_image-{i:05}.parquet", so_fake(f"so-fake {i}"))
        path = f"data/CompEval-{i:05}.parquet"
        hub.add("OwensLab/CommunityForensics-Eval", path, community_forensics(f"eval {i}", bool(i)))
        hub.add("ComplexDataLab/OpenFake", f"core/test-{i:05}.parquet", openfake(f"openfake test {i}"))


SINGLE: dict[str, Callable[[int], str]] = {
    "bitmind/nano-banana": lambda i: f"data/train-{i:05}-of-00031.parquet",
    "Photoroom/midjourney-v6-recap": lambda i: f"train_{i:03}.parquet",
    "ash12321/flux-1-dev-generated-10k": lambda i: f"data/train-{i:05}.parquet",
    "bitmind/megalith-small": lambda i: f"chunk_{i:04}/train-00000-of-00001.parquet",
    "wtcherr/unsplash_5k": lambda i: f"data/train-{i:05}.parquet",
    "bitmind/open-images-v7-subset": lambda i: f"data/train-{i:05}.parquet",
    "huggan/wikiart": lambda i: f"data/train-{i:05}.parquet",
    "agentsea/wave-ui-25k": lambda i: f"data/train-{i:05}.parquet",
}
"""Data sets of one class: a path, by the file's number."""
