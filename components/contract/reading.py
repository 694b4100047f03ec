"""What a reader hands over: the raw data set as found, and what is wrong with its annotations."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from components.contract.findings import Finding
from components.contract.tables import Task

# How data sets name their splits, and how the canonical tables do.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# Most bytes of a table of annotations (CSV, COCO JSON): about ten times as much memory is needed.
MAX_TABLE_BYTES = 1 << 30

Box = tuple[float, float, float, float]  # x, y, width, height in pixels, top left origin


@dataclass(slots=True)
class RawImage:
    """An image that the data names.

    Args:
        path: relative to the data root, `/` separated; known to lie inside it.
        split: `train`, `val`, `test` or None.
        size: width and height that the annotations declare, in pixels; None where they do not.
        where: the row or folder that names it, for messages.
        group: what it shares with other images (video, patient, product): they stay in one split;
            None where the data names none.
        columns: further columns that the data brings, by name: text, numbers, booleans or None.
    """

    path: str
    split: str | None
    size: tuple[float, float] | None
    where: str
    group: str | None = None
    columns: dict[str, Any] | None = None


@dataclass(slots=True)
class RawObject:
    """A label or a box that the data gives to an image; its numbers are as found.

    Args:
        image: position of its image in `Reading.images`.
        label: a name in `Reading.classes`.
        box: None for classification.
        area: pixels; None where the data gives none.
        is_crowd: whether the box stands for a group.
        where: the row or file that names it, for messages.
        segmentation: polygons or run lengths as COCO has them, as JSON text; None where there are
            none.
    """

    image: int
    label: str
    box: Box | None
    area: float | None
    is_crowd: bool
    where: str
    segmentation: str | None = None


@dataclass
class Reading:
    """All a reader found.

    Args:
        root: the data root.
        format: `folder`, `csv`, `coco`, `voc` or `yolo`.
        task: what the data is read for.
        classes: class names in the model's order.
        multi_label: classification: an image has any number of labels instead of one.
        images: in the order of their paths.
        objects: in the order of the data.
        splits: the splits that the data names, even if they hold no image.
        findings: what is wrong with the annotations; such rows are not in `images` and `objects`.
        fractions: the data writes boxes as fractions of the image; in `objects` they are pixels.
    """

    root: Path
    format: str
    task: Task
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    images: list[RawImage] = field(default_factory=list)
    objects: list[RawObject] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    fractions: bool = False

    def sort(self) -> None:
        """Put images in the order of their paths, so that ids do not depend on the file system."""
        order = sorted(range(len(self.images)), key=lambda index: self.images[index].path)
        if order != list(range(len(order))):
            place = {old: new for new, old in enumerate(order)}
            self.images = [self.images[index] for index in order]
            for item in self.objects:
                item.image = place[item.image]
        self.objects.sort(key=attrgetter("image"))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's collector of reference cycles rests inside the block.

    Millions of rows make no cycles, but each new one has the collector look at those before it:
    a third of the time of reading them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
