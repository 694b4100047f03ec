"""The validate stage as a user meets it: defects, reports, real data."""

from __future__ import annotations

import hashlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.contract.tables import Dataset
from components.errors import DataError
from tasks.layout import Layout
from tasks.params import Params
from tasks.validate import validate

SHARED = next(
    (path for path in (Path("../shared/data"), Path("/work/shared/data")) if path.is_dir()), None
)


def parameters(task: str, data: Path, **section: object) -> Params:
    train = {"augment": {"scale": [0.5, 1.0]}} if task == "classification" else {}
    return Params.model_validate(
        {"base": {"task": task, "data": str(data)}, "train": train, "validate": section}
    )


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def picture(seed: int, format: str = "JPEG") -> bytes:
    random = np.random.default_rng(seed)
    grid = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((64, 48), Image.Resampling.NEAREST).save(buffer, format)
    return buffer.getvalue()


def coco(root: Path) -> Path:
    """Sound COCO data: 6 training and 2 validation images, a box of each class on each."""
    for number, (split, num_images) in enumerate({"train": 6, "val": 2}.items()):
        (root / split).mkdir(parents=True)
        content: dict[str, list] = {"images": [], "annotations": []}
        for index in range(num_images):
            (root / split / f"{index}.jpg").write_bytes(picture(10 * number + index))
            content["images"].append(
                {"id": index, "file_name": f"{index}.jpg", "width": 64, "height": 48}
            )
            for category in (1, 2):
                box = [4 * category, 5, 20, 10 + category]
                row = {"id": 2 * index + category, "image_id": index, "category_id": category}
                content["annotations"].append(row | {"bbox": box})
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def change(root: Path, key: str, **changes: object) -> None:
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content[key][0] |= changes
    path.write_text(json.dumps(content))


def test_sound_data(tmp_path):
    data = coco(tmp_path / "raw")
    before = digest(data)
    layout = Layout(tmp_path / "work")
    figures = validate(parameters("detection", data), layout)
    assert figures == {
        "num_images": 8,
        "num_objects": 16,
        "num_classes": 2,
        "num_errors": 0,
        "num_warnings": 0,
        "num_quarantined": 0,
    }
    dataset = Dataset.load(layout.tables)
    assert dataset.images["split"].value_counts().to_dict() == {"train": 6, "val": 2}
    assert dataset.images["path"][0] == "train/0.jpg"
    assert dataset.objects.loc[0, ["x", "y", "width", "height", "area"]].tolist() == [
        4.0, 5.0, 20.0, 11.0, 220.0,
    ]  # fmt: skip
    assert json.loads(layout.validation.read_text())["summary"] == {
        "num_images": 8,
        "num_objects": 16,
        "images_per_class": {"cat": 8, "dog": 8},
        "splits": {"train": 6, "val": 2},
    }
    assert digest(data) == before


def test_the_same_data_gives_the_same_bytes(tmp_path):
    data = coco(tmp_path / "raw")
    for name in ("one", "two"):
        validate(parameters("detection", data), Layout(tmp_path / name))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_folder_data_without_splits(tmp_path):
    for index in range(10):
        path = tmp_path / "raw" / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index, "PNG"))
    layout = Layout(tmp_path)
    figures = validate(parameters("classification", tmp_path / "raw"), layout)
    assert (figures["num_images"], figures["num_warnings"]) == (10, 0)
    dataset = Dataset.load(layout.tables)
    assert dataset.images["split"].isna().all()
    assert list(dataset.objects.columns) == ["object_id", "image_id", "label"]


def truncated(root: Path) -> None:
    path = root / "train" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-400])


def linked(root: Path) -> None:
    (root / "train" / "0.jpg").unlink()
    (root.parent / "secret.jpg").write_bytes(picture(99))
    (root / "train" / "0.jpg").symlink_to(root.parent / "secret.jpg")


def edit(key: str, **changes: object):
    return lambda root: change(root, key, **changes)


def write(name: str, data: bytes):
    return lambda root: (root / name).write_bytes(data)


DEFECTS = {
    "unreadable image": (truncated, "image-undecodable", "train/0.jpg"),
    "empty image": (write("train/0.jpg", b""), "file-empty", "train/0.jpg"),
    "missing image": (lambda root: (root / "train/0.jpg").unlink(), "file-missing", "images[0]"),
    "no image": (write("train/0.jpg", b"<html></html>"), "image-undecodable", "train/0.jpg"),
    "box outside": (edit("annotations", bbox=[70, 5, 9, 9]), "box-outside", "annotations[0]"),
    "NaN": (edit("annotations", bbox=[math.nan, 5, 9, 9]), "box-not-finite", "annotations[0]"),
    "text": (edit("annotations", bbox=["4", "5", "9", "9"]), "box-broken", "annotations[0]"),
    "unknown class": (edit("annotations", category_id=3), "class-unknown", "annotations[0]"),
    "..": (edit("images", file_name="../../secret.jpg"), "path-escape", "images[0]"),
    "absolute": (edit("images", file_name="/etc/hostname"), "path-escape", "images[0]"),
    "symlink": (linked, "path-escape", "images[0]"),
    "wrong size": (edit("images", width=65), "image-size", "train/0.jpg"),
    "copy in another split": (
        write("val/0.jpg", picture(0)),
        "duplicate-across-splits",
        "val/0.jpg",
    ),
    "broken JSON": (
        write("annotations/instances_val.json", b"{"),
        "annotations-unreadable",
        "instances_val.json",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_stops_the_stage(tmp_path, defect):
    data = coco(tmp_path / "raw")
    inject, check, where = DEFECTS[defect]
    inject(data)
    before = digest(data)
    layout = Layout(tmp_path / "work")
    with pytest.raises(DataError, match=r"1 error in the data") as caught:
        validate(parameters("detection", data), layout)
    assert where in str(caught.value)
    assert str(layout.validation_page) in str(caught.value)
    report = json.loads(layout.validation.read_text())
    assert [item["check"] for item in report["findings"] if item["severity"] == "error"] == [check]
    assert where in report["findings"][0]["where"]
    assert not layout.tables.exists()
    assert digest(data) == before


def test_a_missing_folder_writes_nothing(tmp_path):
    with pytest.raises(DataError, match=r"base\.data = .*raw: there is no such folder"):
        validate(parameters("detection", tmp_path / "raw"), Layout(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_page_escapes_what_the_data_says(tmp_path):
    data = coco(tmp_path / "raw")
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace('"cat"', '"<script>alert(1)</script>"'))
    layout = Layout(tmp_path)
    validate(parameters("detection", data), layout)
    page = layout.validation_page.read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page  # it needs no other file


def test_command(tmp_path):
    """One clear line, exit status 1, no traceback; help loads nothing heavy."""
    (tmp_path / "params.yaml").write_text("base: {task: detection, data: nowhere}\n")
    command = [sys.executable, "-m", "tasks.validate"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    environment["WANDB_MODE"] = "disabled"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: validate: base.data = nowhere: there is no such folder")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    code = (
        "import sys, tasks.validate; "
        "print({'torch', 'pandas', 'pandera', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(SHARED is None, reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("name", "task", "splits", "num_objects"),
    [
        ("bccd", "detection", {"train": 292, "val": 72}, 4886),
        ("clothing", "classification", {"train": 3068, "val": 341, "test": 372}, 3781),
    ],
)
def test_real_data(tmp_path, name, task, splits, num_objects):
    assert SHARED is not None
    layout = Layout(tmp_path)
    figures = validate(parameters(task, (SHARED / name).resolve()), layout)
    assert figures["num_objects"] == num_objects
    assert Dataset.load(layout.tables).images["split"].value_counts().to_dict() == splits
    expected = {"bccd": ["Platelets", "RBC", "WBC"]}.get(name)
    assert expected is None or list(Dataset.load(layout.tables).classes) == expected
