"""Where the images of a YOLO data set and their label files lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract.data_files import DataFiles, join
from components.contract.file_findings import FileFindings
from components.contract.paths import PathEscape, resolve_inside
from components.contract.reading import SPLIT_NAMES
from components.contract.yolo_config import YAML_NAMES, YoloConfig
from components.contract.yolo_paths import entry_places

NOT_LABELS = {"classes.txt", *(f"{name}.txt" for name in SPLIT_NAMES)}
_MAX_ENTRIES = 100  # folders or lists that a data.yaml names


@dataclass(frozen=True)
class YoloPart:
    """Images of one split.

    Args:
        split: None where the data tells none.
        where: the entry that names them, for messages.
        folder: that holds them, or None.
        list_file: that lists them, or None.
    """

    split: str | None
    where: str
    folder: str | None = None
    list_file: str | None = None


def find_files(root: Path) -> list[Path]:
    """`data.yaml`, or else the label files of a data root, sorted; empty if there are none.

    Only names are looked at.
    """
    folders = DataFiles(root)
    files = set(folders.files(""))
    found = [root / name for name in YAML_NAMES if name in files][:1]
    if found:
        return found
    return sorted(
        root / folder / name
        for images in dict.fromkeys(part.folder or "images" for part in _layout(folders))
        for folder in folders.walk(labels_of(images))
        for name in folders.with_suffix(folder, ".txt")
        if name.lower() not in NOT_LABELS
    )


def label_path(image: str) -> str:
    """Path of the label file of an image, both relative to the data root."""
    path = PurePosixPath(image).with_suffix(".txt")
    parts = list(path.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return "/".join(parts)


def labels_of(folder: str) -> str:
    """The folder of the label files of the images in a folder."""
    return label_path(join(folder, "x")).rpartition("/")[0]


def parts_of(files: DataFiles, config: YoloConfig) -> list[YoloPart]:
    """Where the images are."""
    entries = [
        (key, SPLIT_NAMES[key.lower()], value)
        for key, value in config.content.items()
        if key.lower() in SPLIT_NAMES and value not in ("", "~", "null")
    ]
    if not entries:
        return _layout(files)
    parts = []
    faults = FileFindings(config.name)
    paths = [
        path
        for _, _, value in entries
        for path in (value if isinstance(value, list) else [value])[:_MAX_ENTRIES]
        if isinstance(path, str)
    ]
    for key, split, value in entries:
        given = value if isinstance(value, list) else [value]
        if len(given) > _MAX_ENTRIES:
            allowed = f"at most {_MAX_ENTRIES}"
            faults.add("annotations-unreadable", key, "too many entries", len(given), allowed)
        for entry in given[:_MAX_ENTRIES]:
            part = _part(files, config.base, key, split, entry, paths, faults)
            if part is not None:
                parts.append(part)
    files.findings += faults.all()
    return parts


def _part(
    files: DataFiles,
    base: str,
    key: str,
    split: str,
    entry: Any,
    entries: list[str],
    faults: FileFindings,
) -> YoloPart | None:
    allowed = "a folder, a list file, or a list of them, inside the data"
    if not isinstance(entry, str):
        faults.add("annotations-unreadable", key, "must be text, or a list of it", entry, allowed)
        return None
    try:
        for place in entry_places(files.root, base, entry, entries):
            found = resolve_inside(files.root, place)
            if found.is_dir():
                folder = found.relative_to(files.root).as_posix()
                return YoloPart(split, f"{faults.name}: {key}", "" if folder == "." else folder)
            if found.is_file():
                return YoloPart(split, f"{faults.name}: {key}", list_file=place)
    except PathEscape as fault:
        faults.add("path-escape", key, str(fault), entry, allowed)
        return None
    except OSError:  # a name that is too long
        pass
    # An export often names a test folder that it did not write.
    check = "folder-ignored" if split == "test" else "annotations-unreadable"
    faults.add(check, key, "there is no such folder or list file in the data", entry, allowed)
    return None


def _layout(files: DataFiles) -> list[YoloPart]:
    """The parts of a root without a data.yaml."""
    top = files.folders("")

    def split_folders(parent: str) -> Iterator[tuple[str, str]]:
        for name in files.folders(parent):
            if name.lower() in SPLIT_NAMES:
                yield name, SPLIT_NAMES[name.lower()]

    if "images" in top and "labels" in top:
        parts = [
            YoloPart(split, f"images/{name}", f"images/{name}")
            for name, split in split_folders("images")
        ]
        if parts:
            return parts
        lists = [(f"{word}.txt", split) for word, split in SPLIT_NAMES.items()]
        present = set(files.files(""))
        parts = [YoloPart(split, name, list_file=name) for name, split in lists if name in present]
        return parts or [YoloPart(None, "images", "images")]
    return [
        YoloPart(split, f"{name}/images", f"{name}/images")
        for name, split in split_folders("")
        if "images" in files.folders(name) and ("labels" in files.folders(name))
    ]
