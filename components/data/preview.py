"""A picture of training images as the network will get them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from components.data.loaders import Batch, PreparedDataModule, PreparedDataset, collate
from components.data.mixup import mix_batch

GAP = 4  # pixels between images
_COLOURS = ("#ff4040", "#40c0ff", "#60e060", "#ffc020", "#e060ff", "#20e0c0")


def preview_picture(
    data: PreparedDataModule,
    rows: list[int],
    num_epochs: int,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> np.ndarray:
    """A grid: a row an image, first as it stands, then as it is in each of the first epochs.

    The images go through everything that a training's batches go through; those that are mixed
    with each other, and input sizes that change, are drawn anew here.

    Args:
        data: with mean 0 and standard deviation 1/255, so that pixels stay what they are.
        rows: of the store.
        num_epochs: changed versions of each.
        mixup_alpha, cutmix_alpha: of a classifier's training; see `mix_batch`. An image is then
            mixed with its neighbour in the picture.

    Returns:
        uint8 RGB [H, W, 3].
    """
    plain = PreparedDataset(data.store, None, data.seed)
    changed = PreparedDataset(
        data.store, data.augment, data.seed, data.store.rows("train"), data.num_epochs
    )
    columns = [data.on_after_batch_transfer(collate([plain[(0, row)] for row in rows]), 0)]
    for epoch in range(num_epochs):
        batch = collate([changed[(epoch, row)] for row in rows])
        if data.sizes is not None:
            batch["size"] = data.sizes.at(epoch * data.sizes.every)
        batch = data.on_after_batch_transfer(batch, 0)
        if mixup_alpha or cutmix_alpha:
            batch["images"], batch["labels"] = mix_batch(
                batch["images"],
                batch["labels"],
                len(data.store.info.classes),
                mixup_alpha,
                cutmix_alpha,
                generator=torch.Generator().manual_seed(data.seed + epoch),
            )
        columns.append(batch)
    height = max(batch["images"].shape[2] for batch in columns)
    widths = [batch["images"].shape[3] for batch in columns]
    shape = (len(rows) * (height + GAP) + GAP, sum(widths) + GAP * (len(widths) + 1), 3)
    grid, left = np.full(shape, 255, np.uint8), GAP
    for batch, width in zip(columns, widths, strict=True):
        for y, picture in enumerate(_drawn(batch, data)):
            top = GAP + y * (height + GAP)
            grid[top : top + len(picture), left : left + width] = picture
        left += width + GAP
    return grid


def _drawn(batch: Batch, data: PreparedDataModule) -> list[np.ndarray]:
    classes = data.store.info.classes
    images: Tensor = batch["images"]
    pictures = []
    for number, image in enumerate(images):
        pixels = image.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        draw = ImageDraw.Draw(picture)
        if "boxes" in batch:
            labels = batch["labels"][number].tolist()
            for box, label in zip(batch["boxes"][number].tolist(), labels, strict=True):
                colour = _COLOURS[label % len(_COLOURS)]
                draw.rectangle(box, outline=colour)
                draw.text((box[0] + 2, box[1]), classes[label], fill=colour)
        else:
            text = "\n".join(_labels(batch["labels"][number], classes)) or "no label"
            draw.text((3, 1), text, fill=_COLOURS[0], stroke_width=1, stroke_fill="white")
        pictures.append(np.array(picture))
    return pictures


def _labels(label: Tensor, classes: tuple[str, ...]) -> list[str]:
    """Names of a class id, or of the classes of a target [C], with their shares if mixed."""
    if label.ndim == 0:
        return [classes[int(label)]]
    shares = {class_id: round(float(share), 2) for class_id, share in enumerate(label)}
    found = [class_id for class_id, share in shares.items() if share]
    return [classes[i] if shares[i] == 1 else f"{shares[i]:g} {classes[i]}" for i in found]
