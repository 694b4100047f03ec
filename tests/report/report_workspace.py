"""A working copy as the stages leave it, without running them: small, but of realistic shape."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from components.evaluation.classification import evaluate_classification
from components.evaluation.detection import evaluate_detection
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.mistakes import (
    describe_classification,
    describe_detection,
    mistake_boxes,
)
from components.evaluation.pictures import draw_boxes, draw_caption, save_jpeg
from components.files import rounded, write_json
from tasks.layout import Layout
from tasks.params import Params

CLASSES = {
    "classification": ["dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "skirt"],
    "detection": ["RBC", "WBC", "Platelets"],
}


def write_workspace(
    root: Path, task: str, classes: list[str] | None = None, num_mistakes: int = 6
) -> tuple[Params, Layout]:
    """Write every input of the report stage under `root`."""
    classes = classes or CLASSES[task]
    layout = Layout(root)
    rng = np.random.default_rng(0)
    splits = np.array(["train"] * 290 + ["val"] * 40 + ["test"] * 72)
    measured = np.flatnonzero(splits == "test")
    per_image = 1 if task == "classification" else 7
    objects = pd.DataFrame(
        {
            "image_id": np.repeat(np.arange(len(splits)), per_image),
            "class_id": rng.integers(0, len(classes), len(splits) * per_image),
        }
    )
    layout.prepared.mkdir(parents=True)
    pd.DataFrame({"image_id": np.arange(len(splits)), "split": splits}).to_parquet(
        layout.prepared / "index.parquet"
    )
    objects.to_parquet(layout.prepared / "objects.parquet")
    shared = {"task": task, "classes": classes}
    write_json(
        layout.prepared / "dataset.json",
        {**shared, "image_size": [240, 320], "resize": "letterbox", "fingerprint": "ab12" * 16},
    )
    write_json(
        layout.tables / "dataset.json", {**shared, "format": "coco", "fingerprint": "cd" * 32}
    )
    write_json(
        layout.validation,
        {
            "num_errors": 0,
            "num_warnings": 2,
            "summary": {"num_images": len(splits)},
            "findings": [
                {
                    "check": name,
                    "severity": "warning",
                    "where": f"images/{name}/BloodImage_00134.jpg",
                    "message": message,
                    "value": 0.91,
                    "allowed": "below 0.9",
                }
                for name, message in (
                    (
                        "near duplicate",
                        "looks like BloodImage_00135.jpg, which is in another split",
                    ),
                    ("tiny box", "an object of 3 x 2 pixels is hard to learn"),
                )
            ],
        },
    )
    labels = objects.class_id.value_counts().reindex(range(len(classes)), fill_value=0)
    write_json(
        layout.profile,
        {
            "fingerprint": "cd" * 32,
            "num_images": len(splits),
            "num_objects": len(objects),
            "labels": dict(zip(classes, labels.tolist(), strict=True)),
        },
    )
    layout.evaluation.mkdir(parents=True)
    evaluate = _classification if task == "classification" else _detection
    figures, details = evaluate(layout, objects, measured, classes, num_mistakes, rng)
    write_json(layout.evaluation / "details.json", rounded(details))
    for name, values in {
        "validate": {"num_images": len(splits), "num_errors": 0, "num_warnings": 2},
        "preprocess": {"num_train": 290, "num_val": 40, "num_test": 72, "megabytes": 92.4},
        "train": {
            "num_epochs": 12,
            "best_epoch": 10,
            "monitor": "val_map" if task == "detection" else "val_accuracy",
            "best": 0.553,
            "train_loss": 0.71,
            "val_loss": 0.84,
            "seconds": 1062.4,
            "num_parameters": 3_412_554,
        },
        "evaluate": rounded(figures),
        "export": {
            "megabytes": 13.6,
            "latency_ms_p50": 21.43,
            "latency_ms_p95": 24.9,
            "num_parity_images": 64,
            "max_score_difference": 3.2e-06,
            "min_iou": 0.999993,
        },
    }.items():
        write_json(layout.metrics(name), values)
    measured = {
        "metric": 0.551,
        "megabytes": 13.6,
        "latency_ms_p50": 21.43,
        "latency_ms_p95": 24.9,
        "latency_ms_p50_batch_8": 160.2,
        "latency_ms_p95_batch_8": 171.0,
        "images_per_second": 49.9,
        "peak_memory_mb": None,
    }
    too_slow = ["its speed is 1.10 of float32's (at least 1.3 needed)"]
    write_json(
        layout.export_details,
        {
            "metric": "accuracy" if task == "classification" else "map",
            "split": "val",
            "num_images": 64,
            "pytorch": 0.551,
            "formats": [
                {"format": "fp32", "file": "models/model.onnx", "published": True, "reasons": []}
                | measured,
                {"format": "int8", "file": "x", "published": False, "reasons": too_slow} | measured,
            ],
        },
    )
    _write_curves(layout.plots / "train.csv", "val_map" if task == "detection" else "val_accuracy")
    layout.onnx.parent.mkdir(parents=True, exist_ok=True)
    layout.onnx.write_bytes(b"not a real model")
    params = Params.model_validate(
        {
            "base": {"task": task, "data": "../data", "seed": 3},
            "train": {"augment": {"scale": [0.5, 1.0]}},
            "report": {"title": "Blood cells, nightly" if task == "detection" else "Clothing"},
        }
    )
    return params, layout


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft blobs on a light ground."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (226, 214, 205), float)
    for _ in range(25):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.06, 0.14)
        inside = np.hypot(y - cy, x - cx)[..., None] < radius * width
        image = np.where(inside, image * 0.8 + np.array(rng.uniform(90, 190, 3)) * 0.2, image)
    return image.clip(0, 255).astype(np.uint8)


def _classification(layout, objects, measured, classes, num_mistakes, rng):
    targets = objects.class_id.to_numpy()[measured]
    logits = rng.normal(size=(len(targets), len(classes))) * 1.3
    logits[np.arange(len(targets)), targets] += 4
    odds = np.exp(logits)
    probabilities = odds / odds.sum(1, keepdims=True)
    result = evaluate_classification(
        probabilities,
        targets,
        classes,
        split="test",
        temperature=1.37,
        columns=_some_columns(len(targets), rng),
        bootstrap=200,
    )
    for rank, mistake in enumerate(result.mistakes[:num_mistakes]):
        title, detail = describe_classification(mistake, classes)
        picture = draw_caption(
            _picture(rng, 160, 120),
            (classes[mistake.predicted], mistake.confidence),
            (classes[mistake.target], mistake.target_probability),
        )
        _add(layout, result.details, rank, picture, title, detail)
    return result.figures, result.details


def _detection(layout, objects, measured, classes, num_mistakes, rng):
    rows = objects[objects.image_id.isin(measured)]
    start = rng.uniform([0, 0], [240, 160], (len(rows), 2))
    boxes = np.concatenate([start, rng.uniform(20, 80, (len(rows), 2))], axis=1)
    truth = TrueObjects(
        rows.image_id, rows.class_id, boxes, boxes[:, 2] * boxes[:, 3], np.zeros(len(rows))
    )
    near = boxes + rng.normal(0, 2.5, boxes.shape)
    near[:, 2:] = near[:, 2:].clip(4)
    kept = rng.random(len(rows)) < 0.93
    extra = rng.random(len(rows)) < 0.25
    predictions = Predictions(
        np.concatenate([truth.image_id[kept], truth.image_id[extra]]),
        np.concatenate([truth.class_id[kept], (truth.class_id[extra] + 1) % len(classes)]),
        np.concatenate([rng.beta(5, 2, kept.sum()), rng.beta(2, 4, extra.sum())]),
        np.concatenate([near[kept], near[extra] + 9]),
    )
    result = evaluate_detection(
        truth,
        predictions,
        measured,
        classes,
        split="test",
        thresholds=[0.4] * len(classes),
        columns=_some_columns(len(measured), rng),
        bootstrap=100,
    )
    for rank, mistake in enumerate(result.mistakes[:num_mistakes]):
        title, detail = describe_detection(mistake, truth, predictions, classes)
        drawn = mistake_boxes(mistake, truth, predictions, classes)
        picture = draw_boxes(_picture(rng, 240, 320), drawn, min_side=640)
        _add(layout, result.details, rank, picture, title, detail)
    return result.figures, result.details


def _some_columns(count, rng):
    return {
        "brightness": rng.uniform(90, 190, count),
        "camera": rng.choice(["north <gate>", "south gate", "yard & hall"], count),
        "folder": rng.choice(["2021/spring", "2021/autumn", "2022"], count),
    }


def _add(layout, details, rank, picture, title, detail):
    name = f"mistake-{rank:03d}.jpg"
    if rank == 0:
        save_jpeg(layout.evaluation / "suspect_00.jpg", picture)
        suspect = {"picture": "suspect_00.jpg", "path": "val/1.jpg", "title": "labelled <hat>"}
        details["suspects"] = [{**suspect, "detail": "97.1 % for shoes"}]
    save_jpeg(layout.evaluation / name, picture)
    path = f"test/BloodImage_{rank:05d}.jpg"
    details["mistakes"].append({"picture": name, "path": path, "title": title, "detail": detail})


def _write_curves(path: Path, metric: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "train_loss", "val_loss", metric, "lr"])
        for epoch in range(12):
            train_loss = 2 * np.exp(-epoch / 4) + 0.6
            val_metric = "" if epoch == 0 else 0.56 * (1 - np.exp(-epoch / 3))
            lr = 1e-3 * 0.5 * (1 + np.cos(np.pi * epoch / 12))
            writer.writerow([epoch, train_loss, train_loss + 0.02 * epoch, val_metric, lr])
