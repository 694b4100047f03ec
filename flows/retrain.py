"""Retraining as a Prefect flow: new data in, a new version of the model out, if it is better.

    python -m flows.retrain                   the command; `--help` says more
    flows/retrain.py:retrain                  the entrypoint for a deployment

Works in a worktree of its own, with what is committed; the user's files, branch and index stay as
they are. What it brings about are commits on a branch, tags of the registry, and files in DVC's
cache and remote.
"""

# No `from __future__ import annotations`: a flow that is served is sent to a process of its own,
# without the names that its annotations would be looked up by.

if __name__ == "__main__":
    # As in flows/pipeline.py: before Prefect is imported, and not in `__main__`.
    from flows.retrain_command import main

    raise SystemExit(main())

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from components.errors import TimmflowError
from flows.flow_errors import StageFailed
from flows.notify import notify
from flows.pipeline import stage_task
from flows.progress import StageRow, Watcher, watcher
from flows.retrain_run import Promote, Work, locked, retrain_here
from flows.retrain_site import Site
from flows.retrain_steps import Retraining


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def step_task(name: str, work: Work) -> StageRow | State[Any]:
    """Do one step; `work` gives its outcome and headline."""
    logger = get_run_logger()
    watching = watcher.get(Watcher())

    def on_line(line: str) -> None:
        if line.strip():
            logger.info("%s", line)
        watching.line(line)

    started = time.perf_counter()
    try:
        outcome, headline = work(on_line)
    except TimmflowError as error:
        failed = StageFailed(name, str(error), time.perf_counter() - started)
        # What a command printed stands above; of what we found ourselves nothing does yet.
        watching.line(f"error: {failed}")
        watching.row(StageRow(name, "failed", failed.seconds, failed.reason))
        # A state and not an exception: a traceback through Prefect would bury the message.
        return Failed(message=str(failed), data=failed)
    row = StageRow(name, outcome, time.perf_counter() - started, headline)
    logger.info("%s", row)
    watching.row(row)
    return row


class TaskSteps:
    """Runs steps as Prefect tasks and keeps their rows; the first that fails raises."""

    def __init__(self) -> None:
        self.rows: list[StageRow] = []
        self._minutes: dict[str, float] = {}

    def begin(self, site: Site) -> None:
        """Take the limits of its parameters."""
        self._minutes = {str(step): limit for step, limit in site.params.retrain.timeouts.items()}

    def do(self, name: str, work: Work) -> None:
        """A step of retraining."""
        run = step_task.with_options(**self._options(name))
        self._take(name, run(name, work, return_state=True))

    def stage(self, name: str, retraining: Retraining) -> None:
        """A stage of the pipeline, in the worktree."""
        run = stage_task.with_options(**self._options(name))
        lock, group = retraining.options["lock"], flow_run.name or "retrain"
        env = {"WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP") or group}
        env |= retraining.options["env"]
        self._take(name, run(name, retraining.tree, False, env, lock, return_state=True))

    def _options(self, name: str) -> dict[str, Any]:
        minutes = self._minutes.get(name)
        limit = {"timeout_seconds": 60 * minutes} if minutes else {}
        return {"name": name, "task_run_name": name, **limit}

    def _take(self, name: str, state: State[Any]) -> None:
        result = state.result(raise_on_failure=False)
        if state.name == "TimedOut":
            minutes = self._minutes[name]
            reason = f"ended after {minutes:g} minutes: retrain.timeouts"
            result = StageFailed(name, reason, 60 * minutes)
            watcher.get(Watcher()).line(f"error: {result}")
        if isinstance(result, StageFailed):
            self.rows.append(StageRow(result.stage, "failed", result.seconds, result.reason))
            raise result
        self.rows.append(state.result())


@flow(
    name="retrain",
    persist_result=False,
    on_failure=[notify],
    on_cancellation=[notify],
    on_crashed=[notify],
)
def retrain(
    root: str = ".", force: bool = False, promote: Promote | None = None, publish: bool = True
) -> dict[str, Any] | State[Any]:
    """Retrain on today's data, and replace the model in production if the new one is better.

    Args:
        root: the repository's root.
        force: work even if nothing is new.
        promote: `automatic` or `review`, instead of `retrain.promote` of the parameters.
        publish: send the runs to W&B at the end.

    Returns:
        `outcome` (`nothing new`, `refused`, `registered`, `promoted`), `summary` in a line,
        `version` (or None), `refused` {batch: reason}, and `rows`, one a step. Where it could not
        be done, a failed state that holds the error; the champion is as it was.
    """
    place = Path(root).resolve()
    steps = TaskSteps()
    try:
        with locked(place):
            result = retrain_here(place, steps, force, promote, publish)
    except TimmflowError as error:
        _show(steps.rows)
        return Failed(message=str(error), data=error)
    _show(steps.rows)
    return {**result, "rows": [asdict(row) for row in steps.rows]}


def _show(rows: list[StageRow]) -> None:
    create_table_artifact(
        key="retrain-outcomes",
        table=[{**asdict(row), "seconds": round(row.seconds, 1)} for row in rows],
        description="What became of each step.",
    )
