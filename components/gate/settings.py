"""Parameters of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.settings import Settings


class GateSettings(Settings):
    """When a challenger may replace the champion. A share is 0 to 1, of the metric or of images."""

    metric: Literal["main", "accuracy", "balanced_accuracy", "map", "map_50"] = Field(
        "main", description="what decides; main: accuracy, or map for detection and several labels"
    )
    resamples: int = Field(
        2000, ge=200, le=100_000, description="of the bootstrap over images; fewer of many boxes"
    )
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="share of the resamples within an interval"
    )
    min_gain: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="the gain's interval must lie above; below 0: a loss up to that is tolerated",
    )
    floor: float = Field(
        0.0, ge=0, lt=1, description="the challenger's interval must lie above, champion or not"
    )
    class_floor: float = Field(0.0, ge=0, le=1, description="least figure of each class")
    class_drop: float = Field(
        0.1, ge=0, le=1, description="a class may lose so much, or what chance explains"
    )
    slice_floor: float = Field(0.0, ge=0, le=1, description="least figure of each slice")
    slice_drop: float = Field(
        0.1, ge=0, le=1, description="a slice may lose so much, or what chance explains"
    )
    slices: tuple[str, ...] | None = Field(
        None, description="columns of the images table; null: your own with 2 to 20 values"
    )
    min_images: int = Field(
        10, ge=1, description="classes and slices on fewer images are shown, and not judged"
    )
    parity_tolerance: float = Field(
        0.001, ge=0, le=1, description="largest difference of the metric to PyTorch's"
    )
    max_latency_ratio: float = Field(
        1.5, gt=0, description="largest time an image takes, in champion's times"
    )
    max_size_ratio: float = Field(1.5, gt=0, description="largest file, in champion's files")
    max_latency_ms: float | None = Field(
        None, gt=0, description="longest time an image takes, median; null: any"
    )
    max_megabytes: float | None = Field(None, gt=0, description="largest file; null: any")
    max_warnings: int | None = Field(
        None, ge=0, description="most warnings of the validation, drift not counted; null: any"
    )
    max_drift: int = Field(
        0, ge=0, description="most findings of drift since the data was last accepted"
    )
