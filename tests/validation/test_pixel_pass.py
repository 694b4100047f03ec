from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageFilter

from components.contract.near_duplicates import FLAT_HASH
from components.contract.split_links import near_duplicate_links
from components.validation.pixel_pass import dct_hash, edge_sharpness, examine, examine_all


def picture(seed: int) -> Image.Image:
    grid = np.random.default_rng(seed).random((6, 8)).astype(np.float32) * 255
    return Image.fromarray(grid).resize((64, 48), Image.Resampling.BICUBIC).convert("L")


def distance(one: str, two: str) -> int:
    return (int(one, 16) ^ int(two, 16)).bit_count()


def test_facts(tmp_path):
    picture(0).save(tmp_path / "a.png")
    fact = examine(str(tmp_path), "a.png", 10**6, 10**6)
    assert (fact.width, fact.height, fact.format, fact.mode) == (64, 48, "PNG", "L")
    assert fact.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert fact.num_bytes == (tmp_path / "a.png").stat().st_size
    assert fact.brightness == pytest.approx(np.asarray(picture(0)).mean(), abs=2)


def test_the_hash_is_of_the_looks(tmp_path):
    picture(0).save(tmp_path / "a.png")
    picture(0).resize((100, 75)).save(tmp_path / "b.jpg", quality=60)
    picture(1).save(tmp_path / "c.png")
    a, b, c = (
        examine(str(tmp_path), name, 10**6, 10**6).phash for name in ("a.png", "b.jpg", "c.png")
    )
    assert distance(a, b) <= 4
    assert distance(a, c) >= 16
    assert dct_hash(np.full((32, 32), 5.0)) == dct_hash(np.full((32, 32), 5.0))


def test_flat_images_look_like_no_other(tmp_path):
    """Not even like each other: one hash for all would put all of them into one split."""
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number,) * 3).save(tmp_path / f"{number}.png")
        picture(number // 2).save(tmp_path / f"seen{number}.png")
    names = [f"{kind}{number}.png" for kind in ("", "seen") for number in range(4)]
    hashes = [fact.phash for fact in examine_all(tmp_path, names, 10**6, 10**6, num_workers=1)]
    assert set(hashes[:4]) == {FLAT_HASH} and FLAT_HASH not in hashes[4:]
    assert near_duplicate_links(hashes, 4) == [(4, 5), (6, 7)]


def test_processes_give_the_same_in_the_same_order(tmp_path):
    names = [f"{index:03d}.png" for index in range(70)]
    for index, name in enumerate(names):
        picture(index).save(tmp_path / name)
    (tmp_path / names[33]).write_bytes(b"broken")
    one = list(examine_all(tmp_path, names, 10**6, 10**6, num_workers=1))
    two = list(examine_all(tmp_path, names, 10**6, 10**6, num_workers=2))
    assert one == two
    assert [fact.path for fact in two] == names
    assert [fact.path for fact in two if fact.fault] == [names[33]]


def shapes(seed: int, width: int = 640, height: int = 480) -> Image.Image:
    """Rectangles with sharp edges before a plain background, with some noise."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width), 120.0)
    side = height // 6
    for _ in range(12):
        top, left = random.integers(0, height - side), random.integers(0, width - side)
        pixels[top : top + side, left : left + side] = random.integers(0, 256)
    pixels += random.normal(0, 3, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("scale", [0.25, 1, 4])
def test_sharpness_tells_blurred_from_sharp_at_any_size(tmp_path, scale, extension):
    for seed in range(3):
        size = round(640 * scale), round(480 * scale)
        sharp = shapes(seed, *size)
        blurred = sharp.filter(ImageFilter.GaussianBlur(0.02 * size[1]))
        found = []
        for image in (sharp, blurred):
            image.save(tmp_path / f"a.{extension}")
            found.append(examine(str(tmp_path), f"a.{extension}", 10**8, 10**8).sharpness)
        assert found[0] > 0.5 and found[1] < 0.2


def test_sharpness_of_next_to_nothing():
    assert edge_sharpness(np.zeros((2, 9), np.uint8)) == 0
    assert edge_sharpness(np.full((9, 9), 7, np.uint8)) == 0
    noise = np.random.default_rng(0).integers(100, 102, (64, 64)).astype(np.uint8)
    assert edge_sharpness(noise) < 1


@pytest.mark.parametrize(
    ("pixels", "entropy"),
    [
        (np.full((64, 64), 9), 0),
        (np.repeat([[0, 255]], 64, axis=0).repeat(32, axis=1), 1),
        (np.arange(64 * 64).reshape(64, 64) % 256, 8),
    ],
)
def test_entropy_is_in_bits(tmp_path, pixels, entropy):
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    assert examine(str(tmp_path), "a.png", 10**6, 10**6).entropy == entropy
