"""A training that is stopped at any moment goes on as if it had not been.

benchmarks/kill_points.py does the same with real processes, at hundreds of moments.
"""

import os
import random
import signal

import numpy as np
import pytest
import torch
from data_helpers import make_store
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from test_fit import MOSAIC, run, same

from components.files import write_checked
from components.training.callbacks import EpochSeed
from components.training.checkpoints import Checkpoints
from components.training.resume import StopRequest
from components.training.seeding import random_states, restore_random_states

STEPS = 3  # an epoch: of 20 images 12 are for training, four a batch
KINDS = {
    "classifier": {
        "scheduler": "plateau",
        "scheduler_options": {"patience": 0},
        "average_best": 2,
    },
    "frozen": {"freeze_epochs": 2, "lr": 1e-2},
    "bf16": {"precision": "bf16-mixed"},
    "detector": {"augment": MOSAIC, "num_workers": 1, "average_best": 3},
}


class Killed(BaseException):
    """As KILL: nothing that the training does may rely on being told."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Stores, and what an uninterrupted training gives, by kind."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            task = "detection" if kind == "detector" else "classification"
            store = make_store(folder / "store", task, num_images=20)
            made[kind] = store, run(store, folder / "resume", **KINDS[kind])
        return made[kind]

    return get


@pytest.fixture
def at(monkeypatch):
    """Do something at a place of the next training: a hook's name, epoch and batch from 0."""

    def place(hook, epoch, batch, action):
        def look(self, trainer, module, *rest):
            here = rest[-1] if "batch" in hook else None
            if (trainer.current_epoch, here) == (epoch, batch):
                monkeypatch.setattr(EpochSeed, hook, lambda *_: None)
                action()

        monkeypatch.setattr(EpochSeed, hook, look)

    return place


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("kind", "hook", "epoch", "batch", "number", "position"),
    [
        ("classifier", "on_train_batch_end", 1, 0, signal.SIGTERM, (1, 1)),
        ("classifier", "on_validation_batch_end", 1, 0, signal.SIGINT, (1, STEPS)),
        ("classifier", "on_train_batch_start", 0, STEPS - 1, signal.SIGTERM, (0, STEPS)),
        ("frozen", "on_train_batch_start", 1, 1, signal.SIGINT, (1, 2)),
        ("bf16", "on_train_batch_end", 1, 1, signal.SIGINT, (1, 2)),
        ("detector", "on_train_epoch_end", 1, None, signal.SIGTERM, (2, 0)),
        ("detector", "on_train_batch_end", 0, 0, signal.SIGINT, (0, 1)),
    ],
)
def test_a_signal_saves_after_the_step_and_the_end_is_the_same(
    whole, at, tmp_path, capsys, kind, hook, epoch, batch, number, position
):
    store, expected = whole(kind)
    at(hook, epoch, batch, lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stopped:
        run(store, tmp_path, **KINDS[kind])
    assert stopped.value.code == 128 + number
    assert f"saved after epoch {position[0] + 1}, step {position[1]} of" in capsys.readouterr().err
    state, _ = Checkpoints(tmp_path).latest()
    assert (state["position"]["epoch"], state["position"]["batch"]) == position
    resumed = run(store, tmp_path, **KINDS[kind])
    assert same(resumed.state, expected.state)
    assert resumed.rows == expected.rows
    assert (resumed.best, resumed.average.epochs) == (expected.best, expected.average.epochs)


@pytest.mark.parametrize(
    ("kind", "minutes", "hook", "epoch", "batch", "position"),
    [
        ("classifier", 0, "on_validation_end", 1, None, (1, STEPS)),
        ("classifier", 9, "on_validation_end", 1, None, (1, 0)),
        ("detector", 0, "on_train_batch_start", 1, 2, (1, 2)),
    ],
)
def test_killed_it_goes_on_from_the_last_checkpoint(
    whole, at, tmp_path, kind, minutes, hook, epoch, batch, position
):
    store, expected = whole(kind)
    settings = {**KINDS[kind], "checkpoint_minutes": minutes}
    at(hook, epoch, batch, kill)
    with pytest.raises(Killed):
        run(store, tmp_path, **settings)
    state, _ = Checkpoints(tmp_path).latest()
    assert (state["position"]["epoch"], state["position"]["batch"]) == position
    resumed = run(store, tmp_path, **settings)
    assert same(resumed.state, expected.state)
    assert resumed.rows == expected.rows


def test_the_gradient_scaler_goes_on_too(at, tmp_path, monkeypatch):
    # Lightning has float16 for GPUs alone; torch has it here too, and it is the same code.
    scales = []

    def with_scaler(**given):
        # The first steps overflow, each halving the scale.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)
        del given["precision"]
        precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        trainer = Trainer(**{**given, "plugins": [*given["plugins"], precision]})
        scales.append(scaler)
        return trainer

    monkeypatch.setattr("components.training.fit.Trainer", with_scaler)
    store = make_store(tmp_path / "store", "classification", num_images=20)
    settings = {"checkpoint_minutes": 0, "epochs": 5}
    whole = run(store, tmp_path / "whole", **settings)
    at("on_train_batch_start", 3, 1, kill)
    with pytest.raises(Killed):
        run(store, tmp_path / "cut", **settings)
    resumed = run(store, tmp_path / "cut", **settings)
    assert same(resumed.state, whole.state)
    assert scales[0].state_dict() == scales[2].state_dict()
    assert max(scaler.get_scale() for scaler in scales) < 2.0**24, "steps were skipped"
    assert whole.rows[0]["val_loss"] != whole.rows[-1]["val_loss"], "and others were not"


def test_a_finished_training_is_not_repeated_early_stop_or_not(whole, at, tmp_path):
    store, _ = whole("classifier")
    settings = {"epochs": 9, "patience": 1, "lr": 1e-9, "average_best": 2}
    first = run(store, tmp_path, **settings)
    assert len(first.rows) < 9
    at("on_train_batch_start", 0, 0, kill)
    at("on_train_batch_start", len(first.rows), 0, kill)
    second = run(store, tmp_path, **settings)
    trained = Checkpoints(tmp_path).latest()[0]["trained"]
    assert "Ema" not in trained["callbacks"]  # as many bytes as the weights, for nothing
    assert same(first.state, second.state)
    assert (first.rows, first.seconds) == (second.rows, second.seconds)
    assert first.average.tried == second.average.tried
    assert (first.best, first.average.epochs) == (second.best, second.average.epochs)


def test_a_second_int_ends_at_once_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with pytest.raises(SystemExit, match="130"), stop.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the guard of a flow sends INT, then TERM
        assert stop.number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_random_states_come_back(tmp_path):
    def draw():
        return random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()

    random.gauss(0, 1), np.random.standard_normal()  # both keep a second value back
    torch.save(random_states(), tmp_path / "states.pt")
    expected = draw()
    draw()
    restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == expected


# The files ----------------------------------------------------------------------------------------


def weights(value):
    return {"w": torch.full((1000,), float(value))}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept_and_best_weights_are_written_when_they_change(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    written = []

    def noted(folder, prefix, *rest):
        written.append(prefix)
        return write_checked(folder, prefix, *rest)

    monkeypatch.setattr("components.training.checkpoints.write_checked", noted)
    first, second = weights(1), weights(2)
    for step, best in enumerate([[], [first], [first], [first], [second, first]]):
        checkpoints.write({"step": step}, best)
    assert written.count("best-") == 2
    assert [name[:5] for name in names(tmp_path)] == ["00000", "00000", "best-", "best-"]
    state, best = Checkpoints(tmp_path).latest()
    assert state["step"] == 4
    assert same(best[0], second) and same(best[1], first)
    for step in (5, 6):
        checkpoints.write({"step": step}, [second])
    assert len(names(tmp_path)) == 3  # nothing refers to the first any more


def damage(path):
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda ckpt, best: damage(ckpt), id="a bit of the checkpoint"),
        pytest.param(lambda ckpt, best: os.truncate(ckpt, 100), id="half a checkpoint"),
        pytest.param(lambda ckpt, best: damage(best), id="a bit of the best weights"),
        pytest.param(lambda ckpt, best: best.unlink(), id="no best weights"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, capsys, spoil):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"step": 1}, [weights(1)])
    before = set(tmp_path.glob("best-*"))
    checkpoints.write({"step": 2}, [weights(2)])
    newest = sorted(tmp_path.glob("*.ckpt"))[-1]
    spoil(newest, (set(tmp_path.glob("best-*")) - before).pop())
    again = Checkpoints(tmp_path)
    state, best = again.latest()
    assert state["step"] == 1
    assert same(best[0], weights(1))
    said = capsys.readouterr().err
    assert f"{newest}: damaged, set aside" in said
    assert "goes on from the checkpoint before" in said
    again.write({"step": 3}, [weights(3)])
    assert Checkpoints(tmp_path).latest()[0]["step"] == 3
    damage(sorted(tmp_path.glob("*.ckpt"))[-1])
    damage(sorted(tmp_path.glob("*.ckpt"))[-2])
    assert Checkpoints(tmp_path).latest() is None
    assert "goes on from the start" in capsys.readouterr().err


def test_what_a_killed_write_left_is_removed(tmp_path):
    (tmp_path / ".00000001-.ckpt.abc.part").mkdir()
    assert Checkpoints(tmp_path).latest() is None
    assert names(tmp_path) == []
