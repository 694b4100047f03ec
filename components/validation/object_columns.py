"""The labels and boxes of a reading as arrays, and how many of them there are.

A data set may have millions. One pass over their Python objects takes a tenth of a second a
million; what follows is arithmetic on arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

import numpy as np

from components.contract.reading import RawObject, Reading


def image_of(reading: Reading) -> np.ndarray:
    """[N] int64: of each object, the position of its image in `Reading.images`."""
    return _integers(map(attrgetter("image"), reading.objects), len(reading.objects))


def label_of(reading: Reading) -> np.ndarray:
    """[N] int64: of each object, the position of its label in `Reading.classes`.

    Raises:
        KeyError: a label is no class, which readers do not hand over.
    """
    place = {name: index for index, name in enumerate(reading.classes)}
    labels = map(attrgetter("label"), reading.objects)
    return _integers(map(place.__getitem__, labels), len(reading.objects))


def boxes_of(objects: list[RawObject]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [B] int64 of those that have a box, and their boxes.

    Returns:
        The positions, and [B, 4] float64 x, y, width, height in pixels, of any value.
    """
    boxes = list(map(attrgetter("box"), objects))
    rows = np.arange(len(boxes))
    if None in boxes:
        rows = np.array([row for row, box in enumerate(boxes) if box is not None], dtype=np.int64)
        boxes = [box for box in boxes if box is not None]
    numbers = chain.from_iterable(boxes)  # type: ignore[arg-type]
    return rows, np.fromiter(numbers, np.float64, 4 * len(rows)).reshape(-1, 4)


def split_of(reading: Reading, splits: Iterable[str | None]) -> np.ndarray:
    """[M] int64: of each image, the position of its split in `splits`."""
    place = {name: index for index, name in enumerate(splits)}
    names = map(attrgetter("split"), reading.images)
    return _integers(map(place.__getitem__, names), len(reading.images))


def images_per_class(reading: Reading) -> np.ndarray:
    """[C] int64: how many images have each class of `Reading.classes`."""
    num_images = max(len(reading.images), 1)
    seen = np.unique(label_of(reading) * num_images + image_of(reading))
    return np.bincount(seen // num_images, minlength=len(reading.classes))


def labels_per_split(reading: Reading, splits: list[str | None]) -> np.ndarray:
    """[S, C] int64: how many objects of each class there are in each of `splits`.

    Args:
        splits: all that images of the reading have.
    """
    num_classes = len(reading.classes)
    split = split_of(reading, splits)[image_of(reading)]
    counts = np.bincount(
        split * num_classes + label_of(reading), minlength=len(splits) * num_classes
    )
    return counts.reshape(len(splits), num_classes)


def _integers(values: Iterable[int], number: int) -> np.ndarray:
    return np.fromiter(values, np.int64, number)
