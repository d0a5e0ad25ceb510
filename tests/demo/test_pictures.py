"""The documentation's pictures: made from a simulated image by the shipped model, small, and with nothing cut off."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mai_app.demo import pictures
from mai_app.errors import MaiError
from mai_app.evidence.read import read_evidence


def test_the_image_is_the_same_each_time_and_says_what_it_is() -> None:
    data = pictures.sample_image()
    assert data == pictures.sample_image()
    (evidence,) = read_evidence(data)
    assert (evidence.points_to, evidence.strength) == ("nothing", "hint")
    assert "algorithmicMedia" in evidence.says


def test_the_heatmap_stands_beside_its_image(tmp_path: Path) -> None:
    path = tmp_path / "new" / "heatmap.png"
    pictures.write(pictures.heatmap_picture(pictures.sample_image()), path)
    assert path.stat().st_size < 250_000
    with Image.open(path) as image:
        assert image.size == (2 * pictures.WIDTH + pictures.GAP, image.height)
        assert image.height > pictures.HEIGHT
        pixels = np.asarray(image.convert("RGB")).astype(int)
    seen = pixels[: pictures.HEIGHT, -pictures.WIDTH :]
    redness = seen[..., 0] - seen[..., 2]
    assert redness.max() > 30  # orange somewhere
    assert redness.min() < -30  # and blue


@pytest.mark.skipif(not any(map(shutil.which, pictures.BROWSERS)), reason="needs Chromium or Chrome")
def test_the_page_is_pictured_whole() -> None:
    image = pictures.page_picture(pictures.sample_image())
    assert pictures.RESULT_WIDTH + pictures.WIDTH // 2 < image.width < 1300
    pixels = np.asarray(image)
    assert (pixels[-1, : pictures.RESULT_WIDTH] == pixels[0, 0]).all()  # below the result is page and no more
    for edge in (pixels[0], pixels[-1]):
        assert (edge[pictures.RESULT_WIDTH :] == pictures.BACKDROP).all()


def test_without_a_browser_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MaiError, match="one of chromium, chromium-browser, google-chrome"):
        pictures.page_picture(b"")
