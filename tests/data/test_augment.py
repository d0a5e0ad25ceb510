"""Damage: the tiers' sizes and quality, training's random damage, and that no label has a say in either."""

import inspect

import numpy as np
import pytest
from PIL import Image

from mai_app.config import TIERS, Tier
from mai_app.data import augment
from mai_app.data.augment import training_crop, training_stretch
from mai_app.images.decode import SAMPLINGS, DecodedImage, Pixels, decode, encode_jpeg
from mai_app.images.preprocess import shrink
from mai_app.images.quality import TIER_SETTINGS, TIER_WORDS, degrade

DAMAGING: tuple[Tier, ...] = ("q90", "web", "hard")


def picture(height: int, width: int) -> Pixels:
    """A smooth picture with a little noise."""
    rng = np.random.default_rng(height + width)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-5, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def decoded(pixels: Pixels, form: str = "PNG", notes: tuple[str, ...] = ()) -> DecodedImage:
    return DecodedImage(pixels, form, pixels.nbytes, None, "", form == "JPEG", 1, notes)


@pytest.mark.parametrize(
    ("tier", "size", "quality"), [("q90", (600, 1000), 90), ("web", (461, 768), 60), ("hard", (307, 512), 40)]
)
def test_a_tier_has_its_size_and_quality(tier: Tier, size: tuple[int, int], quality: int) -> None:
    result = degrade(decoded(picture(600, 1000)), tier)
    assert result.pixels.shape == (*size, 3)
    assert (result.format, result.jpeg_quality) == ("JPEG", quality)
    upright = degrade(decoded(picture(1000, 600)), tier)
    assert upright.pixels.shape == (*size[::-1], 3)


def test_clean_is_the_image_as_found() -> None:
    image = decoded(picture(600, 1000))
    assert degrade(image, "clean") is image


@pytest.mark.parametrize("tier", DAMAGING)
@pytest.mark.parametrize(("height", "width"), [(100, 50), (1, 1), (512, 300)])
def test_a_tier_never_enlarges(tier: Tier, height: int, width: int) -> None:
    result = degrade(decoded(picture(height, width)), tier)
    assert result.pixels.shape == (height, width, 3)


def test_a_long_strip_keeps_at_least_a_pixel() -> None:
    assert shrink(picture(1, 3000), 512).shape == (1, 512, 3)
    assert shrink(picture(3000, 1), 768).shape == (768, 1, 3)


def test_shrinking_keeps_the_proportions_and_averages() -> None:
    pixels = picture(900, 1300)
    small = shrink(pixels, 512)
    assert small.shape == (354, 512, 3)
    assert np.abs(small.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 1
    assert shrink(pixels, None) is pixels
    assert shrink(pixels, 1300) is pixels


@pytest.mark.parametrize("tier", DAMAGING)
def test_a_tier_is_a_function_of_the_pixels_alone(tier: Tier) -> None:
    # Whatever the file was and whichever class it belongs to: no argument could tell.
    assert list(inspect.signature(degrade).parameters) == ["image", "tier"]
    jpeg = decode(encode_jpeg(picture(300, 800), 55), "x")
    as_png = decoded(jpeg.pixels, "PNG", ("first of 2 frames",))
    assert np.array_equal(degrade(jpeg, tier).pixels, degrade(as_png, tier).pixels)


def test_every_tier_damages_more_than_the_one_before() -> None:
    pixels = picture(300, 400)
    errors = [
        float(np.abs(degrade(decoded(pixels), tier).pixels.astype(int) - pixels).mean())
        for tier in ("clean", *DAMAGING)
    ]
    assert errors[0] == 0
    assert errors == sorted(set(errors))


def test_every_tier_has_settings_and_words() -> None:
    assert set(TIER_WORDS) == set(TIERS)
    assert set(TIER_SETTINGS) == set(TIERS) - {"clean"}
    for tier, (longest, quality) in TIER_SETTINGS.items():
        assert str(quality) in TIER_WORDS[tier]
        assert longest is None or str(longest) in TIER_WORDS[tier]


JPEGS = np.array([(quality, SAMPLINGS.index("4:2:0")) for quality in range(75, 96)])
NO_JPEGS = np.empty((0, 2), np.int64)


def crop(pixels: Pixels, seed: int = 0, lossy: bool = False, size: int = 200) -> Pixels:
    return training_crop(pixels, lossy, JPEGS, size, np.random.default_rng(seed))


@pytest.fixture
def undamaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing left of training's damage but cuts, the first JPEG, the place of the crop and the flip."""
    for share in ("RESCALE", "BLUR", "NOISE", "RECOMPRESS"):
        monkeypatch.setattr(augment, share, 0.0)


@pytest.fixture
def saved_qualities(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the qualities of the JPEGs that training's damage saves."""
    seen: list[int] = []
    as_jpeg = augment._as_jpeg

    def spy(pixels: Pixels, quality: int, sampling: str) -> Pixels:
        seen.append(quality)
        return as_jpeg(pixels, quality, sampling)

    monkeypatch.setattr(augment, "_as_jpeg", spy)
    return seen


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 256), (5, 7), (199, 300), (200, 200), (207, 256), (256, 256)]
)
@pytest.mark.parametrize("lossy", [True, False])
def test_a_training_crop_has_its_size_whatever_the_window(height: int, width: int, lossy: bool) -> None:
    pixels = picture(height, width)
    for seed in range(12):
        for size in (64, 200):
            result = crop(pixels, seed, lossy, size)
            assert (result.shape, result.dtype) == ((size, size, 3), np.dtype(np.uint8))
            assert result.flags.writeable


@pytest.mark.parametrize("lossy", [True, False])
def test_a_training_crop_depends_on_its_seed_alone(lossy: bool) -> None:
    pixels = picture(256, 256)
    first = [crop(pixels, seed, lossy) for seed in range(20)]
    again = [crop(pixels, seed, lossy) for seed in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({result.tobytes() for result in first}) == 20


def test_no_label_enters_the_training_damage() -> None:
    assert list(inspect.signature(training_crop).parameters) == ["window", "lossy", "jpegs", "size", "rng"]
    assert list(inspect.signature(training_stretch).parameters) == ["stretched", "jpegs", "rng"]


def test_training_damage_leaves_its_input_as_it_was() -> None:
    # The real ones are views of files mapped into memory, read-only.
    pixels = picture(200, 200)
    before = pixels.copy()
    for writeable in (True, False):
        pixels.flags.writeable = writeable
        for seed in range(30):
            for lossy in (True, False):
                crop(pixels, seed, lossy)[:] = 0
            training_stretch(pixels, JPEGS, np.random.default_rng(seed))[:] = 0
    assert np.array_equal(pixels, before)


@pytest.mark.usefixtures("undamaged")
def test_only_lossless_windows_get_a_first_jpeg(saved_qualities: list[int]) -> None:
    pixels = picture(256, 256)
    for seed in range(30):
        crop(pixels, seed, lossy=True)
    assert saved_qualities == []
    for seed in range(30):
        crop(pixels, seed, lossy=False)
    assert len(saved_qualities) == 30


@pytest.mark.usefixtures("undamaged")
def test_a_lossy_window_keeps_its_very_pixels_where_nothing_is_drawn() -> None:
    pixels = picture(256, 256)
    known = {pixels[y : y + 64, x : x + 64].tobytes() for y in range(193) for x in range(193)}
    results = [crop(pixels, seed, lossy=True, size=64) for seed in range(40)]
    plain = sum(result.tobytes() in known for result in results)
    flipped = sum(result[:, ::-1].tobytes() in known for result in results)
    assert plain + flipped == 40  # left to right, never upside down
    assert 10 <= flipped <= 30


@pytest.mark.usefixtures("undamaged")
def test_the_first_jpeg_has_the_training_files_qualities(saved_qualities: list[int]) -> None:
    pixels = picture(256, 256)
    for seed in range(40):
        training_crop(pixels, False, np.array([(31, 2), (31, 2), (31, 2), (93, 2)]), 200, np.random.default_rng(seed))
    assert set(saved_qualities) == {31, 93}
    assert saved_qualities.count(31) > saved_qualities.count(93)
    saved_qualities.clear()
    for seed in range(300):
        training_crop(pixels[:9, :9], False, NO_JPEGS, 9, np.random.default_rng(seed))
    assert set(saved_qualities) == set(range(75, 96))


@pytest.mark.usefixtures("undamaged")
def test_a_lower_quality_leaves_less_of_the_noise() -> None:
    pixels = picture(256, 256)
    steps = [
        np.mean(
            [
                np.abs(
                    np.diff(
                        training_crop(pixels, False, np.array([(q, 2)]), 200, np.random.default_rng(s)).astype(int),
                        axis=1,
                    )
                )
                for s in range(5)
            ]
        )
        for q in (30, 95)
    ]
    assert steps[0] < 0.8 * steps[1]


@pytest.mark.usefixtures("undamaged")
def test_the_jpeg_grid_lies_anywhere_in_the_crop() -> None:
    # At quality 5 the steps between blocks stand out: the column where they are largest, modulo 8.
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    places = set()
    for seed in range(120):
        result = training_crop(noise, False, np.array([(5, 2)]), 200, np.random.default_rng(seed)).astype(int)
        steps = np.abs(np.diff(result, axis=1)).mean(axis=(0, 2))[:192].reshape(-1, 8).mean(axis=0)
        places.add(int(steps.argmax()))
    assert places == set(range(8))


def test_both_kinds_of_file_lose_as_many_rows_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the place where a small image's mirroring begins would tell them apart.
    cuts: dict[bool, list[int]] = {}
    cut = augment._cut
    for lossy in (True, False):
        sizes: list[int] = []

        def spy(pixels: Pixels, rng: np.random.Generator, sizes: list[int] = sizes) -> Pixels:
            sizes.append(pixels.shape[0])
            return cut(pixels, rng)

        monkeypatch.setattr(augment, "_cut", spy)
        for seed in range(10):
            crop(picture(100, 100), seed, lossy)
        cuts[lossy] = sizes
    assert len(cuts[True]) == len(cuts[False]) == 20


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_colour_is_sampled_as_in_the_training_files(sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    as_jpeg = augment._as_jpeg

    def spy(pixels: Pixels, quality: int, sampling: str) -> Pixels:
        seen.append(sampling)
        return as_jpeg(pixels, quality, sampling)

    monkeypatch.setattr(augment, "_as_jpeg", spy)
    jpegs = np.array([(80, SAMPLINGS.index(sampling))])
    for seed in range(30):
        training_crop(picture(64, 64), False, jpegs, 64, np.random.default_rng(seed))
        training_stretch(picture(64, 64), jpegs, np.random.default_rng(seed))
    assert len(seen) > 40
    assert set(seen) == {sampling}


def test_recompression_spans_its_qualities(saved_qualities: list[int]) -> None:
    for seed in range(1500):
        crop(picture(16, 16), seed, lossy=True, size=16)
    assert (min(saved_qualities), max(saved_qualities)) == augment.QUALITIES
    # 0.7 of them are saved, 0.8 of those as JPEG
    assert 0.5 < len(saved_qualities) / 1500 < 0.62


@pytest.mark.parametrize("size", [200, 64])
def test_a_stretched_image_keeps_its_shape_and_depends_on_its_seed_alone(size: int) -> None:
    pixels = picture(size, size)
    results = [training_stretch(pixels, JPEGS, np.random.default_rng(seed)) for seed in range(15)]
    assert {(result.shape, result.dtype) for result in results} == {((size, size, 3), np.dtype(np.uint8))}
    assert len({result.tobytes() for result in results}) == 15
    assert np.array_equal(results[3], training_stretch(pixels, JPEGS, np.random.default_rng(3)))


@pytest.mark.usefixtures("undamaged")
def test_a_stretched_image_shows_a_part_of_its_own_proportions() -> None:
    # A ramp's slope tells how much of each side is shown; rows must never run backwards, columns half the time.
    ramp = np.zeros((200, 200, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(200)[:, None], np.arange(200)
    results = [training_stretch(ramp, JPEGS, np.random.default_rng(seed)).astype(int) for seed in range(200)]
    down = np.array([result[-1, 100, 0] - result[0, 100, 0] for result in results]) / 200
    across = np.array([result[100, -1, 1] - result[100, 0, 1] for result in results]) / 200
    assert down.min() > 0.55
    assert 60 <= np.sum(across < 0) <= 140
    proportions = np.abs(across) / down
    assert proportions.min() < 0.75
    assert proportions.max() > 1.35
