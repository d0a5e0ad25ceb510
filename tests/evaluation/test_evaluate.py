"""Evaluation end to end: figures equal those of the predictions, it resumes, and its page shows the worst mistakes."""

import base64
import io
import json
import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mai_app import load
from mai_app.cli import main
from mai_app.config import SHOWN_SCORES, TIERS, EvaluateConfig
from mai_app.core import metrics
from mai_app.core.metrics import auroc
from mai_app.errors import DataError, ImageError
from mai_app.evaluation.audit import file_properties, format_only_scores
from mai_app.evaluation.evaluate import MAX_MISTAKES, THUMBNAIL_SIDE, evaluate, make_thumbnail, worst_mistakes
from mai_app.evaluation.report import show_by_source, text_tables
from mai_app.evaluation.score import open_images, score, seen_by
from mai_app.images.decode import decode_file
from mai_app.images.preprocess import to_inputs
from mai_app.images.quality import degrade
from tests.conftest import Run, picture, write_data_set

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    '"><svg onload=alert(2)>.png',
    "a'b&amp;{title}.png",
    "\u202egpj.exe.png",
    "line\nbreak\x1b[31m.png",
    "not-utf8-\udcff.png",
)


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """A hundred redraws instead of a thousand; the command, in a process of its own, makes them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, rounds=100))
        yield


@pytest.fixture(scope="module")
def report_folder(data_set: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    evaluate(EvaluateConfig(data=data_set, model=str(trained_run), out=folder, device="cpu"))
    return folder


def test_the_clean_tier_is_what_predict_says(data_set: Path, trained_run: Path, report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    files = sorted((data_set / "test").rglob("*.png"))
    labels = np.array(["synthetic" in path.parts for path in files]).astype(np.int64)
    detector = load(trained_run, "cpu")
    predictions = list(detector.predict(files))
    inputs = [to_inputs(decode_file(path).pixels, detector.info.preprocessing) for path in files]
    scores = detector.p_synthetic(detector.logits(inputs))  # as they are before a prediction clips them
    shown = np.array([prediction.p_synthetic for prediction in predictions], dtype=np.float64)
    assert shown == pytest.approx(scores.clip(*SHOWN_SCORES), abs=1e-5)
    clean = report["tiers"]["clean"]
    assert (report["authentic"], report["synthetic"]) == (16, 16)
    assert clean["auroc"]["value"] == pytest.approx(auroc(scores, labels))
    assert clean["tpr"]["value"] == (scores[labels == 1] >= predictions[0].threshold).mean()
    assert clean["fpr"]["value"] == (scores[labels == 0] >= predictions[0].threshold).mean()
    assert clean["unsure"] == np.mean([prediction.verdict == "unsure" for prediction in predictions])
    assert list(report["tiers"]) == list(TIERS)


def test_groups_add_up(report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    for tier in TIERS:
        figures = report["tiers"][tier]
        for label, rate in ((0, "fpr"), (1, "tpr")):
            groups = [g for g in figures["groups"] if g["column"] == "source" and g["label"] == label]
            assert [group["name"] for group in groups] == ["source0", "source1", "source2"]
            called = sum(group["images"] * group["called_synthetic"]["value"] for group in groups)
            assert called / 16 == pytest.approx(figures[rate]["value"])


def test_sources_count_alike_and_coverage_is_what_is_not_unsure(report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    rows = [json.loads(line) for line in (report_folder / "scores.jsonl").read_text().splitlines()[1:]]
    judged = [row for row in rows if row["part"] == "judged"]
    fit = report["calibration"]
    for tier in TIERS:
        figures = report["tiers"][tier]
        shares = []
        for source in ("source0", "source1", "source2"):
            logits = [row["logits"][tier] for row in judged if row["source"] == source and row["label"] == 0]
            shares.append(np.mean(1 / (1 + np.exp(-np.array(logits) / fit["temperature"])) >= fit["threshold"]))
        assert figures["fpr_by_source"] == pytest.approx(np.mean(shares))
        assert figures["coverage"] == pytest.approx(1 - figures["unsure"])
        groups = [g for g in figures["groups"] if g["column"] == "source"]
        assert all(g["coverage"] == pytest.approx(1 - g["unsure"]) for g in groups)
        assert sum(g["images"] * g["unsure"] for g in groups) / 32 == pytest.approx(figures["unsure"])


def test_the_worst_kind_of_authentic_images_is_named() -> None:
    def group(column: str, name: str, images: int, share: float, label: int = 0) -> dict[str, Any]:
        return {"column": column, "name": name, "images": images, "label": label, "called_synthetic": {"value": share}}

    groups = [
        group("kind", "photo", 30, 0.1),
        group("kind", "poster", 20, 0.2),
        group("kind", "scan", 19, 0.9),
        group("kind", "(not named)", 50, 0.8),
        group("source", "a", 60, 0.7),
        group("source", "b", 59, 0.1),
        group("source", "a", 60, 0.9, label=1),
    ]
    tiers = {tier: {"fpr_by_source": 0.4, "groups": groups} for tier in TIERS}
    mean, worst = show_by_source({"tiers": tiers})
    assert mean.startswith("FPR as a mean over the authentic sources (2), each counting alike: clean 40.0 %, q90")
    assert worst.endswith("poster, 20.0 % of 20 called synthetic in clean")
    assert len(show_by_source({"tiers": {t: {"fpr_by_source": 0.4, "groups": groups[2:]} for t in TIERS}})) == 1


def test_every_figure_lies_in_its_interval(report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    seen = 0
    for figures in report["tiers"].values():
        named = {name: value for name, value in figures.items() if isinstance(value, dict)}
        alone = {name for name, value in named.items() if value["low"] is None and value["high"] is None}
        assert alone == {"ece"}
        assert 0 <= named["ece"]["value"] <= 1
        intervals = [value for name, value in named.items() if name not in alone]
        intervals += [group["called_synthetic"] for group in figures["groups"]]
        for interval in intervals:
            assert 0 <= interval["low"] <= interval["high"] <= 1
            assert interval["low"] - 1e-9 <= interval["value"] <= interval["high"] + 1e-9
            seen += 1
    assert seen > 40


def test_the_page_is_whole_and_asks_nothing_of_the_network(report_folder: Path) -> None:
    page = (report_folder / "report.html").read_text()
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            opened.append(tag)
            for name, value in attrs:
                if name in ("src", "href", "xlink:href") and value:
                    assert value.startswith(("#", "data:image/jpeg;base64,")), value

        def handle_endtag(self, tag: str) -> None:
            opened.append(f"/{tag}")

    Parser().feed(page)
    ece = json.loads((report_folder / "report.json").read_text())["tiers"]["clean"]["ece"]["value"]
    assert f"<td>{ece:.3f}</td>" in page  # without an interval
    assert opened.count("svg") == 3
    assert opened.count("table") == opened.count("/table") >= 3
    assert "url(http" not in page
    assert "{" not in re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)


def test_the_table_fits_a_terminal(report_folder: Path) -> None:
    lines = text_tables(json.loads((report_folder / "report.json").read_text())).splitlines()
    assert max(map(len, lines[3:])) <= 120
    assert sum(line.startswith(TIERS) for line in lines) == 4


@pytest.mark.parametrize("rows", [0, 0.5, 20])
def test_an_interrupted_evaluation_judges_only_what_is_missing(
    rows: float,
    data_set: Path,
    trained_run: Path,
    report_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut after the header, in the first row, and in the middle of a later one."""
    whole = (report_folder / "scores.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = b"".join(lines[: int(rows) + 1]) + (lines[int(rows) + 1][:50] if rows else b"")
    (tmp_path / "scores.jsonl").write_bytes(cut)
    decoded = []
    from mai_app.images import decode as images  # noqa: PLC0415

    def counting(data: bytes, name: str) -> images.DecodedImage:
        decoded.append(name)
        return images.decode(data, name)

    monkeypatch.setattr("mai_app.evaluation.score.decode", counting)
    config = EvaluateConfig(data=data_set, model=str(trained_run), out=tmp_path, device="cpu")
    evaluate(config)
    assert len(decoded) == whole.count(b"\n") - cut.count(b"\n")
    assert sorted((tmp_path / "scores.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
    assert (tmp_path / "report.json").read_bytes() == (report_folder / "report.json").read_bytes()


def test_scores_of_another_model_are_not_taken_over(
    data_set: Path, trained_run: Path, report_folder: Path, tmp_path: Path
) -> None:
    lines = (report_folder / "scores.jsonl").read_text().splitlines()
    header = json.loads(lines[0]) | {"weights": "another"}
    (tmp_path / "scores.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    evaluate(EvaluateConfig(data=data_set, model=str(trained_run), out=tmp_path, device="cpu"))
    assert (tmp_path / "scores.jsonl").read_text().splitlines()[0] == lines[0]


def test_a_plain_folder_is_judged_by_the_hash_or_whole(
    trained_run: Path, tmp_path: Path, mai: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("real", "fake")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(picture(rng, label, 90, 90)).save(tmp_path / "d" / name / f"{i}.jpg", quality=90)
    (tmp_path / "d" / "real" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    words = ["evaluate", "--data", "d", "--model", str(trained_run)]
    done = mai(*words, "--split", "test", "--out", "test")
    assert done.returncode == 0, done.stderr
    assert "TPR@5%" in done.stdout
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--split", "all", "--out", "all"]) == 0
    for split, said in (("test", done.stderr), ("all", capsys.readouterr().err)):
        assert ("the folders do not say" in said) == (split == "test")
        assert "broken.jpg" in said
    reports = {split: json.loads((tmp_path / split / "report.json").read_text()) for split in ("test", "all")}
    assert all(report["refused"] == ["real/broken.jpg"] for report in reports.values())
    assert (reports["all"]["authentic"], reports["all"]["synthetic"]) == (30, 30)
    assert 2 <= reports["test"]["authentic"] + reports["test"]["synthetic"] <= 20


def test_a_part_without_one_class_is_refused(trained_run: Path, tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "d", train=2, val=2, test=2)
    for path in (root / "test" / "authentic").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="test part holds 0 authentic and 2 synthetic"):
        evaluate(EvaluateConfig(data=root, model=str(trained_run), out=tmp_path / "o", device="cpu"))


def test_the_format_only_baseline_finds_what_files_give_away_and_nothing_more() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)

    def files(tell: bool) -> list[list[float]]:
        formats = labels if tell else rng.integers(0, 2, 200)
        return [[float(f), *rng.uniform(200, 900, 2), 1.0, rng.uniform(), 0.0] for f in formats]

    assert auroc(format_only_scores(files(True), labels, files(True), labels), labels) > 0.99
    assert 0.3 < auroc(format_only_scores(files(False), labels, files(False), labels), labels) < 0.7
    # Without files to fit on: by cross-validation; with too few even for that: no figure.
    nothing = np.empty(0, dtype=np.int64)
    assert auroc(format_only_scores(files(True), labels, [], nothing), labels) > 0.99
    assert np.isnan(format_only_scores(files(True)[95:105], labels[95:105], [], nothing)).all()


def rows(scores: list[float], label: int) -> list[dict[str, Any]]:
    names = {"label": label, "source": "s", "generator": "g"}
    return [{"file": f"{label}-{i:02}", **names, "clean": score} for i, score in enumerate(scores)]


def chosen(judged: list[dict[str, Any]], threshold: float) -> list[str]:
    labels, scores = np.array([row["label"] for row in judged]), np.array([row["clean"] for row in judged])
    curves: dict[str, tuple[metrics.Floats, metrics.Ints]] = {
        tier: (scores - 0.01 * i, labels) for i, tier in enumerate(TIERS)
    }
    mistakes = worst_mistakes(judged, curves, threshold)
    for row in mistakes:
        clean = next(other["clean"] for other in judged if other["file"] == row["file"])
        assert row["scores"] == pytest.approx({tier: clean - 0.01 * i for i, tier in enumerate(TIERS)})
    return [row["file"] for row in mistakes]


def test_only_what_is_wrong_and_the_worst_first() -> None:
    judged = rows([0.2, 0.9, 0.6, 0.7, 0.95], 0) + rows([0.65, 0.1, 0.99, 0.05, 0.7], 1)
    assert chosen(judged, 0.7) == ["0-04", "0-01", "0-03", "1-03", "1-01", "1-00"]
    assert chosen(judged, 1.0) == ["1-03", "1-01", "1-00", "1-04", "1-02"]


def test_at_most_so_many_of_a_class() -> None:
    files = chosen(rows([0.9 + i / 1000 for i in range(40)], 0) + rows([0.4] * 40, 1), 0.5)
    assert files[:MAX_MISTAKES] == [f"0-{39 - i}" for i in range(MAX_MISTAKES)]
    assert files[MAX_MISTAKES:] == [f"1-{i:02}" for i in range(MAX_MISTAKES)]  # of equal ones, the first


@pytest.mark.parametrize("size", [(2000, 300), (90, 40), (1, 5000)])
def test_a_thumbnail_is_small(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    uri = make_thumbnail(buffer.getvalue, "a.png")
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert image.format == "JPEG"
        assert max(image.size) == min(THUMBNAIL_SIDE, max(size))


def test_a_file_that_is_gone_has_no_picture() -> None:
    def gone() -> bytes:
        raise ImageError("a.png", "no such file")

    assert make_thumbnail(gone, "a.png") == ""
    assert make_thumbnail(lambda: b"text", "a.png") == ""


@pytest.fixture(scope="module")
def hostile_folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on files with hostile names, all of which are wrong: their classes are swapped."""
    root = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(3)
    for label, name in enumerate(("authentic", "synthetic")):
        folder = root / "d" / "test" / name / "<b>source"
        folder.mkdir(parents=True)
        for file in HOSTILE:
            Image.fromarray(picture(rng, 1 - label)).save(folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, rounds=5))
        evaluate(EvaluateConfig(data=root / "d", model=str(trained_run), out=root / "out", device="cpu"))
    return root / "out"


def test_hostile_names_are_shown_and_do_nothing(hostile_folder: Path) -> None:
    page = (hostile_folder / "report.html").read_text()
    pictures: list[str] = []
    words: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "b"), tag
            assert not [name for name, _ in attrs if name.startswith("on")], attrs
            if tag == "img":
                assert [name for name, _ in attrs] == ["src", "alt"]
                pictures.append(dict(attrs)["src"] or "")

        def handle_data(self, data: str) -> None:
            words.append(data)

    Parser().feed(page)
    mistakes = json.loads((hostile_folder / "report.json").read_text())["mistakes"]
    assert len(pictures) == len(mistakes) >= len(HOSTILE)
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", uri) for uri in pictures)
    text = "".join(words)
    for shown in (
        "<img src=x onerror=alert(1)>.png",
        '"><svg onload=alert(2)>.png',
        "a'b&amp;{title}.png",
        "\\u202egpj.exe.png",
        "line\\nbreak\\x1b[31m.png",
        "not-utf8-\\udcff.png",
        "<b>source",
    ):
        assert shown in text, shown
    assert not set("\u202e\x1b") & set(page)


def test_pictures_are_on_the_page_alone(hostile_folder: Path) -> None:
    assert sorted(path.name for path in hostile_folder.iterdir()) == ["report.html", "report.json", "scores.jsonl"]
    assert "base64" not in (hostile_folder / "report.json").read_text() + (hostile_folder / "scores.jsonl").read_text()


def test_a_mistake_is_shown_with_its_scores(hostile_folder: Path) -> None:
    page = (hostile_folder / "report.html").read_text().replace("&nbsp;", " ")
    for row in json.loads((hostile_folder / "report.json").read_text())["mistakes"]:
        assert " · ".join(f"{tier} {row['scores'][tier]:.3f}" for tier in TIERS) in page


def test_each_tier_is_scored_on_what_degrade_makes_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("authentic", "synthetic"):  # larger than what traces scales down to, which is also a tier's size
        (tmp_path / "d" / "test" / name).mkdir(parents=True)
        Image.fromarray(picture(rng, 0, 700, 820)).save(tmp_path / "d" / "test" / name / "a.png")
    detector = load("traces", "cpu")
    rows = score(detector, open_images(tmp_path / "d", "test", tmp_path), "test", 2, tmp_path / "scores.jsonl")
    for row in rows:
        found = decode_file(tmp_path / "d" / row["file"])
        seen = {str(tier): degrade(found, tier) for tier in TIERS}
        assert row["properties"] == {tier: file_properties(image) for tier, image in seen.items()}
        doubts, inputs = seen_by(detector, seen)
        assert row["doubts"] == doubts
        assert list(row["logits"].values()) == detector.logits(inputs).tolist()
