"""The pipeline as a Prefect flow: one task a stage, each of them `dvc repro -s <stage>`.

    python -m flows.pipeline                the command; `--help` says more
    flows/pipeline.py:pipeline              the entrypoint for a deployment

DVC decides what has to run and records what ran. The flow adds what DVC does not have: a schedule,
logs and outcomes to look at from elsewhere, and an end to everything when it is cancelled.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Help has to answer before Prefect is imported (two seconds), and Prefect reads its settings
    # when it is imported. The flow must be defined in an importable module, not in `__main__`.
    from flows.pipeline_command import main

    raise SystemExit(main())

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from components.errors import DataError, TimmflowError
from components.files import read_json
from flows.dvc_stage import deadline, run_stage, unchanged_stages
from flows.flow_errors import FlowError, StageFailed, as_flow_error, masked
from flows.progress import OnLine, StageRow, Watcher, Work, failed_row, watcher
from flows.workspace_lock import workspace_lock
from tasks.layout import STAGES, Layout
from tasks.stage import headline

StageName = Literal["validate", "preprocess", "train", "evaluate", "export", "report"]


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def step_task(name: str, work: Work, minutes: float | None = None) -> StageRow | State[Any]:
    """Do one step. DVC caches, so Prefect must not; and a step that failed would fail again."""
    logger = get_run_logger()
    watching = watcher.get(Watcher())

    def on_line(line: str) -> None:
        if line.strip():
            logger.info("%s", line)
        watching.line(line)

    def taken() -> float:
        return time.monotonic() - started

    started = time.monotonic()
    # Prefect's own limit waits for a command that is silent, unless this is the main thread.
    limit = math.inf if minutes is None else 60 * minutes
    token = deadline.set(started + limit)
    failed: StageFailed | None = None
    stands_above = False
    try:
        outcome, words = work(on_line)
    except StageFailed as error:
        failed, stands_above = error, True  # what its command printed
    except TimmflowError as error:
        failed = StageFailed(name, str(error), taken())
    finally:
        deadline.reset(token)
    # One that has succeeded is done, however long it took.
    if failed is not None and taken() > limit:
        late = f"not done after {minutes:g} minutes"
        failed, stands_above = StageFailed(name, late, taken()), False
    if failed is None:
        row = StageRow(name, outcome, taken(), masked(words))
        logger.info("%s", row)
        watching.row(row)
        return row
    if not stands_above:
        watching.line(f"error: {failed}")
    watching.row(failed_row(failed))
    # A state and not an exception: a traceback through Prefect would bury the message.
    return failed_state(failed)


def failed_state(error: TimmflowError) -> State[Any]:
    """The end of a flow or task that failed of something a person can mend."""
    # Prefect logs what it is given as data, with a traceback, where a worker runs the flow.
    told = as_flow_error(error)
    return Failed(message=str(told), data=told)


def done(name: str, work: Work, minutes: float | None = None) -> StageRow:
    """Do a step as a Prefect task of its name.

    Args:
        name: of the step.
        work: does it.
        minutes: that it may take, after which its command is ended.

    Raises:
        StageFailed: it failed.
    """
    run = step_task.with_options(name=name, task_run_name=name)
    state: State[Any] = run(name, work, minutes, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, StageFailed):
        raise result
    row: StageRow = state.result()
    return row


def stage_done(
    stage: str,
    root: Path,
    *,
    lock: int,
    force: bool = False,
    unchanged: bool = False,
    env: Mapping[str, str] | None = None,
    minutes: float | None = None,
) -> StageRow:
    """Run a stage as a Prefect task; W&B shows the stages of one flow run as one group.

    Args:
        stage: of `dvc.yaml`.
        root: of the repository.
        lock: descriptor of the workspace lock.
        force: run it even if nothing has changed.
        unchanged: DVC has just said that it has nothing to do, and is not asked again.
        env: variables on top of this process's environment.
        minutes: as of `done`.

    Raises:
        StageFailed: it failed.
    """
    group = os.environ.get("WANDB_RUN_GROUP") or flow_run.name or "timmflow"
    variables = {"WANDB_RUN_GROUP": group, **(env or {})}

    def work(on_line: OnLine) -> tuple[str, str]:
        if unchanged:
            on_line(f"{stage}: nothing has changed")
            return "skipped", _headline(stage, root)
        result = run_stage(stage, root, on_line=on_line, force=force, env=variables, lock=lock)
        return result.outcome, _headline(stage, root)

    return done(stage, work, minutes)


def _headline(stage: str, root: Path) -> str:
    """The stage's figures in a few words; never a reason to fail after the work is done."""
    try:
        figures = read_json(Layout(root).metrics(stage))
    except DataError:
        return ""
    try:
        return headline(stage, figures)
    except (KeyError, TypeError, ValueError):
        # Figures of another version of the code, restored from the cache.
        return ", ".join(f"{name} {value}" for name, value in list(figures.items())[:3])


@flow(name="pipeline", persist_result=False)
def pipeline(
    root: str = ".", force: bool = False, stages: list[StageName] | None = None
) -> list[dict[str, Any]] | State[Any]:
    """Run the stages in their order; the first that fails ends the flow.

    Args:
        root: the repository's root.
        force: run stages even if nothing has changed.
        stages: only these; all of them when left out.

    Returns:
        A row a stage: stage, outcome, seconds, headline. When a stage fails, a failed state that
        holds the `StageFailed`.
    """
    place = Path(root).resolve()
    wanted = [stage for stage in STAGES if stages is None or stage in stages]
    rows: list[StageRow] = []
    failure: StageFailed | None = None
    try:
        with workspace_lock(place) as lock:
            idle = set() if force else unchanged_stages(wanted, place, lock=lock)
            for stage in wanted:
                # Once a stage has run, those after it may have something to do.
                unchanged = stage in idle and all(row.outcome == "skipped" for row in rows)
                row = stage_done(stage, place, lock=lock, force=force, unchanged=unchanged)
                rows.append(row)
    except StageFailed as error:
        failure = error
        rows.append(failed_row(failure))
    except FlowError as error:
        return failed_state(error)
    finished = len(rows)
    rows += [StageRow(stage, "not reached", 0.0, "") for stage in wanted[finished:]]
    publish(rows, place)
    if failure is not None:
        return failed_state(failure)
    return [asdict(row) for row in rows]


def publish(rows: list[StageRow], root: Path) -> None:
    """The outcomes as a table, and the metrics as a page, for Prefect's interface."""
    create_table_artifact(
        key="pipeline-outcomes",
        table=[
            {
                **asdict(row),
                "seconds": round(row.seconds, 1),
                # A reason of many lines stands in full with the metrics.
                "headline": row.headline.partition("\n")[0],
            }
            for row in rows
        ],
        description="What became of each stage.",
    )
    create_markdown_artifact(
        key="pipeline-metrics",
        markdown=masked(metrics_markdown(rows, root)),
        description="What each stage measured.",
    )


def metrics_markdown(rows: list[StageRow], root: Path) -> str:
    """The figures of the stages that ended well: a heading and a table each."""
    parts = []
    for row in rows:
        if row.outcome in ("failed", "not reached"):
            text = row.headline.replace("\n", "\n    ")
            parts.append(f"## {row.stage}\n\n{row.outcome}\n" + (f"\n    {text}\n" if text else ""))
            continue
        try:
            figures = read_json(Layout(root).metrics(row.stage))
        except DataError:
            figures = {}
        lines = [f"| {name} | {_shown(value)} |" for name, value in figures.items()]
        table = "\n".join(["| figure | value |", "|---|---:|", *lines, ""]) if lines else ""
        parts.append(f"## {row.stage}\n\n{row.outcome}; {row.headline}\n\n{table}")
    return "\n".join(parts)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}".replace("|", "\\|")
