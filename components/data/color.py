"""Changes of colour of training images, and the normalisation that follows them.

Brightness, contrast and saturation take a pixel x to own x + grey grey(x) + shift, whatever their
order. So an image brings three numbers with it, and a whole batch is changed and normalised in one
multiplication, on the device it is trained on. Hue moves by a table, image by image.

Shapes: B images, H, W pixels.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

Channels = Literal["rgb", "bgr"]
Step = Literal["brightness", "contrast", "saturation"]

GREY = (0.2989, 0.587, 0.114)  # red, green, blue in a grey, as torchvision has them
STEPS: tuple[Step, ...] = ("brightness", "contrast", "saturation")
_ORDERS = tuple(itertools.permutations(STEPS))
_TOGETHER = 8  # pixels multiplied as one vector of 24 values: a processor's vectors stay full
_STRIP = 192 * 1024  # values at a time, so that their floats stay in the processor's cache
_ROW_STEP = 8  # every eighth row tells an image's mean


def draw_color(strength: float, rng: np.random.Generator) -> np.ndarray:
    """What `torchvision.transforms.v2.ColorJitter` draws, as one change; see `joined_steps`.

    Args:
        strength: each factor lies within it of 1.
        rng: the choices come from it.
    """
    low, high = max(0.0, 1 - strength), 1 + strength
    drawn = rng.random(len(STEPS) + 1).tolist()
    factors = {name: low + (high - low) * share for name, share in zip(STEPS, drawn, strict=False)}
    order = _ORDERS[int(drawn[-1] * len(_ORDERS))]
    return joined_steps([(name, factors[name]) for name in order])


def joined_steps(steps: list[tuple[Step, float]]) -> np.ndarray:
    """(own, grey, level), float32 [3], of the change that changes of colour make together.

    A pixel x becomes own x + grey grey(x) + level m, with m the image's mean grey.

    Args:
        steps: and their factors, in the order they are made.
    """
    own, grey, level = 1.0, 0.0, 0.0
    for name, factor in steps:
        if name == "saturation":  # towards each pixel's grey
            grey = factor * grey + (1 - factor) * (own + grey)
        elif name == "contrast":
            # Towards the image's mean grey, which is by now own + grey + level.
            level = factor * level + (1 - factor) * (own + grey + level)
            grey *= factor
        else:
            grey *= factor
            level *= factor
        own *= factor
    return np.array([own, grey, level], dtype=np.float32)


def change_for(pixels: Tensor, change: np.ndarray) -> Tensor:
    """(own, grey, shift), float32 [3], of a change of this image.

    Args:
        pixels: uint8 RGB [H, W, 3].
        change: see `joined_steps`.
    """
    own, grey, level = change.tolist()
    # Along the rows first, which lie in memory as they are added.
    means = pixels[::_ROW_STEP].flatten(1).float().mean(0).view(-1, 3).mean(0).tolist()
    mean_grey = sum(share * value for share, value in zip(GREY, means, strict=True))
    return torch.tensor([own, grey, level * mean_grey])


def normalize(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: Channels = "rgb",
) -> Tensor:
    """RGB uint8 [B, 3, H, W] to float, as a network wants it.

    Args:
        images: RGB, 0 to 255.
        mean, std: in [0, 1]; values are divided by 255, minus the mean, by the standard deviation.
        channels: order in which the network takes the colours.

    Returns:
        float [B, 3, H, W], channels last in memory.
    """
    if channels == "bgr":
        images = images.flip(1)
    device, (_, _, height, width) = images.device, images.shape
    center = torch.tensor(mean, device=device).mul(255).repeat(width)
    spread = torch.tensor(std, device=device).mul(255).repeat(width)
    rows = images.permute(0, 2, 3, 1).reshape(-1, 3 * width)
    result = torch.empty(rows.shape, device=device)
    # On a CPU as many rows at a time as stay in its cache.
    count = max(1, _STRIP // (3 * width)) if device.type == "cpu" else len(rows)
    for part, target in zip(rows.split(count), result.split(count), strict=True):
        torch.div(part.float().sub_(center), spread, out=target)
    return result.view(-1, height, width, 3).permute(0, 3, 1, 2)


def recolor(
    images: Tensor,
    changes: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: Channels = "rgb",
    seen: Tensor | None = None,
) -> Tensor:
    """Change the colours of images, cut them to 0 to 255, and normalise; as one multiplication.

    Args:
        images: RGB uint8 [B, 3, H, W], channels last in memory.
        changes: [B, 3], (own, grey, shift) of each image; see `change_for`.
        mean, std, channels: see `normalize`.
        seen: [B, 4], (top, left, bottom, right) outside of which each image has but one colour;
            None where nothing is known. It saves time on a CPU.

    Returns:
        float [B, 3, H, W], channels last in memory.
    """
    device, (_, _, height, width) = images.device, images.shape
    greys = torch.tensor(GREY, device=device)
    order = [2, 1, 0] if channels == "bgr" else [0, 1, 2]
    center = torch.tensor(mean, device=device).mul(255)
    spread = torch.tensor(std, device=device).mul(255)

    own, grey, shift = changes.to(device)[:, :, None, None].unbind(1)
    matrices = own * torch.eye(3, device=device)[:, order] + grey * greys[:, None]  # [B, in, out]
    shifts = (shift[:, 0] - center) / spread  # [B, 3]
    limits = -center / spread, (255 - center) / spread

    # So many pixels of a row side by side are one vector, each times its own block of the matrix.
    count = math.gcd(width, _TOGETHER)
    blocks = torch.einsum("pq,bio->bpiqo", torch.eye(count, device=device), matrices / spread)
    blocks, shifts = blocks.reshape(-1, 3 * count, 3 * count), shifts.repeat(1, count)

    rows = images.permute(0, 2, 3, 1).flatten(2)  # [B, H, 3 W]
    if device.type == "cpu":
        changed = torch.empty(rows.shape)
        limits = limits[0].repeat(width), limits[1].repeat(width)
        whole = [[0, 0, height, width]] * len(images)
        places = whole if seen is None else seen.tolist()
        for row, place, block, shift, target in zip(
            rows, places, blocks, shifts, changed, strict=True
        ):
            _recolor_one(row, place, block, shift, limits, target)
    else:
        values = rows.float().reshape(len(images), -1, 3 * count)
        low, high = (limit.repeat(count) for limit in limits)
        changed = torch.baddbmm(shifts[:, None], values, blocks).clamp_(low, high)
    return changed.view(-1, height, width, 3).permute(0, 3, 1, 2)


def _recolor_one(
    image: Tensor,
    place: list[int],
    block: Tensor,
    shift: Tensor,
    limits: tuple[Tensor, Tensor],
    target: Tensor,
) -> None:
    """Fill `target` [H, 3 W] from the uint8 `image`; `block` [K, K] takes K values of a row.

    `limits` are of a whole row.
    """
    size = len(block)
    top, left, bottom, right = place
    # Where the place reaches the last corner, what lies outside of it begins in the first.
    outside = image[0, :3] if top or left else image[-1, -3:]
    # Whole vectors; what is then changed beyond the place is of one colour, and becomes so.
    left, right = 3 * left // size * size, -(-3 * right // size) * size
    width = right - left
    low, high = (limit[:width] for limit in limits)
    height = max(1, _STRIP // width) if width else 1
    for start in range(top, bottom, height):
        part = (slice(start, min(bottom, start + height)), slice(left, right))
        values = torch.addmm(shift, image[part].float().view(-1, size), block)
        torch.clamp(values.view(-1, width), low, high, out=target[part])
    rest = (target[:top], target[bottom:], target[top:bottom, :left], target[top:bottom, right:])
    if any(area.numel() for area in rest):
        colour = torch.addmm(shift, outside.float().repeat(size // 3)[None], block)[0]
        colour = colour.clamp(limits[0][:size], limits[1][:size]).repeat(image.shape[1] // size)
        for area in rest:
            area.copy_(colour[: area.shape[1]])


def draw_hsv(shares: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, ...]:
    """Shifts of hue, saturation and value: each a random amount or none, evenly.

    As in YOLOX, where the amounts are up to 5 of 180, 30 of 255 and 30 of 255.

    Args:
        shares: largest shift of each, a share of its whole range.
        rng: the choices come from it.
    """
    return tuple((np.array(shares) * rng.uniform(-1, 1, 3) * rng.integers(0, 2, 3)).tolist())


def hsv_shifted(pixels: np.ndarray, shifts: tuple[float, ...]) -> np.ndarray:
    """uint8 RGB [H, W, 3] with hue, saturation and value moved.

    Through a table of 17 levels a channel that Pillow interpolates: a fifth of the time of
    torchvision's hue.

    Args:
        pixels: of the image; they stay as they are.
        shifts: see `shift_hsv`.
    """
    if not any(shifts):
        return pixels
    # Red changes fastest, as Pillow wants it.
    blue, green, red = np.meshgrid(*[np.linspace(0, 1, 17, dtype=np.float32)] * 3, indexing="ij")
    colours = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    table = ImageFilter.Color3DLUT(17, shift_hsv(colours, shifts).ravel())
    return np.array(Image.fromarray(pixels).filter(table))


def shift_hsv(colours: np.ndarray, shifts: tuple[float, ...]) -> np.ndarray:
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
