"""Pascal VOC: one XML file an image, for detection.

Where the files may stand, the first kind that exists counts; letter case of folders is free:

    Annotations/1.xml   JPEGImages/1.jpg   ImageSets/Main/train.txt      (as VOC itself)
    annotations/train/1.xml   images/train/1.jpg
    train/1.xml   train/1.jpg                                            (as Roboflow writes)
    train/Annotations/1.xml   train/JPEGImages/1.jpg
    1.xml   1.jpg   or   images/1.xml   images/1.jpg

An XML belongs to the image of the same name; if there is none, to the one that its `filename`
names. Without lists in `ImageSets/Main` there are no splits; with them only images on a list are
used, and `trainval.txt` counts as train where there is no `train.txt`.

The rule for pixels: x = xmin, y = ymin, width = xmax - xmin, height = ymax - ymin, with no 1 taken
or added. VOC's own files count pixels from 1 and include the last one; nearly all others are
written as edges from 0, and both are read alike, as most tools do.

`difficult` objects count as crowds: they are neither learnt nor held against a detector.
Segmentations, parts, poses are not read. Files of any content end in findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.contract.class_names import settle
from components.contract.data_files import DataFiles, join, unused_images
from components.contract.file_findings import FileFindings
from components.contract.findings import finding
from components.contract.paths import PathEscape, check_relative
from components.contract.pixels import ImageError, read_bytes
from components.contract.reading import SPLIT_NAMES, RawImage, RawObject, Reading
from components.contract.voc_lists import VocLists, list_files
from components.contract.voc_objects import declared_size, read_object
from components.contract.voc_xml import MAX_BYTES, VocFault, parse_voc
from components.errors import DataError

_IMAGE_FOLDERS = ("jpegimages", "images")
_MAX_FAULTS = 100  # of one kind that are listed of a file


@dataclass(frozen=True)
class _Part:
    """A folder of XML files.

    Args:
        annotations: the folder, relative to the root.
        images: folders in which their images are looked up.
        split: that its place tells.
    """

    annotations: str
    images: list[str]
    split: str | None


def find_files(root: Path) -> list[Path]:
    """The VOC files of a data root, sorted; empty if there are none. Only names are looked at."""
    files = DataFiles(root)
    return sorted(
        root / part.annotations / name
        for part in _parts(files)
        for name in files.with_suffix(part.annotations, ".xml")
    )


def read_voc(root: Path, classes: Sequence[str] | None = None) -> Reading:
    """Read all VOC files of a data root.

    Classes are the names of the objects in the order of their text, unless `classes` gives them.
    An XML without its image, and an image without its XML, are reported and not used.

    Args:
        root: the data root, an existing folder.
        classes: class names in the model's order, or None.

    Raises:
        DataError: there is no VOC file.
    """
    reading = Reading(root, "voc", "detection")
    files = DataFiles(root, reading.findings)
    parts = _parts(files)
    if not parts:
        raise DataError(f"{root}: no Pascal VOC file, such as Annotations/1.xml")
    reader = _Reader(reading, files)
    if all(part.split is None for part in parts):
        reader.lists = VocLists(files)
        reading.splits |= reader.lists.splits
    for part in parts:
        if part.split:
            reading.splits.add(part.split)
        reader.read_part(part)
    reader.report_left_over(parts)
    _settle_classes(reading, classes)
    reading.sort()
    return reading


def split_lists(root: Path) -> dict[str | None, str]:
    """The list file of each split in `ImageSets`, relative to the root; none if none counts."""
    files = DataFiles(root)
    if any(part.split for part in _parts(files)):
        return {}
    return {split: path for path, split in reversed(list_files(files))}


def _parts(files: DataFiles) -> list[_Part]:
    def named(parent: str, wanted: Sequence[str]) -> list[str]:
        return [join(parent, name) for name in files.folders(parent) if name.lower() in wanted]

    def holds_xml(folder: str) -> bool:
        return bool(files.with_suffix(folder, ".xml"))

    top = files.folders("")
    splits = [name for name in top if name.lower() in SPLIT_NAMES]
    images = named("", _IMAGE_FOLDERS)
    parts: list[_Part] = []
    for folder in named("", ["annotations"]):
        if holds_xml(folder):
            parts.append(_Part(folder, images or [""], None))
        for place in named(folder, list(SPLIT_NAMES)):
            if holds_xml(place):
                word = PurePosixPath(place).name
                beside = [join(parent, word) for parent in images if word in files.folders(parent)]
                beside += [word] if word in top else []
                parts.append(_Part(place, beside or images or [""], SPLIT_NAMES[word.lower()]))
    if parts:
        return parts
    for word in splits:
        for folder in (*named(word, ["annotations"]), word):
            if holds_xml(folder):
                places = [*named(word, _IMAGE_FOLDERS), word]
                parts.append(_Part(folder, places, SPLIT_NAMES[word.lower()]))
    if parts:
        return parts
    return [_Part(folder, [folder], None) for folder in ("", *images) if holds_xml(folder)]


def _settle_classes(reading: Reading, classes: Sequence[str] | None) -> None:
    """Fix the class list; objects of a class that is not on it are reported and left out."""
    found = {item.label for item in reading.objects}
    wanted = set(found if classes is None else classes)
    reading.classes, faults = settle(sorted(found & wanted), classes, reading.root.name)
    reading.findings += faults
    kept: list[RawObject] = []
    reported: set[tuple[int, str]] = set()
    for item in reading.objects:
        if item.label in wanted:
            kept.append(item)
        elif (item.image, item.label) not in reported:
            reported.add((item.image, item.label))
            reading.findings.append(
                finding(
                    "class-unknown",
                    item.where,
                    "an object of a class that base.classes lacks",
                    item.label,
                    f"one of {', '.join(reading.classes)}",
                    image=reading.images[item.image].path,
                )
            )
    reading.objects = kept


class _Reader:
    """Reads the parts of one data root into `reading`."""

    def __init__(self, reading: Reading, files: DataFiles) -> None:
        self.reading, self.files = reading, files
        self.claimed: dict[str, str] = {}  # path of an image: the XML that describes it
        self.lists: VocLists | None = None
        self.unlisted: list[str] = []  # images with an XML that are on no list

    def read_part(self, part: _Part) -> None:
        """Read the XML files of one folder."""
        images: dict[str, list[str]] = {}
        for folder in part.images:
            for stem, paths in self.files.images(folder).items():
                images.setdefault(stem, []).extend(paths)
        for name in self.files.with_suffix(part.annotations, ".xml"):
            faults = FileFindings(join(part.annotations, name), limit=_MAX_FAULTS)
            self._read_file(part, images, PurePosixPath(name).stem, faults)
            self.reading.findings += faults.all()

    def _read_file(
        self, part: _Part, images: dict[str, list[str]], stem: str, faults: FileFindings
    ) -> None:
        same_name = images.get(stem, [])
        faults.image = same_name[0] if same_name else ""
        try:
            annotation = parse_voc(read_bytes(self.reading.root / faults.name, MAX_BYTES))
            if annotation.filename:
                check_relative(annotation.filename)
        except (VocFault, ImageError, PathEscape) as fault:
            for image in same_name:
                self.claimed.setdefault(image, faults.name)
            if isinstance(fault, PathEscape):
                allowed = "the name of an image beside it"
                faults.add("path-escape", "filename", str(fault), annotation.filename, allowed)
            elif isinstance(fault, ImageError):
                faults.add("annotations-unreadable", "", fault.reason, fault.value, fault.allowed)
            else:
                faults.add("annotations-unreadable", "", str(fault))
            return
        path = _choose(images, same_name, annotation.filename)
        if path is None:
            faults.image = annotation.filename or stem
            faults.add(
                "label-without-image",
                "",
                "there is no image of this name, nor of its filename; it is not used",
                annotation.filename or stem,
                "an image in " + ", ".join(f"{folder or '.'}/" for folder in part.images),
            )
            return
        faults.image = path
        if path in self.claimed:
            message = f"this image is described a second time; first by {self.claimed[path]}"
            faults.add("duplicate-image", "", message, path)
            return
        self.claimed[path] = faults.name
        split = part.split
        if self.lists is not None and self.lists.splits:
            split = self.lists.split_of(stem, PurePosixPath(path).stem)
            if split is None:
                self.unlisted.append(path)
                return
        index = len(self.reading.images)
        size = declared_size(annotation, faults)
        self.reading.images.append(RawImage(path, split, size, where=faults.name))
        for place, item in enumerate(annotation.objects, 1):
            row = read_object(item, index, f"object {place}", faults)
            if row is not None:
                self.reading.objects.append(row)

    def report_left_over(self, parts: list[_Part]) -> None:
        """Images without an XML, names on a list without an image, images on no list."""
        findings = self.reading.findings
        folders = dict.fromkeys(folder for part in parts for folder in part.images)
        images = {
            path: stem
            for folder in folders
            for stem, paths in self.files.images(folder).items()
            for path in paths
        }
        left = [path for path in images if path not in self.claimed]
        findings += unused_images(left, "without an XML file")
        if self.lists is not None:
            self.lists.report(images, list(folders))
        if self.unlisted:
            findings.append(
                finding(
                    "folder-ignored",
                    "ImageSets",
                    "images with an XML file that are on no list are not used "
                    f"({', '.join(self.unlisted[:3])})",
                    len(self.unlisted),
                )
            )


def _choose(images: dict[str, list[str]], same_name: list[str], filename: str) -> str | None:
    """The image of an XML: of its own name, else of its `filename`; with the right extension."""
    name = PurePosixPath(filename).name
    candidates = same_name or images.get(PurePosixPath(name).stem) or images.get(name) or []
    exact = [path for path in candidates if PurePosixPath(path).name == name]
    return next(iter(exact or candidates), None)
