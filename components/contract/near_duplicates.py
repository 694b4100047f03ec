"""Images that look the same: pairs of 64-bit hashes that differ by a few bits.

Hashes are cut into more chunks than bits may differ, so that two that are close have some chunks in
common (M. Norouzi, A. Punjani, D. Fleet, "Fast search in Hamming space with multi-index hashing",
2012). Only hashes that share them are compared, which is near-linear in their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

FLAT_HASH = "0" * 16  # of images that show nothing: their likeness means nothing
MAX_BITS = 16  # that hashes may differ by; unrelated images differ by about 32
_FEW_BITS = 5  # up to so many one common chunk is rare enough; beyond, two are asked for
_BLOCK = 2_000_000  # pairs compared at once
# Comparisons for each hash, over all choices of chunks. Each of 100,000 unlike hashes is compared
# with about 40 others at 4 bits, with 2,000 at 10. More are needed only where nearly all images are
# nearly the same, or are made to be; then each is compared with those that follow it in order.
_COMPARISONS = 3000


def pairs_within(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Pairs of hashes that differ by at most `bits` bits.

    Equal hashes are not paired all with all: each counts for what the first of them is paired with,
    and is itself paired with the first alone.

    Args:
        hashes: [N] uint64.
        bits: 0 to `MAX_BITS`.

    Returns:
        [P, 2] int64 positions i < j, sorted.
    """
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    copies = np.stack([first[inverse], np.arange(len(hashes))], axis=1)
    found = [copies[copies[:, 0] != copies[:, 1]]]
    found += [np.sort(first[block], axis=1) for block in close_blocks(hashes[first], bits)]
    return np.unique(np.concatenate(found), axis=0)


def near_duplicate_groups(hashes: np.ndarray, bits: int) -> np.ndarray:
    """The group of each hash: those that are connected by pairs within `bits` bits.

    Args:
        hashes: [N] uint64.
        bits: 0 to `MAX_BITS`.

    Returns:
        [N] int64: the position of the first member of its group; its own where it is alone.
    """
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    parent = first.copy()  # of each distinct hash, the position of a hash of its group
    number = np.zeros(len(hashes), dtype=np.int64)
    number[first] = np.arange(len(first))
    for block in close_blocks(hashes[first], bits):
        # Both ends take the smaller root until nothing changes.
        while True:
            ends = parent[block]
            apart = ends[:, 0] != ends[:, 1]
            if not apart.any():
                break
            block, ends = block[apart], ends[apart]
            np.minimum.at(parent, number[ends.max(axis=1)], ends.min(axis=1))
            parent = _flattened(parent, number)
    return parent[inverse]


def _flattened(parent: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Each pointing to its root at once."""
    while True:
        grand = parent[number[parent]]
        if np.array_equal(grand, parent):
            return parent
        parent = grand


def close_blocks(hashes: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    """Blocks [P, 2] of pairs of distinct hashes within `bits` bits; a pair may come repeatedly."""
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits}; allowed: 0 to {MAX_BITS}")
    if bits == 0 or len(hashes) < 2:
        return
    common = 1 if bits <= _FEW_BITS else 2
    edges = np.linspace(0, 64, bits + common + 1).round().astype(int)
    masks = [(1 << int(high)) - (1 << int(low)) for low, high in pairwise(edges)]
    choices = list(combinations(masks, common))
    for chosen in choices:
        mask = np.uint64(sum(chosen))
        # Same chunks stand together; among them similar hashes are near each other.
        order = np.lexsort((hashes, hashes & mask))
        keys = (hashes & mask)[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        ends = np.repeat(np.append(starts[1:], len(keys)), np.diff(np.append(starts, len(keys))))
        place = np.arange(len(keys))
        followers = ends - place - 1
        while followers.sum() * len(choices) > _COMPARISONS * len(hashes):
            followers = np.minimum(followers, followers.max() // 2)
        total = np.concatenate([[0], np.cumsum(followers)])
        start = 0
        while total[-1] > total[start]:
            stop = int(np.searchsorted(total, total[start] + _BLOCK, side="right")) - 1
            stop = max(stop, start + 1)
            counts = followers[start:stop]
            one = np.repeat(place[start:stop], counts)
            two = (
                one + 1 + np.arange(len(one)) - np.repeat(total[start:stop] - total[start], counts)
            )
            one, two = order[one], order[two]
            close = np.bitwise_count(hashes[one] ^ hashes[two]) <= bits
            if close.any():
                yield np.stack([one[close], two[close]], axis=1)
            start = stop
