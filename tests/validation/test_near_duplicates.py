from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.contract import near_duplicates
from components.contract.near_duplicates import near_duplicate_groups, pairs_within
from components.contract.reading import RawImage, Reading
from components.validation.near_duplicates import check_near_duplicates
from components.validation.pixel_pass import ImageFacts


def clustered(seed: int, count: int) -> np.ndarray:
    """Hashes of which many are copies of others but for up to 20 bits, and some equal."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(count // 3, count):
        flipped = random.choice(64, random.integers(0, 21), replace=False).astype(np.uint64)
        flips = np.bitwise_or.reduce(np.uint64(1) << flipped, initial=np.uint64(0))
        hashes[place] = hashes[random.integers(place)] ^ flips
    return hashes


def all_pairs(hashes: np.ndarray, bits: int) -> set[tuple[int, int]]:
    """The oracle: every pair compared."""
    apart = np.bitwise_count(hashes[:, None] ^ hashes)
    return {(int(i), int(j)) for i, j in np.argwhere(apart <= bits) if i < j}


@pytest.mark.parametrize("bits", range(17))
def test_pairs_are_those_of_the_brute_force(bits):
    for seed in range(4):
        hashes = clustered(seed, 300)
        _, first = np.unique(hashes, return_index=True)
        distinct = set(first.tolist())
        expected = {
            (i, j)
            for i, j in all_pairs(hashes, bits)
            if {i, j} <= distinct or (i in distinct and hashes[i] == hashes[j])
        }
        pairs = pairs_within(hashes, bits)
        assert set(map(tuple, pairs.tolist())) == expected
        assert len(pairs) == len(expected) > 0


@pytest.mark.parametrize("block", [1, 50, 10**6])
@pytest.mark.parametrize("bits", [0, 3, 5, 6, 10])
def test_groups_are_the_connected_ones(monkeypatch, bits, block):
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    hashes = clustered(5, 300)
    expected = np.arange(len(hashes))
    changed = True
    while changed:
        changed = False
        for i, j in all_pairs(hashes, bits):
            low = min(expected[i], expected[j])
            changed |= bool(expected[i] != low or expected[j] != low)
            expected[i] = expected[j] = low
    assert near_duplicate_groups(hashes, bits).tolist() == expected.tolist()


def test_nothing_and_one():
    for count in (0, 1):
        hashes = np.zeros(count, dtype=np.uint64)
        assert pairs_within(hashes, 4).shape == (0, 2)
        assert near_duplicate_groups(hashes, 4).tolist() == list(range(count))


def test_bits_out_of_range():
    with pytest.raises(ValueError, match="bits is 17; allowed: 0 to 16"):
        pairs_within(np.arange(3, dtype=np.uint64), 17)


def test_many_alike_neither_hang_nor_fall_apart():
    # 20,000 hashes that differ only in 14 low bits share nearly all chunks.
    hashes = np.random.default_rng(0).integers(0, 2**14, 20_000).astype(np.uint64)
    assert set(near_duplicate_groups(hashes, 4)) == {0}


A, NEAR, FAR = 0xF0F0_1234_5678_9ABC, 0xF0F0_1234_5678_9ABF, 0x0F0F_EDCB_5678_9ABC


@pytest.mark.parametrize(
    ("images", "expected", "reason"),
    [
        ([(A, "train", {}), (NEAR, "train", {})], ["near-duplicate"], "two bits apart"),
        ([(A, "train", {}), (A, "train", {})], ["near-duplicate"], "other content, same hash"),
        ([(A, "train", {}), (NEAR, "val", {})], ["near-duplicate-across-splits"], "two splits"),
        ([(A, "train", {}), (FAR, "train", {})], [], "they differ"),
        ([(A, "train", {}), (A, "train", {"sha256": "0"})], [], "an exact copy"),
        ([(A, "train", {}), (A, "val", {"sha256": "0"})], [], "an exact copy in another split"),
        ([(A, "train", {}), (NEAR, "train", {"contrast": 1.0})], [], "flat"),
        ([(A, "train", {}), (NEAR, "train", {"width": 10})], [], "upright and wide"),
        ([(A, "train", {}), (NEAR, "train", {"fault": ("", "", "", "")})], [], "undecodable"),
        (
            [(A, "train", {}), (A, "val", {"sha256": "0"}), (NEAR, "val", {})],
            ["near-duplicate-across-splits"],
            "near to both copies: the other split counts",
        ),
        (
            [(A, None, {}), (NEAR, None, {}), (A ^ (1 << 40), None, {})],
            ["near-duplicate"] * 2,
            "one finding for each image but the first",
        ),
    ],
)
def test_findings(images, expected, reason):
    reading = Reading(Path("data"), "folder", "classification")
    facts = []
    for index, (phash, split, changes) in enumerate(images):
        path = f"{index}.jpg"
        reading.images.append(RawImage(path, split, None, ""))
        known = {"width": 100, "height": 80, "sha256": str(index), "contrast": 40.0}
        facts.append(ImageFacts(path, phash=f"{phash:016x}", **(known | changes)))
    findings = list(check_near_duplicates(reading, facts, 4))
    assert [item.check for item in findings] == expected, reason
    assert all(item.image == item.where != "0.jpg" for item in findings)
