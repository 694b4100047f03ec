"""Everything the gate's rules look at, as one JSON value: `figures` of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.bootstrap import percentile_interval
from components.gate.records import Records, as_measured, resample
from components.gate.settings import GateSettings

Positions = NDArray[np.intp]


def compare(
    models: list[Records],
    classes: Mapping[int, tuple[str, int]],
    slices: Mapping[str, Positions],
    known: list[int] | None,
    settings: GateSettings,
    seed: int,
) -> dict[str, Any]:
    """What challenger and champion come to on the same images.

    Args:
        models: the challenger's records, and the champion's where there is one.
        classes: class id to its name and its number of images.
        slices: name to positions of its images.
        known: ids of the classes that the champion knows, where there are others; else None.
        settings: resamples and confidence.
        seed: of the resamples.

    Returns:
        `all`, `known_classes` (None where they are all), `classes` and `slices` by name. Each entry
        has `num_images`, `challenger`, `champion`, `gain` and its interval `low`, `high`; but for
        classes also that of the challenger itself: `challenger_low`, `challenger_high`. `all` has
        `gains`, too: the gain in every resample, as text, from which its interval follows.
    """
    drawn = resample(models, settings.resamples, seed)
    measured = [as_measured(model) for model in models]
    whole = _entry([m for m, _ in measured], [r for r, _ in drawn], settings.confidence)
    whole |= _own_interval(drawn[0][0], settings.confidence)
    if len(models) > 1:
        whole["gains"] = " ".join(f"{gain:.6f}" for gain in drawn[0][0] - drawn[1][0])
        whole |= gain_interval(whole["gains"], settings.confidence)
    by_class = {
        class_id: _entry(
            [found[class_id] for _, found in measured],
            [found[:, k] for _, found in drawn],
            settings.confidence,
        )
        for k, class_id in enumerate(models[0].class_ids)
    }
    return {
        "all": {"num_images": models[0].num_images} | whole,
        "known_classes": None
        if known is None
        else _part([model.of_classes(known) for model in models], settings, seed),
        "classes": {
            name: {"num_images": count} | by_class[class_id]
            for class_id, (name, count) in classes.items()
            if class_id in by_class
        },
        "slices": {
            name: _part([model.of_images(positions) for model in models], settings, seed)
            for name, positions in slices.items()
        },
    }


def gain_interval(gains: str, confidence: float) -> dict[str, float | None]:
    """`low` and `high` of gains in text."""
    low, high = _interval(np.array([float(gain) for gain in gains.split()]), confidence)
    return {"low": low, "high": high}


def _part(models: list[Records], settings: GateSettings, seed: int) -> dict[str, Any]:
    """An entry about some of the images, or some of the classes."""
    drawn = [main for main, _ in resample(models, settings.resamples, seed)]
    entry = _entry([as_measured(model)[0] for model in models], drawn, settings.confidence)
    entry |= _own_interval(drawn[0], settings.confidence)
    return {"num_images": models[0].num_images} | entry


def _entry(
    values: list[float], drawn: list[NDArray[np.float64]], confidence: float
) -> dict[str, Any]:
    entry: dict[str, Any] = {"challenger": _number(values[0]), "champion": None, "gain": None}
    entry |= {"low": None, "high": None}
    if len(values) > 1:
        entry |= {"champion": _number(values[1]), "gain": _number(values[0] - values[1])}
        entry["low"], entry["high"] = _interval(drawn[0] - drawn[1], confidence)
    return entry


def _own_interval(drawn: NDArray[np.float64], confidence: float) -> dict[str, float | None]:
    low, high = _interval(drawn, confidence)
    return {"challenger_low": low, "challenger_high": high}


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[float | None, float | None]:
    return percentile_interval(values, confidence) or (None, None)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
