"""Adding images to data that has its annotations an image: a folder per class, VOC and YOLO."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from components.contract import folder_reader, voc_reader, yolo_reader
from components.contract.data_files import join
from components.contract.pixels import EXTENSIONS
from components.contract.reading import RawObject
from components.errors import DataError
from components.validation.merge_names import Addition, Names, NewImage, append_lines

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def add_to_folders(addition: Addition) -> None:
    """Files into the folders of their classes."""
    draft = addition.draft
    levels = {split: name for name, split in folder_reader.split_folders(draft).items()}
    names: dict[Path, Names] = {}
    for image in addition.images():
        if not image.objects:
            raise DataError(f"{image.raw.path}: has no label, so there is no folder to put it into")
        folder = draft / levels.get(image.split or "", "") / image.objects[0].label
        folder.mkdir(exist_ok=True)  # a class that this split lacked
        if folder not in names:
            names[folder] = Names(entry.name for entry in folder.iterdir())
        name = names[folder].free(image)
        addition.copy(image, (folder / name).relative_to(draft).as_posix())


def add_to_voc(addition: Addition) -> None:
    """An XML file an image beside the others, and its name to the list of its split."""
    draft = addition.draft
    names = Names.everywhere(draft, by_stem=True)
    lists = voc_reader.split_lists(draft)
    lines: dict[str, list[str]] = defaultdict(list)
    for image in addition.images():
        # Of an image of VOC data, `where` is its XML file.
        example = addition.first_of(image.split)
        annotations = example.where.rpartition("/")[0]
        name = names.free(image)
        stem = PurePosixPath(name).stem
        addition.copy(image, join(example.path.rpartition("/")[0], name))
        (draft / annotations / f"{stem}.xml").write_text(_voc_text(image, name), encoding="utf-8")
        if image.split in lists:
            # Lists may have a number behind a name, or name the file: such names are given whole.
            odd = re.search(r"\s", stem) or PurePosixPath(stem).suffix.lower() in EXTENSIONS
            lines[lists[image.split]].append(name if odd else stem)
    for path, more in lines.items():
        append_lines(draft / path, more)


def _voc_text(image: NewImage, name: str) -> str:
    facts = image.facts
    lines = ["<annotation>", f"  <filename>{escape(name)}</filename>"]
    lines.append(f"  <size><width>{facts.width}</width><height>{facts.height}</height></size>")
    for item in image.objects:
        x, y, width, height = item.box or (0.0, 0.0, 0.0, 0.0)
        corners = zip(_CORNERS, (x, y, x + width, y + height), strict=True)
        box = "".join(f"<{tag}>{_plain(value)}</{tag}>" for tag, value in corners)
        label, difficult = escape(item.label), int(item.is_crowd)
        lines.append(
            f"  <object><name>{label}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def add_to_yolo(addition: Addition) -> None:
    """A label file an image, with the class indices of the data; its path to a list of its split.

    Raises:
        DataError: the data has keypoints, which no batch brings.
    """
    draft = addition.draft
    rules = yolo_reader.read_rules(draft, addition.reading.classes)
    if rules.num_extra:
        raise DataError(
            f"base.data = {addition.reading.root}: has keypoints (kpt_shape), which a batch cannot "
            "bring; add it by hand"
        )
    names = Names.everywhere(draft, by_stem=True)
    lines: dict[str, list[str]] = defaultdict(list)
    for image in addition.images():
        folder = addition.first_of(image.split).path.rpartition("/")[0]
        path = join(folder, names.free(image))
        addition.copy(image, path)
        labels = draft / yolo_reader.label_path(path)
        labels.parent.mkdir(parents=True, exist_ok=True)  # images without objects may have none
        rows = [_yolo_row(item, rules.indices[item.label], image) for item in image.objects]
        labels.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        if image.split in rules.lists:
            lines[rules.lists[image.split]].append(path)
    for list_file, more in lines.items():
        append_lines(draft / list_file, more)


def _yolo_row(item: RawObject, index: int, image: NewImage) -> str:
    width, height = image.facts.width, image.facts.height
    polygons = json.loads(item.segmentation) if item.segmentation else None
    if isinstance(polygons, list) and len(polygons) == 1:
        numbers = [
            value / (height if place % 2 else width) for place, value in enumerate(polygons[0])
        ]
    else:
        x, y, wide, high = item.box or (0.0, 0.0, 0.0, 0.0)
        numbers = [(x + wide / 2) / width, (y + high / 2) / height, wide / width, high / height]
    return " ".join([str(index), *(f"{number:.12g}" for number in numbers)])
