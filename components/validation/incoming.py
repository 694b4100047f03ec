"""Whether a batch of new data may join the data that is there.

A batch is checked by itself, as any data set, and against the current data: classes, content that
is there already, looks, and drift. Nothing is written here; `components.validation.merge` does it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.contract.findings import Finding, count, finding
from components.contract.readers import read_dataset
from components.contract.reading import Reading
from components.errors import DataError
from components.validation.drift import check_drift
from components.validation.pixel_pass import ImageFacts
from components.validation.profile import profile
from components.validation.run import Result, validate_reading
from components.validation.settings import ValidateSettings

# An addition need not have all classes and splits: what it lacks is in the current data.
_WHOLE_ONLY = {
    "class-missing",
    "class-unused",
    "class-rare",
    "class-imbalance",
    "class-not-in-train",
    "class-shares-differ",
    "split-missing",
    "split-empty",
}
_FLAT = 2.0  # contrast below which all images look alike
_AT_ONCE = 4_000_000  # pairs of hashes that are compared at a time

# Labels and boxes of an image in an order of their own, to compare images by.
Content = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """What came of comparing a batch with the current data.

    Args:
        reading: the batch.
        facts: of its images, in the same order.
        findings: sorted, errors first.
        new: positions of the images that would be added.
        skipped: images of the batch whose content is there already, equally labelled: path in the
            batch, and where that content is.
    """

    reading: Reading
    facts: list[ImageFacts]
    findings: list[Finding]
    new: list[int]
    skipped: dict[str, str]

    @property
    def refused(self) -> bool:
        """Whether it has an error, so that none of it may be merged."""
        return count(self.findings, "error") > 0


def check_batch(folder: Path, current: Result, settings: ValidateSettings) -> Verdict:
    """Check a batch by itself and against the current data.

    The checks have the severities of `settings`. Images are never left out: quarantine is for data
    that is there, a batch is mended where it comes from.

    Args:
        folder: the batch, in any format that is known for the task.
        current: validation of the current data.
        settings: of the current data.

    Raises:
        DataError: the batch cannot be read at all.
    """
    there = current.reading
    try:
        reading = read_dataset(folder, "auto", there.task, there.classes)
    except DataError as error:
        raise DataError(str(error).replace("base.data = ", "batch ", 1)) from None
    reading.findings = [item for item in reading.findings if item.check not in _WHOLE_ONLY]
    alone = validate_reading(reading, settings.model_copy(update={"quarantine": False}))
    facts = alone.facts
    findings = [item for item in alone.findings if item.check not in _WHOLE_ONLY]
    if reading.multi_label != there.multi_label and reading.objects:
        findings.append(
            finding(
                "label-row-broken",
                folder.name,
                "the batch and the data differ in how many labels an image has",
                "any number" if reading.multi_label else "one",
                "any number" if there.multi_label else "one",
            )
        )
    against, new, skipped = _compare_content(reading, facts, current)
    against += _near_copies(reading, facts, new, current, settings.near_duplicate_bits)
    changes = check_drift(profile(reading, facts), profile(there, current.facts), part=True)
    against += [item for item in changes if item.check != "drift-classes"]  # class-unknown says it
    findings += [item for item in map(_adjust(settings), against) if item is not None]
    return Verdict(reading, facts, sorted(set(findings)), new, skipped)


def contents(reading: Reading) -> list[Content]:
    """Labels and boxes of each image, comparable between data sets and formats."""
    found: list[list[tuple[Any, ...]]] = [[] for _ in reading.images]
    for item in reading.objects:
        # Formats with fractions bring rounding; a hundredth of a pixel is none of anybody's doing.
        box = () if item.box is None else tuple(map(_rounded, item.box))
        found[item.image].append((item.label, item.is_crowd, *box))
    return [tuple(sorted(items)) for items in found]


def _rounded(number: float) -> float:
    return round(number, 2) if math.isfinite(number) else math.inf  # NaN would equal nothing


def alike(one: Content, two: Content) -> bool:
    """Whether two images are labelled equally; boxes may differ by a twentieth of a pixel."""
    if len(one) != len(two) or [item[:2] for item in one] != [item[:2] for item in two]:
        return False
    return all(
        abs(here - there) <= 0.05
        for mine, theirs in zip(one, two, strict=True)
        for here, there in zip(mine[2:], theirs[2:], strict=True)
    )


def _compare_content(
    reading: Reading, facts: list[ImageFacts], current: Result
) -> tuple[list[Finding], list[int], dict[str, str]]:
    """Findings on content that is there already, positions of what is new, and what is not."""
    known: dict[str, list[tuple[Content, str]]] = {}
    there = zip(current.facts, contents(current.reading), strict=True)
    for fact, content in there:
        if not fact.fault:
            known.setdefault(fact.sha256, []).append((content, f"the data: {fact.path}"))
    findings: list[Finding] = []
    new: list[int] = []
    skipped: dict[str, str] = {}
    for index, (fact, content) in enumerate(zip(facts, contents(reading), strict=True)):
        if fact.fault:
            continue
        others = known.setdefault(fact.sha256, [])
        same = next((place for other, place in others if alike(content, other)), None)
        if same is not None:
            skipped[fact.path] = same
            continue
        if others:
            other, place = others[0]
            item = finding(
                "contradictory-labels",
                fact.path,
                f"the same content as {place}, labelled differently; one of them is wrong",
                _summary(content),
                _summary(other),
                image=fact.path,
            )
            # In data that is there it is reported; new data has no claim to be right.
            findings.append(replace(item, severity="error"))
        new.append(index)
        others.append((content, f"the batch: {fact.path}"))
    return findings, new, skipped


def _summary(content: Content) -> str:
    return (
        ", ".join(" ".join(f"{part}" for part in (row[0], *row[2:])) for row in content) or "none"
    )


def _near_copies(
    reading: Reading, facts: list[ImageFacts], new: list[int], current: Result, most_bits: int
) -> Iterator[Finding]:
    """New images that look like one of the current data: each with the nearest."""
    there = [
        index
        for index, fact in enumerate(current.facts)
        if not fact.fault and fact.contrast >= _FLAT
    ]
    here = [index for index in new if facts[index].contrast >= _FLAT]
    if not here or not there:
        return
    known = np.array([int(current.facts[index].phash, 16) for index in there], dtype=np.uint64)
    step = max(1, _AT_ONCE // len(known))
    for start in range(0, len(here), step):
        chunk = here[start : start + step]
        hashes = np.array([int(facts[index].phash, 16) for index in chunk], dtype=np.uint64)
        bits = np.bitwise_count(hashes[:, None] ^ known)
        nearest = bits.argmin(axis=1)
        for row, index in enumerate(chunk):
            differ = int(bits[row, nearest[row]])
            if differ > most_bits:
                continue
            split = reading.images[index].split
            other = current.reading.images[there[int(nearest[row])]]
            across = split is not None and other.split is not None and split != other.split
            yield finding(
                "near-duplicate-across-splits" if across else "near-duplicate",
                facts[index].path,
                f"looks like the data: {other.path}",
                f"{differ} of 64 bits differ",
                f"more than {most_bits} (validate.near_duplicate_bits)",
                image=facts[index].path,
            )


def _adjust(settings: ValidateSettings) -> Any:
    """Gives a finding the severity that the parameters want; None switches it off."""

    def apply(item: Finding) -> Finding | None:
        wanted = settings.severity.get(item.check)
        if wanted is None:
            return item
        return None if wanted == "off" else replace(item, severity=wanted)

    return apply
