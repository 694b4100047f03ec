"""The ONNX file: equal to PyTorch at several batch sizes, self-sufficient; damage is noticed."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from components.errors import ModelError
from components.evaluation.settings import EvaluateSettings
from components.export.parity import compare_detections, compare_probabilities
from components.export.predictor import OnnxPredictor
from components.export.write_onnx import write_onnx
from components.models.saved_model import (
    ModelDescription,
    build_model,
    load_for_inference,
    save_model,
)

SIZE = (64, 96)


def description(task: str) -> ModelDescription:
    return ModelDescription(
        task=task,
        backbone="mobilenetv3_small_050",
        classes=("red", 'größe "x"', "blue"),
        image_size=SIZE,
        resize="letterbox" if task == "detection" else "crop",
        crop_fraction=1.0,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        fingerprint="abc",
        arch="fcos" if task == "detection" else "",
        options={"fpn_channels": 32, "head_num_convs": 1} if task == "detection" else {},
    )


@pytest.fixture(scope="module", params=["classification", "detection"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    about = description(request.param)
    module = build_model(about)
    # An untrained head says the same of everything; this one has opinions.
    head = module.network.head
    torch.nn.init.normal_(getattr(head, "cls_logits", head).weight, std=0.5)
    save_model(folder / "trained", about, module.network.state_dict())
    model, about = load_for_inference(folder / "trained", **EvaluateSettings().thresholds())
    write_onnx(model, about, folder / "model.onnx", facts={"git_revision": "123"})
    return model, folder / "model.onnx"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def compare(model, outputs, batch):
    with torch.inference_mode():
        ours = tuple(o.numpy() for o in model(torch.from_numpy(batch)))
    if len(ours) == 1:
        return compare_probabilities(ours[0], outputs[0])
    return compare_detections(ours, outputs, 0.999, 1e-4, 0.05)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_it_gives_what_pytorch_gives(exported, batch_size):
    model, path = exported
    batch = images(batch_size)
    parity = compare(model, OnnxPredictor(path).run(batch), batch)
    assert parity.num_images == batch_size
    assert parity.num_compared > 2 * batch_size
    assert parity.holds(1e-4)


def test_it_says_all_of_itself(exported):
    _, path = exported
    about = OnnxPredictor(path).metadata
    assert json.loads(about["classes"])[1] == 'größe "x"'
    assert json.loads(about["image_size"]) == list(SIZE)
    assert {"mean", "std", "resize", "crop_fraction", "data_fingerprint"} <= set(about)
    assert about["git_revision"] == "123"


def test_images_of_any_size_go_in_and_boxes_come_out_in_their_pixels(exported):
    _, path = exported
    predictor = OnnxPredictor(path)
    shapes = [(200, 50), (7, 300), (64, 96)]
    answers = predictor.predict([np.full((*s, 3), 90, dtype=np.uint8) for s in shapes])
    for (height, width), answer in zip(shapes, answers, strict=True):
        if predictor.task == "classification":
            assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert set(answer["probabilities"]) == set(predictor.classes)
        for found in answer.get("detections", []):
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
    assert predictor.predict([]) == []


def test_a_damaged_file_is_caught(exported, tmp_path):
    model, path = exported
    proto = onnx.load(path)
    for weights in proto.graph.initializer:
        if len(weights.dims) == 4 and weights.data_type == onnx.TensorProto.FLOAT:
            damaged = numpy_helper.to_array(weights) * np.float32(1.02)
            weights.CopyFrom(numpy_helper.from_array(damaged, weights.name))
    onnx.save(proto, tmp_path / "damaged.onnx")
    batch = images(3)
    parity = compare(model, OnnxPredictor(tmp_path / "damaged.onnx").run(batch), batch)
    assert not parity.holds(1e-4)


class TestUnusableFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ModelError, match="no such model file"):
            OnnxPredictor(tmp_path / "none.onnx")

    def test_not_onnx(self, tmp_path):
        (tmp_path / "x.onnx").write_text("hello")
        with pytest.raises(ModelError, match="not a model ONNX Runtime can run"):
            OnnxPredictor(tmp_path / "x.onnx")

    def test_of_somebody_else(self, exported, tmp_path):
        proto = onnx.load(exported[1])
        del proto.metadata_props[:]
        onnx.save(proto, tmp_path / "x.onnx")
        with pytest.raises(ModelError, match="not exported by timmflow: metadata lacks task"):
            OnnxPredictor(tmp_path / "x.onnx")


class TestComparison:
    """What counts as the same detection."""

    one = (
        np.array([[[0.0, 0, 10, 10], [0, 0, 0, 0]]]),
        np.array([[0.9, 0.0]]),
        np.array([[1, -1]]),
    )

    def parity(self, boxes=None, scores=None, labels=None):
        ours = self.one
        theirs = tuple(
            np.array(new) if new is not None else old
            for new, old in zip((boxes, scores, labels), ours, strict=True)
        )
        return compare_detections(ours, theirs, 0.999, 1e-4, 0.05)

    def test_the_same(self):
        assert self.parity().holds(1e-4)

    @pytest.mark.parametrize(
        "change",
        [
            {"scores": [[0.91, 0.0]]},
            {"labels": [[0, -1]]},
            {"boxes": [[[0.0, 0, 10, 10.1], [0, 0, 0, 0]]]},
            {"scores": [[0.0, 0.0]]},
            {
                "boxes": [[[0.0, 0, 10, 10], [30, 30, 40, 40]]],
                "scores": [[0.9, 0.5]],
                "labels": [[1, 0]],
            },
            {"scores": [[float("nan"), 0.0]]},
        ],
        ids=["score", "class", "box", "missing", "one too many", "nan"],
    )
    def test_not_the_same(self, change):
        assert not self.parity(**change).holds(1e-4)

    @pytest.mark.parametrize(
        ("x1", "y2", "equal"),
        [(0.002, 10.0, True), (0.0, 10.005, True), (0.02, 10.0, False), (0.0, 10.02, False)],
    )
    def test_boxes_without_width_are_compared_by_their_edges(self, x1, y2, equal):
        shared = np.array([[0.9, 0.0]], dtype=np.float32), np.array([[1, -1]])
        ours, theirs = (
            (np.array([[box, [0.0] * 4]], dtype=np.float32), *shared)
            for box in ([0.0, 0.0, 0.0, 10.0], [x1, 0.0, x1, y2])
        )
        parity = compare_detections(ours, theirs, 0.999, 1e-4, 0.05)
        assert parity.holds(1e-4) == equal
        assert parity.num_compared == 1

    def test_one_side_of_the_threshold(self):
        extra = {
            "boxes": [[[0.0, 0, 10, 10], [30, 30, 40, 40]]],
            "scores": [[0.9, 0.05003]],
            "labels": [[1, 0]],
        }
        assert self.parity(**extra).holds(1e-4)

    def test_probabilities(self):
        ours = np.array([[0.2, 0.8]])
        assert compare_probabilities(ours, ours + 5e-5).holds(1e-4)
        assert not compare_probabilities(ours, ours + 2e-4).holds(1e-4)
        assert not compare_probabilities(ours, ours * np.nan).holds(1e-4)
