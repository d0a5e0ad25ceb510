"""The model card: every figure is the report's, names mark nothing up, and what does not belong together is refused."""

import csv
import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from mai_app.cli import main, parse
from mai_app.config import TIERS, EvaluateConfig, TrainConfig, from_recipe
from mai_app.core import metrics
from mai_app.core.display import show_interval, show_percent
from mai_app.evaluation.evaluate import evaluate
from mai_app.evaluation.model_card import NETWORKS
from mai_app.evaluation.model_card_figures import escape
from mai_app.models.calibration import TierRates
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.description import training_flags
from mai_app.models.networks import MODELS
from mai_app.models.registry import BEST
from mai_app.training.run_folder import settings
from tests.conftest import Run, write_data_set

NASTY = "a|b*c*_d_`e`<script>[f](g)\\"
HEADINGS = [
    "## What it is, and what it is not",
    "## The network and its training",
    "## How well it does",
    "### False positives by kind",
    "### False positives by source",
    "### Found, by generator",
    "### Found, by source",
    "### Do scores follow how a file is saved?",
    "## Calibration",
    "## What it can't do",
    "## How to make it again",
    "## Use and misuse",
]


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """Twenty redraws instead of a thousand or two hundred."""

    def bootstrap(*arguments: Any, **_: int) -> metrics.Interval:
        figure, scores, labels = arguments
        return redraw(figure, scores, labels, rounds=20)

    redraw = metrics.bootstrap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap", bootstrap)
        yield


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose calibration knows tiers, with the report of its test part; for reading only."""
    folder = copytree(trained_run, tmp_path_factory.mktemp("card") / "my_run")
    checkpoint = load_checkpoint(folder / BEST)
    rates: dict[str, TierRates] = {
        tier: TierRates(48, 0.0417, 0.6, 0.4, None if tier == "hard" else 0.96, 0.049, 0.951) for tier in TIERS
    }
    fit = dataclasses.replace(checkpoint.info.calibration, data="val photos", tiers=rates, authentic_sources=12)
    save_checkpoint(folder / BEST, checkpoint.network, dataclasses.replace(checkpoint.info, calibration=fit))
    data = write_data_set(folder.parent / "pictures", train=2, val=1, test=6)
    with (data / "manifest.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file", "source", "generator", "kind"])
        for path in sorted(data.rglob("*.png")):
            synthetic = "synthetic" in path.parts
            rows.writerow(
                [path.relative_to(data), path.parent.name, NASTY if synthetic else "", "" if synthetic else "photo"]
            )
    evaluate(EvaluateConfig(data=data, model=str(folder), bias=True, bias_images=4, device="cpu"))
    return folder


@pytest.fixture
def report(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "report-test" / "report.json").read_text())
    return read


def changed(report: dict[str, Any], folder: Path, **changes: Any) -> Path:
    """The folder of a report that differs in these."""
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report | changes))
    return folder


def tables(text: str) -> list[list[list[str]]]:
    """The card's tables: rows of cells."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()] for part in found]


def test_the_command_writes_the_reports_figures(mai: Run, run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    other = changed(report, tmp_path / "other", model="res*net", version="0123456789ab", trained_on=NASTY)
    done = mai("card", "--report", run / "report-test", "--beside", other)
    path = run / "report-test" / "MODEL_CARD.md"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"card: {path}\n", "")
    text = path.read_text()
    assert text.startswith("# my\\_run: model card\n")
    assert [line for line in text.splitlines() if line.startswith("##")] == HEADINGS
    training, tiers, *_ = tables(text)
    assert all(len({len(row) for row in rows}) == 1 for rows in tables(text))
    assert load_checkpoint(run / BEST).sha256 in training[3][1]
    assert tiers[0][2] == " AUROC of res\\*net `0123456789ab` "
    for tier, row in zip(TIERS, tiers[2:], strict=True):
        figures = report["tiers"][tier]
        assert [cell.strip() for cell in row[:8]] == [
            tier,
            f"**{show_interval(figures['auroc'])}**",
            show_interval(figures["auroc"]),
            show_interval(figures["format_only_auroc"]),
            show_interval(figures["fpr"], percent=True),
            show_interval(figures["tpr"], percent=True),
            show_percent(figures["fpr_by_source"]),
            show_percent(figures["coverage"]),
        ]
    assert "| clean | 48 | 4.2 % | 4.9 % | 60.0 % | 60.0 % | 96.0 % | 95.1 % |" in text
    assert "It counts alike 12 authentic sources and each synthetic image as a source of its own" in text
    assert "6 authentic and 6 synthetic images" in text
    assert "proven authentic" in text
    assert "<script>" not in text
    assert str(run.parent) not in text  # a card is for others: no path of this machine
    # The same command, here: the same card.
    assert (
        main(["card", "--report", str(run / "report-test"), "--beside", str(other), "--out", f"{tmp_path}/2.md"]) == 0
    )
    assert (tmp_path / "2.md").read_text() == text


def test_the_commands_on_the_card_are_those_that_made_the_model(run: Path, tmp_path: Path) -> None:
    assert main(["card", "--report", str(run / "report-test"), "--out", str(tmp_path / "card.md")]) == 0
    block = (tmp_path / "card.md").read_text().split("```")[1].splitlines()[1:]
    configs = [parse(shlex.split(line)[1:]) for line in block]
    train = configs[0]
    assert isinstance(train, TrainConfig)
    made = settings(train) | {"precision": train.precision}
    assert made == dict(load_checkpoint(run / BEST).info.training)
    assert [type(config).__name__ for config in configs] == [
        "TrainConfig",
        "CalibrateConfig",
        "EvaluateConfig",
        "CardConfig",
    ]


def test_settings_become_flags_and_back() -> None:
    config = TrainConfig(data=Path("x"), degrade=False, tune="head", ema=0.999, start_from="imagenet", model="resnet18")
    words = training_flags(settings(config))
    assert parse(["train", "--data", "x", *words]) == config
    assert training_flags({**settings(config), "unheard_of": 1}) == words


def test_flags_for_an_earlier_checkpoint_are_the_baselines_where_it_names_no_setting() -> None:
    words = training_flags({"seed": 3, "degrade": True, "start_from": ""})
    assert parse(["train", "--data", "x", *words]) == dataclasses.replace(
        from_recipe("baseline", Path("x"), seed=3, degrade=True), recipe="traces"
    )


def test_what_does_not_belong_together_is_refused(
    run: Path, report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = run / "report-test"
    calibrated_since = copytree(run, tmp_path / "since")
    checkpoint = load_checkpoint(run / BEST)
    save_checkpoint(calibrated_since / BEST, checkpoint.network, dataclasses.replace(checkpoint.info, epoch=99))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "report.json").write_text("{")
    make = partial(changed, report)
    fewer = {tier: {**figures, "groups": figures["groups"][:1]} for tier, figures in report["tiers"].items()}
    for words, expected in (
        (
            ["--report", tmp_path / "none"],
            "none/report.json: can't be read (No such file or directory); `mai evaluate`",
        ),
        (["--report", damaged], "report.json: is damaged ("),
        (["--report", make(tmp_path / "old", tiers={})], "was written by another MAI, or is no report"),
        (
            ["--report", own, "--model", calibrated_since],
            f"but {own} is of {report['version']}; run `mai evaluate` again",
        ),
        (
            ["--report", make(tmp_path / "gone", checkpoint="gone.safetensors")],
            "names it, and it is not there; name the",
        ),
        (["--report", make(tmp_path / "val", split="val")], "a card needs a report on the test part"),
        (["--report", make(tmp_path / "all", split="all")], "holds images of training or calibration"),
        (["--report", own, "--beside", make(tmp_path / "a", authentic=7)], "is a report on other images than"),
        (["--report", own, "--beside", make(tmp_path / "b", data="/x/others")], "is a report on other images than"),
        (["--report", own, "--beside", make(tmp_path / "c", tiers=fewer)], "is a report on other images than"),
    ):
        assert main(["card", "--out", str(tmp_path / "card.md"), *map(str, words)]) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert err.count("\n") == 1
    assert not (tmp_path / "card.md").exists()


def test_a_model_that_knows_little_is_said_to(run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    report["tiers"]["hard"]["auroc"] = {"value": 0.55, "low": 0.45, "high": 0.6}
    report["tiers"]["web"]["format_only_auroc"] = {"value": None, "low": None, "high": None}
    report["tiers"]["q90"] |= {"verdicts": 0, "verdicts_right": None}
    folder = changed(report, tmp_path / "report", bias=None)
    assert main(["card", "--report", str(folder), "--out", str(tmp_path / "card.md")]) == 0
    text = (tmp_path / "card.md").read_text()
    assert re.search(r"not surely above that of chance in [a-z, 0-9]*hard\.", text)
    assert "none given" in text
    assert "these figures say little" in text
    assert "### Do scores" not in text
    assert "It never says authentic or synthetic:" in text  # six test images: the trained run's band is open
    assert "No group has 20 images" in text


def test_a_report_of_version_0_1_is_enough(run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    for figures in report["tiers"].values():
        del figures["fpr_by_source"], figures["coverage"]
        for group in figures["groups"]:
            del group["unsure"], group["coverage"]
    folder = changed(report, tmp_path / "report")
    assert main(["card", "--report", str(folder), "--out", str(tmp_path / "card.md")]) == 0
    head, _, *rows = tables((tmp_path / "card.md").read_text())[1]
    at = [cell.strip() for cell in head].index("FPR by source")
    assert [row[at].strip() for row in rows] == ["–"] * 4


def test_licences_of_weights_and_data_stand_on_the_card(run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, path = load_checkpoint(run / BEST), tmp_path / "new" / BEST
    licences = {"openfake": "CC BY-NC 4.0", "someone/photos": ""}
    info = dataclasses.replace(checkpoint.info, weights_licence="apache-2.0", data_licences=licences)
    save_checkpoint(path, checkpoint.network, info)
    assert load_checkpoint(path).info == info
    folder = changed(report, tmp_path / "report", version=load_checkpoint(path).version, checkpoint=str(path))
    assert main(["card", "--report", str(folder), "--out", f"{tmp_path}/card.md"]) == 0
    card = (tmp_path / "card.md").read_text()
    assert "| pretrained weights | licence apache-2.0, as timm states it |" in card
    assert "openfake: CC BY-NC 4.0; someone/photos: not known. What they mean for weights is not settled" in card


def test_every_network_has_its_words() -> None:
    assert NETWORKS.keys() == MODELS.keys()


def test_a_name_marks_nothing_up() -> None:
    assert escape("a|b*c*\n`d`<e>&amp;") == "a\\|b\\*c\\*\\\\n\\`d\\`\\<e\\>\\&amp;"
