"""Optimizers by name, all from timm or torch; groups that learn at rates of their own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any, cast

import torch
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2
from timm.optim import list_optimizers as timm_optimizers
from torch import nn
from torch.optim import Optimizer

_TORCH = ("adagrad", "adam", "adamw", "rmsprop", "sgd")
# All parameters in one kernel: on a CPU a step of AdamW takes a fifth of the time.
FUSED = ("adagrad", "adam", "adamw", "sgd")
# They need packages that are not installed, or second derivatives of the loss.
_ELSEWHERE = ("bnb", "fused", "kron", "adahessian")


def list_optimizers(include_timm: bool = True) -> dict[str, list[str]]:
    """Names that `optimizer` takes: `{"torch": […], "timm": […]}`. Every one of them works."""
    names = {"torch": list(_TORCH)}
    if include_timm:
        names["timm"] = [
            name
            for name in cast(list[str], timm_optimizers())
            if name not in _TORCH and not name.startswith(_ELSEWHERE)
        ]
    return names


def import_class(dotted: str, base: type) -> type:
    """The class a dotted path such as `torch.optim.AdamW` names.

    Raises:
        ValueError: there is no such class, or it is not a `base`.
    """
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no class {dotted!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{dotted!r} is not a {base.__module__}.{base.__name__}")
    return found


def create_optimizer(
    network: nn.Module,
    optimizer: str | dict[str, Any],
    lr: float,
    weight_decay: float,
    backbone: nn.Module | None = None,
    backbone_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
    **kwargs: Any,
) -> Optimizer:
    """An optimizer over a network's trainable parameters; norms and biases are not decayed.

    Args:
        network: whose parameters are optimised.
        optimizer: a name of `list_optimizers()`, or
            `{"class": "torch.optim.AdamW", "params": {…}}`.
        lr: learning rate of everything but `backbone`.
        weight_decay: of parameters with two or more dimensions that their model does not exempt.
        backbone: the part of `network` that learns at `lr * backbone_lr_scale`.
        backbone_lr_scale: see `backbone`.
        layer_decay: factor of the rate for each layer of the backbone further from the head
            (BEiT, Bao et al. 2021, arXiv:2106.08254); 1 for the same everywhere.
        kwargs: passed on to the optimizer. One of torch's that can is fused, on a CPU and on CUDA,
            unless it is told otherwise here.

    Raises:
        ValueError: no such optimizer, or it does not take `kwargs`.
    """
    given: dict[str, Any] = {}
    if isinstance(optimizer, dict):
        if "class" not in optimizer:
            raise ValueError(f"optimizer = {optimizer}: needs a key 'class', a dotted path")
        given = {**kwargs, **optimizer.get("params", {})}
        # What is given with the class goes first; each group takes its share of it.
        lr, weight_decay = given.pop("lr", lr), given.pop("weight_decay", weight_decay)
    for name in ("lr", "weight_decay"):
        if name in kwargs and not isinstance(optimizer, dict):
            raise ValueError(f"optimizer_kwargs has {name!r}, which is an argument of the module")
    scales = _backbone_scales(backbone, backbone_lr_scale, layer_decay)
    exempt = _undecayed(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            rate = lr * scales.get(id(parameter), 1.0)
            decay = weight_decay if parameter.ndim >= 2 and id(parameter) not in exempt else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    parameters = [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    if isinstance(optimizer, dict):
        kind = import_class(optimizer["class"], Optimizer)
        return kind(parameters, lr=lr, **given)
    known = list_optimizers()
    if optimizer not in known["torch"] + known["timm"]:
        near = difflib.get_close_matches(optimizer, known["torch"] + known["timm"], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "list_optimizers() gives all"
        raise ValueError(f"unknown optimizer {optimizer!r}; {hint}")
    if optimizer in FUSED and not {"foreach", "capturable", "differentiable"} & set(kwargs):
        kwargs.setdefault("fused", _can_be_fused(groups))
    try:
        return create_optimizer_v2(
            parameters, opt=optimizer, lr=lr, weight_decay=weight_decay, **kwargs
        )
    except TypeError as error:
        raise ValueError(f"optimizer_kwargs of {optimizer!r}: {error}") from None


def _can_be_fused(groups: dict[Any, list[nn.Parameter]]) -> bool | None:
    """True where there are kernels for all parameters; None leaves it to torch."""
    members = [parameter for group in groups.values() for parameter in group]
    fit = all(
        parameter.device.type in ("cpu", "cuda") and torch.is_floating_point(parameter)
        for parameter in members
    )
    return True if members and fit else None


def _undecayed(network: nn.Module) -> set[int]:
    """Parameters that a timm model itself wants free of decay: position embeddings and the like."""
    found: set[int] = set()
    for module in network.modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            names = set(exempt())
            found |= {id(p) for name, p in module.named_parameters() if name in names}
    return found


def _backbone_scales(
    backbone: nn.Module | None, scale: float, layer_decay: float
) -> dict[int, float]:
    """Share of the learning rate of each of the backbone's parameters, by `id`."""
    if backbone is None:
        return {}
    if layer_decay == 1:
        return {id(parameter): scale for parameter in backbone.parameters()}
    layers = list(_layers(backbone))
    # The layer next to the head is decayed once, the stem most.
    return {
        id(parameter): scale * layer_decay ** (len(layers) - depth)
        for depth, layer in enumerate(layers)
        for parameter in layer
    }


def _layers(backbone: nn.Module) -> Iterable[list[nn.Parameter]]:
    """The backbone's parameters by layer, stem first."""
    named = dict(backbone.named_parameters())
    for prefix, module in backbone.named_modules():
        if hasattr(module, "group_matcher"):
            start = f"{prefix}." if prefix else ""
            inside = group_parameters(module, module.group_matcher(coarse=False))
            grouped = [
                [named[start + name] for name in names] for _, names in sorted(inside.items())
            ]
            seen = {id(parameter) for layer in grouped for parameter in layer}
            # What stands around the timm model (a feature pyramid) is nearest to the head.
            around = [p for p in backbone.parameters() if id(p) not in seen]
            return [*grouped, around] if around else grouped
    # A feature extractor made of the model's parts: they stand in order of depth.
    body: nn.Module = getattr(backbone, "body", backbone)
    parts = [list(part.parameters()) for part in body.children()]
    seen = {id(parameter) for part in parts for parameter in part}
    around = [p for p in backbone.parameters() if id(p) not in seen]
    return [part for part in [*parts, around] if part]
