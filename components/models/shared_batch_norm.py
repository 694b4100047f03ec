"""Batch norms whose statistics are those of a whole step, over all processes.

torch's `SyncBatchNorm` needs a GPU, and torch's conversion to it drops the activation of timm's
`BatchNormAct2d`. Here a layer stays the object it is, under another class: names, weights, hooks
and the optimizer's view of it do not change.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch.plugins import LayerSync
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from components.models.processes import num_processes


class _Shared(_BatchNorm):
    """A batch norm over the images of all processes, however many each has."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, ...]; in evaluation as torch's own."""
        if not self.training or num_processes() == 1:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.float()
        sums = values.sum(dims)
        count = sums.new_tensor([values.numel() / values.shape[1]])
        total = _sum_over_processes(torch.cat([sums, count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centered = values - mean.view(shape)
        # Of the centred values: a difference of large numbers would lose the digits that matter.
        variance = _sum_over_processes(centered.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        output = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class SharedBatchNorm1d(_Shared, nn.BatchNorm1d):
    """`nn.BatchNorm1d`, shared."""


class SharedBatchNorm2d(_Shared, nn.BatchNorm2d):
    """`nn.BatchNorm2d`, shared."""


class SharedBatchNorm3d(_Shared, nn.BatchNorm3d):
    """`nn.BatchNorm3d`, shared."""


class SharedBatchNormAct2d(SharedBatchNorm2d):
    """timm's `BatchNormAct2d`, shared."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, then activate."""
        return self.act(self.drop(super().forward(input)))


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    nn.BatchNorm3d: SharedBatchNorm3d,
    BatchNormAct2d: SharedBatchNormAct2d,
}
_OWN = {shared: own for own, shared in _SHARED.items()}


class SharedBatchNorms(LayerSync):
    """For Lightning's `Trainer(plugins=...)`: batch norms are shared while a model is trained."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Share all batch norms of torch's and timm's classes; those of others stay."""
        return _with_classes(model, _SHARED)

    def revert(self, model: nn.Module) -> nn.Module:
        """Make them what they were."""
        return _with_classes(model, _OWN)


def _with_classes(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for layer in model.modules():
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
    return model


class _Sum(torch.autograd.Function):
    """A sum over processes whose gradient is one too: each one's loss depends on all the values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values = gradients[0].contiguous().clone()
        dist.all_reduce(values)
        return values


def _sum_over_processes(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))
