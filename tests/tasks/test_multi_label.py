"""Several labels an image, from a CSV table to the page, and predictions of the file alone."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import yaml
from data_helpers import make_store
from PIL import Image

from components import digits
from components.data.loaders import PreparedDataModule
from components.data.settings import AugmentSettings
from components.errors import ModelError, ParamsError
from components.export.predictor import OnnxPredictor
from components.models.saved_model import read_description
from tasks import params as params_module
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.layout import Layout
from tasks.params import Params
from tasks.predict import predict
from tasks.preprocess import preprocess
from tasks.report import report
from tasks.stage import headline
from tasks.train import task_options, train
from tasks.validate import validate

STAGES = {
    **{"validate": validate, "preprocess": preprocess, "train": train},
    **{"evaluate": evaluate, "export": export, "report": report},
}
SETTINGS = {
    "base": {"task": "classification", "data": "data/raw", "multi_label": True},
    "validate": {"num_workers": 1},
    "preprocess": {"image_size": 64},
    "train": {
        **{"backbone": "test_resnet", "pretrained": False, "epochs": 1},
        **{"batch_size": 16, "warmup_epochs": 0, "num_threads": 1},
        "allow_trivial": True,  # after an epoch from random weights
        "classifier": {"class_weights": "balanced", "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    },
    "evaluate": {"bootstrap": 50, "num_mistakes": 2},
    "export": {"parity_images": 3, "latency_runs": 1},
}


@pytest.mark.slow
def test_from_a_table_to_the_page(tmp_path, untracked, monkeypatch):
    monkeypatch.setattr(digits, "LABEL_SCENES", {"train": 32, "val": 16, "test": 8})
    layout, params = Layout(tmp_path), Params.model_validate(SETTINGS)
    digits.build_multi_label(tmp_path / "data" / "raw")
    figures = {}
    for stage, run in STAGES.items():
        figures[stage] = run(params, layout)
        (tmp_path / "metrics").mkdir(exist_ok=True)
        layout.metrics(stage).write_text(json.dumps(figures[stage]))
        assert headline(stage, figures[stage])

    assert figures["train"]["monitor"] == "val/map"
    assert figures["evaluate"]["split"] == "test" and 0 < figures["evaluate"]["map"] < 1
    assert figures["evaluate"]["map_low"] <= figures["evaluate"]["map_high"]
    assert figures["export"]["num_compared"] == 2 * 3 * 10  # at two batch sizes
    assert figures["export"]["max_score_difference"] < 1e-4
    details = json.loads((layout.evaluation / "details.json").read_text())
    assert len(details["mistakes"]) == 2 and len(details["per_class"]) == 10
    for name in ("confusion", "precision_recall", "calibration"):
        assert len((layout.plots / f"{name}.csv").read_text().splitlines()) > 1
    page = layout.page.read_text()
    for words in ("Mean AP", "All labels right", "for any number of labels", "several rows"):
        assert words in page, words

    thresholds = read_description(layout.weights).thresholds
    assert len(thresholds) == 10
    predictor = OnnxPredictor(layout.onnx)
    assert predictor.thresholds == thresholds
    image = tmp_path / "data" / "raw" / "test" / "0000.jpg"
    answer = predicted(layout.onnx, image, draw=tmp_path / "drawn")
    assert list(answer) == ["image", "width", "height", "labels", "probabilities"]
    limits = dict(zip(predictor.classes, thresholds, strict=True))
    reached = {c for c, p in answer["probabilities"].items() if p >= limits[c]}
    assert {found["label"] for found in answer["labels"]} == reached
    with Image.open(tmp_path / "drawn" / "0000.predicted.jpg") as picture:
        assert picture.height > 320
    all_of_them = predicted(layout.onnx, image, threshold=0.0)["labels"]
    assert [found["label"] for found in all_of_them] == list(answer["probabilities"])
    assert predicted(layout.onnx, image, threshold=1.0, draw=tmp_path / "none")["labels"] == []

    broken = predictor.metadata | {"thresholds": "[0.5]"}
    with pytest.raises(ModelError, match="1 thresholds for 10 classes"):
        OnnxPredictor(with_metadata(layout.onnx, tmp_path / "broken.onnx", broken))


def predicted(model, image, **options):
    sink = io.StringIO()
    assert predict(model, [image], sink, **options) == (1, 0)
    return json.loads(sink.getvalue())


def with_metadata(source, target, metadata):
    import onnx

    proto = onnx.load(source)
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, target)
    return target


def test_the_built_in_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "LABEL_SCENES", {"train": 30, "val": 5, "test": 5})
    assert digits.build_multi_label(tmp_path / "one")
    assert not digits.build_multi_label(tmp_path / "one")
    digits.build_multi_label(tmp_path / "two")
    table = (tmp_path / "one" / "labels.csv").read_text()
    assert table == (tmp_path / "two" / "labels.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 40
    assert any(row["labels"] == "" for row in rows)
    assert any("|" in row["labels"] for row in rows)
    for row in rows:
        labels = [label for label in row["labels"].split("|") if label]
        assert labels == sorted(set(labels)) and len(labels) <= 4
        with Image.open(tmp_path / "one" / row["path"]) as image:
            assert image.size == (96, 96) and row["path"].startswith(row["split"])


def test_batches_hold_a_vector_an_image(tmp_path):
    store = make_store(
        tmp_path / "store", "classification", num_images=20, num_classes=3, multi_label=True
    )
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3, AugmentSettings())
    for batch in data.train_dataloader():
        assert batch["labels"].dtype == torch.float32 and batch["labels"].shape[1] == 3
        for row, labels in zip(batch["rows"].tolist(), batch["labels"], strict=True):
            ids = store.objects["class_id"][store.objects["image_id"] == row]
            assert labels.nonzero().flatten().tolist() == sorted(ids)
    without = sorted(set(range(20)) - set(store.objects["image_id"]))
    assert without and not store.label_vector(without[0]).any()
    with pytest.raises(ValueError, match="an image of a multi-label set has no one class"):
        PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3, balanced=True)


def test_balanced_weights_make_presence_count_as_much_as_absence(tmp_path):
    store = make_store(
        tmp_path / "store", "classification", num_images=30, num_classes=3, multi_label=True
    )
    rows = store.rows("train")
    truth = torch.tensor(np.array([store.label_vector(row) for row in rows]))
    store.info.statistics["objects_per_class"]["train"]["c"] = 0  # a class nobody has
    loss = task_options(store, Params.model_validate(SETTINGS).train)["loss_fn"]
    weights = loss.pos_weight
    assert (weights * truth.sum(dim=0))[:2].tolist() == pytest.approx(
        (1 - truth).sum(dim=0)[:2].tolist()
    )
    assert weights[2] == 1


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"balanced_sampling": True}, "train.classifier.balanced_sampling: .* class_weights"),
        ({"label_smoothing": 0.1}, "train.classifier.label_smoothing: .* must be 0, not 0.1"),
        (
            {"loss_fn": "focal", "class_weights": "balanced"},
            "train.classifier.class_weights: must be none with loss_fn: focal",
        ),
    ],
)
def test_what_needs_one_label_is_refused(tmp_path, classifier, message):
    tree = {**SETTINGS, "train": {"classifier": classifier}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ParamsError, match=message):
        params_module.load(tmp_path / "params.yaml")
