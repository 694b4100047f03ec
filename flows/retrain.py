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
from prefect.client.schemas.objects import State

from components.errors import TimmflowError
from flows.flow_errors import StageFailed
from flows.notify import notify
from flows.pipeline import done, failed_state, stage_done
from flows.progress import StageRow, Work, failed_row
from flows.retrain_artifacts import Artifacts, show_outcomes
from flows.retrain_run import Promote, locked, retrain_here
from flows.retrain_site import Site
from flows.retrain_steps import Retraining
from flows.served_run import end_with_parent


class TaskSteps:
    """Runs steps as Prefect tasks and keeps their rows; the first that fails raises."""

    def __init__(self) -> None:
        self.rows: list[StageRow] = []
        self._minutes: dict[str, float] = {}
        self._artifacts: Artifacts | None = None

    def begin(self, site: Site) -> None:
        """Take the limits of its parameters, and what there is before the work."""
        if self._artifacts is None:
            self._artifacts = Artifacts(site)
        else:
            self._artifacts.begin(site)
        self._minutes = {str(step): limit for step, limit in site.params.retrain.timeouts.items()}

    def do(self, name: str, work: Work) -> None:
        """A step of retraining."""
        self._take(lambda: done(name, work, self._minutes.get(name)))

    def stage(self, name: str, retraining: Retraining) -> str:
        """A stage of the pipeline, in the worktree; gives its outcome."""
        options = {**retraining.options, "minutes": self._minutes.get(name)}
        self._take(lambda: stage_done(name, retraining.tree, **options))
        return self.rows[-1].outcome

    def _take(self, step: Callable[[], StageRow]) -> None:
        try:
            self.rows.append(step())
        except StageFailed as error:
            self.rows.append(failed_row(error))
            raise
        if self._artifacts is not None:
            self._artifacts.step(len(self.rows))

    def show(self) -> None:
        """Show on Prefect's page what came of it."""
        show_outcomes(self.rows)
        if self._artifacts is not None:
            self._artifacts.finish(self.rows)


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
    end_with_parent()
    place = Path(root).resolve()
    steps = TaskSteps()
    try:
        with locked(place):
            result = retrain_here(place, steps, force, promote, publish)
    except TimmflowError as error:
        steps.show()
        return failed_state(error)
    steps.show()
    return {**result, "rows": [asdict(row) for row in steps.rows]}
