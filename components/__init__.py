"""How: data, models, losses, training, evaluation, export. Knows nothing of DVC or Prefect.

The public classes are importable from here; each is imported when it is first asked for, so that
`import components` alone imports nothing heavy.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "BackboneConfig": "components.models.backbones",
    "CIoULoss": "components.models.loss_modules",
    "CenternessLoss": "components.models.loss_modules",
    "DIoULoss": "components.models.loss_modules",
    "FCOSLoss": "components.models.loss_modules",
    "FeatureBackboneConfig": "components.models.backbones",
    "FocalLoss": "components.models.loss_modules",
    "GIoULoss": "components.models.loss_modules",
    "ImageClassifier": "components.models.classifier",
    "IoULoss": "components.models.loss_modules",
    "LoggingConfig": "components.models.metrics",
    "LossRegistry": "components.models.loss_registry",
    "MetricConfig": "components.models.metrics",
    "MetricManager": "components.models.metrics",
    "ObjectDetector": "components.models.detector",
    "OnnxPredictor": "components.export.predictor",
    "PreparedDataModule": "components.data.loaders",
    "PreparedStore": "components.data.store",
    "count_parameters": "components.models.backbones",
    "create_backbone": "components.models.backbones",
    "create_feature_backbone": "components.models.backbones",
    "export_checkpoint_to_onnx": "components.export.onnx_api",
    "export_to_onnx": "components.export.onnx_api",
    "get_feature_channels": "components.models.backbones",
    "get_feature_info": "components.models.backbones",
    "get_feature_strides": "components.models.backbones",
    "get_loss": "components.models.loss_registry",
    "get_loss_registry": "components.models.loss_registry",
    "list_available_losses": "components.models.loss_registry",
    "list_backbones": "components.models.backbones",
    "list_losses": "components.models.loss_registry",
    "load_onnx": "components.export.onnx_api",
    "register_custom_loss": "components.models.loss_registry",
    "register_loss": "components.models.loss_registry",
    "validate_onnx_export": "components.export.onnx_api",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'components' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
