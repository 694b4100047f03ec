"""How a detector's raw outputs become losses and detections: target assignment, loss, decoding.

A method holds settings and no weights. The maths is in `fcos_targets`, `fcos_loss`, `simota`,
`yolox_loss` and `postprocess`.

Shapes: B images, P points over all levels, C classes, D detections, G boxes of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from components.models.fcos_loss import decode_boxes, fcos_loss, flatten_levels
from components.models.fcos_targets import level_points
from components.models.postprocess import select_from_logits
from components.models.yolox_loss import (
    YOLOX_LOSS_WEIGHTS,
    bce_loss,
    iou_squared_loss,
    yolox_logits_and_boxes,
    yolox_loss,
)

PairLoss = Callable[[Tensor, Tensor], Tensor]
RawOutputs = tuple[list[Tensor], list[Tensor], list[Tensor]]
Detections = tuple[Tensor, Tensor, Tensor]


class DetectionMethod(Protocol):
    """What `DetectorModule` needs of a method."""

    def losses(self, outputs: Any, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """The terms of the loss, and `loss`, their weighted sum."""

    def detections(
        self,
        outputs: Any,
        image_size: tuple[int, int],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> Detections:
        """Padded boxes [B, D, 4] xyxy pixels, scores [B, D], labels [B, D]."""


@dataclass(frozen=True)
class FcosMethod:
    """FCOS (Tian et al. 2019, arXiv:1904.01355).

    Attributes:
        strides: of the levels, pixels.
        regress_ranges: farthest side each level answers for, pixels.
        center_sampling_radius: in strides; 0 takes every point inside a box.
        focal_alpha, focal_gamma: of the focal loss.
        weights: of the class, box and centerness term.
        cls_loss_fn, reg_loss_fn: other losses for the class and box term.
    """

    strides: tuple[int, ...]
    regress_ranges: tuple[tuple[float, float], ...]
    center_sampling_radius: float = 1.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    cls_loss_fn: PairLoss | None = None
    reg_loss_fn: PairLoss | None = None

    def points(self, outputs: RawOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Points [P, 2], their strides [P] and ranges [P, 2]."""
        device = outputs[0][0].device
        shapes = [(level.shape[-2], level.shape[-1]) for level in outputs[0]]
        points, levels = level_points(shapes, self.strides)
        strides = torch.tensor(self.strides, dtype=torch.float32)[levels]
        ranges = torch.tensor(self.regress_ranges, dtype=torch.float32)[levels]
        return points.to(device), strides.to(device), ranges.to(device)

    def losses(
        self, outputs: RawOutputs, boxes: list[Tensor], labels: list[Tensor]
    ) -> dict[str, Tensor]:
        """`cls_loss`, `reg_loss`, `centerness_loss`, and `loss`."""
        classes, sides, centers = (flatten_levels(levels) for levels in outputs)
        terms = fcos_loss(
            classes.float(),
            sides.float(),
            centers.float().squeeze(-1),
            *self.points(outputs),
            boxes,
            labels,
            self.center_sampling_radius,
            self.focal_alpha,
            self.focal_gamma,
            self.cls_loss_fn,
            self.reg_loss_fn,
        )
        weights = dict(zip(("cls_loss", "reg_loss", "centerness_loss"), self.weights, strict=True))
        return _total(terms, weights)

    def detections(
        self,
        outputs: RawOutputs,
        image_size: tuple[int, int],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> Detections:
        """Scores are the geometric mean of "which class" and "how central"."""
        points, strides, _ = self.points(outputs)
        classes, sides, centers = (flatten_levels(levels) for levels in outputs)
        return select_from_logits(
            classes,
            centers.squeeze(-1),
            decode_boxes(points, sides.float(), strides),
            image_size,
            "geometric_mean",  # as in the authors' later code
            score_threshold,
            nms_threshold,
            max_detections,
        )


@dataclass(frozen=True)
class YoloxMethod:
    """YOLOX: SimOTA, objectness, IoU-soft classes (Ge et al. 2021, arXiv:2107.08430).

    Attributes:
        strides: of the levels, pixels.
        weights: of the class, box and objectness term, on top of the official ones (5 for the box).
        center_radius: in strides.
        cls_loss_fn, reg_loss_fn: other losses for the class and box term.
        use_l1: add the L1 term, as in the last epochs of the official recipe.
    """

    strides: tuple[int, ...]
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    center_radius: float = 1.5
    cls_loss_fn: PairLoss | None = None
    reg_loss_fn: PairLoss | None = None
    use_l1: bool = False

    def losses(
        self, outputs: RawOutputs, boxes: list[Tensor], labels: list[Tensor]
    ) -> dict[str, Tensor]:
        """`cls_loss`, `reg_loss`, `obj_loss`, with L1 `l1_loss`, and `loss`."""
        terms = yolox_loss(
            *outputs,
            self.strides,
            boxes,
            labels,
            use_l1=self.use_l1,
            cls_loss_fn=self.cls_loss_fn or bce_loss,
            reg_loss_fn=self.reg_loss_fn or iou_squared_loss,
            center_radius=self.center_radius,
        )
        own = dict(zip(("cls_loss", "reg_loss", "obj_loss"), self.weights, strict=True))
        return _total(terms, {n: w * own.get(n, 1.0) for n, w in YOLOX_LOSS_WEIGHTS.items()})

    def detections(
        self,
        outputs: RawOutputs,
        image_size: tuple[int, int],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> Detections:
        """Scores are class probability times objectness."""
        return select_from_logits(
            *yolox_logits_and_boxes(*outputs, self.strides),
            image_size,
            "product",
            score_threshold,
            nms_threshold,
            max_detections,
        )


def _total(terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """The terms with their weighted sum as `loss`."""
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"loss": total, **terms}
