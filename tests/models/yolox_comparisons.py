"""Ours against the original, part by part; each gives numbers for others to judge.

Shared by `test_yolox_parity.py` and `benchmarks/yolox_parity.py`. A relative difference is the
largest absolute one over the largest absolute value of the original.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from yolox.utils.lr_scheduler import LRScheduler
from yolox_original import (
    STRIDES,
    as_cxcywh,
    as_labels,
    original_losses,
    original_network,
    original_raw_outputs,
    original_running,
    original_simota,
    random_case,
    randomise,
    undecided,
)

from components.models.simota import simota
from components.models.yolox_loss import YOLOX_LOSS_WEIGHTS, yolox_logits_and_boxes, yolox_loss
from components.models.yolox_network import yolox_network
from components.models.yolox_schedule import yolox_lr


def difference(ours: Tensor, original: Tensor) -> float:
    assert ours.shape == original.shape and original.isfinite().all() and ours.isfinite().all()
    return float((ours - original).abs().max() / original.abs().max().clamp(min=1e-12))


def compare_state_dicts(model_name: str) -> tuple[int, int]:
    """Loads each one's state dict into the other, strictly; gives numbers of keys, parameters."""
    with torch.device("meta"):
        original, ours = original_network(model_name), yolox_network(model_name, 80)
    theirs, mine = original.state_dict(), ours.state_dict()
    assert list(theirs) == list(mine)
    assert [v.shape for v in theirs.values()] == [v.shape for v in mine.values()]
    ours.load_state_dict(theirs, assign=True)
    original.load_state_dict(mine, assign=True)
    return len(mine), sum(p.numel() for p in ours.parameters())


def _twins(model_name: str, dtype: torch.dtype = torch.float32):
    original = original_network(model_name)
    randomise(original, seed=1)
    ours = yolox_network(model_name, 80)
    ours.load_state_dict(original.state_dict())
    return ours.to(dtype), original.to(dtype)


@torch.no_grad()
def compare_outputs(model_name: str, image_size: tuple[int, int]) -> dict[str, float]:
    """Raw outputs of both modes, the running statistics after training mode, and predictions."""
    ours, original = _twins(model_name)
    images = torch.rand(2, 3, *image_size, generator=torch.Generator().manual_seed(2)) * 255
    found = {}
    for mode in ("eval", "train"):
        ours.train(mode == "train")
        original.train(mode == "train")
        pairs = zip(ours(images), original_raw_outputs(original, images), strict=True)
        found[mode] = max(
            difference(mine, theirs)
            for levels in pairs
            for mine, theirs in zip(*levels, strict=True)
        )
    found["statistics"] = max(
        difference(ours.state_dict()[name], value)
        for name, value in original.state_dict().items()
        if "running" in name
    )
    predicted = original.eval()(images)
    classes, objectness, boxes = yolox_logits_and_boxes(*ours.eval()(images), STRIDES)
    scores = classes.sigmoid() * objectness.sigmoid()[..., None]
    found["scores"] = difference(scores, predicted[..., 4:5] * predicted[..., 5:])
    found["boxes"] = difference(as_cxcywh(boxes), predicted[..., :4])
    return found


@dataclass
class SimotaCount:
    """What a run over random cases came to; points are counted over all levels and images."""

    cases: int = 0
    boxes: int = 0
    points: int = 0
    matched: int = 0
    wrong: int = 0
    """Cases that differ in float64, in a match or by more than 1e-9 in an IoU."""
    rounded_points: int = 0
    """Points that differ in float32."""
    rounded_cases: int = 0
    unexplained: int = 0
    """Of `rounded_points`, those that float32 could have told apart; see `undecided`."""

    def add(self, seed: int) -> None:
        """Compare one more case."""
        case = random_case(seed)
        exact = original_simota(case, torch.float64)
        matched, ious = simota(*case.arguments(torch.float64))
        self.cases += 1
        self.boxes += len(case.labels)
        self.points += len(matched)
        self.matched += int((exact.matched >= 0).sum())
        same = torch.equal(matched, exact.matched)
        self.wrong += not (same and torch.allclose(ious, exact.ious, rtol=0, atol=1e-9))
        rounded = original_simota(case, torch.float32)
        differs = simota(*case.arguments(torch.float32))[0] != rounded.matched
        if differs.any():
            self.rounded_cases += 1
            self.rounded_points += int(differs.sum())
            self.unexplained += int((differs & ~undecided(exact, rounded)).sum())


def scene(dtype: torch.dtype, num_classes: int = 80):
    """Three images of 128 x 160 pixels, the second without boxes: images, boxes, labels."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(3, 3, 128, 160, generator=generator, dtype=dtype) * 255
    boxes, labels = [], []
    for number in (6, 0, 3):
        low = torch.rand(number, 2, generator=generator, dtype=dtype) * 90
        size = torch.rand(number, 2, generator=generator, dtype=dtype) * 70 + 2
        boxes.append(torch.cat([low, low + size], dim=1))
        labels.append(torch.randint(0, num_classes, (number,), generator=generator))
    return images, boxes, labels


def weighted(losses: dict[str, Tensor]) -> Tensor:
    return sum(YOLOX_LOSS_WEIGHTS[name] * value for name, value in losses.items())


def compare_training_step(
    model_name: str, dtype: torch.dtype, use_l1: bool
) -> tuple[float, float, int]:
    """A step from images to gradients: difference of the loss, the worst gradient's, their number.

    Gradients of weights before a batch norm can be all rounding; the differences are therefore
    relative to the largest gradient of the tensor, but at least a millionth of the largest of all.
    """
    ours, original = _twins(model_name, dtype)
    images, boxes, labels = scene(dtype)
    total = weighted(yolox_loss(*ours(images), STRIDES, boxes, labels, use_l1))
    total.backward()
    original.head.use_l1 = use_l1
    with original_running(double=dtype == torch.float64):
        theirs = original(images, as_labels(boxes, labels))["total_loss"]
    theirs.backward()
    wanted = {name: p.grad for name, p in original.named_parameters()}
    floor = 1e-6 * max(grad.abs().max() for grad in wanted.values())
    worst = max(
        float((p.grad - wanted[name]).abs().max() / wanted[name].abs().max().clamp(min=floor))
        for name, p in ours.named_parameters()
    )
    return difference(total.detach(), theirs.detach()), worst, len(wanted)


def compare_losses(dtype: torch.dtype, use_l1: bool) -> dict[str, float]:
    """Each loss, and the gradient of their sum by the raw outputs, from random raw outputs."""
    _, boxes, labels = scene(dtype, num_classes=7)
    generator = torch.Generator().manual_seed(4)
    raw = [
        torch.randn(3, 12, 128 // s, 160 // s, generator=generator, dtype=dtype).requires_grad_()
        for s in STRIDES
    ]
    levels = [[level[:, part] for level in raw] for part in (slice(5, 12), slice(4), slice(4, 5))]
    losses = yolox_loss(*levels, STRIDES, boxes, labels, use_l1)
    ours = torch.autograd.grad(weighted(losses), raw)
    theirs = original_losses(raw, boxes, labels, use_l1)
    wanted = torch.autograd.grad(theirs["total"], raw)
    found = {
        name: difference(value.detach(), theirs[name].detach()) for name, value in losses.items()
    }
    found["gradient"] = max(difference(a, b) for a, b in zip(ours, wanted, strict=True))
    return found


def compare_learning_rates(steps_per_epoch: int, lr: float) -> tuple[int, int]:
    """All steps of 300 epochs: how many there are, and how many rates are not bit for bit equal."""
    schedule = LRScheduler(
        "yoloxwarmcos",
        lr,
        steps_per_epoch,
        300,
        warmup_epochs=5,
        warmup_lr_start=0,
        no_aug_epochs=15,
        min_lr_ratio=0.05,
    )
    total = 300 * steps_per_epoch
    unequal = sum(
        schedule.update_lr(step)
        != yolox_lr(step, total, 5 * steps_per_epoch, 15 * steps_per_epoch, lr)
        for step in range(total + 1)
    )
    return total + 1, unequal
