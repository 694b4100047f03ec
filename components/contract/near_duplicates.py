"""Which images look the same, by their perceptual hashes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

_BITS = 64


def near_duplicate_links(hashes: Sequence[str], max_bits: int) -> list[tuple[int, int]]:
    """Pairs of positions that join all images whose hashes differ by at most `max_bits`.

    Not all such pairs: equal hashes are joined to the first of them only, so that many copies do
    not make a square of their number.

    Two hashes that differ by at most n bits agree wholly in one of any n + 1 parts of them; only
    hashes that agree in a part are compared.

    Args:
        hashes: 64-bit perceptual hashes, hexadecimal.
        max_bits: most bits that may differ, 0 to 63.
    """
    if not len(hashes):
        return []
    numbers = np.array([int(text, 16) for text in hashes], dtype=np.uint64)
    unique, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    links = {(int(first[u]), row) for row, u in enumerate(which) if first[u] != row}
    edges = np.linspace(0, _BITS, max_bits + 2).round().astype(int)
    for low, high in itertools.pairwise(edges):
        part = (unique >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        for bucket in _equal(part):
            values = unique[bucket]
            for place in range(len(bucket) - 1):
                apart = np.bitwise_count(values[place + 1 :] ^ values[place])
                for near in np.flatnonzero(apart <= max_bits) + place + 1:
                    pair = sorted((int(first[bucket[place]]), int(first[bucket[near]])))
                    links.add((pair[0], pair[1]))
    return sorted(links)


def _equal(values: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of equal values, where there are at least two."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order])) + 1
    for positions in np.split(order, starts):
        if len(positions) > 1:
            yield positions
