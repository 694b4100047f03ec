"""Validation of a whole data set: the pixel pass, the checks, the report, the tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from components.contract.findings import Finding, count
from components.contract.reading import Reading
from components.contract.tables import SPLITS, Dataset, build
from components.validation.checks import run_checks
from components.validation.pixel_pass import ImageFacts, examine_all
from components.validation.settings import ValidateSettings


@dataclass(frozen=True)
class Result:
    """What validation came to.

    Args:
        reading: what the reader found.
        facts: about the images of `reading`, in the same order.
        findings: sorted, errors first.
        dataset: the canonical tables; None if there is an error-level finding.
    """

    reading: Reading
    facts: list[ImageFacts]
    findings: list[Finding]
    dataset: Dataset | None

    def summary(self) -> dict[str, Any]:
        """`num_images`, `num_objects`, `images_per_class`, `splits`: counts of what was read."""
        images: dict[str, set[int]] = defaultdict(set)
        for item in self.reading.objects:
            images[item.label].add(item.image)
        splits = Counter(image.split or "none" for image in self.reading.images)
        return {
            "num_images": len(self.reading.images),
            "num_objects": len(self.reading.objects),
            "images_per_class": {name: len(images[name]) for name in self.reading.classes},
            "splits": {name: splits[name] for name in (*SPLITS, "none") if splits[name]},
        }

    def report(self) -> dict[str, Any]:
        """The content of `reports/validation.json`."""
        return {
            "num_errors": count(self.findings, "error"),
            "num_warnings": count(self.findings, "warning"),
            "summary": self.summary(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def validate_reading(reading: Reading, settings: ValidateSettings) -> Result:
    """Decode all images once, run all checks and, if none fails, build the tables.

    Shows a progress bar if standard error is a terminal.

    Raises:
        DataError: the pixel pass could not be finished.
    """
    paths = [image.path for image in reading.images]
    facts = list(
        tqdm(
            examine_all(
                reading.root,
                paths,
                round(settings.max_megapixels * 1e6),
                round(settings.max_file_megabytes * 1e6),
                settings.num_workers,
            ),
            total=len(paths),
            desc="images",
            unit="",
            disable=None,  # off unless on a terminal
        )
    )
    findings = run_checks(reading, facts, settings)
    dataset = None if count(findings, "error") else _dataset(reading, facts)
    return Result(reading, facts, findings, dataset)


def _dataset(reading: Reading, facts: list[ImageFacts]) -> Dataset:
    images = [
        {
            "path": image.path,
            "width": fact.width,
            "height": fact.height,
            "sha256": fact.sha256,
            "phash": fact.phash,
            "group": None,
            "split": image.split,
        }
        for image, fact in zip(reading.images, facts, strict=True)
    ]
    objects = []
    for item in reading.objects:
        row: dict[str, Any] = {"image_id": item.image, "label": item.label}
        if item.box is not None:
            x, y, width, height = item.box
            area = width * height if item.area is None else item.area
            row |= {"x": x, "y": y, "width": width, "height": height, "area": area}
            row["is_crowd"] = item.is_crowd
        objects.append(row)
    tables = build(images, objects, reading.task)
    return Dataset(*tables, reading.classes, reading.task, reading.format, reading.multi_label)
