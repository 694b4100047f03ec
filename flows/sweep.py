"""A sweep as a Prefect flow: a task a trial, each `dvc repro` in a worktree of its own.

    python -m flows.sweep --set train.lr=1e-3,3e-4     the command; `--help` says more
    flows/sweep.py:sweep                               the entrypoint for a deployment

Trials differ in parameters alone: code is what is committed, data what the user has. Each distinct
data preparation is done once and shared through DVC's cache. The best is chosen on val.
"""

from __future__ import annotations

if __name__ == "__main__":
    # As in flows/pipeline.py: before Prefect is imported, and not in `__main__`.
    from flows.sweep_command import main

    raise SystemExit(main())

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from components.errors import TimmflowError
from flows.flow_errors import FlowError, masked
from flows.lease import Lease
from flows.pipeline import failed_state
from flows.process_guard import GUARD_DEADLINE
from flows.sweep_plan import plan
from flows.sweep_table import as_record, ranked, write_table
from flows.sweep_trial import Prepared, Row, Site, Trial, make_site, prepare, run_trial
from flows.sweep_watch import tell
from flows.workspace_lock import lock_file
from flows.worktree import remove_left_over
from tasks.train import STALE_SECONDS

# How long trials may take to end with the sweep; seconds, but for a machine that is overloaded.
CLEANING_SECONDS = 10 * GUARD_DEADLINE

Engine = Literal["local", "dask", "ray"]


def logged_to(logger: Any) -> Callable[[str], None]:
    """What takes the lines that a stage prints."""

    def on_line(line: str) -> None:
        if line.strip():
            logger.info("%s", line)

    return on_line


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def prepare_task(trial: Trial, site: Site) -> Prepared:
    """Check and prepare the data that some trials share."""
    # A failure is data: Prefect would not start the trials of a failed task, which are to be rows.
    return prepare(trial, site, logged_to(get_run_logger()))


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def trial_task(trial: Trial, prepared: Prepared, site: Site) -> Row | State[Any]:
    """Run one trial."""
    row = run_trial(trial, prepared, site, logged_to(get_run_logger()))
    if row.status in ("failed", "stopped"):
        return Failed(message=row.reason or row.status, data=row)
    return row


@flow(name="sweep", persist_result=False)
def sweep(
    root: str = ".",
    parameters: dict[str, list[Any] | str] | None = None,
    trials: int | None = None,
    seed: int = 0,
    threads: int = 0,
) -> list[Row] | State[Any]:
    """Try parameters; a trial that fails does not stop the others.

    Args:
        root: the repository's root.
        parameters: by dotted key, a list of values, or a range (see `flows.sweep_space`).
        trials: so many random draws; None: every combination.
        seed: of the draws.
        threads: CPU threads of a trial; 0: as many as torch takes.

    Returns:
        A row a trial, best first; they are also in `reports/sweep.csv`. Where nothing can be tried,
        a failed state that holds the error.
    """
    place = Path(root).resolve()
    logger = get_run_logger()
    try:
        planned = plan(place, parameters or {}, trials, seed)
        with _site(place, threads) as site:
            rows: list[Row] = []
            for row in _results(planned, site):
                rows.append(row)
                logger.info("trial %d %s %s", row.number, row.status, row.reason)
                write_table(rows, place / "reports")
                tell(row, len(planned))
    except TimmflowError as error:
        return failed_state(error)
    create_table_artifact(
        key="sweep",
        table=masked([{k: str(v) for k, v in as_record(row).items()} for row in ranked(rows)]),
        description="The trials, best on val first.",
    )
    return ranked(rows)


@contextmanager
def _site(root: Path, threads: int) -> Iterator[Site]:
    """The place of the sweep; when this ends, no trial is at work and no worktree is left."""
    with lock_file(root, "timmflow-sweep.lock", "sweep"):
        folder = root / ".dvc" / "tmp" / "sweep"
        with Lease(folder / "lease") as lease:
            site = make_site(root, lease.token, threads)
            # The new lease has ended those of a sweep that was killed.
            _clear(site)
            try:
                yield site
            finally:
                lease.end()
                deadline = time.monotonic() + CLEANING_SECONDS
                while any(site.trees.glob("*")) and time.monotonic() < deadline:
                    time.sleep(0.1)
                # What is in use even now is left to the next sweep; an interrupt must stay one.
                with suppress(FlowError):
                    _clear(site)


def _clear(site: Site) -> None:
    for folder in site.resume.glob("*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in site.trees.glob("*"):
        remove_left_over(site.root, folder, site.resume / folder.name)


def _results(trials: list[Trial], site: Site) -> Iterator[Row]:
    """The rows of all trials, as they come."""
    prepared: dict[str, PrefectFuture[Any]] = {}
    futures: dict[PrefectFuture[Any], Trial] = {}
    for trial in trials:
        key = trial.data_key
        if key not in prepared:
            run = prepare_task.with_options(task_run_name=f"data {len(prepared) + 1}")
            prepared[key] = run.submit(trial, site)
        named = trial_task.with_options(task_run_name=f"trial {trial.number}")
        ready: Any = prepared[key]  # which the task is given when it is there
        futures[named.submit(trial, ready, site)] = trial
    for future in as_completed(list(futures)):
        result = future.result(raise_on_failure=False)
        if isinstance(result, Row):
            yield result
        else:
            # A worker that died, or a defect: one trial less.
            trial, said = futures[future], f"{type(result).__name__}: {result}"
            yield Row(trial.number, trial.values, "failed", reason=said)


def task_runner(engine: Engine, workers: int, address: str | None) -> TaskRunner[Any]:
    """Where the trials of a sweep run.

    Args:
        engine: threads of this process; a Dask cluster; a Ray cluster.
        workers: trials at a time, on this machine.
        address: of a cluster that runs already, whose own size counts; None: one is started.

    Raises:
        FlowError: the engine is not installed.
    """
    if engine == "local":
        return ThreadPoolTaskRunner(max_workers=workers)
    try:
        if engine == "dask":
            from prefect_dask import DaskTaskRunner

            if address is not None:
                return DaskTaskRunner(address=address)
            kwargs = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(cluster_kwargs=kwargs)
        # No statistics of use; Ray reads it when it is started.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise FlowError(
            f"--engine {engine}: {error}; install it with `pip install -c constraints.txt "
            f"'timmflow[{engine}]'`"
        ) from None
    if address is not None:
        return RayTaskRunner(address=address)
    return RayTaskRunner(init_kwargs={"num_cpus": workers, "include_dashboard": False})
