"""The main figure on parts of the images: where a model is worse than its average tells.

Shapes: N images, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.evaluation.bootstrap import Measure, drawn_weights, percentile_interval

MIN_IMAGES = 10  # below, a slice's figure says more about chance than about the model
MAX_VALUES = 20  # of a column of words; the most frequent ones
NUM_PARTS = 4  # of a column of numbers, with equally many images each
MISSING = "(none)"


@dataclass(frozen=True)
class Slice:
    """Some of the images.

    Args:
        column: what they are chosen by.
        value: what they have in common, for people.
        images: positions.
    """

    column: str
    value: str
    images: NDArray[np.int64]


def make_slices(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> list[Slice]:
    """Slices by each column, with `MIN_IMAGES` images at least.

    A column of numbers with more than `NUM_PARTS` values is cut at its quartiles; any other one
    gives a slice a value. One in which all images are alike gives none.

    Args:
        columns: name to a value for each of the N images; None and NaN are values missing.
    """
    found = []
    for name, values in columns.items():
        labels = _labels(pd.Series(values).reset_index(drop=True))
        counts = labels.value_counts(sort=False)
        if len(counts) < 2:
            continue
        frequent = counts.sort_values(ascending=False, kind="stable").index[:MAX_VALUES]
        for value in frequent:
            images = np.flatnonzero((labels == value).to_numpy())
            if len(images) >= MIN_IMAGES:
                found.append(Slice(name, str(value), images))
    return found


def _labels(values: pd.Series[Any]) -> pd.Series[Any]:
    """The slice of each image, as text."""
    missing = values.isna()
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and values[~missing].nunique() > NUM_PARTS:
        numbers = values.to_numpy(np.float64)
        edges = np.unique(np.quantile(numbers[~missing], np.linspace(0, 1, NUM_PARTS + 1)))
        # A part holds its lower edge, the last one its upper one too.
        part = np.searchsorted(edges[1:-1], numbers, side="right")
        names = np.array([f"{_short(a)} to {_short(b)}" for a, b in pairwise(edges)], dtype=object)
        labels = pd.Series(names[part], dtype=object)
    elif numeric:
        labels = values.astype(object).map(lambda value: _short(value), na_action="ignore")
    else:
        labels = values.astype(object).map(str, na_action="ignore")
    return labels.mask(missing, MISSING)


def _short(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def measure_slices(
    slices: Sequence[Slice], measure: Measure, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The main figure of each slice with its 95 % interval, the worst first.

    Args:
        slices: as `make_slices` gives them.
        measure: of the main figure.
        num_resamples: R of each slice; with 0 there is no interval.
        seed: of the resampling.

    Returns:
        `column`, `value`, `num_images`, `figure`, and `low` and `high` of the interval. A slice
        without a figure (no object in it) is left out.
    """
    rows: list[dict[str, Any]] = []
    for item in slices:
        count = len(item.images)
        figure = float(measure(item.images, np.ones((1, count)))[0])
        if not np.isfinite(figure):
            continue
        row: dict[str, Any] = {"column": item.column, "value": item.value, "num_images": count}
        row["figure"] = figure
        if num_resamples:
            drawn = drawn_weights(count, num_resamples, seed, 10 * count)
            values = [measure(item.images, weights) for weights in drawn]
            interval = percentile_interval(np.concatenate(values))
            if interval:
                row["low"], row["high"] = interval
        rows.append(row)
    return sorted(rows, key=lambda row: (row["figure"], row["column"], row["value"]))
