"""The audit of the files alone: finds the shortcut that is there, none where none is, and is not fooled by copies."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mai_app.cli import main
from mai_app.evaluation import audit as module
from mai_app.evaluation.audit import PROPERTIES, audit, exceeds_limit, file_properties, table_properties
from mai_app.evaluation.audit_page import WIDTH, html_page, text_report
from mai_app.images.decode import decode
from tests.conftest import Run

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("file", "split", "left_out", "group", "source", "generator", "kind")),
        *((name, pa.string()) for name in ("format", "sha256", "given_split")),
        *((name, pa.int64()) for name in ("label", "lossy", "width", "height", "file_bytes", "jpeg_quality")),
    ]
)


def manifest(n: int, **columns: Any) -> pa.Table:
    """A manifest of n images, labels in turn, in which the files say nothing; columns as given (n,) or for all."""
    rng = np.random.default_rng(5)
    each = np.arange(n)
    given: dict[str, Any] = {
        "file": [f"{i}.jpg" for i in each],
        "label": each % 2,
        "split": [("train", "train", "val", "test")[i // 2 % 4] for i in each],
        "left_out": "",
        "group": [f"g{i}" for i in each],
        "source": [f"s{i % 2}-{i // 2 % 8}" for i in each],
        "generator": ["" if i % 2 == 0 else "gan" for i in each],
        "kind": "photo",
        "format": rng.choice(["JPEG", "PNG"], n),
        "lossy": 1,
        "width": rng.integers(200, 2000, n),
        "height": rng.integers(200, 2000, n),
        "file_bytes": rng.integers(10_000, 1_000_000, n),
        "sha256": [f"h{i}" for i in each],
        "given_split": "",
        **columns,
    }
    given = {name: [value] * n if np.ndim(value) == 0 else list(value) for name, value in given.items()}
    if "jpeg_quality" not in given:
        quality = rng.integers(60, 100, n).tolist()
        given["jpeg_quality"] = [q if f == "JPEG" else None for q, f in zip(quality, given["format"], strict=True)]
    return pa.table({name: pa.array(given[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trees on coarse values tell these simple sets apart as sixty fine ones do, in a fraction of the time."""
    monkeypatch.setattr(module, "_TREES", 4)
    monkeypatch.setattr(module, "_BINS", 64)


def said(report: dict[str, Any]) -> str:
    """The text of a report on one line."""
    return " ".join(text_report(report).split())


def labels(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n) % 2


def test_properties_are_those_of_the_decoded_file() -> None:
    images = []
    for suffix, height, width in (("WEBP", 30, 40), ("JPEG", 7, 5)):
        stream = io.BytesIO()
        Image.new("RGB", (width, height)).save(stream, suffix, quality=88)
        images.append(decode(stream.getvalue(), "x"))
    sizes = [image.file_bytes for image in images]
    table = manifest(
        2, format=["WEBP", "JPEG"], width=[40, 5], height=[30, 7], file_bytes=sizes, jpeg_quality=[None, 88]
    )
    assert table_properties(table).tolist() == [file_properties(image) for image in images]


def test_a_format_that_gives_the_label_away_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TREES", 60)  # here, the real ones
    # One file in twenty is of the other class's format, and widths tell a little.
    y = labels(400)
    other = np.arange(400) % 40 < 2
    formats = np.where((y == 1) ^ other, "PNG", "JPEG")
    rng = np.random.default_rng(0)
    report = audit(manifest(400, format=formats, width=rng.integers(400, 900, 400) + 150 * y), [], "d")
    area = report["all"]["auroc"]
    assert 0.9 < area["low"] <= area["value"] <= area["high"] <= 1
    assert report["all"]["balanced_accuracy"]["value"] > 0.9
    assert report["worst"] == "format"
    by_name = {row["name"]: row for row in report["properties"]}
    assert set(by_name) == set(PROPERTIES)
    assert by_name["format"]["auroc"]["value"] == pytest.approx(0.95, abs=0.02)
    assert 0.55 < by_name["width"]["auroc"]["value"] < 0.8
    assert 0.4 < by_name["height"]["auroc"]["value"] < 0.6
    predicts = [row["predicts"] for row in report["properties"]]
    assert predicts == sorted(predicts, reverse=True)
    assert sorted(by_name["format"]["statements"]) == [
        "JPEG: 95 % of the authentic, 5 % of the synthetic images",
        "PNG: 5 % of the authentic, 95 % of the synthetic images",
    ]
    assert exceeds_limit(report, 0.9)
    assert not exceeds_limit(report, area["value"])
    assert report["roc"]["fpr"][0] == report["roc"]["tpr"][0] == 0
    assert report["roc"]["fpr"][-1] == report["roc"]["tpr"][-1] == 1
    assert np.trapezoid(report["roc"]["tpr"], report["roc"]["fpr"]) == pytest.approx(area["value"], abs=0.01)
    assert f"Worst: format, {predicts[0]:.2f}." in said(report)


def test_files_that_say_nothing_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BINS", 255)
    report = audit(manifest(500), [], "d")
    area = report["all"]["auroc"]
    assert area["low"] < 0.5 < area["high"]
    assert all(0.4 < row["auroc"]["value"] < 0.6 for row in report["properties"])
    assert not exceeds_limit(report, 0.6)
    assert "do not tell the classes apart" in said(report)


def test_what_names_only_the_source_does_not_carry_over() -> None:
    """Every source has its own size of files, whatever its class: known sources are told, new ones are not."""
    n, sources = 1200, 60
    source = np.arange(n) % sources  # even ones authentic, odd ones synthetic
    sizes = np.random.default_rng(3).permutation(sources) * 40 + 300
    columns: dict[str, Any] = {"width": sizes[source], "height": sizes[source]}
    report = audit(manifest(n, source=[f"s{i}" for i in source], **columns), [], "d")
    held_out = report["sources_held_out"]
    assert report["all"]["auroc"]["low"] > 0.95
    assert held_out["folds"] == 5
    assert 0.25 < held_out["auroc"]["value"] < 0.7
    assert held_out["auroc"]["high"] - held_out["auroc"]["low"] > 0.1  # 60 sources, not 1,200 images
    assert held_out["gap"] == pytest.approx(report["all"]["auroc"]["value"] - held_out["auroc"]["value"])
    assert "name the source more than the class" in said(report)


def test_a_shortcut_that_all_sources_share_carries_over() -> None:
    y = labels(400)
    report = audit(manifest(400, format=np.where(y, "PNG", "JPEG")), [], "d")
    assert report["sources_held_out"]["auroc"]["value"] > 0.95
    assert report["sources_held_out"]["images"] == 400
    assert "the shortcut carries over to new sources" in said(report)


def test_duplicates_never_stand_on_both_sides() -> None:
    """Ten copies of each file, nothing else to learn: only trees that have seen a copy could tell the class."""
    n, kinds = 1000, 100
    kind = np.arange(n) % kinds
    widths = np.random.default_rng(2).permutation(kinds) * 17 + 200
    columns: dict[str, Any] = {
        "width": widths[kind],
        "height": 500,
        "file_bytes": 10_000,
        "format": "JPEG",
        "jpeg_quality": 90,
    }
    assert audit(manifest(n, **columns), [], "d")["all"]["auroc"]["value"] > 0.95
    report = audit(manifest(n, **columns, group=[f"g{k}" for k in kind]), [], "d")
    assert 0.3 < report["all"]["auroc"]["value"] < 0.65
    assert (report["duplicates"]["groups"], report["duplicates"]["images"]) == (kinds, n)


def test_bags_of_many_groups_part_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BAGS", 50)
    groups = np.random.default_rng(0).integers(0, 300, 2000)
    folds, reason = module._folds(groups % 2, groups, "group", 2, 0)
    assert (len(folds), reason) == (5, "")
    assert np.array_equal(np.sort(np.concatenate([score for _, score in folds])), np.arange(2000))
    for fit, score in folds:
        assert not set(groups[fit]) & set(groups[score])


def test_images_left_out_are_not_used() -> None:
    """The left-out half carries the class in its format; what is used says nothing."""
    n = 800
    out = np.arange(n) % 4 < 2
    formats = np.where(out, np.where(labels(n), "PNG", "BMP"), "JPEG")
    reasons = np.where(out, "its near duplicates are in test", "")
    report = audit(manifest(n, format=formats, left_out=reasons, split=np.where(out, "", "train")), [], "d")
    assert 0.38 < report["all"]["auroc"]["value"] < 0.62
    assert report["measured"] == 400
    assert report["left_out"] == {"its near duplicates are in test": 400}
    assert not any("PNG" in line for row in report["properties"] for line in row["statements"])
    assert audit(manifest(n, format=formats), [], "d")["all"]["auroc"]["value"] > 0.7


def test_counts_add_up() -> None:
    n = 300
    out = np.where(np.arange(n) % 10 == 0, "its near duplicates carry the other label", "")
    split = np.where(out == "", np.array(["train", "val", "test"])[np.arange(n) % 3], "")
    refused = [{"file": "s1-1/x.jpg", "reason": "is empty (0 bytes)", "source": "s1-1"}] * 2
    refused += [{"file": "y.jpg", "reason": "is empty (0 bytes)", "source": "nowhere else"}]
    report = audit(manifest(n, left_out=out, split=split, kind=""), refused, "d")
    assert report["images"] == n
    assert report["used"] == {"authentic": 120, "synthetic": 150}
    assert report["left_out"] == {"its near duplicates carry the other label": 30}
    assert [row["name"] for row in report["splits"]] == ["train", "val", "test"]
    for key in ("splits", "sources", "kinds"):
        for name, count in report["used"].items():
            assert sum(row[name] for row in report[key]) == count, key
    for key in ("sources", "kinds"):
        assert sum(row["left_out"] for row in report[key]) == 30
    assert report["kinds"][0]["name"] == "(not named)"
    assert sum(row["synthetic"] for row in report["generators"]) == 150
    assert sum(row["authentic"] for row in report["generators"]) == 0
    assert {row["name"]: row["refused"] for row in report["sources"] if row["refused"]} == {
        "s1-1": 2,
        "nowhere else": 1,
    }
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_duplicates_are_counted_and_shown() -> None:
    columns: dict[str, Any] = {
        "file": [f"{c}.png" for c in "abcdefghijkl"],
        "label": [0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1],
        "group": ["A", "A", "A", "B", "C", "C", "D", "D", "E", "F", "G", "H"],
        "sha256": ["1", "1", "2", "3", "4", "5", "6", "6", "7", "8", "9", "10"],
        "given_split": ["train", "train", "test", "train", "val", "val", "test", "test", "", "", "train", ""],
        "left_out": ["", "", "", "", "both", "both", *[""] * 6],
    }
    found = audit(manifest(12, **columns), [], "d")["duplicates"]
    assert (found["groups"], found["images"]) == (3, 7)
    assert (found["exact_groups"], found["exact_images"]) == (2, 4)
    assert found["across_given_splits"] == {
        "groups": 1,
        "images": 3,
        "examples": [{"train": "a.png", "test": "c.png"}],
    }
    assert found["both_labels"] == {
        "groups": 1,
        "images": 2,
        "examples": [{"authentic": "e.png", "synthetic": "f.png"}],
    }


def test_at_most_ten_examples_are_shown() -> None:
    split = ["train" if i < 15 else "test" for i in range(30)]
    across = audit(manifest(30, group=[f"g{i % 15}" for i in range(30)], given_split=split), [], "d")["duplicates"][
        "across_given_splits"
    ]
    assert (across["groups"], across["images"], len(across["examples"])) == (15, 30, 10)


def test_reasons_of_unreadable_files_are_put_together() -> None:
    refused = [
        {"file": f"{i}.png", "source": "s", "reason": reason}
        for i, reason in enumerate(
            [
                "has 1,200,300 bytes, over the limit of 134,217,728; save it smaller",
                "has 1,900,301 bytes, over the limit of 134,217,728; save it smaller",
                "is damaged or truncated (broken PNG file (chunk b'ab'))",
                "is damaged or truncated (broken PNG file (chunk b'xy'))",
                "can't be read (4.png isn't there)",
                "can't be read (5.png isn't there)",
                "has 32-bit pixels, whose white is undefined; save it with 8 or 16 bits",
                *["is empty (0 bytes)"] * 20,
            ]
        )
    ]
    found = audit(manifest(4), refused, "d")["refused"]
    assert found["count"] == 27
    assert found["files"] == [{"file": row["file"], "reason": row["reason"]} for row in refused[:20]]
    assert found["reasons"] == {
        "is empty (… bytes)": 20,
        "has … bytes, over the limit of …; save it smaller": 2,
        "is damaged or truncated (broken PNG file (chunk …))": 2,
        "can't be read (… isn't there)": 2,
        "has 32-bit pixels, whose white is undefined; save it with 8 or 16 bits": 1,
    }


def test_statements_name_medians_and_where_the_classes_differ() -> None:
    y = labels(200)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "width": np.where(y, 1024, rng.integers(300, 3000, 200)),
        "file_bytes": np.where(y, rng.integers(200, 300, 200), rng.integers(400, 500, 200)) * 1000,
        "height": 1000,
        "format": np.where(np.arange(200) < 100, "JPEG", "PNG"),
        "jpeg_quality": [int(75 + 15 * (i % 2)) if i < 100 else None for i in range(200)],
    }
    report = audit(manifest(200, **columns), [], "d")
    words = {row["name"]: row["statements"] for row in report["properties"]}
    assert words["width"][1] == "exactly 1,024: 0 % of the authentic, 100 % of the synthetic images"
    assert words["width"][0].endswith("(authentic), 1,024 (synthetic)")
    assert words["height"] == ["median 1,000 (authentic), 1,000 (synthetic)"]
    assert words["JPEG quality"][0] == "of the JPEG files: median 75 (authentic), 90 (synthetic)"
    assert len(words["format"]) == 2


@pytest.mark.parametrize(
    "columns",
    [
        {"n": 0},
        {"n": 3},
        {"n": 40, "label": 0},
        {"n": 40, "label": 1, "format": "PNG"},
        {"n": 40, "left_out": "for a reason"},
        {"n": 40, "group": "one"},
        {"n": 40, "group": [("a", "b")[i % 2] for i in range(40)]},
        {"n": 40, "group": [("a", f"b{i}")[i % 2] for i in range(40)]},
        {"n": 21, "label": [int(i < 10) for i in range(21)], "source": "one"},
        {"n": 60, "format": "SVG"},
        {"n": 60, "width": 1, "height": 1, "file_bytes": 1},
    ],
)
def test_tiny_and_odd_sets_are_reported_on(columns: dict[str, Any]) -> None:
    table = manifest(**columns)
    report = audit(table, [], "d")
    json.dumps(report, allow_nan=False)
    assert text_report(report)
    page = html_page(report, table)
    assert page.endswith("</html>\n")
    assert ">nan<" not in page
    measured = report["all"]["auroc"]["value"] is not None
    assert measured == (not report["all"]["reason"])
    assert measured == (columns["n"] >= 60 or columns["n"] == 21)
    assert measured or not exceeds_limit(report, 0.0)
    assert (report["sources_held_out"]["auroc"]["value"] is None) == bool(report["sources_held_out"]["reason"])


def test_what_can_not_be_measured_says_why() -> None:
    few = audit(manifest(3), [], "d")
    assert few["all"]["reason"] == "2 authentic images; at least 10 of each class are needed"
    assert few["worst"] is None
    assert few["properties"][0]["predicts"] is None
    assert "can't be measured: 2 authentic images" in said(few)
    one = audit(manifest(40, group=[("a", f"b{i}")[i % 2] for i in range(40)]), [], "d")
    assert one["all"]["reason"] == "the authentic images are of 1 duplicate group; at least 2 are needed"
    four = audit(manifest(200, source=[f"s{i % 2}-{i % 8 // 2 if i % 2 else i}" for i in range(200)]), [], "d")
    assert four["all"]["folds"] == 5
    assert four["sources_held_out"]["reason"] == "the synthetic images are of 4 sources; at least 5 are needed"
    fewer = audit(manifest(60, group=[f"g{i % 6}" for i in range(60)]), [], "d")
    assert fewer["all"]["folds"] == 3


def test_copies_in_two_sources_do_not_undo_the_holding_out() -> None:
    """Each file stands in two sources under one width: with one of them held out, the other would tell."""
    n = 800
    twin = np.arange(n) % 400
    widths = np.random.default_rng(4).permutation(400) * 10 + 300
    columns: dict[str, Any] = {"width": widths[twin], "group": [f"g{i}" for i in twin]}
    source = [f"s{i % 2}-{i // 2 % 5}-{i // 400}" for i in range(n)]
    held_out = audit(manifest(n, source=source, **columns), [], "d")["sources_held_out"]
    assert held_out["images"] == 0
    assert held_out["auroc"]["value"] is None


def test_a_large_set_is_sampled_and_the_report_says_so() -> None:
    n = 60_000
    few = np.arange(n) % 20 == 0
    # Files all alike are quickly measured; the sample is what this is about.
    columns: dict[str, Any] = {"width": 9, "height": 9, "file_bytes": 9, "format": "BMP", "jpeg_quality": None}
    table = manifest(n, label=few.astype(int), **columns)
    report = audit(table, [], "d")
    assert module.SAMPLE == 50_000
    assert (report["measured"], report["sampled"]) == (50_000, True)
    assert report["used"] == {"authentic": 57_000, "synthetic": 3_000}
    assert report["all"]["auroc"]["value"] == pytest.approx(0.5, abs=0.02)
    assert "sample of 50,000 of them (seed 0)" in said(report)
    rows = module._sample(np.arange(n), few.astype(np.int64), 1)
    assert len(np.unique(rows)) == 50_000
    assert few[rows].sum() == 3_000, "the rare class is kept whole"
    assert not audit(table.slice(0, 500), [], "d")["sampled"]


def test_the_same_table_gives_the_same_report() -> None:
    table = manifest(200)
    report = audit(table, [], "d", seed=3)
    assert report == audit(table, [], "d", seed=3)
    assert report["all"]["auroc"] != audit(table, [], "d", seed=4)["all"]["auroc"]


def nasty() -> tuple[pa.Table, list[dict[str, str]]]:
    evil = "<script>alert(1)</script><img src=http://evil.example/x.png>\x1b[31m\n" + "very " * 40 + "long"
    n = 60
    table = manifest(
        n,
        file=[f"{evil}{i}" for i in range(n)],
        source=[f"{evil}{i}" for i in range(n)],
        kind=evil,
        generator=evil,
        format=["JPEG", "<b>$x^"] * (n // 2),
        group=[f"g{i // 3}" for i in range(n)],
        given_split=["train", "test"] * (n // 2),
        left_out=["", "", evil] * (n // 3),
    )
    return table, [{"file": evil, "reason": evil, "source": evil}]


def test_the_page_asks_nothing_of_the_network_and_escapes_names() -> None:
    table, refused = nasty()
    page = html_page(audit(table, refused, "<script>d</script>"), table)
    opened: list[str] = []
    depth: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            opened.append(tag)
            if tag in ("table", "figure", "ul", "p", "div", "code", "h2", "svg"):
                depth.append(tag)
            for name, value in attrs:
                assert not name.startswith("on")
                if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset") and value:
                    assert value.startswith("#"), value

        def handle_endtag(self, tag: str) -> None:
            if depth and depth[-1] == tag:
                depth.pop()

    Parser().feed(page)
    assert not depth
    assert opened.count("svg") == 8
    assert opened.count("table") == 5
    assert not {"script", "img", "link", "iframe", "image", "b", "object", "video"} & set(opened)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "url(http" not in page
    assert "@import" not in page
    assert "\x1b" not in page
    page.encode()


def test_the_text_fits_a_terminal() -> None:
    table, refused = nasty()
    words = text_report(audit(table, refused, "d" * 150))
    lines = words.splitlines()
    assert max(map(len, lines)) <= WIDTH == 110
    assert "\x1b" not in words
    assert sum(line.startswith(PROPERTIES) for line in lines) == len(PROPERTIES)


def test_the_command_writes_its_page_and_strict_fails_over_the_limit(
    data_set: Path, tmp_path: Path, mai: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = mai("audit", data_set)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.startswith("The files alone")
    (page,) = tmp_path.glob("prepared/*/audit/audit.html")
    assert f"page: {page.relative_to(tmp_path)}" in plain.stdout
    area = json.loads(page.with_suffix(".json").read_text())["all"]["auroc"]["value"]
    assert area > 0.9  # the grid of the synthetic pictures makes their PNG files larger

    monkeypatch.chdir(tmp_path)
    assert main(["audit", str(data_set), "--strict", "--out", "o"]) == 3
    assert "the files alone reach an AUROC over 0.6" in capsys.readouterr().err
    assert (tmp_path / "o" / "audit.html").is_file()


def test_files_that_no_class_folder_holds_are_in_the_report(data_set: Path, tmp_path: Path, mai: Run) -> None:
    copytree(data_set, tmp_path / "d")
    copytree(data_set / "test" / "authentic", tmp_path / "d" / "test" / "real-ones")
    done = mai("audit", "d", "--out", "o")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, (tmp_path / "o" / "audit.html").read_text()):
        assert re.search(r"left out: 16 files in no class folder", " ".join(text.split()))
