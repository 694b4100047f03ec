"""Checks of labels and classes: how many an image has, and how many images a class has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator

import numpy as np

from components.contract.findings import Finding, finding, shown
from components.contract.reading import Reading
from components.validation.object_columns import ObjectColumns, distinct

_IMBALANCE = 20.0  # labels of the most frequent class over those of the rarest


def check_labels(reading: Reading, columns: ObjectColumns) -> Iterator[Finding]:
    """Images with too many labels, or none, for classification.

    Of what the reader refused, nothing is said again.
    """
    if reading.task != "classification":
        return
    refused = {item.image for item in reading.findings if item.severity == "error"}
    names = distinct(columns.image * len(reading.classes) + columns.label)
    num_labels = columns.objects_per_image
    num_names = np.bincount(names // max(len(reading.classes), 1), minlength=len(reading.images))
    odd = num_names < num_labels
    if not reading.multi_label:
        odd |= num_labels != 1
    labels: dict[int, list[str]] = defaultdict(list)
    for row in np.flatnonzero(odd[columns.image]):
        labels[int(columns.image[row])].append(reading.objects[row].label)
    for index in np.flatnonzero(odd).tolist():
        image, found = reading.images[index], labels.get(index, [])
        if num_names[index] < num_labels[index]:
            message, allowed = "a label is named twice", "each label once"
        elif found:
            message, allowed = "more than one label, but the data has one an image", "one label"
        elif image.path not in refused:
            message, allowed = "the image has no label", "one label"
        else:
            continue
        yield finding(
            "label-row-broken", image.path, message, sorted(found), allowed, image=image.path
        )


def check_classes(
    reading: Reading, columns: ObjectColumns, min_images: int, faulty: Container[str] = ()
) -> Iterator[Finding]:
    """Classes that are not there, rare, or out of balance; images without an object.

    Args:
        reading: what the reader found.
        columns: of its objects.
        min_images: a class on fewer images is rare.
        faulty: paths of images with an error: what is on them is not known.
    """
    missing = {item.value for item in reading.findings if item.check == "class-missing"}
    labels = np.bincount(columns.label, minlength=len(reading.classes)).tolist()
    numbers = {name: num for name, num in zip(reading.classes, labels, strict=True) if num}
    num_each = columns.images_per_class.tolist()
    for name, num_images in zip(reading.classes, num_each, strict=True):
        if not num_images:
            if shown(name) not in missing:
                yield finding("class-unused", name, "no image has this class")
        elif num_images < min_images:
            yield finding(
                "class-rare",
                name,
                "a class on few images",
                num_images,
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
        yield from _check_background(reading, columns, faulty)


def _check_background(
    reading: Reading, columns: ObjectColumns, faulty: Container[str]
) -> Iterator[Finding]:
    empty = [
        index
        for index in np.flatnonzero(columns.objects_per_image == 0)
        if reading.images[index].path not in faulty
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
