"""Measure the trained model: accuracy family or COCO numbers, slices, the worst mistakes.

Reads `models/trained/`, `data/prepared/`, and the user's columns in `data/tables/`; writes
`metrics/evaluate.json`, small files in `plots/`, and `reports/evaluation/`. Parameters: sections
`base` and `evaluate`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.files import atomic_path, rounded, write_json
from tasks.layout import Layout
from tasks.params import Params
from tasks.stage import Figures, main, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from components.data.store import PreparedStore
    from components.evaluation.detections import Predictions, TrueObjects
    from components.evaluation.pictures import Kind

    Mistake = tuple[int, np.ndarray, str, str]  # row of the store, picture, title, detail


def evaluate(params: Params, layout: Layout) -> Figures:
    """Measure on the test split, or on val where there is none.

    Returns:
        The figures of `components.evaluation`, with `split` and `num_images`.

    Raises:
        ModelError, DataError: an earlier stage has not run, or the split asked for is empty.
    """
    from components.runtime import configure_torch

    configure_torch()

    from components.data.store import PreparedStore

    store = PreparedStore.open(layout.prepared)
    split = store.evaluated_split(params.evaluate.split)
    if store.info.task == "detection":
        run = _evaluate_detector
    else:
        run = _evaluate_multi_label if store.info.multi_label else _evaluate_classifier
    with atomic_path(layout.evaluation) as draft:
        draft.mkdir()
        return run(params, layout, store, split, draft)


def _outputs(
    params: Params, layout: Layout, store: PreparedStore, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """Rows of a batch, and what the model gives for them."""
    from components.data.store import in_batches
    from components.models.saved_model import load_for_inference, store_outputs

    settings = params.evaluate
    model, _ = load_for_inference(layout.weights, **settings.thresholds())
    batches = in_batches(rows, settings.batch_size)
    return store_outputs(model, store, progress_bar(batches, len(batches), "batches"))


def _held_out(store: PreparedStore, split: str) -> tuple[np.ndarray, int]:
    """Rows that the weights were not fitted to, those measured first; and how many are measured.

    The validation images are among them for what is chosen there, and for labels that look wrong.
    """
    import numpy as np

    measured = store.rows(split)
    others = store.rows("val") if split != "val" else measured[:0]
    return np.concatenate([measured, others]), len(measured)


def _columns(layout: Layout, store: PreparedStore, rows: np.ndarray) -> dict[str, Any]:
    """What slices are made of; a column of the user's goes before a built-in one of its name."""
    from components.evaluation.image_columns import builtin_columns, user_columns

    return {**builtin_columns(store, rows), **user_columns(layout.tables, store, rows)}


def _evaluate_classifier(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    import numpy as np

    from components.evaluation.classification import evaluate_classification
    from components.evaluation.mistakes import describe_classification, describe_suspect_label
    from components.evaluation.pictures import draw_caption
    from components.evaluation.plots import write_classification_plots
    from components.evaluation.suspects import suspect_labels
    from components.models.saved_model import read_description

    settings, classes = params.evaluate, store.info.classes
    rows, count = _held_out(store, split)
    probabilities = np.concatenate([out for _, (out,) in _outputs(params, layout, store, rows)])
    targets = np.array([store.label(row) for row in rows])
    result = evaluate_classification(
        probabilities[:count],
        targets[:count],
        classes,
        split=split,
        temperature=read_description(layout.weights).temperature,
        columns=_columns(layout, store, rows[:count]),
        bootstrap=settings.bootstrap,
        seed=params.base.seed,
    )
    write_classification_plots(layout.plots, result, targets[:count], classes)
    mistakes: list[Mistake] = []
    for mistake in result.mistakes[: settings.num_mistakes]:
        row = rows[mistake.index]
        picture = draw_caption(
            store.image(row),
            (classes[mistake.predicted], mistake.confidence),
            (classes[mistake.target], mistake.target_probability),
        )
        mistakes.append((row, picture, *describe_classification(mistake, classes)))
    suspects: list[Mistake] = []
    for suspect in suspect_labels(probabilities, targets)[: settings.num_mistakes]:
        row = rows[suspect.index]
        picture = draw_caption(
            store.image(row),
            (classes[suspect.proposed], suspect.proposed_probability),
            (classes[suspect.given], suspect.given_probability),
        )
        suspects.append((row, picture, *describe_suspect_label(suspect, classes)))
    _write_details(folder, store, result.details, mistakes, suspects)
    return result.figures


def _evaluate_multi_label(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    import numpy as np

    from components.evaluation.mistakes import (
        describe_multi_label,
        describe_suspect_label,
        mistake_labels,
    )
    from components.evaluation.multi_label import evaluate_multi_label
    from components.evaluation.pictures import NamedLabel, draw_labels
    from components.evaluation.plots import write_multi_label_plots
    from components.evaluation.suspects import suspect_labels
    from components.models.saved_model import read_description

    settings, classes = params.evaluate, store.info.classes
    rows, count = _held_out(store, split)
    probabilities = np.concatenate([out for _, (out,) in _outputs(params, layout, store, rows)])
    truth = np.array([store.label_vector(row) for row in rows]).astype(bool)
    description = read_description(layout.weights)
    result = evaluate_multi_label(
        probabilities[:count],
        truth[:count],
        classes,
        description.thresholds,
        split=split,
        temperature=description.temperature,
        columns=_columns(layout, store, rows[:count]),
        bootstrap=settings.bootstrap,
        seed=params.base.seed,
    )
    write_multi_label_plots(layout.plots, result, truth[:count], classes)
    mistakes: list[Mistake] = []
    for mistake in result.mistakes[: settings.num_mistakes]:
        row = rows[mistake.index]
        labels = mistake_labels(mistake, probabilities[mistake.index], classes)
        picture = draw_labels(store.image(row), labels)
        mistakes.append((row, picture, *describe_multi_label(mistake, classes)))
    suspects: list[Mistake] = []
    for suspect in suspect_labels(probabilities, truth)[: settings.num_mistakes]:
        row = rows[suspect.index]
        probability = float(probabilities[suspect.index, suspect.given])
        kind: Kind = "true" if suspect.present else "predicted"
        label = NamedLabel(classes[suspect.given], probability, kind)
        picture = draw_labels(store.image(row), [label])
        suspects.append((row, picture, *describe_suspect_label(suspect, classes)))
    _write_details(folder, store, result.details, mistakes, suspects)
    return result.figures


def _evaluate_detector(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    from components.evaluation.detection import evaluate_detection
    from components.evaluation.detections import of_images
    from components.evaluation.mistakes import describe_detection, mistake_boxes
    from components.evaluation.operating_points import best_thresholds
    from components.evaluation.pictures import draw_boxes
    from components.evaluation.plots import write_detection_plots
    from components.evaluation.prepared import predicted_objects, true_objects

    settings, classes = params.evaluate, store.info.classes
    rows, count = _held_out(store, split)
    image_ids = store.index["image_id"].to_numpy()
    all_truth = true_objects(store, rows)
    measured, val = image_ids[rows[:count]], image_ids[store.rows("val")]
    truth = of_images(all_truth, measured)
    if truth.is_crowd.all():  # none at all, too
        raise DataError(
            f"the {split} split has {count} images and no object to find, so there is nothing "
            "to measure: choose another evaluate.split, or change the data's splits"
        )
    all_predictions = predicted_objects(store, _outputs(params, layout, store, rows))
    predictions = of_images(all_predictions, measured)
    thresholds = best_thresholds(
        of_images(all_truth, val), of_images(all_predictions, val), val, len(classes)
    )
    result = evaluate_detection(
        truth,
        predictions,
        measured,
        classes,
        split=split,
        thresholds=thresholds,
        columns=_columns(layout, store, rows[:count]),
        bootstrap=settings.bootstrap,
        seed=params.base.seed,
    )
    write_detection_plots(layout.plots, result)
    row_of = {int(image_ids[row]): row for row in rows}
    mistakes: list[Mistake] = []
    for mistake in result.mistakes[: settings.num_mistakes]:
        row = row_of[mistake.image_id]
        boxes = mistake_boxes(mistake, truth, predictions, classes)
        picture = draw_boxes(store.image(row), [box.scaled(*store.scale(row)) for box in boxes])
        words = describe_detection(mistake, truth, predictions, classes)
        mistakes.append((row, picture, *words))
    suspects = _suspect_pictures(store, row_of, all_truth, all_predictions, settings.num_mistakes)
    _write_details(folder, store, result.details, mistakes, suspects)
    return result.figures


def _suspect_pictures(
    store: PreparedStore,
    row_of: dict[int, Any],
    truth: TrueObjects,
    predictions: Predictions,
    most: int,
) -> list[Mistake]:
    """The images with boxes that are likely wrong in the truth, those with the surest first."""
    import numpy as np

    from components.evaluation.mistakes import describe_suspect_objects, suspect_boxes
    from components.evaluation.pictures import draw_boxes
    from components.evaluation.suspects import SuspectObject, suspect_objects

    classes = store.info.classes
    by_image: dict[int, list[SuspectObject]] = {}
    for suspect in suspect_objects(truth, predictions):
        by_image.setdefault(suspect.image_id, []).append(suspect)
    pictures: list[Mistake] = []
    for image_id, suspects in list(by_image.items())[:most]:
        row = row_of[image_id]
        image_truth = np.flatnonzero(truth.image_id == image_id).tolist()
        boxes = suspect_boxes(suspects, image_truth, truth, predictions, classes)
        picture = draw_boxes(store.image(row), [box.scaled(*store.scale(row)) for box in boxes])
        words = describe_suspect_objects(suspects, truth, predictions, classes)
        pictures.append((row, picture, *words))
    return pictures


def _write_details(
    folder: Path,
    store: PreparedStore,
    details: dict[str, Any],
    mistakes: list[Mistake],
    suspects: list[Mistake],
) -> None:
    """Write `details.json`, and a picture of each mistake and each suspect label beside it."""
    from components.evaluation.pictures import save_jpeg

    listed: dict[str, list[dict[str, str]]] = {}
    for kind, entries in (("mistake", mistakes), ("suspect", suspects)):
        listed[f"{kind}s"] = []
        for number, (row, picture, title, detail) in enumerate(entries):
            name, path = f"{kind}_{number:02d}.jpg", store.index["path"].iloc[row]
            save_jpeg(folder / name, picture)
            listed[f"{kind}s"].append(
                {"picture": name, "path": path, "title": title, "detail": detail}
            )
    write_json(folder / "details.json", rounded({**details, **listed}))


if __name__ == "__main__":
    sys.exit(main("evaluate", __doc__, evaluate, None))
