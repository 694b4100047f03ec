"""What a YOLO `data.yaml` says, or the files that stand in for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from components.contract.class_names import name_fault
from components.contract.data_files import DataFiles
from components.contract.file_findings import FileFindings, read_text
from components.contract.paths import PathEscape
from components.contract.yolo_paths import base_folder
from components.contract.yolo_yaml import read_yaml
from components.errors import DataError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_MAX_NAME_BYTES = 4_000_000


@dataclass
class YoloConfig:
    """What `data.yaml` says, or the lack of it.

    Args:
        name: of the file, for messages; the root's name without one.
        names: class names by index; None if there are none.
        num_extra: numbers of keypoints behind each box.
        base: folder to which its entries are relative.
    """

    name: str
    content: dict[str, Any] = field(default_factory=dict)
    names: dict[int, str] | None = None
    num_extra: int = 0
    base: str = ""


def read_config(files: DataFiles) -> YoloConfig | None:
    """What `data.yaml` says; None if it cannot be read, which is then a finding."""
    present = set(files.files(""))
    name = next((name for name in YAML_NAMES if name in present), None)
    if name is None:
        return YoloConfig(files.root.name)
    faults = FileFindings(name)
    config = YoloConfig(name)
    try:
        config.content = read_yaml(files.root / name)
        config.names = _names(config.content, faults)
        config.num_extra = _num_extra(config.content)
        config.base = _base(files, config.content.get("path", ""), faults)
    except DataError as fault:
        faults.add("annotations-unreadable", "", str(fault))
        return None
    finally:
        files.findings += faults.all()
    return config


def _base(files: DataFiles, path: Any, faults: FileFindings) -> str:
    if not isinstance(path, str):
        raise DataError("path must be text: a folder inside the data")
    if path in ("", ".", "./", "~", "null"):
        return ""
    allowed = "a folder inside the data, the data itself, or no path at all"
    try:
        base = base_folder(files.root, path)
    except PathEscape as fault:
        faults.add("path-escape", "path", str(fault), path, allowed)
        return ""
    except OSError:  # a name that is too long
        base = None
    if base is None:
        message = "there is no such folder in the data; train, val and test are looked up in it"
        faults.add("folder-ignored", "path", message, path, allowed)
    return base or ""


def read_name_file(files: DataFiles) -> dict[int, str] | None:
    """Class names by index from a file with one a line; None if there is none."""
    for path in _NAME_FILES:
        folder, _, name = path.rpartition("/")
        if name not in files.files(folder):
            continue
        faults = FileFindings(path)
        text = read_text(files.root, path, _MAX_NAME_BYTES, faults)
        rows = (text or "").rstrip().split("\n") if text and text.strip() else []
        names = _checked_names({index: row.strip() for index, row in enumerate(rows)}, faults)
        files.findings += faults.all()
        return names
    return None


def _names(content: dict[str, Any], faults: FileFindings) -> dict[int, str] | None:
    """Class names by index, as `names` of a data.yaml gives them."""
    value = content.get("names")
    if value in (None, "", "~", "null"):
        return None
    if isinstance(value, list):
        rows = dict(enumerate(value))
    elif isinstance(value, dict):
        rows = {}
        for key, name in value.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                faults.add("category-broken", f"names.{key}", "the key must be a class index", key)
            elif int(key) in rows:
                faults.add(
                    "duplicate-category-id", f"names.{key}", "this index is given twice", key
                )
            else:
                rows[int(key)] = name
        gaps = sorted(set(range(len(rows))) - set(rows))
        if gaps:
            message = "the class indices must count from 0 without a gap"
            faults.add("category-broken", "names", message, sorted(rows), f"{gaps[0]} is missing")
    else:
        raise DataError("names must be a list of class names, or class names by index")
    count = content.get("nc")
    if count is not None and str(count).strip() != str(len(rows)):
        message = "nc, the number of classes, differs from the number of names"
        faults.add("categories-differ", "nc", message, count, str(len(rows)))
    return _checked_names(rows, faults)


def _checked_names(rows: dict[int, Any], faults: FileFindings) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: set[str] = set()
    for index, name in sorted(rows.items()):
        fault = name_fault(name)
        if fault:
            faults.add("class-name", f"names.{index}", fault, name)
        elif name in taken:
            faults.add("duplicate-class", f"names.{index}", "this class is named twice", name)
        else:
            names[index] = name
            taken.add(name)
    return names


def _num_extra(content: dict[str, Any]) -> int:
    """Numbers behind each box of a pose data set: `kpt_shape` is [keypoints, 2 or 3]."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(
            isinstance(item, str) and item.isascii() and item.isdigit() and len(item) < 5
            for item in shape
        )
    ):
        raise DataError("kpt_shape must be a list of two whole numbers")
    return math.prod(map(int, shape))
