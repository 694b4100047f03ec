"""When two images count as equally labelled, and what of a whole data set a batch need not be."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from raw_data_helpers import write_image

from components.contract.reading import RawImage, RawObject, Reading
from components.validation.incoming import alike, check_batch, contents
from components.validation.pixel_pass import ImageFacts
from components.validation.settings import ValidateSettings

BOX = (1.0, 2.0, 3.0, 4.0)
CASES = {
    "the same": ([("cat", BOX)], [("cat", BOX)], True),
    "another order": ([("cat", BOX), ("dog", BOX)], [("dog", BOX), ("cat", BOX)], True),
    "rounding": ([("cat", BOX)], [("cat", (1.004, 1.98, 3.0, 4.0))], True),
    "another box": ([("cat", BOX)], [("cat", (1.5, 2.0, 3.0, 4.0))], False),
    "another label": ([("cat", BOX)], [("dog", BOX)], False),
    "one more": ([("cat", BOX)], [("cat", BOX), ("cat", BOX)], False),
    "none": ([], [], True),
    "none and one": ([], [("cat", BOX)], False),
    "no number": ([("cat", (math.nan, 2.0, 3.0, 4.0))], [("cat", BOX)], False),
    "labels only": ([("cat", None)], [("cat", None)], True),
}


def content(objects: list) -> tuple:
    reading = Reading(Path("raw"), "coco", "detection", ("cat", "dog"))
    reading.images = [RawImage("1.png", None, None, "")]
    reading.objects = [RawObject(0, label, box, None, False, "") for label, box in objects]
    return contents(reading)[0]


@pytest.mark.parametrize("case", CASES)
def test_equally_labelled(case):
    one, two, expected = CASES[case]
    assert alike(content(one), content(two)) is expected
    assert alike(content(two), content(one)) is expected
    assert content(one) == content(one)  # also with NaN in it


@pytest.fixture
def current():
    """Validation of data with three classes and a column, as far as a batch is compared with it."""
    reading = Reading(Path("raw"), "folder", "classification", ("cat", "dog", "emu"))
    reading.images = [RawImage("1.png", "train", None, "", columns={"site": "north"})]
    reading.objects = [RawObject(0, "cat", None, None, False, "")]
    facts = [ImageFacts("1.png", None, 40, 30, "0" * 64, "f" * 16, contrast=9, brightness=9)]
    return SimpleNamespace(reading=reading, facts=facts)


def test_a_batch_may_lack_classes_splits_and_columns(tmp_path, current):
    write_image(tmp_path / "val" / "dog" / "1.png", 1)
    write_image(tmp_path / "train" / "dog" / "2.png", 2)
    verdict = check_batch(tmp_path, current, ValidateSettings())
    assert [item for item in verdict.findings if item.severity == "error"] == []
    assert verdict.new == [0, 1] and not verdict.refused
