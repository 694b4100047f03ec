"""The checks: what is wrong with a raw data set, once it has been read and its images decoded.

Checks of single rows of an annotation file (types, ids, unknown classes, paths) are made by the
readers, where the row is at hand.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

import numpy as np

from components.contract.findings import Finding, count, finding
from components.contract.pixels import EXTENSIONS
from components.contract.reading import Reading
from components.validation.pixel_pass import ImageFacts
from components.validation.settings import ValidateSettings

_ROUNDING = 1.0  # pixels a box may stick out: tools round, and count from 0 or 1
_TINY_BOX = 3.0  # pixels
_LARGE_BOX = 0.95  # share of the image
_LONG_BOX = 50.0  # longer side over shorter
_SAME_BOX = 0.95  # IoU
_MANY_BOXES = 300
_AT_ONCE = 512  # boxes of an image that are compared all with all
_SMALL_IMAGE = 16  # pixels of the shorter side
_LONG_IMAGE = 8.0
_FLAT, _DARK, _LIGHT = 2.0, 8.0, 247.0  # luminance, 0 to 255
_SHARES_APART = 0.25  # total variation distance of class shares
_ENOUGH = 50  # labels in a split before its shares mean something


def run_checks(
    reading: Reading, facts: list[ImageFacts], settings: ValidateSettings
) -> list[Finding]:
    """All findings about a data set, the reader's among them, sorted.

    A check that itself fails becomes an error-level finding: what was not checked is not fine.

    Args:
        reading: what the reader found.
        facts: of each image of `reading.images`, in the same order.
        settings: limits.
    """
    findings = list(reading.findings)
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "files": lambda: _check_files(facts),
        "images": lambda: _check_images(reading, facts),
        "names": lambda: _check_names(reading),
        "boxes": lambda: _check_boxes(reading, facts),
        "repeated boxes": lambda: _check_repeated_boxes(reading),
        "classes": lambda: _check_classes(reading, settings.min_images_per_class),
        "splits": lambda: _check_splits(reading),
        "copies": lambda: _check_copies(reading, facts),
    }
    for name, check in checks.items():
        try:
            findings.extend(check())
        except Exception as fault:  # noqa: BLE001
            detail = f"{type(fault).__name__}: {fault}"
            findings.append(finding("check-failed", "", f"the check of {name} failed", detail))
    return sorted(set(findings))


def _check_files(facts: list[ImageFacts]) -> Iterator[Finding]:
    for fact in facts:
        if fact.fault:
            check, message, value, allowed = fact.fault
            yield finding(check, fact.path, message, value, allowed)
            continue
        expected = EXTENSIONS.get(PurePosixPath(fact.path).suffix.lower())
        if expected != fact.format:
            yield finding(
                "content-differs-from-extension",
                fact.path,
                "the content is not what the extension says",
                fact.format,
                expected or ", ".join(EXTENSIONS),
            )
        if fact.num_frames > 1:
            # Many cameras put a second picture into a JPEG; everybody shows the first.
            yield finding(
                "several-frames",
                fact.path,
                "more than one frame; only the first is used",
                fact.num_frames,
                "1",
            )


def _check_images(reading: Reading, facts: list[ImageFacts]) -> Iterator[Finding]:
    usable = [fact for fact in facts if not fact.fault]
    common = Counter(fact.mode for fact in usable).most_common(1)
    usual = common[0][0] if common else "RGB"
    for image, fact in zip(reading.images, facts, strict=True):
        if fact.fault:
            continue
        size = (float(fact.width), float(fact.height))
        if image.size is not None and image.size != size:
            turned = fact.orientation >= 5 and image.size == size[::-1]
            yield finding(
                "image-size",
                fact.path,
                "the annotations are for the image before its EXIF orientation is applied"
                if turned
                else f"the size differs from that in {image.where}",
                f"{image.size[0]:g} x {image.size[1]:g}",
                f"{fact.width} x {fact.height}",
            )
        if fact.orientation > 1:
            yield finding(
                "exif-orientation",
                fact.path,
                "the image is stored turned; it is turned upright when it is read",
                fact.orientation,
                "1",
            )
        if fact.mode != usual:
            yield finding(
                "odd-mode", fact.path, f"stored as {fact.mode}, most are {usual}", fact.mode, usual
            )
        if min(size) < _SMALL_IMAGE:
            yield finding(
                "small-image",
                fact.path,
                "very small",
                f"{fact.width} x {fact.height}",
                f"sides of at least {_SMALL_IMAGE} px",
            )
        if max(size) > _LONG_IMAGE * min(size):
            yield finding(
                "long-image",
                fact.path,
                "very long and thin",
                f"{fact.width} x {fact.height}",
                f"at most {_LONG_IMAGE:g} to 1",
            )
        if fact.contrast < _FLAT:
            yield finding("flat-image", fact.path, "almost one single colour", fact.contrast)
        elif fact.brightness < _DARK:
            yield finding("dark-image", fact.path, "almost black", fact.brightness)
        elif fact.brightness > _LIGHT:
            yield finding("light-image", fact.path, "almost white", fact.brightness)


def _check_names(reading: Reading) -> Iterator[Finding]:
    """Names that become the same file on another file system."""
    seen: dict[str, str] = {}
    for image in reading.images:
        key = unicodedata.normalize("NFC", image.path).casefold()
        if key in seen:
            yield finding(
                "names-alike",
                image.path,
                "differs from another file only by case or Unicode form",
                seen[key],
            )
        seen.setdefault(key, image.path)


def _check_boxes(reading: Reading, facts: list[ImageFacts]) -> Iterator[Finding]:
    per_image: Counter[int] = Counter()
    for item in reading.objects:
        if item.box is None:
            continue
        per_image[item.image] += 1
        fault = box_fault(item.box)
        if fault:
            check, message, allowed = fault
            yield finding(check, item.where, message, item.box, allowed)
            continue
        fact = facts[item.image]
        if not fact.fault:
            yield from _check_box_in_image(item.where, item.box, fact.width, fact.height)
        _, _, width, height = item.box
        if min(width, height) < _TINY_BOX:
            yield finding(
                "tiny-box", item.where, "a very small box", item.box, f"sides of {_TINY_BOX:g} px"
            )
        if max(width, height) > _LONG_BOX * min(width, height):
            yield finding(
                "long-box", item.where, "a very long box", item.box, f"at most {_LONG_BOX:g} to 1"
            )
    for index, number in sorted(per_image.items()):
        if number > _MANY_BOXES:
            yield finding(
                "many-boxes",
                reading.images[index].path,
                "very many boxes",
                number,
                f"at most {_MANY_BOXES}",
            )


def box_fault(box: tuple[float, float, float, float]) -> tuple[str, str, str] | None:
    """Why a box (x, y, width, height) is none: `(check, message, allowed)`; or None."""
    if not all(map(math.isfinite, box)):
        return "box-not-finite", "the box holds NaN or infinity", "four finite numbers"
    if box[2] <= 0 or box[3] <= 0:
        return "box-empty", "the box has no width or no height", "width > 0 and height > 0"
    return None


def _check_box_in_image(
    where: str, box: tuple[float, float, float, float], width: int, height: int
) -> Iterator[Finding]:
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    allowed = f"inside 0, 0, {width}, {height}"
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        yield finding("box-outside", where, "the box lies outside the image", box, allowed)
        return
    sticks_out = max(-left, -top, right - width, bottom - height)
    if sticks_out > _ROUNDING:
        yield finding(
            "box-partly-outside",
            where,
            f"the box sticks out of the image by {sticks_out:g} px and will be cut",
            box,
            allowed,
        )
    if box[2] * box[3] > _LARGE_BOX * width * height:
        yield finding("large-box", where, "the box covers nearly the whole image", box)


def _check_repeated_boxes(reading: Reading) -> Iterator[Finding]:
    groups: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(reading.objects):
        if item.box is not None and not item.is_crowd and box_fault(item.box) is None:
            groups[item.image].append(index)
    for members in groups.values():
        for first, second in _alike_pairs(reading, members):
            one, two = reading.objects[first], reading.objects[second]
            if one.label == two.label:
                check, message = "duplicate-box", "the same box twice with the same class"
            else:
                check, message = "contradictory-box", "the same box with two classes"
            yield finding(check, two.where, message, f"{one.label} and {two.label}", one.where)


def _alike_pairs(reading: Reading, members: list[int]) -> Iterator[tuple[int, int]]:
    """Boxes of one image with an IoU above `_SAME_BOX`: each with one that it repeats."""
    boxes = np.array([reading.objects[index].box for index in members])
    # Alike boxes begin at nearly the same place: sorted by x, only near neighbours are compared.
    order = np.argsort(boxes[:, 0], kind="stable")
    boxes = boxes[order]
    if len(boxes) <= _AT_ONCE:
        firsts = np.flatnonzero(np.triu(_iou(boxes[:, None], boxes) > _SAME_BOX, 1).any(axis=1))
    else:
        firsts = np.arange(len(boxes))
    reach = boxes[:, 0] + (1 / _SAME_BOX - 1) * boxes[:, 2]
    ends = np.searchsorted(boxes[:, 0], reach, side="right")
    repeats = np.zeros(len(boxes), dtype=bool)
    for first in firsts:
        if repeats[first]:
            continue  # what equals it equals the one it repeats, nearly
        start = int(first) + 1
        alike = _iou(boxes[first], boxes[start : ends[first]]) > _SAME_BOX
        for second in start + np.flatnonzero(alike):
            if not repeats[second]:
                repeats[second] = True
                one, two = members[order[first]], members[order[second]]
                yield min(one, two), max(one, two)


def _iou(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """IoU of boxes [..., 4] with boxes [..., 4], all x, y, width, height; shapes broadcast."""
    wide = np.minimum(one[..., 0] + one[..., 2], two[..., 0] + two[..., 2])
    wide = wide - np.maximum(one[..., 0], two[..., 0])
    high = np.minimum(one[..., 1] + one[..., 3], two[..., 1] + two[..., 3])
    high = high - np.maximum(one[..., 1], two[..., 1])
    shared = np.clip(wide, 0, None) * np.clip(high, 0, None)
    return shared / (one[..., 2] * one[..., 3] + two[..., 2] * two[..., 3] - shared)


def _check_classes(reading: Reading, min_images: int) -> Iterator[Finding]:
    images: dict[str, set[int]] = {name: set() for name in reading.classes}
    for item in reading.objects:
        images[item.label].add(item.image)
    for name, members in images.items():
        if not members:
            yield finding("class-unused", name, "no image has this class")
        elif len(members) < min_images:
            yield finding(
                "class-rare",
                name,
                "a class on few images",
                len(members),
                f"at least {min_images} (validate.min_images_per_class)",
            )
    empty = sorted(set(range(len(reading.images))) - {item.image for item in reading.objects})
    if empty:
        # Images without objects are good examples of background: one line for all of them.
        names = ", ".join(reading.images[index].path for index in empty[:3])
        yield finding(
            "images-without-objects",
            reading.root.name,
            f"images that hold no object; they count as background ({names}, …)"
            if len(empty) > 3
            else f"images that hold no object; they count as background ({names})",
            len(empty),
        )


def _check_splits(reading: Reading) -> Iterator[Finding]:
    where = reading.root.name
    if not reading.images:
        # With other errors, having no images is but what follows from them.
        if not count(reading.findings, "error"):
            yield finding("no-images", where, "there is no usable image", 0, "at least one")
        return
    sizes = Counter(image.split for image in reading.images)
    for split in sorted(reading.splits):
        if not sizes[split]:
            yield finding("split-empty", where, "a split without a usable image", split)
    if not reading.splits or reading.splits == {"train"}:
        return  # preprocess will draw the splits
    for split in ("train", "val"):
        if split not in reading.splits:
            yield finding(
                "split-missing",
                where,
                f"the data brings its splits, but no {split}",
                ", ".join(sorted(reading.splits)),
                "train and val, perhaps test; or none, to have them drawn",
            )
    labels: dict[str | None, Counter[str]] = defaultdict(Counter)
    for item in reading.objects:
        labels[reading.images[item.image].split][item.label] += 1
    train = labels["train"]
    for split in ("val", "test"):
        for name in sorted(set(labels[split]) - set(train)):
            yield finding("class-not-in-train", split, "a class that the train split lacks", name)
        here, there = labels[split].total(), train.total()
        if here >= _ENOUGH and there >= _ENOUGH:
            names = sorted(set(labels[split]) | set(train))
            apart = sum(abs(labels[split][name] / here - train[name] / there) for name in names) / 2
            if apart > _SHARES_APART:
                yield finding(
                    "class-shares-differ",
                    split,
                    "the class shares differ much from those of train",
                    f"total variation {apart:.2f}",
                    f"at most {_SHARES_APART}",
                )


def _check_copies(reading: Reading, facts: list[ImageFacts]) -> Iterator[Finding]:
    """The same content, or the same looks, more than once."""
    labels: dict[int, set[str]] = defaultdict(set)
    for item in reading.objects:
        labels[item.image].add(item.label)
    contents: dict[str, list[int]] = defaultdict(list)
    looks: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if fact.fault:
            continue
        members = contents[fact.sha256]
        members.append(index)
        # Exact copies are reported as such; flat images all look alike.
        if len(members) == 1 and fact.contrast >= _FLAT:
            looks[fact.phash, fact.width >= fact.height].append(index)
    for members in contents.values():
        for index in members[1:]:
            first = members[0]
            one, two = reading.images[first], reading.images[index]
            differ = labels[first] != labels[index] and reading.task == "classification"
            if one.split != two.split:
                yield finding(
                    "duplicate-across-splits",
                    two.path,
                    f"the same content as {one.path}"
                    + (", with another label" if differ else "")
                    + ": a split would be measured on what another knows",
                    f"{two.split} and {one.split}",
                    "one split",
                )
            elif differ:
                yield finding(
                    "contradictory-labels",
                    two.path,
                    f"the same content as {one.path} with another label",
                    f"{_names(labels[index])} and {_names(labels[first])}",
                )
            else:
                yield finding("duplicate-content", two.path, f"the same content as {one.path}")
    for members in looks.values():
        for index in members[1:]:
            one, two = reading.images[members[0]], reading.images[index]
            across = one.split != two.split
            yield finding(
                "near-duplicate-across-splits" if across else "near-duplicate",
                two.path,
                f"looks like {one.path}",
                f"{two.split} and {one.split}" if across else "",
            )


def _names(labels: set[str]) -> str:
    return ", ".join(sorted(labels)) or "none"
