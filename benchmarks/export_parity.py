"""Does the ONNX file give what PyTorch gives, on every image, for every kind of model?

    python -m benchmarks.export_parity STORE... [--models NAME...] [--images N]
        [--results benchmarks/results/export_parity.jsonl] [--write docs/export.md]

STORE is a folder that the preprocess stage wrote, `data/prepared`. Models are untrained, with heads
of strong opinions so that there is something to compare: training would not change the graph. Each
is exported, compared by the stage's own rule, the file at batch 1, 3 and 16, and timed against
eager PyTorch from uint8 image to detections, in turns, with as many threads as torch has
(`OMP_NUM_THREADS`).

What untrained models find has nothing to do with the data's objects, so the metric is taken against
objects made for it: the surer half of what PyTorch finds, each box moved and scaled a little at
random. Of a classifier it is the share of images that it gives PyTorch's class.

Results are appended; what is there already is not run again. `--write` puts the table into a page,
between its two marks. Exits with 1 if a pair fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.run_and_page import add_line, read_lines
from components.data.geometry import fit
from components.data.store import PreparedStore
from components.evaluation.coco_figures import accumulate
from components.evaluation.coco_matching import match_all
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.prepared import predicted_objects
from components.export.gate import Rule, compare, problems
from components.export.measure import Runner, latencies, load_runner
from components.export.parity import Outputs, Parity
from components.export.write_onnx import write_onnx
from components.models.saved_model import (
    InferenceModel,
    ModelDescription,
    build_model,
    input_format,
)
from components.models.yolox_network import YOLOX_SIZES

FCOS: dict[str, Any] = {"fpn_channels": 64, "head_num_convs": 2}
# Name: task, backbone, architecture, options.
MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "classifier, ResNet-18": ("classification", "resnet18", "", {}),
    "classifier, EfficientNet-Lite0": ("classification", "tf_efficientnet_lite0", "", {}),
    "classifier, ViT-Tiny": ("classification", "vit_tiny_patch16_224", "", {}),
    "FCOS, ResNet-18": ("detection", "resnet18", "fcos", FCOS),
    "FCOS, EfficientNet-Lite0": ("detection", "tf_efficientnet_lite0", "fcos", FCOS),
    "FCOS, ConvNeXt-Atto": ("detection", "convnext_atto", "fcos", FCOS),
    "FCOS, Swin-Tiny": ("detection", "swin_tiny_patch4_window7_224", "fcos", FCOS),
    "YOLOX head, ResNet-18": ("detection", "resnet18", "yolox", FCOS),
    "YOLOX-nano": ("detection", "yolox-nano", "", {}),
    "YOLOX-tiny": ("detection", "yolox-tiny", "", {}),
    "YOLOX-s": ("detection", "yolox-s", "", {}),
    "RT-DETR, ResNet-18": ("detection", "rtdetr_r18vd", "", {}),
}
BATCH_SIZES = (1, 3, 16)
THRESHOLDS: dict[str, Any] = {
    "score_thresh": 0.05,
    "nms_thresh": 0.6,
    "max_detections_per_image": 100,
}
RULE = Rule(1e-4, 0.999, THRESHOLDS["score_thresh"], 1.0, 1e-4)
_BEGIN, _END = "<!-- export_parity: begin -->", "<!-- export_parity: end -->"


def described(name: str, store: PreparedStore) -> ModelDescription:
    """A model of this list for the images of a store."""
    task, backbone, arch, options = MODELS[name]
    about: dict[str, Any] = {
        "task": task,
        "backbone": backbone,
        "classes": store.info.classes,
        "image_size": store.info.image_size,
        "resize": store.info.resize,
        "crop_fraction": store.info.crop_fraction,
        "fingerprint": store.info.fingerprint,
        "arch": arch,
        "options": options,
    }
    return ModelDescription(**about, **input_format(backbone))


def opinionated(description: ModelDescription, images: np.ndarray) -> InferenceModel:
    """The model with random weights, which finds things: some 60 an image, of all scores.

    Args:
        description: of it.
        images: to look at while its biases are set, uint8 [B, H, W, 3].
    """
    torch.manual_seed(0)
    detects = description.task == "detection"
    module = build_model(description, **(THRESHOLDS if detects and _has_nms(description) else {}))
    module.eval()
    model = InferenceModel(module, description)
    # Untrained statistics of batch norm let signals grow or die; one look at images sets them.
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    whole = description.backbone in YOLOX_SIZES
    hooks = [norm.register_forward_pre_hook(_scale_only if whole else _usual) for norm in norms]
    with torch.no_grad():
        model(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    for title, layer in module.network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.bias is None:
            continue
        if layer.weight.shape[0] == len(description.classes) and "head" in title:
            nn.init.normal_(layer.weight, std=2 / layer.weight[0].numel() ** 0.5)
            nn.init.constant_(layer.bias, -3.0 if detects else 0.0)
        elif "obj_preds" in title:
            nn.init.constant_(layer.bias, 0.0)
    return model.eval()


def _usual(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Statistics as training would have them: those of each channel."""
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _scale_only(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Statistics by which a norm scales what it is shown to size 1, and moves nothing.

    The usual ones make an untrained YOLOX's sixty norms in a row amplify rounding, until PyTorch is
    as far from its own float64 as the file is from PyTorch.
    """
    norm.reset_running_stats()
    assert norm.running_var is not None
    norm.running_var.fill_(inputs[0].square().mean())


def _has_nms(description: ModelDescription) -> bool:
    return not description.backbone.startswith("rtdetr")


def nearly_found(found: Predictions) -> TrueObjects:
    """Objects for a metric that is neither 0 nor 1: the surer half of some detections, moved by up
    to a tenth of their width and height, and as much larger or smaller.

    Args:
        found: by a model, in original pixels.
    """
    half = found.score >= np.median(found.score)
    x, y, width, height = found.boxes_xywh[half].T
    random = np.random.default_rng(0)
    right, down, wider, higher = random.uniform(-0.1, 0.1, (4, int(half.sum())))
    sides = [width * (1 + wider), height * (1 + higher)]
    boxes = np.stack([x + width * right, y + height * down, *sides], axis=1)
    return TrueObjects(
        found.image_id[half],
        found.class_id[half],
        boxes,
        sides[0] * sides[1],
        np.zeros(len(boxes), dtype=bool),
    )


def run(name: str, store: PreparedStore, num_images: int, folder: Path) -> dict[str, Any]:
    """One line of the table: a model on the images of a store."""
    description = described(name, store)
    rows = np.concatenate([store.rows(split) for split in ("val", "test")])[:num_images]
    images = np.stack([fit(store.image(r), store.info.image_size, store.info.resize) for r in rows])
    model = opinionated(description, images[:: max(1, len(images) // 24)])
    path = folder / "model.onnx"
    write_onnx(model, description, path)

    def pytorch(batch: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return tuple(output.numpy() for output in model(torch.from_numpy(batch)))

    def metric(truth: Any, outputs: list[Outputs]) -> float:
        if description.task == "classification":
            return float((_classes(outputs) == truth).mean())
        ids = store.index["image_id"].to_numpy()[rows]
        matches = match_all(truth, _objects(store, rows, outputs), ids, len(description.classes))
        return accumulate(matches).numbers()["map"]

    def in_turn(model: Runner, size: int) -> list[Outputs]:
        return [model(images[start : start + size]) for start in range(0, len(images), size)]

    ours = in_turn(pytorch, max(BATCH_SIZES))
    detects = description.task == "detection"
    truth = nearly_found(_objects(store, rows, ours)) if detects else _classes(ours)
    wanted = metric(truth, ours)
    file = load_runner(path, torch.get_num_threads())
    total, by_batch, differences = Parity(), {}, []
    for size in BATCH_SIZES:
        theirs = in_turn(file, size)
        parity = compare(_joined(ours), _joined(theirs), RULE)
        by_batch[str(size)] = parity.share_matched
        total += parity
        differences.append(metric(truth, theirs) - wanted)
    timed = latencies({"pytorch": pytorch, "onnx": file}, images[:8], 10, batch_sizes=(1,))
    reasons = problems(RULE, total)
    difference = max(differences, key=abs)
    if not abs(difference) <= RULE.score_tolerance:
        reasons.append(f"the metric differs by {difference:.2g}")
    return {
        "model": name,
        "num_images": len(images),
        "image_size": list(store.info.image_size),
        "num_compared": total.num_compared,
        "share_matched": by_batch,
        "max_score_difference": total.max_score_difference,
        "min_iou": total.min_iou,
        "metric_pytorch": wanted,
        "metric_difference": difference,
        "num_threads": torch.get_num_threads(),
        "pytorch_ms": timed["pytorch"]["latency_ms_p50"],
        "onnx_ms": timed["onnx"]["latency_ms_p50"],
        "reasons": reasons,
    }


def _joined(outputs: list[Outputs]) -> Outputs:
    return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))


def _classes(outputs: list[Outputs]) -> np.ndarray:
    return np.concatenate([probabilities.argmax(axis=1) for (probabilities,) in outputs])


def _objects(store: PreparedStore, rows: np.ndarray, outputs: list[Outputs]) -> Predictions:
    sizes = np.cumsum([len(batch[0]) for batch in outputs])[:-1]
    return predicted_objects(store, zip(np.split(rows, sizes), outputs, strict=True))


def table(results: list[dict[str, Any]]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| model | images | size | compared | matched at batch 1, 3, 16 | largest score difference "
        "| smallest IoU | metric | file minus PyTorch | PyTorch ms | ONNX ms | faster |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        matched = ", ".join(f"{100 * share:g} %" for share in row["share_matched"].values())
        height, width = row["image_size"]
        lines.append(
            f"| {row['model']} | {row['num_images']} {row['data']} | {height} x {width} "
            f"| {row['num_compared']:,} | {matched} | {row['max_score_difference']:.1e} "
            f"| {row['min_iou']:.6f} | {row['metric_pytorch']:.3f} "
            f"| {row['metric_difference']:+.1e} | {row['pytorch_ms']:.1f} "
            f"| {row['onnx_ms']:.1f} | {row['pytorch_ms'] / row['onnx_ms']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", type=Path, metavar="STORE")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--images", type=int, default=100_000, help="at most so many of a store")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/export_parity.jsonl")
    )
    parser.add_argument("--write", type=Path, help="page to put the table into")
    args = parser.parse_args()
    results = read_lines(args.results)
    done = {(row["model"], row["data"]) for row in results}
    for folder in args.stores:
        store = PreparedStore.open(folder)
        data = f"{'/'.join(store.info.classes[:3])}…"
        for name in tqdm([n for n in args.models if (n, data) not in done], desc=data):
            with tempfile.TemporaryDirectory() as scratch:
                row = {"data": data, **run(name, store, args.images, Path(scratch))}
            results.append(row)
            args.results.parent.mkdir(exist_ok=True)
            add_line(args.results, row)
    text = table(results)
    print(text)
    if args.write:
        page = args.write.read_text()
        start, end = page.index(_BEGIN) + len(_BEGIN), page.index(_END)
        args.write.write_text(f"{page[:start]}\n{text}\n{page[end:]}")
    for row in results:
        if row["reasons"]:
            print(f"{row['model']}, {row['data']}: {'; '.join(row['reasons'])}", file=sys.stderr)
    return int(any(row["reasons"] for row in results))


if __name__ == "__main__":
    sys.exit(main())
