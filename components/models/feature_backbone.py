"""`FeatureBackbone`: a timm feature extractor whose maps are where a detector thinks they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers.halo_attn import HaloAttn
from timm.layers.non_local_attn import BilinearAttnTransform
from torch import Tensor, nn

from components.errors import ModelError
from components.models.feature_pyramid import LevelFromMap
from components.models.memory_layout import has_grouped_convolutions, laid_out

# Images are padded to a multiple of this, as torchvision's detectors do; it is the coarsest stride.
_SIZE_DIVISOR = 32


def size_divisor(body: nn.Module) -> int:
    """What the sides of images have to be multiples of, so that no feature map is cut short."""
    # These attend within blocks of cells, and want whole blocks, in maps of up to stride 32.
    blocks = [
        module.block_size
        for module in body.modules()
        if isinstance(module, BilinearAttnTransform | HaloAttn)
    ]
    return _SIZE_DIVISOR * max(blocks, default=1)


class FeatureBackbone(nn.Module):
    """A timm feature extractor that gives NCHW maps of known strides for images of any size.

    The cell (i, j) of a map of stride s stands for the pixels around ((j + 0.5) s, (i + 0.5) s).

    Args:
        body: timm's model; images to a list of maps.
        sources: for each map to give, the position among the body's.
        levels: for each map to give, what makes it.
        channels_last: whether the body gives NHWC maps.
        name: timm's, for messages.
        built_for: height and width of the images, if the body takes no others.

    Attributes:
        channels: of each map.
        strides: input pixels per cell of each map.
    """

    def __init__(
        self,
        body: nn.Module,
        sources: Sequence[int],
        levels: Sequence[LevelFromMap],
        channels_last: bool,
        name: str,
        built_for: tuple[int, int] | None,
    ):
        super().__init__()
        self.body = body
        self.sources = tuple(sources)
        self.levels = nn.ModuleList(levels)
        self.channels = [level.channels for level in levels]
        self.strides = [level.stride for level in levels]
        self.channels_last = channels_last
        self.name = name
        self.built_for = built_for
        self.size_divisor = size_divisor(body)
        self.grouped = has_grouped_convolutions(body)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to maps [B, channels, ceil(H / stride), ceil(W / stride)].

        Raises:
            ModelError: the body was built for images of another size.
        """
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if self.built_for is None:
            divisor = max(self.size_divisor, *self.strides)
            images = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        elif (height, width) != self.built_for:
            raise ModelError(
                f"{self.name} was built for images of {_size(self.built_for)} pixels, not "
                f"{_size((height, width))}: it takes one size only; give its config "
                f"extra_kwargs=image_size_arguments({self.name!r}, ({height}, {width}))"
            )
        maps = self.body(laid_out(images, self.grouped))
        if self.channels_last:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        padded = int(images.shape[-2]), int(images.shape[-1])
        given = []
        for source, level, stride in zip(self.sources, self.levels, self.strides, strict=True):
            cells = math.ceil(height / stride), math.ceil(width / stride)
            given.append(_fit(level(maps[source], padded), cells))
        return given


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"  # noqa: RUF001 - as sizes are written


def _fit(features: Tensor, wanted: tuple[int, int]) -> Tensor:
    """Cut off the cells of padding; make good those that unpadded convolutions lost."""
    height, width = int(features.shape[-2]), int(features.shape[-1])
    features = features[..., : wanted[0], : wanted[1]]
    lacking = max(wanted[0] - height, 0), max(wanted[1] - width, 0)
    if any(lacking):
        # An unpadded convolution loses as much on one side as on the other.
        top, left = lacking[0] // 2, lacking[1] // 2
        features = F.pad(features, (left, lacking[1] - left, top, lacking[0] - top))
    return features
