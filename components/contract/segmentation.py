"""Segmentations in COCO's form: lists of polygons, or run lengths."""

from __future__ import annotations

import json
import math
from typing import Any

_DIGIT = 0x1F  # five bits a character carry the number, the sixth says that more follow
_MORE = 0x20
_NEGATIVE = 0x10


def segmentation_fault(value: Any, size: tuple[float, float] | None) -> str | None:
    """What is wrong with a segmentation; None if nothing is.

    Args:
        value: as the JSON has it; None and an empty list are none.
        size: declared width and height of its image, pixels; None if it is not known.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _run_lengths_fault(value, size)
    if not isinstance(value, list):
        return "must be a list of polygons, or run lengths"
    for polygon in value:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "a polygon must have an even number of values, at least 6"
        if not _all_finite(polygon):
            return "a polygon must hold finite numbers only"
        if size is not None and _outside(polygon, size):
            return "a polygon lies outside the image"
    return None


def segmentation_text(value: Any) -> str | None:
    """A sound segmentation as JSON text; None where there is none."""
    return json.dumps(value, separators=(",", ":")) if value else None


def _all_finite(numbers: list[Any]) -> bool:
    if not set(map(type, numbers)) <= {int, float}:
        return False
    try:
        # Nearly always all is well, and the sum says so at once; it may also overflow.
        return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))
    except OverflowError:  # a whole number beyond all floats
        return False


def _outside(polygon: list[Any], size: tuple[float, float]) -> bool:
    xs, ys = polygon[::2], polygon[1::2]
    return max(xs) < 0 or max(ys) < 0 or min(xs) > size[0] or min(ys) > size[1]


def _run_lengths_fault(value: dict[str, Any], size: tuple[float, float] | None) -> str | None:
    shape, counts = value.get("size"), value.get("counts")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(x) is int for x in shape):
        return "broken run lengths: size must be height and width"
    height, width = shape
    if height <= 0 or width <= 0:
        return "broken run lengths: size must be height and width"
    if size is not None and (width, height) != size:
        return f"the run lengths are for {width} x {height}, the image is {size[0]:g} x {size[1]:g}"
    runs = _decode(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return "broken run lengths: counts must be whole numbers, at least 0, or their text"
    if sum(runs) != height * width:
        return f"broken run lengths: they cover {sum(runs)} pixels of {height * width}"
    return None


def _decode(text: str) -> list[int] | None:
    """Run lengths from COCO's text; None if it is broken.

    Each number is written five bits a character, lowest first, offset by 48; from the fourth on,
    it is the difference to the number two before.
    """
    runs: list[int] = []
    number = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        number |= (code & _DIGIT) << shift
        shift += 5
        if code & _MORE:
            continue
        if code & _NEGATIVE:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return None if shift else runs
