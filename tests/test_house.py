"""The house's rules: the direction of imports, no Modal in mai_app, no pickle, a lock file that names no place."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mai_app

ROOT = Path(__file__).parents[1]

# Every module may import from the ranks before its own, and from its own.
RANKS = [
    {"config", "errors", "atomic", "stopping", "progress"},
    {"data", "model", "backbones"},
    {"device", "distributed", "autoencoder", "shipped", "checkpoint", "prediction", "evidence"},
    {
        "evaluation.metrics",
        "evaluation.calibrate",
        "evaluation.audit",
        "evaluation.audit_counts",
        "evaluation.audit_page",
        "evaluation.mistakes",
        "evaluation.page",
        "evaluation.report",
    },
    {"twins", "train", "run_folder", "optimization", "predict", "live", "costs"},
    {"evaluation.scores", "evaluation.bias", "evaluation.recalibrate", "evaluation.evaluate"},
    {"heatmap", "export", "showing", "demo", "scan", "sweep", "listing", "card", "card_figures", "card_words"},
    {"serve"},
    {"cli", "__main__"},
]


def rank(module: str) -> int:
    for number, modules in enumerate(RANKS):
        if any(module == name or module.startswith(f"{name}.") for name in modules):
            return number
    raise AssertionError(f"{module} has no rank: give it its place in RANKS")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "mai_app").rglob("*.py"))
    return {".".join(path.relative_to(ROOT / "mai_app").with_suffix("").parts): path for path in files}


def test_imports_point_backwards_along_the_way_of_the_data() -> None:
    files = {name: path for name, path in modules().items() if not name.endswith("__init__")}
    seen = 0
    for name, path in files.items():
        for other in imported(path):
            target = other.removeprefix("mai_app.")
            if other.startswith("mai_app.") and target in files:
                assert rank(target) <= rank(name), f"{name} imports {target}"
                seen += 1
    assert seen > 40


def test_mai_app_never_imports_modal() -> None:
    for name, path in modules().items():
        assert not {m for m in imported(path) if m.split(".")[0] == "modal"}, name


def test_the_local_entry_needs_no_modal() -> None:
    code = (
        "import sys; sys.modules['modal'] = None; import local_entry;"
        "sys.exit(local_entry.main(['predict', '--model', 'lion', '--runs', 'none', 'x.jpg']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "model 'lion' not found; available runs in none/ = []" in done.stderr


def test_no_pickle_is_loaded() -> None:
    for name, path in modules().items():
        text = path.read_text()
        assert not {m for m in imported(path) if m.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle")}, name
        loads = re.findall(r"(?<!safetensors\.)torch\.load\(|\.get_state_dict\(", text)
        assert len(loads) == text.count("weights_only=True"), name


def test_the_lock_file_is_exact_and_names_no_place() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.strip()]
    assert len(lines) > 50
    for line in lines:
        assert re.match(r"[a-z0-9_.-]+==[^ @/]+( ; .+)?$", line), line
    assert "torch==2.15.0" in lines
    assert "torchvision==0.29.2" in lines


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == mai_app.__version__


def test_every_file_says_first_what_it_is_for() -> None:
    for path in [*ROOT.glob("*.py"), *(ROOT / "mai_app").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert len(docstring.splitlines()[0]) > 15, path
