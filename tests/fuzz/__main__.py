"""Coverage-guided fuzzing of the readers of hostile files: `python -m tests.fuzz TARGET --runs 100000`.

python -m tests.fuzz decode|parts|metadata|credentials|blocks|info|checkpoint|all [--runs N] [--corpus FOLDER]

Needs atheris, which is no dependency of MAI: `pip install atheris`, for CPython 3.11 to 3.13 on Linux. Inputs that
reached new code are kept in FOLDER/TARGET, where the next call carries on; what was found lies in FOLDER/found, each
with its traceback. A finding is any exception but the documented one, an execution over 10 seconds, or a process over
2 GiB. The last line counts executions and findings; exit code 1 where there are findings.
"""

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import flat, mutate_file, mutate_json, mutate_safetensors

SECONDS, MIBS = 10, 2048
_STATE = struct.Struct("<QQ")
SLICE = 100_000
"""Executions of a process; a new one then starts, so that no leak adds up."""


def main() -> int:
    """Fuzz the named target, or all of them, slice by slice, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=100_000, help="executions of each target")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="folder that lasts, outside git")
    parser.add_argument("--slice", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import atheris  # noqa: F401, PLC0415 - checked before anything is started
    except ImportError:
        print("atheris is missing: pip install atheris (Linux, CPython 3.11 to 3.13)", file=sys.stderr)
        return 2
    if options.slice is not None:
        return _fuzz_here(options.target, options.slice, options.corpus)
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - slices import it instrumented

    names = list(TARGETS) if options.target == "all" else [options.target]
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {unknown.pop()!r}; there are {', '.join(TARGETS)}")
    runs = found = 0
    for name in names:
        begun, done = time.monotonic(), 0
        for number, seed in enumerate(TARGETS[name].seeds()):
            _keep(options.corpus / name, seed, f"seed-{number}-")
        while done < options.runs:
            count = _slice(name, min(SLICE, options.runs - done), options.corpus)
            if not count:
                break
            done += count
        kept = len(list((options.corpus / "found").glob(f"{name}-*.bin")))
        seconds = time.monotonic() - begun
        print(f"{name}: {done} executions, {done / max(seconds, 1e-9):.0f} a second, {kept} findings", flush=True)
        runs, found = runs + done, found + kept
    print(f"{runs} executions, {found} findings")
    return int(found > 0)


def _slice(name: str, runs: int, corpus: Path) -> int:
    """Fuzz in a process of its own, and return how many executions there were, also where it was killed."""
    state = corpus / f"{name}.state"
    state.unlink(missing_ok=True)
    words = [sys.executable, "-m", "tests.fuzz", name, "--slice", str(runs), "--corpus", str(corpus)]
    with (corpus / f"{name}.log").open("w+b") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        before, since, hung = 0, 0.0, False
        while process.poll() is None:
            time.sleep(0.5)
            count, spent = _read_state(state)[0], _cpu_seconds(process.pid)
            if count != before:
                before, since = count, spent
            elif spent - since > (3 * SECONDS if count else 120):  # the start takes long
                process.kill()
                hung = True
    count, last = _read_state(state)
    if process.returncode:  # too long, too large, or an end without an exception
        how = f"no progress for {3 * SECONDS} s of computing" if hung else f"exit code {process.returncode}"
        _report(corpus, name, last, how + (corpus / f"{name}.log").read_text(errors="replace")[-4000:])
    with (corpus / "runs.jsonl").open("a") as stream:
        stream.write(json.dumps({"target": name, "executions": count, "exit code": process.returncode}) + "\n")
    return count


def _cpu_seconds(pid: int) -> float:
    """What a process has computed: on a busy machine its clock says little."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _read_state(path: Path) -> tuple[int, bytes]:
    """Executions begun, and the bytes of the last one."""
    data = path.read_bytes() if path.exists() else b""
    count, size = _STATE.unpack_from(data) if len(data) >= _STATE.size else (0, 0)
    return count, data[_STATE.size : _STATE.size + size]


def _fuzz_here(name: str, runs: int, corpus: Path) -> int:
    import atheris  # noqa: PLC0415

    with atheris.instrument_imports(include=["mai_app", "PIL"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415
    target = TARGETS[name]
    seeds = [seed for seed in target.seeds() if seed]
    path = corpus / f"{name}.state"
    path.write_bytes(bytes(_STATE.size + target.max_bytes))
    with path.open("r+b") as stream:
        state = mmap.mmap(stream.fileno(), 0)  # outlives whatever ends the process
    count = 0
    seen: set[str] = set()

    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        _STATE.pack_into(state, 0, count, len(data))
        state[_STATE.size : _STATE.size + len(data)] = data
        begun = time.process_time()
        try:
            target.run(data)
            assert time.process_time() - begun < SECONDS, "took too long"
        except Exception as error:  # a finding: kept, and the search goes on
            places = traceback.extract_tb(error.__traceback__)
            key = f"{type(error).__name__} {[(place.filename, place.lineno) for place in places[-2:]]}"
            if key not in seen:
                seen.add(key)
                _report(corpus, name, data, traceback.format_exc(), key)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)

        def damage(piece: bytes) -> bytes:
            if rng.random() < 0.5:
                return flat(rng, piece)
            return bytes(atheris.Mutate(piece, max(1, min(max_size, len(piece) + 64))))

        if rng.random() < 0.2 or target.form == "block":
            made = data[:1] + damage(data[1:]) if target.form == "block" and rng.random() < 0.95 else damage(data)
        elif target.form == "file":
            made = mutate_file(rng, data, seeds, damage)
        elif target.form == "json":
            made = mutate_json(rng, data)
        else:
            made = mutate_safetensors(rng, data, damage)
        return made[:max_size]

    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        sys.argv[0],
        str(folder),
        f"-runs={runs}",
        f"-max_len={target.max_bytes}",
        f"-rss_limit_mb={MIBS}",
        "-timeout=1000000",  # by the clock, which a busy machine makes a false alarm of; _slice watches instead
        f"-artifact_prefix={corpus}/{name}-artifact-",
        f"-seed={random.SystemRandom().randrange(2**31)}",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup(words, run, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _keep(folder: Path, data: bytes, prefix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{hashlib.sha256(data).hexdigest()[:16]}"
    if not path.exists():
        path.write_bytes(data)
    return path


def _report(corpus: Path, name: str, data: bytes, words: str, key: str = "") -> None:
    """Keep a finding: its bytes and what happened, once for each place."""
    folder = corpus / "found"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{hashlib.sha256((key or words[:200]).encode()).hexdigest()[:12]}"
    if not (folder / f"{stem}.bin").exists():
        (folder / f"{stem}.bin").write_bytes(data)
        (folder / f"{stem}.txt").write_text(words)


if __name__ == "__main__":
    sys.exit(main())
