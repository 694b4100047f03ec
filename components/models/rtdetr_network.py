"""The RT-DETR network (Zhao et al. 2023, arXiv:2304.08069), as `transformers` builds it.

Shapes: B images, Q queries, L decoder layers, N queries with the denoising ones, C classes. Boxes
are cxcywh as shares of the image, 0 to 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from components.models.rtdetr_config import STRIDES, import_transformers
from components.models.vision_module import VisionNetwork

Target = dict[str, Tensor]

_PRIOR = 0.01  # of every class at the start (RetinaNet, section 3.3; RT-DETR's authors)


class RTDetrOutputs(NamedTuple):
    """Raw outputs.

    Attributes:
        logits: [B, Q, C], of the last decoder layer.
        boxes: [B, Q, 4] cxcywh, 0 to 1, of the last decoder layer.
        layer_logits: [B, L, N, C], of every decoder layer, denoising queries first.
        layer_boxes: [B, L, N, 4].
        proposal_logits: [B, Q, C], of the encoder's places that became queries.
        proposal_boxes: [B, Q, 4].
        denoising: which query is made from which box; None where there are no such queries.
    """

    logits: Tensor
    boxes: Tensor
    layer_logits: Tensor
    layer_boxes: Tensor
    proposal_logits: Tensor
    proposal_boxes: Tensor
    denoising: dict[str, Any] | None


class RTDetrNetwork(VisionNetwork):
    """Convolutional backbone, hybrid encoder, decoder.

    Args:
        config: see `rtdetr_config`.

    Its weights are the authors' initial values; transformers' own are meant to be overwritten by a
    checkpoint (batch norms that multiply by 0.01) and do not train.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.detr = import_transformers().RTDetrForObjectDetection(config)
        reset_parameters(self.detr)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The convolutional backbone; a property, so that its weights are stored once."""
        return cast(nn.Module, self.detr.model.backbone)

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> RTDetrOutputs:
        """Raw outputs.

        Args:
            images: [B, 3, H, W], 0 to 1; H and W are multiples of 32.
            targets: see `normalized_targets`; in training they give the denoising queries.

        Raises:
            ValueError: an image size that does not work.
        """
        self._require_size(int(images.shape[-2]), int(images.shape[-1]))
        with _free_batch_size(self.detr):
            outputs = self.detr.model(images, labels=targets)
        logits, boxes = outputs.intermediate_logits, outputs.intermediate_reference_points
        # Denoising queries come first.
        return RTDetrOutputs(
            logits[:, -1, -self.config.num_queries :],
            boxes[:, -1, -self.config.num_queries :],
            logits,
            boxes,
            outputs.enc_topk_logits,
            outputs.enc_topk_bboxes,
            outputs.denoising_meta_values,
        )

    def _require_size(self, height: int, width: int) -> None:
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(
                f"image size {height} x {width}: RT-DETR needs multiples of {STRIDES[-1]}"
            )
        num_places = sum((height // stride) * (width // stride) for stride in STRIDES)
        if num_places < self.config.num_queries:
            raise ValueError(
                f"num_queries = {self.config.num_queries}: an image of {height} x {width} has "
                f"{num_places} places for queries; lower num_queries or raise the image size"
            )


@contextmanager
def _free_batch_size(detr: nn.Module) -> Iterator[None]:
    """While exporting, let transformers' code take the length of a batch as a symbol.

    It asks `len(tensor)` for a number that it then does not use; Python's `len` gives integers
    only, and so the graph would be made for one batch size.
    """
    if not torch.compiler.is_exporting():
        yield
        return
    module = cast(Any, sys.modules[type(detr).__module__])
    module.len = lambda items: items.shape[0] if isinstance(items, Tensor) else len(items)
    try:
        yield
    finally:
        del module.len


@torch.no_grad()
def reset_parameters(detr: nn.Module) -> None:
    """Initial values as in the authors' code.

    PyTorch's defaults, but for: Kaiming in the backbone; Xavier where the authors say so; class
    logits at a small prior; boxes that start as their anchors. The sampling offsets of deformable
    attention keep transformers' values, which are the authors'.
    """
    for name, module in detr.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d) and ".backbone." in name:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.Conv2d) and "encoder_attn" not in name:
            module.reset_parameters()
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                # As one matrix [3E, E], which is how nn.MultiheadAttention draws them.
                nn.init.xavier_uniform_(module.weight, gain=1 / math.sqrt(2))
            if "self_attn" in name:
                nn.init.zeros_(cast(Tensor, module.bias))
    model = cast(Any, detr).model
    for layer in (model.enc_output[0], *model.decoder.query_pos_head.layers):
        nn.init.xavier_uniform_(layer.weight)
    for head in (model.enc_bbox_head, *model.decoder.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    reset_class_heads(detr)


@torch.no_grad()
def reset_class_heads(detr: nn.Module) -> None:
    """Fresh weights for all that depends on the classes: logits and the denoising embedding."""
    model = cast(Any, detr).model
    for head in (model.enc_score_head, *model.decoder.class_embed):
        head.reset_parameters()
        head.bias.fill_(-math.log((1 - _PRIOR) / _PRIOR))
    if hasattr(model, "denoising_class_embed"):
        nn.init.normal_(model.denoising_class_embed.weight[:-1])
        model.denoising_class_embed.weight[-1].zero_()
