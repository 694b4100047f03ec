"""One CSV file: what its columns hold, the images that its rows name, and what is wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from components.contract.annotation_values import number
from components.contract.csv_cells import Cells, Column, content_fault, read_cells
from components.contract.csv_header import (
    LABEL,
    PATH,
    find_columns,
    header_fault,
    read_header,
)
from components.contract.csv_objects import (
    CsvRows,
    Labels,
    box_objects,
    flag_objects,
    flag_of,
    label_objects,
    several_labels,
)
from components.contract.data_files import DataFiles
from components.contract.file_findings import FileFindings
from components.contract.paths import PathEscape, resolve_inside
from components.contract.reading import SPLIT_NAMES, RawImage, Reading
from components.contract.split_words import image_folders, split_of, table_word

_SAMPLE = 1000  # rows of a file that tell which columns are classes


class CsvFile:
    """Reads one CSV file; what is wrong goes to `faults`."""

    def __init__(self, reading: Reading, file: Path, files: DataFiles, multi_label: bool) -> None:
        self.reading, self.file, self.files = reading, file, files
        self.multi_label = multi_label
        self.boxes = reading.task == "detection"
        self.name = file.relative_to(reading.root).as_posix()
        self.faults = FileFindings(self.name)
        beside = PurePosixPath(self.name).parent.as_posix()
        self.beside = "" if beside == "." else beside
        self.word = table_word(self.name)
        self.split = split_of(self.word)
        self.class_cells: list[tuple[str, int]] = []  # columns of 0 and 1: class, position
        self.header: list[str] = []
        self.delimiter = ","
        self.ok = self._open()
        self.columns = find_columns(self.header)
        self.others = dict(self.columns.others)
        self.image_rows = np.empty(0, dtype=np.int64)  # of the images that this file adds
        self.start = 0  # position of the first of them in the reading
        self._places: dict[str | None, list[str]] = {}

    def _open(self) -> bool:
        try:
            resolve_inside(self.reading.root, self.name)
            fault = content_fault(self.file)
            if not fault:
                self.header, self.delimiter = read_header(self.file)
                fault = header_fault(self.header)
        except PathEscape as escape:
            self.faults.add("path-escape", "", str(escape))
            return False
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if fault:
            self.faults.add("annotations-unreadable", "", fault)
        return not fault

    @property
    def wants_class_columns(self) -> bool:
        """Whether labels stand in a column of 0 and 1 for each class."""
        columns = self.columns
        return self.ok and self.multi_label and columns.label is None and columns.labels is None

    def likely_classes(self) -> list[str]:
        """Columns of the user in which most cells of the first rows are 0 or 1."""
        found = []
        for name, index in self.others.items():
            column = self.cells.columns[index]
            are = [flag_of(text) is not None for text in column.texts]
            first = np.array(are, dtype=bool)[column.codes[:_SAMPLE]]
            if len(first) and first.mean() >= 0.5:
                found.append(name)
        return found

    def check_columns(self, found: Sequence[str], classes: Sequence[str] | None) -> bool:
        """Whether the file has the columns it must have; makes a finding of those it lacks.

        Args:
            found: names of the columns that are classes, in all files.
            classes: class names from the parameters, or None.
        """
        columns = self.columns
        missing = []
        if columns.path is None:
            missing.append(f"path ({', '.join(PATH[1:])})")
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
            missing.append(f"label ({', '.join(LABEL[1:])}{hint})")
        if self.boxes and columns.box is None:
            missing.append("x, y, width, height (or xmin, ymin, xmax, ymax)")
        for name in missing:
            message = f"the table lacks a column: {name}"
            self.faults.add("column-missing", "", message, self.header)
        for name, index in (("label", columns.label), ("labels", columns.labels)):
            used = name == (
                "labels" if self.multi_label and columns.labels is not None else "label"
            )
            if index is not None and not used:
                self.others[self.header[index].strip()] = index
        return not missing

    @cached_property
    def cells(self) -> Cells:
        """The rows that have as many cells as the header; the others are told."""
        return read_cells(self.file, self.delimiter, len(self.header), self._tell_broken)

    def _tell_broken(self, line: int, row: list[str] | str) -> None:
        place, check = f"line {line}", "label-row-broken"
        if isinstance(row, str):
            self.faults.add(check, place, f"not a row of a CSV table: {row}")
            return
        path = self.columns.path or 0
        image = row[path] if len(row) > path else ""
        message = "the row has another number of cells than the header"
        self.faults.add(check, place, message, len(row), str(len(self.header)), image)

    def read_rows(self, named: dict[str, str], labels: Labels) -> None:
        """Append this file's images and objects to the reading.

        Args:
            named: where each image was named first, by its path; this file's are added.
            labels: all labels; this file's are added.
        """
        self.start = len(self.reading.images)
        cells, columns = self.cells, self.columns
        names = cells.columns[columns.path or 0]
        if self.boxes:  # rows of one image: the first tells what the image is
            chosen, inverse = _first_rows(names)
        else:
            chosen = inverse = np.arange(len(cells.lines))
        positions = self._add_images(chosen, named)
        rows = CsvRows(cells, columns, positions[inverse], self.reading.images, labels, self.faults)
        if self.boxes:
            self._compare(rows)
            self.reading.objects += box_objects(rows)
        elif self.class_cells:
            self.reading.objects += flag_objects(rows, self.class_cells)
        elif self.multi_label:
            self.reading.objects += several_labels(rows)
        else:
            self.reading.objects += label_objects(rows)

    def _add_images(self, rows: np.ndarray, named: dict[str, str]) -> np.ndarray:
        """Append the images that rows name; their positions, -1 where one cannot be used."""
        columns, tell = self.columns, self.faults.add
        texts = self._texts(columns.path, rows)
        splits = {text: self._split(text) for text in set(self._texts(columns.split, rows))}
        has_label = [True] * len(rows)
        if not self.boxes and not self.multi_label:
            has_label = [bool(text.strip()) for text in self._texts(columns.label, rows)]
        facts = zip(
            rows.tolist(),
            self.cells.lines[rows].tolist(),
            texts,
            self._texts(columns.split, rows),
            self._texts(columns.group, rows),
            zip(*(self._texts(index, rows) for index in columns.size or (None, None)), strict=True),
            has_label,
            strict=True,
        )
        positions, made = [], []
        here: dict[str, int] = {}  # path of an image of this file: its position
        images = self.reading.images
        for row, line, name, split_text, group, size, labelled in facts:
            split, fault = splits[split_text]
            place = f"line {line}"
            path = self._find(place, name, split)
            if path is None:
                positions.append(-1)
            elif path in here and self.boxes:  # the same image under another name
                positions.append(here[path])
            elif path in named:
                message = f"this file is named a second time; first by {named[path]}"
                tell("duplicate-image", place, message, path, image=path)
                positions.append(-1)
            elif not labelled:
                named[path] = f"{self.name}: {place}"
                message = "an image without a label is not used"
                tell("image-without-label", place, message, image=path)
                positions.append(-1)
            else:
                if fault:
                    tell("label-row-broken", place, *fault, image=path)
                if split:
                    self.reading.splits.add(split)
                here[path] = len(images)
                named[path] = where = f"{self.name}: {place}"
                declared = self._size(place, path, size) if columns.size else None
                positions.append(len(images))
                made.append(row)
                images.append(RawImage(path, split, declared, where, group.strip() or None))
        self.image_rows = np.array(made, dtype=np.int64)
        return np.array(positions, dtype=np.int64)

    def _texts(self, index: int | None, rows: np.ndarray) -> list[str]:
        """Cells of a column; empty ones where the table has no such column."""
        return [""] * len(rows) if index is None else self.cells.columns[index].pick(rows)

    def _find(self, place: str, name: str, split: str | None) -> str | None:
        """The path of an image; None if there is none to be used, which is told."""
        if split not in self._places:
            folders = image_folders(self.word, split, self.beside)
            self._places[split] = self.files.existing(folders)
        folders = self._places[split]
        if not name.strip():
            self.faults.add("image-row-broken", place, "the row names no file")
            return None
        try:
            path = self.files.find(name, folders)
        except PathEscape as escape:
            allowed = "a relative path inside the data"
            self.faults.add("path-escape", place, str(escape), name, allowed, name)
            return None
        if path is None:
            message = "there is no such image file"
            allowed = "a file in " + ", ".join(f"{folder or '.'}/" for folder in folders)
            self.faults.add("file-missing", place, message, name, allowed, name)
        return path

    def _split(self, text: str) -> tuple[str | None, tuple[str, str, str] | None]:
        """The split of a row's image, and message, value and what is allowed if it is at fault."""
        text = text.strip()
        split = SPLIT_NAMES.get(text.lower()) if text else self.split
        if text and split is None:
            allowed = f"{', '.join(SPLIT_NAMES)}, or nothing"
            return self.split, ("no split has this name", text, allowed)
        if self.split and split != self.split:
            message = f"the split is not that of the file's name, {self.split}"
            return split, (message, text, self.split)
        return split, None

    def _size(self, place: str, path: str, texts: Sequence[str]) -> tuple[float, float] | None:
        if not any(text.strip() for text in texts):
            return None
        width, height = map(number, texts)
        if width is None or height is None:
            message = "width and height must be numbers of pixels"
            self.faults.add("image-row-broken", place, message, list(texts), image=path)
            return None
        return width, height

    def _compare(self, rows: CsvRows) -> None:
        """Tell of rows that say otherwise of an image than its first row does."""
        columns = self.columns
        own = [columns.split, columns.group, *(columns.size or ())]
        usable = np.flatnonzero(rows.places >= 0)
        first = self.image_rows[rows.places[usable] - self.start]
        told = np.zeros(len(usable), dtype=bool)
        for index in (*self.others.values(), *(index for index in own if index is not None)):
            column = self.cells.columns[index]
            differs = (column.codes[usable] != column.codes[first]) & ~told
            told |= differs
            for row in rows.listed("label-row-broken", usable[differs]):
                model = int(self.image_rows[rows.places[row] - self.start])
                where = rows.images[rows.places[row]].where
                message = f"{self.header[index].strip()} of this image differs from {where}"
                value, expected = column.texts[column.codes[row]], column.texts[column.codes[model]]
                rows.tell("label-row-broken", row, message, value, expected or "nothing")


def _first_rows(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each different text, in order, and for every row which of these it is."""
    number = len(column.codes)
    first = np.full(len(column.texts), number)
    first[column.codes[::-1]] = np.arange(number)[::-1]  # the last that is written stays
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order][: int((first < number).sum())], rank[column.codes]
