"""From RT-DETR's raw outputs to a loss and to detections; the network is not needed for either.

Shapes: B images, Q queries, G boxes of one image, C classes, D detections (padded to a fixed
number). Boxes are cxcywh as shares of the image, 0 to 1, where not said otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from components.models.losses import over_devices
from components.models.postprocess import NO_LABEL
from components.models.rtdetr_network import RTDetrOutputs, Target


def normalized_targets(
    boxes_xyxy: list[Tensor], labels: list[Tensor], image_size: tuple[int, int]
) -> list[Target]:
    """Targets as transformers wants them.

    Args:
        boxes_xyxy: [G, 4] of each image, pixels.
        labels: [G] of each image.
        image_size: (height, width).

    Returns:
        For each image `class_labels` [G] and `boxes` [G, 4] cxcywh, 0 to 1.
    """
    height, width = image_size
    targets = []
    for image_boxes, names in zip(boxes_xyxy, labels, strict=True):
        size = image_boxes.new_tensor([width, height, width, height])
        shares = box_convert(image_boxes.float(), "xyxy", "cxcywh") / size
        targets.append({"class_labels": names.long(), "boxes": shares})
    return targets


def rtdetr_loss(outputs: RTDetrOutputs, targets: list[Target], config: Any) -> dict[str, Tensor]:
    """transformers' RT-DETR loss: varifocal, L1 and GIoU after Hungarian matching, in float32.

    Each term is summed over the decoder layers, the encoder's proposals and, in training, the
    denoising queries, and weighted as in `config`; each is divided by the number of boxes in the
    batch, in training by the mean over all processes.

    Args:
        outputs: of the network.
        targets: see `normalized_targets`.
        config: of the network.

    Returns:
        Scalars `cls_loss`, `l1_loss`, `giou_loss`, and their sum `loss`. NaN where the network's
        outputs are not finite.
    """
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    layer_logits, layer_boxes = outputs.layer_logits.float(), outputs.layer_boxes.float()
    names = {"cls_loss": "loss_vfl", "l1_loss": "loss_bbox", "giou_loss": "loss_giou"}
    if not (torch.isfinite(layer_logits).all() and torch.isfinite(layer_boxes).all()):
        # The matcher would complain of boxes whose corners are swapped, which helps nobody.
        return dict.fromkeys(["loss", *names], layer_logits.sum() * torch.nan)
    with torch.autocast(layer_logits.device.type, enabled=False):
        _, terms, _ = RTDetrForObjectDetectionLoss(
            layer_logits[:, -1],
            targets,
            layer_logits.device,
            layer_boxes[:, -1],
            config,
            layer_logits,
            layer_boxes,
            enc_topk_logits=outputs.proposal_logits.float(),
            enc_topk_bboxes=outputs.proposal_boxes.float(),
            denoising_meta_values=outputs.denoising,
        )
        losses = {
            name: torch.stack([v for key, v in terms.items() if key.startswith(theirs)]).sum()
            for name, theirs in names.items()
        }
        # transformers divides by the boxes of this process's images.
        num_boxes = layer_logits.new_tensor(float(sum(len(t["boxes"]) for t in targets)))
        share = num_boxes.clamp(min=1) / over_devices(num_boxes.clone()).clamp(min=1)
        losses = {name: value * share for name, value in losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def select_queries(
    scores: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest (query, class) pairs of each image; no suppression, queries do not repeat.

    Args:
        scores: [B, Q, C], 0 to 1.
        boxes: [B, Q, 4] cxcywh, 0 to 1.
        image_size: (height, width) in pixels.
        score_threshold: weaker ones are dropped.
        max_detections: D; fewer are padded.

    Returns:
        boxes [B, D, 4] xyxy in pixels within the image, scores [B, D] falling, labels [B, D].
        Padding as in `select_detections`: zeros, 0 and `NO_LABEL`.
    """
    _, num_queries, num_classes = scores.shape
    height, width = image_size
    top_scores, flat = scores.flatten(1).topk(min(max_detections, num_queries * num_classes))
    labels = flat % num_classes
    queries = torch.div(flat, num_classes, rounding_mode="floor")
    size = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    boxes_xyxy = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1) * size
    boxes_xyxy = boxes_xyxy.gather(1, queries[..., None].expand(-1, -1, 4))
    present = top_scores > score_threshold
    return (
        boxes_xyxy * present[..., None],
        top_scores * present,
        torch.where(present, labels, torch.full_like(labels, NO_LABEL)),
    )
