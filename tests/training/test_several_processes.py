"""Two processes train as one does: same losses, nothing measured twice, resumed bit for bit."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several_processes
import torch
from data_helpers import make_store
from test_fit import same
from torch import nn

from components.data.loaders import EpochSampler, PreparedDataModule
from components.data.settings import AugmentSettings
from components.errors import DataError, TrainingError
from components.models.backbones import BackboneConfig
from components.models.classifier import ImageClassifier
from components.models.shared_batch_norm import SharedBatchNorms
from components.training.fit import fit
from components.training.settings import TrainSettings

# Of 46 images 28 are for training, 8, 8, 8 and 4 a step, and 9, in batches of 8 and 1, for val.
NUM_IMAGES = 46
# What the last process runs through, in one start as importing takes longest.
PLAN = {
    "classifier": {"kind": "classifier", "average_best": 2},
    "stopped": {"kind": "classifier", "average_best": 2, "stop": (1, 1)},
    "resumed": {"kind": "classifier", "average_best": 2},
    # It has been trained; the folder goes as soon as one of them has ended.
    "late": {"kind": "classifier", "average_best": 2, "late": True},
    "apart": {"kind": "classifier", "average_best": 2, "apart": True},
    "fcos": {"kind": "fcos", "lr": 1e-3},
    "yolox": {"kind": "yolox", "lr": 1e-3},
    "broken": {"kind": "classifier", "lr": 1e30},
    "spoilt": {"kind": "fcos", "spoilt": True},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    made = {task: folder / task for task in ("classification", "detection")}
    for task, path in made.items():
        make_store(path, task, num_images=NUM_IMAGES)
    return made


def arguments(name, stores, folder):
    kind = PLAN[name]["kind"]
    store = stores["classification" if kind == "classifier" else "detection"]
    trained_as = {"resumed": "stopped", "late": "classifier", "apart": "stopped"}
    resume = folder / trained_as.get(name, name)
    return {**PLAN[name], "store": str(store), "resume_dir": str(resume)}


@pytest.fixture(scope="module")
def together(stores, tmp_path_factory):
    """What two processes gave, by name, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    plan = [(name, arguments(name, stores, folder)) for name in PLAN]
    done = subprocess.run(
        [sys.executable, several_processes.__file__, json.dumps(plan), str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=several_processes.environment(),
    )
    assert done.returncode == 0, done.stderr
    names = [name for name in PLAN if name not in ("stopped", "apart", "broken", "spoilt")]
    results = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in names}
    return results, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("classifier", 1e-5), ("fcos", 1e-3), ("yolox", 1e-3)]
)
def test_the_losses_are_those_of_one_process(stores, together, tmp_path, kind, tolerance):
    alone = several_processes.run(**arguments(kind, stores, tmp_path))
    rows = together[0][kind]["rows"]
    assert len(rows) == len(alone.rows) == 2
    for ours, theirs in zip(rows, alone.rows, strict=True):
        for name in ("train_loss", "val_loss", "lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance), (kind, name)
    if kind == "classifier":  # each of nine images counted once
        assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in alone.rows]
        # The average of the best epochs too, with the batch norms that go with it.
        ours = together[0][kind]
        assert (ours["best"], ours["epochs"]) == (alone.best, alone.average.epochs)
        for name, value in ours["state"].items():
            torch.testing.assert_close(value, alone.state[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_ends_all_and_they_go_on_bit_for_bit(together):
    results, output = together
    assert "SIGTERM: saved after epoch 2, step 2 of 4" in output
    assert "stopped 0 ended with 143" in output and "stopped 1 ended with 0" in output
    assert same(results["resumed"]["state"], results["classifier"]["state"])
    assert results["resumed"]["rows"] == results["classifier"]["rows"]
    assert results["resumed"]["best"] == results["classifier"]["best"]
    assert output.count("epoch 1/2") == 4  # the first process says it, the others nothing


@pytest.mark.slow
def test_after_the_end_all_find_the_same_or_say_so(together):
    results, output = together
    for name in ("rows", "best", "epochs"):
        assert results["late"][name] == results["classifier"][name]
    assert same(results["late"]["state"], results["classifier"]["state"])
    assert output.count("is not the same in all processes (00000") == 2
    assert all(f"apart {rank} " in output for rank in (0, 1))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([0, 0], [0, 0]), ([1, 0], [0, 0, 1]), ([1, 1], [0, 1]), ([1, 1], [1]), ([2, 2, 0], [1, 1])],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_processes_make_that_of_the_step_whatever_their_classes_weigh(
    monkeypatch, ours, theirs, smoothing
):
    weights, name = [2.0, 0.0, 0.5], several_processes.NAME
    backbone = BackboneConfig(name, pretrained=False)
    module = ImageClassifier(backbone, 3, class_weights=weights, label_smoothing=smoothing)
    torch.manual_seed(0)
    logits = torch.randn(len(ours + theirs), 3, requires_grad=True)
    step = module._step_loss(logits, torch.tensor(ours + theirs))
    labels = [torch.tensor(ours), torch.tensor(theirs)]
    divisors = [sum(weights[label] for label in each) for each in (ours, theirs)]
    mean = torch.tensor(divisors).mean()
    monkeypatch.setattr("components.models.classifier.num_processes", lambda: 2)
    monkeypatch.setattr("components.models.classifier.over_devices", lambda own: mean)
    parts = logits.split([len(ours), len(theirs)])
    shared = [module._step_loss(*part) for part in zip(parts, labels, strict=True)]
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in shared]
    if any(divisors):
        torch.testing.assert_close(sum(shared) / 2, step)
        torch.testing.assert_close(sum(gradients) / 2, torch.autograd.grad(step, logits)[0])
    assert all(torch.isfinite(each).all() for each in (*shared, *gradients))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_and_the_first_says_so(together):
    output = together[1]
    assert "broken 0 the loss is" in output and "python -m tasks.replay" in output
    assert "broken 1 ended with 0" in output


@pytest.mark.slow
def test_broken_images_of_one_process_are_named_though_all_share_their_loss(together):
    said = together[1]
    assert "in process 2 of 2 at epoch 1, step 1; the input images are not finite" in said
    assert "not-finite.1.pt" in said and "spoilt 1 ended with 0" in said


# What each process is shown ----------------------------------------------------------------------


def keys(loader):
    return [key for batch in loader.batch_sampler for key in batch]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("first_batch", [0, 2])
def test_processes_share_each_step_and_its_content(tmp_path, count, first_batch):
    store = make_store(tmp_path / "store", "detection", num_images=NUM_IMAGES)
    augment = AugmentSettings(scale=(0.6, 1.0), mosaic=0.5, mixup=0.5)
    data = PreparedDataModule(store, 8, (0.5,) * 3, (0.5,) * 3, augment, seed=3)

    def steps(process):
        loader = data.loader("train", train=True, process=process)
        loader.sampler.done = (0, 8 * first_batch)
        return list(loader)

    alone, shared = steps((0, 1)), [steps((rank, count)) for rank in range(count)]
    if count == 4:  # four images are left, too few for two each
        alone.pop()
    assert {len(part) for part in shared} == {len(alone)}
    for number, step in enumerate(alone):
        images = {int(row): image for row, image in zip(step["rows"], step["images"], strict=True)}
        parts = [part[number] for part in shared]
        rows = [int(row) for part in parts for row in part["rows"]]
        assert sorted(rows) == sorted(images)
        for part in parts:
            for row, image in zip(part["rows"], part["images"], strict=True):
                assert torch.equal(image, images[int(row)])


@pytest.mark.parametrize(
    ("num_images", "batch_size", "count"), [(9, 8, 2), (9, 2, 2), (9, 4, 3), (3, 8, 2)]
)
def test_validation_batches_are_dealt_out_whole_and_each_process_has_one(
    tmp_path, num_images, batch_size, count
):
    store = make_store(tmp_path / "store", num_images=5 * num_images)
    data = PreparedDataModule(store, batch_size, (0.5,) * 3, (0.5,) * 3)
    loaders = [data.loader("val", process=(rank, count)) for rank in range(count)]
    batches = [[row for _, row, _ in batch] for own in loaders for batch in own.batch_sampler]
    assert all(len(own) for own in loaders)
    assert sorted(row for batch in batches for row in batch) == store.rows("val").tolist()
    if num_images > batch_size:
        alone = [[row for _, row, _ in b] for b in data.loader("val").batch_sampler]
        assert sorted(batches) == alone


def test_too_few_images_for_the_processes_are_refused(tmp_path):
    data = PreparedDataModule(make_store(tmp_path / "s", num_images=10), 8, (0,) * 3, (1,) * 3)
    with pytest.raises(DataError, match=r"split val has 2 images for 4 processes \(train\.devices"):
        data.loader("val", process=(1, 4))


def test_places_dropped_go_to_nobody():
    samplers = [EpochSampler(np.arange(10), 0, process=(r, 2), num_dropped=2) for r in range(2)]
    assert [len(sampler) for sampler in samplers] == [4, 4]
    assert sorted(place for s in samplers for _, _, place in s) == list(range(8))


# Settings and layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"batch_size": 9, "devices": 2}, ValueError, r"batch_size \(9\) must be a multiple of"),
        ({"batch_size": 6, "devices": 2, "num_nodes": 2}, ValueError, r"\(2 x 2\)"),
        ({"num_nodes": 2}, TrainingError, "with torchrun or srun"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path, settings, error, text):
    store = make_store(tmp_path / "store", "classification")
    with pytest.raises(error, match=text):
        module = several_processes.build("classifier", 1e-3)
        given = TrainSettings(**settings)
        data = PreparedDataModule(store, given.batch_size, (0.5,) * 3, (0.5,) * 3)
        fit(module, data, given, 0, tmp_path / "resume")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (4, 3)),
        (nn.BatchNorm2d(3), (2, 3, 4, 4)),
        (nn.BatchNorm3d(3), (2, 3, 2, 2, 2)),
    ],
)
def test_a_shared_batch_norm_over_one_process_is_torchs_own(monkeypatch, layer, shape):
    images = 5 * torch.rand(shape) + 7
    own, shared = copy.deepcopy(layer), SharedBatchNorms().apply(copy.deepcopy(layer))
    # As with others, but that there are none to add.
    monkeypatch.setattr("components.models.shared_batch_norm.num_processes", lambda: 2)
    monkeypatch.setattr("components.models.shared_batch_norm._sum_over_processes", lambda v: v)
    torch.testing.assert_close(shared(images), own(images))
    for ours, theirs in zip(shared.buffers(), own.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batch_norms_are_shared_in_place_and_become_what_they_were():
    module = several_processes.build("classifier", 1e-3)
    images = torch.rand(4, 3, 32, 32)
    kinds = [type(layer) for layer in module.modules()]
    layers = list(module.modules())
    expected, names = module(images), list(module.state_dict())
    shared = SharedBatchNorms().apply(module)
    assert [type(layer) for layer in shared.modules()] != kinds
    assert all(a is b for a, b in zip(shared.modules(), layers, strict=True))
    assert list(shared.state_dict()) == names
    assert torch.allclose(shared(images), expected, atol=1e-6)  # the activations too
    assert [type(layer) for layer in SharedBatchNorms().revert(shared).modules()] == kinds
