"""Objects of prepared images and of what a detector found there, as the metrics take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from components.data.store import PreparedStore
from components.evaluation.detection import Predictions, TrueObjects

Outputs = tuple[np.ndarray, ...]


def true_objects(store: PreparedStore, rows: np.ndarray) -> TrueObjects:
    """The objects of some images, in original pixels, crowds too."""
    image_ids = store.index["image_id"].to_numpy()[rows]
    table = store.objects[store.objects["image_id"].isin(image_ids)]
    return TrueObjects(
        table["image_id"].to_numpy(),
        table["class_id"].to_numpy(),
        table[["x", "y", "width", "height"]].to_numpy(),
        table["area"].to_numpy(),
        table["is_crowd"].to_numpy(),
    )


def predicted_objects(
    store: PreparedStore,
    outputs: Iterable[tuple[np.ndarray, Outputs]],
    scale: Callable[[int], tuple[float, float]] | None = None,
) -> Predictions:
    """Detections of batches of rows, from input pixels to original pixels, clipped to the image.

    Args:
        store: the images.
        outputs: rows of a batch, and boxes xyxy [B, D, 4], scores [B, D], labels [B, D] for them.
        scale: input pixels per original pixel, (y, x), of a row; None for the store's own.
    """
    image_ids = store.index["image_id"].to_numpy()
    originals = store.index[["original_width", "original_height"]].to_numpy(np.float64)
    found: list[Outputs] = []
    for rows, (boxes, scores, labels) in outputs:
        for row, image_boxes, image_scores, image_labels in zip(
            rows, boxes, scores, labels, strict=True
        ):
            present = image_scores > 0
            scale_y, scale_x = (scale or store.scale)(row)
            corners = image_boxes[present] / np.array([scale_x, scale_y, scale_x, scale_y])
            corners = corners.clip(0, np.tile(originals[row], 2))
            xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
            ids = np.full(len(xywh), image_ids[row])
            found.append((ids, image_labels[present], image_scores[present], xywh))
    return Predictions(*(np.concatenate(column) for column in zip(*found, strict=True)))
