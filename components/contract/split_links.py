"""Which images must be in one split: copies, groups, and what looks the same where that is asked.

An image's key is its group, or else its content. Keys that share an image, or that a link joins,
are one: they have the same leader, which is one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from components.contract.near_duplicates import FLAT_HASH, near_duplicate_groups

_SALT = "timmflow split 1"  # changing it reshuffles every data set there is


def near_duplicate_links(phashes: Sequence[str], bits: int) -> list[tuple[int, int]]:
    """Pairs of positions that join images which look the same; flat images look like no other.

    Args:
        phashes: of each image, 16 hexadecimal digits.
        bits: most bits by which they differ.
    """
    telling = [row for row, text in enumerate(phashes) if text != FLAT_HASH]
    hashes = np.array([int(phashes[row], 16) for row in telling], dtype=np.uint64)
    groups = near_duplicate_groups(hashes, bits).tolist()
    pairs = ((telling[first], row) for first, row in zip(groups, telling, strict=True))
    return [(first, row) for first, row in pairs if first != row]


def linked_keys(
    contents: Sequence[str], groups: Sequence[str | None], links: Iterable[tuple[int, int]]
) -> list[str]:
    """For each image the key that decides for it: one of those it is linked to, or its own.

    Args:
        contents: SHA-256 of each image.
        groups: of each image; None where it has none.
        links: pairs of positions that belong together.
    """
    own = [
        f"content {content}" if group is None else f"group {group}"
        for content, group in zip(contents, groups, strict=True)
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
    for one, other in links:
        join(own[one], own[other])
    return [root(key) for key in own]


def place(key: str) -> float:
    """The hash of a key, in [0, 1)."""
    return int.from_bytes(_digest(key)[:8], "big") / 2**64


def _digest(key: str) -> bytes:
    _, name = key.split(" ", 1)
    return hashlib.sha256(f"{_SALT}:{name}".encode()).digest()


def _rank(key: str) -> tuple[bytes, str]:
    return _digest(key)[8:16], key
