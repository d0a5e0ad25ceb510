"""The documentation is true: its commands parse, README's run and print what it shows, and its links lead somewhere."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mai_app.cli import parse
from mai_app.demo.images import make_demo
from mai_app.demo.pictures import sample_image
from mai_app.images.decode import decode, encode_jpeg
from tests.conftest import Run, write_data_set

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MAI = re.compile(r"(?:^|\| |\$\()(?:mai|python local_entry\.py) ([^>|)]+)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Command lines in a page's `sh` blocks: comments cut off, continued lines joined."""
    lines = [line for kind, text in blocks(page) if kind == "sh" for line in text.replace("\\\n", " ").splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def all_commands() -> list[str]:
    return [command for page in PAGES for command in commands(page)]


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 900


def test_every_mai_command_parses() -> None:
    parsed = 0
    for command in all_commands():
        for words in MAI.findall(command):
            parse(shlex.split(words))
            parsed += 1
    assert parsed >= 40


def test_a_wrong_command_would_not_parse() -> None:
    with pytest.raises(SystemExit):
        parse(["train", "--dta", "photos"])


def test_every_make_target_and_script_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    used = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "lint"} <= {one or other for one, other in used} <= targets
    scripts = set(re.findall(r"python ([a-z_/]+\.py)", text))
    assert len(scripts) >= 8
    assert not [script for script in scripts if not (ROOT / script).is_file()]
    modules = set(re.findall(r"python -m (mai_app[\w.]*\w)", text))
    assert len(modules) >= 2
    assert not [module for module in modules if importlib.util.find_spec(module) is None]


def test_every_modal_command_names_what_is_there() -> None:
    functions = [
        node for node in ast.parse((ROOT / "modal_app.py").read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    options = {argument.arg for function in functions for argument in function.args.args}
    seen = 0
    for command in all_commands():
        if found := re.search(r"\bmodal (?:run|deploy) (?:--detach )?(\S+)(.*)", command):
            file, _, name = found[1].partition("::")
            entrypoint = f'@app.local_entrypoint(name="{name.removeprefix("app.")}")'
            assert not name or (name.startswith("app.") and entrypoint in (ROOT / file).read_text()), command
            assert {word.replace("-", "_") for word in re.findall(r" --([a-z-]+)", found[2])} <= options, command
            seen += 1
    assert seen >= 5


def test_commands_stand_in_fenced_blocks() -> None:
    for page in PAGES:
        plain = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^    (?:mai|make|modal|pip|python|curl) .*", plain, re.MULTILINE), page
        assert not [kind for kind, _ in blocks(page) if kind not in ("sh", "text", "python")], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith("http"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            titles = re.findall(r"^#+ (.+)", target.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "hills.png").write_bytes(sample_image())
    pixels = decode(sample_image(), "hills.png").pixels
    (folder / "photo.jpg").write_bytes(encode_jpeg(pixels, 92))
    (folder / "downloads").mkdir()
    make_demo(folder / "simulated", 3, 0)
    shutil.copy(folder / "simulated" / "apart" / "camera-1.webp", folder / "downloads")
    write_data_set(folder / "photos", train=24, val=20, test=8)
    return folder


def assert_as_shown(printed: str, shown: str) -> None:
    """That two outputs are the same but for the last digits of scores, which depend on the CPU."""
    number = re.compile(r"\d\.\d{3,}")
    assert number.sub("#", printed).rstrip() == number.sub("#", shown).rstrip()
    assert [float(one) for one in number.findall(printed)] == pytest.approx(
        [float(one) for one in number.findall(shown)], abs=0.02
    )


def test_readme_runs_and_prints_what_it_shows(workspace: Path, mai: Run) -> None:
    ran, compared = [], 0
    for (kind, text), (next_kind, shown) in zip(blocks(README), [*blocks(README)[1:], ("", "")], strict=True):
        printed = ""
        if kind == "python":
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, "-c", text],
                cwd=workspace,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        for line in text.splitlines() if kind == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[0] != "mai" or words[1] == "serve" or "--on" in words:
                continue  # a server, which tests/serve starts, and Modal
            done = mai(*words[1:], *(("--epochs", 1) if words[1] == "train" else ()), cwd=workspace)
            assert done.returncode == 0, (line, done.stderr)
            printed = done.stdout
            ran.append(words[1])
        if next_kind == "text":
            assert_as_shown(printed, shown)
            compared += 1
    assert ran == ["predict", "predict", "audit", "train", "calibrate", "evaluate"]
    assert compared == 3
    assert len(list((workspace / "maps").iterdir())) == 2
    assert (workspace / "runs" / "photos-traces-crop" / "report-test" / "report.html").is_file()


def test_another_output_would_be_seen() -> None:
    for other in ("0.362 unsure x.jpg", "0.262 authentic x.jpg"):
        with pytest.raises(AssertionError):
            assert_as_shown(other, "0.262 unsure x.jpg")


def test_every_file_that_the_pages_name_exists() -> None:
    seen = 0
    for page in PAGES:
        for name in re.findall(r"(?<![\w/.-])((?:mai_app|tests|benchmarks|docs)/[\w/]+\.(?:py|md))", page.read_text()):
            assert (ROOT / name).is_file(), (page, name)
            seen += 1
        # Of decisions: paths below mai_app.
        wings = [path.parent.name for path in (ROOT / "mai_app").glob("*/__init__.py")]
        for name in re.findall(rf"(?<![\w/])((?:{'|'.join(wings)})/\w+\.py)", page.read_text()):
            assert (ROOT / "mai_app" / name).is_file(), (page, name)
            seen += 1
    assert seen >= 40
