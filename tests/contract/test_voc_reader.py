"""Pascal VOC as it is met in the wild, and as nobody should write it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.contract.reading import Reading
from components.contract.voc_reader import find_files, read_voc
from components.errors import DataError

BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6</ymax>"
CAT = f"<object><name>cat</name><bndbox>{BOX}</bndbox></object>"
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def xml(objects: str = CAT, size: str = SIZE, filename: str = "a.jpg") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def item(name: str = "cat", box: str = BOX, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def corners(*values: object) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, values, strict=False))


def write(root: Path, name: str, content: str | bytes = "x") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(root: Path, content: str | bytes, classes=None) -> Reading:
    """Read a root whose only image is a.jpg, described by `content`."""
    write(root, "JPEGImages/a.jpg")
    write(root, "Annotations/a.xml", content)
    return read_voc(root, classes)


def checks(reading: Reading) -> list[str]:
    return [finding.check for finding in reading.findings]


def test_plain(tmp_path):
    dog = item("dog", corners(10, 10, 20, 15), "<difficult>1</difficult><pose>Left</pose>")
    reading = read(tmp_path, xml(item("zebra") + dog))
    assert reading.findings == []
    assert (reading.format, reading.task) == ("voc", "detection")
    assert reading.classes == ("dog", "zebra")  # in the order of their text
    (image,) = reading.images
    assert (image.path, image.split, image.size) == ("JPEGImages/a.jpg", None, (40.0, 30.0))
    first, second = reading.objects
    # No 1 is taken or added: x = xmin, width = xmax - xmin.
    assert (first.label, first.box, first.is_crowd) == ("zebra", (1.0, 2.0, 3.0, 4.0), False)
    assert (second.label, second.box, second.is_crowd) == ("dog", (10.0, 10.0, 10.0, 5.0), True)


@pytest.mark.parametrize(
    ("xml_name", "image_name", "split"),
    [
        ("Annotations/a.xml", "JPEGImages/a.jpg", None),
        ("annotations/a.xml", "images/a.png", None),
        ("Annotations/a.XML", "a.JPG", None),
        ("annotations/valid/a.xml", "images/valid/a.jpg", "val"),
        ("annotations/train/a.xml", "train/a.jpg", "train"),
        ("annotations/train/a.xml", "images/a.jpg", "train"),
        ("train/a.xml", "train/a.jpg", "train"),
        ("test/Annotations/a.xml", "test/JPEGImages/a.jpg", "test"),
        ("a.xml", "a.jpg", None),
        ("images/a.xml", "images/a.jpg", None),
    ],
)
def test_layouts(tmp_path, xml_name, image_name, split):
    write(tmp_path, xml_name, xml())
    write(tmp_path, image_name)
    assert find_files(tmp_path) == [tmp_path / xml_name]
    reading = read_voc(tmp_path)
    assert reading.findings == []
    assert [(image.path, image.split) for image in reading.images] == [(image_name, split)]
    assert reading.splits == ({split} if split else set())


def test_no_files(tmp_path):
    write(tmp_path, "annotations/instances_train.json", "{}")
    assert find_files(tmp_path) == []
    with pytest.raises(DataError, match="no Pascal VOC file"):
        read_voc(tmp_path)


@pytest.mark.parametrize(
    ("xml_name", "filename", "images", "chosen"),
    [
        ("a.xml", "a.png", ["a.jpg", "a.png"], "a.png"),  # the extension decides
        ("a.xml", "", ["a.jpg"], "a.jpg"),
        ("a.xml", "gone.jpg", ["a.jpg"], "a.jpg"),  # a renamed image with a renamed XML
        ("1.xml", "b.jpg", ["b.jpg"], "b.jpg"),
        ("1.xml", "b", ["b.jpg"], "b.jpg"),
        ("1.xml", "JPEGImages/b.jpg", ["b.jpg"], "b.jpg"),
        ("1.xml", "a.b", ["a.b.jpg"], "a.b.jpg"),
    ],
)
def test_which_image_an_xml_describes(tmp_path, xml_name, filename, images, chosen):
    for name in images:
        write(tmp_path, f"JPEGImages/{name}")
    write(tmp_path, f"Annotations/{xml_name}", xml(filename=filename))
    assert [image.path for image in read_voc(tmp_path).images] == [f"JPEGImages/{chosen}"]


def with_lists(root: Path, names: str, **lists: str) -> Reading:
    for name in names:
        write(root, f"JPEGImages/{name}.jpg")
        write(root, f"Annotations/{name}.xml", xml(filename=f"{name}.jpg"))
    for name, content in lists.items():
        write(root, f"ImageSets/Main/{name}.txt", content)
    return read_voc(root)


def test_lists_give_the_splits(tmp_path):
    lists = {"train": "a\n b \n", "val": "c.jpg\r\n", "test": "d  1\n", "trainval": "a\nb\nc"}
    reading = with_lists(tmp_path, "abcd", **lists, cat_train="a -1\nd 1\n")
    assert reading.findings == []
    assert [image.split for image in reading.images] == ["train", "train", "val", "test"]
    assert reading.splits == {"train", "val", "test"}


def test_trainval_is_train_where_there_is_no_train(tmp_path):
    reading = with_lists(tmp_path, "ab", trainval="a", test="b")
    assert [image.split for image in reading.images] == ["train", "test"]


@pytest.mark.parametrize(
    ("lists", "check", "image"),
    [
        ({"train": "a\nx", "val": "b"}, "file-missing", "x"),
        ({"train": "a", "val": "a\nb"}, "duplicate-image", "JPEGImages/a.jpg"),
        ({"train": "a\na\n", "val": "b"}, "duplicate-image", "JPEGImages/a.jpg"),
        ({"train": "a"}, "folder-ignored", ""),  # b is on no list
        ({"train": "a\nb\n../../c"}, "path-escape", ""),
        ({"train": "a\nb\n/etc/passwd"}, "path-escape", ""),
        ({"train": "a\nb\n\0"}, "path-escape", ""),
        ({"train": "a\nb", "val": "\udcff".encode("utf-8", "surrogateescape")}, None, ""),
    ],
)
def test_faults_of_lists(tmp_path, lists, check, image):
    reading = with_lists(tmp_path, "ab", **lists)
    assert [(f.check, f.image) for f in reading.findings] == [
        (check or "annotations-unreadable", image)
    ]


def test_labels_and_images_without_each_other(tmp_path):
    reading = with_lists(tmp_path, "abc")
    (tmp_path / "JPEGImages/a.jpg").unlink()
    (tmp_path / "Annotations/b.xml").unlink()
    write(tmp_path, "JPEGImages/c.heic")
    reading = read_voc(tmp_path)
    found = {(finding.check, finding.severity, finding.image) for finding in reading.findings}
    assert found == {
        ("label-without-image", "warning", "a.jpg"),
        ("image-without-label", "warning", "JPEGImages/b.jpg"),
        ("unsupported-extension", "warning", ""),
    }
    assert [image.path for image in reading.images] == ["JPEGImages/c.jpg"]


def test_classes_from_the_parameters(tmp_path):
    content = xml(item("dog") + item("cat"))
    assert read(tmp_path, content, ["dog", "cat"]).classes == ("dog", "cat")
    reading = read(tmp_path, content, ["cat", "cow"])
    assert sorted(checks(reading)) == ["class-missing", "class-unknown"]
    assert [row.label for row in reading.objects] == ["cat"]
    unknown = next(row for row in reading.findings if row.check == "class-unknown")
    assert (unknown.image, unknown.value) == ("JPEGImages/a.jpg", "dog")


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    + "]><annotation><filename>&j;</filename></annotation>"
)
OUTSIDE = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + xml(item("&a;"))


@pytest.mark.parametrize(
    ("content", "check"),
    [
        ("", "annotations-unreadable"),
        ("<annotation>", "annotations-unreadable"),
        ("no xml", "annotations-unreadable"),
        ("<html></html>", "annotations-unreadable"),
        (BOMB, "annotations-unreadable"),
        (OUTSIDE, "annotations-unreadable"),
        ('<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd">' + xml(), "annotations-unreadable"),
        ("<annotation>" + "<a>" * 100_000, "annotations-unreadable"),
        ("<annotation>&x;</annotation>", "annotations-unreadable"),
        (xml() + "\0", "annotations-unreadable"),
        (xml(item("a\0b")), "annotations-unreadable"),
        (b"<annotation>\xff</annotation>", "annotations-unreadable"),
        ('<?xml version="1.0" encoding="utf-16"?>' + xml(), "annotations-unreadable"),
        ('<?xml version="1.0" encoding="rot13"?>' + xml(), "annotations-unreadable"),
        ('<?xml version="1.0" encoding="gbk"?>' + xml(), "annotations-unreadable"),
        (b"<annotation>" + b" " * 16_000_000 + b"</annotation>", "annotations-unreadable"),
        (xml("<object/>" * 100_001), "annotations-unreadable"),
        (xml("<a/>" * 1_000_001), "annotations-unreadable"),
        (xml(filename="../../a.jpg"), "path-escape"),
        (xml(filename="/etc/passwd"), "path-escape"),
        (xml(filename="C:/a.jpg"), "path-escape"),
        (xml(size="<size><width>x</width></size>"), "image-row-broken"),
        (xml(size="<size><width>40</width></size>"), "image-row-broken"),
        (xml("<object/>"), "class-name"),
        (xml(item("")), "class-name"),
        (xml(item("a&#10;b")), "class-name"),
        (xml(item(more="<name>dog</name>")), "annotation-broken"),
        (xml(item(box=BOX + BOX)), "annotation-broken"),
        (xml(item(more="<difficult>2</difficult>")), "annotation-broken"),
        (xml(item(more="<difficult>no</difficult>")), "annotation-broken"),
        (xml(item(box="")), "box-broken"),
        (xml(item(box=corners(1, 2, 3))), "box-broken"),
        (xml(item(box=corners(1, 2, 3, "four"))), "box-broken"),
        (xml(item(box=corners(1, 2, 3, "1_0"))), "box-broken"),
        (xml(item(box=corners(1, 2, 3, "\u0661"))), "box-broken"),
        (xml(item(box=corners(1, 2, 3, "9" * 10**6))), "box-broken"),
        (xml(f"<object><name>cat</name><part>{BOX}</part></object>"), "box-broken"),
    ],
)
def test_a_defect_is_a_finding(tmp_path, content, check):
    reading = read(tmp_path, content)
    assert check in checks(reading)
    for finding in reading.findings:
        if finding.check not in ("no-classes", "class-unused"):
            assert finding.severity == "error"
            assert finding.where.startswith("Annotations/a.xml")
            assert finding.image == "JPEGImages/a.jpg"
        assert "root:" not in str(finding)  # nothing of /etc/passwd
        str(finding).encode()


@pytest.mark.parametrize(
    ("values", "box"),
    [
        ((5, 5, 2, 2), (5.0, 5.0, -3.0, -3.0)),  # for the check of empty boxes
        ((1, 2, "inf", "1e308"), (1.0, 2.0, math.inf, 1e308)),
        ((0, 0, 1, 1), (0.0, 0.0, 1.0, 1.0)),
        ((" 1.5 ", "2.25", 3, "4e0"), (1.5, 2.25, 1.5, 1.75)),
    ],
)
def test_numbers_are_kept_as_found(tmp_path, values, box):
    assert read(tmp_path, xml(item(box=corners(*values)))).objects[0].box == box


def test_latin_text_is_read_by_its_declaration(tmp_path):
    content = ('<?xml version="1.0" encoding="ISO-8859-1"?>' + xml(item("Löwe"))).encode("latin-1")
    assert read(tmp_path, content).classes == ("Löwe",)


def test_names_of_parts_are_not_names_of_objects(tmp_path):
    part = f"<part><name>head</name><bndbox>{BOX}</bndbox></part>"
    reading = read(tmp_path, xml(item(more=part)))
    assert reading.findings == []
    assert reading.classes == ("cat",)


def test_many_faults_of_a_file_are_counted(tmp_path):
    reading = read(tmp_path, xml("<object><name>a</name></object>" * 5000))
    rows = [finding for finding in reading.findings if finding.check == "box-broken"]
    assert len(rows) == 101
    assert "4900 more" in rows[-1].message


def test_links_out_and_pipes(tmp_path):
    root = tmp_path / "root"
    write(tmp_path, "secret.xml", xml(item("secret")))
    write(tmp_path, "secret.jpg")
    write(root, "JPEGImages/a.jpg")
    write(root, "Annotations/a.xml", xml())
    (root / "Annotations/link.xml").symlink_to(tmp_path / "secret.xml")
    (root / "Annotations/circle.xml").symlink_to("circle.xml")
    (root / "JPEGImages/link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(root / "Annotations/pipe.xml")
    reading = read_voc(root)
    assert reading.classes == ("cat",)
    assert sorted((finding.check, finding.where) for finding in reading.findings) == [
        ("annotations-unreadable", "Annotations/pipe.xml"),
        ("path-escape", "Annotations/circle.xml"),
        ("path-escape", "Annotations/link.xml"),
        ("path-escape", "JPEGImages/link.jpg"),
    ]


def test_a_linked_folder_is_not_entered(tmp_path):
    write(tmp_path, "out/a.xml", xml())
    root = tmp_path / "root"
    root.mkdir()
    (root / "Annotations").symlink_to(tmp_path / "out")
    assert find_files(root) == []


def test_odd_names(tmp_path):
    for name in ("a\nb", "😀", "é" * 120, "a..b", "a b"):
        write(tmp_path, f"JPEGImages/{name}.jpg")
        write(tmp_path, f"Annotations/{name}.xml", xml())
    write(tmp_path, "JPEGImages/back\\slash.jpg")
    write(tmp_path, os.fsdecode(b"JPEGImages/\xff.jpg"))
    reading = read_voc(tmp_path)
    assert len(reading.images) == 5
    assert checks(reading) == ["path-escape", "path-escape"]
    for finding in reading.findings:
        (str(finding) + finding.image).encode()


FAST = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TAGS = ("annotation", "object", "name", "bndbox", "xmin", "size", "width", "filename", "part")
TREES = st.recursive(
    st.text(max_size=8).map(lambda text: text.replace("<", "").replace("&", "")),
    lambda inner: st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=4)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=12,
)


@FAST
@given(
    content=st.binary(max_size=200)
    | TREES.map(lambda text: xml(CAT + text).encode("utf-8", "replace"))
)
def test_no_content_crashes_the_reader(tmp_path, content):
    reading = read(tmp_path, content)
    assert reading.findings or len(reading.images) == 1
    for row in reading.objects:
        assert row.label in reading.classes
        assert 0 <= row.image < len(reading.images)
    for finding in reading.findings:
        str(finding).encode()


@FAST
@given(
    boxes=st.lists(
        st.tuples(*[st.floats(0, 4000, allow_nan=False)] * 4).filter(lambda b: max(b) > 1),
        max_size=5,
    )
)
def test_boxes_come_back_as_written(tmp_path, boxes):
    objects = "".join(item(box=corners(*map(repr, box))) for box in boxes)
    reading = read(tmp_path, xml(objects))
    assert [row.box for row in reading.objects] == [
        (left, top, right - left, bottom - top) for left, top, right, bottom in boxes
    ]
