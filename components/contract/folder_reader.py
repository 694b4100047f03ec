"""A folder per class, with or without a level of `train`, `val`, `test` above it.

data/train/cat/1.jpg        data/cat/1.jpg
data/val/dog/2.jpg          data/dog/2.jpg
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.contract.class_names import name_fault, settle
from components.contract.findings import finding
from components.contract.paths import PathEscape, resolve_inside
from components.contract.pixels import EXTENSIONS
from components.contract.reading import SPLIT_NAMES, RawImage, RawObject, Reading

# Files that operating systems and version control leave in every folder.
_LITTER = {"thumbs.db", "desktop.ini"}


def split_folders(root: Path) -> dict[str, str]:
    """Folders of `root` that are splits, if it has a split level: `{folder name: split}`.

    It has one if there is a `train` folder that itself holds folders, or if all folders are named
    like splits and one holds folders; otherwise `train` and `test` are classes.
    """
    folders = _folders(root)
    found = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    has_level = any(
        (split == "train" or len(found) == len(folders)) and _folders(root / name)
        for name, split in found.items()
    )
    return found if has_level else {}


def looks_like(root: Path) -> bool:
    """Whether some folder that would be a class holds an image."""
    splits = split_folders(root)
    parents = [root / name for name in splits] if splits else [root]
    return any(
        Path(name).suffix.lower() in EXTENSIONS
        for parent in parents
        for folder in _folders(parent)
        for _, _, names in os.walk(parent / folder)
        for name in names
    )


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
    splits = split_folders(root)
    levels: list[tuple[str, str | None]] = [("", None)]
    if splits:
        levels = [(f"{name}/", split) for name, split in sorted(splits.items())]
    reading.splits = set(splits.values())
    if splits:
        for name in _folders(root):
            if name not in splits and _holds_images(root / name):
                reading.findings.append(
                    finding(
                        "folder-ignored",
                        name,
                        "a folder with images beside the splits is not read",
                        "",
                        f"one of {', '.join(SPLIT_NAMES)}",
                    )
                )
    found: set[str] = set()
    members: list[tuple[str, str | None, str]] = []  # class folder, split, path
    for prefix, split in levels:
        parent = root / prefix
        _report_loose_images(reading, parent, prefix)
        for name in _folders(parent):
            fault = name_fault(name)
            if fault:
                reading.findings.append(finding("class-name", f"{prefix}{name}", fault, name))
                continue
            found.add(name)
            members += [(name, split, path) for path in _files(reading, root, f"{prefix}{name}")]
    reading.classes, faults = settle(sorted(found), classes, root.name)
    reading.findings += faults
    known = set(reading.classes)
    for label, split, path in members:
        if label in known:
            reading.objects.append(
                RawObject(len(reading.images), label, None, None, False, where=path)
            )
            reading.images.append(RawImage(path, split, None, where=path))
    reading.sort()
    return reading


def _report_loose_images(reading: Reading, parent: Path, prefix: str) -> None:
    for entry in sorted(os.listdir(parent)):  # noqa: PTH208
        if Path(entry).suffix.lower() in EXTENSIONS and (parent / entry).is_file():
            reading.findings.append(
                finding(
                    "image-without-label",
                    f"{prefix}{entry}",
                    "an image outside the class folders has no label and is not used",
                    image=f"{prefix}{entry}",
                )
            )


def _files(reading: Reading, root: Path, folder: str) -> Iterator[str]:
    """Paths of the images below a class folder, relative to `root`; reports all else it meets."""
    for parent, folders, names in os.walk(root / folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(parent).relative_to(root).as_posix()
        for name in [name for name in folders if (Path(parent) / name).is_symlink()]:
            reading.findings.append(
                finding(
                    "path-escape",
                    f"{place}/{name}",
                    "a linked folder is not followed",
                    str(os.readlink(Path(parent) / name)),  # noqa: PTH115
                    "a real folder inside the data",
                )
            )
        for name in sorted(names):
            path = f"{place}/{name}"
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            if Path(name).suffix.lower() not in EXTENSIONS:
                reading.findings.append(
                    finding(
                        "unsupported-extension",
                        path,
                        "not an image by its extension; it is not read",
                        Path(name).suffix,
                        ", ".join(EXTENSIONS),
                    )
                )
                continue
            try:
                resolve_inside(root, path)
            except PathEscape as fault:
                reading.findings.append(finding("path-escape", path, str(fault), image=path))
                continue
            yield path


def _folders(parent: Path) -> list[str]:
    """Names of the visible folders in `parent`, sorted; links to folders do not count."""
    try:
        with os.scandir(parent) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )
    except OSError:
        return []


def _holds_images(folder: Path) -> bool:
    return any(
        Path(name).suffix.lower() in EXTENSIONS for _, _, names in os.walk(folder) for name in names
    )
