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

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed

from components.errors import TimmflowError
from flows.flow_errors import StageFailed
from flows.pipeline import done, stage_done
from flows.progress import StageRow, Work, failed_row
from flows.retrain_run import Promote, locked, retrain_here
from flows.retrain_steps import Retraining


class TaskSteps:
    """Runs steps as Prefect tasks and keeps their rows; the first that fails raises."""

    def __init__(self) -> None:
        self.rows: list[StageRow] = []

    def do(self, name: str, work: Work) -> None:
        """A step of retraining."""
        self._take(lambda: done(name, work))

    def stage(self, name: str, retraining: Retraining) -> None:
        """A stage of the pipeline, in the worktree."""
        self._take(lambda: stage_done(name, retraining.tree, **retraining.options))

    def _take(self, step: Callable[[], StageRow]) -> None:
        try:
            self.rows.append(step())
        except StageFailed as error:
            self.rows.append(failed_row(error))
            raise


@flow(name="retrain", persist_result=False)
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
