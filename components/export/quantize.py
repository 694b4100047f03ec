"""Static int8 quantisation by ONNX Runtime; which layers stay float is found by measuring.

Activations are uint8 with a zero point, weights int8 by channel, in QDQ form. Weights use 7 bits:
without VNNI, x86 adds pairs of products in 16 bits, which 8 would overflow. What stands outside the
network (normalisation, decoding, suppression) stays float.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from components.export.write_onnx import in_network, in_order, save_checked

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What int8 kernels exist for beside the layers, so that no map goes back to float on its way.
_BETWEEN = ("Add", "Mul", "MaxPool", "Concat", "Resize", "Relu", "Clip", "Sigmoid")
_STEPS = (0.05, 0.1, 0.2, 0.4)  # shares of the layers that stay float, tried in turn
_SENSITIVITY_IMAGES = 4

Ranges = Any  # onnxruntime's TensorsData


@dataclass(frozen=True)
class Quantized:
    """What a search ended with.

    Attributes:
        num_layers: convolutions and matrix products of the network.
        float_layers: names of those that stay float, the most sensitive first.
        reason: why the last try did not pass either; empty if it did.
    """

    num_layers: int
    float_layers: tuple[str, ...]
    reason: str


def write_int8(
    source: Path,
    path: Path,
    batches: Sequence[np.ndarray],
    problem: Callable[[Path], str],
) -> Quantized:
    """Quantise all layers; if that costs too much, keep the most sensitive ones float.

    Args:
        source: float file, as `write_onnx` wrote it.
        path: of the new file; not put in place by renaming.
        batches: training images, uint8 RGB [B, H, W, 3] each, from which ranges are learnt.
        problem: says of a quantised file what is wrong with its predictions on training images,
            empty for nothing.
    """
    proto = onnx.load(source)
    ranges = calibrate(source, batches)
    layers = [n.name for n in proto.graph.node if n.op_type in LAYERS and in_network(n)]
    save_checked(quantized(proto, ranges), path)
    reason, kept = problem(path), []
    if reason:
        noise = sensitivity(proto, ranges, batches[0][:_SENSITIVITY_IMAGES], layers)
        ranking = sorted(layers, key=lambda name: -noise[name])
        for share in _STEPS:
            kept = ranking[: max(1, round(share * len(layers)))]
            save_checked(quantized(proto, ranges, kept), path)
            reason = problem(path)
            if not reason:
                break
    return Quantized(len(layers), tuple(kept), reason)


def calibrate(source: Path, batches: Sequence[np.ndarray]) -> Ranges:
    """Range of each activation: the mean over batches of their smallest and largest values."""
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            source,
            [*LAYERS, *_BETWEEN],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"moving_average": True},
        )
        calibrator.collect_data(_Batches(batches))
        return calibrator.compute_data()


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Sequence[np.ndarray]):
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantized(
    proto: onnx.ModelProto,
    ranges: Ranges,
    float_layers: Sequence[str] = (),
    only: Sequence[str] = (),
) -> onnx.ModelProto:
    """A graph in QDQ form.

    Args:
        proto: the float graph; left as it is.
        ranges: see `calibrate`.
        float_layers: nodes that stay float.
        only: the only nodes to be quantised; empty for all of the network.
    """
    outside = [node.name for node in proto.graph.node if not in_network(node)]
    quantizer = QDQQuantizer(
        copy.deepcopy(proto),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(only),
        nodes_to_exclude=[*outside, *float_layers],
        op_types_to_quantize=[*LAYERS, *_BETWEEN],
        extra_options={},
    )
    quantizer.quantize_model()
    result = in_order(quantizer.model.model)
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    return result


def sensitivity(
    proto: onnx.ModelProto, ranges: Ranges, images: np.ndarray, layers: Sequence[str]
) -> dict[str, float]:
    """How much each layer, quantised alone, disturbs what the network gives.

    Args:
        proto: the float graph.
        ranges: see `calibrate`.
        images: uint8 RGB [B, H, W, 3].
        layers: names of nodes.

    Returns:
        By name the mean, over the network's outputs, of the squared error as a share of the
        output's variance.
    """
    outputs = _network_outputs(proto)
    expected = _run(proto, outputs, images)
    noise = {}
    for layer in layers:
        found = _run(quantized(proto, ranges, only=[layer]), outputs, images)
        noise[layer] = float(
            np.mean(
                [
                    np.square(a - b).mean() / (a.var() + 1e-12)
                    for a, b in zip(expected, found, strict=True)
                ]
            )
        )
    return noise


def _network_outputs(proto: onnx.ModelProto) -> list[str]:
    """Float tensors that the network gives to what is not the network."""
    inside = {name for n in proto.graph.node if in_network(n) for name in n.output}
    used = {name for n in proto.graph.node if not in_network(n) for name in n.input}
    used |= {output.name for output in proto.graph.output}
    floats = {
        value.name
        for value in (*proto.graph.value_info, *proto.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return sorted(inside & used & floats)


def _run(proto: onnx.ModelProto, outputs: list[str], images: np.ndarray) -> list[np.ndarray]:
    """Inner tensors of a graph, by name."""
    wanted = copy.deepcopy(proto)
    known = {output.name for output in wanted.graph.output}
    wanted.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        wanted.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(outputs, {"images": images})
