"""A classifier of `make_store`'s squares as a hand-made ONNX file: the brightest colour wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_classifier(
    path: Path,
    classes: Sequence[str] = ("a", "b"),
    size: tuple[int, int] = (64, 64),
    colours: Sequence[int] | None = None,
    bias: Sequence[float] | None = None,
    padding: int = 0,
    **facts: str,
) -> Path:
    """Each class is as probable as its colour channel is bright.

    Args:
        path: of the file.
        classes: names.
        size: height and width of the input.
        colours: the channel of each class; None for 0, 1, 2 …
        bias: added to each class's logit.
        padding: bytes that make the file larger.
        facts: more metadata.
    """
    colours = range(len(classes)) if colours is None else colours
    constants = {
        "channels": np.array(colours, dtype=np.int64),
        "scale": np.array(0.5, dtype=np.float32),
        "bias": np.array(bias or [0] * len(classes), dtype=np.float32),
        "padding": np.zeros(padding, dtype=np.uint8),
        "axes": np.array([1, 2], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "channels"], ["chosen"], axis=1),
        helper.make_node("Mul", ["chosen", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *size, 3])],
        [
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["batch", len(classes)]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = {
        "task": "classification",
        "classes": json.dumps(list(classes)),
        "image_size": json.dumps(size),
        "resize": "crop",
        "crop_fraction": "1.0",
        **facts,
    }
    helper.set_model_props(model, about)
    onnx.save(model, path)
    return path
