"""Random places of training images and their boxes: zoom, window or crop, flips.

Plain functions on uint8 tensors [H, W, 3]: each pixel that is seen is read and resampled once. What
is drawn, and what comes of it, is torchvision's v2 (`RandomResizedCrop`, `RandomCrop`, the flips);
the tests compare. Boxes are xyxy, numpy float32 [G, 4], in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.geometry import FILL
from components.data.settings import AugmentSettings

MIN_SIDE = 2.0  # pixels; of a box that is kept
_RATIO = (3 / 4, 4 / 3)  # width by height of a classification crop
_CROP_DRAWS = 10


@dataclass(frozen=True)
class Span:
    """One side of an image, and where it comes to lie in one side of the input.

    Attributes:
        start, length: what is seen of the image, pixels.
        target_start, target_length: where that lies in the input, pixels.
    """

    start: int
    length: int
    target_start: int
    target_length: int


@dataclass(frozen=True)
class View:
    """How an image is seen by the network.

    Attributes:
        rows, columns: what is seen, and where.
        mirrored, upside_down: flips of what is seen, in its place.
    """

    rows: Span
    columns: Span
    mirrored: bool = False
    upside_down: bool = False

    @property
    def place(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of what is seen, in the input."""
        top, left = self.rows.target_start, self.columns.target_start
        return top, left, top + self.rows.target_length, left + self.columns.target_length


def draw_window(
    shape: tuple[int, int],
    image_size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> View:
    """Zoom an image, and cut the input's window out of it wherever it falls (or pad a smaller one).

    Args:
        shape: (height, width) of the image.
        image_size: (height, width) of the window.
        settings: `scale` is the zoom's range, and the flips.
        rng: the choices come from it.
    """
    low, high = settings.scale
    zoom = low + (high - low) * float(rng.random())
    rows, columns = (
        _span(side, window, zoom, rng) for side, window in zip(shape, image_size, strict=True)
    )
    return View(rows, columns, *draw_flips(settings, rng))


def _span(side: int, window: int, zoom: float, rng: np.random.Generator) -> Span:
    zoomed = max(1, round(side * zoom))
    if zoomed <= window:
        return Span(0, side, int(rng.integers(window - zoomed + 1)), zoomed)
    seen = min(side, max(1, round(window / zoom)))
    return Span(int(rng.integers(side - seen + 1)), seen, 0, window)


def draw_crop(
    shape: tuple[int, int],
    image_size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> View:
    """A part of an image that fills the input, as `v2.RandomResizedCrop` draws it.

    Args:
        shape: (height, width) of the image.
        image_size: (height, width) of the input.
        settings: `scale` is the range of the part's share of the area, and the flips.
        rng: the choices come from it.
    """
    top, left, height, width = _crop_box(shape, settings.scale, rng)
    rows = Span(top, height, 0, image_size[0])
    columns = Span(left, width, 0, image_size[1])
    return View(rows, columns, *draw_flips(settings, rng))


def _crop_box(
    shape: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width)."""
    height, width = shape
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(_CROP_DRAWS):
        area = height * width * float(rng.uniform(*scale))
        ratio = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    # No such part fits: the largest centred one.
    h = min(height, round(width / _RATIO[0]))
    w = min(width, round(height * _RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def draw_flips(settings: AugmentSettings, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether an image is mirrored, and whether it is turned upside down."""
    mirrored, upside_down = rng.random(2) < (settings.flip, settings.vertical_flip)
    return bool(mirrored), bool(upside_down)


def seen_pixels(
    pixels: Tensor, view: View, image_size: tuple[int, int], window: Tensor | None = None
) -> Tensor:
    """An image through a view, grey where it does not reach.

    Args:
        pixels: uint8 [h, w, 3]; only read.
        view: of it.
        image_size: (height, width) of the result.
        window: uint8 [height, width, 3] to write the result to.

    Returns:
        uint8 [height, width, 3], antialiased bilinear: `window` where there is one; else, of an
        image that is seen as it is, a part of `pixels` itself.
    """
    rows, columns = view.rows, view.columns
    part = pixels[
        rows.start : rows.start + rows.length, columns.start : columns.start + columns.length
    ]
    shape = (rows.target_length, columns.target_length)
    if part.shape[:2] != shape:
        # As a batch before its axes change, so that torch knows that channels are last in memory.
        batch = part[None].permute(0, 3, 1, 2)
        batch = F.interpolate(batch, size=shape, mode="bilinear", antialias=True)
        part = batch.permute(0, 2, 3, 1)[0]
    part = flipped(part, view.mirrored, view.upside_down)
    if window is None:
        if shape == tuple(image_size):
            return part
        window = torch.empty((*image_size, 3), dtype=torch.uint8)
    top, left, bottom, right = view.place
    window[top:bottom, left:right] = part
    beside = window[top:bottom]
    for border in (window[:top], window[bottom:], beside[:, :left], beside[:, right:]):
        border.fill_(FILL)
    return window


def flipped(pixels: Tensor, mirrored: bool, upside_down: bool) -> Tensor:
    """Pixels [H, W, 3], left and right, above and below changed about, or as they are."""
    axes = [axis for axis, turned in ((0, upside_down), (1, mirrored)) if turned]
    return pixels.flip(axes) if axes else pixels


def flipped_boxes(
    boxes: np.ndarray, shape: tuple[int, int], mirrored: bool, upside_down: bool
) -> np.ndarray:
    """Boxes of an image of `shape` (height, width) that is `flipped`."""
    height, width = shape
    flipped = boxes.copy()
    if mirrored:
        flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    if upside_down:
        flipped[:, 1], flipped[:, 3] = height - boxes[:, 3], height - boxes[:, 1]
    return flipped


def seen_boxes(
    boxes: np.ndarray, view: View, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as an image's view shows them, cut to the input.

    Args:
        boxes: within the image.
        view: of the image.
        image_size: (height, width) of the input.

    Returns:
        The kept boxes, with sides of at least `MIN_SIDE`, and which they are, bool [G].
    """
    rows, columns = view.rows, view.columns
    spans = (columns, rows, columns, rows)
    zoom = np.array([span.target_length / span.length for span in spans])
    shape = (rows.target_length, columns.target_length)
    moved = (boxes - np.array([span.start for span in spans])) * zoom
    moved = flipped_boxes(moved, shape, view.mirrored, view.upside_down)
    moved += np.array([span.target_start for span in spans])
    moved = np.minimum(np.maximum(moved, 0), [*image_size[::-1]] * 2).astype(np.float32)
    kept = (moved[:, 2:] - moved[:, :2] >= MIN_SIDE).all(axis=1)
    return moved[kept], kept
