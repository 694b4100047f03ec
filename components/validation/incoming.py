"""Whether a batch of new data may join the data that is there.

A batch is checked by itself, as any data set, and against the current data: classes, content that
is there already, looks, and drift. Nothing is written here; `components.validation.merge` does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.contract.findings import Finding, count, finding
from components.contract.readers import read_dataset
from components.contract.reading import Reading
from components.errors import DataError
from components.validation.drift import check_drift
from components.validation.pixel_pass import FLAT, ImageFacts
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
_ROUNDING = 0.05  # pixels
_AT_ONCE = 4_000_000  # pairs of hashes that are compared at a time


class Labelled(NamedTuple):
    """A label or box, comparable between data sets and formats; of labels `box` is empty."""

    label: str
    is_crowd: bool
    box: tuple[float, ...]
    mask: str | None


# Labels and boxes of an image in an order of their own, to compare images by.
Content = tuple[Labelled, ...]


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
        reading = read_dataset(folder, "auto", there.task, there.classes, there.multi_label)
    except DataError as error:
        raise DataError(str(error).replace("base.data = ", "batch ", 1)) from None
    reading.findings = [item for item in reading.findings if item.check not in _WHOLE_ONLY]
    reading.findings = [_of_a_batch(item) for item in reading.findings]
    alone = validate_reading(reading, settings.model_copy(update={"quarantine": False}))
    facts = alone.facts
    findings = [item for item in alone.findings if item.check not in _WHOLE_ONLY]
    against, new, skipped = _compare_content(reading, facts, current)
    against += _near_copies(reading, facts, new, current, settings.near_duplicate_bits)
    changes = check_drift(profile(reading, facts), profile(there, current.facts), part=True)
    against += [item for item in changes if item.check != "drift-classes"]  # class-unknown says it
    findings += [item for item in map(_adjust(settings), against) if item is not None]
    return Verdict(reading, facts, sorted(set(findings)), new, skipped)


def _of_a_batch(item: Finding) -> Finding:
    """The finding as it reads for a batch, whose classes come from the data."""
    if item.check != "class-unknown":
        return item
    message = item.message.replace("the data has", "the batch has")
    message = message.replace("base.classes lacks", "the data lacks")
    allowed = item.allowed or "a class of the data; data with a new class is made by hand"
    return replace(item, message=message, allowed=allowed)


def contents(reading: Reading) -> list[Content]:
    """Labels and boxes of each image, comparable between data sets and formats."""
    found: list[list[Labelled]] = [[] for _ in reading.images]
    for item in reading.objects:
        row = Labelled(item.label, item.is_crowd, item.box or (), item.segmentation)
        found[item.image].append(row)
    return [tuple(sorted(items, key=lambda item: item[:3])) for items in found]


def alike(one: Content, two: Content, masks: bool = False) -> bool:
    """Whether two images are labelled equally; boxes may differ by a twentieth of a pixel.

    Args:
        one, two: labels and boxes.
        masks: a segmentation that one has and the other lacks makes them differ; else only two
            that differ do, for not all formats can hold them.
    """
    if len(one) != len(two):
        return False
    if all(_same(mine, theirs, masks) for mine, theirs in zip(one, two, strict=True)):
        return True
    # Formats round, and so boxes that are nearly the same may be in another order.
    rest = list(two)
    for mine in one:
        match = next((item for item in rest if _same(mine, item, masks)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same(one: Labelled, two: Labelled, masks: bool) -> bool:
    if one[:2] != two[:2] or not _close(one.box, two.box):
        return False
    if one.mask == two.mask:
        return True
    if one.mask is None or two.mask is None:
        return not masks
    mine, theirs = json.loads(one.mask), json.loads(two.mask)
    if not isinstance(mine, list) or not isinstance(theirs, list) or len(mine) != len(theirs):
        return bool(mine == theirs)
    return all(map(_close, mine, theirs))


def _close(one: Sequence[float], two: Sequence[float]) -> bool:
    """Formats with fractions bring rounding; so little is none of anybody's doing."""
    return len(one) == len(two) and all(
        abs(here - there) <= _ROUNDING for here, there in zip(one, two, strict=True)
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
    rows = (
        " ".join([row.label, *(f"{number:g}" for number in row.box)])
        + (" with a segmentation" if row.mask else "")
        for row in content
    )
    return ", ".join(rows) or "none"


def _near_copies(
    reading: Reading, facts: list[ImageFacts], new: list[int], current: Result, most_bits: int
) -> Iterator[Finding]:
    """New images that look like one of the current data: each with the nearest."""
    there = [
        index
        for index, fact in enumerate(current.facts)
        if not fact.fault and fact.contrast >= FLAT
    ]
    here = [index for index in new if facts[index].contrast >= FLAT]
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
            same = current.facts[there[int(nearest[row])]].sha256 == facts[index].sha256
            if differ > most_bits or same:  # of copies the content is compared
                continue
            split = reading.images[index].split
            other = current.reading.images[there[int(nearest[row])]]
            across = split is not None and other.split is not None and split != other.split
            yield finding(
                "near-duplicate-across-splits" if across else "near-duplicate",
                facts[index].path,
                f"looks like the data: {other.path}",
                f"{differ} of 64 bits apart",
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
