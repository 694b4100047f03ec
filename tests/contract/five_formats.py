"""Makes clean data sets, and writes one in every format that can express it.

`make` gives a `RawSet`: images with labels or boxes, in no format. `write` puts it down as a folder
per class, CSV, COCO JSON, Pascal VOC XML or YOLO text. Values are written as they are, however
wrong, so that faults put into a `RawSet` arrive in each format. `facts` says what canonical tables
hold in a form that does not depend on ids, paths or the format.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
from PIL import Image

from components.contract.tables import Dataset, Task

FORMATS: dict[Task, tuple[str, ...]] = {
    "classification": ("folder", "csv"),
    "detection": ("coco", "csv", "voc", "yolo"),
}
CLASSES = ("bird", "cat", "dog")
COUNTS = {"train": 12, "val": 6, "test": 6}
_COLORS = ((220, 40, 40), (40, 200, 60), (50, 60, 230), (220, 200, 40))


@dataclass
class Thing:
    """A label, or a box with its label; `box` is x, y, width, height in pixels, top left origin."""

    label: str
    box: list[Any] | None = None
    area: Any = None
    segmentation: Any = None


@dataclass
class Sample:
    """One image file and what the annotations say about it.

    Args:
        name: of the file.
        split: `train`, `val`, `test` or None.
        data: the file's bytes.
        size: declared width and height.
        things: labels or boxes.
        group: named by CSV and COCO only; None where it has none.
        listed: whether the annotations name it.
        columns: further columns, for CSV and COCO.
    """

    name: str
    split: str | None
    data: bytes
    size: tuple[Any, Any]
    things: list[Thing] = field(default_factory=list)
    group: str | None = None
    listed: bool = True
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass
class RawSet:
    """A data set in no format yet."""

    task: Task
    classes: list[str]
    samples: list[Sample]
    multi_label: bool = False


def make(
    task: Task,
    seed: int = 0,
    counts: dict[str, int] | None = None,
    classes: tuple[str, ...] = CLASSES,
    split: bool = True,
) -> RawSet:
    """A clean set: every class in every split, no two images alike, nothing to report.

    Args:
        task: labels or boxes.
        seed: the same one gives the same bytes.
        counts: images by split.
        classes: in the order of their text, as formats without a class list have them.
        split: False leaves the splits out.
    """
    samples = []
    for name, count in (counts or COUNTS).items():
        for number in range(count):
            rng = np.random.default_rng([seed, len(samples)])
            size = (96, 72) if number % 4 else (72, 96)
            label = classes[number % len(classes)]
            boxes = task == "detection"
            things = _boxes(rng, size, classes, number) if boxes else [Thing(label)]
            suffix = ".png" if number % 5 == 4 else ".jpg"
            data = encode(picture(rng, size, things, classes), suffix)
            samples.append(
                Sample(f"{name}-{number:05}{suffix}", name if split else None, data, size, things)
            )
    return RawSet(task, list(classes), samples)


def picture(
    rng: np.random.Generator,
    size: tuple[int, int],
    things: list[Thing],
    classes: tuple[str, ...] | list[str] = CLASSES,
) -> np.ndarray:
    """[height, width, 3] pixels: clouds, grain, a shape of the class's colour for each thing."""
    width, height = size
    clouds = Image.fromarray(rng.integers(30, 226, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(clouds.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    pixels = pixels + rng.integers(-25, 26, (height, width, 3), dtype=np.int16)
    for thing in things:
        x, y, w, h = thing.box or (rng.integers(5, 30), rng.integers(5, 30), 30, 30)
        color = _COLORS[classes.index(thing.label) % len(_COLORS)]
        pixels[int(y) : int(y + h), int(x) : int(x + w)] //= 4
        pixels[int(y) : int(y + h), int(x) : int(x + w)] += np.array(color, np.int16) * 3 // 4
    return pixels.clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, suffix: str = ".png", **options: Any) -> bytes:
    """An image file's bytes."""
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    format = {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".tif": "TIFF", ".bmp": "BMP"}[suffix]
    image.save(stream, format, **options)
    return stream.getvalue()


def _boxes(
    rng: np.random.Generator, size: tuple[int, int], classes: tuple[str, ...], number: int
) -> list[Thing]:
    """One to three boxes side by side, the first of the class whose turn it is."""
    things = []
    column = size[0] // 3
    for place in range(1 + number % 3):
        label = classes[(number + place) % len(classes)]
        w, h = int(rng.integers(10, column - 4)), int(rng.integers(12, 40))
        x = place * column + int(rng.integers(1, column - w))
        y = int(rng.integers(1, size[1] - h))
        things.append(Thing(label, [x, y, w, h], w * h))
    return things


def write(raw: RawSet, root: Path, format: str) -> Path:
    """Write a set in one format.

    Args:
        raw: may hold faults.
        root: folder to fill.
        format: one of `FORMATS[raw.task]`.
    """
    root.mkdir(parents=True, exist_ok=True)
    {
        "folder": _write_folder,
        "csv": _write_csv,
        "coco": _write_coco,
        "voc": _write_voc,
        "yolo": _write_yolo,
    }[format](raw, root)
    return root


def image_path(raw: RawSet, sample: Sample, format: str) -> str:
    """Where `write` puts a sample's file, relative to the root."""
    split = sample.split or ""
    if format == "folder":
        label = sample.things[0].label if sample.things else ""
        parts = [split, label, sample.name]
    elif format == "voc":
        parts = ["JPEGImages", sample.name]
    elif format == "coco":
        parts = [split or "images", sample.name]
    else:
        parts = ["images", split, sample.name]
    return "/".join(part for part in parts if part)


def _write_images(raw: RawSet, root: Path, format: str) -> None:
    for sample in raw.samples:
        path = root / image_path(raw, sample, format)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)


def _write_folder(raw: RawSet, root: Path) -> None:
    for split in {sample.split or "" for sample in raw.samples}:
        for label in raw.classes:
            (root / split / label).mkdir(parents=True, exist_ok=True)
    _write_images(raw, root, "folder")


def _write_csv(raw: RawSet, root: Path) -> None:
    """One table: a row a label or a box; an image without one has a row with empty cells."""
    _write_images(raw, root, "csv")
    listed = [sample for sample in raw.samples if sample.listed]
    boxes = raw.task == "detection"
    header = ["path", "labels" if raw.multi_label else "label"]
    header += ["x", "y", "width", "height", "image_width", "image_height"] if boxes else []
    header += ["split"] if any(sample.split for sample in listed) else []
    header += ["group"] if any(sample.group for sample in listed) else []
    header += sorted({name for sample in listed for name in sample.columns})
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, header, restval="", extrasaction="ignore")
        table.writeheader()
        for sample in listed:
            row = {"path": image_path(raw, sample, "csv"), "split": sample.split or ""}
            row |= {"group": sample.group or "", **sample.columns}
            row |= {"image_width": sample.size[0], "image_height": sample.size[1]}
            if raw.multi_label:
                table.writerow(row | {"labels": "|".join(t.label for t in sample.things)})
                continue
            for thing in sample.things or [Thing("", [""] * 4)]:
                cells = dict(zip(("x", "y", "width", "height"), thing.box or [], strict=False))
                table.writerow(row | {"label": thing.label} | cells)


def _write_coco(raw: RawSet, root: Path) -> None:
    _write_images(raw, root, "coco")
    ids = {name: index for index, name in enumerate(raw.classes, 1)}
    categories = [{"id": index, "name": name} for index, name in enumerate(raw.classes, 1)]
    number = 0
    (root / "annotations").mkdir(exist_ok=True)
    for split in dict.fromkeys(sample.split for sample in raw.samples):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        for index, sample in enumerate(raw.samples):
            if sample.split != split or not sample.listed:
                continue
            row = {"id": index, "file_name": sample.name, **sample.columns}
            row |= {"width": sample.size[0], "height": sample.size[1]}
            content["images"].append(row | ({"group": sample.group} if sample.group else {}))
            for thing in sample.things:
                number += 1
                row = {"id": number, "image_id": index, "bbox": thing.box, "iscrowd": 0}
                row["category_id"] = ids.get(thing.label, 999)
                if thing.area is not None:
                    row["area"] = thing.area
                if thing.segmentation is not None:
                    row["segmentation"] = thing.segmentation
                content["annotations"].append(row)
        file = root / "annotations" / (f"instances_{split}.json" if split else "instances.json")
        file.write_text(json.dumps(content))


def _write_voc(raw: RawSet, root: Path) -> None:
    _write_images(raw, root, "voc")
    (root / "Annotations").mkdir(exist_ok=True)
    members: dict[str, list[str]] = {}
    for sample in raw.samples:
        stem = sample.name.rsplit(".", 1)[0]
        if sample.split:
            members.setdefault(sample.split, []).append(stem)
        if not sample.listed:
            continue
        objects = "".join(_voc_object(thing) for thing in sample.things)
        width, height = sample.size
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{escape(sample.name)}</filename><size><width>{width}</width>"
            f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
        )
    for split, stems in members.items():
        file = root / "ImageSets" / "Main" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{stem}\n" for stem in stems))


def _voc_object(thing: Thing) -> str:
    box = thing.box or []
    corners = [*box[:2], *(_sum(a, b) for a, b in zip(box[:2], box[2:], strict=False))]
    tags = ("xmin", "ymin", "xmax", "ymax")
    text = "".join(f"<{t}>{value}</{t}>" for t, value in zip(tags, corners, strict=False))
    return f"<object><name>{escape(thing.label)}</name><bndbox>{text}</bndbox></object>"


def _sum(one: Any, two: Any) -> Any:
    return one + two if isinstance(one, int | float) and isinstance(two, int | float) else two


def _write_yolo(raw: RawSet, root: Path) -> None:
    _write_images(raw, root, "yolo")
    ids = {name: index for index, name in enumerate(raw.classes)}
    for sample in raw.samples:
        path = root / image_path(raw, sample, "yolo").replace("images", "labels", 1)
        path = path.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        if sample.listed:
            rows = [_yolo_row(ids.get(t.label, 999), t.box or [], sample) for t in sample.things]
            path.write_text("".join(rows))
    splits = dict.fromkeys(sample.split for sample in raw.samples if sample.split)
    lines = [f"{split}: images/{split}" for split in splits]
    lines += ["names:", *(f"  {i}: {json.dumps(name)}" for i, name in enumerate(raw.classes))]
    (root / "data.yaml").write_text("\n".join(lines) + "\n")


def _yolo_row(number: int, box: list[Any], sample: Sample) -> str:
    try:
        x, y, w, h = box
        (width, height) = sample.size
        values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    except (TypeError, ValueError):  # a fault: as it is
        values = box
    return " ".join(map(str, [number, *values])) + "\n"


def facts(dataset: Dataset) -> list[Any]:
    """What tables say, but for ids and paths; boxes to a millionth of a pixel."""
    rows = []
    objects: dict[int, list[tuple[Any, ...]]] = {}
    names = [n for n in dataset.objects.columns if n not in ("object_id", "image_id")]
    for number, *values in dataset.objects[["image_id", *names]].itertuples(index=False):
        objects.setdefault(number, []).append(tuple(map(_plain, values)))
    drop = {"path", "image_id"}
    columns = sorted(name for name in dataset.images.columns if name not in drop)
    for number, *values in dataset.images[["image_id", *columns]].itertuples(index=False):
        image = dict(zip(columns, map(_plain, values), strict=True))
        rows.append((sorted(image.items()), sorted(objects.get(number, []), key=str)))
    about = [dataset.task, dataset.classes, dataset.multi_label, names]
    return [about, *sorted(rows, key=str)]


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return None if pd.isna(value) else round(float(value), 6) + 0.0
    return None if value is None or value is pd.NA else value
