"""The annotations of a COCO file, read column by column, with what is wrong in each.

`known[i]` says for every row whether what was read of it so far is usable. Rows are let go as soon
as they are read: a million of them and their objects together would take twice the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, compress, islice
from types import NoneType
from typing import Any

import numpy as np

from components.contract.annotation_values import json_number, json_whole
from components.contract.file_findings import FileFindings
from components.contract.reading import Box, RawImage, RawObject
from components.contract.segmentation import segmentation_fault, segmentation_text

_ROWS = 50_000  # read at once


@dataclass(frozen=True)
class CocoImages:
    """The images of one COCO file.

    Args:
        positions: in `Reading.images`, by image id; None for one that cannot be used.
        paths: by image id: the image's path, or its name where there is no file.
    """

    positions: dict[int, int | None]
    paths: dict[int, str]


def read_annotations(
    rows: list[Any],
    images: CocoImages,
    all_images: list[RawImage],
    categories: Mapping[int, str],
    wanted: set[str],
    faults: FileFindings,
) -> list[RawObject]:
    """The objects that annotations give to usable images, in the order of the rows.

    Args:
        rows: the list `annotations` as the JSON has it; it is emptied.
        images: of the file.
        all_images: `Reading.images`, that `images` points into.
        categories: class names by id.
        wanted: classes of which objects are taken.
        faults: what is wrong is added to it.
    """
    objects: list[RawObject] = []
    seen: set[int] = set()
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        rows[start : start + _ROWS] = [None] * len(some)
        table = _Annotations(some, start, images, faults)
        table.check_ids(seen)
        objects += _objects(table, all_images, categories, wanted)
    rows.clear()
    return objects


def _objects(
    table: _Annotations,
    all_images: list[RawImage],
    categories: Mapping[int, str],
    wanted: set[str],
) -> list[RawObject]:
    positions = table.positions()
    labels = table.labels(categories)
    boxes = table.boxes()
    areas = table.areas()
    crowds = table.crowds()
    masks = table.masks(positions, all_images)
    # A row of an image that is unusable, or of a class that is not wanted, has had its finding.
    used = [
        known and box is not None and position is not None and label in wanted
        for known, box, position, label in zip(table.known, boxes, positions, labels, strict=True)
    ]
    places = list(compress(positions, used))
    head = f"{table.faults.name}: annotations"
    numbers = range(table.start, table.start + len(used))
    where = [
        f"{head}[{number}] of {all_images[place].path}"  # type: ignore[index]
        for number, place in zip(compress(numbers, used), places, strict=True)
    ]
    columns = (compress(column, used) for column in (labels, boxes, areas, crowds))
    return list(map(RawObject, places, *columns, where, compress(masks, used)))


class _Annotations:
    """Rows of one file, from `start` on, as columns, each with its faults told."""

    def __init__(
        self, rows: list[Any], start: int, images: CocoImages, faults: FileFindings
    ) -> None:
        self.start, self.images, self.faults = start, images, faults
        self.known = [type(row) is dict for row in rows]
        if not all(self.known):
            for index in self._not(self.known):
                self._tell("annotation-broken", index, "must be an object", rows[index], image="")
            rows = [row if type(row) is dict else {} for row in rows]
        self.rows: list[dict[str, Any]] = rows
        self.image_ids = self._column("image_id")

    def check_ids(self, seen: set[int]) -> None:
        """Ids must be whole numbers, each there once; a row needs none. `seen` is added to."""
        ids = self._column("id")
        if not set(map(type, ids)) - {int}:
            distinct = set(ids)
            if len(distinct) == len(ids) and distinct.isdisjoint(seen):
                seen |= distinct
                return
        for index, value in enumerate(ids):
            number = json_whole(value)
            if value is None:
                continue
            if number is None:
                self._tell("annotation-broken", index, "id must be a whole number", value)
            elif number in seen:
                self._tell("duplicate-annotation-id", index, "this id is used twice", number)
            else:
                seen.add(number)

    def positions(self) -> list[int | None]:
        """Positions of the images; None where they cannot be used. Unknown ids are told."""
        numbers, positions = self.image_ids, self.images.positions
        fits = [type(number) is int and number in positions for number in numbers]
        for index in self._not(fits):
            message = "image_id names no image of the file"
            self._tell("image-id-unknown", index, message, numbers[index], image="")
        self._restrict(fits)
        if all(fits):
            return list(map(positions.__getitem__, numbers))
        return [
            positions[number] if fit else None for number, fit in zip(numbers, fits, strict=True)
        ]

    def labels(self, categories: Mapping[int, str]) -> list[str]:
        """Class names; empty where the id is unknown, which is told."""
        numbers = self._column("category_id")
        labels = [categories.get(number, "") if type(number) is int else "" for number in numbers]
        fits = [label != "" for label in labels]
        names = ", ".join(f"{key} ({name})" for key, name in islice(categories.items(), 10))
        for index in self._not(fits):
            message, value = "category_id names no category of the file", numbers[index]
            self._tell("class-unknown", index, message, value, f"one of {names}")
        self._restrict(fits)
        return labels

    def boxes(self) -> list[Box | None]:
        """Boxes; None where there is none, which is told."""
        values = self._column("bbox")
        boxes = _clean_boxes(values)
        if boxes is not None:
            return boxes
        boxes = [_box(value) for value in values]
        for index in self._not([box is not None for box in boxes]):
            message = "bbox must be four numbers: x, y, width, height in pixels"
            allowed = "for example [10, 20, 30, 40]"
            self._tell("box-broken", index, message, values[index], allowed)
        return boxes

    def areas(self) -> list[float | None]:
        """Areas; None where the row has none, or none that is one, which is told."""
        values = self._column("area")
        if not set(map(type, values)) - {int, float}:
            found = _float_array(values)
            if found is not None and ((found >= 0) & (found < np.inf)).all():
                return found.tolist()
        areas = [None if value is None else json_number(value) for value in values]
        fits = [
            value is None or (area is not None and 0 <= area < math.inf)
            for value, area in zip(values, areas, strict=True)
        ]
        for index in self._not(fits):
            self._tell("area-broken", index, "area must be a number, at least 0", values[index])
            areas[index] = None
        return areas

    def crowds(self) -> list[bool]:
        """Whether a box stands for a group; what is neither 0 nor 1 is told."""
        values = [row.get("iscrowd", 0) for row in self.rows]
        if not set(map(type, values)) - {int} and set(values) <= {0, 1}:
            return list(map(bool, values))
        for index in self._not([value in (0, 1) for value in values]):
            self._tell("annotation-broken", index, "iscrowd must be 0 or 1", values[index])
            values[index] = 0
        return list(map(bool, values))

    def masks(self, positions: list[int | None], images: list[RawImage]) -> list[str | None]:
        """Segmentations as text; None where there is none, or a broken one, which is told."""
        values = self._column("segmentation")
        masks: list[str | None] = [None] * len(values)
        if not any(values) and not set(map(type, values)) - {list, NoneType}:
            return masks
        for index, value in enumerate(values):
            if value is not None and value != [] and self.known[index]:
                place = positions[index]
                size = None if place is None else images[place].size
                fault = segmentation_fault(value, size)
                if fault:
                    self._tell("segmentation-broken", index, fault)
                else:
                    masks[index] = segmentation_text(value)
        return masks

    def _column(self, key: str) -> list[Any]:
        return [row.get(key) for row in self.rows]

    def _not(self, fits: list[bool]) -> Iterator[int]:
        """Rows that do not fit; those that are known to be unusable have had their finding."""
        if all(fits):
            return iter(())
        return (
            index
            for index, (fit, known) in enumerate(zip(fits, self.known, strict=True))
            if not fit and (known or fits is self.known)
        )

    def _restrict(self, fits: list[bool]) -> None:
        if not all(fits):
            self.known = [a and b for a, b in zip(self.known, fits, strict=True)]

    def _tell(
        self,
        check: str,
        index: int,
        message: str,
        value: Any = "",
        allowed: str = "",
        image: str | None = None,
    ) -> None:
        if image is None:
            number = json_whole(self.image_ids[index])
            image = "" if number is None else self.images.paths.get(number, "")
        place = f"annotations[{self.start + index}]"
        self.faults.add(check, place, message, value, allowed, image)


def _clean_boxes(values: list[Any]) -> list[Box | None] | None:
    """The boxes if all of them are four plain numbers; else None."""
    if set(map(type, values)) - {list} or set(map(len, values)) - {4}:
        return None
    flat = list(chain.from_iterable(values))
    if set(map(type, flat)) - {int, float}:
        return None
    numbers = _float_array(flat)
    return None if numbers is None else list(zip(*numbers.reshape(-1, 4).T.tolist(), strict=True))


def _float_array(values: list[int | float]) -> np.ndarray | None:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number beyond all floats
        return None


def _box(value: Any) -> Box | None:
    numbers = [json_number(item) for item in value] if isinstance(value, list) else []
    found = [item for item in numbers if item is not None]
    return (found[0], found[1], found[2], found[3]) if len(numbers) == len(found) == 4 else None
