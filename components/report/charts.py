"""Charts as inline SVG: drawn by matplotlib, coloured by the page's style sheet.

Text and lines take their colours from CSS variables, so that one drawing serves light, dark and
paper. Names of classes stand in a legend made of HTML, never in the drawing.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MAX_SERIES = 8

# Stand-ins that become CSS; no drawing uses these colours for itself.
_INK, _GRID = "#010203", "#010204"
_SERIES = tuple(f"#0101{i:02x}" for i in range(0x10, 0x10 + MAX_SERIES))
_CSS = {
    _INK: "currentColor",
    _GRID: "var(--line)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(_SERIES)},
}
_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.facecolor": "none",
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class LegendEntry:
    """Name of a line, its colour (a CSS variable's number) and whether it is dashed."""

    name: str
    series: int
    dashed: bool


@dataclass(frozen=True)
class Chart:
    """A drawing with its words.

    Args:
        svg: an `<svg>` element without outside references, its ids unique to `key`.
        caption: shown under it.
        legend: names of its lines.
    """

    svg: Markup
    caption: str
    legend: tuple[LegendEntry, ...] = ()


def training_charts(rows: Sequence[Mapping[str, float]], best_epoch: int | None) -> list[Chart]:
    """Losses, the validation metric and the learning rate over the epochs.

    Args:
        rows: of `plots/train.csv`; a value that is not finite leaves a gap.
        best_epoch: marked by a line.
    """
    if not rows:
        return []
    names = [name for name in rows[0] if name != "epoch"]
    losses = [name for name in names if name.endswith("loss")]
    groups = [
        ("loss", "Loss", losses),
        ("metric", "Validation metric", [n for n in names if n not in losses and n != "lr"]),
        ("lr", "Learning rate", [n for n in names if n == "lr"]),
    ]
    epochs = [row["epoch"] for row in rows]
    charts = []
    for key, caption, columns in groups:
        columns = [n for n in columns if any(math.isfinite(row[n]) for row in rows)]
        if columns:
            lines = {name: (epochs, [row[name] for row in rows]) for name in columns[:MAX_SERIES]}
            charts.append(_curve_chart(f"train-{key}", caption, lines, best_epoch))
    return charts


def _curve_chart(
    key: str,
    caption: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    best_epoch: int | None,
) -> Chart:
    legend = tuple(LegendEntry(name, i, i % 2 == 1) for i, name in enumerate(lines))

    def draw(axes: Axes) -> None:
        for entry, (x, y) in zip(legend, lines.values(), strict=True):
            marker = "o" if len(x) < 25 else None
            style = "--" if entry.dashed else "-"
            axes.plot(x, y, style, color=_SERIES[entry.series], marker=marker, markersize=3)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))

    names = ", ".join(lines)
    words = f"{caption}: {names} over the epochs"
    if best_epoch is not None:
        caption += f" (dotted: best epoch, {best_epoch})"
    return Chart(_svg(key, words, draw, size=(3.5, 2.4)), caption, legend)


def precision_recall_chart(
    curves: Mapping[str, Sequence[Sequence[float]]], order: Sequence[str], caption: str
) -> Chart | None:
    """Precision over recall; of many classes the first `MAX_SERIES` of `order`.

    Args:
        curves: class to its (recall, precision) points.
        order: class names, those to show first in front.
        caption: to which the page adds how many classes are shown.
    """
    names = [name for name in order if name in curves][:MAX_SERIES]
    if not names:
        return None
    legend = tuple(LegendEntry(name, i, i >= 4) for i, name in enumerate(names))

    def draw(axes: Axes) -> None:
        for entry in legend:
            points = np.asarray(curves[entry.name], dtype=float).reshape(-1, 2)
            style = "--" if entry.dashed else "-"
            axes.plot(points[:, 0], points[:, 1], style, color=_SERIES[entry.series])
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))

    if len(curves) > len(names):
        caption += f": the {len(names)} weakest of {len(curves)} classes"
    return Chart(_svg("precision-recall", f"{caption}, a curve a class", draw), caption, legend)


def calibration_chart(
    bins: Sequence[Mapping[str, float]],
    words: tuple[str, str, str],
    before: Sequence[Mapping[str, float]] = (),
) -> Chart | None:
    """Accuracy over confidence; the area of a point is its share of the images.

    Args:
        bins: `confidence`, `accuracy` and `count` of each.
        words: what confidence, accuracy and what is counted are called.
        before: the bins without the model's temperature, for a line to compare with.
    """
    if not bins:
        return None
    total = sum(item["count"] for item in bins)
    x = [item["confidence"] for item in bins]
    y = [item["accuracy"] for item in bins]
    sizes = [12 + 300 * item["count"] / total for item in bins]

    legend = (LegendEntry("with its temperature", 0, False), LegendEntry("without", 1, True))
    old = [[item[key] for item in before] for key in ("confidence", "accuracy")]

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color=_INK, linewidth=1)
        axes.plot(*old, "--", color=_SERIES[1], linewidth=1)
        axes.plot(x, y, color=_SERIES[0], linewidth=1)
        axes.scatter(x, y, s=sizes, color=_SERIES[0], alpha=0.75)
        axes.set(xlabel=words[0], ylabel=words[1], xlim=(0, 1.04), ylim=(0, 1.06))

    caption = (
        f"{words[0].capitalize()} and {words[1]}; on the dotted line they agree, larger points "
        f"hold more {words[2]}"
    )
    return Chart(_svg("calibration", caption, draw), caption, legend if before else ())


def confusion_chart(counts: Sequence[Sequence[int]]) -> Chart:
    """A confusion matrix too large for a table: share of each actual class, darker is more."""
    matrix = np.asarray(counts, dtype=float)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        rgba = np.zeros((*share.shape, 4))
        rgba[..., :3] = np.array([0x2A, 0x78, 0xD6]) / 255
        rgba[..., 3] = np.sqrt(share)
        axes.imshow(rgba, interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.set(xlabel="predicted class, by id", ylabel="actual class, by id")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))

    caption = "Confusion matrix: share of each actual class, a darker cell is a larger share"
    return Chart(_svg("confusion", caption, draw, size=(4.4, 4.2)), caption)


def _svg(
    key: str, words: str, draw: Callable[[Axes], Any], size: tuple[float, float] = (4.4, 2.9)
) -> Markup:
    """Draw, and make the SVG fit for a page: CSS colours, own ids, a text for screen readers."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # no XML head, which names a DTD
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{key}-", svg)
    # The size comes from the style sheet; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1).strip())
