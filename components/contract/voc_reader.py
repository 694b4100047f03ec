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

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.contract.annotation_files import FileFindings, Folders, join, number
from components.contract.class_names import name_fault, settle
from components.contract.findings import finding
from components.contract.paths import PathEscape, check_relative
from components.contract.pixels import EXTENSIONS, ImageError, read_bytes
from components.contract.reading import SPLIT_NAMES, Box, RawImage, RawObject, Reading
from components.contract.voc_xml import MAX_BYTES, VocAnnotation, VocFault, VocObject, parse_voc
from components.errors import DataError

_IMAGE_FOLDERS = ("jpegimages", "images")
_MAX_LIST_BYTES = 16_000_000
_MAX_LIST_LINES = 1_000_000
_MAX_LIST_FAULTS = 1000  # of one kind; a list with more is given up
_MEMBERSHIP = re.compile(r"\s+(-1|0|1)$")  # of a class: "000007  1"


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
    folders = Folders(root, [])
    return sorted(
        root / part.annotations / name
        for part in _parts(folders)
        for name in folders.with_suffix(part.annotations, ".xml")
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
    folders = Folders(root, reading.findings)
    parts = _parts(folders)
    if not parts:
        raise DataError(f"{root}: no Pascal VOC file, such as Annotations/1.xml")
    reader = _Reader(root, reading, folders)
    if all(part.split is None for part in parts):
        reader.read_lists()
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
    folders = Folders(root, [])
    if any(part.split for part in _parts(folders)):
        return {}
    return {split: path for path, split in reversed(_list_files(folders))}


def _list_files(folders: Folders) -> list[tuple[str, str]]:
    """Paths and splits of the lists in `ImageSets/Main`, or else in `ImageSets`."""
    sets = [name for name in folders.folders("") if name.lower() == "imagesets"]
    for place in [join(name, "Main") for name in sets] + sets:
        names = folders.with_suffix(place, ".txt")
        words = {PurePosixPath(name).stem.lower(): name for name in names}
        chosen = {word: split for word, split in SPLIT_NAMES.items() if word in words}
        if "trainval" in words and "train" not in words:
            chosen["trainval"] = "train"
        if chosen:
            return [(join(place, words[word]), split) for word, split in chosen.items()]
    return []


def _parts(folders: Folders) -> list[_Part]:
    def named(parent: str, wanted: Sequence[str]) -> list[str]:
        return [join(parent, name) for name in folders.folders(parent) if name.lower() in wanted]

    def holds_xml(folder: str) -> bool:
        return bool(folders.with_suffix(folder, ".xml"))

    top = folders.folders("")
    splits = [name for name in top if name.lower() in SPLIT_NAMES]
    images = named("", _IMAGE_FOLDERS)
    parts: list[_Part] = []
    for folder in named("", ["annotations"]):
        if holds_xml(folder):
            parts.append(_Part(folder, images or [""], None))
        for place in named(folder, list(SPLIT_NAMES)):
            if holds_xml(place):
                word = PurePosixPath(place).name
                beside = [
                    join(parent, word) for parent in images if word in folders.folders(parent)
                ]
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

    def __init__(self, root: Path, reading: Reading, folders: Folders) -> None:
        self.root, self.reading, self.folders = root, reading, folders
        self.claimed: dict[str, str] = {}  # path of an image: the XML that describes it
        # Name without extension: (split, place in its list); None where there are no lists.
        self.lists: dict[str, tuple[str, str]] | None = None
        self.seen: set[str] = set()  # names on a list that have an image
        self.unlisted: list[str] = []
        self.repeated: list[tuple[str, str]] = []  # name on a list again, place

    def read_lists(self) -> None:
        """Read `ImageSets/Main/*.txt`, if they are there."""
        lists = _list_files(self.folders)
        if lists:
            self.lists = {}
        for path, split in lists:
            self.reading.splits.add(split)
            self._read_list(path, split)

    def _read_list(self, path: str, split: str) -> None:
        assert self.lists is not None
        faults = FileFindings(path, limit=_MAX_LIST_FAULTS)
        num_repeated = len(self.repeated)
        try:
            text = read_bytes(self.root / path, _MAX_LIST_BYTES).decode("utf-8-sig")
        except ImageError as fault:
            if fault.check != "file-empty":  # an empty list is an empty split
                faults.add("annotations-unreadable", "", fault.reason, fault.value, fault.allowed)
            text = ""
        except UnicodeDecodeError as fault:
            faults.add("annotations-unreadable", "", f"not UTF-8 text: {fault.reason}")
            text = ""
        for count, line in enumerate(text.split("\n"), 1):
            full = faults.is_full() or len(self.repeated) > num_repeated + _MAX_LIST_FAULTS
            if full or count > _MAX_LIST_LINES:
                message = "too many lines, or lines that cannot be used; the rest is not read"
                faults.add("annotations-unreadable", f"line {count}", message)
                break
            name = _MEMBERSHIP.sub("", line.strip())
            if not name:
                continue
            place = f"line {count}"
            try:
                name = check_relative(name).name
            except PathEscape as fault:
                faults.add("path-escape", place, str(fault), name, "the name of an image")
                continue
            if PurePosixPath(name).suffix.lower() in EXTENSIONS:
                name = PurePosixPath(name).stem
            if name in self.lists:
                self.repeated.append((name, f"{path}: {place}"))
                continue
            self.lists[name] = (split, f"{path}: {place}")
        self.reading.findings += faults.all()

    def read_part(self, part: _Part) -> None:
        """Read the XML files of one folder."""
        images: dict[str, list[str]] = {}
        for folder in part.images:
            for stem, paths in self.folders.images(folder).items():
                images.setdefault(stem, []).extend(paths)
        for name in self.folders.with_suffix(part.annotations, ".xml"):
            faults = FileFindings(join(part.annotations, name))
            self._read_file(part, images, PurePosixPath(name).stem, faults)
            self.reading.findings += faults.all()

    def _read_file(
        self, part: _Part, images: dict[str, list[str]], stem: str, faults: FileFindings
    ) -> None:
        same_name = images.get(stem, [])
        faults.image = same_name[0] if same_name else ""
        try:
            annotation = parse_voc(read_bytes(self.root / faults.name, MAX_BYTES))
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
        if self.lists is not None:
            listed = self.lists.get(stem) or self.lists.get(PurePosixPath(path).stem)
            if listed is None:
                self.unlisted.append(path)
                return
            self.seen |= {stem, PurePosixPath(path).stem}
            split = listed[0]
        index = len(self.reading.images)
        size = _size(annotation, faults)
        self.reading.images.append(RawImage(path, split, size, where=faults.name))
        for place, item in enumerate(annotation.objects, 1):
            row = _object(item, index, f"object {place}", faults)
            if row is not None:
                self.reading.objects.append(row)

    def report_left_over(self, parts: list[_Part]) -> None:
        """Images without an XML, names on a list without an image, images on no list."""
        findings = self.reading.findings
        folders = dict.fromkeys(folder for part in parts for folder in part.images)
        images = {
            path: stem
            for folder in folders
            for stem, paths in self.folders.images(folder).items()
            for path in paths
        }
        for path in images:
            if path not in self.claimed:
                message = "an image without an XML file has no label and is not used"
                findings.append(finding("image-without-label", path, message, image=path))
        stems = self.seen | set(images.values())
        missing = FileFindings("ImageSets", limit=_MAX_LIST_FAULTS)
        allowed = "an image in " + ", ".join(f"{folder or '.'}/" for folder in folders)
        for name, (_, where) in (self.lists or {}).items():
            if name not in stems:
                missing.image = name
                message = "there is no image of this name"
                missing.add("file-missing", where.partition("/")[2], message, name, allowed)
        missing.image = ""
        findings += missing.all()
        paths = {stem: path for path, stem in images.items()}
        for name, where in self.repeated:
            first = (self.lists or {})[name][1]
            message = f"this image is on a list a second time; first in {first}"
            image = paths.get(name, name)
            findings.append(finding("duplicate-image", where, message, name, image=image))
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


def _size(annotation: VocAnnotation, faults: FileFindings) -> tuple[float, float] | None:
    texts = [annotation.size.get("width", ""), annotation.size.get("height", "")]
    if not any(texts):
        return None
    width, height = map(number, texts)
    if width is None or height is None:
        faults.add("image-row-broken", "size", "width and height must be numbers of pixels", texts)
        return None
    return width, height


def _object(item: VocObject, image: int, place: str, faults: FileFindings) -> RawObject | None:
    """One object; None if it cannot be used, which is then in `faults`."""
    fields = item.fields
    if item.repeated:
        names = ", ".join(sorted(item.repeated))
        faults.add("annotation-broken", place, "these are given twice for one object", names)
        return None
    name = fields.get("name", "")
    fault = name_fault(name)
    if fault:
        faults.add("class-name", place, fault, name)
    difficult = number(fields.get("difficult") or "0")
    if difficult not in (0, 1):
        shown = fields["difficult"]
        faults.add("annotation-broken", place, "difficult must be 0 or 1", shown, "0 or 1")
    box = _box(fields, place, faults)
    if fault or box is None:
        return None
    where = f"{faults.name}: {place}"
    return RawObject(image, name, box, None, difficult == 1, where)


def _box(fields: dict[str, str], place: str, faults: FileFindings) -> Box | None:
    texts = [fields.get(corner, "") for corner in ("xmin", "ymin", "xmax", "ymax")]
    numbers = [value for value in map(number, texts) if value is not None]
    if len(numbers) != 4:
        faults.add(
            "box-broken",
            place,
            "bndbox must hold four numbers of pixels: xmin, ymin, xmax, ymax",
            texts,
            "for example 10, 20, 40, 60",
        )
        return None
    if all(0 <= value <= 1 for value in numbers) and any(0 < value < 1 for value in numbers):
        faults.add("box-units", place, "the box is in fractions of the image", numbers, "pixels")
        return None
    left, top, right, bottom = numbers
    return left, top, right - left, bottom - top
