"""How long a detector's evaluation takes, beside pycocotools' plain path and faster-coco-eval.

    python benchmarks/evaluation_speed.py [--rounds 3] [--images 1000] [--write docs/evaluation.md]

1,000 images with 100 detections each and 80 classes. All three start from the same arrays and end
with the twelve numbers, which must be equal; `whole` is all that the stage `evaluate` makes of the
arrays without resampling (kinds of errors, thresholds, worst images too). Rounds take turns, on one
thread; medians of processor time. Prints a table, or writes it between the marks of a page.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.evaluation.coco_figures import COCO_NAMES, accumulate
from components.evaluation.coco_matching import match_all
from components.evaluation.detection import evaluate_detection
from components.evaluation.detections import Predictions, TrueObjects
from components.files import write_text

NUM_CLASSES, NUM_OBJECTS, NUM_FOUND = 80, 7, 100  # of an image, as in COCO
BEGIN, END = "<!-- speed: written by benchmarks/evaluation_speed.py -->", "<!-- end of speed -->"


def scenes(num_images: int, seed: int = 0) -> tuple[TrueObjects, Predictions]:
    """Objects, some of them crowds, and detections: a third on an object and of its class."""
    rng = np.random.default_rng(seed)
    shape = (num_images, NUM_OBJECTS)
    boxes = np.concatenate(
        [rng.uniform(0, 400, (*shape, 2)), rng.uniform(8, 200, (*shape, 2))], axis=2
    )
    labels = rng.integers(0, NUM_CLASSES, shape)
    truth = TrueObjects(
        np.repeat(np.arange(num_images), NUM_OBJECTS),
        labels.ravel(),
        boxes.reshape(-1, 4),
        boxes[..., 2:].prod(axis=2).ravel(),
        rng.random(labels.size) < 0.02,
    )
    images = np.repeat(np.arange(num_images), NUM_FOUND)
    of = rng.integers(0, NUM_OBJECTS, len(images))
    near = boxes[images, of] + rng.normal(0, 8, (len(images), 4))
    near[:, 2:] = near[:, 2:].clip(2)
    right = rng.random(len(images)) < 0.3
    found = np.where(right, labels[images, of], rng.integers(0, NUM_CLASSES, len(images)))
    return truth, Predictions(images, found, rng.random(len(images)), near)


def by_library(
    table: Any, evaluate: Any, truth: TrueObjects, predictions: Predictions, num_images: int
) -> dict[str, float]:
    """The twelve numbers by a COCO API."""
    head = {
        "images": [{"id": i} for i in range(num_images)],
        "categories": [{"id": i, "name": str(i)} for i in range(NUM_CLASSES)],
    }
    areas = predictions.boxes_xywh[:, 2:].prod(axis=1)
    columns = (truth.image_id, truth.class_id, truth.boxes_xywh, truth.area, truth.is_crowd)
    objects = [
        {
            **{"id": i, "image_id": image, "category_id": label},
            **{"bbox": box, "area": area, "iscrowd": int(crowd)},
        }
        for i, (image, label, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    of_found = (predictions.image_id, predictions.class_id, predictions.boxes_xywh, areas)
    found = [
        {
            **{"id": i, "image_id": image, "category_id": label, "bbox": box},
            **{"area": area, "iscrowd": 0, "score": score},
        }
        for i, (image, label, box, area, score) in enumerate(
            zip(*(c.tolist() for c in (*of_found, predictions.score)), strict=True), start=1
        )
    ]
    tables = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows in (objects, found):
            made = table()
            made.dataset = {**head, "annotations": rows}
            made.createIndex()
            tables.append(made)
        run = evaluate(*tables, iouType="bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(COCO_NAMES, map(float, run.stats[:12]), strict=True))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="page whose marked part becomes the table")
    options = parser.parse_args(argv)
    count = options.images
    truth, predictions = scenes(count)
    ids = np.arange(count)
    names = [str(i) for i in range(NUM_CLASSES)]
    thresholds = [0.5] * NUM_CLASSES

    def whole() -> dict[str, float]:
        result = evaluate_detection(
            truth, predictions, ids, names, split="test", thresholds=thresholds, bootstrap=0
        )
        return result.details["headline"]

    ways: dict[str, Callable[[], dict[str, float]]] = {
        "pycocotools": lambda: by_library(COCO, COCOeval, truth, predictions, count),
        "faster-coco-eval": lambda: by_library(
            FasterCOCO, COCOeval_faster, truth, predictions, count
        ),
        "timmflow, the twelve numbers": lambda: accumulate(
            match_all(truth, predictions, ids, NUM_CLASSES)
        ).numbers(),
        "timmflow, whole": whole,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    largest = dict.fromkeys(ways, 0.0)
    for _ in range(options.rounds):
        wanted: dict[str, float] = {}
        for name, run in ways.items():
            start = time.process_time()
            numbers = run()
            seconds[name].append(time.process_time() - start)
            wanted = wanted or numbers
            difference = max(abs(numbers[key] - value) for key, value in wanted.items())
            largest[name] = max(largest[name], difference)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    lines = [
        f"{count:,} images, {NUM_FOUND} detections each, {NUM_CLASSES} classes; medians of "
        f"{options.rounds} rounds in turns, processor time:",
        "",
        "| | seconds | times as fast | largest difference of the twelve numbers |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:.2f} | {medians['pycocotools'] / value:.1f} | {largest[name]:.0e} |"
            for name, value in medians.items()
        ),
    ]
    text = "\n".join(lines)
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        write_text(options.write, f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 0 if max(largest.values()) < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
