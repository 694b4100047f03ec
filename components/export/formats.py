"""All files of one model: written, compared with PyTorch, measured, and only then put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.geometry import scale_image
from components.errors import ExportError
from components.export.float16 import write_fp16
from components.export.gate import (
    RESIZED,
    Format,
    Rule,
    as_figures,
    compare,
    metric_loss,
    problems,
    rule_for,
)
from components.export.measure import Runner, latencies, load_runner, peak_memory_mb
from components.export.parity import Outputs, Parity
from components.export.quantize import write_int8
from components.export.settings import ExportSettings
from components.export.write_onnx import InputSize, graph_inputs, write_onnx, write_program
from components.models.saved_model import InferenceModel, ModelDescription

FILES: dict[Format, str] = {
    "fp16": "model-fp16.onnx",
    "int8": "model-int8.onnx",
    "pt2": "model.pt2",
}
BATCH_SIZE = 3  # that no exporter could have taken for a constant
# Height and width of images for `input_size: any`, as shares of the model's.
_OTHER_SIZES = ((1.7, 1.2), (0.6, 0.9), (1.0, 1.0))

Metric = Callable[[Sequence[Outputs]], float | None]


@dataclass
class Candidate:
    """A file and all that was found out about it.

    Attributes:
        kind: of file.
        path: where it was written, not yet in place.
        rule: that it is held to.
        reasons: why it is not published; empty if it is.
        figures: size, accuracy, parity, latency, memory.
    """

    kind: Format
    path: Path
    rule: Rule
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Images:
    """uint8 RGB [H, W, 3] each, of the model's size; with `uncropped` borders where files crop.

    Attributes:
        held_out: on which files are compared with PyTorch.
        training: from which int8 learns ranges and which layers to keep.
        metric: of predictions on `held_out`, batch after batch.
        training_metric: likewise on `training`.
    """

    held_out: Sequence[np.ndarray]
    training: Sequence[np.ndarray]
    metric: Metric
    training_metric: Metric


def write_formats(
    model: InferenceModel,
    description: ModelDescription,
    images: Images,
    settings: ExportSettings,
    threshold: float,
    facts: dict[str, str],
    onnx_path: Path,
    folder: Path,
) -> tuple[list[Candidate], float | None]:
    """Write every format asked for, and find out whether it may be published.

    Args:
        model, description: see `write_onnx`.
        images: to compare on, and to quantise with.
        settings: formats and tolerances.
        threshold: below which detections are dropped.
        facts: further metadata.
        onnx_path: of the float32 file.
        folder: of the others; files that may not be published are removed from it.

    Returns:
        What was found out of each, float32 first; and PyTorch's metric.

    Raises:
        ExportError: the exporter refuses the model, or its float32 file cannot be run.
    """
    candidates = [_candidate("fp32", onnx_path, settings, threshold)]
    write_onnx(model, description, onnx_path, settings.opset, facts, settings.input_size)
    _working(onnx_path, images.held_out)
    for kind in settings.formats:
        if kind == "fp32":
            continue
        candidate = _candidate(kind, folder / FILES[kind], settings, threshold)
        candidates.append(candidate)
        try:
            if kind == "fp16":
                write_fp16(onnx_path, candidate.path)
            elif kind == "pt2":
                write_program(model, description, candidate.path, settings.input_size)
            else:
                _quantize(onnx_path, candidate, model, images)
            _working(candidate.path, images.held_out)
        except ExportError as error:
            candidate.reasons.append(str(error))
            candidate.path.unlink(missing_ok=True)
    torch_metric = compare_all(model, description, candidates, images, settings.input_size)
    measure_all(candidates, images.held_out, settings.latency_runs)
    for candidate in candidates:
        judge(candidate, candidates[0], torch_metric)
        if candidate.reasons and candidate.kind != "fp32":
            candidate.path.unlink(missing_ok=True)
    return candidates, torch_metric


def _candidate(kind: Format, path: Path, settings: ExportSettings, threshold: float) -> Candidate:
    rule = rule_for(kind, settings.score_tolerance, settings.iou_tolerance, threshold)
    return Candidate(kind, path, rule)


def _quantize(source: Path, candidate: Candidate, model: InferenceModel, images: Images) -> None:
    batches = list(_batches(images.training, BATCH_SIZE))
    ours = [_torch_outputs(model, batch) for batch in batches]
    wanted = images.training_metric(ours)

    def problem(path: Path) -> str:
        run = _working(path, images.training)
        theirs = [run(batch) for batch in batches]
        parity = Parity()
        for a, b in zip(ours, theirs, strict=True):
            parity += compare(a, b, candidate.rule)
        metric = _measured(images.training_metric, theirs)
        return "; ".join(problems(candidate.rule, parity, metric, wanted))

    result = write_int8(source, candidate.path, batches, problem)
    candidate.figures |= {
        "num_layers": result.num_layers,
        "float_layers": list(result.float_layers),
    }


def compare_all(
    model: InferenceModel,
    description: ModelDescription,
    candidates: Sequence[Candidate],
    images: Images,
    input_size: InputSize = "fixed",
) -> float | None:
    """Compare all files with PyTorch, one image at a time and several; fills in their figures.

    Returns:
        PyTorch's metric.
    """
    reference, _, _ = graph_inputs(model, description, input_size)
    runners = _runners(candidates)
    found = {name: Parity() for name in runners}
    resized = {name: Parity() for name in runners}
    for number, batch in enumerate(_batches(images.held_out, 1)):
        if input_size == "any":
            batch = _resized(batch, _OTHER_SIZES[number % len(_OTHER_SIZES)])
        ours = _torch_outputs(reference, batch)
        for name, (candidate, run) in runners.items():
            theirs = run(batch)
            if input_size == "any":
                resized[name] += compare(ours, theirs, RESIZED)
            else:
                found[name] += compare(ours, theirs, candidate.rule)
    ours_all: list[Outputs] = []
    theirs_all: dict[str, list[Outputs]] = {name: [] for name in runners}
    for batch in _batches(images.held_out, BATCH_SIZE):
        ours_all.append(_torch_outputs(reference, batch))
        for name, (candidate, run) in runners.items():
            theirs_all[name].append(run(batch))
            found[name] += compare(ours_all[-1], theirs_all[name][-1], candidate.rule)
    for name, (candidate, _) in runners.items():
        candidate.figures["metric"] = _measured(images.metric, theirs_all[name])
        candidate.figures["parity"] = as_figures(found[name], candidate.rule)
        candidate.reasons += problems(candidate.rule, found[name])
        if input_size == "any" and candidate.kind in ("fp32", "pt2"):
            candidate.figures["parity_resized"] = as_figures(resized[name], RESIZED)
            candidate.reasons += [
                f"images of other sizes: {text}" for text in problems(RESIZED, resized[name])
            ]
    return images.metric(ours_all)


def measure_all(candidates: Sequence[Candidate], images: Sequence[np.ndarray], runs: int) -> None:
    """Size, latency and memory of each file that there is; fills in their figures."""
    runners = _runners(candidates)
    shown = np.stack(images[: min(8, len(images))])
    figures = latencies({name: run for name, (_, run) in runners.items()}, shown, runs)
    height, width = shown.shape[1:3]
    for name, (candidate, _) in runners.items():
        candidate.figures |= {
            "megabytes": candidate.path.stat().st_size / 1e6,
            **figures[name],
            "peak_memory_mb": peak_memory_mb(candidate.path, (height, width)),
        }


def judge(candidate: Candidate, fp32: Candidate, torch_metric: float | None) -> None:
    """Add to a candidate's reasons what its figures say against it."""
    figures, reference = candidate.figures, fp32.figures
    if "megabytes" not in figures:
        return  # it could not be written, and says why
    size = figures["megabytes"] / reference["megabytes"]
    speed = reference["latency_ms_p50"] / figures["latency_ms_p50"]
    figures |= {"size_ratio": size, "speed_ratio": speed}
    metric = figures["metric"]
    if metric is not None and torch_metric is not None:
        figures["metric_loss"] = metric_loss(metric, torch_metric)
    # What the predictions alone say against it is known already.
    candidate.reasons += problems(
        candidate.rule, Parity(num_compared=1), metric, torch_metric, size, speed
    )


def _runners(candidates: Sequence[Candidate]) -> dict[str, tuple[Candidate, Runner]]:
    return {c.kind: (c, load_runner(c.path)) for c in candidates if c.path.is_file()}


def _working(path: Path, images: Sequence[np.ndarray]) -> Runner:
    """What runs a file, once it has run one image and several.

    Raises:
        ExportError: it cannot be loaded or run.
    """
    try:
        run = load_runner(path)
        for size in (1, BATCH_SIZE):
            run(np.stack(images[:size]))
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no base but this
        raise ExportError(f"the file cannot be run: {error}") from None
    return run


def _measured(metric: Metric, outputs: Sequence[Outputs]) -> float | None:
    """A metric; None where some outputs are no numbers, which the comparison tells of."""
    finite = all(np.isfinite(part).all() for batch in outputs for part in batch)
    return metric(outputs) if finite else None


def _batches(images: Sequence[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield np.stack(images[start : start + size])


def _torch_outputs(model: torch.nn.Module, batch: np.ndarray) -> Outputs:
    with torch.inference_mode():
        return tuple(output.numpy() for output in model(torch.from_numpy(batch)))


def _resized(batch: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
    height, width = (round(s * n) for s, n in zip(shares, batch.shape[1:3], strict=True))
    return np.stack([scale_image(image, (height, width)) for image in batch])
