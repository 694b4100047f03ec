"""Faults that are put into a set before it is written, so that every format has them.

All take the set, the sample that the fault is put at, and a random generator; those that take
something else make such a function.
"""

from __future__ import annotations

import copy
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.defects import (
    CLASSES,
    Change,
    RawSet,
    Rng,
    Sample,
    Thing,
    encode,
    picture,
)


def _image(sample: Sample) -> Image.Image:
    return Image.open(io.BytesIO(sample.data)).convert("RGB")


def _suffix(sample: Sample) -> str:
    return Path(sample.name).suffix


def _rename(sample: Sample, suffix: str) -> None:
    sample.name = Path(sample.name).stem + suffix


def _next_class(label: str) -> str:
    return CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]


# ---- files and pixels


def redraw(make: Callable[[Image.Image, Rng], Image.Image], suffix: str = ".png") -> Change:
    """Replaces the image by what `make` makes of it; boxes are scaled with it."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        _rename(sample, suffix)
        image = make(_image(sample), rng)
        sample.data = encode(image, suffix)
        wide, high = (a / b for a, b in zip(image.size, sample.size, strict=True))
        for thing in sample.things if image.size != sample.size else []:
            if thing.box:
                thing.box = [a * b for a, b in zip(thing.box, [wide, high] * 2, strict=True)]
                thing.area = None
        sample.size = image.size

    return change


def on_all(change: Change) -> Change:
    """Makes the change at every sample."""

    def on(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for other in raw.samples:
            change(raw, other, rng)

    return on


def bytes_become(make: Callable[[bytes, Rng], bytes]) -> Change:
    """Replaces the file's bytes."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        sample.data = make(sample.data, rng)

    return change


def renamed(suffix: str) -> Change:
    """Gives the file another extension."""
    return lambda raw, sample, rng: _rename(sample, suffix)


def png_bomb(side: int) -> bytes:
    """A small PNG file that says it has `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def stored_turned(*orientations: int) -> Change:
    """Stores the image with an EXIF orientation; what is declared is its size as stored."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        exif = Image.Exif()
        exif[0x0112] = int(rng.choice(orientations))
        _rename(sample, ".jpg")
        sample.data = encode(_image(sample), ".jpg", exif=exif, quality=92)

    return change


def animated(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A GIF of two frames."""
    other = rng.integers(20, 230, (*sample.size[::-1], 3), dtype=np.uint8)
    frames = [_image(sample), Image.fromarray(other)]
    _rename(sample, ".gif")
    sample.data = encode(frames[0], ".gif", save_all=True, append_images=frames[1:])


def png_named_jpg(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Content and extension differ."""
    _rename(sample, ".jpg")
    sample.data = encode(_image(sample), ".png")


def sixteen_bits(image: Image.Image, rng: Rng) -> Image.Image:
    """16-bit grey."""
    return Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)


def two_halves(image: Image.Image, rng: Rng) -> Image.Image:
    """A picture of two plain colours."""
    result = Image.new("RGB", image.size, (90, 100, 110))
    result.paste((160, 150, 140), (0, 0, image.width // 2, image.height))
    return result


def emptied(number: int) -> Change:
    """Leaves so many files without a byte."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for index in rng.choice(len(raw.samples), number, replace=False):
            raw.samples[index].data = b""

    return change


# ---- further images


def added(raw: RawSet, sample: Sample, **changes: Any) -> Sample:
    """A further sample like `sample`."""
    other = copy.deepcopy(sample)
    other.name = f"more-{len(raw.samples)}{_suffix(sample)}"
    for key, value in changes.items():
        setattr(other, key, value)
    raw.samples.append(other)
    return other


def names_alike(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Another image whose name differs by case only."""
    other = added(raw, sample, name=Path(sample.name).stem.upper() + _suffix(sample))
    other.data = encode(picture(rng, sample.size, sample.things), _suffix(sample))


def copied(across: bool = False, other_label: bool = False, again: bool = False) -> Change:
    """Adds the sample once more.

    Args:
        across: into another split.
        other_label: with another label.
        again: stored anew, so that the bytes differ.
    """

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        other = added(raw, sample)
        if across:
            other.split = "val" if sample.split != "val" else "train"
        if other_label:
            other.things = other.things[:1]
            other.things[0].label = _next_class(sample.things[-1].label)
        if again:
            _rename(other, ".jpg")
            other.data = encode(_image(sample), ".jpg", quality=int(rng.integers(80, 90)))

    return change


# ---- labels and classes


def label_becomes(make: Callable[[str], str]) -> Change:
    """Replaces the sample's first label."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        sample.things[0].label = make(sample.things[0].label)

    return change


def thing_again(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The same label or box once more."""
    sample.things.append(copy.deepcopy(sample.things[0]))


def thing_with_two_classes(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The same box once more, with another class."""
    thing_again(raw, sample, rng)
    sample.things[-1].label = _next_class(sample.things[0].label)


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
    """One class on all images but one."""
    common, other = CLASSES[:2]
    raw.classes = [common, other]
    for number, member in enumerate(raw.samples):
        member.things = member.things[:1]
        member.things[0].label = other if number == 0 else common


def shares(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A class of train is all but gone from val."""
    for other in raw.samples:
        if other.split == "val":
            for place, thing in enumerate(other.things):
                if thing.label == CLASSES[0] and (place == 0 or rng.random() < 0.8):
                    thing.label = CLASSES[1]
            if len({thing.label for thing in other.things}) < len(other.things):
                other.things = other.things[:1] if raw.multi_label else other.things


def alike_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Some labels are spelt in other case."""
    label = sample.things[0].label
    other = label.upper() if rng.random() < 0.5 else label.title()
    raw.classes.append(other)
    holders = [s for s in raw.samples if s.things[0].label == label]
    for split in ("train", "val", "test"):
        # Half of them, so that both spellings are in each split, and rare in none.
        for member in [s for s in holders if s.split == split][::2]:
            member.things[0].label = other


def extra_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The class list has a class more."""
    raw.classes.append("zebra")


def nothing_labelled(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """No image has anything on it, and there are no classes."""
    raw.classes = []
    for other in raw.samples:
        other.things = []


# ---- boxes


def box_becomes(make: Callable[[list[Any], Sample], list[Any]]) -> Change:
    """Replaces the sample's first box."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        thing = sample.things[0]
        thing.box = make(thing.box or [], sample)
        thing.area = None

    return change


def boxes_become(make: Callable[[list[Any], Sample], list[Any]]) -> Change:
    """Replaces all boxes."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for other in raw.samples:
            for thing in other.things:
                thing.box = make(thing.box or [], other)
                thing.area = None

    return change


def fractions(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Fractions instead of pixels."""
    width, height = sample.size
    for thing in sample.things:
        x, y, w, h = thing.box or [0] * 4
        thing.box = [x / width, y / height, w / width, h / height]
        thing.area = None


def many(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """324 boxes."""
    places = [(x * 4, y * 4) for x in range(18) for y in range(18)]
    sample.things = [
        Thing(CLASSES[number % len(CLASSES)], [x, y, 3.5, 3.5])
        for number, (x, y) in enumerate(places)
    ]


# ---- the rest


def declared(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Another size is declared."""
    width, height = sample.size
    sample.size = (width + int(rng.integers(1, 40)), height + int(rng.integers(0, 40)))


def drop_split(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """train or val is not there."""
    gone = str(rng.choice(["train", "val"]))
    raw.samples = [other for other in raw.samples if other.split != gone]


def group_across(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """All have groups; one group is in two splits."""
    for number, other in enumerate(raw.samples):
        other.group = f"g{number}"
    other = next(other for other in raw.samples if other.split != sample.split)
    other.group = sample.group


def group_in_names(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The same, told by the files' names."""
    group_across(raw, sample, rng)
    for other in raw.samples:
        other.name, other.group = f"{other.group}_{other.name}", None


def moved(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The image is in another split."""
    sample.split = next(other.split for other in raw.samples if other.split != sample.split)


def group_undrawn(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """The data tells no splits, and a group of two splits by the files' names."""
    group_in_names(raw, sample, rng)
    for other in raw.samples:
        other.split = None


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


def column(name: str, value: Any, usual: Any) -> Change:
    """A further column, with another value at the sample."""

    def change(raw: RawSet, sample: Sample, rng: Rng) -> None:
        for other in raw.samples:
            other.columns[name] = usual
        sample.columns[name] = value

    return change


# ---- drift: what is usual has changed


def class_renamed(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """A class has another name."""
    old = str(rng.choice(CLASSES))
    raw.classes = ["zebra" if name == old else name for name in raw.classes]
    for other in raw.samples:
        for item in other.things:
            item.label = "zebra" if item.label == old else item.label


def mostly_one_class(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """Most labels are of one class."""
    common = str(rng.choice(CLASSES))
    for number, other in enumerate(raw.samples):
        other.things = other.things[:1] if raw.multi_label else other.things
        for item in other.things:
            item.label = common if number % 5 > 1 else item.label


def half_empty(raw: RawSet, sample: Sample, rng: Rng) -> None:
    """More than half of the images show nothing."""
    for number, other in enumerate(raw.samples):
        other.things = other.things if number % 5 > 2 else []
