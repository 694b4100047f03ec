"""The section of docs/reliability.md on killed retrainings, from `retrain_kill_points`."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = dict[str, Any]

TITLE = "## A retraining that is killed"
TEXT = """## A retraining that is killed

The next one removes what is left (worktree, locks), resumes an interrupted training, and finishes
a version that was decided on. A version is there when its tag is, and the tag is written last.

{count} retrainings were killed with KILL, each at an event that a recorded one had: a file about to
be written, renamed, linked or removed, or a command, git's among them, about to start or just
started. Struck was {targets}. Git, DVC with a remote, registry, a batch and
Prefect were real; the stages were two quick ones, and the gate was quick. After each: no process
left, the champion in production, every version's files whole on the remote, no lock held, `git
fsck` content; then the next run completed, with the same version, model and data as undisturbed,
no worktree, lock or record was left, and the user's tree, index and commit were as before.
{wrong} A point that shows a defect is tried again once that is mended, and its new line counts.
{missing}

{tables}

Made by:

    python benchmarks/retrain_kill_points.py run --state STATE
    python benchmarks/retrain_kill_points.py page --state STATE --write
"""

TARGETS = {
    "flow": "the flow alone",
    "process": "the process at work there alone (DVC, a stage, the gate, what merges a batch)",
    "all": "all at once, as when the machine goes down",
    "worker": "the worker (`flows.serve`)",
    "server": "Prefect's server, which came back after two seconds",
}


def write_section(lines: list[Line], path: Path | None) -> None:
    """Write the section into a page, in the place of an older one, or print it."""
    reached = [line for line in lines if line["reached"]]
    wrong = sum(bool(line["wrong"]) for line in reached)
    tables = [
        _table(reached, "step", lambda point: point["step"]),
        _table(reached, "struck", lambda point: point["target"]),
        _table(reached, "process there", lambda point: point["process"]),
        f"Over before they came to their place: {len(lines) - len(reached)}.",
    ]
    struck = {line["point"]["target"] for line in reached}
    text = TEXT.format(
        targets="; ".join(words for target, words in TARGETS.items() if target in struck),
        count=len(reached),
        wrong=f"{wrong} of them were not so." if wrong else "All were so.",
        missing=f"100 are wanted: {max(0, 100 - len(reached))} are still to be tried.",
        tables="\n\n".join(tables),
    )
    text = "\n\n".join(
        textwrap.fill(part, 100) if part[:1].isdigit() else part for part in text.split("\n\n")
    )
    if path is None:
        sys.stdout.write(text)
        return
    page = path.read_text(encoding="utf-8")
    # From its title to the next one.
    rest = re.sub(rf"\n*{re.escape(TITLE)}\n.*?(?=\n## |\Z)", "", page, flags=re.DOTALL).rstrip()
    path.write_text(f"{rest}\n\n{text}", encoding="utf-8")


def _table(lines: list[Line], title: str, key: Callable[[dict[str, Any]], str]) -> str:
    rows: dict[str, list[bool]] = {}
    for line in lines:
        rows.setdefault(key(line["point"]), []).append(not line["wrong"])
    # In the order in which they came: that of the steps.
    body = [f"| {name} | {len(fine)} | {sum(fine)} |" for name, fine in rows.items()]
    return "\n".join([f"| {title} | killed | in order |", "|---|---:|---:|", *body])
