"""Faults that can be put into a clean data set, and the checks that must find each.

The table is in `defect_table`. A fault is put either into the set before it is written in some
format (`change`), so that every format has it, or into the files of one format (`damage`).
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

from five_formats import CLASSES, RawSet, Sample, Thing, encode, image_path, picture

Rng = np.random.Generator
Change = Callable[[RawSet, Sample, Rng], Any]
Damage = Callable[[Path, RawSet, Sample, str], Any]

ALL = ("folder", "csv", "csv-boxes", "coco", "voc", "yolo")
BOXES = ("csv-boxes", "coco", "voc", "yolo")
LABELS = ("folder", "csv")


@dataclass(frozen=True)
class Defect:
    """One kind of fault.

    Args:
        check: the check that it belongs to.
        name: what is done.
        formats: those that can express it; `csv-boxes` is CSV for detection.
        change: puts it into the set, at the sample given.
        damage: puts it into the files.
        also: other checks that tell the same fault as rightly, in formats that see it otherwise.
        of_image: a finding must name the sample's file.
        refusal: words of the error with which the set may be refused whole instead; empty: none.
        classes: class list to read with.
        settings: of the validation.
        counts: images by split of the clean set; None takes the usual.
    """

    check: str
    name: str
    formats: tuple[str, ...]
    change: Change | None = None
    damage: Damage | None = None
    also: tuple[str, ...] = ()
    of_image: bool = True
    refusal: str = ""
    classes: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] | None = None


def _pixels(sample: Sample) -> Image.Image:
    import io

    return Image.open(io.BytesIO(sample.data)).convert("RGB")


def _suffix(sample: Sample) -> str:
    return Path(sample.name).suffix


def redraw(make: Callable[[Image.Image, Rng], Image.Image], suffix: str = "") -> Change:
    """Replaces the image by what `make` makes of it; as PNG, or with the suffix given."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        suffix_ = suffix or ".png"
        sample.name = Path(sample.name).stem + suffix_
        image = make(_pixels(sample), rng)
        sample.data = encode(image, suffix_)
        if image.size != sample.size:
            wide, high = (a / b for a, b in zip(image.size, sample.size, strict=True))
            for thing in sample.things:
                if thing.box:
                    thing.box = [a * b for a, b in zip(thing.box, [wide, high] * 2, strict=True)]
                    thing.area = None
            sample.size = image.size

    return change


def bytes_become(make: Callable[[bytes, Rng], bytes]) -> Change:
    """Replaces the file's bytes."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        sample.data = make(sample.data, rng)

    return change


def box_becomes(make: Callable[[list[Any], Sample, Rng], list[Any]]) -> Change:
    """Replaces the sample's first box."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        thing = sample.things[0]
        thing.box = make(thing.box or [], sample, rng)
        thing.area = None

    return change


def added(raw: RawSet, sample: Sample, **changes: Any) -> Sample:
    """A further sample like `sample`."""
    other = copy.deepcopy(sample)
    other.name = f"more-{len(raw.samples)}{_suffix(sample)}"
    for key, value in changes.items():
        setattr(other, key, value)
    raw.samples.append(other)
    return other


def new_picture(sample: Sample, rng: Rng) -> None:
    """Another image of the same things."""
    sample.data = encode(picture(rng, sample.size, sample.things), _suffix(sample))


def grain(image: Image.Image, rng: Rng, low: int, high: int) -> Image.Image:
    """Noise of an image's size."""
    shape = (image.height, image.width, 3)
    return Image.fromarray(rng.integers(low, high, shape, dtype=np.uint8))


def png_bomb(side: int) -> bytes:
    """A small PNG file that says it has `side` x `side` pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def turned(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Stored with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([3, 2, 4]))
    sample.name = Path(sample.name).stem + ".jpg"
    sample.data = encode(_pixels(sample), ".jpg", exif=exif, quality=92)


def animated(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A GIF of two frames."""
    frames = [_pixels(sample), grain(_pixels(sample), rng, 20, 230)]
    sample.name = Path(sample.name).stem + ".gif"
    sample.data = encode(frames[0], ".gif", save_all=True, append_images=frames[1:])


def png_named_jpg(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Content and extension differ."""
    sample.name = Path(sample.name).stem + ".jpg"
    sample.data = encode(_pixels(sample), ".png")


def noisy(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A PNG file of some hundred kilobytes."""
    sample.name = Path(sample.name).stem + ".png"
    sample.data = encode(grain(_pixels(sample), rng, 0, 256).resize((300, 300)), ".png")


def names_alike(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Another image whose name differs by case only."""
    new_picture(
        added(
            raw, sample, name=sample.name.upper().replace(_suffix(sample).upper(), _suffix(sample))
        ),
        rng,
    )


def copied(split: str | None = None, other_label: bool = False, again: bool = False) -> Change:
    """Adds the sample once more: into another split, with another label, stored anew."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        other = added(raw, sample)
        if split == "other":
            other.split = "val" if sample.split != "val" else "train"
        if other_label:
            label = sample.things[0].label
            other.things[0].label = CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]
        if again:
            other.name = Path(other.name).stem + ".jpg"
            other.data = encode(_pixels(sample), ".jpg", quality=int(rng.integers(80, 90)))

    return change


def group_across(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """All have groups; one group is in two splits."""
    for number, other in enumerate(raw.samples):
        other.group = f"g{number}"
    other = next(other for other in raw.samples if other.split != sample.split)
    other.group = sample.group


def class_not_in_train(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """No object of one class is left in train."""
    gone = str(rng.choice(CLASSES))
    for other in raw.samples:
        if other.split == "train":
            other.things = [thing for thing in other.things if thing.label != gone]
    raw.samples = [other for other in raw.samples if other.things]


def rare(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A class on one image."""
    raw.classes.append("zebra")
    next(s for s in raw.samples if s.split == "train").things[0].label = "zebra"


def imbalance(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """One class on nearly all images."""
    common, rare = CLASSES[0], CLASSES[1]
    for other in raw.samples:
        keep = other.name.endswith(("00001.jpg", "00002.jpg", "00003.jpg"))
        for thing in other.things:
            thing.label = rare if keep else common


def shares(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A class of train is all but gone from val."""
    for other in raw.samples:
        for place, thing in enumerate(other.things):
            if other.split == "val" and place == 0 and thing.label == CLASSES[0]:
                thing.label = CLASSES[1]
            if other.split == "val" and thing.label == CLASSES[2] and rng.random() < 0.6:
                thing.label = CLASSES[1]


def alike_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Some labels are spelt in other case."""
    label = sample.things[0].label
    other = label.upper() if rng.random() < 0.5 else label.title()
    raw.classes.append(other)
    for sample_ in raw.samples:
        if sample_.things and sample_.things[0].label == label and rng.random() < 0.5:
            sample_.things[0].label = other
    sample.things[0].label = other


def extra_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The class list has a class more."""
    raw.classes.append("zebra")


def unknown_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A label outside the class list."""
    sample.things[0].label = "zebra"


def drop_split(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """train or val is not there."""
    gone = str(rng.choice(["train", "val"]))
    raw.samples = [other for other in raw.samples if other.split != gone]


def declared(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Another size is declared."""
    width, height = sample.size
    sample.size = (width + int(rng.integers(1, 40)), height + int(rng.integers(0, 40)))


def units(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Fractions instead of pixels."""
    for thing in sample.things:
        x, y, w, h = thing.box or [0] * 4
        thing.box = [x / sample.size[0], y / sample.size[1], w / sample.size[0], h / sample.size[1]]
        thing.area = None


def pixels_in_yolo(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Pixels instead of fractions."""
    sample.size = (1, 1)


def thing_again(other_label: bool) -> Change:
    """The same box once more."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        thing = copy.deepcopy(sample.things[0])
        if other_label:
            thing.label = CLASSES[(CLASSES.index(thing.label) + 1) % len(CLASSES)]
        sample.things.append(thing)

    return change


def many(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """324 boxes."""
    label = sample.things[0].label
    sample.things = [Thing(label, [x * 4, y * 4, 3.5, 3.5]) for x in range(18) for y in range(18)]


def changed(**changes: Any) -> Change:
    """Sets attributes of the sample."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for key, value in changes.items():
            setattr(sample, key, copy.deepcopy(value))

    return change


def thing(**changes: Any) -> Change:
    """Sets attributes of the sample's first label or box."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for key, value in changes.items():
            setattr(sample.things[0], key, value)

    return change


def renamed(suffix: str) -> Change:
    """Gives the file another extension."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        sample.name = Path(sample.name).stem + suffix

    return change


# ---- faults of the files of one format


def gone(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Removes the file."""
    (root / image_path(raw, sample, format)).unlink()


def link_out(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Moves the file out of the data and leaves a link to it."""
    path = root / image_path(raw, sample, format)
    outside = root.parent / f"outside-{sample.name}"
    path.rename(outside)
    path.symlink_to(outside)


def coco(change: Callable[[dict[str, Any], Sample], Any]) -> Damage:
    """Edits the JSON file that names the sample."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        file = root / "annotations" / f"instances_{sample.split}.json"
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


def text(
    pick: Callable[[Path, RawSet, Sample], Path], change: Callable[[str, Sample], str]
) -> Damage:
    """Edits a text file."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        file = pick(root, raw, sample)
        file.write_bytes(change(file.read_text(), sample).encode("utf-8", "surrogateescape"))

    return damage


def xml_of(root: Path, raw: RawSet, sample: Sample) -> Path:
    """Its VOC file."""
    return root / "Annotations" / f"{Path(sample.name).stem}.xml"


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


def sub(pattern: str, by: str) -> Callable[[str, Sample], str]:
    """A replacement by regular expression; NAME stands for the sample's file name."""
    return lambda text, sample: re.sub(
        pattern.replace("NAME", re.escape(sample.name)), by, text, count=1
    )


def empty_test(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Leaves the test split without images."""
    for other in raw.samples:
        if other.split == "test":
            (root / image_path(raw, other, format)).unlink()
            if format == "voc":
                xml_of(root, raw, other).unlink()
            if format == "yolo":
                label_of(root, raw, other).unlink()
    if format == "coco":
        file = root / "annotations" / "instances_test.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"images": [], "annotations": []})
        )
    if format == "voc":
        (root / "ImageSets" / "Main" / "test.txt").write_text("")


def stray(name: str) -> Damage:
    """Puts a further image file somewhere."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        path = root / name.format(split=sample.split, label=sample.things[0].label)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data[:-1] + b"x")

    return damage


def rename_class(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
    """Gives a class folder a name with a space at its end."""
    folder = (root / image_path(raw, sample, "folder")).parent
    folder.rename(folder.with_name(f"{folder.name} "))


def two_halves(image: Image.Image, rng: Rng) -> Image.Image:
    """A picture of two plain colours."""
    result = Image.new("RGB", image.size, (90, 100, 110))
    result.paste((160, 150, 140), (0, 0, image.width // 2, image.height))
    return result


def all_coco(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Edits all JSON files."""

    def damage(root: Path, raw: RawSet, sample: Sample, format: str) -> None:
        for file in (root / "annotations").iterdir():
            content = json.loads(file.read_text())
            change(content)
            file.write_text(json.dumps(content))

    return damage


def line_of(text: str, sample: Sample) -> str:
    """The line of a CSV file that names the sample."""
    return next(line for line in text.splitlines(keepends=True) if f"/{sample.name}," in line)
