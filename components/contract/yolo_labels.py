"""The lines of YOLO label files: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 …`.

All numbers but the class are fractions of the image's width or height. A polygon becomes its own
bounding box, and is kept.

The rule for pixels: edges are rounded to 1/1000 px, and one that lies within a millionth of the
image's side of a whole pixel is that pixel. Six decimals are exact to half a millionth of the side,
so whole-pixel boxes written with six or more come back as they were, on images of any size.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from components.contract.annotation_files import FileFindings, number
from components.contract.reading import Box

_ROUNDING = 1e-3  # px
_SNAP = 1e-6  # of the image's side
# Fractions a little over 1 are boxes that stick out, which has its own check; pixels are beyond.
_LARGEST_FRACTION = 4.0
_MAX_LINES = 100_000
_MAX_NUMBERS = 20_000  # on a line
_WHOLE = re.compile(r"-?\d{1,18}(\.0+)?", re.ASCII)


@dataclass(frozen=True)
class Label:
    """One line.

    Args:
        line: its number, from 1.
        class_index: as written.
        box: centre x, centre y, width, height as fractions; of a polygon None.
        polygon: x1, y1, x2, y2, … as fractions; None where the line holds a box.
    """

    line: int
    class_index: int
    box: Box | None
    polygon: tuple[float, ...] | None

    def in_pixels(self, width: int, height: int) -> tuple[Box, str | None]:
        """Box (x, y, width, height) and segmentation (COCO polygons as JSON) in pixels."""
        if self.polygon is not None:
            xs = [to_pixels(value, width) for value in self.polygon[0::2]]
            ys = [to_pixels(value, height) for value in self.polygon[1::2]]
            flat = [value for point in zip(xs, ys, strict=True) for value in point]
            left, top = min(xs), min(ys)
            return (left, top, max(xs) - left, max(ys) - top), json.dumps([flat])
        assert self.box is not None
        x, y, wide, high = self.box
        return (
            to_pixels(x - wide / 2, width),
            to_pixels(y - high / 2, height),
            to_pixels(wide, width),
            to_pixels(high, height),
        ), None


def to_pixels(fraction: float, side: int) -> float:
    """A fraction of a side of `side` pixels, in pixels, by the rule of this module."""
    value = fraction * side
    if not math.isfinite(value):
        return value  # what is wrong with it is said by the checks
    whole = float(round(value))
    if abs(value - whole) <= max(_SNAP * side, _ROUNDING / 2):
        return whole
    return round(value, 3)


def parse_labels(text: str, num_extra: int, faults: FileFindings) -> list[Label]:
    """The lines of a label file; those that cannot be used are in `faults`.

    Args:
        text: the file's content.
        num_extra: numbers of keypoints that follow each box; 0 for none.
        faults: of the file.
    """
    labels = []
    for count, line in enumerate(text.split("\n"), 1):
        if count > _MAX_LINES:
            message = f"more than {_MAX_LINES} lines; the rest is not read"
            faults.add("annotations-unreadable", f"line {count}", message)
            break
        tokens = line.split(None, _MAX_NUMBERS)
        if tokens:
            label = _parse(tokens, count, num_extra, faults)
            if label is not None:
                labels.append(label)
    return labels


def _parse(tokens: list[str], count: int, num_extra: int, faults: FileFindings) -> Label | None:
    place = f"line {count}"
    numbers = [value for value in map(number, tokens[1:]) if value is not None]
    is_box = len(tokens) == 5 + num_extra
    has_class = _WHOLE.fullmatch(tokens[0])
    is_polygon = not num_extra and len(tokens) >= 7 and len(tokens) % 2
    if not has_class or len(numbers) != len(tokens) - 1 or not (is_box or is_polygon):
        message = "must be a class index and four fractions, or a polygon of at least three points"
        extra = f" and {num_extra} numbers of keypoints" if num_extra else ""
        faults.add(
            "box-broken" if has_class else "annotation-broken",
            place,
            message,
            " ".join(tokens[:8]),
            f"class cx cy w h{extra}, or class x1 y1 x2 y2 x3 y3 …",
        )
        return None
    if is_box:
        numbers = numbers[:4]
    if not all(map(math.isfinite, numbers)):
        message = "the box or polygon holds NaN or infinity"
        faults.add("box-not-finite", place, message, numbers, "finite fractions")
        return None
    if max(map(abs, numbers)) > _LARGEST_FRACTION:
        message = "the numbers are no fractions of the image; are they pixels?"
        faults.add("box-units", place, message, numbers, "fractions from 0 to 1")
        return None
    index = int(tokens[0].partition(".")[0])
    if is_box:
        return Label(count, index, (numbers[0], numbers[1], numbers[2], numbers[3]), None)
    return Label(count, index, None, tuple(numbers))
