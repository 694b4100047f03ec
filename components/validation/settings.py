"""Parameters of the `validate` stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.settings import Settings


class ValidateSettings(Settings):
    """How raw data is read and what is refused."""

    format: Literal["auto", "folder", "coco"] = Field(
        "auto", description="layout of the raw data: a folder per class, or COCO JSON; auto looks"
    )
    max_megapixels: float = Field(
        64.0, gt=0, le=1000, description="largest image accepted, megapixels (decompression bombs)"
    )
    max_file_megabytes: float = Field(
        64.0, gt=0, le=4096, description="largest image file accepted, megabytes"
    )
    min_images_per_class: int = Field(
        5, ge=0, description="a class on fewer images than this is reported as a warning"
    )
    num_workers: int = Field(
        0, ge=0, le=256, description="processes that decode images; 0 means one per core"
    )
