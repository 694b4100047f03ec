"""The current data and a batch as one folder, built beside the current data.

Existing files are linked, not copied, so that a version costs no space; new ones are copied. The
batch may be in another format: its annotations are written in that of the data. What came out is
read again, the new images are decoded again, and it must hold what both held, no more and no less:
so what a format cannot hold (boxes of crowds in YOLO, groups in folders) is a reason to refuse.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contract.reading import Reading
from components.errors import DataError
from components.validation.incoming import Content, Verdict, alike, contents
from components.validation.merge_files import add_to_folders, add_to_voc, add_to_yolo
from components.validation.merge_names import Addition
from components.validation.merge_tables import add_to_coco, add_to_csv
from components.validation.pixel_pass import ImageFacts
from components.validation.run import Result

_ADDERS = {
    "folder": add_to_folders,
    "csv": add_to_csv,
    "coco": add_to_coco,
    "voc": add_to_voc,
    "yolo": add_to_yolo,
}


def build_merged(draft: Path, current: Result, verdict: Verdict) -> dict[str, str]:
    """Write the current data and the new images of a batch to the folder `draft`.

    Args:
        draft: does not exist yet; on the file system of the current data, or all is copied.
        current: validation of the current data.
        verdict: on the batch; without errors.

    Returns:
        Where each new image went: path in the batch, and path in the data.

    Raises:
        DataError: the splits of the two do not fit, or the data's format cannot take an image.
    """
    _check_splits(current.reading, verdict)
    shutil.copytree(current.reading.root, draft, symlinks=True, copy_function=_link_or_copy)
    addition = Addition(draft, current, verdict)
    _ADDERS[current.reading.format](addition)
    return addition.added


@dataclass(frozen=True)
class _Described:
    """What an image is, whatever its name.

    Splits cannot be compared: a batch without them goes where the data wants it.
    """

    path: str
    content: Content
    group: str | None
    columns: dict[str, Any]

    def difference(self, other: _Described) -> str:
        """What differs; empty if nothing does."""
        if not alike(self.content, other.content, masks=True):
            return "its labels, boxes or segmentations differ"
        if self.group != other.group:
            return f"its group is {self.group or 'none'}, and then {other.group or 'none'}"
        for name in sorted({*self.columns, *other.columns}):
            one, two = self.columns.get(name), other.columns.get(name)
            if (one, type(one)) != (two, type(two)):
                return f"its column {name} is {one!r}, and then {two!r}"
        return ""


def check_merged(merged: Result, current: Result, verdict: Verdict) -> None:
    """Compare what was built with what should have been.

    Raises:
        DataError: the merged data has errors, or its content is not that of the data and the new
            images together.
    """
    if merged.num_errors:
        lines = "\n".join(f"  {item}" for item in merged.stopping[:5])
        raise DataError(f"merged, the data has {merged.num_errors} errors\n{lines}")
    wanted = _described(current.reading, current.facts, range(len(current.facts)))
    for content, images in _described(verdict.reading, verdict.facts, verdict.new).items():
        wanted[content] += images
    found = _described(merged.reading, merged.facts, range(len(merged.facts)))
    lost: list[tuple[_Described, str]] = []
    num_more = 0
    for content in {*wanted, *found}:
        rest = list(found[content])
        for image in wanted[content]:
            reasons = [image.difference(other) for other in rest]
            if "" in reasons:
                del rest[reasons.index("")]
            else:
                lost.append((image, next(iter(reasons), "it is not there")))
        num_more += len(rest)
    if lost or num_more:
        such = "".join(f"\n  {image.path}: {why}" for image, why in lost[:5])
        raise DataError(
            f"merged, the data is not the sum of its parts: {len(lost)} images lost or described "
            f"differently, {num_more} unexpected. Did a file change meanwhile? Or does the batch "
            f"bring what the format {current.reading.format} cannot hold?{such}"
        )
    if merged.reading.classes != current.reading.classes:
        raise DataError(f"merged, the classes are {', '.join(merged.reading.classes)}")


def _described(
    reading: Reading, facts: list[ImageFacts], kept: Iterable[int]
) -> defaultdict[str, list[_Described]]:
    """Images by their content."""
    labels = contents(reading)
    found: defaultdict[str, list[_Described]] = defaultdict(list)
    for index in kept:
        image = reading.images[index]
        columns = {name: v for name, v in (image.columns or {}).items() if v is not None}
        item = _Described(image.path, labels[index], image.group, columns)
        found[facts[index].sha256].append(item)
    return found


def _check_splits(reading: Reading, verdict: Verdict) -> None:
    brought = {verdict.reading.images[index].split for index in verdict.new} - {None}
    more = sorted(str(split) for split in brought - {image.split for image in reading.images})
    if more:
        raise DataError(
            f"the batch brings the split {', '.join(more)}, which the data does not have; "
            "give the batch without splits"
            + (", and preprocess will draw them" if not reading.splits else "")
        )


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the same file where that is possible, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
