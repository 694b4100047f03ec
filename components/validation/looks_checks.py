"""Checks of what single images look like: blurred, hardly any information, odd in size.

The limits were set on `shared/data` (microscope pictures and photographs of clothes) and on blurred
copies of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from components.contract.findings import Finding, finding
from components.validation.pixel_pass import FLAT, ImageFacts

BLURRED = 0.2  # sharpness
LOW_INFORMATION = 3.0  # bits a pixel
ENOUGH = 10  # images, before a usual size means something
ODD = 5.0  # robust standard deviations of the logarithm
LEAST_FACTOR = 4.0  # of the median: sizes within it are never odd
# The median absolute deviation of a normal distribution is so many standard deviations.
MAD_OF_NORMAL = 0.6745


def check_looks(facts: Iterable[ImageFacts]) -> Iterator[Finding]:
    """`blurred-image`, `low-information` and `odd-size`, from what the pixel pass measured.

    Args:
        facts: of all images of the data set; faulty ones are passed over.
    """
    usable = [fact for fact in facts if not fact.fault]
    for fact in usable:
        if fact.contrast < FLAT:
            continue
        if fact.entropy < LOW_INFORMATION:
            yield finding(
                "low-information",
                fact.path,
                "few different values",
                f"{fact.entropy:g} bits a pixel",
                f"at least {LOW_INFORMATION:g} bits a pixel",
                image=fact.path,
            )
        elif fact.sharpness < BLURRED:
            yield finding(
                "blurred-image",
                fact.path,
                "without sharp edges",
                f"sharpness {fact.sharpness:g}",
                f"at least {BLURRED:g}",
                image=fact.path,
            )
    yield from _check_sizes(usable)


def _check_sizes(facts: list[ImageFacts]) -> Iterator[Finding]:
    """Area, aspect and file size far from their medians; one finding for an image."""
    by_format: dict[str, list[ImageFacts]] = defaultdict(list)
    for fact in facts:
        by_format[fact.format].append(fact)  # a PNG among JPEGs has many bytes and is not odd
    measures: list[tuple[str, list[ImageFacts], list[float]]] = [
        ("megapixels", facts, [fact.width * fact.height / 1e6 for fact in facts]),
        ("width over height", facts, [fact.width / fact.height for fact in facts]),
        *(
            ("megabytes", members, [fact.num_bytes / 1e6 for fact in members])
            for members in by_format.values()
        ),
    ]
    reported: set[str] = set()
    for name, members, numbers in measures:
        if len(members) < ENOUGH:
            continue
        values = np.array(numbers)
        median, factor = usual_range(values)
        for index in np.flatnonzero((values > median * factor) | (values < median / factor)):
            fact = members[index]
            if fact.path not in reported:
                reported.add(fact.path)
                yield finding(
                    "odd-size",
                    fact.path,
                    f"{name} far from the median, {median:.3g}",
                    f"{values[index]:.3g} ({fact.width} x {fact.height})",
                    f"{median / factor:.3g} to {median * factor:.3g}",
                    image=fact.path,
                )


def usual_range(values: np.ndarray) -> tuple[float, float]:
    """Median, and the factor around it beyond which a value is odd.

    Robust: up to half of the values may be odd without moving the limits far.

    Args:
        values: [N] positive numbers.
    """
    logarithms = np.log(np.maximum(values, 1e-12))
    median = float(np.median(logarithms))
    spread = float(np.median(np.abs(logarithms - median))) / MAD_OF_NORMAL
    return float(np.exp(median)), max(LEAST_FACTOR, float(np.exp(min(ODD * spread, 50.0))))
