"""What all Lightning modules share: stages, logging, freezing, checkpoints; and the classifier."""

import math
import warnings

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.models.metrics import LoggingConfig, MetricConfig, MetricManager
from components.models.yolox_detector import YOLOXDetector

NAME = "mobilenetv3_small_050"
TINY = BackboneConfig(NAME, pretrained=False)
TINY_FEATURES = FeatureBackboneConfig(NAME, pretrained=False)


def classifier(num_classes: int = 3, backbone=TINY, **arguments) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(backbone, num_classes, **{"lr": 3e-3, **arguments})


def detector(arch: str = "fcos", **arguments) -> ObjectDetector:
    torch.manual_seed(0)
    options = {"fpn_channels": 32, "head_num_convs": 1, "lr": 3e-3, **arguments}
    return ObjectDetector(TINY_FEATURES, 2, arch, **options)


def pairs(num: int = 12, num_classes: int = 3, size: int = 64):
    """Images of one bright colour channel, the class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(num) % num_classes
    images = torch.randn(num, 3, size, size, generator=generator) * 0.3
    for image, label in zip(images, labels, strict=True):
        image[label] += 2
    return list(zip(images, labels, strict=True))


def scenes(num: int = 4, size: int = 64):
    items = []
    for number in range(num):
        image = torch.randn(3, size, size) * 0.1
        x, y, label = 4 + 6 * number % 28, 8, number % 2
        image[label, y : y + 24, x : x + 24] += 2
        items.append((image, torch.tensor([[x, y, x + 24.0, y + 24.0]]), torch.tensor([label])))
    items.append((torch.randn(3, size, size) * 0.1, torch.zeros(0, 4), torch.zeros(0).long()))
    return items


def as_scene_batch(items):
    images, boxes, labels = zip(*items, strict=True)
    return {"images": torch.stack(images), "boxes": list(boxes), "labels": list(labels)}


def fitted(module, tmp_path, train, *, val=None, epochs: int = 1, collate=None, batch_size=4):
    """Fit for a few epochs; gives the trainer."""
    with warnings.catch_warnings():
        for text in ("does not have many workers", "LeafSpec", "in eval mode", "Checkpoint dir"):
            warnings.filterwarnings("ignore", message=f".*{text}.*")
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        load = {"batch_size": batch_size, "collate_fn": collate}
        trainer.fit(module, DataLoader(train, **load), DataLoader(val or train, **load))
    return trainer


class TestClassifier:
    def test_takes_pairs_and_dicts_alike(self):
        model = classifier().eval()
        images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
        pair = model.model_step(model.as_batch((images, labels)))["loss"]
        assert pair == model.model_step({"images": images, "labels": labels})["loss"]

    def test_multi_label_is_a_sigmoid_each(self, tmp_path):
        model = classifier(multi_label=True, threshold=0.3)
        train = [(image, torch.eye(3)[label] + torch.eye(3)[0]) for image, label in pairs()]
        train = [(image, label.clamp(max=1)) for image, label in train]
        metrics = fitted(model, tmp_path, train).callback_metrics
        assert {"val/map", "val/f1", "val/accuracy", "val/loss"} <= set(metrics)
        assert model.main_metric == "map"
        assert model.val_metrics["f1"].threshold == 0.3
        images = torch.randn(2, 3, 64, 64)
        assert torch.equal(model.predict(images), model.evaluating(images).sigmoid())

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_one_class_is_not_enough(self, multi_label):
        with pytest.raises(ValueError, match=r"num_classes = 1: a classifier needs at least 2"):
            classifier(1, multi_label=multi_label)

    def test_class_weights_weigh(self):
        model = classifier(class_weights=[1.0, 0.0, 1.0]).eval()
        images = torch.randn(2, 3, 64, 64)
        alone = model.model_step({"images": images, "labels": torch.tensor([0, 0])})["loss"]
        mixed = model.model_step({"images": images, "labels": torch.tensor([0, 1])})["loss"]
        logits = model(images)
        torch.testing.assert_close(
            mixed, nn.functional.cross_entropy(logits[:1], torch.tensor([0]))
        )
        assert mixed != alone
        with pytest.raises(ValueError, match=r"class_weights has 2 values, num_classes is 3"):
            classifier(class_weights=[1.0, 2.0])

    @pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0], [1, math.inf, 1], [1, math.nan, 1]])
    def test_weights_that_cannot_weigh_are_refused(self, weights):
        with pytest.raises(ValueError, match=r"class_weights = .*: must be finite, 0 or above"):
            classifier(class_weights=weights)

    @pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
    def test_mixing_is_for_training_only(self, kind):
        model = classifier(**{kind: 1.0})
        batch = {"images": torch.randn(4, 3, 64, 64), "labels": torch.tensor([0, 1, 2, 0])}
        seen = []
        model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.train().model_step(batch)
        model.eval().model_step(batch)
        assert not torch.equal(seen[0], batch["images"])
        assert torch.equal(seen[1], batch["images"])

    def test_smoothing_is_for_training_only(self):
        model = classifier(label_smoothing=0.2)
        logits, labels = torch.tensor([[9.0, 0, 0]]), torch.tensor([0])
        assert model.eval().loss(logits, labels) < 0.01 < model.train().loss(logits, labels)

    def test_a_loss_of_ones_own(self):
        class Own(nn.Module):
            def forward(self, logits, targets):
                return logits.sum() * 0 + 7

        assert (
            classifier(loss_fn=Own()).model_step(
                {"images": torch.randn(2, 3, 64, 64), "labels": torch.tensor([0, 1])}
            )["loss"]
            == 7
        )


class TestLogging:
    def everything(self, **changes) -> LoggingConfig:
        on = dict.fromkeys(
            ["log_learning_rate", "log_gradient_norm", "log_weight_norm", "log_confusion_matrix"],
            True,
        )
        return LoggingConfig(
            **{**on, "log_predictions": True, "predictions_per_epoch": 3, **changes}
        )

    def test_loss_and_metrics_of_each_stage(self, tmp_path):
        found = fitted(classifier(), tmp_path, pairs()).callback_metrics
        assert {"train/loss", "val/loss", "val/accuracy", "val/f1", "train/lr"} <= set(found)
        assert "train/grad_norm" not in found

    def test_everything_that_can_be_switched_on(self, tmp_path):
        model = classifier(logging_config=self.everything())
        trainer = fitted(model, tmp_path, pairs())
        assert {"train/lr", "train/grad_norm", "train/weight_norm"} <= set(trainer.callback_metrics)
        folder = next((tmp_path / "lightning_logs").glob("version_*")) / "val"
        assert len(list((folder / "predictions").rglob("*.png"))) == 3
        assert len(list((folder / "confusion_matrix").rglob("*.png"))) == 1

    @pytest.mark.parametrize(("verbosity", "present"), [(0, 0), (1, 1), (2, 3)])
    def test_verbosity_says_how_much(self, tmp_path, verbosity, present):
        config = self.everything(verbosity=verbosity, log_predictions=False)
        found = fitted(classifier(logging_config=config), tmp_path, pairs()).callback_metrics
        assert sum(name.startswith("train/grad_norm") for name in found) == present

    def test_a_detector_draws_what_it_finds(self, tmp_path):
        model = detector(
            logging_config=self.everything(log_confusion_matrix=False), score_thresh=0.0
        )
        fitted(model, tmp_path, scenes(), collate=as_scene_batch)
        folder = next((tmp_path / "lightning_logs").glob("version_*")) / "val" / "predictions"
        assert len(list(folder.rglob("*.png"))) == 3

    def test_ones_own_metrics(self, tmp_path):
        metrics = [
            MetricConfig(
                "top2", "torchmetrics", "MulticlassAccuracy", {"top_k": 2}, ["train", "val"]
            ),
            MetricConfig(
                "each", "torchmetrics", "MulticlassRecall", {"average": "none"}, ["val"], True
            ),
        ]
        for given in (metrics, MetricManager(metrics, 3)):
            model = classifier(metrics=given)
            assert model.main_metric == "top2"
            found = fitted(model, tmp_path, pairs()).callback_metrics
            assert {"train/top2", "val/top2", "val/each_0", "val/each_2"} <= set(found)
            assert "val/accuracy" not in found

    def test_metrics_that_are_a_table_or_no_number(self, tmp_path):
        table = MetricConfig(
            "table", "torchmetrics", "MulticlassConfusionMatrix", {}, ["val"], log_on_step=True
        )
        fitted(classifier(metrics=[table]), tmp_path, pairs())
        folder = next((tmp_path / "lightning_logs").glob("version_*")) / "val" / "table"
        assert len(list(folder.rglob("*.png"))) == 1
        curve = MetricConfig("roc", "torchmetrics", "MulticlassROC", {}, ["val"])
        with pytest.raises(ValueError, match=r"metric 'roc' gives no numbers"):
            fitted(classifier(metrics=[curve]), tmp_path, pairs())

    def test_what_is_better_when_lower_does_not_choose_the_best_epoch(self):
        def config(kind):
            return MetricConfig(kind.lower(), "torchmetrics", kind, {}, ["val"])

        names = ["MulticlassCalibrationError", "MulticlassRecall"]
        assert classifier(metrics=[config(n) for n in names]).main_metric == "multiclassrecall"

    def test_a_detector_has_no_confusion_matrix(self):
        with pytest.raises(ValueError, match=r"log_confusion_matrix = True: only a classifier"):
            detector(logging_config=LoggingConfig(True, False, log_confusion_matrix=True))


class TestLength:
    def trainer(self, tmp_path, **length) -> Trainer:
        return Trainer(
            **length,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    def test_epochs_are_counted_where_only_steps_are_given(self, tmp_path):
        model = classifier(scheduler="multistep", scheduler_kwargs={"milestones": [2]}, lr=1e-2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = self.trainer(tmp_path, max_steps=8)  # three batches an epoch
            trainer.fit(model, DataLoader(pairs(), batch_size=4))
        assert model.num_epochs == pytest.approx(8 / 3)
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3)

    def test_a_training_without_an_end_needs_no_schedule(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = self.trainer(tmp_path, max_epochs=-1, max_time="00:00:00:01")
            with pytest.raises(ValueError, match=r"scheduler = 'cosine' needs to know how long"):
                trainer.fit(classifier(), DataLoader(pairs(), batch_size=4))


class TestFreezing:
    @pytest.mark.parametrize("options", [{"freeze_backbone": True}, {"backbone_lr_scale": 0.0}])
    def test_a_frozen_backbone_stays_as_it_was(self, tmp_path, options):
        """AutoTimm: batch-norm statistics keep moving."""
        model = classifier(**options)
        before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
        fitted(model, tmp_path, pairs(), epochs=2)
        after = model.network.backbone.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_the_pyramid_over_a_frozen_transformer_learns(self):
        config = FeatureBackboneConfig("vit_tiny_patch16_224", pretrained=False)
        model = ObjectDetector(config, 2, fpn_channels=16, head_num_convs=1, freeze_backbone=True)
        learns = {n for n, p in model.network.backbone.named_parameters() if p.requires_grad}
        assert learns and not any(name.startswith("body.") for name in learns)

    def test_two_phases_are_one_setting(self, tmp_path):
        class Watch(ImageClassifier):
            seen: list[bool] = []  # noqa: RUF012 - of one test

            def on_validation_epoch_start(self):
                super().on_validation_epoch_start()
                same = [
                    torch.equal(v, before[k]) for k, v in self.network.backbone.state_dict().items()
                ]
                self.seen.append(all(same))

        torch.manual_seed(0)
        model = Watch(TINY, 3, lr=3e-3, freeze_epochs=2)
        before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
        fitted(model, tmp_path, pairs(), epochs=4)
        assert model.seen == [True, True, False, False]


class TestCheckpoints:
    def saved(self, model, tmp_path, train, **arguments):
        trainer = fitted(model, tmp_path, train, **arguments)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    def test_a_classifier_comes_back_whole(self, tmp_path):
        config = BackboneConfig(NAME, False, drop_path_rate=0.1, extra_kwargs={"in_chans": 3})
        model = classifier(
            backbone=config,
            metrics=[MetricConfig("a", "torchmetrics", "MulticlassAccuracy", {}, ["val"])],
            logging_config=LoggingConfig(False, True),
            scheduler="multistep",
            scheduler_kwargs={"milestones": [1, 2]},
        )
        back = ImageClassifier.load_from_checkpoint(self.saved(model, tmp_path, pairs()))
        assert BackboneConfig(**back.hparams["backbone"]) == config
        assert back.logging == LoggingConfig(False, True)
        assert list(back.metric_manager) == list(model.metric_manager)
        assert back.options.scheduler_kwargs == {"milestones": [1, 2]}
        images = torch.randn(2, 3, 64, 64)
        assert torch.equal(back.predict(images), model.predict(images))

    def test_arrays_are_stored_as_plain_data(self, tmp_path):
        model = classifier(class_weights=torch.tensor([1.0, 2.0, 1.0]))
        path = self.saved(model, tmp_path, pairs())
        back = ImageClassifier.load_from_checkpoint(path)
        assert back.hparams["class_weights"] == [1.0, 2.0, 1.0]

    def test_nothing_is_fetched_for_weights_that_the_checkpoint_holds(self, tmp_path):
        torch.save(classifier().network.backbone.state_dict(), tmp_path / "w.pth")
        model = classifier(backbone=BackboneConfig(NAME, pretrained=str(tmp_path / "w.pth")))
        path = self.saved(model, tmp_path, pairs())
        (tmp_path / "w.pth").unlink()
        back = ImageClassifier.load_from_checkpoint(path)
        assert back.hparams["backbone"]["pretrained"] == str(tmp_path / "w.pth")

    @pytest.mark.parametrize("arch", ["fcos", "yolox"])
    def test_a_detector_comes_back_whole(self, tmp_path, arch):
        model = detector(arch, strides=(8, 16, 32), regress_ranges=None, max_detections_per_image=9)
        path = self.saved(model, tmp_path, scenes(), collate=as_scene_batch)
        back = ObjectDetector.load_from_checkpoint(path)
        images = torch.randn(2, 3, 64, 64)
        for ours, theirs in zip(model.predict(images), back.predict(images), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_arguments_given_at_loading_go_first(self, tmp_path):
        path = self.saved(detector(), tmp_path, scenes(), collate=as_scene_batch)
        assert ObjectDetector.load_from_checkpoint(path, score_thresh=0.3).score_thresh == 0.3

    def test_compiling_leaves_the_names_of_weights_alone(self):
        """AutoTimm: keys saved with `_orig_mod.`, unreadable uncompiled."""
        model = classifier()
        names = list(model.state_dict())
        model.network.compile(backend="eager")
        assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifier(lrr=1), r"ImageClassifier\(\) got an unexpected argument 'lrr'; .* lr"),
        (lambda: classifier(lr=0), r"lr = 0: must be > 0"),
        (lambda: classifier(layer_decay=1.5), r"layer_decay = 1.5: must be above 0, at most 1"),
        (lambda: classifier(loss_fn="nope"), r"nope"),
        (lambda: detector("ssd"), r"unknown detection_arch 'ssd'; allowed: fcos, yolox"),
        (lambda: detector(cls_loss_fn="giou"), r"giou"),
        (lambda: YOLOXDetector("yolox-xs"), r"unknown model_name 'yolox-xs'; allowed: yolox-nano"),
        (lambda: YOLOXDetector("yolox-nano", pretrained=True), r"pretrained = True: .* path"),
        (
            lambda: YOLOXDetector("yolox-nano", total_epochs=10, no_aug_epochs=8),
            r"warmup_epochs \+ no_aug_epochs = 13: must not exceed total_epochs = 10",
        ),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


class TestYolox:
    def nano(self, **arguments) -> YOLOXDetector:
        torch.manual_seed(0)
        return YOLOXDetector("yolox-nano", 2, **arguments)

    def test_the_recipe_is_shortened_with_the_training(self, tmp_path):
        class Watch(YOLOXDetector):
            seen: list[bool] = []  # noqa: RUF012 - of one test

            def on_train_epoch_start(self):
                super().on_train_epoch_start()
                self.seen.append(self.method.use_l1)

        torch.manual_seed(0)
        model = Watch("yolox-nano", 2, total_epochs=40, warmup_epochs=10, no_aug_epochs=10)
        trainer = fitted(model, tmp_path, scenes(), epochs=4, collate=as_scene_batch, batch_size=5)
        assert model.seen == [False, False, False, True]
        assert {"train/l1_loss", "train/obj_loss", "val/map"} <= set(trainer.callback_metrics)
        schedule = model.schedule_options(4)
        assert schedule == {"warmup_epochs": 1.0, "no_aug_epochs": 1.0}

    def test_the_rate_is_for_64_images(self, tmp_path):
        model = self.nano(total_epochs=1, warmup_epochs=0, no_aug_epochs=1)
        fitted(model, tmp_path, scenes(), collate=as_scene_batch, batch_size=5)
        assert model.peak_lr() == pytest.approx(0.01 * 5 / 64)
        model.lr_reference_batch = None
        assert model.peak_lr() == 0.01

    def test_weight_decay_is_for_convolutions_only(self, tmp_path):
        model = self.nano()
        trainer = fitted(model, tmp_path, scenes(), collate=as_scene_batch)
        groups = trainer.optimizers[0].param_groups
        assert trainer.optimizers[0].defaults["nesterov"]
        for group in groups:
            assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
