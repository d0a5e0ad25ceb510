"""The Hub's files, over real HTTP with the real client: whole or not at all, patiently, and no secret said aloud."""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from mai_app.data.hub import LONGEST_PAUSE, TRIES, download, list_files
from mai_app.data.source_row import RemoteFile, RetryPolicy
from mai_app.errors import SourceError
from tests import hub as stand_in
from tests.hub import Fault, Hub

OWN = "someone/pictures"
LARGE = 12 << 20  # the client writes pieces of 10 MiB: only a larger file is ever resumed
NO_PAUSE = RetryPolicy(0)


def _no_other_try(_seconds: float) -> None:
    raise AssertionError("it is tried again")


NO_OTHER_TRY = RetryPolicy(9, _no_other_try)


def point_at(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> list[float]:
    """Let this process's client see the stand-in, and nothing of the real Hub or a user's settings.

    The answer holds the client's own pauses, which are not waited for.
    """
    for name in os.environ:
        if name.upper().startswith(("HF_", "HUGGING")) or name.upper().endswith("_PROXY"):
            patch.delenv(name)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "agents.json"))
    pauses: list[float] = []
    hasty = SimpleNamespace(**{name: getattr(time, name) for name in dir(time)} | {"sleep": pauses.append})
    patch.setattr("huggingface_hub.utils._http.time", hasty)
    patch.setattr("huggingface_hub.file_download.time", hasty)
    huggingface_hub.close_session()
    return pauses


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        yield hub
        assert not [fault for fault in hub.faults if fault.times > 0], "a fault that never happened"


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def the_file(hub: Hub, size: int, path: str = "data/a.zip") -> tuple[str, RemoteFile]:
    hub.add(OWN, path, content(size))
    commit, files = list_files(OWN, "main", (path,), NO_PAUSE)
    return commit, files[0]


def test_a_listing_has_the_files_that_match_and_no_others(hub: Hub) -> None:
    for path in ("a.zip", "data/b.zip", "data/deep/c.zip", "data/d.txt", "TEST/test/0.parquet", "FULL/test/0.parquet"):
        hub.add(OWN, path, path.encode())
    hub.page = 1  # an answer a file: the listing is followed to its end

    def names(*patterns: str) -> list[str]:
        return [file.path for file in list_files(OWN, "main", patterns, NO_PAUSE)[1]]

    assert names("data/*.zip") == ["data/b.zip"]
    assert names("*.zip") == ["a.zip"]
    assert names("data/b.zip", "*.zip") == ["a.zip", "data/b.zip"]
    assert names("**.zip") == ["a.zip", "data/b.zip", "data/deep/c.zip"]
    assert names("*/test/*.parquet") == ["FULL/test/0.parquet", "TEST/test/0.parquet"]
    assert names("[T]EST/test/0.parquet") == ["TEST/test/0.parquet"]
    with pytest.raises(SourceError, match=r"someone/pictures@main: holds no file named \*\.jpg"):
        names("*.jpg")
    commit, files = list_files(OWN, "main", ("a.zip",), NO_PAUSE)
    assert commit == hub.commit(OWN)
    assert (files[0].size, len(files[0].sha256 or "")) == (5, 64)


def test_nothing_outside_the_wanted_folder_is_listed(hub: Hub) -> None:
    hub.add(OWN, "data/a.zip", b"a")
    hub.add(OWN, "other/b.zip", b"b")
    list_files(OWN, "main", ("data/*.zip",), NO_PAUSE)
    listed = [path for _, path, _ in hub.requests if "/tree/" in path]
    assert len(listed) == 1
    assert "/data?" in listed[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("gone", "the Hub has no such data set or revision (404)"),
        ("revision", "the Hub has no such data set or revision (404)"),
        ("private", "gone, or not for everyone: log in or set HF_TOKEN (401)"),
        ("gated", "not for this account: ask for access on its page, set HF_TOKEN (403)"),
        ("teapot", "the Hub answers 418"),
    ],
)
def test_what_will_not_pass_is_said_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch, answer: str, words: str) -> None:
    hub.add(OWN, "a.zip", b"a")
    if answer in ("private", "gated"):
        hub.private.add(OWN)
    if answer == "gated":
        monkeypatch.setenv("HF_TOKEN", "hf_another")
    if answer == "gone":
        hub.remove(OWN)
    if answer == "teapot":
        hub.faults.append(Fault(OWN, "status", status=418))
    with pytest.raises(SourceError) as caught:
        list_files(OWN, "nowhere" if answer == "revision" else "main", ("*.zip",), NO_OTHER_TRY)
    assert words in str(caught.value)
    assert "hf_another" not in str(caught.value)


def test_a_file_that_is_gone_is_said_at_once(hub: Hub, tmp_path: Path) -> None:
    commit, file = the_file(hub, 100)
    with pytest.raises(SourceError, match=r"data/b.zip: the Hub has no such file \(404\)"):
        download(OWN, replace(file, path="data/b.zip"), commit, tmp_path / "d", NO_OTHER_TRY)


def test_pauses_double_unless_the_hub_names_the_time(hub: Hub, tmp_path: Path) -> None:
    commit, file = the_file(hub, 1000)
    pauses: list[float] = []
    hub.faults.append(Fault("/cdn/", "status", status=500, times=TRIES))
    with pytest.raises(SourceError, match=rf"someone/pictures/data/a.zip: the Hub answers 500 \({TRIES} tries\)$"):
        download(OWN, file, commit, tmp_path / "d", RetryPolicy(2, pauses.append))
    assert pauses == [2, 4, 8, 16, 32]

    for retry_after, waited in ((0, 0), (7, 7), (86_400, LONGEST_PAUSE)):
        hub.faults[:] = [
            Fault("/cdn/", "status", status=502),
            Fault("/cdn/", "status", status=503, retry_after=retry_after),
            Fault("/cdn/", "status", status=504),
        ]
        pauses.clear()
        path = download(OWN, file, commit, tmp_path / "d", RetryPolicy(2, pauses.append))
        assert pauses == [2, waited, 8]
        assert path.read_bytes() == content(1000)
        path.unlink()


def test_a_listing_is_asked_for_again_too(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(OWN, "a.zip", b"a")
    pauses: list[float] = []
    hub.faults += [
        Fault(f"/api/datasets/{OWN}/revision", "status", status=429, retry_after=3),
        Fault(f"/api/datasets/{OWN}/revision", "cut"),
        Fault(f"/api/datasets/{OWN}/revision", "reset"),
        Fault(f"/api/datasets/{OWN}/tree", "status", status=503, times=8),  # the client itself tries six times
    ]
    assert list_files(OWN, "main", ("*.zip",), RetryPolicy(1, pauses.append))[0] == hub.commit(OWN)
    assert pauses == [3, 2, 4, 8]


@pytest.mark.parametrize("kind", ["cut", "reset", "stall", "short", "long"])
@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
def test_a_broken_download_is_whole_in_the_end(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: float
) -> None:
    monkeypatch.setattr(stand_in, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    commit, file = the_file(hub, 300_000)
    hub.faults.append(Fault("/cdn/", kind, at=at, times=2))  # type: ignore[arg-type]
    reported: list[int] = []
    path = download(OWN, file, commit, tmp_path / "d", NO_PAUSE, reported.append)
    assert path.read_bytes() == content(300_000)
    assert sum(reported) == file.size


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("then", ["cut", "status"])
def test_a_large_download_is_resumed_where_it_broke(hub: Hub, tmp_path: Path, at: float, then: str) -> None:
    commit, file = the_file(hub, LARGE)
    hub.faults += [Fault("/cdn/", "cut", at=at), Fault("/cdn/", then)]  # type: ignore[arg-type]
    reported: list[int] = []
    path = download(OWN, file, commit, tmp_path / "d", NO_PAUSE, reported.append)
    assert path.read_bytes() == content(LARGE)
    ranges = [headers["range"] for _, path, headers in hub.requests if "/cdn/" in path and "range" in headers]
    assert ("bytes=10485760-" in ranges) == (at == 0.99)
    assert sum(reported) == file.size


def test_other_bytes_of_the_same_length_are_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    true, false = content(5000), bytes(5000)
    (tmp_path / "served").write_bytes(true)
    hub.add(OWN, "a.zip", tmp_path / "served")
    commit, (file,) = list_files(OWN, "main", ("*.zip",), NO_PAUSE)
    (tmp_path / "served").write_bytes(false)

    def mend(_seconds: float) -> None:
        (tmp_path / "served").write_bytes(true)

    assert download(OWN, file, commit, tmp_path / "d", RetryPolicy(0, mend)).read_bytes() == true
    (tmp_path / "served").write_bytes(false)
    with pytest.raises(SourceError, match=r"not the file that the Hub lists: another length or SHA-256 \(6 tries\)"):
        download(OWN, file, commit, tmp_path / "e", NO_PAUSE)
    assert not list((tmp_path / "e").rglob("*.zip"))


def test_the_clients_cache_is_used_if_what_it_has_is_whole(hub: Hub, tmp_path: Path) -> None:
    commit, file = the_file(hub, 5000)
    cached = Path(huggingface_hub.hf_hub_download(OWN, file.path, repo_type="dataset", revision=commit))
    hub.requests.clear()
    reported: list[int] = []
    assert download(OWN, file, commit, tmp_path / "d", NO_PAUSE, reported.append) == cached
    assert not hub.requests
    assert reported == [file.size]
    cached.resolve().write_bytes(bytes(5000))
    fetched = download(OWN, file, commit, tmp_path / "d", NO_PAUSE)
    assert fetched != cached
    assert fetched.read_bytes() == content(5000)


def test_no_signature_and_no_token_is_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    huggingface_hub.utils.logging.set_verbosity_warning()  # type: ignore[no-untyped-call]
    log = logging.StreamHandler(io.StringIO())
    logging.getLogger("huggingface_hub").addHandler(log)
    hub.private.add(OWN)
    commit, file = the_file(hub, 5000)
    said = []
    for fault in (
        Fault("/cdn/", "status", status=500, times=TRIES),
        Fault("/cdn/", "short", times=TRIES),
        Fault("/cdn/", "cut", times=TRIES * 6),
        Fault("/cdn/", "reset", times=TRIES * 6),
    ):
        hub.faults[:] = [fault]
        with pytest.raises(SourceError) as caught:
            download(OWN, file, commit, tmp_path / "d", NO_PAUSE)
        said.append(str(caught.value))
    hub.faults.clear()
    text = "\n".join([*said, *capfd.readouterr(), log.stream.getvalue()])
    logging.getLogger("huggingface_hub").removeHandler(log)
    assert stand_in.SIGNATURE not in text
    assert hub.token not in text
    # The token goes to the Hub, and not to the other host that it points to.
    hosts = {("/cdn/" in path, headers.get("authorization")) for _, path, headers in hub.requests if OWN in path}
    assert hosts == {(False, f"Bearer {hub.token}"), (True, None)}


def test_what_the_callback_raises_ends_the_download(hub: Hub, tmp_path: Path) -> None:
    commit, file = the_file(hub, LARGE)

    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(OWN, file, commit, tmp_path / "d", NO_OTHER_TRY, stop)


def test_offline_it_says_so(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, file = the_file(hub, 100)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    calls: list[Callable[[], object]] = [
        lambda: list_files(OWN, "main", ("*.zip",), NO_OTHER_TRY),
        lambda: download(OWN, file, commit, tmp_path / "d", NO_OTHER_TRY),
    ]
    for call in calls:
        with pytest.raises(SourceError, match="not fetched yet, and HF_HUB_OFFLINE is set"):
            call()
    assert not hub.requests
