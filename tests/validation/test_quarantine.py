"""Severities, the ledger's bounds, and images that are left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.contract.findings import finding
from components.contract.tables import Dataset
from components.errors import DataError
from components.validation import ledger as ledger_module
from components.validation.ledger import Ledger, Offenders, Shared
from tasks.layout import Layout
from tasks.stage import headline
from tasks.validate import validate
from tests.tasks.test_validate import change, coco, digest, parameters, picture


def report(layout: Layout) -> dict:
    return json.loads(layout.validation.read_text())


def test_a_faulty_image_is_left_out_and_listed(tmp_path):
    data = coco(tmp_path / "raw")
    change(data, "annotations", bbox=[70, 5, 9, 9])
    (data / "train" / "1.jpg").write_bytes(b"")
    (data / "train" / "2.jpg").unlink()
    before = digest(data)
    layout = Layout(tmp_path)
    settings = {"quarantine": True, "quarantine_max_share": 0.4}
    figures = validate(parameters("detection", data, **settings), layout)
    assert (figures["num_images"], figures["num_objects"]) == (5, 10)
    assert (figures["num_errors"], figures["num_quarantined"]) == (0, 3)
    assert headline("validate", figures).endswith(", 3 images left out")
    assert "left out" not in headline("validate", figures | {"num_quarantined": 0})
    found = report(layout)
    assert found["quarantined"] == [
        {"path": "2.jpg", "checks": ["file-missing"]},
        {"path": "train/0.jpg", "checks": ["box-outside"]},
        {"path": "train/1.jpg", "checks": ["file-empty"]},
    ]
    assert (found["num_errors"], found["num_quarantined"]) == (0, 3)
    errors = [item for item in found["findings"] if item["severity"] == "error"]
    assert [item["check"] for item in errors] == ["box-outside", "file-empty", "file-missing"]
    assert all(item["quarantined"] for item in errors)
    tables = Dataset.load(layout.tables)
    assert tables.images["path"].tolist() == [
        "train/3.jpg", "train/4.jpg", "train/5.jpg", "val/0.jpg", "val/1.jpg",
    ]  # fmt: skip
    assert tables.objects["image_id"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert digest(data) == before


def test_too_many_are_not_left_out(tmp_path):
    data = coco(tmp_path / "raw")
    (data / "train" / "1.jpg").write_bytes(b"")
    layout = Layout(tmp_path)
    with pytest.raises(DataError, match=r"12\.5 % \(1 of 8 images\); allowed: at most 5 %"):
        validate(parameters("detection", data, quarantine=True), layout)
    found = report(layout)
    assert (found["num_errors"], found["quarantined"]) == (2, [])
    assert "file-empty 1" in next(
        item["message"] for item in found["findings"] if item["check"] == "quarantine-share"
    )
    assert not layout.tables.exists()


def test_a_fault_of_no_image_still_stops(tmp_path):
    data = coco(tmp_path / "raw")
    change(data, "annotations", image_id=99)
    (data / "train" / "1.jpg").write_bytes(b"")
    settings = {"quarantine": True, "quarantine_max_share": 0.4}
    layout = Layout(tmp_path)
    with pytest.raises(DataError, match=r"1 error in the data\n.*annotations\[0\]"):
        validate(parameters("detection", data, **settings), layout)
    assert report(layout)["num_quarantined"] == 1


def test_what_is_left_is_checked_as_a_whole(tmp_path):
    data = coco(tmp_path / "raw")
    for index in range(2):
        (data / "val" / f"{index}.jpg").write_bytes(b"")
    settings = {"quarantine": True, "quarantine_max_share": 0.5}
    layout = Layout(tmp_path)
    with pytest.raises(DataError, match=r"a split without a usable image \(is val\)"):
        validate(parameters("detection", data, **settings), layout)


def test_of_copies_in_two_splits_the_train_one_goes(tmp_path):
    data = coco(tmp_path / "raw")
    (data / "val" / "1.jpg").write_bytes(picture(3))
    settings = {"quarantine": True, "quarantine_max_share": 0.2}
    layout = Layout(tmp_path)
    validate(parameters("detection", data, **settings), layout)
    assert report(layout)["quarantined"] == [
        {"path": "train/3.jpg", "checks": ["duplicate-across-splits"]}
    ]


@pytest.mark.parametrize(
    ("severity", "stops", "num_warnings"),
    [("error", True, 0), ("warning", False, 1), ("off", False, 0)],
)
def test_a_severity_can_be_set(tmp_path, severity, stops, num_warnings):
    data = coco(tmp_path / "raw")
    change(data, "annotations", bbox=[60, 5, 9, 9])
    params = parameters("detection", data, severity={"box-partly-outside": severity})
    layout = Layout(tmp_path)
    if stops:
        with pytest.raises(DataError, match="sticks out"):
            validate(params, layout)
    else:
        assert validate(params, layout)["num_warnings"] == num_warnings


def test_a_ledger_lists_some_and_knows_all(monkeypatch):
    monkeypatch.setattr(ledger_module, "LISTED", 3)
    paths = [f"{index}.jpg" for index in range(9)]
    ledger = Ledger(paths, {"class-unused": "off"})

    def describe(number: int):
        path = paths[number % 9]
        return finding("box-empty", f"row {number:02}", "empty", image=path)

    ledger.add(Offenders("box-empty", np.arange(18) % 9, describe))
    ledger.add(finding("class-unused", "cat", "unused"))
    ledger.add(finding("class-rare", "dog", "rare"))
    found = ledger.findings()
    assert [item.where for item in found] == ["row 00", "row 01", "row 02", "the rest", "dog"]
    assert found[3].message == "and 15 more like the 3 listed" and found[3].image
    assert (ledger.num("error"), ledger.num("error", unplaced=True)) == (18, 0)
    assert ledger.num("warning") == 1
    assert ledger.faulty == dict.fromkeys(paths, ("box-empty",))


def test_one_finding_can_be_about_several_images():
    ledger = Ledger([], {})
    group = finding("group-across-splits", "a", "in two splits", image="a")
    ledger.add(Shared(group, ["b", "a"]))
    assert list(ledger.faulty) == ["a", "b"] and ledger.num("error") == 1
