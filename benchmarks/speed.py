"""Speed, side by side with torchvision, the original YOLOX and autotimm, in one process.

    python benchmarks/speed.py [SECTION…] [--write docs/speed.md]

Contenders take turns, so that what else the machine does meets all alike; medians are printed, in
milliseconds. All run with two threads and with freed memory kept (`components.runtime`), which
serves those most that allocate most. The original YOLOX (`pip install pixeltable-yolox`) and
autotimm 0.7.37 are measured where they are installed; `--autotimm DIR` names a folder that holds
the latter. "-" stands for what is not installed or what a rival does not have.
"""

import argparse
import datetime
import importlib.util
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.models import resnet18, resnet50
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.fcos_loss import decode_boxes, fcos_loss, flatten_levels
from components.models.fcos_network import FcosNetwork
from components.models.fcos_targets import REGRESS_RANGES, assign_batch, level_points
from components.models.postprocess import select_from_logits
from components.runtime import configure_torch

BATCH, SIZE, NUM_CLASSES = 8, 640, 80
STRIDES = (8, 16, 32, 64, 128)
RIVALS = ("torchvision", "YOLOX", "autotimm")
Contenders = dict[str, Callable[..., object]]


def random_boxes(count: int, num_images: int = BATCH, size: int = SIZE) -> list[Tensor]:
    """Boxes of all sizes from 10 pixels to 60 % of the image, within it."""
    boxes = []
    for _ in range(num_images):
        extent = 10 * torch.exp(torch.rand(count, 2) * math.log(0.06 * size))
        corner = torch.rand(count, 2) * (size - extent)
        boxes.append(torch.cat([corner, corner + extent], dim=1))
    return boxes


def grid(size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Points, strides and ranges of a square image's pyramid."""
    points, levels = level_points([(-(-size // s),) * 2 for s in STRIDES], STRIDES)
    return points, torch.tensor(STRIDES).float()[levels], torch.tensor(REGRESS_RANGES)[levels]


def their_fcos(backbone: str = "resnet18", size: int = SIZE) -> FCOS:
    """torchvision's, with a pyramid P3-P7 of 256 channels and towers of four convolutions."""
    body = {"resnet18": resnet18, "resnet50": resnet50}[backbone](weights=None)
    extra = LastLevelP6P7(256, 256)
    return FCOS(_resnet_fpn_extractor(body, 5, [2, 3, 4], extra), NUM_CLASSES, size, size)


def their_anchors(model: FCOS, num_images: int, size: int) -> tuple[list[Tensor], list[int]]:
    """Anchors of each image, and how many each level has."""
    shapes = [(-(-size // s),) * 2 for s in STRIDES]
    images = ImageList(torch.empty(num_images, 3, size, size), [(size, size)] * num_images)
    anchors = model.anchor_generator(images, [torch.empty(1, 1, *shape) for shape in shapes])
    return anchors, [h * w for h, w in shapes]


def assignment(args: argparse.Namespace) -> Iterator[tuple[str, Contenders]]:
    """FCOS: which box each point answers for, batch 8 at 640 px."""
    points, strides, ranges = grid()
    model = their_fcos()
    anchors, counts = their_anchors(model, BATCH, SIZE)
    matching = SimpleNamespace(
        center_sampling_radius=1.5,
        head=SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched),
    )
    autotimm = autotimm_module(args.autotimm)
    maps = list(zip(points.split(counts), STRIDES, REGRESS_RANGES, strict=True))
    for count in (5, 50, 200):
        boxes = random_boxes(count)
        labels = torch.randint(0, NUM_CLASSES, (count,))
        targets = [{"boxes": image} for image in boxes]
        case: Contenders = {
            "ours": lambda b=boxes: assign_batch(points, strides, ranges, b),
            "torchvision": lambda t=targets: FCOS.compute_loss(matching, t, {}, anchors, counts),
        }
        if autotimm:
            case["autotimm"] = lambda b=boxes, n=labels: [
                autotimm.compute_targets_per_level(p.view(-(-SIZE // s), -1, 2), image, n, r)
                for p, s, r in maps
                for image in b
            ]
        yield f"{count} boxes an image", case


def simota(args: argparse.Namespace) -> Iterator[tuple[str, Contenders]]:
    """SimOTA, batch 8 at 640 px, 80 classes."""
    from components.models.simota import simota_batch

    strides = STRIDES[:3]
    shapes = [(SIZE // s, SIZE // s) for s in strides]
    points, levels = level_points(shapes, strides)
    of_point = torch.tensor(strides).float()[levels]
    centers = points + torch.randn(BATCH, len(points), 2) * of_point[:, None]
    extents = torch.exp(torch.randn(BATCH, len(points), 2) / 2) * 4 * of_point[:, None]
    predicted = torch.cat([centers - extents / 2, centers + extents / 2], dim=2)
    cls_logits = torch.randn(BATCH, len(points), NUM_CLASSES) - 4
    obj_logits = torch.randn(BATCH, len(points)) - 3
    head = yolox_head()
    as_cxcywh = torch.cat([centers, extents], dim=2)
    for count in (5, 50, 200):
        boxes = random_boxes(count)
        labels = [torch.randint(0, NUM_CLASSES, (count,)) for _ in boxes]
        case: Contenders = {
            "ours": lambda b=boxes, n=labels: simota_batch(
                shapes, strides, b, n, predicted, cls_logits, obj_logits
            )
        }
        if head:
            theirs = [torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1) for b in boxes]
            shifts = [(axis / of_point - 0.5)[None] for axis in points.unbind(1)]
            case["YOLOX"] = lambda b=theirs, n=labels, s=shifts: [
                head.get_assignments(
                    i,
                    len(b[i]),
                    b[i],
                    n[i],
                    as_cxcywh[i],
                    of_point[None],
                    *s,
                    cls_logits,
                    obj_logits[..., None],
                )
                for i in range(BATCH)
            ]
        yield f"{count} boxes an image", case


def postprocess(args: argparse.Namespace) -> Iterator[tuple[str, Contenders]]:
    """Raw outputs to detections, batch 8 at 640 px, 80 classes, scores above 0.05, NMS at 0.6."""
    points, strides, _ = grid()
    model = their_fcos()
    model.score_thresh, model.nms_thresh = 0.05, 0.6
    anchors, counts = their_anchors(model, BATCH, SIZE)
    anchor_levels = [list(image.split(counts)) for image in anchors]
    sizes = [(SIZE, SIZE)] * BATCH
    sides = torch.exp(torch.randn(BATCH, len(points), 4) / 2 + 0.7)
    cases = (
        ("15 objects, quiet background", *sparse(points, -10)),
        ("15 objects, over 1,000 points near the threshold", *sparse(points, -8)),
        ("a class above it nearly everywhere", *dense(points)),
    )
    for name, logits, centers in cases:
        heads = {"cls_logits": logits, "bbox_regression": sides, "bbox_ctrness": centers[..., None]}
        split = {key: list(value.split(counts, 1)) for key, value in heads.items()}
        case: Contenders = {
            "ours": lambda x=logits, c=centers: select_from_logits(
                x, c, decode_boxes(points, sides, strides), (SIZE, SIZE)
            ),
            "torchvision": lambda s=split: model.postprocess_detections(s, anchor_levels, sizes),
        }
        if yolox_head():
            from yolox.utils import postprocess as original

            boxes = decode_boxes(points, sides, strides)
            center, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
            # It takes probabilities, which its head makes: the sigmoids belong to the work.
            case["YOLOX"] = lambda x=logits, c=centers, a=center, e=extent: original(
                torch.cat([a, e, c[..., None].sigmoid(), x.sigmoid()], 2), NUM_CLASSES, 0.05, 0.6
            )
        if autotimm := autotimm_module(args.autotimm):
            pixels = sides * strides[:, None]
            maps = [
                [
                    part.transpose(1, 2).reshape(BATCH, -1, -(-SIZE // s), -(-SIZE // s))
                    for part, s in zip(values.split(counts, 1), STRIDES, strict=True)
                ]
                for values in (logits, pixels, centers[..., None])
            ]
            case["autotimm"] = lambda m=maps, a=autotimm: a.decode_fcos_detections(
                *m, STRIDES, NUM_CLASSES, (SIZE, SIZE), 0.05, 0.6, 100
            )
        yield name, case


def sparse(points: Tensor, background: float) -> tuple[Tensor, Tensor]:
    """Logits as of a trained network: 15 objects, each seen by the points around it.

    Args:
        points: [P, 2].
        background: mean logit of the class where there is nothing.
    """
    logits = torch.randn(BATCH, len(points), NUM_CLASSES) + background
    centers = torch.randn(BATCH, len(points)) - 1
    for image in range(BATCH):
        for _ in range(15):
            near = (points - torch.rand(2) * SIZE).abs().amax(1).topk(12, largest=False).indices
            logits[image, near, torch.randint(0, NUM_CLASSES, ())] = 5 * torch.rand(12) - 3
            centers[image, near] += 2
    return logits, centers


def dense(points: Tensor) -> tuple[Tensor, Tensor]:
    """Logits as of a network early in training: a class above the threshold nearly everywhere."""
    return torch.randn(BATCH, len(points), NUM_CLASSES) - 3, torch.randn(BATCH, len(points))


def step(args: argparse.Namespace) -> Iterator[tuple[str, Contenders]]:
    """A training step (forward, loss, backward, SGD), batch 4 at 320 px, 20 boxes an image."""
    num_images, size = 4, 320
    images = torch.randn(num_images, 3, size, size)
    boxes = random_boxes(20, num_images, size)
    labels = [torch.randint(0, NUM_CLASSES, (20,)) for _ in boxes]
    for backbone in ("resnet18", "resnet50"):
        features = create_feature_backbone(FeatureBackboneConfig(backbone, pretrained=False))
        ours = FcosNetwork(features, NUM_CLASSES).train()
        # As the data module hands images over.
        pixels = images.contiguous(memory_format=torch.channels_last)
        theirs = their_fcos(backbone, size).train()
        anchors, counts = their_anchors(theirs, num_images, size)
        targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]

        def our_loss(network: Any = ours, pixels: Tensor = pixels) -> Tensor:
            classes, sides, centers = (flatten_levels(levels) for levels in network(pixels))
            raw = classes, sides, centers.squeeze(-1)
            return sum(fcos_loss(*raw, *grid(size), boxes, labels).values())  # type: ignore[return-value]

        def their_loss(
            model: Any = theirs, targets: Any = targets, anchors: Any = anchors, c: Any = counts
        ) -> Tensor:
            outputs = model.head(list(model.backbone(images).values()))
            return sum(model.compute_loss(targets, outputs, anchors, c).values())

        yield (
            backbone,
            {
                "ours": training_step(ours, our_loss),
                "torchvision": training_step(theirs, their_loss),
            },
        )


def training_step(model: torch.nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One step on the same batch."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def imports(args: argparse.Namespace) -> Iterator[tuple[str, Contenders]]:
    """`import components` and `import autotimm`, each in a fresh process."""
    case: Contenders = {"ours": lambda: fresh_import("components", Path(__file__).parents[1])}
    folder = Path(args.autotimm) if args.autotimm else None
    try:
        fresh_import("autotimm", folder)
        case["autotimm"] = lambda: fresh_import("autotimm", folder)
    except subprocess.CalledProcessError:
        print("autotimm cannot be imported here: left out", file=sys.stderr)
    yield "import", case


def fresh_import(package: str, folder: Path | None) -> float:
    """Milliseconds an import takes in a new interpreter, without starting it."""
    code = (
        "import time; start = time.perf_counter(); "
        f"import {package}; print(time.perf_counter() - start)"
    )
    path = os.pathsep.join(filter(None, [str(folder or ""), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return 1000 * float(done.stdout.split()[-1])


def autotimm_module(folder: str | None) -> ModuleType | None:
    """autotimm's assignment and decoding, without importing the rest of it."""
    spec = None if folder else importlib.util.find_spec("autotimm")
    if not folder and not (spec and spec.origin):
        return None
    package = Path(folder) / "autotimm" if folder else Path(spec.origin).parent  # type: ignore[union-attr, arg-type]
    path = package / "tasks" / "_fcos_targets.py"
    found = importlib.util.spec_from_file_location("autotimm_fcos", path)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def yolox_head() -> Any:
    """The original head, for its methods; None where it is not installed."""
    if importlib.util.find_spec("yolox") is None:
        return None
    from yolox.models.yolo_head import YoloxHead

    return YoloxHead(NUM_CLASSES, width=0.25)


def measured(contenders: Contenders, rounds: int) -> dict[str, float]:
    """Median milliseconds of each, in turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            result = run()
            passed = 1000 * (time.perf_counter() - started)
            if number:
                times[name].append(result if isinstance(result, float) else passed)
    return {name: statistics.median(values) for name, values in times.items()}


SECTIONS = {s.__name__: s for s in (assignment, simota, postprocess, step, imports)}


def table(name: str, args: argparse.Namespace) -> str:
    """A section as Markdown."""
    lines = [f"## {SECTIONS[name].__doc__}", ""]
    lines += ["| | ours | " + " | ".join(RIVALS) + " | ours is |", "|---|" + "---:|" * 5]
    for case, contenders in SECTIONS[name](args):
        found = measured(contenders, args.rounds)
        ours = found.pop("ours")
        cells = [f"{found[rival]:.1f}" if rival in found else "-" for rival in RIVALS]
        ratio = f"{min(found.values()) / ours:.1f} x faster" if found else "-"
        lines.append(f"| {case} | {ours:.1f} | {' | '.join(cells)} | {ratio} |")
        print(lines[-1], file=sys.stderr)
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and with --write keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all if none")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--autotimm", metavar="DIR", help="folder that holds autotimm 0.7.37")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there too")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(unknown)}; allowed: {', '.join(SECTIONS)}")
    warnings.simplefilter("ignore")  # torch's, of the original YOLOX's old calls
    configure_torch(num_threads=args.threads, seed=0)
    with torch.random.fork_rng():
        tables = [table(name, args) for name in args.sections or SECTIONS]
    about = (
        f"# Speed\n\n`python {' '.join(sys.argv)}`, {datetime.date.today()}: "
        f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Milliseconds, medians of "
        f"{args.rounds} turns; the last column is against the fastest of the others.\n"
    )
    text = "\n".join([about, *tables])
    print(text)
    if args.write:
        args.write.write_text(text)


if __name__ == "__main__":
    main()
