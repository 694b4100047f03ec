"""docs/reliability.md, from what `kill_points` found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.retrain_kill_page import TITLE as RETRAININGS

Line = dict[str, Any]

TEXT = """# Interrupted training

A training may be interrupted at any moment, by Ctrl-C, by TERM (a scheduler, `docker stop`), by
KILL or by a machine that goes down, and the same command goes on where it was. It ends with the
weights and curves that it would have ended with, bit for bit.

## What is kept, where

`.resume/<key>/` holds the last two checkpoints and the best weights so far (those of the
`train.average_best` best epochs). The key is a hash of the parameters (but for `num_workers`,
`checkpoint_minutes` and `allow_trivial`, which change nothing of the result), of the prepared
data's tables, of the code and of the versions of torch, timm and lightning: a checkpoint of
anything else is never taken up. It is not an output of DVC: one that DVC keeps (`persist: true`)
would be "resumed" after a change of parameters too.

- A checkpoint holds weights, their moving average, optimizer, schedule, gradient scaler, random
  states, the curves and the place in the epoch. What is drawn for an image follows from (seed,
  epoch, image), so loader workers have no state to keep.
- It is taken every `train.checkpoint_minutes` between two steps, and at the start of an epoch if
  that costs less than 3 % of the time since the last. So a KILL costs at most that time.
- INT and TERM: the step is finished, a checkpoint taken, and the process ends with status 130 or
  143. During validation it is the state before validation that is saved. A second INT ends at once.
- After the last epoch a checkpoint is taken before the best epochs are averaged
  (`train.average_best`), so an interruption of that repeats no epoch; and one with the average,
  before the result is saved.
- Each file is written under another name, flushed to the disk and then renamed to a name with its
  SHA-256. It is read only if its content is what the name tells of: a damaged one is set aside as
  `….damaged`, with a message, and the one before is taken.
- The folder is removed when weights, curves and metrics have been written. Of folders with other
  keys the two that were last written to stay for a week; the others go when a training starts.
- A full disk or a missing permission ends the stage with an error that names the file; what was
  there before stays, and the same command goes on when there is room
  (`tests/training/test_refused_writes.py`).

- A loss that is not finite ends the stage before the weights take it. The error says which layer,
  weight or term is the first that is not, and the step is kept: `python -m tasks.replay FILE` runs
  it again and names each of its images with its own loss (`tests/training/test_safety.py`).

To go on after a machine was lost, bring `.resume/` to the new one, with the same repository and
data, and run the same command there.

## {num_points} interruptions

Each is a process of `tasks.train` (3 epochs of 6 steps, with mosaic, mixup, multi-scale, a frozen
backbone at first, a plateau schedule, balanced sampling, dropout where the model has them) that
gets the signal together with its loader workers, and then the same training again. Of these,
{num_wrong} had another exit status than it must have, left anything damaged, ended with other
weights or curves, or left files behind.

{tables}

`shown` is the number of interruptions; `whole` is how many of them ended as the uninterrupted
training does. A random instant after which nothing was left to interrupt is counted apart.

The uninterrupted trainings' weights:

{hashes}

Made by:

    python benchmarks/kill_points.py run --state STATE
    python benchmarks/kill_points.py page --state STATE --write
"""


def write_page(lines: list[Line], path: Path | None) -> None:
    """Write the page but for its section about retrainings, or print it where `path` is None."""
    interrupted = [line for line in lines if any(line["status"])]
    tables = "\n\n".join(
        [
            _table(interrupted, "where", lambda p: p["place"].replace("any", "random instant")),
            _table(interrupted, "signal", lambda p: p["number"]),
            _table(interrupted, "model, workers", lambda p: f"{p['kind']}, {p['num_workers']}"),
            f"Ended before its signal came: {len(lines) - len(interrupted)}.",
        ]
    )
    hashes = sorted({f"- {line['point']['kind']}: `{line['sha256']}`" for line in lines})
    wrong = sum(bool(line["wrong"]) for line in lines)
    text = TEXT.format(
        num_points=len(interrupted),
        num_wrong=wrong or "none",
        tables=tables,
        hashes="\n".join(hashes),
    )
    if path is None:
        sys.stdout.write(text)
        return
    # What the other benchmark has written behind it stays.
    _, title, retrainings = path.read_text(encoding="utf-8").partition(RETRAININGS)
    path.write_text(f"{text}\n{title}{retrainings}" if title else text, encoding="utf-8")


def _table(lines: Iterable[Line], title: str, key: Callable[[dict[str, Any]], str]) -> str:
    rows: dict[str, list[bool]] = {}
    for line in lines:
        rows.setdefault(key(line["point"]), []).append(not line["wrong"])
    body = [f"| {name} | {len(ok)} | {sum(ok)} |" for name, ok in sorted(rows.items())]
    return "\n".join([f"| {title} | shown | whole |", "|---|---:|---:|", *body])
