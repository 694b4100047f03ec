"""Which split an image belongs to, decided by a hash so that it does not change as data grows.

An image's key is its group, or else its content. The key's hash, a number in [0, 1), decides:
the lowest numbers are `test`, the next `val`, the rest `train`. Nothing else about the data set is
looked at, so an image keeps its split whatever is added or removed.

Why no quotas. A rule that never moves an image gives it, in every data set, the split that it
would have in a data set of itself alone. It hence cannot know how many images of a class are
already in `val`: class shares are met on average, not exactly, and a class may lack a split.
Exact shares would need images to move. What `stratify` does instead is the least that a usable
measurement needs: where the hash leaves a class of at least three keys without a `train`, `val` or
`test` image (of two keys: `train` or `val`), one of its keys is lent to that split, and returns
when the class gets one there by hash. Only images of classes so lacking, or so lent from, can hence
ever move, and at most one key a class and split. `stratify: false` moves none.

Links. Copies of an image, and with `group_near_duplicates` images that look the same, go to one
split together with the groups they belong to. Keys so linked share the hash of one of them; a new
link can move what it joins, as no two rules "never move" and "stay together" can both hold then.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

import pandas as pd

from components.data.settings import PreprocessSettings
from components.errors import DataError

_SALT = "timmflow split 1"  # changing it reshuffles every data set there is


def assign_splits(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    settings: PreprocessSettings,
    near_duplicates: Iterable[tuple[int, int]] = (),
) -> tuple[pd.Series, str]:
    """The split of every image.

    Splits that the data brings are respected. Where it brings none, or only `train`, they are drawn
    by the rule of this module.

    Args:
        images: the canonical table; `image_id`, `sha256`, `group` and `split` are read.
        objects: the canonical table; `image_id` and `label` are read, to stratify.
        settings: `val_fraction`, `test_fraction`, `stratify`.
        near_duplicates: pairs of positions in `images` that must share a drawn split.

    Returns:
        Split by row, with the index of `images`; and how it came about: `given` or `hash`.

    Raises:
        DataError: a split that training needs is empty.
    """
    given = images["split"]
    if given.notna().any() and set(given.dropna()) != {"train"}:
        splits, source = given.fillna("train"), "given"
    else:
        leaders = _linked_keys(images, near_duplicates)
        places = {leader: _place(leader) for leader in set(leaders)}
        drawn = {
            leader: _by_place(place, settings.val_fraction, settings.test_fraction)
            for leader, place in places.items()
        }
        if settings.stratify:
            wanted = [("train", 1.0), ("val", settings.val_fraction)]
            wanted.append(("test", settings.test_fraction))
            classes = _classes_of_keys(images, objects, leaders)
            drawn = lend(drawn, places, classes, [name for name, share in wanted if share > 0])
        splits, source = pd.Series([drawn[key] for key in leaders], images.index), "hash"
    for split in ("train", "val"):
        if not (splits == split).any():
            raise DataError(
                f"the {split} split is empty ({len(images)} images, splits from {source}): "
                "training needs images to learn from and others to be measured on; give more "
                "data, or raise preprocess.val_fraction"
            )
    return splits.astype(str), source


def _by_place(place: float, val_fraction: float, test_fraction: float) -> str:
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


def lend(
    drawn: dict[str, str],
    places: dict[str, float],
    classes: dict[str, set[str]],
    wanted: list[str],
) -> dict[str, str]:
    """Give each class a key in every split, where it has enough keys; the rarest class first.

    A class that lacks a split gets, of its keys in a split where it has more than one, that with
    the lowest place; a key that a class before it would then lack is left where it is.

    Args:
        drawn: split by key.
        places: hash by key, in [0, 1).
        classes: keys by class.
        wanted: splits that are asked for, the most needed first.

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
            if held in needed and counts[name][held] == 1:
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


def _linked_keys(images: pd.DataFrame, pairs: Iterable[tuple[int, int]]) -> list[str]:
    """For each image the key that decides for it: one of those it is linked to, or its own."""
    contents = [f"content {content}" for content in images["sha256"]]
    groups = images["group"]
    own = [
        content if missing else f"group {group}"
        for content, group, missing in zip(contents, groups, groups.isna(), strict=True)
    ]
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]
            key = parent
        return key

    def join(one: str, other: str) -> None:
        # The leader is chosen by a hash of its own: by the place itself, links would favour `test`.
        first, second = sorted((root(one), root(other)), key=_rank)
        parents[second] = first

    holder: dict[str, str] = {}
    for content, key in zip(contents, own, strict=True):
        if holder.setdefault(content, key) != key:
            join(holder[content], key)
    for one, other in pairs:
        join(own[one], own[other])
    return [root(key) for key in own]


def _digest(key: str) -> bytes:
    _, name = key.split(" ", 1)
    return hashlib.sha256(f"{_SALT}:{name}".encode()).digest()


def _place(key: str) -> float:
    return int.from_bytes(_digest(key)[:8], "big") / 2**64


def _rank(key: str) -> tuple[bytes, str]:
    return _digest(key)[8:16], key
