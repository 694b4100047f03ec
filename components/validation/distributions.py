"""How the classes, the images and the boxes of a data set are distributed, for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from components.contract.findings import shown
from components.contract.reading import Reading
from components.contract.tables import SPLITS
from components.validation.object_columns import ObjectColumns
from components.validation.page_charts import Chart, histogram_chart, share_bars, size_chart
from components.validation.pixel_pass import ImageFacts

_MOST_CLASSES, _RAREST = 60, 20  # rows of the table; of which the rarest where there are more
_MOST_BOXES = 20  # bins of boxes an image
_LARGEST = 14  # boxes of more than two to this many pixels are counted as that
_MOST_BARS = 40  # rows or bins of one drift table


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: its id, its images, and its labels or boxes in each split."""

    id: int
    name: str
    num_images: int
    num_objects: int
    bars: Markup


@dataclass(frozen=True)
class Pair:
    """A number of the reference beside the current one, as shares, and what is counted."""

    name: str
    reference: float
    current: float
    bars: Markup


def class_rows(
    reading: Reading, images_per_class: Mapping[str, int], columns: ObjectColumns
) -> tuple[list[str], list[ClassRow], int]:
    """Classes with their shares of each split.

    Of very many classes the most frequent and the rarest.

    Returns:
        Names of the splits in the order of the bars; the rows by id; how many classes there are
        beyond them.
    """
    found = sorted({image.split for image in reading.images}, key=_order)
    counts = columns.labels_per_split(found)
    total = counts.sum(axis=0).tolist()
    ids = range(len(reading.classes))
    if len(ids) > _MOST_CLASSES:
        by_number = sorted(ids, key=lambda place: -total[place])
        ids_shown = sorted(by_number[: _MOST_CLASSES - _RAREST] + by_number[-_RAREST:])
    else:
        ids_shown = list(ids)
    shares_of = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # [S, C]
    most = float(shares_of[:, ids_shown].max(initial=0.0)) if shares_of.size else 1.0
    splits = [split or "no split" for split in found]
    rows = []
    for place in ids_shown:
        name = reading.classes[place]
        shares = shares_of[:, place].tolist()
        words = ", ".join(
            f"{split} {share:.1%}" for split, share in zip(splits, shares, strict=True)
        )
        bars = share_bars(shares, most, words)
        rows.append(ClassRow(place, shown(name), images_per_class.get(name, 0), total[place], bars))
    return splits, rows, len(reading.classes) - len(rows)


def _order(split: str | None) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def data_charts(reading: Reading, facts: list[ImageFacts], columns: ObjectColumns) -> list[Chart]:
    """Sizes and brightness of the images that can be read; number and size of their boxes."""
    usable = [fact for fact in facts if not fact.fault]
    charts = []
    if usable:
        widths = np.array([fact.width for fact in usable])
        heights = np.array([fact.height for fact in usable])
        charts.append(
            size_chart("Image sizes; a larger dot is more images, the dotted line square ones",
                       widths, heights)
        )  # fmt: skip
        brightness = np.array([fact.brightness for fact in usable])
        counts, _ = np.histogram(brightness, 16, (0, 256))
        edges = [str(16 * place) for place in range(17)]
        charts.append(histogram_chart("Images by mean brightness", "of 255", edges, counts))
    if reading.task == "detection" and reading.images:
        charts += _box_charts(facts, columns)
    return charts


def _box_charts(facts: list[ImageFacts], columns: ObjectColumns) -> list[Chart]:
    rows, boxes = columns.boxes
    images = columns.image[rows]
    boxes_of = np.bincount(images, minlength=len(facts))
    step = max(1, -(-int(boxes_of.max() + 1) // _MOST_BOXES))
    bins = int(boxes_of.max()) // step + 1
    counts = np.bincount(boxes_of // step, minlength=bins)
    edges = [str(place * step) for place in range(bins + 1)]
    charts = [histogram_chart("Images by their number of boxes", "boxes", edges, counts)]
    # The size of an image with a fault is 0, and its boxes are none of those counted.
    sizes = np.array([(fact.width, fact.height) for fact in facts], dtype=np.float64)
    sides = np.concatenate([boxes[:, 2:], sizes[images]], axis=1)
    if sides[:, 2].max(initial=0.0) == 0:
        return charts
    sides = sides[np.isfinite(sides).all(axis=1) & (sides > 0).all(axis=1)]
    lengths = np.sqrt(sides[:, 0]) * np.sqrt(sides[:, 1])  # in this order it cannot overflow
    shares = lengths / np.sqrt(sides[:, 2] * sides[:, 3])
    powers = np.clip(np.floor(np.log2(lengths)), 0, _LARGEST).astype(int)
    counts = np.bincount(powers, minlength=1)
    edges = ["0", *(str(2**place) for place in range(1, len(counts) + 1))]
    charts.append(
        histogram_chart("Boxes by the square root of their area", "pixels", edges, counts)
    )
    counts, _ = np.histogram(np.clip(shares, 0, 1), 20, (0, 1))
    edges = [str(5 * place) for place in range(21)]
    charts.append(
        histogram_chart(
            "Boxes by their length as a share of the image's (square roots of the areas)",
            "%", edges, counts,
        )
    )  # fmt: skip
    return charts


def paired(
    reference: Mapping[str, Any],
    current: Mapping[str, Any],
    edges: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
) -> Iterator[tuple[str, list[Pair], int]]:
    """Two profiles of data sets beside each other, part by part.

    A profile is a mapping; of its values are shown: mappings of names to counts, lists of counts
    (of a histogram's bins), and mappings of all these. Counts are integers; they become shares of
    their sum. All else is passed over.

    Args:
        reference: profile of the last accepted data.
        current: profile of this data.
        edges: between the bins of a histogram, by its name; the outer bins are open. Bins without
            edges are numbered from 1.
        title: of the part that the two are; empty at the top.

    Yields:
        A part's title, its rows, and how many rows there are beyond them.
    """
    for key in [*reference, *(key for key in current if key not in reference)]:
        one, two = reference.get(key), current.get(key)
        name = f"{title}, {key}" if title else str(key)
        between = (edges or {}).get(key, ())
        counts = _counts(one, between), _counts(two, between)
        if counts[0] or counts[1]:
            pairs, left_out = _pairs(*counts, in_order=isinstance(one or two, list | tuple))
            yield shown(name.replace("_", " ")), pairs, left_out
        elif isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from paired(one, two, edges, name)


def _counts(value: Any, edges: Sequence[float]) -> dict[str, int]:
    """Bins or names and their counts; empty if `value` is nothing of the kind."""
    if isinstance(value, list | tuple) and len(value) > 1 and _are_counts(value):
        return dict(zip(_bins(edges, len(value)), value, strict=True))
    if isinstance(value, Mapping) and _are_counts(value.values()):
        return {str(name): number for name, number in value.items()}
    return {}


def _are_counts(values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _bins(edges: Sequence[float], number: int) -> list[str]:
    """Names of a histogram's bins."""
    if len(edges) != number - 1:
        return [str(place) for place in range(1, number + 1)]
    texts = [f"{edge:.3g}" for edge in edges]
    inner = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"under {texts[0]}", *inner, f"{texts[-1]} and more"]


def _pairs(
    one: Mapping[str, int], two: Mapping[str, int], in_order: bool
) -> tuple[list[Pair], int]:
    """Rows of one part, and how many are left out; `in_order`: empty ends are dropped."""
    names = [*one, *(name for name in two if name not in one)]
    if in_order:
        filled = [place for place, name in enumerate(names) if one.get(name) or two.get(name)]
        names = names[filled[0] : filled[-1] + 1] if filled else []
    sums = [sum(part.values()) or 1 for part in (one, two)]
    shares = {name: (one.get(name, 0) / sums[0], two.get(name, 0) / sums[1]) for name in names}
    most = max((max(pair) for pair in shares.values()), default=1.0)
    if len(names) > _MOST_BARS:  # those that changed most
        changed = sorted(names, key=lambda name: -abs(shares[name][0] - shares[name][1]))
        kept = set(changed[:_MOST_BARS])
        names = [name for name in names if name in kept]
    rows = []
    for name in names:
        before, now = shares[name]
        words = f"reference {before:.1%}, now {now:.1%}"
        rows.append(Pair(shown(name), before, now, share_bars((before, now), most, words)))
    return rows, len(shares) - len(rows)
