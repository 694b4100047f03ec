"""A repository in which runs are recorded and published, each in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.tracking.plan import read_plan

CODE = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 3


def environment(**more: str) -> dict[str, str]:
    """Nobody's settings but these."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PYTHONPATH"))}
    folders = [CODE, CODE / "tests" / "tracking", CODE / "tests" / "report"]
    paths = os.pathsep.join(map(str, folders))
    return {**kept, "PYTHONPATH": paths, **more}


def python(root: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project in a folder; its output is all in `stdout`."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def record(root: Path, *stages: str, **more: str) -> str:
    """Record runs in a folder; see `record_runs`. Gives what was printed."""
    done = python(root, str(CODE / "tests/tracking/record_runs.py"), *stages, **more)
    assert done.returncode == 0, done.stdout
    return done.stdout


def publish(root: Path, url: str, seconds: float = 300, **more: str) -> tuple[int, list[str]]:
    """Status and lines of `python -m tasks.publish`."""
    words = ("-m", "tasks.publish", "--timeout", str(seconds))
    done = python(root, *words, **{"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, **more})
    return done.returncode, done.stdout.splitlines()


def runs(root: Path) -> list[Path]:
    """Folders of offline runs; those begun in one second are in no order."""
    return sorted((root / "wandb").glob("offline-run-*"))


def run_of(root: Path, stage: str) -> Path:
    """The only run of a stage."""
    plans = [(run, read_plan(run)) for run in runs(root)]
    (found,) = [run for run, plan in plans if plan and plan.stage == stage]
    return found


def inspected(run: Path) -> dict[str, Any]:
    """A run as wandb reads it back: `config`, `summary`, `history`, `artifacts` by name."""
    done = python(run.parents[1], "-m", "wandb", "leet", "inspect", "--json", str(run))
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "artifacts": {}}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        match record["type"]:
            case "run":
                found["config"] = record["run"]["config"]["update"]
            case "summary":
                found["summary"] |= record["summary"]["update"]
            case "history":
                found["history"].append(record["history"]["item"])
            case "artifact":
                found["artifacts"][record["artifact"]["name"]] = record["artifact"]
    return found
