"""Pictures in the training log: what the model says of images, and confusion matrices.

A logger that takes pictures (W&B's `log_image`, TensorBoard's `add_image`) is given them; for any
other, such as the CSV logger, they are files in its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from components.files import atomic_path

_CELL = 24  # pixels of a table's cell
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075")


def log_pictures(loggers: Sequence[Any], key: str, pictures: list[Tensor], step: int) -> None:
    """Hand pictures to whatever logs.

    Args:
        loggers: Lightning's.
        key: name in the log, such as `val/predictions`.
        pictures: uint8 RGB, [3, H, W].
        step: of the training.
    """
    for logger in loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(
                key=key, images=[_as_array(picture) for picture in pictures], step=step
            )
        elif hasattr(logger.experiment, "add_image"):
            for number, picture in enumerate(pictures):
                logger.experiment.add_image(f"{key}/{number}", picture, step)
        elif logger.log_dir:
            _write(Path(logger.log_dir) / key / f"step_{step:06d}", pictures)


def _as_array(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).cpu().numpy()


def _write(folder: Path, pictures: list[Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        with atomic_path(folder / f"{number}.png") as draft:
            Image.fromarray(_as_array(picture)).save(draft, format="PNG")


def unnormalized(image: Tensor) -> Tensor:
    """A normalised image as uint8 [3, H, W], stretched over its own range: for the eye only."""
    image = image.detach().float().cpu()
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8)


def with_boxes(image: Tensor, boxes_xyxy: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """An image uint8 [3, H, W] with detections drawn: a colour a class, class id and score."""
    picture = image.contiguous()
    if len(boxes_xyxy) == 0:
        return picture
    texts = [
        f"{int(label)}: {float(score):.2f}" for label, score in zip(labels, scores, strict=True)
    ]
    colors = [_COLORS[int(label) % len(_COLORS)] for label in labels]
    return draw_bounding_boxes(
        picture, boxes_xyxy.detach().cpu().float(), texts, colors=list(colors)
    )


def with_caption(image: Tensor, caption: str) -> Tensor:
    """An image uint8 [3, H, W] with a line of text below it."""
    pixels = _as_array(image)
    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (max(width, 7 * len(caption) + 8), height + 16), "white")
    canvas.paste(Image.fromarray(pixels), (0, 0))
    ImageDraw.Draw(canvas).text((4, height + 2), caption, fill="black")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def matrix_picture(matrix: Tensor) -> Tensor:
    """A table of counts as a picture uint8 [3, H, W]: rows are the truth; dark means many."""
    counts = matrix.detach().float().cpu()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-9)
    canvas = Image.new("RGB", (_CELL * len(counts) + 1, _CELL * len(counts) + 1), "white")
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(shares.tolist()):
        for column, share in enumerate(line):
            left, top = column * _CELL, row * _CELL
            shade = int(255 * (1 - share))
            draw.rectangle(
                (left, top, left + _CELL, top + _CELL), (shade, shade, 255), outline="#cccccc"
            )
            text = f"{counts[row, column]:g}"
            draw.text((left + 3, top + 6), text, fill="white" if share > 0.5 else "black")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
