"""`train.num_workers: auto`: by the cores that are there, and none where it would not pay."""

import os

import pytest
from data_helpers import make_store

import tasks.train
from components.errors import ParamsError
from components.training.loader_workers import chosen_workers, usable_cores
from components.training.settings import TrainSettings
from tasks.params import loads


@pytest.mark.parametrize(
    ("num_images", "batch_size", "cores", "on_gpu", "expected", "reason"),
    [
        (112, 16, 64, True, 0, "an epoch has 7 steps, fewer than 8"),
        (113, 16, 64, True, 8, "64 cores beside a GPU"),
        (5000, 16, 4, True, 3, "one of them for the training"),
        (5000, 16, 1, True, 0, "1 cores"),
        (5000, 16, 2, False, 0, "which the network takes"),
        (5000, 16, 3, False, 0, "3 cores"),
        (5000, 16, 4, False, 1, "leaves one"),
        (5000, 16, 64, False, 1, "64 cores"),
    ],
)
def test_the_number_follows_from_data_cores_and_gpu(
    num_images, batch_size, cores, on_gpu, expected, reason
):
    number, why = chosen_workers(num_images, batch_size, cores, on_gpu)
    assert number == expected and reason in why


@pytest.mark.parametrize(
    ("files", "num_processes", "expected"),
    [
        pytest.param({}, 1, 12, id="affinity"),
        pytest.param({}, 4, 3, id="shared"),
        pytest.param({}, 64, 1, id="at least one"),
        pytest.param({"cpu.max": "max 100000"}, 1, 12, id="no quota"),
        pytest.param({"cpu.max": "250000 100000"}, 1, 2, id="quota, version 2"),
        pytest.param({"cpu.max": "1000"}, 1, 12, id="not understood"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            *(2, 2),
            id="quota, version 1",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            *(1, 12),
            id="no quota, version 1",
        ),
    ],
)
def test_cores_are_those_this_process_may_use(
    tmp_path, monkeypatch, files, num_processes, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(num_processes, tmp_path) == expected


def test_the_choice_is_said_and_a_number_stays(tmp_path, monkeypatch, capsys):
    store = make_store(tmp_path / "store", "classification", num_images=60)
    monkeypatch.setattr("components.training.loader_workers.usable_cores", lambda processes: 6)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    given = TrainSettings(num_workers="auto", batch_size=4)
    assert tasks.train.with_workers(given, store) == given.model_copy(update={"num_workers": 5})
    assert "train.num_workers: auto is 5: 6 cores beside a GPU" in capsys.readouterr().out
    assert tasks.train.with_workers(TrainSettings(num_workers=3), store).num_workers == 3


@pytest.mark.parametrize("value", ["many", "-1", "257", "1.5"])
def test_what_is_neither_a_number_nor_auto_is_refused_in_one_line(tmp_path, value):
    text = f"base: {{task: detection, data: d}}\ntrain: {{num_workers: {value}}}\n"
    with pytest.raises(ParamsError, match=r"1 error\n  train.num_workers = .*0 to 256; auto"):
        loads(text, tmp_path / "params.yaml")
