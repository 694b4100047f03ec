"""ONNX for library users: a module in memory to a file, and back to prove it equal.

Input: normalised images, float32 [batch, 3, height, width]. Outputs: of a classifier `output`, its
logits [batch, classes]; of a detector `boxes` [batch, D, 4] xyxy in input pixels, `scores`
[batch, D] falling and 0 where there is none, `labels` [batch, D] and -1 where there is none.
`components.export.write_onnx` writes a trained model of the pipeline, which takes images as they
are and says what its classes are called.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from components.errors import ExportError, ModelError
from components.export.parity import Parity, compare_detections
from components.export.write_onnx import DETECTION_OUTPUTS, save_checked, trace
from components.files import atomic_path
from components.models.vision_module import VisionModule

CLASSIFIER_SIZE, DETECTOR_SIZE = 224, 640  # of the data modules too
_MIN_IOU = 0.999
_OPSET = 18  # the lowest that torch.onnx writes


class ExportedModule(nn.Module):
    """What a file of a `VisionModule` computes: logits, or padded boxes, scores and labels."""

    def __init__(self, module: VisionModule):
        super().__init__()
        self.network = module.network
        # Not registered as a submodule: its weights are the network's.
        self._detections = getattr(module, "detections", None)

    def forward(self, images: Tensor) -> Any:
        """Normalised images [B, 3, H, W]; see the head of this file."""
        outputs = self.network(images)
        if self._detections is None:
            return outputs.float()
        return self._detections(outputs, (int(images.shape[-2]), int(images.shape[-1])))


def export_to_onnx(
    model: nn.Module,
    save_path: str | Path,
    example_input: Tensor | None = None,
    opset_version: int = _OPSET,
    dynamic_axes: dict[str, dict[int, str]] | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    wrap_model: bool = True,
    simplify: bool = False,
) -> str:
    """Write a model as one ONNX file, whole and checked or not at all.

    Args:
        model: `ImageClassifier`, a detector, or any module that takes one tensor. Its mode is left
            as it was.
        save_path: of the file.
        example_input: [B, 3, H, W]; the file takes images of this size. None for the size the
            backbone was built for, else 224 for classifiers and 640 for detectors.
        opset_version: ONNX operator set; below 18 there is a warning, and 18 is written.
        dynamic_axes: of the input, by its name: axis to a name for it. None for the batch alone.
            A detector's height and width are fixed. Entries for outputs follow from the input's.
        input_names: None for `input`.
        output_names: None for `output`, or `boxes`, `scores`, `labels`.
        wrap_model: False exports `forward` as it is: a detector's raw maps, level after level.
        simplify: the exporter always simplifies; there is nothing to switch on.

    Returns:
        The path.

    Raises:
        ExportError: the exporter, or ONNX's checker, refuses the model.
        ValueError: an argument that cannot be used.
    """
    wrapped = wrap_model and isinstance(model, VisionModule)
    input_names = input_names or ["input"]
    if output_names is None:
        detects = hasattr(model, "detections")
        output_names = ["output"] if not detects else list(DETECTION_OUTPUTS)
        if detects and not wrapped:
            output_names = None  # as many as there are levels
    axes = (dynamic_axes or {}).get(input_names[0], {0: "batch_size"} if not dynamic_axes else {})
    example = default_input(model) if example_input is None else example_input
    if not isinstance(example, Tensor) or example.ndim < 1:
        raise ValueError(f"example_input = {example!r}; must be a tensor [B, 3, H, W]")
    if unknown := [axis for axis in axes if axis not in range(example.ndim)]:
        raise ValueError(f"dynamic_axes has axis {unknown[0]}; the input has {example.ndim}")
    if opset_version < _OPSET:
        warnings.warn(
            f"opset_version = {opset_version}: torch.onnx writes {_OPSET} and later; "
            f"{_OPSET} is written",
            stacklevel=2,
        )
    with _evaluation_mode(model), atomic_path(Path(save_path)) as draft:
        proto = trace(
            ExportedModule(model) if wrapped else model,  # type: ignore[arg-type]
            _at_least_two(example, axes).to(_device(model)),
            type(model).__name__,
            input_names,
            output_names,
            {axis: torch.export.Dim(name) for axis, name in axes.items()},
            max(opset_version, _OPSET),
        )
        save_checked(proto, draft)
    return str(save_path)


def export_checkpoint_to_onnx(
    checkpoint_path: str | Path,
    save_path: str | Path,
    model_class: Any,
    example_input: Tensor | None = None,
    opset_version: int = _OPSET,
    load_kwargs: dict[str, Any] | None = None,
    **export_kwargs: Any,
) -> str:
    """Write a Lightning checkpoint as ONNX.

    Args:
        checkpoint_path: of the checkpoint.
        save_path, example_input, opset_version, export_kwargs: see `export_to_onnx`.
        model_class: of the checkpoint, such as `ImageClassifier`.
        load_kwargs: further arguments of `model_class.load_from_checkpoint`.

    Returns:
        The path.
    """
    model = model_class.load_from_checkpoint(
        checkpoint_path, map_location="cpu", **(load_kwargs or {})
    )
    return export_to_onnx(model, save_path, example_input, opset_version, **export_kwargs)


def load_onnx(path: str | Path, providers: list[str] | None = None) -> onnxruntime.InferenceSession:
    """An ONNX file, checked, ready to run: `session.run(None, {"input": images})`.

    Args:
        path: of the file.
        providers: ONNX Runtime's execution providers, the preferred first; those that are not
            installed are passed over. None for the CPU.

    Raises:
        ModelError: no such file, or not a model that ONNX Runtime can run.
        ValueError: none of the providers is installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    installed = onnxruntime.get_available_providers()
    wanted = ["CPUExecutionProvider"] if providers is None else list(providers)
    usable = [name for name in wanted if name in installed]
    if not usable:
        raise ValueError(f"providers = {wanted}; installed: {', '.join(installed)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        onnx.checker.check_model(path)
        return onnxruntime.InferenceSession(path, options, providers=usable)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base but this
        raise ModelError(f"{path}: not a model ONNX Runtime can run: {error}") from None


def validate_onnx_export(
    original_model: nn.Module,
    onnx_path: str | Path,
    example_input: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    raise_on_mismatch: bool = False,
) -> bool:
    """Does the file compute what the model does? Tried at two batch sizes.

    Args:
        original_model: as it was exported. Its mode is left as it was.
        onnx_path: of the file.
        example_input: [B, 3, H, W]; best of images with something to be found in them.
        rtol: allowed difference, as a share of the largest value of an output.
        atol: allowed difference beside it. Detections are matched one to one, by class, with their
            scores this near and IoU of 0.999.
        raise_on_mismatch: raise instead of returning False.

    Returns:
        Whether all outputs agree.

    Raises:
        ExportError: they do not, and `raise_on_mismatch`; says by how much.
        ModelError: see `load_onnx`.
    """
    session = load_onnx(onnx_path)
    example = default_input(original_model) if example_input is None else example_input
    batches = [example]
    if not isinstance(session.get_inputs()[0].shape[0], int):
        # One more, and none of them twice.
        batches.append(torch.cat([example.flip(-1), 0.5 * example[:1]]))
    for batch in batches:
        if problem := _difference(original_model, session, batch, rtol, atol):
            if raise_on_mismatch:
                raise ExportError(f"{onnx_path}, batch of {len(batch)}: {problem}")
            return False
    return True


def default_input(model: nn.Module) -> Tensor:
    """One image of noise, [1, 3, H, W], of the size that `export_to_onnx` takes for granted."""
    size = DETECTOR_SIZE if hasattr(model, "detections") else CLASSIFIER_SIZE
    height, width = size, size
    for module in model.modules():  # a vision transformer's, which takes one size
        fixed: Any = getattr(module, "img_size", None)
        if hasattr(module, "patch_size") and fixed:
            height, width = fixed
            break
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _difference(
    model: nn.Module,
    session: onnxruntime.InferenceSession,
    batch: Tensor,
    rtol: float,
    atol: float,
) -> str:
    """What differs, empty if nothing does."""
    detects = [o.name for o in session.get_outputs()] == list(DETECTION_OUTPUTS)
    wrapped = isinstance(model, VisionModule) and (detects or not hasattr(model, "detections"))
    with _evaluation_mode(model), torch.inference_mode():
        run: nn.Module = ExportedModule(model) if wrapped else model  # type: ignore[arg-type]
        ours = [o.cpu().numpy() for o in _flat(run(batch.to(_device(model))))]
    theirs = session.run(None, {session.get_inputs()[0].name: batch.cpu().numpy()})
    shapes = [[o.shape for o in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        return f"shapes {shapes[1]} instead of {shapes[0]}"
    if wrapped and detects:
        threshold = float(getattr(model, "score_thresh", 0.0))
        parity = compare_detections(tuple(ours), tuple(theirs), _MIN_IOU, rtol + atol, threshold)
        return "" if parity.holds(rtol + atol) else _described(parity)
    for name, a, b in zip([o.name for o in session.get_outputs()], ours, theirs, strict=True):
        largest = float(np.abs(a - b).max(initial=0.0))
        allowed = atol + rtol * float(np.abs(a).max(initial=0.0))
        if not largest <= allowed:  # NaN is not
            return f"{name} differs by up to {largest:.3g}; allowed {allowed:.3g}"
    return ""


def _described(parity: Parity) -> str:
    return (
        f"{parity.num_unmatched} of {parity.num_compared} detections have no match; scores of the "
        f"others differ by up to {parity.max_score_difference:.3g}"
    )


def _flat(outputs: Any) -> Iterator[Tensor]:
    """Tensors of nested lists, in the order the exporter gives them."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif outputs is not None:
        for item in outputs:
            yield from _flat(item)


def _at_least_two(example: Tensor, axes: dict[int, str]) -> Tensor:
    """The example; a batch of one is doubled, or the exporter would take it for a constant."""
    return torch.cat([example, example]) if 0 in axes and len(example) == 1 else example


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # Module by module: what was frozen stays so.
        for module, training in modes.items():
            module.training = training
