"""Python packages of the images on Modal: those of requirements.lock that a kind of function needs."""

from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Needs = Literal["web", "data", "torch"]
"""What a function does: answer requests; read and decode images; compute."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TESTS: Final = _names(
    "ast-serialize execnet graphql-core greenlet harfile hypothesis hypothesis-graphql iniconfig "
    "jsonschema-rs librt mypy mypy-extensions pathspec playwright pluggy pyrate-limiter pytest pytest-xdist ruff "
    "schemathesis sortedcontainers types-tqdm werkzeug"
)
"""For developers alone: no image has them."""
EXPORT: Final = _names("flatbuffers ml-dtypes onnx onnx-ir onnxruntime onnxscript")
"""For `mai export`, which runs on the caller's machine: no image has them."""
TORCH: Final = _names(
    "cuda-bindings cuda-pathfinder cuda-toolkit diffusers importlib-metadata jinja2 lazy-importer markupsafe mpmath "
    "networkx regex setuptools sympy timm torch torchvision triton zipp"
)
"""For computing, with all packages named nvidia-…"""
WEB: Final = _names(
    "aiohappyeyeballs aiohttp aiosignal annotated-doc annotated-types anyio attrs cbor2 certifi click "
    "docstring-parser fastapi frozenlist grpclib h11 h2 hpack hyperframe idna markdown-it-py mdurl modal multidict "
    "numpy opentelemetry-api packaging pillow propcache protobuf pydantic pydantic-core pygments python-multipart rich "
    "safetensors starlette synchronicity toml tqdm typeguard types-certifi types-toml typing-extensions "
    "typing-inspection tyro uvicorn watchfiles yarl"
)
"""All that answering requests needs, where other containers judge the images."""


THERE: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.12",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""What a container is, in the words of environment markers (PEP 508)."""


def locked(lock: Path, needs: Needs) -> list[str]:
    """The packages that such a function needs, as name==version, in the versions of the lock for a container."""
    lines = (line.strip() for line in lock.read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in lines if line]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate(THERE)]
    return [f"{one.name}{one.specifier}" for one in here if is_needed(canonicalize_name(one.name), needs)]


def is_needed(name: str, needs: Needs) -> bool:
    """Whether such a function needs the package."""
    if needs == "web":
        return name in WEB
    heavy = name in TORCH or name.startswith("nvidia-")
    return name not in TESTS | EXPORT and (needs == "torch" or not heavy)
