"""Training images a second with YOLOX's recipe: this project's loader, and the original's with cv2.

    python benchmarks/mosaic.py

One thread, 640 px, noise pictures of 480 x 640 with 20 boxes; mosaic, mixup, HSV and flip.
Rounds take turns; prints medians, by processor time, and the ratio. Needs `pixeltable-yolox`.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from yolox.data import MosaicDetection, TrainTransform

from components.data.loaders import PreparedDataset
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore, StoreInfo, write_index

SIZE, SHAPE, NUM_IMAGES, NUM_BOXES = (640, 640), (480, 640), 32, 20
ROUNDS, PER_ROUND = 5, 16


class Pictures:
    """The data set as the original reads it: pixels and boxes from memory."""

    def __init__(self, pixels: np.ndarray, boxes: np.ndarray):
        self.pixels, self.boxes, self.input_dim = pixels, boxes, SIZE

    def __len__(self) -> int:
        return len(self.pixels)

    def load_anno(self, index: int) -> np.ndarray:
        """Boxes xyxy and class, [G, 5]."""
        return self.boxes[index]

    def pull_item(self, index: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int], int]:
        """Pixels, boxes, size, name."""
        return self.pixels[index], self.boxes[index].copy(), SHAPE, index


def pack_store(folder: Path, pixels: np.ndarray, boxes: np.ndarray) -> PreparedStore:
    """The same pictures as a prepared store."""
    folder.mkdir()
    (folder / "images.bin").write_bytes(pixels.tobytes())
    height, width = SHAPE
    index = pd.DataFrame({"image_id": range(NUM_IMAGES), "split": "train"}).assign(
        offset=np.arange(NUM_IMAGES) * pixels[0].size,
        height=height,
        width=width,
        original_height=height,
        original_width=width,
    )
    flat = boxes.reshape(-1, 5)
    objects = pd.DataFrame({"image_id": np.repeat(np.arange(NUM_IMAGES), NUM_BOXES)}).assign(
        class_id=0,
        x=flat[:, 0],
        y=flat[:, 1],
        width=flat[:, 2] - flat[:, 0],
        height=flat[:, 3] - flat[:, 1],
        is_crowd=False,
    )
    info = StoreInfo("detection", ("a", "b"), SIZE, "letterbox", 1.0, "", "given", {})
    write_index(folder, info, index, objects)
    return PreparedStore.open(folder)


def main() -> None:
    """Rounds of both, one after the other."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (NUM_IMAGES, *SHAPE, 3), dtype=np.uint8)
    corner = rng.uniform(0, 400, (NUM_IMAGES, NUM_BOXES, 2))
    sides = rng.uniform(10, 80, (NUM_IMAGES, NUM_BOXES, 2))
    boxes = np.concatenate([corner, corner + sides, np.zeros((NUM_IMAGES, NUM_BOXES, 1))], axis=2)
    random.seed(0)
    original = MosaicDetection(
        Pictures(pixels, boxes),
        SIZE,
        preproc=TrainTransform(),
        degrees=10.0,
        translate=0.1,
        mosaic_scale=(0.1, 2),
        shear=2.0,
    )
    recipe = AugmentSettings(
        scale=(1, 1),
        color=0,
        hsv=(0.028, 0.118, 0.118),
        mosaic=1,
        degrees=10,
        translate=0.1,
        shear=2,
        mixup=1,
    )
    rates: dict[str, list[float]] = {"original": [], "timmflow": []}
    with tempfile.TemporaryDirectory() as folder:
        ours = PreparedDataset(pack_store(Path(folder) / "s", pixels, boxes), recipe, seed=0)
        calls = {"original": lambda n: original[(True, n)], "timmflow": lambda n: ours[(0, n)]}
        for number in range(ROUNDS + 1):
            for name, call in calls.items():
                started = time.process_time()
                for step in range(PER_ROUND):
                    call((number * PER_ROUND + step) % NUM_IMAGES)
                if number:  # the first round warms up
                    rates[name].append(PER_ROUND / (time.process_time() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:9} {value:6.1f} images/s")
    print(f"ratio     {medians['timmflow'] / medians['original']:6.2f}")


if __name__ == "__main__":
    main()
