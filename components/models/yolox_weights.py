"""Weights that the official YOLOX code saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.errors import ModelError
from components.models.pretrained import read_state
from components.models.yolox_network import YoloxNetwork


def load_official_weights(network: YoloxNetwork, path: str | Path) -> None:
    """Load weights that the official code saved.

    A class head trained on another number of classes keeps its initial values, as in official
    fine-tuning; everything else has to fit.

    Args:
        network: of the size the weights are of.
        path: an official `.pth` (`{"model": state dict, ...}`), or `.safetensors`.

    Raises:
        ModelError: no such file, unreadable, or weights of another network; names what differs.
    """
    path = Path(path)
    # Official checkpoints carry the best AP so far as a numpy number, of numpy 1 or 2.
    scalar = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [np.dtype, type(np.dtype(np.float64))]
    numbers += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals(numbers):
        state = read_state(path)
    wanted = network.state_dict()
    differ = {
        name for name, value in wanted.items() if name in state and state[name].shape != value.shape
    }
    class_head = {name for name in wanted if name.startswith("head.cls_preds.")}
    if differ == class_head:
        state = {**state, **{name: wanted[name] for name in class_head}}
        differ = set()
    problems = [
        *(f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}" for n in sorted(differ)),
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is unknown" for name in state if name not in wanted),
    ]
    if problems:
        raise ModelError(
            f"{path}: not the weights of this YOLOX: {len(problems)} of {len(wanted)} tensors do "
            f"not fit ({', '.join(problems[:3])})"
        )
    network.load_state_dict(state)
