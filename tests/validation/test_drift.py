"""Drift: the same source does not alarm, whatever the number of images; a true shift does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contract.reading import RawImage, RawObject, Reading
from components.validation.drift import check_drift, ordered_difference, share_difference
from components.validation.pixel_pass import ImageFacts
from components.validation.profile import profile

CLASSES = ("bird", "cat", "dog", "eel")
SHARES = (0.5, 0.3, 0.15, 0.05)


def draw(random: np.random.Generator, num_images: int, **changes: Any) -> dict[str, Any]:
    """The profile of images drawn from a source; `changes` shift the source.

    Boxes of one image are alike: one class, near sizes, near places.
    """
    source = {
        "shares": SHARES, "background": 0.1, "brightness": 110, "side": 500, "aspect": (1.33, 0.75),
        "box": 0.2, "place": 0.5, "classes": CLASSES,
    } | changes  # fmt: skip
    reading = Reading(Path("raw"), "coco", "detection", tuple(source["classes"]))
    facts = []
    for index in range(num_images):
        aspect = random.choice(source["aspect"])
        side = source["side"] * random.lognormal(0, 0.2)
        width, height = max(8, int(side * aspect)), max(8, int(side))
        bright = float(np.clip(random.normal(source["brightness"], 30), 0, 255))
        name = f"{index}.jpg"
        facts.append(ImageFacts(name, None, width, height, brightness=bright))
        reading.images.append(RawImage(name, None, None, name))
        if random.random() < source["background"]:
            continue
        label = str(random.choice(source["classes"], p=source["shares"]))
        size = source["box"] * random.lognormal(0, 0.5)
        x, y = random.normal(source["place"], 0.15, 2)
        for _ in range(random.integers(1, 5)):
            share = min(0.9, size * random.lognormal(0, 0.05))
            box = (x * width, y * height, share * width, share * height)
            reading.objects.append(RawObject(index, label, box, None, False, name))
    return profile(reading, facts)


def checks(here: dict[str, Any], there: dict[str, Any], **options: Any) -> list[str]:
    return sorted({item.check for item in check_drift(here, there, **options)})


@pytest.mark.parametrize(
    ("num_here", "num_there", "num_draws"),
    [(50, 50, 40), (50, 1000, 5), (300, 300, 10), (5000, 5000, 1)],
)
def test_the_same_source_does_not_alarm(num_here, num_there, num_draws):
    """Each drawing makes seven comparisons; none of these may alarm (a longer run: under 1 %)."""
    random = np.random.default_rng(num_here * 7 + num_there)
    alarms = [checks(draw(random, num_here), draw(random, num_there)) for _ in range(num_draws)]
    assert [alarm for alarm in alarms if alarm] == []


@pytest.mark.parametrize("num_categories", [2, 16, 200])
@pytest.mark.parametrize("sizes", [(50, 50), (50, 5000), (5000, 5000)])
def test_chance_of_a_false_alarm(num_categories, sizes):
    """Of 1,000 drawings at most one alarms: seven such checks stay under one in a hundred."""
    random = np.random.default_rng(num_categories + sum(sizes))
    shares = 1 / np.arange(1, num_categories + 1)
    shares /= shares.sum()
    pairs = [random.multinomial(size, shares, 1000).tolist() for size in sizes]
    for difference in (share_difference, ordered_difference):
        found = [difference(here, there) for here, there in zip(*pairs, strict=True)]
        assert sum(apart >= 0.15 and chance < 0.0002 for apart, chance in found) <= 1


SHIFTS = {
    "labels": ({"shares": (0.1, 0.3, 0.15, 0.45)}, ["drift-labels"]),
    "background": ({"background": 0.5}, ["drift-background"]),
    "brightness": ({"brightness": 70}, ["drift-brightness"]),
    "size": ({"side": 250}, ["drift-size"]),
    "aspect": ({"aspect": (1.78, 1.0)}, ["drift-aspect"]),
    "box size": ({"box": 0.4}, ["drift-box-size"]),
    "box place": ({"place": 0.2}, ["drift-box-place"]),
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("sizes", [(200, 1000), (1000, 200)])
def test_a_true_shift_alarms(shift, sizes):
    changes, expected = SHIFTS[shift]
    random = np.random.default_rng(5)
    found = checks(draw(random, sizes[0], **changes), draw(random, sizes[1]))
    # A larger box at the same corner has its centre elsewhere; more pixels come with an aspect.
    assert set(expected) <= set(found) <= set(expected) | {"drift-box-place", "drift-size"}


def test_a_trifle_does_not_alarm_however_many_images():
    random = np.random.default_rng(6)
    assert checks(draw(random, 2000, brightness=114), draw(random, 2000)) == []


def test_objects_of_an_image_are_not_independent():
    """One image with 500 boxes of a class says no more than one image."""
    apart, chance = share_difference([500, 20], [20, 500], 10, 10)
    assert apart > 0.9 and chance > 0.00001
    assert share_difference([500, 20], [20, 500])[1] < 1e-50


def columns(**kinds: str) -> dict[str, Any]:
    return {"columns": kinds}


STRUCTURE = {
    "the same": ({}, {}, []),
    "a new class": ({"classes": ["a", "b", "c"]}, {}, ["drift-classes"]),
    "a class vanished": ({}, {"classes": ["a", "b", "c"]}, ["drift-classes"]),
    "another order": ({"classes": ["b", "a"]}, {}, ["drift-classes"]),
    "a new column": (columns(site="text"), {}, ["drift-columns"]),
    "a column vanished": ({}, columns(site="text"), ["drift-columns"]),
    "a column of another type": (columns(n="text"), columns(n="number"), ["drift-columns"]),
    "an empty column": (columns(n="empty"), columns(n="number"), []),
    "another task": ({"task": "detection"}, {}, ["drift-columns"]),
    "no images": ({"num_images": 0}, {}, []),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_classes_and_columns(case):
    reading = Reading(Path("raw"), "folder", "classification", ("a", "b"))
    reading.images = [RawImage("1.jpg", None, None, "")]
    reading.objects = [RawObject(0, "a", None, None, False, "")]
    base = profile(reading, [ImageFacts("1.jpg", None, 8, 8)])
    here, there, expected = STRUCTURE[case]
    found = list(check_drift(base | here, base | there))
    assert [item.check for item in found] == expected
    assert all(item.severity == "error" for item in found)


def test_an_addition_may_lack_classes_and_columns():
    reading = Reading(Path("raw"), "folder", "classification", ("a", "b"))
    whole = profile(reading, []) | columns(site="text")
    addition = whole | {"classes": ["a"], "labels": {"a": 3}} | columns()
    assert checks(addition, whole, part=True) == []
    assert checks(addition, whole) == ["drift-classes", "drift-columns"]
