"""How an image is brought to the model's input size: one rule for training, measuring and predict.

Two rules. `letterbox` (detection, and several labels an image) keeps the whole image: it is scaled
to fit, put at the top left, and the rest is filled with grey 114, as YOLOX does; boxes are then
scaled, never shifted.
`crop` (one label an image) scales the image so that it covers the input and cuts out the centre.

Only numpy and Pillow are needed, so that `predict` starts quickly.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from PIL import Image

Resize = Literal["letterbox", "crop"]
FILL = 114  # grey of the letterbox (YOLOX, Ge et al. 2021)


def resized_shape(
    height: int, width: int, image_size: tuple[int, int], resize: Resize, crop_fraction: float
) -> tuple[int, int]:
    """Height and width an image is scaled to before it is padded or cropped.

    Args:
        height, width: of the original, pixels.
        image_size: (height, width) of the model's input.
        resize: the rule.
        crop_fraction: `crop` only; the input's share of the scaled image.
    """
    target_h, target_w = image_size
    if resize == "letterbox":
        scale = min(target_h / height, target_w / width)
        return (
            min(target_h, max(1, round(height * scale))),
            min(target_w, max(1, round(width * scale))),
        )
    scale = max(target_h / height, target_w / width) / crop_fraction
    return max(target_h, round(height * scale)), max(target_w, round(width * scale))


def trimmed(
    pixels: np.ndarray, image_size: tuple[int, int], resize: Resize, crop_fraction: float
) -> np.ndarray:
    """The image's centre, where it is so long that scaling its short side up would fill the memory.

    Only `crop` scales by the short side. What goes lies outside any centre crop.
    """
    if resize == "letterbox":
        return pixels
    height, width = pixels.shape[:2]
    longest = max(4.0, max(image_size) / min(image_size) / crop_fraction)
    top = max(0, height - round(longest * width)) // 2
    left = max(0, width - round(longest * height)) // 2
    return pixels[top : height - top, left : width - left]


def scale_image(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample uint8 RGB [H, W, 3] to `shape` (height, width); antialiased bilinear."""
    if pixels.shape[:2] == tuple(shape):
        return pixels
    height, width = shape
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def fit(pixels: np.ndarray, image_size: tuple[int, int], resize: Resize) -> np.ndarray:
    """Pad (letterbox) or centre-crop (crop) a scaled image to exactly `image_size`."""
    target_h, target_w = image_size
    height, width = pixels.shape[:2]
    if resize == "letterbox":
        canvas = np.full((target_h, target_w, 3), FILL, dtype=np.uint8)
        canvas[:height, :width] = pixels
        return canvas
    top, left = (height - target_h) // 2, (width - target_w) // 2
    return np.ascontiguousarray(pixels[top : top + target_h, left : left + target_w])


def uncropped(pixels: np.ndarray, image_size: tuple[int, int], crop_fraction: float) -> np.ndarray:
    """An image of the model's size with the border that the rule `crop` cuts off.

    What resizes images by itself then sees the pixels as they are: `to_input` gives them back.

    Args:
        pixels: uint8 RGB [image_size, 3].
        image_size: of the model.
        crop_fraction: its own.
    """
    # Sides that the rule scales to themselves; rounding decides which of those nearby do.
    wanted = [side / crop_fraction for side in image_size]
    near = sorted(product(range(-3, 4), repeat=2), key=lambda step: abs(step[0]) + abs(step[1]))
    shapes = [
        (max(image_size[0], round(wanted[0]) + down), max(image_size[1], round(wanted[1]) + right))
        for down, right in near
    ]
    height, width = next(
        (s for s in shapes if resized_shape(*s, image_size, "crop", crop_fraction) == s), shapes[0]
    )
    top, left = (height - image_size[0]) // 2, (width - image_size[1]) // 2
    borders = ((top, height - image_size[0] - top), (left, width - image_size[1] - left), (0, 0))
    return np.pad(pixels, borders, mode="edge")


def to_input(
    pixels: np.ndarray, image_size: tuple[int, int], resize: Resize, crop_fraction: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """An image as the model takes it.

    Returns:
        uint8 RGB [image_size, 3], and (scale_y, scale_x): input pixels per original pixel, by which
        predicted boxes are divided (letterbox only).
    """
    pixels = trimmed(pixels, image_size, resize, crop_fraction)
    height, width = pixels.shape[:2]
    shape = resized_shape(height, width, image_size, resize, crop_fraction)
    fitted = fit(scale_image(pixels, shape), image_size, resize)
    return fitted, (shape[0] / height, shape[1] / width)
