"""Losses by name, the user's own among them, and how the models call them.

Shapes: B images, M (point, image) pairs, N boxes, C classes.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from components.models.loss_modules import (
    REDUCTIONS,
    CenternessLoss,
    CIoULoss,
    DIoULoss,
    FCOSLoss,
    FocalLoss,
    GIoULoss,
    IoULoss,
    one_hot_targets,
)

TASKS = ("classification", "detection")

LossSpec = str | nn.Module | Callable[..., Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Entry:
    """A loss and what it is for: a task to list it under, a part of a detector's loss."""

    loss_class: type[nn.Module]
    tasks: tuple[str, ...] = TASKS
    parts: tuple[str, ...] = ("class", "box")
    built_in: bool = False


_CLASSIFICATION = {
    "bce": nn.BCEWithLogitsLoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "nll": nn.NLLLoss,
}
_BOX = {"ciou": CIoULoss, "diou": DIoULoss, "giou": GIoULoss, "iou": IoULoss}
_MULTI_LABEL = ("bce", "bce_with_logits", "focal", "mse")  # each class for itself
_SMOOTHED = ("cross_entropy",)
_CLASS_WEIGHTED = ("bce", "bce_with_logits", "cross_entropy", "nll")


class LossRegistry:
    """Names of losses, and the classes behind them."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        for name, loss_class in _CLASSIFICATION.items():
            parts = ("class",) if name.startswith("bce") else ()
            self._entries[name] = _Entry(loss_class, ("classification",), parts, True)
        for name, box_class in _BOX.items():
            self._entries[name] = _Entry(box_class, ("detection",), ("box",), True)
        self._entries["focal"] = _Entry(FocalLoss, TASKS, ("class",), True)
        self._entries["centerness"] = _Entry(CenternessLoss, ("detection",), (), True)
        self._entries["fcos"] = _Entry(FCOSLoss, ("detection",), (), True)
        self._aliases = {"ce": "cross_entropy"}

    def register_loss(
        self, name: str, loss_class: type[nn.Module], alias: str | None = None
    ) -> None:
        """Make a loss of one's own known by name, for every task.

        Args:
            name: replaces an own loss of that name.
            loss_class: a subclass of `nn.Module`.
            alias: a second name.

        Raises:
            ValueError: not such a class, or the name of a loss that is built in.
        """
        if not inspect.isclass(loss_class) or not issubclass(loss_class, nn.Module):
            raise ValueError(f"loss_class = {loss_class!r}; must be a subclass of nn.Module")
        for new in (name, alias):
            if new and (entry := self._entries.get(self._resolved(new))) and entry.built_in:
                raise ValueError(f"{new!r} is a loss that is built in; choose another name")
        self._entries[name] = _Entry(loss_class)
        if alias:
            self._aliases[alias] = name

    def get_loss(self, name: str, **kwargs: Any) -> nn.Module:
        """A loss.

        Args:
            name: or alias.
            kwargs: of its constructor.

        Raises:
            ValueError: no such name (gives those there are), or arguments that do not fit.
        """
        return self._build(name, self.list_losses(), kwargs)

    def has_loss(self, name: str) -> bool:
        """Is there a loss of that name or alias?"""
        return self._resolved(name) in self._entries

    def list_losses(self, task: str | None = None) -> list[str]:
        """Names, sorted; of one task (`classification`, `detection`) or of all."""
        if task is not None and task not in TASKS:
            raise ValueError(f"task = {task!r}; allowed: {', '.join(TASKS)}")
        return sorted(n for n, e in self._entries.items() if task is None or task in e.tasks)

    def get_loss_info(self) -> dict[str, list[str]]:
        """The names of each task."""
        return {task: self.list_losses(task) for task in TASKS}

    def names_of_part(self, part: str) -> list[str]:
        """Names that can be the `class` or the `box` part of a detector's loss, sorted."""
        return sorted(n for n, entry in self._entries.items() if part in entry.parts)

    def _resolved(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _checked(self, name: str, allowed: list[str], field: str) -> str:
        if (resolved := self._resolved(name)) in allowed:
            return resolved
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field} = {name!r}; allowed: {', '.join(allowed)}{hint}")

    def _build(
        self, name: str, allowed: list[str], kwargs: dict[str, Any], field: str = "loss"
    ) -> nn.Module:
        loss_class = self._entries[self._checked(name, allowed, field)].loss_class
        try:
            inspect.signature(loss_class).bind(**kwargs)
        except TypeError as error:
            raise ValueError(
                f"{field} = {name!r}: {loss_class.__name__}: {error}; a loss that needs arguments "
                "can be made first and handed over as an object"
            ) from None
        return loss_class(**kwargs)


_REGISTRY = LossRegistry()


def get_loss_registry() -> LossRegistry:
    """The registry that the models look names up in."""
    return _REGISTRY


def get_loss(name: str, **params: Any) -> nn.Module:
    """A loss by name; see `LossRegistry.get_loss`."""
    return _REGISTRY.get_loss(name, **params)


def list_losses(task: str | None = None) -> list[str]:
    """Names of losses; see `LossRegistry.list_losses`."""
    return _REGISTRY.list_losses(task)


def list_available_losses(task: str | None = None) -> list[str]:
    """`list_losses` under AutoTimm's name."""
    return _REGISTRY.list_losses(task)


def register_custom_loss(name: str, loss_class: type[nn.Module], alias: str | None = None) -> None:
    """Make a loss of one's own known by name; see `LossRegistry.register_loss`."""
    _REGISTRY.register_loss(name, loss_class, alias)


def register_loss(
    name: str, alias: str | None = None
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """A class decorator that does what `register_custom_loss` does."""

    def register(loss_class: type[nn.Module]) -> type[nn.Module]:
        _REGISTRY.register_loss(name, loss_class, alias)
        return loss_class

    return register


def not_zero(divisor: Tensor) -> Tensor:
    """1 in the place of 0, for a sum of nothing; a scalar."""
    return divisor.where(divisor > 0, 1.0)


_CLASS_MEAN = ("cross_entropy", "nll")  # with class weights divided by their sum


class ClassificationLoss(nn.Module):
    """A classifier's loss by name: logits [B, C] and targets to the mean over the batch.

    Targets are class ids [B] or, for several labels and for mixed images, shares [B, C].

    Args:
        name: `cross_entropy`, `nll` (the same, without smoothing), `bce`, `bce_with_logits`,
            `focal`, or `mse` (of the probabilities).
        multi_label: classes do not exclude each other.
        label_smoothing: share of the target spread evenly over the classes, in training only.
        class_weights: [C], of each class.
    """

    def __init__(
        self,
        name: str,
        multi_label: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        self.name, self.multi_label, self.label_smoothing = name, multi_label, label_smoothing
        self.class_weights: Tensor | None
        # Follows the model to its device, but is a setting: not among its weights.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar."""
        if self.weighs(targets):
            return self.total(logits, targets) / not_zero(self.divisor(targets))
        logits = logits.float()
        if self.name in _CLASS_MEAN:
            return self._cross_entropy(logits, targets, "mean")
        dense = one_hot_targets(logits, targets)
        if self.name == "focal":
            return FocalLoss()(logits, dense)
        if self.name == "mse":
            shares = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
            return F.mse_loss(shares, dense)
        return F.binary_cross_entropy_with_logits(logits, dense, self.class_weights)

    def weighs(self, targets: Tensor) -> bool:
        """Whether `forward` divides by the sum of the weights of the images' classes."""
        weighted = self.class_weights is not None and self.name in _CLASS_MEAN
        return weighted and targets.ndim == 1

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Where it `weighs`, the sum over images, not divided yet."""
        return self._cross_entropy(logits.float(), targets, "sum")

    def divisor(self, targets: Tensor) -> Tensor:
        """What that sum is divided by: 0 where only classes of weight 0 are there."""
        assert self.class_weights is not None
        return self.class_weights[targets].sum()

    def _cross_entropy(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(
            logits, targets, self.class_weights, reduction=reduction, label_smoothing=smoothing
        )


class _InFloat32(nn.Module):
    """A loss of the user's own, called with float32 logits."""

    def __init__(self, loss: Callable[..., Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What the loss gives."""
        return self.loss(logits.float(), targets)


class _PerBox(nn.Module):
    """A box loss as one value a box."""

    def __init__(self, loss: Callable[..., Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """[N, 4] xyxy twice to [N]; a single value is taken for the mean, every box's share."""
        if len(boxes) == 0:  # a mean of nothing would be NaN
            return boxes.float().sum(dim=1)
        loss = self.loss(boxes.float(), targets.float())
        if loss.ndim == 2 and len(loss) == len(boxes):
            loss = loss.sum(dim=1)  # one value a coordinate
        if loss.ndim > 1 or loss.numel() not in (1, len(boxes)):
            raise ValueError(
                f"reg_loss_fn gave the shape {list(loss.shape)} for {len(boxes)} boxes; "
                "allowed: one value a box, or their mean"
            )
        return loss.expand(len(boxes))


def as_classification_loss(
    spec: LossSpec | None,
    multi_label: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> nn.Module:
    """What `ImageClassifier` calls with logits [B, C] and targets [B] or [B, C].

    Args:
        spec: a name, an object that is called so, or None for cross-entropy, with several labels
            binary cross-entropy.
        multi_label, label_smoothing, class_weights: see `ClassificationLoss`; an object or a
            registered loss has its own.

    Raises:
        ValueError: an unknown name, one that does not fit several labels, smoothing or weights, or
            something that is no loss; says what is allowed.
    """
    if spec is None:
        spec = "bce_with_logits" if multi_label else "cross_entropy"
    if not isinstance(spec, str):
        return _InFloat32(_checked_object(spec, "loss_fn", label_smoothing, class_weights))
    allowed = [n for n in list_losses("classification") if not multi_label or _fits_labels(n)]
    name = _REGISTRY._checked(spec, allowed, "loss_fn")
    if name not in [*_CLASSIFICATION, "focal"]:
        loss = _REGISTRY._build(name, allowed, {}, "loss_fn")
        return _InFloat32(_checked_object(loss, "loss_fn", label_smoothing, class_weights))
    for field, given, able in (
        ("label_smoothing", label_smoothing > 0, _SMOOTHED),
        ("class_weights", class_weights is not None, _CLASS_WEIGHTED),
    ):
        if given and name not in able:
            raise ValueError(f"{field} with loss_fn = {spec!r}; allowed with: {', '.join(able)}")
    return ClassificationLoss(name, multi_label, label_smoothing, class_weights)


def as_cls_loss(
    spec: LossSpec | None, focal_alpha: float = 0.25, focal_gamma: float = 2.0
) -> nn.Module:
    """What a detector calls for its classes: logits [M, C] and targets [M, C], 0 to 1.

    A detector divides by the number of its positives: an object with a `reduction` is copied and
    set to give a sum; one without must give single values or their sum.

    Args:
        spec: `focal`, `bce`, a registered name, an object, or None for focal.
        focal_alpha, focal_gamma: of `focal`.

    Raises:
        ValueError: an unknown name, or something that is no loss; says what is allowed.
    """
    spec = "focal" if spec is None else spec
    if not isinstance(spec, str):
        return _InFloat32(_with_reduction(_checked_object(spec, "cls_loss_fn"), "sum"))
    params = {"alpha": focal_alpha, "gamma": focal_gamma} if spec == "focal" else {}
    loss = _REGISTRY._build(spec, _REGISTRY.names_of_part("class"), params, "cls_loss_fn")
    return _InFloat32(_with_reduction(loss, "sum"))


def as_reg_loss(spec: LossSpec | None) -> nn.Module:
    """What a detector calls for its boxes: [N, 4] xyxy predicted and true, to one value a box.

    An object with a `reduction` is copied and set to `none`; of one without, a single value counts
    as the mean over the boxes.

    Args:
        spec: `giou`, `iou`, `diou`, `ciou`, a registered name, an object, or None for GIoU.

    Raises:
        ValueError: an unknown name, or something that is no loss; says what is allowed.
    """
    spec = "giou" if spec is None else spec
    if isinstance(spec, str):
        spec = _REGISTRY._build(spec, _REGISTRY.names_of_part("box"), {}, "reg_loss_fn")
    return _PerBox(_with_reduction(_checked_object(spec, "reg_loss_fn"), "none"))


def _fits_labels(name: str) -> bool:
    return name in _MULTI_LABEL or name not in _CLASSIFICATION


def _checked_object(
    spec: Any, field: str, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Callable[..., Tensor]:
    if inspect.isclass(spec) or not callable(spec):
        raise ValueError(f"{field} = {spec!r}; allowed: a name, or a loss object (nn.Module)")
    if label_smoothing > 0 or class_weights is not None:
        given = "label_smoothing" if label_smoothing > 0 else "class_weights"
        raise ValueError(f"{given} with a {field} of one's own: build it into the loss")
    return spec


def _with_reduction(loss: Callable[..., Tensor], reduction: str) -> Callable[..., Tensor]:
    if getattr(loss, "reduction", None) not in REDUCTIONS:
        return loss
    loss = copy.deepcopy(loss)
    loss.reduction = reduction  # type: ignore[attr-defined]
    return loss
