"""Training at changing input sizes (YOLOX, Ge et al. 2021): a size for every few batches.

The size is a function of (seed, step) alone, so that a resumed training goes on with the sizes it
would have had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from components.errors import DataError

STEP = 32  # pixels; the largest stride of the networks


@dataclass(frozen=True)
class InputSizes:
    """Input sizes of a training, by step.

    Attributes:
        image_size: (height, width) that the data is prepared for.
        steps: fewest and most steps of 32 pixels by which the height changes.
        every: batches between changes.
        seed: of the run.
    """

    image_size: tuple[int, int]
    steps: tuple[int, int]
    every: int
    seed: int

    def __post_init__(self) -> None:
        for count in self.steps:
            if min(self._size(count)) < STEP:
                raise DataError(
                    f"train.augment.multi_scale = {list(self.steps)}: preprocess.image_size = "
                    f"{list(self.image_size)} changed by {count} x {STEP} pixels leaves nothing; "
                    "both sides must stay at 32 or more"
                )

    def at(self, step: int) -> tuple[int, int]:
        """(height, width) of a training step, counted from 0 over all epochs."""
        rng = np.random.default_rng([self.seed, step // self.every, STEP])
        return self._size(int(rng.integers(self.steps[0], self.steps[1] + 1)))

    def _size(self, count: int) -> tuple[int, int]:
        height, width = self.image_size
        new_height = height + count * STEP
        # The shape stays as near as multiples of 32 allow.
        return new_height, round(new_height * width / height / STEP) * STEP


def resize_batch(batch: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A detection batch brought to an input size, its boxes with it.

    Args:
        batch: `images` float [B, 3, H, W], `boxes` list of xyxy [G, 4]; the rest passes through.
        size: (height, width).
    """
    images: Tensor = batch["images"]
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return batch
    factor_y, factor_x = size[0] / height, size[1] / width
    scale = images.new_tensor([factor_x, factor_y, factor_x, factor_y])
    return {
        **batch,
        "images": F.interpolate(images, size=size, mode="bilinear", align_corners=False),
        "boxes": [boxes * scale for boxes in batch["boxes"]],
    }
