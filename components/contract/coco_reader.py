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

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract.class_names import name_fault, settle
from components.contract.findings import Finding, finding
from components.contract.image_columns import ImageColumns, group_of
from components.contract.paths import PathEscape, check_relative, resolve_inside
from components.contract.reading import SPLIT_NAMES, Box, RawImage, RawObject, Reading
from components.contract.segmentation import segmentation_fault, segmentation_text
from components.contract.unlisted import unlisted_images
from components.errors import DataError
from components.files import read_json

_ROBOFLOW = "_annotations.coco.json"
_LISTED = 1000  # findings of one check in one file; the rest is only counted
_KEYS = ("images", "annotations", "categories")
_READ = ("id", "file_name", "width", "height")  # keys of an image's row that are no user's column
_COCO_ONLY = ("license", "coco_url", "flickr_url", "date_captured")  # say nothing to learn from


def find_files(root: Path) -> list[Path]:
    """The COCO files of a data root, sorted; empty if there are none. Only names are looked at."""
    folder = root / "annotations"
    for candidates in (
        folder.glob("instances_*.json"),
        folder.glob("*.json"),
        root.glob("instances_*.json"),
        (root / f"{name}.json" for name in ("annotations", *SPLIT_NAMES)),
        (root / name / _ROBOFLOW for name in SPLIT_NAMES),
        (root / _ROBOFLOW,),
    ):
        # Hidden files are leftovers of archives ("._instances_train.json").
        found = sorted(
            path for path in candidates if path.is_file() and not path.name.startswith(".")
        )
        if found:
            return found
    return []


def split_word(name: str) -> str | None:
    """The word in a COCO file's name (or its folder's, for Roboflow) that tells the split.

    Args:
        name: of the file, relative to the data root.
    """
    path = PurePosixPath(name)
    text = path.parent.name if path.name == _ROBOFLOW else path.stem
    for word in re.split(r"[^a-zA-Z0-9]+", text):
        if word.rstrip("0123456789").lower() in SPLIT_NAMES:
            return word
    return None


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
    reading = Reading(root, "coco", "detection")
    files = find_files(root)
    if not files:
        raise DataError(f"{root}: no COCO file, such as annotations/instances_train.json")
    named: dict[str, str] = {}  # path of an image: where it was named first
    columns = ImageColumns({*_READ, *_COCO_ONLY})
    first: tuple[str, dict[int, str]] | None = None
    all_read = True
    for file in files:
        reader = _FileReader(root, file, named, columns)
        if reader.content is None:
            reading.findings += reader.findings
            all_read = False
            continue
        categories = reader.categories()
        if first is None:
            first = (reader.name, categories)
            found = [name for _, name in sorted(categories.items())]
            reading.classes, faults = settle(list(dict.fromkeys(found)), classes, reader.name)
            reading.findings += faults
        elif categories != first[1]:
            reading.findings.append(
                finding(
                    "categories-differ",
                    reader.name,
                    f"the categories differ from those of {first[0]}, so labels would shift",
                    _show_categories(categories, first[1]),
                    _show_categories(first[1], categories),
                )
            )
        if reader.split:
            reading.splits.add(reader.split)
        elif len(files) > 1:
            reading.findings.append(
                finding(
                    "split-unknown",
                    reader.name,
                    "which split is this? Its name holds none of the words",
                    file.name,
                    ", ".join(SPLIT_NAMES),
                )
            )
        reader.read_rows(reading, categories)
        reading.findings += reader.findings
    if named and all_read:
        # What a row with a fault names is named all the same.
        mentioned = {item.image for item in reading.findings}
        reading.findings += unlisted_images(root, named.keys() | mentioned)
    reading.sort()
    return reading


class _FileReader:
    """Reads one COCO file; what is wrong goes to `findings`."""

    def __init__(
        self,
        root: Path,
        file: Path,
        named: dict[str, str],
        columns: ImageColumns | None = None,
    ) -> None:
        self.root, self.file, self.named = root, file, named
        self.columns = columns or ImageColumns({*_READ, *_COCO_ONLY})
        self.name = file.relative_to(root).as_posix()
        self.word = split_word(self.name)
        self.split = SPLIT_NAMES[self.word.rstrip("0123456789").lower()] if self.word else None
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.placed: dict[str, set[str]] = defaultdict(set)  # check: images with a finding of it
        self.first: dict[str, str] = {}  # check: the first of these images
        self.rest: Counter[tuple[str, str]] = Counter()  # check, an image or none: not listed
        self.paths: dict[int, str] = {}  # image id: its path, or its name where there is no file
        self.content: dict[str, list[Any]] | None = None
        self.folders = self._folders()
        try:
            resolve_inside(root, self.name)
            content = read_json(file)
        except PathEscape as fault:
            self._error("path-escape", "", str(fault))
            return
        except (DataError, ValueError) as fault:  # ValueError: an integer of too many digits
            self._error("annotations-unreadable", "", str(fault).removeprefix(f"{file}: "))
            return
        if not isinstance(content, dict) or any(
            not isinstance(content.get(key), list) for key in _KEYS
        ):
            self._error(
                "annotations-unreadable",
                "",
                "not COCO: must be an object with the lists images, annotations, categories",
                sorted(map(str, content)) if isinstance(content, dict) else content,
            )
            return
        self.content = {key: content[key] for key in _KEYS}

    def categories(self) -> dict[int, str]:
        """Category names by id."""
        assert self.content is not None
        result: dict[int, str] = {}
        names: set[str] = set()
        for index, row in enumerate(self.content["categories"]):
            place = f"categories[{index}]"
            number = _integer(row.get("id")) if isinstance(row, dict) else None
            if number is None:
                self._error("category-broken", place, "must have a whole number as id", row)
                continue
            fault = name_fault(row.get("name"))
            if fault:
                self._error("class-name", place, fault, row.get("name"))
            elif number in result:
                self._error("duplicate-category-id", place, "this id is used twice", number)
            elif row["name"] in names:
                self._error("duplicate-class", place, "this class is named twice", row["name"])
            else:
                result[number] = row["name"]
                names.add(row["name"])
        return result

    def read_rows(self, reading: Reading, categories: dict[int, str]) -> None:
        """Append this file's images and objects to `reading`."""
        assert self.content is not None
        self._known = set(reading.classes)
        positions: dict[int, int | None] = {}  # image id: position in reading.images
        for index, row in enumerate(self.content["images"]):
            self._read_image(reading, positions, index, row)
        seen: set[int] = set()
        for index, row in enumerate(self.content["annotations"]):
            self._read_annotation(reading, positions, categories, seen, index, row)
        self.content = None
        self._summarise_rest()

    def _read_image(
        self, reading: Reading, positions: dict[int, int | None], index: int, row: Any
    ) -> None:
        place = f"images[{index}]"
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name.strip():
            self._error("image-row-broken", place, "must be an object with a file_name", row)
            number = _integer(row.get("id")) if isinstance(row, dict) else None
            if number is not None and number not in positions:
                positions[number], self.paths[number] = None, ""
            return
        path, fault = self._find(name)
        image = path or name
        number = _integer(row.get("id"))
        if number is None:
            message = "must have a whole number as id"
            self._error("image-row-broken", place, message, row.get("id"), image=image)
            return
        if number in positions:
            message = "this image id is used twice"
            # Whose are the annotations? Neither image can be used.
            self._error("duplicate-image-id", place, message, number, image=image)
            other = self.paths[number]
            self._error("duplicate-image-id", f"images of {other}", message, number, image=other)
            return
        positions[number] = None  # known, but unusable unless all that follows holds
        self.paths[number] = image
        if fault:
            allowed = "a relative path inside the data"
            self._error("path-escape", place, fault, name, allowed, image=image)
            return
        if path is None:
            allowed = "a file in " + ", ".join(f"{folder or '.'}/" for folder in self.folders)
            message = "there is no such image file"
            self._error("file-missing", place, message, name, allowed, image=image)
            return
        if path in self.named:
            message = f"this file is named a second time; first by {self.named[path]}"
            self._error("duplicate-image", place, message, path, image=image)
            return
        self.named[path] = f"{self.name}: {place}"
        size = self._size(place, row, image)
        group, fault = group_of(row)
        if fault:
            self._error("image-row-broken", place, fault, image=image)
        columns, fault = self.columns.read(row)
        if fault:
            self._error("image-row-broken", place, fault)
        positions[number] = len(reading.images)
        reading.images.append(
            RawImage(path, self.split, size, f"{self.name}: {place}", group, columns)
        )

    def _size(self, place: str, row: dict[str, Any], image: str) -> tuple[float, float] | None:
        if row.get("width") is None and row.get("height") is None:
            return None
        width, height = _number(row.get("width")), _number(row.get("height"))
        if width is None or height is None:
            message = "width and height must be numbers of pixels"
            value = [row.get("width"), row.get("height")]
            self._error("image-row-broken", place, message, value, image=image)
            return None
        return width, height

    def _find(self, name: str) -> tuple[str | None, str | None]:
        """The path of an image file, if there is one, and why it must not be used, if so."""
        try:
            return self._locate(name), None
        except PathEscape as fault:
            return None, str(fault)

    def _read_annotation(
        self,
        reading: Reading,
        positions: dict[int, int | None],
        categories: dict[int, str],
        seen: set[int],
        index: int,
        row: Any,
    ) -> None:
        place = f"annotations[{index}]"
        if not isinstance(row, dict):
            self._error("annotation-broken", place, "must be an object", row)
            return
        number, path = _integer(row.get("image_id")), ""
        if number is not None:
            path = self.paths.get(number, "")
        self._check_id(place, row.get("id"), seen, path)
        if number is None or number not in positions:
            message = "image_id names no image of the file"
            self._error("image-id-unknown", place, message, row.get("image_id"))
            return
        category = _integer(row.get("category_id"))
        if category is None or category not in categories:
            known = ", ".join(f"{key} ({name})" for key, name in islice(categories.items(), 10))
            self._error(
                "class-unknown",
                place,
                "category_id names no category of the file",
                row.get("category_id"),
                f"one of {known}",
                image=path,
            )
            return
        box = self._box(place, row.get("bbox"), path)
        area = None
        if row.get("area") is not None:
            area = _number(row["area"])
            if area is None or not math.isfinite(area) or area < 0:
                message = "area must be a number, at least 0"
                self._error("area-broken", place, message, row["area"], image=path)
                area = None
        crowd = row.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._error("annotation-broken", place, "iscrowd must be 0 or 1", crowd, image=path)
            crowd = 0
        position = positions[number]
        size = None if position is None else reading.images[position].size
        mask = row.get("segmentation")
        fault = segmentation_fault(mask, size)
        if fault:
            self._error("segmentation-broken", place, fault, image=path)
        # A row of an image that is unusable, or of a class that is not wanted, has had its finding.
        if box is None or position is None or categories[category] not in self._known:
            return
        reading.objects.append(
            RawObject(
                image=position,
                label=categories[category],
                box=box,
                area=area,
                is_crowd=bool(crowd),
                where=f"{self.name}: {place} of {reading.images[position].path}",
                segmentation=None if fault else segmentation_text(mask),
            )
        )

    def _check_id(self, place: str, value: Any, seen: set[int], path: str) -> None:
        if value is None:
            return
        number = _integer(value)
        if number is None:
            self._error("annotation-broken", place, "id must be a whole number", value, image=path)
        elif number in seen:
            message = "this id is used twice"
            self._error("duplicate-annotation-id", place, message, number, image=path)
        else:
            seen.add(number)

    def _box(self, place: str, value: Any, path: str) -> Box | None:
        numbers = [_number(item) for item in value] if isinstance(value, list) else []
        if len(numbers) != 4 or any(item is None for item in numbers):
            self._error(
                "box-broken",
                place,
                "bbox must be four numbers: x, y, width, height in pixels",
                value,
                "for example [10, 20, 30, 40]",
                image=path,
            )
            return None
        x, y, width, height = (float(item) for item in numbers if item is not None)
        return x, y, width, height

    def _folders(self) -> list[str]:
        """Folders, relative to the root, in which image files are looked up."""
        words = [self.word] if self.word else []
        words += [word for word, split in SPLIT_NAMES.items() if split == self.split]
        names = [folder for word in words for folder in (word, f"images/{word}")]
        beside = self.file.parent.relative_to(self.root).as_posix()
        names += ["images", "", "" if beside == "." else beside]
        return list(dict.fromkeys(names))

    def _locate(self, name: str) -> str | None:
        """The path of an image file relative to the root, or None if there is none.

        Raises:
            PathEscape: the name leads out of the root.
        """
        check_relative(name)  # before a folder is put in front of it
        for folder in self.folders:
            path = resolve_inside(self.root, f"{folder}/{name}" if folder else name)
            try:
                exists = path.exists()
            except OSError:  # a name that is too long
                exists = False
            if exists:
                return path.relative_to(self.root).as_posix()
        return None

    def _summarise_rest(self) -> None:
        for (check, image), number in self.rest.items():
            message = f"and {number} more like those listed"
            if image:
                message += ", about images that have one listed"
            self.findings.append(finding(check, f"{self.name}: the rest", message, image=image))

    def _error(
        self,
        check: str,
        place: str,
        message: str,
        value: Any = "",
        allowed: str = "",
        image: str = "",
    ) -> None:
        self.counts[check] += 1
        placed = self.placed[check]
        # Past the limit, a finding is listed only if it is the first about its image, so that the
        # quarantine sees all images; it has no other way to know of them.
        if self.counts[check] > _LISTED and (not image or image in placed):
            self.rest[check, self.first[check] if image else ""] += 1
            return
        if image:
            self.first.setdefault(check, image)
            placed.add(image)
        where = f"{self.name}: {place}" if place else self.name
        self.findings.append(finding(check, where, message, value, allowed, image))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    """A JSON number as float, NaN and infinity included; None for all else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _show_categories(mine: dict[int, str], other: dict[int, str]) -> str:
    parts = [f"{key}={name}" for key, name in sorted(mine.items()) if other.get(key) != name]
    return ", ".join(parts[:5]) or "fewer"
