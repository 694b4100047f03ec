"""Checks of labels and classes: how many an image has, and how many images a class has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator

from components.contract.findings import Finding, finding, shown
from components.contract.reading import Reading

_IMBALANCE = 20.0  # labels of the most frequent class over those of the rarest


def check_labels(reading: Reading) -> Iterator[Finding]:
    """Images with too many labels, or none, for classification.

    Of what the reader refused, nothing is said again.
    """
    if reading.task != "classification":
        return
    refused = {item.image for item in reading.findings if item.severity == "error"}
    labels: dict[int, list[str]] = defaultdict(list)
    for item in reading.objects:
        labels[item.image].append(item.label)
    for index, image in enumerate(reading.images):
        found = labels.get(index, [])
        if len(set(found)) < len(found):
            message, allowed = "a label is named twice", "each label once"
        elif not reading.multi_label and len(found) > 1:
            message, allowed = "more than one label, but the data has one an image", "one label"
        elif not reading.multi_label and not found and image.path not in refused:
            message, allowed = "the image has no label", "one label"
        else:
            continue
        yield finding(
            "label-row-broken", image.path, message, sorted(found), allowed, image=image.path
        )


def check_classes(
    reading: Reading, min_images: int, faulty: Container[str] = ()
) -> Iterator[Finding]:
    """Classes that are not there, rare, or out of balance; images without an object.

    Args:
        reading: what the reader found.
        min_images: a class on fewer images is rare.
        faulty: paths of images with an error: what is on them is not known.
    """
    missing = {item.value for item in reading.findings if item.check == "class-missing"}
    images: dict[str, set[int]] = {name: set() for name in reading.classes}
    numbers: Counter[str] = Counter()
    for item in reading.objects:
        images[item.label].add(item.image)
        numbers[item.label] += 1
    for name, members in images.items():
        if not members:
            if shown(name) not in missing:
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
        yield from _check_background(reading, faulty)


def _check_background(reading: Reading, faulty: Container[str]) -> Iterator[Finding]:
    shown_on = {item.image for item in reading.objects}
    empty = [
        index
        for index, image in enumerate(reading.images)
        if index not in shown_on and image.path not in faulty
    ]
    if empty:
        # Images without objects are good examples of background: one line for all of them.
        names = ", ".join(reading.images[index].path for index in empty[:3])
        more = ", …" if len(empty) > 3 else ""
        yield finding(
            "images-without-objects",
            reading.root.name,
            f"images that hold no object; they count as background ({names}{more})",
            len(empty),
        )
