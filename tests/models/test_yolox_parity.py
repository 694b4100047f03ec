"""Ours equals the original YOLOX: a quick part of what `benchmarks/yolox_parity.py` shows."""

import pytest
import torch

pytest.importorskip(
    "yolox",
    reason="the original (PyPI pixeltable-yolox, whose OpenCV wants libgl1) is not there",
    exc_type=ImportError,
)

from yolox_comparisons import (
    SimotaCount,
    compare_learning_rates,
    compare_losses,
    compare_outputs,
    compare_state_dicts,
    compare_training_step,
)
from yolox_original import original_network

from components.models.yolox_network import yolox_network

# Millions of parameters with 80 classes, as published in the official README.
PUBLISHED = {
    "yolox-nano": 0.91,
    "yolox-tiny": 5.06,
    "yolox-s": 9.0,
    "yolox-m": 25.3,
    "yolox-l": 54.2,
    "yolox-x": 99.1,
}


@pytest.mark.parametrize(("model_name", "millions"), PUBLISHED.items())
def test_state_dicts_load_both_ways_and_sizes_are_as_published(model_name, millions):
    _, parameters = compare_state_dicts(model_name)
    digits = len(str(millions).split(".")[1])
    assert round(parameters / 1e6, digits) == millions


def test_one_seed_draws_the_same_initial_weights():
    torch.manual_seed(0)
    original = original_network("yolox-nano", 3).state_dict()
    torch.manual_seed(0)
    ours = yolox_network("yolox-nano", 3).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in original.items())


def test_outputs_in_both_modes():
    found = compare_outputs("yolox-nano", (96, 160))
    assert max(found.values()) < 1e-5, found


def test_simota_makes_the_same_matches():
    count = SimotaCount()
    for seed in range(300):
        count.add(seed)
    assert count.boxes > 5000 and count.matched > 10_000
    assert count.wrong == 0
    assert count.unexplained == 0, count


@pytest.mark.parametrize("use_l1", [False, True])
def test_a_training_step_gives_the_same_loss_and_gradients(use_l1):
    loss, gradient, number = compare_training_step("yolox-nano", torch.float64, use_l1)
    assert number == len(list(yolox_network("yolox-nano", 80).parameters()))
    assert loss < 1e-5 and gradient < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("use_l1", [False, True])
def test_every_term_of_the_loss_and_its_gradient(use_l1, dtype):
    found = compare_losses(dtype, use_l1)
    assert ("l1_loss" in found) == use_l1
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("lr", [1.0, 0.01 / 64 * 8])
def test_learning_rate_of_every_step_of_300_epochs(lr):
    steps, unequal = compare_learning_rates(37, lr)
    assert steps == 300 * 37 + 1
    assert unequal == 0
