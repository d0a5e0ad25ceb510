"""From pixels to the network's inputs: stretching, crops and their places, mirroring, notes, random windows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mai_app.config import IMAGE_SIZE, Preprocessing
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import central_square, input_notes, mirrored, random_window, resize, shrink, to_inputs

CROP = Preprocessing(input="crop")


def places(height: int, width: int) -> Pixels:
    """An image whose every pixel tells its own row and column (up to 4,095)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 256, x % 256, y // 256 * 16 + x // 256], axis=2).astype(np.uint8)


def place(pixel: Pixels) -> tuple[int, int]:
    """Row and column that a pixel of `places` tells."""
    y, x, high = (int(value) for value in pixel)
    return high // 16 * 256 + y, high % 16 * 256 + x


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


# resize


@pytest.mark.parametrize(("height", "width"), [(300, 400), (200, 200), (50, 900), (31, 17), (1, 1)])
def test_resize_is_pillows_bilinear(height: int, width: int) -> None:
    pixels = noise(height, width)
    expected = Image.fromarray(pixels).resize((200, 200), resample=Image.Resampling.BILINEAR)
    (image,) = to_inputs(pixels, Preprocessing())
    assert np.array_equal(image, np.asarray(expected))


def test_resize_leaves_an_image_of_the_right_size_as_it_is() -> None:
    assert np.array_equal(resize(noise(200, 200), 200), noise(200, 200))


def test_resize_averages_where_it_shrinks() -> None:
    # Without antialiasing, single pixels of the checkerboard would be picked: black or white.
    y, x = np.mgrid[:1000, :1000]
    checkerboard = np.repeat(((y + x) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    inside = resize(checkerboard, 200)[1:-1, 1:-1].astype(int)
    assert np.abs(inside - 127.5).max() < 15


def test_resize_stretches_the_whole_image() -> None:
    halves = np.zeros((100, 600, 3), np.uint8)
    halves[:, 300:] = 255
    image = resize(halves, 200)
    assert image.shape == (200, 200, 3)
    assert (image[:, :98] == 0).all()
    assert (image[:, 102:] == 255).all()


# crops


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (300, 400, [(50, 100), (0, 0), (0, 200), (100, 0), (100, 200)]),
        (1001, 203, [(400, 1), (0, 0), (0, 3), (801, 0), (801, 3)]),
        (200, 300, [(0, 50), (0, 0), (0, 100)]),
        (201, 200, [(0, 0), (1, 0)]),
        (200, 200, [(0, 0)]),
        (120, 90, [(0, 0)]),
    ],
)
def test_crops_are_the_centre_and_the_corners_each_once(
    height: int, width: int, expected: list[tuple[int, int]]
) -> None:
    crops = to_inputs(places(height, width), CROP)
    assert [place(crop[0, 0]) for crop in crops] == expected
    assert crops.shape == (len(expected), IMAGE_SIZE, IMAGE_SIZE, 3)


def test_a_crop_is_a_window_of_native_pixels() -> None:
    pixels = noise(300, 400)
    crops = to_inputs(pixels, CROP)
    assert np.array_equal(crops[0], pixels[50:250, 100:300])
    assert np.array_equal(crops[4], pixels[100:, 200:])


def test_a_single_crop_is_the_centre() -> None:
    crops = to_inputs(places(300, 400), Preprocessing(input="crop", crops=1))
    assert [place(crop[0, 0]) for crop in crops] == [(50, 100)]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(height=st.integers(1, 450), width=st.integers(1, 450), mode=st.sampled_from(("resize", "crop")))
def test_inputs_have_one_shape_and_type_whatever_the_image(height: int, width: int, mode: str) -> None:
    inputs = to_inputs(places(height, width), CROP if mode == "crop" else Preprocessing())
    assert inputs.dtype == np.uint8
    assert inputs.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert 1 <= len(inputs) <= (5 if mode == "crop" else 1)


# views

VIEWS = Preprocessing(input="views", size=224)


def test_views_are_the_central_square_and_then_the_windows() -> None:
    pixels = np.asarray(Image.fromarray(noise(30, 40)).resize((800, 600), Image.Resampling.BICUBIC))
    whole, *windows = to_inputs(pixels, VIEWS)
    expected = Image.fromarray(pixels).crop((100, 0, 700, 600)).resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(whole, np.asarray(expected))
    np.testing.assert_array_equal(np.stack(windows), to_inputs(pixels, Preprocessing(input="crop", size=224)))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(height=st.integers(1, 450), width=st.integers(1, 450), crops=st.sampled_from((1, 5)))
def test_there_are_as_many_views_whatever_the_image(height: int, width: int, crops: int) -> None:
    inputs = to_inputs(places(height, width), replace(VIEWS, crops=crops))
    assert inputs.dtype == np.uint8
    assert inputs.shape == (1 + crops, 224, 224, 3)


def test_a_central_square_is_never_enlarged() -> None:
    assert central_square(noise(300, 200), 336).shape == (200, 200, 3)
    np.testing.assert_array_equal(central_square(noise(300, 200), 336), noise(300, 200)[50:250])
    assert central_square(noise(900, 500), 336).shape == (336, 336, 3)


# mirroring


@pytest.mark.parametrize(("height", "width"), [(150, 120), (199, 500), (3, 5), (1, 1), (1, 300), (100, 100)])
def test_a_small_image_is_continued_so_that_neighbours_stay_neighbours(height: int, width: int) -> None:
    result = mirrored(places(height, width), 200)
    assert result.shape == (max(height, 200), max(width, 200), 3)
    assert np.array_equal(result[:height, :width], places(height, width))
    for line, side in ((result[:, 0], 0), (result[0], 1)):
        # Row by row and column by column, the next pixel is the neighbour in the image, or at its edge the same one.
        steps = [abs(place(b)[side] - place(a)[side]) for a, b in pairwise(line)]
        assert max(steps) <= 1
        assert sum(step == 0 for step in steps) <= (len(line) - 1) // (height, width)[side]
    # The mirror stands at the edge of the image, not on its last pixel.
    if height < 200:
        assert np.array_equal(result[height], result[height - 1])
    if width < 200:
        assert np.array_equal(result[:, width], result[:, width - 1])
    # Each row of the result is a row of the image, continued in the same way.
    assert np.array_equal(result[-1, :, 1], result[0, :, 1])


def test_an_image_that_is_large_enough_is_not_mirrored() -> None:
    pixels = noise(200, 250)
    assert mirrored(pixels, 200) is pixels


# notes


def test_only_a_small_image_is_noted() -> None:
    assert input_notes(200, 200, Preprocessing()) == ()
    assert input_notes(200, 200, CROP) == ()
    assert input_notes(199, 640, Preprocessing()) == ("640×199 pixels, smaller than 200×200: enlarged, less reliable",)
    assert input_notes(640, 10, CROP) == ("10×640 pixels, smaller than 200×200: continued by mirroring, less reliable",)
    assert input_notes(400, 20_000, replace(CROP, longest=512)) == input_notes(10, 512, CROP)
    assert input_notes(400, 20_000, CROP) == ()


# random windows


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_a_random_window_lies_within_the_image(height: int, width: int, size: int, seed: int) -> None:
    pixels = places(height, width)
    window = random_window(pixels, size, np.random.default_rng(seed))
    assert window.shape == (min(size, height), min(size, width), 3)
    y, x = place(window[0, 0])
    assert np.array_equal(window, pixels[y : y + size, x : x + size])


def test_random_windows_reach_every_place_and_follow_the_seed() -> None:
    pixels = places(12, 13)
    rng = np.random.default_rng(0)
    seen = {place(random_window(pixels, 10, rng)[0, 0]) for _ in range(400)}
    assert seen == {(y, x) for y in range(3) for x in range(4)}
    again = [place(random_window(pixels, 10, np.random.default_rng(7))[0, 0]) for _ in range(2)]
    assert again[0] == again[1]


def test_a_smaller_image_comes_whole() -> None:
    pixels = noise(20, 30)
    assert np.array_equal(random_window(pixels, 256, np.random.default_rng(0)), pixels)


# longest


def test_larger_images_are_scaled_down_first_and_smaller_ones_left() -> None:
    how = Preprocessing(input="crop", longest=512)
    large, small = places(600, 1024), places(300, 512)
    assert np.array_equal(to_inputs(large, how), to_inputs(shrink(large, 512), CROP))
    assert np.array_equal(to_inputs(small, how), to_inputs(small, CROP))
