"""A model over any number of image files, in batches, in bounded memory, past bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from components.contract.pixels import ImageError, load_rgb
from components.errors import DataError
from components.export.predictor import OnnxPredictor, Prepared

DETECTION_THRESHOLD = 0.3  # of what is shown; a detector's own is low, to be measured with


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Args:
        path: the image file; None for an input that leads to none.
        number: position among all results, from 1.
        answer: `width` and `height` of the image (pixels, upright) and what
            `OnnxPredictor.predict` gives; empty for an input that could not be used.
        error: why not: name and reason.
    """

    path: Path | None
    number: int
    answer: dict[str, Any]
    error: str = ""


def shown_threshold(predictor: OnnxPredictor, threshold: float | None) -> float | None:
    """The threshold to predict with: the user's, or what suits the model where there is none."""
    if threshold is None and predictor.task == "detection":
        return DETECTION_THRESHOLD
    return threshold


def with_size(image: Prepared, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with the `width` and `height` of its image before it."""
    height, width = image.shape
    return {"width": width, "height": height, **answer}


def predict_files(
    predictor: OnnxPredictor,
    paths: Iterable[Path | DataError],
    threshold: float | None = None,
    batch: int = 1,
) -> Iterator[Result]:
    """Predictions on image files; while one batch is computed, the next one is read.

    At any time one image of full size is in memory, and two batches as the model takes them.

    Args:
        predictor: the model.
        paths: image files; a `DataError` among them becomes a result.
        threshold: see `OnnxPredictor.predict_prepared`.
        batch: images a batch; one where the graph resizes, since they are then of full size.

    Yields:
        A result for each of `paths`, in their order.
    """
    batch = 1 if predictor.resizes else batch
    read = enumerate((_read(predictor, path) for path in paths), 1)
    # Only ONNX Runtime's work is done beside this thread: opening images is not thread-safe.
    with ThreadPoolExecutor(1) as runner:
        before: tuple[Any, ...] = ()
        while True:
            entries = list(islice(read, batch))
            usable = [entry for _, (_, entry) in entries if isinstance(entry, Prepared)]
            future = runner.submit(predictor.predict_prepared, usable, threshold)
            if before:
                yield from _results(*before)
            if not entries:
                break
            before = entries, future


def _read(
    predictor: OnnxPredictor, path: Path | DataError
) -> tuple[Path | None, Prepared | DataError]:
    if isinstance(path, DataError):
        return None, path
    try:
        return path, predictor.prepare(load_rgb(path))
    except ImageError as error:
        return path, error


def _results(entries: Any, future: Any) -> Iterator[Result]:
    answers = iter(future.result())
    for number, (path, entry) in entries:
        if isinstance(entry, DataError):
            yield Result(path, number, {}, str(entry))
        else:
            yield Result(path, number, with_size(entry, next(answers)))
