"""`docs/learns.md`, written from the results of `benchmarks.learns`."""

from __future__ import annotations

import statistics
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Result = dict[str, Any]

_FAMILIES = {
    "fcos": (
        "FCOS",
        "Backbone {backbone}, pyramid of {fpn_channels} channels, {head_convs} convolutions a "
        "tower; all three start from the same backbone weights. The box branch of torchvision and "
        "of autotimm ends in a ReLU: sides that begin at zero have no gradient, and where both of "
        "an opposite pair do, a run may never give a box with an area. Ours ends in an "
        "exponential.",
    ),
    "yolox": (
        "YOLOX-nano",
        "Network, assignment and loss of the paper, each as its project has it.",
    ),
}
_PEERS = {
    "ours": "timmflow",
    "torchvision": "torchvision",
    "original": "the authors' code (pixeltable-yolox)",
    "autotimm": "autotimm",
}
_DATA = {"digits": "digit scenes", "bccd": "BCCD (blood cells)"}

_STUCK = 0.5  # share of detections without area from which a run is named

_HEAD = """# Does it learn as well as the originals?

Written by `python -m benchmarks.learns report`; no number here was typed.

From random weights, the same pictures in the same order, changed in the same random ways, at the
same size; the same optimizer, schedule and number of images. Only network, assignment, loss and
decoding are each project's own. COCO AP of the validation images after the last step, by
torchmetrics with faster-coco-eval.

```bash
python -m benchmarks.learns run --state learns.jsonl --autotimm /path/to/its/bin/python
python -m benchmarks.learns report --state learns.jsonl
```
"""

_LIMITS = """## What this does not say

The budget is what two CPU cores can do in about an hour: the images are small, the runs short, and
the numbers far from what any of these reaches when trained out. What is compared is how much is
learnt from the same few images. Where classes are merged, it is because telling ten digits apart
from random weights takes far more images than finding them.

Of YOLOX's recipe, mosaic, mixup, multi-scale input and the moving average of the weights are off on
all sides, and AdamW takes the place of SGD, with which the original learns next to nothing in so
few steps; the L1 loss of the last epochs is on for ours and the original (autotimm has none).
Optimizer and learning rate were chosen in single runs of torchvision's FCOS and of the original
YOLOX, not of ours. Ours and the original YOLOX take BGR from 0 to 255; autotimm's takes what its
data module gives it, RGB with ImageNet's normalisation. autotimm runs on fewer seeds.
"""


def page(results: list[Result]) -> str:
    """The page, from results that all hold under the same conditions."""
    parts = [_HEAD]
    for family, (title, network) in _FAMILIES.items():
        own = [r for r in results if r["family"] == family]
        if not own:
            continue
        facts = own[0]["conditions"]
        parts.append(f"## {title}\n\n{network.format(**facts)}\n")
        parts.append(_scores(own))
        parts.append(_differences(own))
        parts.append(_conditions(own))
    parts.append(_LIMITS)
    parts.append(f"Versions: {_versions()}.\n")
    return "\n".join(parts)


def _scores(results: list[Result]) -> str:
    rows = [
        "| data | code | parameters | runs | AP | AP50 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for data, peer, group in _groups(results):
        rows.append(
            f"| {_DATA[data]} | {_PEERS[peer]} | {group[0]['parameters'] / 1e6:.2f} M "
            f"| {len(group)} | {_spread(group, 'ap')} | {_spread(group, 'ap50')} |"
        )
    return "Mean and standard deviation over the seeds:\n\n" + "\n".join(rows) + "\n"


def _differences(results: list[Result]) -> str:
    rows = [
        "| data | timmflow minus | pairs | AP | 95 % interval | reads |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    groups = {(data, peer): group for data, peer, group in _groups(results)}
    for (data, peer), group in groups.items():
        if peer == "ours" or (data, "ours") not in groups:
            continue
        ours = {r["seed"]: r["ap"] for r in groups[data, "ours"]}
        pairs = [ours[r["seed"]] - r["ap"] for r in group if r["seed"] in ours]
        if len(pairs) < 2:
            continue
        mean, low, high = interval(pairs)
        reads = "better" if low > 0 else "worse" if high < 0 else "equal within the interval"
        rows.append(
            f"| {_DATA[data]} | {_PEERS[peer]} | {len(pairs)} | {mean:+.3f} "
            f"| {low:+.3f} to {high:+.3f} | {reads} |"
        )
    return "Differences, seed by seed (paired t interval):\n\n" + "\n".join(rows) + "\n"


def _conditions(results: list[Result]) -> str:
    facts = results[0]["conditions"]
    lines = [
        f"- {facts['optimizer']}, peak rate {facts['lr']:g}, weight decay "
        f"{facts['weight_decay']:g} on weights of two or more dimensions, batches of "
        f"{facts['batch_size']}, gradients clipped at norm {facts['gradient_clip']:g}; warm-up "
        f"over {facts['warmup']:.0%} of the steps (power {facts['warmup_power']}), then half a "
        f"cosine to {facts['floor']:g} of the peak.",
    ]
    for data in _DATA:
        own = [r for r in results if r["data"] == data]
        if own:
            facts, seen = own[0]["conditions"], max(r["images_seen"] for r in own)
            height, width = facts["image_size"]
            classes = own[0]["classes"]
            naming = "all classes merged into one" if facts["merged"] else f"{classes} classes"
            lines.append(
                f"- {_DATA[data]}: {width} x {height} pixels, {naming}, "
                f"{own[0]['num_train']} training and {own[0]['num_val']} validation images; "
                f"{facts['epochs']} epochs, {seen} images seen; zoom {facts['scale'][0]:g} to "
                f"{facts['scale'][1]:g}, flips with probability {facts['flip']:g}."
            )
    lines.append(
        f"- Detections: score above {facts['score_threshold']:g}, suppression at IoU "
        f"{facts['nms_threshold']:g}, at most 100 an image."
    )
    for result in results:
        run = f"- {_PEERS[result['peer']]}, {_DATA[result['data']]}, seed {result['seed']}: "
        if result["loss"] is None:
            lines.append(
                f"{run}the loss was not finite after {result['images_seen']} images; "
                "counted as AP 0."
            )
        elif result.get("without_area", 0.0) > _STUCK:
            lines.append(f"{run}{result['without_area']:.0%} of its detections have no area.")
    return "\n".join(lines) + "\n"


def _groups(results: list[Result]) -> list[tuple[str, str, list[Result]]]:
    """(data, peer, its results by seed), in the order of the tables."""
    found = []
    for data in _DATA:
        for peer in _PEERS:
            group = [r for r in results if (r["data"], r["peer"]) == (data, peer)]
            if group:
                found.append((data, peer, sorted(group, key=lambda r: r["seed"])))
    return found


def _spread(group: list[Result], key: str) -> str:
    values = [r[key] for r in group]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def interval(values: list[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of two or more values, and the ends of its t interval."""
    from scipy.stats import t

    mean = statistics.mean(values)
    error = statistics.stdev(values) / len(values) ** 0.5
    reach = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def _versions() -> str:
    found = []
    for name in ("torch", "torchvision", "timm", "pixeltable-yolox"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, "autotimm 0.7.37"])
