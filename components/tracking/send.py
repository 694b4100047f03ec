"""Send offline runs to W&B, and what needs the server: lineage, reports, aliases.

wandb tries again for minutes, waits without end for some answers, and calls a run synced of which
it has dropped a part. So all that talks to the server is in processes of their own, which end, with
their children, when the time is over; and what has arrived is asked of the server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from components.tracking.plan import (
    RunPlan,
    forget_synced,
    is_synced,
    mark_done,
    mark_synced,
    read_plan,
)

# wandb's own patience with one request; the time limit is above them all.
_PATIENCE = {
    "WANDB_X_GRAPHQL_RETRY_MAX": "3",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "3",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "3",
}
NO_REPORTS = "no report: wandb-workspaces is not installed: pip install 'timmflow[wandb]'"


@dataclass(frozen=True)
class Target:
    """Where runs are sent.

    Args:
        project: for aliases; runs know their own.
        entity: user or team; None: the account's own.
    """

    project: str
    entity: str | None = None


@dataclass
class Sent:
    """What became of a sending.

    Attributes:
        done: runs of which nothing is left.
        problems: run, or what else could not be sent, to the reason.
        notes: what whoever sends should know.
        aliases: artifact alias to the names that the server was told it has.
    """

    done: list[Path] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)


def send(
    runs: Sequence[Path],
    aliases: Mapping[str, Sequence[str]],
    managed: Collection[str],
    target: Target,
    deadline: float,
) -> Sent:
    """Send runs and aliases; returns at `deadline` at the latest, or a few seconds after.

    Args:
        runs: folders of offline runs, oldest first.
        aliases: alias of a content of the artifact `onnx` to the names it is to have.
        managed: all names that are given and taken so.
        target: where to.
        deadline: of `time.monotonic`.
    """
    sent = Sent()
    new = [run for run in runs if not is_synced(run)]
    if new:
        sent.problems |= _sync(new, target, deadline)
    whole = [run for run in runs if is_synced(run)]
    rest = [run for run in whole if read_plan(run) is not None]
    for run in whole:
        if run not in rest:  # it was killed: nothing is known of what it used
            mark_done(run, "")
            sent.done.append(run)
    if rest or aliases:
        missing = {tuple(item) for run in runs if run not in whole for item in _logs(run)}
        job = {
            "runs": [str(run) for run in rest],
            "aliases": {name: sorted(names) for name, names in aliases.items()},
            "managed": sorted(managed),
            "project": target.project,
            "entity": target.entity,
            "awaited": sorted(missing),
        }
        _finish(job, sent, deadline)
    return sent


def _logs(run: Path) -> list[tuple[str, str]]:
    plan = read_plan(run)
    return [] if plan is None else plan.logs


def _sync(runs: Sequence[Path], target: Target, deadline: float) -> dict[str, str]:
    """Send what runs hold; gives those that are not, or not wholly, with W&B, and why."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced"]
    if target.entity:
        command += ["--entity", target.entity]
    status, said = _call([*command, *map(str, runs)], "", deadline)
    problems = {}
    for run in runs:
        problem = sync_problem(run.name.rpartition("-")[2], said, status)
        if problem:
            problems[str(run)] = problem
            for mark in run.glob("*.synced"):
                mark.unlink()  # wandb's word, which does not hold
        else:
            mark_synced(run)
    return problems


def sync_problem(run_id: str, said: str, status: int | None) -> str:
    """Why a run is not wholly with W&B, from what `wandb sync` printed; empty: it is.

    Args:
        run_id: of the run.
        said: all that was printed.
        status: of the command; None: it was ended when the time was over.
    """
    errors = [line.partition("ERROR ")[2] for line in said.splitlines() if "ERROR " in line]
    own = [line for line in errors if f"/{run_id}]" in line]
    if own:
        return re.sub(r"^\[.*?\] ", "", own[0])
    if re.search(rf"/{re.escape(run_id)}\] Finished syncing", said):
        return ""
    if status is None:
        return "no answer within the time"
    general = [line for line in errors if not line.startswith("[")]
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return general[0] if general else (lines[-1] if lines else f"wandb ended with {status}")


def _finish(job: dict[str, Any], sent: Sent, deadline: float) -> None:
    """Have lineage, reports and aliases done by another process; what it says it did counts."""
    command = [sys.executable, "-m", "components.tracking.send"]
    status, said = _call(command, json.dumps(job), deadline)
    left = {*job["runs"], *(["aliases"] if job["aliases"] else [])}
    others = []
    for line in said.splitlines():
        if not line.startswith('{"timmflow": '):
            others.append(line.strip())
            continue
        entry = json.loads(line)["timmflow"]
        left.discard(entry.get("item"))
        if "problem" in entry:
            sent.problems[entry["item"]] = entry["problem"]
        elif "run" in entry:
            sent.done.append(Path(entry["run"]))
        sent.aliases |= entry.get("aliases", {})
        sent.notes += entry.get("notes", [])
    reason = "no answer within the time" if status is None else ""
    reason = reason or next((line for line in reversed(others) if line), f"status {status}")
    for item in sorted(left):
        sent.problems[item] = reason


def _call(command: Sequence[str], given: str, deadline: float) -> tuple[int | None, str]:
    """Status (None: it was ended) and output of a command that is ended when the time is over."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What wandb has to say tells what has arrived.
        env={**_PATIENCE, **os.environ, "WANDB_SILENT": "false"},
    ) as process:
        try:
            said, _ = process.communicate(given, timeout=max(0.1, deadline - time.monotonic()))
            return process.returncode, said
        except subprocess.TimeoutExpired:
            end(process.pid)
            said, _ = process.communicate()
            return None, said
        except BaseException:
            end(process.pid)
            raise


def end(pid: int) -> None:
    """End a process and all that it has started; wandb's service is in a session of its own."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[:-1], timeout=5)


def _tell(entry: dict[str, Any]) -> None:
    print(json.dumps({"timmflow": entry}), flush=True)  # noqa: T201 - what the sender reads


def _attempt(item: str, work: Callable[[], dict[str, Any]]) -> None:
    try:
        _tell({"item": item, **work()})
    except Exception as error:  # noqa: BLE001 - whatever wandb raises: the next one may go well
        reason = " ".join(str(error).split()) or type(error).__name__
        _tell({"item": item, "problem": reason})


def finish_here(job: Mapping[str, Any]) -> None:
    """What `_finish` has another process do; prints a line for each thing done."""
    import wandb

    api = wandb.Api(timeout=20)
    awaited = {tuple(item) for item in job["awaited"]}
    for name in job["runs"]:
        _attempt(name, partial(finish_run, api, Path(name), job["entity"], awaited))
    if job["aliases"]:
        _attempt("aliases", partial(set_aliases, api, job))


def finish_run(
    api: Any, run: Path, entity: str | None, awaited: Collection[tuple[str, ...]]
) -> dict[str, Any]:
    """Check that all of a run has arrived, and tie it to others; gives what is to be said."""
    plan = read_plan(run)
    assert plan is not None
    home = f"{entity or plan.entity or api.default_entity}/{plan.project}"
    for name, alias in plan.logs:
        if _artifact(api, f"{home}/{name}:{alias}") is None:
            forget_synced(run)  # it was dropped on the way, or the server is another one now
            raise RuntimeError(f"artifact {name}:{alias} did not arrive")
    notes = list(_use(api, home, plan, awaited))
    address = ""
    if plan.review is not None:
        address = _report(home, plan)
        notes.append(f"report {address}")
    mark_done(run, address)
    return {"run": str(run), "notes": notes}


def _use(api: Any, home: str, plan: RunPlan, awaited: Collection[tuple[str, ...]]) -> Iterator[str]:
    """Say what a run was made from; gives a note for each that W&B does not have."""
    if not plan.uses:
        return
    run = api.run(f"{home}/{plan.id}")
    for name, alias in plan.uses:
        artifact = _artifact(api, f"{home}/{name}:{alias}")
        if artifact is not None:
            run.use_artifact(artifact)
        elif (name, alias) in awaited:
            raise RuntimeError(f"waits for {name}:{alias}, which is not sent yet")
        else:
            yield f"{plan.stage}: W&B has no {name}:{alias}, which it was made from"


def _artifact(api: Any, path: str) -> Any:
    """An artifact, or None if W&B has none of that name."""
    import wandb

    try:
        return api.artifact(path)
    except wandb.errors.CommError as error:
        if "not found" not in str(error):
            raise
        return None


def _report(home: str, plan: RunPlan) -> str:
    from components.tracking.wandb_report import save

    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise RuntimeError(NO_REPORTS) from None
    entity, project = home.split("/")
    assert plan.review is not None
    return save(plan.review, entity, project, plan.id)


def set_aliases(api: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """Give models the names that they are to have; gives what the server was told."""
    home = f"{job['entity'] or api.default_entity}/{job['project']}"
    managed, told, notes = set(job["managed"]), {}, []
    for content, names in job["aliases"].items():
        artifact = _artifact(api, f"{home}/onnx:{content}")
        if artifact is None:
            if names:
                notes.append(f"W&B has no model {content}, which is {', '.join(names)}")
            if not job["awaited"]:
                told[content] = names
            continue
        wanted = sorted((set(artifact.aliases) - managed) | set(names))
        if wanted != sorted(artifact.aliases):
            artifact.aliases = wanted
            artifact.save()
            notes.append(f"model {content}: {', '.join(names) or 'in no stage'}")
        told[content] = names
    return {"aliases": told, "notes": notes}


if __name__ == "__main__":
    finish_here(json.load(sys.stdin))
