"""The original YOLOX (`yolox`, PyPI pixeltable-yolox) called for one answer at a time.

Used by `yolox_comparisons.py`.

Shapes: P points over all levels, G boxes of one image, C classes, N candidate points.
"""

import contextlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from yolox.config import YoloxConfig
from yolox.models import YoloxHead

from components.models.fcos_targets import BACKGROUND

STRIDES = (8, 16, 32)


@contextlib.contextmanager
def original_running(double: bool = False):
    """Around every call of the original: its deprecations, and its fixed float32 made double."""
    as_float = torch.Tensor.float
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.cuda.amp.autocast.*")
        warnings.filterwarnings("ignore", message=".*device_type of 'cuda'.*")
        if double:
            torch.Tensor.float = torch.Tensor.double
        try:
            yield
        finally:
            torch.Tensor.float = as_float


def original_network(model_name: str, num_classes: int = 80) -> nn.Module:
    config = YoloxConfig.get_named_config(model_name)
    config.num_classes = num_classes
    return config.get_model()


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Every weight and every statistic, so that no layer is at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0, 0.3, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.3, generator=generator)
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)


def original_raw_outputs(network: nn.Module, images: Tensor):
    """Raw outputs of each level, caught where the head's last convolutions give them."""
    caught = []
    heads = (network.head.cls_preds, network.head.reg_preds, network.head.obj_preds)
    hooks = [
        layer.register_forward_hook(lambda _layer, _in, output: caught.append(output.clone()))
        for head in heads
        for layer in head
    ]
    with original_running():
        network(images, torch.zeros(len(images), 1, 5))
    for hook in hooks:
        hook.remove()
    # Called level by level: classes, boxes, objectness.
    return caught[0::3], caught[1::3], caught[2::3]


def as_labels(boxes_xyxy: list[Tensor], labels: list[Tensor]) -> Tensor:
    """Boxes as the original takes them: [B, most boxes, 5] (class, cx, cy, w, h), padded with 0."""
    table = torch.zeros(len(labels), max(map(len, labels)), 5, dtype=boxes_xyxy[0].dtype)
    for row, boxes, classes in zip(table, boxes_xyxy, labels, strict=True):
        row[: len(boxes)] = torch.cat([classes[:, None], as_cxcywh(boxes)], dim=1)
    return table


def as_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


class _Channels(nn.Module):
    def __init__(self, first: int, last: int | None):
        super().__init__()
        self.chosen = slice(first, last)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.chosen]


def original_losses(
    raw: list[Tensor], boxes_xyxy: list[Tensor], labels: list[Tensor], use_l1: bool
) -> dict[str, Tensor]:
    """The original's losses of raw outputs [B, 4 + 1 + C, h, w], a tensor per level."""
    head = YoloxHead(raw[0].shape[1] - 5)
    head.use_l1 = use_l1
    nothing = nn.ModuleList(nn.Identity() for _ in raw)
    head.stems = head.cls_convs = head.reg_convs = nothing
    head.reg_preds = nn.ModuleList(_Channels(0, 4) for _ in raw)
    head.obj_preds = nn.ModuleList(_Channels(4, 5) for _ in raw)
    head.cls_preds = nn.ModuleList(_Channels(5, None) for _ in raw)
    with original_running(double=raw[0].dtype == torch.float64):
        total, reg, obj, cls, l1, _ = head(raw, as_labels(boxes_xyxy, labels))
    return {"total": total, "reg_loss": reg / 5, "obj_loss": obj, "cls_loss": cls, "l1_loss": l1}


@dataclass(frozen=True)
class Case:
    """One image's input to SimOTA, float32 values; see `simota` for shapes."""

    shapes: list[tuple[int, int]]
    boxes_xyxy: Tensor
    labels: Tensor
    predicted_xyxy: Tensor
    cls_logits: Tensor
    obj_logits: Tensor

    def arguments(self, dtype: torch.dtype) -> tuple:
        return (
            self.shapes,
            STRIDES,
            self.boxes_xyxy.to(dtype),
            self.labels,
            self.predicted_xyxy.to(dtype),
            self.cls_logits.to(dtype),
            self.obj_logits.to(dtype),
        )


def random_case(seed: int) -> Case:
    """0 to 200 boxes of all sizes, some twice, tiny, or outside; image 32 to 416 px, 1-80 classes.

    Predictions are random boxes, or near the truth as those of a trained network.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def chance(p: float) -> bool:
        return bool(uniform(1) < p)

    height, width = 32 * whole(1, 13), 32 * whole(1, 13)
    num_classes = (1, 2, 5, 20, 80)[whole(0, 4)]
    num_boxes = 0 if chance(0.05) else 200 if chance(0.03) else int(100 ** float(uniform(1)))
    extent = torch.tensor([width, height])
    # Centres up to half an image outside; sizes from under a pixel to one and a half images.
    center = (uniform(num_boxes, 2) * 2 - 0.5 if chance(0.3) else uniform(num_boxes, 2)) * extent
    size = (0.002 + 1.5 * uniform(num_boxes, 2) ** 4) * extent
    if chance(0.5):  # on quarter pixels, where points lie exactly on the border of the radius
        center, size = (center * 4).round() / 4, ((size * 2).round() / 2).clamp(min=0.5)
    boxes = torch.cat([center - size / 2, center + size / 2], dim=1)
    labels = torch.randint(0, num_classes, (num_boxes,), generator=generator)
    if num_boxes > 1 and chance(0.3):  # some of them twice, half of those of another class
        again = whole(1, num_boxes // 2)
        boxes[-again:] = boxes[:again]
        if chance(0.5):
            labels[-again:] = labels[:again]
    shapes = [(height // stride, width // stride) for stride in STRIDES]
    num_points = sum(h * w for h, w in shapes)
    if num_boxes and chance(0.5):
        truth = boxes[torch.randint(0, num_boxes, (num_points,), generator=generator)]
        center, size = as_cxcywh(truth).split(2, dim=1)
    else:
        center, size = uniform(num_points, 2) * extent, 0.5 * uniform(num_points, 2) * extent
    off = 0.02 + 0.3 * float(uniform(1))
    center = center + torch.randn(num_points, 2, generator=generator) * off * size
    size = (size * (1 + off * torch.randn(num_points, 2, generator=generator))).clamp(min=0.01)
    predicted = torch.cat([center - size / 2, center + size / 2], dim=1)
    spread = 0.5 + 4 * float(uniform(1))
    return Case(
        shapes,
        boxes,
        labels,
        predicted,
        torch.randn(num_points, num_classes, generator=generator) * spread,
        torch.randn(num_points, generator=generator) * spread,
    )


@dataclass(frozen=True)
class Answer:
    """What the original says of one image.

    Attributes:
        matched: [P], as `simota` gives it.
        ious: [P].
        candidates: bool [P].
        own: bool [G, N] the box owns the candidate; None without boxes or candidates, as `cost`.
        cost: [G, N], its penalty of 1e6 included.
        pair_ious: [G, N].
    """

    matched: Tensor
    ious: Tensor
    candidates: Tensor
    own: Tensor | None = None
    cost: Tensor | None = None
    pair_ious: Tensor | None = None


def original_simota(case: Case, dtype: torch.dtype) -> Answer:
    num_points = len(case.predicted_xyxy)
    matched = torch.full((num_points,), BACKGROUND)
    ious = torch.zeros(num_points, dtype=dtype)
    if len(case.labels) == 0:  # the original does not come so far
        return Answer(matched, ious, matched > BACKGROUND)
    columns, rows, strides = [], [], []
    for (height, width), stride in zip(case.shapes, STRIDES, strict=True):
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        rows.append(row.flatten())
        columns.append(column.flatten())
        strides.append(torch.full((height * width,), stride))
    grid = [torch.cat(values)[None].to(dtype) for values in (strides, columns, rows)]
    head = YoloxHead.__new__(YoloxHead)  # only its assignment is wanted, not its layers
    nn.Module.__init__(head)
    head.num_classes = case.cls_logits.shape[1]
    seen = {}
    matching, geometry = head.simota_matching, head.get_geometry_constraint

    def spy_matching(cost, pair_ious, classes, num_boxes, mask):
        seen.update(cost=cost, pair_ious=pair_ious)
        return matching(cost, pair_ious, classes, num_boxes, mask)

    def spy_geometry(*arguments):
        mask, own = geometry(*arguments)
        seen.update(candidates=mask.clone(), own=own)
        return mask, own

    head.simota_matching, head.get_geometry_constraint = spy_matching, spy_geometry
    with original_running(double=dtype == torch.float64):
        _, mask, matched_ious, matched_boxes, _ = head.get_assignments(
            0,
            len(case.labels),
            as_cxcywh(case.boxes_xyxy.to(dtype)),
            case.labels.to(dtype),
            as_cxcywh(case.predicted_xyxy.to(dtype)),
            *grid,
            case.cls_logits.to(dtype)[None],
            case.obj_logits.to(dtype)[None, :, None],
        )
    matched[mask], ious[mask] = matched_boxes, matched_ious
    return Answer(matched, ious, **seen)


def undecided(exact: Answer, rounded: Answer) -> Tensor:
    """Where float32 cannot tell: points whose answer hangs on a difference below its resolution.

    The original's costs in float64 are taken as the truth, and a pair's cost in float32 as any
    within four times the error the original itself makes (at least 1e-5 of its size, and a whole
    step of 0.0625 beside the penalty of 1e6). A box may or may not take a candidate where its cost
    is that near to the last one taken, or the sum of its IoUs that near to a whole number.

    Returns:
        bool [P].
    """
    answer = torch.zeros(len(exact.matched), dtype=torch.bool)
    if exact.cost is None or not exact.candidates.any():
        return answer
    if not torch.equal(exact.candidates, rounded.candidates) or not torch.equal(
        exact.own, rounded.own
    ):
        return ~answer  # a point within rounding of the radius's border: all may follow from it
    cost, own = exact.cost, exact.own
    error = 4 * (rounded.cost.double() - cost).abs()
    error = torch.maximum(error, 1e-5 * (1 + torch.where(own, cost, 0)))
    error = torch.where(own, error, error.clamp(min=0.0625))
    low, high = cost - error, cost + error

    count = min(10, cost.shape[1])
    total = exact.pair_ious.topk(count).values.sum(1)
    slack = 1e-5 + 4 * (rounded.pair_ious.double().topk(count).values.sum(1) - total).abs()
    fewest, most = ((total + sign * slack).int().clamp(1, count) for sign in (-1, 1))
    # Surely taken: fewer than k others can be cheaper. Possibly: fewer than k surely are.
    surely = _how_many(low, high, or_equal=True) <= fewest[:, None]  # counts itself
    possibly = _how_many(high, low, or_equal=False) < most[:, None]
    maybe = (possibly & ~surely).any(0)
    best = torch.where(own, high, torch.inf).amin(0)
    contenders = (torch.where(own, low, torch.inf) <= best).sum(0)
    doubtful = maybe | ((possibly.sum(0) > 1) & (contenders > 1))
    answer[exact.candidates] = doubtful
    return answer


def _how_many(values: Tensor, limits: Tensor, or_equal: bool) -> Tensor:
    """In each row, for each of the limits, how many values are below: [G, N]."""
    return torch.searchsorted(values.sort(1).values, limits.contiguous(), right=or_equal)
