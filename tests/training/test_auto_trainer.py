"""AutoTrainer: what it keeps, what it writes, its search; with the data modules, end to end."""

from pathlib import Path

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from raw_data_helpers import write_coco, write_folders, write_image
from torch.utils.data import DataLoader

import components
from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.models.shared_batch_norm import SharedBatchNorms
from components.training.auto_trainer import AutoTrainer, BestCheckpoint, _without_known_warnings
from components.training.loggers import LoggerConfig, LoggerManager
from components.training.rate_search import TunerConfig, search
from components.training.seeding import seed_everything

NAME = "mobilenetv3_small_050"


class Line(LightningModule):
    """Fits a line; logs what a test wants to be logged."""

    def __init__(self, val=(), lr=0.01):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.lr = lr
        self.val = val  # (name, values by epoch)

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - 3 * batch).square().mean()
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        for name, values in self.val:
            value = values[min(self.current_epoch, len(values) - 1)]
            self.log(f"val/{name}", torch.tensor(value), batch_size=4)

    def test_step(self, batch, batch_idx):
        self.log("test/weight", self.layer.weight.item(), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class MetricLine(Line):
    main_metric = "accuracy"


class RenamedLine(MetricLine):
    """As a module whose metrics a user has named: what is logged is still `accuracy`."""

    def __init__(self, val):
        super().__init__(val)
        self.main_metric = "mine"


class Numbers(LightningDataModule):
    def __init__(self, validate=True, batch_size=4):
        super().__init__()
        self.batch_size, self.validate = batch_size, validate

    def loader(self, shuffle=False):
        return DataLoader(torch.linspace(0, 1, 32)[:, None], self.batch_size, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(shuffle=True)

    def val_dataloader(self):
        return self.loader() if self.validate else []

    def test_dataloader(self):
        return self.loader()


def trainer(folder, **settings):
    defaults = {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "default_root_dir": folder}
    return AutoTrainer(**{**defaults, **settings})


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


class TestBest:
    @pytest.mark.parametrize(
        ("module", "data", "monitor", "best", "reason"),
        [
            (
                MetricLine([("accuracy", [0.1, 0.9, 0.5]), ("loss", [1.0, 2.0, 3.0])]),
                Numbers(),
                "val/accuracy",
                1,
                "the module's main metric, higher is better",
            ),
            (Line([("loss", [3.0, 1.0, 2.0])]), Numbers(), "val/loss", 1, "no main metric"),
            (
                MetricLine([("loss", [3.0, 1.0, 2.0])]),
                Numbers(),
                "val/loss",
                1,
                "the main metric is not logged, as when the user gives metrics of his own",
            ),
            (
                RenamedLine([("accuracy", [0.1, 0.9, 0.5]), ("loss", [1.0, 2.0, 3.0])]),
                Numbers(),
                "val/accuracy",
                1,
                "the name that was given is not logged, that of the class is",
            ),
            (MetricLine(), Numbers(validate=False), "train/loss", 2, "no validation"),
            (MetricLine(), Numbers(), "train/loss", 2, "validation logs nothing"),
        ],
    )
    def test_the_monitor_is_the_modules_own(self, tmp_path, module, data, monitor, best, reason):
        run = trainer(tmp_path)
        run.fit(module, datamodule=data)
        kept = run.checkpoint_callback
        assert kept.monitor == monitor, reason
        assert files(tmp_path) == [f"checkpoints/best-epoch={best}.ckpt"], reason
        assert kept.best_model_path.endswith(f"best-epoch={best}.ckpt")

    def test_validation_every_other_epoch_is_waited_for(self, tmp_path):
        run = trainer(tmp_path, max_epochs=4, check_val_every_n_epoch=2)
        run.fit(MetricLine([("accuracy", [0.0, 0.4, 0.0, 0.2])]), datamodule=Numbers())
        assert run.checkpoint_callback.monitor == "val/accuracy"
        assert files(tmp_path) == ["checkpoints/best-epoch=1.ckpt"]

    @pytest.mark.parametrize(
        ("settings", "best"),
        [
            ({"checkpoint_monitor": "val/loss"}, 1),
            ({"checkpoint_monitor": "val/accuracy"}, 2),
            ({"checkpoint_monitor": "val/accuracy", "checkpoint_mode": "min"}, 0),
        ],
    )
    def test_a_named_monitor_has_the_mode_its_name_says(self, tmp_path, settings, best):
        run = trainer(tmp_path, **settings)
        values = [("accuracy", [0.1, 0.2, 0.9]), ("loss", [3.0, 1.0, 2.0])]
        run.fit(MetricLine(values), datamodule=Numbers())
        assert files(tmp_path) == [f"checkpoints/best-epoch={best}.ckpt"]

    def test_a_resumed_training_knows_the_best_so_far(self, tmp_path):
        values = [("accuracy", [0.9, 0.2, 0.3, 0.4])]
        first = trainer(tmp_path, max_epochs=2)
        first.fit(MetricLine(values), datamodule=Numbers())
        path = tmp_path / "checkpoints" / "last.ckpt"
        first.save_checkpoint(path)
        second = trainer(tmp_path, max_epochs=4)
        second.fit(MetricLine(values), datamodule=Numbers(), ckpt_path=path)
        kept = second.checkpoint_callback
        assert (kept.monitor, kept.mode) == ("val/accuracy", "max")
        assert kept.best_model_path.endswith("best-epoch=0.ckpt")
        assert float(kept.best_model_score) == pytest.approx(0.9)

    def test_the_test_is_made_with_the_best_weights_of_the_trained_model(self, tmp_path):
        model, run = MetricLine([("accuracy", [0.9, 0.2, 0.1])], lr=0.5), trainer(tmp_path)
        run.fit(model, datamodule=Numbers())
        last = model.layer.weight.item()
        other = trainer(tmp_path / "other")
        [untrained] = other.test(model, datamodule=Numbers(), verbose=False)
        assert untrained["test/weight"] == pytest.approx(last)  # as it is: nothing was kept
        [best] = run.test(model, datamodule=Numbers(), verbose=False)
        assert abs(best["test/weight"] - last) > 1e-3

    def test_a_callback_of_the_users_takes_the_place(self, tmp_path):
        own = ModelCheckpoint(tmp_path / "mine", monitor="val/loss")
        run = trainer(tmp_path, callbacks=[own])
        assert run.checkpoint_callbacks == [own]
        assert not any(isinstance(callback, BestCheckpoint) for callback in run.callbacks)


class TestQuiet:
    @pytest.mark.parametrize(
        "settings", [{"enable_checkpointing": False}, {"checkpoint_monitor": None}]
    )
    def test_nothing_is_written_that_was_not_asked_for(self, tmp_path, settings, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = AutoTrainer(max_epochs=1, accelerator="cpu", **settings)
        run.fit(MetricLine(), datamodule=Numbers())
        assert files(tmp_path) == []

    def test_no_bar_where_there_is_no_terminal(self, tmp_path, capsys):
        run = trainer(tmp_path, max_epochs=1)
        run.fit(MetricLine(), datamodule=Numbers())
        assert run.progress_bar_callback is None and run.loggers == []
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"checkpoint_monitor": "val/a", "checkpoint_mode": "up"}, "checkpoint_mode = 'up'"),
            ({"tuner_config": {"auto_lr": True}}, "tuner_config = .*: allowed: a TunerConfig"),
            ({"json_progress": True}, "json_progress = True"),
            ({"logger": "comet"}, "backend = 'comet': allowed: tensorboard, mlflow, wandb, csv"),
        ],
    )
    def test_a_parameter_that_is_not_allowed_is_named(self, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, **settings)


class TestLoggers:
    @pytest.mark.parametrize(
        "make",
        [
            lambda folder: "csv",
            lambda folder: LoggerConfig("CSV", {"save_dir": folder}),
            lambda folder: [LoggerConfig("csv", {"save_dir": folder})],
            lambda folder: LoggerManager([LoggerConfig("csv", {"save_dir": folder})]),
            lambda folder: CSVLogger(folder),
        ],
    )
    def test_a_logger_comes_in_any_documented_form(self, tmp_path, make):
        run = trainer(tmp_path, max_epochs=1, logger=make(str(tmp_path)))
        assert [type(logger) for logger in run.loggers] == [CSVLogger]
        run.fit(MetricLine([("accuracy", [0.5])]), datamodule=Numbers())
        assert any(name.endswith("metrics.csv") for name in files(tmp_path))

    def test_a_manager_is_a_list_of_loggers(self, tmp_path):
        manager = LoggerManager([LoggerConfig("csv", {"save_dir": str(tmp_path)})])
        assert len(manager) == 1 and list(manager) == manager.loggers == [manager[0]]
        assert manager.get_logger_by_backend("CSV") is manager[0]
        assert manager.get_logger_by_backend("wandb") is None

    def test_what_is_missing_is_named(self):
        with pytest.raises(ValueError, match="tensorboard logger: save_dir is missing"):
            LoggerManager([LoggerConfig("tensorboard")])
        with pytest.raises(ValueError, match="at least one LoggerConfig"):
            LoggerManager([])


class TestSeed:
    def test_the_same_seed_gives_the_same_weights(self, tmp_path):
        def weights(seed, noise):
            torch.manual_seed(0)
            model = Line([("loss", [1.0])])
            torch.rand(noise)
            trainer(tmp_path, seed=seed).fit(model, datamodule=Numbers())
            return model.layer.weight.item()

        assert weights(7, 1) == weights(7, 5) != weights(8, 1)

    def test_seed_everything_takes_autotimms_and_lightnings_parameters(self):
        assert seed_everything(5) == 5
        first = torch.rand(3)
        assert components.seed_everything(5, workers=True) == 5
        assert torch.equal(torch.rand(3), first)
        was = torch.are_deterministic_algorithms_enabled()
        try:
            seed_everything(5, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(was)


class TestSearch:
    def test_there_is_none_by_default(self, tmp_path):
        assert trainer(tmp_path).tuner_config is None
        assert trainer(tmp_path, tuner_config=False).tuner_config is None
        assert trainer(tmp_path, tuner_config=True).tuner_config == TunerConfig()

    @pytest.mark.parametrize(("lr", "reason"), [(1e-9, "upwards"), (1e4, "downwards")])
    def test_a_rate_is_found_within_bounds_and_nothing_else_changes(self, tmp_path, lr, reason):
        model = Line([("loss", [1.0])], lr=lr)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        config = TunerConfig(auto_batch_size=False, lr_find_kwargs={"num_training": 40})
        run = trainer(tmp_path, tuner_config=config, max_epochs=1, enable_checkpointing=False)
        drawn = torch.random.get_rng_state()
        run.search(model, datamodule=Numbers())
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert files(tmp_path) == []
        bound = lr * 10 if reason == "upwards" else lr / 10
        assert run.tuned == {"lr": pytest.approx(bound)} and model.lr == run.tuned["lr"]

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: ImageClassifier(BackboneConfig(NAME, pretrained=False), 2), "plain"),
            (lambda: components.YOLOXDetector("yolox-nano", 2), "its rate grows with the batch"),
        ],
    )
    def test_it_knows_this_projects_modules(self, tmp_path, make, reason):
        model = make()
        own, before = model.options.lr, {k: v.clone() for k, v in model.state_dict().items()}
        if model.task == "detection":
            data = components.DetectionDataModule(
                write_coco(tmp_path / "data"), image_size=64, batch_size=2, num_workers=0
            )
        else:
            folders = write_folders(tmp_path / "data", {"": {"green": 6, "red": 6}})
            data = components.ImageDataModule(folders, image_size=32, batch_size=4, num_workers=0)
        config = TunerConfig(auto_batch_size=False, lr_find_kwargs={"num_training": 20})
        run = trainer(tmp_path / "run", tuner_config=config, max_epochs=1)
        run.search(model, datamodule=data)
        assert own / 10 <= model.options.lr <= own * 10 and run.tuned == {"lr": model.options.lr}
        assert model.hparams["lr"] == model.options.lr
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    def test_training_goes_on_with_what_was_found(self, tmp_path):
        model = Line([("loss", [1.0])], lr=1e-3)
        config = TunerConfig(auto_batch_size=False, lr_find_kwargs={"num_training": 40})
        run = trainer(tmp_path, tuner_config=config, max_epochs=1)
        run.fit(model, datamodule=Numbers())
        assert run.optimizers[0].param_groups[0]["lr"] == model.lr == run.tuned["lr"] != 1e-3
        assert run.global_step == 8
        assert files(tmp_path) == ["checkpoints/best-epoch=0.ckpt"]

    def test_without_a_gpu_there_is_no_search_for_a_batch_size(self, tmp_path):
        data = Numbers()
        run = trainer(tmp_path, tuner_config=TunerConfig(auto_lr=False), max_epochs=1)
        run.fit(Line([("loss", [1.0])]), datamodule=data)
        assert data.batch_size == 4 and run.tuned == {}

    def test_a_batch_size_is_found_within_bounds(self, tmp_path, monkeypatch):
        """The search itself, as on a GPU whose memory is never full."""
        monkeypatch.chdir(tmp_path)
        data, model = Numbers(), Line([("loss", [1.0])])
        found = {"mode": "power", "init_val": 2, "max_val": 16, "steps_per_trial": 1}
        config = TunerConfig(auto_lr=False, batch_size_kwargs=found)
        settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        settings |= {"enable_progress_bar": False, "enable_model_summary": False}
        with _without_known_warnings():
            tuned = search(config, model, data, {}, settings, on_gpu=True)
        assert tuned == {"batch_size": 16} and data.batch_size == 16
        assert files(tmp_path) == []

    def test_a_trial_run_searches_nothing(self, tmp_path):
        run = trainer(tmp_path, tuner_config=True, fast_dev_run=True)
        model = Line([("loss", [1.0])])
        run.fit(model, datamodule=Numbers())
        assert run.tuned == {} and model.lr == 0.01 and files(tmp_path) == []

    def test_what_cannot_be_searched_is_said(self, tmp_path):
        model = Line()
        model.lr = None
        run = trainer(tmp_path, tuner_config=TunerConfig(auto_batch_size=False))
        with pytest.raises(ValueError, match="auto_lr needs a model with a learning rate named lr"):
            run.fit(model, datamodule=Numbers())
        with pytest.raises(ValueError, match=r"max_lr_factor = 0.5: must be at least 1"):
            TunerConfig(max_lr_factor=0.5)


class TestTogether:
    """The documented way: data module, model, AutoTrainer."""

    def test_a_classifier_learns_from_a_folder(self, tmp_path):
        write_folders(
            tmp_path / "data", {"train": {"green": 12, "red": 12}, "val": {"green": 4, "red": 4}}
        )
        data = components.ImageDataModule(
            data_dir=tmp_path / "data", image_size=32, batch_size=8, num_workers=0
        )
        data.setup("fit")
        model = ImageClassifier(
            BackboneConfig(NAME, pretrained=False), num_classes=data.num_classes, lr=3e-3
        )
        run = trainer(tmp_path, max_epochs=1, seed=0)
        run.fit(model, datamodule=data)
        assert run.checkpoint_callback.monitor == "val/accuracy"
        assert {"train/loss", "val/loss", "val/accuracy"} <= run.callback_metrics.keys()
        predictions = run.predict(model, dataloaders=data.val_dataloader())
        assert torch.cat(predictions).shape == (8, 2)
        assert files(tmp_path / "checkpoints") == ["best-epoch=0.ckpt"]

    def test_a_detector_learns_from_a_coco_directory(self, tmp_path):
        data = components.DetectionDataModule(
            data_dir=write_coco(tmp_path / "data"), image_size=64, batch_size=3, num_workers=0
        )
        data.setup("fit")
        model = ObjectDetector(
            FeatureBackboneConfig(NAME, pretrained=False),
            num_classes=data.num_classes,
            fpn_channels=32,
            head_num_convs=1,
        )
        run = trainer(tmp_path, max_epochs=1, seed=0)
        run.fit(model, datamodule=data)
        assert run.checkpoint_callback.monitor == "val/map"
        assert torch.isfinite(run.callback_metrics["train/loss"])
        run.test(model, dataloaders=data.val_dataloader(), verbose=False)
        assert "test/map" in run.callback_metrics

    def test_several_labels_as_documented(self, tmp_path):
        """The page on multi-label data; only the import differs, and a smaller model."""
        for number in range(8):
            write_image(tmp_path / "images" / f"{number}.png", number)
        rows = [f"{n}.png,{n % 2},{n // 2 % 2}" for n in range(8)]
        for name in ("train.csv", "val.csv"):
            (tmp_path / name).write_text("\n".join(["image_path,cat,dog", *rows]))
        data = components.MultiLabelImageDataModule(
            train_csv=tmp_path / "train.csv",
            image_dir=tmp_path / "images",
            val_csv=tmp_path / "val.csv",
            image_size=32,
            batch_size=4,
            num_workers=0,
        )
        data.setup("fit")
        accuracy = components.MetricConfig(
            name="accuracy",
            backend="torchmetrics",
            metric_class="MultilabelAccuracy",
            params={"num_labels": data.num_labels},
            stages=["train", "val"],
            prog_bar=True,
        )
        model = ImageClassifier(
            BackboneConfig(NAME, pretrained=False),
            num_classes=data.num_labels,
            multi_label=True,
            threshold=0.5,
            metrics=[accuracy],
            lr=1e-3,
        )
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model, datamodule=data)
        assert run.checkpoint_callback.monitor == "val/accuracy"
        assert "train/accuracy" in run.callback_metrics

    def test_detection_from_csv_as_documented(self, tmp_path):
        """The page on CSV data; a metric named otherwise than what it logs is found."""
        for number in range(4):
            write_image(tmp_path / "images" / f"{number}.png", number, color=(250, 0, 0))
        rows = [f"{n}.png,10,5,30,25,cat" for n in range(4)]
        header = "image_path,x_min,y_min,x_max,y_max,label"
        for name in ("train_annotations.csv", "val_annotations.csv"):
            (tmp_path / name).write_text("\n".join([header, *rows]))
        data = components.DetectionDataModule(
            train_csv=tmp_path / "train_annotations.csv",
            val_csv=tmp_path / "val_annotations.csv",
            image_dir=tmp_path / "images",
            image_size=64,
            batch_size=2,
            num_workers=0,
        )
        data.setup("fit")
        precision = components.MetricConfig(
            name="mAP",
            backend="torchmetrics",
            metric_class="MeanAveragePrecision",
            params={"box_format": "xyxy"},
            stages=["val"],
        )
        model = ObjectDetector(
            backbone=FeatureBackboneConfig(NAME, pretrained=False),
            num_classes=data.num_classes,
            metrics=[precision],
            fpn_channels=32,
            head_num_convs=1,
        )
        run = trainer(tmp_path, max_epochs=1, gradient_clip_val=1.0)
        run.fit(model, datamodule=data)
        assert run.checkpoint_callback.monitor == "val/map"

    def test_model_and_data_share_one_description(self, tmp_path):
        """What the model makes of a picture is what it was measured with."""
        folder = write_folders(tmp_path / "data", {"": {"green": 4, "red": 4}})
        config = components.TransformConfig(preset="randaugment", image_size=48)
        data = components.ImageDataModule(
            folder, transform_config=config, backbone=NAME, batch_size=2, num_workers=0
        )
        data.setup("fit")
        backbone = BackboneConfig(NAME, pretrained=False)
        model = ImageClassifier(backbone, data.num_classes, transform_config=config)
        seen = data.val_dataset[0][0]
        with Image.open(folder / data.val_dataset.names[0]) as image:
            assert torch.equal(model.preprocess(image)[0], seen)
        assert model.get_data_config()["input_size"] == (3, 48, 48)

    def test_it_is_a_lightning_trainer(self, tmp_path):
        assert isinstance(trainer(tmp_path), Trainer)
        assert issubclass(components.AutoTrainer, Trainer)


@pytest.mark.parametrize("plugins", [None, TorchCheckpointIO(), [TorchCheckpointIO()]])
def test_batch_norms_are_shared_by_our_own_layers(tmp_path, plugins):
    given = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "plugins": plugins}
    trainer = AutoTrainer(sync_batchnorm=True, default_root_dir=tmp_path, **given)
    assert isinstance(trainer.strategy._layer_sync, SharedBatchNorms)
    assert AutoTrainer(**given).strategy._layer_sync is None
    kept = plugins[0] if isinstance(plugins, list) else plugins
    assert plugins is None or trainer.strategy.checkpoint_io is kept
    alone = AutoTrainer(sync_batchnorm=True, accelerator="cpu", devices=1, plugins=plugins)
    assert alone.world_size == 1
