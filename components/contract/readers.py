"""The front of all readers: finds out which format a data root has, and reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.contract import coco_reader, csv_reader, folder_reader, voc_reader, yolo_reader
from components.contract.reading import Reading, collector_paused
from components.contract.tables import Task
from components.errors import DataError

KnownFormat = Literal["folder", "csv", "coco", "voc", "yolo"]
Format = Literal["auto"] | KnownFormat


@dataclass(frozen=True)
class _Format:
    """What is to be known of a format.

    Args:
        title: its name in messages.
        find: the files or folders of a root that tell it; empty if the root has another format.
            Only names and headers are looked at.
        task_of: what data in this format, found in a root, serves.
        read: reads a root for a task, with a class list or None, and perhaps several labels an
            image.
    """

    title: str
    find: Callable[[Path], list[Path]]
    task_of: Callable[[Path], Task]
    read: Callable[[Path, Task, Sequence[str] | None, bool], Reading]


# In the order in which they are named where several are found.
FORMATS: dict[KnownFormat, _Format] = {
    "csv": _Format("CSV", csv_reader.find_files, csv_reader.task_of, csv_reader.read_csv),
    "coco": _Format(
        "COCO JSON",
        coco_reader.find_files,
        lambda root: "detection",
        lambda root, task, classes, several: coco_reader.read_coco(root, classes),
    ),
    "voc": _Format(
        "Pascal VOC XML",
        voc_reader.find_files,
        lambda root: "detection",
        lambda root, task, classes, several: voc_reader.read_voc(root, classes),
    ),
    "yolo": _Format(
        "YOLO text",
        yolo_reader.find_files,
        lambda root: "detection",
        lambda root, task, classes, several: yolo_reader.read_yolo(root, classes),
    ),
    "folder": _Format(
        "a folder per class",
        folder_reader.find_folders,
        lambda root: "classification",
        lambda root, task, classes, several: folder_reader.read_folder(root, classes),
    ),
}


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
        return FORMATS[format].read(root, task, classes, multi_label)


def _refuse_misfit(root: Path, format: KnownFormat, task: Task, multi_label: bool) -> None:
    """Refuse a format that cannot hold what the task needs; CSV is refused once it is read."""
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
    if format in ("coco", "voc", "yolo") and task != "detection":
        raise DataError(
            f"base.data = {root}: {FORMATS[format].title} is read for detection only; for "
            "classification give a folder per class or CSV, or set base.task to detection"
        )


def _detect(root: Path, task: Task) -> KnownFormat:
    """The format of a data root.

    Raises:
        DataError: there is none that is known, or several.
    """
    found = {format: known.find(root) for format, known in FORMATS.items()}
    found = {format: paths for format, paths in found.items() if paths}
    serving = [format for format in found if FORMATS[format].task_of(root) == task]
    if len(serving) > 1:
        facts = "; ".join(
            f"{format} ({_listed([_relative(root, path) for path in found[format]])})"
            for format in serving
        )
        raise DataError(
            f"base.data = {root}: several formats: {facts}; say which to read with "
            f"validate.format: {' or '.join(serving)}"
        )
    if serving:
        return serving[0]
    if found:
        return next(iter(found))  # of no use for the task, which the error then tells
    if folder_reader.looks_like(root):
        return "folder"
    raise DataError(_nothing_known(root, task))


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() + ("/" if path.is_dir() else "")


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _nothing_known(root: Path, task: Task) -> str:
    entries = sorted(
        _relative(root, path) for path in root.iterdir() if not path.name.startswith(".")
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
