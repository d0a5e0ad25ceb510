"""Archives and tables, friendly and hostile: each image as its own bytes, each bad one by name, in little memory."""

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mai_app.config import LIMITS
from mai_app.data.archives import read_members
from mai_app.data.selection import Choice, Member, Quota, draw
from mai_app.data.source_row import Flags, Source
from mai_app.data.tables import read_flags
from mai_app.errors import ImageError, SourceError
from tests.hub import bad_parquet, bomb_zip, broken_zip, outside_zip, zip_of

ZIP = Source(name="z", repository="o/z", label=0, container="zip", files=("*.zip",))
TABLE = replace(ZIP, name="t", container="parquet")
GROWTH = 130  # MiB that reading 200 MB may take more than 20 MB; measured: 0 (zip), 40 (parquet)


def members(
    data: bytes, tmp_path: Path, source: Source = ZIP, max_images: int | None = None, seed: int = 0
) -> list[Member]:
    (tmp_path / "file").write_bytes(data)
    return list(read_members(tmp_path / "file", source, Quota(seed, max_images)))


def reasons(found: list[Member]) -> dict[str, str]:
    return {m.name: m.content.reason for m in found if isinstance(m.content, ImageError)}


def table(images: list[object], **columns: list[object]) -> bytes:
    stream = io.BytesIO()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), **columns}), stream, row_group_size=3)
    return stream.getvalue()


def test_a_zip_yields_its_images_bytes_and_nothing_else(tmp_path: Path) -> None:
    junk = (
        "a/1.txt",
        "a/1.json",
        "__MACOSX/a/._1.jpg",
        "__MACOSX/1.png",
        "a/.DS_Store",
        "a/._1.png",
        ".hidden/2.png",
        "Thumbs.db",
        "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "a/",
    )
    images = {
        "a/5.pjpeg": b"five",
        "a/6.jpg_large": b"six",
        "a/7.HIF": b"seven",
        "a/1.JPG": b"one",
        "a/2.png": b"two",
        "b/3.webp": b"three",
        "c d/ü図.jpeg": b"four",
    }
    found = members(zip_of(dict.fromkeys(junk, b"[]") | images), tmp_path)
    assert {m.name: m.content for m in found} == images


def test_stored_and_deflated_members_are_read_and_no_others(tmp_path: Path) -> None:
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", kind) as archive:
            archive.writestr("1.png", b"one" * 100)
        found = members(stream.getvalue(), tmp_path)
        assert len(found) == 1
        if kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            assert found == [Member("1.png", b"one" * 100, Choice(0))]
        else:
            assert "packed in another way than stored or deflated" in reasons(found)["1.png"]


def test_a_smaller_draw_is_part_of_a_larger_one_and_keeps_the_order(tmp_path: Path) -> None:
    data = zip_of({f"{i}.png": bytes([i]) for i in range(40)})
    few, more = ([m.name for m in members(data, tmp_path, max_images=count)] for count in (5, 12))
    assert (len(few), len(more)) == (5, 12)
    assert set(few) < set(more)
    assert more == sorted(more, key=lambda name: int(name.removesuffix(".png")))
    assert [m.name for m in members(data, tmp_path, max_images=5, seed=1)] != few
    assert draw("abc", 9, 0) == {"a", "b", "c"}


def test_ties_and_tags_come_from_beside_the_images(tmp_path: Path) -> None:
    prompts = {"1.png": {"p": "A  Cat"}, "2.png": {"p": "a cat"}, "3.png": {"q": 1}}
    data = zip_of({"part.json": json.dumps(prompts).encode(), **{f"{i}.png": b"x" for i in (1, 2, 3)}})
    assert [m.choice.group_key for m in members(data, tmp_path, replace(ZIP, tie="p"))] == ["a cat", "a cat", ""]
    with pytest.raises(SourceError, match=r"part\.json does not say what belongs to which image"):
        members(zip_of({"part.json": b"[1]", "1.png": b"x"}), tmp_path, replace(ZIP, tie="p"))

    texts = {
        "1.txt": b"sky, Completely_Nude",
        "2.txt": b"sky\nai-generated,",
        "3.txt": b"nude mouse, \xff",
        "4.txt": b"",
    }
    data = zip_of({**texts, **{f"{i}.png": b"x" for i in range(1, 6)}})
    tagged = replace(ZIP, without_tags=frozenset(("nude", "completely nude", "ai-generated")))
    assert [m.name for m in members(data, tmp_path, tagged)] == ["3.png", "4.png", "5.png"]


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    found = members(outside_zip(), tmp_path)
    assert [m.name for m in found] == ["0.png", "../outside.png", "1.png"]
    assert reasons(found) == {"../outside.png": "its name points out of the archive"}
    names = ["/etc/1.png", "a/../../1.png", "\\\\host\\1.png", "a\\..\\1.png"]
    assert set(reasons(members(zip_of(dict.fromkeys(names, b"x")), tmp_path))) == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_archive_is_a_source_error(tmp_path: Path) -> None:
    newer = bytearray(zip_of({"1.png": b"x"}))
    newer[newer.index(b"PK\1\2") + 6] = 200  # the version of zip that it takes to read it
    for data in (broken_zip(), b"", b"PK\3\4", bytes(newer), b"<html>not found</html>"):
        with pytest.raises(SourceError, match="file: not a zip archive that can be read"):
            members(data, tmp_path)
    for data in (b"", b"PAR1" + bytes(100) + b"PAR1", bad_parquet()[:-100]):
        with pytest.raises(SourceError, match="file: not a parquet table that can be read"):
            members(data, tmp_path, TABLE)


def test_damaged_and_encrypted_members_are_refused_alone(tmp_path: Path) -> None:
    data = bytearray(zip_of({f"{i}.png": random.Random(i).randbytes(500) for i in range(4)}))
    central = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
    data[central[1] + 8] |= 1  # encrypted
    struct.pack_into("<I", data, central[2] + 16, 12345)  # another checksum
    found = members(bytes(data), tmp_path)
    assert [m.name for m in found if isinstance(m.content, bytes)] == ["0.png", "3.png"]
    assert "is encrypted" in reasons(found)["1.png"]
    assert "can't be unpacked (Bad CRC-32" in reasons(found)["2.png"]


def test_bombs_are_refused_by_what_they_declare(tmp_path: Path) -> None:
    found = members(bomb_zip(), tmp_path)
    assert [m.name for m in found if isinstance(m.content, bytes)] == ["0.png", "1.png"]
    assert f"over the limit of {LIMITS.max_bytes:,}" in reasons(found)["bomb.png"]
    small = members(zip_of({"1.png": bytes(3 << 20)}), tmp_path)
    assert "unpacks to 3,145,728 bytes from" in reasons(small)["1.png"]


def test_a_bomb_that_lies_about_its_size_never_unpacks(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1.png", bytes(64 << 20))
    data = bytearray(stream.getvalue())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 1000)  # so few bytes does it claim to have
    (tmp_path / "bomb.zip").write_bytes(data)
    code = f"""
import resource
from pathlib import Path
from mai_app.data.archives import read_members
from mai_app.data.selection import Quota
from tests.data.test_archives import ZIP
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(member,) = read_members(Path({str(tmp_path / "bomb.zip")!r}), ZIP, Quota(0))
print(member.content.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, sep="; ")
"""
    reason, grown = run(code).split("; ")
    assert "packed in another way than stored or deflated" in reason
    assert int(grown) < 20


def test_a_table_yields_its_good_rows(tmp_path: Path) -> None:
    found = members(bad_parquet(), tmp_path, replace(TABLE, tie="text"))
    assert [m.name for m in found] == ["0", "1", "2", "3", "4"]
    assert [m.choice.group_key for m in found] == [f"row {i}" for i in range(5)]
    assert reasons(found) == {"3": "has no bytes in the table"}
    few, more = ([m.name for m in members(bad_parquet(), tmp_path, TABLE, count)] for count in (2, 4))
    assert (len(few), len(more)) == (2, 4)
    assert set(few) < set(more)


def test_a_path_is_not_taken_for_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "[1] *what?* {2}"
    folder.mkdir()
    assert len(members(bad_parquet(), folder, TABLE)) == 5


def test_an_address_in_a_table_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"the user's own")
    paths = [str(tmp_path / "secret.png"), "file:///etc/passwd", "http://127.0.0.1:9/1.png", "zip://1.png::file"]
    found = members(table([{"bytes": None, "path": path} for path in paths]), tmp_path, TABLE)
    assert reasons(found) == dict.fromkeys("0123", "has no bytes in the table")
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": paths}), stream)
    found = members(stream.getvalue(), tmp_path, TABLE)
    assert reasons(found) == dict.fromkeys("0123", "has no bytes in the table")


def test_a_table_without_images_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="file: has no column 'picture'; its columns are image"):
        members(table([None]), tmp_path, replace(TABLE, column="picture"))
    for values in ([1, 2], [True], [{"bytes": 1}]):
        stream = io.BytesIO()
        pq.write_table(pa.table({"image": values}), stream)
        with pytest.raises(SourceError, match="file: breaks off"):
            members(stream.getvalue(), tmp_path, TABLE)


def test_what_a_table_notes_on_its_columns_is_not_read(tmp_path: Path) -> None:
    for notes in (
        b"{",
        b"\xff",
        b'{"info": {"features": {"image": {"_type": "Value"}}}}',
        b'{"info": {"features": {"image": "x"}}}',
    ):
        stream = io.BytesIO()
        pq.write_table(pa.table({"image": [b"x"]}).replace_schema_metadata({"huggingface": notes}), stream)
        assert members(stream.getvalue(), tmp_path, TABLE) == [Member("0", b"x", Choice(0))]


def test_the_table_of_what_to_leave_out(tmp_path: Path) -> None:
    flags = Flags("f.parquet", "name", "score", most=0.5)
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"name": ["b", "a", "c", "d"], "score": [0.9, 2.0, 0.5, None]}), path, row_group_size=2)
    assert read_flags(path, flags) == ["a", "b"]
    pq.write_table(pa.table({"name": ["a"], "nsfw": [1.0]}), path)
    with pytest.raises(SourceError, match=r"f\.parquet: has no column score, .*; its columns are name, nsfw"):
        read_flags(path, flags)
    pq.write_table(pa.table({"name": ["a"], "score": ["high"]}), path)
    with pytest.raises(SourceError, match=r"f\.parquet: not a table with name and score"):
        read_flags(path, flags)
    path.write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"f\.parquet: not a table with name and score"):
        read_flags(path, flags)


def test_damage_anywhere_ends_in_an_error_of_mai(tmp_path: Path) -> None:
    rng = random.Random(0)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.png", rng.randbytes(300))
            archive.writestr(f"{i}.txt", "sky")
    tagged = replace(ZIP, without_tags=frozenset(("nude",)))
    for whole, source, times in ((stream.getvalue(), tagged, 1500), (bad_parquet(), TABLE, 60)):
        outcomes = set()
        for _ in range(times):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 1, 3))):
                # Most of it in the last bytes: the directory of a zip, the schema of a table.
                place = rng.randrange(len(data)) if rng.random() < 0.3 else -1 - rng.randrange(min(len(data), 700))
                data[place] = rng.randrange(256)
            try:
                members(bytes(data), tmp_path, source)
                outcomes.add("read")
            except SourceError:
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}


def test_memory_stays_flat_however_large_the_file_is(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(10**6)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, count in (("small", 20), ("large", 200)):  # of 1 MB each
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for i in range(count):
                archive.writestr(f"{i}.png", noise)
        schema = pa.schema([("image", kind)])
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", schema, compression="none", use_dictionary=False) as writer:
            for _ in range(count // 20):  # a row group each
                images = [{"bytes": noise, "path": "1.png"} for _ in range(20)]
                writer.write_table(pa.table({"image": images}, schema))
    code = f"""
import resource
from pathlib import Path
from mai_app.data.archives import read_members
from mai_app.data.selection import Quota
from tests.data.test_archives import TABLE, ZIP
for source in (ZIP, TABLE):
    for size in ("small", "large"):
        path = Path({str(tmp_path)!r}, size + "." + source.container)
        total = sum(len(member.content) for member in read_members(path, source, Quota(0)))
        print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    rows = [[int(word) for word in line.split()] for line in run(code).splitlines()]
    totals, peaks = zip(*rows, strict=True)
    assert totals == (20 * 10**6, 200 * 10**6) * 2
    zip_growth, table_growth = peaks[1] - peaks[0], peaks[3] - peaks[2]
    assert zip_growth < GROWTH
    assert table_growth < GROWTH


def run(code: str) -> str:
    """What a process of its own prints, whose memory is therefore nobody else's."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
