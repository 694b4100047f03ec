"""COCO JSON for detection: one file a split, or a single one.

Where the files may stand, the first kind that exists counts:

    annotations/instances_train.json    annotations/instances_val2017.json
    annotations/train.json              annotations/anything.json
    instances_train.json                annotations.json              train.json
    train/_annotations.coco.json        _annotations.coco.json

An image `file_name` is looked up in `<split>/`, `images/<split>/`, `images/`, the data root and
beside the JSON file, in this order; `<split>` is the word in the JSON's name (`val2017`), then its
plain forms. Files of any content are read without a crash: what does not fit becomes a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract.annotation_values import json_number, json_whole
from components.contract.class_names import name_fault, settle
from components.contract.coco_annotations import CocoImages, read_annotations
from components.contract.coco_files import find_files, read_content
from components.contract.data_files import DataFiles
from components.contract.file_findings import FileFindings
from components.contract.image_columns import ImageColumns, group_of
from components.contract.paths import PathEscape
from components.contract.reading import SPLIT_NAMES, RawImage, Reading
from components.contract.split_words import image_folders, split_of, split_word
from components.errors import DataError

__all__ = ["OWN_KEYS", "find_files", "read_coco", "read_coco_file", "split_word"]

# Keys of an image's row that are no columns of the user: those that are read, and those that say
# nothing to learn from.
OWN_KEYS = frozenset(
    ("id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured")
)


def read_coco(root: Path, classes: Sequence[str] | None) -> Reading:
    """Read all COCO files of a data root.

    Classes are the categories in the order of their ids, unless `classes` gives the order. The
    category lists of all files must be equal: a different id for the same name would silently
    shift labels.

    Args:
        root: the data root, an existing folder.
        classes: class names in the model's order, or None.

    Raises:
        DataError: there is no COCO file.
    """
    root = Path(root)
    reading = Reading(root, "coco", "detection")
    paths = find_files(root)
    if not paths:
        raise DataError(f"{root}: no COCO file, such as annotations/instances_train.json")
    reader = _Reader(reading, DataFiles(root, reading.findings))
    first: tuple[str, dict[int, str]] | None = None
    for path in paths:
        file = _CocoFile(root, path)
        if file.content is None:
            reading.findings += file.faults.all()
            continue
        categories = file.categories()
        if first is None:
            first = (file.name, categories)
            found = [name for _, name in sorted(categories.items())]
            reading.classes, faults = settle(found, classes, file.name)
            reading.findings += faults
        elif categories != first[1]:
            file.faults.add(
                "categories-differ",
                "",
                f"the categories differ from those of {first[0]}, so labels would shift",
                _show_categories(categories, first[1]),
                _show_categories(first[1], categories),
            )
        if file.split:
            reading.splits.add(file.split)
        elif len(paths) > 1:
            message = "which split is this? Its name holds none of the words"
            file.faults.add("split-unknown", "", message, path.name, ", ".join(SPLIT_NAMES))
        reader.read(file, categories, image_folders(file.word, file.split, file.beside))
        reading.findings += file.faults.all()
    if reader.named:
        reading.findings += reader.files.unlisted(reader.named)
    reading.sort()
    return reading


def read_coco_file(
    root: Path, path: Path, below: str = "", only: bool = False
) -> tuple[Reading, dict[int, str]]:
    """Read one COCO file by itself; its images stay in the order of the file.

    Args:
        root: folder that holds the file and the images.
        path: the file.
        below: folder, relative to the root, below which images are looked up.
        only: look into that folder alone, and not into those that the file's name tells.

    Returns:
        What it holds, and its class names by category id.
    """
    reading = Reading(root, "coco", "detection")
    file = _CocoFile(root, path)
    categories: dict[int, str] = {}
    if file.content is not None:
        categories = dict(sorted(file.categories().items()))
        reading.classes = tuple(categories.values())
        folders = [""] if only else image_folders(file.word, file.split, file.beside)
        folders = [f"{below}/{name}".strip("/") for name in folders]
        _Reader(reading, DataFiles(root, reading.findings)).read(file, categories, folders)
    reading.findings += file.faults.all()
    return reading, categories


class _CocoFile:
    """One COCO file; `content` is None if it cannot be read, which is then in `faults`."""

    def __init__(self, root: Path, path: Path) -> None:
        self.name = path.relative_to(root).as_posix()
        self.faults = FileFindings(self.name)
        self.word = split_word(self.name)
        self.split = split_of(self.word)
        beside = PurePosixPath(self.name).parent.as_posix()
        self.beside = "" if beside == "." else beside
        self.content: dict[str, list[Any]] | None = None
        try:
            self.content = read_content(root, self.name)
        except PathEscape as fault:
            self.faults.add("path-escape", "", str(fault))
        except DataError as fault:
            self.faults.add("annotations-unreadable", "", str(fault))

    def categories(self) -> dict[int, str]:
        """Class names by category id."""
        assert self.content is not None
        result: dict[int, str] = {}
        names: set[str] = set()
        for index, row in enumerate(self.content["categories"]):
            place = f"categories[{index}]"
            number = json_whole(row.get("id")) if isinstance(row, dict) else None
            if number is None:
                self.faults.add("category-broken", place, "must have a whole number as id", row)
                continue
            fault = name_fault(row.get("name"))
            if fault:
                self.faults.add("class-name", place, fault, row.get("name"))
            elif number in result:
                message = "this id is used twice"
                self.faults.add("duplicate-category-id", place, message, number)
            elif row["name"] in names:
                message = "this class is named twice"
                self.faults.add("duplicate-class", place, message, row["name"])
            else:
                result[number] = row["name"]
                names.add(row["name"])
        return result


class _Reader:
    """Appends the rows of COCO files to a reading."""

    def __init__(self, reading: Reading, files: DataFiles) -> None:
        self.reading, self.files = reading, files
        self.named: dict[str, str] = {}  # path of an image: where it was named first
        self.columns = ImageColumns(OWN_KEYS)

    def read(self, file: _CocoFile, categories: dict[int, str], folders: list[str]) -> None:
        """Append one file's images, looked up in `folders`, and their objects."""
        assert file.content is not None
        images = CocoImages({}, {})
        folders = self.files.existing(folders)
        for index, row in enumerate(file.content["images"]):
            self._read_image(file, folders, images, f"images[{index}]", row)
        rows = file.content["annotations"]
        file.content = None  # so that each half goes as soon as it is read
        wanted = set(self.reading.classes)
        self.reading.objects += read_annotations(
            rows, images, self.reading.images, categories, wanted, file.faults
        )

    def _read_image(
        self, file: _CocoFile, folders: list[str], images: CocoImages, place: str, row: Any
    ) -> None:
        tell = file.faults.add
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str):
            tell("image-row-broken", place, "must be an object with a file_name", row)
            return
        path, escape = None, None
        try:
            path = self.files.find(name, folders)
        except PathEscape as error:
            escape = str(error)
        image = path or name
        number = json_whole(row.get("id"))
        if number is None:
            message = "must have a whole number as id"
            tell("image-row-broken", place, message, row.get("id"), image=image)
            return
        if number in images.positions:
            message = "this image id is used twice"
            # Whose are the annotations? Neither image can be used.
            tell("duplicate-image-id", place, message, number, image=image)
            other = images.paths[number]
            tell("duplicate-image-id", f"images of {other}", message, number, image=other)
            return
        images.positions[number] = None  # known, but unusable unless all that follows holds
        images.paths[number] = image
        if escape:
            tell("path-escape", place, escape, name, "a relative path inside the data", image)
            return
        if path is None:
            allowed = "a file in " + ", ".join(f"{folder or '.'}/" for folder in folders)
            tell("file-missing", place, "there is no such image file", name, allowed, image)
            return
        if path in self.named:
            message = f"this file is named a second time; first by {self.named[path]}"
            tell("duplicate-image", place, message, path, image=image)
            return
        self.named[path] = f"{file.name}: {place}"
        size = _size(file.faults, place, row, image)
        group, fault = group_of(row)
        if fault:
            tell("image-row-broken", place, fault, image=image)
        columns, fault = self.columns.read(row)
        if fault:
            tell("image-row-broken", place, fault)
        images.positions[number] = len(self.reading.images)
        where = f"{file.name}: {place}"
        self.reading.images.append(RawImage(path, file.split, size, where, group, columns))


def _size(
    faults: FileFindings, place: str, row: dict[str, Any], image: str
) -> tuple[float, float] | None:
    given = [row.get("width"), row.get("height")]
    if given == [None, None]:
        return None
    width, height = map(json_number, given)
    if width is None or height is None:
        message = "width and height must be numbers of pixels"
        faults.add("image-row-broken", place, message, given, image=image)
        return None
    return width, height


def _show_categories(mine: dict[int, str], other: dict[int, str]) -> str:
    parts = [f"{key}={name}" for key, name in sorted(mine.items()) if other.get(key) != name]
    return ", ".join(parts[:5]) or "fewer"
