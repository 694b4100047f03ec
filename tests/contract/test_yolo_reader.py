"""YOLO text as it is met in the wild, and as nobody should write it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.contract.reading import Reading
from components.contract.yolo_labels import to_pixels
from components.contract.yolo_reader import find_files, label_path, read_yolo
from components.errors import DataError

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
LINE = "1 0.5 0.5 0.25 0.5"


def write(root: Path, name: str, content: str | bytes = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(root: Path, name: str, size: tuple[int, int] = (40, 30), orientation: int = 1) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def read(root: Path, labels: str | bytes = LINE, yaml: str | bytes = YAML, classes=None) -> Reading:
    """Read a root with the images train/a.jpg, which has `labels`, and val/b.jpg."""
    write(root, "data.yaml", yaml)
    picture(root, "images/train/a.jpg")
    picture(root, "images/val/b.jpg")
    write(root, "labels/train/a.txt", labels)
    write(root, "labels/val/b.txt", "0 0.5 0.5 1 1")
    return read_yolo(root, classes)


def checks(reading: Reading) -> list[str]:
    return [finding.check for finding in reading.findings]


def test_plain(tmp_path):
    reading = read(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.125 0.1 0.25 0.2\r\n")
    assert reading.findings == []
    assert (reading.format, reading.task, reading.classes) == ("yolo", "detection", ("cat", "dog"))
    assert [(row.path, row.split, row.size) for row in reading.images] == [
        ("images/train/a.jpg", "train", None),
        ("images/val/b.jpg", "val", None),
    ]
    assert [(row.image, row.label, row.box) for row in reading.objects] == [
        (0, "dog", (15.0, 7.5, 10.0, 15.0)),
        (0, "cat", (0.0, 0.0, 10.0, 6.0)),
        (1, "cat", (0.0, 0.0, 40.0, 30.0)),
    ]
    assert reading.objects[1].where == "labels/train/a.txt: line 3"
    assert reading.objects[1].segmentation is None


def test_polygons_become_boxes_and_are_kept(tmp_path):
    reading = read(tmp_path, "0 0.25 0.1 0.5 0.2 0.25 0.5")
    assert reading.findings == []
    item = reading.objects[0]
    assert item.box == (10.0, 3.0, 10.0, 12.0)
    assert json.loads(item.segmentation) == [[10.0, 3.0, 20.0, 6.0, 10.0, 15.0]]


def test_keypoints_are_left_out(tmp_path):
    reading = read(tmp_path, LINE + " 0.5 0.5 2 0.1 0.1 1", YAML + "kpt_shape: [2, 3]\n")
    assert reading.objects[0].box == (15.0, 7.5, 10.0, 15.0)


def test_sizes_are_those_of_the_upright_image(tmp_path):
    read(tmp_path)
    picture(tmp_path, "images/train/a.jpg", (30, 40), orientation=6)
    assert read_yolo(tmp_path).objects[0].box == (15.0, 7.5, 10.0, 15.0)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/x/a.b.png", "train/labels/x/a.b.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("images", "images.txt"),
    ],
)
def test_label_path(image, label):
    assert label_path(image) == label


@pytest.mark.parametrize(
    ("files", "image", "split"),
    [
        ({"labels/train/a.txt": LINE}, "images/train/a.jpg", "train"),
        ({"labels/val2/a.txt": LINE, "labels/valid/a.txt": LINE}, "images/valid/a.jpg", "val"),
        ({"labels/train/deep/a.txt": LINE}, "images/train/deep/a.jpg", "train"),
        ({"train/labels/a.txt": LINE}, "train/images/a.jpg", "train"),
        ({"labels/a.txt": LINE}, "images/a.jpg", None),
        ({"labels/a.txt": LINE, "val.txt": "./images/a.jpg\n"}, "images/a.jpg", "val"),
        ({"data.yaml": "train: images", "labels/a.txt": LINE}, "images/a.jpg", "train"),
        ({"data.yaml": "train: ../x/images", "x/labels/a.txt": LINE}, "x/images/a.jpg", "train"),
        ({"data.yaml": "path: x\nval: [img]", "x/img/a.txt": LINE}, "x/img/a.jpg", "val"),
        (
            {"data.yaml": "path: .\ntest: t.txt", "t.txt": "d/a.jpg", "d/a.txt": LINE},
            "d/a.jpg",
            "test",
        ),
        ({"data.yml": "names: [a, b]", "labels/train/a.txt": LINE}, "images/train/a.jpg", "train"),
        ({"data.yaml": "validation: .\n", "a.txt": LINE}, "a.jpg", "val"),
    ],
)
def test_layouts(tmp_path, files, image, split):
    for name, content in files.items():
        write(tmp_path, name, content)
    picture(tmp_path, image)
    reading = read_yolo(tmp_path, ["cat", "dog"])
    names = {finding.check for finding in reading.findings}
    assert names <= {"class-unknown", "class-missing"}  # of the names a, b
    assert [(row.path, row.split) for row in reading.images] == [(image, split)]
    if not names:
        assert [(row.label, row.box) for row in reading.objects] == [
            ("dog", (15.0, 7.5, 10.0, 15.0))
        ]


def test_find_files(tmp_path):
    assert find_files(tmp_path) == []
    write(tmp_path, "images/train/a.jpg")
    write(tmp_path, "labels/classes.txt")
    assert find_files(tmp_path) == []
    with pytest.raises(DataError, match="no YOLO data"):
        read_yolo(tmp_path)
    write(tmp_path, "labels/train/a.txt")
    assert find_files(tmp_path) == [tmp_path / "labels/train/a.txt"]
    write(tmp_path, "data.yaml")
    assert find_files(tmp_path) == [tmp_path / "data.yaml"]


def test_an_empty_label_file_is_background(tmp_path):
    reading = read(tmp_path, "")
    assert reading.findings == []
    assert [row.image for row in reading.objects] == [1]


@pytest.mark.parametrize(("others", "words"), [(0, "none of the images"), (1, "such as")])
def test_images_without_a_label_file_are_background_and_reported(tmp_path, others, words):
    read(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    for number in range(others):
        picture(tmp_path, f"images/train/c{number}.jpg")
        write(tmp_path, f"labels/train/c{number}.txt", LINE)
    reading = read_yolo(tmp_path)
    (finding,) = reading.findings
    assert (finding.check, finding.severity, finding.value) == (
        *("image-without-label", "warning", "1"),
    )
    assert words in finding.message
    assert "images/train/a.jpg" in finding.message
    assert len(reading.images) == 2 + others


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("../datasets/root", "images/train"),  # ultralytics: from its own folder of data sets
        ("datasets/root", "images/train"),
        ("root", "images/train"),
        ("../root", "images/train"),
        ("../root/images", "train"),
        ("{root}", "images/train"),
        ("{root}/images", "{root}/images/train"),
        ("images", "../images/train"),
        ("images", "train"),
        ("elsewhere/..", "images/../images/train"),
        (".", "../images/train"),  # Roboflow: from a folder of the data
    ],
)
def test_paths_of_data_yaml_that_lead_into_the_data(tmp_path, path, train):
    root = tmp_path / "root"
    val = train.replace("train", "val")
    yaml = f"path: {path}\ntrain: {train}\nval: {val}\nnames: [cat, dog]".format(root=root)
    reading = read(root, yaml=yaml)
    assert [str(finding) for finding in reading.findings] == []
    assert [row.path for row in reading.images] == ["images/train/a.jpg", "images/val/b.jpg"]


def test_an_unreadable_image_is_kept_without_objects(tmp_path):
    read(tmp_path)
    write(tmp_path, "images/train/a.jpg", "no image")
    reading = read_yolo(tmp_path)
    assert reading.findings == []  # the pass over the pixels reports it
    assert [row.image for row in reading.objects] == [1]


def test_a_label_file_without_an_image(tmp_path):
    read(tmp_path)
    write(tmp_path, "labels/train/gone.txt", LINE)
    write(tmp_path, "labels/train/deep/gone.txt", LINE)
    found = [(f.check, f.severity, f.where) for f in read_yolo(tmp_path).findings]
    assert found == [
        ("label-without-image", "warning", "labels/train/gone.txt"),
        ("label-without-image", "warning", "labels/train/deep/gone.txt"),
    ]


@pytest.mark.parametrize("side", [1, 40, 333, 640, 4000, 7001, 65000])
def test_whole_pixels_come_back_from_six_decimals(side):
    for start in {0, side // 3, side - 1}:
        for width in {1, side // 2 or 1, side - start}:
            for digits in (6, 7, 9, 16):
                centre = float(f"{(start + width / 2) / side:.{digits}f}")
                extent = float(f"{width / side:.{digits}f}")
                found = to_pixels(centre - extent / 2, side), to_pixels(extent, side)
                assert found == (start, width)


@pytest.mark.parametrize(
    ("fraction", "side", "pixels"),
    [(0.1234567, 640, 79.012), (0.5, 333, 166.5), (1 / 3, 100, 33.333), (-0.1, 40, -4.0)],
)
def test_other_edges_are_rounded_to_a_thousandth(fraction, side, pixels):
    assert to_pixels(fraction, side) == pixels


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("[cat, dog]", ("cat", "dog")),
        ("{1: dog, 0: cat}", ("cat", "dog")),
        ("[no, 1]", ("no", "1")),  # not False, not a number
        ("\n  - yes\n  - 2024-01-01", ("yes", "2024-01-01")),
        ("\n  0: cat\n  1: ~", ("cat", "~")),
    ],
)
def test_names(tmp_path, names, found):
    reading = read(tmp_path, yaml=f"train: images/train\nval: images/val\nnc: 2\nnames: {names}")
    assert reading.findings == []
    assert reading.classes == found


def test_names_from_a_file(tmp_path):
    write(tmp_path, "classes.txt", "cat\r\ndog\n\n")
    reading = read(tmp_path, yaml="train: images/train\nval: images/val")
    assert (reading.findings, reading.classes) == ([], ("cat", "dog"))


def test_classes_from_the_parameters(tmp_path):
    assert read(tmp_path, classes=["dog", "cat"]).classes == ("dog", "cat")
    reading = read(tmp_path, classes=["dog", "cow"])
    assert checks(reading) == ["class-unknown", "class-missing"]
    assert [row.label for row in reading.objects] == ["dog"]


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("1", "box-broken"),
        ("1 0.5 0.5 0.5", "box-broken"),
        ("1 0.5 0.5 0.5 0.5 0.9", "box-broken"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "box-broken"),
        ("cat 0.5 0.5 0.5 0.5", "class-unknown"),
        ("0.5 0.5 0.5 0.5 0.5", "class-unknown"),
        ("1 0.5 0.5 0.5 x", "box-broken"),
        ("1 0.5 0.5 0.5 0_5", "box-broken"),
        ("1,0.5,0.5,0.5,0.5", "box-broken"),
        ("\0", "box-broken"),
        ("9" * 10**6, "box-broken"),
        ("1 " + "0.5 " * 300_000, "box-broken"),
        ("2 0.5 0.5 0.5 0.5", "class-unknown"),
        ("-1 0.5 0.5 0.5 0.5", "class-unknown"),
        ("999999999999 0.5 0.5 0.5 0.5", "class-unknown"),
        (b"\xff\xfe1\0 \0", "annotations-unreadable"),
        (b"1 0.5 0.5 0.5 \xff", "annotations-unreadable"),
        ("\n" * 5_000_000, "annotations-unreadable"),
    ],
)
def test_a_defect_of_a_line_is_a_finding(tmp_path, line, check):
    reading = read(tmp_path, line)
    assert checks(reading) == [check]
    (finding,) = reading.findings
    assert finding.severity == "error"
    assert finding.where.startswith("labels/train/a.txt")
    assert finding.image == "images/train/a.jpg"
    str(finding).encode()
    assert [row.image for row in reading.objects] == [1]
    assert len(reading.images) == 2


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("1 1.3 0.5 0.2 0.2", (48.0, 12.0, 8.0, 6.0)),  # outside; the checks say so
        ("1 0.5 0.5 0 0.2", (20.0, 12.0, 0.0, 6.0)),
        ("1.0 0.5 0.5 -0.5 .5", (30.0, 7.5, -20.0, 15.0)),
    ],
)
def test_boxes_that_the_checks_judge_are_kept(tmp_path, line, box):
    reading = read(tmp_path, line)
    assert reading.findings == []
    assert reading.objects[0].box == box


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("yaml", "check"),
    [
        ("", "annotations-unreadable"),
        ("[1, 2]", "annotations-unreadable"),
        ("names: [a", "annotations-unreadable"),
        ("names: [a]\nnames: [b]", "annotations-unreadable"),
        ("names: {0: a, 0: b}", "annotations-unreadable"),
        ("names: !!python/object/apply:os.system ['true']", "annotations-unreadable"),
        ("names: !x [a]", "annotations-unreadable"),
        (BOMB, "annotations-unreadable"),
        ("[" * 100_000, "annotations-unreadable"),
        ("{" * 100_000, "annotations-unreadable"),
        ("? " * 50_000, "annotations-unreadable"),
        ("? [a]\n: b", "annotations-unreadable"),
        ("a: \0", "annotations-unreadable"),
        (b"names: [\xff]", "annotations-unreadable"),
        ("# " + "x" * 300_000, "annotations-unreadable"),
        ("names: 3", "annotations-unreadable"),
        ("path: [a]", "annotations-unreadable"),
        ("kpt_shape: 3", "annotations-unreadable"),
        (YAML + "nc: 3", "categories-differ"),
        (YAML + "nc: [2]", "categories-differ"),
        ("names: [cat, cat]", "duplicate-class"),
        ("names: [cat, '']", "class-name"),
        ("names: [cat, [dog]]", "class-name"),
        ('names: [cat, "a\\0b"]', "class-name"),
        ("names: {0: cat, 2: dog}", "category-broken"),
        ("names: {x: cat}", "category-broken"),
        ("names: {0: cat, 00: dog}", "duplicate-category-id"),
        ("names: []", "no-classes"),
        ("train: images/train", "no-classes"),
        ("train: 7/8\nnames: [cat, dog]", "annotations-unreadable"),
        ("train: {a: b}\nnames: [cat, dog]", "annotations-unreadable"),
        (f"train: {'x' * 5000}\nnames: [cat, dog]", "annotations-unreadable"),
        ("test: images/test\nnames: [cat, dog]", "folder-ignored"),
        (YAML + "path: /etc", "path-escape"),
        (YAML + "path: ../other", "path-escape"),
        (YAML + "path: /other/root", "path-escape"),
        (YAML + "path: '..\\root'", "path-escape"),
        (YAML + "path: datasets/mine", "folder-ignored"),
        ("train: ../out\nnames: [cat, dog]", "path-escape"),
        ("train: images/train\nval: ../images/val\nnames: [cat, dog]", "path-escape"),
        ("train: ../../images/train\nnames: [cat, dog]", "path-escape"),
        ("path: images\ntrain: ../../out\nnames: [cat, dog]", "path-escape"),
        ("train: images/../../out\nnames: [cat, dog]", "path-escape"),
        ("train: /etc\nnames: [cat, dog]", "path-escape"),
        ('train: "C:\\\\data"\nnames: [cat, dog]', "path-escape"),
        ("train: link\nnames: [cat, dog]", "path-escape"),
        ("train: images/train\nval: images/train\nnames: [cat, dog]", "duplicate-image"),
    ],
)
def test_a_defect_of_data_yaml_is_a_finding(tmp_path, yaml, check):
    picture(tmp_path, "out/secret.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "out")
    reading = read(root, yaml=yaml)
    assert check in checks(reading)
    assert not any("secret" in row.path for row in reading.images)
    for finding in reading.findings:
        str(finding).encode()


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("../secret.jpg", "path-escape"),
        ("/etc/passwd", "path-escape"),
        ("images/link.jpg", "path-escape"),
        ("images/train/\0.jpg", "path-escape"),
        ("images/train/gone.jpg", "file-missing"),
        ("x" * 5000 + ".jpg", "file-missing"),
        ("data.yaml", "file-missing"),
        ("images/train/a.jpg", "duplicate-image"),
        (b"\xff", "annotations-unreadable"),
    ],
)
def test_a_defect_of_a_list_file_is_a_finding(tmp_path, line, check):
    root = tmp_path / "root"
    picture(tmp_path, "secret.jpg")
    (root / "images").mkdir(parents=True)
    (root / "images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    line = line if isinstance(line, bytes) else line.encode()
    write(root, "train.txt", b"images/train/a.jpg\n" + line)
    reading = read(root, yaml="train: train.txt\nval: images/val\nnames: [cat, dog]")
    assert check in checks(reading)
    assert {row.path for row in reading.images} <= {"images/train/a.jpg", "images/val/b.jpg"}


def test_links_circles_and_pipes(tmp_path):
    root = tmp_path / "root"
    read(root)
    write(tmp_path, "secret.txt", LINE)
    for name in "cd":
        picture(root, f"images/train/{name}.jpg")
    (root / "labels/train/c.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(root / "labels/train/d.txt")
    (root / "images/train/again").symlink_to(root / "images")
    reading = read_yolo(root)
    assert sorted((finding.check, finding.where) for finding in reading.findings) == [
        ("annotations-unreadable", "labels/train/d.txt"),
        ("image-without-label", "data.yaml: train"),  # whose label file leads out
        ("path-escape", "images/train/again"),
        ("path-escape", "labels/train/c.txt"),
    ]
    assert len(reading.objects) == 2


FAST = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TOKENS = st.sampled_from(["0", "1", "-1", "0.5", "nan", "inf", "1e308", "x", "", "\t", "7", "\x85"])
LINES = st.lists(TOKENS, max_size=9).map(" ".join)
VALUES = st.recursive(
    st.text(max_size=6) | st.integers() | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@FAST
@given(
    labels=st.binary(max_size=100) | st.lists(LINES, max_size=6).map(lambda rows: "\n".join(rows)),
    content=st.none()
    | st.binary(max_size=100)
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("path", "train", "val", "names", "nc"), VALUES)
    ).map(json.dumps),
)
def test_no_content_crashes_the_reader(tmp_path, labels, content):
    reading = read(tmp_path, labels, YAML if content is None else content)
    for row in reading.objects:
        assert row.label in reading.classes
        assert len(row.box) == 4
    for finding in reading.findings:
        (str(finding) + finding.image).encode()


@FAST
@given(data=st.data(), width=st.integers(1, 30_000), height=st.integers(1, 30_000))
def test_whole_pixel_boxes_survive_six_decimals(data, width, height):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    wide = data.draw(st.integers(1, width - left))
    high = data.draw(st.integers(1, height - top))
    x, y, w, h = (
        float(f"{value:.6f}")
        for value in (
            (left + wide / 2) / width,
            (top + high / 2) / height,
            wide / width,
            high / height,
        )
    )
    found = (
        to_pixels(x - w / 2, width),
        to_pixels(y - h / 2, height),
        to_pixels(w, width),
        to_pixels(h, height),
    )
    assert found == (left, top, wide, high)
