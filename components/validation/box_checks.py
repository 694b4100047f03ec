"""Checks of boxes, all boxes of a data set at once.

Boxes are x, y, width, height in pixels, top left origin. A row of `_Boxes` is one box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.contract.findings import Finding, finding
from components.contract.reading import RawObject, Reading
from components.validation.ledger import Offenders
from components.validation.object_columns import ObjectColumns
from components.validation.pixel_pass import ImageFacts

_ROUNDING = 1.0  # pixels a box may stick out: tools round, and count from 0 or 1
_TINY_BOX = 3.0  # pixels at training size
_LARGE_BOX = 0.95  # share of the image
_LONG_BOX = 50.0  # longer side over shorter
_SAME_BOX = 0.95  # IoU
_MANY_BOXES = 300
_NEIGHBOURS = 32  # boxes that begin near a box and are compared with it
_BLOCK = 8192  # boxes compared at once
_MOST_COMPARED = 10_000  # boxes of one image; beyond, only equal ones are sought
_MIXER = 0x9E3779B97F4A7C15  # an odd number whose bits are well mixed
_UNIT = 1.0 + 1e-6  # where fractions end
_UNIT_SIDE = 2.0  # pixels: from here on the sides of a box cannot be fractions
_FARTHEST = 1e9  # pixels
_UNIT_IMAGE = 8  # pixels: in smaller images fractions and pixels cannot be told apart
# Whether boxes are written as fractions: message, and what is allowed.
_UNITS = {
    False: ("the box lies within 0 to 1: a fraction of the image, not pixels", "pixels"),
    True: ("the box is in pixels, not in fractions of the image", "fractions from 0 to 1"),
}

Describe = Callable[[RawObject, int], Finding]


@dataclass(frozen=True)
class _Boxes:
    """The boxes of a reading as arrays, in its order.

    Args:
        rows: [N] position in `Reading.objects`.
        images: [N] position in `Reading.images`.
        xywh: [N, 4] pixels.
        sizes: [N, 2] width and height of the box's image, pixels; NaN if it cannot be decoded.
        finite: [N] all four numbers are finite, and such as the tables can hold.
        sound: [N] finite, with a width and a height.
    """

    rows: np.ndarray
    images: np.ndarray
    xywh: np.ndarray
    sizes: np.ndarray
    finite: np.ndarray
    sound: np.ndarray


def check_boxes(
    reading: Reading,
    facts: Sequence[ImageFacts],
    columns: ObjectColumns,
    training_size: tuple[int, int] | None,
) -> Iterator[Finding | Offenders]:
    """Boxes that are none, do not fit their image, are of an odd size, or repeat another.

    Args:
        reading: what the reader found.
        facts: of each image of `reading.images`.
        columns: of its objects.
        training_size: height and width that images are brought to, keeping their aspect, before
            training; None judges tiny boxes at the size they have.
    """
    boxes = _boxes(facts, columns)
    if not len(boxes.rows):
        return
    x, y, width, height = boxes.xywh.T
    image_width, image_height = boxes.sizes.T

    def offenders(check: str, mask: np.ndarray, describe: Describe) -> Iterator[Offenders]:
        found = np.flatnonzero(mask)
        if len(found):
            yield Offenders(
                check,
                boxes.images[found],
                lambda number: describe(
                    reading.objects[boxes.rows[found[number]]], int(found[number])
                ),
            )

    def simple(check: str, message: str, allowed: str) -> Describe:
        return lambda item, _: finding(
            check, item.where, message, item.box, allowed, image=reading.images[item.image].path
        )

    def inside(row: int) -> str:
        return f"inside 0, 0, {image_width[row]:g}, {image_height[row]:g}"

    wrong_unit, surely = _wrong_unit(boxes, reading.fractions)
    message, allowed = _UNITS[reading.fractions]
    if boxes.sound.any() and wrong_unit[boxes.sound].all() and surely.any():
        first = reading.objects[boxes.rows[np.flatnonzero(wrong_unit)[0]]]
        yield finding("box-units", reading.root.name, f"all boxes: {message}", first.box, allowed)
    else:
        wrong_unit &= surely
        yield from offenders("box-units", wrong_unit, simple("box-units", message, allowed))
    yield from offenders(
        "box-not-finite",
        ~boxes.finite,
        simple("box-not-finite", "the box holds NaN or infinity", "four finite numbers"),
    )
    yield from offenders(
        "box-empty",
        boxes.finite & ~boxes.sound,
        simple("box-empty", "the box has no width or no height", "width > 0 and height > 0"),
    )
    judged = boxes.sound & ~wrong_unit  # where it lies is not known before the unit is
    outside = (x >= image_width) | (y >= image_height) | (x + width <= 0) | (y + height <= 0)
    outside &= judged & ~np.isnan(image_width)
    yield from offenders(
        "box-outside",
        outside,
        lambda item, row: simple("box-outside", "the box lies outside the image", inside(row))(
            item, row
        ),
    )
    edges = np.stack([-x, -y, x + width - image_width, y + height - image_height])
    sticks_out = edges.max(axis=0)
    yield from offenders(
        "box-partly-outside",
        judged & ~outside & (sticks_out > _ROUNDING),
        lambda item, row: simple(
            "box-partly-outside",
            f"the box sticks out of the image by {sticks_out[row]:g} px and will be cut",
            inside(row),
        )(item, row),
    )
    yield from offenders(
        "large-box",
        judged & ~outside & (width * height > _LARGE_BOX * image_width * image_height),
        simple("large-box", "the box covers nearly the whole image", f"at most {_LARGE_BOX:.0%}"),
    )
    side = np.minimum(width, height) * _scales(boxes.sizes, training_size)
    yield from offenders(
        "tiny-box",
        judged & (side < _TINY_BOX),
        lambda item, row: simple(
            "tiny-box",
            f"a very small box: {side[row]:.1f} px at training size"
            if training_size
            else "a very small box",
            f"sides of {_TINY_BOX:g} px",
        )(item, row),
    )
    yield from offenders(
        "long-box",
        boxes.sound & (np.maximum(width, height) > _LONG_BOX * np.minimum(width, height)),
        simple("long-box", "a very long box", f"at most {_LONG_BOX:g} to 1"),
    )
    numbers = np.bincount(boxes.images, minlength=len(reading.images))
    for index in np.flatnonzero(numbers > _MANY_BOXES):
        path = reading.images[index].path
        message, allowed = "very many boxes", f"at most {_MANY_BOXES}"
        if numbers[index] > _MOST_COMPARED:
            message += f"; of more than {_MOST_COMPARED:,} only equal ones are told"
        yield finding("many-boxes", path, message, int(numbers[index]), allowed, image=path)
    yield from _check_repeated(reading, columns, boxes)


def _check_repeated(reading: Reading, columns: ObjectColumns, boxes: _Boxes) -> Iterator[Offenders]:
    """Boxes that lie on another of the same image; each is reported once."""
    keep = np.flatnonzero(boxes.sound & ~columns.is_crowd[boxes.rows])
    first, second = _repeats(boxes.images[keep], boxes.xywh[keep])
    images = boxes.images[keep[second]]
    first, second = boxes.rows[keep[first]], boxes.rows[keep[second]]
    same = columns.label[first] == columns.label[second]
    for check, message, mask in (
        ("duplicate-box", "the same box twice with the same class", same),
        ("contradictory-box", "the same box with two classes", ~same),
    ):
        if mask.any():
            pairs = np.stack([first[mask], second[mask]], axis=1)
            yield Offenders(check, images[mask], _describe_pair(reading, check, message, pairs))


def _describe_pair(
    reading: Reading, check: str, message: str, pairs: np.ndarray
) -> Callable[[int], Finding]:
    def describe(number: int) -> Finding:
        one, two = (reading.objects[row] for row in pairs[number])
        labels = f"{one.label} and {two.label}"
        path = reading.images[two.image].path
        return finding(check, two.where, message, labels, f"once; also in {one.where}", image=path)

    return describe


def _boxes(facts: Sequence[ImageFacts], columns: ObjectColumns) -> _Boxes:
    rows, xywh = columns.boxes
    images = columns.image[rows]
    each = [(np.nan, np.nan) if fact.fault else (fact.width, fact.height) for fact in facts]
    sizes = np.array(each, dtype=np.float64).reshape(-1, 2)[images]
    finite = np.asarray((np.abs(xywh) <= _FARTHEST).all(axis=1))  # false for NaN
    sound = finite & (xywh[:, 2] > 0) & (xywh[:, 3] > 0)
    return _Boxes(rows, images, xywh, sizes, finite, sound)


def _wrong_unit(boxes: _Boxes, fractions: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes look as if written in the other unit [N], and which of them surely are [N].

    Args:
        boxes: in pixels, by the unit that the format has.
        fractions: the format writes fractions of the image, else pixels.
    """
    known = boxes.sound & (boxes.sizes.min(axis=1) >= _UNIT_IMAGE)
    if not fractions:
        inside = (boxes.xywh >= 0) & (boxes.xywh <= _UNIT)
        inside[:, :2] &= boxes.xywh[:, :2] + boxes.xywh[:, 2:] <= _UNIT
        # 0, 0, 1, 1 may be one pixel.
        whole = (boxes.xywh == np.round(boxes.xywh)).all(axis=1)
        return known & inside.all(axis=1), ~whole
    written = boxes.xywh / np.tile(boxes.sizes, 2)
    # More than twice the image's size as fractions, but inside of it as pixels.
    fits = (written[:, 2:] >= _UNIT_SIDE) & (written[:, :2] >= -_ROUNDING)
    fits &= written[:, :2] + written[:, 2:] <= boxes.sizes + _ROUNDING
    return known & fits.all(axis=1), np.ones(len(fits), dtype=bool)


def _scales(sizes: np.ndarray, training_size: tuple[int, int] | None) -> np.ndarray:
    """[N] factor from the image to training size; 1 where that would enlarge, or is not known."""
    if training_size is None:
        return np.ones(len(sizes))
    height, width = training_size
    scales = np.minimum(height / sizes[:, 1], width / sizes[:, 0])
    return np.fmin(scales, 1.0)


def _repeats(images: np.ndarray, xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with an IoU above `_SAME_BOX` with an earlier box of the same image.

    Boxes that begin at nearly the same x, or the same y, are compared, at most `_NEIGHBOURS` of
    them with each: enough but for piles of them, of which some are found. Of images with more than
    `_MOST_COMPARED` different boxes, only equal boxes are.

    Args:
        images: [N] image of each box.
        xywh: [N, 4], with a width and a height.

    Returns:
        [R] an earlier box, and [R] the box that repeats it, which occurs only once.
    """
    order = np.argsort(_keys(images, xywh), kind="stable")  # equal boxes stand together
    ordered = xywh[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = images[order][1:] != images[order][:-1]
    fresh[1:] |= (ordered[1:] != ordered[:-1]).any(axis=1)
    leaders = order[fresh]  # the earliest of each run of equal boxes
    firsts, seconds = [leaders[np.cumsum(fresh) - 1][~fresh]], [order[~fresh]]
    leaders = leaders[np.bincount(images[leaders])[images[leaders]] <= _MOST_COMPARED]
    for axis in (0, 1):
        begin, across = xywh[leaders, axis], xywh[leaders, 1 - axis]
        members = leaders[np.lexsort((across, begin, images[leaders]))]
        one, two = _near_pairs(images[members], xywh[members], axis)
        firsts.append(np.minimum(members[one], members[two]))
        seconds.append(np.maximum(members[one], members[two]))
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    order = np.lexsort((first, second))
    first, second = first[order], second[order]
    keep = np.ones(len(second), dtype=bool)
    keep[1:] = second[1:] != second[:-1]
    return first[keep], second[keep]


def _keys(images: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """[N] uint64 that are equal for equal boxes of an image, and rarely for others."""
    keys = images.astype(np.uint64)
    for numbers in (xywh + 0.0).T:  # which makes -0 to 0
        keys = (keys ^ np.ascontiguousarray(numbers).view(np.uint64)) * np.uint64(_MIXER)
        keys ^= keys >> np.uint64(29)
    return keys


def _near_pairs(images: np.ndarray, xywh: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of alike boxes among those whose x (axis 0) or y (axis 1) is nearly the same.

    Args:
        images: [N] image of each box.
        xywh: [N, 4], sorted by image and the axis.
        axis: 0 or 1.
    """
    left, top, width, height = np.ascontiguousarray(xywh.T)
    right, bottom, area = left + width, top + height, width * height
    start = (left, top)[axis]
    # A box that begins further on shares too little: at IoU t, the shift is at most (1/t - 1) side.
    reach = start + (1 / _SAME_BOX - 1) * (width, height)[axis]
    repeated = np.zeros(len(xywh), dtype=bool)
    firsts, seconds = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    # Blocks of boxes stay in the processor's cache while they are compared with their neighbours.
    for block in range(0, len(xywh), _BLOCK):
        near = np.ones(min(_BLOCK, len(xywh) - block), dtype=bool)
        for step in range(1, _NEIGHBOURS + 1):
            near = near[: len(xywh) - block - step]
            one, two = (slice(at, at + len(near)) for at in (block, block + step))
            near &= (start[two] <= reach[one]) & (images[one] == images[two])
            if not near.any():
                break
            shared = np.minimum(right[one], right[two]) - np.maximum(left[one], left[two])
            across = np.minimum(bottom[one], bottom[two]) - np.maximum(top[one], top[two])
            shared = np.maximum(shared, 0) * np.maximum(across, 0)
            alike = near & (shared / (area[one] + area[two] - shared) > _SAME_BOX)
            firsts.append(block + np.flatnonzero(alike))
            seconds.append(firsts[-1] + step)
            # What is like a box that repeats another is, nearly, like that other.
            repeated[seconds[-1]] = True
            near &= ~repeated[one]
    return np.concatenate(firsts), np.concatenate(seconds)
