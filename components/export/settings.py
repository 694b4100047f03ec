"""Parameters of the `export` stage."""

from __future__ import annotations

from pydantic import Field

from components.settings import Settings


class ExportSettings(Settings):
    """The ONNX file and the proof that it equals the model."""

    opset: int = Field(18, ge=18, le=23, description="ONNX operator set")
    parity_images: int = Field(
        64, ge=3, le=100_000, description="images of the evaluated split compared with PyTorch"
    )
    score_tolerance: float = Field(
        1e-4, gt=0, le=0.1, description="largest difference of a score or probability"
    )
    iou_tolerance: float = Field(
        0.999, gt=0.5, le=1, description="smallest overlap of two boxes that count as equal"
    )
    latency_runs: int = Field(20, ge=1, le=10_000, description="timed calls for the latency figure")
    license: str = Field("", description="licence of the weights, written into the file")
