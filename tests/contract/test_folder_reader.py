from __future__ import annotations

import os

import pytest

from components.contract.folder_reader import read_folder
from components.contract.readers import read_dataset
from components.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def rows(reading):
    return [
        (reading.images[item.image].path, reading.images[item.image].split, item.label)
        for item in reading.objects
    ]


def test_without_splits(tmp_path):
    touch(tmp_path, "dog/2.png", "dog/1.JPG", "cat/deep/er/1.webp", "LICENSE", "dog/.hidden.jpg")
    reading = read_folder(tmp_path, None)
    assert reading.findings == []
    assert reading.classes == ("cat", "dog")
    assert rows(reading) == [
        ("cat/deep/er/1.webp", None, "cat"),
        ("dog/1.JPG", None, "dog"),
        ("dog/2.png", None, "dog"),
    ]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_with_splits(tmp_path, val):
    touch(tmp_path, "train/dog/1.jpg", f"{val}/dog/1.jpg", "test/dog/1.jpg")
    reading = read_folder(tmp_path, None)
    assert sorted((split, label) for _, split, label in rows(reading)) == [
        ("test", "dog"),
        ("train", "dog"),
        ("val", "dog"),
    ]
    assert reading.splits == {"train", "val", "test"}


def test_splits_without_train_are_no_classes(tmp_path):
    touch(tmp_path, "val/dog/1.jpg", "test/dog/1.jpg")
    reading = read_folder(tmp_path, None)
    assert (reading.splits, reading.classes) == ({"val", "test"}, ("dog",))


@pytest.mark.parametrize("other", ["car/1.jpg", "test/1.jpg"])
def test_train_and_test_may_be_classes(tmp_path, other):
    touch(tmp_path, "train/1.jpg", other)  # a train on rails
    assert read_folder(tmp_path, None).classes == tuple(sorted([other[:-6], "train"]))


def test_order_of_classes_from_the_parameters(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    assert read_folder(tmp_path, ["dog", "cat"]).classes == ("dog", "cat")
    reading = read_folder(tmp_path, ["dog", "cow"])
    assert [finding.check for finding in reading.findings] == ["class-unknown", "class-missing"]
    assert rows(reading) == [("dog/1.jpg", None, "dog")]


@pytest.mark.parametrize(
    ("names", "check", "severity"),
    [
        (["cat/notes.docx"], "unsupported-extension", "warning"),
        (["loose.jpg"], "image-without-label", "warning"),
        ([" cat/1.jpg"], "class-name", "error"),
        (["Cat/1.jpg"], "class-names-alike", "warning"),
        (["train/cat/1.jpg", "extra/cat/1.jpg"], "folder-ignored", "warning"),
    ],
)
def test_oddities_are_reported(tmp_path, names, check, severity):
    touch(tmp_path, "cat/0.jpg", *names)
    findings = read_folder(tmp_path, None).findings
    assert (check, severity) in [(finding.check, finding.severity) for finding in findings]


def test_links_do_not_lead_out(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "root/cat/0.jpg")
    (tmp_path / "root/cat/file.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "root/cat/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/cat/circle").symlink_to(tmp_path / "root")
    (tmp_path / "root/cat/inside.jpg").symlink_to("0.jpg")
    reading = read_folder(tmp_path / "root", None)
    assert sorted(finding.where for finding in reading.findings) == [
        "cat/circle",
        "cat/file.jpg",
        "cat/folder",
    ]
    assert {finding.check for finding in reading.findings} == {"path-escape"}
    assert [image.path for image in reading.images] == ["cat/0.jpg", "cat/inside.jpg"]


def test_names_that_are_not_utf8_are_refused(tmp_path):
    touch(tmp_path, "cat/0.jpg")
    (tmp_path / "cat" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    (finding,) = read_folder(tmp_path, None).findings
    assert finding.check == "path-escape"
    str(finding).encode()


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        ([], "detection", r"holds nothing; for detection .* annotations/instances_train\.json"),
        (["a/readme.txt"], "classification", "holds a/; for classification .* folder of images"),
        (["cat/1.jpg"], "detection", "a folder per class has no boxes"),
        (["annotations/instances_train.json"], "classification", "COCO JSON is read for detection"),
    ],
)
def test_formats_that_do_not_fit(tmp_path, names, task, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path, "auto", task)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"base\.data = .*nowhere: there is no such folder"):
        read_dataset(tmp_path / "nowhere", "auto", "detection")
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="is not a folder"):
        read_dataset(tmp_path / "file", "auto", "detection")
