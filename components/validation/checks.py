"""The front of all checks: what is wrong with a raw data set, once its images are decoded.

Checks of single rows of an annotation file (types, ids, unknown classes, paths) are made by the
readers, where the row is at hand. Here, `check_rows` finds what is wrong with single images and
objects, each of which could be left out; `check_whole` what is wrong with the data set, or with
what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from components.contract.findings import Finding, finding
from components.contract.reading import Reading
from components.validation import (
    box_checks,
    image_checks,
    label_checks,
    looks_checks,
    near_duplicates,
    split_checks,
)
from components.validation.ledger import Ledger, Offenders, Shared
from components.validation.object_columns import ObjectColumns
from components.validation.pixel_pass import ImageFacts
from components.validation.settings import ValidateSettings

Found = Iterable[Finding | Offenders | Shared]


def run_checks(
    reading: Reading,
    facts: Sequence[ImageFacts],
    settings: ValidateSettings,
    training_size: tuple[int, int] | None = None,
) -> list[Finding]:
    """All findings about a data set, the reader's among them, sorted; none is left out.

    A check that itself fails becomes an error-level finding: what was not checked is not fine.

    Args:
        reading: what the reader found.
        facts: of each image of `reading.images`, in the same order.
        settings: limits and severities.
        training_size: height and width of the model's input, pixels; None if it is not known.
    """
    columns = ObjectColumns(reading)
    ledger = check_rows(reading, facts, columns, settings, training_size)
    check_whole(reading, columns, settings, ledger)
    return ledger.findings()


def check_rows(
    reading: Reading,
    facts: Sequence[ImageFacts],
    columns: ObjectColumns,
    settings: ValidateSettings,
    training_size: tuple[int, int] | None,
) -> Ledger:
    """The reader's findings, and those about single images and objects; see `run_checks`."""
    ledger = Ledger([image.path for image in reading.images], settings.severity)
    ledger.extend(reading.findings)
    checks: dict[str, Callable[[], Found]] = {
        "files": lambda: image_checks.check_files(facts),
        "images": lambda: image_checks.check_images(reading, facts),
        "names": lambda: image_checks.check_names(reading),
        "labels": lambda: label_checks.check_labels(reading, columns),
        "boxes": lambda: box_checks.check_boxes(reading, facts, columns, training_size),
        "groups": lambda: split_checks.check_groups(reading),
        "copies": lambda: split_checks.check_copies(reading, facts, columns),
        "looks": lambda: looks_checks.check_looks(facts),
        "alike": lambda: near_duplicates.check_near_duplicates(
            reading, facts, settings.near_duplicate_bits
        ),
    }
    _run(checks, ledger)
    return ledger


def check_whole(
    reading: Reading, columns: ObjectColumns, settings: ValidateSettings, ledger: Ledger
) -> None:
    """Add to `ledger` what is wrong with the data set as a whole.

    Args:
        reading: what the reader found, without the images that are left out.
        columns: of its objects.
        settings: limits.
        ledger: what was found before.
    """
    if not reading.images:
        # With other errors, having no images is but what follows from them.
        stops = ledger.num("error", unplaced=settings.quarantine)
        if not stops:
            where = reading.root.name
            ledger.add(finding("no-images", where, "there is no usable image", 0, "at least one"))
        return
    checks: dict[str, Callable[[], Found]] = {
        "classes": lambda: label_checks.check_classes(
            reading, columns, settings.min_images_per_class, ledger.faulty
        ),
        "splits": lambda: split_checks.check_splits(reading, columns),
    }
    _run(checks, ledger)


def _run(checks: Mapping[str, Callable[[], Found]], ledger: Ledger) -> None:
    for name, check in checks.items():
        try:
            # Hostile numbers overflow; what comes of it is infinite or NaN, and judged as such.
            with np.errstate(all="ignore"):
                ledger.extend(check())
        except Exception as fault:  # noqa: BLE001
            detail = f"{type(fault).__name__}: {fault}"
            ledger.add(finding("check-failed", "", f"the check of {name} failed", detail))
