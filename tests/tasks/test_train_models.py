"""The train and evaluate stages with each kind of model that `train.backbone` can name."""

import pytest
from data_helpers import make_store

from components.errors import TrainingError
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.largest_batch import largest_batch
from tasks.layout import Layout
from tasks.params import Params
from tasks.train import train

TINY = "mobilenetv3_small_050"
MOSAIC = {
    **{"mosaic": 1.0, "mixup": 1.0, "degrees": 5, "hsv": [0.02, 0.1, 0.1]},
    **{"multi_scale": 1, "multi_scale_every": 1, "plain_epochs": 1},
}


def run(tmp_path, task, *, stages, **settings):
    """Train on noise with squares, then go on; gives the figures of the last stage."""
    layout = Layout(tmp_path)
    make_store(layout.prepared, task, num_images=20)
    defaults = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "pretrained": False}
    defaults["allow_trivial"] = True
    params = Params.model_validate(
        {
            "base": {"task": task, "data": "data/raw"},
            "train": {**defaults, "num_threads": 1, "num_workers": 0, **settings},
            "evaluate": {"bootstrap": 0, "num_mistakes": 1, "score_threshold": 0.0},
            "export": {"parity_images": 3, "latency_runs": 1},
        }
    )
    for stage in stages:
        figures = stage(params, layout)
    return figures


@pytest.mark.parametrize(
    ("devices", "num_nodes", "text"),
    [(1, 1, "6 fits on cpu; now 8"), (2, 2, "24 fits on cpu, 6 in each of 4 processes; now 8")],
)
def test_the_largest_batch_is_that_of_all_processes(
    tmp_path, monkeypatch, devices, num_nodes, text
):
    make_store(Layout(tmp_path).prepared, "classification", num_images=20)
    train = {"backbone": TINY, "batch_size": 8, "devices": devices, "num_nodes": num_nodes}
    base = {"task": "classification", "data": "data/raw"}
    params = Params.model_validate({"base": base, "train": train | {"num_threads": 1}})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("components.training.memory.largest_batch", lambda *_: 6)
    assert largest_batch(params, Layout(tmp_path), 64) == f"train.batch_size: {text}"


def test_a_training_that_learns_nothing_fails_unless_allowed(tmp_path, capsys):
    layout = Layout(tmp_path)
    make_store(layout.prepared, "classification", num_images=60)
    base = {"task": "classification", "data": "data/raw"}
    given = {"backbone": TINY, "pretrained": False, "epochs": 1, "lr": 1e-9, "num_threads": 1}
    with pytest.raises(TrainingError, match="nothing was learnt: the best val/accuracy is 0"):
        train(Params.model_validate({"base": base, "train": given}), layout)
    assert not layout.weights.exists()
    assert "epoch 1/1" in capsys.readouterr().out
    allowed = Params.model_validate({"base": base, "train": {**given, "allow_trivial": True}})
    train(allowed, layout)
    assert layout.weights.exists()
    assert "epoch 1/1" not in capsys.readouterr().out, "no epoch is repeated"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {
            "backbone": TINY,
            "scheduler": "multistep",
            "scheduler_options": {"milestones": [1], "gamma": 0.5},
            "freeze_epochs": 1,
            "layer_decay": 0.8,
            "classifier": {
                "mixup_alpha": 0.2,
                "cutmix_alpha": 1.0,
                "label_smoothing": 0.1,
                "class_weights": "balanced",
                "balanced_sampling": True,
            },
        },
        {
            "backbone": "vit_tiny_patch16_224",
            "optimizer": "lamb",
            "scheduler": "plateau",
            "classifier": {"loss_fn": "focal"},
        },
    ],
    ids=["every classifier setting", "a transformer, focal loss"],
)
def test_classifiers(tmp_path, untracked, settings):
    figures = run(tmp_path, "classification", stages=[train, evaluate], **settings)
    assert figures["num_images"] == 4 and 0 <= figures["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": TINY, "detector": {"arch": "yolox", "fpn_channels": 32, "head_num_convs": 1}},
        {"backbone": "vit_tiny_patch16_224", "detector": {"fpn_channels": 32}},
        {"backbone": "rtdetr_r18vd", "gradient_clip": 0.1},
    ],
    ids=["a YOLOX head", "a transformer", "RT-DETR"],
)
def test_detectors(tmp_path, untracked, settings):
    if settings["backbone"].startswith("rtdetr"):
        pytest.importorskip("transformers", reason="the extra rtdetr is not installed")
    figures = run(tmp_path, "detection", stages=[train, evaluate], **settings)
    assert figures["num_images"] == 4 and 0 <= figures["map"] <= 1


@pytest.mark.slow
def test_yolox_with_its_recipe_to_the_onnx_file(tmp_path, untracked):
    figures = run(
        tmp_path,
        "detection",
        stages=[train, evaluate, export],
        backbone="yolox-nano",
        optimizer="sgd",
        scheduler="yolox",
        lr=0.002,
        ema_decay=0.9998,
        ema_ramp=2000,
        augment=MOSAIC,
    )
    assert figures["num_parity_images"] == 3
    assert figures["max_score_difference"] < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backbone": "yolox-nano", "pretrained": True},
            r"train.backbone = yolox-nano: pretrained",
        ),
        ({"backbone": "yolox-xs"}, r"unknown model_name 'yolox-xs'; allowed: yolox-nano"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(tmp_path, untracked, settings, message):
    from components.errors import ModelError

    with pytest.raises(ModelError, match=message):
        run(tmp_path, "detection", stages=[train], **settings)


def test_a_detector_is_no_classifier(tmp_path, untracked):
    from components.errors import ModelError

    with pytest.raises(ModelError, match=r"train.backbone = yolox-nano is a detector"):
        run(tmp_path, "classification", stages=[train], backbone="yolox-nano")
