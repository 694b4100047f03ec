"""YOLOX networks: sizes, shapes, constants of the recipe, weights files, schedule.

Against the original: `test_yolox_parity.py`.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.errors import ModelError
from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.yolox_network import TimmYoloxNetwork, yolox_network
from components.models.yolox_schedule import yolox_ema_decay, yolox_lr
from components.models.yolox_weights import load_official_weights


def test_an_unknown_size_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"'yolox-xl'; allowed: yolox-nano, .*, yolox-x"):
        yolox_network("yolox-xl", 80)


@pytest.mark.parametrize("size", [(64, 96), (100, 70)], ids=["32 divides it", "32 does not"])
def test_levels_cover_the_image(size):
    network = yolox_network("yolox-nano", 5).eval()
    with torch.no_grad():
        outputs = network(torch.zeros(2, 3, *size))
    for channels, levels in zip((5, 4, 1), outputs, strict=True):
        for stride, level in zip(network.strides, levels, strict=True):
            cells = tuple(math.ceil(side / stride) for side in size)
            assert level.shape == (2, channels, *cells)


def test_the_recipe_sets_batch_norm_and_the_prior():
    network = yolox_network("yolox-nano", 5)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-3, 0.03)}
    for layer in [*network.head.cls_preds, *network.head.obj_preds]:
        assert torch.allclose(layer.bias.sigmoid(), torch.tensor(0.01))


@pytest.mark.parametrize("num_levels", [3, 5])
def test_any_timm_backbone_can_carry_the_head(num_levels):
    backbone = create_feature_backbone(FeatureBackboneConfig("resnet18", pretrained=False))
    network = TimmYoloxNetwork(backbone, 4, 32, head_num_convs=1, num_levels=num_levels)
    outputs = network(torch.rand(2, 3, 128, 64))
    assert [level.shape[2:] for level in outputs[0]] == [
        (math.ceil(128 / stride), math.ceil(64 / stride))
        for stride in (8, 16, 32, 64, 128)[:num_levels]
    ]
    assert [levels[0].shape[1] for levels in outputs] == [4, 4, 1]
    sum(level.square().sum() for levels in outputs for level in levels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.head.parameters())


def official_file(path, num_classes=80):
    state = yolox_network("yolox-nano", num_classes).state_dict()
    # Official checkpoints hold more than weights, and the AP as a numpy number.
    torch.save({"model": state, "start_epoch": 300, "best_ap": np.float64(0.258)}, path)
    return state


def test_official_weights_load_from_both_kinds_of_file(tmp_path):
    state = official_file(tmp_path / "yolox_nano.pth")
    save_file(state, tmp_path / "yolox_nano.safetensors")
    for name in ("yolox_nano.pth", "yolox_nano.safetensors"):
        network = yolox_network("yolox-nano", 80)
        load_official_weights(network, tmp_path / name)
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_a_class_head_of_other_classes_keeps_its_initial_values(tmp_path):
    state = official_file(tmp_path / "yolox_nano.pth")
    network = yolox_network("yolox-nano", 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_official_weights(network, tmp_path / "yolox_nano.pth")
    for name, value in network.state_dict().items():
        kept = name.startswith("head.cls_preds.")
        assert torch.equal(value, before[name] if kept else state[name]), name


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "head.stems.0.bn.bias"), r"1 of .*head\.stems\.0\.bn\.bias is miss"),
        (lambda s: {**s, "head.extra": torch.zeros(1)}, r"head\.extra is unknown"),
        (
            lambda s: {**s, "head.reg_preds.0.bias": torch.zeros(5)},
            r"head\.reg_preds\.0\.bias is \(5,\), not \(4,\)",
        ),
        (lambda s: yolox_network("yolox-tiny", 80).state_dict(), "not the weights of this YOLOX"),
    ],
    ids=["missing", "unknown", "shape", "another size"],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    path = tmp_path / "weights.pth"
    torch.save({"model": change(yolox_network("yolox-nano", 80).state_dict())}, path)
    network = yolox_network("yolox-nano", 80)
    before = network.state_dict()["head.stems.0.conv.weight"].clone()
    with pytest.raises(ModelError, match=message):
        load_official_weights(network, path)
    assert torch.equal(network.state_dict()["head.stems.0.conv.weight"], before)


def test_learning_rate_rises_falls_and_rests():
    rates = [yolox_lr(step, 300, 5, 15) for step in range(301)]
    assert rates[0] == 0 and rates[5] == 1
    assert rates[1] == pytest.approx(1 / 25)
    assert rates[145] == pytest.approx((1 + 0.05) / 2)  # half way down the cosine
    assert all(a > b for a, b in pairwise(rates[5:286]))
    assert set(rates[285:]) == {0.05}
    assert yolox_lr(0, 300, 0, 15, lr=0.01) == 0.01  # without warm-up


def test_average_keeps_little_at_first():
    assert yolox_ema_decay(1) == pytest.approx(0.9998 / 2000, rel=1e-3)
    assert yolox_ema_decay(2000) == pytest.approx(0.9998 * (1 - 1 / math.e))
    assert yolox_ema_decay(10**6) == 0.9998
