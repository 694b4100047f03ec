"""Checks of splits: what they hold, and what must not be in two of them.

Where two splits share something, the images of the less precious split can be left out: `test`
stays, then `val`, so that what a model is measured on does not change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from components.contract.accepted_splits import AcceptedSplits
from components.contract.findings import Finding, finding
from components.contract.reading import Reading
from components.contract.split_links import linked_keys, near_duplicate_links
from components.validation.ledger import Shared
from components.validation.object_columns import ObjectColumns
from components.validation.pixel_pass import ImageFacts

_SHARES_APART = 0.25  # total variation distance of class shares
_ENOUGH = 50  # labels in a split before its shares mean something
_PRECIOUS = ("train", "val", "test")  # from the first to leave an image out of, to the last


def check_splits(reading: Reading, columns: ObjectColumns) -> Iterator[Finding]:
    """Splits that are missing, empty, or hold classes in ways that training cannot work with."""
    where = reading.root.name
    sizes = Counter(image.split for image in reading.images)
    for split in sorted(reading.splits):
        if not sizes[split]:
            yield finding("split-empty", where, "a split without a usable image", split)
    if not reading.splits or reading.splits == {"train"}:
        return  # preprocess will draw the splits
    for split in ("train", "val"):
        if split not in reading.splits:
            yield finding(
                "split-missing",
                where,
                f"the data brings its splits, but no {split}",
                ", ".join(sorted(reading.splits)),
                "train and val, perhaps test; or none, to have them drawn",
            )
    if "train" not in reading.splits:
        return  # that alone is to be told
    unsplit, *labels = columns.labels_per_split([None, *_PRECIOUS])
    train = labels[0] + unsplit  # what has no split, where others have, is for training
    for split, numbers in zip(_PRECIOUS[1:], labels[1:], strict=True):
        for place in np.flatnonzero((numbers > 0) & (train == 0)):
            name = reading.classes[place]
            yield finding("class-not-in-train", split, "a class that the train split lacks", name)
        if min(numbers.sum(), train.sum()) >= _ENOUGH:
            apart = np.abs(numbers / numbers.sum() - train / train.sum()).sum() / 2
            if apart > _SHARES_APART:
                yield finding(
                    "class-shares-differ",
                    split,
                    "the class shares differ much from those of train",
                    f"total variation {apart:.2f}",
                    f"at most {_SHARES_APART}",
                )


def check_groups(reading: Reading) -> Iterator[Shared]:
    """Groups (video, patient, product) that are in two splits."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(reading.images):
        if image.group is not None:
            groups[image.group].append(index)
    for group, members in groups.items():
        kept, others = _apart(reading, members)
        if not others:
            continue
        one, two = reading.images[kept[0]], reading.images[others[0]]
        sizes = Counter(_split(reading, index) for index in members)
        yield Shared(
            finding(
                "group-across-splits",
                two.path,
                f"its group is also in {_split(reading, kept[0])}, with {one.path}: a split would "
                "be measured on what another knows",
                f"{group}: " + ", ".join(f"{sizes[name]} in {name}" for name in sorted(sizes)),
                "one split",
                image=two.path,
            ),
            [reading.images[index].path for index in others],
        )


def check_copies(
    reading: Reading, facts: Sequence[ImageFacts], columns: ObjectColumns
) -> Iterator[Finding]:
    """The same content more than once: in two splits, or with different labels, or just so."""
    contents: dict[str, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if not fact.fault:
            contents[fact.sha256].append(index)
    copies = {index for members in contents.values() if len(members) > 1 for index in members}
    found: dict[int, set[str]] = defaultdict(set)
    for row in np.flatnonzero(np.isin(columns.image, list(copies))):
        item = reading.objects[row]
        found[item.image].add(item.label)
    labels = {index: ", ".join(sorted(found[index])) or "none" for index in copies}
    for members in contents.values():
        if len(members) == 1:
            continue
        kept, others = _apart(reading, members)
        for index in others:
            yield _across_splits(reading, index, kept[0], labels)
        for split in _PRECIOUS:
            same = [index for index in members if _split(reading, index) == split]
            for index in same[1:]:
                yield _within_split(reading, index, same[0], labels)


def check_accepted(
    reading: Reading, facts: Sequence[ImageFacts], accepted: AcceptedSplits, bits: int | None
) -> Iterator[Finding]:
    """Images that keep, or lose, the split in which they were accepted, though they should not.

    Args:
        reading: what the reader found.
        facts: of each image of `reading.images`, in the same order.
        accepted: the splits that were drawn and accepted.
        bits: most bits by which images differ that look the same, if these are to be in one split.
    """
    usable = [index for index, fact in enumerate(facts) if not fact.fault]
    held = [accepted.get(facts[index].sha256) for index in usable]
    images = [reading.images[index] for index in usable]
    if reading.splits - {"train"}:
        for image, split in zip(images, held, strict=True):
            now = image.split or "train"
            if split and split != now:
                message = f"was accepted in {split}, and the data gives it to {now} now"
                yield finding("split-changed", image.path, message, now, split, image=image.path)
        return
    contents = [facts[index].sha256 for index in usable]
    links = [] if bits is None else near_duplicate_links([facts[i].phash for i in usable], bits)
    together: dict[str, dict[str, str]] = defaultdict(dict)  # first path by split, by leader
    leaders = linked_keys(contents, [image.group for image in images], links)
    for leader, image, split in zip(leaders, images, held, strict=True):
        if split:
            together[leader].setdefault(split, image.path)
    for paths in together.values():
        if len(paths) > 1:
            ordered = sorted(paths, key=_PRECIOUS.index)
            first, last = ordered[0], ordered[-1]
            yield finding(
                "linked-across-splits",
                paths[first],
                f"belongs together with {paths[last]}, by its group, a copy or its looks; both "
                "were accepted, so neither moves",
                f"{first} and {last}",
                "one split",
                image=paths[first],
            )


def _across_splits(reading: Reading, index: int, kept: int, labels: dict[int, str]) -> Finding:
    one, two = reading.images[index], reading.images[kept]
    splits = f"{_split(reading, kept)} and {_split(reading, index)}"
    if labels[index] != labels[kept]:
        return finding(
            "contradictory-across-splits",
            two.path,
            f"the same content as {one.path}, labelled differently in {splits}",
            f"{labels[kept]} and {labels[index]}",
            "one split and the same labels",
            image=one.path,
        )
    return finding(
        "duplicate-across-splits",
        two.path,
        f"the same content as {one.path}: a split would be measured on what another knows",
        splits,
        "one split",
        image=one.path,
    )


def _within_split(reading: Reading, index: int, first: int, labels: dict[int, str]) -> Finding:
    one, two = reading.images[first].path, reading.images[index].path
    if labels[first] != labels[index]:
        message = f"the same content as {one} with other labels"
        value = f"{labels[index]} and {labels[first]}"
        return finding("contradictory-labels", two, message, value, image=two)
    return finding("duplicate-content", two, f"the same content as {one}", image=two)


def _split(reading: Reading, index: int) -> str:
    """The split an image will be in: what has none, where others have, is for training."""
    return reading.images[index].split or "train"


def _apart(reading: Reading, members: Sequence[int]) -> tuple[list[int], list[int]]:
    """Images that share something: those in the most precious of their splits, and the others."""
    last = max(_PRECIOUS.index(_split(reading, index)) for index in members)
    kept = [index for index in members if _split(reading, index) == _PRECIOUS[last]]
    others = [index for index in members if _split(reading, index) != _PRECIOUS[last]]
    return kept, others
