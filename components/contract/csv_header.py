"""The header of a CSV table: its cells, its delimiter, and what its columns are for.

Nothing here knows of images or classes; `csv_reader` does.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.contract.image_columns import GROUP_KEYS

# Names of a column, the first that is there counts. Case, spaces and hyphens do not matter.
PATH = (
    *("path", "image_path", "file_path", "filepath", "img_path"),
    *("file_name", "filename", "image_name", "image", "file", "img"),
)
LABEL = ("label", "class", "category", "label_name", "class_name", "category_name")
LABELS = ("labels", "classes", "categories", "tags")
SPLIT = ("split", "subset")
_CORNERS = [
    names.split() for names in ("xmin ymin xmax ymax", "x_min y_min x_max y_max", "x1 y1 x2 y2")
]
_EXTENTS = [
    names.split()
    for names in ("x y width height", "x y w h", "bbox_x bbox_y bbox_width bbox_height")
]
_SIZES = [
    names.split() for names in ("image_width image_height", "img_width img_height", "width height")
]
# Columns of the canonical table, which a column of the user cannot replace.
_RESERVED = {"image_id", "path", "width", "height", "sha256", "phash", "group", "split"}

# What a text in UTF-16 begins with; such a table is told from others, and not read.
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_LINE = 1 << 22  # bytes
_MOST_COLUMNS = 1 << 15


@dataclass(frozen=True)
class Columns:
    """Positions of the columns by what they are for; None where the table has none.

    Args:
        path, label, labels, split, group, area, crowd: positions.
        box: four positions.
        corners: `box` is left, top, right, bottom instead of left, top, width, height.
        size: positions of the image's width and height.
        others: the user's columns: position by name.
    """

    path: int | None
    label: int | None
    labels: int | None
    split: int | None
    group: int | None
    area: int | None
    crowd: int | None
    box: tuple[int, ...] | None
    corners: bool
    size: tuple[int, ...] | None
    others: dict[str, int]


def find_columns(header: Sequence[str]) -> Columns:
    """What the columns of a header are for. Columns without a name are for nothing."""
    names = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in header]
    place: dict[str, int] = {}
    for index, name in enumerate(names):
        place.setdefault(name, index)

    def one(words: Iterable[str]) -> int | None:
        return next((place[word] for word in words if word in place), None)

    def all_of(sets: Iterable[Sequence[str]]) -> tuple[int, ...] | None:
        return next((tuple(map(place.__getitem__, s)) for s in sets if place.keys() >= {*s}), None)

    corners = all_of(_CORNERS)
    box = corners or all_of(_EXTENTS)
    size = all_of(_SIZES)
    if size and box and set(size) & set(box):
        size = None
    path, label, labels, split, group = map(one, (PATH, LABEL, LABELS, SPLIT, GROUP_KEYS))
    area = place.get("area") if box else None
    crowd = one(("is_crowd", "iscrowd")) if box else None
    used = {path, label, labels, split, group, area, crowd, *(box or ()), *(size or ())}
    others = {
        header[index].strip(): index
        for index, name in enumerate(names)
        if name and index not in used
    }
    return Columns(path, label, labels, split, group, area, crowd, box, bool(corners), size, others)


def free_name(name: str) -> str:
    """The name of a user's column in the canonical table, whose own columns keep theirs."""
    return f"csv_{name}" if name in _RESERVED else name


def read_header(file: Path) -> tuple[list[str], str]:
    """The cells of the first line and the delimiter that it has: a comma, a tab or a semicolon.

    Bytes that are not UTF-8 are replaced; a table in UTF-16 is known for one, so that it can be
    said why it is not read.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as start:
        encoding = "utf-16" if start.read(2) in UTF16_MARKS else "utf-8-sig"
    with file.open(encoding=encoding, errors="replace", newline="") as stream:
        line = stream.readline(LONGEST_LINE)
    delimiter = next((sign for sign in ",\t;" if sign in line), ",")
    try:
        return next(csv.reader([line], delimiter=delimiter), []), delimiter
    except csv.Error:
        return [], delimiter


def header_fault(header: Sequence[str]) -> str | None:
    """Why a header cannot be used; None if it can."""
    names = [name.strip() for name in header if name.strip()]
    if not names:
        return "the first line must name the columns"
    if len(header) > _MOST_COLUMNS:
        return f"{len(header)} columns; at most {_MOST_COLUMNS}"
    seen: set[str] = set()
    for name in names:
        if not name.isprintable():
            return "a column's name cannot be printed"
        if name in seen:
            return f"the column {name!r} is there twice"
        seen.add(name)
    return None
