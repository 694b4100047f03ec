"""Does it learn as well as the originals? From random weights, on the same pictures, seed by seed.

    python -m benchmarks.learns run --state learns.jsonl --autotimm /path/to/its/bin/python
    python -m benchmarks.learns report --state learns.jsonl        # writes docs/learns.md

Every run is a process of its own, on one thread; its result is a line of the state file, so that
a stopped `run` goes on where it was. `--jobs` runs so many at once. The work goes seed by seed, so
that an early end still compares equals. `one` is a single run. Needs `pixeltable-yolox` (the
originals' code); autotimm, whose needs are others, comes from an environment of its own that sees
this one's packages, and is left out without `--autotimm`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.run_and_page import add_line, read_lines

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 8
GRADIENT_CLIP = 10.0
LAST_PART = 0.1  # share of the training with YOLOX's L1 loss
SEEDS = 5


@dataclass(frozen=True)
class Data:
    """A data set, and how its pictures are shown.

    Attributes:
        image_size: height, width, pixels.
        flip: probability of each of a left-right and an up-down flip.
        scale: range of the zoom.
        merged: all classes count as one.
    """

    image_size: tuple[int, int]
    flip: float
    scale: tuple[float, float] = (0.8, 1.25)
    merged: bool = False


@dataclass(frozen=True)
class Recipe:
    """How all peers of one family are trained.

    Attributes:
        optimizer: `adamw`, or `sgd` (Nesterov, momentum 0.9), YOLOX's own, which learns next to
            nothing in so few steps.
        lr: peak, for a batch of `BATCH_SIZE`.
        weight_decay: of weights with two or more dimensions.
        warmup: share of the steps, from 0; its curve is `step ** warmup_power`.
        floor: of the half cosine that follows, as a share of `lr`.
        epochs: by data set.
    """

    optimizer: str
    lr: float
    weight_decay: float
    warmup: float
    warmup_power: int
    floor: float
    epochs: dict[str, int]

    def factor(self, step: int, num_steps: int) -> float:
        """Share of the peak learning rate at a step."""
        warm = max(1, round(self.warmup * num_steps))
        if step < warm:
            return ((step + 1) / (warm + 1)) ** self.warmup_power
        progress = (step - warm) / max(1, num_steps - warm)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


DATA = {
    # A mirrored digit is none. Telling ten digits apart takes far longer than finding them.
    "digits": Data((96, 96), flip=0.0, merged=True),
    "bccd": Data((128, 160), flip=0.5),
}
RECIPES = {
    "fcos": Recipe("adamw", 1e-3, 1e-4, 0.1, 1, 0.0, {"digits": 4, "bccd": 6}),
    "yolox": Recipe("adamw", 3e-3, 5e-4, 0.1, 2, 0.05, {"digits": 8, "bccd": 10}),
}


@dataclass(frozen=True)
class Job:
    """One run."""

    data: str
    family: str
    peer: str
    seed: int


def jobs(with_autotimm: bool) -> list[Job]:
    """All runs, seed by seed."""
    from benchmarks.peers import PEERS

    return [
        Job(data, family, peer, seed)
        for seed in range(SEEDS)
        for data in DATA
        for family, peers in PEERS.items()
        for peer in peers
        if peer != "autotimm" or with_autotimm
    ]


def conditions(job: Job) -> dict[str, Any]:
    """All that a result depends on beside the code; results of other conditions do not count."""
    from benchmarks import peers

    facts = {
        **asdict(DATA[job.data]),
        **asdict(RECIPES[job.family]),
        "epochs": RECIPES[job.family].epochs[job.data],
        "batch_size": BATCH_SIZE,
        "gradient_clip": GRADIENT_CLIP,
        "last_part": LAST_PART,
        "score_threshold": peers.SCORE_THRESHOLD,
        "nms_threshold": peers.NMS_THRESHOLD,
        "fpn_channels": peers.FPN_CHANNELS,
        "head_convs": peers.HEAD_CONVS,
        "backbone": peers.BACKBONE,
    }
    return json.loads(json.dumps(facts))


def prepared(name: str, work: Path, bccd: Path) -> Any:
    """The packed store of a data set, made at the first call.

    Args:
        name: of the data set.
        work: folder of the stores.
        bccd: folder of BCCD's images and annotations.
    """
    from components.contract.readers import read_dataset
    from components.data.pack import pack
    from components.data.settings import PreprocessSettings
    from components.data.store import PreparedStore
    from components.digits import build_detection
    from components.validation.run import validate_reading
    from components.validation.settings import ValidateSettings

    data = DATA[name]
    store = work / f"{name}-{data.image_size[0]}x{data.image_size[1]}"
    if store.exists():
        return PreparedStore.open(store)
    folder = bccd if name == "bccd" else work / "digits-raw"
    if name == "digits":
        build_detection(folder)
    result = validate_reading(read_dataset(folder, "auto", "detection"), ValidateSettings())
    if result.dataset is None:
        raise SystemExit(f"{folder}: the data has errors: {result.findings[:3]}")
    settings = PreprocessSettings(image_size=data.image_size)
    return pack(result.dataset, folder, store, settings, 64_000_000, 64_000_000)


def train_and_measure(job: Job, work: Path, bccd: Path) -> dict[str, Any]:
    """One run, from random weights to COCO numbers on the validation images."""
    import torch
    from lightning import seed_everything
    from torch.nn.utils import clip_grad_norm_

    from benchmarks.peers import PEERS
    from components.data.loaders import PreparedDataModule
    from components.data.settings import AugmentSettings
    from components.runtime import configure_torch

    configure_torch(num_threads=1)
    data, recipe = DATA[job.data], RECIPES[job.family]
    store = prepared(job.data, work, bccd)
    augment = AugmentSettings(flip=data.flip, vertical_flip=data.flip, scale=data.scale, color=0.2)
    module = PreparedDataModule(store, BATCH_SIZE, (0, 0, 0), (1, 1, 1), augment, seed=job.seed)
    loader = module.train_dataloader()
    sampler: Any = loader.sampler

    seed_everything(job.seed, verbose=False)
    num_classes = 1 if data.merged else len(store.info.classes)
    peer = PEERS[job.family][job.peer](num_classes, data.image_size).train()
    if job.family == "yolox":
        # A quarter faster on a CPU, for ours as for the others; FCOS gains nothing.
        peer = peer.to(memory_format=torch.channels_last)
    optimizer = _optimizer(peer, recipe)
    epochs = recipe.epochs[job.data]
    num_steps = epochs * len(loader)
    started, seen, step, value = time.process_time(), 0, 0, float("nan")
    finite = True
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            if step == round((1 - LAST_PART) * num_steps):
                peer.last_epochs()
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.factor(step, num_steps)
            loss = peer.loss(batch["images"], batch["boxes"], _labels(batch, data))
            value, step = loss.item(), step + 1
            seen += len(batch["images"])
            finite = math.isfinite(value)
            if not finite:
                break
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(peer.parameters(), GRADIENT_CLIP)
            optimizer.step()
        if not finite:
            break
    seconds = time.process_time() - started
    figures = (
        _measure(peer.eval(), module.val_dataloader(), data) if finite else {"ap": 0.0, "ap50": 0.0}
    )
    return {
        **asdict(job),
        **figures,
        "loss": value if finite else None,
        "images_seen": seen,
        "num_train": len(store.rows("train")),
        "num_val": len(store.rows("val")),
        "classes": num_classes,
        "parameters": sum(p.numel() for p in peer.parameters()),
        "cpu_seconds": round(seconds, 1),
        "torch": torch.__version__,
        "conditions": conditions(job),
    }


def _optimizer(peer: Any, recipe: Recipe) -> Any:
    """Norms and biases are not decayed."""
    import torch

    groups: list[dict[str, Any]] = [
        {"params": [p for p in peer.parameters() if p.ndim >= 2]},
        {"params": [p for p in peer.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


def _labels(batch: dict[str, Any], data: Data) -> list[Any]:
    """Class ids of each image."""
    return [labels * 0 if data.merged else labels for labels in batch["labels"]]


def _measure(peer: Any, loader: Any, data: Data) -> dict[str, float]:
    """COCO's AP and AP50, and the share of the detections without any area."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(backend="faster_coco_eval")
    metric.warn_on_many_detections = False
    count = without_area = 0
    with torch.no_grad():
        for batch in loader:
            truth = [
                {"boxes": boxes, "labels": labels}
                for boxes, labels in zip(batch["boxes"], _labels(batch, data), strict=True)
            ]
            found = peer.predict(batch["images"])
            metric.update(found, truth)
            for boxes in (each["boxes"] for each in found):
                count += len(boxes)
                without_area += int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum())
    values = metric.compute()
    return {
        "ap": max(0.0, values["map"].item()),
        "ap50": max(0.0, values["map_50"].item()),
        "without_area": without_area / max(1, count),
    }


def read_state(state: Path) -> list[dict[str, Any]]:
    """The results that hold under today's conditions, the first of each run."""
    found: dict[Job, dict[str, Any]] = {}
    for result in read_lines(state):
        job = Job(result["data"], result["family"], result["peer"], result["seed"])
        if result["conditions"] == conditions(job):
            found.setdefault(job, result)
    return list(found.values())


def run_all(args: argparse.Namespace) -> None:
    """All runs that the state file lacks."""
    done = {(r["data"], r["family"], r["peer"], r["seed"]) for r in read_state(args.state)}
    todo = [
        job
        for job in jobs(args.autotimm is not None)
        if (job.data, job.family, job.peer, job.seed) not in done and job.data in args.data
    ]
    for name in DATA:
        prepared(name, args.work, args.bccd)
    lock = threading.Lock()
    until = time.time() + args.minutes * 60

    def work(job: Job) -> None:
        if time.time() > until:
            return
        python = args.autotimm if job.peer == "autotimm" else sys.executable
        names = [job.data, job.family, job.peer, str(job.seed)]
        folders = ["--work", str(args.work), "--bccd", str(args.bccd)]
        command = [python, "-m", "benchmarks.learns", "one", *names, *folders]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            start_new_session=True,  # so that the kernel shares the cores out run by run
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        with lock:
            if done.returncode:
                print(f"failed: {' '.join(command)}\n{done.stderr[-2000:]}", flush=True)
                return
            facts = json.loads(done.stdout.strip().splitlines()[-1])
            add_line(args.state, facts)
            print(*names, f"AP {facts['ap']:.3f}  {facts['cpu_seconds']:.0f} s", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, todo))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    work = Path(tempfile.gettempdir()) / "timmflow-learns"
    run = commands.add_parser("run", help="all runs that are still wanting")
    run.add_argument("--autotimm", help="python of the environment that holds autotimm")
    run.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="only these")
    run.add_argument("--jobs", type=int, default=1, help="runs at once, a thread each")
    run.add_argument("--minutes", type=float, default=1e9, help="start none after so many")
    report = commands.add_parser("report", help="write the page")
    report.add_argument("--page", type=Path, default=ROOT / "docs/learns.md")
    for command in (run, report):
        command.add_argument("--state", type=Path, required=True, help="results, JSON lines")
    one = commands.add_parser("one", help="one run; prints its result as JSON")
    for name in ("data", "family", "peer"):
        one.add_argument(name)
    one.add_argument("seed", type=int)
    for command in (run, one):
        command.add_argument("--work", type=Path, default=work, help="where prepared data lies")
        command.add_argument(
            "--bccd", type=Path, default=ROOT.parent / "shared/data/bccd", help="BCCD's folder"
        )
    args = parser.parse_args()
    if args.command == "run":
        run_all(args)
    elif args.command == "report":
        from benchmarks.learns_page import page

        args.page.write_text(page(read_state(args.state)), encoding="utf-8")
    else:
        job = Job(args.data, args.family, args.peer, args.seed)
        print(json.dumps(train_and_measure(job, args.work, args.bccd)))


if __name__ == "__main__":
    main()
