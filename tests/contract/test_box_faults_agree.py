"""The same wrong box is told by the same check, whatever format it is in."""

import math

import pytest
from five_formats import make, write

from components.contract.readers import read_dataset
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings

SETTINGS = ValidateSettings(num_workers=1, min_images_per_class=0)
FORMATS = ("coco", "csv", "voc", "yolo")
WIDTH, HEIGHT = 96, 72  # of the image of which a box is wrong


def found(raw, root, format) -> set[str]:
    reading = read_dataset(write(raw, root / format, format), format, "detection", raw.classes)
    return {
        item.check
        for item in validate_reading(reading, SETTINGS).findings
        if item.check.startswith("box-")
    }


@pytest.mark.parametrize(
    ("box", "check"),
    [
        (["x", 10, 20, 30], "box-broken"),
        ([10, "", 20, 30], "box-broken"),
        ([10, 10, "1_0", 30], "box-broken"),
        ([10, 10, 20], "box-broken"),
        ([10, math.nan, 20, 30], "box-not-finite"),
        ([math.inf, 10, 20, 30], "box-not-finite"),
        ([1e308, 10, 20, 30], "box-not-finite"),
        ([10, 10, 2e9, 30], "box-not-finite"),
        ([10, 10, 0, 30], "box-empty"),
        ([10, 10, 20, -30], "box-empty"),
        ([WIDTH + 5, 10, 20, 30], "box-outside"),
        ([-50, 10, 20, 30], "box-outside"),
        ([50 * WIDTH, 10, 20, 30], "box-outside"),
        ([WIDTH - 10, 10, 20, 30], "box-partly-outside"),
        ([10, 10, 50 * WIDTH, 30], "box-partly-outside"),
        ([10, 10, 20, 30], None),
    ],
    ids=str,
)
def test_a_wrong_box_is_told_alike(box, check, tmp_path):
    raw = make("detection", seed=8, counts={"train": 4, "val": 3})
    raw.samples[1].things[0].box, raw.samples[1].things[0].area = box, None
    assert raw.samples[1].size == (WIDTH, HEIGHT)
    expected = {check} if check else set()
    assert {format: found(raw, tmp_path, format) for format in FORMATS} == dict.fromkeys(
        FORMATS, expected
    )


@pytest.mark.parametrize("all_of_them", [False, True], ids=["one image", "all images"])
def test_the_wrong_unit_is_told_alike(all_of_them, tmp_path):
    """Fractions where the format has pixels, and pixels where it has fractions."""
    seen = {}
    for format in FORMATS:
        raw = make("detection", seed=8, counts={"train": 4, "val": 3})
        for sample in raw.samples if all_of_them else raw.samples[1:2]:
            if format == "yolo":
                sample.size = (1, 1)  # by which boxes are divided as they are written
                continue
            for thing in sample.things:
                x, y, w, h = thing.box
                (width, height), thing.area = sample.size, None
                thing.box = [x / width, y / height, w / width, h / height]
        seen[format] = found(raw, tmp_path, format)
    assert seen == {format: {"box-units"} for format in FORMATS}
