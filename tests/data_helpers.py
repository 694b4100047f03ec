"""A small prepared store, made from noise, for tests that need batches."""

from pathlib import Path

import numpy as np
import pandas as pd

from components.data.store import PreparedStore, StoreInfo, write_index


def make_store(
    folder: Path,
    task: str = "detection",
    num_images: int = 12,
    image_size: tuple[int, int] = (64, 64),
    num_classes: int = 2,
    multi_label: bool = False,
) -> PreparedStore:
    """Images with a bright square of the class's colour on noise; of five, one is val, one test.

    With `multi_label` every second image has the next class too, in the label alone, and every
    sixth has none.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    height, width = image_size
    rows, objects, offset = [], [], 0
    with (folder / "images.bin").open("wb") as file:
        for number in range(num_images):
            pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
            class_id = number % num_classes
            x, y = (int(v) for v in rng.integers(4, 24, 2))
            pixels[y : y + 32, x : x + 32, class_id] = 250
            file.write(pixels.tobytes())
            split = {3: "val", 4: "test"}.get(number % 5, "train")
            rows.append(
                {
                    "image_id": number,
                    "path": f"{number}.png",
                    "sha256": f"{number:064x}",
                    "split": split,
                    "offset": offset,
                    "height": height,
                    "width": width,
                    "original_height": 2 * height,
                    "original_width": 2 * width,
                }
            )
            offset += pixels.size
            target = {"image_id": number, "class_id": class_id}
            if task == "detection":
                target |= {"x": 2.0 * x, "y": 2.0 * y, "width": 64.0, "height": 64.0}
                target |= {"area": 4096.0, "is_crowd": False}
            objects.append(target)
            if multi_label and number % 2:
                objects.append({**target, "class_id": (class_id + 1) % num_classes})
            if multi_label and number % 6 == 2:
                objects.pop()
    info = StoreInfo(
        task=task,
        classes=tuple("abcdefgh"[:num_classes]),
        image_size=image_size,
        resize="letterbox" if task == "detection" or multi_label else "crop",
        crop_fraction=1.0,
        fingerprint="f" * 64,
        split_source="given",
        statistics={
            "objects_per_class": {
                split: {
                    name: sum(
                        rows[target["image_id"]]["split"] == split and target["class_id"] == number
                        for target in objects
                    )
                    for number, name in enumerate("abcdefgh"[:num_classes])
                }
                for split in ("train", "val", "test")
            }
        },
        multi_label=multi_label,
    )
    write_index(folder, info, pd.DataFrame(rows), pd.DataFrame(objects))
    return PreparedStore.open(folder)
