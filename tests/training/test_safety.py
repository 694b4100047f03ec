"""A training that cannot go on, or that learnt nothing, says so and what to change."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_helpers import make_store
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAveragePrecision,
)

from components.data.loaders import PreparedDataModule
from components.errors import DataError, TrainingError
from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.training.finite_loss import replay
from components.training.fit import fit
from components.training.memory import explained_memory_errors, largest_batch, largest_size
from components.training.settings import TrainSettings
from components.training.trivial import BeatsTrivial, trivial_scores

NAME = "mobilenetv3_small_050"


def build(task="classification"):
    torch.manual_seed(0)
    if task == "classification":
        return ImageClassifier(BackboneConfig(NAME, pretrained=False), 2, head_dropout=0.2)
    return ObjectDetector(
        FeatureBackboneConfig(NAME, pretrained=False), 2, fpn_channels=32, head_num_convs=1
    )


def run(module, store, folder, **settings):
    settings = TrainSettings(**{"epochs": 1, "batch_size": 4, "warmup_epochs": 0, **settings})
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3)
    return fit(module, data, settings, 0, folder)


def spoil_weight(module):
    with torch.no_grad():
        module.network.head.weight[0, 0] = float("nan")


def spoil_layer(module):
    """A layer that overflows on its own, though weights and images are finite."""
    module.network.backbone.conv_stem.register_forward_hook(lambda *a: a[2] * float("inf"))


def spoil_images(module):
    whole = module.on_after_batch_transfer

    def spoilt(batch, dataloader_idx):
        batch = whole(batch, dataloader_idx)
        batch["images"][1, 0, 0, 0] = float("nan")
        return batch

    module.on_after_batch_transfer = spoilt


def spoil_gradient(module):
    """A root of nothing behind the head: the loss is finite, its slope is not."""
    module.network.head.register_forward_hook(lambda *a: a[2] + (a[2] * 0).abs().sqrt())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            spoil_weight,
            r"the loss is nan at epoch 1, step 1; first not finite: weight head.weight: lower t",
        ),
        (
            spoil_layer,
            r"the loss is nan at epoch 1, step 1; first not finite: output of backbone.conv_stem "
            r"\(loss nan\): lower train",
        ),
        (
            spoil_gradient,
            r"a gradient is not finite at epoch 1, step 1; first not finite: gradient of head.bias "
            r"\(loss 0\.\d+\): lower train",
        ),
    ],
)
def test_what_is_not_finite_is_named_with_its_place(tmp_path, spoil, message):
    store = make_store(tmp_path / "store", "classification")
    module = build()
    spoil(module)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    with pytest.raises(TrainingError, match=message):
        run(module, store, tmp_path / "resume")
    for name, value in module.network.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_a_broken_image_alone_is_blamed_by_the_replay(tmp_path):
    # Its step has made all of the batch norms' statistics not a number.
    store = make_store(tmp_path / "store", "classification")
    module = build()
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3)
    spoil_images(data)
    with pytest.raises(TrainingError, match="images are not finite: look for broken images"):
        fit(module, data, TrainSettings(epochs=1, warmup_epochs=0), 0, tmp_path)
    step = replay(build(), tmp_path / "not-finite.pt")
    assert [math.isfinite(loss) for loss in step.losses_alone] == [True, False, True, True]


def test_a_kept_step_is_replayed_with_what_was_frozen(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    module = build()
    module.options = replace(module.options, freeze_epochs=2)
    spoil_gradient(module)
    with pytest.raises(TrainingError, match=r"gradient of head\.bias") as stopped:
        run(module, store, tmp_path, freeze_epochs=2)
    other = build()
    other.options = module.options
    spoil_gradient(other)
    assert str(replay(other, tmp_path / "not-finite.pt").found) in str(stopped.value)


def test_deterministic_algorithms_are_a_choice(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    found = []
    for wanted in (True, False):
        module = build()
        module.on_validation_epoch_start = lambda: found.append(
            torch.are_deterministic_algorithms_enabled()
        )
        run(module, store, tmp_path / str(wanted), deterministic=wanted)
    assert found == [True, False]


def test_a_gradient_that_is_not_finite_spoils_no_checkpoint(tmp_path):
    store = make_store(tmp_path / "store", "classification", num_images=20)
    module = build()
    step = module.model_step
    calls = []

    def third_is_broken(batch):
        calls.append(None)
        terms = step(batch)
        return {
            **terms,
            "loss": terms["loss"] + ((terms["loss"] * 0).sqrt() if len(calls) >= 3 else 0),
        }

    module.model_step = third_is_broken
    with pytest.raises(TrainingError, match="a gradient is not finite at epoch 1, step 3"):
        run(module, store, tmp_path / "resume", checkpoint_minutes=0)
    result = run(build(), store, tmp_path / "resume", checkpoint_minutes=0)
    assert all(value.isfinite().all() for value in result.state.values())


def without_box_loss():
    """A detector whose box term alone is not a number."""
    module = build("detection")
    module.method = replace(module.method, reg_loss_fn=lambda ours, theirs: ours.sum(1) / 0 * 0)
    return module


def test_a_detectors_loss_names_its_term_and_the_step_is_replayed(tmp_path):
    store = make_store(tmp_path / "store", "detection")
    with pytest.raises(
        TrainingError, match=r"first not finite: reg_loss \(loss nan, cls_"
    ) as stopped:
        run(without_box_loss(), store, tmp_path / "resume")
    file = tmp_path / "resume" / "not-finite.pt"
    assert f"python -m tasks.replay {file}" in str(stopped.value)
    step = replay(without_box_loss(), file)
    assert str(step.found) in str(stopped.value), "the same terms, from the file alone"
    assert (step.epoch, step.step, len(step.rows)) == (1, 1, 4)
    assert set(step.rows) <= set(store.rows("train").tolist()) and len(step.losses_alone) == 4


def test_a_kept_step_of_another_network_is_refused(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    module = build()
    spoil_weight(module)
    with pytest.raises(TrainingError):
        run(module, store, tmp_path)
    with pytest.raises(DataError, match="not a step of a training with these parameters"):
        replay(build("detection"), tmp_path / "not-finite.pt")
    with pytest.raises(DataError, match="no such file"):
        replay(build(), tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA"), r"out of GPU memory with 16 images of 64 by 96 pixels"),
        (MemoryError(), r"out of memory with 16 images .* lower train.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8"), r"train.num_workers \(now"),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed"),
            r"lower train.num",
        ),
    ],
)
def test_a_full_memory_says_what_to_lower(error, message):
    with (
        pytest.raises(TrainingError, match=message),
        explained_memory_errors(TrainSettings(), (64, 96)),
    ):
        raise error


def test_other_errors_keep_their_traceback():
    with (
        pytest.raises(RuntimeError, match="shapes"),
        explained_memory_errors(TrainSettings(), (64, 96)),
    ):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("capacity", "limit", "expected"),
    [
        (0, 64, 0),
        (1, 64, 0),
        (2, 64, 2),
        (3, 3, 3),
        (7, 64, 7),
        (64, 64, 64),
        (1000, 64, 64),
        (1000, 48, 48),
    ],
)
def test_the_largest_size_is_found(capacity, limit, expected):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= capacity

    assert largest_size(fits, limit) == expected
    assert max(tried) <= limit


def test_the_largest_size_is_within_an_eighth():
    assert all(
        7 / 8 * n <= largest_size(lambda size, n=n: size <= n, 512) <= n for n in range(8, 513)
    )


def test_the_largest_batch_runs_real_steps(tmp_path):
    store = make_store(tmp_path / "store", "detection")
    settings = TrainSettings(augment={"scale": (1, 1), "multi_scale": 1})
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3, settings.augment)
    module = build("detection")
    before = module.network.head.box_sides.weight.clone()
    size = largest_batch(module, data, settings, torch.device("cpu"), limit=4)
    assert size == 4
    assert not torch.equal(before, module.network.head.box_sides.weight)


def test_the_largest_batch_of_images_that_shrink_to_a_point(tmp_path):
    # One image alone has no batch-norm statistics in the last layers.
    store = make_store(tmp_path / "store", "classification", image_size=(32, 32))
    module, settings = build(), TrainSettings(num_workers=0)
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3)
    module.train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module.network(torch.rand(1, 3, 32, 32))
    assert largest_batch(module, data, settings, torch.device("cpu"), limit=3) == 3


def test_scores_of_the_trivial_model(tmp_path):
    assert trivial_scores(make_store(tmp_path / "d")) == {"val/map": 0.0}
    store = make_store(tmp_path / "c", "classification", 150, num_classes=3)  # val: ten of each
    one, twenty = trivial_scores(store), trivial_scores(store, 20)
    spread = math.sqrt(2 / 9 / 30)
    assert one["val/accuracy"] == pytest.approx(1 / 3 + 1.96 * spread, abs=1e-3)
    assert twenty["val/accuracy"] == pytest.approx(1 / 3 + 3.02 * spread, abs=1e-3)
    assert one["val/f1"] == pytest.approx(1 / 3 + 1.96 * spread, abs=0.03), "of 100 draws"
    # Of two images a guess has both right every fourth time: nothing can be told from them.
    assert trivial_scores(make_store(tmp_path / "e", "classification", 10)) == {}


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_guess_does_not_beat_the_trivial_model_and_knowledge_does(tmp_path, multi_label):
    store = make_store(
        tmp_path / "store", "classification", 300, num_classes=3, multi_label=multi_label
    )
    scores = trivial_scores(store)
    rng = np.random.default_rng(1)
    if multi_label:
        labels = torch.tensor(np.array([store.label_vector(row) for row in store.rows("val")]))
        metric = MultilabelAveragePrecision(3, average="macro")
        guesses = [
            metric(torch.tensor(rng.random(labels.shape)), labels.long()).item() for _ in range(40)
        ]
        half_known = metric(labels + 2 * torch.tensor(rng.random(labels.shape)), labels.long())
        assert list(scores) == ["val/map"] and half_known > scores["val/map"]
        assert np.mean(np.array(guesses) < scores["val/map"]) >= 0.85
        return
    labels = np.array([store.label(row) for row in store.rows("val")])
    guesses = rng.integers(0, 3, (40, len(labels)))
    half_known = np.where(rng.random(len(labels)) < 0.5, labels, guesses[0])
    for name, metric in (
        ("val/accuracy", MulticlassAccuracy(3, average="micro")),
        ("val/f1", MulticlassF1Score(3, average="macro")),
    ):
        drawn = [metric(torch.tensor(each), torch.tensor(labels)).item() for each in guesses]
        assert np.mean(np.array(drawn) < scores[name]) >= 0.9
        assert metric(torch.tensor(half_known), torch.tensor(labels)) > scores[name]


@pytest.mark.parametrize(
    ("measured", "beaten"),
    [
        ({"val/accuracy": 0.9, "val/f1": 0.3}, False),
        ({"val/accuracy": 0.9, "val/f1": 0.5}, True),  # rare classes are found at last
        ({"val/accuracy": 0.91, "val/f1": 0.3}, True),
        ({"val/loss": 0.1}, False),
    ],
)
def test_a_training_beats_the_trivial_model_in_any_metric(measured, beaten):
    watch = BeatsTrivial({"val/accuracy": 0.9, "val/f1": 0.47})
    trainer = SimpleNamespace(sanity_checking=False, callback_metrics=measured)
    watch.on_validation_end(trainer, None)
    resumed = BeatsTrivial(watch.scores)
    resumed.load_state_dict(watch.state_dict())
    assert watch.beaten is resumed.beaten is beaten


def test_the_time_of_a_training_is_accounted_for(tmp_path):
    store = make_store(tmp_path / "store", "detection")
    result = run(build("detection"), store, tmp_path / "resume", epochs=2)
    assert result.time.num_images == 2 * len(store.rows("train"))
    shares = result.time.shares
    assert list(shares) == ["data", "forward", "backward", "optimizer", "validation", "other"]
    assert sum(shares.values()) == pytest.approx(1) and all(v > 0 for v in shares.values())
    assert sum(result.time.seconds.values()) <= result.time.total <= result.seconds
    assert "training images a second" in str(result.time)
