"""Writes validated data as raw data again: COCO JSON for boxes, a folder per class for labels.

annotations/instances_train.json    train/1.jpg           boxes whose data has splits
annotations/instances.json          images/1.jpg          boxes without splits
train/cat/1.jpg                     cat/1.jpg             labels

Files keep their names, but not the folders they were in; of names that would be the same file on
some file system all but the first get a number. Reading what was written gives the same tables, but
for ids and paths. The raw files are only read.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from PIL import Image

from components.contract.coco_reader import OWN_KEYS
from components.contract.image_columns import GROUP_KEYS
from components.contract.paths import resolve_inside
from components.contract.pixels import EXTENSIONS, FORMATS
from components.contract.tables import Dataset
from components.errors import DataError
from components.files import atomic_path, sha256

_LONGEST_NAME = 255  # bytes that a file system takes
# What the image table says in columns of its own.
_CANONICAL = ("image_id", "path", "width", "height", "sha256", "phash", "group", "split")


def write_coco(dataset: Dataset, raw_root: Path, target: Path, link: bool = False) -> None:
    """Write boxes as COCO JSON, one file a split.

    Categories have the ids 1, 2, … in the order of the classes. Group and the user's columns become
    keys of the image rows.

    Args:
        dataset: for detection; either all of its images have a split or none.
        raw_root: what the paths in `dataset` are relative to.
        target: folder to make; must not exist, and not lie in `raw_root`.
        link: make hard links where the file system can, instead of copies: quick and small, but who
            changes such a file changes the raw data.

    Raises:
        DataError: the data cannot be written so, a raw file has changed since it was validated, or
            `target` exists; nothing is then left behind.
    """
    if dataset.task != "detection":
        raise DataError("write_coco: COCO JSON is for boxes; write labels as folders")
    clash = sorted(({*dataset.images.columns} - {*_CANONICAL}) & {*OWN_KEYS, *GROUP_KEYS})
    if clash:
        raise DataError(
            f"write_coco: the columns {clash} have names that COCO uses otherwise; "
            "rename or drop them"
        )
    splits = _splits(dataset)
    _check_target(raw_root, target)
    rows = _annotations_by_image(dataset)
    categories = [{"id": index, "name": name} for index, name in enumerate(dataset.classes, 1)]
    with atomic_path(target) as draft:
        for split in splits:
            folder = split or "images"
            names = _Names()
            content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
            for image in _records(dataset.images):
                if image["split"] != split:
                    continue
                name = names.free(folder, PurePosixPath(image["path"]).name)
                _place(raw_root, image, draft / folder / name, link)
                content["images"].append(_image_row(image, name))
                content["annotations"] += rows[image["image_id"]]
            file = f"instances_{split}.json" if split else "instances.json"
            (draft / "annotations").mkdir(exist_ok=True, parents=True)
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            (draft / "annotations" / file).write_text(text + "\n", encoding="utf-8")


def write_folders(dataset: Dataset, raw_root: Path, target: Path, link: bool = False) -> None:
    """Write labels as a folder per class, below a folder per split where the data has splits.

    Folders tell neither the order of the classes (name it in `base.classes` if it is not that of
    their text), nor groups, nor the user's columns. A class without images gets an empty folder.

    Args:
        dataset: for classification, one label an image; all of its images have a split or none.
        raw_root, target, link: see `write_coco`.

    Raises:
        DataError: as `write_coco`; or an image has no label or several, or a class name cannot be
            that of a folder.
    """
    if dataset.task != "classification":
        raise DataError("write_folders: a folder per class has no boxes; write COCO JSON")
    if dataset.multi_label:
        raise DataError("write_folders: with several labels an image, it has no single folder")
    for label in dataset.classes:
        _check_folder_name(label)
    labels = dict(zip(dataset.objects["image_id"], dataset.objects["label"], strict=True))
    if len(labels) != len(dataset.objects) or len(labels) != len(dataset.images):
        odd = dataset.images.set_index("image_id")["path"].loc[_not_once(dataset)].tolist()
        raise DataError(f"write_folders: must have one label each: {odd[:5]}")
    splits = _splits(dataset)
    _check_target(raw_root, target)
    with atomic_path(target) as draft:
        for split in splits:
            for label in dataset.classes:
                (draft / (split or "") / label).mkdir(parents=True)
        names = _Names()
        for image in _records(dataset.images):
            folder = PurePosixPath(image["split"] or "", labels[image["image_id"]])
            source = resolve_inside(raw_root, image["path"])
            name = names.free(str(folder), _visible(source, PurePosixPath(image["path"]).name))
            _place(raw_root, image, draft / folder / name, link)


class _Names:
    """File names given out so far, by folder."""

    def __init__(self) -> None:
        self._taken: dict[str, set[str]] = defaultdict(set)

    def free(self, folder: str, name: str) -> str:
        """`name`, or with a number before its extension if another name is, or may be, the same."""
        path, number, result = PurePosixPath(name), 1, name
        while (key := unicodedata.normalize("NFC", result).casefold()) in self._taken[folder]:
            number += 1
            tail = f"-{number}{path.suffix}"
            room = _LONGEST_NAME - len(tail.encode())
            result = path.stem.encode()[:room].decode(errors="ignore") + tail
        self._taken[folder].add(key)
        return result


def _splits(dataset: Dataset) -> list[str | None]:
    """The splits that have images, or None alone."""
    found = {row["split"] for row in _records(dataset.images[["split"]])}
    if None in found and len(found) > 1:
        raise DataError("writing data: some images have a split and some have none; give it to all")
    return sorted(found, key=str) or [None]


def _check_target(raw_root: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise DataError(f"{target}: is there already; give a folder that is not")
    if Path(target).resolve().is_relative_to(Path(raw_root).resolve()):
        raise DataError(f"{target}: lies inside the raw data, which is never written to")


def _place(raw_root: Path, image: dict[str, Any], place: Path, link: bool) -> None:
    """Put an image's file to `place`, if it is still the one that was validated."""
    source = resolve_inside(raw_root, image["path"]).resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        linked = link and _linked(source, place)
        if linked:
            digest = sha256(place)
        else:
            data = source.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            place.write_bytes(data)
    except OSError as fault:
        raise DataError(f"{source}: cannot be copied: {fault}") from None
    if digest != image["sha256"]:
        raise DataError(f"{source}: has changed since it was validated; run validate again")


def _linked(source: Path, place: Path) -> bool:
    """Whether `place` could be made a hard link to `source`: not across file systems."""
    try:
        place.hardlink_to(source)
    except OSError:
        return False
    return True


def _image_row(image: dict[str, Any], name: str) -> dict[str, Any]:
    row = {
        "id": image["image_id"],
        "file_name": name,
        "width": image["width"],
        "height": image["height"],
    }
    if image["group"] is not None:
        row["group"] = image["group"]
    return row | {key: value for key, value in image.items() if key not in _CANONICAL}


def _annotations_by_image(dataset: Dataset) -> dict[int, list[dict[str, Any]]]:
    ids = {name: index for index, name in enumerate(dataset.classes, 1)}
    result: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in _records(dataset.objects):
        row = {
            "id": item["object_id"],
            "image_id": item["image_id"],
            "category_id": ids[item["label"]],
            "bbox": [item["x"], item["y"], item["width"], item["height"]],
            "area": item["area"],
            "iscrowd": int(item["is_crowd"]),
        }
        if item.get("segmentation"):
            row["segmentation"] = json.loads(item["segmentation"])
        result[item["image_id"]].append(row)
    return result


def _records(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """Rows with plain Python values; None where there is none."""
    columns = {name: _plain(table[name]) for name in table.columns}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [None if pd.isna(value) else value for value in column.tolist()]


def _not_once(dataset: Dataset) -> list[int]:
    """Ids of images that have no label, or several."""
    counts = dataset.objects["image_id"].value_counts()
    return [number for number in dataset.images["image_id"] if counts.get(number, 0) != 1]


def _check_folder_name(label: str) -> None:
    fault = None
    if "/" in label or "\\" in label or "\0" in label:
        fault = "has a slash"
    elif label.startswith("."):
        fault = "begins with a dot, so the folder would be hidden"
    elif len(label.encode()) > _LONGEST_NAME:
        fault = f"is longer than {_LONGEST_NAME} bytes"
    if fault:
        raise DataError(f"write_folders: the class name {label!r} {fault}: it can be no folder's")


def _visible(source: Path, name: str) -> str:
    """`name` such that the folder reader sees the file: not hidden, with an image's extension."""
    name = name.lstrip(".") or "image"
    if PurePosixPath(name).suffix.lower() in EXTENSIONS:
        return name
    try:
        with Image.open(source, formats=FORMATS) as image:
            format = image.format
    except OSError as fault:
        raise DataError(f"{source}: cannot be read as an image: {fault}") from None
    return name + next(suffix for suffix, known in EXTENSIONS.items() if known == format)
