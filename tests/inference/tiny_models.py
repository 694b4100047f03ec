"""Model files as the export stage writes them, but tiny and made by hand: no training, no torch.

Each sees the mean red, green and blue of an image; they are the scores of three classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = ["red", "green", "blue"]
SIDE = 32
BOXES = [[0, 0, 16, 16], [8, 8, 32, 32], [4, 0, 12, 20]]  # of the three classes, input pixels


def write_model(path: Path, kind: str = "detection", any_size: bool = False) -> Path:
    """Write a model; `kind` is `detection`, `classification` or `labels`."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "most"], ["shares"]),
    ]
    weights = {"axes": np.array([1, 2]), "most": np.array(255, np.float32)}
    sides = ["height", "width"] if any_size else [SIDE, SIDE]
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *sides, 3])
    metadata = {
        "producer": "timmflow",
        "format_version": "1",
        "task": "detection" if kind == "detection" else "classification",
        "classes": json.dumps(CLASSES),
        "image_size": json.dumps([SIDE, SIDE]),
        "resize": "crop" if kind == "classification" else "letterbox",
        "crop_fraction": "1.0",
        "multi_label": json.dumps(kind == "labels"),
        "git_revision": "abc123",
        "license": "MIT",
    }
    if any_size:
        metadata["input_size"] = "any"
    shapes = {"probabilities": [3]}
    if kind == "detection":
        shapes = {"boxes": [3, 4], "scores": [3], "labels": [3]}
        weights["fixed"] = np.array([BOXES], np.float32)
        weights["none"] = np.array([[0, 1, 2]], np.int64)
        # The sums have the batch dimension of what is added: nothing.
        nodes += [
            helper.make_node("Identity", ["shares"], ["scores"]),
            helper.make_node("Mul", ["shares", "zero"], ["zeros"]),
            helper.make_node("Unsqueeze", ["zeros", "last"], ["column"]),
            helper.make_node("Add", ["column", "fixed"], ["boxes"]),
            helper.make_node("Cast", ["zeros"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Add", ["whole", "none"], ["labels"]),
        ]
        weights |= {"zero": np.array(0, np.float32), "last": np.array([2])}
    elif kind == "labels":
        metadata["thresholds"] = json.dumps([0.5, 0.5, 0.9])
        nodes.append(helper.make_node("Identity", ["shares"], ["probabilities"]))
    else:
        nodes.append(helper.make_node("Softmax", ["shares"], ["probabilities"], axis=1))
    types = {"labels": TensorProto.INT64}
    outputs = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), ["batch", *shape])
        for name, shape in shapes.items()
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, kind, [image], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
