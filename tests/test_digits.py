"""The embedded data is what the text says, and the same every time."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from components import digits
from components.errors import DataError


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 40, "val": 10, "test": 10})


def test_detection(tmp_path, few):
    assert digits.build_detection(tmp_path / "one")
    assert not digits.build_detection(tmp_path / "one")
    assert digits.build_detection(tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    num_empty = 0
    for split, number in digits.SCENES.items():
        content = json.loads((tmp_path / f"one/annotations/instances_{split}.json").read_text())
        assert len(content["images"]) == number
        boxes = {image["id"]: [] for image in content["images"]}
        for row in content["annotations"]:
            boxes[row["image_id"]].append(row["bbox"])
        for image in content["images"]:
            with Image.open(tmp_path / "one" / split / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"])
            assert len(boxes[image["id"]]) <= 8
            num_empty += not boxes[image["id"]]
            for x, y, width, height in boxes[image["id"]]:
                assert 0 <= x < x + width <= image["width"]
                assert 0 <= y < y + height <= image["height"]
                assert 13 <= height <= 90
    assert 1 <= num_empty <= 12


def test_boxes_hug_the_ink():
    pool = digits._load()
    for index in range(40):
        ink = digits._glyph(pool.images[index], 14 + index)
        for border in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert border.max() >= digits._INK
        assert ink.shape[0] == pytest.approx(14 + index, abs=2)


def test_splits_share_no_digit():
    pools = digits._split(digits._load())
    sets = [{image.tobytes() for image in pool.images} for pool in pools.values()]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 1797
    for pool in pools.values():
        assert len(np.unique(pool.labels)) == 10


def test_classification(tmp_path):
    assert digits.build_classification(tmp_path / "one")
    assert not digits.build_classification(tmp_path / "one")
    files = sorted((tmp_path / "one").glob("*/*.png"))
    assert len(files) == 1797
    assert sorted({path.parent.name for path in files}) == list("0123456789")
    with Image.open(files[0]) as image:
        assert (image.mode, image.size) == ("RGB", (32, 32))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, few):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="left alone"):
        digits.build_detection(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.jpg"]


def test_an_older_version_is_built_anew(tmp_path, few, monkeypatch):
    digits.build_detection(tmp_path / "one")
    monkeypatch.setattr(digits, "_VERSION", 99)
    assert digits.build_detection(tmp_path / "one")
