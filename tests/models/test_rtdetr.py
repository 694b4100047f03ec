"""RT-DETR: it learns, exports, is transformers' model, and what must not matter does not."""

import sys
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning import Trainer
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision

from components.errors import ModelError
from components.export.parity import compare_detections
from components.export.predictor import OnnxPredictor
from components.export.write_onnx import write_onnx
from components.models import rtdetr_weights
from components.models.postprocess import NO_LABEL
from components.models.rtdetr_detector import RTDetrDetector
from components.models.rtdetr_loss import normalized_targets, rtdetr_loss, select_queries
from components.models.saved_model import (
    ModelDescription,
    input_format,
    load_for_inference,
    save_model,
)

pytest.importorskip("transformers")

SIZE = 64
BACKBONE = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
TINY: dict[str, Any] = {
    "backbone_config": BACKBONE,
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "d_model": 64,
    "decoder_ffn_dim": 128,
    "decoder_attention_heads": 4,
    "decoder_layers": 2,
    "num_denoising": 20,
}


def tiny(num_classes: int = 3, seed: int = 0, **arguments) -> RTDetrDetector:
    torch.manual_seed(seed)
    arguments = {"pretrained": False, "num_queries": 20, "extra_config": TINY} | arguments
    return RTDetrDetector("rtdetr_r18vd", num_classes, **arguments)


def opinionated(model: RTDetrDetector) -> RTDetrDetector:
    """An untrained head says the same of everything; this one has opinions."""
    detr = model.network.detr.model
    torch.manual_seed(5)
    for layer in (detr.enc_score_head, *detr.decoder.class_embed):
        nn.init.normal_(layer.weight, std=0.5)
    for head in detr.decoder.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.1)
    return model


def batch_of(boxes: list[list[list[float]]], labels: list[list[int]], size: int = SIZE):
    torch.manual_seed(1)
    return {
        "images": torch.rand(len(boxes), 3, size, size),
        "boxes": [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes],
        "labels": [torch.tensor(n, dtype=torch.int64) for n in labels],
    }


def trainable(model: RTDetrDetector) -> list[nn.Parameter]:
    return [p for p in model.network.parameters() if p.requires_grad]


# Millions of parameters, as the authors' model zoo gives them, cut to whole numbers.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("rtdetr_r18vd", 20),
        pytest.param("rtdetr_r34vd", 31, marks=pytest.mark.slow),
        pytest.param("rtdetr_r50vd_m", 36, marks=pytest.mark.slow),
        pytest.param("rtdetr_r50vd", 42, marks=pytest.mark.slow),
        pytest.param("rtdetr_r101vd", 76, marks=pytest.mark.slow),
    ],
)
def test_published_models_have_their_published_sizes(name, millions):
    model = RTDetrDetector(name, 80, pretrained=False, freeze_batch_norm=True)
    assert int(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_raw_outputs():
    model = tiny().eval()
    outputs = model(torch.rand(2, 3, 64, 96))
    assert outputs.logits.shape == (2, 20, 3) and outputs.boxes.shape == (2, 20, 4)
    assert outputs.layer_logits.shape == (2, 2, 20, 3)
    assert ((outputs.boxes >= 0) & (outputs.boxes <= 1)).all()
    found = model.detections(outputs, (64, 96))
    assert [tuple(part.shape) for part in found] == [(2, 60, 4), (2, 60), (2, 60)]


@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_loss_are_those_of_transformers(training):
    model = opinionated(tiny()).train(training)
    batch = batch_of([[[4, 4, 30, 40], [2, 30, 60, 60]], [], [[9, 8, 20, 50]]], [[1, 0], [], [2]])
    targets = normalized_targets(batch["boxes"], batch["labels"], (SIZE, SIZE))
    # The denoising queries are drawn.
    torch.manual_seed(3)
    theirs = model.network.detr(batch["images"], labels=targets)
    torch.manual_seed(3)
    outputs = model.network(batch["images"], targets)
    losses = rtdetr_loss(outputs, targets, model.network.config)
    torch.testing.assert_close(losses["loss"], theirs.loss, rtol=1e-6, atol=0)
    if training:
        assert outputs.layer_logits.shape[2] > 20  # there are denoising queries
    torch.testing.assert_close(outputs.logits, theirs.logits[:, -20:], rtol=0, atol=0)
    torch.testing.assert_close(outputs.boxes, theirs.pred_boxes[:, -20:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([[], []], [[], []]),
        ([[[4, 4, 30, 40]], []], [[0], []]),
        ([[[10, 10, 11, 11]]] * 2, [[0]] * 2),
        ([[[-8, 4, 80, 40]]] * 2, [[0]] * 2),
        (
            [[[8 * i % 50, i % 40, 8 * i % 50 + 12, i % 40 + 9] for i in range(500)], []],
            [[0] * 500, []],
        ),
    ],
    ids=["no object at all", "one image without", "one pixel", "beyond the image", "500 boxes"],
)
@pytest.mark.parametrize(
    ("dtype", "num_classes"), [(torch.float32, 3), (torch.float32, 1), (torch.bfloat16, 3)]
)
def test_loss_and_gradients_are_finite(boxes, labels, dtype, num_classes):
    model = tiny(num_classes)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model.model_step(batch_of(boxes, labels))
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    parts = losses["cls_loss"] + losses["l1_loss"] + losses["giou_loss"]
    torch.testing.assert_close(losses["loss"], parts)
    gradients = [p.grad for p in trainable(model) if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    # Background takes part in the loss: also an image without objects teaches something.
    assert model.network.detr.model.decoder.class_embed[-1].weight.grad.abs().sum() > 0


def test_every_weight_learns():
    """Once the last layers of the box heads are no longer the zeros that hide what is below."""
    model = opinionated(tiny())
    nn.init.normal_(model.network.detr.model.enc_bbox_head.layers[-1].weight, std=0.1)
    model.model_step(batch_of([[[4, 4, 30, 40]], [[9, 8, 20, 50]]], [[1], [2]]))["loss"].backward()
    idle = [
        name
        for name, p in model.network.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


def test_an_image_without_objects_adds_its_background():
    model = opinionated(tiny()).eval()
    both = batch_of([[[4, 4, 30, 40]], []], [[1], []])
    first, second = ({k: v[i : i + 1] for k, v in both.items()} for i in range(2))
    with torch.no_grad():
        whole, one, empty = (model.model_step(batch) for batch in (both, first, second))
    torch.testing.assert_close(whole["cls_loss"], one["cls_loss"] + empty["cls_loss"])
    assert empty["cls_loss"] > 0 and empty["l1_loss"] == empty["giou_loss"] == 0


def test_the_order_of_boxes_does_not_matter():
    model = opinionated(tiny()).eval()
    boxes, labels = [[4.0, 4, 30, 40], [20.0, 10, 60, 60], [33.0, 2, 50, 20]], [0, 1, 2]
    straight = model.model_step(batch_of([boxes], [labels]))["loss"]
    mixed = model.model_step(batch_of([boxes[::-1]], [labels[::-1]]))["loss"]
    torch.testing.assert_close(straight, mixed, rtol=1e-6, atol=1e-6)


def test_a_network_that_has_run_away_gives_nan_not_a_riddle():
    model = tiny()
    nn.init.constant_(model.network.detr.model.decoder.bbox_embed[0].layers[-1].bias, torch.nan)
    losses = model.model_step(batch_of([[[4, 4, 30, 40]]] * 2, [[1]] * 2))
    assert losses["loss"].isnan() and set(losses) == {"loss", "cls_loss", "l1_loss", "giou_loss"}


def test_predict_keeps_no_gradient_and_leaves_mode_and_statistics_alone():
    model = tiny().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = model.predict(torch.rand(2, 3, SIZE, SIZE))
    assert model.training
    assert len(found) == 2 and set(found[0]) == {"boxes", "scores", "labels"}
    assert not found[0]["boxes"].requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_batch_gives_what_its_images_give_alone():
    model = opinionated(tiny(score_thresh=0.0)).eval()
    images = torch.rand(3, 3, SIZE, SIZE)
    for image, expected in zip(images, model.predict(images), strict=True):
        alone = model.predict(image[None])[0]
        assert len(alone["scores"]) == 60
        torch.testing.assert_close(alone["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone["scores"], expected["scores"], rtol=1e-4, atol=1e-6)


class TestSelectQueries:
    """Post-processing on boxes drawn by hand."""

    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.0, 0.9, 0.5, 0.5]]])
    scores = torch.tensor([[[0.9, 0.1, 0.3], [0.0, 0.8, 0.04]]])

    def test_pairs_fall_in_score_and_boxes_stay_within_the_image(self):
        boxes, scores, labels = select_queries(self.scores, self.boxes, (100, 200), 0.05, 4)
        assert scores[0].tolist() == pytest.approx([0.9, 0.8, 0.3, 0.1])
        assert labels[0].tolist() == [0, 1, 2, 1]
        expected = [[80, 30, 120, 70], [0, 65, 50, 100], [80, 30, 120, 70], [80, 30, 120, 70]]
        torch.testing.assert_close(boxes[0], torch.tensor(expected).float())

    def test_padding(self):
        boxes, scores, labels = select_queries(self.scores, self.boxes, (100, 200), 0.5, 100)
        assert scores.shape == (1, 6)
        assert labels[0].tolist() == [0, 1] + [NO_LABEL] * 4
        assert scores[0, 2:].abs().sum() == 0 and boxes[0, 2:].abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "rtdetr_r50"}, r"unknown model_name 'rtdetr_r50'; did you mean rtdetr_r50"),
        ({"model_name": "yolo"}, r"unknown model_name 'yolo'; allowed: rtdetr_r18vd"),
        (
            {"extra_config": {"decoder_layer": 2}},
            r"unknown extra_config field 'decoder_layer'; did you mean decoder_layers",
        ),
        (
            {"extra_config": {"backbone_config": {"depth": [1]}}},
            r"unknown extra_config.backbone_config field 'depth'; did you mean depths",
        ),
    ],
)
def test_wrong_names_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        RTDetrDetector(**{"model_name": "rtdetr_r18vd", "pretrained": False} | arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 80), r"image size 64 x 80: RT-DETR needs multiples of 32"),
        ((32, 32), r"num_queries = 22: an image of 32 x 32 has 21 places"),
    ],
)
def test_image_sizes_that_do_not_work_say_why(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny(num_queries=22).eval()(torch.rand(1, 3, *shape))


@pytest.fixture(scope="module")
def source():
    return opinionated(tiny())


class TestWeights:
    """Where weights come from."""

    def equal(self, one: RTDetrDetector, other: RTDetrDetector) -> None:
        images = torch.rand(1, 3, SIZE, SIZE)
        ours, theirs = one.eval()(images), other.eval()(images)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("freeze_batch_norm", [None, False])
    def test_own_file(self, source, tmp_path, freeze_batch_norm):
        save_file(source.network.state_dict(), tmp_path / "weights.safetensors")
        for path in (tmp_path, tmp_path / "weights.safetensors"):
            loaded = tiny(seed=1, pretrained=str(path), freeze_batch_norm=freeze_batch_norm)
            self.equal(source, loaded)

    def test_a_folder_of_transformers(self, source, tmp_path):
        source.network.detr.save_pretrained(tmp_path)
        self.equal(source, tiny(seed=1, pretrained=str(tmp_path)))

    def test_names_of_published_files(self, source, tmp_path):
        """The hub's files were written by transformers 4, which had other names."""
        old = {
            name.removeprefix("detr.")
            .replace("encoder.aifi.", "encoder.encoder.")
            .replace("mlp.fc", "fc")
            .replace("o_proj", "out_proj"): value
            for name, value in source.network.state_dict().items()
            if "num_batches_tracked" not in name
        }
        assert any(".encoder.encoder.0.layers.0.fc1." in name for name in old)
        save_file(old, tmp_path / "model.safetensors")
        self.equal(source, tiny(seed=1, pretrained=str(tmp_path)))

    def test_another_number_of_classes_gets_fresh_heads(self, source, tmp_path):
        save_file(source.network.state_dict(), tmp_path / "model.safetensors")
        loaded = tiny(num_classes=7, seed=1, pretrained=str(tmp_path), freeze_batch_norm=False)
        ours, theirs = loaded.network.state_dict(), source.network.state_dict()
        heads = {name for name in ours if ours[name].shape != theirs[name].shape}
        assert {name.split(".")[2] for name in heads} == {
            "decoder",
            "enc_score_head",
            "denoising_class_embed",
        }
        assert all(torch.equal(ours[name], theirs[name]) for name in ours if name not in heads)
        scores = loaded.eval()(torch.rand(1, 3, SIZE, SIZE)).logits.sigmoid()
        assert scores.max() < 0.2  # the prior: nothing is believed to be there

    def test_weights_of_another_model(self, source, tmp_path):
        save_file(source.network.state_dict(), tmp_path / "model.safetensors")
        extra = {**TINY, "decoder_layers": 3}
        with pytest.raises(
            ModelError, match=r"not the weights of rtdetr_r18vd: \d+ of \d+ tensors"
        ):
            tiny(pretrained=str(tmp_path), extra_config=extra)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ModelError, match=r"holds neither model\.safetensors nor"):
            tiny(pretrained=str(tmp_path))
        with pytest.raises(ModelError, match="no such weights file"):
            tiny(pretrained=str(tmp_path / "none.safetensors"))

    def test_the_hub_out_of_reach(self, monkeypatch, tmp_path):
        monkeypatch.setattr(rtdetr_weights, "hub_reachable", lambda: False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(
            ModelError, match=r"weights of PekingU/rtdetr_r18vd could not be fetched"
        ):
            tiny(pretrained=True)


def test_batch_norms_are_frozen_when_told_and_trained_from_random_weights():
    batch = batch_of([[[4, 4, 30, 40]]] * 2, [[1]] * 2)
    for frozen in (None, True):
        model = tiny(freeze_batch_norm=frozen)
        before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
        model.model_step(batch)["loss"].backward()
        after = model.network.backbone.state_dict()
        moved = {k for k in before if not torch.equal(before[k], after[k])}
        assert bool(moved) != bool(frozen)


def test_a_frozen_backbone_keeps_its_batch_norm_too():
    model = tiny(freeze_backbone=True).train()
    before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
    model.model_step(batch_of([[[4, 4, 30, 40]]] * 2, [[1]] * 2))["loss"].backward()
    after = model.network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.network.backbone.parameters())


# lightning 2.6 under torch 2.14
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_a_training_run_and_its_checkpoint(tmp_path):
    batch = batch_of([[[4, 4, 30, 40]], []], [[1], []])
    model = tiny()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    # Batches as they are: a loader that makes none of its own.
    loader: DataLoader[Any] = DataLoader(cast(Any, [batch]), batch_size=None)
    trainer.fit(model, loader, loader)
    assert {"train/loss", "train/giou_loss", "val/loss", "val/map"} <= set(trainer.callback_metrics)
    rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
    assert len(rates) == 2 and max(rates) == pytest.approx(10 * min(rates))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["hyper_parameters"]["extra_config"] == TINY
    again = RTDetrDetector.load_from_checkpoint(tmp_path / "last.ckpt")
    images = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(model.eval()(images).logits, again.eval()(images).logits)


def test_no_weight_is_stored_twice():
    """safetensors refuses tensors that share memory."""
    state = tiny().network.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(state)


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'timmflow\[rtdetr\]'"):
        tiny()


@pytest.mark.slow
def test_it_learns_four_images_by_heart():
    boxes = [[[9, 9, 42, 45]], [[45, 30, 90, 78]], [[3, 45, 45, 90], [54, 6, 90, 39]], []]
    labels = [[0], [1], [1, 0], []]
    batch = batch_of(boxes, labels, size=96)
    for i, (image_boxes, names) in enumerate(zip(boxes, labels, strict=True)):
        batch["images"][i] *= 0.2
        for (x1, y1, x2, y2), label in zip(image_boxes, names, strict=True):
            batch["images"][i, label, y1:y2, x1:x2] += 0.7
    model = tiny(num_classes=2, score_thresh=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.model_step(batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    truth = [
        {"boxes": b, "labels": n} for b, n in zip(batch["boxes"], batch["labels"], strict=True)
    ]
    metric.update(model.predict(batch["images"]), truth)
    assert metric.compute()["map"] > 0.5


def described(**options: Any) -> ModelDescription:
    return ModelDescription(
        task="detection",
        backbone="rtdetr_r18vd",
        classes=("a", "b", "c"),
        image_size=(64, 96),
        resize="letterbox",
        crop_fraction=1.0,
        fingerprint="abc",
        options={"num_queries": 20, "extra_config": TINY, **options},
        **input_format("rtdetr_r18vd"),
    )


def test_a_saved_model_with_frozen_batch_norms_is_loaded_into_others(tmp_path):
    """It is rebuilt with random weights, whose batch norms are not frozen."""
    model = opinionated(tiny(freeze_batch_norm=True)).eval()
    for name, value in model.network.backbone.named_buffers():
        value.copy_(torch.rand_like(value) + (0.5 if name.endswith("var") else 0.0))
    save_model(tmp_path / "trained", described(), model.network.state_dict())
    thresholds = {"score_thresh": 0.0, "nms_thresh": 0.5, "max_detections_per_image": 7}
    loaded, about = load_for_inference(tmp_path / "trained", **thresholds)
    assert (about.mean, about.std, about.channels) == ((0, 0, 0), (1, 1, 1), "rgb")
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    outputs = model(pixels.permute(0, 3, 1, 2) / 255)
    expected = select_queries(outputs.logits.sigmoid(), outputs.boxes, (64, 96), 0.0, 7)
    for ours, theirs in zip(loaded(pixels), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_onnx_file_gives_what_pytorch_gives(tmp_path):
    state = opinionated(tiny()).network.state_dict()
    save_model(tmp_path / "trained", described(), state)
    thresholds = {"score_thresh": 0.05, "nms_thresh": 0.5, "max_detections_per_image": 100}
    model, about = load_for_inference(tmp_path / "trained", **thresholds)
    write_onnx(model, about, tmp_path / "model.onnx")
    predictor = OnnxPredictor(tmp_path / "model.onnx", num_threads=1)
    for count in (1, 3):
        shape = (count, *about.image_size, 3)
        images = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            ours = tuple(part.numpy() for part in model(torch.from_numpy(images)))
        parity = compare_detections(ours, predictor.run(images), 0.999, 1e-4, 0.05)
        assert parity.num_compared > 10 * count
        assert parity.holds(1e-4)
