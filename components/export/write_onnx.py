"""Write a trained model as one ONNX file that needs nothing beside it.

Input `images`: uint8 RGB [batch, height, width, 3], the image's own layout; normalisation is in the
graph, and with `input_size: any` the resize rule too. Outputs: `probabilities` [batch, classes],
which sum to one, or where the metadata has `multi_label` `true` are each class's own, to be
compared with its `thresholds`; or `boxes` [batch, D, 4] xyxy in pixels of the input, `scores`
[batch, D] falling and 0 where there is none, `labels` [batch, D] and -1 where there is none:
decoding and non-maximum suppression are in the graph too.
"""

from __future__ import annotations

import ast
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxscript
import torch

from components.errors import ExportError
from components.export.constant_padding import with_constant_padding
from components.export.graph_input import AnySizeModel, onnx_to_model_size
from components.files import atomic_path
from components.models.saved_model import InferenceModel, ModelDescription

DETECTION_OUTPUTS = ("boxes", "scores", "labels")
CLASSIFICATION_OUTPUTS = ("probabilities",)

InputSize = Literal["fixed", "free", "any"]
FREE_STEP = 32  # pixels; a free height or width is a multiple of it, and twice as much at least
SCOPE = "scope"  # of a node: the module it comes from, such as `network.backbone.layer4`


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
    input_size: InputSize = "fixed",
) -> None:
    """Export, add the metadata, check, and only then put the file in place.

    Args:
        model: in evaluation mode, on the CPU; its thresholds go into the graph.
        description: of the model.
        path: of the file.
        opset: ONNX operator set.
        facts: further metadata: git revision, licence, …
        input_size: see `graph_inputs`.

    Raises:
        ExportError: the exporter or ONNX's checker refuses the model.
    """
    graph, example, dynamic_axes = graph_inputs(model, description, input_size)
    names = DETECTION_OUTPUTS if description.task == "detection" else CLASSIFICATION_OUTPUTS
    with atomic_path(path) as draft:
        proto = trace(
            graph,
            example,
            description.backbone,
            ["images"],
            list(names),
            dynamic_axes,
            opset,
        )
        about = _metadata(description) | {"input_size": input_size}
        onnx.helper.set_model_props(proto, about | (facts or {}))
        save_checked(proto, draft)


def write_program(
    model: InferenceModel, description: ModelDescription, path: Path, input_size: InputSize
) -> None:
    """Write a model as torch.export's own `.pt2`: for PyTorch without this repository's networks.

    To load it needs `components.export.graph_input` imported, which registers the operators in it.

    Args:
        model, description, input_size: see `write_onnx`.
        path: of the file; not put in place by renaming.

    Raises:
        ExportError: torch.export refuses the model.
    """
    graph, example, axes = graph_inputs(model, description, input_size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(graph, (example,), dynamic_shapes=(axes,))
        except (RuntimeError, ValueError, torch._dynamo.exc.UserError) as error:
            raise ExportError(f"torch.export refuses {description.backbone}: {error}") from None
        torch.export.save(program, path)


def graph_inputs(
    model: InferenceModel, description: ModelDescription, input_size: InputSize
) -> tuple[torch.nn.Module, torch.Tensor, dict[int, Any]]:
    """What is exported for a kind of input.

    Args:
        model: in evaluation mode.
        description: of the model.
        input_size: `fixed`: images of the model's size; `free`: of any multiple of `FREE_STEP`,
            for networks that take any; `any`: of any size, brought to the model's in the graph.

    Returns:
        The module, an example of its input, and which axes of it are free.
    """
    height, width = description.image_size
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    module: torch.nn.Module = model
    if input_size == "any":
        module = AnySizeModel(model, description).eval()
        axes |= {1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    elif input_size == "free":
        # Not the model's own size, which the exporter could mistake for the only one.
        height, width = (FREE_STEP * (-(-side // FREE_STEP) + 1) for side in (height, width))
        for axis, name in ((1, "height"), (2, "width")):
            axes[axis] = FREE_STEP * torch.export.Dim(name, min=2)
    # Two images, or the exporter would take a batch of one for a constant.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    if input_size == "free":
        module = with_constant_padding(module, example, FREE_STEP)
    return module, example, axes


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
                custom_translation_table={
                    torch.ops.timmflow.nms_keep.default: _onnx_nms_keep,
                    torch.ops.timmflow.to_input.default: onnx_to_model_size,
                },
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch.onnx could not export {label}: {error}") from None
    assert program is not None
    return _tidied(program.model_proto)


def in_network(node: onnx.NodeProto) -> bool:
    """Whether a node is of the network, not of what stands before it or makes predictions of it."""
    scope = next((item.value for item in node.metadata_props if item.key == SCOPE), "")
    return "network" in scope.split(".")


def _tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without the exporter's notes, which name files of this machine.

    Each node keeps which module it comes from.
    """
    for node in proto.graph.node:
        scopes = {item.key: item.value for item in node.metadata_props}.get(
            "pkg.torch.onnx.name_scopes", "[]"
        )
        modules = ast.literal_eval(scopes)[:-1]  # the last one is the operation
        del node.metadata_props[:]
        node.metadata_props.add(key=SCOPE, value=modules[-1] if modules else "")
    for value in (
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    return proto


def in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each node after those it takes from; converters append theirs at the end."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(proto)
    model.topological_sort()
    return model.model


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
        "temperature": json.dumps(description.temperature),
        "mean": json.dumps(description.mean),
        "std": json.dumps(description.std),
        "channels": description.channels,
        "resize": description.resize,
        "crop_fraction": json.dumps(description.crop_fraction),
        "backbone": description.backbone,
        "data_fingerprint": description.fingerprint,
    }
