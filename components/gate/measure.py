"""Measuring an ONNX file on prepared images, as `evaluate` measures the model it came from.

Classes are compared by name, and today's data says which count. A model that does not know one of
them is wrong on its images and finds none of its objects. A prediction of a class that the data
does not have is wrong; a detection of one does not count, as in COCO.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.contract.pixels import load_rgb
from components.data.geometry import fit, resized_shape, to_input, uncropped
from components.data.store import PreparedStore, in_batches
from components.errors import ModelError
from components.evaluation.classification import evaluate_classification
from components.evaluation.detection import evaluate_detection
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.multi_label import evaluate_multi_label
from components.evaluation.prepared import Outputs, predicted_objects, true_objects
from components.export.predictor import OnnxPredictor
from components.gate.records import BoxRecords, LabelRecords, MultiLabelRecords, Records

_WARM_UP = 3  # calls that are not timed
_NEVER = 2.0  # threshold that no probability reaches


@dataclass(frozen=True)
class TestImages:
    """The images that models meet on.

    Args:
        store: that has them, and says what is true.
        split: which of its images.
        data: folder of the raw images, for models that take another size than the store has.
    """

    __test__ = False  # no test, whatever pytest thinks of the name

    store: PreparedStore
    split: str
    data: Path

    @property
    def rows(self) -> np.ndarray:
        """Rows of the store by content, so that nothing depends on the order of the data."""
        rows = self.store.rows(self.split)
        table = self.store.index.iloc[rows]
        return rows[np.lexsort((table["path"].astype(str), table["sha256"].astype(str)))]


@dataclass(frozen=True)
class Measured:
    """A model on these images.

    Args:
        headline: what `components.evaluation` says, by name.
        records: of each image, in the order of `TestImages.rows`.
    """

    headline: dict[str, float]
    records: Records


def check_task(predictor: OnnxPredictor, store: PreparedStore, name: str) -> None:
    """Raise ModelError if a model is for another task than the data, or knows none of its classes.

    Args:
        predictor: the model.
        store: the data.
        name: what messages call the model.
    """
    kinds = [
        (predictor.task, predictor.thresholds is not None),
        (store.info.task, store.info.multi_label),
    ]
    if kinds[0] != kinds[1]:
        model, data = (task + (" of several labels" if several else "") for task, several in kinds)
        raise ModelError(f"{name}: a model for {model}, but the data is for {data}")
    if not set(predictor.classes) & set(store.info.classes):
        raise ModelError(
            f"{name}: knows none of the data's classes {list(store.info.classes)[:8]}; "
            f"it knows {predictor.classes[:8]}"
        )


def measure(
    predictor: OnnxPredictor, images: TestImages, metric: str, batch_size: int = 16
) -> Measured:
    """Run a model on all images and compare with what is true.

    Args:
        predictor: the model; `check_task` has nothing against it.
        images: what it is shown.
        metric: `accuracy`, `balanced_accuracy`, `map` or `map_50`.
        batch_size: images at a time.

    Raises:
        DataError: an image cannot be read.
    """
    store, rows = images.store, images.rows
    names = [*store.info.classes, *sorted(set(predictor.classes) - set(store.info.classes))]
    new_id = np.array([names.index(name) for name in predictor.classes])
    outputs = _outputs(predictor, images, rows, batch_size)
    if store.info.task == "detection":
        return _measure_boxes(predictor, store, rows, names, new_id, outputs, images.split, metric)
    given = np.concatenate([out for _, (out,) in outputs]).astype(np.float64)
    probabilities = np.zeros((len(rows), len(names)))
    probabilities[:, new_id] = given
    ids = tuple(range(len(store.info.classes)))
    if store.info.multi_label:
        truth = np.zeros((len(rows), len(names)), dtype=bool)
        truth[:, : len(ids)] = [store.label_vector(row) > 0 for row in rows]
        thresholds = np.full(len(names), _NEVER)
        thresholds[new_id] = predictor.thresholds
        labels = evaluate_multi_label(
            probabilities, truth, names, thresholds.tolist(), split=images.split, bootstrap=0
        )
        known = probabilities[:, : len(ids)], truth[:, : len(ids)]
        return Measured(labels.details["headline"], MultiLabelRecords(ids, *known))
    targets = np.array([store.label(row) for row in rows])
    result = evaluate_classification(probabilities, targets, names, split=images.split, bootstrap=0)
    right = result.predicted == targets
    records = LabelRecords(ids, targets, right, metric == "balanced_accuracy")
    return Measured(result.details["headline"], records)


def _measure_boxes(
    predictor: OnnxPredictor,
    store: PreparedStore,
    rows: np.ndarray,
    names: Sequence[str],
    new_id: np.ndarray,
    outputs: Iterator[tuple[np.ndarray, Outputs]],
    split: str,
    metric: str,
) -> Measured:
    same = _takes_stored(predictor, store)
    found = predicted_objects(store, outputs, None if same else _RawScale(predictor, store))
    truth = true_objects(store, rows)
    # COCO goes through images by id: here that is by content.
    ids = store.index["image_id"].to_numpy()[rows]
    order = np.argsort(ids)

    def place(image_id: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(ids[order], image_id)]

    result = evaluate_detection(
        TrueObjects(
            place(truth.image_id), truth.class_id, truth.boxes_xywh, truth.area, truth.is_crowd
        ),
        Predictions(place(found.image_id), new_id[found.class_id], found.score, found.boxes_xywh),
        np.arange(len(rows)),
        names,
        split=split,
        bootstrap=0,
    )
    records = BoxRecords(result.matches, len(rows), metric == "map_50")
    return Measured(result.details["headline"], records)


def _takes_stored(predictor: OnnxPredictor, store: PreparedStore) -> bool:
    """Whether the store's images are of this model's size."""
    about, info = predictor, store.info
    same = (about.image_size, about.resize) == (info.image_size, info.resize)
    return same and (about.resize == "letterbox" or about.crop_fraction == info.crop_fraction)


@dataclass(frozen=True)
class _RawScale:
    """Input pixels per original pixel, (y, x), of a row, for a model that is shown raw images."""

    predictor: OnnxPredictor
    store: PreparedStore

    def __call__(self, row: int) -> tuple[float, float]:
        about = self.store.index.iloc[row]
        height, width = int(about["original_height"]), int(about["original_width"])
        model = self.predictor
        shape = resized_shape(height, width, model.image_size, model.resize, model.crop_fraction)
        return shape[0] / height, shape[1] / width


def _inputs(predictor: OnnxPredictor, images: TestImages, rows: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] that the network gets to see: from the store, or else from the raw images.

    They are of the model's size, with the border that a model cuts off that resizes by itself.
    """
    store, size, resize = images.store, predictor.image_size, predictor.resize
    if _takes_stored(predictor, store):
        inputs = [fit(store.image(row), size, resize) for row in rows]
    else:
        rule = (size, resize, predictor.crop_fraction)
        paths = store.index["path"].iloc[rows]
        inputs = [to_input(load_rgb(images.data / path), *rule)[0] for path in paths]
    if predictor.resizes and resize == "crop":
        inputs = [uncropped(image, size, predictor.crop_fraction) for image in inputs]
    return np.stack(inputs)


def _outputs(
    predictor: OnnxPredictor, images: TestImages, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, Outputs]]:
    for batch in in_batches(rows, batch_size):
        yield batch, predictor.run(_inputs(predictor, images, batch))


def latencies_ms(
    predictors: Sequence[OnnxPredictor], images: TestImages, num_runs: int
) -> list[float]:
    """Median milliseconds for one image, of each model; they take turns, on the same images.

    Args:
        predictors: the models.
        images: what they are shown; the first ones are taken.
        num_runs: timed calls.
    """
    rows = images.rows[: min(num_runs, 8)]
    inputs: list[Any] = [_inputs(predictor, images, rows) for predictor in predictors]
    times: list[list[float]] = [[] for _ in predictors]
    for number in range(num_runs + _WARM_UP):
        for predictor, batch, taken in zip(predictors, inputs, times, strict=True):
            image = batch[number % len(batch)][None]
            started = time.perf_counter()
            predictor.run(image)
            taken.append(1000 * (time.perf_counter() - started))
    return [float(np.median(taken[_WARM_UP:])) for taken in times]
