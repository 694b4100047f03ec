"""Which boxes lie on which image, from a COCO file or a CSV of boxes, for one split.

Shapes: G boxes of one image. Boxes are xyxy in pixels of the original image.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.contract.class_names import name_fault
from components.contract.coco_reader import find_files, read_coco_file
from components.contract.reading import Reading
from components.contract.split_words import split_of, split_word
from components.data.image_records import Row, read_rows, refuse_errors
from components.errors import DataError

BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")


@dataclass
class DetectionRecords:
    """The images of one split.

    Args:
        source: the file they come from.
        root: folder that `names` are relative to.
        categories: class names by the file's id.
        names: of the image files, `/` separated.
        sizes: (width, height) that the annotations declare, or None.
        boxes: by image, float64 [G, 4].
        labels: by image, class names [G].
        areas: by image, [G] pixels.
        num_crowd: boxes that stand for a group, and are left out.
        num_outside: boxes without a pixel inside the image they declare, which are left out.
    """

    source: Path
    root: Path
    categories: dict[int, str]
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[float, float] | None] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    areas: list[np.ndarray] = field(default_factory=list)
    num_crowd: int = 0
    num_outside: int = 0

    def only(self, classes: set[str]) -> None:
        """Leave out boxes of other classes, and images that hold nothing but such boxes."""
        keep = []
        for row, labels in enumerate(self.labels):
            wanted = [label in classes for label in labels]
            if any(wanted) or not labels:
                keep.append(row)
            self._select(row, np.array(wanted, dtype=bool))
        for name in ("names", "sizes", "boxes", "labels", "areas"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in keep])

    def at_least(self, area: float) -> None:
        """Leave out boxes of a smaller area, pixels; their images stay."""
        for row, areas in enumerate(self.areas):
            self._select(row, areas >= area)

    def _select(self, row: int, wanted: np.ndarray) -> None:
        self.boxes[row], self.areas[row] = self.boxes[row][wanted], self.areas[row][wanted]
        self.labels[row] = [
            label for label, keep in zip(self.labels[row], wanted, strict=True) if keep
        ]


def find_coco_file(root: Path, split: str) -> Path | None:
    """The COCO file of a split below a data root, by its name; None if there is none.

    Of several, that of the year 2017 counts.

    Raises:
        DataError: there are several, and none of them is of 2017.
    """
    found = []
    for file in find_files(root):
        if split_of(split_word(file.relative_to(root).as_posix())) == split:
            found.append(file)
    if len(found) > 1:
        usual = [file for file in found if file.stem.endswith("2017")]
        if len(usual) != 1:
            names = ", ".join(file.relative_to(root).as_posix() for file in found)
            raise DataError(
                f"{root}: several files of the {split} split: {names}; say which: {split}_ann_file"
            )
        return usual[0]
    return found[0] if found else None


def read_coco_records(data_dir: Path, file: Path, images_dir: Path | None) -> DetectionRecords:
    """The images of one COCO file, those without objects too.

    Args:
        data_dir: where images are looked up, in the folders that `coco_reader` names.
        file: the COCO file.
        images_dir: looked up here only, if given.

    Raises:
        DataError: an annotation is broken, a file is missing or outside of these folders; names
            the first few places.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; it must be a COCO JSON file")
    file, folder = file.resolve(), (images_dir or data_dir).resolve()
    root = Path(os.path.commonpath([file.parent, folder]))
    inside = folder.relative_to(root).as_posix()
    below = "" if inside == "." else inside
    reading, categories = read_coco_file(root, file, below, only=images_dir is not None)
    refuse_errors(reading.findings, file)
    if not reading.images:
        raise DataError(f"{file}: it names no image")
    for image in reading.images if root != folder else []:
        # The reader keeps to `root`, which also holds the file itself.
        if not (root / image.path).resolve().is_relative_to(folder):
            raise DataError(f"{image.where}: {image.path}: a symbolic link leads out of {folder}")
    return _as_records(reading, file, categories)


def _as_records(reading: Reading, file: Path, categories: dict[int, str]) -> DetectionRecords:
    records = DetectionRecords(file, reading.root, categories)
    rows: list[list[tuple[tuple[float, ...], str, float]]] = [[] for _ in reading.images]
    for item in reading.objects:
        assert item.box is not None
        x, y, width, height = item.box
        if not all(map(math.isfinite, item.box)):
            raise DataError(f"{item.where}: bbox = {list(item.box)}: must be finite numbers")
        size = reading.images[item.image].size or (math.inf, math.inf)
        right, bottom = min(x + width, size[0]), min(y + height, size[1])
        if item.is_crowd:
            records.num_crowd += 1
        elif right <= max(x, 0) or bottom <= max(y, 0):
            records.num_outside += 1
        else:
            area = width * height if item.area is None else item.area
            rows[item.image].append(((x, y, x + width, y + height), item.label, area))
    for image, objects in zip(reading.images, rows, strict=True):
        records.names.append(image.path)
        records.sizes.append(image.size)
        records.boxes.append(np.array([o[0] for o in objects], dtype=np.float64).reshape(-1, 4))
        records.labels.append([o[1] for o in objects])
        records.areas.append(np.array([o[2] for o in objects], dtype=np.float64))
    return records


def read_csv_records(
    file: Path,
    root: Path,
    image_column: str,
    box_columns: Sequence[str],
    label_column: str,
) -> DetectionRecords:
    """The images of a CSV file with a row per box; a row without a box names an image alone.

    Args:
        file: UTF-8, comma separated, with a header.
        root: folder of the images.
        image_column: path of the image below `root`.
        box_columns: left, top, right, bottom, in pixels.
        label_column: class name.

    Raises:
        DataError: a value is broken; names file, line, column, value and what is allowed.
    """
    if len(box_columns) != 4:
        raise ValueError(f"bbox_columns = {list(box_columns)}: must be four names: {BOX_COLUMNS}")
    _, rows = read_rows(file, [image_column, *box_columns, label_column])
    found: dict[str, list[tuple[list[float], str]]] = {}
    for row in rows:
        objects = found.setdefault(row.image(image_column, root), [])
        if any(row.values[name].strip() for name in (*box_columns, label_column)):
            fault = name_fault(row.values[label_column])
            if fault:
                raise row.error(label_column, fault)
            objects.append((_box(row, box_columns), row.values[label_column]))
    names = sorted({label for objects in found.values() for _, label in objects})
    records = DetectionRecords(file, root, dict(enumerate(names)))
    for name in sorted(found):
        boxes = np.array([box for box, _ in found[name]], dtype=np.float64).reshape(-1, 4)
        records.names.append(name)
        records.sizes.append(None)
        records.boxes.append(boxes)
        records.labels.append([label for _, label in found[name]])
        records.areas.append((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return records


def _box(row: Row, columns: Sequence[str]) -> list[float]:
    box = []
    for column in columns:
        try:
            box.append(float(row.values[column]))
        except ValueError:
            box.append(math.nan)
        if not math.isfinite(box[-1]):
            raise row.error(column, "must be a number of pixels")
    for low, high in ((0, 2), (1, 3)):
        if box[high] <= box[low]:
            raise row.error(columns[high], f"must be above {columns[low]} = {box[low]:g}")
    return box
