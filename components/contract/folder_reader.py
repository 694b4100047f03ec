"""A folder per class, with or without a level of `train`, `val`, `test` above it.

data/train/cat/1.jpg        data/cat/1.jpg
data/val/dog/2.jpg          data/dog/2.jpg
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from components.contract.class_names import name_fault, settle
from components.contract.data_files import DataFiles, is_image, join, unused_images
from components.contract.findings import finding
from components.contract.reading import SPLIT_NAMES, RawImage, RawObject, Reading
from components.contract.split_words import split_of

# Folders of images that annotation files speak of: their names are no classes beside such files.
_COLLECTIONS = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "data"}


def split_folders(root: Path) -> dict[str, str]:
    """Folders of `root` that are splits, if it has a split level: `{folder name: split}`.

    It has one if there is a `train` folder that itself holds folders, or if all folders are named
    like splits and one holds folders; otherwise `train` and `test` are classes.
    """
    return _split_folders(DataFiles(root))


def find_folders(root: Path) -> list[Path]:
    """Folders that hold images and whose names are neither those of splits nor of collections."""
    files = DataFiles(root)
    return [
        Path(root) / folder
        for folder in _class_folders(files)
        if (name := folder.rpartition("/")[2]).lower() not in _COLLECTIONS
        and split_of(name) is None
        and files.holds_images(folder)
    ]


def looks_like(root: Path) -> bool:
    """Whether some folder that would be a class holds an image."""
    files = DataFiles(root)
    return any(files.holds_images(folder) for folder in _class_folders(files))


def read_folder(root: Path, classes: Sequence[str] | None) -> Reading:
    """Read a folder per class.

    Classes are the names of the folders, in the order of their text, unless `classes` gives them.
    Folders inside a class folder belong to it. Files that are no images by their extension are
    reported.

    Args:
        root: the data root, an existing folder.
        classes: class names in the model's order, or None.
    """
    reading = Reading(root, "folder", "classification")
    files = DataFiles(root, reading.findings)
    splits = _split_folders(files)
    reading.splits = set(splits.values())
    if splits:
        for name in files.folders(""):
            if name not in splits and files.holds_images(name):
                message = "a folder with images beside the splits is not read"
                allowed = f"one of {', '.join(SPLIT_NAMES)}"
                reading.findings.append(finding("folder-ignored", name, message, "", allowed))
    for parent in sorted(splits) or [""]:
        loose = [join(parent, name) for name in files.files(parent) if is_image(name)]
        reading.findings += unused_images(loose, "outside the class folders")
    found: set[str] = set()
    members: list[tuple[str, str | None, str]] = []  # class, split, path
    for folder in _class_folders(files):
        parent, _, name = folder.rpartition("/")
        fault = name_fault(name)
        if fault:
            reading.findings.append(finding("class-name", folder, fault, name))
            continue
        found.add(name)
        members += [(name, splits.get(parent), path) for path in _images(files, folder)]
    reading.classes, faults = settle(sorted(found), classes, root.name)
    reading.findings += faults
    known = set(reading.classes)
    for label, split, path in members:
        if label in known:
            place = len(reading.images)
            reading.objects.append(RawObject(place, label, None, None, False, where=path))
            reading.images.append(RawImage(path, split, None, where=path))
    reading.sort()
    return reading


def _split_folders(files: DataFiles) -> dict[str, str]:
    folders = files.folders("")
    found = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    has_level = any(
        (split == "train" or len(found) == len(folders)) and files.folders(name)
        for name, split in found.items()
    )
    return found if has_level else {}


def _class_folders(files: DataFiles) -> list[str]:
    """The folders that are classes by their place."""
    parents = sorted(_split_folders(files)) or [""]
    return [join(parent, name) for parent in parents for name in files.folders(parent)]


def _images(files: DataFiles, folder: str) -> Iterator[str]:
    for place in files.walk(folder):
        for paths in files.images(place).values():
            yield from paths
