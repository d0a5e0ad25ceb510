"""The `mai` command as a person runs it: what it says, what it refuses, and at which place it works."""

import csv
import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mai_app
from mai_app import cli
from mai_app.config import RECIPES, PredictConfig, TrainConfig, from_recipe
from mai_app.errors import MaiError
from mai_app.images.find import walk_images
from mai_app.inference.prediction import Prediction
from tests.conftest import Run, picture, png_bytes, write_data_set

ROOT = Path(__file__).parents[1]
FIELDS = [field.name for field in dataclasses.fields(Prediction)]
CELLS = (
    "path,p_synthetic,verdict,threshold,unsure_low,unsure_high,model,version,width,height,format,notes,evidence,error"
)


@pytest.fixture(scope="module")
def images(data_set: Path) -> list[Path]:
    """Test pictures of both classes."""
    return list(walk_images(data_set / "test"))[::4]


def png(height: int = 210, width: int = 220) -> bytes:
    return png_bytes(picture(np.random.default_rng(5), 0, height, width))


def test_help_and_version_are_quick_and_complete(mai: Run) -> None:
    done = mai("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mai {mai_app.__version__}\n", "")
    done = mai("--help")
    assert done.returncode == 0
    for command in ("train", "evaluate", "predict", "demo"):
        assert command in done.stdout
    script = (
        "import sys; from mai_app.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    help_of_predict = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert help_of_predict.stdout.splitlines()[-1] == "0 False"
    for flag in ("--model", "--format", "--device", "--batch-size", "--workers", "--runs", "--on"):
        assert flag in help_of_predict.stdout


TRAINING_ONLY = ("pyarrow", "scipy", "sklearn", "datasets", "huggingface_hub", "matplotlib", "torchvision")
FOR_THE_HUB = ("huggingface_hub", "datasets", "mai_app.data.hub", "mai_app.data.archives", "matplotlib", "modal")
TRAINING_WINGS = ("mai_app.data", "mai_app.evaluation", "mai_app.training", "mai_app.serve", "mai_app.demo")


@pytest.mark.parametrize(
    ("words", "not_imported"),
    [
        (["--help"], ("torch", "numpy", "PIL", *TRAINING_ONLY, *TRAINING_WINGS)),
        (["models"], ("torch", "PIL", *TRAINING_ONLY, *TRAINING_WINGS)),
        (["predict", "one.png", "--model", "traces", "--device", "cpu"], (*TRAINING_ONLY, *TRAINING_WINGS)),
        (["train", "--data", "photos", "--epochs", "1", "--batch-size", "8", "--device", "cpu"], FOR_THE_HUB),
    ],
)
def test_commands_import_what_they_need_and_no_more(
    words: list[str], not_imported: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(png())
    if words[0] == "train":
        write_data_set(tmp_path / "photos", train=8, val=4, test=1)
    code = (
        "import sys; from mai_app.cli import main; code = main(sys.argv[2:]);"
        "found = [name for name in sys.argv[1].split() if name in sys.modules]; sys.exit(str(found) if found else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(not_imported), *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "--modle", "x", "a.jpg"], "--model"),
        (["predikt", "a.jpg"], "predict"),
        (["predict", "--batch-size", "many"], "--batch-size"),
        (["train"], "--data"),
        ([], "predict"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_a_hint(mai: Run, words: list[str], expected: str) -> None:
    done = mai(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_files_folders_patterns_and_what_is_wrong_come_as_one_table(
    mai: Run, trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in ("Größe 写真.png", "b\x1b[31m\nc.png", "[1].png"):
        (folder / name).write_bytes(png())
    (folder / "small.png").write_bytes(png(60, 80))
    (folder / "cut.png").write_bytes(png()[:5000])
    (tmp_path / "empty").mkdir()
    done = mai("predict", "--model", trained_run, "my photos", images[0], "my photos/[[]*.png", "empty", "*.gif", "-")
    lines = done.stdout.splitlines()
    assert re.fullmatch(rf"model: {trained_run.name}, version [0-9a-f]{{12}}", lines[0])
    assert lines[1] == "p_synthetic  verdict    file"
    rows = [re.fullmatch(r" *([\d.]+|–) {2}(\w+|–) +(\S.*)", line) for line in lines[2:]]
    assert [match and match[3] for match in rows] == [
        "my photos/Größe 写真.png",
        "my photos/[1].png",
        "my photos/b\\x1b[31m\\nc.png",
        "my photos/cut.png: is damaged or truncated (image file is truncated); get the original file again",
        "my photos/small.png  (80×60 pixels, smaller than 200×200: enlarged, less reliable; "
        "too small to be judged: 80×60 pixels, a side under 64)",
        str(images[0]),
        "my photos/[1].png",
        "empty: is a folder without an image file",
        "*.gif: no file matches the pattern",
    ]
    assert (done.returncode, done.stderr) == (1, "mai: 3 of 9 files have no score\n")


def test_json_takes_any_name_from_standard_input(mai: Run, trained_run: Path, tmp_path: Path) -> None:
    names = [b"two words.png", "Größe 写真.png".encode(), b"not-utf8-\xff.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(png())
    stdin = b"\n" + names[0] + b"\r\n   \n" + names[1] + b"\n\n" + names[2] + b"\nnul\0byte.png\n" + b"x" * 300
    done = mai("predict", "-", "--format", "json", "--model", "small", "--runs", trained_run.parent, stdin=stdin)
    rows = json.loads(done.stdout)
    assert [os.fsencode(prediction["path"]) for prediction in rows] == [*names, b"nul\0byte.png", b"x" * 300]
    assert [list(prediction) for prediction in rows] == [FIELDS] * 5
    assert all(0 <= prediction["p_synthetic"] <= 1 for prediction in rows[:3])
    assert all("can't be read" in prediction["error"] for prediction in rows[3:])
    assert (done.returncode, done.stderr) == (1, "mai: 2 of 5 files have no score\n")


def test_jsonl_without_a_path_judges_the_folder_test_images(
    mai: Run, trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "test_images").mkdir()
    (tmp_path / "runs").symlink_to(trained_run.parent)  # the default, too: the run trained last, below runs/
    for i, path in enumerate(images[:3]):
        (tmp_path / "test_images" / f"{i}.png").write_bytes(path.read_bytes())
    done = mai("predict", "--format=jsonl", "--batch-size", "2", "--workers", "0")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [prediction["path"] for prediction in rows] == [f"test_images/{i}.png" for i in range(3)]
    assert (done.returncode, done.stderr) == (0, "")


def test_csv_has_a_row_a_file_and_code_2_says_that_none_was_judged(mai: Run, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / 'a, "b".jpg').write_text("text")
    done = mai("predict", "--format", "csv", "--model", trained_run, 'a, "b".jpg', "missing.jpg")
    head, *rows = csv.reader(io.StringIO(done.stdout))
    assert head == CELLS.split(",")
    assert [values[0] for values in rows] == ['a, "b".jpg', "missing.jpg"]
    assert rows[1][-1] == "no such file"
    assert (done.returncode, done.stderr) == (2, "mai: 2 of 2 files have no score\n")


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, in tmp_path: for what needs no process of its own."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mai_app.models.registry.FOLDER", tmp_path / "weights")  # no model comes with MAI
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b" \n\n")))
    return run


def test_what_can_not_be_done_is_said_in_one_line_with_code_2(
    run_main: Callable[..., tuple[int, str, str]], trained_run: Path, images: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((trained_run / "best.safetensors").read_bytes()[:1_000_000])
    for words, expected in (
        (["--model", trained_run], "nothing to predict: name files or folders, or put images into test_images/"),
        (
            ["--model", trained_run, "--format", "json"],
            "nothing to predict: name files or folders, or put images into test_images/",
        ),
        (["--model", trained_run, images[0], "--json", "--csv"], "--json and --csv exclude each other"),
        (
            ["--model", trained_run, images[0], "--json", "--jsonl", "--csv"],
            "--json and --jsonl and --csv exclude each",
        ),
        (["--model", cut, images[0]], f"{cut}: truncated, or no safetensors file"),
        (["--model", "lion", images[0]], "model 'lion' not found; available runs in runs/ = []"),
        ([images[0]], "no trained model in runs/; train one with `mai train`"),
        (["--model", trained_run, "--device", "abacus", images[0]], "--device abacus: unavailable"),
    ):
        code, out, err = run_main("predict", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"mai: {expected}")
        assert err.count("\n") == 1


def test_an_empty_list_on_standard_input_is_said(
    run_main: Callable[..., tuple[int, str, str]], trained_run: Path
) -> None:
    code, out, err = run_main("predict", "--format", "json", "--model", trained_run, "-")
    assert (code, json.loads(out)) == (2, [])
    assert err == "mai: no file was named\n"


def test_an_interrupt_and_a_refusal_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def refused() -> int:
        raise MaiError("the reason")

    assert cli.run(interrupted) == 130
    assert capsys.readouterr().err.splitlines() == ["mai: interrupted"]
    assert cli.run(refused) == 2
    assert capsys.readouterr().err.splitlines() == ["mai: the reason"]


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    trained_run: Path, data_set: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "mai_app",
        "predict",
        "--batch-size",
        "1",
        "--model",
        str(trained_run),
        str(data_set),
    ]
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.join(command)} | head -1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"model: .+, version [0-9a-f]{12}\n", done.stdout)


def test_local_entry_does_what_mai_does(mai: Run, trained_run: Path, images: list[Path], tmp_path: Path) -> None:
    words = ["predict", "--model", str(trained_run), "--device", "cpu", str(images[0]), "missing.jpg"]

    def local_entry(*arguments: str) -> subprocess.CompletedProcess[str]:
        # From another folder, as a script: it has to find the package beside itself.
        return subprocess.run(
            [sys.executable, str(ROOT / "local_entry.py"), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    by_mai, by_script = mai(*words), local_entry(*words, "--on", "local")
    assert (by_script.returncode, by_script.stdout, by_script.stderr) == (
        by_mai.returncode,
        by_mai.stdout,
        by_mai.stderr,
    )
    assert by_mai.returncode == 1
    assert len(by_mai.stdout.splitlines()) == 4
    nowhere = local_entry(*words, "--on", "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "invalid choice 'nowhere' for argument '--on'" in nowhere.stderr


# Where a command runs


def test_commands_say_where_they_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in cli.COMMANDS.items():
        with pytest.raises(SystemExit) as end:
            cli.parse([name, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert ("--on {local,modal" in shown) == bool(command.on_modal), name
        assert ("--on {local,modal,hosted}" in shown) == (name == "predict")
        if not command.on_modal:
            with pytest.raises(MaiError, match=f"mai {name} runs on this machine only"):
                cli.parse([name, "--on=modal"])


def test_work_elsewhere_is_handed_to_modal_client(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[cli.Config] = []

    def run_command(config: cli.Config) -> int:
        handed.append(config)
        return 7

    monkeypatch.setitem(sys.modules, "modal_client", SimpleNamespace(run_command=run_command))
    assert cli.main(["train", "--data", "photos", "--on", "modal", "--detach"]) == 7
    assert handed == [TrainConfig(data=Path("photos"), on="modal", detach=True)]
    assert cli.main(["predict", "a.jpg", "--on=hosted"]) == 7
    assert handed[1:] == [PredictConfig(paths=("a.jpg",), on="hosted")]


def test_without_modal_the_error_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "modal_client", None)
    assert cli.main(["scan", "photos", "--on", "modal"]) == 2
    assert capsys.readouterr().err.startswith("mai: --on modal needs modal_client; install MAI with")


def test_detach_without_modal_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data", "photos", "--detach"]) == 2
    assert capsys.readouterr().err == "mai: --detach is for --on modal: work on this machine ends with its command\n"


# Options


def test_flags_of_version_0_1_still_work_and_say_so(
    run_main: Callable[..., tuple[int, str, str]], trained_run: Path, images: list[Path]
) -> None:
    words = ["predict", "--model", trained_run, "--device", "cpu", images[0]]
    for flag, form in cli.OLD_FLAGS.items():
        old, new = run_main(*words, flag), run_main(*words, "--format", form)
        assert old == (0, new[1], f"mai: {flag} is now --format {form}\n")
        assert new[2] == ""
    code, out, err = run_main("models", "--json", "--runs", trained_run.parent)
    assert (code, err) == (0, "mai: --json is now --format json\n")
    assert json.loads(out)[0]["name"] == "small"


def test_a_recipe_is_a_set_of_defaults_that_every_option_overrides() -> None:
    def parsed(*words: str) -> cli.Config:
        return cli.parse(["train", "--data", "photos", *words])

    assert parsed() == TrainConfig(data=Path("photos")) == from_recipe("traces", Path("photos"))
    baseline = from_recipe("baseline", Path("photos"))
    assert parsed("--recipe", "baseline") == parsed("--recipe=baseline") == baseline
    # The first MAI: its own network on the whole image, RMSprop at 0.001, images as they are.
    assert (baseline.model, baseline.input, baseline.optimizer) == ("baseline", "resize", "rmsprop")
    assert (baseline.learning_rate, baseline.degrade, baseline.ema, baseline.longest) == (1e-3, False, 0, 0)
    strong = parsed("--recipe", "strong", "--model", "test_vit", "--on", "modal", "--detach", "--budget", "20")
    assert isinstance(strong, TrainConfig)
    assert (strong.model, strong.input, strong.view_size, strong.budget) == ("test_vit", "views", 336, 20.0)
    changed = parsed("--epochs", "3", "--recipe", "baseline", "--degrade")
    assert changed == from_recipe("baseline", Path("photos"), epochs=3, degrade=True)
    assert all(parsed("--recipe", name) == from_recipe(name, Path("photos")) for name in RECIPES)
    with pytest.raises(SystemExit):
        parsed("--recipe", "cake")


def test_options_that_commands_share_are_described_alike(capsys: pytest.CaptureFixture[str]) -> None:
    shown: dict[str, set[str]] = {}
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.parse([name, "--help"])
        text = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
        for flag, words in re.findall(r" (--(?:model|runs|device|prepared)) (?:STR|PATH) (.*?) \(default:", text):
            if "Network" not in words:  # --model of `mai train` names a network
                shown.setdefault(flag, set()).add(words)
    assert set(shown) == {"--model", "--runs", "--device", "--prepared"}
    assert {flag: len(words) for flag, words in shown.items() if flag != "--model"} == {
        "--runs": 1,
        "--device": 1,
        "--prepared": 1,
    }
    assert len(shown["--model"]) <= 2  # `mai card` takes the file that its report names


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evalate"]) == 2
    assert capsys.readouterr().err.startswith("mai: 'evalate' is no command; did you mean evaluate?")
