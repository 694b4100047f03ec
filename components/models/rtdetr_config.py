"""The published RT-DETR models (Zhao et al. 2023, arXiv:2304.08069) as configurations.

`transformers` (the extra `rtdetr`) is imported when a configuration is made, not before.
"""

from __future__ import annotations

import difflib
from typing import Any

from components.errors import ModelError

STRIDES = (8, 16, 32)
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # images are scaled to 0..1, nothing more

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
