"""Random changes of training images and their boxes, by torchvision's v2 transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.data.geometry import FILL
from components.data.settings import AugmentSettings


def detection_augment(settings: AugmentSettings, image_size: tuple[int, int]) -> v2.Transform:
    """Zoom and shift, flips, colour; the result is `image_size`, boxes clipped to what is seen."""
    steps: list[v2.Transform] = []
    if tuple(settings.scale) != (1.0, 1.0):
        # Zoom, then cut the input's window out of it wherever it falls (or pad a smaller one).
        steps.append(RandomZoom(*settings.scale))
    steps.append(RandomWindow(image_size, pad_if_needed=True, fill=FILL))
    return v2.Compose(steps + _common(settings) + _kept_boxes())


def mosaic_augment(settings: AugmentSettings) -> v2.Transform:
    """What is left to do to a mosaic, which has its zoom and shift: flips, colour."""
    return v2.Compose(_common(settings) + _kept_boxes())


def _kept_boxes() -> list[v2.Transform]:
    return [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)]


def classification_augment(settings: AugmentSettings, image_size: tuple[int, int]) -> v2.Transform:
    """A random crop of the image's area resized to `image_size`, flips, colour."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(image_size, scale=settings.scale, antialias=True)
    ]
    return v2.Compose(steps + _common(settings))


def _common(settings: AugmentSettings) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.vertical_flip:
        steps.append(v2.RandomVerticalFlip(settings.vertical_flip))
    if settings.color:
        strength = settings.color
        steps.append(ColorShift(strength, strength, strength))
    if any(settings.hsv):
        steps.append(_HsvShift(settings.hsv))
    return steps


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


class RandomWindow(v2.RandomCrop):
    """`v2.RandomCrop` that pads and cuts a uint8 image in one copy, channels last in memory."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The window of the image, or of its boxes."""
        if not isinstance(inpt, tv_tensors.Image) or not params["needs_pad"]:
            return super().transform(inpt, params)
        left, top = params["padding"][:2]
        if params["needs_crop"]:
            left, top = left - params["left"], top - params["top"]
        height, width = params["height"], params["width"]
        window = torch.full((height, width, inpt.shape[0]), FILL, dtype=inpt.dtype)
        rows = slice(max(0, top), min(height, top + inpt.shape[1]))
        columns = slice(max(0, left), min(width, left + inpt.shape[2]))
        seen = inpt.permute(1, 2, 0)[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        window[rows, columns] = seen
        return tv_tensors.Image(window.permute(2, 0, 1))


class ColorShift(v2.ColorJitter):
    """torchvision's jitter of brightness, contrast and saturation, as one change of a uint8 image.

    It draws what `v2.ColorJitter` draws. Each of its steps takes a pixel x to a x + b grey(x) + c,
    and so do all of them together: values are rounded and clipped once, at the end, and it takes a
    tenth of the time.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image, changed; boxes as they are."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        pixels = inpt.permute(1, 2, 0).contiguous().numpy()
        steps = [(_COLOR_STEPS[step], params[_COLOR_STEPS[step]]) for step in params["fn_idx"]]
        mean_grey = float(pixels.mean(axis=0).mean(axis=0) @ _GREY)
        own, grey, constant = joined_color_steps(steps, mean_grey)
        red, green, blue = (grey * _GREY).tolist()
        matrix = [own + red, green, blue, constant, red, own + green, blue, constant]
        matrix += [red, green, own + blue, constant]
        changed = np.empty_like(pixels)
        # In strips that stay in the processor's cache.
        for top in range(0, len(pixels), _STRIP):
            strip = Image.fromarray(pixels[top : top + _STRIP])
            changed[top : top + _STRIP] = strip.convert("RGB", tuple(matrix))
        return tv_tensors.Image(torch.from_numpy(changed).permute(2, 0, 1))


_COLOR_STEPS = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
_GREY = np.array([0.2989, 0.587, 0.114])  # red, green, blue in a grey, as torchvision has them
_STRIP = 64  # rows


def joined_color_steps(
    steps: list[tuple[str, float | None]], mean_grey: float
) -> tuple[float, float, float]:
    """(a, b, c) of the change a x + b grey(x) + c that changes of colour make together.

    Args:
        steps: `brightness_factor`, `contrast_factor` or `saturation_factor` and its value, in the
            order they are made; None leaves a step out.
        mean_grey: of the image, on the scale of its pixels.
    """
    own, grey, constant = 1.0, 0.0, 0.0
    for name, factor in steps:
        if factor is None:
            continue
        if name == "saturation_factor":  # towards each pixel's grey
            grey = factor * grey + (1 - factor) * (own + grey)
        else:
            level = (own + grey) * mean_grey + constant  # the grey that contrast goes towards
            grey *= factor
            constant *= factor
            constant += (1 - factor) * level if name == "contrast_factor" else 0
        own *= factor
    return own, grey, constant


class _HsvShift(v2.Transform):
    """Hue, saturation and value of a uint8 image, each moved by a random amount or left, evenly.

    As in YOLOX, where the amounts are up to 5 of 180, 30 of 255 and 30 of 255. Through a table of
    17 levels a channel that Pillow interpolates: a fifth of the time of `v2.ColorJitter`'s hue.

    Args:
        shares: largest shift of each, a share of its whole range.
    """

    def __init__(self, shares: tuple[float, float, float]):
        super().__init__()
        self.shares = torch.tensor(shares)

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        shifts = self.shares * (2 * torch.rand(3) - 1) * torch.randint(0, 2, (3,))
        return {"shifts": tuple(shifts.tolist())}

    def transform(self, inpt: object, params: dict[str, Any]) -> object:
        if not isinstance(inpt, tv_tensors.Image) or not any(params["shifts"]):
            return inpt
        # Red changes fastest, as Pillow wants it.
        blue, green, red = np.meshgrid(
            *[np.linspace(0, 1, 17, dtype=np.float32)] * 3, indexing="ij"
        )
        colours = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
        table = ImageFilter.Color3DLUT(17, shift_hsv(colours, params["shifts"]).ravel())
        image = Image.fromarray(inpt.permute(1, 2, 0).contiguous().numpy())
        # A copy: Pillow's pixels are read-only, and torch would warn of that.
        shifted = torch.from_numpy(np.array(image.filter(table)))
        return tv_tensors.Image(shifted.permute(2, 0, 1))


def shift_hsv(colours: np.ndarray, shifts: tuple[float, float, float]) -> np.ndarray:
    """RGB colours [N, 3] in [0, 1] with hue, saturation and value moved; a hue of 1 is a full turn.

    A grey has the hue 0, red, as with OpenCV and Pillow.
    """
    red, green, blue = colours.T
    value = colours.max(axis=1)
    chroma = value - colours.min(axis=1)
    divisor = np.where(chroma > 0, chroma, 1)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / divisor, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    hue = hue + 6 * shifts[0]
    saturation = (chroma / np.where(value > 0, value, 1) + shifts[1]).clip(0, 1)
    value = (value + shifts[2]).clip(0, 1)
    channels = []
    for sector in (5, 3, 1):  # red, green, blue: how far the hue is from theirs
        k = np.mod(hue + sector, 6)
        channels.append(value - value * saturation * np.minimum(k, 4 - k).clip(0, 1))
    return np.stack(channels, axis=1)


def as_tensors(
    pixels: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """An image [3, H, W] with boxes xyxy [G, 4] and labels [G], as torchvision v2 reads them."""
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    return {
        "image": tv_tensors.Image(pixels),
        "boxes": tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=size),
        "labels": labels,
    }
