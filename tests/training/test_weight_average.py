"""The average of the best epochs: never worse on validation than the best one alone."""

import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from data_helpers import make_store
from test_fit import build, run, same
from torch import nn

from components.data.loaders import PreparedDataModule
from components.training.callbacks import Kept, network_copy
from components.training.fit import fit
from components.training.resume import StopRequest
from components.training.settings import TrainSettings
from components.training.weight_average import (
    _FreshNorms,
    average_of_best,
    greedy_soup,
    mean_weights,
)


def state(value, count=3):
    return {"w": torch.full((2,), float(value)), "n": torch.tensor(count)}


def test_the_mean_is_of_floats_and_what_else_there_is_stays_the_firsts():
    mean = mean_weights([state(1, 7), state(2, 8), state(6, 9)])
    assert mean["w"].tolist() == [3, 3] and mean["w"].dtype == torch.float32
    assert mean["n"] == 7


@pytest.mark.parametrize(
    ("figures", "epochs", "value", "weight"),
    [
        pytest.param({(0, 4): 0.8, (0, 4, 8): 0.9}, (1, 2, 3), 0.9, 4, id="all are in"),
        pytest.param({(0, 4): 0.8, (0, 4, 8): 0.7}, (1, 2), 0.8, 2, id="the last one is out"),
        pytest.param({(0, 4): 0.6, (0, 8): 0.8}, (1, 3), 0.8, 4, id="the middle one is out"),
        pytest.param({(0, 4): 0.7, (0, 4, 8): 0.5}, (1, 2), 0.7, 2, id="as good is good enough"),
        pytest.param({(0, 4): 0.6, (0, 8): 0.6}, (1,), 0.7, 0, id="the best alone"),
    ],
)
def test_an_epoch_is_in_if_it_does_not_lower_the_figure(figures, epochs, value, weight):
    kept = [Kept(0.7, 1, state(0)), Kept(0.65, 2, state(4)), Kept(0.6, 3, state(8))]
    by_mean = {sum(members) / len(members): figure for members, figure in figures.items()}

    def measured(weights):
        return by_mean[weights["w"][0].item()], weights

    average = greedy_soup(kept, measured)
    assert (average.epochs, average.value) == (epochs, value)
    assert average.weights["w"].tolist() == [weight] * 2
    assert average.tried == ((1, 0.7), (2, 0.65), (3, 0.6))
    text = average.text("val/accuracy")
    assert ("alone, val/accuracy 0.7000" in text) == (len(epochs) == 1)
    assert ("the average of epochs 1" in text) == (len(epochs) > 1)
    assert greedy_soup(kept[:1], measured).text("val/accuracy") == ""


def norms(weights):
    return {k: v for k, v in weights.items() if k.endswith("running_mean")}


@pytest.mark.parametrize(("task", "all_are_in"), [("classification", True), ("detection", False)])
def test_a_trainings_average_has_statistics_of_its_own_or_is_the_best_epoch(
    tmp_path, task, all_are_in, monkeypatch
):
    store = make_store(tmp_path / "store", task)
    options = {"epochs": 3, "average_best": 3}

    def soup(kept, measured):
        def noted(weights):
            value, found = measured(weights)
            assert 0 <= value <= 1
            # Which epochs of such a training go well together may differ between machines.
            return (kept[0].value if all_are_in else -1.0), found

        return greedy_soup(kept, noted)

    monkeypatch.setattr("components.training.weight_average.greedy_soup", soup)
    seen = []

    def noted(*given):
        seen.append((given, average_of_best(*given)))
        return seen[-1][1]

    monkeypatch.setattr("components.training.fit.average_of_best", noted)
    average = run(store, tmp_path / "resume", **options).average
    (_, module, data, kept, *_), _ = seen[0]
    assert [each.value for each in kept] == sorted((each.value for each in kept), reverse=True)
    assert average.value >= kept[0].value and len(average.tried) == 3
    assert len(average.epochs) == (3 if all_are_in else 1)
    if not all_are_in:
        assert same(average.weights, kept[0].weights)
        return
    mean = mean_weights([each.weights for each in kept if each.epoch in average.epochs])
    assert all(
        torch.equal(average.weights[name], value)
        for name, value in mean.items()
        if "running" not in name and "num_batches" not in name
    )
    assert not same(norms(average.weights), norms(mean))
    # The first layer's statistics follow from its weights and the images alone.
    module.network.load_state_dict(average.weights)
    convolution = next(m for m in module.network.modules() if isinstance(m, nn.Conv2d))
    loader = data.loader("train", train=True)
    loader.sampler.set_epoch(2)
    means = []
    with torch.no_grad():
        for batch in loader:
            shown = data.on_after_batch_transfer(batch, 0)["images"]
            means.append(convolution(shown).mean((0, 2, 3)))
    first = next(iter(norms(average.weights).values()))
    torch.testing.assert_close(first, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


class Batches(list):
    sampler = SimpleNamespace(set_epoch=lambda epoch: None)


def test_averages_are_measured_without_compiling():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    batches = Batches({"images": torch.rand(4, 3, 8, 8)} for _ in range(3))
    norm = nn.BatchNorm2d(3)
    module = nn.Module()
    module.network = nn.Sequential(norm)
    module.network.compile(backend=backend)
    module.eval()
    trainer = SimpleNamespace(
        max_epochs=1,
        callbacks=[],
        validate_loop=SimpleNamespace(),
        received_sigterm=False,
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    stop = StopRequest()
    data = SimpleNamespace(loader=lambda split, train: batches)

    def validate(module, **options):
        trainer.callbacks[0].on_validation_start(trainer, module)
        expected = torch.stack([batch["images"].mean((0, 2, 3)) for batch in batches]).mean(0)
        torch.testing.assert_close(norm.running_mean, expected)
        assert not norm.training and norm.momentum == 0.1
        with torch.no_grad():
            module.network(batches[0]["images"])
        return [{"figure": 0.5}]

    trainer.validate = validate
    kept = [Kept(0.5, epoch, network_copy(module)) for epoch in (1, 2)]
    with stop.listening():
        average = average_of_best(trainer, module, data, kept, "figure", stop)
        assert average.epochs == (1, 2) and graphs == []
        with torch.no_grad():
            module.network(batches[0]["images"])
        assert len(graphs) == 1  # it is compiled otherwise
        # A TERM that came while Lightning's handler was in place is not lost.
        trainer.received_sigterm = True
        with pytest.raises(SystemExit, match="143"):
            average_of_best(trainer, module, data, kept, "figure", stop)


def test_a_frozen_backbones_statistics_stay(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    given = {"backbone_lr_scale": 0, "average_best": 2, "epochs": 2, "lr": 1e-9}
    module = build("classification", backbone_lr_scale=0)
    before = {k: v.clone() for k, v in module.network.backbone.state_dict().items()}
    settings = TrainSettings(batch_size=4, warmup_epochs=0, ema_decay=0, **given)
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3)
    average = fit(module, data, settings, 0, tmp_path / "r").average
    assert all(torch.equal(average.weights[f"backbone.{k}"], v) for k, v in before.items())


class Killed(BaseException):
    """As KILL: nothing is told to what runs."""


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("options", "hook", "action", "end"),
    [
        pytest.param(
            {}, "on_validation_start", lambda: signal.raise_signal(15), "143", id="a signal"
        ),
        pytest.param({}, "on_validation_batch_end", kill, None, id="killed"),
        # Still frozen in the last epoch: its batch norms are not measured anew.
        pytest.param({"freeze_epochs": 2}, "on_validation_end", kill, None, id="frozen"),
        pytest.param({"patience": 1, "lr": 1e-9}, "on_validation_end", kill, None, id="stopped"),
    ],
)
def test_interrupted_while_averaging_no_epoch_is_repeated_and_the_end_is_the_same(
    tmp_path, monkeypatch, capsys, options, hook, action, end
):
    store = make_store(tmp_path / "store", "classification")
    options = {"epochs": 2, "average_best": 2, "checkpoint_minutes": 9, **options}
    options["epochs"] += bool(options.get("patience"))
    whole = run(store, tmp_path / "a", **options)
    with monkeypatch.context() as patched:
        own = getattr(_FreshNorms, hook)

        def interrupted(*given):
            action()
            own(*given)

        patched.setattr(_FreshNorms, hook, interrupted)
        with pytest.raises(SystemExit if end else Killed, match=end):
            run(store, tmp_path / "b", **options)
    assert ("while averaging" in capsys.readouterr().err) == (end is not None)
    with monkeypatch.context() as patched:
        patched.setattr("components.training.callbacks.EpochSeed.on_train_epoch_start", kill)
        resumed = run(store, tmp_path / "b", **options)
    assert same(resumed.state, whole.state)
    assert resumed.average.figures == whole.average.figures
    assert resumed.rows == whole.rows and len(whole.average.tried) == 2
    assert (resumed.beats_trivial, resumed.trivial) == (whole.beats_trivial, whole.trivial)
    assert resumed.seconds > 0
