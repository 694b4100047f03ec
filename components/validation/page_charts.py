"""The page's charts as inline SVG, coloured by its style sheet.

Names that come from the data stand in the HTML around a drawing, never in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 190  # of a chart's view box
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 14, 34  # margins inside it
_CELLS = 40  # of a scatter, in each direction
_MOST_TICKS = 7


@dataclass(frozen=True)
class Chart:
    """A drawing and the sentence under it."""

    svg: Markup
    caption: str


def histogram_chart(
    caption: str, unit: str, edges: Sequence[str], counts: Sequence[int] | np.ndarray
) -> Chart:
    """Bars side by side.

    Args:
        caption: what is counted.
        unit: written under the axis.
        edges: one more than `counts`, as they shall be read.
        counts: of each bin.
    """
    most = max([int(number) for number in counts] + [1])
    wide = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    high = _HEIGHT - _TOP - _BOTTOM
    parts = _count_axis(most)
    for place, number in enumerate(counts):
        if number:
            tall = max(high * int(number) / most, 0.8)
            words = f"{edges[place]} to {edges[place + 1]} {unit}: {int(number):,}"
            parts.append(
                f'<rect class="fill" x="{_LEFT + place * wide + 0.5:.1f}" '
                f'y="{_TOP + high - tall:.1f}" width="{max(wide - 1, 0.5):.1f}" '
                f'height="{tall:.1f}"><title>{escape(words)}</title></rect>'
            )
    step = math.ceil((len(edges) - 1) / _MOST_TICKS) or 1
    parts += [
        _text(_LEFT + place * wide, _HEIGHT - 20, edges[place])
        for place in range(0, len(edges), step)
    ]
    parts.append(_text(_LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _HEIGHT - 5, unit))
    return Chart(_svg(caption, parts), caption)


def size_chart(caption: str, widths: np.ndarray, heights: np.ndarray) -> Chart:
    """Images by width and height, both logarithmic; a larger dot is more images.

    Args:
        caption: what is shown.
        widths, heights: pixels, above 0, of the same length and not empty.
    """
    low = math.log2(min(widths.min(), heights.min())) - 0.25
    high = max(math.log2(max(widths.max(), heights.max())) + 0.25, low + 1)
    span = high - low
    cells = [
        np.clip(((np.log2(sides) - low) / span * _CELLS).astype(int), 0, _CELLS - 1)
        for sides in (widths, heights)
    ]
    places, counts = np.unique(np.stack(cells), axis=1, return_counts=True)
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<line class="dotted" x1="{_LEFT}" y1="{_TOP + down}" x2="{_LEFT + across}" y2="{_TOP}"/>'
    ]
    for length in _ticks(2**low, 2**high):
        share = (math.log2(length) - low) / span
        x, y = _LEFT + share * across, _TOP + (1 - share) * down
        parts += [
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + across}" y2="{y:.1f}"/>',
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_TOP + down}"/>',
            _text(x, _HEIGHT - 20, f"{length:g}"),
            _text(_LEFT - 5, y + 3, f"{length:g}", "end"),
        ]
    for cell_x, cell_y, number in zip(*places, counts, strict=True):
        x = _LEFT + (cell_x + 0.5) / _CELLS * across
        y = _TOP + (1 - (cell_y + 0.5) / _CELLS) * down
        radius = 2 + 7 * math.sqrt(number / counts.max())
        members = (cells[0] == cell_x) & (cells[1] == cell_y)
        words = (
            f"about {int(np.median(widths[members]))} x {int(np.median(heights[members]))}: "
            f"{number:,}"
        )
        parts.append(
            f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{words}</title></circle>"
        )
    parts.append(_text(_LEFT + across / 2, _HEIGHT - 5, "width, pixels"))
    parts.append(_text(2, _TOP - 3, "height, pixels", "start"))
    return Chart(_svg(caption, parts), caption)


def share_bars(shares: Sequence[float], most: float, words: str) -> Markup:
    """Thin bars under one another, as wide as their place allows.

    Args:
        shares: one for each series; series `n` has the colour `--s<n>`.
        most: the share that fills the whole width.
        words: what they say, for screen readers.
    """
    high = 8
    bars = "".join(
        f'<rect x="0" y="{place * high}" width="{100 * share / most if most else 0:.2f}" '
        f'height="{high - 2}" fill="var(--s{place})"/>'
        for place, share in enumerate(shares)
    )
    tall = high * len(shares)
    return Markup(
        f'<svg class="bars" role="img" aria-label="{escape(words)}" viewBox="0 0 100 {tall}" '
        f'height="{tall}" preserveAspectRatio="none">{bars}</svg>'
    )


def _count_axis(most: int) -> list[str]:
    """Lines and numbers for counts from 0 to `most`."""
    high = _HEIGHT - _TOP - _BOTTOM
    parts = []
    for number in sorted({0, most // 2, most}):
        y = _TOP + high * (1 - number / most)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 5, y + 3, f"{number:,}", "end"))
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, not too many, for a logarithmic axis."""
    for steps in ((1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        found = [
            step * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps
            if low <= step * 10.0**power <= high
        ]
        if len(found) <= _MOST_TICKS:
            return found
    return found


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(words: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(words)}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'
    )
