"""A stand-in for the Hugging Face Hub on 127.0.0.1: the real clients work against it, and it fails where it is told to.

It serves data sets, and models as repositories named models/owner/name, which a client with the token makes and commits
to. Large files (.zip, .parquet, .safetensors) take the real one's detour: a redirect to a signed address on another
host name, here `localhost`. add_six() fills it with small data sets in the six layouts that MAI reads; the functions at
the end make hostile files.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import socket
import struct
import sys
import threading
import traceback
import uuid
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlencode

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import constants
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
Member = tuple[str, str, str]  # repository, remote file, member; for parquet the member is the row's number

CHUNK = 1 << 16
STALL_SECONDS = 3.0
SIGNATURE = "SECRET"  # in every CDN address, so that a test can prove that it reaches no log and no record
BREAKS = ("cut", "reset", "stall")  # the kinds that end the connection within the body
LFS = (".zip", ".parquet", ".safetensors")
LONG_AGO = "2024-01-01T00:00:00.000Z"


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests whose path contains `path`; -1 times: for ever.

    Of several faults that fit a request, the first one that is not used up happens.
    """

    path: str  # part of the request's path, unquoted, without the query; /resolve/ and /cdn/ tell the two hops apart
    kind: Literal["cut", "reset", "short", "long", "status", "stall"]
    at: float = 0.5  # the share of the body that cut, reset and stall still send, that short keeps, that long adds
    status: int = 500
    retry_after: int | None = None  # seconds
    times: int = 1  # counts down to 0; all kinds but status wait for a GET that is answered with a body
    method: str = "GET"  # "": any


@dataclass(frozen=True)
class _Blob:
    """A file's content, in memory or on disk, with what the Hub says about it."""

    source: bytes | Path
    size: int
    sha256: str
    oid: str  # git's: of the content, or of the LFS pointer that git holds in its place
    lfs: bool

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes start to end; zeros where the content is over, for the "long" fault."""
        with io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb") as stream:
            stream.seek(start)
            while start < end:
                length = min(CHUNK, end - start)
                yield stream.read(length).ljust(length, b"\0")
                start += length


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of this server
    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **headers}


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _blob(data: bytes | Path, lfs: bool) -> _Blob:
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in _Blob(data, size, "", "", lfs).chunks(0, size):
        sha256.update(chunk)
        git.update(chunk)
    if lfs:
        pointer = _pointer(sha256.hexdigest(), size)
        git = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False)
    return _Blob(data, size, sha256.hexdigest(), git.hexdigest(), lfs)


class Hub:
    """Serves repositories while its `with` block lasts; files may be added before and meanwhile.

    `requests` holds every request so far as (method, path with query, headers with lower-case names). A repository in
    `private` answers 401 without a token, 403 with another token than `token`, and works with that. With `token` models
    of `owner` can be made and committed to; `bodies` holds what was sent with such requests.
    """

    def __init__(self) -> None:
        self.url = ""
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.private: set[str] = set()
        self.token = "hf_the_right_token"
        self.owner = "me"
        self.bodies: list[tuple[str, bytes]] = []  # path, body
        self.uploads: dict[str, bytes] = {}  # of large files, by SHA-256, before a commit names them
        self.page = 1000  # entries of a folder listing that one answer holds
        self.closing = threading.Event()
        self._heads: dict[str, dict[str, dict[str, _Blob]]] = {}  # repository, revision, path
        self._commits: dict[str, dict[str, dict[str, _Blob]]] = {}  # repository, hash, path
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self.closing.clear()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def add(self, repository: str, path: str, data: bytes | Path, revision: str = "main") -> None:
        """Adds or replaces a file. One given as a Path is read whenever it is asked for: leave it unchanged."""
        blob = _blob(data, path.endswith(LFS))
        with self._lock:
            self._heads.setdefault(repository, {}).setdefault(revision, {})[path] = blob

    def tag(self, repository: str, name: str) -> str:
        """Names the files of main, as they are now, by a tag; returns its commit."""
        with self._lock:
            self._heads[repository][name] = dict(self._heads[repository]["main"])
            return self.commit(repository, name)

    def create(self, repository: str, private: bool) -> bool:
        """Makes an empty repository; False if there is one."""
        with self._lock:
            if repository in self._heads:
                return False
            self._heads[repository] = {"main": {}}
            if private:
                self.private.add(repository)
            return True

    def read(self, repository: str, path: str) -> bytes:
        """A file's content on the branch main."""
        blob = self._heads[repository]["main"][path]
        return b"".join(blob.chunks(0, blob.size))

    def paths(self, repository: str) -> list[str]:
        """Names of the files on the branch main."""
        return sorted(self._heads[repository]["main"])

    def remove(self, repository: str, path: str | None = None) -> None:
        """Removes a file from all branches (a commit that had it still has it), or a repository as if it never was."""
        with self._lock:
            if path is None:
                del self._heads[repository]
                self._commits.pop(repository, None)
            else:
                for files in self._heads[repository].values():
                    files.pop(path, None)

    def commit(self, repository: str, revision: str = "main") -> str:
        """The hash that the branch is at. A hash that was once given out stays readable, as on the real Hub."""
        with self._lock:
            files = dict(sorted(self._heads[repository][revision].items()))
            content = json.dumps([repository, revision, [(path, blob.oid) for path, blob in files.items()]])
            sha = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
            self._commits.setdefault(repository, {})[sha] = files
            return sha

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a subprocess that shall see this Hub and nothing of the real one, nor of a user's settings."""
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGINGFACE", "HUGGING_FACE"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **more,
        }

    def patch(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Lets the client in this process see this Hub alone, which it otherwise reads off its environment once."""
        for name in [name for name in os.environ if name.upper().startswith(("HF_", "HUGGINGFACE", "HUGGING_FACE"))]:
            patch.delenv(name)
        for name, value in self.environment(home).items():
            patch.setenv(name, value)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def files(self, repository: str, revision: str, authorization: str | None) -> tuple[str, dict[str, _Blob]]:
        """The commit that a revision stands for and its files; raises the refusal that the real Hub would answer."""
        with self._lock:
            if repository not in self._heads:
                raise _Refusal(404, "RepoNotFound", "Repository not found")
            if repository in self.private:
                if authorization is None:
                    raise _Refusal(401, "RepoNotFound", "Invalid username or password.")
                if authorization != f"Bearer {self.token}":
                    raise _Refusal(403, "GatedRepo", f"Access to dataset {repository} is restricted.")
            if revision in self._heads[repository]:
                revision = self.commit(repository, revision)
            if revision not in self._commits.get(repository, {}):
                raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return revision, self._commits[repository][revision]

    def take_fault(self, method: str, path: str, kinds: Collection[str]) -> Fault | None:
        """The fault that is to happen now, counted as having happened."""
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.kind in kinds and fault.path in path and fault.method in ("", method):
                    fault.times -= fault.times > 0
                    return fault
            return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for all, so that nothing of one test reaches into the next
    request_queue_size = 64
    hub: Hub

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Ends the connections that clients keep alive; their threads wait for a next request otherwise."""
        with self._lock:
            for connection in self._open:
                _hang_up(connection)

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients get killed in tests
            traceback.print_exc()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # the client may have been first
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart; together with delayed ACKs that takes 40 ms
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.plain = unquote(path)
        self.query = parse_qs(query)
        self.body = self.read_body()
        is_form = "form-urlencoded" in self.headers.get("Content-Type", "")
        self.form = parse_qs(self.body.decode()) if is_form else {}
        self.hub = self.server.hub
        self.hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if fault := self.hub.take_fault(self.command, self.plain, {"status"}):
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self.say(fault.status, wait, {"error": "a fault that the test asked for"})
            return
        try:
            # Split before unquoting: a quoted revision is one segment although it holds slashes.
            self.route([unquote(segment) for segment in path.strip("/").split("/")])
        except _Refusal as refusal:
            self.say(refusal.status, refusal.headers, {"error": str(refusal)})

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, segments: list[str]) -> None:
        match self.command, segments:
            case "GET" | "HEAD", ["api", "datasets", owner, name]:
                self.describe(f"{owner}/{name}", "main")
            case "GET" | "HEAD", ["api", "datasets", owner, name, "revision", revision]:
                self.describe(f"{owner}/{name}", revision)
            case "GET" | "HEAD", ["api", "datasets", owner, name, "tree", revision, *parts]:
                self.list_folder(f"{owner}/{name}", revision, "/".join(parts))
            case "POST", ["api", "datasets", owner, name, "paths-info", revision]:
                self.paths_info(f"{owner}/{name}", revision)
            case "GET" | "HEAD", ["datasets", owner, name, "resolve", revision, *parts]:
                self.resolve(f"{owner}/{name}", revision, "/".join(parts))
            case "GET" | "HEAD", ["cdn", "models", owner, name, sha, *parts]:
                self.cdn(f"models/{owner}/{name}", sha, "/".join(parts))
            case "GET" | "HEAD", ["cdn", owner, name, sha, *parts]:
                self.cdn(f"{owner}/{name}", sha, "/".join(parts))
            case "GET" | "HEAD", ["api", "models", owner, name]:
                self.describe(f"models/{owner}/{name}", "main")
            case "GET" | "HEAD", ["api", "models", owner, name, "revision", revision]:
                self.describe(f"models/{owner}/{name}", revision)
            case "GET" | "HEAD", [owner, name, "resolve", revision, *parts]:
                self.resolve(f"models/{owner}/{name}", revision, "/".join(parts))
            case "POST" | "PUT", _:
                self.hub.bodies.append((self.plain, self.body))
                self.write(segments)
            case _:
                self.say(404, {}, {"error": "Sorry, we can't find the page you are looking for."})

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, _Blob]]:
        return self.hub.files(repository, revision, self.headers.get("Authorization"))

    def describe(self, repository: str, revision: str) -> None:
        sha, files = self.files(repository, revision)
        siblings: list[dict[str, Any]] = []
        for path, blob in files.items():
            sibling: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"size": blob.size, "blobId": blob.oid}
                if blob.lfs:
                    pointer = len(_pointer(blob.sha256, blob.size))
                    sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": pointer}
            siblings.append(sibling)
        answer = {
            "id": repository.removeprefix("models/"),
            "author": repository.removeprefix("models/").partition("/")[0],
            "sha": sha,
            "lastModified": LONG_AGO,
            "createdAt": LONG_AGO,
            "private": repository in self.hub.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
        self.say(200, {}, answer)

    def items(self, sha: str, files: dict[str, _Blob], expand: bool) -> dict[str, dict[str, Any]]:
        """All files and folders of a commit, as the listings describe them."""
        found: dict[str, dict[str, Any]] = {}
        for path, blob in files.items():
            for end in (match.start() for match in re.finditer("/", path)):
                oid = hashlib.sha1(f"{sha} {path[:end]}".encode(), usedforsecurity=False).hexdigest()
                found[path[:end]] = {"type": "directory", "path": path[:end], "size": 0, "oid": oid}
            found[path] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
            if blob.lfs:
                pointer = len(_pointer(blob.sha256, blob.size))
                found[path]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": pointer}
        if expand:
            for item in found.values():
                item["lastCommit"] = {"id": sha, "title": "Upload", "date": LONG_AGO}
        return found

    def list_folder(self, repository: str, revision: str, folder: str) -> None:
        sha, files = self.files(repository, revision)
        found = self.items(sha, files, self.query.get("expand", ["false"])[0].lower() == "true")
        if folder and found.get(folder, {}).get("type") != "directory":
            raise _Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        inside = f"{folder}/" if folder else ""
        listed = [
            item
            for path, item in sorted(found.items())
            if path.startswith(inside) and (recursive or "/" not in path[len(inside) :])
        ]
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.hub.page < len(listed):
            query = urlencode({**self.query, "cursor": [start + self.hub.page]}, doseq=True)
            headers["Link"] = f'<{self.hub.url}{self.path.partition("?")[0]}?{query}>; rel="next"'
        self.say(200, headers, listed[start : start + self.hub.page])

    def paths_info(self, repository: str, revision: str) -> None:
        sha, files = self.files(repository, revision)
        found = self.items(sha, files, self.form.get("expand", ["false"])[0].lower() == "true")
        self.say(200, {}, [found[path] for path in self.form.get("paths", []) if path in found])

    def resolve(self, repository: str, revision: str, path: str) -> None:
        sha, files = self.files(repository, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        blob = files[path]
        if not blob.lfs:
            self.send_file(blob, blob.oid, {"X-Repo-Commit": sha})
            return
        # Another host name, so that the clients see a foreign host: they must not send their token there.
        place = self.hub.url.replace("127.0.0.1", "localhost")
        headers = {
            "Location": f"{place}/cdn/{repository}/{sha}/{quote(path)}?signature={SIGNATURE}",
            "X-Repo-Commit": sha,
            "X-Linked-Etag": f'"{blob.sha256}"',
            "X-Linked-Size": str(blob.size),
        }
        self.say(302, headers, "Found. Redirecting")

    def cdn(self, repository: str, sha: str, path: str) -> None:
        # The signature is the permission here, even to a private repository.
        if self.query.get("signature") != [SIGNATURE]:
            self.say(403, {}, "The signature is missing or wrong.")
            return
        _, files = self.hub.files(repository, sha, f"Bearer {self.hub.token}")
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        self.send_file(files[path], files[path].sha256, {})

    def write(self, segments: list[str]) -> None:
        """Requests that change something. Small files come with the commit, large ones before it."""
        match segments:
            case ["lfs", sha256]:  # a signed address: its signature is the permission
                assert hashlib.sha256(self.body).hexdigest() == sha256
                self.hub.uploads[sha256] = self.body
                self.say(200, {}, {})
            case ["api", "validate-yaml"]:
                self.validate(json.loads(self.body)["content"])
            case ["api", "repos", "create"]:
                asked = json.loads(self.body)
                owner, name = asked["organization"], asked["name"]
                self.permit(owner)
                new = self.hub.create(f"models/{owner}/{name}", asked.get("visibility") == "private")
                answer = {"url": f"{self.hub.url}/{owner}/{name}"}
                self.say(200 if new else 409, {}, answer | ({} if new else {"error": "You already created this repo"}))
            case ["api", "models", owner, name, "preupload", _]:
                self.permit(owner)
                _, there = self.files(f"models/{owner}/{name}", "main")
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                        "shouldIgnore": False,
                        **({"oid": there[file["path"]].oid} if file["path"] in there else {}),
                    }
                    for file in json.loads(self.body)["files"]
                ]
                self.say(200, {}, {"files": files})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self.permit(owner)
                objects = [
                    one | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}?signature={SIGNATURE}"}}}
                    for one in json.loads(self.body)["objects"]
                ]
                self.say(200, {}, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", revision]:
                self.permit(owner)
                self.take_commit(f"models/{owner}/{name}", revision)
            case _:
                self.say(404, {}, {"error": "Sorry, we can't find the page you are looking for."})

    def permit(self, owner: str) -> None:
        authorization = self.headers.get("Authorization")
        if authorization != f"Bearer {self.hub.token}":
            raise _Refusal(401, "", "Invalid username or password.")
        if owner != self.hub.owner:
            raise _Refusal(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")

    def validate(self, card: str) -> None:
        match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        try:
            errors = [] if match and isinstance(yaml.safe_load(match[1]), dict) else [{"message": "no front matter"}]
        except yaml.YAMLError as error:
            errors = [{"message": f"invalid YAML: {error}"}]
        self.say(400 if errors else 200, {}, {"errors": errors, "warnings": []})

    def take_commit(self, repository: str, revision: str) -> None:
        self.files(repository, revision)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                self.hub.add(repository, value["path"], base64.b64decode(value["content"]), revision)
            elif item["key"] == "lfsFile":
                self.hub.add(repository, value["path"], self.hub.uploads[value["oid"]], revision)
        sha = self.hub.commit(repository, revision)
        place = f"{self.hub.url}/{repository.removeprefix('models/')}/commit/{sha}"
        self.say(200, {}, {"success": True, "commitOid": sha, "commitUrl": place})

    def send_file(self, blob: _Blob, etag: str, headers: dict[str, str]) -> None:
        fault = None
        if self.command == "GET" and blob.size:
            fault = self.hub.take_fault("GET", self.plain, {*BREAKS, "short", "long"})
        size = blob.size
        if fault and fault.kind in ("short", "long"):
            change = max(1, int(size * fault.at))
            size = max(0, min(change, size - 1)) if fault.kind == "short" else size + change
            served = hashlib.sha256()
            for chunk in blob.chunks(0, size):
                served.update(chunk)
            etag = served.hexdigest()
        headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not any(wanted.groups()):
            self.send(200, headers, blob, 0, size, fault)
            return
        first, last = wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            self.say(416, {"Content-Range": f"bytes */{size}"}, "The range is not satisfiable.")
            return
        self.send(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, blob, start, end, fault)

    def say(self, status: int, headers: dict[str, str], answer: object) -> None:
        """Answers with text, or with anything else as JSON."""
        text = isinstance(answer, str)
        blob = _blob((answer if isinstance(answer, str) else json.dumps(answer)).encode(), lfs=False)
        fault = None
        if self.command == "GET" and status == 200:
            fault = self.hub.take_fault("GET", self.plain, BREAKS)
        kind = {"Content-Type": "text/plain" if text else "application/json"}
        self.send(status, {**kind, **headers}, blob, 0, blob.size, fault)

    def send(
        self, status: int, headers: dict[str, str], blob: _Blob, start: int, end: int, fault: Fault | None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.kind not in BREAKS:
            for chunk in blob.chunks(start, end):
                self.wfile.write(chunk)
            return
        for chunk in blob.chunks(start, start + int((end - start) * fault.at)):
            self.wfile.write(chunk)
        if fault.kind == "stall":
            self.hub.closing.wait(STALL_SECONDS)
        self.close_connection = True
        if fault.kind == "reset":  # what was sent may be lost, and the client meets another error than at a cut
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            _hang_up(self.connection)


# Content -------------------------------------------------------------------------------------------------------------

DIFFUSIONDB = "poloclub/diffusiondb"
FLICKR = "nlphuji/flickr30k"
PAINTINGS = "keremberke/painting-style-classification"
SCENERY = "animelover/scenery-images"
POSTERS = "nanxstats/movie-poster-5k"
COVERS = "Alphonsce/metal_album_covers"

STYLES = ("Realism", "Impressionism", "Cubism", "Ukiyo_e")
SCRIPT = b'"""A loading script; `datasets` has not run such since 4.0."""\n\nraise RuntimeError("nobody runs this")\n'
IMAGE_FEATURES = {"info": {"features": {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}}


@dataclass(frozen=True)
class Planted:
    """The pictures that add_six() put there on purpose."""

    exact: tuple[Member, Member]  # the same pixels as PNG and as lossless WebP, in two files of one authentic source
    near: tuple[Member, Member]  # in two authentic sources; the second is the first at 80 % of its size, JPEG 75
    contradiction: tuple[Member, Member]  # the same pixels, authentic first, synthetic second; both PNG
    nsfw: tuple[Member, ...]  # blurred, image_nsfw 2.0 in metadata.parquet
    nude: Member  # tagged so
    ai_generated: Member  # tagged so, in an authentic source
    repeated: tuple[tuple[Member, Member], ...]  # members of valid.zip that valid-mini.zip has too, the same bytes


def _random(seed: int, *place: str) -> np.random.Generator:
    """A generator of its own for each place, so that no file's content depends on what was made before it."""
    return np.random.default_rng([seed, zlib.crc32("/".join(place).encode())])


def _picture(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Smooth and random, with a little noise. The grid is fine enough that no two share a perceptual hash by chance."""
    coarse = rng.integers(16, 240, (9, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (smooth + rng.integers(-3, 4, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)


def _encode(pixels: Pixels, kind: str, **options: Any) -> bytes:
    settings: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 1},
        "jpeg": {"quality": 92},
        "webp": {"lossless": True, "quality": 0, "method": 0},  # little effort; it is lossless all the same
    }
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **{**settings[kind], **options})
    return stream.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip whose bytes depend on nothing but the members, in their order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(_member(name), data, compresslevel=1)
    return stream.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _parquet(table: pa.Table, rows: int) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=rows)
    return stream.getvalue()


def _image_table(images: list[dict[str, object] | None], texts: list[str]) -> pa.Table:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("text", pa.string())], {"huggingface": json.dumps(IMAGE_FEATURES)})
    return pa.table({"image": images, "text": texts}, schema)


def add_six(hub: Hub, images: int = 12, seed: int = 0) -> Planted:
    """Fills the hub with the six data sets, `images` pictures a file, the same bytes whenever the seed is the same.

    All pictures are different but those that the answer names: see Planted.
    """
    if images < 4:
        raise ValueError("four images a file at least: each planted picture needs a place of its own")
    shared = _picture(_random(seed, "contradiction"), 256, 256)
    near = _picture(_random(seed, "near"), 240, 320)
    small = np.asarray(Image.fromarray(near).resize((192, 256), Image.Resampling.LANCZOS))
    synthetic, nsfw = _add_diffusiondb(hub, images, seed, shared)
    first = _add_flickr(hub, images, seed, near)
    repeated = _add_paintings(hub, images, seed)
    exact, nude, ai_generated = _add_scenery(hub, images, seed)
    second = _add_posters(hub, images, seed, small)
    authentic = _add_covers(hub, images, seed, shared)
    return Planted(exact, (first, second), (authentic, synthetic), nsfw, nude, ai_generated, repeated)


def _readme(hub: Hub, repository: str, licence: str | None) -> None:
    head = f"license: {licence}\n" if licence else "{}\n"
    hub.add(repository, "README.md", f"---\n{head}---\n\n# {repository}\n".encode())


def _add_diffusiondb(hub: Hub, images: int, seed: int, shared: Pixels) -> tuple[Member, tuple[Member, ...]]:
    planted: Member | None = None
    nsfw: list[Member] = []
    rows: list[dict[str, object]] = []
    common = {(1, 0): "a", (2, 0): "a", (3, 0): "b", (4, 0): "b", (1, 1): "c", (4, 1): "c"}  # by part and place
    parts = [("images", n, "png") for n in (1, 2, 3, 4)] + [("diffusiondb-large-part-1", n, "webp") for n in (1, 2)]
    for folder, number, kind in parts:
        path = f"{folder}/part-{number:06}.zip"
        rng = _random(seed, DIFFUSIONDB, path)
        members: dict[str, bytes] = {}
        records: dict[str, dict[str, object]] = {}
        for i in range(images):
            name = f"{uuid.UUID(bytes=rng.bytes(16), version=4)}.{kind}"
            width, height = (int(side) for side in rng.choice([256, 288, 328], 2))
            pixels = _picture(rng, width, height)
            blurred = folder == "images" and i == images - 1
            if blurred:
                pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(6)))
                nsfw.append((DIFFUSIONDB, path, name))
            if (folder, number, i) == ("images", 1, 2):
                pixels = shared
                height, width = shared.shape[:2]
                planted = (DIFFUSIONDB, path, name)
            members[name] = _encode(pixels, kind)
            prompt = f"{folder} {number} number {i}, highly detailed, trending on artstation"
            if folder == "images" and (number, i) in common:
                prompt = f"a prompt that two used, {common[number, i]}, oil on canvas"
            image_seed = int(rng.integers(1 << 32))
            records[name] = {"p": prompt, "se": image_seed, "c": 7.0, "st": 50, "sa": "k_lms"}
            row = {
                "image_name": name,
                "prompt": prompt,
                "part_id": number,
                "seed": image_seed,
                "step": 50,
                "cfg": 7.0,
                "sampler": 8,
                "width": width,
                "height": height,
                "user_name": hashlib.sha256(f"user {i % 5}".encode()).hexdigest(),
                "timestamp": 1_660_000_000_000_000 + int(rng.integers(10**12)),
                "image_nsfw": 2.0 if blurred else float(rng.uniform(0, 0.3)),
                "prompt_nsfw": float(rng.uniform(0, 0.3)),
            }
            if folder == "images":
                rows.append(row)
        members[f"part-{number:06}.json"] = json.dumps(records).encode()
        hub.add(DIFFUSIONDB, path, zip_of(members))
    schema = pa.schema(
        [
            ("image_name", pa.string()),
            ("prompt", pa.string()),
            ("part_id", pa.uint16()),
            ("seed", pa.uint32()),
            ("step", pa.uint16()),
            ("cfg", pa.float32()),
            ("sampler", pa.uint8()),
            ("width", pa.uint16()),
            ("height", pa.uint16()),
            ("user_name", pa.string()),
            ("timestamp", pa.timestamp("us", tz="UTC")),
            ("image_nsfw", pa.float32()),
            ("prompt_nsfw", pa.float32()),
        ]
    )
    hub.add(DIFFUSIONDB, "metadata.parquet", _parquet(pa.Table.from_pylist(rows, schema), max(1, images)))
    hub.add(DIFFUSIONDB, "diffusiondb.py", SCRIPT)
    _readme(hub, DIFFUSIONDB, "cc0-1.0")
    assert planted is not None
    return planted, tuple(nsfw)


def _add_flickr(hub: Hub, images: int, seed: int, near: Pixels) -> Member:
    path = "flickr30k-images.zip"
    rng = _random(seed, FLICKR)
    members = {"flickr30k-images/": b"", "flickr30k-images/.DS_Store": b"\0\0\0\1Bud1" + bytes(100)}
    table = io.StringIO()
    sheet = csv.writer(table)
    sheet.writerow(["raw", "sentids", "split", "filename", "img_id"])
    planted = ""
    for i in range(images):
        name = f"{1_000_000_000 + i * 7919}.jpg"
        pixels = near if i == 2 else _picture(rng, *((330, 220) if i % 3 else (220, 330)))
        planted = f"flickr30k-images/{name}" if i == 2 else planted
        members[f"flickr30k-images/{name}"] = _encode(pixels, "jpeg")
        # What macOS packs beside each file: an image by its name only.
        members[f"__MACOSX/flickr30k-images/._{name}"] = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(64)
        captions = json.dumps([f"Picture {i}, told the {k + 1}. time." for k in range(5)])
        sheet.writerow([captions, json.dumps(list(range(5 * i, 5 * i + 5))), "test", name, i])
    hub.add(FLICKR, path, zip_of(members))
    hub.add(FLICKR, "flickr_annotations_30k.csv", table.getvalue().encode())
    hub.add(FLICKR, "flickr30k.py", SCRIPT)
    _readme(hub, FLICKR, None)
    return FLICKR, path, planted


def _add_paintings(hub: Hub, images: int, seed: int) -> tuple[tuple[Member, Member], ...]:
    valid: dict[str, bytes] = {}
    for split in ("train", "valid", "test"):
        rng = _random(seed, PAINTINGS, split)
        members = {
            f"{STYLES[i % len(STYLES)]}/{i // len(STYLES) + 1}.jpg": _encode(_picture(rng, 104, 104), "jpeg")
            for i in range(images)
        }
        valid = members if split == "valid" else valid
        hub.add(PAINTINGS, f"data/{split}.zip", zip_of(members))
    mini = dict(list(valid.items())[: images // 2])
    hub.add(PAINTINGS, "data/valid-mini.zip", zip_of(mini))
    hub.add(PAINTINGS, "painting-style-classification.py", SCRIPT)
    _readme(hub, PAINTINGS, "cc-by-4.0")
    return tuple(((PAINTINGS, "data/valid.zip", name), (PAINTINGS, "data/valid-mini.zip", name)) for name in mini)


def _add_scenery(hub: Hub, images: int, seed: int) -> tuple[tuple[Member, Member], Member, Member]:
    twice = _picture(_random(seed, "exact"), 250, 190)
    exact: list[Member] = []
    tagged: dict[str, Member] = {}
    for number in (0, 1):
        path = f"data/data-{number:04}.zip"
        rng = _random(seed, SCENERY, path)
        members: dict[str, bytes] = {}
        for i in range(images):
            width, height = (int(side) for side in rng.integers(150, 331, 2))
            pixels = _picture(rng, width, height)
            kind = ("jpeg", "png", "webp")[i % 3]
            if i == 3:
                pixels = twice
                kind = ("png", "webp")[number]
            stem = f"danbooru_{number * 100_000 + i * 37 + 5}"
            name = f"{stem}.{'jpg' if kind == 'jpeg' else kind}"
            if i == 3:
                exact.append((SCENERY, path, name))
            lossy = {"lossless": False, "quality": 90} if kind == "webp" and i != 3 else {}
            members[name] = _encode(pixels, kind, **lossy)
            tags = ["scenery", "outdoors", "sky"]
            if special := {(0, 0): "nude", (0, 1): "ai-generated"}.get((number, i)):
                tags.append(special)
                tagged[special] = (SCENERY, path, name)
            members[f"{stem}.txt"] = ", ".join(tags).encode()
        hub.add(SCENERY, path, zip_of(members))
    _readme(hub, SCENERY, None)
    return (exact[0], exact[1]), tagged["nude"], tagged["ai-generated"]


def _add_posters(hub: Hub, images: int, seed: int, small: Pixels) -> Member:
    path = "data/movie-poster-5k.zip"
    rng = _random(seed, POSTERS)
    members = {"movie-poster-5k/": b""}
    for i in range(images):
        pixels = small if i == 2 else _picture(rng, int(rng.integers(150, 231)), int(rng.integers(260, 331)))
        members[f"movie-poster-5k/{i:05}.jpg"] = _encode(pixels, "jpeg", quality=75 if i == 2 else 90)
    hub.add(POSTERS, path, zip_of(members))
    _readme(hub, POSTERS, "openrail")
    return POSTERS, path, "movie-poster-5k/00002.jpg"


def _add_covers(hub: Hub, images: int, seed: int, shared: Pixels) -> Member:
    planted = ""
    for shard in range(3):
        path = f"data/train-{shard:05}-of-00003.parquet"
        rng = _random(seed, COVERS, path)
        covers: list[dict[str, object] | None] = []
        for i in range(images):
            data = _encode(_picture(rng, 256, 256), "jpeg")
            if (shard, i) == (1, 2):
                data = _encode(shared, "png", compress_level=6)
                planted = path
            covers.append({"bytes": data, "path": f"{shard * images + i}.jpg"})
        table = _image_table(covers, [f"Band {shard} - Album {i}" for i in range(images)])
        hub.add(COVERS, path, _parquet(table, max(1, images // 4)))
    _readme(hub, COVERS, "apache-2.0")
    return COVERS, planted, "2"


# Hostile files -------------------------------------------------------------------------------------------------------


def _good(number: int) -> bytes:
    return _encode(_picture(_random(number, "good"), 120, 100), "png")


@cache
def bomb_zip() -> bytes:
    """Under 1 MB, with a bomb.png that is 320 MiB of zeros, between two good images."""
    stream = io.BytesIO()
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(_member("0.png"), _good(0))
        with archive.open(_member("bomb.png"), "w") as member:
            for _ in range(320):
                member.write(zeros)
        archive.writestr(_member("1.png"), _good(1))
    return stream.getvalue()


def outside_zip() -> bytes:
    """Two good images, and one whose name leads out of any folder that it is unpacked to."""
    return zip_of({"0.png": _good(0), "../outside.png": _good(2), "1.png": _good(1)})


def broken_zip() -> bytes:
    """A zip that is one by its last bytes, but a piece is missing and its directory is scrambled."""
    whole = zip_of({f"{i}.png": _good(i) for i in range(4)})
    directory, end = whole.index(b"PK\1\2"), whole.rindex(b"PK\5\6")
    scrambled = bytes(byte ^ 0x5A for byte in whole[directory:end])
    return whole[: directory // 2] + scrambled + whole[end:]


def bad_parquet() -> bytes:
    """Five rows in the album covers' layout: good, random bytes, no bytes, no image, good."""
    rubbish = _random(0, "rubbish").bytes(2000)
    images: list[dict[str, object] | None] = [
        {"bytes": _good(0), "path": "0.png"},
        {"bytes": rubbish, "path": "1.png"},
        {"bytes": b"", "path": "2.png"},
        None,
        {"bytes": _good(1), "path": "4.png"},
    ]
    return _parquet(_image_table(images, [f"Row {i}" for i in range(5)]), 5)
