"""Parameters of the `export` stage."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.settings import Settings


class ExportSettings(Settings):
    """The ONNX file and the proof that it equals the model."""

    formats: tuple[Literal["fp32", "fp16", "int8", "pt2"], ...] = Field(
        ("fp32",),
        description="files to write: fp32 is models/model.onnx and always needed; fp16, int8 and "
        "pt2 (torch.export's own) go to models/formats/, each only if it passes its own test",
    )
    input_size: Literal["fixed", "free", "any"] = Field(
        "fixed",
        description="of images in the file: fixed: preprocess.image_size; free: any multiple of 32 "
        "pixels, for networks that take any; any: of any size, resized in the file",
    )
    calibration_images: int = Field(
        60, ge=3, le=10_000, description="training images from which int8 learns its ranges"
    )
    opset: int = Field(18, ge=18, le=23, description="ONNX operator set")
    parity_images: int = Field(
        64,
        ge=3,
        le=100_000,
        description="images of val (without one, of the evaluated split) on "
        "which files are compared with PyTorch",
    )
    score_tolerance: float = Field(
        1e-4, gt=0, le=0.1, description="largest difference of a score or probability"
    )
    iou_tolerance: float = Field(
        0.999, gt=0.5, le=1, description="smallest overlap of two boxes that count as equal"
    )
    latency_runs: int = Field(20, ge=1, le=10_000, description="timed calls for the latency figure")
    license: str = Field("", description="licence of the weights, written into the file")

    @model_validator(mode="after")
    def _formats_can_be_written(self) -> Self:
        if "fp32" not in self.formats:
            raise ValueError(
                f"formats = {list(self.formats)}: fp32 must be among them; the others are made "
                "from it and measured against it"
            )
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats = {list(self.formats)}: names one twice")
        return self
