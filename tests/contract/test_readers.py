"""Which format a data root has, and what is handed to the reader."""

from __future__ import annotations

import pytest

from components.contract.readers import read_dataset
from components.errors import DataError, ParamsError
from tasks.params import load

LABELS = {"labels.csv": "path,label\n1.jpg,cat\n"}
BOXES = {"labels.csv": "path,label,x,y,width,height\n1.jpg,cat,1,2,3,4\n"}
COCO = {
    "annotations.json": '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [],'
    ' "categories": [{"id": 1, "name": "cat"}]}'
}
IMAGES = {"images/1.jpg": "x"}
FOLDERS = {"cat/1.jpg": "x", "dog/2.jpg": "x"}


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "task", "format"),
    [
        (LABELS | IMAGES, "classification", "csv"),
        (LABELS | {"train/1.jpg": "x", "data/2.jpg": "x"}, "classification", "csv"),
        (BOXES | IMAGES, "detection", "csv"),
        (COCO | IMAGES, "detection", "coco"),
        (COCO | LABELS | IMAGES, "classification", "csv"),
        (COCO | LABELS | IMAGES, "detection", "coco"),
        (COCO | BOXES | FOLDERS, "classification", "folder"),
        (COCO | FOLDERS, "detection", "coco"),
        (FOLDERS, "classification", "folder"),
        ({"train/1.jpg": "x"}, "classification", "folder"),
    ],
)
def test_format_is_found(tmp_path, files, task, format):
    write(tmp_path, files)
    assert read_dataset(tmp_path, "auto", task).format == format


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_table_in_utf16_is_said_to_be_one(tmp_path, encoding):
    text = "\ufeff" * (encoding == "utf-16-be") + "path\tlabel\n1.jpg\tcat\n"
    write(tmp_path, IMAGES)
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    reading = read_dataset(tmp_path, "auto", "classification")
    (finding,) = [item for item in reading.findings if item.check == "annotations-unreadable"]
    assert "is in UTF-16" in finding.message and "save it as UTF-8" in finding.message


@pytest.mark.parametrize(
    ("files", "task", "told"),
    [
        (COCO | BOXES, "detection", r"csv \(labels\.csv\); coco \(annotations\.json\)"),
        (LABELS | FOLDERS, "classification", r"csv \(labels\.csv\); folder \(cat/, dog/\)"),
    ],
)
def test_ambiguous_roots_are_refused(tmp_path, files, task, told):
    write(tmp_path, files)
    with pytest.raises(DataError, match=rf"several formats: {told}; say .* validate\.format: "):
        read_dataset(tmp_path, "auto", task)
    assert read_dataset(tmp_path, "csv", task).format == "csv"


@pytest.mark.parametrize(
    ("files", "format", "task", "multi_label", "told"),
    [
        (COCO | IMAGES, "auto", "classification", False, "COCO JSON is read for detection only"),
        (COCO | IMAGES, "coco", "classification", False, "COCO JSON is read for detection only"),
        (IMAGES, "voc", "classification", False, "Pascal VOC XML is read for detection only"),
        (IMAGES, "yolo", "classification", False, "YOLO text is read for detection only"),
        (BOXES | IMAGES, "auto", "classification", False, "has boxes"),
        (FOLDERS, "folder", "detection", False, "a folder per class has no boxes"),
        (FOLDERS, "auto", "classification", True, "gives an image one label"),
        ({"a.txt": ""}, "auto", "classification", False, r"holds a\.txt; .* labels\.csv"),
    ],
)
def test_what_does_not_serve_is_refused(tmp_path, files, format, task, multi_label, told):
    write(tmp_path, files)
    with pytest.raises(DataError, match=told):
        read_dataset(tmp_path, format, task, multi_label=multi_label)


def test_several_labels(tmp_path):
    write(tmp_path, IMAGES | {"labels.csv": "path,cat,dog\n1.jpg,1,1\n"})
    reading = read_dataset(tmp_path, "auto", "classification", multi_label=True)
    assert reading.multi_label
    assert [item.label for item in reading.objects] == ["cat", "dog"]


def test_several_labels_are_for_classification(tmp_path):
    base = "base: {task: detection, data: d, multi_label: true}\n"
    (tmp_path / "params.yaml").write_text(base)
    with pytest.raises(ParamsError, match="multi_label: true is for classification"):
        load(tmp_path / "params.yaml")
