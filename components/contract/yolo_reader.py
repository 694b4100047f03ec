"""YOLO: one text file an image, for detection, with or without a `data.yaml`.

    data.yaml                   path, train, val, test: folders or list files; names; nc
    images/train/1.jpg          labels/train/1.txt
    train/images/1.jpg          train/labels/1.txt
    images/1.jpg                labels/1.txt            and perhaps train.txt, val.txt: lists

The label file of an image has the image's path with the last folder `images` replaced by `labels`;
where there is no such folder it stands beside the image. An image with an empty one is background,
and so is one without, which is reported. Names come from `data.yaml`, or one a line from
`classes.txt` in the root or in `labels/`, or from the parameters.

All paths of a `data.yaml` must lead into the data root; `yolo_paths` says which of those that look
otherwise do, and the rest is `path-escape`.

How lines become boxes: see `yolo_labels`. Files of any content end in findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract.annotation_files import FileFindings, Folders, join
from components.contract.class_names import name_fault, settle
from components.contract.findings import finding
from components.contract.paths import PathEscape, check_relative, resolve_inside
from components.contract.pixels import EXTENSIONS, ImageError, read_bytes, read_size
from components.contract.reading import SPLIT_NAMES, RawImage, RawObject, Reading
from components.contract.yolo_labels import parse_labels
from components.contract.yolo_paths import base_folder, entry_places
from components.contract.yolo_yaml import read_yaml
from components.errors import DataError

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_NOT_LABELS = {"classes.txt", *(f"{name}.txt" for name in SPLIT_NAMES)}
_MAX_LABEL_BYTES = 4_000_000
_MAX_LIST_BYTES = 16_000_000
_MAX_LIST_FAULTS = 1000  # of one kind; a list with more is given up
_MAX_ENTRIES = 100  # folders or lists that a data.yaml names


@dataclass
class _Part:
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


@dataclass
class _Config:
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


def find_files(root: Path) -> list[Path]:
    """`data.yaml`, or else the label files of a data root, sorted; empty if there are none.

    Only names are looked at.
    """
    folders = Folders(root, [])
    files = set(folders.files(""))
    found = [root / name for name in _YAML_NAMES if name in files][:1]
    if found:
        return found
    return sorted(
        root / folder / name
        for images in dict.fromkeys(part.folder or "images" for part in _layout(folders))
        for folder in folders.walk(_labels_of(images))
        for name in folders.with_suffix(folder, ".txt")
        if name.lower() not in _NOT_LABELS
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


def _labels_of(folder: str) -> str:
    """The folder of the label files of the images in a folder."""
    return label_path(join(folder, "x")).rpartition("/")[0]


def read_yolo(root: Path, classes: Sequence[str] | None = None) -> Reading:
    """Read a YOLO data set.

    Classes are the names in the order of their indices, unless `classes` gives them.

    Args:
        root: the data root, an existing folder.
        classes: class names in the model's order, or None.

    Raises:
        DataError: there is neither a data.yaml nor a label file.
    """
    if not find_files(root):
        raise DataError(f"{root}: no YOLO data, such as data.yaml or labels/train/1.txt")
    reading = Reading(root, "yolo", "detection")
    reader = _Reader(root, reading)
    config = reader.read_config()
    if config is None:
        return reading
    reader.settle_names(config, classes)
    for part in reader.parts(config):
        if part.split:
            reading.splits.add(part.split)
        reader.read_part(part, config)
    reader.report_left_over()
    reading.sort()
    return reading


def _layout(folders: Folders) -> list[_Part]:
    """The parts of a root without a data.yaml."""
    top = folders.folders("")

    def split_folders(parent: str) -> Iterator[tuple[str, str]]:
        for name in folders.folders(parent):
            if name.lower() in SPLIT_NAMES:
                yield name, SPLIT_NAMES[name.lower()]

    if "images" in top and "labels" in top:
        parts = [
            _Part(split, f"images/{name}", f"images/{name}")
            for name, split in split_folders("images")
        ]
        if parts:
            return parts
        lists = [(f"{word}.txt", split) for word, split in SPLIT_NAMES.items()]
        present = set(folders.files(""))
        parts = [_Part(split, name, list_file=name) for name, split in lists if name in present]
        return parts or [_Part(None, "images", "images")]
    return [
        _Part(split, f"{name}/images", f"{name}/images")
        for name, split in split_folders("")
        if "images" in folders.folders(name) and ("labels" in folders.folders(name))
    ]


class _Reader:
    """Reads the parts of one data root into `reading`."""

    def __init__(self, root: Path, reading: Reading) -> None:
        self.root, self.reading = root, reading
        self.folders = Folders(root, reading.findings)
        self.named: dict[str, str] = {}  # path of an image: where it was named first
        self.names: dict[int, str | None] = {}  # class index: its name; None if it is not wanted
        self.label_folders: dict[str, str] = {}  # folder of labels: its folder of images

    def read_config(self) -> _Config | None:
        """What `data.yaml` says; None if it cannot be read, which is then a finding."""
        present = set(self.folders.files(""))
        name = next((name for name in _YAML_NAMES if name in present), None)
        if name is None:
            return _Config(self.root.name)
        faults = FileFindings(name)
        config = _Config(name)
        try:
            config.content = read_yaml(self.root / name)
            config.names = _names(config.content, faults)
            config.num_extra = _num_extra(config.content)
            config.base = self._base(config.content.get("path", ""), faults)
        except DataError as fault:
            faults.add("annotations-unreadable", "", str(fault))
            return None
        finally:
            self.reading.findings += faults.all()
        return config

    def _base(self, path: Any, faults: FileFindings) -> str:
        if not isinstance(path, str):
            raise DataError("path must be text: a folder inside the data")
        if path in ("", ".", "./", "~", "null"):
            return ""
        allowed = "a folder inside the data, the data itself, or no path at all"
        try:
            base = base_folder(self.root, path)
        except PathEscape as fault:
            faults.add("path-escape", "path", str(fault), path, allowed)
            return ""
        except OSError:  # a name that is too long
            base = None
        if base is None:
            message = "there is no such folder in the data; train, val and test are looked up in it"
            faults.add("folder-ignored", "path", message, path, allowed)
        return base or ""

    def settle_names(self, config: _Config, classes: Sequence[str] | None) -> None:
        """Fix the class list, and the name of each class index."""
        names = config.names
        if names is None:
            names = self._name_file()
        if names is None and classes is not None:
            names = dict(enumerate(classes))
        found = list((names or {}).values())
        self.reading.classes, faults = settle(list(dict.fromkeys(found)), classes, config.name)
        self.reading.findings += faults
        known = set(self.reading.classes)
        self.names = {
            index: name if name in known else None for index, name in (names or {}).items()
        }

    def _name_file(self) -> dict[int, str] | None:
        for path in _NAME_FILES:
            folder, _, name = path.rpartition("/")
            if name not in self.folders.files(folder):
                continue
            faults = FileFindings(path)
            text = self._read_text(path, _MAX_LABEL_BYTES, faults)
            rows = (text or "").rstrip().split("\n") if text and text.strip() else []
            names = _checked_names({index: row.strip() for index, row in enumerate(rows)}, faults)
            self.reading.findings += faults.all()
            return names
        return None

    def parts(self, config: _Config) -> list[_Part]:
        """Where the images are."""
        entries = [
            (key, SPLIT_NAMES[key.lower()], value)
            for key, value in config.content.items()
            if key.lower() in SPLIT_NAMES and value not in ("", "~", "null")
        ]
        if not entries:
            return _layout(self.folders)
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
                part = self._part(config.base, key, split, entry, paths, faults)
                if part is not None:
                    parts.append(part)
        self.reading.findings += faults.all()
        return parts

    def _part(
        self,
        base: str,
        key: str,
        split: str,
        entry: Any,
        entries: list[str],
        faults: FileFindings,
    ) -> _Part | None:
        allowed = "a folder, a list file, or a list of them, inside the data"
        if not isinstance(entry, str):
            faults.add(
                "annotations-unreadable", key, "must be text, or a list of it", entry, allowed
            )
            return None
        try:
            for place in entry_places(self.root, base, entry, entries):
                found = resolve_inside(self.root, place)
                if found.is_dir():
                    folder = found.relative_to(self.root).as_posix()
                    return _Part(split, f"{faults.name}: {key}", "" if folder == "." else folder)
                if found.is_file():
                    return _Part(split, f"{faults.name}: {key}", list_file=place)
        except PathEscape as fault:
            faults.add("path-escape", key, str(fault), entry, allowed)
            return None
        except OSError:  # a name that is too long
            pass
        # An export often names a test folder that it did not write.
        check = "folder-ignored" if split == "test" else "annotations-unreadable"
        faults.add(check, key, "there is no such folder or list file in the data", entry, allowed)
        return None

    def read_part(self, part: _Part, config: _Config) -> None:
        """Read the images of one part, and their labels."""
        if part.folder is not None:
            labels = _labels_of(part.folder)
            for place in self.folders.walk(labels):
                images = join(part.folder, place[len(labels) :].lstrip("/"))
                self.label_folders.setdefault(place, images.rstrip("/"))
        num_images = 0
        unlabelled: list[str] = []
        faults = FileFindings(part.list_file or part.where, limit=_MAX_LIST_FAULTS)
        for path, place in self._images(part, faults):
            if path in self.named:
                faults.image = path
                message = f"this image is named a second time; first by {self.named[path]}"
                faults.add("duplicate-image", place, message, path)
            else:
                where = f"{faults.name}: {place}" if part.list_file else path
                self.named[path] = where
                num_images += 1
                if not self._read_image(path, part.split, where, config):
                    unlabelled.append(path)
        faults.image = ""
        self.reading.findings += faults.all()
        if unlabelled:
            more = "" if len(unlabelled) < num_images else "none of the images has a label file; "
            self.reading.findings.append(
                finding(
                    "image-without-label",
                    part.where,
                    f"{more}images without a label file count as background, such as "
                    f"{min(unlabelled)}",
                    len(unlabelled),
                    "a label file each, empty for an image without objects",
                )
            )

    def _images(self, part: _Part, faults: FileFindings) -> Iterator[tuple[str, str]]:
        """Paths of a part's images, and the place that names each."""
        if part.folder is not None:
            for folder in self.folders.walk(part.folder):
                for paths in self.folders.images(folder).values():
                    for path in paths:
                        yield path, path
            return
        assert part.list_file is not None
        text = self._read_text(part.list_file, _MAX_LIST_BYTES, faults) or ""
        beside = PurePosixPath(part.list_file).parent.as_posix()
        for count, line in enumerate(text.split("\n"), 1):
            name = line.strip().removeprefix("./")
            if not name:
                continue
            place = f"line {count}"
            if faults.is_full():
                faults.image = ""
                message = "too many lines that cannot be used; the rest is not read"
                faults.add("annotations-unreadable", place, message)
                return
            try:
                found = self._listed(name, beside)
            except PathEscape as fault:
                faults.image = name
                faults.add("path-escape", place, str(fault), name, "a path inside the data")
                continue
            if found is None:
                faults.image = name
                faults.add("file-missing", place, "there is no such image file", name)
                continue
            yield found, place

    def _listed(self, name: str, beside: str) -> str | None:
        check_relative(name)
        if PurePosixPath(name).suffix.lower() not in EXTENSIONS:
            return None
        for place in dict.fromkeys((name, join(beside, name))):
            path = resolve_inside(self.root, place)
            folder = path.parent.relative_to(self.root).as_posix()
            if path.name in self.folders.files(folder):
                return join(folder, path.name)
        return None

    def _read_image(self, path: str, split: str | None, where: str, config: _Config) -> bool:
        """Append one image and its objects; whether it has a label file."""
        index = len(self.reading.images)
        self.reading.images.append(RawImage(path, split, None, where=where))
        name = label_path(path)
        folder, _, file_name = name.rpartition("/")
        self.label_folders.setdefault(folder, path.rpartition("/")[0])
        if file_name not in self.folders.files(folder):
            return False
        faults = FileFindings(name, path)
        text = self._read_text(name, _MAX_LABEL_BYTES, faults)
        labels = parse_labels(text or "", config.num_extra, faults)
        size = None
        if labels:
            try:
                size = read_size(self.root / path)
            except ImageError:
                size = None  # the pass over the pixels says what is wrong with the image
        for label in labels:
            place = f"line {label.line}"
            if label.class_index not in self.names:
                if self.names:
                    message = "there is no class of this index"
                    allowed = f"0 to {max(self.names)}"
                    faults.add("class-unknown", place, message, label.class_index, allowed)
                continue
            class_name = self.names[label.class_index]
            if size is None or class_name is None:
                continue
            box, segmentation = label.in_pixels(*size)
            self.reading.objects.append(
                RawObject(index, class_name, box, None, False, f"{name}: {place}", segmentation)
            )
        self.reading.findings += faults.all()
        return True

    def _read_text(self, path: str, max_bytes: int, faults: FileFindings) -> str | None:
        """A file's text; an empty one is the empty text. None, with a finding, if unreadable."""
        try:
            return read_bytes(self.root / path, max_bytes).decode("utf-8-sig")
        except ImageError as fault:
            if fault.check == "file-empty":
                return ""
            faults.add("annotations-unreadable", "", fault.reason, fault.value, fault.allowed)
        except UnicodeDecodeError as fault:
            faults.add("annotations-unreadable", "", f"not UTF-8 text: {fault.reason}")
        return None

    def report_left_over(self) -> None:
        """Label files without an image."""
        for labels, images in self.label_folders.items():
            stems = self.folders.images(images)
            for name in self.folders.with_suffix(labels, ".txt"):
                if PurePosixPath(name).stem not in stems and name.lower() not in _NOT_LABELS:
                    self.reading.findings.append(
                        finding(
                            "label-without-image",
                            join(labels, name),
                            "there is no image of this name; the label file is not used",
                            "",
                            f"an image in {images or '.'}/",
                        )
                    )


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
