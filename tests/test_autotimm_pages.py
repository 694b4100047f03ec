"""The call patterns of AutoTimm's documentation, with the import changed and `pretrained` off.

Each test is one page's way of using the API, written anew on data of a few images. What a page
promises is checked where it can be seen: names that are logged, shapes, classes found.
"""

import sys
import types

import pytest
import torch
import torchmetrics
from PIL import Image
from raw_data_helpers import coco_content, write_coco, write_folders, write_image
from torch import nn
from torch.utils.data import DataLoader

import components as at
from components import (
    AutoTrainer,
    BackboneConfig,
    CenternessLoss,
    DetectionDataModule,
    FCOSLoss,
    FeatureBackboneConfig,
    FocalLoss,
    GIoULoss,
    ImageClassifier,
    ImageDataModule,
    LoggerConfig,
    LoggingConfig,
    MetricConfig,
    MetricManager,
    MultiLabelImageDataModule,
    ObjectDetector,
    TransformConfig,
    YOLOXDetector,
    export_checkpoint_to_onnx,
    export_to_onnx,
    get_loss_registry,
    list_available_losses,
    load_onnx,
    register_custom_loss,
    validate_onnx_export,
)

NAME = "test_resnet"  # timm's own toy
BACKBONE = BackboneConfig(NAME, pretrained=False)
FEATURES = FeatureBackboneConfig(NAME, pretrained=False)
CPU = {"accelerator": "cpu", "devices": 1}

ACCURACY = MetricConfig(
    name="accuracy",
    backend="torchmetrics",
    metric_class="Accuracy",
    params={"task": "multiclass"},
    stages=["train", "val", "test"],
    prog_bar=True,
)
F1 = MetricConfig(
    name="f1",
    backend="torchmetrics",
    metric_class="F1Score",
    params={"task": "multiclass", "average": "macro"},
    stages=["val", "test"],
)
MAP = MetricConfig(
    name="mAP",
    backend="torchmetrics",
    metric_class="MeanAveragePrecision",
    params={"box_format": "xyxy", "iou_type": "bbox"},
    stages=["val", "test"],
    prog_bar=True,
)


def pairs(num_classes=3, count=4):
    """Images with their class, as a data set of one's own gives them."""
    torch.manual_seed(0)
    return [(torch.randn(3, 32, 32), number % num_classes) for number in range(count)]


def detection_batches(count=2):
    torch.manual_seed(0)
    box = torch.tensor([[4.0, 8.0, 40.0, 50.0]])
    return [
        {
            "images": torch.randn(2, 3, 64, 64),
            "boxes": [box, torch.zeros(0, 4)],
            "labels": [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
        }
        for _ in range(count)
    ]


def try_out(model, items, batch_size=4):
    """One batch of training and one of validation; gives what was logged."""
    trainer = AutoTrainer(fast_dev_run=True, **CPU)
    loader = DataLoader(items, batch_size=batch_size)
    trainer.fit(model, loader, loader)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


# Models: classification -----------------------------------------------------------------------


class TestBackbones:
    def test_names_by_pattern(self):
        assert len(at.list_backbones()) > 1000
        assert all("convnext" in name for name in at.list_backbones("*convnext*"))
        # Names with weights say which ones after a dot.
        with_weights = {n.split(".")[0] for n in at.list_backbones("*vit*", pretrained_only=True)}
        assert with_weights < set(at.list_backbones("*vit*"))

    def test_features_and_counts(self):
        backbone = at.create_backbone(
            BackboneConfig(model_name="resnet18", pretrained=False, drop_path_rate=0.1)
        )
        assert backbone.num_features == 512
        assert 11e6 < at.count_parameters(backbone) < 12e6

    def test_feature_levels(self):
        config = FeatureBackboneConfig("resnet18", pretrained=False, out_indices=(2, 3, 4))
        backbone = at.create_feature_backbone(config)
        assert at.get_feature_channels(backbone) == [128, 256, 512]
        assert at.get_feature_strides(backbone) == [8, 16, 32]
        assert at.get_feature_info(backbone)[0]["num_chs"] == 128
        assert len(backbone(torch.randn(1, 3, 64, 64))) == 3


class TestClassifierOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"lr": 1e-3, "weight_decay": 1e-4, "optimizer": "adamw"},
            {"optimizer": "lamb"},
            {"optimizer": {"class": "torch.optim.AdamW", "params": {"betas": (0.9, 0.999)}}},
            {"scheduler": "onecycle"},
            {"scheduler": "none"},
            {"scheduler": None},
            {"scheduler": "step", "scheduler_kwargs": {"step_size": 10, "gamma": 0.1}},
            {
                "scheduler": {
                    "class": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
                    "params": {"T_0": 10, "T_mult": 2},
                }
            },
            {"label_smoothing": 0.1, "head_dropout": 0.5},
            {"freeze_backbone": True, "lr": 1e-2},
            {"compile_model": False},
            {"compile_kwargs": {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}},
            {"loss_fn": "cross_entropy"},
            {"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)},
            {"loss_fn": FocalLoss(alpha=0.25, gamma=2.0)},
            {"seed": 42, "deterministic": True},
        ],
        ids=lambda options: "-".join(f"{k}={str(v)[:24]}" for k, v in options.items()),
    )
    def test_each_trains(self, options):
        model = ImageClassifier(backbone=BACKBONE, num_classes=3, metrics=[ACCURACY], **options)
        logged = try_out(model, pairs())
        assert {"train/loss", "val/loss", "val/accuracy"} <= set(logged)

    def test_all_defaults_written_out(self):
        ImageClassifier(
            backbone=BACKBONE,
            num_classes=10,
            multi_label=False,
            threshold=0.5,
            loss_fn=None,
            metrics=None,
            logging_config=None,
            transform_config=None,
            lr=1e-3,
            weight_decay=1e-4,
            optimizer="adamw",
            optimizer_kwargs=None,
            scheduler="cosine",
            scheduler_kwargs=None,
            head_dropout=0.0,
            label_smoothing=0.0,
            freeze_backbone=False,
            mixup_alpha=0.0,
            compile_model=True,
            compile_kwargs=None,
            seed=None,
            deterministic=True,
        )

    def test_several_labels_at_once(self):
        labels = [torch.tensor([1, 0, 1, 0]), torch.tensor([0, 1, 0, 0])] * 2
        items = [(image, label) for (image, _), label in zip(pairs(), labels, strict=True)]
        model = ImageClassifier(
            backbone=BACKBONE,
            num_classes=4,
            multi_label=True,
            threshold=0.5,
            metrics=[
                MetricConfig(
                    name="accuracy",
                    backend="torchmetrics",
                    metric_class="MultilabelAccuracy",
                    params={"num_labels": 4},
                    stages=["train", "val"],
                    prog_bar=True,
                ),
                MetricConfig(
                    name="f1",
                    backend="torchmetrics",
                    metric_class="MultilabelF1Score",
                    params={"num_labels": 4, "average": "macro"},
                    stages=["val"],
                ),
            ],
        )
        assert {"val/accuracy", "val/f1"} <= set(try_out(model, items))

    def test_logging_of_norms_and_rate(self):
        model = ImageClassifier(
            backbone=BACKBONE,
            num_classes=3,
            metrics=[ACCURACY],
            logging_config=LoggingConfig(
                log_learning_rate=True,
                log_gradient_norm=True,
                log_weight_norm=True,
                log_confusion_matrix=True,
                log_predictions=False,
                predictions_per_epoch=8,
                verbosity=1,
            ),
        )
        logged = try_out(model, pairs())
        assert {"train/lr", "train/grad_norm", "train/weight_norm"} <= set(logged)


# Metrics --------------------------------------------------------------------------------------


class TestMetrics:
    def test_a_manager_used_by_hand(self):
        manager = MetricManager(configs=[ACCURACY, F1], num_classes=10)
        assert manager.num_classes == 10 and len(manager) == 2
        preds, targets = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4])
        for metric in manager.get_train_metrics().values():
            metric.update(preds, targets)
            assert metric.compute() == pytest.approx(2 / 3)
        assert manager.get_metric_config("val", "accuracy").prog_bar is True
        assert manager.get_metric_by_name("accuracy", stage="val") is not None
        assert manager.get_config_by_name("accuracy").stages == ["train", "val", "test"]
        assert [config.name for config in manager] == ["accuracy", "f1"]
        assert manager[0].name == "accuracy"

    def test_a_manager_or_a_list_goes_into_a_model(self):
        top2 = MetricConfig(
            name="top2_accuracy",
            backend="torchmetrics",
            metric_class="Accuracy",
            params={"task": "multiclass", "top_k": 2},
            stages=["val", "test"],
        )
        per_class = MetricConfig(
            name="recall",
            backend="torchmetrics",
            metric_class="Recall",
            params={"task": "multiclass", "average": "none"},
            stages=["val"],
        )
        auroc = MetricConfig(
            name="auroc",
            backend="torchmetrics",
            metric_class="AUROC",
            params={"task": "multiclass"},
            stages=["val"],
        )
        configs = [ACCURACY, F1, top2, per_class, auroc]
        for metrics in (configs, MetricManager(configs=configs, num_classes=3)):
            model = ImageClassifier(backbone=BACKBONE, num_classes=3, metrics=metrics)
            logged = try_out(model, pairs())
            assert {"val/accuracy", "val/f1", "val/top2_accuracy", "val/auroc"} <= set(logged)
            assert logged["val/top2_accuracy"] >= logged["val/accuracy"]

    def test_a_metric_of_ones_own(self, monkeypatch):
        class WeightedAccuracy(torchmetrics.Metric):
            def __init__(self, num_classes, class_weights=None):
                super().__init__()
                weights = torch.ones(num_classes) if class_weights is None else class_weights
                self.register_buffer("class_weights", weights)
                self.add_state("correct", torch.zeros(num_classes), dist_reduce_fx="sum")
                self.add_state("total", torch.zeros(num_classes), dist_reduce_fx="sum")

            def update(self, preds, target):
                preds = preds.argmax(dim=1)
                for number in range(len(self.total)):
                    self.correct[number] += ((preds == number) & (target == number)).sum()
                    self.total[number] += (target == number).sum()

            def compute(self):
                shares = self.correct / self.total.clamp(min=1)
                return (shares * self.class_weights).sum() / self.class_weights.sum()

        module = types.ModuleType("mymodule")
        module.WeightedAccuracy = WeightedAccuracy
        monkeypatch.setitem(sys.modules, "mymodule", module)
        weighted = MetricConfig(
            name="weighted_accuracy",
            backend="custom",
            metric_class="mymodule.WeightedAccuracy",
            params={"num_classes": 3},
            stages=["val", "test"],
        )
        model = ImageClassifier(backbone=BACKBONE, num_classes=3, metrics=[weighted])
        assert 0 <= try_out(model, pairs())["val/weighted_accuracy"] <= 1


# Losses ---------------------------------------------------------------------------------------


class TestLosses:
    def test_objects_called_by_hand(self):
        torch.manual_seed(0)
        maps, ids = torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 8, 8))
        assert FocalLoss(alpha=0.25, gamma=2.0, reduction="mean")(maps, ids) > 0
        predicted = torch.tensor([[10.0, 10, 50, 50], [20, 20, 60, 60]])
        true = torch.tensor([[12.0, 12, 48, 48], [25, 25, 65, 65]])
        assert 0 < GIoULoss(reduction="mean", eps=1e-7)(predicted, true) < 1
        assert CenternessLoss(reduction="mean")(torch.randn(9, 1), torch.rand(9)) > 0
        losses = FCOSLoss(
            num_classes=5,
            focal_alpha=0.25,
            focal_gamma=2.0,
            cls_weight=1.0,
            reg_weight=1.0,
            centerness_weight=1.0,
        )(
            [maps],
            [torch.rand(2, 4, 8, 8)],
            [torch.randn(2, 1, 8, 8)],
            [ids],
            [torch.rand(2, 4, 8, 8)],
            [torch.rand(2, 8, 8)],
        )
        assert set(losses) == {"cls_loss", "reg_loss", "centerness_loss", "total_loss"}

    def test_names_and_the_registry(self):
        for task, documented in (
            ("detection", {"centerness", "fcos", "focal", "giou"}),
            ("classification", {"bce", "bce_with_logits", "cross_entropy", "mse", "nll"}),
        ):
            assert documented <= set(list_available_losses(task=task))
            assert documented <= set(get_loss_registry().get_loss_info()[task])
        assert get_loss_registry().has_loss("focal")
        assert get_loss_registry().get_loss("focal", alpha=0.3).alpha == 0.3

    def test_a_loss_of_ones_own_by_name(self, monkeypatch):
        registry = get_loss_registry()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))

        class Balanced(nn.Module):
            def __init__(self):
                super().__init__()
                self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.5]))

            def forward(self, input, target):
                return self.loss(input, target)

        register_custom_loss(name="balanced_ce", loss_class=Balanced, alias="bce_balanced")
        for name in ("balanced_ce", "bce_balanced"):
            model = ImageClassifier(backbone=BACKBONE, num_classes=3, loss_fn=name)
            assert try_out(model, pairs())["val/loss"] > 0


# Models: detection ----------------------------------------------------------------------------

SMALL = {"fpn_channels": 16, "head_num_convs": 1}


class TestDetectorOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"lr": 1e-4, "metrics": [MAP]},
            {"scheduler": "multistep", "scheduler_kwargs": {"milestones": [8, 11], "gamma": 0.1}},
            {"focal_alpha": 0.25, "focal_gamma": 2.0, "centerness_loss_weight": 1.0},
            {"score_thresh": 0.05, "nms_thresh": 0.5, "max_detections_per_image": 100},
            {"freeze_backbone": True, "lr": 1e-3},
            {"cls_loss_fn": "focal", "reg_loss_fn": "giou"},
            {"cls_loss_fn": FocalLoss(alpha=0.3, gamma=2.5), "reg_loss_fn": GIoULoss()},
            {"detection_arch": "yolox", "cls_loss_weight": 1.0, "reg_loss_weight": 5.0},
            {
                "strides": (8, 16, 32, 64, 128),
                "regress_ranges": (
                    (-1, 64),
                    (64, 128),
                    (128, 256),
                    (256, 512),
                    (512, float("inf")),
                ),
            },
        ],
        ids=lambda options: "-".join(options),
    )
    def test_each_trains(self, options):
        model = ObjectDetector(backbone=FEATURES, num_classes=3, **SMALL, **options)
        logged = try_out(model, detection_batches(), batch_size=None)
        assert {"train/loss", "val/loss", "val/map", "val/map_50"} <= set(logged)

    def test_the_default_losses_are_those_named(self):
        losses = []
        for options in ({}, {"cls_loss_fn": "focal", "reg_loss_fn": "giou"}):
            torch.manual_seed(0)
            model = ObjectDetector(backbone=FEATURES, num_classes=3, **SMALL, **options)
            losses.append(model.model_step(detection_batches()[0])["loss"])
        torch.testing.assert_close(losses[0], losses[1])

    def test_yolox_by_size(self):
        model = YOLOXDetector(
            model_name="yolox-nano",
            num_classes=3,
            lr=0.01,
            weight_decay=5e-4,
            optimizer="sgd",
            scheduler="yolox",
            total_epochs=300,
            warmup_epochs=5,
            no_aug_epochs=15,
            reg_loss_weight=5.0,
            metrics=[MAP],
            compile_model=False,
        ).eval()
        with torch.inference_mode():
            (found,) = model.predict(torch.randn(1, 3, 64, 64))
        assert found["boxes"].shape == (len(found["scores"]), 4)
        assert len(found["labels"]) == len(found["scores"])


# Data, training, inference: whole pages ---------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    counts = {"red": 4, "green": 4}
    return write_folders(tmp_path / "data", {"train": counts, "val": counts, "test": counts})


class TestClassificationFromFolders:
    # Lightning's own, of a function of torch that it uses.
    @pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
    def test_quick_start(self, folders, tmp_path):
        data = ImageDataModule(data_dir=folders, image_size=32, batch_size=4, num_workers=0)
        data.setup("fit")
        assert data.class_names == ["green", "red"]
        model = ImageClassifier(
            backbone=BACKBONE,
            num_classes=data.num_classes,
            metrics=MetricManager(configs=[ACCURACY, F1], num_classes=data.num_classes),
            lr=1e-3,
        )
        trainer = AutoTrainer(
            max_epochs=1,
            logger=[LoggerConfig(backend="csv", params={"save_dir": str(tmp_path / "logs")})],
            checkpoint_monitor="val/accuracy",
            checkpoint_mode="max",
            gradient_clip_val=1.0,
            accumulate_grad_batches=2,
            default_root_dir=tmp_path,
            **CPU,
        )
        trainer.fit(model, datamodule=data)
        (results,) = trainer.test(model, datamodule=data)
        assert {"test/loss", "test/accuracy", "test/f1"} <= set(results)

        predictions = torch.cat(trainer.predict(model, dataloaders=data.test_dataloader()))
        assert predictions.shape == (8, 2)
        torch.testing.assert_close(predictions.sum(dim=1), torch.ones(8))

        again = ImageClassifier.load_from_checkpoint(
            trainer.checkpoint_callback.best_model_path,
            backbone=BACKBONE,
            num_classes=2,
            compile_model=False,
            metrics=[ACCURACY],
            transform_config=TransformConfig(image_size=32),
        ).eval()
        image = Image.open(folders / "test" / "red" / "0.png")
        with torch.inference_mode():
            one, several = again.preprocess(image), again.preprocess([image, image, image])
            assert again(several).softmax(dim=1).argmax(dim=1).shape == (3,)
        assert one.shape == (1, 3, 32, 32) and several.shape == (3, 3, 32, 32)

    def test_one_description_of_transforms_for_both_sides(self, folders):
        config = TransformConfig(preset="randaugment", image_size=64).with_overrides(image_size=32)
        data = ImageDataModule(
            data_dir=folders,
            transform_config=config,
            backbone=NAME,
            batch_size=2,
            num_workers=0,
        )
        data.setup("fit")
        model = ImageClassifier(
            backbone=BACKBONE, num_classes=data.num_classes, transform_config=config
        )
        assert try_out(model, data.train_dataset)["val/loss"] > 0
        facts = model.get_data_config()
        assert facts["mean"] == at.resolve_backbone_data_config(NAME)["mean"]
        image = Image.open(folders / "val" / "red" / "0.png")
        transform = at.get_transforms_from_backbone(
            backbone=NAME, transform_config=config, is_train=False
        )
        torch.testing.assert_close(model.preprocess(image)[0], transform(image))
        assert at.create_inference_transform(NAME)(image).ndim == 3

    def test_from_a_table(self, folders):
        rows = [
            f"{split}/{c}/{n}.png,{c}"
            for split in ("train", "val")
            for c in ("red", "green")
            for n in range(4)
        ]
        for split in ("train", "val"):
            lines = [row for row in rows if row.startswith(split)]
            (folders / f"{split}.csv").write_text("\n".join(["file,category", *lines]) + "\n")
        data = ImageDataModule(
            train_csv=folders / "train.csv",
            val_csv=folders / "val.csv",
            image_dir=folders,
            image_column="file",
            label_column="category",
            image_size=32,
            batch_size=4,
            num_workers=0,
            balanced_sampling=True,
        )
        model = ImageClassifier(backbone=BACKBONE, num_classes=2, metrics=[ACCURACY])
        trainer = AutoTrainer(max_epochs=1, enable_checkpointing=False, **CPU)
        trainer.fit(model, datamodule=data)
        assert data.num_classes == 2 and "val/accuracy" in trainer.callback_metrics

    def test_several_labels_from_a_table(self, tmp_path):
        lines = ["image_path,cat,dog,outdoor,indoor"]
        for number in range(6):
            write_image(tmp_path / "images" / f"{number}.png", number)
            lines.append(f"{number}.png,{number % 2},{(number + 1) % 2},1,0")
        (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
        data = MultiLabelImageDataModule(
            train_csv=tmp_path / "train.csv",
            image_dir=tmp_path / "images",
            val_split=0.34,
            image_size=32,
            batch_size=2,
            num_workers=0,
        )
        data.setup("fit")
        assert (data.num_labels, data.label_names) == (4, ["cat", "dog", "outdoor", "indoor"])
        model = ImageClassifier(
            backbone=BACKBONE,
            num_classes=data.num_labels,
            multi_label=True,
            metrics=[
                MetricConfig(
                    name="accuracy",
                    backend="torchmetrics",
                    metric_class="MultilabelAccuracy",
                    params={"num_labels": data.num_labels},
                    stages=["train", "val"],
                    prog_bar=True,
                ),
            ],
        )
        trainer = AutoTrainer(max_epochs=1, enable_checkpointing=False, **CPU)
        trainer.fit(model, datamodule=data)
        assert "val/accuracy" in trainer.callback_metrics


class TestDetection:
    def test_from_coco(self, tmp_path):
        write_coco(tmp_path / "coco", train=coco_content(4), val=coco_content(3))
        data = DetectionDataModule(
            data_dir=tmp_path / "coco",
            image_size=64,
            batch_size=2,
            num_workers=0,
            augmentation_preset="default",
            min_bbox_area=32.0,
        )
        data.setup("fit")
        model = ObjectDetector(
            backbone=FEATURES,
            num_classes=data.num_classes,
            metrics=[MAP],
            lr=1e-4,
            scheduler="multistep",
            scheduler_kwargs={"milestones": [8, 11], "gamma": 0.1},
            transform_config=TransformConfig(image_size=64),
            **SMALL,
        )
        trainer = AutoTrainer(
            max_epochs=1,
            gradient_clip_val=1.0,
            checkpoint_monitor="val/map",
            checkpoint_mode="max",
            default_root_dir=tmp_path,
            **CPU,
        )
        trainer.fit(model, datamodule=data)
        assert trainer.checkpoint_callback.best_model_score is not None

        again = ObjectDetector.load_from_checkpoint(
            trainer.checkpoint_callback.best_model_path, compile_model=False
        ).eval()
        picture = Image.open(tmp_path / "coco" / "val2017" / "0.png").convert("RGB")
        tensor = again.preprocess(picture)
        assert tensor.shape == (1, 3, 64, 64)
        with torch.inference_mode():
            (found,) = again.predict_step(tensor, batch_idx=0)
        assert set(found) == {"boxes", "scores", "labels"}

    def test_from_a_table(self, tmp_path):
        lines = ["file,left,top,right,bottom,class"]
        for number in range(4):
            write_image(tmp_path / "images" / f"{number}.png", number, color=(250, 0, 0))
            lines.append(f"{number}.png,10,5,30,25,{'cat' if number % 2 else 'dog'}")
        (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
        data = DetectionDataModule(
            train_csv=tmp_path / "boxes.csv",
            val_csv=tmp_path / "boxes.csv",
            image_dir=tmp_path / "images",
            image_column="file",
            bbox_columns=["left", "top", "right", "bottom"],
            label_column="class",
            image_size=64,
            batch_size=2,
            num_workers=0,
        )
        data.setup("fit")
        model = ObjectDetector(
            backbone=FEATURES, num_classes=data.num_classes, metrics=[MAP], **SMALL
        )
        trainer = AutoTrainer(max_epochs=1, enable_checkpointing=False, **CPU)
        trainer.fit(model, datamodule=data)
        assert data.num_classes == 2 and "val/map" in trainer.callback_metrics


# Utilities, export ------------------------------------------------------------------------------


def test_what_there_is_to_choose_from():
    for listed in (at.list_optimizers, at.list_schedulers):
        assert set(listed()) == {"torch", "timm"} and set(listed(include_timm=False)) == {"torch"}
    assert {"adamw", "sgd"} <= set(at.list_optimizers()["torch"])
    assert "default" in at.list_transform_presets()


def test_everything_seeded():
    draws = []
    for _ in range(2):
        at.seed_everything(123)
        draws.append(torch.rand(3))
    torch.testing.assert_close(draws[0], draws[1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageClassifier(backbone=BACKBONE, num_classes=10).eval()


class TestExport:
    def test_a_file_for_any_batch(self, model, tmp_path):
        example = torch.randn(1, 3, 32, 32)
        path = export_to_onnx(model, str(tmp_path / "model.onnx"), example_input=example)
        session = load_onnx(path)
        name = session.get_inputs()[0].name
        for size in (1, 4):
            (logits,) = session.run(None, {name: torch.randn(size, 3, 32, 32).numpy()})
            assert logits.shape == (size, 10)
        assert validate_onnx_export(
            original_model=model, onnx_path=path, example_input=example, rtol=1e-5, atol=1e-5
        )

    def test_from_a_checkpoint(self, model, tmp_path):
        trainer = AutoTrainer(max_epochs=0, enable_checkpointing=False, **CPU)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        path = export_checkpoint_to_onnx(
            checkpoint_path=tmp_path / "model.ckpt",
            save_path=tmp_path / "model.onnx",
            model_class=ImageClassifier,
            example_input=torch.randn(1, 3, 32, 32),
        )
        assert validate_onnx_export(model, path, torch.randn(1, 3, 32, 32))
