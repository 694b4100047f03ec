"""Training images a second: prepared data against torchvision's and autotimm's loading.

    python -m benchmarks.loading [--photos DIR] [--autotimm /path/to/its/bin/python]
                                 [--write docs/loading.md]

Photos are cut and scaled to JPEG files of 500 x 375 (quality 90). Classification: to 224 px with a
random crop of 80 to 100 % of the area, flips, colour jitter, normalisation; detection: to 640 px
with a zoom of 0.8 to 1, a random window, flips, colour jitter, normalisation, and 8 boxes an image.
All contenders give normalised float batches, with one thread a process and freed memory kept
(`components.runtime`; autotimm's process keeps it as it comes). torchvision does it in its two
ways, on Pillow images and on tensors. autotimm runs its own defaults (no zoom in detection, colour
jitter for every other image, with hue), in a process of its own; its detection needs albumentations
with the albucore that it asks for (2.0.8: 0.0.24).
Epochs take turns, after two that warm up and start the workers; medians are printed.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from components.data.store import PreparedStore

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH, HEIGHT, NUM_BOXES = 500, 375, 8
SIZES = {"classification": 224, "detection": 640}
BATCHES = {"classification": 32, "detection": 8}
WORKERS = (0, 2)
WARM_UP = 2  # epochs
Epoch = Callable[[], Iterable[Any]]


def make_photos(source: Path, folder: Path, count: int) -> None:
    """`count` JPEGs in two class folders below `train` and `val`, and COCO files of boxes."""
    files = sorted([*source.rglob("*.jpg"), *source.rglob("*.jpeg"), *source.rglob("*.png")])
    if not files:
        raise SystemExit(f"--photos {source}: no .jpg, .jpeg or .png below it")
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 8)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, file in zip(range(number), itertools.cycle(files), strict=False):
            with Image.open(file) as opened:
                photo = opened.convert("RGB")
            share = rng.uniform(0.7, 1)
            width, height = photo.size
            side = share * min(width / 4, height / 3)
            left, top = rng.uniform(0, width - 4 * side), rng.uniform(0, height - 3 * side)
            box = (left, top, left + 4 * side, top + 3 * side)
            name = f"{'ab'[index % 2]}/{index:04}.jpg"
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box).save(path, quality=90)
            images.append({"id": index, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for corner, sides in zip(
                rng.uniform(0, 250, (NUM_BOXES, 2)),
                rng.uniform(20, 120, (NUM_BOXES, 2)),
                strict=True,
            ):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": index, "category_id": 1 + index % 2}
                    | {"bbox": [*corner, *sides], "area": float(np.prod(sides)), "iscrowd": 0}
                )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def packed(folder: Path, task: str, storage: str, size: int) -> PreparedStore:
    """The photos as our `preprocess` would pack them."""
    from components.contract.tables import Dataset, build
    from components.data.pack import pack
    from components.data.settings import PreprocessSettings
    from components.files import sha256

    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        first = len(images)
        for item in content["images"]:
            text = f"{len(images):016x}"
            images.append(
                {"path": f"{split}/{item['file_name']}"}
                | {"width": item["width"], "height": item["height"]}
                | {"sha256": sha256(folder / split / item["file_name"]), "phash": text}
                | {"split": split}
            )
            if task == "classification":
                objects.append({"image_id": len(images) - 1, "label": item["file_name"][0]})
        for item in content["annotations"] if task == "detection" else ():
            x, y, width, height = item["bbox"]
            objects.append(
                {"image_id": first + item["image_id"], "label": "ab"[item["category_id"] - 1]}
                | {"x": x, "y": y, "width": width, "height": height}
                | {"area": item["area"], "is_crowd": False}
            )
    kind: Any = task
    dataset = Dataset(*build(images, objects, kind), ("a", "b"), kind, "coco")
    choice: Any = storage
    settings = PreprocessSettings(image_size=(size, size), storage=choice)
    return pack(dataset, folder, folder / f"{task}-{storage}", settings, 10**7, 10**7)


def ours(folder: Path, task: str, storage: str) -> Callable[[int], Epoch]:
    """Prepared data with the default augmentation; normalised as in training."""
    from components.data.loaders import PreparedDataModule
    from components.data.settings import AugmentSettings

    store = packed(folder, task, storage, SIZES[task])

    def with_workers(num_workers: int) -> Epoch:
        data = PreparedDataModule(
            store, BATCHES[task], MEAN, STD, AugmentSettings(), num_workers=num_workers
        )
        loader = data.train_dataloader()
        number = itertools.count()

        def epoch() -> Iterable[Any]:
            loader.sampler.set_epoch(next(number))  # type: ignore[attr-defined]
            return (data.on_after_batch_transfer(batch, 0) for batch in loader)

        return epoch

    return with_workers


def torchvision_way(folder: Path, task: str, backend: str) -> Callable[[int], Epoch]:
    """`ImageFolder` or `CocoDetection` with v2 transforms, on Pillow images or on tensors."""
    from torchvision.datasets import CocoDetection, ImageFolder
    from torchvision.transforms import v2

    size = SIZES[task]
    to_image: list[torch.nn.Module] = [v2.ToImage()]
    first, last = (to_image, []) if backend == "tensors" else ([], to_image)
    common = [v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2)]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    if task == "classification":
        crop = v2.RandomResizedCrop(size, scale=(0.8, 1.0), antialias=True)
        transform = v2.Compose([*first, crop, *common, *last, *finish, v2.ToPureTensor()])
        dataset: Any = ImageFolder(folder / "train", transform)
        collate = None
    else:
        place = [
            v2.ScaleJitter((size, size), (0.8, 1.0), antialias=True),
            v2.RandomCrop(size, pad_if_needed=True, fill=114),
        ]
        boxes = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)]
        transform = v2.Compose([*first, *place, *common, *boxes, *last, *finish, v2.ToPureTensor()])
        dataset = CocoDetection(
            folder / "train",
            folder / "train.json",
            transforms=lambda image, target: (transform(with_boxes(image, target)), None),
        )
        collate = stack_images

    def with_workers(num_workers: int) -> Epoch:
        loader: DataLoader[Any] = DataLoader(
            dataset,
            BATCHES[task],
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=collate,
        )
        return lambda: loader

    return with_workers


def with_boxes(image: Image.Image, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """An image and its COCO annotations as v2 transforms read them."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    boxes = tv_tensors.BoundingBoxes(
        [item["bbox"] for item in annotations], format="XYWH", canvas_size=(HEIGHT, WIDTH)
    )
    boxes = v2.functional.convert_bounding_box_format(boxes, new_format="XYXY")
    labels = torch.tensor([item["category_id"] for item in annotations])
    return {"image": image, "boxes": boxes, "labels": labels}


def stack_images(items: list[tuple[dict[str, Any], None]]) -> dict[str, Any]:
    """Images [B, 3, H, W], and boxes and labels of each."""
    images = torch.stack([item["image"] for item, _ in items])
    rest: dict[str, Any] = {key: [item[key] for item, _ in items] for key in ("boxes", "labels")}
    return {"images": images, **rest}


def autotimm_data(folder: Path, task: str, size: int, batch: int, num_workers: int) -> Any:
    """autotimm's data module with its default transforms."""
    import autotimm

    common = {"image_size": size, "batch_size": batch, "pin_memory": False}
    common |= {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    if task == "classification":
        return autotimm.ImageDataModule(folder, **common)
    return autotimm.DetectionDataModule(
        folder,
        train_images_dir=folder / "train",
        val_images_dir=folder / "val",
        train_ann_file=folder / "train.json",
        val_ann_file=folder / "val.json",
        **common,
    )


def autotimm_way(folder: Path, task: str) -> Callable[[int], Epoch]:
    """autotimm's loader of training images."""

    def with_workers(num_workers: int) -> Epoch:
        data = autotimm_data(folder, task, SIZES[task], BATCHES[task], num_workers)
        data.setup("fit")
        loader = data.train_dataloader()
        return lambda: loader

    return with_workers


def serve(folder: Path, task: str) -> None:
    """In autotimm's process: one epoch a line of input, its images a second a line of output."""
    # What its libraries print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        import cv2

        cv2.setNumThreads(1)  # as torch is set for all
    except ImportError:
        pass
    make = autotimm_way(folder, task)
    epochs = {workers: make(workers) for workers in WORKERS}
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(rate(epochs[int(line)]), file=answers, flush=True)


def remote(python: str, folder: Path, task: str) -> subprocess.Popen[str]:
    """autotimm's process, ready.

    Raises:
        SystemExit: its data module does not work there; with what it said.
    """
    with (folder / "autotimm.log").open("w+") as log:
        process = subprocess.Popen(
            [python, __file__, "--serve", str(folder), task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            process.wait()
            log.seek(0)
            said = "".join(log.readlines()[-5:])
            raise SystemExit(f"--autotimm {python}: {task} does not work there:\n{said}")
    return process


def rate(epoch: Epoch) -> float:
    """Images a second of one epoch, from asking for it to its last batch."""
    started, images = time.perf_counter(), 0
    for batch in epoch():
        # autotimm's detection batches call it "image".
        if isinstance(batch, dict):
            found = batch["images"] if "images" in batch else batch["image"]
        else:
            found = batch[0]
        assert found.is_floating_point() and found.shape[1] == 3, found.shape
        images += len(found)
    return images / (time.perf_counter() - started)


def measure(task: str, folder: Path, rounds: int, autotimm: str | None) -> list[str]:
    """Rows of a table: contender, medians by number of workers, ratio to ours."""
    makers = {
        "timmflow, raw": ours(folder, task, "raw"),
        "timmflow, jpeg": ours(folder, task, "jpeg"),
        "torchvision, Pillow": torchvision_way(folder, task, "Pillow"),
        "torchvision, tensors": torchvision_way(folder, task, "tensors"),
    }
    calls: dict[tuple[str, int], Callable[[], float]] = {}
    for name, make in makers.items():
        for workers in WORKERS:
            epoch = make(workers)
            calls[name, workers] = lambda epoch=epoch: rate(epoch)  # type: ignore[misc]
    process = None
    if autotimm:
        process = remote(autotimm, folder, task)
        for workers in WORKERS:
            calls["autotimm", workers] = lambda n=workers: ask(process, n)  # type: ignore[misc]
    found: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for number in range(WARM_UP + rounds):
        for key, call in calls.items():
            value = call()
            if number >= WARM_UP:
                found[key].append(value)
    if process is not None:
        process.terminate()
        process.wait()
    medians = {key: statistics.median(values) for key, values in found.items()}
    lines = []
    for name in dict.fromkeys(name for name, _ in medians):
        rates = [medians[name, workers] for workers in WORKERS]
        ratios = [medians["timmflow, raw", workers] / medians[name, workers] for workers in WORKERS]
        cells = [f"{value:.0f} | {ratio:.1f}" for value, ratio in zip(rates, ratios, strict=True)]
        lines.append(f"| {task} {SIZES[task]} | {name} | {' | '.join(cells)} |")
    return lines


def kept_bytes(folder: Path, task: str) -> str:
    """A row of a table: kilobytes an image takes as the user's file, raw, and as JPEG."""
    files = [file.stat().st_size for file in folder.glob("*/*/*.jpg")]
    cells = [f"{sum(files) / len(files) / 1000:.0f}"]
    for storage in ("raw", "jpeg"):
        size = (folder / f"{task}-{storage}" / "images.bin").stat().st_size
        cells.append(f"{size / len(files) / 1000:.0f}")
    return f"| {task} {SIZES[task]} | {' | '.join(cells)} |"


PAGE = """# Loading speed

`{command}`, {day}: {machine}, {cores} cores, Python {python}, torch {torch}.

{what}

| task | loader | images/s, 0 workers | ours is x | images/s, 2 workers | ours is x |
|---|---|---:|---:|---:|---:|
{rates}

"timmflow, raw" is what `preprocess.storage: auto` takes up to `max_raw_gigabytes`; the columns
"ours is x" say how many times as fast it is as each row.

## Room on disk

Kilobytes an image. Raw pixels are mapped into memory, not read: all workers share one copy in the
system's page cache, which it drops when memory is short.

| task | user's JPEG | prepared, raw | prepared, jpeg |
|---|---:|---:|---:|
{kept}

What an image costs: a random choice of what is seen, one antialiased resample of it into uint8, and
for a whole batch, on the device it is trained on, one multiplication that changes colours and
normalises. Images are drawn where their batch lies; a worker's batches lie in memory that it shares
with the training process as long as the loader lives (`components/data/sent_batch.py`). A choice is
drawn from (seed, epoch, image) alone.
"""


def page(rates: list[str], kept: list[str]) -> str:
    """docs/loading.md, of the tables' rows."""
    return PAGE.format(
        command=" ".join(["OMP_NUM_THREADS=1 python -m benchmarks.loading", *sys.argv[1:]]),
        day=datetime.date.today(),
        machine=platform.machine(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        torch=torch.__version__,
        what=(__doc__ or "").strip().split("\n\n")[-1],
        rates="\n".join(rates),
        kept="\n".join(kept),
    )


def ask(process: subprocess.Popen[str], num_workers: int) -> float:
    """Images a second of an epoch in autotimm's process."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{num_workers}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Make the photos, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, default=Path("/work/shared/data"))
    parser.add_argument("--autotimm", help="python of the environment that holds autotimm")
    parser.add_argument("--write", type=Path, help="a Markdown page for the tables")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=192, help="a third of it for detection")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "TASK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.serve:
        serve(Path(args.serve[0]), args.serve[1])
        return
    from components.runtime import configure_torch

    configure_torch(1)  # as in training; it serves the peers in this process too
    rates, kept = [], []
    print("| task | loader | images/s, 0 workers | ours is x | images/s, 2 workers | ours is x |")
    for task, share in (("classification", 1), ("detection", 3)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_photos(args.photos, folder, args.images // share)
            for line in measure(task, folder, args.rounds, args.autotimm):
                rates.append(line)
                print(line, flush=True)
            kept.append(kept_bytes(folder, task))
    print("\n".join(kept))
    if args.write:
        args.write.write_text(page(rates, kept))


if __name__ == "__main__":
    main()
