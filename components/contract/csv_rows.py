"""The rows of one CSV file: images, labels and boxes, and what is wrong with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract import csv_table
from components.contract.class_names import name_fault
from components.contract.coco_reader import split_word
from components.contract.findings import Finding, finding
from components.contract.image_lookup import ImageLookup
from components.contract.paths import PathEscape, resolve_inside
from components.contract.reading import SPLIT_NAMES, Box, RawImage, RawObject, Reading

_LISTED = 1000  # findings of one check in one file; the rest is only counted
_SAMPLE = 1000  # rows of a file that tell which columns are classes
_SHARED = 200_000  # texts of cells that are kept once
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_SEPARATOR = re.compile(r"[|;]")


class Labels:
    """Which labels there are, and what is wrong with one: looked at once for each text.

    Args:
        wanted: class names from the parameters, or None.
        columns: class names that are columns of 0 and 1.
    """

    def __init__(self, wanted: Sequence[str] | None, columns: Sequence[str]) -> None:
        self.wanted = None if wanted is None else set(wanted)
        self.allowed = "one of " + ", ".join(islice(wanted, 10)) if wanted else ""
        self.found = dict.fromkeys(columns)
        self.faults: dict[str, tuple[str, str, str]] = {}

    def fault(self, label: str) -> tuple[str, str, str] | None:
        """Check, message and what is allowed, if `label` can be none."""
        if label in self.found:
            return None
        if label not in self.faults:
            message = name_fault(label)
            if message:
                self.faults[label] = "class-name", message, ""
            elif self.wanted is not None and label not in self.wanted:
                message = "the data has a class that base.classes lacks"
                self.faults[label] = "class-unknown", message, self.allowed
            else:
                self.found[label] = None
                return None
        return self.faults[label]


class CsvRows:
    """Reads one CSV file; what is wrong goes to `findings`."""

    def __init__(
        self, reading: Reading, file: Path, lookup: ImageLookup, multi_label: bool
    ) -> None:
        self.reading, self.file, self.lookup = reading, file, lookup
        self.multi_label = multi_label
        self.boxes = reading.task == "detection"
        self.name = file.relative_to(reading.root).as_posix()
        beside = PurePosixPath(self.name).parent.as_posix()
        self.beside = "" if beside == "." else beside
        self.word = split_word(self.name) or split_word(self.beside)
        self.split = SPLIT_NAMES[self.word.rstrip("0123456789").lower()] if self.word else None
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.facts: list[tuple[str, ...]] = []  # of each image that this file adds
        self.start = 0  # position of the first of them
        self.places: dict[str | None, list[str]] = {}
        self.class_cells: list[tuple[str, int]] = []
        self.header: list[str] = []
        self.delimiter = ","
        self.ok = self._open()
        self.columns = csv_table.find_columns(self.header)
        self.others = dict(self.columns.others)

    def _open(self) -> bool:
        try:
            resolve_inside(self.reading.root, self.name)
            fault = csv_table.content_fault(self.file)
            if not fault:
                self.header, self.delimiter = csv_table.read_header(self.file)
                fault = csv_table.header_fault(self.header)
        except PathEscape as escape:
            self._error("path-escape", "", str(escape))
            return False
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if fault:
            self._error("annotations-unreadable", "", fault)
        return not fault

    @property
    def wants_class_columns(self) -> bool:
        """Whether labels stand in a column of 0 and 1 for each class."""
        columns = self.columns
        return self.ok and self.multi_label and columns.label is None and columns.labels is None

    def likely_classes(self) -> list[str]:
        """Columns of the user in which most cells of the first rows are 0 or 1."""
        ones: Counter[str] = Counter()
        number = 0
        for _, row in islice(csv_table.read_rows(self.file, self.delimiter), _SAMPLE):
            if len(row) == len(self.header) and not isinstance(row, str):
                number += 1
                ones.update(
                    name for name, index in self.others.items() if _flag(row[index]) is not None
                )
        return [name for name in self.others if 2 * ones[name] >= number > 0]

    def check_columns(self, found: Sequence[str], classes: Sequence[str] | None) -> bool:
        """Whether the file has the columns it must have; makes a finding of those it lacks.

        Args:
            found: names of the columns that are classes, in all files.
            classes: class names from the parameters, or None.
        """
        columns = self.columns
        missing = []
        if columns.path is None:
            missing.append(f"path ({', '.join(csv_table.PATH[1:])})")
        if self.wants_class_columns:
            missing += [name for name in found if name not in self.others]
            if not found:
                wanted = ", ".join(islice(classes, 10)) if classes else "0 and 1, one a class"
                missing.append(f"labels, or columns of {wanted}")
            self.class_cells = [
                (name, self.others.pop(name)) for name in found if name in self.others
            ]
        elif columns.label is None and not self.multi_label:
            hint = "; several labels need base.multi_label: true" if not self.boxes else ""
            missing.append(f"label ({', '.join(csv_table.LABEL[1:])}{hint})")
        if self.boxes and columns.box is None:
            missing.append("x, y, width, height (or xmin, ymin, xmax, ymax)")
        for name in missing:
            self._error("column-missing", "", f"the table lacks a column: {name}", self.header)
        for name, index in (("label", columns.label), ("labels", columns.labels)):
            used = name == (
                "labels" if self.multi_label and columns.labels is not None else "label"
            )
            if index is not None and not used:
                self.others[self.header[index].strip()] = index
        return not missing

    def read_rows(self, named: dict[str, int], labels: Labels) -> None:
        """Append this file's images and objects to the reading.

        Args:
            named: position of each image by its path; this file's are added.
            labels: all labels; this file's are added.
        """
        self.named, self.labels = named, labels
        self.start = len(self.reading.images)
        self.positions: dict[str, int | None] = {}  # by name as written; box tables only
        self._get_facts = _getter(self._fact_cells())
        self._shared: dict[str, str] = {}
        add: Callable[[int, str, list[str]], None] = self._add_label
        if self.boxes:
            self._get_box = itemgetter(*(self.columns.box or ()))
            add = self._add_box
        elif self.class_cells:
            add = self._add_flags
        elif self.multi_label:
            add = self._add_labels
        width, path = len(self.header), self.columns.path or 0
        for line, row in csv_table.read_rows(self.file, self.delimiter):
            where = f"{self.name}: line {line}"
            if isinstance(row, str):
                self._fault("label-row-broken", where, f"not a row of a CSV table: {row}")
            elif len(row) != width:
                self._fault(
                    "label-row-broken",
                    where,
                    "the row has another number of cells than the header",
                    len(row),
                    str(width),
                    row[path] if len(row) > path else "",
                )
            else:
                position = self._image(where, row)
                if position is None:
                    self._note_label(row)
                else:
                    add(position, where, row)

    def all_findings(self) -> list[Finding]:
        """The findings, and a line for each check that has too many."""
        rest = [
            finding(
                check,
                f"{self.name}: the rest",
                f"and {number - _LISTED} more like the {_LISTED} listed",
            )
            for check, number in self.counts.items()
            if number > _LISTED
        ]
        return self.findings + rest

    def _image(self, where: str, row: list[str]) -> int | None:
        """Position of the image that a row is about, None if it cannot be used."""
        columns = self.columns
        name = row[columns.path or 0]
        if self.boxes and name in self.positions:
            position = self.positions[name]
        else:
            position = self._new_image(where, name, row)
            if self.boxes:
                self.positions[name] = position
            if position is None or position == len(self.reading.images) - 1:
                return position
        if position is not None and self._get_facts:
            self._compare(position, where, row)
        return position

    def _new_image(self, where: str, name: str, row: list[str]) -> int | None:
        columns, images = self.columns, self.reading.images
        if not name.strip():
            self._fault("image-row-broken", where, "the row names no file")
            return None
        split, fault = self._split(row)
        folders = self._folders(split)
        try:
            path = self.lookup.find(name, folders)
        except PathEscape as escape:
            allowed = "a relative path inside the data"
            self._fault("path-escape", where, str(escape), name, allowed, name)
            return None
        if path is None:
            message = "there is no such image file"
            allowed = "a file in " + ", ".join(f"{folder or '.'}/" for folder in folders)
            self._fault("file-missing", where, message, name, allowed, name)
            return None
        position = self.named.setdefault(path, len(images))
        if position < len(images):
            if self.boxes and position >= self.start:
                return position
            message = f"this file is named a second time; first by {images[position].where}"
            self._fault("duplicate-image", where, message, path, image=path)
            return None
        if fault:
            self._fault("label-row-broken", where, *fault, image=path)
        if split:
            self.reading.splits.add(split)
        group = row[columns.group].strip() or None if columns.group is not None else None
        size = self._size(where, path, row) if columns.size else None
        images.append(RawImage(path, split, size, where, group))
        if self._get_facts:
            if len(self._shared) > _SHARED:
                self._shared.clear()
            share = self._shared.setdefault
            self.facts.append(tuple(share(cell, cell) for cell in self._get_facts(row)))
        return position

    def _split(self, row: list[str]) -> tuple[str | None, tuple[str, str, str] | None]:
        """The split of a row's image, and message, value and what is allowed if it is at fault."""
        text = "" if self.columns.split is None else row[self.columns.split].strip()
        split = SPLIT_NAMES.get(text.lower()) if text else self.split
        if text and split is None:
            return self.split, (
                "no split has this name",
                text,
                f"{', '.join(SPLIT_NAMES)}, or nothing",
            )
        if self.split and split != self.split:
            message = f"the split is not that of the file's name, {self.split}"
            return split, (message, text, self.split)
        return split, None

    def _size(self, where: str, path: str, row: list[str]) -> tuple[float, float] | None:
        texts = [row[index] for index in self.columns.size or ()]
        if not any(text.strip() for text in texts):
            return None
        width, height = map(_number, texts)
        if width is None or height is None:
            message = "width and height must be numbers of pixels"
            self._fault("image-row-broken", where, message, texts, image=path)
            return None
        return width, height

    def _fact_cells(self) -> list[int]:
        """Positions of the cells that must be equal in all rows of an image; the user's first."""
        columns = self.columns
        own = [columns.split, columns.group, *(columns.size or ())] if self.boxes else []
        return [*self.others.values(), *(index for index in own if index is not None)]

    def _compare(self, position: int, where: str, row: list[str]) -> None:
        first = self.facts[position - self.start]
        if first == (self._get_facts and self._get_facts(row)):
            return
        image = self.reading.images[position]
        for index, cell in zip(self._fact_cells(), first, strict=True):
            if row[index] != cell:
                self._fault(
                    "label-row-broken",
                    where,
                    f"{self.header[index].strip()} of this image differs from {image.where}",
                    row[index],
                    cell or "nothing",
                    image.path,
                )
                return

    def _note_label(self, row: list[str]) -> None:
        """A class is there even if its only image is not."""
        if self.columns.label is not None and not self.multi_label:
            self.labels.fault(row[self.columns.label])

    def _add_label(self, position: int, where: str, row: list[str]) -> None:
        label = row[self.columns.label or 0]
        if not label.strip():
            self._broken(position, where, "the image has no label")
        elif self._known(position, where, label):
            item = RawObject(position, label, None, None, False, where)
            self.reading.objects.append(item)

    def _add_labels(self, position: int, where: str, row: list[str]) -> None:
        index = self.columns.labels if self.columns.labels is not None else self.columns.label
        text = row[index or 0]
        if not text.strip():
            return
        names = [name.strip() for name in _SEPARATOR.split(text)]
        if not all(names) or len(set(names)) < len(names):
            message = "labels must be names separated by | or ;, each there once"
            self._broken(position, where, message, text)
            return
        for name in names:
            if self._known(position, where, name):
                item = RawObject(position, name, None, None, False, where)
                self.reading.objects.append(item)

    def _add_flags(self, position: int, where: str, row: list[str]) -> None:
        for name, index in self.class_cells:
            flag = _flag(row[index])
            if flag is None:
                message = f"the column {name} must be 0 or 1; if it is no class, give base.classes"
                self._broken(position, where, message, row[index], "0 or 1")
            elif flag and self._known(position, where, name):
                item = RawObject(position, name, None, None, False, where)
                self.reading.objects.append(item)

    def _add_box(self, position: int, where: str, row: list[str]) -> None:
        label = row[self.columns.label or 0]
        texts = self._get_box(row)
        path = self.reading.images[position].path
        if not label.strip():
            if any(text.strip() for text in texts):
                self._broken(position, where, "the box has no label", texts)
            return
        box = self._box(texts)
        if box is None:
            message = "a box must be four numbers of pixels"
            self._fault("box-broken", where, message, texts, "for example 10,20,30,40", path)
        if not self._known(position, where, label) or box is None:
            return
        area, is_crowd = None, False
        if self.columns.area is not None and row[self.columns.area].strip():
            area = _number(row[self.columns.area])
            if area is None or not 0 <= area < float("inf"):
                message, value = "area must be a number, at least 0", row[self.columns.area]
                self._fault("area-broken", where, message, value, image=path)
                area = None
        if self.columns.crowd is not None and row[self.columns.crowd].strip():
            flag = _flag(row[self.columns.crowd])
            if flag is None:
                message, value = "is_crowd must be 0 or 1", row[self.columns.crowd]
                self._fault("annotation-broken", where, message, value, image=path)
            is_crowd = bool(flag)
        item = RawObject(position, label, box, area, is_crowd, f"{where} of {path}")
        self.reading.objects.append(item)

    def _box(self, texts: Sequence[str]) -> Box | None:
        try:
            x, y, width, height = map(float, texts)
        except ValueError:
            return None
        if "_" in "".join(texts):  # Python takes 1_000 for a number
            return None
        return (x, y, width - x, height - y) if self.columns.corners else (x, y, width, height)

    def _known(self, position: int, where: str, label: str) -> bool:
        fault = self.labels.fault(label)
        if fault:
            check, message, allowed = fault
            path = self.reading.images[position].path
            self._fault(check, where, message, label, allowed, path)
        return not fault

    def _folders(self, split: str | None) -> list[str]:
        """Folders, relative to the root, in which images of a split are looked up."""
        if split not in self.places:
            words = [self.word] if self.word else []
            words += [word for word, name in SPLIT_NAMES.items() if name == split]
            names = [folder for word in words for folder in (word, f"images/{word}")]
            self.places[split] = self.lookup.existing([*names, "images", "", self.beside])
        return self.places[split]

    def _broken(
        self, position: int, where: str, message: str, value: Any = "", allowed: str = ""
    ) -> None:
        path = self.reading.images[position].path
        self._fault("label-row-broken", where, message, value, allowed, path)

    def _error(
        self,
        check: str,
        place: str,
        message: str,
        value: Any = "",
        allowed: str = "",
        image: str = "",
    ) -> None:
        where = f"{self.name}: {place}" if place else self.name
        self._fault(check, where, message, value, allowed, image)

    def _fault(
        self,
        check: str,
        where: str,
        message: str,
        value: Any = "",
        allowed: str = "",
        image: str = "",
    ) -> None:
        self.counts[check] += 1
        if self.counts[check] <= _LISTED:
            self.findings.append(finding(check, where, message, value, allowed, image=image))


def _getter(indices: Sequence[int]) -> Callable[[list[str]], tuple[str, ...]] | None:
    """What picks these cells of a row; None if there are none."""
    if len(indices) == 1:
        index = indices[0]
        return lambda row: (row[index],)
    return itemgetter(*indices) if indices else None


def _flag(text: str) -> bool | None:
    """A cell of 0 or 1; None for all else."""
    flag = _FLAGS.get(text)
    return _FLAGS.get(text.strip()) if flag is None else flag


def _number(text: str) -> float | None:
    """A cell as a number, NaN and infinity included; None for all else."""
    if "_" in text:  # Python takes 1_000 for a number
        return None
    try:
        return float(text)
    except ValueError:
        return None
