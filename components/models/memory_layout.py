"""How a batch of images lies in memory on the CPU: whichever way its backbone is fastest with.

oneDNN runs grouped and depthwise convolutions faster with channels last, dense ones at least as
fast without: a training step of EfficientNet-Lite0 takes 1.4 times as long with the wrong one, of
ResNet-18 1.2 times (`benchmarks/memory_layout.py`). A GPU keeps what it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def has_grouped_convolutions(body: nn.Module) -> bool:
    """Whether any convolution of `body` has more than one group."""
    return any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in body.modules())


def laid_out(images: Tensor, grouped: bool) -> Tensor:
    """The same images [B, C, H, W], laid out for a body with or without grouped convolutions."""
    if images.device.type != "cpu":
        return images
    wanted = torch.channels_last if grouped else torch.contiguous_format
    return images.contiguous(memory_format=wanted)
