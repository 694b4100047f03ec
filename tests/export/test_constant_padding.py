"""Constants instead of TensorFlow's padding give the same numbers at every size that is allowed."""

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from components.export.constant_padding import with_constant_padding


class Channels(nn.Module):
    """Takes images as files do, [B, H, W, 3]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.network(images.permute(0, 3, 1, 2))


def same(model: nn.Module) -> list[Conv2dSame]:
    return [layer for layer in model.modules() if isinstance(layer, Conv2dSame)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True)
    return Channels(network).eval()


@pytest.mark.parametrize("size", [(64, 64), (64, 160), (128, 96), (224, 256)])
def test_equal_at_all_multiples_of_the_step(model, size):
    constant = with_constant_padding(model, torch.zeros(1, 96, 128, 3), 32)
    images = torch.rand(2, *size, 3)
    with torch.inference_mode():
        for ours, theirs in zip(constant(images), model(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_none_is_left_and_the_model_keeps_its_own(model):
    before = len(same(model))
    assert before
    assert not same(with_constant_padding(model, torch.zeros(1, 64, 64, 3), 32))
    assert len(same(model)) == before


def test_no_random_number_is_drawn(model):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    with_constant_padding(model, torch.zeros(1, 64, 64, 3), 32)
    assert torch.rand(1) == wanted


def test_a_layer_whose_padding_depends_on_the_size_stays():
    # 6 strides of two: the last sees 1, 2, 3 … of 32, 64, 96 …, which an odd number cannot halve.
    network = nn.Sequential(*(Conv2dSame(3, 3, 3, stride=2) for _ in range(6)))
    model = Channels(network).eval()
    constant = with_constant_padding(model, torch.zeros(1, 128, 128, 3), 32)
    assert len(same(constant)) == 1
    for side in (32, 64, 96, 160):
        images = torch.rand(1, side, side, 3)
        with torch.inference_mode():
            torch.testing.assert_close(constant(images), model(images))


def test_a_model_without_such_layers_is_not_copied():
    model = Channels(nn.Conv2d(3, 4, 3))
    assert with_constant_padding(model, torch.zeros(1, 64, 64, 3), 32) is model
