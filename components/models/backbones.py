"""timm models as backbones: headless for classification, multi-scale for detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import timm
import torch
from timm.models import FeatureInfo
from torch import nn

from components.errors import ModelError
from components.models.backbone_configs import BackboneConfig, FeatureBackboneConfig
from components.models.feature_backbone import FeatureBackbone
from components.models.feature_pyramid import (
    PYRAMID_CHANNELS,
    Level,
    LevelFromMap,
    plan_levels,
)
from components.models.timm_builder import (
    BUILD_ERRORS,
    build,
    image_size_arguments,
    own_image_size,
    require_known,
)
from components.models.unused_parameters import turn_into_buffers, unused_parameters

__all__ = [
    "BackboneConfig",
    "FeatureBackbone",
    "FeatureBackboneConfig",
    "count_parameters",
    "create_backbone",
    "create_feature_backbone",
    "get_feature_channels",
    "get_feature_info",
    "get_feature_strides",
    "image_size_arguments",
    "list_backbones",
    "normalization",
]

# Modules of timm with models that have parameters which their outputs do not depend on. All of
# timm's were searched by benchmarks/backbone_families.py; searching takes a second or two a model.
_FAMILIES_WITH_UNUSED = {"crossvit", "efficientvim", "hrnet", "pit"}


def list_backbones(pattern: str = "", pretrained_only: bool = False) -> list[str]:
    """Names of timm models.

    Args:
        pattern: a glob, such as `"*convnext*"`; empty for all.
        pretrained_only: only those with published weights.
    """
    return timm.list_models(pattern, pretrained=pretrained_only)


def create_backbone(
    cfg: BackboneConfig | Mapping[str, Any] | str, image_size: tuple[int, int] | None = None
) -> nn.Module:
    """A headless timm model: [B, 3, H, W] to features [B, num_features].

    Args:
        cfg: a config, its `to_dict()`, or timm's name.
        image_size: height and width it is to be built for, pixels; None for what the config says.

    Raises:
        ValueError: timm knows no such model (names the nearest it knows), or its family does not
            take an argument.
        ModelError: its weights cannot be had, or it cannot be built for that size.
    """
    config = _config(BackboneConfig, cfg)
    arguments = _sized(config, image_size)
    model, _ = build(
        config.model_name,
        config.pretrained,
        {"num_classes": config.num_classes, **arguments},
        None,
        config.drop_rate,
        config.drop_path_rate,
    )
    # With a head of its own the model is the user's as timm made it.
    if config.num_classes == 0:
        _freeze_unused(model, config.model_name, own_image_size(config.model_name, arguments))
    if config.grad_checkpointing:
        _checkpoint_gradients(model, config.model_name)
    return model


def create_feature_backbone(
    cfg: FeatureBackboneConfig | Mapping[str, Any] | str,
    image_size: tuple[int, int] | None = None,
) -> FeatureBackbone:
    """A multi-scale timm model: [B, 3, H, W] to a list of maps.

    Args:
        cfg: a config, its `to_dict()`, or timm's name.
        image_size: height and width it is to be built for, pixels; None for what the config says.

    Raises:
        ValueError: timm knows no such model (names the nearest it knows), or its family does not
            take an argument or an out index.
        ModelError: its weights cannot be had, it has no feature maps that a detector could use, or
            it cannot be built for that size.
    """
    config = _config(FeatureBackboneConfig, cfg)
    arguments = _sized(config, image_size)
    offered = _offered_features(config, arguments)
    levels = _wanted_levels(config, offered)
    indices = sorted({level.source for level in levels})
    body, any_size = build(
        config.model_name,
        config.pretrained,
        arguments,
        {"features_only": True, "out_indices": tuple(indices)},
        config.drop_rate,
        config.drop_path_rate,
    )
    facts = cast(FeatureInfo, body.feature_info)
    # A plain ViT: one map makes all levels, so each gets convolutions of its own.
    single = config.out_indices is None and len({level.source for level in levels}) == 1
    backbone = FeatureBackbone(
        body,
        [indices.index(level.source) for level in levels],
        [
            LevelFromMap(
                facts.channels()[indices.index(level.source)],
                level.stride,
                level.target,
                PYRAMID_CHANNELS if single else None,
            )
            for level in levels
        ],
        # timm says it of the extractors that pass maps on; the others give NCHW whatever is inside.
        str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC"),
        config.model_name,
        None if any_size else own_image_size(config.model_name, arguments),
    )
    _freeze_unused(backbone, config.model_name, own_image_size(config.model_name, arguments))
    if config.grad_checkpointing:
        _checkpoint_gradients(body, config.model_name)
    return backbone


def _config(kind: Any, given: Any) -> Any:
    if isinstance(given, str):
        return kind(given)
    return given if isinstance(given, kind) else kind.from_dict(given)


def _sized(
    config: BackboneConfig | FeatureBackboneConfig, image_size: tuple[int, int] | None
) -> dict[str, Any]:
    """The config's further arguments, with those for an image size."""
    extra = image_size_arguments(config.model_name, image_size) if image_size else {}
    return {**config.extra_kwargs, **extra}


def _offered_features(config: FeatureBackboneConfig, arguments: dict[str, Any]) -> tuple[int, ...]:
    """Strides of all features that timm offers of a model, in timm's order."""
    require_known(config.model_name)
    # The description names all features, whichever are asked for. timm's usual choice fails for a
    # ViT made shallower than three blocks; the first feature is none for TResNet.
    problem = ""
    for choice in ({}, {"out_indices": (0,)}):
        try:
            # On the meta device: no weights are wanted.
            with torch.device("meta"):
                wanted = {"features_only": True, **choice}
                probe, _ = build(config.model_name, False, arguments, wanted)
        except BUILD_ERRORS as error:
            problem = problem or str(error)
            continue
        return tuple(info["reduction"] for info in cast(FeatureInfo, probe.feature_info).info)
    raise ModelError(
        f"backbone {config.model_name!r} offers no feature maps, which a detector needs: {problem}"
    )


def _wanted_levels(config: FeatureBackboneConfig, offered: tuple[int, ...]) -> list[Level]:
    if config.out_indices is None:
        try:
            return plan_levels(list(offered))
        except ModelError as error:
            raise ModelError(f"backbone {config.model_name!r}: {error}") from None
    count = len(offered)
    outside = [index for index in config.out_indices if not -count <= index < count]
    if outside or not config.out_indices:
        raise ValueError(
            f"out_indices = {config.out_indices}: {config.model_name} has {count} features, of "
            f"strides {list(offered)}; allowed are 0 to {count - 1}, or None for strides 8, 16, 32"
        )
    indices = [index % count for index in config.out_indices]
    return [Level(index, offered[index], offered[index]) for index in indices]


def _freeze_unused(module: nn.Module, model_name: str, image_size: tuple[int, int]) -> None:
    """Put aside the parameters that no output depends on, or training on several devices stops."""
    family = timm.model_entrypoint(model_name).__module__.rpartition(".")[2]
    if family in _FAMILIES_WITH_UNUSED:
        turn_into_buffers(module, unused_parameters(module, image_size))


def _checkpoint_gradients(model: nn.Module, model_name: str) -> None:
    inner: Any = getattr(model, "model", model)  # the model inside a `FeatureGetterNet`
    if not hasattr(inner, "set_grad_checkpointing"):
        raise ValueError(f"grad_checkpointing = True: {model_name} has none; only False is allowed")
    try:
        inner.set_grad_checkpointing(True)
    except AssertionError as error:
        raise ValueError(
            f"grad_checkpointing = True: {model_name} has none; only False is allowed ({error})"
        ) from None


def normalization(model_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in [0, 1], that a timm model was pretrained with."""
    require_known(model_name)
    config = timm.get_pretrained_cfg(model_name)
    if config is None:
        return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)


def get_feature_info(backbone: FeatureBackbone) -> list[dict[str, int]]:
    """Channels and stride of each map: `[{"num_chs": 512, "reduction": 8}, …]`."""
    return [
        {"num_chs": channels, "reduction": stride}
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


def get_feature_channels(backbone: FeatureBackbone) -> list[int]:
    """Channels of each map."""
    return list(backbone.channels)


def get_feature_strides(backbone: FeatureBackbone) -> list[int]:
    """Input pixels per cell of each map."""
    return list(backbone.strides)


def count_parameters(module: nn.Module, trainable_only: bool = True) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)
