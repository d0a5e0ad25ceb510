"""The worst mistakes: the right images in the right order, as small pictures on the page alone, names harmless."""

import base64
import io
import json
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mai_app.config import TIERS, EvaluateConfig
from mai_app.core import metrics
from mai_app.core.metrics import Floats, Ints
from mai_app.errors import ImageError
from mai_app.evaluation.evaluate import evaluate
from mai_app.evaluation.mistakes import MOST, SIDE, thumbnail, worst_mistakes
from tests.conftest import picture

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    '"><svg onload=alert(2)>.png',
    "a'b&amp;{title}.png",
    "\u202egpj.exe.png",
    "line\nbreak\x1b[31m.png",
    "not-utf8-\udcff.png",
)


def rows(scores: list[float], label: int) -> list[dict[str, Any]]:
    names = {"label": label, "source": "s", "generator": "g"}
    return [{"file": f"{label}-{i:02}", **names, "clean": score} for i, score in enumerate(scores)]


def chosen(judged: list[dict[str, Any]], threshold: float) -> list[str]:
    labels, scores = np.array([row["label"] for row in judged]), np.array([row["clean"] for row in judged])
    curves: dict[str, tuple[Floats, Ints]] = {tier: (scores - 0.01 * i, labels) for i, tier in enumerate(TIERS)}
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
    assert files[:MOST] == [f"0-{39 - i}" for i in range(MOST)]
    assert files[MOST:] == [f"1-{i:02}" for i in range(MOST)]  # of equal ones, the first


@pytest.mark.parametrize("size", [(2000, 300), (90, 40), (1, 5000)])
def test_a_thumbnail_is_small(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    uri = thumbnail(buffer.getvalue, "a.png")
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert image.format == "JPEG"
        assert max(image.size) == min(SIDE, max(size))


def test_a_file_that_is_gone_has_no_picture() -> None:
    def gone() -> bytes:
        raise ImageError("a.png", "no such file")

    assert thumbnail(gone, "a.png") == ""
    assert thumbnail(lambda: b"text", "a.png") == ""


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_hostile_names_are_shown_and_do_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
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
    mistakes = json.loads((folder / "report.json").read_text())["mistakes"]
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


def test_pictures_are_on_the_page_alone(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "scores.jsonl"]
    assert "base64" not in (folder / "report.json").read_text() + (folder / "scores.jsonl").read_text()


def test_a_mistake_is_shown_with_its_scores(folder: Path) -> None:
    page = (folder / "report.html").read_text().replace("&nbsp;", " ")
    for row in json.loads((folder / "report.json").read_text())["mistakes"]:
        assert " · ".join(f"{tier} {row['scores'][tier]:.3f}" for tier in TIERS) in page
