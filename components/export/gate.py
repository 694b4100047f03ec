"""May a file be published? Its predictions against PyTorch's, its metric, and what it promises.

float32 must give what PyTorch gives. float16 and int8 round; of them it is asked that nearly every
confident prediction stays what it was, that the metric stays, and of int8 that it pays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from components.export.parity import (
    Outputs,
    Parity,
    compare_detections,
    compare_probabilities,
)

Format = Literal["fp32", "fp16", "int8", "pt2"]


@dataclass(frozen=True)
class Rule:
    """What is asked of a file.

    Attributes:
        score_tolerance: largest difference of a score or probability.
        iou_tolerance: smallest overlap of boxes that count as equal.
        min_score: detections must have a match from this score on; a little above, since a score
            may differ by `score_tolerance`.
        min_share_matched: of these detections, or of images of a classifier.
        max_metric_loss: by which the metric may be worse, as a share of PyTorch's.
        max_size: as a share of the float32 file's; None for any.
        min_speed: in float32's at batch 1; None for any.
    """

    score_tolerance: float
    iou_tolerance: float
    min_score: float = 0.0
    min_share_matched: float = 1.0
    max_metric_loss: float = 0.0
    max_size: float | None = None
    min_speed: float | None = None


HALF = Rule(0.01, 0.98, 0.05, 0.99, 0.005)
INT8 = Rule(0.15, 0.85, 0.3, 0.9, 0.01, max_size=0.3, min_speed=1.3)
# Resizing in the graph rounds one pixel in fifty to the next grey value.
RESIZED = Rule(0.02, 0.98, 0.05, 0.97, 1.0)


def rule_for(kind: Format, score_tolerance: float, iou_tolerance: float, threshold: float) -> Rule:
    """The rule of a format.

    Args:
        kind: of file.
        score_tolerance, iou_tolerance: of float32.
        threshold: below which detections are dropped.
    """
    match kind:
        case "fp16":
            return HALF
        case "int8":
            return INT8
        case _:
            return Rule(score_tolerance, iou_tolerance, threshold, 1.0, score_tolerance)


def compare(ours: Outputs, theirs: Outputs, rule: Rule) -> Parity:
    """Outputs of PyTorch and of a file for one batch; see `components.export.parity`."""
    if len(ours) == 1:
        return compare_probabilities(ours[0], theirs[0], rule.score_tolerance)
    return compare_detections(
        ours, theirs, rule.iou_tolerance, rule.score_tolerance, rule.min_score
    )


def problems(
    rule: Rule,
    parity: Parity,
    metric: float | None = None,
    torch_metric: float | None = None,
    size: float | None = None,
    speed: float | None = None,
) -> list[str]:
    """Why a file must not be published; empty if it may.

    Args:
        rule: that it is held to.
        parity: of its predictions with PyTorch's.
        metric, torch_metric: its own, and PyTorch's, on the same images; None where there is none.
        size: as a share of the float32 file's.
        speed: in float32's.
    """
    found = []
    share = parity.share_matched
    if parity.num_compared == 0 and rule.min_share_matched == 1:
        found.append("nothing was predicted that could be compared")
    if not share >= rule.min_share_matched:
        found.append(
            f"{parity.num_unmatched} of {parity.num_sure} predictions have no match in PyTorch's "
            f"({100 * share:.2f} % matched; at least {100 * rule.min_share_matched:g} % needed)"
        )
    if not np.isfinite(parity.max_score_difference):
        found.append("some predictions are no numbers")
    elif rule.min_share_matched == 1 and parity.max_score_difference > rule.score_tolerance:
        found.append(
            f"scores differ by up to {parity.max_score_difference:.2g} "
            f"(at most {rule.score_tolerance:g} allowed)"
        )
    if metric is not None and torch_metric is not None:
        loss = metric_loss(metric, torch_metric)
        if not loss <= rule.max_metric_loss:
            found.append(
                f"the metric falls from {torch_metric:.4f} to {metric:.4f}, by {100 * loss:.2f} % "
                f"(at most {100 * rule.max_metric_loss:g} % allowed)"
            )
    if size is not None and rule.max_size is not None and not size <= rule.max_size:
        found.append(f"its size is {size:.2f} of float32's (at most {rule.max_size:g} allowed)")
    if speed is not None and rule.min_speed is not None and not speed >= rule.min_speed:
        found.append(f"its speed is {speed:.2f} of float32's (at least {rule.min_speed:g} needed)")
    return found


def metric_loss(metric: float, torch_metric: float) -> float:
    """By how much a metric is worse than PyTorch's, as a share of it; negative if it is better."""
    if torch_metric <= 0:
        return 0.0 if metric >= torch_metric else np.inf
    return (torch_metric - metric) / torch_metric


def as_figures(parity: Parity, rule: Rule) -> dict[str, Any]:
    """A comparison, and what was asked, for JSON; a difference that is no number is None."""
    figures = {**asdict(parity), "share_matched": parity.share_matched, "rule": asdict(rule)}
    if not np.isfinite(parity.max_score_difference):
        figures["max_score_difference"] = None
    return figures
