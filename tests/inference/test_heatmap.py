"""Heatmaps: equal to the whole image at once, true to what each kind means, legible, and written nowhere else."""

import colorsys
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from mai_app.cli import main
from mai_app.config import Architecture, Preprocessing
from mai_app.errors import ImageError, MaiError
from mai_app.images.decode import Pixels, decode
from mai_app.images.preprocess import resize, shrink
from mai_app.inference import heatmap as module
from mai_app.inference.detector import Detector, load
from mai_app.inference.engine import make_engine
from mai_app.inference.heatmap import (
    ANCHORS,
    Heatmap,
    colours,
    heatmap,
    heatmap_png,
    picture,
    predict_with_heatmaps,
    write_heatmap,
)
from mai_app.models.backbones import Body
from mai_app.models.views import ViewsNet
from tests.conftest import picture as scene


@pytest.fixture(scope="module")
def traces() -> Detector:
    """The shipped model, judging images at their own size."""
    shipped = load("traces", "cpu", Path("none"))
    how = replace(shipped.info.preprocessing, longest=0)
    return Detector(replace(shipped.checkpoint, info=replace(shipped.info, preprocessing=how)), torch.device("cpu"))


class Brightness(torch.nn.Module):
    """A network whose logit is ten times the mean brightness above a half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 10 * (images.mean((1, 2, 3)) - 0.5)


def bright(traces: Detector, how: Preprocessing) -> Detector:
    """A detector by brightness, with a temperature of 2."""
    info = replace(traces.info, preprocessing=how, calibration=replace(traces.info.calibration, temperature=2.0))
    return Detector(replace(traces.checkpoint, network=Brightness(), info=info), torch.device("cpu"))


@pytest.fixture(scope="module")
def views() -> Detector:
    """A detector that scores the whole image by its brightness, and no window."""
    architecture = Architecture(backbone="test_vit", blocks=(1,), size=64)

    class Bright(ViewsNet):
        def view_logits(self, images: torch.Tensor) -> torch.Tensor:
            return 10 * images[:, :2].mean((2, 3, 4)) - 5

    network = Bright(architecture, Body(architecture)).eval()
    network.fusion = torch.tensor([1.0, 0.0, 0.0])
    shipped = load("traces", "cpu", Path("none"))
    how = Preprocessing(input="views", size=64, crops=1)
    fit = replace(shipped.info.calibration, temperature=2.0)
    info = replace(shipped.info, model="test_vit", preprocessing=how, calibration=fit, architecture=architecture)
    return Detector(replace(shipped.checkpoint, network=network, info=info), torch.device("cpu"))


def test_a_network_of_views_predicts_full_batches_and_those_without_a_readable_file(views: Detector) -> None:
    image = ("a.png", png(plain(64, 64)))
    assert not list(views.predict([]))
    assert [row.error for row in views.predict([image, image], batch_size=2)] == [None, None]
    assert [row.error for row in views.predict([("b.png", b"")])] == ["is empty (0 bytes)"]


def test_of_views_it_shows_how_far_the_logit_falls_without_a_part(views: Detector) -> None:
    pixels = np.full((160, 160, 3), 128, np.uint8)
    pixels[:40, :40] = 255  # a bright corner: grey over it takes the logit down
    found = heatmap(views, pixels)
    assert (found.shows, found.logits.shape) == ("occlusion", (8, 8))
    assert found.cell == (20, 20)
    assert found.logits[0, 0] == found.logits.max() > 0.1
    np.testing.assert_allclose(found.logits[4:, 4:], 0, atol=0.02)
    # What lies outside the central square moves nothing.
    wide = np.concatenate([pixels, np.full((160, 320, 3), 255, np.uint8)], axis=1)
    np.testing.assert_allclose(heatmap(views, wide).logits[:, -1], 0, atol=1e-6)


def plain(height: int, width: int, value: int = 128) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def map_of(values: npt.ArrayLike, cell: float = 16.0) -> Heatmap:
    """A heatmap of whole cells with these values."""
    logits = np.array(values, np.float32)
    rows, columns = logits.shape
    return Heatmap(logits, (cell, cell), int(columns * cell), int(rows * cell), "patches")


def whole(detector: Detector, pixels: Pixels) -> npt.NDArray[np.float32]:
    """The places of an image, computed at once."""
    images = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)[None] / 255)
    with torch.inference_mode():
        places = detector.checkpoint.network.patch_logits(images)[0].numpy()  # type: ignore[operator]
    return np.asarray(places / detector.info.calibration.temperature, np.float32)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (333, 205), (256, 417), (289, 450), (321, 250)])
def test_tile_by_tile_is_as_all_at_once(
    traces: Detector, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = scene(np.random.default_rng(height), 1, height, width)
    monkeypatch.setattr(module, "_TILE", 8)  # borders at 128, 256 and 384 pixels
    found = heatmap(traces, pixels)
    assert found.logits.shape == (-(-height // 16), -(-width // 16))
    assert found.logits.dtype == np.float32
    np.testing.assert_allclose(found.logits, whole(traces, pixels), atol=1e-4)
    assert (found.cell, found.width, found.height, found.shows) == ((16, 16), width, height, "patches")


def test_a_smaller_halo_would_not_do(traces: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = scene(np.random.default_rng(1), 1, 260, 320)
    monkeypatch.setattr(module, "_TILE", 5)
    monkeypatch.setattr(module, "_HALO", 0)
    assert np.abs(heatmap(traces, pixels).logits - whole(traces, pixels)).max() > 0.1


def test_memory_is_that_of_a_tile(traces: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    network = traces.checkpoint.network
    handle = network.judge.register_forward_hook(lambda *parts: seen.append(parts[2].shape[2:]))  # type: ignore[union-attr]
    monkeypatch.setattr(module, "_TILE", 8)
    heatmap(traces, plain(200, 800))
    handle.remove()
    assert len(seen) == 14
    assert max(itertools.chain(*seen)) == 12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 21), (64, 199), (40, 300)])
def test_small_images_are_judged_as_for_the_score(traces: Detector, height: int, width: int) -> None:
    pixels = scene(np.random.default_rng(2), 0, height, width)
    found = heatmap(traces, pixels)
    mirrored = np.pad(pixels, ((0, max(0, 200 - height)), (0, max(0, 200 - width)), (0, 0)), "symmetric")
    rows, columns = -(-height // 16), -(-width // 16)
    assert found.logits.shape == (rows, columns)
    np.testing.assert_allclose(found.logits, whole(traces, mirrored)[:rows, :columns], atol=1e-4)
    assert colours(found).shape == (height, width, 3)


def test_the_mean_of_the_places_is_the_score_of_an_image_that_is_one_crop(traces: Detector) -> None:
    pixels = scene(np.random.default_rng(4), 1, 200, 200)
    exact = make_engine(traces.checkpoint.network, traces.device, "float32")
    logit = float(exact.run(torch.from_numpy(pixels[None]))) / traces.info.calibration.temperature
    assert heatmap(traces, pixels).logits.mean() == pytest.approx(logit, abs=1e-4)


def test_windows_are_averaged_over_the_cells_that_they_cover(traces: Detector) -> None:
    detector = bright(traces, Preprocessing("crop"))
    pixels = plain(200, 400, 0)
    pixels[:, 300:] = 255
    found = heatmap(detector, pixels)
    assert (found.cell, found.shows) == ((100, 100), "windows")
    # Windows from 0, 100 and 200 on; the last one half white. Divided by the temperature.
    np.testing.assert_allclose(found.logits, [[-2.5, -2.5, -1.25, 0]] * 2, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "shape"), [(201, 299, (3, 3)), (50, 260, (1, 3)), (7, 9, (1, 1))])
def test_windows_of_any_size(traces: Detector, height: int, width: int, shape: tuple[int, int]) -> None:
    found = heatmap(bright(traces, Preprocessing("crop")), plain(height, width, 255))
    np.testing.assert_allclose(found.logits, np.full(shape, 2.5), atol=1e-5)
    assert colours(found).shape == (height, width, 3)


def test_occlusion_finds_the_place_that_pulls_to_synthetic(traces: Detector) -> None:
    detector = bright(traces, Preprocessing("resize"))
    pixels = plain(400, 800)
    pixels[40:80, 640:720] = 255  # the stretched image's rows 20 to 40 and columns 160 to 180: one cell
    found = heatmap(detector, pixels)
    assert found.logits.shape == (10, 10)
    assert (found.cell, found.width, found.height, found.shows) == ((40, 80), 800, 400, "occlusion")
    fall = 10 * 127 / 255 * (20 / 200) ** 2 / 2
    assert found.logits[1, 8] == pytest.approx(fall, rel=0.02)
    assert found.logits[0, 9] == pytest.approx(fall, rel=0.02)  # its one patch covers the white, too
    assert found.logits[0, 7] == pytest.approx(fall / 2, rel=0.02)  # one of its two
    assert found.logits[2, 9] == pytest.approx(fall / 2, rel=0.02)
    assert abs(found.logits[:, :7]).max() < fall / 100
    # A dark place pulls the other way.
    assert heatmap(detector, 255 - pixels).logits[1, 8] < 0


def test_places_of_a_stretched_image_lie_on_the_image_as_it_is(traces: Detector) -> None:
    info = replace(traces.info, preprocessing=Preprocessing("resize"))
    detector = Detector(replace(traces.checkpoint, info=info), torch.device("cpu"))
    pixels = scene(np.random.default_rng(6), 1, 100, 400)
    found = heatmap(detector, pixels)
    assert found.cell == (8, 32)
    np.testing.assert_allclose(found.logits, whole(traces, resize(pixels, 200)), atol=1e-4)
    assert colours(found).shape == (100, 400, 3)


def test_blue_is_authentic_orange_synthetic_and_the_scale_is_fixed() -> None:
    seen = [colours(map_of([[logit]]))[8, 8].astype(int) for logit in (-9, -4, 0, 4, 9)]
    assert (seen[0] == seen[1]).all()  # clipped
    assert (seen[3] == seen[4]).all()
    assert [tuple(seen[i]) for i in (1, 2, 3)] == [dict(ANCHORS)[logit] for logit in (-4.0, 0.0, 4.0)]
    blue, middle, orange = (colorsys.rgb_to_hsv(*seen[i] / 255) for i in (1, 2, 3))
    assert 0.5 < blue[0] < 0.7
    assert 0.04 < orange[0] < 0.12
    assert middle[1] < 0.05
    assert middle[2] > 0.9


def test_who_can_not_tell_red_from_green_reads_the_colours() -> None:
    # Viénot, Brettel and Mollon (1999): without the long, or the middle, cones one of red and green is mixed of both,
    # and colours differ by blue against it alone. There every step must show, and the ends lie far apart.
    linear = np.array([colour for _, colour in ANCHORS]) ** 2.2 / 255**2.2
    for red, green in ((0.112, 0.888), (0.293, 0.707)):
        yellow, blue = red * linear[:, 0] + green * linear[:, 1], linear[:, 2]
        pulls = (blue - yellow) / (blue + yellow)
        assert (np.diff(pulls) < -0.1).all()
        assert pulls[0] > 0.4
        assert pulls[-1] < -0.4


def test_the_colours_have_the_images_size_or_the_longest_that_is_asked_for() -> None:
    found = Heatmap(np.zeros((3, 5), np.float32), (16, 16), 70, 33, "patches")
    assert colours(found).shape == (33, 70, 3)
    assert colours(found).dtype == np.uint8
    assert colours(found, 35).shape == (16, 35, 3)
    assert colours(found, 100).shape == (33, 70, 3)
    assert colours(replace(found, width=80, height=1, logits=found.logits[:1]), 10).shape == (1, 10, 3)


def test_a_cell_lies_where_it_belongs() -> None:
    values = np.zeros((4, 6))
    values[1, 4] = 4
    # 90 of 96 pixels wide: the last column of cells reaches beyond the image.
    seen = colours(Heatmap(values.astype(np.float32), (16, 16), 90, 64, "patches")).astype(int)
    orange = seen[..., 2].argmin()
    y, x = divmod(int(orange), 90)
    assert (abs(y - 23.5) <= 1, abs(x - 71.5) <= 1) == (True, True)
    assert (seen[40:, :50] == dict(ANCHORS)[0.0]).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (700, 500), (30, 1500), (1500, 12), (2500, 3000)])
def test_a_picture_has_the_image_and_a_legible_scale(height: int, width: int) -> None:
    shown = picture(
        plain(height, width), Heatmap(np.full((1, 1), 4, np.float32), (height, width), width, height, "patches")
    )
    tall, wide = shown.shape[:2]
    assert 512 <= wide <= 2048
    assert tall <= 2048 + 250
    scale = shown[-90:]
    dark = (scale.max(axis=2) < 100).sum()
    assert dark > 300  # letters
    for logit in (-4.0, 4.0):
        assert (abs(shown[-140:].astype(int) - dict(ANCHORS)[logit]).max(axis=2) == 0).any()
    top = shown[0, wide // 2].astype(int)
    assert top[0] > top[2] + 40  # orange over grey


def test_a_picture_keeps_what_the_image_shows() -> None:
    pixels = plain(600, 600, 0)
    pixels[:, 300:] = 255
    shown = picture(pixels, map_of(np.zeros((6, 6)), 100)).astype(int)
    assert shown[300, 500, 0] - shown[300, 100, 0] > 40


def test_differences_are_not_shown_as_scores() -> None:
    places = picture(plain(600, 600), map_of(np.zeros((6, 6)), 100))
    other = picture(plain(600, 600), replace(map_of(np.zeros((6, 6)), 100), shows="occlusion"))
    assert (places[:600] == other[:600]).all()
    assert (places[600:] != other[600:]).any()


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_png_is_the_colours_at_the_images_size(traces: Detector) -> None:
    pixels = scene(np.random.default_rng(7), 1, 210, 250)
    image = Image.open(io.BytesIO(heatmap_png(traces, "x.png", png(pixels))))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), colours(heatmap(traces, pixels)))
    large = Image.open(io.BytesIO(heatmap_png(bright(traces, Preprocessing("resize")), "l", png(plain(10, 4096)))))
    assert large.size == (2048, 5)
    with pytest.raises(ImageError, match="y: is empty"):
        heatmap_png(traces, "y", b"")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/b/cat.jpg", "cat.jpg.heatmap.png"),
        ("../../etc/passwd", "passwd.heatmap.png"),
        ("/tmp/x/../..", "image.heatmap.png"),
        ("..", "image.heatmap.png"),
        ("", "image.heatmap.png"),
        ("C:\\evil\\..\\cat.png", "cat.png.heatmap.png"),
        ("a\n\x00b?.png", "a__b_.png.heatmap.png"),
        ("not\udcffutf8.png", "not_utf8.png.heatmap.png"),
        ("ü" * 300, "ü" * 75 + ".heatmap.png"),
        (".hidden", "hidden.heatmap.png"),
    ],
)
def test_whatever_its_name_the_file_is_in_the_folder(traces: Detector, tmp_path: Path, name: str, file: str) -> None:
    pixels = scene(np.random.default_rng(8), 0, 20, 20)
    path = write_heatmap(bright(traces, Preprocessing("crop")), name, pixels, tmp_path / "new", set())
    assert path == tmp_path / "new" / file
    assert [p.name for p in tmp_path.rglob("*")] == ["new", file] or path.is_file()
    assert len(list(tmp_path.rglob("*"))) == 2


def test_equal_names_do_not_meet(traces: Detector, tmp_path: Path) -> None:
    detector = bright(traces, Preprocessing("crop"))
    pixels = plain(20, 20)
    names = ["a/x.png", "b/x.png", "c/X.PNG", "c/x.png-2", "d/x.png"]

    def written() -> list[str]:
        taken: set[str] = set()
        return [write_heatmap(detector, name, pixels, tmp_path, taken).name for name in names]

    files = written()
    assert files[0] == "x.png.heatmap.png"
    assert files[1] == "x.png-2.heatmap.png"
    assert len({file.casefold() for file in files}) == len(names)
    assert written() == files  # once more: over the same files
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)


def test_a_folder_that_can_not_be_written_to_is_said(traces: Detector, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MaiError, match=r"can't be written .* name another folder with --heatmap"):
        write_heatmap(bright(traces, Preprocessing("crop")), "x", plain(9, 9), tmp_path / "file", set())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_each_judged_file_gets_its_picture_and_its_row(traces: Detector, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png(scene(np.random.default_rng(9), 1, 70, 90)))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    good = tmp_path / "good.png"
    paths: tuple[Path | ImageError, ...] = (tmp_path / "bad.png", good, ImageError("x", "gone"))
    rows = list(predict_with_heatmaps(traces, paths, tmp_path / "maps", evidence=True))
    assert rows == list(traces.predict(paths, evidence=True))
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["good.png.heatmap.png"]
    expected = heatmap(traces, np.asarray(Image.open(good)))
    made = np.asarray(Image.open(tmp_path / "maps" / "good.png.heatmap.png"))
    np.testing.assert_array_equal(made, picture(np.asarray(Image.open(good)), expected))


def test_score_evidence_and_heatmap_take_one_read_and_one_decode(
    traces: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mai_app.inference import detector as reading  # noqa: PLC0415

    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        file.write_bytes(png(scene(np.random.default_rng(9), 1, 70, 90)))
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    for name in ("read_file", "decode"):
        monkeypatch.setattr(reading, name, counted(name, getattr(reading, name)))
        monkeypatch.setattr(module, name, counted(f"heatmap's {name}", decode), raising=False)
    assert len(list(predict_with_heatmaps(traces, files, tmp_path / "maps", evidence=True))) == 3
    assert calls == {"read_file": 3, "decode": 3}


def test_run_again_a_folder_with_its_heatmaps_gets_no_heatmaps_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maps").mkdir()
    for name in ("good.png", "mine.heatmap.png"):  # the second is the user's own: it lies with the photos
        (tmp_path / name).write_bytes(png(scene(np.random.default_rng(9), 1, 70, 90)))
    for _ in range(2):
        maps = ["--heatmap", str(tmp_path / "maps"), "--workers", "1", "--format=jsonl"]
        assert main(["predict", str(tmp_path), "--model", "traces", "--runs", "none", *maps]) == 0
        judged = [Path(json.loads(line)["path"]).name for line in capsys.readouterr().out.splitlines()]
        assert judged == ["good.png", "mine.heatmap.png"]


def test_a_large_image_is_looked_at_as_small_as_for_its_score(traces: Detector) -> None:
    how = replace(traces.info.preprocessing, longest=256)
    detector = Detector(replace(traces.checkpoint, info=replace(traces.info, preprocessing=how)), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (512, 1024, 3), dtype=np.uint8)
    found = heatmap(detector, pixels)
    assert found.logits.shape == (8, 16)
    assert found.cell == (64, 64)
    assert (found.width, found.height) == (1024, 512)
    np.testing.assert_allclose(found.logits, heatmap(detector, shrink(pixels, 256)).logits)
