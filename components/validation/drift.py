"""How a data set differs from the one last accepted: classes, columns, and distributions.

A distribution has drifted if two things hold. The difference is large: the total variation of
shares without order, or the largest distance of the cumulative shares of ordered bins (Kolmogorov
and Smirnov's), is at least a bound. And it is no accident: two samples of these sizes from one
distribution differ as much in fewer than one of 5,000 cases, by the chi-square or the
Kolmogorov-Smirnov test. So small sets do not alarm by chance, nor large ones by trifles.

Objects of one image are alike; the tests therefore count images, not objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from components.contract.findings import Finding, finding

_LARGE = 0.15  # total variation, or distance of cumulative shares
_BY_CHANCE = 0.0002
_FEWEST = 5.0  # expected counts below which the chi-square test's approximation fails

_ORDERED = {
    "brightness": ("drift-brightness", "the images' brightness (mean luminance, 0 to 255)"),
    "megapixels": ("drift-size", "the images' size (megapixels)"),
    "aspect": ("drift-aspect", "the images' aspect (width over height)"),
    "box_size": ("drift-box-size", "the boxes' size (root of the share of the image)"),
}


def check_drift(
    profile: dict[str, Any],
    reference: dict[str, Any],
    part: bool = False,
    large: float = _LARGE,
    by_chance: float = _BY_CHANCE,
) -> Iterator[Finding]:
    """Findings about what differs between a data set and a reference.

    Args:
        profile: of the data set, from `components.validation.profile.profile`.
        reference: of the data it is compared with.
        part: the data set is an addition to the reference: classes and columns that it lacks are
            no drift.
        large: smallest difference that counts, 0 to 1.
        by_chance: largest probability that such a difference is chance.
    """
    for key in ("task", "multi_label"):
        if profile[key] != reference[key]:
            yield finding(
                "drift-columns",
                key,
                "the data is of another kind than that last accepted; nothing else is compared",
                profile[key],
                str(reference[key]),
            )
            return
    yield from _check_classes(profile["classes"], reference["classes"], part)
    yield from _check_columns(profile["columns"], reference["columns"], part)
    if not profile["num_images"] or not reference["num_images"]:
        return
    limits = (large, by_chance)
    sizes = tuple(_num_samples(item) for item in (profile, reference))
    yield from _check_labels(profile["labels"], reference["labels"], sizes, limits)
    yield from _check_background(profile, reference, limits)
    for name, (check, what) in _ORDERED.items():
        if name not in profile["histograms"]:
            continue
        here, there = profile["histograms"][name], reference["histograms"][name]
        apart, chance = ordered_difference(here, there, *(sizes if name == "box_size" else ()))
        if apart >= large and chance < by_chance:
            medians = [item["quantiles"][name].get("50 %", 0) for item in (profile, reference)]
            yield _drifted(check, what, apart, large, f"; the median is {medians[0]:g}", medians[1])
    if "box_place" in profile:
        here, there = profile["box_place"], reference["box_place"]
        apart, chance = share_difference(here, there, *sizes)
        if apart >= large and chance < by_chance:
            yield _drifted("drift-box-place", "the place of the boxes' centres", apart, large)


def share_difference(
    here: list[int], there: list[int], num_here: int | None = None, num_there: int | None = None
) -> tuple[float, float]:
    """How far two distributions over the same categories are apart, and how likely by chance.

    Args:
        here, there: counts of each category.
        num_here, num_there: independent samples behind them, where they are fewer than the counts.

    Returns:
        The total variation of the shares, 0 to 1, and the p-value of the two-sample chi-square test
        (categories too rare for it are taken together).
    """
    from scipy.special import chdtrc  # `scipy.stats` takes a second to import

    shares = _shares(here, there)
    if shares is None:
        return 0.0, 1.0
    one, two = shares
    apart = float(np.abs(one - two).sum() / 2)
    n = min(num_here or sum(here), sum(here))
    m = min(num_there or sum(there), sum(there))
    common = (n * one + m * two) / (n + m)
    rare = common * min(n, m) < _FEWEST
    if rare.any():
        one, two, common = (np.append(item[~rare], item[rare].sum()) for item in (one, two, common))
        if common[-1] * min(n, m) < _FEWEST:
            # Together they are still too rare: they tell nothing, but their share is not lost.
            one, two, common = _fold_last(one), _fold_last(two), _fold_last(common)
    if len(common) < 2:
        return apart, 1.0
    statistic = float(((one - two) ** 2 / common).sum() / (1 / n + 1 / m))
    return apart, float(chdtrc(len(common) - 1, statistic))


def ordered_difference(
    here: list[int], there: list[int], num_here: int | None = None, num_there: int | None = None
) -> tuple[float, float]:
    """How far two histograms with the same bins are apart, and how likely by chance.

    Args:
        here, there: counts of each bin.
        num_here, num_there: independent samples behind them, where they are fewer than the counts.

    Returns:
        The largest distance of the cumulative shares, 0 to 1, and the p-value of the two-sample
        Kolmogorov-Smirnov test (too large rather than too small, for binned values).
    """
    from scipy.special import kolmogorov

    shares = _shares(here, there)
    if shares is None:
        return 0.0, 1.0
    apart = float(np.abs(np.cumsum(shares[0] - shares[1])).max())
    n = min(num_here or sum(here), sum(here))
    m = min(num_there or sum(there), sum(there))
    root = math.sqrt(n * m / (n + m))
    # Stephens' correction makes the limit distribution hold for small samples too.
    return apart, float(kolmogorov((root + 0.12 + 0.11 / root) * apart))


def _shares(here: list[int], there: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Shares of two lists of counts, or None if one of them is empty."""
    if not sum(here) or not sum(there):
        return None
    one, two = np.array(here, dtype=np.float64), np.array(there, dtype=np.float64)
    return one / one.sum(), two / two.sum()


def _fold_last(shares: np.ndarray) -> np.ndarray:
    """The last share added to the one before it; a single one stays."""
    if len(shares) < 2:
        return shares
    return np.append(shares[:-2], shares[-2:].sum())


def _num_samples(profile: dict[str, Any]) -> int:
    return max(1, profile["num_images"] - profile["num_without_objects"])


def _check_classes(here: list[str], there: list[str], part: bool) -> Iterator[Finding]:
    accept = "the classes last accepted; python -m tasks.accept accepts these"
    for name in sorted(set(here) - set(there)):
        yield finding("drift-classes", name, "a new class", name, accept)
    if not part:
        for name in sorted(set(there) - set(here)):
            yield finding("drift-classes", name, "this class has vanished", "", accept)
        if here != there and sorted(here) == sorted(there):
            yield finding(
                "drift-classes",
                "classes",
                "the classes are in another order: class ids mean something else now",
                here,
                ", ".join(there[:8]),
            )


def _check_columns(here: dict[str, str], there: dict[str, str], part: bool) -> Iterator[Finding]:
    for name in sorted(set(here) | set(there)):
        one, two = here.get(name), there.get(name)
        if one == two or "empty" in (one, two) or (part and one is None):
            continue
        if one is None:
            message = "this column has vanished"
        elif two is None:
            message = "a new column"
        else:
            message = "this column is of another type"
        yield finding("drift-columns", name, message, one or "", two or "the columns accepted")


def _check_labels(
    here: dict[str, int],
    there: dict[str, int],
    sizes: tuple[int, ...],
    limits: tuple[float, float],
) -> Iterator[Finding]:
    # Classes that came or went have findings of their own; the shares of the others may be fine.
    names = [name for name in here if name in there]
    counts = [here[name] for name in names], [there[name] for name in names]
    apart, chance = share_difference(*counts, *sizes)
    if apart < limits[0] or chance >= limits[1]:
        return
    one, two = _shares(*counts) or (np.zeros(0), np.zeros(0))
    most = int(np.abs(one - two).argmax())
    detail = f"; most of all that of {names[most]}, {one[most]:.1%}"
    yield _drifted("drift-labels", "the shares of the classes", apart, limits[0], detail, two[most])


def _check_background(
    profile: dict[str, Any], reference: dict[str, Any], limits: tuple[float, float]
) -> Iterator[Finding]:
    counts = [
        [item["num_without_objects"], item["num_images"] - item["num_without_objects"]]
        for item in (profile, reference)
    ]
    apart, chance = share_difference(counts[0], counts[1])
    if apart >= limits[0] and chance < limits[1]:
        one, two = (item[0] / sum(item) for item in counts)
        what = "the share of images without objects"
        yield _drifted("drift-background", what, apart, limits[0], f"; it is {one:.1%}", two)


def _drifted(
    check: str,
    what: str,
    apart: float,
    large: float,
    detail: str = "",
    before: float | None = None,
) -> Finding:
    was = "" if before is None else f", was {before:.4g}"
    return finding(
        check,
        "",
        f"changed since the last accepted data: {what}{detail}{was}",
        f"difference {apart:.2f}",
        f"under {large:g}, or too few images to tell",
    )
