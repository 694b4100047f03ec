"""Parameters that no output depends on: they never get a gradient, and DDP stops at them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call


def unused_parameters(module: nn.Module, image_size: tuple[int, int]) -> list[str]:
    """Names of the parameters that the module's outputs do not depend on.

    Found by one pass on the meta device, which computes shapes and no numbers.

    Args:
        module: images [B, 3, H, W] to a tensor or a list of tensors.
        image_size: that it takes.

    Raises:
        NotImplementedError, RuntimeError: it does something that has no meaning without numbers.
    """
    parameters = {
        name: torch.empty_like(value, device="meta").requires_grad_()
        for name, value in module.named_parameters()
    }
    buffers = {
        name: torch.empty_like(value, device="meta") for name, value in module.named_buffers()
    }
    training = module.training
    module.eval()  # stochastic depth would hide whole blocks
    try:
        images = torch.empty(2, 3, *image_size, device="meta")
        with torch.enable_grad():
            outputs = functional_call(module, {**parameters, **buffers}, (images,))
            total = torch.stack([output.float().sum() for output in _tensors(outputs)]).sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    finally:
        module.train(training)
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def _tensors(outputs: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def turn_into_buffers(module: nn.Module, names: Iterable[str]) -> None:
    """Keep tensors in the state dict under their names, but out of every optimizer's sight."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        value = getattr(owner, leaf).detach()
        delattr(owner, leaf)
        owner.register_buffer(leaf, value)
