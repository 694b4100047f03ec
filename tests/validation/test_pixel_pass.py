from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from components.validation.pixel_pass import dct_hash, examine, examine_all


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
