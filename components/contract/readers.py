"""The front of all readers: finds out which format a data root has, and reads it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.contract import coco_reader, csv_reader, folder_reader
from components.contract.pixels import EXTENSIONS
from components.contract.reading import SPLIT_NAMES, Reading, collector_paused
from components.contract.tables import Task
from components.errors import DataError

KnownFormat = Literal["folder", "csv", "coco", "voc", "yolo"]
Format = Literal["auto"] | KnownFormat

# Folders of images that annotation files speak of: their names are no classes beside such files.
_COLLECTIONS = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "data"}
_TITLES = {"coco": "COCO JSON", "voc": "Pascal VOC XML", "yolo": "YOLO text"}


def read_dataset(
    root: Path,
    format: Format,
    task: Task,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Reading:
    """Read a raw data set.

    What is wrong with single annotations is in the result's `findings`. Nothing is ever written.

    Args:
        root: the data root.
        format: `auto` looks at the names of files and folders, and at the headers of CSV files.
        task: what the data is read for.
        classes: class names in the model's order; None takes them as found.
        multi_label: classification: an image has any number of labels; CSV only.

    Raises:
        DataError: the folder is missing; it is in no format that is known for the task, or in
            several; or the format does not serve the task. Says what was seen.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such folder"
        raise DataError(f"base.data = {root}: {what}; it must be the folder of the raw data")
    if format == "auto":
        format = _detect(root, task)
    _refuse_misfit(root, format, task, multi_label)
    with collector_paused():
        return _read(root, format, task, classes, multi_label)


def _read(
    root: Path,
    format: KnownFormat,
    task: Task,
    classes: Sequence[str] | None,
    multi_label: bool,
) -> Reading:
    if format == "folder":
        return folder_reader.read_folder(root, classes)
    if format == "csv":
        return csv_reader.read_csv(root, task, classes, multi_label)
    if format == "coco":
        return coco_reader.read_coco(root, classes)
    reader = importlib.import_module(f"components.contract.{format}_reader")
    reading: Reading = getattr(reader, f"read_{format}")(root, classes)
    return reading


def _refuse_misfit(root: Path, format: KnownFormat, task: Task, multi_label: bool) -> None:
    """Refuse a format that cannot hold what the task needs."""
    if format == "folder" and task != "classification":
        raise DataError(
            f"base.data = {root}: a folder per class has no boxes, so it cannot be used for "
            "base.task = detection; give CSV with boxes, COCO JSON, Pascal VOC or YOLO, or set "
            "base.task to classification"
        )
    if format == "folder" and multi_label:
        raise DataError(
            f"base.data = {root}: a folder per class gives an image one label; for "
            "base.multi_label give CSV with a column of labels, or set it to false"
        )
    if format in _TITLES and task != "detection":
        raise DataError(
            f"base.data = {root}: {_TITLES[format]} is read for detection only; for classification "
            "give a folder per class or CSV, or set base.task to detection"
        )


def _detect(root: Path, task: Task) -> KnownFormat:
    """The format of a data root.

    Raises:
        DataError: there is none that is known, or several.
    """
    files = _files_by_format(root)
    csv_serves = "csv" in files and csv_reader.holds_boxes(root, files["csv"]) == (
        task == "detection"
    )
    serving = [
        format for format in files if (csv_serves if format == "csv" else task == "detection")
    ]
    folders = _class_folders(root) if task == "classification" else []
    seen = {
        format: _listed([path.relative_to(root).as_posix() for path in files[format]])
        for format in serving
    }
    if folders:
        seen["folder"] = _listed([f"{folder}/" for folder in folders])
    if len(seen) > 1:
        facts = "; ".join(f"{format} ({names})" for format, names in seen.items())
        raise DataError(
            f"base.data = {root}: several formats: {facts}; say which to read with "
            f"validate.format: {' or '.join(seen)}"
        )
    if seen:
        return next(iter(seen))
    if files:
        return next(iter(files))  # of no use for the task, which the error then tells
    if folder_reader.looks_like(root):
        return "folder"
    raise DataError(_nothing_known(root, task))


def _class_folders(root: Path) -> list[str]:
    """Folders that hold images and whose names are neither those of splits nor of collections."""
    splits = folder_reader.split_folders(root)
    parents = [root / name for name in sorted(splits)] if splits else [root]
    return [
        folder.relative_to(root).as_posix()
        for parent in parents
        for folder in sorted(parent.iterdir())
        if folder.is_dir()
        and not folder.is_symlink()
        and not folder.name.startswith(".")
        and folder.name.lower() not in _COLLECTIONS
        and folder.name.rstrip("0123456789").lower() not in SPLIT_NAMES
        and _holds_images(folder)
    ]


def _holds_images(folder: Path) -> bool:
    return any(
        Path(name).suffix.lower() in EXTENSIONS for _, _, names in os.walk(folder) for name in names
    )


def _files_by_format(root: Path) -> dict[KnownFormat, list[Path]]:
    """The annotation files of each format of which there are any."""
    found: dict[KnownFormat, list[Path]] = {
        "csv": csv_reader.find_files(root),
        "coco": coco_reader.find_files(root),
    }
    for format in ("voc", "yolo"):
        name = f"components.contract.{format}_reader"
        if importlib.util.find_spec(name):
            found[format] = importlib.import_module(name).find_files(root)
    return {format: files for format, files in found.items() if files}


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _nothing_known(root: Path, task: Task) -> str:
    entries = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in root.iterdir()
        if not path.name.startswith(".")
    )
    wanted = (
        "COCO JSON such as annotations/instances_train.json, CSV with boxes, Pascal VOC XML or "
        "YOLO text with its data.yaml"
        if task == "detection"
        else "a folder of images per class, directly or inside train/, val/, test/, or CSV such as "
        "labels.csv"
    )
    return (
        f"base.data = {root}: no known format; it holds {_listed(entries, 8) or 'nothing'}; "
        f"for {task} it must hold {wanted}"
    )
