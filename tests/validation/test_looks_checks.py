"""The checks of single images' looks, on measures given by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.validation.looks_checks import check_looks, usual_range
from components.validation.pixel_pass import ImageFacts

SOUND = ImageFacts(
    "a.jpg",
    width=500,
    height=400,
    contrast=40.0,
    sharpness=1.0,
    entropy=7.0,
    num_bytes=50_000,
)


def checks(*facts: ImageFacts) -> list[str]:
    return [item.check for item in check_looks(facts)]


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({}, [], "sound"),
        ({"sharpness": 0.1}, ["blurred-image"], "soft edges"),
        ({"entropy": 1.0}, ["low-information"], "two grey levels"),
        ({"entropy": 1.0, "sharpness": 0.1}, ["low-information"], "the one explains the other"),
        ({"entropy": 0.1, "sharpness": 0.0, "contrast": 1.0}, [], "flat: said by flat-image"),
        ({"sharpness": 0.0, "fault": ("image-undecodable", "", "", "")}, [], "not decoded"),
    ],
)
def test_single_images(changes, expected, reason):
    assert checks(dataclasses.replace(SOUND, **changes)) == expected, reason


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({"width": 50, "height": 40}, 1, "a hundredth of the area"),
        ({"width": 5000, "height": 4000}, 1, "a hundred times the area"),
        ({"width": 1600, "height": 125}, 1, "the usual area, an unusual aspect"),
        ({"num_bytes": 900_000}, 1, "a large file"),
        ({"width": 700, "height": 300}, 0, "a little other"),
    ],
)
def test_odd_sizes(changes, expected, reason):
    odd = dataclasses.replace(SOUND, path="odd.jpg", **changes)
    findings = list(check_looks([SOUND] * 12 + [odd]))
    assert [(item.check, item.image) for item in findings] == [("odd-size", "odd.jpg")] * expected
    assert checks(*[SOUND] * 5, odd) == [], "too few to know what is usual"


def test_varied_sizes_are_not_odd():
    sides = np.random.default_rng(0).uniform(200, 2000, (300, 2)).astype(int)
    facts = [
        dataclasses.replace(SOUND, width=w, height=h, num_bytes=w * h // 8)
        for w, h in sides.tolist()
    ]
    assert checks(*facts) == []


def test_the_usual_range_does_not_follow_outliers():
    plain = usual_range(np.full(20, 3.0))
    assert plain == pytest.approx((3.0, 4.0))
    assert usual_range(np.array([3.0] * 20 + [1e9] * 9)) == pytest.approx(plain)
