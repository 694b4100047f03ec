"""Which split an image belongs to: by a hash at first, and for good once it is accepted.

An image's key is its group, or else its content. The key's hash, a number in [0, 1), decides:
the lowest numbers are `test`, the next `val`, the rest `train`. Nothing else about the data set is
looked at, so an image keeps its split whatever is added or removed.

Why no quotas. A rule that never moves an image gives it, in every data set, the split that it
would have in a data set of itself alone. It hence cannot know how many images of a class are
already in `val`: class shares are met on average, not exactly, and a class may lack a split.
Exact shares would need images to move. What `stratify` does instead is the least that a usable
measurement needs: where the hash leaves a class of at least three keys without a `train`, `val` or
`test` image (of two keys: `train` or `val`), one of its keys is lent to that split, and returns
when the class gets one there by hash.

Links. Copies of an image, and with `group_near_duplicates` images that look the same, go to one
split together with the groups they belong to; flat images look like no other. Keys so linked share
the hash of one of them.

Acceptance. Lending and links can move an image when the data changes, until it is accepted
(`python -m tasks.accept`). From then on it keeps the split that it had, whatever is added, removed,
linked, or set in the parameters. What is new goes with the accepted images that it is linked to; if
these lie in several splits none of them moves, and what is new goes to `train` if one of them is
there, else to `val`: so nothing more is measured on that training has seen. Only keys without an
accepted image are lent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

import pandas as pd

from components.contract.accepted_splits import AcceptedSplits
from components.contract.split_links import linked_keys, near_duplicate_links, place
from components.data.settings import PreprocessSettings
from components.errors import DataError


def assign_splits(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    settings: PreprocessSettings,
    near_duplicates: Iterable[tuple[int, int]] = (),
    accepted: AcceptedSplits | None = None,
) -> tuple[pd.Series, str]:
    """The split of every image.

    Splits that the data brings are respected. Where it brings none, or only `train`, they are drawn
    by the rule of this module.

    Args:
        images: the canonical table; `image_id`, `sha256`, `group` and `split` are read.
        objects: the canonical table; `image_id` and `label` are read, to stratify.
        settings: `val_fraction`, `test_fraction`, `stratify`.
        near_duplicates: pairs of positions in `images` that must share a drawn split.
        accepted: drawn splits that stay as they are.

    Returns:
        Split by row, with the index of `images`; and how it came about: `given` or `hash`.

    Raises:
        DataError: a split that training needs is empty.
    """
    given = images["split"]
    if given.notna().any() and set(given.dropna()) != {"train"}:
        splits, source = given.fillna("train"), "given"
    else:
        splits = _drawn(images, objects, settings, near_duplicates, accepted or AcceptedSplits())
        source = "hash"
    remedy = "give more data, or raise preprocess.val_fraction"
    if source == "given":
        remedy = "give it images, or give the data without splits, to have them drawn"
    for split in ("train", "val"):
        if not (splits == split).any():
            raise DataError(
                f"the {split} split is empty ({len(images)} images, splits from {source}): "
                f"training needs images to learn from and others to be measured on; {remedy}"
            )
    return splits.astype(str), source


def asked_links(
    images: pd.DataFrame, settings: PreprocessSettings, bits: int
) -> list[tuple[int, int]]:
    """Pairs of positions in `images` that look the same, if these are to share a drawn split.

    Args:
        images: the canonical table; `phash` is read.
        settings: `group_near_duplicates`.
        bits: most bits by which the hashes of images that look the same differ.
    """
    if not settings.group_near_duplicates:
        return []
    return near_duplicate_links(images["phash"].tolist(), bits)


def _drawn(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    settings: PreprocessSettings,
    near_duplicates: Iterable[tuple[int, int]],
    accepted: AcceptedSplits,
) -> pd.Series:
    groups = [None if pd.isna(group) else group for group in images["group"]]
    contents = images["sha256"].tolist()
    leaders = linked_keys(contents, groups, near_duplicates)
    held = [accepted.get(content) for content in contents]
    # Of accepted images that are linked and lie in several splits, each split is a key of its own.
    keys = _with_accepted(leaders, held)
    drawn = {key: split for key, split in keys if split}
    fixed = set(drawn)
    places = {key: place(key) for key, split in keys if not split}
    for key, number in places.items():
        drawn[key] = _by_place(number, settings.val_fraction, settings.test_fraction)
    names = [key for key, _ in keys]
    if settings.stratify:
        wanted = [("train", 1.0), ("val", settings.val_fraction)]
        wanted.append(("test", settings.test_fraction))
        classes = _classes_of_keys(images, objects, names)
        drawn = lend(drawn, places, classes, [name for name, share in wanted if share > 0], fixed)
    return pd.Series([drawn[key] for key in names], images.index)


def _with_accepted(leaders: list[str], held: list[str | None]) -> list[tuple[str, str | None]]:
    """Key of each image, and the split that acceptance gives it; None where it gives none.

    Args:
        leaders: of each image; see `linked_keys`.
        held: split of each image that is accepted.
    """
    by_leader: dict[str, set[str]] = defaultdict(set)
    for leader, split in zip(leaders, held, strict=True):
        if split:
            by_leader[leader].add(split)
    keys: list[tuple[str, str | None]] = []
    for leader, split in zip(leaders, held, strict=True):
        if leader not in by_leader:
            keys.append((leader, None))
            continue
        # What is new among images in several splits goes where it is measured on least.
        chosen = split or min(by_leader[leader], key=("train", "val", "test").index)
        keys.append((f"{leader} in {chosen}", chosen))
    return keys


def _by_place(place: float, val_fraction: float, test_fraction: float) -> str:
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


def lend(
    drawn: dict[str, str],
    places: dict[str, float],
    classes: dict[str, set[str]],
    wanted: list[str],
    fixed: Collection[str] = (),
) -> dict[str, str]:
    """Give each class a key in every split, where it has enough keys; the rarest class first.

    A class that lacks a split gets, of its keys in a split where it has more than one, that with
    the lowest place; a key that a class before it would then lack is left where it is.

    Args:
        drawn: split by key.
        places: hash by key, in [0, 1); of fixed keys none is needed.
        classes: keys by class.
        wanted: splits that are asked for, the most needed first.
        fixed: keys that stay where they are.

    Returns:
        Split by key.
    """
    splits = dict(drawn)
    members: dict[str, list[str]] = defaultdict(list)
    for name, keys in classes.items():
        for key in keys:
            members[key].append(name)
    counts = {name: Counter(splits[key] for key in keys) for name, keys in classes.items()}
    served: set[str] = set()
    for name in sorted(classes, key=lambda name: (len(classes[name]), name)):
        needed = wanted[: len(classes[name])]
        served.add(name)

        def is_free(key: str, name: str = name, needed: list[str] = needed) -> bool:
            held = splits[key]
            if key in fixed or (held in needed and counts[name][held] == 1):
                return False
            # A class whose turn comes later can still be given another.
            robbed = (other for other in members[key] if counts[other][held] == 1)
            return all(other == name or other not in served for other in robbed)

        for split in needed:
            free = [] if counts[name][split] else [key for key in classes[name] if is_free(key)]
            if not free:
                continue
            key = min(free, key=lambda key: (splits[key] != "train", places[key], key))
            for other in members[key]:
                counts[other][splits[key]] -= 1
                counts[other][split] += 1
            splits[key] = split
    return splits


def _classes_of_keys(
    images: pd.DataFrame, objects: pd.DataFrame, leaders: list[str]
) -> dict[str, set[str]]:
    """Keys by class name."""
    by_id = dict(zip(images["image_id"], leaders, strict=True))
    seen = objects[["image_id", "label"]].drop_duplicates()
    classes: dict[str, set[str]] = defaultdict(set)
    for image_id, label in zip(seen["image_id"], seen["label"], strict=True):
        classes[label].add(by_id[image_id])
    return classes
