"""Bringing images of any size to the model's own, inside the ONNX graph.

Outside the graph `components.data.geometry` does it; here the same rule is an operator, which in
PyTorch calls that code and in ONNX is Resize (antialiased, on uint8), and Pad or Slice. Sizes are
computed in float64 on both sides, so that they round alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxscript
import torch
from torch import Tensor, nn

from components.data.geometry import FILL, to_input
from components.models.saved_model import InferenceModel, ModelDescription


@torch.library.custom_op("timmflow::to_input", mutates_args=())
def to_model_size(
    images: Tensor, height: int, width: int, resize: str, crop_fraction: float
) -> tuple[Tensor, Tensor]:
    """Images as the model takes them, and the way back.

    Args:
        images: uint8 RGB [B, H, W, 3].
        height, width: of the model's input.
        resize, crop_fraction: see `components.data.geometry`.

    Returns:
        uint8 [B, height, width, 3]; and float32 [2, 4]: what an xyxy box of the model's input is
        multiplied by to be one of the image (letterbox only), and the image's (W, H, W, H).
    """
    size = (height, width)
    fitted = [to_input(image.numpy(), size, resize, crop_fraction) for image in images]  # type: ignore[arg-type]
    scale_y, scale_x = fitted[0][1]
    own_height, own_width = images.shape[1:3]
    way_back = [[1 / scale_x, 1 / scale_y] * 2, [own_width, own_height] * 2]
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in fitted]))
    return pixels, torch.tensor(way_back, dtype=torch.float32)


@to_model_size.register_fake
def _(
    images: Tensor, height: int, width: int, resize: str, crop_fraction: float
) -> tuple[Tensor, Tensor]:
    pixels = images.new_empty((images.shape[0], height, width, 3))
    return pixels, images.new_empty((2, 4), dtype=torch.float32)


def onnx_to_model_size(
    images: Any, height: int, width: int, resize: str, crop_fraction: float
) -> Any:
    """`timmflow::to_input` in ONNX, traced by the exporter."""
    op: Any = onnxscript.opset18  # its annotations know ONNX's types, not traced values
    double, int64, float32 = 11, 7, 1
    target = op.Constant(value_ints=[height, width])
    size = op.Shape(images, start=1, end=3)
    size_double = op.Cast(size, to=double)
    ratios = op.Div(op.Cast(target, to=double), size_double)
    if resize == "letterbox":
        scale = op.ReduceMin(ratios, keepdims=1)
    else:
        fraction = op.Cast(op.Constant(value_string=repr(crop_fraction)), to=double)
        scale = op.Div(op.ReduceMax(ratios, keepdims=1), fraction)
    scaled = op.Cast(op.Round(op.Mul(size_double, scale)), to=int64)
    if resize == "letterbox":
        scaled = op.Min(target, op.Max(op.Constant(value_ints=[1]), scaled))
    else:
        scaled = op.Max(target, scaled)
    planes = op.Transpose(images, perm=[0, 3, 1, 2])
    shape = op.Concat(op.Shape(planes, start=0, end=2), scaled, axis=0)
    resized = op.Resize(planes, None, None, shape, mode="linear", antialias=1, exclude_outside=1)
    if resize == "letterbox":
        pads = op.Concat(op.Constant(value_ints=[0] * 6), op.Sub(target, scaled), axis=0)
        grey = op.Cast(op.Constant(value_int=FILL), to=2)
        fitted = op.Pad(resized, pads, grey)
    else:
        start = op.Div(op.Sub(scaled, target), op.Constant(value_ints=[2]))
        fitted = op.Slice(resized, start, op.Add(start, target), op.Constant(value_ints=[2, 3]))
    # (height, width) to (x, y, x, y)
    sides = op.Constant(value_ints=[1, 0, 1, 0])
    factors = op.Div(size_double, op.Cast(scaled, to=double))
    way_back = op.Concat(
        op.Unsqueeze(op.Gather(factors, sides), op.Constant(value_ints=[0])),
        op.Unsqueeze(op.Gather(size_double, sides), op.Constant(value_ints=[0])),
        axis=0,
    )
    return op.Transpose(fitted, perm=[0, 2, 3, 1]), op.Cast(way_back, to=float32)


class AnySizeModel(nn.Module):
    """A model that takes images as they are: the resize rule is its first step.

    Takes uint8 RGB [B, H, W, 3] of any one size; gives what `InferenceModel` gives, with boxes in
    pixels of these images.
    """

    def __init__(self, model: InferenceModel, description: ModelDescription):
        super().__init__()
        self.model = model
        self._rule = (*description.image_size, description.resize, description.crop_fraction)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predictions; see the class."""
        pixels, way_back = to_model_size(images, *self._rule)
        outputs = self.model(pixels)
        if len(outputs) == 1:
            return outputs
        boxes, scores, labels = outputs
        return torch.minimum(boxes * way_back[0], way_back[1]), scores, labels
