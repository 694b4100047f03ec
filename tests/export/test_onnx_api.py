"""ONNX from a module in memory: equal to it, whole or not at all, and damage is noticed."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from components.errors import ExportError, ModelError
from components.export.onnx_api import (
    default_input,
    export_to_onnx,
    load_onnx,
    validate_onnx_export,
)
from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector

NAME = "test_resnet"  # timm's own toy
SIZES = {"classifier": (64, 64), "detector": (64, 96)}


def build(kind):
    torch.manual_seed(0)
    if kind == "classifier":
        model = ImageClassifier(BackboneConfig(NAME, pretrained=False), 5)
        head = model.network.head
    else:
        backbone = FeatureBackboneConfig(NAME, pretrained=False)
        model = ObjectDetector(backbone, 3, fpn_channels=16, head_num_convs=1)
        head = model.network.head.cls_logits
    # An untrained head says the same of everything; this one has opinions.
    nn.init.normal_(head.weight, std=0.5)
    return model


def images(kind, count=1, seed=0):
    return torch.randn(count, 3, *SIZES[kind], generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["classifier", "detector"])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    model = build(request.param)
    model.network.backbone.eval()  # as a frozen one is
    modes = [module.training for module in model.modules()]
    # A batch of one, as all examples have it, must not become a constant.
    assert export_to_onnx(model, path, images(request.param)) == str(path)
    assert [module.training for module in model.modules()] == modes and model.training
    return request.param, model, path


def test_names_and_shapes(exported):
    kind, _, path = exported
    session = load_onnx(path)
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("input", "tensor(float)")
    assert given.shape == ["batch_size", 3, *SIZES[kind]]
    names = {"classifier": ["output"], "detector": ["boxes", "scores", "labels"]}
    assert [output.name for output in session.get_outputs()] == names[kind]


@pytest.mark.parametrize("count", [1, 5])
def test_it_gives_what_the_module_gives(exported, count):
    kind, model, path = exported
    batch = images(kind, count, seed=7)
    outputs = load_onnx(path).run(None, {"input": batch.numpy()})
    if kind == "classifier":
        logits = model.evaluating(batch).detach().numpy()
        np.testing.assert_allclose(outputs[0], logits, atol=1e-5, rtol=1e-4)
        return
    boxes, scores, labels = outputs
    for row, found in enumerate(model.predict(batch)):
        kept = scores[row] > 0
        assert len(found["scores"]) == kept.sum() > 2
        np.testing.assert_allclose(scores[row][kept], found["scores"].detach(), atol=1e-5)
        np.testing.assert_allclose(boxes[row][kept], found["boxes"].detach(), atol=1e-2)
        assert labels[row][kept].tolist() == found["labels"].tolist()


def test_it_is_found_equal(exported):
    kind, model, path = exported
    assert validate_onnx_export(model, path, images(kind, 2), raise_on_mismatch=True) is True
    assert model.training


def test_damage_is_found(exported, tmp_path):
    kind, model, path = exported
    proto = onnx.load(path)
    for weights in proto.graph.initializer:
        if len(weights.dims) == 4 and weights.data_type == onnx.TensorProto.FLOAT:
            damaged = numpy_helper.to_array(weights) * np.float32(1.01)
            weights.CopyFrom(numpy_helper.from_array(damaged, weights.name))
    onnx.save(proto, tmp_path / "damaged.onnx")
    assert validate_onnx_export(model, tmp_path / "damaged.onnx", images(kind)) is False
    numbers = {
        "classifier": r"batch of 1: output differs by up to \S+; allowed \S+",
        "detector": r"batch of 1: \d+ of \d+ detections have no match",
    }
    with pytest.raises(ExportError, match=numbers[kind]):
        validate_onnx_export(model, tmp_path / "damaged.onnx", images(kind), raise_on_mismatch=True)


def test_another_model_is_found_different(exported):
    kind, _, path = exported
    other = build({"classifier": "detector", "detector": "classifier"}[kind])
    assert validate_onnx_export(other, path, images(kind)) is False


class Levels(nn.Module):
    """Nested outputs, as a detector's raw ones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        maps = self.conv(images)
        return [maps, maps[:, :, ::2, ::2]], [maps.mean(dim=1)]


def test_any_module_exports_with_names_and_axes_of_ones_choice(tmp_path):
    model, example = Levels(), torch.randn(1, 3, 8, 8)
    path = export_to_onnx(
        model,
        tmp_path / "new" / "m.onnx",
        example,
        dynamic_axes={"pixels": {0: "batch", 2: "height"}, "large": {0: "batch"}},
        input_names=["pixels"],
        output_names=["large", "small", "mean"],
        opset_version=20,
    )
    session = load_onnx(path)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", 8]
    assert [output.name for output in session.get_outputs()] == ["large", "small", "mean"]
    assert onnx.load(path).opset_import[0].version == 20
    for height in (8, 12):
        assert validate_onnx_export(model, path, torch.randn(3, 3, height, 8))


def test_without_a_free_batch_one_batch_size_is_compared(tmp_path):
    model, example = Levels(), torch.randn(1, 3, 8, 8)
    path = export_to_onnx(
        model,
        tmp_path / "m.onnx",
        example,
        dynamic_axes={"output": {0: "batch"}},
        output_names=["large", "small", "mean"],
    )
    assert load_onnx(path).get_inputs()[0].shape == [1, 3, 8, 8]
    assert validate_onnx_export(model, path, example)


def test_an_old_opset_is_raised_and_said(tmp_path):
    with pytest.warns(UserWarning, match="opset_version = 17: torch.onnx writes 18 and later"):
        path = export_to_onnx(
            nn.Linear(3, 2), tmp_path / "m.onnx", torch.randn(1, 3), opset_version=17
        )
    assert onnx.load(path).opset_import[0].version == 18


class Untraceable(nn.Module):
    def forward(self, images):
        return images if images.sum() > 0 else images + 1


def test_a_failed_export_leaves_what_was_there(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("the old one")
    with pytest.raises(ExportError, match=r"torch\.onnx could not export Untraceable: "):
        export_to_onnx(Untraceable(), path, torch.randn(1, 3))
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"example_input": 3}, r"example_input = 3; must be a tensor \[B, 3, H, W\]"),
        ({"dynamic_axes": {"input": {4: "x"}}}, "dynamic_axes has axis 4; the input has 2"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(tmp_path, changes, error):
    with pytest.raises(ValueError, match=error):
        export_to_onnx(
            nn.Linear(3, 2), tmp_path / "m.onnx", **({"example_input": torch.ones(1, 3)} | changes)
        )


def test_a_file_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none.onnx: no such model file"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad.onnx: not a model ONNX Runtime can run"):
        load_onnx(tmp_path / "bad.onnx")


def test_providers_are_an_order_of_preference(tmp_path):
    path = export_to_onnx(nn.Linear(3, 2), tmp_path / "m.onnx", torch.randn(1, 3))
    session = load_onnx(path, providers=["NoSuchProvider", "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match=r"providers = \['No'\]; installed: .*CPUExecution"):
        load_onnx(path, providers=["No"])


def test_the_size_taken_for_granted():
    assert default_input(build("classifier")).shape == (1, 3, 224, 224)
    assert default_input(build("detector")).shape == (1, 3, 640, 640)
    fixed = ImageClassifier(BackboneConfig("test_vit", pretrained=False), 3)
    assert default_input(fixed).shape == (1, 3, 160, 160)
