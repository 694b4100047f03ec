"""Optimizers: every name listed works, groups learn at the rates they should."""

import pytest
import torch
from torch import nn

from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.models.optimizers import create_optimizer, list_optimizers

NAMES = [name for names in list_optimizers().values() for name in names]
DOCUMENTED = {
    *("adamw", "adam", "sgd", "rmsprop", "adagrad"),
    *("adamp", "sgdp", "adabelief", "radam", "lamb", "lars", "madgrad", "novograd"),
}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def test_the_documented_names_are_there():
    assert set(NAMES) >= DOCUMENTED
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_listed_is_accepted_and_takes_a_step(name):
    """AutoTimm's list_optimizers: 25 of 38 names rejected."""
    network = small()
    optimizer = create_optimizer(network, name, 1e-2, 1e-4)
    before = network[0].weight.detach().clone()
    for _ in range(2):
        network(torch.ones(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(before, network[0].weight)


@pytest.mark.parametrize(
    ("name", "given", "fused"),
    [
        ("adamw", {}, True),
        ("sgd", {}, True),
        ("adamw", {"fused": None}, None),
        ("adamw", {"foreach": True}, None),
        ("lamb", {}, "absent"),
    ],
)
def test_torchs_optimizers_are_fused_and_step_as_the_others_do(name, given, fused):
    weights = []
    for arguments in (given, {"foreach": False} if fused is True else given):
        network = small()
        optimizer = create_optimizer(network, name, 1e-2, 1e-2, **arguments)
        if not weights:
            assert optimizer.defaults.get("fused", "absent") == fused
        for step in range(3):
            for parameter in network.parameters():
                places = torch.arange(parameter.numel()).view_as(parameter)
                parameter.grad = torch.cos(places + step)
            optimizer.step()
        weights.append(network[0].weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_a_class_by_its_path():
    optimizer = create_optimizer(
        small(), {"class": "torch.optim.Adamax", "params": {"betas": (0.8, 0.9)}}, 1e-2, 1e-4
    )
    assert isinstance(optimizer, torch.optim.Adamax)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adamw2", r"unknown optimizer 'adamw2'; did you mean adamw"),
        ({"class": "torch.optim.Nothing"}, r"no class 'torch.optim.Nothing'"),
        ({"class": "torch.nn.Linear"}, r"'torch.nn.Linear' is not a torch.optim"),
        ({"class": "Adam"}, r"no class 'Adam'"),
    ],
)
def test_an_unknown_one_is_answered_with_what_there_is(optimizer, message):
    with pytest.raises(ValueError, match=message):
        create_optimizer(small(), optimizer, 1e-2, 0)


def test_an_argument_it_does_not_take_is_named():
    with pytest.raises(ValueError, match=r"optimizer_kwargs of 'adamw': .*nesterov"):
        create_optimizer(small(), "adamw", 1e-2, 0, nesterov=True)


def test_rate_and_decay_given_with_a_class_go_first():
    given = {"class": "torch.optim.AdamW", "params": {"lr": 5e-4, "weight_decay": 0.3}}
    groups = create_optimizer(small(), given, 1e-2, 1e-4).param_groups
    assert {group["lr"] for group in groups} == {5e-4}
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}


def test_a_dict_without_a_class_is_refused():
    with pytest.raises(ValueError, match=r"needs a key 'class'"):
        create_optimizer(small(), {"params": {}}, 1e-2, 0)


def test_norms_and_biases_are_not_decayed():
    network = small()
    optimizer = create_optimizer(network, "sgd", 1e-2, 0.5)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    expected = [0.5, 0, 0, 0, 0.5, 0]  # convolution, its bias, norm weight and bias, linear, bias
    assert [decays[id(p)] for p in network.parameters()] == expected


def test_position_embeddings_are_not_decayed():
    config = BackboneConfig("vit_tiny_patch16_224", pretrained=False, extra_kwargs={"img_size": 32})
    network = ImageClassifier(config, 2).network
    optimizer = create_optimizer(network, "adamw", 1e-2, 0.5)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays[id(network.backbone.pos_embed)] == 0
    assert decays[id(network.backbone.blocks[0].attn.qkv.weight)] == 0.5


def rates(network: nn.Module, **arguments: float) -> dict[str, float]:
    optimizer = create_optimizer(network, "sgd", 1.0, 0, network.backbone, **arguments)
    by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in network.named_parameters()}


def test_the_backbone_learns_at_its_share():
    network = ImageClassifier(BackboneConfig("resnet18", pretrained=False), 2).network
    found = rates(network, backbone_lr_scale=0.1)
    assert found["head.weight"] == 1.0
    assert {v for k, v in found.items() if k.startswith("backbone.")} == {0.1}


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("kind", [ImageClassifier, ObjectDetector])
def test_layer_decay_slows_the_layers_far_from_the_head(name, kind):
    if kind is ImageClassifier:
        network = kind(BackboneConfig(name, pretrained=False), 2).network
    else:
        config = FeatureBackboneConfig(name, pretrained=False)
        network = kind(config, 2, fpn_channels=16, head_num_convs=1).network
    found = rates(network, layer_decay=0.5)
    backbone = {k: v for k, v in found.items() if k.startswith("backbone.")}
    assert {v for k, v in found.items() if k not in backbone} == {1.0}
    values = list(backbone.values())
    assert min(values) < max(values) <= 0.5
    assert values[0] == min(values)  # the stem is slowest
    assert len(set(values)) >= 4
    assert all(v == 0.5 ** round(-torch.log2(torch.tensor(v)).item()) for v in values)
