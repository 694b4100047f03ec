"""The one rule by which images come to the model's size."""

import numpy as np
import pytest

from components.data.geometry import FILL, resized_shape, to_input, trimmed, uncropped


@pytest.mark.parametrize(
    ("shape", "size", "resize", "fraction", "expected", "reason"),
    [
        ((480, 640), (256, 320), "letterbox", 1.0, (240, 320), "width decides"),
        ((640, 480), (256, 320), "letterbox", 1.0, (256, 192), "height decides"),
        ((10, 20), (64, 64), "letterbox", 1.0, (32, 64), "small images are scaled up"),
        ((1, 5000), (64, 64), "letterbox", 1.0, (1, 64), "never less than a pixel"),
        ((400, 533), (160, 160), "crop", 1.0, (160, 213), "the short side fills the input"),
        ((400, 400), (160, 160), "crop", 0.8, (200, 200), "the input is a share of it"),
        ((3, 900), (32, 32), "crop", 1.0, (32, 9600), "it covers the input, however odd"),
    ],
)
def test_resized_shape(shape, size, resize, fraction, expected, reason):
    assert resized_shape(*shape, size, resize, fraction) == expected, reason


def test_letterbox_puts_the_image_at_the_top_left_and_fills_with_grey():
    image = np.full((30, 60, 3), 200, dtype=np.uint8)
    fitted, scale = to_input(image, (64, 64), "letterbox", 1.0)
    assert fitted.shape == (64, 64, 3)
    assert (fitted[:32] == 200).all() and (fitted[32:] == FILL).all()
    assert scale == pytest.approx((32 / 30, 64 / 60))


def test_crop_takes_the_centre():
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    image[:, 32:96] = 255
    fitted, _ = to_input(image, (64, 64), "crop", 1.0)
    assert (fitted == 255).all()


def test_a_line_of_pixels_does_not_fill_the_memory():
    for shape in ((1, 20_000, 3), (20_000, 1, 3)):
        fitted, _ = to_input(np.zeros(shape, dtype=np.uint8), (64, 64), "crop", 0.875)
        assert fitted.shape == (64, 64, 3)
    assert trimmed(np.zeros((2, 900, 3)), (64, 64), "crop", 1.0).shape == (2, 8, 3)
    assert trimmed(np.zeros((2, 900, 3)), (64, 64), "letterbox", 1.0).shape == (2, 900, 3)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (33, 640), (512, 128), (75, 300)])
@pytest.mark.parametrize("fraction", [1.0, 0.99, 0.875, 0.5, 0.3])
def test_the_border_that_is_cut_off_again_resizes_nothing(size, fraction):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    bordered = uncropped(pixels, size, fraction)
    np.testing.assert_array_equal(to_input(bordered, size, "crop", fraction)[0], pixels)
