"""Which resume folder a training takes, and when folders go."""

import os
import time

import pytest
from data_helpers import make_store

from tasks.layout import Layout
from tasks.params import Params
from tasks.train import finish, remove_stale, resume_key


@pytest.fixture
def layout(tmp_path):
    make_store(tmp_path / "data" / "prepared", "classification")
    return Layout(tmp_path)


def key(layout, **train):
    base = {"task": "classification", "data": "data/raw"}
    return resume_key(Params.model_validate({"base": base, "train": train}), layout)


@pytest.mark.parametrize(
    ("train", "same"),
    [
        ({"num_workers": 7}, True),
        ({"checkpoint_minutes": 9}, True),
        ({"lr": 0.5}, False),
        ({"augment": {"flip": 0.1}}, False),
    ],
)
def test_the_key_tells_parameters_that_change_the_result_from_others(layout, train, same):
    assert (key(layout, **train) == key(layout)) is same


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet", "objects.parquet"])
def test_the_key_tells_data_apart_without_reading_pixels(layout, name):
    before = key(layout)
    (layout.prepared / "images.bin").unlink()
    assert key(layout) == before
    path = layout.prepared / name
    path.write_bytes(path.read_bytes() + b" ")
    assert key(layout) != before


def test_the_key_tells_a_weights_file_by_its_content(layout):
    path = layout.root / "weights.safetensors"
    path.write_bytes(b"one")
    before = key(layout, pretrained=str(path))
    path.write_bytes(b"two")
    assert key(layout, pretrained=str(path)) != before


@pytest.mark.parametrize(
    ("days", "kept"),
    [
        ([0, 1, 2, 3], ["0", "1"]),
        ([6, 8], ["6"]),
        ([], []),
    ],
)
def test_of_other_trainings_the_two_latest_stay_for_a_week(tmp_path, days, kept):
    for day in days:
        (tmp_path / str(day)).mkdir()
        then = time.time() - day * 24 * 3600
        os.utime(tmp_path / str(day), (then, then))
    ours = tmp_path / "ours"
    ours.mkdir()
    os.utime(ours, (0, 0))
    remove_stale(tmp_path, keep=ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, "ours"]


def test_success_removes_the_folder_and_no_other(layout):
    params = Params.model_validate({"base": {"task": "classification", "data": "data/raw"}})
    for name in (resume_key(params, layout), "other"):
        (layout.resume / name).mkdir(parents=True)
    finish(params, layout)
    assert [path.name for path in layout.resume.iterdir()] == ["other"]
    (layout.resume / "other").rmdir()
    finish(params, layout)
    assert not layout.resume.exists()
