"""Which split an image belongs to, decided by a hash so that it never changes as data grows."""

from __future__ import annotations

import hashlib

import pandas as pd

from components.errors import DataError

_SALT = "timmflow split 1"  # changing it reshuffles every data set there is


def assign_splits(
    images: pd.DataFrame, val_fraction: float, test_fraction: float
) -> tuple[pd.Series, str]:
    """The split of every image.

    Splits that the data brings are respected. Where it brings none, or only `train`, the key of an
    image (its group, or else its content) is hashed to a number in [0, 1): the lowest numbers are
    `test`, the next `val`, the rest `train`. An image hence keeps its split for as long as it
    exists, and copies of it cannot straddle two splits.

    Args:
        images: the canonical table; `sha256`, `group` and `split` are read.
        val_fraction: share of images for `val`, where the data brings none.
        test_fraction: share of images for `test`, where the data brings none.

    Returns:
        Split by row, with the index of `images`; and how it came about: `given` or `hash`.

    Raises:
        DataError: a split that training needs is empty.
    """
    given = images["split"]
    if given.notna().any() and set(given.dropna()) != {"train"}:
        splits, source = given.fillna("train"), "given"
    else:
        key = images["group"].where(images["group"].notna(), images["sha256"])
        place = key.map(_unit_hash)
        splits = pd.Series("train", index=images.index)
        splits[place < test_fraction + val_fraction] = "val"
        splits[place < test_fraction] = "test"
        source = "hash"
    for split in ("train", "val"):
        if not (splits == split).any():
            raise DataError(
                f"the {split} split is empty ({len(images)} images, splits from {source}): "
                "training needs images to learn from and others to be measured on; give more "
                "data, or raise preprocess.val_fraction"
            )
    return splits.astype(str), source


def _unit_hash(key: str) -> float:
    digest = hashlib.sha256(f"{_SALT}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
