"""The profile of a data set: what it counts, that it is stable, small, and checked when read."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from components.contract.reading import RawImage, RawObject, Reading
from components.errors import DataError
from components.files import write_json
from components.validation.pixel_pass import ImageFacts
from components.validation.profile import EDGES, GRID, profile, read_profile


def facts_of(name: str, width: int = 200, height: int = 100, brightness: float = 100) -> ImageFacts:
    return ImageFacts(name, None, width, height, brightness=brightness)


def detection() -> tuple[Reading, list[ImageFacts]]:
    reading = Reading(Path("raw"), "coco", "detection", ("cat", "dog"))
    reading.images = [
        RawImage("a.jpg", None, None, "a", columns={"site": "north", "depth": 1, "wet": None}),
        RawImage("b.jpg", None, None, "b", columns={"site": None, "depth": 2.5, "wet": None}),
        RawImage("c.jpg", None, None, "c", columns={"site": "x", "depth": "3", "wet": None}),
        RawImage("broken.jpg", None, None, "d"),
    ]
    boxes = [
        (0, "cat", (0.0, 0.0, 20.0, 10.0)),  # top left, a tenth of each side
        (0, "dog", (150.0, 80.0, 50.0, 20.0)),  # centre 175, 90: bottom right
        (1, "cat", (-500.0, 40.0, 10.0, 10.0)),  # far outside: the nearest cell
        (1, "cat", (math.nan, 0.0, 1.0, 1.0)),  # no box: not in the histograms
        (3, "dog", (0.0, 0.0, 10.0, 10.0)),  # of a broken image: does not count at all
    ]
    reading.objects = [RawObject(i, label, box, None, False, "") for i, label, box in boxes]
    facts = [facts_of("a.jpg"), facts_of("b.jpg", brightness=255), facts_of("c.jpg", brightness=0)]
    return reading, [*facts, ImageFacts("broken.jpg", ("file-empty", "", "", ""))]


def test_what_it_counts():
    found = profile(*detection())
    assert (found["num_images"], found["num_objects"], found["num_without_objects"]) == (3, 4, 1)
    assert found["classes"] == ["cat", "dog"]
    assert found["labels"] == {"cat": 3, "dog": 1}
    assert found["columns"] == {"depth": "mixed", "site": "text", "wet": "empty"}
    assert sum(found["histograms"]["box_size"]) == 3
    bright = found["histograms"]["brightness"]
    assert (bright[0], bright[6], bright[15], sum(bright)) == (1, 1, 1, 3)  # 0, 100, 255
    place = found["box_place"]
    assert (place[0], place[GRID * GRID - 1], place[GRID], sum(place)) == (1, 1, 1, 3)
    assert found["quantiles"]["aspect"]["50 %"] == 2
    assert {name: len(counts) - 1 for name, counts in found["histograms"].items()} == {
        name: len(edges) for name, edges in EDGES.items()
    }


def test_the_order_of_rows_does_not_matter():
    reading, facts = detection()
    before = profile(reading, facts)
    order = list(range(len(facts)))
    random.Random(1).shuffle(order)
    reading.images = [reading.images[index] for index in order]
    for item in reading.objects:
        item.image = order.index(item.image)
    random.Random(2).shuffle(reading.objects)
    assert json.dumps(profile(reading, [facts[index] for index in order])) == json.dumps(before)


@pytest.mark.parametrize("num_images", [0, 1, 5000])
def test_it_is_small_and_can_be_written_and_read_back(tmp_path, num_images):
    reading = Reading(Path("raw"), "folder", "classification", ("cat", "dog"))
    reading.images = [RawImage(f"{n}.jpg", None, None, "") for n in range(num_images)]
    reading.objects = [RawObject(n, "cat", None, None, False, "") for n in range(num_images)]
    found = profile(reading, [facts_of(f"{n}.jpg") for n in range(num_images)])
    assert "box_place" not in found and "box_size" not in found["histograms"]
    path = tmp_path / "profile.json"
    write_json(path, found)
    assert path.stat().st_size < 4096
    assert read_profile(path) == found


def test_no_profile_is_none(tmp_path):
    assert read_profile(tmp_path / "profile.json") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"num_images": "many"}, "num_images"),
        ({"labels": {"cat": -1}}, "labels.cat"),
        ({"columns": {"site": "blob"}}, "columns.site"),
        ({"surprise": 1}, "surprise"),
        ({"histograms": {}}, "histograms: other bins"),
        ({"box_place": [1, 2]}, "box_place: must have 16"),
    ],
)
def test_a_broken_profile_is_refused(tmp_path, change, message):
    path = tmp_path / "profile.json"
    write_json(path, profile(*detection()) | change)
    with pytest.raises(DataError, match=message):
        read_profile(path)
    for text in ("", "[]", "{", "null"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"profile\.json: not"):
            read_profile(path)
