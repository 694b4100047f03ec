"""Write a trained model as one ONNX file that needs nothing beside it.

Input `images`: uint8 RGB [batch, height, width, 3], the image's own layout; normalisation is in the
graph. Outputs: `probabilities` [batch, classes], which sum to one, or where the metadata has
`multi_label` `true` are each class's own, to be compared with its `thresholds`; or `boxes`
[batch, D, 4] xyxy in input pixels, `scores` [batch, D] falling and 0 where there is none, `labels`
[batch, D] and -1 where there is none: decoding and non-maximum suppression are in the graph too.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch

from components.errors import ExportError
from components.files import atomic_path
from components.models.saved_model import InferenceModel, ModelDescription

DETECTION_OUTPUTS = ("boxes", "scores", "labels")
CLASSIFICATION_OUTPUTS = ("probabilities",)


def _onnx_nms_keep(
    boxes_xyxy: Any, scores: Any, iou_threshold: float, score_threshold: float, enough: int
) -> Any:
    """`timmflow::nms_keep` in ONNX, traced by the exporter: which candidates [B, K] survive."""
    op: Any = onnxscript.opset18  # its annotations know ONNX's types, not traced values
    # NonMaxSuppression wants [B, classes, K] scores; classes were moved apart, so there is one.
    one_class = op.Unsqueeze(scores, op.Constant(value_ints=[1]))
    count = op.Constant(value_ints=[enough])
    iou = op.Constant(value_float=iou_threshold)
    floor = op.Constant(value_float=score_threshold)
    selected = op.NonMaxSuppression(boxes_xyxy, one_class, count, iou, floor)
    # Its rows are (image, class, candidate); mark them in a table of zeros.
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    nothing = op.ConstantOfShape(op.Shape(scores))
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(selected, start=0, end=1))
    marks = op.ScatterND(nothing, places, ones)
    return op.Greater(marks, op.Constant(value_float=0.5))


def write_onnx(
    model: InferenceModel,
    description: ModelDescription,
    path: Path,
    opset: int = 18,
    facts: dict[str, str] | None = None,
) -> None:
    """Export, add the metadata, check, and only then put the file in place.

    Args:
        model: in evaluation mode, on the CPU; its thresholds go into the graph.
        description: of the model.
        path: of the file.
        opset: ONNX operator set.
        facts: further metadata: git revision, licence, …

    Raises:
        ExportError: the exporter or ONNX's checker refuses the model.
    """
    height, width = description.image_size
    # Two images, or the exporter would take a batch of one for a constant.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    names = DETECTION_OUTPUTS if description.task == "detection" else CLASSIFICATION_OUTPUTS
    with atomic_path(path) as draft:
        proto = trace(
            model,
            example,
            description.backbone,
            ["images"],
            list(names),
            {0: torch.export.Dim("batch")},
            opset,
        )
        onnx.helper.set_model_props(proto, _metadata(description) | (facts or {}))
        save_checked(proto, draft)


def trace(
    model: torch.nn.Module,
    example: torch.Tensor,
    label: str,
    input_names: list[str],
    output_names: list[str] | None,
    dynamic_axes: dict[int, Any],
    opset: int,
) -> onnx.ModelProto:
    """A model as an ONNX graph.

    Args:
        model: in evaluation mode; takes one tensor.
        example: its input; an axis that is to stay free must be longer than one.
        label: what messages call the model.
        input_names, output_names: of the graph; None for the exporter's own.
        dynamic_axes: axis of the input to `torch.export.Dim`.
        opset: ONNX operator set.

    Raises:
        ExportError: the exporter refuses the model.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                model,
                (example,),
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=(dynamic_axes,),
                custom_translation_table={torch.ops.timmflow.nms_keep.default: _onnx_nms_keep},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch.onnx could not export {label}: {error}") from None
    assert program is not None
    return program.model_proto


def save_checked(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph once ONNX's own checker has nothing against it.

    Raises:
        ExportError: it has.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the exported model: {error}") from None
    onnx.save_model(proto, path)


def _metadata(description: ModelDescription) -> dict[str, str]:
    thresholds = {"thresholds": json.dumps(description.thresholds)}
    return {
        **(thresholds if description.multi_label else {}),
        "producer": "timmflow",
        "format_version": "1",
        "task": description.task,
        "classes": json.dumps(description.classes, ensure_ascii=False),
        "multi_label": json.dumps(description.multi_label),
        "image_size": json.dumps(description.image_size),
        "color": "RGB uint8, height x width x channel",
        "mean": json.dumps(description.mean),
        "std": json.dumps(description.std),
        "channels": description.channels,
        "resize": description.resize,
        "crop_fraction": json.dumps(description.crop_fraction),
        "backbone": description.backbone,
        "data_fingerprint": description.fingerprint,
    }
