"""Checks of what single images look like: blurred, hardly any information, odd in size.

The limits were set on `shared/data` (microscope pictures and photographs of clothes) and on blurred
copies of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from components.contract.findings import Finding, finding
from components.validation.pixel_pass import ImageFacts

BLURRED = 0.2  # sharpness
LOW_INFORMATION = 3.0  # bits a pixel
FLAT = 2.0  # contrast below which `flat-image` says all there is to say
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
    if len(usable) >= ENOUGH:
        yield from _check_sizes(usable)


def _check_sizes(facts: list[ImageFacts]) -> Iterator[Finding]:
    """Area, aspect and bytes a pixel far from their medians; one finding for an image."""
    width = np.array([fact.width for fact in facts], dtype=np.float64)
    height = np.array([fact.height for fact in facts], dtype=np.float64)
    num_bytes = np.array([fact.num_bytes for fact in facts], dtype=np.float64)
    measures = {
        "megapixels": width * height / 1e6,
        "width over height": width / height,
        "megabytes": num_bytes / 1e6,
    }
    reported: set[int] = set()
    for name, values in measures.items():
        median, factor = usual_range(values)
        for index in np.flatnonzero((values > median * factor) | (values < median / factor)):
            if index not in reported:
                reported.add(int(index))
                fact = facts[index]
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
