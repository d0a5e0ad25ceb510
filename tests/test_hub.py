"""The stand-in for the Hub: the real clients work against it, it fails as told, and its six data sets are as said."""

import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import hub as stand_in
from tests.hub import (
    COVERS,
    DIFFUSIONDB,
    FLICKR,
    SCENERY,
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

PART = "images/part-000001.zip"


@pytest.fixture(scope="module")
def six() -> Iterator[tuple[Hub, Planted]]:
    """The six data sets; for reading only, but the lists of faults and requests are there anew for each test."""
    with Hub() as hub:
        yield hub, add_six(hub, images=6)


@pytest.fixture
def hub(six: tuple[Hub, Planted]) -> Iterator[Hub]:
    hub = six[0]
    hub.requests.clear()
    yield hub
    assert not [fault for fault in hub.faults if fault.times > 0], "a fault that never happened"
    hub.faults.clear()


def client(hub: Hub, home: Path, code: str) -> tuple[Any, str]:
    """What a process that sees this Hub answers: the value of `answer` in the code, and what it logged."""
    whole = f"import json\nfrom huggingface_hub import *\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run(
        [sys.executable, "-c", whole], env=hub.environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def get(hub: Hub, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A request without any client between, for what the clients hide; `path` may be a whole address."""
    parts = urlsplit(path)
    connection = HTTPConnection("127.0.0.1", urlsplit(hub.url).port)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def content(hub: Hub, repository: str, path: str) -> bytes:
    """A remote file's bytes, by way of the redirect."""
    status, headers, body = get(hub, f"/datasets/{repository}/resolve/main/{path}")
    return get(hub, headers["Location"])[2] if status == 302 else body


def pictures(hub: Hub, repository: str, path: str) -> dict[str, bytes]:
    """The image files in a remote file, by member."""
    data = io.BytesIO(content(hub, repository, path))
    if path.endswith(".parquet"):
        rows = pq.read_table(data).column("image").to_pylist()
        return {str(number): row["bytes"] for number, row in enumerate(rows)}
    with zipfile.ZipFile(data) as archive:
        assert archive.testzip() is None
        wanted = [n for n in archive.namelist() if re.search(r"(^|/)[^./][^/]*\.(png|jpg|webp)$", n)]
        return {name: archive.read(name) for name in wanted if not name.startswith("__MACOSX")}


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def test_downloads_go_through_the_redirect(hub: Hub, tmp_path: Path) -> None:
    code = f"""
import hashlib, pathlib
def digest(path, **more):
    data = pathlib.Path(hf_hub_download({DIFFUSIONDB!r}, path, repo_type="dataset", **more)).read_bytes()
    return hashlib.sha256(data).hexdigest()
info = HfApi().dataset_info({DIFFUSIONDB!r}, files_metadata=True)
told = {{file.rfilename: file.lfs and file.lfs.sha256 for file in info.siblings}}
answer = [info.sha, told[{PART!r}], digest({PART!r}), digest({PART!r}, revision=info.sha), told["diffusiondb.py"],
          digest("diffusiondb.py")]
"""
    (sha, told, by_branch, by_hash, small_told, small), _ = client(hub, tmp_path, code)
    assert sha == hub.commit(DIFFUSIONDB)
    assert told == by_branch == by_hash
    assert small_told is None
    assert small == hashlib.sha256(stand_in.SCRIPT).hexdigest()
    fetched = [(path, headers["host"]) for method, path, headers in hub.requests if method == "GET"]
    large = [(path, host) for path, host in fetched if PART in path]
    assert large
    assert all(path.startswith("/cdn/") and host.startswith("localhost:") for path, host in large)
    assert any("/resolve/" in path and path.endswith("diffusiondb.py") for path, _ in fetched)


def test_listing_in_pages(hub: Hub, tmp_path: Path) -> None:
    code = f"""
def paths(*where, **how):
    return [item.path for item in HfApi().list_repo_tree({DIFFUSIONDB!r}, *where, repo_type="dataset", **how)]
infos = HfApi().get_paths_info({DIFFUSIONDB!r}, [{PART!r}, "images", "none"], repo_type="dataset", expand=True)
answer = [paths(), paths("images"), paths(recursive=True), [type(info).__name__ for info in infos]]
"""
    hub.page = 2
    try:
        (top, folder, everything, infos), _ = client(hub, tmp_path, code)
    finally:
        hub.page = 1000
    assert top == ["README.md", "diffusiondb-large-part-1", "diffusiondb.py", "images", "metadata.parquet"]
    assert folder == [f"images/part-00000{n}.zip" for n in (1, 2, 3, 4)]
    assert {*top, *folder} < set(everything)
    assert len(everything) == 11
    assert infos == ["RepoFile", "RepoFolder"]
    assert sum("cursor=" in path for _, path, _ in hub.requests) == 2 + 1 + 5


def test_what_is_missing_is_told_apart(tmp_path: Path) -> None:
    code = """
def outcome(call, *what, **how):
    try:
        call(*what, repo_type="dataset", **how)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__]
    return "ok"
listing = lambda *what, **how: list(HfApi().list_repo_tree(*what, **how))
answer = [
    outcome(call, repository, *what, **how)
    for call, missing in ((hf_hub_download, "none.txt"), (listing, "none"))
    for repository, what, how in (
        ("no/such", ["a.txt"], {}), ("a/b", ["a.txt"], {"revision": "none"}), ("a/b", [missing], {})
    )
] + [outcome(hf_hub_download, "a/b", "a.txt")]
"""
    with Hub() as hub:
        hub.add("a/b", "a.txt", b"text")
        hub.add("no/such", "a.txt", b"text")
        hub.remove("no/such")
        outcomes, _ = client(hub, tmp_path, code)
        before = hub.commit("a/b")
        hub.remove("a/b", "a.txt")
        assert get(hub, "/datasets/a/b/resolve/main/a.txt")[0] == 404
        assert get(hub, f"/datasets/a/b/resolve/{before}/a.txt")[2] == b"text"
    expected = ["RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"] * 2
    assert [name in outcome for name, outcome in zip(expected, outcomes, strict=False)] == [True] * 6
    assert outcomes[6] == "ok"


def test_a_zip_opens_by_ranges(hub: Hub, tmp_path: Path) -> None:
    code = f"""
import zipfile
from huggingface_hub.utils import get_session
with HfFileSystem().open("datasets/{DIFFUSIONDB}/{PART}", block_size=2**14) as stream:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        first = archive.read(names[0])
url = hf_hub_url({DIFFUSIONDB!r}, {PART!r}, repo_type="dataset")
part = get_session().get(url, headers={{"Range": "bytes=10-19"}}, follow_redirects=True)
answer = [names, len(first), part.status_code, part.headers["Content-Range"], part.content.hex()]
"""
    (names, length, status, extent, part), _ = client(hub, tmp_path, code)
    ranges = [headers.get("range") for _, path, headers in hub.requests if path.startswith("/cdn/")]
    whole = content(hub, DIFFUSIONDB, PART)
    assert len(names) == 7
    assert length == len(pictures(hub, DIFFUSIONDB, PART)[names[0]])
    assert (status, extent, bytes.fromhex(part)) == (206, f"bytes 10-19/{len(whole)}", whole[10:20])
    assert len(ranges) > 1
    assert all(ranges)
    place = get(hub, f"/datasets/{DIFFUSIONDB}/resolve/main/{PART}")[1]["Location"]
    assert get(hub, place, Range="bytes=-5")[::2] == (206, whole[-5:])
    assert get(hub, place, Range=f"bytes={len(whole)}-")[0] == 416
    assert get(hub, place.replace("SECRET", "x"))[0] == 403


def test_a_cut_connection_is_resumed_and_a_wrong_length_is_not_taken(tmp_path: Path) -> None:
    code = """
import pathlib, hashlib
answer = []
for path in ("cut.zip", "short.zip", "long.zip", "reset.zip"):
    try:
        file = hf_hub_download("a/b", path, repo_type="dataset")
        answer.append(hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest())
    except Exception as error:
        answer.append(f"{type(error).__name__}: {error}")
"""
    large = tmp_path / "large"
    large.write_bytes(np.random.default_rng(0).bytes(24 << 20))  # the client keeps whole chunks of 10 MiB only
    with Hub() as hub:
        hub.add("a/b", "cut.zip", large)
        for kind in ("short", "long", "reset"):
            hub.add("a/b", f"{kind}.zip", bytes(200_000))
        hub.faults += [Fault("cut.zip", "cut"), Fault("short.zip", "short"), Fault("long.zip", "long")]
        hub.faults.append(Fault("reset.zip", "reset", times=-1))
        (cut, short, long, reset), log = client(hub, tmp_path / "home", code)
        ranges = [headers.get("range") for _, path, headers in hub.requests if re.match(r"/cdn/.*/cut\.zip", path)]
        assert [fault.times for fault in hub.faults] == [0, 0, 0, -1]
    assert cut == hashlib.sha256(large.read_bytes()).hexdigest()
    assert "Trying to resume" in log
    assert ranges == [None, f"bytes={10 << 20}-"]
    assert all("Consistency check failed" in outcome for outcome in (short, long))
    assert reset.startswith("ReadError")  # of httpx; the client resumes after a cut only


def test_faults_without_a_client(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "STALL_SECONDS", 0.1)
    place = f"/datasets/{FLICKR}/resolve/main/flickr30k.py"
    whole = stand_in.SCRIPT
    hub.faults += [Fault("flickr30k.py", "status", status=429, retry_after=7), Fault("flickr30k.py", "stall", at=0.2)]
    assert get(hub, place, "HEAD")[0] == 200
    status, headers, _ = get(hub, place)
    assert (status, headers["Retry-After"]) == (429, "7")
    with pytest.raises(IncompleteRead) as stopped:
        get(hub, place)
    assert stopped.value.partial == whole[: int(len(whole) * 0.2)]
    good = get(hub, place)
    assert good[2] == whole
    hub.faults += [Fault("flickr30k.py", "short"), Fault("flickr30k.py", "long")]
    for length in (len(whole) // 2, len(whole) + len(whole) // 2):
        status, headers, body = get(hub, place)
        assert (status, int(headers["Content-Length"]), len(body)) == (200, length, length)
        assert headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    assert get(hub, place)[0] == 200


def test_rows_stream_from_parquet(hub: Hub, tmp_path: Path) -> None:
    code = """
from datasets import Image, load_dataset
def rows(files):
    loaded = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return list(loaded.cast_column("image", Image(decode=False)))
good = rows("hf://datasets/Alphonsce/metal_album_covers/data/*.parquet")
bad = rows("hf://datasets/a/b@refs%2Fconvert%2Fparquet/default/train/*.parquet")
answer = [
    [[row["text"], len(row["image"]["bytes"])] for row in good],
    [row["image"] and len(row["image"]["bytes"]) for row in bad],
]
"""
    hub.add("a/b", "default/train/0000.parquet", bad_parquet(), revision="refs/convert/parquet")
    try:
        (good, bad), _ = client(hub, tmp_path, code)
    finally:
        hub.remove("a/b")
    assert len(good) == 18
    assert [text for text, _ in good[5:7]] == ["Band 0 - Album 5", "Band 1 - Album 0"]
    assert all(length > 1000 for _, length in good)
    assert bad[1:4] == [2000, 0, None]
    assert min(bad[0], bad[4]) > 1000


def test_a_private_repository_wants_the_token(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add("a/b", "x.zip", zip_of({"a.txt": b"text"}))
        hub.private.add("a/b")
        code = f"""
def outcome(token):
    try:
        return open(hf_hub_download("a/b", "x.zip", repo_type="dataset", token=token), "rb").read(2).decode()
    except Exception as error:
        return type(error).__name__
answer = [outcome(False), outcome("hf_another"), outcome({hub.token!r})]
"""
        outcomes, _ = client(hub, tmp_path, code)
        assert outcomes == ["RepositoryNotFoundError", "GatedRepoError", "PK"]
        assert not any("authorization" in headers for _, path, headers in hub.requests if path.startswith("/cdn/"))


def test_the_environment_holds_no_token_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_real")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_real")
    assert "hf_real" not in Hub().environment(tmp_path).values()
    assert Hub().environment(tmp_path, HF_TOKEN="mine")["HF_TOKEN"] == "mine"


def test_a_large_file_is_served_from_disk(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(np.random.default_rng(0).bytes(300_000))
    with Hub() as hub:
        hub.add("a/b", "large.zip", file)
        first = hub.commit("a/b")
        assert content(hub, "a/b", "large.zip") == file.read_bytes()
        hub.add("a/b", "small.txt", b"")
        assert hub.commit("a/b") != first
        assert content(hub, "a/b", "small.txt") == b""


def test_the_same_seed_gives_the_same_bytes() -> None:
    hubs = [Hub(), Hub(), Hub()]
    for hub, seed in zip(hubs, (0, 0, 1), strict=True):
        add_six(hub, images=4, seed=seed)
    for repository in (DIFFUSIONDB, FLICKR, SCENERY, COVERS):
        a, b, other = (hub.commit(repository) for hub in hubs)
        assert a == b
        assert a != other


def look(image: Image.Image) -> int:
    """64 bits: where a picture gets brighter from left to right."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int("".join("01"[bit] for bit in (np.diff(small) > 0).ravel().astype(int)), 2)


def test_only_the_planted_pictures_are_alike(six: tuple[Hub, Planted]) -> None:
    hub, planted = six
    found: dict[Member, bytes] = {}
    for repository in (DIFFUSIONDB, FLICKR, stand_in.PAINTINGS, SCENERY, stand_in.POSTERS, COVERS):
        listed = json.loads(get(hub, f"/api/datasets/{repository}")[2])["siblings"]
        for path in (file["rfilename"] for file in listed):
            if path.endswith((".zip", ".parquet")) and path != "metadata.parquet":
                found |= {(repository, path, name): data for name, data in pictures(hub, repository, path).items()}
    assert len(found) == 6 * (6 + 1 + 3 + 2 + 1 + 3) + 3

    for same in (planted.exact, planted.contradiction):
        assert found[same[0]] != found[same[1]]
        assert opened(found[same[0]]).tobytes() == opened(found[same[1]]).tobytes()
    assert planted.exact[0][:1] == planted.exact[1][:1]
    assert planted.exact[0][1] != planted.exact[1][1]
    assert planted.contradiction[1][0] == DIFFUSIONDB
    first, second = (opened(found[member]) for member in planted.near)
    assert (second.width / first.width, second.height / first.height) == (0.8, 0.8)
    assert all(found[a] == found[b] for a, b in planted.repeated)

    looks = {member: look(opened(data)) for member, data in found.items()}
    alike = {frozenset(pair) for pair in combinations(looks, 2) if (looks[pair[0]] ^ looks[pair[1]]).bit_count() < 10}
    assert alike == {frozenset(p) for p in (planted.exact, planted.near, planted.contradiction, *planted.repeated)}


def test_the_layouts_hold_what_the_real_ones_do(six: tuple[Hub, Planted]) -> None:
    hub, planted = six
    metadata = pq.read_table(io.BytesIO(content(hub, DIFFUSIONDB, "metadata.parquet")))
    assert str(metadata.schema.field("part_id").type) == "uint16"
    rows = {row["image_name"]: row for row in metadata.to_pylist()}
    assert {name for name, row in rows.items() if row["image_nsfw"] == 2.0} == {name for _, _, name in planted.nsfw}
    with zipfile.ZipFile(io.BytesIO(content(hub, DIFFUSIONDB, PART))) as archive:
        records = json.loads(archive.read("part-000001.json"))
    assert all(rows[name]["prompt"] == record["p"] for name, record in records.items())
    prompts: dict[str, set[int]] = {}
    for row in rows.values():
        prompts.setdefault(row["prompt"], set()).add(row["part_id"])
    assert sum(len(parts) == 2 for parts in prompts.values()) == 3

    with zipfile.ZipFile(io.BytesIO(content(hub, FLICKR, "flickr30k-images.zip"))) as archive:
        names = archive.namelist()
    assert sum(name.startswith("__MACOSX/flickr30k-images/._") and name.endswith(".jpg") for name in names) == 6
    assert "flickr30k-images/.DS_Store" in names
    for member, tag in ((planted.nude, "nude"), (planted.ai_generated, "ai-generated")):
        with zipfile.ZipFile(io.BytesIO(content(hub, *member[:2]))) as archive:
            assert tag in archive.read(str(Path(member[2]).with_suffix(".txt"))).decode().split(", ")
    shard = pq.ParquetFile(io.BytesIO(content(hub, COVERS, "data/train-00000-of-00003.parquet")))
    assert shard.num_row_groups == 6
    assert b"huggingface" in shard.schema_arrow.metadata


def test_hostile_files() -> None:
    bomb = bomb_zip()
    assert len(bomb) < 1_000_000
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        assert archive.getinfo("bomb.png").file_size == 320 << 20
        with archive.open("bomb.png") as member:
            assert member.read(1 << 20) == bytes(1 << 20)
    with zipfile.ZipFile(io.BytesIO(outside_zip())) as archive:
        assert archive.namelist()[1] == "../outside.png"
        assert opened(archive.read("1.png")).size == (120, 100)
    broken = io.BytesIO(broken_zip())
    assert zipfile.is_zipfile(broken)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(broken)
    assert zip_of({"a/b.txt": b"1"}) == zip_of({"a/b.txt": b"1"})
