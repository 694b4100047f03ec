"""A trained model on disk: `weights.safetensors`, and `model.json`, which rebuilds the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from components.data.color import normalize
from components.data.geometry import fit
from components.data.store import PreparedStore
from components.errors import ModelError
from components.files import atomic_path, read_json, write_json
from components.models.backbones import (
    BackboneConfig,
    FeatureBackboneConfig,
    image_size_arguments,
    normalization,
)
from components.models.classifier import ImageClassifier
from components.models.detector import DetectorModule, ObjectDetector
from components.models.rtdetr_detector import RTDetrDetector
from components.models.vision_module import VisionModule
from components.models.yolox_detector import YOLOXDetector
from components.settings import Settings

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"


class ModelDescription(Settings):
    """All that is needed to rebuild a network and to feed it; stored beside the weights."""

    task: Literal["classification", "detection"] = Field(description="what it predicts")
    backbone: str = Field(description="timm's name, or that of a whole detector")
    classes: tuple[str, ...] = Field(description="names; a class id is a position")
    multi_label: bool = Field(False, description="any number of classes an image, not one")
    thresholds: tuple[float, ...] = Field(
        (), description="multi-label: by class, the probability from which on it is there"
    )
    temperature: float = Field(
        1.0, gt=0, description="classification: logits are divided by it; fitted on val"
    )
    image_size: tuple[int, int] = Field(description="height and width of the input, pixels")
    resize: Literal["letterbox", "crop"] = Field(description="how images come to that size")
    crop_fraction: float = Field(description="see components.data.geometry")
    mean: tuple[float, ...] = Field(description="normalisation, in [0, 1]")
    std: tuple[float, ...] = Field(description="normalisation, in [0, 1]")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="order of colours it takes")
    fingerprint: str = Field(description="of the data it was trained on")
    arch: str = Field("", description="detection head over a timm backbone")
    options: dict[str, Any] = Field({}, description="further arguments of the network")


def whole_detector(name: str) -> Any:
    """The class of a detector that is named as a whole, or None for a timm backbone."""
    if name.startswith("yolox-"):
        return YOLOXDetector
    return RTDetrDetector if name.startswith("rtdetr_") else None


def input_format(backbone: str) -> dict[str, Any]:
    """`mean`, `std` and `channels` of what a backbone or whole detector takes.

    Raises:
        ValueError: timm knows no such backbone.
    """
    whole = whole_detector(backbone)
    if whole is not None:
        return {**whole.fixed_input, "channels": whole.channels}
    mean, std = normalization(backbone)
    return {"mean": mean, "std": std, "channels": "rgb"}


def build_model(
    description: ModelDescription, pretrained: bool | str = False, **training: Any
) -> VisionModule:
    """The Lightning module that a description stands for, with fresh weights.

    Args:
        description: of the network.
        pretrained: of the backbone; see `BackboneConfig`.
        training: further arguments of the module: learning rate, optimizer, thresholds, …

    Raises:
        ModelError: the backbone is not known, or not fit for the task.
    """
    num_classes = len(description.classes)
    arguments: dict[str, Any] = {**description.options, **training}
    try:
        whole = whole_detector(description.backbone)
        if whole is not None:
            return whole(description.backbone, num_classes, pretrained=pretrained, **arguments)
        extra = image_size_arguments(description.backbone, description.image_size)
        if description.task == "classification":
            backbone = BackboneConfig(
                description.backbone, pretrained=pretrained, extra_kwargs=extra
            )
            return ImageClassifier(backbone, num_classes, description.multi_label, **arguments)
        features = FeatureBackboneConfig(
            description.backbone, pretrained=pretrained, extra_kwargs=extra
        )
        return ObjectDetector(features, num_classes, description.arch, **arguments)
    except ValueError as error:
        raise ModelError(f"train.backbone = {description.backbone}: {error}") from None


def assert_runs(model: VisionModule, description: ModelDescription) -> None:
    """Show the model one empty image, so that a size it cannot take is known before training.

    Raises:
        ModelError: it does not run.
    """
    height, width = description.image_size
    try:
        model.evaluating(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"train.backbone = {description.backbone} does not work at preprocess.image_size = "
            f"[{height}, {width}]: {error}"
        ) from None


def save_model(folder: Path, description: ModelDescription, state: dict[str, Tensor]) -> None:
    """Write weights and description, whole or not at all.

    Raises:
        WriteError: the disk is full, or refuses for another reason.
    """
    with atomic_path(folder) as draft:
        draft.mkdir()
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        # Not `save_file`, which has errors of its own for what the disk says.
        (draft / WEIGHTS).write_bytes(save(tensors))
        write_json(draft / DESCRIPTION, description.model_dump(mode="json"))


def load_model(folder: Path, **arguments: Any) -> tuple[VisionModule, ModelDescription]:
    """A trained model in evaluation mode, and its description.

    Args:
        folder: as `save_model` wrote it.
        arguments: further arguments of the module, such as thresholds.

    Raises:
        ModelError: nothing there, or the two files do not fit each other.
    """
    description = read_description(Path(folder))
    model = build_model(description, **arguments)
    try:
        model.network.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {error}") from None
    return model.eval(), description


def read_description(folder: Path) -> ModelDescription:
    """What `save_model` wrote about a trained model.

    Raises:
        ModelError: nothing there, or not a description.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no trained model; run the train stage first")
    try:
        return ModelDescription.model_validate(read_json(folder / DESCRIPTION))
    except ValidationError as error:
        raise ModelError(f"{folder / DESCRIPTION}: {error}") from None


class InferenceModel(nn.Module):
    """The whole way from an image's bytes to predictions; this is what is measured and exported.

    Takes uint8 RGB [B, H, W, 3] of the model's size, or of another one that its network can take.
    Gives `(probabilities [B, C],)` at the description's temperature, which sum to one, or for
    multi-label are each class's own; or padded `(boxes [B, D, 4], scores [B, D], labels [B, D])`;
    see `select_detections`.
    """

    def __init__(self, model: VisionModule, description: ModelDescription):
        super().__init__()
        self.network = model.network
        # Not registered as a submodule: its weights are the network's.
        self._detections = model.detections if isinstance(model, DetectorModule) else None
        self.image_size = description.image_size
        self._multi_label = description.multi_label
        self._temperature = description.temperature
        self._format = (description.mean, description.std, description.channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predictions; see the class."""
        outputs = self.network(normalize(images.permute(0, 3, 1, 2), *self._format))
        if self._detections is None:
            logits = outputs.float() / self._temperature
            return (logits.sigmoid() if self._multi_label else logits.softmax(dim=1),)
        return self._detections(outputs, (images.shape[1], images.shape[2]))


def store_outputs(
    model: InferenceModel, store: PreparedStore, batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """What a model gives for images of a store.

    Args:
        model: in evaluation mode, on the CPU.
        store: the images.
        batches: rows of the store, a batch each.

    Yields:
        The rows of a batch, and the model's outputs for them.
    """
    for rows in batches:
        images = np.stack([fit(store.image(r), model.image_size, store.info.resize) for r in rows])
        with torch.inference_mode():
            yield rows, tuple(output.numpy() for output in model(torch.from_numpy(images)))


def load_for_inference(
    folder: Path, **thresholds: float
) -> tuple[InferenceModel, ModelDescription]:
    """A trained model that turns images into predictions.

    Args:
        folder: as `save_model` wrote it.
        thresholds: `score_thresh`, `nms_thresh`, `max_detections_per_image`; a model takes those it
            has, a classifier none.

    Raises:
        ModelError: nothing there, or the files do not fit each other.
    """
    folder = Path(folder)
    description = read_description(folder)
    wanted: tuple[str, ...] = ()
    if description.task == "detection":
        wanted = (whole_detector(description.backbone) or ObjectDetector).thresholds
    model, _ = load_model(folder, **{name: thresholds[name] for name in wanted})
    return InferenceModel(model, description).eval(), description
