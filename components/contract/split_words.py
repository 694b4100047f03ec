"""Which split the name of an annotation file tells, and where the images of a split may lie."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from components.contract.reading import SPLIT_NAMES

ROBOFLOW = "_annotations.coco.json"  # named alike in every split: the folder tells which


def split_word(name: str) -> str | None:
    """The word in an annotation file's name (or its folder's, for Roboflow) that tells the split.

    Args:
        name: of the file, relative to the data root: `annotations/instances_val2017.json`.

    Returns:
        The word as it stands there, such as `val2017`; None if there is none.
    """
    path = PurePosixPath(name)
    text = path.parent.name if path.name == ROBOFLOW else path.stem
    for word in re.split(r"[^a-zA-Z0-9]+", text):
        if split_of(word):
            return word
    return None


def table_word(name: str) -> str | None:
    """As `split_word`, of a CSV file; where its own name has none, its folder's counts."""
    return split_word(name) or split_word(PurePosixPath(name).parent.as_posix())


def split_of(word: str | None) -> str | None:
    """The split that a word such as `val2017` stands for: `train`, `val`, `test` or None."""
    return SPLIT_NAMES.get(word.rstrip("0123456789").lower()) if word else None


def image_folders(word: str | None, split: str | None, beside: str) -> list[str]:
    """Folders, relative to the root, in which an annotation file's images are looked up, in order.

    Args:
        word: that tells the split in the file's name; see `split_word`.
        split: of the images.
        beside: folder of the annotation file, relative to the root; "" is the root.
    """
    words = [word] if word else []
    words += [other for other, name in SPLIT_NAMES.items() if name == split]
    names = [folder for other in words for folder in (other, f"images/{other}")]
    return list(dict.fromkeys([*names, "images", "", beside]))
