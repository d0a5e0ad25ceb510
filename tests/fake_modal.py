"""An in-process fake of the parts of Modal that modal_app.py uses: remote functions run here, the Volume is a folder.

It is stricter than Modal where that finds mistakes: every keyword is checked against the real package's signatures,
only plain values may cross, what a function has written must be committed when it ends or calls another, and nothing
can be called unless the app runs or is deployed.
"""

import asyncio
import copy
import inspect
import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import modal
import modal.exception

PLAIN = (type(None), bool, int, float, str, bytes)
# A remote file of `mai prepare`, and the error that stands for a file in a list, cross as what they are.
NAMED = ("RemoteShard", "ImageError")


def check(name: str, /, *args: Any, **kwargs: Any) -> None:
    """Raise TypeError for arguments that the real modal.NAME does not take."""
    signature = inspect.signature(attrgetter(name)(modal))
    signature.bind(*((None,) if "self" in signature.parameters else ()), *args, **kwargs)


def crossing(value: Any) -> Any:
    """A copy of what a caller and a container send each other; raises TypeError for anything but plain values."""

    def look(part: Any) -> None:
        if type(part) is dict:
            look([*part.keys(), *part.values()])
        elif type(part) in (list, tuple):
            for one in part:
                look(one)
        elif type(part) not in PLAIN and type(part).__name__ not in NAMED:
            raise TypeError(f"{type(part)} crosses between the caller and a container")

    look(value)
    return copy.deepcopy(value)


class Remote:
    """A call that blocks, and with `.aio` the same for async callers."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    async def aio(self, *args: Any) -> Any:
        return await asyncio.to_thread(self._call, *args)


class Function:
    """A remote function: `raw` runs in this process as if in a container with the given settings."""

    def __init__(
        self, world: "World", name: str, raw: Callable[..., Any], settings: dict[str, Any], batch: int = 0
    ) -> None:
        self.world, self.name, self.settings, self.batch = world, name, settings, batch
        self.raw: Any = raw
        self.remote = Remote(self._one)
        self.lock = threading.Lock()  # a container works on one input, or batch, at a time

    def _one(self, *args: Any, call: str = "fc-remote") -> Any:
        return self._batch([args], call)[0]

    def _batch(self, inputs: list[tuple[Any, ...]], call: str = "fc-remote") -> list[Any]:
        """One call, or with batching one call for all inputs."""
        sent = crossing(inputs)
        with self.world.container(self, sent, call):
            if not self.batch:
                return [crossing(self.raw(*args)) for args in sent]
            results = self.raw([args[0] for args in sent])
            assert len(results) == len(sent), "a batched function returns as many results as it gets inputs"
            return list(crossing(results))

    def with_options(self, **options: Any) -> "Function":
        """The same function with other settings, as a call of it shows."""
        check("Function.with_options", **options)
        other = copy.copy(self)
        other.settings = self.settings | options
        self.world.options[self.name] = options
        return other

    def spawn(self, *args: Any) -> "FunctionCall":
        """Starts in a thread, as if elsewhere: its caller may be gone when it ends."""
        return FunctionCall(self.world, self, crossing(args))

    def remote_gen(self, *args: Any) -> Iterator[Any]:
        sent = crossing(args)
        with self.world.container(self, [sent]):
            parts = [crossing(part) for part in self.raw(*sent)]
        yield from parts

    def map(self, *inputs: Iterable[Any], **options: Any) -> Iterator[Any]:
        return self.starmap(zip(*inputs, strict=True), **options)

    def starmap(
        self, inputs: Iterable[tuple[Any, ...]], *, order_outputs: bool = True, return_exceptions: bool = False
    ) -> Iterator[Any]:
        remaining = iter(inputs)
        # Two calls at a time, whose results come in the other order where no order is asked for.
        while part := list(islice(remaining, 2 * max(1, self.batch))):
            results: list[Any] = []
            for start in range(0, len(part), max(1, self.batch)):
                try:
                    results += self._batch(part[start : start + max(1, self.batch)])
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
            yield from results if order_outputs else reversed(results)


class FunctionCall:
    """A call that was spawned: done at once, its result kept. What it raised comes from `get`."""

    def __init__(self, world: "World", function: Function, args: tuple[Any, ...]) -> None:
        self.object_id = f"fc-{len(world.spawned)}"
        world.spawned[self.object_id] = self
        self.running = True
        try:
            self.result = function._one(*args, call=self.object_id)
        except Exception as error:
            self.result = error
        self.running = False

    def get(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - it is done at once
        if self.running:
            raise TimeoutError
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Dict(dict[str, Any]):
    """A modal.Dict: what it holds is plain."""

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        if skip_if_exists and key in self:
            return False
        self[key] = crossing(value)
        return True


class Parameter:
    """What `modal.parameter` leaves in a class until it gets instances."""

    def __init__(self, default: Any) -> None:
        self.default = default


class Class:
    """A remote class: instances with the same parameters are one container."""

    def __init__(self, world: "World", raw: type, settings: dict[str, Any]) -> None:
        self.world, self.raw, self.settings = world, raw, settings
        self.marked = {name: member for name, member in vars(raw).items() if hasattr(member, "fake_mark")}
        callable_names = [name for name, member in self.marked.items() if member.fake_mark != "enter"]
        if any(member.fake_mark == "batched" for member in self.marked.values()):
            assert len(callable_names) == 1, "a class with a batched method has no other"

    def __call__(self, **parameters: Any) -> Any:
        defaults = {name: value.default for name, value in vars(self.raw).items() if isinstance(value, Parameter)}
        assert set(parameters) <= set(defaults)
        chosen = crossing({**defaults, **parameters})
        key = (self.raw.__name__, *sorted(chosen.items()))
        if key not in self.world.instances:
            self.world.instances[key] = self._instance(chosen)
        return self.world.instances[key]

    def hydrate(self) -> None:
        self.world.check_reachable()

    def _instance(self, parameters: dict[str, Any]) -> Any:
        target = self.raw()
        vars(target).update(parameters)
        entered: list[bool] = []

        def bound(method: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any) -> Any:
                if not entered:
                    entering = [one for one in self.marked.values() if one.fake_mark == "enter"]
                    for enter in sorted(entering, key=lambda one: not one.fake_options.get("snap", False)):
                        enter(target)
                    entered.append(True)
                return method(target, *args)

            return run

        surface = ModuleType(self.raw.__name__)
        for name, member in self.marked.items():
            if member.fake_mark != "enter":
                full = f"{self.raw.__name__}.{name}"
                batch = member.fake_options.get("max_batch_size", 0)
                setattr(surface, name, Function(self.world, full, bound(member), self.settings, batch))
        return surface


class Volume:
    """The Volume; `writable` is False for the view with read-only mount options."""

    def __init__(self, world: "World", writable: bool = True) -> None:
        self.world, self.writable = world, writable

    def with_mount_options(self, **options: Any) -> "Volume":
        check("Volume.with_mount_options", **options)
        return Volume(self.world, not options.get("read_only", False))

    def commit(self) -> None:
        self.world.commit()

    def reload(self) -> None:
        self.world.reload()

    @contextmanager
    def batch_upload(self, **options: Any) -> Iterator["Volume"]:
        """Files are there when the block ends; none of them if it raises."""
        check("Volume.batch_upload", **options)
        self.staged: list[tuple[bytes, str]] = []
        yield self
        for data, there in self.staged:
            self.world.path(there).parent.mkdir(parents=True, exist_ok=True)
            self.world.path(there).write_bytes(data)
            self.world.sent.append(there)
        self.world.saved = self.world.tree()

    def put_file(self, here: Path | io.BytesIO, there: str) -> None:
        self.staged.append((here.read_bytes() if isinstance(here, Path) else here.getvalue(), there))

    def read_file(self, path: str) -> Iterator[bytes]:
        data = self.world.path(path).read_bytes()
        yield from (data[:1000], data[1000:])


class Recorded:
    """An image, secret or retry policy: only its calls are kept, and checked."""

    def __init__(self, kind: str, calls: tuple[Any, ...] = ()) -> None:
        self.kind, self.calls = kind, calls

    def __getattr__(self, name: str) -> Callable[..., "Recorded"]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Recorded:
            check(f"{self.kind}.{name}", *args, **kwargs)
            return Recorded(self.kind, (*self.calls, (name, args, kwargs)))

        return call

    def imports(self) -> Any:
        check(f"{self.kind}.imports")
        return nullcontext()


class App:
    """An app: what is registered, and whether it runs."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name

    @property
    def app_id(self) -> str | None:
        return "ap-0" if self.world.running else None

    def function(self, **settings: Any) -> Callable[[Callable[..., Any]], Function]:
        check("App.function", **settings)

        def register(raw: Callable[..., Any]) -> Function:
            self.world.functions[raw.__name__] = Function(self.world, raw.__name__, raw, settings)
            return self.world.functions[raw.__name__]

        return register

    def cls(self, **settings: Any) -> Callable[[type], Class]:
        check("App.cls", **settings)

        def register(raw: type) -> Class:
            self.world.classes[raw.__name__] = Class(self.world, raw, settings)
            return self.world.classes[raw.__name__]

        return register

    def local_entrypoint(self, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        check("App.local_entrypoint", **options)

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.world.entrypoints[options.get("name", function.__name__)] = function
            return function

        return register

    @contextmanager
    def run(self, **options: Any) -> Iterator[None]:
        check("App.run", **options)
        self.world.runs.append(options)
        self.world.running += 1
        try:
            yield
        finally:
            self.world.running -= 1


class World:
    """One account: its Volume, the functions of its apps, and what has happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """The Volume, as containers see it and as it is saved."""
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        self.instances: dict[Any, Any] = {}
        self.running = 0
        self.deployed = False
        self.runs: list[dict[str, Any]] = []
        """Options of each app.run."""
        self.calls: list[tuple[str, Any]] = []
        """Name and arguments of each remote call, in order."""
        self.commits: Counter[str] = Counter()
        """Commits by the name of the function that made them."""
        self.reloads: Counter[str] = Counter()
        """Reloads likewise."""
        self._stack: list[tuple[Function, str]] = []
        self.entrypoints: dict[str, Callable[..., Any]] = {}
        """What `modal run` can run, by name."""
        self.options: dict[str, dict[str, Any]] = {}
        """By function the last settings that with_options gave it."""
        self.sent: list[str] = []
        """Files that were uploaded, in order."""
        self.spawned: dict[str, FunctionCall] = {}
        """Calls by their id."""
        self.state = Dict()
        """The one modal.Dict."""
        folder.mkdir(parents=True, exist_ok=True)
        self.saved = self.tree()

    def path(self, name: str) -> Path:
        return self.folder / name.removeprefix("/")

    def tree(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file but locks, which nobody reads."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    def check_reachable(self) -> None:
        if not (self.running or self.deployed or self._stack):
            raise modal.exception.NotFoundError("App 'mai' not found")

    @contextmanager
    def container(self, function: Function, inputs: list[Any], call: str = "fc-remote") -> Iterator[None]:
        self.check_reachable()
        with function.lock:
            assert self.tree() == self.saved, f"{function.name} does not see what its caller has not committed"
            self.calls += [(function.name, args) for args in inputs]
            self._stack.append((function, call))
            try:
                yield
            finally:
                self._stack.remove((function, call))
            changed = {name for name, _ in self.tree().items() ^ self.saved.items()}
            assert not changed, f"{function.name} has not committed {sorted(changed)}"

    def commit(self) -> None:
        function, _ = self._stack[-1]
        assert any(volume.writable for volume in function.settings["volumes"].values()), "the mount is read-only"
        self.commits[function.name] += 1
        self.saved = self.tree()
        self._check_open_files()  # as where Modal's server asks the client to reload after a commit

    def reload(self) -> None:
        function, _ = self._stack[-1]
        assert function.settings["volumes"], "the function has no Volume"
        self.reloads[function.name] += 1
        self._check_open_files()

    def _check_open_files(self) -> None:
        # As on Modal, which can't bring a Volume up to date below open files. A thread of pyarrow's may be closing one.
        for _ in range(100):
            if not (opened := self._open_files()):
                return
            time.sleep(0.05)
        raise RuntimeError(f"there are open files preventing the operation: {opened[0]}")

    def _open_files(self) -> list[str]:
        targets = []
        for descriptor in Path("/proc/self/fd").glob("*"):
            with suppress(OSError):
                targets.append(str(descriptor.readlink()))
        return [target for target in targets if target.startswith(f"{self.folder}/")]

    def module(self) -> ModuleType:
        """What stands for the package `modal`."""
        fake = ModuleType("modal")

        def named(real: str, make: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                check(real, *args, **kwargs)
                return make(*args, **kwargs)

            return call

        def marking(name: str) -> Callable[..., Any]:
            def decorator(**options: Any) -> Callable[[Any], Any]:
                check(name, **options)

                def mark(function: Any) -> Any:
                    function.fake_mark = name
                    function.fake_options = getattr(function, "fake_options", {}) | options
                    return function

                return mark

            return decorator

        def from_name(app: str, name: str) -> Class:
            check("Cls.from_name", app, name)
            self.check_deployed()
            return self.classes[name]

        @contextmanager
        def enable_output() -> Iterator[None]:
            print("progress of Modal's own")  # to where standard output then goes, which must not be the results'
            yield

        open_state = named("Dict.from_name", lambda *_, **__: self.state)
        for name in ("enter", "method", "batched", "concurrent", "asgi_app"):
            setattr(fake, name, marking(name))
        open_volume = named("Volume.from_name", lambda *_, **__: Volume(self))
        members: dict[str, Any] = {
            "App": lambda name: App(self, name),
            "Volume": type("Volume", (Volume,), {"from_name": staticmethod(open_volume)}),
            "CloudBucketMount": type("CloudBucketMount", (), {}),
            "Image": Recorded("Image"),
            "Secret": Recorded("Secret"),
            "Retries": named("Retries", lambda **options: options),
            "Dict": type("Dict", (), {"from_name": staticmethod(open_state)}),
            "FunctionCall": type("FunctionCall", (), {"from_id": staticmethod(self.spawned.__getitem__)}),
            "current_function_call_id": lambda: self._stack[-1][1],
            "parameter": named("parameter", lambda default=None: Parameter(default)),
            "enable_output": enable_output,
            "Cls": type("Cls", (), {"from_name": staticmethod(from_name)}),
            "exception": modal.exception,
        }
        vars(fake).update(members)
        return fake

    def check_deployed(self) -> None:
        if not self.deployed:
            raise modal.exception.NotFoundError("App 'mai' not found in environment 'main'")

    def serve(self, name: str) -> Any:
        """The ASGI app of a web function."""
        return self.functions[name].raw()
