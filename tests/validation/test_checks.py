"""Each check on the smallest data that breaks it; nothing here touches a file."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from components.contract.findings import finding
from components.contract.reading import RawImage, RawObject, Reading
from components.validation import box_checks, split_checks
from components.validation.checks import run_checks
from components.validation.pixel_pass import ImageFacts
from components.validation.settings import ValidateSettings


def looks(index: int) -> str:
    """A perceptual hash far from that of any other index."""
    return hashlib.sha256(str(index).encode()).hexdigest()[:16]


def fact(index: int, **changes) -> ImageFacts:
    plain = ImageFacts(
        path=f"{index}.jpg",
        width=100,
        height=80,
        sha256=f"{index:064x}",
        phash=looks(index),
        format="JPEG",
        mode="RGB",
        brightness=90,
        contrast=40,
        sharpness=1.0,
        entropy=7.0,
        num_bytes=5000,
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
        ({"phash": looks(1)}, ("warning", "near-duplicate")),
        ({"phash": looks(2)}, ("warning", "near-duplicate-across-splits")),
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
        (("val", "test"), None, [("error", "split-missing")]),
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


def test_in_a_pile_only_equal_boxes_are_told(monkeypatch):
    near = [((9.0, 9.0, 40.0, 40.0 + n / 1000), "cat") for n in range(3)]
    boxes = [*near, near[0]]
    monkeypatch.setattr(box_checks, "_MOST_COMPARED", 3)
    assert run(boxes).count(("warning", "duplicate-box")) == 3
    monkeypatch.setattr(box_checks, "_MOST_COMPARED", 2)
    assert run(boxes).count(("warning", "duplicate-box")) == 1


def test_what_follows_from_a_fault_is_not_told_again():
    reading = Reading(Path("data"), "coco", "detection", ("cat", "dog"))
    reading.images = [RawImage(f"{n}.jpg", None, None, "") for n in range(3)]
    reading.objects = [RawObject(0, "cat", (0.0, 0.0, 9.0, 9.0), None, False, "")]
    reading.findings = [
        finding("class-missing", "data", "base.classes has a class that the data lacks", "dog"),
        finding("box-broken", "row", "not four numbers", image="1.jpg"),
    ]
    facts = [fact(0), fact(1), fact(2, fault=("file-empty", "no byte", "", ""))]
    found = [item.check for item in run_checks(reading, facts, ValidateSettings())]
    assert found == ["box-broken", "class-missing", "file-empty", "class-rare"]


def test_a_label_that_was_refused_is_not_lacking():
    reading = Reading(Path("data"), "csv", "classification", ("cat",))
    reading.images = [RawImage("0.jpg", None, None, "")]
    reading.findings = [finding("class-unknown", "row", "no such class", "dog", image="0.jpg")]
    found = [item.check for item in run_checks(reading, [fact(0)], ValidateSettings())]
    assert found == ["class-unknown", "class-unused"]


def test_a_check_that_crashes_is_an_error(monkeypatch):
    monkeypatch.setattr(split_checks, "check_copies", lambda *_: 1 / 0)
    assert run() == [("error", "check-failed")]


def test_many_equal_boxes_are_each_reported_once():
    boxes = [((1.0, 1.0, 9.0, 9.0), "cat")] * 2000
    found = run(boxes)
    assert found.count(("warning", "duplicate-box")) == 1999


def check_reading(reading, facts=None, **settings):
    facts = facts or [fact(n, path=image.path) for n, image in enumerate(reading.images)]
    settings = ValidateSettings(min_images_per_class=0, **settings)
    return [(item.check, item.image) for item in run_checks(reading, facts, settings)]


def labelled(rows, multi_label=False):
    """Classification: rows of (split, group, labels)."""
    names = sorted({label for _, _, labels in rows for label in labels})
    reading = Reading(Path("data"), "csv", "classification", tuple(names), multi_label)
    for index, (split, group, labels) in enumerate(rows):
        reading.images.append(RawImage(f"{index}.jpg", split, None, "row", group))
        reading.objects += [RawObject(index, name, None, None, False, "row") for name in labels]
    reading.splits = {split for split, _, _ in rows if split}
    return reading


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("a", "b", "c"), []),
        (("a", "a", None), []),
        ((None, None, None), []),
        (("a", "b", "a"), [("group-across-splits", "0.jpg")]),
        (("a", "a", "a"), [("group-across-splits", "0.jpg")]),
    ],
)
def test_groups(groups, expected):
    rows = zip(("train", "train", "val"), groups, [["cat"]] * 3, strict=True)
    assert check_reading(labelled(list(rows))) == expected


@pytest.mark.parametrize(
    ("labels", "multi_label", "expected"),
    [
        (["cat"], False, []),
        (["cat", "dog"], True, []),
        (["cat", "dog"], False, [("label-row-broken", "0.jpg")]),
        (["cat", "cat"], True, [("label-row-broken", "0.jpg")]),
        ([], False, [("label-row-broken", "0.jpg")]),
        ([], True, [("images-without-objects", "")]),
    ],
)
def test_rows_of_labels(labels, multi_label, expected):
    rows = [(None, None, labels), (None, None, ["cat"])]
    assert check_reading(labelled(rows, multi_label)) == expected


def test_imbalance():
    rows = [(None, None, ["cat"])] * 40 + [(None, None, ["dog"])] * 2
    assert check_reading(labelled(rows)) == []
    assert check_reading(labelled([*rows, rows[0]])) == [("class-imbalance", "")]


def test_fractions_where_pixels_belong():
    plain, fraction = ((10.0, 10.0, 40.0, 40.0), "cat"), ((0.1, 0.2, 0.5, 0.7), "cat")
    assert run([plain, fraction]) == [("error", "box-units")]
    whole = ((0.0, 0.0, 1.0, 1.0), "cat")
    assert run([plain, whole]) == [("warning", "tiny-box")]  # one pixel in the corner
    assert run([fraction, whole]) == [("error", "box-units")]


@pytest.mark.parametrize(
    ("size", "side", "tiny"),
    [(None, 4.0, False), ((40, 50), 5.0, True), ((40, 50), 7.0, False), ((640, 640), 2.5, True)],
)
def test_tiny_boxes_are_judged_at_training_size(size, side, tiny):
    reading = Reading(Path("data"), "coco", "detection", ("cat",))
    reading.images = [RawImage("0.jpg", None, None, "")]
    reading.objects = [RawObject(0, "cat", (9.0, 9.0, side, 20.0), None, False, "box")]
    found = run_checks(reading, [fact(0)], ValidateSettings(), size)
    assert ("tiny-box" in {item.check for item in found}) == tiny


def test_repeated_boxes_against_a_loop():
    random = np.random.default_rng(4)
    objects, expected = [], set()
    for image in range(30):
        boxes = [tuple(box) for box in random.integers(5, 9, (12, 4)) * 8.0]
        boxes[6:] = [tuple(np.add(box, random.normal(0, 0.5, 4))) for box in boxes[:6]]
        for second, two in enumerate(boxes):
            if any(iou(one, two) > 0.95 for one in boxes[:second]):
                expected.add(f"{image}, {second:02}")
        objects += [RawObject(image, "cat", box, None, False, f"{image}, {n:02}")
                    for n, box in enumerate(boxes)]  # fmt: skip
    reading = Reading(Path("data"), "coco", "detection", ("cat",))
    reading.images = [RawImage(f"{n}.jpg", None, None, "") for n in range(30)]
    reading.objects = objects
    facts = [fact(n, width=900, height=900) for n in range(30)]
    found = run_checks(reading, facts, ValidateSettings())
    assert {item.where for item in found if item.check == "duplicate-box"} == expected
    assert len(expected) > 50


def iou(one, two):
    wide = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    high = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)
