"""Small pictures for the page: an image upright, its boxes, and what a finding is about marked.

Lengths named `view` are in pixels of the whole image; all others are pixels of the thumbnail.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from components.contract.paths import PathEscape, resolve_inside
from components.contract.pixels import ImageError, load_rgb, read_size
from components.contract.reading import Box

SIDE = 240  # the longer side
_QUALITY = 72
_AROUND = 0.4  # so much of an image's side is shown beside it where a box sticks out
MOST_BOXES = 150  # drawn on one thumbnail
_RING = 5  # a marked box smaller than this gets a ring around it
_MARK, _OTHER, _EDGE, _BESIDE = (255, 64, 32), (90, 200, 250), (0, 0, 0), (128, 128, 128)


@dataclass(frozen=True)
class _Small:
    """An image at thumbnail size, and the size it really has."""

    image: Image.Image
    width: int
    height: int


class Thumbnails:
    """Makes thumbnails as long as its limits on bytes and on decoded pixels allow.

    An image is decoded once, however many thumbnails show it. Only files inside the root are
    opened, by the pixel rule.

    Args:
        root: the data root.
        max_bytes: of all thumbnails together, as base64.
        max_pixels: decoded for all thumbnails together.
    """

    def __init__(self, root: Path, max_bytes: int, max_pixels: int):
        self._root = root
        self._bytes_left = max_bytes
        self._pixels_left = max_pixels
        self._small: dict[str, _Small | None] = {}

    def draw(self, path: str, boxes: Sequence[Box] = (), marked: Sequence[Box] = ()) -> str | None:
        """A thumbnail as a `data:` address.

        Args:
            path: of the image, relative to the root.
            boxes: x, y, width, height in pixels of the image; any numbers.
            marked: those that a finding is about; drawn over the others.

        Returns:
            None if the file cannot be decoded, leads out of the root, or a limit is reached.
        """
        if path not in self._small:
            self._small[path] = self._load(path)
        small = self._small[path]
        if small is None or self._bytes_left <= 0:
            return None
        buffer = io.BytesIO()
        _drawn(small, boxes, marked).save(
            buffer, "JPEG", quality=_QUALITY, subsampling=0, optimize=True
        )  # with fewer colours than pixels, thin lines would turn grey
        text = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._bytes_left -= len(text)
        return f"data:image/jpeg;base64,{text}"

    def _load(self, path: str) -> _Small | None:
        try:
            file = resolve_inside(self._root, path)
            width, height = read_size(file)
            if width * height > self._pixels_left:
                return None
            self._pixels_left -= width * height
            image = Image.fromarray(load_rgb(file))
        except (PathEscape, ImageError):
            return None  # that is a finding of its own
        return _Small(_resized(image, SIDE / max(image.size)), *image.size)


def _resized(image: Image.Image, scale: float) -> Image.Image:
    width, height = (max(1, round(side * scale)) for side in image.size)
    if scale > 1:  # the pixels of a tiny image are what there is to see
        return image.resize((width, height), Image.Resampling.NEAREST)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _drawn(small: _Small, boxes: Sequence[Box], marked: Sequence[Box]) -> Image.Image:
    marked = [box for box in marked if all(map(math.isfinite, box))][:MOST_BOXES]
    boxes = [box for box in boxes if all(map(math.isfinite, box))][:MOST_BOXES]
    left, top, right, bottom = _view(small.width, small.height, marked)
    scale = SIDE / max(right - left, bottom - top)
    if (left, top, right, bottom) == (0, 0, small.width, small.height):
        canvas = small.image.copy()
    else:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        canvas = Image.new("RGB", size, _BESIDE)
        inside = _resized(small.image, scale * max(small.width, small.height) / SIDE)
        canvas.paste(inside, (round(-left * scale), round(-top * scale)))
    draw = ImageDraw.Draw(canvas)
    for box, colour in [*((box, _OTHER) for box in boxes), *((box, _MARK) for box in marked)]:
        corners = _corners(box, left, top, scale, canvas.size)
        _outline(draw, corners, colour, wide=2 if colour == _MARK else 1)
    return canvas


def _view(width: int, height: int, marked: Sequence[Box]) -> tuple[float, float, float, float]:
    """What is shown: the image and, up to a limit, the marked boxes: left, top, right, bottom."""
    more_x, more_y = _AROUND * width, _AROUND * height
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    for x, y, box_width, box_height in marked:
        left, top = min(left, x), min(top, y)
        right, bottom = max(right, x + box_width), max(bottom, y + box_height)
    # A box that sticks out by a pixel is no reason for a border.
    slack = 0.01 * max(width, height)
    return (
        max(left, -more_x) if left < -slack else 0.0,
        max(top, -more_y) if top < -slack else 0.0,
        min(right, width + more_x) if right > width + slack else float(width),
        min(bottom, height + more_y) if bottom > height + slack else float(height),
    )


def _corners(
    box: Box, left: float, top: float, scale: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box's corners on the canvas; what lies beyond it is put just outside its edge."""
    x, y, width, height = box
    across = sorted((x, x + width))
    down = sorted((y, y + height))
    (x1, x2), (y1, y2) = (
        [min(max((place - start) * scale, -2.0), side + 1.0) for place in places]
        for places, start, side in ((across, left, size[0]), (down, top, size[1]))
    )
    return x1, y1, x2, y2


def _outline(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    wide: int,
) -> None:
    x1, y1, x2, y2 = corners
    if wide > 1:  # a dark edge shows the colour on any ground
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_EDGE)
        if min(x2 - x1, y2 - y1) < _RING:
            x, y, reach = (x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, y2 - y1) / 2 + 2 * _RING
            ring = (x - reach, y - reach, x + reach, y + reach)
            draw.ellipse(ring, outline=colour, width=2)
    draw.rectangle(corners, outline=colour, width=wide)
