"""A sweep trains each combination by each seed, and names the best by validation."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from mai_app.cli import main
from mai_app.config import RecipeName, SweepConfig, TrainConfig, from_recipe
from mai_app.errors import RunError
from mai_app.training.sweep import (
    Result,
    best_epoch,
    exit_code,
    finished,
    json_path,
    one_by_one,
    plan,
    summary,
    sweep,
    table,
)
from tests.conftest import Run


def config(folder: Path, *vary: str, seeds: int = 2) -> SweepConfig:
    return SweepConfig(data=folder / "photos", vary=vary, seeds=seeds, name="s", runs=folder / "runs")


def test_two_settings_by_two_seeds(
    mai: Run, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--data", str(data_set), "--name", "s", "--device", "cpu", "--runs", str(tmp_path / "runs")]
    words += ["--prepared", str(tmp_path / "prepared"), "--vary", "recipe=baseline", "--vary", "epochs=1"]
    words += ["--vary", "batch-size=16", "--vary", "learning-rate=1e-3,3e-4"]
    done = mai(*words)
    assert done.returncode == 0, done.stderr
    losses: dict[str, list[float]] = {}
    for rate in ("0.001", "0.0003"):
        for seed in range(2):
            run = tmp_path / "runs" / f"s-recipe-baseline-epochs-1-batch-size-16-learning-rate-{rate}-seed{seed}"
            (line,) = (run / "metrics.jsonl").read_text().splitlines()
            combination = f"recipe=baseline epochs=1 batch-size=16 learning-rate={rate}"
            losses.setdefault(combination, []).append(json.loads(line)["val_loss"])
    best = min(losses, key=lambda words: fmean(losses[words]))
    lines = done.stdout.splitlines()
    assert next(line.split("  ")[0] for line in lines if line.startswith("*")) == f"* {best}"
    assert f"* {best}: best by validation loss; the test part was not looked at" in lines
    for name, values in losses.items():
        (line,) = [line for line in lines if line[2:].startswith(f"{name} ")]
        assert f"{fmean(values):.4f}  ({min(values):.4f}–{max(values):.4f})" in line
        assert line.endswith("2 of 2")
    assert lines[-1] == f"results: {tmp_path / 'runs' / 's' / 'sweep.json'}"

    document = json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())
    assert [(r["settings"]["learning-rate"], r["seed"]) for r in document["runs"]] == [
        (1e-3, 0),
        (1e-3, 1),
        (3e-4, 0),
        (3e-4, 1),
    ]
    assert [r["val_loss"] for r in document["runs"]] == [value for values in losses.values() for value in values]
    assert all(r["error"] is None and r["epoch"] == 1 and r["settings"]["epochs"] == 1 for r in document["runs"])

    # The same command again finds all done, and says the same.
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert len(weights) == 4
    assert main(words) == 0
    assert capsys.readouterr().out == done.stdout
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_the_plan_is_the_product_of_the_settings_and_seeds(tmp_path: Path) -> None:
    runs = plan(config(tmp_path, "input=resize,crop", "degrade=False", "source_balance=0,1", seeds=3))
    assert len(runs) == 12
    assert runs[5] == TrainConfig(
        data=tmp_path / "photos",
        name="s-input-resize-degrade-False-source-balance-1.0-seed2",
        input="resize",
        degrade=False,
        source_balance=1.0,
        seed=2,
        runs=tmp_path / "runs",
    )
    assert [run.name for run in plan(config(tmp_path))] == ["s-seed0", "s-seed1"]


def test_a_recipe_is_varied_with_its_settings_and_another_setting_wins_over_it(tmp_path: Path) -> None:
    runs = plan(config(tmp_path, "recipe=traces,baseline", "epochs=7", seeds=1))
    assert [run.name for run in runs] == ["s-recipe-traces-epochs-7-seed0", "s-recipe-baseline-epochs-7-seed0"]
    recipes: tuple[RecipeName, ...] = ("traces", "baseline")
    for run, recipe in zip(runs, recipes, strict=True):
        assert run == from_recipe(recipe, tmp_path / "photos", name=run.name, epochs=7, seed=0, runs=tmp_path / "runs")
    assert [run.model for run in runs] == ["traces", "baseline"]
    assert runs[1].optimizer == "rmsprop"  # a setting of the recipe that --vary does not name


@pytest.mark.parametrize(
    ("vary", "reason"),
    [
        (
            "learnig-rate=1",
            r"learnig-rate=1: `mai train` has no such setting; those to vary are recipe, model, start-from",
        ),
        ("seed=1,2", "a sweep sets it itself"),
        ("runs=elsewhere", "a sweep sets it itself"),
        ("epochs=1,two", "'two' is no value of epochs, which takes int"),
        ("epochs", "'' is no value of epochs"),
        ("input=resize,cut", "'cut' is no value of input, which takes resize, crop"),
        ("degrade=perhaps", "'perhaps' is no value of degrade, which takes True, False"),
        ("learning-rate=0.001,1e-3", "names a value twice"),
    ],
)
def test_what_can_not_be_varied_is_refused(tmp_path: Path, vary: str, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        plan(config(tmp_path, vary))


def test_settings_that_do_not_make_a_sweep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="named twice"):
        plan(config(tmp_path, "epochs=1", "epochs=2"))
    with pytest.raises(RunError, match="at least 1"):
        plan(config(tmp_path, seeds=0))
    for name in ("a/b", "..", ""):
        with pytest.raises(RunError, match="--name"):
            plan(replace(config(tmp_path), name=name))


def test_the_command_line_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--data", str(tmp_path), "--vary", "rate=1", "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("mai: --vary rate=1: `mai train` has no such setting")
    assert not (tmp_path / "runs").exists()


def write_metrics(run: TrainConfig, *losses: float) -> Path:
    folder = run.runs / run.name
    folder.mkdir(parents=True)
    rows = [{"epoch": i, "val_loss": loss, "val_auroc": 0.5 + i / 10} for i, loss in enumerate(losses, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_that_fails_is_a_row(tmp_path: Path) -> None:
    """The combination with a failed seed has the least loss, but is not called best."""
    settings = config(tmp_path, "batch-size=16,32,64")

    def train(run: TrainConfig) -> Path:
        if run.batch_size == 16 and run.seed:
            raise RunError("the loss is no longer a number")
        losses = {16: (0.1,), 32: (0.6, 0.2, 0.4), 64: (0.5,)}[run.batch_size]
        return write_metrics(run, *losses)

    results = sweep(settings, lambda runs: one_by_one(reversed(runs), train))
    assert exit_code(results) == 1
    lines = summary(results, settings).splitlines()
    assert lines[1].split() == ["batch-size=16", "0.1000", "(0.1000–0.1000)", "0.600", "1", "1", "of", "2"]
    assert lines[2] == "    s-batch-size-16-seed1: the loss is no longer a number"
    assert lines[3].split() == ["*", "batch-size=32", "0.2000", "(0.2000–0.2000)", "0.700", "2,2", "2", "of", "2"]
    assert lines[5] == "* batch-size=32: best by validation loss; the test part was not looked at"
    document = json.loads(json_path(settings).read_text())
    assert [r["error"] for r in document["runs"]] == [None, "the loss is no longer a number", None, None, None, None]


def test_no_run_finished(tmp_path: Path) -> None:
    settings = config(tmp_path)

    def train(run: TrainConfig) -> Path:
        raise RunError("no device")

    results = sweep(settings, lambda runs: one_by_one(runs[:1], train))
    assert [result.error for result in results] == ["no device", "gave no result"]
    assert exit_code(results) == 2
    assert "no run finished" in summary(results, settings)


def test_the_best_epoch_is_the_one_of_least_validation_loss(tmp_path: Path) -> None:
    (run,) = plan(config(tmp_path, seeds=1))
    best = best_epoch(write_metrics(run, 0.5, 0.3, 0.4))
    assert finished(run, best) == Result("s-seed0", {}, 0, 0.3, 0.7, 2)
    (run.runs / run.name / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="no finished epoch"):
        best_epoch(run.runs / run.name)


def test_the_table_says_what_has_no_auroc() -> None:
    text = table([Result("a", {}, 0, 0.25, None, 3)])
    assert text.splitlines()[1].split() == [
        "*", "(the", "defaults)", "0.2500", "(0.2500–0.2500)", "–", "3", "1", "of", "1",
    ]  # fmt: skip
