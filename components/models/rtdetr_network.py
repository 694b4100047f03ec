"""RT-DETR (Zhao et al. 2023, arXiv:2304.08069) as `transformers` builds it: network and loss.

Shapes: B images, Q queries, L decoder layers, N queries with the denoising ones, G boxes of one
image, C classes, D detections (padded to a fixed number). Boxes inside the network are cxcywh as
shares of the image, 0 to 1.

`transformers` (the extra `rtdetr`) is imported when a network is built, not before.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from components.errors import ModelError
from components.models.postprocess import NO_LABEL
from components.models.vision_module import VisionNetwork

Target = dict[str, Tensor]

STRIDES = (8, 16, 32)
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # images are scaled to 0..1, nothing more
_PRIOR = 0.01  # of every class at the start (RetinaNet, section 3.3; RT-DETR's authors)

_BASIC = {"layer_type": "basic", "hidden_sizes": (64, 128, 256, 512)}
_BOTTLENECK = {"layer_type": "bottleneck", "hidden_sizes": (256, 512, 1024, 2048)}

# What the published models have that RTDetrConfig's defaults have not (authors' configuration files
# rtdetr_r*_6x_coco; transformers' convert_rt_detr_original_pytorch_checkpoint_to_hf.py).
MODELS: dict[str, dict[str, Any]] = {
    "rtdetr_r18vd": {
        "backbone_config": {**_BASIC, "depths": (2, 2, 2, 2)},
        "hidden_expansion": 0.5,
        "decoder_layers": 3,
    },
    "rtdetr_r34vd": {
        "backbone_config": {**_BASIC, "depths": (3, 4, 6, 3)},
        "hidden_expansion": 0.5,
        "decoder_layers": 4,
    },
    "rtdetr_r50vd": {"backbone_config": {**_BOTTLENECK, "depths": (3, 4, 6, 3)}},
    "rtdetr_r50vd_m": {
        "backbone_config": {**_BOTTLENECK, "depths": (3, 4, 6, 3)},
        "hidden_expansion": 0.5,
    },
    "rtdetr_r101vd": {
        "backbone_config": {**_BOTTLENECK, "depths": (3, 4, 23, 3)},
        "encoder_hidden_dim": 384,
        "encoder_ffn_dim": 2048,
    },
}


def require_known(model_name: str) -> None:
    """Raises ValueError for a name that is not one of `MODELS`, with the nearest ones."""
    if model_name not in MODELS:
        near = difflib.get_close_matches(model_name, MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(MODELS)}"
        raise ValueError(f"unknown model_name {model_name!r}; {hint}")


def import_transformers() -> Any:
    """The `transformers` module.

    Raises:
        ModelError: not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"RT-DETR needs transformers: pip install 'timmflow[rtdetr]' ({error})"
        ) from None
    return transformers


def rtdetr_config(
    model_name: str, num_classes: int, extra_config: dict[str, Any] | None = None
) -> Any:
    """The `transformers.RTDetrConfig` of a published model.

    Args:
        model_name: one of `MODELS`.
        num_classes: C.
        extra_config: fields of RTDetrConfig that are to differ; `backbone_config` holds fields of
            RTDetrResNetConfig. Channel counts that follow from others need not be given.

    Raises:
        ValueError: no such model, or no such field.
        ModelError: transformers is not installed.
    """
    require_known(model_name)
    transformers = import_transformers()
    fields = {**MODELS[model_name], **(extra_config or {})}
    backbone = {
        **MODELS[model_name]["backbone_config"],
        **(extra_config or {}).get("backbone_config", {}),
    }
    _require_fields(transformers.RTDetrConfig, fields, "extra_config")
    _require_fields(transformers.RTDetrResNetConfig, backbone, "extra_config.backbone_config")
    fields["backbone_config"] = transformers.RTDetrResNetConfig(**backbone, out_indices=[2, 3, 4])
    fields.setdefault("encoder_in_channels", list(backbone["hidden_sizes"])[1:])
    width = fields.get("encoder_hidden_dim", transformers.RTDetrConfig.encoder_hidden_dim)
    fields.setdefault("decoder_in_channels", [width] * len(STRIDES))
    return transformers.RTDetrConfig(num_labels=num_classes, **fields)


def _require_fields(config: Any, given: dict[str, Any], where: str) -> None:
    allowed = config.__dataclass_fields__
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"see {config.__name__}"
            raise ValueError(f"unknown {where} field {name!r}; {hint}")


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
    batch.

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
