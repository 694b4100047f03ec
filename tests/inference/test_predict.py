"""`python -m tasks.predict` as a user meets it: inputs, outputs, order, and bad images."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import BOXES, write_model

from components.contract.readers import read_dataset
from components.errors import DataError
from components.inference.image_paths import image_paths
from tasks.predict import main, predict

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (250, 10, 20), "green": (10, 240, 30), "blue": (5, 20, 230)}


def solid(path: Path, colour=(250, 10, 20), size=(64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kinds = ("detection", "classification", "labels")
    return {kind: write_model(folder / f"{kind}.onnx", kind) for kind in kinds}


@pytest.fixture
def photos(tmp_path):
    """`b/red.png`, `a/green.jpg`, `a/deep/blue.png`, and what is no image."""
    for place in ("b/red.png", "a/green.jpg", "a/deep/blue.png"):
        solid(tmp_path / place, COLOURS[Path(place).stem])
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    return tmp_path


def called(*arguments, capsys) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_file_alone_is_needed_and_torch_is_not(models, photos):
    """In an empty folder, and with torch out of reach."""
    empty = photos / "elsewhere"
    empty.mkdir()
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'pandas', 'lightning'): sys.modules[name] = None\n"
        "from tasks.predict import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models["detection"]), "-", "--draw", "drawn"],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"},
        input=f"{photos}/b/red.png\n\n{photos}/a\r\n".encode(),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    names = [Path(row["image"]).name for row in rows(done.stdout.decode())]
    assert names == ["red.png", "green.jpg"]
    assert sorted(p.name for p in (empty / "drawn").iterdir()) == [
        "green.predicted.jpg",
        "red.predicted.jpg",
    ]
    assert [p.name for p in empty.iterdir()] == ["drawn"]


def test_a_detection_is_in_the_images_own_pixels(models, photos, capsys):
    code, out, err = called(models["detection"], photos / "b", capsys=capsys)
    assert (code, err) == (0, "")
    (row,) = rows(out)
    assert (row["width"], row["height"]) == (64, 48)
    (found,) = row["detections"]  # green and blue are below 0.3
    assert found["label"] == "red"
    # The letterbox halves 64 x 48 to 32 x 24 and fills the rest with grey 114.
    assert found["score"] == pytest.approx((250 * 24 + 114 * 8) / 32 / 255, abs=1e-4)
    assert found["box"] == [0, 0, 32, 32]
    assert len(rows(called(models["detection"], photos / "b", "--threshold", 0, capsys=capsys)[1])[
        0
    ]["detections"]) == 3  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "recursive", "expected"),
    [
        (["b", "a"], False, ["b/red.png", "a/green.jpg"]),
        (["a", "b"], True, ["a/green.jpg", "a/deep/blue.png", "b/red.png"]),
        (["*/*.png"], False, ["b/red.png"]),
        (["[ab]/**/*.png"], False, ["a/deep/blue.png", "b/red.png"]),
        (["?"], True, ["a/green.jpg", "a/deep/blue.png", "b/red.png"]),
        (["a/notes.txt", "gone.png"], False, ["a/notes.txt", "gone.png"]),
        (["[x].png"], False, ["[x].png"]),  # what exists is no pattern
        (["*.gif"], False, ["*.gif: no file matches"]),
        (["none"], False, ["none: a folder with no image directly in it (--recursive looks"]),
        (["none"], True, ["none: a folder with no image in it or below it"]),
    ],
)
def test_inputs_become_files_in_order(photos, monkeypatch, inputs, recursive, expected):
    monkeypatch.chdir(photos)
    (photos / "none").mkdir()
    solid(photos / "[x].png")
    solid(photos / "b" / "old.predicted.jpg")
    found = [str(path) for path in image_paths(inputs, recursive)]
    assert len(found) == len(expected)
    assert all(path.startswith(start) for path, start in zip(found, expected, strict=True)), found


def test_an_endless_list_is_not_waited_for(photos):
    def names():
        yield str(photos / "b" / "red.png")
        raise AssertionError("asked for too early")

    assert next(image_paths(names())) == photos / "b" / "red.png"


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_it_goes_on_past_bad_images(models, tmp_path, capsys, batch):
    """100 images, ten of them broken in five ways: 90 results in order, ten named errors."""
    rng = np.random.default_rng(0)
    whole = solid(tmp_path / "whole.png").read_bytes()
    broken = {
        3: b"",
        14: b"not an image",
        15: whole[: len(whole) // 2],
        40: None,
        41: b"\x89PNG\r\n\x1a\n" + bytes(50),
    }
    broken |= {number + 50: content for number, content in broken.items()}
    paths = []
    for number in range(100):
        path = tmp_path / "images" / f"{number:03}.png"
        if number not in broken:
            solid(path, tuple(rng.integers(0, 256, 3).tolist()), (40, 30 + number))
        elif (content := broken[number]) is not None:
            path.write_bytes(content)
        paths.append(path)
    code, out, err = called(models["detection"], *paths, "--batch", batch, capsys=capsys)
    assert code == 1
    good = rows(out)
    assert [row["image"] for row in good] == [
        str(path) for number, path in enumerate(paths) if number not in broken
    ]
    assert [row["height"] for row in good] == [30 + n for n in range(100) if n not in broken]
    *errors, last = err.splitlines()
    assert len(errors) == 10
    for number, error in zip(sorted(broken), errors, strict=True):
        assert error.startswith(f"error: predict: {paths[number]}: ")
        assert len(error) > len(f"error: predict: {paths[number]}: ") + 10
    assert last == "predict: 90 of 100 inputs; 10 could not be used"


def test_a_batch_changes_nothing(models, photos, capsys):
    texts = {
        called(models["labels"], photos, "--recursive", "--batch", size, capsys=capsys)[1]
        for size in (1, 2, 3, 50)
    }
    assert len(texts) == 1 and len(texts.pop().splitlines()) == 3


def test_a_graph_that_resizes_is_shown_images_of_their_own_size(tmp_path, capsys):
    model = write_model(tmp_path / "any.onnx", any_size=True)
    paths = [solid(tmp_path / f"{n}.png", (255, 0, 0), (20 + n, 9)) for n in range(3)]
    code, out, err = called(model, *paths, "--batch", 8, capsys=capsys)
    assert (code, err) == (0, "")
    for number, row in enumerate(rows(out)):
        assert (row["width"], row["height"]) == (20 + number, 9)
        assert row["detections"] == [{"label": "red", "score": 1.0, "box": [0, 0, 16, 9]}]


def test_csv_is_read_by_timmflow_itself(models, photos, capsys, monkeypatch):
    """Boxes as drawn by the model, and an image in which it found nothing."""
    solid(photos / "a" / "black.png", (0, 0, 0))
    target = photos / "labels.csv"
    monkeypatch.chdir(photos)
    code, _, err = called(
        models["detection"], "a", "b", "--recursive", "--threshold", 0.4, "--format", "csv",
        "--output", target, capsys=capsys,
    )  # fmt: skip
    assert (code, err) == (0, "predict: 4 of 4 inputs\n")
    reading = read_dataset(photos, "csv", "detection")
    names = [image.path for image in reading.images]
    assert names == ["a/black.png", "a/deep/blue.png", "a/green.jpg", "b/red.png"]
    assert reading.findings == []
    found = {names[box.image]: box for box in reading.objects}
    assert {name: box.label for name, box in found.items()} == {
        "a/green.jpg": "green", "a/deep/blue.png": "blue", "b/red.png": "red",
    }  # fmt: skip
    x1, y1, x2, y2 = (2 * side for side in BOXES[0])
    assert found["b/red.png"].box == (x1, y1, x2 - x1, y2 - y1)


@pytest.mark.parametrize(
    ("kind", "row"),
    [("classification", ["red", "0.5"]), ("labels", ["red|green", "0.97|0.97"])],
)
def test_csv_of_a_classifier_has_a_row_an_image(models, tmp_path, capsys, kind, row):
    yellow = solid(tmp_path / "y.png", (250, 249, 0), (32, 32))
    _, out, _ = called(models[kind], yellow, "--format", "csv", capsys=capsys)
    header, (name, label, score) = list(csv.reader(io.StringIO(out)))
    assert header == ["path", "label", "score"]
    assert (name, label) == (str(yellow), row[0])
    scores = [float(one) for one in score.split("|")]
    assert scores == pytest.approx([float(one) for one in row[1].split("|")], abs=0.1)


def test_coco_results_with_the_ids_of_an_annotation_file(models, photos, capsys):
    content = {
        "images": [
            {"id": 70, "file_name": "green.jpg"},
            {"id": 7, "file_name": "a/green.jpg"},
            {"id": 9, "file_name": "red.png"},
        ],
        "categories": [
            {"id": 5, "name": "blue"},
            {"id": 30, "name": "red"},
            {"id": 2, "name": "green"},
        ],
    }
    file = photos / "instances.json"
    file.write_text(json.dumps(content))
    arguments = (models["detection"], photos / "a", photos / "b", "--recursive")
    options = ("--format", "coco", "--threshold", 0.5)
    code, out, err = called(*arguments, *options, "--annotations", file, capsys=capsys)
    assert code == 1 and f"{photos}/a/deep/blue.png: no image of {file} has this name" in err
    found = json.loads(out)
    assert [(row["image_id"], row["category_id"]) for row in found] == [(7, 2), (9, 30)]
    assert found[1]["bbox"] == [0, 0, 32, 32] and found[1]["score"] > 0.7

    code, out, err = called(*arguments, *options, capsys=capsys)
    assert (code, err) == (0, "")
    assert [(row["image_id"], row["category_id"]) for row in json.loads(out)] == [
        (1, 2), (2, 3), (3, 1),
    ]  # fmt: skip
    _, out, _ = called(models["detection"], photos / "b", *options[:3], 1, capsys=capsys)
    assert json.loads(out) == []

    for change, reason in (
        ({"categories": content["categories"][:2]}, "no category is named green"),
        ({"images": 3}, "not a COCO annotation file"),
        ({"categories": [{"id": 1}]}, "not a COCO annotation file"),
    ):
        file.write_text(json.dumps(content | change))
        code, out, err = called(*arguments, *options, "--annotations", file, capsys=capsys)
        assert (code, out) == (1, "") and str(file) in err and reason in err


def test_pictures_are_drawn_beside_nothing_they_could_replace(models, photos, capsys):
    solid(photos / "c" / "red.jpg")
    before = {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()}
    arguments = (models["detection"], photos, "--recursive", "--draw", photos / "b")
    for _ in range(2):  # the second time, the pictures are no input
        code, _, err = called(*arguments, capsys=capsys)
        assert (code, err) == (0, "")
        assert sorted(p.name for p in (photos / "b").iterdir()) == [
            "blue.predicted.jpg", "green.predicted.jpg", "red-2.predicted.jpg",
            "red.png", "red.predicted.jpg",
        ]  # fmt: skip
    assert all(path.read_bytes() == content for path, content in before.items())


def test_output_is_whole_or_not_at_all(models, photos, tmp_path, capsys):
    target = tmp_path / "out" / "results.jsonl"
    target.parent.mkdir()
    target.write_text("yesterday's")

    def paths():
        yield photos / "b" / "red.png"
        assert target.read_text() == "yesterday's"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(models["detection"], paths(), io.StringIO())
    code, _, err = called(photos / "b" / "red.png", photos, "--output", target, capsys=capsys)
    assert code == 1 and "not a model ONNX Runtime can run" in err
    assert target.read_text() == "yesterday's"
    code, out, _ = called(models["detection"], photos / "b", "--output", target, capsys=capsys)
    assert (code, out) == (0, "") and len(rows(target.read_text())) == 1
    assert [path.name for path in target.parent.iterdir()] == ["results.jsonl"]


def test_names_that_are_no_unicode(models, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    solid(tmp_path / "x.png").rename(tmp_path / name)
    code, out, err = called(models["detection"], tmp_path, capsys=capsys)
    assert (code, err) == (0, "")
    assert rows(out)[0]["image"] == f"{tmp_path}/caf\\xe9 é.png"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--threshold", "1.5"], "must be between 0 and 1"),
        (["--threshold", "nan"], "must be between 0 and 1"),
        (["--batch", "0"], "must be at least 1"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--annotations", "a.json"], "is for --format coco"),
        (["--draw", __file__], "must name a folder"),
    ],
)
def test_wrong_arguments(models, arguments, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(models["detection"]), "x.png", *arguments])
    assert stop.value.code == 2 and reason in capsys.readouterr().err


def test_what_does_not_go_together_is_said(models, tmp_path, capsys):
    image = solid(tmp_path / "x.png")
    code, _, err = called(models["labels"], image, "--format", "coco", capsys=capsys)
    assert code == 1 and "a classifier has no COCO results" in err
    code, _, err = called(tmp_path / "no.onnx", image, capsys=capsys)
    assert code == 1 and "no.onnx: no such model file" in err
    (nothing,) = image_paths([str(tmp_path / "nothing*")])
    assert isinstance(nothing, DataError) and str(nothing).endswith("nothing*: no file matches")


def test_a_reader_that_has_enough_ends_it_quietly(models, tmp_path):
    solid(tmp_path / "x.png")
    command = [sys.executable, "-m", "tasks.predict", str(models["detection"])]
    first = subprocess.Popen(
        [*command, *[str(tmp_path / "x.png")] * 3000],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert first.stdout is not None and first.stderr is not None
    first.stdout.readline()
    first.stdout.close()
    assert first.stderr.read() == b""
    first.stderr.close()
    assert first.wait() == 1
