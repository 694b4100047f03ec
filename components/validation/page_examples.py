"""Which findings of a check the page shows as pictures, and what it marks on them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.contract.catalogue import CHECKS
from components.contract.findings import Finding, shown
from components.contract.reading import Box, RawObject, Reading
from components.validation.object_columns import ObjectColumns
from components.validation.thumbnails import MOST_BOXES, Thumbnails

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)
_VALUE = 100  # letters of a value in which its numbers stand
_LONGEST_NAME = 12  # words of a message that may be one file's name

# The numbers in a finding's value say how bad it is: more is worse.
_WORSE: dict[str, Callable[[list[float]], float]] = {
    "dark-image": lambda n: -n[0],
    "light-image": lambda n: n[0],
    "flat-image": lambda n: -n[0],
    "blurred-image": lambda n: -n[0],
    "low-information": lambda n: -n[0],
    "small-image": lambda n: -min(n[:2]),
    "long-image": lambda n: max(n[:2]) / min(n[:2]),
    "tiny-box": lambda n: -min(n[2:4]),
    "long-box": lambda n: max(n[2:4]) / min(n[2:4]),
    "large-box": lambda n: n[2] * n[3],
    "many-boxes": lambda n: n[0],
}


@dataclass(frozen=True)
class Example:
    """One picture of the page.

    Args:
        path: of the image.
        detail: what is wrong with it, in a few words.
        picture: a `data:` address; None where the file cannot be shown.
        other: the image that it is like, and its picture; None where there is no such image.
    """

    path: str
    detail: str
    picture: str | None
    other: tuple[str, str | None] | None = None


class Examples:
    """Finds the images and boxes that findings are about.

    Args:
        reading: what the reader found.
        findings: all of them.
        columns: of the objects of `reading`.
    """

    def __init__(self, reading: Reading, findings: Sequence[Finding], columns: ObjectColumns):
        self._reading = reading
        self._index = {image.path: index for index, image in enumerate(reading.images)}
        wanted = {item.where for item in findings}
        self._rows: dict[str, list[RawObject]] = defaultdict(list)
        for item in reading.objects:
            if item.where in wanted:
                self._rows[item.where].append(item)
        # The objects of an image stand together: those of few images are ever looked at.
        self._order = np.argsort(columns.image, kind="stable")
        self._ends = np.concatenate([[0], np.cumsum(columns.objects_per_image)])

    def choose(self, check: str, findings: Sequence[Finding], limit: int) -> list[list[Finding]]:
        """The images that break a check worst: for each of them its findings of that check, the
        worst first.

        Where nothing says how bad a finding is, images from all over the list are taken.

        Args:
            check: its name.
            findings: all of that check.
            limit: most images.
        """
        of_image: dict[str, list[Finding]] = defaultdict(list)
        for item in findings:
            path = self.path_of(item)
            if path:
                of_image[path].append(item)
        images = list(of_image.values())
        worse = _WORSE.get(check)
        if worse is not None:
            for rows in images:
                rows.sort(key=lambda row: -_badness(worse, row))
            images.sort(key=lambda rows: -_badness(worse, rows[0]))
        elif len(images) > limit:
            images = [images[len(images) * place // limit] for place in range(limit)]
        return images[:limit]

    def path_of(self, item: Finding) -> str:
        """The one image that a finding is about; empty where there is none."""
        if item.image or item.where in self._index:
            return item.image or item.where
        indices = {row.image for row in self._rows.get(item.where, ())}
        return self._reading.images[indices.pop()].path if len(indices) == 1 else ""

    def draw(self, thumbnails: Thumbnails, rows: Sequence[Finding]) -> Example:
        """The picture of one image with what the findings `rows` are about marked."""
        path = self.path_of(rows[0])
        index = self._index.get(path)
        marked = [box for row in rows[:MOST_BOXES] for box in self._marked(row, index)]
        boxes = self._boxes(path)
        detail = rows[0].value or rows[0].message
        labels = sorted({item.label for item in self._objects(path) if item.box is None})
        if labels:
            detail = f"{shown(', '.join(labels[:4]))}: {detail}"
        if len(rows) > 1:
            detail += f" (and {len(rows) - 1} more here)"
        other = self._other(rows[0], path)
        beside = None
        if other:
            beside = shown(other), thumbnails.draw(other, self._boxes(other))
        return Example(shown(path), detail, thumbnails.draw(path, boxes, marked), beside)

    def _objects(self, path: str) -> list[RawObject]:
        """The objects of an image; none if there is no such image."""
        index = self._index.get(path)
        if index is None:
            return []
        rows = self._order[self._ends[index] : self._ends[index + 1]]
        return [self._reading.objects[row] for row in rows]

    def _boxes(self, path: str) -> list[Box]:
        return [item.box for item in self._objects(path) if item.box is not None]

    def _marked(self, row: Finding, index: int | None) -> list[Box]:
        found = self._rows.get(row.where, [])
        boxes = [item.box for item in found if item.image == index and item.box is not None]
        if boxes or CHECKS[row.check].family != "annotation":
            return boxes if CHECKS[row.check].family == "annotation" else []
        # A box that the reader refused is in the finding only.
        numbers = _numbers(row.value)
        if row.check in ("box-empty", "box-outside") and len(numbers) == 4:
            return [(numbers[0], numbers[1], numbers[2], numbers[3])]
        return []

    def _other(self, row: Finding, path: str) -> str | None:
        """Another image of the data that the finding names, for what two images have together."""
        if CHECKS[row.check].family != "split":
            return None
        for text in (row.message, row.value, row.allowed):
            words = text.split(" ")
            for start in range(len(words)):
                for end in range(start + 1, min(start + _LONGEST_NAME, len(words)) + 1):
                    name = " ".join(words[start:end])
                    for candidate in (name, name.rstrip(",;:")):
                        if candidate != path and candidate in self._index:
                            return candidate
        return None


def pictures(
    chosen: Mapping[tuple[str, str], list[list[Finding]]],
    examples: Examples,
    thumbnails: Thumbnails,
) -> dict[tuple[str, str], list[Example]]:
    """Examples of all groups of findings: the first of each, then the second of each, and so on.

    In this order every check has pictures, even if the limits of `thumbnails` are reached.

    Args:
        chosen: for each group its images, each with its findings.
        examples: of the same data.
        thumbnails: draws them.
    """
    drawn: dict[tuple[str, str], list[Example]] = {group: [] for group in chosen}
    for place in range(max(map(len, chosen.values()), default=0)):
        for group, images in chosen.items():
            if place < len(images):
                drawn[group].append(examples.draw(thumbnails, images[place]))
    # A row of nothing but empty frames says nothing.
    return {
        group: found if any(item.picture for item in found) else []
        for group, found in drawn.items()
    }


def _badness(worse: Callable[[list[float]], float], item: Finding) -> float:
    try:
        value = worse(_numbers(item.value))
    except (IndexError, ValueError, ZeroDivisionError, OverflowError):
        return -math.inf  # no number, or not those that the check has
    return value if not math.isnan(value) else -math.inf


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text[:_VALUE])]
