"""What AutoTimm 0.7.37 promises and does not keep, measured: each promise is kept here.

The tests of a row of the table in docs/library.md.
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.ops import generalized_box_iou_loss

import components
from components import (
    AutoTrainer,
    BackboneConfig,
    DetectionDataModule,
    FeatureBackboneConfig,
    GIoULoss,
    ImageClassifier,
    LoggingConfig,
    ObjectDetector,
    TransformConfig,
    YOLOXDetector,
    count_parameters,
    create_feature_backbone,
    get_feature_strides,
    list_optimizers,
    yolox_network,
)
from components.errors import DataError
from components.models.optimizers import create_optimizer

NAME = "mobilenetv3_small_050"
ROOT = Path(__file__).parents[1]


def detector(arch: str = "fcos", **arguments) -> ObjectDetector:
    torch.manual_seed(0)
    options = {"fpn_channels": 32, "head_num_convs": 1, "lr": 3e-3, **arguments}
    return ObjectDetector(FeatureBackboneConfig(NAME, pretrained=False), 2, arch, **options)


def classifier(**arguments) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(BackboneConfig(NAME, pretrained=False), 2, **arguments)


def scenes(size: int = 64) -> dict:
    """Four scenes with a bright square each, and one without."""
    torch.manual_seed(1)
    images, boxes, labels = torch.randn(5, 3, size, size) * 0.1, [], []
    for number, image in enumerate(images[:4]):
        x, y, label = 4 + 8 * number, 8, number % 2
        image[label, y : y + 24, x : x + 24] += 2
        boxes.append(torch.tensor([[x, y, x + 24.0, y + 24.0]]))
        labels.append(torch.tensor([label]))
    return {
        "images": images,
        "boxes": [*boxes, torch.zeros(0, 4)],
        "labels": [*labels, torch.zeros(0, dtype=torch.int64)],
    }


def fit(module, train, tmp_path, **arguments) -> Trainer:
    """One epoch, without files."""
    with warnings.catch_warnings():
        for text in ("does not have many workers", "LeafSpec", "in eval mode"):
            warnings.filterwarnings("ignore", message=f".*{text}.*")
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            **arguments,
        )
        loader = DataLoader(train, batch_size=4)
        trainer.fit(module, loader, loader)
    return trainer


def pairs(num: int = 8, size: int = 64):
    return [(torch.randn(3, size, size), number % 2) for number in range(num)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "yolox", "yolox-nano"])
def test_detectors_learn(kind):
    """Upstream: AP 0.04 for FCOS; 0.00 for its YOLOX head and YOLOXDetector."""
    torch.manual_seed(0)
    model = YOLOXDetector(kind, 2) if kind == "yolox-nano" else detector(kind)
    batch = scenes()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model.model_step(batch)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model(batch["images"])
    boxes, scores, labels = model.detections(outputs, (64, 64))
    for number, (truth, names) in enumerate(zip(batch["boxes"], batch["labels"], strict=True)):
        sure = scores[number] > 0.4
        assert labels[number][sure].tolist() == names.tolist()
        torch.testing.assert_close(boxes[number][sure], truth, atol=5, rtol=0)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "vgg11"],
)
def test_any_timm_backbone_is_a_detector_backbone(name):
    """Upstream: 519 of 1,061 names; IndexErrors, wrong strides, Swin's maps with channels last."""
    backbone = create_feature_backbone(FeatureBackboneConfig(name, pretrained=False)).eval()
    assert get_feature_strides(backbone) == [8, 16, 32]
    side = 224 if "swin" in name else 64
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, side, side))
    assert [tuple(m.shape[2:]) for m in maps] == [(side // s,) * 2 for s in (8, 16, 32)]
    assert [m.shape[1] for m in maps] == backbone.channels


def test_out_indices_are_not_indexed_again():
    """Upstream: `FeatureBackboneConfig(out_indices=…)` re-indexed."""
    config = FeatureBackboneConfig("resnet18", pretrained=False, out_indices=(1, 3))
    assert get_feature_strides(create_feature_backbone(config)) == [4, 16]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("nano", 0.91), ("tiny", 5.06), ("s", 8.97), ("m", 25.3), ("l", 54.2), ("x", 99.1)],
)
def test_yolox_sizes_are_official(name, millions):
    """Upstream: nano 2.02 M parameters, s 8.06 M."""
    with torch.device("meta"):
        network = yolox_network(f"yolox-{name}", 80)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)


def test_giou_loss_is_giou():
    """Upstream: -log IoU."""
    ours = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4]])
    theirs = torch.tensor([[2.0, 2, 12, 12], [20, 20, 30, 30]])
    expected = generalized_box_iou_loss(ours, theirs, reduction="none")
    torch.testing.assert_close(GIoULoss(reduction="none")(ours, theirs), expected)
    assert expected[1] > 1.5  # boxes apart: what IoU alone cannot tell


def test_no_box_output_is_dead_at_the_start():
    """Upstream: targets in pixels, and ReLU on them: 37 to 50 % of outputs dead."""
    model = detector().train()
    outputs = model(torch.randn(2, 3, 64, 64))
    sides = torch.cat([level.flatten() for level in outputs[1]])
    assert (sides > 0).all()  # in strides, so about one
    assert 0.5 < sides.median() < 2
    sides.sum().backward()
    assert (model.network.head.box_sides.weight.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_multistep_milestones_are_epochs(tmp_path):
    """Upstream: drops after eight batches."""
    model = classifier(scheduler="multistep", scheduler_kwargs={"milestones": [1]}, lr=1e-2)
    trainer = fit(model, pairs(40), tmp_path)  # ten batches, one epoch
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([1e-3] * len(rates))
    model = classifier(scheduler="multistep", scheduler_kwargs={"milestones": [2]}, lr=1e-2)
    trainer = fit(model, pairs(40), tmp_path)
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {1e-2}


def test_a_frozen_backbone_keeps_its_batch_norm_statistics(tmp_path):
    """Upstream: they keep moving."""
    model = classifier(freeze_backbone=True)
    before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
    fit(model, pairs(), tmp_path)
    after = model.network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_val_loss_is_logged(tmp_path):
    """Upstream: only metrics are."""
    logged = fit(classifier(), pairs(), tmp_path).callback_metrics
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(logged)


def test_the_default_trainer_keeps_the_learning_rate():
    """Upstream: a search replaces 1e-4 by 1.1e-6 after seven minutes."""
    trainer = AutoTrainer(max_epochs=1, logger=False)
    assert trainer.tuner_config is None


@pytest.mark.parametrize("kind", ["fcos", "yolox-nano"])
def test_the_default_checkpoint_metric_exists(tmp_path, kind):
    """Upstream: YOLOXDetector's does not."""
    torch.manual_seed(0)
    model = YOLOXDetector(kind, 2) if kind == "yolox-nano" else detector()
    batch = scenes()
    items = [{k: v[n] for k, v in batch.items()} for n in range(5)]

    def collate(rows):
        return {
            "images": torch.stack([row["images"] for row in rows]),
            "boxes": [row["boxes"] for row in rows],
            "labels": [row["labels"] for row in rows],
        }

    loader = DataLoader(items, batch_size=5, collate_fn=collate)
    with warnings.catch_warnings():
        for text in ("does not have many workers", "LeafSpec"):
            warnings.filterwarnings("ignore", message=f".*{text}.*")
        trainer = AutoTrainer(
            max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path
        )
        trainer.fit(model, loader, loader)
    assert trainer.checkpoint_callback.monitor == "val/map"
    assert "val/map" in trainer.callback_metrics
    assert Path(trainer.checkpoint_callback.best_model_path).is_file()


def test_compiling_by_default_costs_a_cpu_nothing_and_renames_no_weight(tmp_path):
    """Upstream: 300 s at the first call; keys saved with `_orig_mod.`."""
    model = classifier()
    assert model.options.compile_model
    names = list(model.state_dict())
    fit(model, pairs(), tmp_path)
    assert model.network._compiled_call_impl is None
    model.network.compile(backend="eager")
    assert list(model.state_dict()) == names


def test_predict_keeps_no_gradient_and_changes_nothing():
    """Upstream: keeps gradients, updates batch-norm statistics."""
    for model in (detector().train(), classifier().train()):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        found = model.predict(torch.randn(2, 3, 64, 64))
        found = found[0]["boxes"] if isinstance(found, list) else found
        assert not found.requires_grad and model.training
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_predicted_boxes_are_in_the_original_images_pixels(monkeypatch):
    """Upstream: in the pixels of the resized input."""
    model = detector(transform_config=TransformConfig(image_size=64))
    box = torch.tensor([[[8.0, 4, 32, 16]]])
    found = (box, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    monkeypatch.setattr(model, "detections", lambda outputs, size: found)
    picture = Image.new("RGB", (256, 128))  # scaled by a quarter, at the top left
    assert model.predict(picture)[0]["boxes"].tolist() == [[32, 16, 128, 64]]


def coco_folder(root: Path, names: dict[str, list[str]]) -> Path:
    """Two splits of four images; the last of each has no object."""
    (root / "annotations").mkdir(parents=True)
    for split, classes in names.items():
        folder = root / f"{split}2017"
        folder.mkdir()
        images, annotations = [], []
        for number in range(4):
            name = f"{number}.png"
            pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
            images.append({"id": number, "file_name": name, "width": 64, "height": 48})
            if number < 3:
                annotations.append(
                    {
                        "id": number,
                        "image_id": number,
                        "category_id": 5 + number % len(classes),
                        "bbox": [4, 4, 20, 20],
                        "area": 400,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 5 + n, "name": name} for n, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_images_without_objects_stay(tmp_path):
    """Upstream: dropped from training and from validation."""
    root = coco_folder(tmp_path / "coco", {"train": ["a", "b"], "val": ["a", "b"]})
    data = DetectionDataModule(data_dir=root, image_size=64, batch_size=2, num_workers=0)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        counts = sorted(len(labels) for batch in loader for labels in batch["labels"])
        assert counts == [0, 1, 1, 1]
    losses = detector().model_step({**scenes(), "boxes": [torch.zeros(0, 4)] * 5,
                                    "labels": [torch.zeros(0).long()] * 5})  # fmt: skip
    assert torch.isfinite(losses["loss"]) and losses["cls_loss"] > 0


def test_train_and_val_categories_are_checked_against_each_other(tmp_path):
    """Upstream: labels silently shift."""
    root = coco_folder(tmp_path / "coco", {"train": ["a", "b"], "val": ["b", "a"]})
    data = DetectionDataModule(data_dir=root, image_size=64, batch_size=2, num_workers=0)
    with pytest.raises(DataError, match=r"instances_val2017.json"):
        data.setup("fit")


def test_log_predictions_and_verbosity_have_an_effect(tmp_path):
    """Upstream: none."""
    from lightning.pytorch.loggers import CSVLogger

    class OneLogger(CSVLogger):
        pass

    found = {}
    for verbosity in (0, 2):
        config = LoggingConfig(True, True, log_predictions=True, verbosity=verbosity)
        model = classifier(logging_config=config)
        with warnings.catch_warnings():
            for text in ("does not have many workers", "LeafSpec", "fewer than the logging"):
                warnings.filterwarnings("ignore", message=f".*{text}.*")
            trainer = Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=OneLogger(tmp_path / str(verbosity)),
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
            )
            loader = DataLoader(pairs(), batch_size=4)
            trainer.fit(model, loader, loader)
        found[verbosity] = set(trainer.callback_metrics)
        pictures = list((tmp_path / str(verbosity)).rglob("predictions/**/*.png"))
        assert bool(pictures) == bool(verbosity)
    assert {"train/lr", "train/grad_norm"} <= found[2] - found[0]


def test_every_optimizer_that_is_listed_works():
    """Upstream: 25 of 38 names rejected."""
    for names in list_optimizers().values():
        for name in names:
            layer = torch.nn.Linear(4, 2)
            optimizer = create_optimizer(layer, name, 1e-2, 0.0)
            layer(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()


def test_importing_and_asking_for_help_load_nothing_heavy():
    """Upstream: 7.5 s each (times stand in docs/speed.md, not in a test)."""
    for module in ("components", "tasks.train", "tasks.predict"):
        code = f"import sys, {module}\nassert not {{'torch', 'timm', 'pandas'}} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert "ImageClassifier" in dir(components)
