"""The house's rules: the direction of imports, no Modal in mai_app, no pickle, a lock file that names no place."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mai_app

ROOT = Path(__file__).parents[1]

# The way of the data: a wing may import itself and the wings before it, and nothing after it.
WINGS = (
    "errors",
    "config",
    "core",
    "models",
    "images",
    "evidence",
    "inference",
    "data",
    "evaluation",
    "training",
    "remote",
    "serve",
    "demo",
    "cli",
    "__main__",
)
IN_THE_ROOT = {"__init__", "__main__", "cli", "config", "errors"}
# Libraries for data sets and reports: to predict, none of them is imported.
HEAVY = ("pyarrow", "scipy", "sklearn", "matplotlib", "datasets")


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


def mai_imports() -> dict[str, set[str]]:
    """The modules of mai_app that each of its modules imports, wherever in it; wings' own __init__ files count."""
    files = modules()
    edges = {}
    for name, path in files.items():
        targets = {module.removeprefix("mai_app.") for module in imported(path) if module.startswith("mai_app.")}
        edges[name] = {target for target in targets if target in files and target != name}
    return edges


def test_the_root_holds_what_is_meant_to_lie_there() -> None:
    assert {path.stem for path in (ROOT / "mai_app").glob("*.py")} == IN_THE_ROOT
    assert {path.parent.name for path in (ROOT / "mai_app").glob("*/__init__.py")} == set(WINGS) - IN_THE_ROOT
    assert sum(not name.endswith("__init__") for name in modules()) <= 102


def test_imports_go_one_way_from_wing_to_wing() -> None:
    seen = 0
    for name, targets in mai_imports().items():
        for target in targets if name != "__init__" else ():
            wing, other = (WINGS.index(module.partition(".")[0]) for module in (name, target))
            assert other <= wing, f"{name} imports {target}, which lies after it"
            seen += other < wing
    assert seen > 100


def test_no_module_imports_itself_by_a_detour() -> None:
    edges = mai_imports()
    top = {path.stem: path for path in ROOT.glob("*.py")}
    edges |= {name: {target for target in imported(path) if target in top} for name, path in top.items()}
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for target in edges[name]:
                follow(target, (*path, name))
            done.add(name)

    for name in edges:
        follow(name, ())
    assert len(done) == len(edges)


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


@pytest.mark.parametrize(("start", "absent"), [("images", (*HEAVY, "torch")), ("inference.detector", HEAVY)])
def test_predicting_imports_no_library_of_data_sets_or_reports(start: str, absent: tuple[str, ...]) -> None:
    names = [f"mai_app.{name}" for name in modules() if name.startswith(start)]
    code = "import importlib, sys; [*map(importlib.import_module, sys.argv[1:])]; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert names
    assert set(names) - {f"mai_app.{start}.__init__"} <= loaded
    assert not loaded & set(absent)


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
