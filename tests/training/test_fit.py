"""The training run: it learns, repeats itself exactly, and resumes as if never interrupted."""

import pytest
import torch
from data_helpers import make_store

from components.data.loaders import PreparedDataModule
from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.training.callbacks import Curves
from components.training.fit import fit
from components.training.settings import TrainSettings
from tasks.train import module_options

NAME = "mobilenetv3_small_050"


def build(task, name=NAME, **options):
    torch.manual_seed(0)
    options = {"lr": 3e-3, **options}
    if task == "classification":
        config = BackboneConfig(name, pretrained=False)
        return ImageClassifier(config, 2, head_dropout=0.2, **options)
    config = FeatureBackboneConfig(name, pretrained=False)
    return ObjectDetector(config, 2, fpn_channels=32, head_num_convs=1, **options)


def run(store, resume_dir, *, on_epoch=None, name=NAME, **settings):
    defaults = {
        "epochs": 3,
        "lr": 3e-3,
        "warmup_epochs": 0,
        "batch_size": 4,
        "ema_decay": 0.9,
        "num_workers": 0,
    }
    defaults["augment"] = {"scale": (0.6, 1.0)}
    settings = TrainSettings(**{**defaults, **settings})
    augment = settings.augment
    data = PreparedDataModule(
        store,
        settings.batch_size,
        (0.5,) * 3,
        (0.5,) * 3,
        augment,
        seed=7,
        num_workers=settings.num_workers,
        num_epochs=settings.epochs,
    )
    module = build(store.info.task, name, **module_options(settings))
    return fit(module, data, settings, 7, resume_dir, on_epoch)


MOSAIC = {
    **{"scale": (0.6, 1.0), "hsv": (0.02, 0.1, 0.1), "mosaic": 0.5, "mixup": 0.5, "degrees": 5},
    **{"multi_scale": 1, "multi_scale_every": 1, "plain_epochs": 1},
}


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_the_same_seed_gives_the_same_weights(tmp_path, task):
    store = make_store(tmp_path / "store", task)
    first = run(store, tmp_path / "a")
    torch.rand(5)  # whatever was drawn before must not matter
    second = run(store, tmp_path / "b")
    assert same(first.state, second.state)
    assert first.rows == second.rows


def test_it_learns(tmp_path):
    store = make_store(tmp_path / "store", "classification", num_images=60)
    result = run(store, tmp_path / "resume", epochs=8, ema_decay=0.5)
    assert result.rows[-1]["val_loss"] < 0.5 * result.rows[0]["val_loss"]
    assert result.best >= 0.9 and result.beats_trivial


def test_patience_stops_early(tmp_path):
    store = make_store(tmp_path / "store", "classification", num_images=20)
    result = run(store, tmp_path / "resume", epochs=30, patience=2, lr=1e-3)
    assert len(result.rows) < 30


def test_a_sum_of_losses_goes_on_on_another_device():
    curves = Curves({})
    # As with several processes, where it is a tensor on their device.
    curves.load_state_dict({"rows": [], "loss_sum": torch.tensor(6.0), "num_images": 4})
    curves._num_images += torch.tensor(2.0)
    state = curves.state_dict()
    assert state["num_images"] == 6 and not torch.is_tensor(state["num_images"])


def test_a_frozen_backbone_stays_as_it_was_batch_norm_included(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    module = ImageClassifier(BackboneConfig(NAME, pretrained=False), 2, backbone_lr_scale=0)
    before = {k: v.clone() for k, v in module.network.backbone.state_dict().items()}
    settings = TrainSettings(epochs=2, batch_size=4, warmup_epochs=0, ema_decay=0)
    fit(module, PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3), settings, 0, tmp_path / "r")
    assert same(before, module.network.backbone.state_dict())
