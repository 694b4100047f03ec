"""Images that look the same, in one split or in two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from components.contract.findings import Finding, finding
from components.contract.near_duplicates import close_blocks
from components.contract.reading import Reading
from components.validation.pixel_pass import FLAT, ImageFacts


def check_near_duplicates(
    reading: Reading, facts: Sequence[ImageFacts], bits: int
) -> Iterator[Finding]:
    """Images that look like an earlier one, at most one finding for each image.

    Exact copies are another check's. Flat images all look alike and are left out; an upright and a
    wide image are not compared.

    Args:
        reading: names the images and their splits.
        facts: of each image of `reading.images`, in the same order.
        bits: most bits by which the hashes of images that look the same differ.
    """
    for wide in (True, False):
        seen: set[tuple[str, str | None]] = set()
        members = []
        for index, fact in enumerate(facts):
            content = fact.sha256, reading.images[index].split
            if fact.fault or fact.contrast < FLAT or (fact.width >= fact.height) != wide:
                continue
            if content not in seen:
                seen.add(content)
                members.append(index)
        if len(members) > 1:
            yield from _check_members(reading, facts, members, bits)


def _check_members(
    reading: Reading, facts: Sequence[ImageFacts], members: list[int], bits: int
) -> Iterator[Finding]:
    hashes = np.array([int(facts[index].phash, 16) for index in members], dtype=np.uint64)
    splits = [reading.images[index].split for index in members]
    names = sorted(set(splits), key=str)
    split = np.array(list(map(names.index, splits)))
    distinct, inverse = np.unique(hashes, return_inverse=True)
    none = len(members)
    # The first member with each hash, and with each hash that is close, in each split.
    first = np.full((len(distinct), len(names)), none)
    np.minimum.at(first, (inverse, split), np.arange(none))
    nearest = first.copy()
    for block in close_blocks(distinct, bits):
        np.minimum.at(nearest, block[:, 0], first[block[:, 1]])
        np.minimum.at(nearest, block[:, 1], first[block[:, 0]])
    places = np.arange(none)
    candidates = nearest[inverse]
    same = candidates[places, split]
    candidates[places, split] = none
    across = candidates.min(axis=1)
    for place in np.flatnonzero(np.minimum(same, across) < places).tolist():
        index = members[place]
        other = members[across[place]] if across[place] < place else None
        if other is not None and facts[other].sha256 != facts[index].sha256:
            check, partner = "near-duplicate-across-splits", other
        elif same[place] < place:
            check, partner = "near-duplicate", members[same[place]]
        else:
            continue
        one, two = reading.images[partner], reading.images[index]
        yield finding(
            check,
            two.path,
            f"looks like {one.path}",
            f"{two.split} and {one.split}" if partner == other else "",
            image=two.path,
        )
