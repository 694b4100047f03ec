"""What is still to be sent of each offline run, as files in its folder; wandb is not needed.

A run is sent in two halves. wandb sends what the run holds; `timmflow.synced` says that it did.
What needs the server (lineage, the report) is then done from `timmflow.json`, which the recorder
left as its last act; `timmflow.done` says that it was. A process that is killed leaves the half it
was at, and the next one does it again: with the same run id and the same report, so nothing is
there twice.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.files import read_json, write_json, write_text

_PLAN, _LOCK = "timmflow.json", "timmflow.lock"
_SYNCED, _DONE = "timmflow.synced", "timmflow.done"
# From when a run has a folder until its recorder holds it.
_START_SECONDS = 30.0


@dataclass(frozen=True)
class RunPlan:
    """What is to be done about a run once wandb has sent it.

    Args:
        id: of the run.
        project: W&B's.
        entity: W&B's; None: the account's own.
        stage: job type of the run.
        group: of the run.
        uses: (artifact, alias) of what the run was made from.
        logs: the same of what it gave.
        review: the content of a report; see `components.report.review`. None: there is none.
    """

    id: str
    project: str
    entity: str | None
    stage: str
    group: str
    uses: list[tuple[str, str]] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)
    review: dict[str, Any] | None = None


def write_plan(run: Path, plan: RunPlan) -> None:
    """Leave a plan with a run."""
    write_json(run / _PLAN, asdict(plan))


def read_plan(run: Path) -> RunPlan | None:
    """The plan of a run; None where it was killed, or is of an earlier version."""
    try:
        plan = RunPlan(**read_json(run / _PLAN))
    except (DataError, TypeError):
        return None
    # JSON has no tuples.
    uses, logs = [(a, b) for a, b in plan.uses], [(a, b) for a, b in plan.logs]
    return replace(plan, uses=uses, logs=logs)


def mark_done(run: Path, address: str) -> None:
    """All of a run is with W&B; `address` is that of its report, if it has one."""
    write_text(run / _DONE, address + "\n")


def mark_synced(run: Path) -> None:
    """What a run holds is with W&B."""
    (run / _SYNCED).touch()


def forget_synced(run: Path) -> None:
    """It is not after all, or not any more."""
    (run / _SYNCED).unlink(missing_ok=True)


def is_synced(run: Path) -> bool:
    """Whether all that a run holds is with W&B, the first half."""
    return (run / _SYNCED).exists()


def is_done(run: Path) -> bool:
    """Whether nothing of a run is left to send."""
    if (run / _DONE).exists():
        return True
    # Sent by wandb's own command, or by an earlier version.
    return not (run / _PLAN).exists() and not is_synced(run) and any(run.glob("*.synced"))


def unsent(folder: Path) -> list[Path]:
    """Offline runs of which something is left to send, oldest first; not those still at work."""
    found = sorted((folder / "wandb").glob("offline-run-*"))
    return [run for run in found if not is_done(run) and not _at_work(run)]


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Hold a run, so that nobody sends it before it is whole; a process that dies lets go."""
    descriptor = os.open(run / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _at_work(run: Path) -> bool:
    try:
        descriptor = os.open(run / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        # Its recorder may be about to take it.
        return time.time() - run.stat().st_mtime < _START_SECONDS
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def only_sender(folder: Path) -> Iterator[bool]:
    """Whether nobody else is sending; holds the right to for the length of the block."""
    (folder / "wandb").mkdir(exist_ok=True)
    descriptor = os.open(folder / "wandb" / "publish.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def read_stages(folder: Path) -> dict[str, Any]:
    """Aliases that W&B was last told, by where and what; empty: nothing yet."""
    try:
        found = read_json(folder / "wandb" / "aliases.json")
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def write_stages(folder: Path, aliases: dict[str, Any]) -> None:
    """Remember what W&B was told."""
    write_json(folder / "wandb" / "aliases.json", aliases)
