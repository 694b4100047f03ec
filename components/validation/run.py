"""Validation of a whole data set: the pixel pass, the checks, the quarantine, the tables."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from tqdm import tqdm

from components.contract.accepted_splits import AcceptedSplits
from components.contract.findings import Finding, finding
from components.contract.reading import Reading, collector_paused
from components.contract.tables import SPLITS, Dataset, build
from components.errors import DataError
from components.validation.checks import check_rows, check_whole
from components.validation.drift import check_drift
from components.validation.known_facts import still_true
from components.validation.object_columns import ObjectColumns
from components.validation.pixel_pass import ImageFacts, examine_all
from components.validation.profile import profile
from components.validation.quarantine import Quarantined, leave_out, listed, share_fault
from components.validation.settings import ValidateSettings
from components.validation.split_checks import check_accepted


@dataclass(frozen=True)
class Result:
    """What validation came to.

    Args:
        reading: what the reader found.
        facts: about the images of `reading`, in the same order.
        findings: sorted, errors first; of very many of one check only some.
        dataset: the canonical tables, without the images in quarantine; None if an error stops,
            unless it is drift, which the data's acceptance ends.
        num_errors: violations that stop, listed or not.
        num_warnings: violations that are only reported, listed or not.
        quarantine: the images that were left out, sorted; errors about them do not stop.
        profile: what the data, without those, is like; see `components.validation.profile`.
        num_accepted_errors: errors that stop, but would not once this data is accepted: drift.
        num_decoded: images that were decoded; facts about the others were known.
    """

    reading: Reading
    facts: list[ImageFacts]
    findings: list[Finding]
    dataset: Dataset | None
    num_errors: int
    num_warnings: int
    quarantine: list[Quarantined] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)
    num_accepted_errors: int = 0
    num_decoded: int = 0

    @property
    def stopping(self) -> list[Finding]:
        """The findings that stop the pipeline."""
        return [item for item in self.findings if self._stops(item)]

    @cached_property
    def columns(self) -> ObjectColumns:
        """Of all objects that were read."""
        return ObjectColumns(self.reading)

    def summary(self) -> dict[str, Any]:
        """`num_images`, `num_objects`, `images_per_class`, `splits`: counts of what was read."""
        numbers = self.columns.images_per_class.tolist()
        splits = Counter(image.split or "none" for image in self.reading.images)
        return {
            "num_images": len(self.reading.images),
            "num_objects": len(self.reading.objects),
            "images_per_class": dict(zip(self.reading.classes, numbers, strict=True)),
            "splits": {name: splits[name] for name in (*SPLITS, "none") if splits[name]},
        }

    def report(self) -> dict[str, Any]:
        """The content of `reports/validation.json`.

        Findings that do not stop because their image was left out have `quarantined: true`.
        """
        findings: list[dict[str, Any]] = []
        for item in self.findings:
            spared = item.severity == "error" and not self._stops(item)
            findings.append(item.to_dict() | ({"quarantined": True} if spared else {}))
        return {
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "num_quarantined": len(self.quarantine),
            "summary": self.summary(),
            "quarantined": self.quarantine,
            "findings": findings,
        }

    def _stops(self, item: Finding) -> bool:
        return item.severity == "error" and not (self.quarantine and item.image)


def validate_reading(
    reading: Reading,
    settings: ValidateSettings,
    training_size: tuple[int, int] | None = None,
    reference: dict[str, Any] | None = None,
    accepted: AcceptedSplits | None = None,
    group_near_duplicates: bool = False,
    known: Mapping[str, ImageFacts] | None = None,
) -> Result:
    """Decode all images once, run all checks and, if no error stops, build the tables.

    Shows a progress bar if standard error is a terminal. With `settings.quarantine`, images with an
    error are left out, and what is left is checked as a whole.

    Args:
        reading: what the reader found; `settings.group_pattern` sets the groups of its images.
        settings: limits, severities, quarantine.
        training_size: height and width of the model's input, pixels; None if it is not known.
        reference: profile of the last accepted data, that drift is measured from; None: no drift.
        accepted: the drawn splits that were last accepted.
        group_near_duplicates: images that look the same are to be in one drawn split.
        known: facts by path, from before; images whose content they tell of are not decoded.

    Raises:
        DataError: the pixel pass could not be finished.
    """
    if settings.group_pattern:
        set_groups(reading, settings.group_pattern)
    paths = [image.path for image in reading.images]
    limits = round(settings.max_megapixels * 1e6), round(settings.max_file_megabytes * 1e6)
    held = still_true(reading.root, paths, known, *limits) if known else {}
    rest = [path for path in paths if path not in held]
    examined = iter(
        tqdm(
            examine_all(reading.root, rest, *limits, settings.num_workers),
            total=len(rest),
            desc="images",
            unit="",
            disable=None,  # off unless on a terminal
        )
    )
    facts = [held[path] if path in held else next(examined) for path in paths]
    with collector_paused():
        result = _judged(
            reading,
            facts,
            settings,
            training_size,
            reference,
            lambda kept, its_facts: check_accepted(
                kept,
                its_facts,
                accepted or AcceptedSplits(),
                settings.near_duplicate_bits if group_near_duplicates else None,
            ),
        )
    return dataclasses.replace(result, num_decoded=len(rest))


def _judged(
    reading: Reading,
    facts: list[ImageFacts],
    settings: ValidateSettings,
    training_size: tuple[int, int] | None,
    reference: dict[str, Any] | None,
    check_kept_splits: Callable[[Reading, list[ImageFacts]], Iterable[Finding]],
) -> Result:
    """All checks, the quarantine and the tables; see `validate_reading`."""
    paths = [image.path for image in reading.images]
    columns = ObjectColumns(reading)
    ledger = check_rows(reading, facts, columns, settings, training_size)
    faulty = ledger.faulty if settings.quarantine else {}
    kept, kept_facts = reading, facts
    if faulty:
        too_many = share_fault(paths, faulty, settings.quarantine_max_share)
        if too_many:
            ledger.add(too_many)
            faulty = {}
        else:
            kept, kept_facts = leave_out(reading, facts, faulty.keys())
            columns = ObjectColumns(kept)
    check_whole(kept, columns, settings, ledger)
    ledger.extend(check_kept_splits(kept, kept_facts))
    described = profile(kept, kept_facts, columns)
    before = ledger.num("error", unplaced=bool(faulty))
    if reference is not None:
        ledger.extend(check_drift(described, reference))
    num_drift = ledger.num("error", unplaced=bool(faulty)) - before
    dataset = None
    if ledger.num("error", unplaced=bool(faulty)) == num_drift:
        dataset = _dataset(kept, kept_facts, columns)
        try:
            dataset.check()
        except DataError as fault:
            ledger.add(finding("column-missing", "", str(fault)))
            dataset = None
    return Result(
        reading,
        facts,
        ledger.findings(),
        dataset,
        ledger.num("error", unplaced=bool(faulty)),
        ledger.num("warning"),
        listed(faulty),
        described,
        num_drift,
    )


def set_groups(reading: Reading, pattern: str) -> None:
    """Give images the group that their path tells; where it tells none, they keep what they have.

    Args:
        reading: its images are changed.
        pattern: regular expression with one group, searched in the paths.
    """
    search = re.compile(pattern).search
    for image in reading.images:
        found = search(image.path)
        if found and found[1]:
            image.group = found[1]


def _dataset(reading: Reading, facts: list[ImageFacts], columns: ObjectColumns) -> Dataset:
    images = [
        {
            **(image.columns or {}),
            "path": image.path,
            "width": fact.width,
            "height": fact.height,
            "sha256": fact.sha256,
            "phash": fact.phash,
            "group": image.group,
            "split": image.split,
        }
        for image, fact in zip(reading.images, facts, strict=True)
    ]
    # A column at a time: a million dicts would take ten times the memory.
    items = reading.objects
    objects: dict[str, Any] = {
        "image_id": columns.image,
        "label": list(map(attrgetter("label"), items)),
    }
    if reading.task == "detection":
        xywh = np.zeros((len(items), 4))
        rows, boxes = columns.boxes
        xywh[rows] = boxes
        objects |= dict(zip(("x", "y", "width", "height"), xywh.T, strict=True))
        areas = np.array(list(map(attrgetter("area"), items)), dtype=np.float64)  # None is NaN
        objects["area"] = np.where(np.isnan(areas), xywh[:, 2] * xywh[:, 3], areas)
        objects["is_crowd"] = columns.is_crowd
        objects["segmentation"] = list(map(attrgetter("segmentation"), items))
    tables = build(images, objects, reading.task)
    return Dataset(*tables, reading.classes, reading.task, reading.format, reading.multi_label)
