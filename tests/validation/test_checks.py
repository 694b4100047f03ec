"""Each check on the smallest data that breaks it; nothing here touches a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.contract.reading import RawImage, RawObject, Reading
from components.validation import split_checks
from components.validation.checks import run_checks
from components.validation.pixel_pass import ImageFacts
from components.validation.settings import ValidateSettings


def fact(index: int, **changes) -> ImageFacts:
    plain = ImageFacts(
        f"{index}.jpg", None, 100, 80, f"{index:064x}", f"{index:016x}", "JPEG", "RGB", 1, 1, 90, 40
    )
    return dataclasses.replace(plain, **changes)


def run(boxes=(), facts=None, splits=("train", "train", "val"), labels=None, sizes=None):
    """Findings as (severity, check) of a sound data set of three images, but for what is given."""
    facts = facts or [fact(index) for index in range(len(splits))]
    labels = labels or ["cat"] * len(splits)
    reading = Reading(
        Path("data"), "coco", "detection" if boxes else "classification", ("cat", "dog")
    )
    reading.images = [
        RawImage(item.path, split, sizes, "row") for item, split in zip(facts, splits, strict=True)
    ]
    reading.splits = {split for split in splits if split}
    if boxes:
        reading.objects = [RawObject(0, label, box, None, False, f"box {n}")
                           for n, (box, label) in enumerate(boxes)]  # fmt: skip
    else:
        reading.objects = [
            RawObject(n, label, None, None, False, "") for n, label in enumerate(labels)
        ]
    ignored = {"class-unused", "class-rare", "images-without-objects"}
    findings = run_checks(reading, facts, ValidateSettings())
    return [(item.severity, item.check) for item in findings if item.check not in ignored]


def test_sound_data_has_no_findings():
    assert run() == []
    assert run(boxes=[((0.0, 0.0, 50.0, 40.0), "cat"), ((60.0, 10.0, 40.0, 70.0), "dog")]) == []


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("box", "expected", "reason"),
    [
        ((NAN, 0.0, 9.0, 9.0), ("error", "box-not-finite"), "NaN"),
        ((0.0, 0.0, INF, 9.0), ("error", "box-not-finite"), "infinity"),
        ((1.0, 1.0, 0.0, 9.0), ("error", "box-empty"), "no width"),
        ((9.0, 9.0, 9.0, -5.0), ("error", "box-empty"), "corners in the wrong order"),
        ((100.0, 0.0, 9.0, 9.0), ("error", "box-outside"), "right of it"),
        ((-9.0, 0.0, 9.0, 9.0), ("error", "box-outside"), "left of it, touching"),
        ((0.0, 800.0, 9.0, 9.0), ("error", "box-outside"), "below"),
        ((95.0, 0.0, 9.0, 9.0), ("warning", "box-partly-outside"), "by 4 px"),
        ((0.0, -3.0, 9.0, 9.0), ("warning", "box-partly-outside"), "above"),
        ((92.0, 72.0, 9.0, 9.0), None, "1 px is rounding"),
        ((-1.0, -1.0, 9.0, 9.0), None, "1 px is rounding"),
        ((5.0, 5.0, 2.0, 9.0), ("warning", "tiny-box"), "2 px"),
        ((0.0, 0.0, 100.0, 80.0), ("warning", "large-box"), "all of it"),
    ],
)
def test_boxes(box, expected, reason):
    assert run(boxes=[(box, "cat")]) == ([expected] if expected else []), reason


def test_long_and_many_boxes():
    wide = fact(0, width=1000)
    assert ("warning", "long-box") in run(
        [((0.0, 0.0, 300.0, 4.0), "cat")], [wide, fact(1), fact(2)]
    )
    grid = [((float(n % 20) * 4.5, float(n // 20) * 4.5, 4.0, 4.0), "cat") for n in range(301)]
    assert run(grid) == [("warning", "many-boxes")]


def test_repeated_boxes():
    one, almost, other = (
        (10.0, 10.0, 40.0, 40.0),
        (10.5, 10.0, 40.0, 40.0),
        (30.0, 10.0, 40.0, 40.0),
    )
    assert run([(one, "cat"), (almost, "cat")]) == [("warning", "duplicate-box")]
    assert run([(almost, "cat"), (one, "dog")]) == [("warning", "contradictory-box")]
    assert run([(one, "cat"), (other, "cat")]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fault": ("file-empty", "the file is empty", "0 bytes", "")}, ("error", "file-empty")),
        ({"format": "PNG"}, ("warning", "content-differs-from-extension")),
        ({"num_frames": 3}, ("warning", "several-frames")),
        ({"orientation": 6}, ("warning", "exif-orientation")),
        ({"mode": "L"}, ("warning", "odd-mode")),
        ({"width": 9}, ("warning", "small-image")),
        ({"width": 900}, ("warning", "long-image")),
        ({"contrast": 0.5}, ("warning", "flat-image")),
        ({"brightness": 3.0}, ("warning", "dark-image")),
        ({"brightness": 252.0}, ("warning", "light-image")),
        ({"sha256": f"{1:064x}"}, ("warning", "duplicate-content")),
        ({"sha256": f"{2:064x}"}, ("error", "duplicate-across-splits")),
        ({"phash": f"{1:016x}"}, ("warning", "near-duplicate")),
        ({"phash": f"{2:016x}"}, ("warning", "near-duplicate-across-splits")),
        ({"path": "1.JPG"}, ("warning", "names-alike")),
    ],
)
def test_images(changes, expected):
    found = run(facts=[fact(0, **changes), fact(1), fact(2)])
    assert expected in found
    assert len(found) == (2 if "width" in changes and changes["width"] == 9 else 1)


def test_declared_size():
    assert run(sizes=(100.0, 80.0)) == []
    assert run(sizes=(100.0, 81.0)) == [("error", "image-size")] * 3
    assert run(sizes=(80.0, float("nan"))) == [("error", "image-size")] * 3


def test_contradictory_labels():
    facts = [fact(0), fact(1, sha256=f"{0:064x}"), fact(2)]
    assert run(facts=facts, labels=["cat", "dog", "cat"]) == [("warning", "contradictory-labels")]
    assert run(facts=facts, splits=["train", "val", "train"], labels=["cat", "dog", "dog"]) == [
        ("error", "contradictory-across-splits")
    ]


@pytest.mark.parametrize(
    ("splits", "labels", "expected"),
    [
        ((None, None), None, []),
        (("train", "train"), None, []),
        (("train", "test"), None, [("error", "split-missing")]),
        (
            ("val", "test"),
            None,
            [("error", "split-missing")] + [("error", "class-not-in-train")] * 2,
        ),
        (("train", "val"), ["cat", "dog"], [("error", "class-not-in-train")]),
        ((), None, [("error", "no-images")]),
    ],
)
def test_splits(splits, labels, expected):
    assert sorted(run(splits=splits, labels=labels)) == sorted(expected)


def test_shares():
    splits = ["train"] * 60 + ["val"] * 60
    labels = ["cat", "dog"] * 30 + ["cat", "cat", "cat", "cat", "dog"] * 12
    assert run(splits=splits, labels=labels) == [("warning", "class-shares-differ")]


def test_an_empty_split_is_an_error():
    reading = Reading(Path("data"), "folder", "classification", ("cat",))
    reading.images = [RawImage("0.jpg", "train", None, "")]
    reading.objects = [RawObject(0, "cat", None, None, False, "")]
    reading.splits = {"train", "val"}
    found = [item.check for item in run_checks(reading, [fact(0)], ValidateSettings())]
    assert found == ["split-empty", "class-rare"]


def test_classes_and_backgrounds():
    reading = Reading(Path("data"), "coco", "detection", ("cat", "dog"))
    reading.images = [RawImage("0.jpg", None, None, ""), RawImage("1.jpg", None, None, "")]
    reading.objects = [RawObject(0, "cat", (0.0, 0.0, 9.0, 9.0), None, False, "")]
    found = [item.check for item in run_checks(reading, [fact(0), fact(1)], ValidateSettings())]
    assert found == ["class-rare", "class-unused", "images-without-objects"]


def test_a_check_that_crashes_is_an_error(monkeypatch):
    monkeypatch.setattr(split_checks, "check_copies", lambda *_: 1 / 0)
    assert run() == [("error", "check-failed")]


def test_many_equal_boxes_are_each_reported_once():
    boxes = [((1.0, 1.0, 9.0, 9.0), "cat")] * 2000
    found = run(boxes)
    assert found.count(("warning", "duplicate-box")) == 1999
