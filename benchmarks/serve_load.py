"""`mai serve` under load: every request answered once with what is its own, and the server's memory at the end.

python benchmarks/serve_load.py [--requests 300]    exit code 1 if an answer is wrong or the memory's ratio over LIMIT

A server in a process of its own, on the loopback address, with the model that comes with MAI; half of the requests
come from as many connections as it has room for, half from three times as many. Needs Linux (/proc).
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

LIMIT = 1.2
ROOM = 8  # images that the server lets wait
WARM_UP = 48
SERVER = f"""
from pathlib import Path
from mai_app.config import SHIPPED, ServeConfig, ServeLimits
from mai_app.serve.server import serve
config = ServeConfig(model=SHIPPED, port=0, device="cpu", runs=Path("none"))
serve(config, ServeLimits(max_queued_files={ROOM}, requests_per_minute=10**9))
"""


def main() -> int:
    """Start the server, ask it, and compare what came back with what was sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    half = max(1, parser.parse_args().requests // 2)
    server = subprocess.Popen([sys.executable, "-c", SERVER], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        place = next((line for line in server.stderr if line.startswith("http://")), "")
        if not place:
            raise SystemExit("the server did not start")
        port = int(place.removeprefix("http://").partition("/")[0].rpartition(":")[2])
        _ask_many(port, range(WARM_UP), 3 * ROOM)
        before = _memory(server.pid)
        below = _ask_many(port, range(half), ROOM // 2)
        above = _ask_many(port, range(half, 2 * half), 3 * ROOM)
        after = _memory(server.pid)
    finally:
        server.terminate()
        code = server.wait(60)
    good = set(below) == {"200"} and set(above) <= {"200", "503"} and above["200"] > 0 and code == 0
    print(f"{half} requests below capacity: {_words(below)}\n{half} above: {_words(above)}\nexit code {code}")
    print(
        f"memory: {before / 1024:.0f} MiB after {WARM_UP} requests, {after / 1024:.0f} MiB at the end: "
        f"ratio {after / before:.3f} (limit {LIMIT})"
    )
    return 0 if good and after / before <= LIMIT else 1


def _ask_many(port: int, numbers: range, connections: int) -> Counter[str]:
    """What became of each request: its status, or what was wrong with the answer."""
    begun = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        fates = list(pool.map(_ask, repeat(port), numbers))
    print(f"{len(fates)} requests, {connections} at a time: {len(fates) / (time.monotonic() - begun):.1f} a second")
    return Counter(fates)


def _ask(port: int, number: int) -> str:
    """One image, of a size and name that no other has; the answer's status, if it is this image's own answer."""
    width, height = 64 + number % 100, 64 + number // 100
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", f"/v1/predict?name={number}", buffer.getvalue(), {"Content-Type": "image/png"})
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"
    finally:
        connection.close()
    if answer.status == 503:
        time.sleep(0.2)  # less than it asks for, so that there is always too much to do
        return "503" if answer.headers["Retry-After"] else "503 without Retry-After"
    if answer.status == 200:
        ((path, image),) = [(row["path"], row["image"]) for row in said["predictions"]]
        own = (path, image["width"], image["height"]) == (str(number), width, height)
        return "200" if own else "200 with another's answer"
    return str(answer.status)


def _memory(process: int) -> int:
    """Resident memory of the process in KiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _words(fates: Counter[str]) -> str:
    return ", ".join(f"{count} × {fate}" for fate, count in sorted(fates.items()))


if __name__ == "__main__":
    sys.exit(main())
