"""The network in half precision: half the size. Input, decoding and scores stay in single."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from components.errors import ExportError
from components.export.write_onnx import in_network, in_order, save_checked


def write_fp16(source: Path, path: Path) -> None:
    """Write a file's network with weights and activations as float16.

    Args:
        source: as `write_onnx` wrote it.
        path: of the new file; not put in place by renaming.

    Raises:
        ExportError: the converter, or ONNX's checker, refuses the model.
    """
    proto = onnx.load(source)
    kept = [node.name for node in proto.graph.node if not in_network(node)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights too small for float16 become its smallest
            converted = convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept)
    except (ValueError, RuntimeError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnxruntime's converter refuses the model for fp16: {error}") from None
    # A tensor that several nodes take gets its cast several times, by the same name.
    first = {node.output[0]: node for node in reversed(converted.graph.node)}
    nodes = [n for n in converted.graph.node if first[n.output[0]] is n]
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    del converted.graph.value_info[:]  # it still tells of float32
    save_checked(in_order(converted), path)
