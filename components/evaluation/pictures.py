"""Pictures of predictions: boxes with labels, and captions under classified images.

Needs Pillow and numpy only, so that the stand-alone predictor can use it.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Place = tuple[float, float, float, float]  # left, top, right, bottom
Kind = Literal["predicted", "correct", "false", "missed", "true"]

# Okabe and Ito's colours, which stay apart for colour-blind eyes, lightened for dark pictures.
CLASS_COLOURS = (
    "#56b4e9",
    "#e69f00",
    "#2fc49a",
    "#f0e442",
    "#ff7a3c",
    "#d88fbd",
    "#5b9dff",
    "#ffffff",
)
KIND_COLOURS: dict[Kind, str] = {
    "correct": "#56b4e9",
    "false": "#ff6a3d",
    "missed": "#ffd93d",
    "true": "#ffffff",
}
KIND_MEANINGS: dict[Kind, str] = {
    "correct": "found",
    "false": "false detection",
    "missed": "missed object",
    "true": "truth",
    "predicted": "prediction",
}
_DASHED: tuple[Kind, ...] = ("missed", "true")
_DARK = "#14171c"
_LIGHT = "#f4f5f7"


@dataclass(frozen=True)
class Box:
    """A box to draw.

    Args:
        xywh: left, top, width, height in pixels of the image given.
        label: class name; empty for a box without a label.
        score: 0 … 1, shown after the label; None for a true box.
        kind: decides colour and line: `predicted` is coloured by class, the others say how the
            box compares with the truth; true and missed boxes are dashed.
        class_id: picks the colour of a `predicted` box.
    """

    xywh: tuple[float, float, float, float]
    label: str = ""
    score: float | None = None
    kind: Kind = "predicted"
    class_id: int = 0

    @property
    def colour(self) -> str:
        """Of line and label, as `#rrggbb`."""
        if self.kind == "predicted":
            return CLASS_COLOURS[self.class_id % len(CLASS_COLOURS)]
        return KIND_COLOURS[self.kind]

    def scaled(self, scale_y: float, scale_x: float) -> Box:
        """The same box in an image that was resized by these factors."""
        x, y, width, height = self.xywh
        return replace(self, xywh=(x * scale_x, y * scale_y, width * scale_x, height * scale_y))

    @property
    def text(self) -> str:
        """Label and score."""
        return self.label if self.score is None else f"{self.label} {self.score:.2f}".lstrip()


@dataclass(frozen=True)
class NamedLabel:
    """A label of a whole image, to be written under it.

    Args:
        name: of the class.
        probability: that the model gave it.
        kind: `predicted`, or how it compares with the truth.
    """

    name: str
    probability: float
    kind: Kind = "predicted"


def draw_boxes(image: Pixels, boxes: Sequence[Box], *, min_side: int = 480) -> Pixels:
    """Draw boxes, and a legend under the picture when there are several kinds of them.

    Args:
        image: [H, W, 3] RGB uint8.
        boxes: drawn in this order; labels are placed over all lines and avoid each other.
        min_side: the picture is scaled up until its longer side has this many pixels.

    Returns:
        [H', W', 3] RGB uint8.
    """
    canvas, scale = _scaled_up(image, min_side)
    draw = ImageDraw.Draw(canvas)
    thick = max(3, round(max(canvas.size) / 260))
    font = load_font(max(13, round(max(canvas.size) / 44)))
    # Rightly found boxes first, so that what is wrong lies on top.
    ordered = sorted(boxes, key=lambda box: box.kind not in ("correct", "true"))
    for box in ordered:
        _draw_outline(draw, _place(box, scale), box, thick)
    taken: list[Place] = []
    for box in ordered:
        if box.text:
            _draw_label(draw, canvas.size, _place(box, scale), box, font, taken)
    kinds = sorted({box.kind for box in boxes} - {"predicted"})
    return np.asarray(_with_legend(canvas, kinds) if kinds else canvas)


def draw_caption(
    image: Pixels,
    predicted: tuple[str, float],
    true: tuple[str, float] | None = None,
    *,
    min_side: int = 320,
) -> Pixels:
    """An image over a strip that names the predicted class and, where known, the true one.

    Args:
        image: [H, W, 3] RGB uint8.
        predicted: class name and its probability.
        true: true class and the probability the model gave it; None when it is not known.
        min_side: the picture is scaled up until its longer side has this many pixels.

    Returns:
        [H', W', 3] RGB uint8.
    """
    wrong = true is not None and true[0] != predicted[0]
    lines: list[tuple[str, str, float | None, str]] = [
        ("predicted", *predicted, KIND_COLOURS["false" if wrong else "correct"])
    ]
    if true is not None:
        lines.append(("true", *true, _LIGHT))
    return _over_lines(image, lines, min_side)


def draw_labels(
    image: Pixels, labels: Sequence[NamedLabel], *, most: int = 8, min_side: int = 320
) -> Pixels:
    """An image over a strip with a line for each label; the first `most` of them.

    Args:
        image: [H, W, 3] RGB uint8.
        labels: in the order in which they are to stand.
        most: the last line says how many more there are.
        min_side: the picture is scaled up until its longer side has this many pixels.

    Returns:
        [H', W', 3] RGB uint8.
    """
    words = {"correct": "found", "false": "false", "missed": "missed", "true": "true"}
    lines: list[tuple[str, str, float | None, str]] = [
        (
            words.get(label.kind, "predicted"),
            label.name,
            label.probability,
            KIND_COLOURS.get(label.kind, KIND_COLOURS["correct"]),
        )
        for label in labels[:most]
    ]
    if len(labels) > most:
        lines.append(("", f"and {len(labels) - most} more", None, _LIGHT))
    return _over_lines(image, lines or [("", "no label", None, _LIGHT)], min_side)


def _over_lines(
    image: Pixels, lines: Sequence[tuple[str, str, float | None, str]], min_side: int
) -> Pixels:
    """An image over lines of (what it is, name, probability, colour)."""
    canvas, _ = _scaled_up(image, min_side)
    width = max(canvas.width, min_side * 3 // 4)
    font = load_font(max(13, round(min_side / 22)))
    step = round(_text_height(font) * 1.5)
    strip = Image.new("RGB", (width, canvas.height + step * len(lines) + step // 2), _DARK)
    strip.paste(canvas, ((width - canvas.width) // 2, 0))
    draw = ImageDraw.Draw(strip)
    for i, (word, name, probability, colour) in enumerate(lines):
        y = canvas.height + step // 4 + i * step + step / 2
        share = "" if probability is None else f" {100 * probability:.1f} %"
        room = width - 2 * step / 2 - font.getlength(share)
        text = f"{word}: {name}" if word else name
        draw.text((step / 2, y), fit_text(text, font, room), colour, font, "lm")
        draw.text((width - step / 2, y), share, colour, font, "rm")
    return np.asarray(strip)


def save_jpeg(path: Path, image: Pixels, *, max_side: int = 960, quality: int = 82) -> None:
    """Write a picture for the page, scaled down to `max_side` pixels at most."""
    picture = Image.fromarray(image)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    picture.save(path, "JPEG", quality=quality, optimize=True)


@lru_cache(maxsize=32)
def load_font(size: int) -> Font:
    """A sans serif of `size` pixels: matplotlib's DejaVu for its many scripts, or Pillow's own."""
    found = importlib.util.find_spec("matplotlib")
    if found and found.origin:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def fit_text(text: str, font: Font, width: float) -> str:
    """`text` on one line, shortened with an ellipsis until it is at most `width` pixels wide."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def _scaled_up(image: Pixels, min_side: int) -> tuple[Image.Image, float]:
    """A copy of the image, enlarged if need be, and by how much."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3] uint8, not {image.shape} {image.dtype}")
    canvas = Image.fromarray(image)
    scale = min_side / max(canvas.size)
    if scale <= 1:
        return canvas.copy(), 1.0
    size = (max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale)))
    # Tiny images stay made of pixels: smoothing would hide what the model saw.
    smooth = Image.Resampling.NEAREST if scale >= 8 else Image.Resampling.BICUBIC
    return canvas.resize(size, smooth), scale


def _place(box: Box, scale: float) -> Place:
    x, y, width, height = (value * scale for value in box.xywh)
    return x, y, x + max(width, 1), y + max(height, 1)


def _draw_outline(draw: ImageDraw.ImageDraw, place: Place, box: Box, thick: int) -> None:
    """A coloured line on a dark one, so that it shows on any ground."""
    left, top, right, bottom = place
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=thick + 2)
    if box.kind not in _DASHED:
        draw.rectangle(place, outline=box.colour, width=thick)
        return
    dash = 4 * thick
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        length = max(abs(x1 - x0), abs(y1 - y0))
        for start in np.arange(0, length, 2 * dash):
            a, b = start / length, min(start + dash, length) / length
            ends = (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a, x0 + (x1 - x0) * b, y0 + (y1 - y0) * b)
            draw.line(ends, fill=box.colour, width=thick)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    place: Place,
    box: Box,
    font: Font,
    taken: list[Place],
) -> None:
    """A filled label at the box, inside the picture, at the first spot no other label has."""
    pad = max(2, round(_text_height(font) / 5))
    score = "" if box.score is None else f" {box.score:.2f}"
    # The score stays whole; a name too long for the picture is shortened.
    room = size[0] - 2 * pad - font.getlength(score)
    text = fit_text(box.label, font, room) + score if box.label else score.strip()
    width, height = font.getlength(text) + 2 * pad, _text_height(font) + 2 * pad
    left, top, right, bottom = place
    spots = (
        (left, top - height),
        (left, bottom),
        (right - width, top - height),
        (left, top),
        (right - width, bottom),
        (left, bottom - height),
        (left, top - 2 * height),
    )
    inside = [
        (min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0)))
        for x, y in spots
    ]
    areas = [(x, y, x + width, y + height) for x, y in inside]
    free = [area for area in areas if not any(_overlap(area, other) for other in taken)]
    area = free[0] if free else areas[0]
    taken.append(area)
    draw.rectangle(area, fill=box.colour)
    draw.text((area[0] + pad, (area[1] + area[3]) / 2), text, _DARK, font, "lm")


def _overlap(a: Place, b: Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_height(font: Font) -> int:
    box: Any = font.getbbox("Ágjy")
    return int(box[3] - box[1])


def _with_legend(canvas: Image.Image, kinds: Sequence[Kind]) -> Image.Image:
    """The picture over a strip that says what the colours mean; wraps when it is narrow."""
    font = load_font(max(13, round(max(canvas.size) / 44)))
    step = round(_text_height(font) * 1.6)
    places: list[tuple[Kind, float, int]] = []
    x, line = step / 2, 0
    for kind in kinds:
        width = 1.6 * step + font.getlength(KIND_MEANINGS[kind]) + step
        if x + width - step > canvas.width and x > step / 2:
            x, line = step / 2, line + 1
        places.append((kind, x, line))
        x += width
    strip = Image.new("RGB", (canvas.width, canvas.height + step * (line + 1) + step // 3), _DARK)
    strip.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(strip)
    for kind, x, line in places:
        y = canvas.height + step // 6 + line * step + step / 2
        _draw_sample(draw, kind, x, y, 1.2 * step)
        text = fit_text(KIND_MEANINGS[kind], font, canvas.width - x - 1.6 * step)
        draw.text((x + 1.6 * step, y), text, _LIGHT, font, "lm")
    return strip


def _draw_sample(draw: ImageDraw.ImageDraw, kind: Kind, x: float, y: float, width: float) -> None:
    """A piece of a kind's line."""
    parts = ((0.0, 0.4), (0.6, 1.0)) if kind in _DASHED else ((0.0, 1.0),)
    for a, b in parts:
        draw.line((x + a * width, y, x + b * width, y), fill=KIND_COLOURS[kind], width=4)
