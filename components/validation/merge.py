"""The current data and a batch as one folder, built beside the current data.

Existing files are linked, not copied, so that a version costs no space; new ones are copied. What
came out is read and decoded again, and must hold what both held, no more and no less.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract import coco_reader, folder_reader
from components.contract.paths import resolve_inside
from components.contract.reading import SPLIT_NAMES, RawImage, Reading
from components.errors import DataError
from components.files import read_json, write_text
from components.validation.incoming import Verdict, contents
from components.validation.pixel_pass import ImageFacts
from components.validation.run import Result

_LONGEST_NAME = 255  # bytes


def build_merged(draft: Path, current: Result, verdict: Verdict) -> dict[str, str]:
    """Write the current data and the new images of a batch to the folder `draft`.

    Args:
        draft: does not exist yet; on the file system of the current data, or all is copied.
        current: validation of the current data.
        verdict: on the batch; without errors.

    Returns:
        Where each new image went: path in the batch, and path in the data.

    Raises:
        DataError: the current data is in a format that cannot be added to, or the splits of the
            two do not fit.
    """
    reading = current.reading
    adders = {"folder": _add_to_folders, "coco": _add_to_coco}
    if reading.format not in adders or reading.multi_label:
        what = f"{reading.format}, several labels an image" if reading.multi_label else None
        raise DataError(
            f"base.data = {reading.root}: data of the format {what or reading.format} cannot be "
            "added to; --merge works for a folder per class and for COCO JSON. Add the batch by "
            "hand, or write the data out in one of these"
        )
    _check_splits(reading, verdict)
    shutil.copytree(reading.root, draft, symlinks=True, copy_function=_link_or_copy)
    return adders[reading.format](draft, current, verdict)


def check_merged(merged: Result, current: Result, verdict: Verdict) -> None:
    """Compare what was built with what should have been.

    Raises:
        DataError: the merged data has errors, or its content is not that of the data and the new
            images together.
    """
    errors = [item for item in merged.findings if item.severity == "error"]
    if merged.dataset is None:
        lines = "\n".join(f"  {item}" for item in errors[:5])
        raise DataError(f"merged, the data has {len(errors)} errors\n{lines}")
    wanted = _content(current.reading, current.facts, range(len(current.facts)))
    wanted.update(_content(verdict.reading, verdict.facts, verdict.new))
    found = _content(merged.reading, merged.facts, range(len(merged.facts)))
    if found != wanted:
        lost, more = (wanted - found).total(), (found - wanted).total()
        raise DataError(
            f"merged, the data is not the sum of its parts: {lost} images lost or described "
            f"differently, {more} unexpected. Did a file change meanwhile? Does the batch bring "
            f"groups or columns that the format {current.reading.format} cannot hold?"
        )
    if merged.reading.classes != current.reading.classes:
        raise DataError(f"merged, the classes are {', '.join(merged.reading.classes)}")


def _content(reading: Reading, facts: list[ImageFacts], kept: Iterable[int]) -> Counter[Any]:
    """What images are, whatever their names: content, labels, group, columns.

    Splits cannot be compared: a batch without them goes where the data wants it.
    """
    labels = contents(reading)
    found: Counter[Any] = Counter()
    for index in kept:
        image = reading.images[index]
        columns = [item for item in (image.columns or {}).items() if item[1] is not None]
        found[facts[index].sha256, labels[index], image.group, tuple(sorted(columns))] += 1
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


def _split_of(image: RawImage, reading: Reading) -> str | None:
    """The split of the data that a new image goes to."""
    return image.split or ("train" if reading.splits else None)


def _add_to_folders(draft: Path, current: Result, verdict: Verdict) -> dict[str, str]:
    levels = {split: name for name, split in folder_reader.split_folders(draft).items()}
    labels = {item.image: item.label for item in verdict.reading.objects}
    taken: dict[Path, set[str]] = {}
    added: dict[str, str] = {}
    for index in verdict.new:
        image, fact = verdict.reading.images[index], verdict.facts[index]
        if index not in labels:
            raise DataError(f"{image.path}: has no label, so there is no folder to put it into")
        folder = draft / levels.get(_split_of(image, current.reading) or "", "") / labels[index]
        folder.mkdir(exist_ok=True)  # a class that this split lacked
        if folder not in taken:
            taken[folder] = {_key(entry.name) for entry in folder.iterdir()}
        name = _free_name(image.path, fact.sha256, taken[folder])
        _copy_image(verdict.reading, image, folder / name)
        added[image.path] = (folder / name).relative_to(draft).as_posix()
    return added


def _add_to_coco(draft: Path, current: Result, verdict: Verdict) -> dict[str, str]:
    files = {file: read_json(file) for file in coco_reader.find_files(draft)}
    targets: dict[str | None, Path] = {}
    for file in files:
        word = coco_reader.split_word(file.relative_to(draft).as_posix())
        split = SPLIT_NAMES[word.rstrip("0123456789").lower()] if word else None
        targets.setdefault(split, file)
    next_image, next_box = (
        1
        + max((row["id"] for rows in files.values() for row in rows[key] if "id" in row), default=0)
        for key in ("images", "annotations")
    )
    # A name that is nowhere yet is found in one folder only, whatever the order of the search.
    taken = {_key(name) for _, _, names in os.walk(draft) for name in names}
    places: dict[str | None, tuple[str, str]] = {}
    boxes: dict[int, list[Any]] = {}
    for item in verdict.reading.objects:
        boxes.setdefault(item.image, []).append(item)
    added: dict[str, str] = {}
    for index in verdict.new:
        image, fact = verdict.reading.images[index], verdict.facts[index]
        split = _split_of(image, current.reading)
        content = files[targets[split]]
        if split not in places:
            places[split] = _place(current.reading, split, content)
        folder, prefix = places[split]
        name = _free_name(image.path, fact.sha256, taken)
        path = str(PurePosixPath(folder) / name)
        _copy_image(verdict.reading, image, draft / path)
        added[image.path] = path
        row = dict(image.columns or {}) | ({} if image.group is None else {"group": image.group})
        row |= {"id": next_image, "file_name": f"{prefix}{name}"}
        content["images"].append(row | {"width": fact.width, "height": fact.height})
        ids = {category["name"]: category["id"] for category in content["categories"]}
        for item in boxes.get(index, []):
            content["annotations"].append(
                {
                    "id": next_box,
                    "image_id": next_image,
                    "category_id": ids[item.label],
                    "bbox": list(item.box),
                    "area": item.box[2] * item.box[3] if item.area is None else item.area,
                    "iscrowd": int(item.is_crowd),
                    "segmentation": json.loads(item.segmentation or "[]"),
                }
            )
            next_box += 1
        next_image += 1
    for split in places:
        # Renamed over the link, so that the file of the current data stays as it is.
        write_text(targets[split], json.dumps(files[targets[split]], allow_nan=False) + "\n")
    return added


def _place(reading: Reading, split: str | None, content: dict[str, Any]) -> tuple[str, str]:
    """Folder of a split's images, relative to the root, and how `file_name` says it."""
    paths = {image.path for image in reading.images if image.split == split}
    for row in content["images"]:
        name = str(PurePosixPath(row["file_name"]))
        for path in (path for path in paths if path == name or path.endswith(f"/{name}")):
            inner = str(PurePosixPath(name).parent)
            return str(PurePosixPath(path).parent), "" if inner == "." else f"{inner}/"
    raise DataError(f"the split {split or 'without a name'} has no image beside which to put more")


def _free_name(path: str, sha256: str, taken: set[str]) -> str:
    """A file name that no other equals, even where case does not count; enters it in `taken`."""
    plain = PurePosixPath(path)
    # A leading dot hides a file from the readers.
    name = plain.name.lstrip(".")
    for candidate in (
        name,
        f"{PurePosixPath(name).stem}-{sha256[:12]}{plain.suffix}",
        f"{sha256}{plain.suffix}",
    ):
        if len(candidate.encode()) <= _LONGEST_NAME and _key(candidate) not in taken:
            taken.add(_key(candidate))
            return candidate
    raise DataError(f"{path}: its content is there already, as {sha256}{plain.suffix}")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _copy_image(reading: Reading, image: RawImage, target: Path) -> None:
    shutil.copyfile(resolve_inside(reading.root, image.path), target)


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the same file where that is possible, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
