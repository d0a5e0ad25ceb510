"""All benchmarks: a table of ratios with their limits and spreads, JSON beside it, and a page.

python -m benchmarks [NAME ...] [--quick] [--data DIR] [--out benchmarks-results]

Each is a process of its own, and they run one after the other. What an earlier call has measured into the folder is
shown again without being measured; --again measures it anew. Exit code 1 if a ratio is beyond its limit.
"""

import argparse
import datetime
import html
import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.results import Result, line

NAMES: Final = (
    "startup",
    "prediction",
    "runtimes",
    "training_feed",
    "evaluation_tiers",
    "growth",
    "readers",
    "image_sizes",
    "peers",
)
"""In the order in which they run and are shown."""
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25rem .6rem; text-align: left; }
td { vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr { border-bottom: 1px solid #ddd; } .MISSED { font-weight: bold; } small { color: #555; } img { max-width: 100%; }
"""


def main() -> int:
    """Run what is named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="smaller runs; their ratios say little")
    parser.add_argument("--data", type=Path, help="folder of images to measure with; default: made pictures")
    parser.add_argument("--out", type=Path, default=Path("benchmarks-results"))
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Result]] = {}
    failed = []
    for name in given.names or NAMES:
        kept = given.out / f"{name}.json"
        if given.again or not kept.is_file():
            kept.unlink(missing_ok=True)
            print(f"{name}:", file=sys.stderr, flush=True)
            words = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(kept)]
            words += ["--quick"] * given.quick + (["--data", str(given.data)] if given.data else [])
            if subprocess.run(words, stdout=sys.stderr, check=False).returncode > 1 or not kept.is_file():
                failed.append(name)
                continue
        found[name] = [
            Result(**{**row, "ratios": tuple(row["ratios"])}) for row in json.loads(kept.read_text(encoding="utf-8"))
        ]
    rows = [result for results in found.values() for result in results]
    print("\n".join(line(row) for row in rows))
    (given.out / "benchmarks.html").write_text(page(found, failed), encoding="utf-8")
    print(f"page: {given.out / 'benchmarks.html'}")
    for name in failed:
        print(f"{name}: failed, see above", file=sys.stderr)
    return int(bool(failed) or any(row.kept is False for row in rows))


def page(found: dict[str, list[Result]], failed: list[str]) -> str:
    """The results as a page of HTML."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>MAI's benchmarks</title><style>{STYLE}</style>",
        f"<h1>MAI's benchmarks</h1><p>{datetime.date.today().isoformat()}, {html.escape(_machine())}. A ratio is the "
        "median over pairs of measurements taken by turns; its spread, the least and the greatest.</p>",
    ]
    for name, results in found.items():
        about = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]
        parts.append(f"<h2>{name}</h2><p>{html.escape(about)}</p><table>")
        parts.append("<tr><th>what<th>ratio<th>limit<th>spread<th>pairs<th></tr>")
        for result in results:
            limit = "" if result.limit is None else f"{'≥' if result.least else '≤'} {result.limit:g}"
            mark = {None: "", True: "kept", False: "MISSED"}[result.kept]
            facts = "; ".join(f"{key} {value}" for key, value in result.facts.items())
            parts.append(
                f"<tr class={mark or 'shown'}><td>{html.escape(result.name)}<br><small>{html.escape(facts)}</small>"
                f"<td class=number>{result.ratio:.3f}<td class=number>{limit}"
                f"<td class=number>{min(result.ratios):.3g} – {max(result.ratios):.3g}"
                f"<td class=number>{len(result.ratios)}<td>{mark}</tr>"
            )
        parts.append("</table>")
    parts += [f"<p><b>{html.escape(name)}</b> failed.</p>" for name in failed]
    return "\n".join(parts) + "\n</html>\n"


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        cores = sum(line.startswith("processor") for line in lines)
    except (OSError, StopIteration):
        return f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    return f"{model}, {cores} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
