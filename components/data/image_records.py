"""What raw files say about images: rows of a CSV, findings, and which are held out."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.contract.class_names import name_fault
from components.contract.findings import Finding, shown
from components.contract.paths import PathEscape, resolve_inside
from components.errors import DataError

_SALT = "timmflow val_split 1"  # changing it reshuffles every data set there is
_LISTED = 5  # findings an error message names


@dataclass(frozen=True)
class Row:
    """A row of a CSV file.

    Args:
        file: the file.
        line: where the row ends, from 1.
        values: by column.
    """

    file: Path
    line: int
    values: dict[str, str]

    def error(self, column: str, problem: str) -> DataError:
        """An error that names file, line, column and value."""
        value = shown(self.values[column])
        return DataError(f"{self.file}, line {self.line}: {column} = {value!r}: {problem}")

    def image(self, column: str, root: Path) -> str:
        """The path in a column, relative to `root`.

        Raises:
            DataError: it leads out of `root`, or there is no such file.
        """
        name = self.values[column]
        try:
            path = resolve_inside(root, name)
            exists = path.is_file()
        except PathEscape as fault:
            raise self.error(column, f"{fault} (below {root})") from None
        except OSError:  # a name that is too long
            exists = False
        if not exists:
            raise self.error(column, f"there is no such file below {root}")
        return path.relative_to(root).as_posix()


def read_rows(file: Path, columns: Iterable[str] = ()) -> tuple[list[str], list[Row]]:
    """The column names and rows of a CSV file (UTF-8, comma separated, one header line).

    Args:
        file: to be read.
        columns: names that must be there.

    Raises:
        DataError: the file is missing, broken or empty, or lacks a column; names file and line.
    """
    line = 1
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            names = list(reader.fieldnames or [])
            _check_header(file, names, columns)
            rows = []
            for values in reader:
                line = reader.line_num
                if None in values or None in values.values():
                    count = len(names) - list(values.values()).count(None)
                    count += len(values.get(None, []))
                    raise DataError(
                        f"{file}, line {line}: {count} values, but the header has {len(names)}: "
                        f"{', '.join(names)}"
                    )
                rows.append(Row(file, line, values))
    except OSError as fault:
        raise DataError(f"{file}: cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError as fault:
        raise DataError(f"{file}: not UTF-8 text: {fault}") from None
    except csv.Error as fault:
        raise DataError(f"{file}, after line {line}: not CSV: {fault}") from None
    if not rows:
        raise DataError(f"{file}: no rows below the header")
    return names, rows


def _check_header(file: Path, names: list[str], columns: Iterable[str]) -> None:
    if not names:
        raise DataError(f"{file}: the file is empty; the first line must name the columns")
    for name in names:
        if not name.strip() or names.count(name) > 1:
            problem = "is empty" if not name.strip() else "is there twice"
            raise DataError(f"{file}, line 1: the column name {name!r} {problem}")
    for name in columns:
        if name not in names:
            raise DataError(f"{file}, line 1: no column {name!r}; there are {', '.join(names)}")


def labelled_rows(
    file: Path,
    root: Path,
    image_column: str | None,
    label_column: str | None,
    known: list[str] | None,
) -> list[tuple[str, str]]:
    """Path and class name of each row of a CSV file with one label an image.

    Args:
        file: to be read.
        root: folder of the images.
        image_column: None for the first.
        label_column: None for the first of the others.
        known: the classes there may be; None for any.

    Raises:
        DataError: a value is broken; names file, line, column, value and what is allowed.
    """
    header, rows = read_rows(file, filter(None, [image_column, label_column]))
    image_column = image_column or header[0]
    others = [name for name in header if name != image_column]
    if not others:
        raise DataError(f"{file}, line 1: no label column beside {image_column!r}")
    label_column = label_column or others[0]
    labels: dict[str, str] = {}
    pairs = []
    for row in rows:
        name, label = row.image(image_column, root), row.values[label_column]
        fault = name_fault(label)
        if fault:
            raise row.error(label_column, fault)
        if known is not None and label not in known:
            raise row.error(label_column, f"allowed: {', '.join(known)}, the training classes")
        if labels.setdefault(name, label) != label:
            raise row.error(label_column, f"{name} is {labels[name]!r} in an earlier line")
        pairs.append((name, label))
    return pairs


def zero_or_one(row: Row, column: str) -> float:
    """The value of a label that is there (1) or not (0).

    Raises:
        DataError: it is another.
    """
    try:
        value = float(row.values[column])
    except ValueError:
        value = -1.0
    if value not in (0.0, 1.0):
        raise row.error(column, "allowed: 0, 1")
    return value


def refuse_errors(findings: Iterable[Finding], root: Path) -> None:
    """Raise what a reader found to be wrong; warnings pass.

    Raises:
        DataError: with the first few errors.
    """
    errors = sorted(finding for finding in findings if finding.severity == "error")
    if errors:
        lines = [str(finding) for finding in errors[:_LISTED]]
        if len(errors) > _LISTED:
            lines.append(f"and {len(errors) - _LISTED} more")
        raise DataError("\n".join([f"{root}: the data cannot be used:", *lines]))


def check_fraction(val_split: float) -> None:
    """Raise a `ValueError` unless `val_split` is in [0, 1)."""
    if not 0 <= val_split < 1:
        raise ValueError(f"val_split = {val_split}: must be in [0, 1)")


def chosen_for_validation(names: Sequence[str], val_split: float) -> list[bool]:
    """Which images are held out of training, by a hash of their names.

    An image keeps its side for as long as it keeps its name, whatever comes or goes beside it.
    The share is met about, not exactly; where chance takes none, or all, one image is moved.

    Args:
        names: of the images.
        val_split: share that is held out, [0, 1).

    Raises:
        DataError: a share is asked for, and there is one image only.
    """
    if val_split == 0:
        return [False] * len(names)
    if len(set(names)) < 2:
        raise DataError(
            f"val_split = {val_split}: {len(set(names))} image cannot be shared out between "
            "training and validation; give more, or val_split=0"
        )
    places = [_unit_hash(name) for name in names]
    chosen = [place < val_split for place in places]
    if not any(chosen):
        return [place == min(places) for place in places]
    return [place != max(places) for place in places] if all(chosen) else chosen


def _unit_hash(name: str) -> float:
    digest = hashlib.sha256(f"{_SALT}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
