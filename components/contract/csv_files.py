"""Which CSV files of a data root are its labels: by their names and their headers."""

from __future__ import annotations

import re
from pathlib import Path

from components.contract.csv_header import find_columns, read_header
from components.contract.paths import PathEscape, resolve_inside
from components.contract.reading import SPLIT_NAMES
from components.contract.tables import Task

_WORDS = {"labels", "label", "annotations", "annotation", "classes", "boxes", "images"}
_INSIDE_SPLIT = ("labels.csv", "annotations.csv", "_annotations.csv", "_classes.csv")


def find_files(root: Path) -> list[Path]:
    """The CSV files of a data root, sorted; empty if there are none with a header that fits.

    A header fits if it has a column of paths and one that may be labels.
    """
    for files in named_files(root):
        if any(_fits(root, file) for file in files):
            return files
    return []


def task_of(root: Path) -> Task:
    """What the CSV files of a data root serve: detection if one has columns of boxes."""
    boxes = any(find_columns(_header(root, file)).box for file in find_files(root))
    return "detection" if boxes else "classification"


def named_files(root: Path) -> list[list[Path]]:
    """The sets of CSV files of which one may be the data, by their names."""
    loose = sorted(path for path in root.glob("*.csv") if not path.name.startswith("."))
    folder = sorted((root / "annotations").glob("*.csv"))
    inside = [[root / word / name for word in SPLIT_NAMES] for name in _INSIDE_SPLIT]
    sets = [
        *([path] for path in loose if path.name in ("labels.csv", "annotations.csv")),
        [path for path in loose if _is_of_split(path)],
        *([path] for path in folder if path.name in ("labels.csv", "annotations.csv")),
        [path for path in folder if _is_of_split(path)],
        *inside,
        *([root / name] for name in ("_annotations.csv", "_classes.csv")),
    ]
    found = [[path for path in files if path.is_file()] for files in sets]
    # "labels.csv" before "annotations.csv": sorting put them the other way round.
    return sorted(filter(None, found), key=lambda files: files[0] != root / "labels.csv")


def _is_of_split(path: Path) -> bool:
    words = re.split(r"[^a-zA-Z0-9]+", path.stem.lower())
    plain = {word.rstrip("0123456789") for word in words}
    return bool(plain & SPLIT_NAMES.keys()) and plain <= SPLIT_NAMES.keys() | _WORDS


def _header(root: Path, file: Path) -> list[str]:
    """The cells of a file's first line; none if it cannot be read or leads out of the root."""
    try:
        resolve_inside(root, file.relative_to(root).as_posix())
        return read_header(file)[0]
    except (PathEscape, OSError):
        return []


def _fits(root: Path, file: Path) -> bool:
    columns = find_columns(_header(root, file))
    labelled = columns.label is not None or columns.labels is not None or columns.others
    return columns.path is not None and bool(labelled)
