"""docs/simulated-year.md, from what `simulated_year` has seen."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.simulated_year import (
    BOUND,
    EVERY_SECONDS,
    NUM_BATCH,
    NUM_FIRST,
    NUM_HIDDEN,
    NUM_TEST,
    WORSE_SHARE,
)

TEXT = """# A year of scheduled retraining, simulated

{weeks} of 52 weeks have been run. Each week a batch of {batch} handwritten digits arrives in
`data/incoming`, and the next run of the scheduler (`python -m flows.serve --every {every}`, with a
Prefect server on loopback) deals with it. Batches' checks, `validate`, `preprocess`, gate,
registry, git and DVC with a remote are the real ones; the model is a linear classifier that is
fitted within a second. The first model saw {first} images; the gate has {test}; {hidden} that no
run sees measure the champion after each week. The gate tolerates a loss of
three points (`min_gain: -0.03`).

{table}

- {refused}
- Worse: {worse}
- {worse_batch}
- Promoted: {promoted} versions. Accuracy on the hidden images: {begin:.1%} at first, {end:.1%} in
  the end; the largest fall in a week was {fall:.1f} points, and {bound:.0f} are allowed.
- Made again: {again} versions were checked out from their tags in new clones, with the data from
  the remote: `dvc repro` must say that nothing changed, and `dvc repro --force` must give weights
  and ONNX file of the same SHA-256.
- Not as it must be: {wrong}

## Week by week

| week | batch | outcome | version | hidden accuracy | reason |
|---:|---|---|---|---:|---|
{rows}

Made by:

    python benchmarks/simulated_year.py run --work FOLDER
    python benchmarks/simulated_year.py check --work FOLDER
    python benchmarks/simulated_year.py page --work FOLDER --write
"""

# Of lines from before the size of a worse batch followed the data.
FIXED_SIZE = f"""In this run a worse batch had {NUM_BATCH} images, with labels drawn by chance,
  however much had been gathered: in week 6 that was 140 images, in week 40 it was 500, and
  there {NUM_BATCH} such images cost no more than the gate tolerates. Such a batch now has
  {WORSE_SHARE:.0%} of what has been gathered, each image labelled as the digit after it. The year
  was not run again with it; single weeks were, by `flows.retrain`, with all that had been gathered
  as the first data, and the gate refused both: week 40, 125 images, accuracy 0.8467, was 0.9467;
  week 52, 159 images, 0.8667, was 0.9467."""
GROWING = f"""A worse batch has {WORSE_SHARE:.0%} of what has been gathered, each image labelled as
  the digit after it: {{sizes}}."""


def write_page(
    weeks: list[dict[str, Any]], versions: list[dict[str, Any]], path: Path | None
) -> None:
    """Write the page.

    Args:
        weeks: as `simulated_year.run` gives them.
        versions: as `simulated_year.check` does.
        path: None: it is printed.
    """
    hidden = [week["hidden"] for week in weeks]
    falls = [before - after for before, after in pairwise(hidden)]
    refused = [week for week in weeks if week["refused"]]
    worse = [week for week in weeks if week["kind"] == "worse"]
    wrong = [text for record in (*weeks, *versions) for text in record["wrong"]]
    text = TEXT.format(
        **{"weeks": len(weeks) - 1, "batch": NUM_BATCH, "every": EVERY_SECONDS},
        **{"first": NUM_FIRST, "test": NUM_TEST, "hidden": NUM_HIDDEN},
        table=_by_kind(weeks),
        refused=f"Refused batches: {len(refused)}, each with its reason below.",
        worse="; ".join(f"{week['outcome']}, {week['summary']}" for week in worse) or "none yet.",
        worse_batch=_worse_batch(worse),
        promoted=len({week["version"] for week in weeks if week["version"]}),
        **{"begin": hidden[0], "end": hidden[-1]},
        **{"fall": 100 * max([0.0, *falls]), "bound": 100 * BOUND},
        again=len(versions),
        wrong="; ".join(wrong) or "nothing.",
        rows="\n".join(_row(week) for week in weeks),
    )
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")


def _worse_batch(worse: list[dict[str, Any]]) -> str:
    if any("arrived" not in week for week in worse):
        return FIXED_SIZE
    sizes = (f"week {week['week']}, {week['arrived']} images" for week in worse)
    return GROWING.format(sizes="; ".join(sizes) or "none yet")


def _by_kind(weeks: list[dict[str, Any]]) -> str:
    counts: dict[str, dict[str, int]] = {}
    for week in weeks:
        outcome = "batch refused" if week["refused"] else week["outcome"]
        kind = counts.setdefault(week["kind"], {})
        kind[outcome] = kind.get(outcome, 0) + 1
    rows = [
        f"| {kind} | {sum(found.values())} | "
        + ", ".join(f"{outcome}: {count}" for outcome, count in sorted(found.items()))
        + " |"
        for kind, found in counts.items()
    ]
    return "\n".join(["| batch | weeks | what became of it |", "|---|---:|---|", *rows])


def _row(week: dict[str, Any]) -> str:
    reason = "; ".join((week["refused"] or {}).values())
    if week["outcome"] == "refused":
        reason = week["summary"]
    if week["skipped"]:
        reason = f"{week['skipped']} images of the test split left out"
    reason = reason.replace("|", "/").replace("\n", " ")[:160]
    return (
        f"| {week['week']} | {week['kind']} | {week['outcome']} | {week['version'] or ''} | "
        f"{week['hidden']:.3f} | {reason} |"
    )
