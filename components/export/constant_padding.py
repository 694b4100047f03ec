"""Convolutions padded in TensorFlow's way ("SAME"), for export with a free image size.

How much such a layer pads follows from the size of what it sees. timm works that out at every call,
so an exporter with a free size carries a formula from layer to layer, and takes minutes to reason
about it: more than five for FCOS on EfficientNet-Lite0, half a minute with the constants of here.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn


def with_constant_padding(model: nn.Module, example: Tensor, step: int) -> nn.Module:
    """The model with constants for paddings that are the same at all sizes.

    Args:
        model: in evaluation mode; stays as it is.
        example: its input, images [B, H, W, 3]; H and W are multiples of `step`.
        step: pixels; all input sizes will be multiples of it.

    Returns:
        A copy, equal to the model for such sizes; without such layers the model itself. A layer
        that sees no fixed fraction of the input's size, or no multiple of its stride, stays.
    """
    if not any(isinstance(layer, Conv2dSame) for layer in model.modules()):
        return model
    model = deepcopy(model)
    seen: dict[nn.Module, set[tuple[int, int]]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        seen.setdefault(layer, set()).add((height, width))

    hooks = [
        layer.register_forward_pre_hook(note)
        for layer in model.modules()
        if isinstance(layer, Conv2dSame)
    ]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    height, width = example.shape[1:3]
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2dSame) and all(
                _divides(whole, part, layer.stride[axis], step)
                for size in seen.get(layer, {(0, 0)})  # one that was not called stays
                for axis, (whole, part) in enumerate(zip((height, width), size, strict=True))
            ):
                setattr(parent, name, _PaddedConv2d(layer, next(iter(seen[layer]))))
    return model


def _divides(whole: int, part: int, stride: int, step: int) -> bool:
    """Whether a side that is `part` of `whole` is a multiple of the stride at all multiples of
    `step`."""
    if part == 0 or whole % part:
        return False
    return step % (whole // part * stride) == 0


class _PaddedConv2d(nn.Module):
    """A layer's convolution after a padding by what it pads a picture of this size."""

    def __init__(self, layer: Conv2dSame, size: tuple[int, int]):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        totals = map(get_same_padding, size, layer.kernel_size, layer.stride, layer.dilation)
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        self.sides = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.sides)
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            0,
            self.dilation,
            self.groups,
        )
