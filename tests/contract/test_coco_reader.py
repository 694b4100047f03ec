"""COCO as it is met in the wild, and as nobody should write it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.contract import file_findings
from components.contract.coco_reader import read_coco
from components.contract.findings import shown
from components.contract.reading import MAX_TABLE_BYTES, Reading

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}
BOX = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]


def content(images=(IMAGE,), annotations=(BOX,), categories=CATEGORIES) -> dict:
    return {
        "images": list(images),
        "annotations": list(annotations),
        "categories": list(categories),
    }


def write(root: Path, name: str, value: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def read(root: Path, value: object, classes=None) -> Reading:
    write(root, "annotations.json", value)
    (root / "a.jpg").write_bytes(b"x")
    return read_coco(root, classes)


def checks(reading: Reading) -> list[str]:
    return [finding.check for finding in reading.findings]


def test_plain(tmp_path):
    reading = read(tmp_path, content())
    assert reading.findings == []
    assert reading.classes == ("cat", "dog")  # by id; ids have gaps
    assert [image.path for image in reading.images] == ["a.jpg"]
    assert reading.images[0].size == (40.0, 30.0)
    (item,) = reading.objects
    assert (item.label, item.box, item.area) == ("cat", (1.0, 2.0, 3.0, 4.0), 12.0)


@pytest.mark.parametrize(
    ("json_name", "image_name", "split"),
    [
        ("annotations/instances_train.json", "train/a.jpg", "train"),
        ("annotations/instances_val2017.json", "val2017/a.jpg", "val"),
        ("annotations/instances_val2017.json", "images/val2017/a.jpg", "val"),
        ("annotations/valid.json", "images/val/a.jpg", "val"),
        ("annotations/instances_default.json", "images/a.jpg", None),
        ("annotations/all.json", "annotations/a.jpg", None),
        ("annotations.json", "a.jpg", None),
        ("test.json", "test/a.jpg", "test"),
        ("valid/_annotations.coco.json", "valid/a.jpg", "val"),
        ("_annotations.coco.json", "a.jpg", None),
    ],
)
def test_layouts(tmp_path, json_name, image_name, split):
    write(tmp_path, json_name, content())
    write(tmp_path, image_name, "x")
    reading = read_coco(tmp_path, None)
    assert reading.findings == []
    assert [(image.path, image.split) for image in reading.images] == [(image_name, split)]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert read(tmp_path, "\ufeff" + json.dumps(content())).findings == []
    assert checks(read(tmp_path, "\ufeff\ufeff{}")) == ["annotations-unreadable"]


def test_captions_beside_instances_are_not_read(tmp_path):
    write(tmp_path, "annotations/instances_train.json", content())
    write(tmp_path, "annotations/captions_train.json", {})
    write(tmp_path, "annotations/._instances_train.json", "\0")
    write(tmp_path, "train/a.jpg", "x")
    assert read_coco(tmp_path, None).findings == []


def test_ids_may_repeat_between_splits(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, f"annotations/instances_{split}.json", content())
        write(tmp_path, f"{split}/a.jpg", "x")
    reading = read_coco(tmp_path, None)
    assert reading.findings == []
    assert [reading.images[item.image].path for item in reading.objects] == [
        "train/a.jpg",
        "val/a.jpg",
    ]


@pytest.mark.parametrize(
    "other",
    [
        [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
        [{"id": 3, "name": "cat"}],
        [{"id": 3, "name": "cat"}, {"id": 10, "name": "dog"}],
    ],
)
def test_splits_must_agree_on_categories(tmp_path, other):
    write(tmp_path, "annotations/instances_train.json", content())
    write(tmp_path, "annotations/instances_val.json", content(categories=other))
    write(tmp_path, "train/a.jpg", "x")
    write(tmp_path, "val/a.jpg", "x")
    assert "categories-differ" in checks(read_coco(tmp_path, None))


def test_classes_from_the_parameters_give_the_order(tmp_path):
    assert read(tmp_path, content(), ["dog", "cat"]).classes == ("dog", "cat")


def test_classes_that_do_not_match_the_parameters(tmp_path):
    reading = read(tmp_path, content(), ["dog", "cow"])
    assert checks(reading) == ["class-unknown", "class-missing"]
    assert reading.objects == []


def box(**changes):
    return content(annotations=[BOX | changes])


def image(**changes):
    return content(images=[IMAGE | changes])


@pytest.mark.parametrize(
    ("value", "check"),
    [
        ("", "annotations-unreadable"),
        ("{", "annotations-unreadable"),
        ("[" * 100_000, "annotations-unreadable"),
        ('{"images": ' + "9" * 5000 + "}", "annotations-unreadable"),
        ([], "annotations-unreadable"),
        ({"images": [], "annotations": {}, "categories": []}, "annotations-unreadable"),
        (content(categories=[]), "no-classes"),
        (content(categories=[None, *CATEGORIES]), "category-broken"),
        (content(categories=[{"id": "1", "name": "x"}, *CATEGORIES]), "category-broken"),
        (content(categories=[{"id": 1}, *CATEGORIES]), "class-name"),
        (content(categories=[{"id": 1, "name": " "}, *CATEGORIES]), "class-name"),
        (content(categories=[{"id": 1, "name": "\ud800"}, *CATEGORIES]), "class-name"),
        (content(categories=[{"id": 3, "name": "cow"}, *CATEGORIES]), "duplicate-category-id"),
        (content(categories=[{"id": 1, "name": "cat"}, *CATEGORIES]), "duplicate-class"),
        (content(images=[3, IMAGE]), "image-row-broken"),
        (image(id="7"), "image-row-broken"),
        (image(file_name=None), "image-row-broken"),
        (image(width="40"), "image-row-broken"),
        (image(height=None), "image-row-broken"),
        (content(images=[IMAGE, IMAGE]), "duplicate-image-id"),
        (content(images=[IMAGE, IMAGE | {"id": 8}]), "duplicate-image"),
        (image(file_name="b.jpg"), "file-missing"),
        (image(file_name="x" * 5000), "file-missing"),
        (image(file_name="../a.jpg"), "path-escape"),
        (image(file_name="/etc/passwd"), "path-escape"),
        (image(file_name="a\0.jpg"), "path-escape"),
        (image(file_name="\ud800.jpg"), "path-escape"),
        (image(file_name="link.jpg"), "path-escape"),
        (content(annotations=[None]), "annotation-broken"),
        (box(id="1"), "annotation-broken"),
        (box(iscrowd=2), "annotation-broken"),
        (box(iscrowd=[]), "annotation-broken"),
        (content(annotations=[BOX, BOX]), "duplicate-annotation-id"),
        (box(image_id=8), "image-id-unknown"),
        (box(image_id=[7]), "image-id-unknown"),
        (box(image_id=7.5), "image-id-unknown"),
        (box(category_id=4), "class-unknown"),
        (box(category_id=None), "class-unknown"),
        (box(category_id=True), "class-unknown"),
        (box(bbox=None), "box-broken"),
        (box(bbox=[1, 2, 3]), "box-broken"),
        (box(bbox=[1, 2, 3, "4"]), "box-broken"),
        (box(bbox={"x": 1}), "box-broken"),
        (box(area="12"), "area-broken"),
        (box(area=math.nan), "area-broken"),
        (box(area=-1), "area-broken"),
        (box(segmentation=[[1, 2, 3]]), "segmentation-broken"),
        (box(segmentation=[[1, 2, 3, 4, 5, math.nan]]), "segmentation-broken"),
        (box(segmentation={"size": [1], "counts": []}), "segmentation-broken"),
        (box(segmentation="x"), "segmentation-broken"),
    ],
)
def test_a_defect_is_a_finding(tmp_path, value, check):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    reading = read(root, value)
    assert check in checks(reading)
    for finding in reading.findings:
        assert finding.severity == "error"
        assert finding.where.startswith("annotations.json")
        str(finding).encode()


@pytest.mark.parametrize(
    "segmentation", [[], [[0, 0, 4, 0, 4, 4]], {"size": [30, 40], "counts": "`U1"}]
)
def test_sound_segmentation(tmp_path, segmentation):
    assert read(tmp_path, box(segmentation=segmentation)).findings == []


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    write(tmp_path, "annotations.json", content())
    with (tmp_path / "annotations.json").open("r+b") as file:
        file.truncate(MAX_TABLE_BYTES + 1)  # sparse: it takes no room
    (finding,) = read_coco(tmp_path, None).findings
    assert finding.check == "annotations-unreadable"
    assert "at most 1024 MiB" in finding.message


def test_broken_rows_leave_the_others_as_they_are(tmp_path):
    """Rows are read by columns; each kind of fault stands between two sound rows."""
    faults = [3, {"image_id": 8}, {"category_id": 4}, {"bbox": [1]}, {"area": "x"}, {"id": 1}]
    rows = [BOX]
    for number, fault in enumerate(faults):
        broken = BOX | {"id": 100 + number} | fault if isinstance(fault, dict) else fault
        rows += [broken, BOX | {"id": 10 + number, "bbox": [number, 2, 3, 4.5], "iscrowd": 1}]
    reading = read(tmp_path, content(annotations=rows))
    where = [item.where.split(" of ")[0].split(": ")[1] for item in reading.objects]
    # Those of which only the area or the id is broken are used.
    assert where == [f"annotations[{n}]" for n in (0, 2, 4, 6, 8, 9, 10, 11, 12)]
    assert [item.box for item in reading.objects if item.is_crowd] == [
        (float(n), 2.0, 3.0, 4.5) for n in range(6)
    ]
    assert sorted((item.check, item.where.split(": ")[1]) for item in reading.findings) == [
        ("annotation-broken", "annotations[1]"),
        ("area-broken", "annotations[9]"),
        ("box-broken", "annotations[7]"),
        ("class-unknown", "annotations[5]"),
        ("duplicate-annotation-id", "annotations[11]"),
        ("image-id-unknown", "annotations[3]"),
    ]


def test_a_huge_integer_is_not_a_crash(tmp_path):
    text = json.dumps(box(bbox=[1, 2, 3, 0.5])).replace("0.5", "9" * 400)
    assert read(tmp_path, text).objects[0].box == (1.0, 2.0, 3.0, math.inf)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def rows(example: dict) -> st.SearchStrategy:
    """Rows like `example`, any value of which may be anything, or lack."""
    fields = {key: st.just(value) | anything for key, value in example.items()}
    return st.lists(st.fixed_dictionaries({}, optional=fields) | anything, max_size=4)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(images=rows(IMAGE), annotations=rows(BOX), categories=rows(CATEGORIES[0]))
def test_no_content_crashes_the_reader(tmp_path, images, annotations, categories):
    reading = read(
        tmp_path, content([IMAGE, *images], [BOX, *annotations], [*CATEGORIES, *categories])
    )
    for item in reading.objects:
        assert item.label in reading.classes
        assert 0 <= item.image < len(reading.images)
    for finding in reading.findings:
        str(finding).encode()


def test_shown_is_short_and_printable():
    for value in ("x" * 10**6, "a\nb\0", "\ud800", 10**5000, [1.5] * 99, {"a": 1}, math.nan):
        assert len(shown(value)) <= 300
        assert shown(value).isprintable()


@pytest.mark.parametrize(
    ("row", "group", "columns"),
    [
        ({}, None, None),
        ({"group": "a", "video_id": 4}, "a", None),
        ({"video_id": 4}, "4", None),
        ({"patient_id": 4.0}, "4", None),
        ({"group": None, "camera": "north", "hour": 7, "day": True}, None,
         {"camera": "north", "hour": 7, "day": True}),
        ({"license": 1, "coco_url": "u", "flickr_url": "u", "date_captured": "d"}, None, None),
        ({"tags": ["a"], "more": {}, "split": "x", "path": "/etc", "a\nb": 1}, None, None),
        ({"hour": math.nan}, None, {"hour": None}),
    ],
)  # fmt: skip
def test_groups_and_columns(tmp_path, row, group, columns):
    reading = read(tmp_path, image(**row))
    assert reading.findings == []
    assert (reading.images[0].group, reading.images[0].columns) == (group, columns)


def test_a_group_must_be_a_name(tmp_path):
    assert checks(read(tmp_path, image(group=["a"]))) == ["image-row-broken"]
    assert checks(read(tmp_path, image(**{f"k{n}": n for n in range(300)}))) == ["image-row-broken"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[90, 90, 99, 90, 99, 99]],
        {"size": [40, 30], "counts": "`U1"},
        {"size": [30, 40], "counts": "`U2"},
        {"size": [30, 40], "counts": "`"},
        {"size": [30, 40], "counts": "é"},
        {"size": [30, 40], "counts": [1200, 1]},
        {"size": [30, 40], "counts": [1300, -100]},
        {"size": [30, -40], "counts": []},
        {"size": [30, 40]},
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, True]],
    ],
)
def test_broken_segmentation(tmp_path, segmentation):
    reading = read(tmp_path, box(segmentation=segmentation))
    assert [(item.check, item.image) for item in reading.findings] == [
        ("segmentation-broken", "a.jpg")
    ]
    assert reading.objects[0].segmentation is None


@pytest.mark.parametrize("counts", [[600, 0, 600], [0, 1200], "`U1"])
def test_segmentation_is_kept_as_text(tmp_path, counts):
    mask = {"size": [30, 40], "counts": counts}
    (item,) = read(tmp_path, box(segmentation=mask)).objects
    assert json.loads(item.segmentation) == mask


def test_images_that_no_file_lists(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.txt", ".d.jpg", "more/e.png", "more/f.png"):
        write(tmp_path, name, "x")
    reading = read(tmp_path, content())
    assert [(item.check, item.where, item.value) for item in reading.findings] == [
        ("image-without-label", ".", "1"),
        ("image-without-label", "more", "2"),
    ]


@pytest.mark.parametrize(
    ("value", "images"),
    [
        (image(file_name="b.jpg"), ["b.jpg"]),
        (image(file_name="../b.jpg"), ["../b.jpg"]),
        (image(width="4"), ["a.jpg"]),
        (content(images=[IMAGE, IMAGE | {"file_name": "b.jpg"}]), ["b.jpg", "a.jpg"]),
        (content(images=[IMAGE, IMAGE | {"id": 8}]), ["a.jpg"]),
        (box(bbox=[1]), ["a.jpg"]),
        (box(category_id=4), ["a.jpg"]),
        (box(image_id=4), [""]),
    ],
)
def test_findings_name_the_image_to_leave_out(tmp_path, value, images):
    assert [item.image for item in read(tmp_path, value).findings] == images


def test_every_image_with_an_error_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(file_findings, "LISTED", 2)
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(5)]
    for n in range(5):
        write(tmp_path, f"{n}.jpg", "x")
    annotations = [BOX | {"id": n, "image_id": n % 5, "bbox": []} for n in range(10)]
    reading = read(tmp_path, content(images, annotations))
    found = [item for item in reading.findings if item.check == "box-broken"]
    assert {item.image for item in found} == {f"{n}.jpg" for n in range(5)}
    assert len(found) == 6 and "and 5 more" in found[-1].message
