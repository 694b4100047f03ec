"""Faults that are put into the files of a data set, each in the formats that can express it.

All take the data root, the set, the sample that the fault is put at, and the format; those that
take something else make such a function.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.defects import Damage, RawSet, Sample, form_of, image_path

Pick = Callable[[Path, RawSet, Sample], Path]


def gone(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Removes the image file."""
    (root / image_path(raw, sample, form_of(format))).unlink()


def all_gone(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Removes all image files; folders stay."""
    for other in raw.samples:
        gone(root, raw, other, format)


def link_out(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Moves the file out of the data and leaves a link to it."""
    path = root / image_path(raw, sample, form_of(format))
    outside = root.parent / f"outside-{sample.name}"
    path.rename(outside)
    path.symlink_to(outside)


def stray(name: str) -> Damage:
    """Puts a further image file somewhere."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        path = root / name.format(split=sample.split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data[:-1] + b"x")

    return damage


def class_folder_with_a_space(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Gives a class folder a name with a space at its end."""
    folder = (root / image_path(raw, sample, "folder")).parent
    folder.rename(folder.with_name(f"{folder.name} "))


def empty_test(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Leaves the test split without images."""
    for other in raw.samples:
        if other.split == "test":
            gone(root, raw, other, format)
            if format == "voc":
                xml_of(root, raw, other).unlink()
            if format == "yolo":
                label_of(root, raw, other).unlink()
    if format == "coco":
        file = root / "annotations" / "instances_test.json"
        content = json.loads(file.read_text()) | {"images": [], "annotations": []}
        file.write_text(json.dumps(content))
    if format == "voc":
        (root / "ImageSets" / "Main" / "test.txt").write_text("")


# ---- COCO


def coco(change: Callable[[dict[str, Any], Sample], Any], everywhere: bool = False) -> Damage:
    """Edits the JSON file that names the sample, or all of them."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        files = [json_of(root, raw, sample)]
        for file in sorted((root / "annotations").iterdir()) if everywhere else files:
            content = json.loads(file.read_text())
            change(content, sample)
            file.write_text(json.dumps(content))

    return damage


def row(content: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The sample's image row."""
    return next(item for item in content["images"] if item["file_name"] == sample.name)


def its_annotation(content: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The sample's first annotation."""
    number = row(content, sample)["id"]
    return next(item for item in content["annotations"] if item["image_id"] == number)


def other_row(content: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The row of another image of the same file."""
    return next(item for item in content["images"] if item["file_name"] != sample.name)


def same_image_id(content: dict[str, Any], sample: Sample) -> None:
    """The sample and another image of the same file, and what is on them, have one id."""
    mine, other = row(content, sample)["id"], other_row(content, sample)["id"]
    row(content, sample)["id"] = other
    for item in content["annotations"]:
        item["image_id"] = other if item["image_id"] == mine else item["image_id"]


def same_annotation_id(content: dict[str, Any], sample: Sample) -> None:
    """The sample's annotation, which is the last, has the id of another."""
    mine = its_annotation(content, sample)
    others = [item for item in content["annotations"] if item is not mine]
    mine["id"] = others[0]["id"]
    content["annotations"] = [*others, mine]


def split_untold(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Gives a JSON file a name that tells no split."""
    json_of(root, raw, sample).rename(root / "annotations" / "instances_extra.json")


# ---- texts


def text(pick: Pick, change: Callable[[str, Sample], str]) -> Damage:
    """Edits a text file."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        file = pick(root, raw, sample)
        before = file.read_text()
        after = change(before, sample)
        if after == before:
            raise ValueError(f"{file} is as it was: the fault was not put into it")
        file.write_bytes(after.encode("utf-8", "surrogateescape"))

    return damage


def sub(pattern: str, by: str) -> Callable[[str, Sample], str]:
    """A replacement by regular expression; NAME stands for the sample's file name."""
    return lambda text, sample: re.sub(
        pattern.replace("NAME", re.escape(sample.name)), by, text, count=1
    )


def xml_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """Its VOC file."""
    return root / "Annotations" / f"{Path(sample.name).stem}.xml"


def list_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """The VOC list of its split."""
    return root / "ImageSets" / "Main" / f"{sample.split}.txt"


def label_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """Its YOLO file."""
    path = image_path(raw, sample, "yolo").replace("images", "labels", 1)
    return (root / path).with_suffix(".txt")


def json_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """Its COCO file."""
    return root / "annotations" / f"instances_{sample.split}.json"


def table_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """The CSV file."""
    return root / "labels.csv"


def yaml_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """The YOLO class list."""
    return root / "data.yaml"


def line_of(text: str, sample: Sample) -> str:
    """The line of a CSV file that names the sample."""
    return next(line for line in text.splitlines(keepends=True) if f"/{sample.name}," in line)


def yolo_list(line: str) -> Damage:
    """Lists the images of the sample's split in a text file, and a line more.

    Args:
        line: NAME stands for the sample's file name.
    """

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        paths = [image_path(raw, s, "yolo") for s in raw.samples if s.split == sample.split]
        more = line.replace("PATH", image_path(raw, sample, "yolo")).replace("NAME", sample.name)
        (root / "list.txt").write_text("\n".join([*paths, more]) + "\n")
        entry = f"{sample.split}: images/{sample.split}"
        text(yaml_of, lambda was, _: was.replace(entry, f"{sample.split}: list.txt"))(
            root, raw, sample, format
        )

    return damage


def columns_of_flags(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Several labels as a column of 0 and 1 each, one of which is 2."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["path", *raw.classes, "split"])
    for other in raw.samples:
        labels = {thing.label for thing in other.things}
        flags = [int(name in labels) for name in raw.classes]
        if other is sample:
            flags[0] = 2
        table.writerow([image_path(raw, other, "csv"), *flags, other.split])
    (root / "labels.csv").write_text(stream.getvalue())
