"""Mixed data sets: which image is of which class and generator is read off columns, and never guessed."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mai_app.data.archives import read_members
from mai_app.data.selection import Member, Quota
from mai_app.data.source_row import ImageColumn, LabelFile, Labels, Source, Without
from mai_app.errors import ImageError, SourceError
from tests.data.stand_ins import openfake, parquet, preferences, so_fake, structs, tar, webdataset
from tests.hub import zip_of

MIXED = Source(
    name="m",
    repository="o/m",
    label=None,
    container="parquet",
    files=("*.parquet",),
    labels=Labels("label", authentic=("real",), synthetic=("fake",)),
    generator_column="model",
)
ZIPPED = replace(MIXED, container="zip", generator_column="", table=LabelFile("labels.csv", "image_name"))
ZIPPED = replace(ZIPPED, labels=Labels("label", ("0",), ("1",)))


def members(data: bytes, tmp_path: Path, source: Source = MIXED, **quota: Any) -> list[Member]:
    (tmp_path / "file").write_bytes(data)
    return list(read_members(tmp_path / "file", source, Quota(0, **quota)))


def labels(found: list[Member]) -> list[int]:
    return [member.choice.label for member in found]


def with_labels(*values: Any) -> bytes:
    return parquet({"image": structs(len(values), "labels"), "label": list(values), "model": ["m"] * len(values)})


def test_text_tells_the_classes_apart_and_generators_are_of_synthetic_images_alone(tmp_path: Path) -> None:
    found = members(openfake("x", 8), tmp_path)
    assert [(m.name, m.choice.label, m.choice.generator) for m in found] == [
        ("0", 0, ""),
        ("1", 1, "gpt-image-1"),
        ("2", 1, "tiny-random-sana"),
        ("3", 1, "flux.1-dev"),
        ("4", 0, ""),
        ("5", 1, "gpt-image-1"),
        ("6", 1, "tiny-random-sana"),
        ("7", 1, "flux.1-dev"),
    ]
    assert labels(members(with_labels("Real", " FAKE ", "fake"), tmp_path)) == [0, 1, 1]


@pytest.mark.parametrize(
    ("values", "turned"),
    [((0, 1, 0), False), ((0, 1, 0), True), ((False, True, False), False), ((0.0, 1.0, 0.0), True)],
)
def test_numbers_are_read_either_way_round(tmp_path: Path, values: tuple[Any, ...], turned: bool) -> None:
    row = Labels("label", ("1",), ("0",)) if turned else Labels("label", ("0",), ("1",))
    assert labels(members(with_labels(*values), tmp_path, replace(MIXED, labels=row))) == [
        1 - int(value) if turned else int(value) for value in values
    ]


@pytest.mark.parametrize("value", ["probably real", "", None, "1"])
def test_an_unknown_label_is_an_error_that_names_file_and_value(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SourceError) as error:
        members(with_labels("real", "fake", value), tmp_path)
    assert str(error.value) == (
        f"file: its column 'label' says {value!r}, and is known to say real, fake; nothing is taken of the file. "
        "What its values mean stands in the row of m in mai_app/data/sources.py"
    )


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        (replace(MIXED, labels=Labels("scope", ("real",), ("fake",))), "scope"),
        (replace(MIXED, generator_column="generator"), "generator"),
        (replace(MIXED, without=(Without("nsfw", ("1",)),)), "nsfw"),
        (replace(MIXED, tie="prompt"), "prompt"),
        (replace(MIXED, columns=(ImageColumn("image2"),)), "image2"),
    ],
)
def test_a_missing_column_is_an_error_that_names_it_and_those_there(
    tmp_path: Path, source: Source, absent: str
) -> None:
    with pytest.raises(SourceError, match=f"file: has no column '{absent}'; its columns are image, label, model"):
        members(with_labels("real"), tmp_path, source)


def test_tampered_unsafe_and_bad_rows_are_left_out(tmp_path: Path) -> None:
    scope = Labels("scope", ("real",), ("full_synthetic",), ("tampered",))
    found = members(so_fake("x", 6), tmp_path, replace(MIXED, labels=scope, generator_column="generator"))
    assert [(m.name, m.choice.generator) for m in found] == [
        ("0", ""),
        ("1", "Seedream 4.5"),
        ("3", ""),
        ("4", "Seedream 4.5"),
    ]
    without = replace(MIXED, without=(Without("model", ("tiny_random_sana",)), Without("type", ("lora",))))
    assert [m.name for m in members(openfake("x", 8), tmp_path, without)] == ["0", "1", "3", "4", "5", "7"]


def test_no_generator_gives_more_than_its_cap_and_authentic_images_have_none(tmp_path: Path) -> None:
    data = openfake("x", 40)
    found = members(data, tmp_path, max_per_generator=3)
    generators = [member.choice.generator for member in found]
    assert {name: generators.count(name) for name in set(generators)} == {
        "": 10,
        "gpt-image-1": 3,
        "tiny-random-sana": 3,
        "flux.1-dev": 3,
    }
    names = {m.name for m in found}
    assert {m.name for m in members(data, tmp_path, max_per_generator=2)} < names
    both = {m.name for m in members(data, tmp_path, max_per_generator=3, max_images=7)}
    assert len(both) == 7
    assert both < names


def test_several_columns_of_images_are_each_taken_and_those_of_a_row_form_a_group(tmp_path: Path) -> None:
    columns = (ImageColumn("image_quality_dev", "flux"), ImageColumn("image_quality_sd", "sd"))
    source = replace(MIXED, label=1, labels=None, generator_column="", columns=columns)
    found = members(preferences("x"), tmp_path, source)
    assert [(m.name, m.choice.generator) for m in found] == [
        *((f"{row}/image_quality_dev", "flux") for row in range(3)),
        *((f"{row}/image_quality_sd", "sd") for row in range(3)),
    ]
    keys = {m.name: m.choice.group_key for m in found}
    assert len(set(keys.values())) == 3
    assert keys["1/image_quality_dev"] == keys["1/image_quality_sd"]
    pair = {name: structs(2, name) for name in ("image1", "image2")}
    data = parquet({**pair, "model1": ["imagen", "flux"], "model2": ["flux", "recraft"]})
    columns = (ImageColumn("image1", generator_column="model1"), ImageColumn("image2", generator_column="model2"))
    found = members(data, tmp_path, replace(source, columns=columns))
    assert [m.choice.generator for m in found] == ["imagen", "flux", "flux", "recraft"]


def labelled(table: str, *names: str) -> bytes:
    return zip_of({"shard_0/labels.csv": table.encode(), **{f"shard_0/images/{name}": b"x" for name in names}})


def test_a_zip_s_table_names_its_images_as_paths_files_or_stems(tmp_path: Path) -> None:
    table = ",image_name,label\n0,a.jpg,0\n1,b,1\n2,shard_0/images/c.jpg,1\n3,elsewhere.jpg,0\n"
    found = members(labelled(table, "a.jpg", "b.jpg", "c.jpg"), tmp_path, ZIPPED)
    assert labels(found) == [0, 1, 1]
    assert members(labelled(table, "b.jpg"), tmp_path, ZIPPED)[0].content == b"x"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image_name,label\nb.jpg,0\n", "labels.csv has no row for shard_0/images/a.jpg"),
        ("image_name,label\na.jpg,2\n", "its column 'label' says '2', and is known to say 0, 1"),
        ("image_name,label\na.jpg\n", "its column 'label' says None"),
        ("name,label\na.jpg,0\n", "labels.csv has no column 'image_name'; its columns are name, label"),
        ("image_name,label\na.jpg,0\na.jpg,1\n", "labels.csv says two things of a.jpg"),
        ("", "labels.csv has no column 'image_name'; its columns are "),
    ],
)
def test_a_table_of_labels_that_does_not_tell_is_an_error(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(SourceError) as error:
        members(labelled(table, "a.jpg"), tmp_path, ZIPPED)
    assert words in str(error.value)
    assert str(error.value).startswith("file: ")


def test_a_zip_without_its_table_of_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"file: has no labels\.csv, which says what its images are"):
        members(zip_of({"a.jpg": b"x"}), tmp_path, ZIPPED)
    with pytest.raises(SourceError, match=r"file: has 2 labels\.csv"):
        members(zip_of({"a/labels.csv": b"", "b/labels.csv": b"", "a.jpg": b"x"}), tmp_path, ZIPPED)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_yields_its_images_bytes_and_what_is_said_of_them(tmp_path: Path, mode: str) -> None:
    said = {"label": ["real", "fake", "fake", "real"], "model": ["", "a", "b", ""]}
    data = webdataset("x", 4, mode, **said)
    found = members(data, tmp_path, replace(MIXED, container="tar"))
    assert [(m.name, m.choice.label, m.choice.generator) for m in found] == [
        ("0000.png", 0, ""),
        ("0001.png", 1, "a"),
        ("0002.png", 1, "b"),
        ("0003.png", 0, ""),
    ]
    assert all(isinstance(m.content, bytes) and m.content.startswith(b"\x89PNG") for m in found)
    plain = replace(MIXED, container="tar", label=1, labels=None, generator_column="")
    assert len(members(data, tmp_path, plain, max_images=2)) == 2
    with pytest.raises(SourceError, match=r"file: 0000\.json does not say 'scope' of 0000\.png"):
        members(data, tmp_path, replace(MIXED, container="tar", labels=Labels("scope", ("real",), ("fake",))))


def test_hostile_tars_cost_no_more_than_themselves(tmp_path: Path) -> None:
    import tarfile  # noqa: PLC0415

    plain = replace(MIXED, container="tar", label=1, labels=None, generator_column="")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../out.png", "/root.png", "good.png", "__MACOSX/a.png", ".hidden.png"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"data"))
    found = members(stream.getvalue(), tmp_path, plain)
    assert {m.name: m.content for m in found if isinstance(m.content, bytes)} == {"good.png": b"data"}
    assert {m.name: m.content.reason for m in found if isinstance(m.content, ImageError)} == {
        "link.png": "is a link, or another thing than a plain file",
        "hard.png": "is a link, or another thing than a plain file",
        "../out.png": "its name points out of the archive",
        "/root.png": "its name points out of the archive",
    }
    long = tarfile.TarInfo("x" * (2 << 20))
    with pytest.raises(SourceError, match="not a tar archive that can be read to its end"):
        members(long.tobuf(tarfile.GNU_FORMAT), tmp_path, plain)
    whole = tar({"1.png": b"x" * 5000})
    for data in (b"", b"no tar at all" * 100, whole[:3000], zip_of({"1.png": b"x"})):
        with pytest.raises(SourceError, match="not a tar archive that can be read to its end"):
            members(data, tmp_path, plain)


def test_a_table_s_error_is_told_before_any_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(with_labels("real", "what"))
    with pytest.raises(SourceError, match="'what'"):
        next(read_members(tmp_path / "file", MIXED, Quota(0)))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("labels.csv", "image_name,label\na.jpg,0\nb.jpg,what\n")
        archive.writestr("a.jpg", b"x")
        archive.writestr("b.jpg", b"x")
    (tmp_path / "file").write_bytes(stream.getvalue())
    with pytest.raises(SourceError, match="'what'"):
        next(read_members(tmp_path / "file", ZIPPED, Quota(0)))
