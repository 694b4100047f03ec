"""How: data, models, losses, training, evaluation, export. Knows nothing of DVC or Prefect.

The public classes are importable from here; each is imported when it is first asked for, so that
`import components` alone imports nothing heavy.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AutoTrainer": "components.training.auto_trainer",
    "BackboneConfig": "components.models.backbones",
    "CIoULoss": "components.models.loss_modules",
    "CenternessLoss": "components.models.loss_modules",
    "DIoULoss": "components.models.loss_modules",
    "DetectionDataModule": "components.data.detection_data_module",
    "FCOSLoss": "components.models.loss_modules",
    "FeatureBackboneConfig": "components.models.backbones",
    "FocalLoss": "components.models.loss_modules",
    "GIoULoss": "components.models.loss_modules",
    "ImageClassifier": "components.models.classifier",
    "ImageDataModule": "components.data.image_data_module",
    "IoULoss": "components.models.loss_modules",
    "LoggerConfig": "components.training.loggers",
    "LoggerManager": "components.training.loggers",
    "LoggingConfig": "components.models.metrics",
    "LossRegistry": "components.models.loss_registry",
    "MetricConfig": "components.models.metrics",
    "MetricManager": "components.models.metrics",
    "MultiLabelImageDataModule": "components.data.image_data_module",
    "ObjectDetector": "components.models.detector",
    "OnnxPredictor": "components.export.predictor",
    "PreparedDataModule": "components.data.loaders",
    "PreparedStore": "components.data.store",
    "RTDetrDetector": "components.models.rtdetr_detector",
    "TransformConfig": "components.data.transform_config",
    "TunerConfig": "components.training.rate_search",
    "YOLOXDetector": "components.models.yolox_detector",
    "YOLOX_SIZES": "components.models.yolox_network",
    "YoloxNetwork": "components.models.yolox_network",
    "count_parameters": "components.models.backbones",
    "create_backbone": "components.models.backbones",
    "create_feature_backbone": "components.models.backbones",
    "create_inference_transform": "components.data.transform_config",
    "eval_transform": "components.data.transform_config",
    "export_checkpoint_to_onnx": "components.export.onnx_api",
    "export_to_onnx": "components.export.onnx_api",
    "get_feature_channels": "components.models.backbones",
    "get_feature_info": "components.models.backbones",
    "get_feature_strides": "components.models.backbones",
    "get_loss": "components.models.loss_registry",
    "get_loss_registry": "components.models.loss_registry",
    "get_transforms_from_backbone": "components.data.transform_config",
    "list_available_losses": "components.models.loss_registry",
    "list_backbones": "components.models.backbones",
    "list_losses": "components.models.loss_registry",
    "list_optimizers": "components.models.optimizers",
    "list_schedulers": "components.models.schedulers",
    "list_transform_presets": "components.data.transform_config",
    "load_official_weights": "components.models.yolox_weights",
    "load_onnx": "components.export.onnx_api",
    "register_custom_loss": "components.models.loss_registry",
    "register_loss": "components.models.loss_registry",
    "resolve_backbone_data_config": "components.data.transform_config",
    "seed_everything": "components.training.seeding",
    "simota": "components.models.simota",
    "train_transform": "components.data.transform_config",
    "validate_onnx_export": "components.export.onnx_api",
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
