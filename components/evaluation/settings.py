"""Parameters of the `evaluate` stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.settings import Settings


class EvaluateSettings(Settings):
    """What is measured, and how raw outputs become predictions (in the ONNX file too)."""

    split: Literal["auto", "test", "val"] = Field(
        "auto", description="images to measure on; auto: test where there is one, else val"
    )
    batch_size: int = Field(16, ge=1, le=4096, description="images at a time")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="detection: weaker predictions are dropped"
    )
    nms_threshold: float = Field(
        0.6, gt=0, le=1, description="detection: IoU above which the weaker of two boxes goes"
    )
    max_detections: int = Field(100, ge=1, le=1000, description="detection: most boxes an image")
    num_mistakes: int = Field(12, ge=0, le=200, description="worst mistakes drawn for the page")
    bootstrap: int = Field(
        1000, ge=0, le=100_000, description="resamples for the 95 % interval; 0 for no interval"
    )

    def thresholds(self) -> dict[str, float]:
        """The detector's thresholds, by its own names for them."""
        return {
            "score_thresh": self.score_threshold,
            "nms_thresh": self.nms_threshold,
            "max_detections_per_image": self.max_detections,
        }
