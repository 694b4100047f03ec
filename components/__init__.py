"""How: data, models, losses, training, evaluation, export. Knows nothing of DVC or Prefect.

The public classes are importable from here; each is imported when it is first asked for, so that
`import components` alone imports nothing heavy.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "BackboneConfig": "components.models.backbones",
    "FeatureBackboneConfig": "components.models.backbones",
    "ImageClassifier": "components.models.classifier",
    "ObjectDetector": "components.models.detector",
    "OnnxPredictor": "components.export.predictor",
    "PreparedDataModule": "components.data.loaders",
    "PreparedStore": "components.data.store",
    "YOLOX_SIZES": "components.models.yolox_network",
    "YoloxNetwork": "components.models.yolox_network",
    "count_parameters": "components.models.backbones",
    "create_backbone": "components.models.backbones",
    "create_feature_backbone": "components.models.backbones",
    "get_feature_channels": "components.models.backbones",
    "get_feature_info": "components.models.backbones",
    "get_feature_strides": "components.models.backbones",
    "list_backbones": "components.models.backbones",
    "load_official_weights": "components.models.yolox_weights",
    "simota": "components.models.simota",
    "yolox_loss": "components.models.yolox_loss",
    "yolox_network": "components.models.yolox_network",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'components' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
