"""YOLO: one text file an image, for detection, with or without a `data.yaml`.

    data.yaml                   path, train, val, test: folders or list files; names; nc
    images/train/1.jpg          labels/train/1.txt
    train/images/1.jpg          train/labels/1.txt
    images/1.jpg                labels/1.txt            and perhaps train.txt, val.txt: lists

The label file of an image has the image's path with the last folder `images` replaced by `labels`;
where there is no such folder it stands beside the image. An image without one, or with an empty
one, is background. Names come from `data.yaml`, or one a line from `classes.txt` in the root or in
`labels/`, or from the parameters.

All paths of a `data.yaml` are looked up inside the data root. A `path` that leads out of it, or to
no folder in it, is left aside with a warning. A leading `../` of `train`, `val` and `test`, which
Roboflow writes, is dropped; if there is no such folder then, and for absolute paths, the finding is
`path-escape`.

How lines become boxes: see `yolo_labels`. Files of any content end in findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from components.contract.class_names import settle
from components.contract.data_files import DataFiles, is_image, join
from components.contract.file_findings import FileFindings, read_text
from components.contract.findings import finding
from components.contract.paths import PathEscape, check_relative
from components.contract.pixels import ImageError, read_size
from components.contract.reading import RawImage, RawObject, Reading
from components.contract.yolo_config import YoloConfig, read_config, read_name_file
from components.contract.yolo_labels import Label, parse_labels
from components.contract.yolo_parts import (
    NOT_LABELS,
    YoloPart,
    find_files,
    label_path,
    labels_of,
    parts_of,
)
from components.errors import DataError

__all__ = ["find_files", "label_path", "read_yolo"]

_MAX_LABEL_BYTES = 4_000_000
_MAX_LABEL_FAULTS = 100  # of one kind that are listed of a file
_MAX_LIST_BYTES = 16_000_000
_MAX_LIST_FAULTS = 1000  # of one kind; a list with more is given up


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
    reading = Reading(root, "yolo", "detection", fractions=True)
    files = DataFiles(root, reading.findings)
    config = read_config(files)
    if config is None:
        return reading
    reader = _Reader(reading, files)
    reader.settle_names(config, classes)
    for part in parts_of(files, config):
        if part.split:
            reading.splits.add(part.split)
        reader.read_part(part, config)
    reader.report_left_over()
    reading.sort()
    return reading


class _Reader:
    """Reads the parts of one data root into `reading`."""

    def __init__(self, reading: Reading, files: DataFiles) -> None:
        self.root, self.reading, self.files = reading.root, reading, files
        self.named: dict[str, str] = {}  # path of an image: where it was named first
        self.names: dict[int, str | None] = {}  # class index: its name; None if it is not wanted
        self.label_folders: dict[str, str] = {}  # folder of labels: its folder of images

    def settle_names(self, config: YoloConfig, classes: Sequence[str] | None) -> None:
        """Fix the class list, and the name of each class index."""
        names = config.names
        if names is None:
            names = read_name_file(self.files)
        if names is None and classes is not None:
            names = dict(enumerate(classes))
        found = list((names or {}).values())
        self.reading.classes, faults = settle(list(dict.fromkeys(found)), classes, config.name)
        self.reading.findings += faults
        known = set(self.reading.classes)
        self.names = {
            index: name if name in known else None for index, name in (names or {}).items()
        }

    def read_part(self, part: YoloPart, config: YoloConfig) -> None:
        """Read the images of one part, and their labels."""
        if part.folder is not None:
            labels = labels_of(part.folder)
            for place in self.files.walk(labels):
                images = join(part.folder, place[len(labels) :].lstrip("/"))
                self.label_folders.setdefault(place, images.rstrip("/"))
        num_images = num_labels = 0
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
                num_labels += self._read_image(path, part.split, where, config)
        faults.image = ""
        self.reading.findings += faults.all()
        if num_images and not num_labels:
            self.reading.findings.append(
                finding(
                    "image-without-label",
                    part.where,
                    "none of these images has a label file; all count as background",
                    num_images,
                    "label files in the folder labels",
                )
            )

    def _images(self, part: YoloPart, faults: FileFindings) -> Iterator[tuple[str, str]]:
        """Paths of a part's images, and the place that names each."""
        if part.folder is not None:
            for folder in self.files.walk(part.folder):
                for paths in self.files.images(folder).values():
                    for path in paths:
                        yield path, path
            return
        assert part.list_file is not None
        text = read_text(self.root, part.list_file, _MAX_LIST_BYTES, faults) or ""
        beside = part.list_file.rpartition("/")[0]
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
        return self.files.find(name, dict.fromkeys(("", beside))) if is_image(name) else None

    def _read_image(self, path: str, split: str | None, where: str, config: YoloConfig) -> bool:
        """Append one image and its objects; whether it has a label file."""
        index = len(self.reading.images)
        self.reading.images.append(RawImage(path, split, None, where=where))
        name = label_path(path)
        folder, _, file_name = name.rpartition("/")
        self.label_folders.setdefault(folder, path.rpartition("/")[0])
        if file_name not in self.files.files(folder):
            return False
        faults = FileFindings(name, path, _MAX_LABEL_FAULTS)
        text = read_text(self.root, name, _MAX_LABEL_BYTES, faults)
        self._add_objects(index, parse_labels(text or "", config.num_extra, faults), faults)
        self.reading.findings += faults.all()
        return True

    def _add_objects(self, image: int, labels: list[Label], faults: FileFindings) -> None:
        size = None
        if labels:
            try:
                size = read_size(self.root / self.reading.images[image].path)
            except ImageError:
                size = None  # the pass over the pixels says what is wrong with the image
        for label in labels:
            place = f"line {label.line}"
            if label.class_index not in self.names:
                if self.names:
                    message, allowed = "there is no class of this index", f"0 to {max(self.names)}"
                    faults.add("class-unknown", place, message, label.class_index, allowed)
                continue
            name = self.names[label.class_index]
            if size is None or name is None:
                continue
            box, mask = label.in_pixels(*size)
            where = f"{faults.name}: {place}"
            self.reading.objects.append(RawObject(image, name, box, None, False, where, mask))

    def report_left_over(self) -> None:
        """Label files without an image."""
        for labels, images in self.label_folders.items():
            stems = self.files.images(images)
            for name in self.files.with_suffix(labels, ".txt"):
                if PurePosixPath(name).stem not in stems and name.lower() not in NOT_LABELS:
                    self.reading.findings.append(
                        finding(
                            "label-without-image",
                            join(labels, name),
                            "there is no image of this name; the label file is not used",
                            "",
                            f"an image in {images or '.'}/",
                        )
                    )
