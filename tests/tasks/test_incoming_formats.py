"""Batches of any format merged into data of any: equal content, or a refusal that says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.contract.readers import read_dataset
from components.validation.incoming import contents
from tasks.validate import validate
from tests.contract import five_formats
from tests.contract.five_formats import FORMATS, RawSet, Sample, Thing
from tests.tasks.test_incoming import Place, digest, draw, kill_at_every_step, parameters
from tests.tasks.test_incoming import boxes as boxes  # a fixture

PAIRS = [
    (task, data, batch)
    for task, formats in FORMATS.items()
    for data in formats
    for batch in formats
]


def raw_set(task: str, seed: int, counts: dict[str, int], split: bool = True) -> RawSet:
    return five_formats.make(task, seed, counts, split=split)


def place_of(tmp_path: Path, task: str, data: str, batch: str, split: bool = True) -> Place:
    """Data with splits or without, and a batch without, whose files have names of the data."""
    place = Place(tmp_path, task)
    counts = {"train": 4, "val": 3}
    five_formats.write(raw_set(task, 1, counts, split), place.data, data)
    five_formats.write(raw_set(task, 2, {"train": 3}, split=False), place.batch, batch)
    return place


def described(place: Place, folder: Path) -> list[tuple[object, ...]]:
    """Bytes and labels of each image, in an order of their own; boxes to a tenth of a pixel."""
    reading = read_dataset(folder, "auto", place.params.base.task)
    return sorted(
        (
            (folder / image.path).read_bytes(),
            [(item.label, *(round(n, 1) for n in item.box)) for item in content],
        )
        for image, content in zip(reading.images, contents(reading), strict=True)
    )


@pytest.mark.parametrize(("task", "data", "batch"), PAIRS)
def test_any_format_into_any(tmp_path, task, data, batch):
    place = place_of(tmp_path, task, data, batch)
    before = digest(place.data)
    expected = sorted(described(place, place.data) + described(place, place.batch))
    report = place.run()
    assert report["verdict"] == "merged", report["reason"]
    assert len(report["added"]) == 3
    assert described(place, place.data) == expected
    assert digest(place.data.with_name("raw.previous")) == before
    reading = read_dataset(place.data, data, task)
    assert reading.findings == []
    assert reading.classes == tuple(five_formats.CLASSES)
    splits = {image.path: image.split for image in reading.images}
    assert {splits[path] for path in report["added"].values()} == {"train"}
    images = {path for path in before if path.endswith((".jpg", ".png"))}
    assert {path: digest(place.data)[path] for path in images} == {p: before[p] for p in images}
    if data == batch:
        assert place.run()["verdict"] == "nothing-new"


@pytest.mark.parametrize("data", ["csv", "voc", "yolo"])
def test_data_without_splits_stays_so(tmp_path, data):
    place = place_of(tmp_path, "detection", data, data, split=False)
    assert place.run()["verdict"] == "merged"
    assert read_dataset(place.data, data, "detection").splits == set()


@pytest.mark.parametrize("data", ["csv", "voc", "yolo"])
def test_an_image_without_objects(tmp_path, data):
    place = place_of(tmp_path, "detection", data, "csv")
    shutil.rmtree(place.batch)
    raw = raw_set("detection", 2, {"train": 2}, split=False)
    raw.samples[0].things = []
    five_formats.write(raw, place.batch, "csv")
    report = place.run()
    assert report["verdict"] == "merged", report["reason"]
    reading = read_dataset(place.data, data, "detection")
    new = set(report["added"].values())
    filled = {reading.images[item.image].path for item in reading.objects}
    assert len(new - filled) == 1


def test_yolo_keeps_the_class_order_of_the_data(tmp_path):
    """The batch numbers its classes otherwise; names count, not numbers."""
    place = place_of(tmp_path, "detection", "yolo", "yolo")
    raw = raw_set("detection", 2, {"train": 3}, split=False)
    raw.classes.reverse()
    shutil.rmtree(place.batch)
    five_formats.write(raw, place.batch, "yolo")
    expected = sorted(described(place, place.data) + described(place, place.batch))
    yaml = (place.data / "data.yaml").read_bytes()
    assert place.run()["verdict"] == "merged"
    assert described(place, place.data) == expected
    assert (place.data / "data.yaml").read_bytes() == yaml


def test_yolo_with_lists(tmp_path):
    place = place_of(tmp_path, "detection", "yolo", "voc", split=False)
    paths = sorted(path for path in (place.data / "images").iterdir())
    for name, part in {"train": paths[:5], "val": paths[5:]}.items():
        text = "\n".join(f"./images/{path.name}" for path in part)
        (place.data / f"{name}.txt").write_text(text)
    yaml = (place.data / "data.yaml").read_text()
    (place.data / "data.yaml").write_text(f"train: train.txt\nval: val.txt\n{yaml}")
    report = place.run()
    assert report["verdict"] == "merged", report["reason"]
    assert len((place.data / "train.txt").read_text().splitlines()) == 8
    assert "images" in (place.data / "train.txt").read_text().splitlines()[-1]


def test_voc_lists_and_names_that_differ_by_extension_only(tmp_path):
    place = place_of(tmp_path, "detection", "voc", "voc")
    old = place.batch / "JPEGImages"
    assert old.is_dir()
    report = place.run()
    names = (place.data / "ImageSets/Main/train.txt").read_text().split()
    assert len(names) == len(set(names)) == 7
    stems = [path.stem for path in (place.data / "JPEGImages").iterdir()]
    assert len(stems) == len(set(stems)) == 10
    assert all("-" in Path(path).stem for path in report["added"].values())


CSV_FORMS = {
    "Windows lines": lambda text: text.replace("\n", "\r\n"),
    "semicolons": lambda text: text.replace(",", ";"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "no last line ending": lambda text: text.rstrip("\n"),
    "a column of the user": lambda text: "".join(
        f"{line},{'note' if not number else ''}\n" for number, line in enumerate(text.splitlines())
    ),
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_csv_keeps_its_form(tmp_path, form):
    place = place_of(tmp_path, "detection", "csv", "coco")
    table = place.data / "labels.csv"
    text = CSV_FORMS[form](table.read_text().replace("\r\n", "\n"))
    table.write_bytes(text.encode())
    report = place.run()
    assert report["verdict"] == "merged", report["reason"]
    after = table.read_bytes().decode()
    assert after.startswith(text)
    ending = "\r\n" if form == "Windows lines" else "\n"
    assert set(after.replace(ending, "")) & {"\r", "\n"} == set()


def test_an_area_is_that_of_its_own_box(tmp_path):
    place = Place(tmp_path, "detection")
    head, num = "path,split,label,x,y,width,height,area", 0
    for root, prefix in ((place.data, "a"), (place.batch, "b")):
        rows = []
        for split in ("train", "val"):
            num += 1
            draw(root / "images" / f"{prefix}{num}.png", num)
            for x, area in ((0, "70"), (15, "")):
                rows.append(f"images/{prefix}{num}.png,{split},cat,{x},0,10,20,{area}")
        (root / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    report = place.run()
    assert report["verdict"] == "merged", report
    merged = read_dataset(place.data, "csv", "detection")
    assert [item.area for item in merged.objects] == [70.0, None] * 4


@pytest.mark.parametrize("header", ["path,labels", "path,bird,cat,dog"])
def test_several_labels_an_image(tmp_path, header):
    place = Place(tmp_path, "classification")
    base = place.params.base.model_copy(update={"multi_label": True})
    place.params = place.params.model_copy(update={"base": base})
    for root, seed in ((place.data, 1), (place.batch, 2)):
        raw = raw_set("classification", seed, {"train": 4}, split=False)
        raw.multi_label = True
        raw.samples[0].things.append(Thing("dog"))
        raw.samples[3].things = []
        five_formats.write(raw, root, "csv")
    table = place.data / "labels.csv"
    if header != "path,labels":
        rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
        cells = [
            [path, *(str(int(name in labels.split("|"))) for name in ("bird", "cat", "dog"))]
            for path, labels in rows
        ]
        table.write_text("\n".join(map(",".join, [header.split(","), *cells])) + "\n")
    report = place.run()
    assert report["verdict"] == "merged", report["reason"]
    reading = read_dataset(place.data, "csv", "classification", None, True)
    counts = [len(content) for content in contents(reading)]
    assert sorted(counts) == [0, 0, 1, 1, 1, 1, 2, 2]


def crowd(sample: Sample, row: dict) -> None:
    row["iscrowd"] = 1


def polygon(sample: Sample, row: dict) -> None:
    x, y, width, height = row["bbox"]
    row["segmentation"] = [[x, y, x + width, y, x + width, y + height]]


LOST = {
    "a crowd in YOLO": ("yolo", crowd, "boxes or segmentations differ"),
    "a polygon in CSV": ("csv", polygon, "boxes or segmentations differ"),
    "a polygon in VOC": ("voc", polygon, "boxes or segmentations differ"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_a_format_cannot_hold_is_refused(tmp_path, case):
    data, change, message = LOST[case]
    place = place_of(tmp_path, "detection", data, "coco")
    file = place.batch / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        change(None, row)
    file.write_text(json.dumps(content))
    before = digest(place.data)
    report = place.run()
    assert report["verdict"] == "refused"
    assert message in report["reason"] and f"the format {data} cannot hold" in report["reason"]
    assert digest(place.data) == before


def test_polygons_go_to_yolo(tmp_path):
    place = place_of(tmp_path, "detection", "yolo", "coco")
    file = place.batch / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        polygon(None, row)
    file.write_text(json.dumps(content))
    assert place.run()["verdict"] == "merged"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("group", "a", "its group is a, and then none"),
        ("columns", {"camera": 7}, "its column camera is 7, and then None"),
    ],
)
def test_groups_and_columns_that_would_be_lost(tmp_path, key, value, message):
    place = place_of(tmp_path, "detection", "voc", "csv")
    raw = raw_set("detection", 2, {"train": 3}, split=False)
    setattr(raw.samples[0], key, value)
    shutil.rmtree(place.batch)
    five_formats.write(raw, place.batch, "csv")
    if key == "columns":
        assert place.checks(place.run()) == {"drift-columns"}
        place.params = parameters("detection", severity={"drift-columns": "warning"})
    assert message in place.run()["reason"]


def test_other_segmentations_contradict(boxes):
    """A segmentation that is another one; not one that is lacking, as some formats have none."""
    file = boxes.data / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    square = [[4, 5, 24, 5, 24, 16, 4, 16]]
    content["annotations"][0]["segmentation"] = square
    file.write_text(json.dumps(content))
    shutil.copy(boxes.data / "train/0.png", boxes.batch / "train/0.png")
    path = boxes.batch / "annotations/instances_train.json"
    batch = json.loads(path.read_text())
    for mask, verdict in (
        ([], "fine"),
        ([[4.01, 5, 24, 5, 24, 16, 4, 16]], "fine"),
        ([[4, 5, 24, 5, 24, 16]], "refused"),
        (square + square, "refused"),
    ):
        batch["annotations"][0]["segmentation"] = mask
        path.write_text(json.dumps(batch))
        report = boxes.run(merge=False)
        assert report["verdict"] == verdict, mask
        assert boxes.checks(report) == ({"contradictory-labels"} if verdict == "refused" else set())


def test_unchanged_data_is_not_decoded_again(tmp_path):
    place = place_of(tmp_path, "detection", "coco", "coco")
    assert place.run(merge=False)["num_data_decoded"] == 7
    validate(place.params, place.layout)
    plain = place.run(merge=False)
    assert (plain["num_data_images"], plain["num_data_decoded"]) == (7, 0)
    first = sorted(place.data.rglob("*.jpg"))[0]
    first.write_bytes(first.read_bytes() + b"\0")
    assert place.run(merge=False)["num_data_decoded"] == 1
    place.layout.facts.write_bytes(b"PAR1")
    assert place.run(merge=False)["num_data_decoded"] == 7


def test_facts_are_those_of_decoding(tmp_path):
    """The verdict is the same, drift and near-duplicates included, however the facts came."""
    place = place_of(tmp_path, "detection", "voc", "csv")
    decoded = place.run(merge=False)
    validate(place.params, place.layout)
    known = place.run(merge=False)
    assert known.pop("num_data_decoded") == 0 and decoded.pop("num_data_decoded") == 7
    assert known == decoded


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "voc", "yolo"])
def test_killed_at_any_step(tmp_path, kind):
    model = Place(tmp_path / "model", "detection")
    five_formats.write(raw_set("detection", 1, {"train": 1, "val": 1}), model.data, kind)
    five_formats.write(raw_set("detection", 2, {"train": 1}, split=False), model.batch, kind)
    shutil.copytree(model.data, model.data.with_name("raw.previous"))
    kill_at_every_step(model, tmp_path)
