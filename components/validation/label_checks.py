"""Checks of labels and classes: how many an image has, and how many images a class has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from components.contract.findings import Finding, finding
from components.contract.reading import Reading

_IMBALANCE = 20.0  # labels of the most frequent class over those of the rarest


def check_labels(reading: Reading) -> Iterator[Finding]:
    """Images with too many labels, or none, for classification."""
    if reading.task != "classification":
        return
    labels: dict[int, list[str]] = defaultdict(list)
    for item in reading.objects:
        labels[item.image].append(item.label)
    for index, image in enumerate(reading.images):
        found = labels.get(index, [])
        if len(set(found)) < len(found):
            message, allowed = "a label is named twice", "each label once"
        elif not reading.multi_label and len(found) > 1:
            message, allowed = "more than one label, but the data has one an image", "one label"
        elif not reading.multi_label and not found:
            message, allowed = "the image has no label", "one label"
        else:
            continue
        yield finding(
            "label-row-broken", image.path, message, sorted(found), allowed, image=image.path
        )


def check_classes(reading: Reading, min_images: int) -> Iterator[Finding]:
    """Classes that are not there, rare, or out of balance; images without an object.

    Args:
        reading: what the reader found.
        min_images: a class on fewer images is rare.
    """
    images: dict[str, set[int]] = {name: set() for name in reading.classes}
    numbers: Counter[str] = Counter()
    for item in reading.objects:
        images[item.label].add(item.image)
        numbers[item.label] += 1
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
    if numbers:
        # Of classes as frequent as each other, the first by name: the same data, the same words.
        most = min(numbers, key=lambda name: (-numbers[name], name))
        least = min(numbers, key=lambda name: (numbers[name], name))
        if numbers[most] > _IMBALANCE * numbers[least]:
            yield finding(
                "class-imbalance",
                least,
                f"a class many times rarer than {most}",
                f"{numbers[most]} to {numbers[least]}",
                f"at most {_IMBALANCE:g} to 1",
            )
    if reading.task == "detection" or reading.multi_label:
        yield from _check_background(reading)


def _check_background(reading: Reading) -> Iterator[Finding]:
    empty = sorted(set(range(len(reading.images))) - {item.image for item in reading.objects})
    if empty:
        # Images without objects are good examples of background: one line for all of them.
        names = ", ".join(reading.images[index].path for index in empty[:3])
        more = ", …" if len(empty) > 3 else ""
        what = "that hold no object; they count as background"
        if reading.multi_label:
            what = "without a label; they are taken to show none of the classes"
        yield finding(
            "images-without-objects",
            reading.root.name,
            f"images {what} ({names}{more})",
            len(empty),
        )
