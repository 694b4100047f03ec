"""What the rows of a CSV file give to its images: labels or boxes, and what is wrong with them.

Shapes: N rows. Every text is judged once, however many rows have it; only rows at fault are looked
at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np

from components.contract.annotation_values import number, numbers
from components.contract.class_names import name_fault
from components.contract.csv_cells import Cells, Column
from components.contract.csv_header import Columns
from components.contract.file_findings import FileFindings
from components.contract.reading import RawImage, RawObject

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_SEPARATOR = re.compile(r"[|;]")


class Labels:
    """Which labels there are, over all files, and what is wrong with one.

    Args:
        wanted: class names from the parameters, or None.
        columns: class names that are columns of 0 and 1.
    """

    def __init__(self, wanted: Sequence[str] | None, columns: Sequence[str]) -> None:
        self.wanted = None if wanted is None else set(wanted)
        self.allowed = "one of " + ", ".join(islice(wanted, 10)) if wanted else ""
        self.found = dict.fromkeys(columns)

    def fault(self, label: str) -> tuple[str, str, str] | None:
        """Check, message and what is allowed, if `label` can be none; else it is one from now."""
        message = name_fault(label)
        if message:
            return "class-name", message, ""
        if self.wanted is not None and label not in self.wanted:
            return "class-unknown", "the data has a class that base.classes lacks", self.allowed
        self.found[label] = None
        return None


@dataclass(frozen=True)
class CsvRows:
    """The rows of one file, and the image of each.

    Args:
        cells: [N] rows.
        columns: what the columns are for.
        places: [N] int64, position of the row's image in `images`; -1 where it cannot be used.
        images: `Reading.images`.
        labels: of all files.
        faults: of the file.
    """

    cells: Cells
    columns: Columns
    places: np.ndarray
    images: list[RawImage]
    labels: Labels
    faults: FileFindings

    def column(self, index: int | None) -> Column | None:
        """The column at a position of the header."""
        return None if index is None else self.cells.columns[index]

    def tell(self, check: str, row: int, message: str, value: Any = "", allowed: str = "") -> None:
        """Add a finding about a row's image."""
        place, path = f"line {self.cells.lines[row]}", self.images[self.places[row]].path
        self.faults.add(check, place, message, value, allowed, path)

    def listed(self, check: str, rows: np.ndarray) -> Iterator[int]:
        """Of the faulty rows [N], ascending, those to `tell`; in the end the others are counted.

        A million faulty rows are so told in the time of a thousand.
        """
        room = self.faults.room(check)
        later = rows[room:]
        _, firsts = np.unique(self.places[later], return_index=True)  # of an image
        yield from rows[:room].tolist()
        yield from later[np.sort(firsts)].tolist()
        self.faults.count(check, len(later) - len(firsts))

    def label_codes(self, column: Column) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row's label is a class [N], and whether there is text at all [N].

        Labels that can be none are told, empty ones are not.
        """
        blank = np.array([not text.strip() for text in column.texts], dtype=bool)
        faults = [
            None if empty else self.labels.fault(text)
            for text, empty in zip(column.texts, blank.tolist(), strict=True)
        ]
        wrong = np.array([fault is not None for fault in faults], dtype=bool)[column.codes]
        rows = np.flatnonzero(wrong & (self.places >= 0))
        checks = np.array([fault[0] if fault else "" for fault in faults], dtype=object)
        for check in dict.fromkeys(fault[0] for fault in faults if fault):
            for row in self.listed(check, rows[checks[column.codes[rows]] == check]):
                code = column.codes[row]
                _, message, allowed = faults[code] or ("", "", "")
                self.tell(check, row, message, column.texts[code], allowed)
        filled = ~blank[column.codes]
        return filled & ~wrong, filled


def label_objects(rows: CsvRows) -> Iterator[RawObject]:
    """One label a row. Rows without one have been told."""
    column = rows.column(rows.columns.label)
    assert column is not None
    is_class, _ = rows.label_codes(column)
    used = np.flatnonzero(is_class & (rows.places >= 0))
    return _labelled(rows, used, column.pick(used))


def several_labels(rows: CsvRows) -> Iterator[RawObject]:
    """Labels separated by | or ; in one cell, which may be empty."""
    columns = rows.columns
    column = rows.column(columns.label if columns.labels is None else columns.labels)
    assert column is not None
    names = [
        [name.strip() for name in _SEPARATOR.split(text)] if text.strip() else []
        for text in column.texts
    ]
    broken = [not all(found) or len(set(found)) < len(found) for found in names]
    message = "labels must be names separated by | or ;, each there once"
    wrong = np.array(broken, dtype=bool)[column.codes] & (rows.places >= 0)
    for row in rows.listed("label-row-broken", np.flatnonzero(wrong)):
        rows.tell("label-row-broken", row, message, column.texts[column.codes[row]])
    names = [[] if faulty else found for found, faulty in zip(names, broken, strict=True)]
    row_of = np.repeat(
        np.arange(len(column.codes)), np.array(list(map(len, names)), dtype=np.int64)[column.codes]
    )
    distinct: dict[str, int] = {}
    flat = [
        distinct.setdefault(name, len(distinct))
        for code in column.codes.tolist()
        for name in names[code]
    ]
    each = Column(list(distinct), np.array(flat, dtype=np.int32))
    inner = _at(rows, row_of)
    is_class, _ = inner.label_codes(each)
    used = np.flatnonzero(is_class & (inner.places >= 0))
    return _labelled(inner, used, each.pick(used))


def flag_objects(rows: CsvRows, classes: Sequence[tuple[str, int]]) -> Iterator[RawObject]:
    """A column of 0 and 1 for each class.

    Args:
        rows: of the file.
        classes: name and position of these columns.
    """
    marks = np.zeros((len(rows.places), len(classes)), dtype=bool)
    usable = rows.places >= 0
    for place, (name, index) in enumerate(classes):
        column = rows.cells.columns[index]
        flags = [flag_of(text) for text in column.texts]
        wrong = np.array([flag is None for flag in flags], dtype=bool)[column.codes]
        for row in rows.listed("label-row-broken", np.flatnonzero(wrong & usable)):
            message = f"the column {name} must be 0 or 1; if it is no class, give base.classes"
            value = column.texts[column.codes[row]]
            rows.tell("label-row-broken", row, message, value, "0 or 1")
        marks[:, place] = np.array([flag or False for flag in flags], dtype=bool)[column.codes]
    each, place_of = np.nonzero(marks & usable[:, None])
    used = Column([name for name, _ in classes], place_of)
    inner = _at(rows, each)
    is_class, _ = inner.label_codes(used)
    chosen = np.flatnonzero(is_class)
    return _labelled(inner, chosen, used.pick(chosen))


def box_objects(rows: CsvRows) -> Iterator[RawObject]:
    """A box a row; a row with an empty label and an empty box names an image alone."""
    column = rows.column(rows.columns.label)
    assert column is not None and rows.columns.box is not None
    usable = rows.places >= 0
    is_class, is_filled = rows.label_codes(column)
    boxes, is_box, is_blank = _boxes(rows)
    texts = [rows.cells.columns[index] for index in rows.columns.box]
    for row in rows.listed("box-broken", np.flatnonzero(usable & is_filled & ~is_box)):
        value = [part.texts[part.codes[row]] for part in texts]
        message = "a box must be four numbers of pixels"
        rows.tell("box-broken", row, message, value, "for example 10,20,30,40")
    for row in rows.listed("class-name", np.flatnonzero(usable & ~is_filled & ~is_blank)):
        value = [part.texts[part.codes[row]] for part in texts]
        rows.tell("class-name", row, "the box has no label", value)
    used = np.flatnonzero(usable & is_class & is_box)
    areas, crowds = _areas(rows, used), _crowds(rows, used)
    places = rows.places[used].tolist()
    head, images = f"{rows.faults.name}: line ", rows.images
    where = [
        f"{head}{line} of {images[place].path}"
        for line, place in zip(rows.cells.lines[used].tolist(), places, strict=True)
    ]
    xywh = zip(*boxes[used].T.tolist(), strict=True)
    return map(RawObject, places, column.pick(used), xywh, areas, crowds, where)


def flag_of(text: str) -> bool | None:
    """A cell of 0 or 1; None for all else."""
    return _FLAGS.get(text.strip())


def _at(rows: CsvRows, each: np.ndarray) -> CsvRows:
    """The same rows, repeated or chosen; without their cells but for the lines."""
    lines = Cells(rows.cells.lines[each], [])
    return CsvRows(lines, rows.columns, rows.places[each], rows.images, rows.labels, rows.faults)


def _labelled(rows: CsvRows, used: np.ndarray, labels: list[str]) -> Iterator[RawObject]:
    head = f"{rows.faults.name}: line "
    where = [f"{head}{line}" for line in rows.cells.lines[used].tolist()]
    places = rows.places[used].tolist()
    return map(RawObject, places, labels, repeat(None), repeat(None), repeat(False), where)


def _boxes(rows: CsvRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N, 4], x, y, width, height; which rows have one [N], and which have no text [N]."""
    size = len(rows.places)
    numbers_ = np.empty((size, 4))
    is_box, is_blank = np.ones(size, dtype=bool), np.ones(size, dtype=bool)
    for place, index in enumerate(rows.columns.box or ()):
        column = rows.cells.columns[index]
        values, are = numbers(column.texts)
        numbers_[:, place] = values[column.codes] if len(values) else np.nan
        if not are.all():
            is_box &= are[column.codes]
        blank = np.array([not text.strip() for text in column.texts], dtype=bool)
        is_blank &= blank[column.codes]
    if rows.columns.corners:
        with np.errstate(invalid="ignore"):  # infinity less infinity: the checks tell it
            numbers_[:, 2:] -= numbers_[:, :2]
    return numbers_, is_box, is_blank


def _areas(rows: CsvRows, used: np.ndarray) -> Iterator[float | None]:
    """The areas of rows; None where there is none, or none that is one, which is told."""
    column = rows.column(rows.columns.area)
    if column is None:
        return repeat(None, len(used))
    found: list[float | None] = []
    wrong: list[bool] = []
    for text in column.texts:
        value = number(text) if text.strip() else None
        fits = value is not None and 0 <= value < float("inf")
        found.append(value if fits else None)
        wrong.append(bool(text.strip()) and not fits)
    for row in rows.listed("area-broken", used[np.array(wrong, dtype=bool)[column.codes[used]]]):
        value = column.texts[column.codes[row]]
        rows.tell("area-broken", row, "area must be a number, at least 0", value)
    return iter([found[code] for code in column.codes[used].tolist()])


def _crowds(rows: CsvRows, used: np.ndarray) -> Iterator[bool]:
    """Whether the boxes of rows stand for groups; what is neither 0 nor 1 is told."""
    column = rows.column(rows.columns.crowd)
    if column is None:
        return repeat(False, len(used))
    flags = [flag_of(text) for text in column.texts]
    wrong = [
        flag is None and bool(text.strip()) for flag, text in zip(flags, column.texts, strict=True)
    ]
    for row in rows.listed(
        "annotation-broken", used[np.array(wrong, dtype=bool)[column.codes[used]]]
    ):
        value = column.texts[column.codes[row]]
        rows.tell("annotation-broken", row, "is_crowd must be 0 or 1", value)
    return iter([bool(flags[code]) for code in column.codes[used].tolist()])
