"""The cells of a CSV table, column by column; equal cells of a column are kept once.

A file without quotes is cut into cells by pyarrow; one with quotes, or with rows that do not fit,
by Python's own parser, row by row. Both give the same cells.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.csv as arrow_csv

from components.contract.csv_header import LONGEST_LINE, UTF16_MARKS
from components.contract.reading import MAX_TABLE_BYTES

_CHUNK = 1 << 20  # bytes
_BLOCK = 1 << 22  # bytes that pyarrow cuts at once
_ROWS = 4096  # rows of Python's parser that are coded at once
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})", re.ASCII)
# A leading zero means a code (007), not a number.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Column:
    """The cells of one column.

    Args:
        texts: the different ones, in any order.
        codes: [N] int32, for each row the position of its text.
    """

    texts: list[str]
    codes: np.ndarray

    def pick(self, rows: np.ndarray) -> list[str]:
        """The texts of some rows."""
        return [self.texts[code] for code in self.codes[rows].tolist()]


@dataclass(frozen=True)
class Cells:
    """The rows of a table below its header that have as many cells as the header.

    Args:
        lines: [N] int64, the line in the file on which each row ends.
        columns: one for each cell of the header.
    """

    lines: np.ndarray
    columns: list[Column]


def content_fault(file: Path) -> str | None:
    """Why the bytes of a file cannot be a CSV table; None if they can.

    Raises:
        OSError: the file cannot be read.
    """
    size = file.stat().st_size
    if size > MAX_TABLE_BYTES:
        return (
            f"{size / 2**20:.0f} MiB; at most {MAX_TABLE_BYTES >> 20} MiB are read: split the file "
            "into one for each split"
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, line, length = 0, 1, 0  # bytes before the chunk, its first line, that line's bytes
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(_CHUNK)
            if b"\0" in chunk:
                at = chunk.index(b"\0")
                if not before and chunk.startswith(UTF16_MARKS):
                    return 'is in UTF-16 (as Excel\'s "Unicode text"); save it as UTF-8'
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
            if length > LONGEST_LINE:
                return f"line {line} is longer than {LONGEST_LINE >> 20} MiB"
            line += chunk.count(b"\n")
            before += len(chunk)


def read_cells(
    file: Path, delimiter: str, width: int, broken: Callable[[int, list[str] | str], None]
) -> Cells:
    """The cells of a table.

    Args:
        file: of which `content_fault` says nothing.
        delimiter: between cells.
        width: cells of the header.
        broken: told of every row that cannot be read (line, why) or has another number of cells
            (line, cells).

    Raises:
        OSError: the file cannot be read.
    """
    return _plain_cells(file, delimiter, width) or _any_cells(file, delimiter, width, broken)


def _plain_cells(file: Path, delimiter: str, width: int) -> Cells | None:
    """The cells of a table with neither quotes nor rows that do not fit; else None."""
    data = file.read_bytes()
    if b'"' in data or data.count(b"\r") != data.count(b"\r\n"):
        return None
    names = [str(index) for index in range(width)]
    try:
        table = arrow_csv.read_csv(
            arrow.py_buffer(data),
            arrow_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK, skip_rows=1, column_names=names
            ),
            arrow_csv.ParseOptions(delimiter=delimiter, quote_char=False),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, arrow.dictionary(arrow.int32(), arrow.string())),
                strings_can_be_null=False,
            ),
        ).unify_dictionaries()
    except arrow.ArrowInvalid:
        return None
    # Empty lines are passed over: where there are any, rows cannot be told by their line.
    if table.num_rows != data.count(b"\n") + (not data.endswith(b"\n")) - 1 or not table.num_rows:
        return None
    columns = []
    for column in table.columns:
        cells = column.combine_chunks()
        texts = cells.dictionary.to_pylist()
        if max(map(len, texts)) > csv.field_size_limit():
            return None
        columns.append(Column(texts, cells.indices.to_numpy()))
    return Cells(np.arange(2, table.num_rows + 2), columns)


def _any_cells(
    file: Path, delimiter: str, width: int, broken: Callable[[int, list[str] | str], None]
) -> Cells:
    codes: list[dict[str, int]] = [{} for _ in range(width)]  # by text, for each column
    found: list[list[np.ndarray]] = [[] for _ in range(width)]
    lines: list[int] = []

    def sound() -> Iterator[list[str]]:
        for line, row in _read_rows(file, delimiter):
            if isinstance(row, str) or len(row) != width:
                broken(line, row)
            else:
                lines.append(line)
                yield row

    rows = sound()
    while part := list(islice(rows, _ROWS)):
        for column, known, parts in zip(zip(*part, strict=True), codes, found, strict=True):
            place = known.setdefault
            numbers = [place(text, len(known)) for text in column]
            parts.append(np.array(numbers, dtype=np.int32))
    nothing = np.empty(0, dtype=np.int32)
    columns = [
        Column(list(known), np.concatenate(parts) if parts else nothing)
        for known, parts in zip(codes, found, strict=True)
    ]
    return Cells(np.array(lines, dtype=np.int64), columns)


def _read_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
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
