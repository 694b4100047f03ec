"""What all stage commands share: arguments, errors without a traceback, figures, one last line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from components.errors import TimmflowError
from components.files import rounded, write_json
from tasks.layout import Layout
from tasks.params import Params, command_parser, load
from tasks.tracked import tracked

Figures = dict[str, Any]
Item = TypeVar("Item")
StageFunction = Callable[[Params, Layout], Figures]


def main(
    stage: str,
    description: str | None,
    run: StageFunction,
    argv: list[str] | None,
    finish: Callable[[Params, Layout], None] | None = None,
) -> int:
    """Run one stage from the command line.

    Reads the parameter file, calls `run`, writes what it returns to `metrics/<stage>.json`, records
    it with W&B and prints the headline. `run` imports the heavy libraries itself, so that `--help`
    is quick. `finish` is called last, when all is written.

    Returns:
        The exit status: 0, or 1 with the reason on standard error.
    """
    args = command_parser(stage, description).parse_args(argv)
    started = time.perf_counter()
    try:
        layout, params = Layout(), load(args.params)
        with tracked(stage, params, layout) as record:
            figures = run(params, layout)
            write_json(layout.metrics(stage), rounded(figures))
            record(figures)
        if finish is not None:
            finish(params, layout)
    except TimmflowError as error:
        print(f"error: {stage}: {error}", file=sys.stderr)
        return 1
    print(
        f"{stage}: {headline(stage, figures)} ({time.perf_counter() - started:.1f} s)", flush=True
    )
    return 0


def progress_bar(items: Iterable[Item], total: int, unit: str) -> Iterable[Item]:
    """The items, with a progress bar where a person is watching and silence elsewhere."""
    from tqdm import tqdm

    return tqdm(items, total=total, unit=f" {unit}", leave=False, disable=None)


def headline(stage: str, figures: Figures) -> str:
    """A stage's figures in a few words."""

    def percent(name: str) -> str:
        return f"{100 * figures[name]:.1f} %"

    match stage:
        case "validate":
            left_out = figures["num_quarantined"]
            plural = "" if left_out == 1 else "s"
            return (
                f"{figures['num_images']:,} images, {figures['num_classes']} classes, "
                f"{figures['num_errors']} errors, {figures['num_warnings']} warnings"
                + (f", {left_out:,} image{plural} left out" if left_out else "")
            )
        case "preprocess":
            return (
                f"{figures['num_train']:,} train, {figures['num_val']:,} val, "
                f"{figures['num_test']:,} test"
            )
        case "train":
            return (
                f"best epoch {figures['best_epoch']} of {figures['num_epochs']}, "
                f"{figures['monitor']} {figures['best']:.3f}"
            )
        case "evaluate" if "exact_match" in figures:
            return (
                f"mAP {figures['map']:.3f}, micro F1 {figures['micro_f1']:.3f}, all labels right "
                f"on {percent('exact_match')} of {figures['split']}"
            )
        case "evaluate" if "map" in figures:
            return f"AP {figures['map']:.3f}, AP50 {figures['map_50']:.3f} on {figures['split']}"
        case "evaluate":
            return f"accuracy {percent('accuracy')} on {figures['split']}"
        case "export":
            rejected = figures["num_rejected"]
            return (
                f"{figures['megabytes']:.1f} MB, {figures['latency_ms_p50']:.1f} ms an image, "
                f"equal to PyTorch on {figures['num_parity_images']} images"
                + (f", {rejected} rejected: see reports/export.json" if rejected else "")
            )
        case "report":
            return f"{figures['page']}"
    raise KeyError(stage)
