"""One CSV file as a table: its encoding, its header, its rows, and what its columns are for.

Nothing here knows of images or classes; `csv_reader` does.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of a column, the first that is there counts. Case, spaces and hyphens do not matter.
PATH = (
    *("path", "image_path", "file_path", "filepath", "img_path"),
    *("file_name", "filename", "image_name", "image", "file", "img"),
)
LABEL = ("label", "class", "category", "label_name", "class_name", "category_name")
LABELS = ("labels", "classes", "categories", "tags")
SPLIT = ("split", "subset")
GROUP = ("group", "group_id")
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

_LONGEST_LINE = 1 << 22  # bytes
_MOST_COLUMNS = 1 << 15
_CHUNK = 1 << 20
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})", re.ASCII)
# A leading zero means a code (007), not a number.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


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
    path, label, labels, split, group = map(one, (PATH, LABEL, LABELS, SPLIT, GROUP))
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


def content_fault(file: Path) -> str | None:
    """Why the bytes of a file cannot be a CSV table; None if they can.

    Raises:
        OSError: the file cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, line, length = 0, 1, 0  # bytes before the chunk, its first line, that line's bytes
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(_CHUNK)
            if b"\0" in chunk:
                at = chunk.index(b"\0")
                where = line + chunk.count(b"\n", 0, at)
                return (
                    f"line {where} has a NUL byte (0x00, byte {before + at}): it is not a text "
                    "table, or one in UTF-16; save it as UTF-8"
                )
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as fault:
                at = before - pending + fault.start
                where = line + chunk.count(b"\n", 0, max(fault.start - pending, 0))
                value = fault.object[fault.start]
                return f"line {where} is not UTF-8: byte 0x{value:02X} at {at}; save it as UTF-8"
            if not chunk:
                return None
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            length = length + len(chunk) if end < 0 else len(chunk) - end - 1
            if length > _LONGEST_LINE:
                return f"line {line} is longer than {_LONGEST_LINE >> 20} MiB"
            line += chunk.count(b"\n")
            before += len(chunk)


def read_header(file: Path) -> tuple[list[str], str]:
    """The cells of the first line and the delimiter that it has: a comma, a tab or a semicolon.

    Bytes that are not UTF-8 are replaced.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline(_LONGEST_LINE)
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


def read_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line number and cells of each row below the header; a text says why a row cannot be read.

    Empty lines are passed over.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read; `content_fault` tells beforehand.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=delimiter, strict=True)
        is_header = True
        while True:
            try:
                for row in rows:
                    if is_header:
                        is_header = False
                    elif row:
                        yield rows.line_num, row
                return
            except csv.Error as fault:  # the next line starts anew
                is_header = False
                yield rows.line_num, str(fault)


def typed(texts: Iterable[str]) -> dict[str, Any]:
    """The values of a column's cells by their text, all of one type.

    The type is the narrowest that all cells fit: `true` and `false`; whole numbers; numbers; else
    text. Empty cells are None and fit any.

    Args:
        texts: all cells of the column; repeated ones are looked at once.
    """
    cells = {text: text.strip() for text in set(texts)}
    values = {cell for cell in cells.values() if cell}
    convert: Any = str
    if values and all(value.lower() in ("true", "false") for value in values):
        convert = lambda value: value.lower() == "true"  # noqa: E731
    elif all(map(_WHOLE.fullmatch, values)):
        convert = int
    elif all(_NUMBER.fullmatch(value) and math.isfinite(float(value)) for value in values):
        convert = float
    return {text: convert(cell) if cell else None for text, cell in cells.items()}
