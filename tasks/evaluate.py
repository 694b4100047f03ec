"""Measure the trained model: accuracy family or COCO numbers, curves, the worst mistakes.

Reads `models/trained/` and `data/prepared/`; writes `metrics/evaluate.json`, small files in
`plots/`, and `reports/evaluation/`. Parameters: sections `base` and `evaluate`.
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
    import numpy as np

    from components.models.saved_model import load_for_inference, store_outputs

    settings = params.evaluate
    model, _ = load_for_inference(layout.weights, **settings.thresholds())
    batches = np.array_split(rows, -(-len(rows) // settings.batch_size))
    return store_outputs(model, store, progress_bar(batches, len(batches), "batches"))


def _evaluate_classifier(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    import numpy as np

    from components.evaluation.classification import evaluate_classification
    from components.evaluation.mistakes import describe_classification
    from components.evaluation.pictures import draw_caption
    from components.evaluation.plots import write_classification_plots

    settings, classes = params.evaluate, store.info.classes
    rows = store.rows(split)
    probabilities = np.concatenate([out for _, (out,) in _outputs(params, layout, store, rows)])
    targets = np.array([store.label(row) for row in rows])
    result = evaluate_classification(
        probabilities,
        targets,
        classes,
        split=split,
        bootstrap=settings.bootstrap,
        seed=params.base.seed,
    )
    write_classification_plots(layout.plots, result, targets, classes)
    mistakes: list[Mistake] = []
    for mistake in result.mistakes[: settings.num_mistakes]:
        row = rows[mistake.index]
        picture = draw_caption(
            store.image(row),
            (classes[mistake.predicted], mistake.confidence),
            (classes[mistake.target], mistake.target_probability),
        )
        mistakes.append((row, picture, *describe_classification(mistake, classes)))
    _write_details(folder, store, result.details, mistakes)
    return result.figures


def _evaluate_multi_label(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    import numpy as np

    from components.evaluation.mistakes import describe_multi_label, mistake_labels
    from components.evaluation.multi_label import evaluate_multi_label
    from components.evaluation.pictures import draw_labels
    from components.evaluation.plots import write_multi_label_plots
    from components.models.saved_model import read_description

    settings, classes = params.evaluate, store.info.classes
    rows = store.rows(split)
    probabilities = np.concatenate([out for _, (out,) in _outputs(params, layout, store, rows)])
    truth = np.array([store.label_vector(row) for row in rows]).astype(bool)
    result = evaluate_multi_label(
        probabilities,
        truth,
        classes,
        read_description(layout.weights).thresholds,
        split=split,
        bootstrap=settings.bootstrap,
        seed=params.base.seed,
    )
    write_multi_label_plots(layout.plots, result, truth, classes)
    mistakes: list[Mistake] = []
    for mistake in result.mistakes[: settings.num_mistakes]:
        row = rows[mistake.index]
        labels = mistake_labels(mistake, probabilities[mistake.index], classes)
        picture = draw_labels(store.image(row), labels)
        mistakes.append((row, picture, *describe_multi_label(mistake, classes)))
    _write_details(folder, store, result.details, mistakes)
    return result.figures


def _evaluate_detector(
    params: Params, layout: Layout, store: PreparedStore, split: str, folder: Path
) -> Figures:
    from components.evaluation.detection import evaluate_detection
    from components.evaluation.mistakes import describe_detection, mistake_boxes
    from components.evaluation.pictures import draw_boxes
    from components.evaluation.plots import write_detection_plots
    from components.evaluation.prepared import predicted_objects, true_objects

    settings, classes = params.evaluate, store.info.classes
    rows = store.rows(split)
    image_ids = store.index["image_id"].to_numpy()
    truth = true_objects(store, rows)
    if truth.is_crowd.all():  # none at all, too
        raise DataError(
            f"the {split} split has {len(rows)} images and no object to find, so there is nothing "
            "to measure: choose another evaluate.split, or change the data's splits"
        )
    predictions = predicted_objects(store, _outputs(params, layout, store, rows))
    result = evaluate_detection(
        truth,
        predictions,
        image_ids[rows],
        classes,
        split=split,
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
    _write_details(folder, store, result.details, mistakes)
    return result.figures


def _write_details(
    folder: Path, store: PreparedStore, details: dict[str, Any], mistakes: list[Mistake]
) -> None:
    """Write `details.json`, and a picture of each mistake beside it."""
    from components.evaluation.pictures import save_jpeg

    listed = []
    for number, (row, picture, title, detail) in enumerate(mistakes):
        name, path = f"mistake_{number:02d}.jpg", store.index["path"].iloc[row]
        save_jpeg(folder / name, picture)
        listed.append({"picture": name, "path": path, "title": title, "detail": detail})
    write_json(folder / "details.json", rounded({**details, "mistakes": listed}))


if __name__ == "__main__":
    sys.exit(main("evaluate", __doc__, evaluate, None))
