"""`BackboneConfig`, `FeatureBackboneConfig`: which timm model, and how; plain data, saved whole."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch


class _PlainConfig:
    """Checks, and the way to plain types and back, that both configs share."""

    drop_rate: float
    drop_path_rate: float
    pretrained: bool | str
    extra_kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} = {value}: a share, at least 0 and below 1")
        if not isinstance(self.pretrained, bool | str):
            raise ValueError(
                f"pretrained = {self.pretrained!r}: True, False, or the path of a weights file"
            )
        # A JSON file has no tuples; with tuples throughout, a config read back equals itself.
        object.__setattr__(self, "extra_kwargs", _with_tuples(dict(self.extra_kwargs)))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain types, fit for JSON and for `torch.load(weights_only=True)`.

        Raises:
            ValueError: `extra_kwargs` holds something that is not plain data.
        """
        values = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
        }
        return {name: _plain(value, name) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` was called on.

        Raises:
            ValueError: a key that the config does not have, or a value that it does not allow.
        """
        known = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
                raise ValueError(f"{cls.__name__} has no field {name!r}; {hint}")
        return cls(**values)


@dataclass(frozen=True)
class BackboneConfig(_PlainConfig):
    """A headless timm model.

    Attributes:
        model_name: timm's name.
        pretrained: True for ImageNet weights (an installed weights package, else timm's hub),
            False for random ones, or the path of a local file.
        num_classes: 0 for none: the model then gives pooled features.
        drop_rate: dropout of the pooled features; in a few families within the network too.
        drop_path_rate: stochastic depth, the share at the last block. Zero means none, also for
            families that timm gives some by default (Swin 0.1, NesT 0.5).
        extra_kwargs: passed on to `timm.create_model`.
        grad_checkpointing: compute activations twice instead of keeping them: slower, less memory.
    """

    model_name: str = "resnet50"
    pretrained: bool | str = True
    num_classes: int = 0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    extra_kwargs: dict[str, Any] = field(default_factory=dict)
    grad_checkpointing: bool = False


@dataclass(frozen=True)
class FeatureBackboneConfig(_PlainConfig):
    """A timm model that gives feature maps of several strides.

    Attributes:
        model_name, pretrained, drop_path_rate, extra_kwargs, grad_checkpointing: as in
            `BackboneConfig`.
        out_indices: positions among timm's features; None for strides 8, 16, 32.
        drop_rate: given to timm, too; feature maps are taken before the dropout of most families.
    """

    model_name: str = "resnet50"
    pretrained: bool | str = True
    out_indices: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    extra_kwargs: dict[str, Any] = field(default_factory=dict)
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out_indices is not None:
            object.__setattr__(self, "out_indices", tuple(self.out_indices))


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(item) for item in value)
    return value


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_plain(item, f"{path}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise ValueError(
        f"{path} = {value!r} cannot be saved: allowed are numbers, strings, true, false, null, and "
        "lists and mappings of them"
    )


# So that a checkpoint whose hyper-parameters hold a config loads with `weights_only=True`.
torch.serialization.add_safe_globals([BackboneConfig, FeatureBackboneConfig])
