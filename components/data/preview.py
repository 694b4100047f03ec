"""A picture of training images as the network will get them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from components.data.loaders import Batch, PreparedDataModule, PreparedDataset, collate

GAP = 4  # pixels between images
_COLOURS = ("#ff4040", "#40c0ff", "#60e060", "#ffc020", "#e060ff", "#20e0c0")


def preview_picture(data: PreparedDataModule, rows: list[int], num_epochs: int) -> np.ndarray:
    """A grid: a row an image, first as it stands, then as it is in each of the first epochs.

    The images go through everything that a training's batches go through.

    Args:
        data: with mean 0 and standard deviation 1/255, so that pixels stay what they are.
        rows: of the store.
        num_epochs: changed versions of each.

    Returns:
        uint8 RGB [H, W, 3].
    """
    plain = PreparedDataset(data.store, None, data.seed)
    changed = PreparedDataset(
        data.store, data.augment, data.seed, data.store.rows("train"), data.num_epochs
    )
    batches = [collate([plain[(0, row)] for row in rows])]
    batches += [collate([changed[(epoch, row)] for row in rows]) for epoch in range(num_epochs)]
    columns = [_drawn(data.on_after_batch_transfer(batch, 0), data) for batch in batches]
    height, width = data.store.info.image_size
    grid = np.full(
        (len(rows) * (height + GAP) + GAP, len(columns) * (width + GAP) + GAP, 3), 255, np.uint8
    )
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            top, left = GAP + y * (height + GAP), GAP + x * (width + GAP)
            grid[top : top + height, left : left + width] = picture
    return grid


def _drawn(batch: Batch, data: PreparedDataModule) -> list[np.ndarray]:
    info = data.store.info
    classes = info.classes
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
            label = batch["labels"][number]
            ids = label.nonzero()[:, 0].tolist() if info.multi_label else [int(label)]
            text = "\n".join(classes[class_id] for class_id in ids) or "no label"
            draw.text((3, 1), text, fill=_COLOURS[0], stroke_width=1, stroke_fill="white")
        pictures.append(np.array(picture))
    return pictures
