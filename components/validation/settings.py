"""Parameters of the `validate` stage."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from components.contract.catalogue import CHECKS
from components.settings import Settings


class ValidateSettings(Settings):
    """How raw data is read and what is refused."""

    format: Literal["auto", "folder", "csv", "coco", "voc", "yolo"] = Field(
        "auto",
        description="layout of the raw data: folder (one per class), csv, coco (JSON), "
        "voc (Pascal VOC XML), yolo (text); auto looks",
    )
    group_pattern: str | None = Field(
        None,
        description="regular expression searched in an image's path; what its first group holds "
        "(a video, patient, product) stays in one split; null: as the data says",
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
    near_duplicate_bits: int = Field(
        4,
        ge=0,
        le=10,
        description="images whose 64-bit perceptual hashes differ by at most so many bits look "
        "the same",
    )
    severity: dict[str, Literal["error", "warning", "off"]] = Field(
        {},
        description="severity of single checks other than their own, such as "
        "{class-rare: error, odd-mode: off}; docs/validation.md lists the checks",
    )
    quarantine: bool = Field(
        False,
        description="true: images with an error are left out, and listed; false: they stop the "
        "pipeline",
    )
    quarantine_max_share: float = Field(
        0.05, gt=0, le=1, description="largest share of images that may be left out"
    )
    num_workers: int = Field(
        0, ge=0, le=256, description="processes that decode images; 0 means one per core"
    )

    @field_validator("severity", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: Any) -> Any:
        # YAML reads a bare `off` as false.
        if isinstance(value, dict):
            return {name: "off" if item is False else item for name, item in value.items()}
        return value

    @field_validator("severity")
    @classmethod
    def _known_checks(cls, value: dict[str, str]) -> dict[str, str]:
        for name, severity in value.items():
            if name not in CHECKS:
                near = difflib.get_close_matches(name, CHECKS, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; docs/validation.md lists them"
                raise ValueError(f"there is no check {name!r}{hint}")
            if CHECKS[name].fixed and severity != "error":
                raise ValueError(
                    f"{name} cannot be lowered to {severity}: {CHECKS[name].meaning}; mend the "
                    "data, or leave such images out with validate.quarantine"
                )
        return value

    @field_validator("group_pattern")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as fault:
                raise ValueError(f"not a regular expression: {fault}") from None
            if groups != 1:
                raise ValueError(f"must have one group in parentheses, not {groups}")
        return value
