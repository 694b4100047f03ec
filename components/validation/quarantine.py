"""Leaving faulty images out of a data set: openly, and not too many of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import TypedDict

from components.contract.findings import Finding, finding, shown
from components.contract.reading import Reading
from components.validation.pixel_pass import ImageFacts

Faulty = Mapping[str, tuple[str, ...]]


class Quarantined(TypedDict):
    """An image that was left out, and the error-level checks that it fails."""

    path: str
    checks: list[str]


def listed(faulty: Faulty) -> list[Quarantined]:
    """The list of what was left out, as the report has it.

    Args:
        faulty: paths of images, each with the checks that it fails.
    """
    return [{"path": shown(path), "checks": list(checks)} for path, checks in faulty.items()]


def share_fault(paths: Sequence[str], faulty: Faulty, max_share: float) -> Finding | None:
    """The finding that too many images would be left out; None if they are not too many.

    Args:
        paths: of all images that could be found.
        faulty: paths of the faulty ones, and of those that the data names and lacks.
        max_share: of the images, that may be left out.
    """
    total = len({*paths, *faulty})
    if len(faulty) <= max_share * total:
        return None
    checks = Counter(check for failed in faulty.values() for check in failed)
    counts = ", ".join(f"{check} {number}" for check, number in checks.most_common())
    return finding(
        "quarantine-share",
        "",
        f"too many images have errors for them to be left out: {counts}",
        f"{100 * len(faulty) / total:.3g} % ({len(faulty)} of {total} images)",
        f"at most {100 * max_share:g} % (validate.quarantine_max_share)",
    )


def leave_out(
    reading: Reading, facts: Sequence[ImageFacts], paths: Set[str]
) -> tuple[Reading, list[ImageFacts]]:
    """The data set without some images and their objects; what is given is not changed.

    Args:
        reading: what the reader found.
        facts: of each image of `reading.images`.
        paths: of the images to leave out.
    """
    kept = [index for index, image in enumerate(reading.images) if image.path not in paths]
    place = {old: new for new, old in enumerate(kept)}
    objects = [
        dataclasses.replace(item, image=place[item.image])
        for item in reading.objects
        if item.image in place
    ]
    rest = dataclasses.replace(
        reading, images=[reading.images[index] for index in kept], objects=objects
    )
    return rest, [facts[index] for index in kept]
