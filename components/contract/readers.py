"""The front of all readers: finds out which format a data root has, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.contract import coco_reader, folder_reader
from components.contract.reading import Reading
from components.contract.tables import Task
from components.errors import DataError

Format = Literal["auto", "folder", "csv", "coco", "voc", "yolo"]


def read_dataset(
    root: Path, format: Format, task: Task, classes: Sequence[str] | None = None
) -> Reading:
    """Read a raw data set.

    What is wrong with single annotations is in the result's `findings`. Nothing is ever written.

    Args:
        root: the data root.
        format: `auto` looks at the names of files and folders.
        task: what the data is read for.
        classes: class names in the model's order; None takes them as found.

    Raises:
        DataError: the folder is missing, or it is in no format that is known for the task; says
            what was seen in it.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such folder"
        raise DataError(f"base.data = {root}: {what}; it must be the folder of the raw data")
    if format == "auto":
        format = _detect(root, task)
    if format == "folder":
        if task != "classification":
            raise DataError(
                f"base.data = {root}: a folder per class has no boxes, so it cannot be used for "
                "base.task = detection; give COCO JSON, or set base.task to classification"
            )
        return folder_reader.read_folder(root, classes)
    if task != "detection":
        raise DataError(
            f"base.data = {root}: COCO JSON is read for detection only; for classification give a "
            "folder per class, or set base.task to detection"
        )
    return coco_reader.read_coco(root, classes)


def _detect(root: Path, task: Task) -> Literal["folder", "coco"]:
    has_coco = bool(coco_reader.find_files(root))
    has_folders = folder_reader.looks_like(root)
    if has_coco and (task == "detection" or not has_folders):
        return "coco"
    if has_folders:
        return "folder"
    entries = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in root.iterdir()
        if not path.name.startswith(".")
    )
    seen = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    wanted = (
        "COCO JSON such as annotations/instances_train.json"
        if task == "detection"
        else "a folder of images per class, directly or inside train/, val/, test/"
    )
    raise DataError(
        f"base.data = {root}: no known format; it holds {seen or 'nothing'}; "
        f"for {task} it must hold {wanted}"
    )
