"""How equal our YOLOX is to the original code (PyPI pixeltable-yolox).

    python -m benchmarks.yolox_parity [--cases 10000] [--write docs/yolox-parity.md]

Compares all sizes, outputs, assignments, losses, gradients and learning rates, prints a page of
tables, and exits with 1 if anything is not as it should be. About ten minutes of one core.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

from yolox_comparisons import (
    SimotaCount,
    compare_learning_rates,
    compare_losses,
    compare_outputs,
    compare_state_dicts,
    compare_training_step,
)

from components.models.yolox_network import YOLOX_SIZES

PUBLISHED = ("0.91", "5.06", "9.0", "25.3", "54.2", "99.1")
LIMIT = 1e-5  # relative, of outputs, losses and gradients


class Page:
    """Markdown, and whether everything on it is as it should be."""

    def __init__(self, command: str):
        self.good = True
        self.lines = [
            "# YOLOX: equal to the original",
            "",
            f"Made by `{command}`. It compares the networks, SimOTA, losses and learning rate of "
            f"`components/models` with pixeltable-yolox {version('pixeltable-yolox')}, the "
            f"official code as a package; PyTorch {torch.__version__}, CPU. Its quick part is "
            "`tests/models/test_yolox_parity.py`. A relative difference is the largest absolute "
            "difference of a tensor over its largest absolute value.",
        ]

    def table(self, title: str, words: str, head: tuple[str, ...], rows: Iterator[tuple]) -> None:
        """Add a section; the last cell of each row says whether it is as it should be."""
        self.lines += ["", f"## {title}", "", words, "", f"| {' | '.join(head)} | |"]
        self.lines.append("|---" * (len(head) + 1) + "|")
        for *cells, good in rows:
            self.good &= bool(good)
            self.lines.append(f"| {' | '.join(map(str, cells))} | {'ok' if good else 'WRONG'} |")


def sizes() -> Iterator[tuple]:
    """Keys and parameters of all sizes; a difference of names or shapes raises."""
    for name, published in zip(YOLOX_SIZES, PUBLISHED, strict=True):
        keys, parameters = compare_state_dicts(name)
        digits = len(published.split(".")[1])
        millions = f"{parameters / 1e6:.{digits}f}"
        yield name, keys, f"{parameters:,}", published, millions == published


def outputs() -> Iterator[tuple]:
    """Relative differences of what the networks give."""
    for name in ("yolox-nano", "yolox-tiny", "yolox-s"):
        found = compare_outputs(name, (256, 320))
        yield name, *(f"{value:.1e}" for value in found.values()), max(found.values()) < LIMIT


def assignments(cases: int) -> Iterator[tuple]:
    """Counts over random cases."""
    count = SimotaCount()
    for seed in tqdm(range(cases), desc="SimOTA", mininterval=5):
        count.add(seed)
    yield "cases", f"{count.cases:,}", count.cases == cases
    yield "boxes", f"{count.boxes:,}", True
    yield "points, and those that answer for a box", f"{count.points:,}, {count.matched:,}", True
    yield "**float64: cases that differ in any match or IoU**", count.wrong, count.wrong == 0
    yield (
        "float32: points that differ (cases)",
        f"{count.rounded_points} ({count.rounded_cases})",
        True,
    )
    yield "float32: of these, not within rounding", count.unexplained, count.unexplained == 0


def losses() -> Iterator[tuple]:
    """Relative differences of each term, from random raw outputs."""
    for dtype in (torch.float32, torch.float64):
        for use_l1 in (False, True):
            found = compare_losses(dtype, use_l1)
            cells = [
                f"{found[name]:.1e}" if name in found else "off"
                for name in ("reg_loss", "obj_loss", "cls_loss", "l1_loss", "gradient")
            ]
            yield str(dtype)[6:], *cells, max(found.values()) < LIMIT


def steps() -> Iterator[tuple]:
    """A whole training step of nano and tiny, images to the gradient of every parameter."""
    for name, dtype in (("nano", torch.float32), ("nano", torch.float64), ("tiny", torch.float64)):
        for use_l1 in (False, True):
            loss, gradient, number = compare_training_step(f"yolox-{name}", dtype, use_l1)
            cells = f"yolox-{name}", str(dtype)[6:], "on" if use_l1 else "off"
            good = loss < LIMIT and gradient < LIMIT
            yield *cells, f"{loss:.1e}", f"{gradient:.1e}", number, good


def rates() -> Iterator[tuple]:
    """Learning rates that are not bit for bit equal."""
    for steps_per_epoch, lr in ((100, 1.0), (100, 0.01), (1849, 0.01)):
        total, unequal = compare_learning_rates(steps_per_epoch, lr)
        yield f"{steps_per_epoch:,}", lr, f"{total:,}", unequal, unequal == 0


def main() -> None:
    """Compare everything, print, and write if told to."""
    parser = argparse.ArgumentParser(description="YOLOX against its original.")
    parser.add_argument("--cases", type=int, default=10_000, help="random images for SimOTA")
    parser.add_argument("--write", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    page = Page(f"python -m benchmarks.yolox_parity --cases {options.cases}")
    page.table(
        "Sizes",
        "Each one's state dict loads into the other: same keys in the same order, same shapes. "
        "Parameters with 80 classes, and millions as published.",
        ("size", "keys", "parameters", "published"),
        sizes(),
    )
    page.table(
        "Outputs",
        "Weights and batch-norm statistics drawn at random, two images of 256 x 320 px, float32. "
        "Relative differences of the raw outputs in both modes, of the running statistics after a "
        "step in training mode, and of decoded scores and boxes.",
        ("size", "eval", "train", "statistics", "scores", "boxes"),
        outputs(),
    )
    page.table(
        "SimOTA",
        "Images of 32 to 416 px, 1 to 80 classes, 0 to 200 boxes: some twice, tiny, larger than "
        "the image, or centred outside it; predictions random or near the truth. In float64 "
        "nothing may differ. In float32 the original adds 1e6 to some costs, which leaves steps of "
        "0.0625: `undecided` (tests/models/yolox_original.py) works out from the float64 costs "
        "which points hang on less than that, or on the rounding of a cost or a sum of IoUs.",
        ("", "count"),
        assignments(options.cases),
    )
    page.table(
        "Losses",
        "Relative differences from random raw outputs for three images, the second without boxes; "
        "the gradient is that of the weighted sum by the raw outputs.",
        ("precision", "box", "objectness", "class", "L1", "gradient"),
        losses(),
    )
    page.table(
        "Training step",
        "From images (three, the second without boxes) to every parameter's gradient: "
        "relative difference of the loss, and the worst of all gradients.",
        ("size", "precision", "L1", "loss", "worst gradient", "gradients"),
        steps(),
    )
    page.table(
        "Learning rate",
        "Every step of 300 epochs, compared bit for bit.",
        ("steps an epoch", "lr", "steps", "unequal"),
        rates(),
    )
    text = "\n".join(page.lines) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    sys.exit(0 if page.good else 1)


if __name__ == "__main__":
    main()
