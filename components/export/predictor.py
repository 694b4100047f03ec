"""Run an exported model: the ONNX file is all that is needed. Imports neither torch nor timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from components.data.geometry import to_input
from components.errors import ModelError

_NEEDED = ("task", "classes", "image_size", "resize", "crop_fraction")


class OnnxPredictor:
    """An exported model, ready to be shown images.

    Args:
        path: of the ONNX file.
        num_threads: of ONNX Runtime; 0 takes one per core.

    Attributes:
        metadata: all that the file says of itself.
        task: `classification` or `detection`.
        classes: names by class id.
        thresholds: of a multi-label classifier, by class, the probability from which on it is
            there; None for any other model.
        resizes: the graph brings images of any size to the model's own.

    Raises:
        ModelError: no such file, not an ONNX model, or not one that timmflow exported.
    """

    def __init__(self, path: Path, num_threads: int = 0):
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base but this
            raise ModelError(f"{path}: not a model ONNX Runtime can run: {error}") from None
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        missing = [key for key in _NEEDED if key not in self.metadata]
        if missing:
            raise ModelError(
                f"{path}: not exported by timmflow: metadata lacks {', '.join(missing)}"
            )
        self.task = self.metadata["task"]
        self.classes: list[str] = json.loads(self.metadata["classes"])
        self.thresholds: tuple[float, ...] | None = None
        if json.loads(self.metadata.get("multi_label", "false")):
            self.thresholds = tuple(json.loads(self.metadata.get("thresholds", "[]")))
            if len(self.thresholds) != len(self.classes):
                raise ModelError(
                    f"{path}: metadata has {len(self.thresholds)} thresholds for "
                    f"{len(self.classes)} classes; export the model again"
                )
        height, width = json.loads(self.metadata["image_size"])
        self.image_size: tuple[int, int] = (height, width)
        self._resize: Any = self.metadata["resize"]
        self.resizes = self.metadata.get("input_size") == "any"
        self._crop_fraction = float(json.loads(self.metadata["crop_fraction"]))

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raw outputs of the graph for uint8 images [B, H, W, 3] of a size that it takes."""
        return tuple(self.session.run(None, {"images": images}))

    def predict(
        self, images: list[np.ndarray], threshold: float | None = None
    ) -> list[dict[str, Any]]:
        """Predictions on images of any size.

        Args:
            images: uint8 RGB [H, W, 3] each, upright.
            threshold: of labels and detections, those with a smaller score are left out; None for
                the model's own, which for labels is one a class.

        Returns:
            For each image, classification: `probabilities` {class: p}, largest first; several
            labels an image: `labels` [{`label`, `score`}], strongest first, too; detection:
            `detections` [{`label`, `score`, `box` [x1, y1, x2, y2] in the image's own pixels}],
            strongest first.
        """
        if not images:
            return []
        if self.resizes:  # images of different sizes cannot be stacked
            scales: tuple[tuple[float, float], ...] = ((1.0, 1.0),) * len(images)
            outputs = tuple(
                np.concatenate(parts)
                for parts in zip(*(self.run(image[None]) for image in images), strict=True)
            )
        else:
            inputs, scales = zip(
                *(to_input(i, self.image_size, self._resize, self._crop_fraction) for i in images),
                strict=True,
            )
            outputs = self.run(np.stack(inputs))
        if self.task == "classification":
            return [
                {**self._labels(row, threshold), **self._probabilities(row)} for row in outputs[0]
            ]
        return [
            {"detections": self._detections(image.shape[:2], scale, threshold or 0.0, *rows)}
            for image, scale, *rows in zip(images, scales, *outputs, strict=True)
        ]

    def _labels(self, row: np.ndarray, threshold: float | None) -> dict[str, Any]:
        if self.thresholds is None:
            return {}
        least = self.thresholds if threshold is None else threshold
        there = np.flatnonzero(row >= np.asarray(least))
        order = there[np.argsort(-row[there], kind="stable")]
        return {
            "labels": [{"label": self.classes[i], "score": round(float(row[i]), 6)} for i in order]
        }

    def _probabilities(self, row: np.ndarray) -> dict[str, Any]:
        order = np.argsort(-row, kind="stable")
        return {"probabilities": {self.classes[i]: round(float(row[i]), 6) for i in order}}

    def _detections(
        self,
        shape: tuple[int, int],
        scale: tuple[float, float],
        threshold: float,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
    ) -> list[dict[str, Any]]:
        (height, width), (scale_y, scale_x) = shape, scale
        own = boxes / np.array([scale_x, scale_y, scale_x, scale_y])
        own = own.clip(0, [width, height, width, height])
        return [
            {
                "label": self.classes[int(label)],
                "score": round(float(score), 6),
                "box": [round(float(side), 2) for side in box],
            }
            for box, score, label in zip(own, scores, labels, strict=True)
            if score > 0 and score >= threshold
        ]
