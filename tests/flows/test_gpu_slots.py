"""Trials side by side do not train on the same GPU while another is idle."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.gpu_slots import gpu_slot, visible_gpus


def taken(stack: ExitStack, folder: Path, each: int, gpus: str) -> str:
    slot = gpu_slot(folder, each, {"CUDA_VISIBLE_DEVICES": gpus})
    return stack.enter_context(slot)["CUDA_VISIBLE_DEVICES"]


def test_each_trial_has_its_own_and_then_they_share_evenly(tmp_path: Path) -> None:
    with ExitStack() as others:
        first = [taken(others, tmp_path, 1, "2, GPU-a,5") for _ in range(3)]
        assert first == ["2", "GPU-a", "5"]
        assert [taken(others, tmp_path, 1, "2,GPU-a,5") for _ in range(2)] == ["2", "GPU-a"]
    with ExitStack() as later:
        assert taken(later, tmp_path, 1, "2,GPU-a,5") == "2", "they are given back"


def test_the_next_trial_gets_the_gpu_that_is_idle(tmp_path: Path) -> None:
    stacks = [ExitStack() for _ in range(5)]
    with ExitStack() as all_of_them:
        for stack in stacks:
            all_of_them.enter_context(stack)
        assert [taken(stack, tmp_path, 1, "0,1") for stack in stacks[:3]] == ["0", "1", "0"]
        stacks[0].close()
        stacks[1].close()
        assert [taken(stack, tmp_path, 1, "0,1") for stack in stacks[3:]] == ["1", "0"]


def test_a_trial_of_several_processes_has_as_many(tmp_path: Path) -> None:
    with ExitStack() as stack:
        assert [taken(stack, tmp_path, 2, "0,1,2,3,4") for _ in range(2)] == ["0,1", "2,3"]


@pytest.mark.parametrize(("each", "gpus"), [(1, ""), (1, "0"), (2, "0,1"), (2, "0,1,2")])
def test_where_there_is_no_choice_nothing_is_set(tmp_path: Path, each: int, gpus: str) -> None:
    with gpu_slot(tmp_path, each, {"CUDA_VISIBLE_DEVICES": gpus}) as seen:
        assert seen == {}


def test_those_of_the_machine_count_where_none_is_named(tmp_path: Path) -> None:
    # CUDA numbers from 0 those it sees; a container may have been given the second and the fourth.
    for name in ("nvidia1", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1"]
