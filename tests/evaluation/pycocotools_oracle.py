"""pycocotools' evaluation, to compare with."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.evaluation.detections import Predictions, TrueObjects


def run_pycocotools(truth: TrueObjects, predictions: Predictions, ids, num_classes: int):
    """pycocotools' evaluation of the same arrays."""
    head = {
        "images": [{"id": int(i)} for i in ids],
        "categories": [{"id": i, "name": str(i)} for i in range(num_classes)],
    }
    tables = []
    for rows in (truth, predictions):
        table = COCO()
        table.dataset = {
            **head,
            "annotations": [
                {
                    # From 1: COCOeval takes a match with id 0 for no match.
                    "id": i + 1,
                    "image_id": int(rows.image_id[i]),
                    "category_id": int(rows.class_id[i]),
                    "bbox": rows.boxes_xywh[i].tolist(),
                    "area": float(
                        rows.area[i] if rows is truth else np.prod(rows.boxes_xywh[i, 2:])
                    ),
                    "iscrowd": int(rows.is_crowd[i]) if rows is truth else 0,
                    **({} if rows is truth else {"score": float(rows.score[i])}),
                }
                for i in range(len(rows.image_id))
            ],
        }
        tables.append(table)
    with contextlib.redirect_stdout(io.StringIO()):
        for table in tables:
            table.createIndex()
        evaluation = COCOeval(*tables, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
