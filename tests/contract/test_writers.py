"""What was validated can leave again: as COCO JSON, as folders."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from five_formats import make, write
from raw_data_helpers import coco_content, write_coco, write_folders, write_image

from components.contract import writers
from components.contract.readers import read_dataset
from components.contract.tables import Dataset
from components.errors import DataError
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings
from tasks import convert
from tasks.layout import Layout

QUIET = ValidateSettings(num_workers=1)


def tables(root, task: str) -> Dataset:
    result = validate_reading(read_dataset(root, "auto", task), QUIET)
    assert result.dataset is not None, [str(finding) for finding in result.findings]
    return result.dataset


def content(dataset: Dataset) -> list:
    """All that the tables say, but for ids, paths and the order of rows."""
    images = dataset.images.set_index("image_id")
    rows = []
    for number, image in images.drop(columns=["path"]).astype(object).iterrows():
        mine = dataset.objects[dataset.objects["image_id"] == number]
        objects = mine.drop(columns=["object_id", "image_id"]).astype(object)
        values = [value if pd.notna(value) else None for value in image]
        rows.append((values, sorted(map(tuple, objects.to_numpy().tolist()))))
    return sorted(rows, key=str)


@pytest.fixture
def boxes(tmp_path):
    raw = write_coco(tmp_path / "raw")
    for number in range(3):  # not the same content as those of train
        write_image(raw / f"val2017/{number}.png", 100 + number)
    return raw


@pytest.fixture
def labels(tmp_path):
    counts = {split: {"red": 3, "green": 2} for split in ("train", "val")}
    return write_folders(tmp_path / "raw", counts)


@pytest.mark.parametrize("link", [False, True])
def test_boxes_survive_the_way_to_coco_and_back(boxes, tmp_path, link):
    before = tables(boxes, "detection")
    writers.write_coco(before, boxes, tmp_path / "out", link)
    after = tables(tmp_path / "out", "detection")
    assert content(after) == content(before)
    assert after.classes == before.classes == ("red", "green")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations", "train", "val",
    ]  # fmt: skip
    same_file = (tmp_path / "out/train/0.png").samefile(boxes / "train2017/0.png")
    assert same_file == link


def test_boxes_without_splits(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "annotations.json").write_text(json.dumps(coco_content(5)))
    for number in range(5):
        write_image(raw / "images" / f"{number}.png", number)
    before = tables(raw, "detection")
    writers.write_coco(before, raw, tmp_path / "out")
    assert content(tables(tmp_path / "out", "detection")) == content(before)
    assert (tmp_path / "out/images/0.png").is_file()


def test_groups_and_columns_of_a_csv_survive_the_way_to_coco_and_back(tmp_path):
    """Each kind of column, with and without gaps; a code that is no number; Unicode."""
    raw = make("detection", seed=6, counts={"train": 3, "val": 3})
    columns = {
        "age": [3, 4, 5, 6, 7, 8],
        "weight": [0.5, 1, 2, "", 4, 5e-7],
        "seen": ["true", "false", "true", "true", "false", "false"],
        "code": ["007", "12", "", "1", "2", "3"],
        "länge": ["a,b", 'say "é"', "", "=1+1", "x\ny", "日本"],
        "hour": [1, "", 3, 4, 5, 6],
    }
    for number, sample in enumerate(raw.samples):
        sample.columns = {name: values[number] for name, values in columns.items()}
        sample.group = [None, "p1", "7", "né", "x y", None][number]
    root = write(raw, tmp_path / "raw", "csv")
    before = tables(root, "detection")
    assert {*columns, "group"} <= {*before.images.columns}
    assert before.images["group"].notna().sum() == 4
    writers.write_coco(before, root, tmp_path / "out")
    after = tables(tmp_path / "out", "detection")
    assert content(after) == content(before)
    assert [*after.images.dtypes] == [*before.images.dtypes]
    assert [*after.images.columns] == [*before.images.columns]


@pytest.mark.parametrize("name", ["id", "license", "video_id", "file_name"])
def test_columns_that_coco_reads_otherwise_are_refused(boxes, tmp_path, name):
    plain = tables(boxes, "detection")
    odd = replace(plain, images=plain.images.assign(**{name: "x"}))
    with pytest.raises(DataError, match=rf"\['{name}'\] have names that COCO uses otherwise"):
        writers.write_coco(odd, boxes, tmp_path / "out")


def test_coco_keeps_masks_crowds_groups_and_columns(boxes, tmp_path):
    plain = tables(boxes, "detection")
    polygon = [[1.5, 2.0, 9.0, 2.0, 9.0, 8.25]]
    dataset = replace(
        plain,
        images=plain.images.assign(group=["v1", *[None] * 8], camera="left", level=range(9)),
        objects=plain.objects.assign(
            segmentation=[json.dumps(polygon), *[None] * 6], is_crowd=[True, *[False] * 6]
        ),
    )
    writers.write_coco(dataset, boxes, tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert written["images"][0]["group"] == "v1"
    assert "group" not in written["images"][1]
    assert [row["camera"] for row in written["images"]] == ["left"] * 6
    assert [row["level"] for row in written["images"]] == list(range(6))
    first, second = written["annotations"][:2]
    assert (first["segmentation"], first["iscrowd"], first["area"]) == (polygon, 1, 400)
    assert "segmentation" not in second
    assert written["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]


@pytest.mark.parametrize("split_level", [True, False])
def test_labels_survive_the_way_to_folders_and_back(tmp_path, split_level):
    splits = ("train", "val") if split_level else ("",)
    counts = {split: {"red": 3, "green": 2} for split in splits}
    raw = write_folders(tmp_path / "raw", counts)
    before = tables(raw, "classification")
    writers.write_folders(before, raw, tmp_path / "out")
    assert content(tables(tmp_path / "out", "classification")) == content(before)


def test_an_unused_class_and_names_the_reader_would_not_see(tmp_path, labels):
    plain = tables(labels, "classification")
    (labels / "train/red/0.png").rename(labels / "train/red/.hidden")
    path = plain.images["path"].replace("train/red/0.png", "train/red/.hidden")
    dataset = replace(
        plain, images=plain.images.assign(path=path), classes=("blue", "green", "red")
    )
    writers.write_folders(dataset, labels, tmp_path / "out")
    after = tables(tmp_path / "out", "classification")
    assert content(after) == content(dataset)
    assert after.classes == ("blue", "green", "red")
    assert (tmp_path / "out/train/red/hidden.png").is_file()


def test_names_that_meet_get_a_number(tmp_path):
    raw = tmp_path / "raw"
    names = ["a/x.png", "b/x.png", "c/X.PNG", "a/x-2.png", f"a/{'é' * 125}.png"]
    names.append(names[-1].replace("a/", "b/"))
    rows = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    box = {"category_id": 1, "bbox": [1, 1, 9, 9]}
    content_ = {
        "images": rows,
        "annotations": [{"id": n, "image_id": n, **box} for n in range(len(names))],
        "categories": [{"id": 1, "name": "thing"}],
    }
    raw.mkdir()
    (raw / "annotations.json").write_text(json.dumps(content_))
    for seed, name in enumerate(names):
        write_image(raw / "images" / name.replace(".PNG", ".png"), seed)
    (raw / "images/c/X.png").rename(raw / "images/c/X.PNG")
    before = tables(raw, "detection")
    writers.write_coco(before, raw, tmp_path / "out")
    written = [path.name for path in (tmp_path / "out/images").iterdir()]
    assert len({name.casefold() for name in written}) == len(names)
    assert max(len(name.encode()) for name in written) <= 255
    assert content(tables(tmp_path / "out", "detection")) == content(before)


def edit(**changes):
    return lambda dataset: replace(dataset, **{k: v(dataset) for k, v in changes.items()})


REFUSED = [
    ("labels as COCO", writers.write_coco, "labels", None, "is for boxes"),
    ("boxes as folders", writers.write_folders, "boxes", None, "has no boxes"),
    (
        "several labels",
        writers.write_folders,
        "labels",
        edit(multi_label=lambda _: True),
        "several labels",
    ),
    (
        "an image without label",
        writers.write_folders,
        "labels",
        edit(objects=lambda d: d.objects.iloc[1:]),
        "must have one label each: ['train/green/0.png']",
    ),
    (
        "a class that climbs",
        writers.write_folders,
        "labels",
        edit(classes=lambda d: (*d.classes, "../x")),
        "has a slash",
    ),
    (
        "a hidden class",
        writers.write_folders,
        "labels",
        edit(classes=lambda d: (*d.classes, ".x")),
        "begins with a dot",
    ),
    (
        "some splits only",
        writers.write_coco,
        "boxes",
        edit(images=lambda d: d.images.assign(split=["train", *[None] * 8])),
        "some have none",
    ),
    (
        "a column that COCO has",
        writers.write_coco,
        "boxes",
        edit(images=lambda d: d.images.assign(file_name="x")),
        "['file_name']",
    ),
    (
        "a file that has changed",
        writers.write_coco,
        "boxes",
        edit(images=lambda d: d.images.assign(sha256="0" * 64)),
        "has changed since",
    ),
    (
        "a path out",
        writers.write_coco,
        "boxes",
        edit(images=lambda d: d.images.assign(path=d.images["path"].map("../{}".format))),
        "'..'",
    ),
]


@pytest.mark.parametrize(
    "write, data, change, message",
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_refused(write, data, change, message, request, tmp_path):
    raw = request.getfixturevalue(data)
    dataset = tables(raw, "detection" if data == "boxes" else "classification")
    dataset = change(dataset) if change else dataset
    with pytest.raises(DataError) as caught:
        write(dataset, raw, tmp_path / "out")
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("place", ["there", "raw/inside"])
def test_only_a_new_folder_outside_the_raw_data_is_written(place, boxes, tmp_path):
    (tmp_path / "there").mkdir()
    dataset = tables(boxes, "detection")
    with pytest.raises(DataError, match=place.split("/")[-1]):
        writers.write_coco(dataset, boxes, tmp_path / place)
    assert not [*(tmp_path / "there").iterdir()]
    assert not (boxes / "inside").exists()


def test_command(boxes, tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text("base: {data: raw, task: detection}\n")
    layout = Layout(tmp_path)
    arguments = ["--format", "coco", "--to", str(tmp_path / "out"), "--params", str(params)]
    assert convert.main(arguments, layout) == 1
    assert "no such file" in capsys.readouterr().err
    tables(boxes, "detection").save(layout.tables)
    assert convert.main(arguments, layout) == 0
    assert "9 images, 7 labels or boxes" in capsys.readouterr().out
    assert (tmp_path / "out/val/0.png").is_file()
