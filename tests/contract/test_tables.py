from __future__ import annotations

import dataclasses

import pytest

from components.contract.tables import Dataset, build
from components.errors import DataError


def make(task="detection", **changes) -> Dataset:
    images = [
        {"path": f"{i}.jpg", "width": 8, "height": 6, "sha256": f"{i:064x}", "phash": f"{i:016x}",
         "split": split}
        for i, split in enumerate(["train", "val", None])
    ]  # fmt: skip
    box = {"x": 1.0, "y": 2.0, "width": 3.0, "height": 3.5, "area": 10.5, "is_crowd": False}
    objects = [
        {"image_id": i, "label": "cat"} | (box if task == "detection" else {}) for i in (0, 1)
    ]
    return dataclasses.replace(
        Dataset(*build(images, objects, task), ("cat", "dog"), task, "coco"), **changes
    )


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_round_trip_and_same_bytes(tmp_path, task):
    make(task).save(tmp_path / "a")
    again = Dataset.load(tmp_path / "a")
    again.save(tmp_path / "b")
    for name in ("images.parquet", "objects.parquet", "dataset.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert again.classes == ("cat", "dog")
    assert again.images["split"].isna().tolist() == [False, False, True]
    assert again.images["group"].isna().all()
    assert again.fingerprint == make(task).fingerprint


def test_tables_without_rows_keep_their_types(tmp_path):
    Dataset(*build([], [], "detection"), ("cat",), "detection", "coco").save(tmp_path / "a")
    assert str(Dataset.load(tmp_path / "a").objects["is_crowd"].dtype) == "bool"


def test_columns_of_the_user_survive(tmp_path):
    dataset = make()
    dataset.images["camera"] = ["north", "south", None]
    dataset.save(tmp_path / "a")
    assert Dataset.load(tmp_path / "a").images["camera"][1] == "south"


def test_fingerprint_sees_every_value():
    seen = {make().fingerprint, make("classification").fingerprint}
    seen.add(make(classes=("dog", "cat")).fingerprint)
    moved = make()
    moved.objects.loc[0, "x"] += 1e-9
    seen.add(moved.fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("images", "split", "training", "images.split"),
        ("images", "width", 0, "images.width"),
        ("images", "sha256", "x", "images.sha256"),
        ("images", "image_id", 2, "images.image_id"),
        ("objects", "width", 0.0, "objects.width"),
        ("objects", "x", float("nan"), "objects.x"),
        ("objects", "label", "cow", "objects.label"),
        ("objects", "image_id", 9, "objects.image_id"),
    ],
)
def test_broken_tables_are_not_saved(tmp_path, table, column, value, message):
    dataset = make()
    getattr(dataset, table).loc[0, column] = value
    with pytest.raises(DataError, match=message):
        dataset.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_named():
    dataset = make()
    with pytest.raises(DataError, match="phash"):
        dataclasses.replace(dataset, images=dataset.images.drop(columns="phash")).check()


def test_load_says_which_file_is_missing_or_broken(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json"):
        Dataset.load(tmp_path / "a")
    make().save(tmp_path / "a")
    (tmp_path / "a" / "objects.parquet").write_bytes(b"half")
    with pytest.raises(DataError, match=r"objects\.parquet"):
        Dataset.load(tmp_path / "a")


def test_columns_of_the_user_get_the_type_that_fits(tmp_path):
    plain = {"width": 8, "height": 6, "sha256": "0" * 64, "phash": "0" * 16}
    rows = [
        {"path": "a", "group": "g", "n": 1, "x": 1, "day": True, "mixed": 1, "some": True},
        {"path": "b", "n": 2, "x": 0.5, "day": False, "mixed": "\ud800", "some": None},
        {"path": "c", "n": 3, "day": False, "mixed": 10**400, "phash": "1" * 16},
    ]
    tables = build([plain | row for row in rows], [], "detection")
    images = tables[0]
    assert {name: str(images[name].dtype) for name in ("n", "x", "day", "mixed", "some")} == {
        "n": "int64", "x": "float64", "day": "bool", "mixed": "str", "some": "str",
    }  # fmt: skip
    assert images["group"].tolist()[0] == "g"
    dataset = Dataset(*tables, ("cat",), "detection", "coco")
    dataset.save(tmp_path / "a")
    assert Dataset.load(tmp_path / "a").fingerprint == dataset.fingerprint


def test_segmentation_is_there_if_an_object_has_one(tmp_path):
    objects = make().objects.drop(columns="object_id").to_dict("list")
    images = make().images.drop(columns="image_id").to_dict("records")
    assert "segmentation" not in build(images, objects | {"segmentation": [None, None]},
                                       "detection")[1]  # fmt: skip
    tables = build(images, objects | {"segmentation": [None, "[[1,2,3,4,5,6]]"]}, "detection")
    dataset = dataclasses.replace(make(), images=tables[0], objects=tables[1])
    dataset.save(tmp_path / "a")
    assert Dataset.load(tmp_path / "a").objects["segmentation"][1] == "[[1,2,3,4,5,6]]"
