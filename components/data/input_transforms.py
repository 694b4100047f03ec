"""Steps that bring an image, and its boxes, from any size to the model's input.

All are torchvision v2 transforms: they take an image alone, or a dict of `image` (Pillow, RGB),
`boxes` (`tv_tensors.BoundingBoxes`, xyxy [G, 4]) and `labels` [G], and change what they know.
Sizes and resampling follow `components.data.geometry`, so that training, measuring and predict see
the same pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.contract.pixels import to_rgb
from components.data.geometry import Resize, fit, resized_shape, scale_image, trimmed

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MIN_BOX_SIDE = 2.0  # input pixels; what an augmentation leaves of a box must be at least this


class ToRgb(v2.Transform):
    """Anything that is one image to an upright Pillow RGB image, by the rule of `pixels`.

    Takes Pillow images of any mode, and uint8 arrays [H, W], [H, W, 1] or [H, W, 3].
    """

    _transformed_types = (Image.Image, np.ndarray)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Image.Image:
        """One image."""
        if isinstance(inpt, np.ndarray):
            if inpt.dtype != np.uint8 or inpt.ndim not in (2, 3):
                raise ValueError(
                    f"an image array of shape {inpt.shape}, type {inpt.dtype}; "
                    "allowed: uint8 [H, W], [H, W, 1] or [H, W, 3]"
                )
            inpt = Image.fromarray(inpt[..., 0] if inpt.shape[2:] == (1,) else inpt)
        return to_rgb(ImageOps.exif_transpose(inpt), "the image")


class FitInput(v2.Transform):
    """Scale an image by the project's resize rule, then pad or crop it to the input's size.

    Args:
        size: side of the square input, pixels.
        resize: `letterbox` (boxes follow) or `crop` (of images without boxes).
        crop_fraction: `crop` only, the input's share of the scaled image.
        interpolation: a key of `RESAMPLING`.
        pad: `letterbox` only; False leaves the scaled image as it is.
    """

    _transformed_types = (Image.Image, tv_tensors.BoundingBoxes)

    def __init__(
        self,
        size: int,
        resize: Resize,
        crop_fraction: float = 1.0,
        interpolation: str = "bilinear",
        pad: bool = True,
    ):
        super().__init__()
        self.size = (size, size)
        self.resize: Resize = resize
        self.crop_fraction = crop_fraction
        self.interpolation = interpolation
        self.pad = pad

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The scaled shape, and input pixels per original pixel."""
        image = next(item for item in flat_inputs if isinstance(item, Image.Image))
        pixels = trimmed(np.asarray(image), self.size, self.resize, self.crop_fraction)
        height, width = pixels.shape[:2]
        shape = resized_shape(height, width, self.size, self.resize, self.crop_fraction)
        return {"pixels": pixels, "shape": shape, "scale": (shape[0] / height, shape[1] / width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image, or its boxes."""
        shape = params["shape"]
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            scale_y, scale_x = params["scale"]
            factors = torch.tensor([scale_x, scale_y, scale_x, scale_y])
            scaled = inpt.as_subclass(Tensor) * factors
            return tv_tensors.wrap(scaled, like=inpt, canvas_size=self.size if self.pad else shape)
        if self.interpolation == "bilinear":
            pixels = scale_image(params["pixels"], shape)
        else:
            resampling = RESAMPLING[self.interpolation]
            image = Image.fromarray(params["pixels"]).resize(shape[::-1], resampling)
            pixels = np.asarray(image)
        return Image.fromarray(fit(pixels, self.size, self.resize) if self.pad else pixels)


class RandomZoom(v2.Transform):
    """Resize image and boxes by one factor, drawn evenly from a range."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The new size."""
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = self.low + (self.high - self.low) * torch.rand(()).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image, or its boxes."""
        return v2.functional.resize(inpt, size=params["size"], antialias=True)


class KeepVisible(nn.Module):
    """Clip boxes to the image, and drop those of which too little is left.

    Boxes must come unclipped (`clamping_mode=None`): what has gone can be told only then.

    Args:
        min_area: least area that is left, input pixels.
        min_visibility: least share of the box that is left.
        min_side: least width and height that are left, input pixels.
    """

    def __init__(self, min_area: float, min_visibility: float, min_side: float = MIN_BOX_SIDE):
        super().__init__()
        self.min_area, self.min_visibility = min_area, min_visibility
        self.min_side = min_side

    def forward(self, item: Any) -> Any:
        """A dict with `boxes` and `labels`; anything else goes through."""
        if not isinstance(item, dict) or "boxes" not in item:
            return item
        boxes = item["boxes"]
        height, width = boxes.canvas_size
        whole = boxes.as_subclass(Tensor)
        left = whole.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        sides = left[:, 2:] - left[:, :2]
        area, before = sides.prod(dim=1), (whole[:, 2:] - whole[:, :2]).prod(dim=1)
        keep = (sides > 0).all(dim=1) & (sides >= self.min_side).all(dim=1)
        # The slack lets a box that was not cut at all pass min_visibility = 1.
        keep &= (area >= self.min_area) & (area >= self.min_visibility * before * (1 - 1e-6))
        return {
            **item,
            "boxes": tv_tensors.wrap(left[keep], like=boxes),
            "labels": item["labels"][keep],
        }


def letterbox_scale(height: int, width: int, image_size: tuple[int, int]) -> tuple[float, float]:
    """(scale_y, scale_x): input pixels per original pixel of a letterboxed image."""
    shape = resized_shape(height, width, image_size, "letterbox", 1.0)
    return shape[0] / height, shape[1] / width


def to_original(
    boxes_xyxy: Tensor, scale: tuple[float, float], original_size: tuple[int, int]
) -> Tensor:
    """Boxes on a letterboxed input in pixels of the original image.

    Args:
        boxes_xyxy: [N, 4], input pixels.
        scale: (scale_y, scale_x) of `letterbox_scale`.
        original_size: (height, width) of the original; boxes are clipped to it.

    Returns:
        [N, 4] xyxy.
    """
    (scale_y, scale_x), (height, width) = scale, original_size
    own = boxes_xyxy / boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])
    return own.clamp(min=0).minimum(own.new_tensor([width, height, width, height]))
