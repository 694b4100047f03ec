"""Training images a second, side by side with autotimm: same backbone, batch, input size.

    python -m benchmarks.throughput --photos DIR --autotimm /path/to/its/bin/python
                                    [--write docs/throughput.md] [--images 160] [--rounds 5]

A round is one epoch of training under each contender's own trainer: ours with all that a training
does here (EMA, checks of the loss, curves), autotimm's AutoTrainer without compilation, which on a
CPU takes longer than it saves in an epoch. Backbones, from random weights: the default one,
tf_efficientnet_lite0, and resnet18. Classification: 32 images of 224 px a step; detection: FCOS, 8
of 320 px, pyramid of 128 channels, four convolutions. Both bring images to size by their own
default augmentation, with 0 and with 2 loader workers. Ours reads prepared data. autotimm reads the
same photos as JPEG files, once of 500 x 375 and once brought to the training size beforehand
("small files"), which is its best case.

Each contender is a process that stays, with torch's default threads and freed memory kept
(`components.runtime`); they take turns, epoch by epoch, one at work at a time. The first epoch
warms up; medians of the others are printed. Validation is not counted. Nothing else should run: an
epoch of 160 images takes up to a minute on two cores, so all of it up to two hours; `--images 32
--rounds 1 --task classification --workers 0` shows in minutes that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BACKBONES = ("tf_efficientnet_lite0", "resnet18")
SIZES = {"classification": 224, "detection": 320}
BATCHES = {"classification": 32, "detection": 8}
FPN_CHANNELS, HEAD_CONVS = 128, 4
CONTENDERS = ("timmflow", "autotimm, small files", "autotimm")
PARTS = ("data", "forward", "backward", "optimizer")
COLUMNS = ("images/s", "ours is x", *PARTS, "other")
Figures = dict[str, float]


def make_small(folder: Path, target: Path, size: int) -> None:
    """The photos and boxes of `folder`, scaled so that the longer side is `size`."""
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        scale = size / max(max(image["width"], image["height"]) for image in content["images"])
        for image in content["images"]:
            image["width"], image["height"] = (
                round(image[side] * scale) for side in ("width", "height")
            )
            path = target / split / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(folder / split / image["file_name"]) as photo:
                sides = (image["width"], image["height"])
                photo.resize(sides, Image.Resampling.BICUBIC).save(path, quality=90)
        for item in content["annotations"]:
            item["bbox"] = [value * scale for value in item["bbox"]]
            item["area"] *= scale**2
        (target / f"{split}.json").write_text(json.dumps(content))


def our_epoch(folder: Path, task: str, backbone: str, workers: int) -> Callable[[], Figures]:
    """An epoch of `components.training.fit`, from new weights each time."""
    from benchmarks.loading import MEAN, STD, packed
    from components.data.loaders import PreparedDataModule
    from components.data.settings import AugmentSettings
    from components.training.fit import fit
    from components.training.settings import TrainSettings
    from tasks.train import build

    kind: Any = {"fpn_channels": FPN_CHANNELS, "head_num_convs": HEAD_CONVS}
    settings = TrainSettings(
        backbone=backbone,
        pretrained=False,
        epochs=1,
        warmup_epochs=0,
        batch_size=BATCHES[task],
        detector=kind,
    )
    store = packed(folder, task, "raw", SIZES[task])
    resume = folder / "resume"

    def epoch() -> Figures:
        shutil.rmtree(resume, ignore_errors=True)
        _, module = build(store, settings)
        # Workers that a training keeps are its own: here as there they start with each training.
        data = PreparedDataModule(
            store, settings.batch_size, MEAN, STD, AugmentSettings(), num_workers=workers
        )
        split = fit(module, data, settings, 0, resume).time
        return {"rate": split.images_per_second, **_of_training(split.seconds, split.total)}

    return epoch


def autotimm_epoch(folder: Path, task: str, backbone: str, workers: int) -> Callable[[], Figures]:
    """An epoch of autotimm's own trainer, from new weights each time."""
    import autotimm

    from benchmarks.loading import autotimm_data
    from components.training.time_split import StepClock

    class Clock(StepClock):
        """Knows autotimm's batches."""

        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            images = batch["image"] if isinstance(batch, dict) else batch[0]
            super().on_train_batch_start(trainer, pl_module, {"images": images}, batch_idx)

    def epoch() -> Figures:
        options: dict[str, Any] = {"compile_model": False, "deterministic": False}
        if task == "classification":
            config = autotimm.BackboneConfig(backbone, pretrained=False)
            model = autotimm.ImageClassifier(config, 2, **options)
        else:
            features = autotimm.FeatureBackboneConfig(backbone, pretrained=False)
            model = autotimm.ObjectDetector(
                features, 2, fpn_channels=FPN_CHANNELS, head_num_convs=HEAD_CONVS, **options
            )
        clock = Clock()
        trainer = autotimm.AutoTrainer(
            max_epochs=1,
            tuner_config=False,
            callbacks=[clock],
            default_root_dir=str(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        data = autotimm_data(folder, task, SIZES[task], BATCHES[task], workers)
        trainer.fit(model, datamodule=data)
        split = clock.split()
        return {"rate": split.images_per_second, **_of_training(split.seconds, split.total)}

    return epoch


def _of_training(seconds: dict[str, float], total: float) -> Figures:
    """Shares of the time without validation."""
    training = max(total - seconds["validation"], 1e-9)
    shares = {part: seconds[part] / training for part in PARTS}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def serve(contender: str, folder: Path, task: str, backbone: str, workers: int) -> None:
    """A contender's process: an epoch a line of input, its figures a line of output."""
    # What its libraries print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    from components.runtime import configure_torch

    configure_torch(seed=0)
    make = our_epoch if contender == "timmflow" else autotimm_epoch
    epoch = make(folder, task, backbone, workers)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(epoch()), file=answers, flush=True)


class Remote:
    """A contender's process.

    Args:
        python: of its environment.
        contender, folder, task, backbone, workers: see `serve`.

    Raises:
        SystemExit: it does not work there; with what it said.
    """

    def __init__(
        self, python: str, contender: str, folder: Path, task: str, backbone: str, workers: int
    ):
        self.name = f"{contender}, {task}, {backbone}, {workers} workers"
        self.log = Path(f"{folder}-{contender[:4]}-{backbone}-{workers}.log")
        command = [python, "-m", "benchmarks.throughput", "--serve", contender, str(folder), task]
        command.append(backbone)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(workers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
        if self._line() != "ready":
            self._fail()

    def epoch(self) -> Figures:
        """One epoch's figures."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(file=self.process.stdin, flush=True)
        line = self._line()
        if not line:
            self._fail()
        figures: Figures = json.loads(line)
        return figures

    def end(self) -> None:
        """No more epochs."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _fail(self) -> None:
        self.process.wait()
        said = "\n".join(self.log.read_text().splitlines()[-8:])
        raise SystemExit(f"{self.name} failed:\n{said}")


def measure(
    task: str, backbone: str, workers: int, args: argparse.Namespace, work: Path
) -> list[str]:
    """Rows of a table: contender, images a second, ratio, where the time went."""
    from benchmarks.loading import make_photos

    photos, small = work / f"{task}-photos", work / f"{task}-small"
    if not photos.exists():
        make_photos(args.photos, photos, args.images)
        make_small(photos, small, SIZES[task])
    remotes: dict[str, Remote] = {}
    try:
        for name in CONTENDERS:
            if name == "timmflow" or args.autotimm:
                python = sys.executable if name == "timmflow" else args.autotimm
                folder = small if "small" in name else photos
                remotes[name] = Remote(python, name, folder, task, backbone, workers)
        found: dict[str, list[Figures]] = {name: [] for name in remotes}
        for number in range(args.rounds + 1):
            for name, remote in remotes.items():
                figures = remote.epoch()
                if number:
                    found[name].append(figures)
                print(f"{remote.name}: {figures['rate']:.2f} images/s", file=sys.stderr, flush=True)
    finally:
        for remote in remotes.values():
            remote.end()
    medians = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    lines = []
    for name, figures in medians.items():
        pairs = zip(found["timmflow"], found[name], strict=True)
        ratio = statistics.median(ours["rate"] / theirs["rate"] for ours, theirs in pairs)
        shares = " | ".join(f"{figures[part]:.0%}" for part in (*PARTS, "other"))
        what = f"{task}, {BATCHES[task]} x {SIZES[task]} px | {backbone} | {workers}"
        lines.append(f"| {what} | {name} | {figures['rate']:.1f} | {ratio:.2f} | {shares} |")
    return lines


PAGE = """# Training throughput

`{command}`, {day}: {machine}, {cores} cores, Python {python}, torch {torch}.

{what}

| {head} |
|---|---|---:|---|{dashes}|
{rows}

"ours is x": the median over the rounds of our images a second by theirs. `data` is what a step
waited for its batch.
"""


def main() -> None:
    """Command line; see the module's text."""
    if sys.argv[1:2] == ["--serve"]:
        contender, folder, task, backbone, workers = sys.argv[2:]
        serve(contender, Path(folder), task, backbone, int(workers))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, default=ROOT.parent / "shared/data/clothing", help="JPEG files below"
    )
    parser.add_argument("--autotimm", help="python of the environment that holds autotimm")
    parser.add_argument("--task", nargs="+", choices=SIZES, default=list(SIZES), help="only these")
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES), help="only these")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--images", type=int, default=160, help="an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a page, as well as the table on the output")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for task in args.task:
            for backbone in args.backbone:
                for workers in args.workers:
                    rows += measure(task, backbone, workers, args, Path(work))
    import torch

    text = PAGE.format(
        command=" ".join(["python -m benchmarks.throughput", *sys.argv[1:]]),
        day=datetime.date.today(),
        machine=platform.machine(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        torch=torch.__version__,
        what="\n\n".join((__doc__ or "").split("\n\n")[2:]).strip(),
        head=" | ".join(["task", "backbone", "workers", "contender", *COLUMNS]),
        dashes="|".join(["---:"] * len(COLUMNS)),
        rows="\n".join(rows),
    )
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
